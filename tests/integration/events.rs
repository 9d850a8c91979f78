//! `/events`: what happens, as it happens, for as many as want to know; and who does not read is no
//! hindrance to anybody.

use serde_json::{Value, json};

use crate::api::empty;
use crate::backend::Backend;
use crate::daemon::{Daemon, Setup};
use crate::manage::Api;
use crate::message::{get, ok};
use crate::script::Connection;

/// One who follows.
pub struct Events {
    wire: Connection,
    text: String,
}

impl Events {
    #[track_caller]
    pub fn over(api: Api, query: &str) -> Events {
        let request = api.request("GET", &format!("/events{query}"), "", "");
        let mut wire = api.wire;
        wire.send(request);
        Events { wire, text: String::new() }.begun()
    }

    /// The stream ends, whatever comes before that.
    #[track_caller]
    pub fn expect_over(mut self) {
        loop {
            let line = self.wire.expect_line();
            let size = usize::from_str_radix(&String::from_utf8_lossy(&line), 16).expect("a chunk");
            if size == 0 {
                return;
            }
            self.wire.read_exactly(size);
            self.wire.expect_body("\r\n");
        }
    }

    #[track_caller]
    fn begun(mut self) -> Events {
        let head = self.wire.expect_status(200);
        assert_eq!(head.field("Content-Type"), Some("text/event-stream"));
        assert_eq!(head.field("Transfer-Encoding"), Some("chunked"));
        self
    }

    /// The same when it has said hello, as to everybody.
    #[track_caller]
    pub fn after_hello(daemon: &Daemon, query: &str) -> Events {
        let mut events = Events::of(daemon, query);
        events.expect("hello");
        events
    }

    #[track_caller]
    pub fn of(daemon: &Daemon, query: &str) -> Events {
        Events::over(daemon.api(), query)
    }

    /// The next event: its name and its data.
    #[track_caller]
    pub fn next(&mut self) -> (String, Value) {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                let lines: Vec<&str> =
                    event.lines().filter(|line| !line.starts_with(':')).collect();
                match lines[..] {
                    [] => continue,
                    [name, data] => {
                        let name = name.strip_prefix("event: ").expect("a name").to_owned();
                        let data = data.strip_prefix("data: ").expect("data");
                        return (name, serde_json::from_str(data).expect("JSON"));
                    }
                    _ => panic!("no event of two lines: {event:?}"),
                }
            }
            let line = self.wire.expect_line();
            let size = usize::from_str_radix(&String::from_utf8_lossy(&line), 16).expect("a chunk");
            assert_ne!(size, 0, "it ended");
            let chunk = self.wire.read_exactly(size);
            self.text.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
            self.wire.expect_body("\r\n");
        }
    }

    /// The next event, which is of this name.
    #[track_caller]
    pub fn expect(&mut self, name: &str) -> Value {
        let (found, data) = self.next();
        assert_eq!(found, name, "{data}");
        data
    }

    /// The first of this name that is as wanted.
    #[track_caller]
    pub fn until(&mut self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..30 {
            let (found, data) = self.next();
            if found == name && wanted(&data) {
                return data;
            }
        }
        panic!("30 events and not the one");
    }
}

#[test]
fn stream_begins_with_hello_and_tells_changes() {
    let daemon = Setup::new().set("shards", 2).rule("a.com", empty(402)).management_tcp().start();
    let mut api = daemon.api_tcp();
    let mut all = Events::of(&daemon, "?only=change");
    let hello = all.expect("hello");
    assert_eq!(hello["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&hello["rules"], &hello["shards"]), (&json!(1), &json!(2)));
    assert_eq!(hello["etag"], api.etag());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("now");
    let age = now.as_secs().checked_sub(hello["since"].as_u64().expect("its start"));
    assert!(age.is_some_and(|age| age < 600), "{hello}");

    let tag = api.put("/hostname/b.com/", &empty(403));
    let mut change = all.expect("change");
    let told = change.as_object_mut().and_then(|change| change.remove("time"));
    assert!(
        told.and_then(|time| time.as_f64()).is_some_and(|time| now.as_secs_f64() - 1.0 <= time)
    );
    let who = change["who"].as_str().unwrap_or_default();
    assert!(who.starts_with("127.0.0.1:"), "{who}");
    let expected = json!({"verb": "PUT", "who": who, "etag": tag, "rules": 2, "changed": 1, "hosts": {"b.com": empty(403)}});
    assert_eq!(change, expected);

    let mut over_unix = daemon.api();
    let tag = over_unix.patch(&json!({"A.com": null, "c.com": empty(404)}));
    let change = all.expect("change");
    let uid = nix::unistd::geteuid();
    assert_eq!(change["who"], format!("uid {uid}"));
    assert_eq!((&change["verb"], &change["etag"]), (&json!("PATCH"), &json!(tag)));
    assert_eq!(change["hosts"], json!({"a.com": null, "c.com": empty(404)}));

    api.delete("c.com");
    let change = all.expect("change");
    assert_eq!((&change["verb"], &change["hosts"]), (&json!("DELETE"), &json!({"c.com": null})));

    let table =
        |count: usize| (0..count).map(|n| (format!("h{n}.com"), empty(403))).collect::<Value>();
    api.put("/hostname/", &table(100));
    let change = all.expect("change");
    assert_eq!((&change["rules"], &change["changed"]), (&json!(100), &json!(100)));
    assert_eq!(change["hosts"], table(100));
    api.put("/hostname/", &table(101));
    let change = all.expect("change");
    assert_eq!((change["changed"].as_u64(), change.get("hosts")), (Some(101), None));

    // what was not made is not told
    api.tell("PUT", "/hostname/?dry_run=1", &json!({}));
    api.tell("PUT", "/hostname/x.com/", &json!(["x", {}, true]));
    api.tell_with("If-Match: \"x\"\r\n", "PUT", "/hostname/", &json!({}));
    let tag = api.put("/hostname/", &json!({}));
    assert_eq!(all.expect("change")["etag"], tag);
}

#[test]
fn stream_has_the_events_that_were_asked_for() {
    let daemon = Setup::new().rule("a.com", empty(402)).start();
    let mut changes = Events::after_hello(&daemon, "?only=change");
    let mut health = Events::after_hello(&daemon, "?only=health");
    let mut api = daemon.api();
    let mut traffic = Events::after_hello(&daemon, "?only=traffic&busiest=0");
    for _ in 0..2 {
        assert_eq!(traffic.expect("traffic")["busiest"], json!([]));
    }
    let tag = api.put("/hostname/b.com/", &empty(403));
    assert_eq!(changes.expect("change")["etag"], tag, "the first of all");
    traffic.until("traffic", |data| data["etag"] == tag && data["rules"] == 2);
    health.wire.expect_nothing_more();
    for query in ["?only=chnage", "?only=", "?only=change,", "?busiest=1001", "?busiest=x"] {
        api.ask("GET", &format!("/events{query}")).expect_error(400, "query_invalid");
    }
    let hosts = |count: usize| format!("/events?{}", vec!["host=a.com"; count].join("&"));
    api.ask("GET", &hosts(501)).expect_error(400, "query_invalid");
    assert_eq!(Events::over(api, &hosts(500)["/events".len()..]).next().0, "hello");
}

#[test]
fn traffic_events_have_rates() {
    let backend = Backend::new();
    let daemon = Setup::new()
        .set("shards", 2)
        .rule("a.com", empty(402))
        .rule("b.com", empty(402))
        .rule("quiet.com", empty(402))
        .rule("p.com", backend.rule())
        .start();
    let mut client = daemon.connect();
    for host in ["a.com", "b.com", "a.com"] {
        client.exchange(get(host, "/"));
    }
    let mut hanging = daemon.connect();
    hanging.send(get("p.com", "/"));
    let mut server = backend.accept();
    server.expect_head();
    let mut events = Events::after_hello(
        &daemon,
        "?host=a.com&host=quiet.com&host=No.Such.Host&busiest=2&only=traffic",
    );
    let mut last =
        events.until("traffic", |data| data["hosts"]["a.com"]["completed_requests"] == 2);
    let mut requests = 0.0;
    for _ in 0..60 {
        client.exchange(get("a.com", "/"));
    }
    // each rate is of the time since the one before
    loop {
        let data = events.expect("traffic");
        let seconds = data["time"].as_f64().expect("now") - last["time"].as_f64().expect("before");
        requests +=
            seconds * data["hosts"]["a.com"]["requests_per_second"].as_f64().expect("a rate");
        let is_all = data["hosts"]["a.com"]["completed_requests"] == 62;
        last = data;
        if is_all {
            break;
        }
    }
    assert!((50.0..70.0).contains(&requests), "the rates come to {requests}, not to about 60");
    let a = &last["hosts"]["a.com"];
    assert_eq!(a["bytes_received"], 62 * get("a.com", "/").len());
    assert!(a["bytes_sent_per_second"].as_f64().is_some_and(|rate| 0.0 < rate));
    let mut names: Vec<&String> = last["hosts"].as_object().expect("hosts").keys().collect();
    names.sort();
    assert_eq!(names, ["a.com", "no.such.host", "quiet.com"]);
    assert_eq!(last["hosts"]["quiet.com"]["completed_requests"], 0);
    let busiest = last["busiest"].as_array().expect("the busiest");
    assert_eq!((busiest.len(), &busiest[0]["host"]), (2, &json!("a.com")));
    let totals = &last["totals"];
    assert_eq!((&totals["completed_requests"], &totals["open_requests"]), (&json!(63), &json!(1)));
    assert_eq!((&totals["open_connections"], &totals["answers"]["4xx"]), (&json!(2), &json!(63)));
    let shards = last["shards"].as_array().expect("the shards");
    let each =
        |key: &str| shards.iter().map(|shard| shard[key].as_u64().unwrap_or(99)).sum::<u64>();
    assert_eq!((shards.len(), each("requests"), each("open_connections")), (2, 63, 2));
    for shard in shards {
        assert!(shard["busy"].as_f64().is_some_and(|busy| (0.0..=1.0).contains(&busy)), "{shard}");
    }
    // and when nothing happens nothing is told to happen
    let quiet = events.until("traffic", |data| data["totals"]["requests_per_second"] == 0.0);
    assert_eq!(quiet["hosts"]["a.com"]["requests_per_second"], 0.0);
    server.send(ok("done"));
    hanging.expect_answer();
    events.until("traffic", |data| data["totals"]["open_requests"] == 0);
}

/// There are at most so many; one that goes makes room.
#[test]
fn readers_of_events_are_bounded() {
    let daemon = Setup::new().start();
    let mut all: Vec<Events> =
        (0..64).map(|_| Events::after_hello(&daemon, "?only=change")).collect();
    let mut api = daemon.api();
    api.ask("GET", "/events").expect_error(503, "busy");
    api.put("/hostname/a.com/", &empty(402));
    for events in &mut all {
        assert_eq!(events.expect("change")["rules"], 1);
    }
    all.pop().expect("one").wire.reset();
    crate::daemon::eventually("there is room again", || {
        let mut api = daemon.api();
        api.wire.send("GET /events?only=change HTTP/1.1\r\nHost: localhost\r\n\r\n");
        api.wire.expect_head().status() == 200
    });
}

#[test]
fn reader_that_does_not_read_is_dropped() {
    let daemon = Setup::new().rule("z.com", empty(402)).management_tcp().start();
    let mut deaf = Connection::client_with_small_buffer(daemon.api_address());
    deaf.send("GET /events?only=change HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut deaf = Events { wire: deaf, text: String::new() }.begun();
    deaf.expect("hello");
    let mut other = Events::after_hello(&daemon, "?only=change");
    let mut api = daemon.api();
    let to = "x".repeat(2000);
    let large: Value = (0..60)
        .map(|n| (format!("h{n}.com"), json!(["redirect", {"redirect_to": to}, false])))
        .collect();
    // more than any buffer on the way holds, and then more than is kept
    let mut last = String::new();
    for _ in 0..60 {
        last = api.patch(&large);
        assert_eq!(other.expect("change")["etag"], last);
    }
    for n in 0..1100 {
        last = api.put("/hostname/a.com/", &empty(400 + n % 100));
        if n % 100 == 0 {
            assert_eq!(daemon.connect().exchange(get("z.com", "/")).status(), 402);
        }
        assert_eq!(other.expect("change")["etag"], last, "who reads gets each");
    }
    // What it missed may have been of other kinds, too; and it misses more where it is slow to read
    // what was kept.
    let (mut seen, mut missed, mut is_last) = (0, 0, false);
    while !is_last {
        let (name, data) = deaf.next();
        match &*name {
            "change" => {
                seen += 1;
                is_last = data["etag"] == last;
            }
            "lagged" => missed += data["missed"].as_u64().expect("how many"),
            other => panic!("{other}"),
        }
    }
    assert!(0 < missed && 1160 <= seen + missed, "{seen} and {missed}");
    last = api.delete("a.com");
    assert_eq!(deaf.expect("change")["etag"], last);
}
