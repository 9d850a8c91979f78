//! The dashboard for everybody: every page of it in light and dark, with names and roles that a
//! screen reader can tell, contrast that can be read, and nothing cut or wider than the window.
//! With `MANTRID_AXE=FILE`, the `axe.min.js` of axe-core, its rules are checked as well.

use serde_json::json;

use crate::browser::Page;
use crate::dashboard::{CLOSED, deed, open, proxy};
use crate::stand_in::StandIn;

fn stand_in() -> StandIn {
    let stand_in = StandIn::with(&[
        ("a.example", proxy(json!([["10.0.0.1", 80], ["10.0.0.2", 80]]))),
        ("closed.example", json!(["empty", { "code": 410 }, false])),
        ("held.example", json!(["spin", { "timeout": 60 }, true])),
    ]);
    let wrong = json!({ "errors_per_second": 3.5, "p95": 2.5, "limited_per_second": 1.25 });
    stand_in.set_stats("a.example", wrong);
    stand_in.set_backend("10.0.0.1:80", "up", "");
    stand_in.set_backend("10.0.0.2:80", "down", "connection refused");
    stand_in.set("a.example", proxy(json!([["10.0.0.1", 80], ["10.0.0.2", 80]])));
    stand_in.set_held(vec![json!({ "host": "held.example", "name": "held.example",
        "source": "192.0.2.7", "since": 1, "awaits": "rule" })]);
    stand_in
}

/// The places of the dashboard: an address, a selector that is there then, and its text.
const PLACES: &[(&str, &str, &str)] = &[
    ("#", "#result", "3 rules"),
    ("#sort=errors&filter=failing", "#result", "1 failing host"),
    ("#sort=limited&filter=limited", "#result", "1 limited host"),
    ("#host=a.example", "#host-wrong", "10.0.0.2:80"),
    ("#host=held.example", "#host-held", "192.0.2.7"),
    ("#backend=10.0.0.2%3A80", "#backend-rules", "a.example"),
];

#[track_caller]
fn at_each_place(page: &Page, mut check: impl FnMut(&str)) {
    for (address, selector, text) in PLACES {
        page.evaluate(&format!("location.hash = '{address}'"));
        page.wait_text(selector, text);
        check(address);
    }
    page.evaluate("location.hash = '#'");
    page.wait_text("#result", "3 rules");
    page.click(&deed("a.example", "edit"));
    page.click("summary");
    check("a form");
    page.press("Escape");
    page.wait(CLOSED);
}

/// Texts whose contrast with the ground behind them is below 4.5 (WCAG 2.2, 1.4.3).
const FAINT: &str = "(() => {
    const canvas = document.createElement('canvas');
    const brush = Object.assign(canvas, { width: 1, height: 1 }).getContext('2d', { willReadFrequently: true });
    const over = (grounds) => {
        brush.clearRect(0, 0, 1, 1);
        for (const ground of grounds) { brush.fillStyle = ground; brush.fillRect(0, 0, 1, 1); }
        return [...brush.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const light = (rgb) => {
        const [r, g, b] = rgb.map((n) => n / 255).map((n) => n <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const grounds = (node) => node === null ? ['white'] : [...grounds(node.parentElement), getComputedStyle(node).backgroundColor];
    const found = [];
    const walk = document.createTreeWalker(document.querySelector('dialog[open]') ?? document.body, NodeFilter.SHOW_TEXT);
    for (let text = walk.nextNode(); text; text = walk.nextNode()) {
        const node = text.parentElement;
        const box = node.getClientRects()[0];
        if (!box || text.data.trim() === '' || node.closest('.unseen, :disabled, [aria-hidden=true], option, script, style, noscript')) continue;
        const ground = over(grounds(node));
        const ink = over([...grounds(node), getComputedStyle(node).color]);
        const [bright, dark] = [light(ground), light(ink)].sort((a, b) => b - a);
        const contrast = (bright + 0.05) / (dark + 0.05);
        if (contrast < 4.45) found.push(`${node.tagName}.${node.className}#${node.id} ${text.data.slice(0, 30)}: ${contrast.toFixed(2)}`);
    }
    return found.slice(0, 8);
})()";

/// Controls without a name, identifiers given twice, and headings that skip a level.
const NAMELESS: &str = "(() => {
    const found = [];
    const seen = new Set();
    for (const node of document.querySelectorAll('[id]')) {
        if (seen.has(node.id)) found.push(`twice: ${node.id}`);
        seen.add(node.id);
    }
    for (const node of document.querySelectorAll('[aria-labelledby], [aria-describedby], label[for]')) {
        const names = ['aria-labelledby', 'aria-describedby', 'for'].flatMap((name) => (node.getAttribute(name) ?? '').split(' '));
        for (const name of names.filter(Boolean)) if (!document.getElementById(name)) found.push(`no ${name}`);
    }
    for (const node of document.querySelectorAll('a[href], button, input, select, textarea, svg[role=img], meter')) {
        if (node.getClientRects().length === 0) continue;
        const name = node.ariaLabel || node.textContent.trim() || [...(node.labels ?? [])].map((label) => label.textContent).join('');
        if (!name) found.push(`no name: ${node.outerHTML.slice(0, 80)}`);
    }
    let level = 0;
    for (const node of document.querySelectorAll('h1, h2, h3, h4')) {
        if (node.getClientRects().length === 0) continue;
        const now = Number(node.tagName[1]);
        if (now > level + 1) found.push(`${node.tagName} behind H${level}: ${node.textContent}`);
        level = now;
    }
    return found.slice(0, 8);
})()";

#[test]
fn everything_has_a_name_and_can_be_read() {
    let stand_in = stand_in();
    let Some(page) = open(&stand_in) else { return };
    for is_dark in [false, true] {
        page.set_dark(is_dark);
        at_each_place(&page, |place| {
            for check in [FAINT, NAMELESS] {
                assert_eq!(page.evaluate(check), json!([]), "{place}, dark: {is_dark}");
            }
        });
    }
    page.expect_no_complaints();
}

#[test]
fn axe_finds_nothing() {
    let Some(file) = std::env::var_os("MANTRID_AXE") else { return };
    let axe = std::fs::read_to_string(file).expect("the file that MANTRID_AXE names");
    let stand_in = stand_in();
    let Some(page) = open(&stand_in) else { return };
    page.evaluate(&format!("{axe}; true"));
    let run = "axe.run().then(({ violations }) => violations.map(({ id, nodes }) => \
               [id, ...nodes.slice(0, 3).map(({ target }) => target.join(' '))]))";
    for is_dark in [false, true] {
        page.set_dark(is_dark);
        at_each_place(&page, |place| {
            assert_eq!(page.evaluate(run), json!([]), "{place}, dark: {is_dark}");
        });
    }
}

/// Pages of a host and a backend fit each window.
#[test]
fn every_place_fits_every_window() {
    let stand_in = stand_in();
    let Some(page) = open(&stand_in) else { return };
    for (width, height) in [(360, 740), (820, 1180), (1100, 800), (1440, 900), (2200, 1200)] {
        page.set_viewport(width, height, 1.0);
        at_each_place(&page, |place| {
            let scrolls = page.evaluate("document.documentElement.scrollWidth > innerWidth");
            assert_eq!(scrolls, json!(false), "{place} scrolls sideways at {width}");
        });
    }
    page.expect_no_complaints();
}

/// A name is broken into lines, never cut.
#[test]
fn names_are_whole() {
    let stand_in = stand_in();
    let long = format!("{}.example", "a-very-long-name.".repeat(10));
    stand_in.set(&long, proxy(json!([["10.0.0.1", 80]])));
    let Some(page) = open(&stand_in) else { return };
    page.wait("document.querySelectorAll('#rows tr').length === 4");
    for (width, height) in [(360, 740), (768, 1024), (1440, 900)] {
        page.set_viewport(width, height, 1.0);
        let cut = page.evaluate(
            "[...document.querySelectorAll('#rows :is(.name, .name a, .does)')].filter((node) =>
                node.scrollWidth > node.clientWidth + 1 && node.clientWidth > 0).length",
        );
        assert_eq!(cut, json!(0), "at {width}");
    }
}
