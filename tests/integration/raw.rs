//! Raw TCP, and TLS that is passed through by its server name: bytes both ways, untouched, by the
//! same table.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::empty;
use crate::backend::{Backend, closed_port, rule_for};
use crate::daemon::{Daemon, Setup, eventually};
use crate::manage::Api;
use crate::message::get;
use crate::script::{Connection, Ending};
use crate::spin::{expect_held, spin};

/// `bind_tcp` for `db.com`.
fn tcp(rule: Value) -> (Daemon, Api) {
    let setup = Setup::new().set("shards", 2).add("bind_tcp", "127.0.0.1:0 DB.com");
    let daemon = setup.rule("db.com", rule).start();
    let api = daemon.api();
    (daemon, api)
}

fn connect(daemon: &Daemon) -> Connection {
    Connection::client(daemon.raw_address("TCP"))
}

/// One side ends, and the other goes on.
#[track_caller]
pub fn expect_sides_to_end_one_by_one(mut client: Connection, mut server: Connection) {
    client.half_close();
    assert_eq!(server.expect_end(), Ending::Closed);
    server.send("bye");
    client.expect_body("bye");
    drop(server);
    client.expect_close();
}

#[test]
fn bytes_go_both_ways() {
    let backend = Backend::new();
    let (daemon, mut api) = tcp(backend.rule());
    let mut client = connect(&daemon);
    let mut server = backend.accept();
    // whoever speaks first
    server.send("220 hello\r\n");
    client.expect_body("220 hello\r\n");
    client.send(b"\0\xff no HTTP at all\r\n\r\n");
    server.expect_body(b"\0\xff no HTTP at all\r\n\r\n");
    // counted while it is open
    eventually("bytes are counted", || {
        let found = api.get("/stats/db.com/");
        (&found["open_requests"], &found["bytes_received"], &found["bytes_sent"])
            == (&json!(1), &json!(21), &json!(11))
    });
    expect_sides_to_end_one_by_one(client, server);
    let found = api.counted("db.com", 1);
    assert_eq!((&found["bytes_received"], &found["bytes_sent"]), (&json!(21), &json!(14)));
}

/// Who sends and ends its side at once gets its answer all the same.
#[test]
fn client_that_ends_its_side_early_gets_its_answer() {
    let backend = Backend::new();
    let (daemon, _api) = tcp(backend.rule());
    for text in ["question", ""] {
        let mut client = connect(&daemon);
        client.send(text);
        client.half_close();
        let mut server = backend.accept();
        server.expect_body(text);
        assert_eq!(server.expect_end(), Ending::Closed);
        server.send("answer");
        drop(server);
        client.expect_body("answer");
        client.expect_close();
    }
}

#[test]
fn a_reset_is_passed_on() {
    let backend = Backend::new();
    let (daemon, _api) = tcp(backend.rule());
    let mut client = connect(&daemon);
    let mut server = backend.accept();
    client.send("x");
    server.expect_body("x");
    client.reset();
    server.expect_reset();
    let mut client = connect(&daemon);
    let mut server = backend.accept();
    client.send("x");
    server.expect_body("x");
    server.reset();
    client.expect_reset();
}

/// Large amounts both ways at once, and neither side waits for the other.
#[test]
fn bulk_passes_both_ways_at_once() {
    const BYTES: usize = 32 * 1024 * 1024;
    fn pump(stream: TcpStream, seed: u8) -> std::thread::JoinHandle<()> {
        let mut writer = stream;
        std::thread::spawn(move || {
            let mut piece: Vec<u8> = (0..65_537_u32).map(|at| (at % 251) as u8 ^ seed).collect();
            let mut left = BYTES;
            while left > 0 {
                let count = left.min(piece.len());
                writer.write_all(&piece[..count]).expect("it is read");
                left -= count;
                piece.rotate_left(1);
            }
            writer.shutdown(std::net::Shutdown::Write).expect("an end");
        })
    }
    fn check(stream: TcpStream, seed: u8) {
        let mut reader = stream;
        let mut piece: Vec<u8> = (0..65_537_u32).map(|at| (at % 251) as u8 ^ seed).collect();
        let mut found = vec![0; piece.len()];
        let mut left = BYTES;
        while left > 0 {
            let count = left.min(piece.len());
            reader.read_exact(&mut found[..count]).expect("all bytes");
            assert!(found[..count] == piece[..count], "other bytes");
            left -= count;
            piece.rotate_left(1);
        }
        assert_eq!(reader.read(&mut found).expect("an end"), 0);
    }
    let backend = Backend::new();
    let (daemon, mut api) = tcp(backend.rule());
    let client = connect(&daemon);
    let server = backend.accept();
    let pumps = [pump(client.sender(), 1), pump(server.sender(), 2)];
    std::thread::scope(|scope| {
        scope.spawn(|| check(client.sender(), 2));
        scope.spawn(|| check(server.sender(), 1));
    });
    pumps.into_iter().for_each(|pump| pump.join().expect("all was sent"));
    let found = api.counted("db.com", 1);
    let sums = (&found["bytes_received"], &found["bytes_sent"]);
    assert_eq!(sums, (&json!(BYTES), &json!(BYTES)));
}

/// `tcp://` comes before the plain name; HTTP for the same host has the plain one.
#[test]
fn rule_for_tcp_comes_before_the_plain_name() {
    let (plain, raw) = (Backend::new(), Backend::new());
    let (daemon, mut api) = tcp(plain.rule());
    api.put("/hostname/tcp://db.com/", &raw.rule());
    assert_eq!(api.get("/hostname/TCP%3A%2F%2Fdb.com/"), api.get("/hostname/tcp://db.com/"));
    let _client = connect(&daemon);
    drop(raw.accept());
    let mut http = daemon.connect();
    http.send(get("db.com", "/"));
    plain.accept().expect_head();
    api.delete("tcp://db.com");
    let _client = connect(&daemon);
    drop(plain.accept());
}

/// A connection is held without a byte of it read, and passed on whole.
#[test]
fn raw_connection_is_held_and_passed_on_whole() {
    let backend = Backend::new();
    let (daemon, mut api) = tcp(spin(json!({})));
    let mut client = connect(&daemon);
    client.send("before");
    let leaves = connect(&daemon);
    expect_held(&mut api, "db.com", 2);
    drop(leaves);
    expect_held(&mut api, "db.com", 1);
    api.put("/hostname/db.com/", &backend.rule());
    let mut server = backend.accept();
    server.expect_body("before");
    server.send("after");
    client.expect_body("after");
    backend.expect_no_connection();
    // by `hold`
    let port = closed_port();
    api.put("/hostname/db.com/", &rule_for(&[port], json!({"hold": 30})));
    let mut client = connect(&daemon);
    client.send("early");
    expect_held(&mut api, "db.com", 1);
    let backend = Backend::on(port);
    // probes come and go
    let mut server = loop {
        let mut server = backend.accept();
        let mut first = [0];
        if server.read_or_end(&mut first).is_some() {
            assert_eq!(&first, b"e");
            break server;
        }
    };
    server.expect_body("arly");
    server.send("there");
    client.expect_body("there");
}

/// What is neither `proxy` nor `spin` closes it; so does a spin that is over, and a backend that is
/// not there.
#[test]
fn rules_that_lead_to_no_backend_close_the_connection() {
    let (daemon, mut api) = tcp(empty(403));
    for rule in [
        empty(403),
        json!(["redirect", {"redirect_to": "a.com"}, false]),
        json!(["static", {"type": "test"}, false]),
        json!(["unknown", {}, false]),
        spin(json!({"timeout": 0})),
        rule_for(&[closed_port()], json!({})),
    ] {
        api.put("/hostname/db.com/", &rule);
        connect(&daemon).expect_end();
    }
    api.delete("db.com");
    connect(&daemon).expect_end();
}

/// An HTTP connection that idles in the pool is not what a raw connection may use, but it counts.
#[test]
fn max_connections_counts_both_kinds() {
    let backend = Backend::new();
    let (daemon, _api) = tcp(rule_for(&[backend.port], json!({"max_connections": 1})));
    let mut http = daemon.connect();
    http.send(get("db.com", "/"));
    let mut idle = backend.accept();
    idle.expect_head();
    idle.send(crate::message::ok("hello"));
    http.expect_answer();
    let mut client = connect(&daemon);
    client.send("raw");
    assert_eq!(idle.expect_end(), Ending::Closed, "it made room");
    let mut server = backend.accept();
    server.expect_body("raw");
    // and the next HTTP request waits for it
    http.send(get("db.com", "/"));
    backend.expect_no_connection();
    drop((client, server));
    backend.accept().expect_head();
}

// ---- TLS

fn tls(rules: &[(&str, Value)]) -> (Daemon, Api) {
    let setup = Setup::new().set("shards", 2).add("bind_tls", "127.0.0.1:0");
    let setup = rules.iter().fold(setup, |setup, (host, rule)| setup.rule(host, rule.clone()));
    let daemon = setup.start();
    let api = daemon.api();
    (daemon, api)
}

pub fn connect_tls(daemon: &Daemon) -> Connection {
    Connection::client(daemon.raw_address("TLS"))
}

/// A ClientHello with this name, or none, in records of at most so many bytes.
pub fn hello(name: Option<&str>, each: usize) -> Vec<u8> {
    let mut extensions = vec![0x1a, 0x1a, 0, 0];
    if let Some(name) = name {
        let length = name.len() as u16;
        extensions.extend([0, 0]);
        extensions.extend((length + 5).to_be_bytes());
        extensions.extend((length + 3).to_be_bytes());
        extensions.push(0);
        extensions.extend(length.to_be_bytes());
        extensions.extend(name.as_bytes());
    }
    let mut body = vec![3, 3];
    body.extend([9; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let length = (body.len() as u32).to_be_bytes();
    let message = [&[1], &length[1..], &body].concat();
    let record = |part: &[u8]| [&[22, 3, 1], &(part.len() as u16).to_be_bytes()[..], part].concat();
    message.chunks(each).flat_map(record).collect()
}

const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

#[test]
fn tls_goes_where_its_name_says() {
    let (a, b) = (Backend::new(), Backend::new());
    let (daemon, _) = tls(&[("a.com", a.rule()), ("b.com", b.rule())]);
    for (name, backend) in [("a.com", &a), ("B.COM", &b), ("www.a.com", &a)] {
        for each in [10_000, 30, 1] {
            let mut client = connect_tls(&daemon);
            let hello = hello(Some(name), each);
            client.send_slowly(&hello);
            let mut server = backend.accept();
            // untouched, to the byte
            server.expect_body(&hello);
            server.send("server hello");
            client.expect_body("server hello");
            client.send("more");
            server.expect_body("more");
        }
    }
    assert_eq!(daemon.api().counted("b.com", 3)["bytes_sent"], 36);
}

#[test]
fn hello_is_counted_once() {
    let backend = Backend::new();
    let (daemon, mut api) = tls(&[("a.com", backend.rule()), ("b.com", empty(403))]);
    let mut client = connect_tls(&daemon);
    client.send(hello(Some("a.com"), 100));
    backend.accept().expect_body(hello(Some("a.com"), 100));
    client.send("more");
    let length = hello(Some("a.com"), 100).len();
    eventually("all bytes are counted", || {
        api.get("/stats/a.com/")["bytes_received"] == length + 4
    });
    let mut client = connect_tls(&daemon);
    client.send(hello(Some("b.com"), 100));
    client.read_exactly(UNRECOGNIZED_NAME.len());
    drop(client);
    assert_eq!(api.counted("b.com", 1)["bytes_received"], length);
}

/// `tls://` before `https://` before the plain name.
#[test]
fn rule_for_tls_comes_before_that_for_https() {
    let backends = [Backend::new(), Backend::new(), Backend::new()];
    let names = ["tls://a.com", "https://a.com", "a.com"];
    let rules: Vec<_> =
        names.iter().zip(&backends).map(|(name, backend)| (*name, backend.rule())).collect();
    let (daemon, mut api) = tls(&rules);
    for (name, backend) in names.iter().zip(&backends) {
        let mut client = connect_tls(&daemon);
        client.send(hello(Some("a.com"), 100));
        backend.accept().expect_body(hello(Some("a.com"), 100));
        // below it as well
        let mut client = connect_tls(&daemon);
        client.send(hello(Some("x.a.com"), 100));
        backend.accept().expect_body(hello(Some("x.a.com"), 100));
        api.delete(name);
    }
}

#[test]
fn unknown_server_name_gets_an_alert() {
    let (daemon, mut api) = tls(&[("a.com", empty(403))]);
    for (bytes, alert) in [
        (hello(Some("b.com"), 1000), 112),
        (hello(None, 1000), 112),
        (hello(Some("a.com"), 1000), 49),
        (hello(Some("a.com:443"), 1000), 112),
        (hello(Some(""), 1000), 112),
        (b"GET / HTTP/1.1\r\nHost: a.com\r\n\r\n".to_vec(), 50),
        (vec![22, 3, 1, 0, 4, 1, 1, 0, 0], 50),
    ] {
        let mut client = connect_tls(&daemon);
        client.send(&bytes);
        let mut expected = UNRECOGNIZED_NAME;
        expected[6] = alert;
        client.expect_body(expected);
        client.half_close();
        client.expect_close();
    }
    // not there now, and held for too long
    for rule in [rule_for(&[closed_port()], json!({})), spin(json!({"timeout": 0}))] {
        api.put("/hostname/a.com/", &rule);
        let mut client = connect_tls(&daemon);
        client.send(hello(Some("a.com"), 1000));
        client.expect_body([21, 3, 3, 0, 2, 2, 80]);
    }
}

/// A hello that does not come, or not to its end.
#[test]
fn slow_hellos_are_cut_off() {
    let backend = Backend::new();
    let setup = Setup::new().add("bind_tls", "127.0.0.1:0").set("timeout_http_request", "300ms");
    let daemon = setup.rule("a.com", backend.rule()).start();
    let began = Instant::now();
    for bytes in [&[][..], &hello(Some("a.com"), 1000)[..20]] {
        let mut client = connect_tls(&daemon);
        client.send(bytes);
        client.expect_end();
    }
    let took = began.elapsed();
    assert!(Duration::from_millis(580) < took && took < Duration::from_secs(5), "{took:?}");
    backend.expect_no_connection();
}

/// A browser waits through a restart.
#[test]
fn connection_of_tls_is_held() {
    let backend = Backend::new();
    let (daemon, mut api) = tls(&[("a.com", spin(json!({})))]);
    let mut client = connect_tls(&daemon);
    client.send(hello(Some("a.com"), 40));
    expect_held(&mut api, "a.com", 1);
    client.send("early data");
    api.put("/hostname/a.com/", &backend.rule());
    let mut server = backend.accept();
    server.expect_body(hello(Some("a.com"), 40));
    server.expect_body("early data");
    server.send("hello");
    client.expect_body("hello");
}

// ---- programs that others wrote

/// Two nginx with certificates of their own; `None` where nginx or openssl is missing.
fn sites(setup: &Setup) -> Option<Vec<(Child, u16)>> {
    let run = |program: &str, arguments: &[&str]| {
        let done = Command::new(program).args(arguments).output();
        done.is_ok_and(|done| done.status.success())
    };
    let start = |name: &str| {
        let port = closed_port();
        let path = |kind: &str| setup.path(&format!("{name}.{kind}")).display().to_string();
        let (key, certificate) = (path("key"), path("pem"));
        let subject = format!("/CN={name}");
        let arguments = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"];
        let more = ["-keyout", &key, "-out", &certificate, "-subj", &subject];
        if !run("openssl", &[&arguments[..], &more].concat()) {
            return None;
        }
        let config = path("conf");
        let text = format!(
            "daemon off; master_process off; pid {}; error_log {}; events {{}}\n\
             http {{ access_log off; client_body_temp_path {}; proxy_temp_path {};\n\
             fastcgi_temp_path {}; uwsgi_temp_path {}; scgi_temp_path {};\n\
             server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {certificate};\n\
             ssl_certificate_key {key}; location / {{ return 200 'this is {name}'; }} }} }}",
            path("pid"),
            path("log"),
            path("t1"),
            path("t2"),
            path("t3"),
            path("t4"),
            path("t5")
        );
        std::fs::write(&config, text).expect("a configuration");
        let mut nginx = Command::new("nginx");
        nginx.args(["-c", &config, "-e", &path("log")]).stderr(Stdio::null());
        let child = nginx.spawn().ok()?;
        eventually("nginx listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Some((child, port))
    };
    ["one.test", "two.test"].into_iter().map(start).collect()
}

/// curl gets the certificate and the page of whom it calls; openssl gets the alert where there is
/// nobody.
#[test]
fn curl_and_openssl_reach_the_site_that_they_name() {
    let setup = Setup::new().add("bind_tls", "127.0.0.1:0");
    let has_curl = Command::new("curl").arg("--version").output().is_ok();
    let Some(mut sites) = sites(&setup).filter(|_| has_curl) else {
        return eprintln!("skipped: no nginx, openssl or curl here");
    };
    let rule = |port: u16| rule_for(&[port], json!({}));
    let daemon =
        setup.rule("one.test", rule(sites[0].1)).rule("tls://two.test", rule(sites[1].1)).start();
    let address = daemon.raw_address("TLS");
    for name in ["one.test", "two.test", "www.one.test"] {
        let resolve = format!("{name}:{}:127.0.0.1", address.port());
        let url = format!("https://{name}:{}/", address.port());
        let asked = ["-sk", "--max-time", "10", "-w", " %{ssl_verify_result}", "--resolve"];
        let done = Command::new("curl").args(asked).args([&resolve, &url]).output();
        let done = done.expect("curl");
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        let whom = name.trim_start_matches("www.");
        assert!(text.starts_with(&format!("this is {whom} ")), "{name}: {text:?}");
        let connect = ["s_client", "-servername", name, "-connect"];
        let done = Command::new("openssl")
            .args(connect)
            .arg(address.to_string())
            .stdin(Stdio::null())
            .output()
            .expect("openssl");
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(
            text.contains(&format!("CN = {whom}")) || text.contains(&format!("CN={whom}")),
            "{text}"
        );
    }
    let nobody = ["s_client", "-servername", "nobody.test", "-connect"];
    let done = Command::new("openssl")
        .args(nobody)
        .arg(address.to_string())
        .stdin(Stdio::null())
        .output()
        .expect("openssl");
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(told.contains("unrecognized name"), "{told}");
    for (child, _) in &mut sites {
        drop(child.kill());
        drop(child.wait());
    }
}

/// Redis behind `bind_tcp`: its own client notices nothing, and waits through a restart.
#[test]
fn redis_client_waits_through_a_restart() {
    let port = closed_port();
    let setup = Setup::new().add("bind_tcp", "127.0.0.1:0 redis.test");
    let start = || {
        Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(setup.path(""))
            .args(["--appendonly", "yes"])
            .stdout(Stdio::null())
            .spawn()
    };
    let Ok(mut redis) = start() else {
        return eprintln!("skipped: no redis-server here (Debian: apt-get install redis-server)");
    };
    let daemon = setup.clone().rule("redis.test", rule_for(&[port], json!({"hold": 30}))).start();
    let address = daemon.raw_address("TCP");
    let cli = |words: &[&str]| {
        let done = Command::new("redis-cli")
            .args(["-h", "127.0.0.1", "-p", &address.port().to_string()])
            .args(words)
            .output()
            .expect("redis-cli");
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    };
    assert_eq!(cli(&["set", "a", "1"]), "OK");
    assert_eq!(cli(&["incr", "a"]), "2");
    drop(cli(&["shutdown"]));
    drop(redis.wait());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| cli(&["incr", "a"]));
        expect_held(&mut daemon.api(), "redis.test", 1);
        let mut redis = start().expect("redis-server");
        assert_eq!(waiting.join().expect("an answer"), "3");
        drop(redis.kill());
        drop(redis.wait());
    });
}
