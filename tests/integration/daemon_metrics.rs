//! Metrics of the daemon as a whole: its process, its limits, its files, its API, how reloads and
//! upgrades went; and which hosts have series.

use serde_json::json;

use crate::api::empty;
use crate::daemon::{Setup, eventually};
use crate::manage::Api;
use crate::message::get;
use crate::metrics::Metrics;

fn of(api: &mut Api, name: &str) -> f64 {
    Metrics::read(api).sum(name, &[])
}

#[test]
fn the_process_is_described_as_by_every_prometheus_client() {
    let daemon = Setup::new().start();
    let found = Metrics::read(&mut daemon.api());
    let of = |name: &str| found.sum_of(&format!("process_{name}"), &[]);
    let resident = daemon.resident_bytes() as f64;
    let told = of("resident_memory_bytes");
    assert!(told / 3.0 < resident && resident < told * 3.0, "{told} and {resident}");
    assert!(told <= of("virtual_memory_bytes"));
    let files = daemon.open_files() as f64;
    assert!((of("open_fds") - files).abs() < 10.0, "{} and {files}", of("open_fds"));
    assert_eq!(of("max_fds"), found.sum("max_descriptors", &[]));
    assert!(files < of("max_fds"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time");
    let age = now.as_secs_f64() - of("start_time_seconds");
    assert!((-5.0..600.0).contains(&age), "started {age} s ago");
    assert!(of("cpu_seconds_total") <= daemon.cpu_time().as_secs_f64() + 0.02);
}

#[test]
fn limits_are_told_and_what_is_in_use_of_them() {
    let setup = Setup::new()
        .set("shards", 2)
        .set("max_connections", 100)
        .set("max_held", 7)
        .set("max_held_per_source", 5)
        .set("max_connections_per_source", 40)
        .rule("a.com", json!(["spin", {}, false]));
    let daemon = setup.clone().start();
    let mut api = daemon.api();
    let found = Metrics::read(&mut api);
    for (name, value) in [
        ("max_connections", 100.0),
        ("max_held", 7.0),
        ("max_held_per_source", 5.0),
        ("max_connections_per_source", 40.0),
        ("management_connections_open", 1.0),
        ("held_oldest_seconds", 0.0),
        ("rules_rejected", 0.0),
    ] {
        assert_eq!(found.sum(name, &[]), value, "{name}");
    }
    assert!(7.0 < found.sum("max_management_connections", &[]));
    let mut held = daemon.connect();
    held.send(get("a.com", "/"));
    eventually("a request is held", || 0.0 < of(&mut api, "held_oldest_seconds"));
    let first = of(&mut api, "held_oldest_seconds");
    let mut second = daemon.connect();
    second.send(get("a.com", "/"));
    eventually("both are held, and the first counts", || {
        let found = Metrics::read(&mut api);
        found.sum("requests_held", &[]) == 2.0 && first < found.sum("held_oldest_seconds", &[])
    });
    setup.set("max_held", 9).unset("max_connections_per_source").write_files();
    daemon.signal("HUP");
    daemon.expect_log(&["SIGHUP: the configuration is in force"]);
    assert_eq!(of(&mut api, "max_held"), 9.0);
    assert_eq!(of(&mut api, "max_connections_per_source"), 0.0, "there is none");
    api.put("/hostname/a.com/", &empty(404));
    held.expect_status(404);
    second.expect_status(404);
    eventually("none is held", || of(&mut api, "held_oldest_seconds") == 0.0);
}

#[test]
fn reloads_and_upgrades_are_told_with_their_result() {
    let setup = Setup::new().copied();
    let mut daemon = setup.clone().start();
    let all = |api: &mut Api| {
        let found = Metrics::read(api);
        ["last_reload_successful", "last_upgrade_successful", "last_upgrade_timestamp_seconds"]
            .map(|name| found.sum(name, &[]))
    };
    let mut api = daemon.api();
    assert_eq!(all(&mut api), [1.0, 1.0, 0.0]);
    let started = of(&mut api, "last_reload_timestamp_seconds");
    assert!(1e9 < started);
    setup.clone().set("max_held", "many").write_files();
    daemon.signal("HUP");
    daemon.expect_log(&["SIGHUP: the configuration stays as it was"]);
    assert_eq!(all(&mut api), [0.0, 1.0, 0.0]);
    assert!(started < of(&mut api, "last_reload_timestamp_seconds"));
    daemon.signal("USR2");
    daemon.expect_log(&["Going on as if nothing had happened"]);
    let mut api = daemon.api();
    let [reload, upgrade, at] = all(&mut api);
    assert_eq!([reload, upgrade], [0.0, 0.0]);
    assert!(started < at);
    setup.write_files();
    daemon.upgrade();
    let mut api = daemon.api();
    let [reload, upgrade, later] = all(&mut api);
    assert_eq!([reload, upgrade], [1.0, 1.0]);
    assert!(at < later);
}

#[test]
fn files_of_the_state_are_described() {
    let setup = Setup::new().rule("a.com", empty(404)).rule("b.com", json!(["teleport", {}, true]));
    let daemon = setup.start();
    let mut api = daemon.api();
    eventually("the writer has told of its files", || of(&mut api, "rules_rejected") == 1.0);
    let before = of(&mut api, "journal_bytes");
    api.put("/hostname/c.com/", &empty(404));
    assert!(before + 20.0 < of(&mut api, "journal_bytes"));
}

#[test]
fn requests_to_the_api_are_timed_by_path() {
    let daemon = Setup::new().rule("a.com", empty(404)).start();
    let mut api = daemon.api();
    for _ in 0..3 {
        api.get("/hostname/a.com/");
    }
    api.put("/hostname/b.com/", &empty(404));
    api.get("/stats/");
    api.ask("GET", "/nowhere").expect_error(404, "not_found");
    let found = Metrics::read(&mut api);
    let count = |path: &str| found.sum("api_request_seconds_count", &[("path", path)]);
    assert_eq!(count("/hostname/{host}/"), 4.0);
    assert_eq!(count("/stats/"), 1.0);
    assert_eq!(count("/metrics"), 0.0, "this one is not over");
    assert!(0.0 < found.sum("api_request_seconds_sum", &[("path", "/hostname/{host}/")]));
}

/// A host that was the busiest of all once, and is quiet, gives its place to those that are now.
#[test]
fn hosts_that_are_busiest_now_have_the_series() {
    let names: Vec<String> = (0..101).map(|n| format!("h{n}.com")).collect();
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    let mut table: serde_json::Map<_, _> =
        names.iter().map(|name| (name.clone(), empty(403))).collect();
    table.insert("late.com".to_owned(), empty(403));
    api.put("/hostname/", &table.into());
    let mut client = daemon.connect();
    let mut ask = |name: &str, times: usize| {
        (0..times).for_each(|_| drop(client.exchange(get(name, "/"))));
    };
    ask("h0.com", 5);
    names[1..].iter().for_each(|name| ask(name, 3));
    api.counted("h100.com", 3);
    let has =
        |found: &Metrics, name: &str| 0.0 < found.sum("host_requests_total", &[("host", name)]);
    let found = Metrics::read(&mut api);
    assert!(has(&found, "h0.com") && !has(&found, "late.com"));
    // Of all requests ever it has one more than most; of those since the last look it has most.
    ask("late.com", 4);
    api.counted("late.com", 4);
    let found = Metrics::read(&mut api);
    assert!(has(&found, "late.com"), "{found:#?}");
}
