//! Which backend gets a request: algorithms, weights, dead backends passed over, and the limit on
//! connections with its queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::backend::{Backend, Serving, accept_any, closed_port, rule_for};
use crate::daemon::{Daemon, Setup, eventually};
use crate::message::{get, ok};
use crate::spin::metric;

/// How many of `count` requests each of `backends` got, one client after another.
#[track_caller]
fn spread(count: usize, backends: &[Serving], arguments: Value) -> Vec<usize> {
    let ports: Vec<u16> = backends.iter().map(|backend| backend.port).collect();
    let daemon = Daemon::proxying(rule_for(&ports, arguments));
    let before: Vec<usize> = backends.iter().map(Serving::requests).collect();
    for _ in 0..count {
        assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 200);
    }
    backends.iter().zip(before).map(|(backend, before)| backend.requests() - before).collect()
}

fn backends(count: usize) -> Vec<Serving> {
    (0..count).map(|_| Backend::new().serve_text("")).collect()
}

#[test]
fn random_choice_reaches_each_backend() {
    // each is left out with a probability of (2/3)^120
    for arguments in [json!({}), json!({ "algorithm": "random" })] {
        let counts = spread(120, &backends(3), arguments);
        assert!(counts.iter().all(|&count| count > 5), "{counts:?}");
    }
}

#[test]
fn round_robin_is_even() {
    assert_eq!(spread(30, &backends(3), json!({ "algorithm": "round_robin" })), [10, 10, 10]);
}

#[test]
fn round_robin_follows_the_weights() {
    let arguments = json!({ "algorithm": "round_robin", "weights": [3, 1, 0] });
    assert_eq!(spread(40, &backends(3), arguments), [30, 10, 0]);
}

#[test]
fn random_choice_follows_the_weights() {
    let counts = spread(200, &backends(3), json!({ "weights": [9, 1, 0] }));
    assert!(counts[0] > 140 && counts[1] > 2 && counts[2] == 0, "{counts:?}");
}

#[test]
fn source_stays_with_one() {
    let mut counts = spread(20, &backends(3), json!({ "algorithm": "source" }));
    counts.sort_unstable();
    assert_eq!(counts, [0, 0, 20]);
}

#[test]
fn least_connections_goes_where_less_is_open() {
    let (one, two) = (Backend::new(), Backend::new());
    let rule = rule_for(&[one.port, two.port], json!({ "algorithm": "least_connections" }));
    let daemon = Daemon::proxying(rule);
    let mut held = Vec::new();
    for _ in 0..4 {
        let (mut first, mut second) = (daemon.connect(), daemon.connect());
        first.send(get("a.com", "/"));
        // whichever gets the first, the other must get the second
        let (at, mut chosen) = accept_any(&[&one, &two]);
        let other = [&two, &one][at];
        chosen.expect_head();
        second.send(get("a.com", "/"));
        let mut server = other.accept();
        server.expect_head();
        held.push((first, second, chosen, server));
    }
    one.expect_no_connection();
    two.expect_no_connection();
}

/// Connections that are being opened count too, or a burst would go to one backend.
#[test]
fn least_connections_spreads_a_burst() {
    let (one, two) = (Backend::new(), Backend::new());
    let rule = rule_for(&[one.port, two.port], json!({ "algorithm": "least_connections" }));
    let daemon = Daemon::proxying(rule);
    let mut clients: Vec<_> = (0..12).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        client.send(get("a.com", "/"));
    }
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push((one.accept(), two.accept()));
    }
    one.expect_no_connection();
    two.expect_no_connection();
}

#[test]
fn a_backend_that_refuses_is_passed_over() {
    let alive = backends(1);
    let ports = [closed_port(), alive[0].port];
    let daemon = Daemon::proxying(rule_for(&ports, json!({ "algorithm": "round_robin" })));
    let mut client = daemon.connect();
    let statuses: Vec<u16> = (0..20).map(|_| client.exchange(get("a.com", "/")).status()).collect();
    let failed = statuses.iter().filter(|&&status| status == 502).count();
    assert!(failed <= 2, "one refusal is enough to know better: {statuses:?}");
}

#[test]
fn backend_without_healthcheck_is_tried_each_time() {
    let alive = backends(1);
    let arguments = json!({ "algorithm": "round_robin", "healthcheck": false });
    let daemon = Daemon::proxying(rule_for(&[closed_port(), alive[0].port], arguments));
    let mut client = daemon.connect();
    let statuses: Vec<u16> = (0..20).map(|_| client.exchange(get("a.com", "/")).status()).collect();
    let failed = statuses.iter().filter(|&&status| status == 502).count();
    assert_eq!(failed, 10, "{statuses:?}");
}

#[test]
fn a_backend_that_comes_back_is_used_again() {
    let alive = backends(1);
    let port = closed_port();
    let arguments = json!({ "algorithm": "round_robin", "attempts": 2, "delay": 0 });
    let daemon = Daemon::proxying(rule_for(&[port, alive[0].port], arguments));
    let mut client = daemon.connect();
    for _ in 0..4 {
        assert_eq!(client.exchange(get("a.com", "/")).status(), 200);
    }
    let back = Backend::on(port).serve_text("back");
    let began = Instant::now();
    while back.requests() == 0 {
        assert_eq!(client.exchange(get("a.com", "/")).status(), 200);
        assert!(began.elapsed() < Duration::from_secs(8), "it is never tried again");
    }
}

#[test]
fn max_connections_makes_the_next_one_wait() {
    let backend = Backend::new();
    let rule = backend.rule_with(json!({ "max_connections": 1 }));
    let daemon = Setup::new().set("timeout_connect", "1h").rule("a.com", rule).start();
    let mut clients: Vec<_> = (0..3).map(|_| daemon.connect()).collect();
    let mut api = daemon.api();
    let mut server = None;
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(get("a.com", &format!("/{n}")));
        match n {
            0 => server = Some(backend.accept()),
            _ => eventually("it waits", || metric(&mut api, "requests_queued") == n as f64),
        }
    }
    let mut server = server.expect("the first is not queued");
    for (n, client) in clients.iter_mut().enumerate() {
        // in the order in which they came
        server.expect_request(&format!("GET /{n} HTTP/1.1"));
        server.expect_nothing_more();
        backend.expect_no_connection();
        server.send(ok(n.to_string()));
        assert_eq!(client.expect_answer().text(), n.to_string());
    }
    backend.expect_no_connection();
}

/// Requests that backends serve at the same time: now, and the most there ever were.
#[derive(Clone, Default)]
pub struct Crowd {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Crowd {
    /// A backend whose requests count.
    pub fn serve(&self) -> Serving {
        let Crowd { now, most } = self.clone();
        Backend::new().serve(move |_, server| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            // gives the others every chance to come too early
            (0..200).for_each(|_| std::thread::yield_now());
            now.fetch_sub(1, Ordering::SeqCst);
            drop(server.try_send(ok("turn")));
        })
    }

    /// Sends 60 requests over two shards, twelve at a time; returns the most that were served at
    /// the same time.
    #[track_caller]
    pub fn of_waves(&self, rule: Value) -> usize {
        // nobody is to give up on a machine that is busy
        let setup = Setup::new().set("shards", 2).set("timeout_connect", "1h");
        let daemon = setup.rule("a.com", rule).start();
        let mut clients: Vec<_> = (0..12).map(|_| daemon.connect()).collect();
        for _ in 0..5 {
            for client in &mut clients {
                client.send(get("a.com", "/"));
            }
            for client in &mut clients {
                assert_eq!(client.expect_answer().text(), "turn");
            }
        }
        self.most.load(Ordering::SeqCst)
    }
}

#[test]
fn max_connections_holds_over_all_shards() {
    let crowd = Crowd::default();
    let backend = crowd.serve();
    let most = crowd.of_waves(rule_for(&[backend.port], json!({ "max_connections": 2 })));
    assert!(most <= 2, "{most} requests at the same time, over connections limited to 2");
    assert_eq!(backend.requests(), 60);
}

#[test]
fn max_connections_gives_up_in_time() {
    let backend = Backend::new();
    let daemon = Setup::new()
        .set("timeout_connect", "300ms")
        .rule("a.com", backend.rule_with(json!({ "max_connections": 1 })))
        .start();
    let (mut first, mut second) = (daemon.connect(), daemon.connect());
    first.send(get("a.com", "/"));
    let mut server = backend.accept();
    server.expect_head();
    let began = Instant::now();
    let answer = second.exchange(get("a.com", "/"));
    let took = began.elapsed();
    assert_eq!(answer.status(), 503);
    assert!(took > Duration::from_millis(240) && took < Duration::from_secs(4), "{took:?}");
    server.send(ok("fine"));
    assert_eq!(first.expect_answer().text(), "fine");
}

#[test]
fn a_client_that_leaves_the_queue_is_not_served() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule_with(json!({ "max_connections": 1 })));
    let (mut first, mut gone, mut last) = (daemon.connect(), daemon.connect(), daemon.connect());
    first.send(get("a.com", "/first"));
    let mut server = backend.accept();
    server.expect_request("GET /first HTTP/1.1");
    gone.send("POST /gone HTTP/1.1\r\nHost: a.com\r\n\r\n");
    // a second answer of ours on another connection: by now the first is queued
    assert_eq!(daemon.connect().exchange(get("nowhere.com", "/")).status(), 503);
    gone.half_close();
    gone.expect_end();
    last.send(get("a.com", "/last"));
    server.send(ok("first"));
    assert_eq!(first.expect_answer().text(), "first");
    server.expect_request("GET /last HTTP/1.1");
    server.send(ok("last"));
    assert_eq!(last.expect_answer().text(), "last");
}
