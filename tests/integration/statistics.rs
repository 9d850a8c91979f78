//! What is counted for each host: every request once, and every byte that a client sent or was
//! sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Map, Value, json};

use crate::api::empty;
use crate::backend::{Backend, closed_port, rule_for};
use crate::daemon::{Daemon, Setup, asked, asked_for, eventually};
use crate::manage::Api;
use crate::message::{chunk, get, ok};
use crate::script::Connection;

/// A client that knows how many bytes went each way.
struct Counted {
    wire: Connection,
    sent: u64,
    received: Arc<AtomicU64>,
}

impl Counted {
    fn new(daemon: &Daemon) -> Counted {
        let (mut wire, received) = (daemon.connect(), Arc::default());
        wire.count_received_in(&received);
        Counted { wire, sent: 0, received }
    }

    #[track_caller]
    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.sent += bytes.as_ref().len() as u64;
        self.wire.send(bytes);
    }

    #[track_caller]
    fn exchange(&mut self, bytes: impl AsRef<[u8]>) -> u16 {
        self.send(bytes);
        self.wire.expect_answer().status()
    }

    /// The host has counted what this client saw, all of it and no more.
    #[track_caller]
    fn expect_same(&self, api: &mut Api, host: &str, completed: u64) -> Value {
        let found = api.counted(host, completed);
        let seen = (found["bytes_sent"].as_u64(), found["bytes_received"].as_u64());
        let expected = (Some(self.received.load(Ordering::SeqCst)), Some(self.sent));
        assert_eq!(seen, expected, "{host}: bytes sent and received");
        found
    }
}

fn answers(two: u64, three: u64, four: u64, five: u64) -> Value {
    json!({"2xx": two, "3xx": three, "4xx": four, "5xx": five})
}

fn post(host: &str, length: usize) -> Vec<u8> {
    let head = format!("POST /p HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n");
    [head.into_bytes(), vec![b'x'; length]].concat()
}

fn post_chunked(host: &str, pieces: usize, size: usize) -> Vec<u8> {
    let head = format!("POST /c HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut bytes = head.into_bytes();
    for _ in 0..pieces {
        bytes.extend(chunk(vec![b'y'; size]));
    }
    bytes.extend(b"0\r\nX-Trailer: z\r\n\r\n");
    bytes
}

#[test]
fn own_replies_are_counted() {
    let daemon = Setup::new()
        .rule("empty.com", empty(403))
        .rule("page.com", json!(["static", {"type": "test"}, true]))
        .rule("away.com", json!(["redirect", {"redirect_to": "b.com"}, true]))
        .rule("https://tls.com", empty(404))
        .internal()
        .start();
    let mut api = daemon.api();
    for (host, found) in [
        ("empty.com", answers(0, 0, 3, 0)),
        ("page.com", answers(3, 0, 0, 0)),
        ("away.com", answers(0, 3, 0, 0)),
    ] {
        let mut client = Counted::new(&daemon);
        client.exchange(get(host, "/"));
        client.exchange(get(host, "/with/a/longer/path?and=query"));
        // a body that nobody wants is read and counted all the same
        client.exchange(post(host, 5000));
        assert_eq!(client.expect_same(&mut api, host, 3)["answers"], found, "{host}");
    }
    let mut head = Counted::new(&daemon);
    head.send("HEAD / HTTP/1.1\r\nHost: x.page.com\r\n\r\n");
    head.wire.expect_status(200);
    let before = api.counted("page.com", 4);
    assert_eq!(before["answers"], answers(4, 0, 0, 0), "subdomains count under their rule");
    let mut all: Vec<String> =
        api.get("/stats/").as_object().expect("all").keys().cloned().collect();
    all.sort();
    assert_eq!(all, ["away.com", "empty.com", "https://tls.com", "page.com"], "and nowhere else");
    assert_eq!(api.get("/stats/x.page.com/"), json!({}));
    let mut tls = daemon.connect_internal();
    tls.exchange("GET / HTTP/1.1\r\nHost: tls.com\r\nX-Forwarded-Proto: https\r\n\r\n");
    api.counted("https%3A%2F%2Ftls.com", 1);
    assert_eq!(api.get("/stats/tls.com/"), json!({}));
}

#[test]
fn exchanges_with_a_backend_are_counted() {
    let large = "z".repeat(700_000);
    let backend = Backend::new().serve(move |head, connection| {
        let body = match (head.field("Content-Length"), head.field("Transfer-Encoding")) {
            (Some(length), _) => connection.read_exactly(length.parse().expect("a length")),
            (None, Some(_)) => connection.expect_chunked().data,
            (None, None) => Vec::new(),
        };
        let answer = match head.target() {
            "/large" => ok(&large),
            "/none" => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
            "/304" => b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n".to_vec(),
            "/interim" => {
                [&b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"[..], &ok("late")].concat()
            }
            "/chunks" => {
                let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                [head.as_bytes(), &chunk(&large), &chunk("end"), b"0\r\nT: t\r\n\r\n"].concat()
            }
            _ => ok(body.len().to_string()),
        };
        drop(connection.try_send(answer));
    });
    let mut setup = Setup::new();
    let cases: Vec<(&str, Vec<Vec<u8>>, Value)> = vec![
        ("get.com", vec![get("get.com", "/").into()], answers(1, 0, 0, 0)),
        ("kept.com", vec![get("kept.com", "/").into(); 7], answers(7, 0, 0, 0)),
        ("short.com", vec![post("short.com", 10), post("short.com", 0)], answers(2, 0, 0, 0)),
        ("long.com", vec![post("long.com", 900_000)], answers(1, 0, 0, 0)),
        (
            "chunks.com",
            vec![post_chunked("chunks.com", 3, 10), post_chunked("chunks.com", 90, 9999)],
            answers(2, 0, 0, 0),
        ),
        (
            "down.com",
            vec![get("down.com", "/large").into(), get("down.com", "/chunks").into()],
            answers(2, 0, 0, 0),
        ),
        (
            "other.com",
            vec![get("other.com", "/none").into(), get("other.com", "/304").into()],
            answers(0, 1, 1, 0),
        ),
    ];
    for (host, ..) in &cases {
        setup = setup.rule(host, backend.rule());
    }
    let daemon = setup.rule("interim.com", backend.rule()).start();
    let mut api = daemon.api();
    for (host, requests, expected) in &cases {
        let mut client = Counted::new(&daemon);
        for request in requests {
            client.exchange(request);
        }
        let found = client.expect_same(&mut api, host, requests.len() as u64);
        assert_eq!(found["answers"], *expected, "{host}");
    }
    let mut client = Counted::new(&daemon);
    client.send(get("interim.com", "/interim"));
    client.wire.expect_status(103);
    client.wire.expect_answer();
    let found = client.expect_same(&mut api, "interim.com", 1);
    assert_eq!(found["answers"], answers(1, 0, 0, 0), "an interim answer is bytes, but no answer");
}

#[test]
fn requests_that_end_badly_are_closed_in_the_counts() {
    let dead = closed_port();
    let backend = Backend::new();
    let daemon = Setup::new()
        .rule("a.com", backend.rule())
        .rule("dead.com", rule_for(&[dead], json!({})))
        .rule("cut.com", backend.rule())
        .start();
    let mut api = daemon.api();
    let mut client = Counted::new(&daemon);
    assert_eq!(client.exchange(get("dead.com", "/")), 502);
    assert_eq!(client.expect_same(&mut api, "dead.com", 1)["answers"], answers(0, 0, 0, 1));
    // a client that goes while it waits
    let mut gone = daemon.connect();
    gone.send(get("a.com", "/"));
    let mut server = backend.accept();
    server.expect_head();
    gone.reset();
    let found = api.counted("a.com", 1);
    assert_eq!((&found["bytes_sent"], &found["answers"]), (&json!(0), &answers(0, 0, 0, 0)));
    drop(server);
    // one that goes in the middle of its upload
    let mut gone = daemon.connect();
    gone.send("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 1000\r\n\r\nsome");
    let mut server = backend.accept();
    server.expect_head();
    gone.reset();
    let found = api.counted("a.com", 2);
    assert_eq!(found["answers"], answers(0, 0, 0, 0));
    drop(server);
    // a backend that goes in the middle of its answer
    let mut client = Counted::new(&daemon);
    client.send(get("cut.com", "/"));
    let mut server = backend.accept();
    server.expect_head();
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nsome");
    client.wire.expect_status(200);
    client.wire.expect_body("some");
    server.reset();
    client.wire.expect_end();
    assert_eq!(client.expect_same(&mut api, "cut.com", 1)["answers"], answers(1, 0, 0, 0));
}

#[test]
fn refused_heads_count_under_no_host() {
    let daemon = Setup::new().rule("a.com", empty(402)).start();
    let mut api = daemon.api();
    for request in [
        "GET / HTTP/1.1\r\nHost : a.com\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.com\r\nHost: a.com\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a..com\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        let mut client = daemon.connect();
        assert_eq!(client.exchange(request).status(), 400, "{request:?}");
    }
    assert_eq!(api.get("/stats/"), json!({"a.com": {}}));
    // in the middle of a body it has a host
    let backend = Backend::new();
    api.put("/hostname/b.com/", &backend.rule());
    let mut client = daemon.connect();
    client
        .send("POST / HTTP/1.1\r\nHost: b.com\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    let mut server = backend.accept();
    server.expect_head();
    client.send("zz\r\n");
    assert_eq!(client.expect_answer().status(), 400);
    assert_eq!(api.counted("b.com", 1)["answers"], answers(0, 0, 1, 0));
}

#[test]
fn hosts_without_a_rule_count_as_unknown() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    let mut client = Counted::new(&daemon);
    assert_eq!(client.exchange(get("none.com", "/")), 503);
    api.put("/hostname/a.com/", &empty(402));
    assert_eq!(client.exchange(get("other.com", "/")), 503);
    let mut expected = answers(0, 0, 0, 0);
    expected["unknown"] = json!(2);
    assert_eq!(client.expect_same(&mut api, "unknown", 2)["answers"], expected);
    let mut old = daemon.connect();
    old.send("GET / HTTP/1.0\r\n\r\n");
    old.read_to_end();
    api.counted("unknown", 3);
    // it outlives tables, as with the original
    api.put("/hostname/", &json!({"b.com": empty(402)}));
    api.put("/hostname/", &json!({}));
    assert_eq!(api.get("/stats/").as_object().expect("stats").len(), 1);
    api.counted("unknown", 3);
}

#[test]
fn open_requests_are_counted_while_they_last() {
    let backend = Backend::new();
    let daemon = Setup::new().set("shards", 2).rule("a.com", backend.rule()).start();
    let mut api = daemon.api();
    let hanging = (0..6).map(|_| {
        let (client, server) = asked(&daemon, &backend);
        (client, server)
    });
    let mut hanging: Vec<(Connection, Connection)> = hanging.collect();
    let open = |api: &mut Api| api.get("/stats/a.com/")["open_requests"].as_u64();
    assert_eq!(open(&mut api), Some(6));
    assert_eq!(api.get("/stats/")["a.com"]["open_requests"], 6);
    assert_eq!(api.get("/stats/a.com/")["completed_requests"], 0);
    eventually("what they sent is counted", || {
        api.get("/stats/a.com/")["bytes_received"] == 6 * get("a.com", "/").len()
    });
    for left in (0..6).rev() {
        let (mut client, mut server) = hanging.pop().expect("one");
        match left % 2 {
            0 => {
                server.send(ok("done"));
                assert_eq!(client.expect_answer().text(), "done");
            }
            _ => client.reset(),
        }
        eventually("it is not open any more", || open(&mut api) == Some(left));
    }
    api.counted("a.com", 6);
}

#[test]
fn tunnels_are_counted_while_they_last() {
    let backend = Backend::new();
    let daemon = Setup::new().rule("a.com", backend.rule()).start();
    let mut api = daemon.api();
    let mut client = Counted::new(&daemon);
    client.send("GET / HTTP/1.1\r\nHost: a.com\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    let mut server = backend.accept();
    server.expect_head();
    server.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    client.wire.expect_status(101);
    for _ in 0..3 {
        client.send(vec![b'u'; 5000]);
        server.read_exactly(5000);
        server.send(vec![b'd'; 7000]);
        client.wire.read_exactly(7000);
    }
    let found = api.get("/stats/a.com/");
    assert_eq!((&found["open_requests"], &found["completed_requests"]), (&json!(1), &json!(0)));
    let seen = client.received.load(Ordering::SeqCst);
    eventually("a tunnel is counted while it is open", || {
        api.get("/stats/a.com/")["bytes_sent"] == seen
    });
    server.half_close();
    client.wire.expect_close();
    client.send("last words");
    client.wire.half_close();
    server.expect_body("last words");
    client.expect_same(&mut api, "a.com", 1);
}

#[test]
fn setting_a_rule_again_keeps_its_counters() {
    let daemon = Setup::new().rule("a.com", empty(402)).rule("b.com", empty(402)).start();
    let mut api = daemon.api();
    let mut client = daemon.connect();
    for host in ["a.com", "b.com"] {
        client.exchange(get(host, "/"));
        api.counted(host, 1);
    }
    api.put("/hostname/a.com/", &empty(402));
    api.put("/hostname/a.com/", &empty(403));
    api.patch(&json!({"a.com": empty(404)}));
    api.put("/hostname/", &json!({"a.com": empty(405), "c.com": empty(405)}));
    client.exchange(get("a.com", "/"));
    assert_eq!(api.counted("a.com", 2)["answers"], answers(0, 0, 2, 0));
    // b.com went with that table, and comes back as another
    assert_eq!(api.get("/stats/b.com/"), json!({}));
    api.put("/hostname/b.com/", &empty(402));
    client.exchange(get("b.com", "/"));
    api.counted("b.com", 1);
}

/// Under way while its host is deleted and made anew: the new one starts at nothing, and what ends
/// later is neither lost on the way down below nothing nor mistaken for more than it is.
#[test]
fn counters_of_a_deleted_host_are_dropped() {
    let backend = Backend::new();
    let daemon = Setup::new().set("shards", 2).rule("a.com", backend.rule()).start();
    let mut api = daemon.api();
    let request = get("a.com", "/");
    let done = |count: u64, api: &mut Api| {
        for _ in 0..count {
            let (mut client, mut server) = asked_for(&daemon, &backend, &request);
            server.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
            client.expect_answer();
        }
        let path = "/stats/a.com/";
        eventually("they are counted", || api.get(path)["completed_requests"] == count);
    };
    done(3, &mut api);
    let hanging = (0..4).map(|_| {
        let (client, server) = asked_for(&daemon, &backend, &request);
        (client, server)
    });
    let hanging: Vec<_> = hanging.collect();
    for _ in 0..2 {
        api.delete("a.com");
        assert_eq!(api.get("/stats/a.com/"), json!({}));
        assert_eq!(api.get("/stats/"), json!({}));
        api.put("/hostname/a.com/", &backend.rule());
        let found = api.get("/stats/a.com/");
        let ended = ["completed_requests", "bytes_sent", "bytes_received"]
            .map(|key| found[key].as_u64().unwrap_or(0));
        assert_eq!(ended, [0, 0, 0], "{found}");
    }
    for (mut client, mut server) in hanging {
        server.send(ok("late"));
        client.expect_answer();
        let found = api.get("/stats/a.com/");
        let small = |key: &str| found[key].as_u64().is_none_or(|count| count < 1000);
        let all = ["open_requests", "completed_requests", "bytes_sent", "bytes_received"];
        assert!(all.into_iter().all(small), "below nothing: {found}");
    }
    eventually("none is open", || {
        api.get("/stats/a.com/")["open_requests"].as_u64().unwrap_or(0) == 0
    });
    let late = api.get("/stats/a.com/")["completed_requests"].as_u64().unwrap_or(0);
    assert!(late <= 4, "{late} of 4 late ones");
    api.delete("a.com");
    api.put("/hostname/a.com/", &backend.rule());
    done(5, &mut api);
}

#[test]
fn an_alias_counts_under_its_own_name() {
    let backend = Backend::new().serve_text("hello");
    let daemon = Setup::new()
        .rule("real.com", backend.rule())
        .rule("alias.com", json!(["alias", {"hostname": "real.com"}, true]))
        .rule("second.com", json!(["alias", {"hostname": "alias.com"}, false]))
        .start();
    let mut api = daemon.api();
    let mut client = daemon.connect();
    for host in ["real.com", "alias.com", "x.alias.com", "second.com"] {
        assert_eq!(client.exchange(get(host, "/")).status(), 200);
    }
    api.counted("real.com", 1);
    api.counted("alias.com", 2);
    api.counted("second.com", 1);
}

#[test]
fn busiest_hosts_are_listed_first() {
    let mut setup = Setup::new();
    for n in 0..10 {
        setup = setup.rule(&format!("h{n}.com"), empty(402));
    }
    let daemon = setup.start();
    let mut api = daemon.api();
    let mut client = daemon.connect();
    for n in 0..10_u64 {
        for _ in 0..n * 2 {
            client.exchange(get(&format!("h{n}.com"), "/"));
        }
    }
    client.exchange(get("nobody.com", "/"));
    api.counted("h9.com", 18);
    api.counted("unknown", 1);
    let names = |api: &mut Api, count: usize| {
        let found = api.get(&format!("/stats/?busiest={count}"));
        let names: Vec<String> = found.as_object().expect("hosts").keys().cloned().collect();
        names
    };
    assert_eq!(names(&mut api, 3), ["h9.com", "h8.com", "h7.com"]);
    assert_eq!(names(&mut api, 0), Vec::<String>::new());
    assert_eq!(names(&mut api, 1000).len(), 10, "nine that were asked for, and unknown");
    assert_eq!(api.get("/stats/").as_object().map(Map::len), Some(11));
    for bad in ["1001", "-1", "x", ""] {
        api.ask("GET", &format!("/stats/?busiest={bad}")).expect_error(400, "query_invalid");
    }
}

#[test]
fn requests_are_counted_by_backend() {
    let (one, two, dead) = (Backend::new().serve_text("one"), Backend::new(), closed_port());
    let daemon = Setup::new()
        .rule("one.com", one.rule())
        .rule("too.com", one.rule())
        .rule("two.com", two.rule())
        .rule("dead.com", rule_for(&[dead], json!({})))
        .start();
    let mut api = daemon.api();
    let mut client = daemon.connect();
    for host in ["one.com", "too.com", "one.com"] {
        client.exchange(get(host, "/"));
    }
    client.exchange(get("dead.com", "/"));
    let mut hanging = daemon.connect();
    hanging.send(get("two.com", "/"));
    let mut server = two.accept();
    server.expect_head();
    let names = [one.port, two.port, dead].map(|port| format!("127.0.0.1:{port}"));
    // it is taken together once a second
    eventually("each backend's numbers", || {
        let found = api.get("/backends/");
        let number = |at: usize, key: &str| found[&names[at]][key].as_u64();
        (number(0, "requests"), number(0, "open_requests")) == (Some(3), Some(0))
            && number(0, "idle_connections") == Some(1)
            && number(1, "open_requests") == Some(1)
            && number(2, "failures").is_some_and(|count| 1 <= count)
    });
    let answer = api.ask("GET", "/backends/").expect_status(200);
    assert_eq!(answer.head.field("Mantrid-Backends"), Some("3"), "as many as are listed here");
    server.send(ok("done"));
    hanging.expect_answer();
    eventually("it ended", || {
        let found = api.get("/backends/");
        (&found[&names[1]]["open_requests"], &found[&names[1]]["requests"])
            == (&json!(0), &json!(1))
    });
}
