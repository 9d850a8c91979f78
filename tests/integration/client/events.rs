//! `events`: a line for each, across restarts of the daemon, until nobody reads.

use std::io::{BufRead, BufReader};

use crate::backend::Backend;
use crate::management::{Call, events, expect_asked};

const ASKED: &str = "GET /events?busiest=0&only=change,health,held,idle,wake HTTP/1.1";
const HELLO: &str = "event: hello\ndata: {\"version\": \"0.1.0\", \"etag\": \"1\", \"rules\": 2, \"shards\": 1}\n\n";
const CHANGE: &str = "event: change\ndata: {\"verb\": \"PUT\", \"who\": \"uid 0\", \"etag\": \"2\", \
     \"rules\": 2, \"changed\": 1, \"hosts\": {\"a.com\": [\"spin\", {}, true]}}\n\n";

#[test]
fn each_event_has_a_line() {
    let server = Backend::new();
    let client = Call::to(&server, &["events"]).start();
    let mut asked = server.accept();
    let (head, _) = expect_asked(&mut asked, ASKED);
    assert_eq!(head.field("Accept"), Some("text/event-stream"));
    asked.send(events(HELLO));
    client.expect_out("mantrid 0.1.0, 2 rules, 1 shard\n");
    asked.send_slowly(CHANGE);
    client.expect_out(
        "change  a.com                               spin, with subdomains, by uid 0\n",
    );
    asked.send(":\n\nevent: health\ndata: {\"backend\": \"127.0.0.1:1\", \"state\": \"down\"}\n\n");
    client.expect_out("health  127.0.0.1:1                         down\n");
}

#[test]
fn events_are_printed_as_lines_of_json() {
    let server = Backend::new();
    let client = Call::to(&server, &["events", "--json", "--only", "traffic"]).start();
    let mut asked = server.accept();
    expect_asked(&mut asked, "GET /events?busiest=0&only=traffic HTTP/1.1");
    asked.send(events("event: traffic\ndata: {\"held\": 3}\n\n"));
    client.expect_out("{\"event\": \"traffic\", \"data\": {\"held\": 3}}\n");
}

#[test]
fn stream_goes_on_when_the_daemon_restarts() {
    let server = Backend::new();
    let client = Call::to(&server, &["events"]).start();
    let mut asked = server.accept();
    expect_asked(&mut asked, ASKED);
    asked.send(events(HELLO));
    client.expect_out("hello");
    // it goes, is not there for a while, and comes back with another table
    drop(asked);
    client.expect_err("trying again");
    let mut asked = server.accept();
    expect_asked(&mut asked, ASKED);
    asked.reset();
    let mut asked = server.accept();
    expect_asked(&mut asked, ASKED);
    asked.send(events(&HELLO.replace("\"1\"", "\"9\"")));
    client.expect_err("answers again");
    client.expect_err("changed meanwhile");
    asked.send(CHANGE);
    client.expect_out("a.com");
}

#[test]
fn refusal_ends_the_stream() {
    let server = Backend::new();
    let client = Call::to(&server, &["events"]).start();
    let mut asked = server.accept();
    expect_asked(&mut asked, ASKED);
    asked.send(events(HELLO));
    drop(asked);
    let mut asked = server.accept();
    expect_asked(&mut asked, ASKED);
    let body = "{\"error\": \"token_missing\", \"message\": \"a token is wanted\"}";
    asked.send(crate::management::answer("401 Unauthorized", "", body));
    client.finish().expect(1, &["MANTRID_TOKEN"]);
    Call::to(&server, &["events", "--only", "changes"])
        .finish()
        .expect(1, &["change, health, held, idle, wake, fleet, traffic"]);
}

/// `events | head -1`, where nothing happens after the first line.
#[test]
fn stream_ends_when_nobody_reads() {
    let server = Backend::new();
    let (client, out) = Call::to(&server, &["events"]).start_unread();
    let mut asked = server.accept();
    expect_asked(&mut asked, ASKED);
    asked.send(events(HELLO));
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line).expect("a line");
    assert!(line.contains("hello"), "{line}");
    let finished = client.finish();
    assert_eq!((finished.code, finished.err.as_str()), (Some(0), ""));
}
