//! Limits under attack: many clients at once that are slow, idle or never done. Meanwhile honest
//! clients are served; memory stays below what `--check` says; what was taken is given back; what
//! was shed is counted.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::backend::{Backend, Serving};
use crate::bulk::MIB;
use crate::daemon::{Daemon, Setup, eventually};
use crate::manage::Api;
use crate::message::get;
use crate::script::{Connection, PATIENCE};
use crate::spin::metric;

const EMPTY: &str = "empty.com";

/// How long an honest client may have to wait, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(5);

fn setup() -> Setup {
    Setup::new().set("shards", 2).rule(EMPTY, json!(["empty", { "code": 403 }, false]))
}

/// What the attack must not be felt by, and what it must not take.
struct Watch {
    inside: Connection,
    files: usize,
    resident: u64,
    resident_most: u64,
    /// Pipes that the attack may have had lent out.
    pipes: usize,
}

impl Watch {
    /// `--check` has said what it takes at most.
    fn of(daemon: &Daemon, setup: &Setup) -> Watch {
        let said = setup.run(&["--check"]);
        let said = said.out + &said.err;
        let most = said.split("at most ").find_map(|rest| rest.split_once(" MiB with each at its"));
        let most: u64 =
            most.and_then(|(number, _)| number.parse().ok()).expect("a bound of memory");
        let mut inside = daemon.connect();
        assert_eq!(inside.exchange(get(EMPTY, "/")).status(), 403);
        let resident = daemon.resident_bytes();
        let resident_most = resident + most * MIB as u64;
        Watch { inside, files: daemon.open_files(), resident, resident_most, pipes: 0 }
    }

    /// Who was there is served, who comes is served, and memory is below its bound.
    #[track_caller]
    fn expect_served(&mut self, daemon: &Daemon) {
        let began = Instant::now();
        assert_eq!(self.inside.exchange(get(EMPTY, "/")).status(), 403);
        assert_eq!(daemon.connect().exchange(get(EMPTY, "/")).status(), 403);
        let took = began.elapsed();
        assert!(took < AT_ONCE, "an honest client waited for {took:?}");
        assert!(daemon.resident_bytes() <= self.resident_most);
    }

    /// All that the attack took is given back, but for what is kept to be used again.
    #[track_caller]
    fn expect_over(mut self, daemon: &mut Daemon) {
        self.expect_served(daemon);
        // Connections to backends may idle for the next request, and so may pipes: two descriptors
        // each, at most as many as bodies were moved at a time.
        let mut api = daemon.api();
        eventually("descriptors are given back", || {
            let idle = metric(&mut api, "idle_backend_connections") as usize;
            daemon.open_files() <= self.files + idle + 2 * self.pipes + 4
        });
        drop(self.inside);
        eventually("no connection is left", || metric(&mut api, "connections_open") == 0.0);
        // these are looked at once a second
        for gauge in ["pipes", "requests_queued"] {
            eventually(gauge, || metric(&mut api, gauge) == 0.0);
        }
        let grown = daemon.resident_bytes().saturating_sub(self.resident);
        assert!(grown < 24 * MIB as u64, "{grown} bytes more than before");
        daemon.expect_running();
    }
}

pub fn counted(api: &mut Api, name: &str, reason: &str) -> f64 {
    metric(api, &format!("{name}{{reason=\"{reason}\"}}"))
}

/// A source of the attack, which is none of the honest ones.
fn attacker(daemon: &Daemon) -> Connection {
    Connection::client_from(Ipv4Addr::new(127, 0, 5, 1).into(), daemon.address())
}

#[test]
fn slow_heads_are_cut_off_and_keep_nobody_out() {
    const COUNT: usize = 300;
    let setup = setup().set("timeout_http_request", "2s");
    let mut daemon = setup.clone().start();
    let mut watch = Watch::of(&daemon, &setup);
    // Each begins at once: one that says nothing in all its time is not told.
    let begin = |_| {
        let mut client = attacker(&daemon);
        client.send("GET / HTTP/1.1\r\nHost: empty.com\r\nX: ");
        client
    };
    let mut slow: Vec<Connection> = (0..COUNT).map(begin).collect();
    let mut told = 0;
    let (began, mut sent) = (Instant::now(), 0);
    // a byte now and then keeps none of them alive
    while !slow.is_empty() {
        slow.retain_mut(|client| {
            if client.try_send("x").is_ok() && !client.came_within(Duration::from_millis(1)) {
                return true;
            }
            told += usize::from(client.try_head().is_some_and(|head| head.status() == 408));
            false
        });
        sent += 1;
        watch.expect_served(&daemon);
        assert!(began.elapsed() < Duration::from_secs(30), "{} go on for ever", slow.len());
    }
    assert!(1 < sent, "they were not slow");
    // a reset may overtake the answer to one who goes on sending
    assert!(COUNT / 2 < told, "{told} of {COUNT} were told");
    assert_eq!(counted(&mut daemon.api(), "refused_total", "head_timeout"), COUNT as f64);
    watch.expect_over(&mut daemon);
}

/// Takes bodies and never answers.
fn swallowing() -> Serving {
    Backend::new().serve(|_, server| {
        let mut room = [0; 4096];
        while server.read_or_end(&mut room).is_some() {}
    })
}

#[test]
fn slow_bodies_are_cut_off_and_keep_nobody_out() {
    const COUNT: usize = 100;
    let backend = swallowing();
    let setup = setup()
        .set("timeout_client", "3s")
        .set("max_connections_per_source", COUNT)
        .rule("a.com", backend.rule());
    let mut daemon = setup.clone().start();
    let mut watch = Watch::of(&daemon, &setup);
    let mut slow: Vec<Connection> = (0..COUNT).map(|_| attacker(&daemon)).collect();
    for client in &mut slow {
        client.send("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 1000000\r\n\r\n");
    }
    for _ in 0..20 {
        slow.iter_mut().for_each(|client| client.send("x"));
        watch.expect_served(&daemon);
    }
    // Bytes go on to come until all are there, however long that takes.
    let mut api = daemon.api();
    eventually("every byte went on", || {
        slow.iter_mut().for_each(|client| client.send("x"));
        let open = api.get("/stats/a.com/")["open_requests"].clone();
        backend.requests() == COUNT && open == COUNT
    });
    // one source has no more than its share, whatever it does with it
    assert_eq!(attacker(&daemon).expect_answer().status(), 503);
    assert_eq!(counted(&mut api, "shed_total", "max_connections_per_source"), 1.0);
    // now not even that byte
    eventually("they are given up", || api.get("/stats/a.com/")["open_requests"] == 0);
    watch.pipes = COUNT;
    eventually("their backend connections end", || backend.open_connections() == 0);
    drop(slow);
    watch.expect_over(&mut daemon);
}

#[test]
fn slow_readers_cost_bounded_memory() {
    const COUNT: usize = 80;
    const ANSWER: usize = 16 * MIB;
    let backend = Backend::new().serve(|_, server| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {ANSWER}\r\n\r\n");
        let block = vec![b'x'; MIB];
        if server.try_send(head).is_ok() {
            (0..ANSWER / MIB).all(|_| server.try_send(&block).is_ok());
        }
    });
    let setup = setup().set("timeout_client", "5s").rule("a.com", backend.rule());
    let mut daemon = setup.clone().start();
    let mut watch = Watch::of(&daemon, &setup);
    let mut slow: Vec<Connection> =
        (0..COUNT).map(|_| Connection::client_with_small_buffer(daemon.address())).collect();
    for client in &mut slow {
        client.send(get("a.com", "/"));
    }
    for client in &mut slow {
        client.expect_status(200);
    }
    let mut room = [0; 512];
    for _ in 0..20 {
        slow.iter_mut().for_each(|client| _ = client.read_some(&mut room));
        watch.expect_served(&daemon);
    }
    // who reads nothing at all any more is given up, with what was read for him
    let mut api = daemon.api();
    eventually("they are given up", || api.get("/stats/a.com/")["open_requests"] == 0);
    drop(slow);
    watch.expect_over(&mut daemon);
}

#[test]
fn idle_flood_from_one_source_keeps_nobody_out() {
    const MOST: usize = 50;
    const FLOOD: usize = 600;
    let setup = setup().set("max_connections_per_source", MOST).set("timeout_http_request", "6s");
    let mut daemon = setup.clone().start();
    let mut watch = Watch::of(&daemon, &setup);
    let flood: Vec<Connection> = (0..FLOOD).map(|_| attacker(&daemon)).collect();
    watch.expect_served(&daemon);
    let mut api = daemon.api();
    eventually("all but its share are shed", || {
        counted(&mut api, "shed_total", "max_connections_per_source") == (FLOOD - MOST) as f64
    });
    watch.expect_served(&daemon);
    // silence is no way to keep the others
    eventually("they are closed on", || metric(&mut api, "connections_open") <= 1.0);
    drop(flood);
    watch.expect_over(&mut daemon);
}

/// From everywhere, until there is no room: who is inside is served, and room comes back by itself.
#[test]
fn idle_flood_from_everywhere_ends_by_itself() {
    const ROOM: usize = 200;
    let setup = setup().set("max_connections", ROOM).set("timeout_http_request", "6s");
    let mut daemon = setup.clone().start();
    let mut watch = Watch::of(&daemon, &setup);
    let flood: Vec<Connection> = (0..2 * ROOM)
        .map(|n| {
            let source = Ipv4Addr::new(127, 0, 6, 1 + (n % 250) as u8);
            Connection::client_from(source.into(), daemon.address())
        })
        .collect();
    let mut api = daemon.api();
    eventually("who does not fit is shed", || {
        counted(&mut api, "shed_total", "max_connections") >= (ROOM - 2) as f64
    });
    assert!(metric(&mut api, "connections_open") <= ROOM as f64);
    let began = Instant::now();
    assert_eq!(watch.inside.exchange(get(EMPTY, "/")).status(), 403);
    assert!(began.elapsed() < AT_ONCE);
    eventually("there is room again, with the flood still there", || {
        let mut client = daemon.connect();
        client.try_send(get(EMPTY, "/")).is_ok()
            && client.try_head().is_some_and(|head| head.status() == 403)
    });
    drop(flood);
    watch.expect_over(&mut daemon);
}

#[test]
fn header_bombs_are_refused_by_their_kind() {
    let setup = setup().rule("a.com", closed_rule());
    let mut daemon = setup.clone().start();
    let mut watch = Watch::of(&daemon, &setup);
    let begin = "GET / HTTP/1.1\r\nHost: a.com\r\n";
    let bombs = [
        ("too_many_fields", format!("{begin}{}\r\n", "a: b\r\n".repeat(1500))),
        ("head_too_large", format!("{begin}X: {}\r\n\r\n", "x".repeat(MIB))),
        ("head_too_large", format!("{begin}{}", "a: b\r\n".repeat(100_000))),
        ("target_too_long", format!("GET /{} HTTP/1.1\r\n", "x".repeat(MIB))),
        ("head_too_large", format!("{begin}Cookie: {}", "a=b; ".repeat(200_000))),
    ];
    const EACH: usize = 40;
    for (reason, bomb) in &bombs {
        let mut api = daemon.api();
        let before = counted(&mut api, "refused_total", reason);
        let mut clients: Vec<Connection> = (0..EACH).map(|_| attacker(&daemon)).collect();
        for client in &mut clients {
            // it may be refused, and the connection closed, before the last byte is out
            drop(client.try_send(bomb));
        }
        watch.expect_served(&daemon);
        for client in &mut clients {
            if let Some(head) = client.try_head() {
                let status = if *reason == "target_too_long" { 414 } else { 431 };
                assert_eq!(head.status(), status, "{reason}");
            }
        }
        eventually(reason, || counted(&mut api, "refused_total", reason) - before == EACH as f64);
    }
    watch.expect_over(&mut daemon);
}

/// Of a rule that nobody should reach.
fn closed_rule() -> serde_json::Value {
    crate::backend::rule_for(&[crate::backend::closed_port()], json!({}))
}

#[test]
fn connections_that_come_and_go_leave_nothing_behind() {
    const COUNT: usize = 4000;
    let setup = setup();
    let mut daemon = setup.clone().start();
    let mut watch = Watch::of(&daemon, &setup);
    let mut api = daemon.api();
    let before = metric(&mut api, "connections_accepted_total");
    let (mut honest, began) = (0, Instant::now());
    for n in 0..COUNT {
        let mut client = Connection::client_from(
            Ipv4Addr::new(127, 0, 7, 1 + (n % 100) as u8).into(),
            daemon.address(),
        );
        match n % 4 {
            0 => client.reset(),
            1 => drop(client),
            2 => {
                drop(client.try_send(get(EMPTY, "/")));
                client.reset();
            }
            _ => {
                assert_eq!(client.exchange(get(EMPTY, "/")).status(), 403);
            }
        }
        if n % 500 == 0 {
            watch.expect_served(&daemon);
            honest += 1;
        }
        assert!(began.elapsed() < 6 * PATIENCE, "{n} connections took too long");
    }
    let expected = (COUNT + honest) as f64;
    // A new connection: the one before may have been silent for longer than the API allows.
    let mut api = daemon.api();
    // who was reset before it was taken in may never have been seen
    let accepted = metric(&mut api, "connections_accepted_total") - before;
    assert!(accepted <= expected && expected * 0.7 < accepted, "{accepted} of {expected}");
    assert_eq!(metric(&mut api, "connections_shed_total"), 0.0);
    drop(api);
    watch.expect_over(&mut daemon);
}

/// However many clients there are, there are descriptors left to change a rule and to write it
/// down.
#[test]
fn descriptors_are_left_for_management_and_state() {
    let backend = swallowing();
    let setup = Setup::new().rule("a.com", backend.rule()).files_max(160);
    let mut daemon = setup.clone().start();
    let mut crowd: Vec<Connection> = (0..400).map(|_| daemon.connect()).collect();
    // each that got in asks for a backend as well
    for client in &mut crowd {
        drop(client.try_send("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 9\r\n\r\n"));
    }
    let mut last = daemon.api();
    eventually("clients are shed", || {
        let shed = ["max_connections", "descriptors"];
        0.0 < shed.iter().map(|reason| counted(&mut last, "shed_total", reason)).sum()
    });
    // on new connections, and enough of them that the journal is folded in between
    let mut apis: Vec<Api> = (0..4).map(|_| daemon.api()).collect();
    for n in 0..400 {
        let rule = json!(["empty", { "code": 400 + n % 100 }, false]);
        apis[n % 4].put(&format!("/hostname/h{n}.com/"), &rule);
    }
    let all: serde_json::Value = (0..3000)
        .map(|n| (format!("x{n}.com"), json!(["empty", { "code": 403 }, false])))
        .collect::<serde_json::Map<_, _>>()
        .into();
    apis[0].put("/hostname/", &all);
    let found = apis[1].get("/hostname/");
    assert_eq!(found.as_object().map(serde_json::Map::len), Some(3000));
    daemon.expect_running();
    // what was acknowledged is on disk
    daemon.kill();
    drop((apis, last, crowd));
    let again = setup.start();
    let kept = again.api().get("/hostname/");
    assert_eq!(kept, found);
}
