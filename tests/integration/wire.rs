//! Management requests as bytes: bodies of every kind, broken off, too long or not JSON; requests
//! in a row; slow, half-closed and vanishing clients. Nothing of it changes the table by half, and
//! nothing keeps others out for ever.

use serde_json::{Value, json};

use crate::api::empty;
use crate::daemon::{Daemon, Setup, eventually};
use crate::manage::Api;
use crate::message::{chunk, get};
use crate::script::{Connection, Ending};

/// A PUT of this body in chunks.
const CHUNKED: &str =
    "PUT /hostname/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";

fn started() -> (Daemon, Api) {
    let daemon = Setup::new().rule("a.com", empty(402)).start();
    let api = daemon.api();
    (daemon, api)
}

/// The table is what `started` made.
#[track_caller]
fn expect_unchanged(daemon: &Daemon) {
    assert_eq!(daemon.api().get("/hostname/"), json!({"a.com": empty(402)}));
}

/// A PUT of the table with exactly this body.
#[track_caller]
fn put_bytes(api: &mut Api, body: &[u8]) -> crate::message::Answer {
    let length = body.len();
    let head =
        format!("PUT /hostname/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
    api.wire.send([head.as_bytes(), body].concat());
    api.wire.expect_answer()
}

#[test]
fn bodies_in_chunks_are_read() {
    let (_daemon, mut api) = started();
    let body = json!({"a.com": empty(403), "b.com": empty(404)});
    let text = body.to_string();
    for size in [1, 7, 1000] {
        api.wire.send(CHUNKED);
        for piece in text.as_bytes().chunks(size) {
            api.wire.send(chunk(piece));
        }
        api.wire.send("0\r\nX-Trailer: x\r\n\r\n");
        api.wire.expect_answer().expect_made();
        assert_eq!(api.get("/hostname/"), body);
        api.put("/hostname/", &json!({}));
    }
    for bad in ["zz\r\n", "-1\r\n", "5\r\n{}xxx{}", "ffffffffffffffffff\r\n"] {
        let mut api = Api::over(_daemon.api().wire);
        api.wire.send(format!("{CHUNKED}{bad}\r\n0\r\n\r\n"));
        let answer = api.wire.expect_answer();
        assert_eq!(answer.status(), 400, "{bad:?}: {}", answer.text());
    }
    assert_eq!(api.get("/hostname/"), json!({}));
}

#[test]
fn client_that_waits_for_continue_is_told_to() {
    let (_daemon, mut api) = started();
    let body = json!({"b.com": empty(403)}).to_string();
    let expecting = "Expect: 100-continue\r\n";
    let request = api.request("PUT", "/hostname/", expecting, &body);
    let head = request.len() - body.len();
    api.wire.send(&request[..head]);
    api.wire.expect_status(100);
    api.wire.send(&body);
    api.wire.expect_answer().expect_made();
    assert_eq!(api.get("/hostname/"), json!({"b.com": empty(403)}));
    // one that is refused anyway is spared the body
    for (lines, path, status) in [
        ("Expect: 100-continue\r\nOrigin: http://evil.example\r\n", "/hostname/", 403),
        ("Expect: 100-continue\r\n", "/nothing/", 404),
        ("Expect: 100-continue\r\n", "/hostname/?x=1", 400),
    ] {
        let mut api = Api::over(_daemon.api().wire);
        let request = api.request("PUT", path, lines, &body);
        api.wire.send(&request[..request.len() - body.len()]);
        api.wire.expect_answer().expect_status(status);
    }
}

#[test]
fn body_that_breaks_off_changes_nothing() {
    let (daemon, _) = started();
    let body = json!({"a.com": empty(403), "b.com": empty(404)}).to_string();
    let whole = daemon.api().request("PUT", "/hostname/", "", &body);
    let one = daemon.api().request("PUT", "/hostname/a.com/", "", &empty(403).to_string());
    for request in [&whole, &one] {
        for missing in [1, 2, 20, body.len() / 2] {
            let cut = &request[..request.len() - missing.min(20)];
            let mut half_closed = daemon.api();
            half_closed.wire.send(cut);
            half_closed.wire.half_close();
            let (answer, _) = half_closed.wire.read_to_end();
            assert!(!answer.starts_with(b"HTTP/1.1 200"), "half a body was taken");
            let mut gone = daemon.api();
            gone.wire.send(cut);
            gone.wire.reset();
        }
    }
    let mut chunked = daemon.api();
    chunked.wire.send([CHUNKED.as_bytes(), &chunk(&body)].concat());
    chunked.wire.half_close();
    let (answer, _) = chunked.wire.read_to_end();
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "without its last chunk it is not whole");
    expect_unchanged(&daemon);
}

const LIMIT: usize = 256 * 1024 * 1024;

/// It is enough to say so: not a byte of it need be sent, or is waited for.
#[test]
fn length_over_the_limit_is_refused() {
    let (daemon, _) = started();
    let lengths = [LIMIT + 1, 1 << 40, i64::MAX as usize];
    let asked = lengths.iter().flat_map(|length| {
        ["/hostname/", "/hostname/a.com/"].map(|path| {
            let mut api = daemon.api();
            let head = format!(
                "PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
            );
            api.wire.send(head);
            api
        })
    });
    for mut api in asked.collect::<Vec<_>>() {
        let answer = api.wire.expect_answer();
        answer.expect_error(413, "body_too_large");
        assert!(answer.head.says_close(), "what is to follow is not read");
        api.wire.expect_end();
    }
    for length in ["-1", "1x", "18446744073709551616", "99999999999999999999999", "5, 6"] {
        let mut api = daemon.api();
        let head = format!(
            "PUT /hostname/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{{}}"
        );
        api.wire.send(head);
        let (answer, _) = api.wire.read_to_end();
        assert!(
            answer.starts_with(b"HTTP/1.1 400"),
            "{length}: {:?}",
            crate::message::show(&answer)
        );
    }
    expect_unchanged(&daemon);
}

#[test]
fn chunks_over_the_limit_are_refused() {
    let (daemon, mut api) = started();
    api.wire.send(CHUNKED);
    // spaces are JSON, too: what is wrong with them is only that they are so many
    const PIECE: usize = 4 * 1024 * 1024;
    let piece = chunk(vec![b' '; PIECE]);
    let mut sent = 0;
    while sent <= LIMIT && api.wire.try_send(&piece).is_ok() {
        sent += PIECE;
    }
    let answer = api.wire.expect_answer();
    answer.expect_error(413, "body_too_large");
    drop(api);
    expect_unchanged(&daemon);
}

/// Whoever takes all the room there is for large bodies and sends nothing keeps no small change
/// out.
#[test]
fn promises_of_large_bodies_keep_nobody_out() {
    let (daemon, mut api) = started();
    let promises = (0..4).map(|n| {
        let mut promise = daemon.api();
        match n % 2 {
            0 => promise.wire.send(format!(
                "PUT /hostname/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: {LIMIT}\r\n\r\n{{"
            )),
            _ => promise.wire.send(format!("{CHUNKED}1\r\n{{\r\n")),
        }
        promise
    });
    let mut promises: Vec<Api> = promises.collect();
    // the third and fourth find no room, and are told
    for _ in 0..2 {
        let (moment, mut refused) = (std::time::Duration::from_millis(1), None);
        eventually("no room for all of them", || {
            refused = (0..promises.len()).find(|n| promises[*n].wire.came_within(moment));
            refused.is_some()
        });
        let mut refused = promises.remove(refused.expect("no room for all of them"));
        refused.wire.expect_answer().expect_error(503, "busy");
    }
    api.put("/hostname/b.com/", &empty(403));
    api.patch(&json!({"b.com": null}));
    api.wire.send(CHUNKED);
    api.wire.send([&chunk("{}")[..], b"0\r\n\r\n"].concat());
    let chunked = api.wire.expect_answer();
    assert!([200, 503].contains(&chunked.status()), "{}", chunked.text());
}

#[test]
fn bodies_that_are_not_json_are_refused() {
    let (daemon, mut api) = started();
    let deep = [b"{\"a.com\": ".to_vec(), b"[".repeat(100_000)].concat();
    let deep_whole = [&deep[..], &b"]".repeat(100_000), b"}"].concat();
    let objects = [b"{\"a\":".repeat(100_000), b"1".to_vec(), b"}".repeat(100_000)].concat();
    let bodies: Vec<&[u8]> = vec![
        b"",
        b" ",
        b"{",
        b"}",
        b"{]",
        b"nonsense",
        b"{\"a.com\": }",
        b"{\"a.com\" [\"unknown\", {}, true]}",
        b"{\"a.com\": [\"unknown\", {}, true],}",
        b"{} {}",
        b"{}x",
        b"{'a.com': 1}",
        b"{\"a.com\": [\"unknown\", {}, True]}",
        b"\xef\xbb\xbf{}",
        b"\xff\xfe{\0}\0",
        b"{\"a\xff.com\": [\"unknown\", {}, true]}",
        b"{\"\xc3\x28\": [\"unknown\", {}, true]}",
        b"{\"a.com\": [\"static\", {\"type\": \"\xff\"}, true]}",
        b"{\"\\ud800\": 1}",
        b"{\"a\nb\": 1}",
        b"{\"a.com\": NaN}",
        b"{\"a.com\": 01}",
        b"{\"a.com\": 1e999999}",
        b"\0",
        b"// x\n{}",
        &deep,
        &deep_whole,
        &objects,
    ];
    for body in bodies {
        let shown = crate::message::show(&body[..body.len().min(60)]);
        let answer = put_bytes(&mut api, body);
        assert_eq!(answer.status(), 400, "{shown}: {}", answer.text());
        let error = answer.json()["error"].as_str().unwrap_or_default().to_owned();
        assert!(error == "body_not_json", "{shown}: {error}");
    }
    let answer = put_bytes(
        &mut api,
        &[
            b"{\"a.com\": [\"spin\", ".to_vec(),
            b"{\"x\":".repeat(90),
            b"1".to_vec(),
            b"}".repeat(90),
            b", true]}".to_vec(),
        ]
        .concat(),
    );
    answer.expect_error(400, "a.com:host_kwarg_unknown:x");
    for (path, body) in
        [("/hostname/a.com/", "{"), ("/hostname/a.com/", "["), ("/hostname/a.com/", "")]
    {
        let request = api.request("PUT", path, "", body);
        api.wire.exchange(request).expect_error(400, "body_not_json");
    }
    expect_unchanged(&daemon);
}

#[test]
fn numbers_and_sizes_past_their_edges_are_refused() {
    let (daemon, mut api) = started();
    for (rule, argument) in [
        (json!(["empty", {"code": 1e300}, true]), "code"),
        (json!(["empty", {"code": -403}, true]), "code"),
        (json!(["empty", {"code": 403.5}, true]), "code"),
        (json!(["empty", {"code": "0x193"}, true]), "code"),
        (json!(["empty", {"code": u64::MAX}, true]), "code"),
        (json!(["spin", {"timeout": 1e300}, true]), "timeout"),
        (json!(["spin", {"timeout": "NaN"}, true]), "timeout"),
        (json!(["spin", {"timeout": "inf"}, true]), "timeout"),
        (json!(["spin", {"timeout": -1}, true]), "timeout"),
        (json!(["spin", {"max_held": 0}, true]), "max_held"),
        (json!(["proxy", {"backends": []}, true]), "backends"),
        (json!(["proxy", {"backends": [["10.0.0.1", 0]]}, true]), "backends"),
        (json!(["proxy", {"backends": [["10.0.0.1", 65536]]}, true]), "backends"),
        (json!(["proxy", {"backends": [["10.0.0.1"]]}, true]), "backends"),
        (json!(["proxy", {"backends": vec![json!(["10.0.0.1", 80]); 1025]}, true]), "backends"),
        (json!(["static", {"type": "../../etc/passwd"}, true]), "type"),
        (json!(["redirect", {"redirect_to": "a.com\r\nX: y"}, true]), "redirect_to"),
        (json!(["redirect", {"redirect_to": "x".repeat(3000)}, true]), "redirect_to"),
    ] {
        let answer = api.tell("PUT", "/hostname/a.com/", &rule);
        let sentence = answer.expect_error(400, &format!("a.com:host_kwarg_invalid:{argument}"));
        assert!(sentence.contains("expected") && sentence.len() < 400, "{sentence}");
    }
    expect_unchanged(&daemon);
}

#[test]
fn requests_in_a_row_are_answered_in_order() {
    let (_daemon, mut api) = started();
    let mut all = String::new();
    for code in 400..430 {
        all.push_str(&api.request("PUT", "/hostname/a.com/", "", &empty(code).to_string()));
        all.push_str(&api.request("GET", "/hostname/a.com/", "", ""));
        all.push_str(&api.request("GET", "/nothing/", "", ""));
    }
    api.wire.send(all);
    for code in 400..430 {
        api.wire.expect_answer().expect_made();
        assert_eq!(api.wire.expect_answer().json(), empty(code));
        api.wire.expect_answer().expect_error(404, "not_found");
    }
    // an error leaves the connection in order, a body that nobody asked for included
    for _ in 0..3 {
        api.tell("GET", "/hostname/a.com/", &json!({"x": "y"})).expect_status(200);
        api.tell("POST", "/hostname/", &json!([1, 2])).expect_error(405, "method_not_allowed");
        api.tell("PUT", "/hostname/", &json!([])).expect_error(400, "body_not_a_dict");
    }
    api.wire.expect_nothing_more();
}

#[test]
fn requests_byte_by_byte_are_read() {
    let (_daemon, mut api) = started();
    let request = api.request("PUT", "/hostname/b.com/", "", &empty(403).to_string());
    api.wire.send_slowly(request);
    api.wire.expect_answer().expect_made();
    assert_eq!(api.get("/hostname/b.com/"), empty(403));
}

/// `printf … | nc -N`: a client that has said all it has to say is taken for gone, unless its
/// answer needs nothing to be waited for. A known gap: what it asked for is done, or not, but
/// whole.
#[test]
fn half_closed_clients_have_their_change_whole_or_not_at_all() {
    let (daemon, _) = started();
    let rules: Value = (0..3000).map(|n| (format!("h{n}.com"), empty(403))).collect();
    for (method, path, body) in [
        ("GET", "/hostname/", String::new()),
        ("GET", "/stats/", String::new()),
        ("PUT", "/hostname/b.com/", empty(403).to_string()),
        ("PATCH", "/hostname/", rules.to_string()),
        ("DELETE", "/hostname/b.com/", "null".to_owned()),
    ] {
        let mut api = daemon.api();
        let request = api.request(method, path, "", &body);
        api.wire.send(request);
        api.wire.half_close();
        if let Some(head) = api.wire.try_head() {
            assert_eq!(head.status(), 200, "{method} {path}");
        }
    }
    let found = daemon.api().get("/hostname/");
    let count = found.as_object().map(serde_json::Map::len);
    assert!([Some(1), Some(2), Some(3001), Some(3002)].contains(&count), "{count:?} rules");
}

#[test]
fn clients_that_vanish_leave_nothing_behind() {
    let (daemon, mut api) = started();
    let rules: Value = (0..3000).map(|n| (format!("h{n}.com"), empty(403))).collect();
    for n in 0..60 {
        let gone = daemon.api();
        let mut gone = Api::over(gone.wire);
        let request = match n % 4 {
            0 => "GET /hostname/ HT".to_owned(),
            1 => gone.request("GET", "/hostname/", "", ""),
            2 => gone.request("PUT", "/hostname/", "", &rules.to_string()),
            _ => gone.request("GET", "/events", "", ""),
        };
        gone.wire.send(request);
        if n % 8 < 4 {
            gone.wire.reset();
        }
    }
    // what was whole may have been done; half of it was not
    let found = api.get("/hostname/");
    assert!(found == rules || found == json!({"a.com": empty(402)}));
    api.put("/hostname/", &json!({"a.com": empty(402)}));
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 402);
}

#[test]
fn text_that_is_no_head_is_refused() {
    let (daemon, _) = started();
    for bytes in [
        "GET / HTTP/1.1\r\nHost : localhost\r\n\r\n".to_owned(),
        "GET /\x01 HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        "\x16\x03\x01\x02\x00\x01\x00".to_owned() + &"\0".repeat(100) + "\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(500_000)),
        format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1000)),
    ] {
        let mut client = daemon.api();
        drop(client.wire.try_send(&bytes));
        let (answer, _) = client.wire.read_to_end();
        let shown = crate::message::show(&answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{shown}");
        assert!(!shown.contains("panicked"), "{shown}");
    }
    // two lengths, or a length and chunks: where the body ends would be a matter of opinion
    for lines in ["Content-Length: 2\r\nContent-Length: 3\r\n", "Content-Length: 2, 3\r\n"] {
        let mut client = daemon.api();
        let body = "{}\r\n\r\nGET /hostname/ HTTP/1.1\r\n\r\n";
        client
            .wire
            .send(format!("PUT /hostname/ HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n{body}"));
        let (answer, _) = client.wire.read_to_end();
        assert!(answer.starts_with(b"HTTP/1.1 400"), "{}", crate::message::show(&answer));
    }
    expect_unchanged(&daemon);
}

#[test]
fn clients_of_http_1_0_are_served() {
    let daemon = Setup::new().start();
    let rules: Value = (0..3000).map(|n| (format!("h{n:04}.com"), empty(403))).collect();
    daemon.api().put("/hostname/", &rules);
    // more than are listed at once: streamed, and without chunks for this client
    for path in ["/hostname/", "/stats/", "/healthz", "/hostname/h0001.com"] {
        let mut client = daemon.api();
        client.wire.send(format!("GET {path} HTTP/1.0\r\n\r\n"));
        let (answer, ending) = client.wire.read_to_end();
        assert_eq!(ending, Ending::Closed);
        let text = String::from_utf8(answer).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.0 200 "), "{head}");
        assert!(!head.to_ascii_lowercase().contains("transfer-encoding"), "{head}");
        let body: Value = serde_json::from_str(body).expect("JSON");
        if path == "/hostname/" {
            assert_eq!(body, rules);
        }
    }
}

/// More than are served at a time, and none says a word: they are shown the door, and who comes
/// after them is served.
#[test]
fn silent_connections_do_not_lock_others_out_for_ever() {
    let daemon = Setup::new().rule("a.com", empty(402)).management_tcp().start();
    let address = daemon.api_address();
    let held = (0..200).map(|n| {
        let mut client = Connection::client(address);
        match n % 3 {
            0 => {}
            1 => client.send("GET /hostname/ HTTP/1.1\r\nHost: loc"),
            _ => client.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"),
        }
        client
    });
    let held: Vec<Connection> = held.collect();
    let mut last = daemon.api_tcp();
    last.wire.send(last.request("GET", "/hostname/", "", ""));
    let head = last.wire.next_head().expect("an answer");
    assert_eq!(head.status(), 200);
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 402);
    drop(held);
    expect_unchanged(&daemon);
}
