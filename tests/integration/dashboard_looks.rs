//! How the dashboard looks, in a real browser: on phones and desks, in light and dark, to a screen
//! reader, and while its numbers change.

use serde_json::json;

use crate::browser::Page;
use crate::dashboard::{CLOSED, REVIEWED, deed, open, proxy, stand_in};
use crate::stand_in::StandIn;

/// What a screen reader is told, as the browser computes it.
#[test]
fn controls_have_names() {
    let stand_in = stand_in();
    let Some(page) = open(&stand_in) else { return };
    page.click("#add");
    page.click("summary");
    page.call("Accessibility.enable", json!({}));
    let tree = page.call("Accessibility.getFullAXTree", json!({}));
    let mut count = 0;
    for node in tree["nodes"].as_array().expect("nodes") {
        let role = node["role"]["value"].as_str().unwrap_or_default();
        if ["button", "textbox", "searchbox", "combobox", "checkbox", "table", "dialog"]
            .contains(&role)
        {
            let name = node["name"]["value"].as_str().unwrap_or_default();
            assert!(!name.is_empty() && name.len() < 60, "{role} is called {name:?}: {node}");
            count += 1;
        }
    }
    assert!(count > 12, "{count} controls in {tree:#}");
}

/// A table as one might have it.
fn fleet() -> StandIn {
    let shop = |port: u16| proxy(json!([["10.4.1.11", port], ["10.4.1.12", port]]));
    let small = |port: u16| json!(["proxy", { "backends": [["10.4.2.20", port]] }, false]);
    let stand_in = StandIn::with(&[
        ("api.harbour.example", shop(8100)),
        ("assets.harbour.example", json!(["proxy", { "backends": ["cdn-1.internal:80", "cdn-2.internal:80", "cdn-3.internal:80"] }, false])),
        ("atelier-nord.example", small(9001)),
        ("bakery-lindgren.example", small(9002)),
        ("blog.harbour.example", json!(["alias", { "hostname": "www.harbour.example" }, false])),
        ("cafe-morgenrot.example", json!(["spin", { "timeout": 60 }, true])),
        ("campus.example", shop(8200)),
        ("chess-club.example", small(9004)),
        ("closed.example", json!(["empty", { "code": 410 }, true])),
        ("docs.campus.example", small(8210)),
        ("field-notes.example", small(9005)),
        ("garden-tools.example", shop(8300)),
        ("harbour.example", json!(["redirect", { "redirect_to": "https://www.harbour.example", "code": 301 }, false])),
        ("http://pay.harbour.example", json!(["redirect", { "redirect_to": "https://pay.harbour.example", "code": 308 }, false])),
        ("kiosk.example", small(9006)),
        ("lantern-books.example", shop(8400)),
        ("maps.campus.example", small(8220)),
        ("night-train.example", shop(8500)),
        ("old-harbour.example", json!(["redirect", { "redirect_to": "www.harbour.example" }, true])),
        ("parked.example", json!(["static", { "type": "parked" }, true])),
        ("pay.harbour.example", shop(8110)),
        ("quiet-letters.example", small(9007)),
        ("river-swim.example", small(9008)),
        ("shop.harbour.example", shop(8120)),
        ("status.harbour.example", json!(["static", { "type": "status" }, false])),
        ("tea-house.example", small(9009)),
        ("wiki.campus.example", small(8230)),
        ("www.harbour.example", shop(8130)),
    ])
    .with_history(120);
    for (address, state, reason) in [
        ("10.4.1.11:8100", "up", ""),
        ("10.4.1.12:8100", "up", ""),
        ("10.4.1.11:8130", "up", ""),
        ("10.4.1.12:8130", "up", ""),
        ("cdn-1.internal:80", "up", ""),
        ("cdn-3.internal:80", "ejected", "connection reset by peer"),
        ("10.4.2.20:9006", "down", "connection refused"),
    ] {
        stand_in.set_backend(address, state, reason);
    }
    stand_in
}

/// Opens it with two minutes behind it and a few things having happened.
#[track_caller]
fn open_fleet(stand_in: &StandIn) -> Option<Page> {
    let page = open(stand_in)?;
    stand_in
        .set("tea-house.example", json!(["proxy", { "backends": [["10.4.2.21", 9009]] }, false]));
    stand_in.set_backend("cdn-2.internal:80", "up", "");
    stand_in.set("campus.example", proxy(json!([["10.4.1.11", 8200], ["10.4.1.13", 8200]])));
    stand_in.set_backend("10.4.2.20:9006", "down", "connection refused");
    page.wait("document.querySelectorAll('#log li').length === 4");
    page.wait("document.querySelector('.tile .line').getAttribute('d').startsWith('M0.')");
    page.wait("document.querySelector('#backends li') !== null");
    Some(page)
}

#[track_caller]
fn expect_it_fits(page: &Page, width: u32) {
    let wide = page.evaluate(
        "[...document.querySelectorAll('body *')].filter((node) => {
            const box = node.getBoundingClientRect();
            const inside = node.closest('.unseen, .scroll, svg');
            return box.width > 0 && !inside && box.right > innerWidth + 0.5;
        }).map((node) => `${node.tagName}.${node.className}#${node.id}`).slice(0, 5)",
    );
    assert_eq!(wide, json!([]), "wider than {width}");
    let scrolls = page.evaluate("document.documentElement.scrollWidth > innerWidth");
    assert_eq!(scrolls, json!(false), "{width} scrolls sideways");
}

#[test]
fn dashboard_fits_phones_and_both_colour_schemes() {
    let stand_in = fleet();
    let long = format!("{}.example", "a-very-long-name.".repeat(10));
    stand_in.set(&long, proxy(json!([["10.4.1.11", 8100]])));
    let Some(page) = open_fleet(&stand_in) else { return };
    for (width, height) in [(360, 740), (768, 1024), (1024, 768), (1440, 900), (1920, 1080)] {
        page.set_viewport(width, height, 1.0);
        expect_it_fits(&page, width);
        page.click(&deed(&long, "edit"));
        page.click("#go");
        page.wait(REVIEWED);
        expect_it_fits(&page, width);
        page.press("Escape");
        page.wait(CLOSED);
    }
    let ground = "getComputedStyle(document.body).backgroundColor";
    page.set_dark(false);
    let light = page.evaluate(ground);
    page.set_dark(true);
    assert_ne!(page.evaluate(ground), light, "the scheme of the system");
    page.click("#theme");
    page.wait_text("#theme", "Light");
    assert_eq!(page.evaluate(ground), light, "the choice wins over the system");
    page.expect_no_complaints();
}

/// Ticks change texts and plots; no element comes, goes, or moves.
#[test]
fn a_tick_moves_nothing() {
    let stand_in = fleet();
    let Some(page) = open_fleet(&stand_in) else { return };
    let moved = page.evaluate(
        "new Promise((resolve) => {
            const places = () => [...document.querySelectorAll('td, th, .tile, .tile > *, .panel, .plot')]
                .map((node) => [node.getBoundingClientRect(), node])
                .map(([b, node]) => [[b.x, b.y, b.width].join(), node.outerHTML.slice(0, 200)]);
            const before = places();
            let ticks = 0;
            const tile = document.querySelector('.tile .line');
            new MutationObserver((changes, observer) => {
                ticks += changes.some((change) => change.target === tile);
                if (ticks < 3) return;
                observer.disconnect();
                resolve(places().map((place, at) => [before[at], place])
                    .filter(([from, to]) => from[0] !== to[0]).slice(0, 10));
            }).observe(document.body, { attributes: true, childList: true, subtree: true });
        })",
    );
    assert_eq!(moved, json!([]));
}
