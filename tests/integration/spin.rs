//! `spin`: requests wait until their host is another one's business, and then go on, in order, each
//! once.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::empty;
use crate::backend::{Backend, rule_for};
use crate::daemon::{Daemon, Setup, eventually};
use crate::manage::Api;
use crate::message::{get, ok};
use crate::script::Connection;

pub fn spin(arguments: Value) -> Value {
    json!(["spin", arguments, true])
}

/// With `a.com` spinning, and its API.
pub fn spinning(setup: Setup, arguments: Value) -> (Daemon, Api) {
    let daemon = setup.rule("a.com", spin(arguments)).start();
    let api = daemon.api();
    (daemon, api)
}

/// Waits until so many requests are held for a host.
#[track_caller]
pub fn expect_held(api: &mut Api, host: &str, count: u64) {
    let path = format!("/stats/{host}/");
    eventually(&format!("{count} held for {host}"), || {
        api.get(&path)["held_requests"].as_u64().unwrap_or(0) == count
    });
}

/// Clients whose requests are held in this order; each asks for `/` and its number.
#[track_caller]
fn held(daemon: &Daemon, api: &mut Api, count: usize) -> Vec<Connection> {
    let mut clients = Vec::new();
    for number in 0..count {
        let mut client = daemon.connect();
        client.send(get("a.com", &format!("/{number}")));
        clients.push(client);
        expect_held(api, "a.com", number as u64 + 1);
    }
    clients
}

/// What a counter of `/metrics` is.
#[track_caller]
pub fn metric(api: &mut Api, name: &str) -> f64 {
    let text = api.ask("GET", "/metrics").expect_status(200).text();
    let lines = text.lines().filter(|line| {
        let rest = line.strip_prefix("mantrid_").and_then(|line| line.strip_prefix(name));
        rest.is_some_and(|rest| rest.starts_with([' ', '{']))
    });
    let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values.sum()
}

#[test]
fn requests_are_held_until_the_flip() {
    let backend = Backend::new();
    // They go on at once, and don't wait for a look now and then: none is due as long as this runs.
    let (daemon, mut api) =
        spinning(Setup::new().set("shards", 2), json!({"check_interval": 3600}));
    let mut clients = held(&daemon, &mut api, 3);
    backend.expect_no_connection();
    api.put("/hostname/a.com/", &backend.rule());
    for _ in 0..3 {
        let mut server = backend.accept();
        let head = server.expect_head();
        server.send(ok(head.target()));
    }
    for (number, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.expect_answer().text(), format!("/{number}"));
    }
    let counted = api.counted("a.com", 3);
    assert_eq!(counted["held_requests"], 0);
    assert_eq!(counted["answers"]["2xx"], 3);
    assert_eq!(metric(&mut api, "holds_total"), 3.0);
    assert_eq!(metric(&mut api, "holds_released_total"), 3.0);
    assert_eq!(metric(&mut api, "requests_held"), 0.0);
    assert_eq!(metric(&mut api, "held_seconds_count"), 3.0);
}

/// Whatever the host resolves to afterwards is what its requests get.
#[test]
fn requests_are_released_to_whatever_rule_comes() {
    let backend = Backend::new().serve_text("hello");
    let (daemon, mut api) = spinning(Setup::new(), json!({}));
    let over = |api: &mut Api, change: &dyn Fn(&mut Api), status: u16| {
        api.put("/hostname/a.com/", &spin(json!({})));
        let mut client = held(&daemon, api, 1).remove(0);
        change(api);
        let answer = client.expect_answer();
        assert_eq!(answer.status(), status, "{}", answer.text());
        // the connection serves on
        client.exchange(get("b.com", "/"));
    };
    let set = |rule: Value| move |api: &mut Api| drop(api.put("/hostname/a.com/", &rule));
    over(&mut api, &set(backend.rule()), 200);
    over(&mut api, &set(json!(["redirect", {"redirect_to": "b.com", "code": 308}, false])), 308);
    over(&mut api, &set(empty(418)), 418);
    over(&mut api, &set(json!(["static", {"type": "test"}, false])), 200);
    over(&mut api, &set(json!(["unknown", {}, false])), 503);
    api.put("/hostname/b.com/", &empty(402));
    over(&mut api, &|api| drop(api.delete("a.com")), 503);
    over(&mut api, &set(json!(["alias", {"hostname": "b.com"}, false])), 402);
    // a rule for the scheme comes before it
    over(&mut api, &|api| drop(api.put("/hostname/http://a.com/", &empty(409))), 409);
    api.delete("http://a.com");
    // the whole table
    over(&mut api, &|api| drop(api.put("/hostname/", &json!({"a.com": empty(410)}))), 410);
    over(&mut api, &|api| drop(api.patch(&json!({"a.com": empty(411)}))), 411);
}

/// What they wait for may be a rule of a parent, or an alias's target.
#[test]
fn subdomains_and_aliases_wait_for_what_they_lead_to() {
    let (daemon, mut api) = spinning(Setup::new(), json!({}));
    api.put("/hostname/alias.net/", &json!(["alias", {"hostname": "a.com"}, false]));
    let hosts = ["a.com", "x.a.com", "y.x.a.com", "alias.net"];
    let mut clients: Vec<Connection> = hosts
        .iter()
        .map(|host| {
            let mut client = daemon.connect();
            client.send(get(host, "/"));
            client
        })
        .collect();
    expect_held(&mut api, "a.com", 3);
    expect_held(&mut api, "alias.net", 1);
    // only what is below goes on
    api.put("/hostname/x.a.com/", &empty(402));
    assert_eq!(clients[1].expect_answer().status(), 402);
    clients[2].expect_nothing_within(Duration::from_millis(20));
    api.put("/hostname/x.a.com/", &json!(["empty", {"code": 403}, true]));
    assert_eq!(clients[2].expect_answer().status(), 403);
    clients[0].expect_nothing_more();
    api.put("/hostname/a.com/", &empty(404));
    assert_eq!(clients[0].expect_answer().status(), 404);
    assert_eq!(clients[3].expect_answer().status(), 404);
}

#[test]
fn change_to_another_spin_changes_the_limits() {
    let (daemon, mut api) = spinning(Setup::new(), json!({"timeout": 60}));
    let mut clients = held(&daemon, &mut api, 2);
    // it waited for as long as this one allows already
    api.put("/hostname/a.com/", &spin(json!({"timeout": 0})));
    for client in &mut clients {
        assert_eq!(client.expect_answer().status(), 503);
    }
    // setting the same again, or another one that it satisfies, leaves it where it is
    api.put("/hostname/a.com/", &spin(json!({"timeout": 60})));
    let mut client = held(&daemon, &mut api, 1).remove(0);
    api.put("/hostname/a.com/", &spin(json!({"timeout": 60})));
    api.put("/hostname/a.com/", &spin(json!({"timeout": 61})));
    expect_held(&mut api, "a.com", 1);
    client.expect_nothing_more();
    api.put("/hostname/a.com/", &empty(402));
    assert_eq!(client.expect_answer().status(), 402);
}

/// First come first served, over all shards, at the pace that the rule asks for.
#[test]
fn a_paced_release_keeps_the_order() {
    // A tenth of a second between two: longer than a shard has to wait for a CPU.
    const RATE: usize = 10;
    let backend = Backend::new().serve(|head, connection| {
        drop(connection.try_send(ok(head.target())));
    });
    let (daemon, mut api) = spinning(Setup::new().set("shards", 3), json!({"release_rate": RATE}));
    let clients = held(&daemon, &mut api, 20);
    let began = Instant::now();
    api.put("/hostname/a.com/", &backend.rule());
    // whoever comes now goes behind them
    let mut late = daemon.connect();
    assert_eq!(late.exchange(get("a.com", "/late")).text(), "/late");
    let took = began.elapsed();
    for (number, mut client) in clients.into_iter().enumerate() {
        assert_eq!(client.expect_answer().text(), format!("/{number}"));
    }
    let heads = backend.take_heads();
    let targets: Vec<&str> = heads.iter().map(|head| head.target()).collect();
    assert_eq!((targets.len(), targets.last()), (21, Some(&"/late")), "{targets:?}");
    for (at, target) in targets[..20].iter().enumerate() {
        let number: usize = target[1..].parse().expect("a number");
        // a release that was late lets up to 4 go at once, and shards don't wait for each other
        assert!(number.abs_diff(at) < 4, "{targets:?}");
    }
    let least = Duration::from_secs(1) * 16 / RATE as u32;
    assert!(least <= took && took < 2 * least + Duration::from_secs(2), "{took:?}");
    // and nobody waits behind a release that is over
    let mut next = daemon.connect();
    assert_eq!(next.exchange(get("a.com", "/")).status(), 200);
}

/// An application that has just started gets no more connections than it asked for.
#[test]
fn a_release_respects_max_connections() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    let most = Arc::new(AtomicUsize::new(0));
    let under_way = Arc::new(AtomicUsize::new(0));
    let (seen, now) = (most.clone(), under_way.clone());
    let backend = Backend::new().serve(move |_, connection| {
        seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::park_timeout(Duration::from_millis(30));
        now.fetch_sub(1, Ordering::SeqCst);
        drop(connection.try_send(ok("hello")));
    });
    // places are waited for much longer than timeout_connect
    let setup = Setup::new().set("shards", 2).set("timeout_connect", "400ms");
    let (daemon, mut api) = spinning(setup, json!({}));
    let mut clients: Vec<Connection> = (0..100).map(|_| daemon.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(get("a.com", "/")));
    expect_held(&mut api, "a.com", 100);
    api.put("/hostname/a.com/", &rule_for(&[backend.port], json!({"max_connections": 3})));
    for client in &mut clients {
        assert_eq!(client.expect_answer().status(), 200);
    }
    assert!(most.load(Ordering::SeqCst) <= 3, "{most:?} at a time");
    assert!(backend.connections() <= 3 + 100, "{}", backend.connections());
}

#[test]
fn request_held_too_long_gets_the_page() {
    let (daemon, mut api) = spinning(Setup::new(), json!({"timeout": 0.3}));
    let mut client = daemon.connect();
    let began = Instant::now();
    let answer = client.exchange(get("a.com", "/"));
    let took = began.elapsed();
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.head.field("Retry-After"), Some("1"));
    assert!(Duration::from_millis(290) <= took, "{took:?}");
    // the same connection goes on, and waits again
    let began = Instant::now();
    assert_eq!(client.exchange(get("a.com", "/")).status(), 503);
    let took = began.elapsed();
    assert!(Duration::from_millis(290) <= took, "{took:?}");
    eventually("both are counted", || metric(&mut api, "holds_timed_out_total") == 2.0);
    let counted = api.counted("a.com", 2);
    assert_eq!(counted["answers"]["5xx"], 2);
}

/// Past each of the limits: 503 at once, and whoever waits waits on.
#[test]
fn requests_past_max_held_get_the_page() {
    for (setup, arguments) in [
        (Setup::new(), json!({"max_held": 2})),
        (Setup::new().set("max_held", 2), json!({})),
        (Setup::new().set("max_held_per_source", 2), json!({})),
    ] {
        let (daemon, mut api) = spinning(setup.set("shards", 2), arguments);
        let mut clients = held(&daemon, &mut api, 2);
        let mut third = daemon.connect();
        let began = Instant::now();
        let answer = third.exchange(get("a.com", "/"));
        assert!(began.elapsed() < Duration::from_secs(2));
        assert_eq!((answer.status(), answer.head.field("Retry-After")), (503, Some("1")));
        eventually("it is counted", || metric(&mut api, "holds_refused_total") == 1.0);
        // one leaves, and there is room for one
        drop(clients.pop());
        expect_held(&mut api, "a.com", 1);
        third.send(get("a.com", "/"));
        expect_held(&mut api, "a.com", 2);
        api.put("/hostname/a.com/", &empty(402));
        assert_eq!(third.expect_answer().status(), 402);
        assert_eq!(clients[0].expect_answer().status(), 402);
    }
}

/// Limits of one rule are not those of another.
#[test]
fn rules_are_counted_apart() {
    let (daemon, mut api) = spinning(Setup::new(), json!({"max_held": 1}));
    api.put("/hostname/b.com/", &spin(json!({"max_held": 1})));
    let _first = held(&daemon, &mut api, 1);
    let mut second = daemon.connect();
    second.send(get("b.com", "/"));
    expect_held(&mut api, "b.com", 1);
    // below a.com it is the same rule
    assert_eq!(daemon.connect().exchange(get("x.a.com", "/")).status(), 503);
    second.expect_nothing_more();
}

/// A client that leaves is forgotten, long before its time is over, and no backend ever hears of
/// it.
#[test]
fn client_that_leaves_is_forgotten() {
    let backend = Backend::new();
    let (daemon, mut api) = spinning(Setup::new().set("shards", 2), json!({"timeout": 600}));
    let mut clients = held(&daemon, &mut api, 4);
    let mut stays = clients.remove(1);
    clients.pop().expect("a client").reset();
    let mut half = clients.pop().expect("a client");
    half.half_close();
    drop(clients);
    expect_held(&mut api, "a.com", 1);
    eventually("they are counted", || metric(&mut api, "holds_left_total") == 3.0);
    api.put("/hostname/a.com/", &backend.rule());
    let mut server = backend.accept();
    assert_eq!(server.expect_head().target(), "/1");
    server.send(ok("hello"));
    assert_eq!(stays.expect_answer().text(), "hello");
    backend.expect_no_connection();
}

/// The body stays in the kernel while its request is held: however large it is, nothing is read
/// ahead.
#[test]
fn a_body_is_not_read_ahead() {
    const BYTES: usize = 64 * 1024 * 1024;
    let backend = Backend::new();
    let (daemon, mut api) = spinning(Setup::new(), json!({}));
    let before = daemon.resident_bytes();
    let mut client = daemon.connect();
    client.send(format!("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: {BYTES}\r\n\r\n"));
    let mut sender = client.sender();
    let body = std::thread::spawn(move || {
        use std::io::Write;
        let piece: Vec<u8> = (0..=255).collect();
        for _ in 0..BYTES / piece.len() {
            sender.write_all(&piece).expect("it is read in the end");
        }
    });
    expect_held(&mut api, "a.com", 1);
    let grown = daemon.resident_bytes().saturating_sub(before);
    // A sixteenth of the body: the first request has counters and their history made for it.
    assert!(grown < 4 * 1024 * 1024, "{grown} bytes");
    assert!(!body.is_finished(), "it was read");
    api.put("/hostname/a.com/", &backend.rule());
    let mut server = backend.accept();
    server.expect_head();
    for start in 0..BYTES / 1024 / 1024 {
        let found = server.read_exactly(1024 * 1024);
        let expected = found.iter().enumerate().all(|(at, byte)| *byte == at as u8);
        assert!(expected, "MiB {start} is another");
    }
    server.send(ok("taken"));
    assert_eq!(client.expect_answer().text(), "taken");
    body.join().expect("all was sent");
}

/// A body that came with its head goes through whole, too; of both kinds.
#[test]
fn body_that_came_with_its_head_goes_through_whole() {
    let backend = Backend::new();
    let (daemon, mut api) = spinning(Setup::new(), json!({}));
    let mut first = daemon.connect();
    first.send("POST /1 HTTP/1.1\r\nHost: a.com\r\nContent-Length: 10\r\n\r\nhello");
    expect_held(&mut api, "a.com", 1);
    first.send("world");
    let mut second = daemon.connect();
    second.send(
        "POST /2 HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    );
    expect_held(&mut api, "a.com", 2);
    api.put("/hostname/a.com/", &backend.rule());
    second.send("5\r\nworld\r\n0\r\n\r\n");
    // Both go on at the same time: either may come first.
    for _ in 0..2 {
        let mut server = backend.accept();
        let head = server.expect_head();
        match head.target() {
            "/1" => server.expect_body("helloworld"),
            _ => assert_eq!(server.expect_chunked().data, b"helloworld"),
        }
        server.send(ok(head.target()));
    }
    assert_eq!(first.expect_answer().text(), "/1");
    assert_eq!(second.expect_answer().text(), "/2");
}

#[test]
fn a_client_is_told_to_continue_only_by_whoever_takes_it() {
    let backend = Backend::new();
    let (daemon, mut api) = spinning(Setup::new(), json!({}));
    let mut client = daemon.connect();
    let fields = "Host: a.com\r\nContent-Length: 5\r\nExpect: 100-continue\r\n";
    client.send(format!("POST / HTTP/1.1\r\n{fields}\r\n"));
    expect_held(&mut api, "a.com", 1);
    client.expect_nothing_within(Duration::from_millis(50));
    api.put("/hostname/a.com/", &backend.rule());
    let mut server = backend.accept();
    assert_eq!(server.expect_head().field("Expect"), Some("100-continue"));
    client.expect_nothing_within(Duration::from_millis(20));
    server.send("HTTP/1.1 100 Continue\r\n\r\n");
    client.expect_status(100);
    client.send("hello");
    server.expect_body("hello");
    server.send(ok("taken"));
    assert_eq!(client.expect_answer().text(), "taken");
}

#[test]
fn pipelined_requests_keep_their_order() {
    let backend = Backend::new().serve(|head, connection| {
        drop(connection.try_send(ok(head.target())));
    });
    let setup = Setup::new().rule("b.com", empty(402)).rule("c.com", backend.rule());
    let (daemon, mut api) = spinning(setup, json!({}));
    let mut client = daemon.connect();
    let hosts = ["c.com", "a.com", "b.com", "a.com", "c.com"];
    let all = hosts.iter().enumerate().map(|(n, host)| get(host, &format!("/{n}")));
    client.send(all.collect::<String>());
    assert_eq!(client.expect_answer().text(), "/0");
    expect_held(&mut api, "a.com", 1);
    client.expect_nothing_within(Duration::from_millis(20));
    api.put("/hostname/a.com/", &backend.rule());
    assert_eq!(client.expect_answer().text(), "/1");
    assert_eq!(client.expect_answer().status(), 402);
    assert_eq!(client.expect_answer().text(), "/3");
    assert_eq!(client.expect_answer().text(), "/4");
}

/// HTTP/1.0, HEAD, upgrades and requests of a terminator are held like any other.
#[test]
fn requests_of_every_kind_are_held() {
    let backend = Backend::new();
    let (daemon, mut api) = spinning(Setup::new().internal(), json!({}));
    let mut old = daemon.connect();
    old.send("GET /old HTTP/1.0\r\nHost: a.com\r\n\r\n");
    expect_held(&mut api, "a.com", 1);
    let mut head = daemon.connect();
    head.send("HEAD /head HTTP/1.1\r\nHost: a.com\r\n\r\n");
    expect_held(&mut api, "a.com", 2);
    let mut upgrade = daemon.connect();
    upgrade.send(
        "GET /up HTTP/1.1\r\nHost: a.com\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    expect_held(&mut api, "a.com", 3);
    let mut inside = daemon.connect_internal();
    inside.send("GET /in HTTP/1.1\r\nHost: a.com\r\nX-Forwarded-Proto: https\r\n\r\n");
    expect_held(&mut api, "a.com", 4);
    api.put("/hostname/a.com/", &backend.rule());
    for _ in 0..4 {
        let mut server = backend.accept();
        let head = server.expect_head();
        match head.target() {
            "/head" => server.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
            "/up" => {
                server.send(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
                     Upgrade: websocket\r\n\r\n",
                );
                upgrade.expect_status(101);
                upgrade.send("ping");
                server.expect_body("ping");
            }
            "/in" => {
                assert_eq!(head.field("X-Forwarded-Proto"), Some("https"));
                server.send(ok("in"));
            }
            _ => server.send(ok("old")),
        }
    }
    assert_eq!(old.expect_answer().text(), "old");
    head.expect_status(200);
    assert_eq!(inside.expect_answer().text(), "in");
}

/// Nobody can flip a host of a daemon that stops: whoever waits is told to come again.
#[test]
fn a_stop_lets_nobody_wait() {
    let mut daemon =
        Setup::new().set("shards", 2).rule("a.com", spin(json!({"timeout": 600}))).start();
    let mut api = daemon.api();
    let mut clients = held(&daemon, &mut api, 3);
    let began = Instant::now();
    daemon.terminate();
    for client in &mut clients {
        let answer = client.expect_answer();
        assert_eq!(answer.status(), 503);
        assert!(answer.head.field("Retry-After").is_some() && answer.head.says_close());
        client.expect_close();
    }
    daemon.expect_clean_exit();
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

/// Flipped to and fro as fast as the API takes it, with clients that come and go: every request of
/// one who stays is answered, once.
#[test]
fn host_flipped_to_and_fro_loses_no_request() {
    const CLIENTS: usize = 8;
    const ROUNDS: usize = 60;
    let backend = Backend::new().serve(|head, connection| {
        drop(connection.try_send(ok(head.target())));
    });
    let (daemon, mut api) = spinning(Setup::new().set("shards", 2), json!({}));
    std::thread::scope(|scope| {
        for who in 0..CLIENTS {
            let daemon = &daemon;
            scope.spawn(move || {
                let mut client = daemon.connect();
                for round in 0..ROUNDS {
                    let path = format!("/{who}/{round}");
                    assert_eq!(client.exchange(get("a.com", &path)).text(), path);
                    if (round + who).is_multiple_of(7) {
                        // one that leaves while it may be held
                        let mut leaver = daemon.connect();
                        leaver.send(get("a.com", "/left"));
                    }
                    if (round + who).is_multiple_of(5) {
                        client = daemon.connect();
                    }
                }
                client.expect_nothing_more();
            });
        }
        // the last flip is to the backend
        let rules =
            [backend.rule(), spin(json!({})), backend.rule(), spin(json!({"release_rate": 9000}))];
        for rule in rules.iter().cycle().take(201) {
            api.put("/hostname/a.com/", rule);
        }
    });
    expect_held(&mut api, "a.com", 0);
    eventually("nobody is held", || metric(&mut api, "requests_held") == 0.0);
    let ends = ["released", "timed_out", "refused", "left"];
    let ended: f64 = ends.iter().map(|end| metric(&mut api, &format!("holds_{end}_total"))).sum();
    assert_eq!(metric(&mut api, "holds_total"), ended);
}
