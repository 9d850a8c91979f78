//! The dashboard with no rule, a few, and very many: what it says, asks for and holds does not grow
//! with the table. `dashboard.rs` has a million rules of a stand-in; with `MANTRID_HEAVY=1` there
//! are a million in the real daemon, too:
//! `MANTRID_HEAVY=1 cargo test --locked --test integration -- dashboard_is_quick_with`

use std::sync::Arc;

use serde_json::json;

use crate::browser::Page;
use crate::daemon::Setup;
use crate::dashboard::proxy;
use crate::stand_in::StandIn;

fn name(number: usize) -> String {
    format!("site-{number:07}.example")
}

fn stand_in(rules: usize) -> StandIn {
    let rule = Arc::new(proxy(json!([["127.0.0.1", 8000]])));
    StandIn::new((0..rules).map(|number| (name(number), Arc::clone(&rule))))
}

#[track_caller]
fn expect_small(page: &Page) {
    let nodes = page.evaluate("document.querySelectorAll('*').length");
    assert!(nodes.as_u64().is_some_and(|nodes| nodes < 5000), "{nodes} nodes");
    page.expect_no_complaints();
}

#[test]
fn an_empty_table_says_what_requests_get() {
    let stand_in = stand_in(0);
    let Some(page) = Page::open(&stand_in.url()) else { return };
    page.wait_text("#result", "0 rules");
    page.wait_text("#empty", "every request gets the no-hosts page");
    page.choose("#sort", "errors");
    page.wait_text("#result", "0 hosts, by errors per second");
    page.choose("#filter", "held");
    page.wait_text("#empty", "There are 0 hosts with held requests");
    expect_small(&page);
}

#[test]
fn few_hosts_leave_no_column_empty() {
    let stand_in = stand_in(3);
    let Some(page) = Page::open(&stand_in.url()) else { return };
    page.wait_text("#result", "3 rules");
    // The panels stand below the hosts, side by side, and not beside a void.
    page.wait("document.querySelector('#list').classList.contains('few')");
    let below = "document.querySelector('aside').getBoundingClientRect().top >= \
                 document.querySelector('.hosts').getBoundingClientRect().bottom";
    assert_eq!(page.evaluate(below), json!(true));
    let wide = "document.querySelector('aside').getBoundingClientRect().width > 0.9 * \
                document.querySelector('main').clientWidth - 40";
    assert_eq!(page.evaluate(wide), json!(true));
    expect_small(&page);
}

#[test]
fn ten_thousand_rules_are_as_quick_as_ten() {
    let stand_in = stand_in(10_000);
    stand_in.set_stats(&name(7777), json!({ "errors_per_second": 12.0 }));
    let Some(page) = Page::open(&stand_in.url()) else { return };
    page.wait_text("#result", "10,000 rules");
    page.choose("#filter", "failing");
    page.wait_text("#result", "1 failing host");
    page.wait_text("#rows", &name(7777));
    page.choose("#filter", "");
    // An action is looked for among all hosts, too, and not among the first of an order.
    stand_in.set(&name(4321), json!(["empty", { "code": 410 }, true]));
    page.choose("#sort", "requests");
    page.wait_text("#result", "the first 50 of 10,000 hosts");
    page.choose("#action", "empty");
    page.wait_text("#result", "1 host, by requests per second");
    page.wait_text("#rows", &name(4321));
    page.choose("#action", "");
    page.choose("#sort", "");
    page.choose("#limit", "200");
    page.wait_text("#range", "1–200 of 10,000");
    page.click("#pick-all");
    page.wait_text("#bulk-count", "200 hosts selected");
    page.click("#next");
    page.wait_text("#bulk-count", "200 of them not shown here");
    let nodes = page.evaluate("document.querySelectorAll('*').length");
    assert!(nodes.as_u64().is_some_and(|nodes| nodes < 8000), "{nodes} nodes");
    page.expect_no_complaints();
}

#[test]
fn dashboard_is_quick_with_a_million_rules() {
    if std::env::var_os("MANTRID_HEAVY").is_none() {
        return;
    }
    let daemon = Setup::new().management_tcp().start();
    let rule = proxy(json!([["127.0.0.1", 8000]]));
    // In parts: one body of all of them would be near the limit of a body.
    for part in (0..1_000_000).collect::<Vec<usize>>().chunks(100_000) {
        let rules = part.iter().map(|number| (name(*number), rule.clone())).collect();
        daemon.api().patch(&serde_json::Value::Object(rules));
    }
    let Some(page) = Page::open(&format!("http://{}/", daemon.api_address())) else { return };
    page.wait_text("#result", "1,000,000 rules");
    page.wait_text("#range", "1–50 of 1,000,000");
    page.click("#next");
    page.wait_text("#range", "51–100 of 1,000,000");
    page.click("#search");
    page.type_text("0999999");
    page.wait_text("#result", "1 of 1,000,000 rules match");
    page.choose("#sort", "errors");
    page.wait_text("#result", "1 host, by errors per second");
    page.wait_text("#rows", &name(999_999));
    expect_small(&page);
}
