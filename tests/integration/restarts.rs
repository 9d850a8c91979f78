//! The promise: an application is restarted again and again under load, and not one visitor sees an
//! error. It is really stopped, with all its connections, and really started. `loadtest/restarts`
//! does this with processes, for longer, and draws a plot.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::backend::{Backend, Serving, closed_port, rule_for};
use crate::daemon::{Daemon, Setup};
use crate::message::{get, ok};
use crate::spin::{metric, spin};

const ROUNDS: usize = 100;
const KEEP_ALIVE: usize = 6;
const NEW: usize = 2;

fn application(port: u16) -> Serving {
    Backend::on(port).serve(|head, connection| drop(connection.try_send(ok(head.target()))))
}

/// Loads `a.com` from all sides while `rounds` runs; how many requests there were, and the longest.
fn under_load(daemon: &Daemon, rounds: impl FnOnce(&AtomicU64)) -> (u64, Duration) {
    let (over, count, longest) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for who in 0..KEEP_ALIVE + NEW {
            let (over, count, longest) = (&over, &count, &longest);
            scope.spawn(move || {
                let mut client = daemon.connect();
                for number in 0_u64.. {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    if KEEP_ALIVE <= who {
                        client = daemon.connect();
                    }
                    let path = format!("/{who}/{number}");
                    let began = Instant::now();
                    let answer = client.exchange(get("a.com", &path));
                    assert_eq!((answer.status(), answer.text()), (200, path));
                    let took = began.elapsed().as_micros().try_into().expect("not that long");
                    longest.fetch_max(took, Ordering::Relaxed);
                    count.fetch_add(1, Ordering::Relaxed);
                    // a load, not a flood: the rounds should have their turns
                    std::thread::park_timeout(Duration::from_millis(1));
                }
            });
        }
        // whoever fails ends the test, and the others must end for that
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rounds(&count)));
        over.store(true, Ordering::Relaxed);
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    });
    (count.into_inner(), Duration::from_micros(longest.into_inner()))
}

/// Waits until there were so many more requests.
#[track_caller]
fn more(count: &AtomicU64, wanted: u64) {
    let before = count.load(Ordering::Relaxed);
    crate::daemon::eventually("requests go on", || {
        before + wanted <= count.load(Ordering::Relaxed)
    });
}

#[test]
fn hundred_restarts_with_spin_lose_no_request() {
    let port = closed_port();
    let rule = |arguments: Value| rule_for(&[port], arguments);
    let daemon = Setup::new().set("shards", 2).rule("a.com", rule(json!({}))).start();
    let mut backend = Some(application(port));
    let mut api = daemon.api();
    let (requests, longest) = under_load(&daemon, |count| {
        for _ in 0..ROUNDS {
            more(count, 10);
            // what is under way ends first
            let path = "/hostname/a.com/?wait=drained&timeout=10s";
            let answer = api.tell("PUT", path, &spin(json!({"then": rule(json!({}))})));
            assert_eq!(answer.json(), json!({"ok": true, "drained": true}));
            drop(backend.take());
            backend = Some(application(port));
            api.put("/hostname/a.com/", &rule(json!({})));
        }
        more(count, 10);
    });
    assert!(10 * ROUNDS as u64 <= requests, "{requests}");
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    assert_eq!(metric(&mut api, "holds_timed_out_total"), 0.0);
    assert!(0.0 < metric(&mut api, "holds_released_total"), "nobody was ever held");
}

#[test]
fn hundred_restarts_with_hold_lose_no_request() {
    let port = closed_port();
    let rule = rule_for(&[port], json!({"hold": 10}));
    let daemon = Setup::new().set("shards", 2).rule("a.com", rule).start();
    let mut backend = Some(application(port));
    let (requests, longest) = under_load(&daemon, |count| {
        for _ in 0..ROUNDS {
            more(count, 10);
            drop(backend.take());
            backend = Some(application(port));
        }
        more(count, 10);
    });
    assert!(10 * ROUNDS as u64 <= requests, "{requests}");
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    assert_eq!(metric(&mut daemon.api(), "holds_timed_out_total"), 0.0);
}
