//! The dashboard's pages of a host and of a backend, orders and filters, selections, and what a
//! token may do: in a real browser, against an API that answers as a test has set it.

use serde_json::{Value, json};

use crate::browser::quoted;
use crate::dashboard::{CLOSED, REVIEWED, deed, open, proxy, row, stand_in};
use crate::stand_in::StandIn;

/// One host fails, one is held, and one has a backend that is down.
fn night() -> StandIn {
    let stand_in = StandIn::with(&[
        ("calm.example", proxy(json!([["10.0.0.9", 80]]))),
        ("failing.example", proxy(json!([["10.0.0.1", 8000]]))),
        ("gone.example", proxy(json!([["10.0.0.2", 8000], ["10.0.0.9", 80]]))),
    ]);
    stand_in.set("held.example", proxy(json!([["10.0.0.9", 80]])));
    let before = stand_in.rule("held.example");
    stand_in.set("held.example", json!(["spin", { "then": before }, true]));
    stand_in.set_stats("failing.example", json!({ "errors_per_second": 41.5 }));
    let failing = json!({
        "requests_per_second": 42.0, "errors_per_second": 41.5,
        "answers": { "2xx": 5, "3xx": 0, "4xx": 0, "5xx": 9001 }
    });
    stand_in.set_backend_with("10.0.0.1:8000", "up", "", failing, 1);
    stand_in.set_backend("10.0.0.2:8000", "down", "connection refused");
    stand_in.set_backend("10.0.0.9:80", "up", "");
    stand_in.set_held(vec![
        json!({ "host": "held.example", "name": "www.held.example", "source": "192.0.2.7",
            "since": 1, "awaits": "rule" }),
    ]);
    stand_in
}

const ACTIVE: &str = "document.activeElement.textContent";

#[test]
fn the_error_tile_leads_to_host_backend_cause_and_last_change() {
    let stand_in = night();
    stand_in.set("failing.example", proxy(json!([["10.0.0.1", 8000]])));
    let Some(page) = open(&stand_in) else { return };
    // By keyboard alone: to the tile, the list, the host.
    page.press_until("Tab", "Boolean(document.activeElement.closest('#errors-tile'))");
    page.press("Enter");
    page.wait_text("#result", "1 failing host, by errors per second");
    page.wait(&format!("{ACTIVE} === 'failing.example'"));
    page.press("Enter");
    page.wait("document.activeElement.id === 'host-title'");
    page.wait_text("#host-wrong", "10.0.0.1:8000 answers with errors: 42 of 42 requests/s");
    page.wait_text("#host-wrong", "9,001 5xx");
    page.wait_text("#host-last", "PUT by uid 1000");
    page.wait_text("#host-changes", "PUT by uid 1000");
    // The history is there before anything was seen.
    page.wait("20 < document.querySelector('#host-charts .line').getAttribute('d').length");
    page.wait_text("#host-charts", "1 h ago");
    page.press("Escape");
    page.wait("document.activeElement === document.querySelector('#rows .name a')");
    page.expect_no_complaints();
}

#[test]
fn filters_and_orders_are_the_servers() {
    let stand_in = night();
    let Some(page) = open(&stand_in) else { return };
    page.choose("#filter", "held");
    page.wait_text("#result", "1 host with held requests");
    page.wait_text(&row("held.example"), "holds up to 120 s");
    page.choose("#filter", "down");
    page.wait_text("#result", "1 host with a backend down");
    page.wait_text(&row("gone.example"), "1 down");
    // Which column has the place changes with what is looked for.
    let limit = json!({ "limited_per_second": 7.5, "limited": 4100 });
    stand_in.set_stats("calm.example", limit);
    let shown = |column: &str| {
        format!("0 < document.querySelector('#heads [data-sort={column}]').offsetWidth")
    };
    page.wait(&shown("bytes"));
    page.choose("#filter", "limited");
    page.wait_text("#result", "1 limited host");
    page.wait_text("#result", "by requests turned away per second");
    page.wait_text(&format!("{} .limited-s", row("calm.example")), "7.5");
    page.wait(&shown("limited"));
    page.wait(&format!("!({})", shown("bytes")));
    page.choose("#action", "spin");
    page.wait_text("#result", "0 limited hosts");
    page.choose("#action", "");
    page.choose("#filter", "");
    page.click("th[data-sort=latency] button");
    page.wait_text("#result", "4 hosts, by latency");
    page.wait("document.querySelector('th[data-sort=latency]').ariaSort === 'descending'");
    page.wait("location.hash === '#sort=latency'");
    page.click("th[data-sort=''] button");
    page.wait_text("#result", "4 rules");
    // What is in no name is looked for in rules.
    page.click("#search");
    page.type_text("10.0.0.2:8000");
    page.wait_text("#rows", "gone.example");
    page.wait_text("#result", "1 of 4 rules match");
    let requests = stand_in.requests();
    for asked in [
        "/stats/?sort=latency",
        "/stats/?sort=held&limit=50&filter=held",
        "/stats/?sort=errors&limit=50&filter=down",
        "/stats/?sort=limited&limit=50&action=spin&filter=limited",
    ] {
        assert!(requests.iter().any(|request| request.contains(asked)), "{asked} in {requests:?}");
    }
    // Rules that were not listed come in one answer.
    let is_rule = |request: &&String| {
        request.starts_with("GET /hostname/") && !request.starts_with("GET /hostname/?")
    };
    assert_eq!(requests.iter().filter(is_rule).count(), 0, "{requests:?}");
    page.expect_no_complaints();
}

#[test]
fn limits_lead_to_the_host_that_they_limit() {
    let stand_in = night();
    let limited = json!({ "backends": [["10.0.0.9", 80]], "max_requests_per_second": 20 });
    stand_in.set("limited.example", json!(["proxy", limited, true]));
    let counted = json!({ "limited_per_second": 7.5, "limited": 4100 });
    stand_in.set_stats("limited.example", counted);
    let Some(page) = open(&stand_in) else { return };
    page.wait_text("#limits", "Shed: max requests per second");
    page.click("#limits a");
    page.wait_text("#result", "1 limited host");
    page.click(&format!("{} .name a", row("limited.example")));
    page.wait_text("#host-wrong", "Limits turn 7.5 requests/s away: max_requests_per_second 20.");
    page.wait_text("#host-numbers", "7.5/s, 4,100 in all");
    page.expect_no_complaints();
}

#[test]
fn rows_by_name_are_asked_for_together() {
    let stand_in = stand_in();
    let Some(page) = open(&stand_in) else { return };
    let cell = |host: &str, at: usize| {
        format!("document.querySelector({}).cells[{at}].textContent", quoted(&row(host)))
    };
    let (errors, latency) = (4, 5);
    page.wait(&format!("{} === '0'", cell("b.com", errors)));
    page.wait(&format!("{} === '14 ms'", cell("b.com", latency)));
    // Also those of a host that has no requests any more.
    stand_in.set_stats("b.com", json!({ "requests_per_second": 0.0, "errors_per_second": 3.5 }));
    page.wait(&format!("{} === '3.5'", cell("b.com", errors)));
    stand_in.set_stats("b.com", json!({ "requests_per_second": 0.0, "p95": null }));
    page.wait(&format!("{} === '0'", cell("b.com", errors)));
    page.wait(&format!("{} === '–'", cell("b.com", latency)));
    let requests = stand_in.requests();
    let asked = requests.iter().filter(|request| request.starts_with("GET /stats/"));
    let of_all = "GET /stats/?host=a.com&host=b.com&host=c.com";
    assert!(asked.clone().all(|request| request == of_all), "{requests:?}");
    assert!(1 < asked.count());
    page.expect_no_complaints();
}

#[test]
fn a_held_host_tells_who_waits_and_is_flipped() {
    let stand_in = night();
    let Some(page) = open(&stand_in) else { return };
    page.click(&format!("{} .name a", row("held.example")));
    page.wait_text("#host-wrong", "Its rule is spin");
    page.wait_text("#host-wrong", "The rule before was proxy 10.0.0.9:80");
    page.wait_text("#host-held", "192.0.2.7");
    page.wait_text("#host-held", "www.held.example");
    page.wait_text("#host-held", "another rule");
    page.wait_text("#host-backends", "10.0.0.9:80");
    page.click("#host-deeds [data-deed=flip]");
    page.wait(REVIEWED);
    page.wait_text("#review-of", "What changes for held.example");
    page.click("#go");
    page.wait(CLOSED);
    page.wait_text("#host-does", "proxy 10.0.0.9:80");
    page.wait_text("#host-changes", "PUT by 127.0.0.1:5123");
    assert_eq!(stand_in.rule("held.example")[0], json!("proxy"));
    page.expect_no_complaints();
}

#[test]
fn a_backend_tells_its_rules_and_is_drained() {
    let stand_in = night();
    let Some(page) = open(&stand_in) else { return };
    page.wait_text("#backends", "10.0.0.9:80");
    page.click("#backends a[href$='10.0.0.2%3A8000']");
    page.wait_text("#backend-wrong", "It is down since");
    page.wait_text("#backend-wrong", "connection refused");
    page.wait_text("#backend-rules", "gone.example");
    page.wait_text("#backend-numbers", "9 opened, 0 failed");
    page.click("#drain");
    page.wait(REVIEWED);
    page.wait_text("#change-title", "Send no new requests of gone.example to 10.0.0.2:8000?");
    page.click("#go");
    page.wait(CLOSED);
    let before = proxy(json!([["10.0.0.2", 8000], ["10.0.0.9", 80]]));
    assert_eq!(stand_in.rule("gone.example")[1]["weights"], json!([0, 1]));
    page.wait_text("#drain", "Take back");
    page.click("#drain");
    page.wait(REVIEWED);
    page.click("#go");
    page.wait(CLOSED);
    assert_eq!(stand_in.rule("gone.example"), before);
    page.click("#backend-page a.away");
    page.wait("!document.querySelector('#list').hidden");
    // Of a rule that has no other backend nothing is taken.
    page.click("#backends a[href$='10.0.0.1%3A8000']");
    page.wait_text("#backend-rules", "failing.example");
    page.click("#drain");
    page.wait_text("#backend-said", "failing.example: it has no other backend");
    page.expect_no_complaints();
}

#[test]
fn a_backup_tells_its_rules_and_makes_the_last_backend_free() {
    let rule =
        json!(["proxy", {"backends": [["10.0.0.1", 80]], "backup": [["10.0.0.2", 80]]}, true]);
    let stand_in = StandIn::with(&[("spared.example", rule)]);
    stand_in.set_backend("10.0.0.1:80", "up", "");
    stand_in.set_backend("10.0.0.2:80", "up", "");
    let Some(page) = open(&stand_in) else { return };
    page.click("#backends a[href$='10.0.0.2%3A80']");
    page.wait_text("#backend-rules", "spared.example");
    page.wait_text("#backend-rules", "backup");
    page.click("#drain");
    page.wait_text("#backend-said", "spared.example: it is its backup, without a weight");
    page.click("#backend-page a.away");
    page.wait("!document.querySelector('#list').hidden");
    // The page of another backend opens; its rules are not known yet, so it can't be drained yet.
    let may_drain = page.evaluate(
        "new Promise((resolve) => {
            const drain = document.querySelector('#drain');
            addEventListener('hashchange', () => resolve(!drain.disabled));
            document.querySelector(\"#backends a[href$='10.0.0.1%3A80']\").click();
        })",
    );
    assert_eq!(may_drain, false);
    page.click("#drain");
    page.wait(REVIEWED);
    page.click("#go");
    page.wait(CLOSED);
    assert_eq!(stand_in.rule("spared.example")[1]["weights"], json!([0]));
    page.expect_no_complaints();
}

#[test]
fn a_selection_is_changed_with_one_review() {
    let stand_in = stand_in();
    let before = stand_in.rule("a.com");
    let Some(page) = open(&stand_in) else { return };
    page.click(&format!("{} .pick input", row("a.com")));
    page.wait_text("#bulk-count", "1 host selected");
    page.press("ArrowDown");
    page.press(" ");
    page.wait_text("#bulk-count", "2 hosts selected");
    page.click("[data-bulk=spin]");
    page.wait(REVIEWED);
    page.wait_text("#change-title", "Hold the requests of 2 hosts?");
    page.wait_text("#difference", "a.com");
    page.wait_text("#difference", "b.com");
    assert_eq!(stand_in.rule("a.com"), before, "only looked at");
    page.press("Enter");
    page.wait(CLOSED);
    page.wait_text("#said", "2 hosts: spin is done");
    assert_eq!(stand_in.rule("a.com"), json!(["spin", { "then": before.clone() }, true]));
    assert_eq!(stand_in.rule("b.com")[0], json!("spin"));
    let changes = stand_in.requests();
    let changes = changes.iter().filter(|request| request.starts_with("PATCH /hostname/"));
    assert_eq!(changes.count(), 2, "a dry run, and one change");
    // All of them; what can't be flipped back is named and stays.
    page.click("#pick-all");
    page.wait_text("#bulk-count", "3 hosts selected");
    page.click("[data-bulk=flip]");
    page.wait_text("#change-note", "c.com: it does not spin");
    page.click("#go");
    page.wait(CLOSED);
    assert_eq!(stand_in.rule("a.com"), before);
    page.wait_text("#bulk-count", "1 host selected");
    page.click("[data-bulk=delete]");
    page.wait_text("#change-title", "Delete the rules of c.com?");
    page.wait("document.querySelector('#go').classList.contains('danger')");
    // Another program is faster: the review shows it, and nothing is overwritten unseen.
    stand_in.set("c.com", json!(["empty", { "code": 404 }, true]));
    page.click("#go");
    page.wait_text("#change-error", "The table changed meanwhile");
    page.wait_text("#difference", "404");
    page.click("#go");
    page.wait(CLOSED);
    assert_eq!(stand_in.rule("c.com"), Value::Null);
    page.expect_no_complaints();
}

#[test]
fn errors_stand_at_their_fields() {
    let stand_in = stand_in();
    let Some(page) = open(&stand_in) else { return };
    page.click("#add");
    page.click("#field-backends");
    page.type_text("127.0.0.1:8000");
    page.click("#go");
    page.wait_text("#error-rule-name", "a host name is needed");
    page.wait("document.activeElement.id === 'field-rule-name'");
    page.type_text("n.example");
    page.click("#go");
    page.wait(REVIEWED);
    page.wait_text("#review-of", "n.example");
    page.press("Escape");
    page.wait(CLOSED);
    // Each argument of the daemon's table has a field.
    page.click(&deed("a.com", "edit"));
    page.click("summary");
    let fields = "[...document.querySelectorAll('#arguments [id^=field-]')].map((n) => n.id)";
    let fields = page.evaluate(fields);
    let fields: Vec<&str> =
        fields.as_array().expect("fields").iter().filter_map(Value::as_str).collect();
    for name in ["backends", "check", "hold", "host", "keep_alive", "weights", "wake"] {
        assert!(fields.contains(&&*format!("field-{name}")), "{name} in {fields:?}");
    }
    page.expect_no_complaints();
}

#[test]
fn a_token_shows_what_it_may_do() {
    let stand_in = stand_in();
    stand_in.set_asker(json!({ "name": "carol", "role": "read", "suffix": null }));
    let Some(page) = open(&stand_in) else { return };
    page.wait_text("#role", "carol, read");
    let visible = "[...document.querySelectorAll('#add, #rows .deeds button, #rows .pick input')]
        .filter((node) => node.getClientRects().length > 0).length";
    assert_eq!(page.evaluate(visible), json!(0));
    page.click(&format!("{} .name a", row("a.com")));
    page.wait_text("#host-backends", "127.0.0.1:8000");
    page.wait("document.querySelector('#host-deeds').getClientRects().length === 0");
    stand_in.set_asker(json!({ "name": "oscar", "role": "operate", "suffix": "com" }));
    page.call("Page.reload", json!({}));
    page.wait_text("#role", "oscar, operate, below com");
    page.wait("document.querySelectorAll('#host-deeds button').length === 3");
    let shown = "[...document.querySelectorAll('#host-deeds button')]
        .filter((node) => node.getClientRects().length > 0).map((node) => node.textContent)";
    assert_eq!(page.evaluate(shown), json!(["Spin"]));
    page.expect_no_complaints();
}

#[test]
fn limits_in_use_and_nodes_are_shown() {
    let stand_in = stand_in();
    let node = |sequence: u64, age: f64| {
        json!({ "url": "http://a:8042", "version": "1", "sequence": sequence, "age": age,
            "held": 2, "connections": 9, "requests_per_second": 5.5 })
    };
    stand_in.set_fleet(json!({
        "fleet": "prod", "id": "1", "node": "a", "sequence": 9, "connected": true, "lost": null,
        "nodes": { "a": node(9, 0.4), "b": node(7, 1.0), "c": node(9, 25.0) }
    }));
    let Some(page) = open(&stand_in) else { return };
    page.wait_text("#limits", "960 of 1,000");
    page.wait_text("#limits", "Shed: max connections");
    page.wait("document.querySelector('#limits meter').value === 960");
    page.wait_text("#fleet", "prod, connected");
    page.wait_text("#nodes", "a (this one)");
    page.wait_text("#nodes", "behind by 2");
    page.wait_text("#nodes", "silent for 25 s");
    page.expect_no_complaints();
}
