//! `max_body`: a body that is too large is refused before a byte of it goes on where its length is
//! known, and cut off where it is not.

use serde_json::json;

use crate::access_log::{logging, wait_for};
use crate::backend::{Backend, rule_for};
use crate::daemon::{Daemon, Setup};
use crate::message::{chunk, get, ok};
use crate::script::{Connection, Ending};
use crate::spin::{expect_held, metric, spinning};

/// A daemon whose `a.com` takes bodies of ten bytes.
fn limited() -> (Daemon, Backend) {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule_with(json!({"max_body": 10})));
    (daemon, backend)
}

fn post(framing: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a.com\r\n{framing}\r\n\r\n{body}")
}

const CHUNKED: &str = "Transfer-Encoding: chunked";

/// The client gets a 413, and its connection ends.
#[track_caller]
fn expect_cut(client: &mut Connection) {
    let answer = client.expect_answer();
    assert_eq!((answer.status(), answer.head.says_close()), (413, true));
    client.expect_close();
}

#[test]
fn length_past_the_limit_reaches_no_backend() {
    let (daemon, backend) = limited();
    let mut client = daemon.connect();
    let answer = client.exchange(post("Content-Length: 11", "hello world"));
    assert_eq!(answer.status(), 413);
    assert_eq!(
        answer.text(),
        "413 Content Too Large\nThe request body is too large for this host.\n"
    );
    // A short body is read and dropped: the connection goes on.
    assert!(!answer.head.says_close());
    backend.expect_no_connection();
    client.send(get("a.com", "/next"));
    let mut server = backend.accept();
    server.expect_request("GET /next HTTP/1.1");
    server.send(ok("next"));
    assert_eq!(client.expect_answer().text(), "next");
}

#[test]
fn long_body_past_the_limit_ends_the_connection() {
    let (daemon, backend) = limited();
    let mut client = daemon.connect();
    client.send(post("Content-Length: 1000000000", "hello"));
    expect_cut(&mut client);
    backend.expect_no_connection();
}

#[test]
fn client_that_waits_for_100_gets_413() {
    let (daemon, backend) = limited();
    let mut client = daemon.connect();
    client.send(post("Content-Length: 11\r\nExpect: 100-continue", ""));
    expect_cut(&mut client);
    backend.expect_no_connection();
}

#[test]
fn body_up_to_the_limit_passes() {
    let (daemon, backend) = limited();
    for (framing, body) in [
        ("Content-Length: 10", "0123456789"),
        (CHUNKED, "5\r\n01234\r\n5;x=y\r\n56789\r\n0\r\nX-Trailer: 0123456789\r\n\r\n"),
        (CHUNKED, "A\r\n0123456789\r\n0\r\n\r\n"),
        (CHUNKED, "0\r\n\r\n"),
    ] {
        // Whole, and byte by byte.
        for is_slow in [false, true] {
            let mut client = daemon.connect();
            match is_slow {
                false => client.send(post(framing, body)),
                true => client.send_slowly(post(framing, body)),
            }
            let mut server = backend.accept();
            server.expect_head();
            server.expect_body(body);
            server.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            assert_eq!(client.expect_answer().status(), 200, "{framing} {body:?}");
        }
    }
}

#[test]
fn chunks_that_are_here_already_reach_no_backend() {
    let (daemon, backend) = limited();
    for body in ["b\r\nhello world\r\n0\r\n\r\n", "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"] {
        let mut client = daemon.connect();
        client.send(post(CHUNKED, body));
        expect_cut(&mut client);
    }
    // Nothing of them was sent, on whatever connection.
    while let Some(mut server) = backend.accept_within(std::time::Duration::from_millis(1)) {
        server.expect_end();
    }
}

#[test]
fn chunk_past_the_limit_cuts_the_message_off() {
    let (daemon, backend) = limited();
    // Too much in sum, and in its announcement alone.
    for rest in [chunk("worlds"), b"6\r\n".to_vec(), b"ffffffff\r\n".to_vec()] {
        let mut client = daemon.connect();
        client.send(post(CHUNKED, "5\r\nhello\r\n"));
        let mut server = backend.accept();
        server.expect_head();
        server.expect_body("5\r\nhello\r\n");
        client.send(&rest);
        expect_cut(&mut client);
        // Not a byte of the chunk that is too large, and no last chunk.
        server.expect_end();
    }
}

#[test]
fn response_that_has_begun_is_cut_off() {
    let (daemon, backend) = limited();
    for (framing, part, ending) in [
        ("Content-Length: 10\r\n", "hello", None),
        (CHUNKED_LINE, "5\r\nhello\r\n", None),
        ("", "hello", Some(Ending::Reset)),
    ] {
        let mut client = daemon.connect();
        client.send(post(CHUNKED, "5\r\nhello\r\n"));
        let mut server = backend.accept();
        server.expect_head();
        server.expect_body("5\r\nhello\r\n");
        server.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n{part}"));
        client.expect_status(200);
        client.expect_body(part);
        client.send(chunk("worlds"));
        let (rest, how) = client.read_to_end();
        assert_eq!(rest, b"", "nothing follows a part of a response");
        assert!(ending.is_none_or(|ending| ending == how), "{framing:?}: {how:?}");
        server.expect_end();
    }
}

const CHUNKED_LINE: &str = "Transfer-Encoding: chunked\r\n";

#[test]
fn limit_holds_for_old_clients_and_for_head() {
    let (daemon, backend) = limited();
    let mut client = daemon.connect();
    client.send("POST / HTTP/1.0\r\nHost: a.com\r\nContent-Length: 11\r\n\r\nhello world");
    let answer = client.expect_answer();
    assert_eq!((answer.status(), answer.head.says_close()), (413, true));
    client.expect_close();
    let mut client = daemon.connect();
    client.send("HEAD / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 11\r\n\r\nhello world");
    let head = client.expect_status(413);
    assert!(head.field("Content-Length").is_some_and(|length| length != "0"), "{head:?}");
    client.expect_nothing_more();
    backend.expect_no_connection();
}

#[test]
fn spinning_host_holds_no_large_request() {
    let (daemon, mut api) = spinning(Setup::new(), json!({"max_body": 10}));
    let mut client = daemon.connect();
    assert_eq!(client.exchange(post("Content-Length: 11", "hello world")).status(), 413);
    client.send(post("Content-Length: 10", "0123456789"));
    expect_held(&mut api, "a.com", 1);
}

#[test]
fn refusal_of_a_body_is_counted_logged_and_has_a_page() {
    let backend = Backend::new();
    let rule = backend.rule_with(json!({"max_body": 10}));
    let page = "HTTP/1.1 413 Too Much\r\nX-Page: large\r\n\r\nless, please\n";
    let (setup, path) = logging(Setup::new().rule("a.com", rule).page("413.http", page));
    let daemon = setup.start();
    let mut chunked = daemon.connect();
    chunked.send(post(CHUNKED, "5\r\nhello\r\n"));
    let mut server = backend.accept();
    server.expect_head();
    chunked.send(chunk("worlds"));
    let mut announced = daemon.connect();
    announced.send(post("Content-Length: 11", "hello world"));
    for mut client in [chunked, announced] {
        let answer = client.expect_answer();
        assert_eq!(answer.head.start, "HTTP/1.1 413 Too Much");
        assert_eq!(answer.head.field("X-Page"), Some("large"));
        assert_eq!(answer.text(), "less, please\n");
    }
    for line in wait_for(&path, 2) {
        let found = (&line["status"], &line["termination"], &line["reason"]);
        assert_eq!(found, (&json!(413), &json!("refused"), &json!("body_too_large")), "{line}");
        assert_eq!(line["host"], "a.com");
    }
    let mut api = daemon.api();
    api.counted("a.com", 2);
    assert!(2.0 <= metric(&mut api, "refused_total{reason=\"body_too_large\"}"));
}

#[test]
fn limit_of_nothing_is_refused_by_name() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    for value in [json!(0), json!("1k"), json!(-1), json!(0.5), json!(9_007_199_254_740_992_u64)] {
        let rule = rule_for(&[1], json!({"max_body": value}));
        let answer = api.tell("PUT", "/hostname/a.com/", &rule);
        let message = answer.expect_error(400, "a.com:host_kwarg_invalid:max_body");
        assert!(message.contains(&format!("max_body of proxy is {value}")), "{message}");
    }
}
