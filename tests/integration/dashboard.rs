//! The dashboard, in a real browser: what an operator sees, types and clicks, and what the table is
//! afterwards. Where there is no Chromium these tests say that they are skipped.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::browser::{Page, quoted};
use crate::daemon::eventually;
use crate::stand_in::StandIn;

pub fn proxy(backends: Value) -> Value {
    json!(["proxy", { "backends": backends }, true])
}

/// A few hosts of each kind.
pub fn stand_in() -> StandIn {
    StandIn::with(&[
        ("a.com", proxy(json!([["127.0.0.1", 8000], ["127.0.0.1", 8001]]))),
        ("b.com", json!(["redirect", { "redirect_to": "a.com", "code": 301 }, false])),
        ("c.com", json!(["empty", { "code": 410 }, true])),
    ])
}

/// An open page that shows the table and traffic.
#[track_caller]
pub fn open(stand_in: &StandIn) -> Option<Page> {
    let page = Page::open(&stand_in.url())?;
    page.wait("document.querySelector('#state').innerText === 'Live'");
    page.wait("document.querySelector('#rows tr td.number').innerText !== '–'");
    Some(page)
}

pub fn row(host: &str) -> String {
    format!("tr[data-host={}]", quoted(host))
}

pub fn deed(host: &str, deed: &str) -> String {
    format!("{} .deeds [data-deed={deed}]", row(host))
}

fn names(page: &Page) -> Vec<String> {
    let list =
        page.evaluate("[...document.querySelectorAll('#rows tr')].map((tr) => tr.dataset.host)");
    list.as_array().expect("rows").iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[track_caller]
fn expect_rule(stand_in: &StandIn, host: &str, expected: Value) {
    assert_eq!(stand_in.rule(host), expected, "the rule of {host}");
}

pub const CLOSED: &str = "!document.querySelector('#change').open";
pub const REVIEWED: &str =
    "document.querySelector('#change').open && !document.querySelector('#review').hidden";

#[test]
fn dashboard_shows_hosts_and_traffic() {
    let stand_in = stand_in();
    stand_in.set_backend("127.0.0.1:8001", "down", "connection refused");
    let Some(page) = open(&stand_in) else { return };
    assert_eq!(names(&page), ["a.com", "b.com", "c.com"]);
    page.wait_text(&row("a.com"), "127.0.0.1:8000 +1, 1 down");
    page.wait_text(&row("b.com"), "301 → a.com");
    page.wait_text("#result", "3 rules");
    page.wait("document.querySelectorAll('#shards li').length === 4");
    page.wait("parseFloat(document.querySelector('.tile output').textContent) > 0");
    page.wait_text("#busiest", "a.com");
    page.wait_text("#backends", "connection refused");
    page.wait("document.title.startsWith('(1 down) ')");
    stand_in.set_backend("127.0.0.1:8001", "up", "");
    page.wait_text("#log", "127.0.0.1:8001 is up");
    page.wait(&format!(
        "!document.querySelector({}).innerText.includes('down')",
        quoted(&row("a.com"))
    ));
    // What others change is shown without a click, also a row more and one less.
    stand_in.set("b.com", json!(["empty", { "code": 404 }, false]));
    page.wait_text(&row("b.com"), "404");
    page.wait_text("#log", "PUT by uid 1000");
    stand_in.set("bb.com", json!(["static", { "type": "test" }, false]));
    stand_in.set("a.com", Value::Null);
    page.wait("document.querySelectorAll('#rows tr').length === 3");
    page.wait("document.querySelector('#rows tr').dataset.host === 'b.com'");
    assert_eq!(names(&page), ["b.com", "bb.com", "c.com"]);
    page.expect_no_complaints();
}

#[test]
fn dashboard_searches_and_pages_through_a_million() {
    let rule = Arc::new(proxy(json!([["127.0.0.1", 8000]])));
    let other = Arc::new(json!(["empty", { "code": 410 }, false]));
    let stand_in = StandIn::new((0..1_000_000).map(|number| {
        let rule = if number % 1000 == 999 { &other } else { &rule };
        (format!("site-{number:06}.example"), Arc::clone(rule))
    }));
    let Some(page) = open(&stand_in) else { return };
    page.wait_text("#result", "1,000,000 rules");
    page.wait_text("#range", "1–50 of 1,000,000");
    page.click("#next");
    page.wait_text("#range", "51–100 of 1,000,000");
    assert_eq!(names(&page)[0], "site-000050.example");
    page.wait("document.querySelector('#rows tr td.number').innerText !== '–'");
    page.click("#back");
    page.wait_text("#range", "1–50 of");
    page.click("#search");
    page.type_text("99999");
    page.wait_text("#result", "19 of 1,000,000 rules match");
    assert_eq!(names(&page).last().map(String::as_str), Some("site-999999.example"));
    page.choose("#action", "empty");
    page.wait_text("#result", "10 of 1,000,000 rules match");
    page.wait("document.querySelector('#next').disabled");
    page.wait("location.hash === '#search=99999&action=empty'");
    // The address brings it back.
    page.call("Page.reload", json!({}));
    page.wait_text("#result", "10 of 1,000,000 rules match");
    page.click("#search");
    page.type_text("none");
    page.wait_text("#empty", "No rule matches");
    // A page asks for what it shows, never for the whole table.
    assert!(stand_in.requests().iter().all(|request| {
        !request.starts_with("GET /hostname/?") || request.contains("limit=50")
    }));
}

/// Each page of hosts needs a stream of its own; one takes the place of the other without a gap.
#[test]
fn paging_misses_and_repeats_no_change() {
    let rule = Arc::new(proxy(json!([["127.0.0.1", 8000]])));
    let names = (0..400).map(|number| format!("site-{number:03}.example"));
    let stand_in = StandIn::new(names.map(|name| (name, Arc::clone(&rule))));
    let Some(page) = open(&stand_in) else { return };
    let change = |code: usize| {
        stand_in.set("z.com", json!(["empty", { "code": code }, false]));
        page.wait_text("#log", &format!("z.com: empty {code}"));
    };
    for turn in 1..=6 {
        stand_in.set_slow(true);
        page.click("#next");
        let is_stream = |request: &&String| request.contains(" /events?");
        eventually("a stream for this page", || {
            turn < stand_in.requests().iter().filter(is_stream).count()
        });
        change(400 + turn);
        stand_in.set_slow(false);
        change(500 + turn);
    }
    page.wait("document.querySelectorAll('#log li').length === 12");
    page.expect_no_complaints();
}

#[test]
fn dashboard_sets_a_rule_after_an_error() {
    let stand_in = stand_in();
    let Some(page) = open(&stand_in) else { return };
    page.click("#add");
    page.type_text("new.example");
    page.click("#field-backends");
    page.type_text("127.0.0.1");
    page.click("#go");
    page.wait_text("#error-backends", "it has no port");
    page.wait("document.querySelector('#field-backends').getAttribute('aria-invalid') === 'true'");
    page.wait("document.activeElement.id === 'field-backends'");
    page.type_text(":8000");
    page.click("summary");
    page.choose("#field-algorithm", "round_robin");
    page.click("#field-weights");
    page.type_text("2");
    page.click("#field-subdomains");
    page.click("#go");
    page.wait(REVIEWED);
    page.wait_text("#difference", "no rule of its own");
    page.wait_text("#difference", "127.0.0.1:8000");
    expect_rule(&stand_in, "new.example", Value::Null);
    page.click("#go");
    page.wait(CLOSED);
    let arguments =
        json!({ "backends": ["127.0.0.1:8000"], "algorithm": "round_robin", "weights": [2] });
    expect_rule(&stand_in, "new.example", json!(["proxy", arguments, true]));
    page.wait_text(&row("new.example"), "127.0.0.1:8000");
    page.wait_text("#said", "new.example is set");
    // Another action, from the row; arguments without a field stay.
    stand_in.set("c.com", json!(["empty", { "code": 410, "later": [1] }, true]));
    page.wait_text("#log", "c.com");
    page.click(&deed("c.com", "edit"));
    page.click("#field-code");
    page.evaluate("document.activeElement.select()");
    page.type_text("x");
    page.click("#go");
    page.wait_text("#error-code", "from 200 to 599");
    page.evaluate("document.activeElement.select()");
    page.type_text("404");
    page.press("Enter");
    page.wait(REVIEWED);
    page.press("Enter");
    page.wait(CLOSED);
    expect_rule(&stand_in, "c.com", json!(["empty", { "code": 404, "later": [1] }, true]));
    page.expect_no_complaints();
}

#[test]
fn dashboard_spins_flips_back_and_deletes() {
    let stand_in = stand_in();
    let before = stand_in.rule("a.com");
    let Some(page) = open(&stand_in) else { return };
    page.click(&deed("a.com", "spin"));
    page.wait(REVIEWED);
    page.wait_text("#difference", "spin");
    expect_rule(&stand_in, "a.com", before.clone());
    page.click("#go");
    page.wait(CLOSED);
    // What it was before is in the rule, for whoever flips it.
    expect_rule(&stand_in, "a.com", json!(["spin", { "then": before }, true]));
    page.wait_text(&row("a.com"), "holds up to 120 s");
    page.click(&deed("a.com", "flip"));
    page.wait(REVIEWED);
    page.wait_text("#difference", "127.0.0.1:8001");
    page.click("#go");
    page.wait(CLOSED);
    expect_rule(&stand_in, "a.com", before);
    // Where that is not there, it asks.
    stand_in.set("d.com", json!(["spin", {}, false]));
    page.click(&deed("d.com", "flip"));
    page.wait_text("#change-note", "not in its rule");
    page.type_text("127.0.0.1:9000");
    page.click("#go");
    page.wait(REVIEWED);
    page.click("#go");
    page.wait(CLOSED);
    expect_rule(&stand_in, "d.com", json!(["proxy", { "backends": ["127.0.0.1:9000"] }, false]));
    page.click(&deed("d.com", "delete"));
    page.wait_text("#difference", "no rule of its own");
    page.click("#cancel");
    page.wait(CLOSED);
    assert!(!stand_in.rule("d.com").is_null(), "a deletion that was cancelled");
    page.click(&deed("d.com", "delete"));
    page.wait(REVIEWED);
    page.click("#go");
    page.wait_text("#said", "d.com is deleted");
    expect_rule(&stand_in, "d.com", Value::Null);
    page.wait(&format!("!document.querySelector({})", quoted(&row("d.com"))));
    page.expect_no_complaints();
}

#[test]
fn change_by_somebody_else_is_told() {
    let stand_in = stand_in();
    let Some(page) = open(&stand_in) else { return };
    page.click(&deed("a.com", "spin"));
    page.wait(REVIEWED);
    let theirs = proxy(json!([["127.0.0.1", 9999]]));
    stand_in.set("a.com", theirs.clone());
    page.click("#go");
    page.wait_text("#change-error", "The table changed meanwhile");
    page.wait_text("#difference", "127.0.0.1:9999");
    expect_rule(&stand_in, "a.com", theirs.clone());
    // Having looked again, and with another host changed meanwhile, it goes through.
    stand_in.set("z.com", theirs.clone());
    page.click("#go");
    page.wait(CLOSED);
    expect_rule(&stand_in, "a.com", json!(["spin", { "then": theirs }, true]));
}

#[test]
fn dashboard_asks_for_a_token() {
    let stand_in = stand_in();
    stand_in.demand_token("right");
    let Some(page) = Page::open(&stand_in.url()) else { return };
    page.wait("document.querySelector('#ask').open");
    assert!(names(&page).is_empty());
    // Without one nothing is tried again, and it is said why.
    page.press("Escape");
    page.wait_text("#state", "A token is needed");
    page.click("#retry");
    page.wait("document.querySelector('#ask').open");
    page.type_text("wrong");
    page.press("Enter");
    page.wait_text("#ask-error", "not accepted");
    page.type_text("right");
    page.press("Enter");
    page.wait_text("#state", "Live");
    page.wait("document.querySelectorAll('#rows tr').length === 3");
    let kept =
        page.evaluate("[Object.values(sessionStorage), Object.values(localStorage)].map(String)");
    assert_eq!(kept, json!(["right", ""]), "in this tab only");
    page.call("Page.reload", json!({}));
    page.wait("document.querySelectorAll('#rows tr').length === 3");
    page.click("#forget");
    page.wait("document.querySelector('#ask').open");
    page.expect_no_complaints();
}

#[test]
fn dashboard_works_by_keyboard_alone() {
    let stand_in = stand_in();
    let Some(page) = open(&stand_in) else { return };
    page.press("/");
    page.wait("document.activeElement.id === 'search'");
    page.type_text("com");
    page.wait_text("#result", "3 of 3 rules match");
    page.press("Enter");
    page.wait("document.activeElement.textContent === 'a.com'");
    page.press("ArrowDown");
    page.press("ArrowDown");
    page.wait("document.activeElement.textContent === 'c.com'");
    // The table is one stop: through the controls of this row, then out of it.
    for focused in
        ["Edit the rule of c.com", "Spin c.com: hold its requests", "Delete the rule of c.com"]
    {
        page.press("Tab");
        page.wait(&format!("document.activeElement.ariaLabel === {}", quoted(focused)));
    }
    page.press("Tab");
    page.wait("!document.activeElement.closest('#rows')");
    page.press("/");
    page.press("ArrowDown");
    page.press("Home");
    page.press("Enter");
    page.wait("document.activeElement.id === 'host-title'");
    page.wait_text("#host-title", "a.com");
    page.press("Escape");
    page.wait("document.activeElement === document.querySelector('#rows .name a')");
    page.press("Tab");
    page.press("Enter");
    page.wait("document.activeElement.id === 'field-backends'");
    // The focus stays in the dialog; what shows it can be seen.
    for _ in 0..20 {
        page.press("Tab");
        let place = "document.activeElement === document.body || \
                     Boolean(document.activeElement.closest('#change'))";
        assert_eq!(page.evaluate(place), json!(true), "the focus left the dialog");
    }
    page.press("Escape");
    page.wait(CLOSED);
    page.wait("document.activeElement.textContent === 'Edit'");
    page.wait("getComputedStyle(document.activeElement).outlineStyle === 'solid'");
    page.press("Tab");
    page.press(" ");
    page.wait(REVIEWED);
    let before = stand_in.rule("a.com");
    page.press("Enter");
    page.wait(CLOSED);
    expect_rule(&stand_in, "a.com", json!(["spin", { "then": before }, true]));
    page.wait("document.activeElement.textContent === 'Flip'");
    page.expect_no_complaints();
}

#[test]
fn names_with_markup_are_shown_as_text() {
    let hostile = "<script>window.owned=1</script>";
    let image = "<img src=x onerror=window.owned=1>";
    let empty = json!(["empty", { "code": 410 }, true]);
    let stand_in = StandIn::with(&[
        (hostile, empty.clone()),
        (image, json!(["alias", { "hostname": image }, false])),
        ("constructor", empty.clone()),
        ("__proto__", empty.clone()),
        ("0", empty.clone()),
    ]);
    stand_in.set_backend(image, "down", hostile);
    let Some(page) = open(&stand_in) else { return };
    page.wait_text(&format!("{} .name", row(hostile)), hostile);
    assert_eq!(names(&page), ["0", image, hostile, "__proto__", "constructor"]);
    page.wait_text("#busiest", hostile);
    page.wait_text("#backends", image);
    stand_in.set(image, json!(["redirect", { "redirect_to": hostile, image: hostile }, true]));
    page.wait_text("#log", image);
    page.click(&deed(image, "spin"));
    page.wait_text("#difference", image);
    page.wait_text("#change-title", image);
    let before = stand_in.rule(image);
    page.click("#go");
    page.wait(CLOSED);
    expect_rule(&stand_in, image, json!(["spin", { "then": before }, true]));
    page.click(&deed("__proto__", "delete"));
    page.wait(REVIEWED);
    page.click("#go");
    page.wait_text("#said", "__proto__ is deleted");
    expect_rule(&stand_in, "__proto__", Value::Null);
    let found = page
        .evaluate("[window.owned === undefined, document.images.length, document.scripts.length]");
    assert_eq!(found, json!([true, 0, 1]));
    page.expect_no_complaints();
}

#[test]
fn content_security_policy_is_enforced() {
    let stand_in = stand_in();
    let Some(page) = open(&stand_in) else { return };
    page.evaluate(
        "document.head.append(Object.assign(document.createElement('style'), \
         { textContent: 'body { display: none }' }))",
    );
    assert_eq!(page.evaluate("getComputedStyle(document.body).display"), json!("block"));
    let fetched = "fetch('http://127.0.0.2:9/').then(() => 'sent', (error) => error.name)";
    assert_eq!(page.evaluate(fetched), json!("TypeError"));
    let markup = "(() => { try { document.body.innerHTML = '<b>'; return 'set'; } \
                  catch (error) { return error.name; } })()";
    assert_eq!(page.evaluate(markup), json!("TypeError"));
}

#[test]
fn a_lost_connection_is_told_and_recovers() {
    let stand_in = stand_in();
    let Some(page) = open(&stand_in) else { return };
    stand_in.set_lost(true);
    page.wait_text("#state", "Connection lost");
    page.wait("document.documentElement.hasAttribute('data-stale')");
    page.click(&deed("a.com", "spin"));
    page.wait_text("#result", "there is no connection to Mantrid");
    stand_in.set("a.com", json!(["empty", { "code": 404 }, false]));
    stand_in.set_lost(false);
    page.wait_text("#state", "Live");
    page.wait("!document.documentElement.hasAttribute('data-stale')");
    // What changed meanwhile was in no event.
    page.wait_text(&row("a.com"), "404");
    page.wait_text("#log", "Connected again");
    page.wait_text("#result", "3 rules");
    page.expect_no_complaints();
}
