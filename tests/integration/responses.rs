//! Answers of backends in every shape, and what the client makes of them.

use serde_json::json;

use crate::backend::Backend;
use crate::daemon::{Daemon, Setup, asked_for};
use crate::message::{Framing, assert_same, chunk, get, ok, show};
use crate::script::{Connection, Ending, find};

/// A daemon, its backend, a client, and the backend's connection on which a request has arrived.
struct Scene {
    daemon: Daemon,
    backend: Backend,
    client: Connection,
    server: Connection,
}

#[track_caller]
fn after(request: impl AsRef<[u8]>) -> Scene {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let (client, server) = asked_for(&daemon, &backend, request);
    Scene { daemon, backend, client, server }
}

impl Scene {
    /// Both connections serve another request.
    #[track_caller]
    fn goes_on(&mut self) {
        self.client.expect_nothing_more();
        self.client.send(get("a.com", "/next"));
        self.server.expect_request("GET /next HTTP/1.1");
        self.server.send(ok("next"));
        self.client.expect_status(200);
        self.client.expect_body("next");
    }

    /// The client's connection serves another request, over a new one to the backend.
    #[track_caller]
    fn goes_on_without_the_server(&mut self) {
        self.server.expect_end();
        self.client.expect_nothing_more();
        self.client.send(get("a.com", "/next"));
        self.server = self.backend.accept();
        self.server.expect_request("GET /next HTTP/1.1");
        self.server.send(ok("next"));
        self.client.expect_status(200);
        self.client.expect_body("next");
    }
}

fn request(method: &str) -> String {
    format!("{method} / HTTP/1.1\r\nHost: a.com\r\n\r\n")
}

#[test]
fn responses_without_a_body_by_nature_end_with_their_head() {
    for (method, answer, status) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", 200),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200),
        ("HEAD", "HTTP/1.1 404 Not Found\r\n\r\n", 404),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("GET", "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 1000\r\n\r\n", 304),
        ("POST", "HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200),
    ] {
        let mut scene = after(request(method));
        scene.server.send(answer);
        let head = scene.client.expect_status(status);
        if answer.contains("1000") {
            assert_eq!(head.field("Content-Length"), Some("1000"), "{method}: {head:#?}");
        }
        scene.goes_on();
    }
}

#[test]
fn chunks_pass_as_they_came() {
    for body in [
        "0\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "005;x=y\r\nhello\r\nA\r\n0123456789\r\n0\r\nX-Trailer: t\r\n\r\n",
    ] {
        let mut scene = after(request("GET"));
        scene
            .server
            .send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Trailer\r\n\r\n");
        let head = scene.client.expect_status(200);
        assert_eq!(head.framing(), Framing::Chunked);
        scene.server.send_slowly(body);
        assert_same("the chunks", body.as_bytes(), &scene.client.expect_chunked().wire);
        scene.goes_on();
    }
}

/// A head in front of a body where that was received takes room that the backend's head had. Here
/// there is too little room, enough, and much; each body has bytes of its own.
#[test]
fn bodies_of_each_size_follow_heads_that_grow_and_shrink() {
    let bytes_of = |size: usize, seed: usize| -> Vec<u8> {
        (0..size).map(|at| b'a' + ((at * 7 + seed) % 26) as u8).collect()
    };
    let backend = Backend::new().serve(move |head, server| {
        let mut parts = head.target().trim_start_matches('/').split('/');
        let framing = parts.next().expect("a framing");
        let mut number = || parts.next().and_then(|text| text.parse().ok()).expect("a number");
        let body = bytes_of(number(), number());
        let kept = format!("HTTP/1.1 200 OK\r\nX-Long: {}\r\n", "l".repeat(500));
        let chunked = |last: &str| {
            let (first, second) = body.split_at(body.len() / 2);
            let begin = b"Transfer-Encoding: chunked\r\n\r\n".to_vec();
            [begin, chunk(first), chunk(second), last.into()].concat()
        };
        let rest = match framing {
            "length" => [format!("Content-Length: {}\r\n\r\n", body.len()).into(), body].concat(),
            "chunks" => chunked("0\r\n\r\n"),
            "trailers" => chunked("0\r\nX-Trailer: t\r\n\r\n"),
            other => panic!("{other}"),
        };
        drop(server.try_send([kept.into_bytes(), rest].concat()));
    });
    let fields = |fields: serde_json::Value| backend.rule_with(json!({ "set_response": fields }));
    let daemon = Setup::new()
        .rule("same.com", backend.rule())
        .rule("shrinks.com", fields(json!({ "X-Long": null })))
        .rule("grows.com", fields(json!({ "X-Added": "a".repeat(900) })))
        .start();
    let sizes = [2, 2047, 2048, 2049, 4000, 16_384, 19_000, 20_479, 20_480, 24_000, 40_000];
    let mut seed = 0;
    for host in ["same.com", "shrinks.com", "grows.com"] {
        let mut client = daemon.connect();
        for framing in ["length", "chunks", "trailers"] {
            for size in sizes {
                seed += 1;
                let answer = client.exchange(get(host, &format!("/{framing}/{size}/{seed}")));
                assert_same(&format!("{host} {framing}"), &bytes_of(size, seed), &answer.body);
                assert_eq!(answer.head.field("X-Long").is_some(), host != "shrinks.com");
                assert_eq!(answer.head.field("X-Added").is_some(), host == "grows.com");
            }
        }
        // The responses of an HTTP/1.0 client are decoded.
        for size in sizes {
            seed += 1;
            let mut client = daemon.connect();
            client.send(format!("GET /chunks/{size}/{seed} HTTP/1.0\r\nHost: {host}\r\n\r\n"));
            client.expect_status(200);
            assert_same(host, &bytes_of(size, seed), &client.read_to_end().0);
        }
    }
}

#[test]
fn response_until_close_is_passed_on() {
    let mut scene = after(request("GET"));
    scene.server.send("HTTP/1.1 200 OK\r\n\r\nhello ");
    let head = scene.client.expect_status(200);
    scene.server.send("world");
    // either the client's connection ends with it, or the daemon frames it anew
    drop(scene.server);
    match head.framing() {
        Framing::UntilClose => {
            assert!(head.says_close(), "{head:#?}");
            let (body, ending) = scene.client.read_to_end();
            assert_same("the body", b"hello world", &body);
            assert_eq!(ending, Ending::Closed);
        }
        Framing::Chunked => assert_eq!(scene.client.expect_chunked().data, b"hello world"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn response_until_close_that_is_reset_looks_cut_off() {
    let mut scene = after(request("GET"));
    scene.server.send("HTTP/1.1 200 OK\r\n\r\nhello");
    let head = scene.client.expect_status(200);
    scene.client.expect_body(if head.framing() == Framing::Chunked {
        "5\r\nhello\r\n"
    } else {
        "hello"
    });
    scene.server.reset();
    let (rest, ending) = scene.client.read_to_end();
    assert_same("what follows a reset", b"", &rest);
    if head.framing() == Framing::UntilClose {
        assert_eq!(ending, Ending::Reset, "a cut-off body must not end cleanly");
    }
}

#[test]
fn an_old_client_gets_chunks_decoded() {
    for connection in ["", "Connection: keep-alive\r\n"] {
        let mut scene = after(format!("GET / HTTP/1.0\r\nHost: a.com\r\n{connection}\r\n"));
        scene.server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n");
        scene.server.send("5;a=b\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\nX: trailer\r\n\r\n");
        let head = scene.client.expect_status(200);
        assert_eq!(
            (head.framing(), head.field("Trailer")),
            (Framing::UntilClose, None),
            "{head:#?}"
        );
        let (body, ending) = scene.client.read_to_end();
        assert_same("the decoded body", b"hello world", &body);
        assert_eq!(ending, Ending::Closed);
    }
}

#[test]
fn an_old_client_sees_a_cut_off_body_cut_off() {
    let mut scene = after("GET / HTTP/1.0\r\nHost: a.com\r\n\r\n");
    scene.server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    scene.client.expect_status(200);
    scene.client.expect_body("hello");
    drop(scene.server);
    scene.client.expect_reset();
}

#[test]
fn response_100_is_passed_on() {
    let mut scene = after(
        "POST / HTTP/1.1\r\nHost: a.com\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    );
    scene.server.expect_nothing_more();
    scene.client.expect_nothing_more();
    scene.server.send("HTTP/1.1 100 Continue\r\n\r\n");
    scene.client.expect_status(100);
    scene.client.send("hello");
    scene.server.expect_body("hello");
    scene.server.send(ok("done"));
    assert_eq!(scene.client.expect_answer().text(), "done");
    scene.goes_on();
}

#[test]
fn other_interim_answers_are_passed_on() {
    let mut scene = after(request("GET"));
    scene.server.send("HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n");
    let hints = scene.client.expect_status(103);
    assert_eq!(hints.field("Link"), Some("</style.css>"));
    scene.server.send("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n");
    scene.client.expect_status(102);
    scene.client.expect_status(103);
    scene.server.send(ok("done"));
    assert_eq!(scene.client.expect_answer().text(), "done");
    scene.goes_on();
}

#[test]
fn an_old_client_gets_no_interim_answer() {
    let mut scene = after("GET / HTTP/1.0\r\nHost: a.com\r\n\r\n");
    scene.server.send("HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n");
    scene.server.send(ok("done"));
    scene.client.expect_status(200);
    scene.client.expect_body("done");
    scene.client.expect_close();
}

#[test]
fn expectation_refused_by_the_backend_is_passed_on() {
    let mut scene = after(
        "POST / HTTP/1.1\r\nHost: a.com\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    );
    scene
        .server
        .send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    scene.client.expect_status(413);
    // whether the client still sends its body is its choice: nothing of it may become a request
    drop(scene.client.try_send("GET /x HTTP/1.1\r\nHost: a.com\r\n\r\n"));
    let (rest, _ending) = scene.client.read_to_end();
    assert!(find(&rest, b"HTTP/1.1 200").is_none(), "{}", show(&rest));
    scene.backend.expect_no_connection();
}

#[test]
fn surplus_after_an_answer_is_dropped() {
    for (method, answer, surplus) in [
        ("GET", ok("right"), "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"),
        ("GET", ok("right"), "x"),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".to_vec(), "wrong"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(), "wrong"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n".to_vec(), "wrong"),
        (
            "GET",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nright\r\n0\r\n\r\n"
                .to_vec(),
            "5\r\nwrong\r\n0\r\n\r\n",
        ),
    ] {
        let mut scene = after(request(method));
        scene.server.send([answer.as_slice(), surplus.as_bytes()].concat());
        let head = scene.client.expect_head();
        match head.framing() {
            _ if method == "HEAD" => (),
            Framing::None => (),
            Framing::Chunked => assert_eq!(scene.client.expect_chunked().data, b"right"),
            _ => scene.client.expect_body("right"),
        }
        scene.goes_on_without_the_server();
    }
}

#[test]
fn a_short_body_never_looks_whole() {
    for (answer, came) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", "hello"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "5\r\nhello\r\n"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
            "5\r\nhello\r\n",
        ),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhello", "9\r\nhello"),
    ] {
        let mut scene = after(request("GET"));
        scene.server.send(answer);
        scene.client.expect_status(200);
        drop(scene.server);
        let (found, _ending) = scene.client.read_to_end();
        let (found, came) = (&found[..], came.as_bytes());
        // the size line of the last chunk may have passed, the end of the body not
        let rest = found.strip_prefix(came).unwrap_or_else(|| panic!("{}", show(found)));
        assert!(b"0\r\n".starts_with(rest), "{answer:?}: more than was sent: {}", show(rest));
    }
}

#[test]
fn chunks_that_break_never_look_whole() {
    for broken in [
        "x\r\n",
        "\r\n",
        "5 \r\n",
        "ffffffffffffffffff\r\n",
        "5\nhello",
        "0\n\r\n",
        "0\r\nX : y\r\n\r\n",
    ] {
        let mut scene = after(request("GET"));
        scene.server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n");
        scene.client.expect_status(200);
        scene.client.expect_body("2\r\nok\r\n");
        scene.server.send(format!("{broken}0\r\n\r\n"));
        let (found, _ending) = scene.client.read_to_end();
        let whole = find(&found, b"0\r\n\r\n").is_some() || found.ends_with(b"\r\n\r\n");
        assert!(!whole, "{broken:?}: the client saw a whole body:\n{}", show(&found));
        scene.server.expect_end();
    }
}

#[test]
fn an_ambiguous_answer_is_a_502() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello!",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
        "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 abc OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "hello\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
    ] {
        let mut scene = after(request("GET"));
        scene.server.send(answer);
        let got = scene.client.expect_answer();
        assert_eq!(got.status(), 502, "to {answer:?}: {}", got.text());
        scene.server.expect_end();
    }
}

#[test]
fn an_answer_whose_head_is_too_large_is_a_502() {
    let mut scene = after(request("GET"));
    drop(
        scene.server.try_send(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(100 * 1024))),
    );
    assert_eq!(scene.client.expect_answer().status(), 502);
    scene.server.expect_end();
    drop(scene.daemon);
}
