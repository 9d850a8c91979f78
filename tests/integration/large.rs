//! Large bodies: every byte arrives, both directions are independent, and whoever does not read
//! stops the other side instead of filling our memory.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::backend::Backend;
use crate::bulk::{MIB, bytes_at, expect_chunked, expect_plain, send_chunked, send_plain};
use crate::daemon::{Daemon, Setup, asked_for, eventually};
use crate::message::{get, ok, show};
use crate::script::{Connection, find};

const LARGE: usize = 100 * MIB;

fn thread_with(
    connection: &Connection,
    send: impl FnOnce(&mut TcpStream) -> std::io::Result<()> + Send + 'static,
) -> JoinHandle<std::io::Result<()>> {
    let mut stream = connection.sender();
    std::thread::spawn(move || send(&mut stream))
}

fn finish(sending: JoinHandle<std::io::Result<()>>) {
    sending.join().expect("the sending thread").expect("everything was taken");
}

/// A client's request for `/` has arrived at the backend.
fn asked() -> (Daemon, Connection, Connection) {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let (client, server) = crate::daemon::asked(&daemon, &backend);
    (daemon, client, server)
}

/// The backend answers with so many bytes, and the client gets each of them.
#[track_caller]
fn expect_down(client: &mut Connection, server: &mut Connection, size: usize, padding: &str) {
    let head = format!("HTTP/1.1 200 OK\r\nX-Padding: {padding}\r\nContent-Length: {size}\r\n\r\n");
    let sending = thread_with(server, move |stream| {
        stream.write_all(head.as_bytes())?;
        send_plain(stream, 0, size)
    });
    assert_eq!(client.expect_status(200).field("x-padding"), Some(padding));
    expect_plain(client, 0, size);
    finish(sending);
}

#[test]
fn large_response_with_a_length_arrives_whole() {
    let (_daemon, mut client, mut server) = asked();
    server.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"));
    let sending = thread_with(&server, |stream| send_plain(stream, 0, LARGE));
    client.expect_status(200);
    expect_plain(&mut client, 0, LARGE);
    finish(sending);
    assert_goes_on(&mut client, &mut server);
}

#[test]
fn large_response_in_chunks_arrives_whole() {
    let (_daemon, mut client, mut server) = asked();
    server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    let sending = thread_with(&server, |stream| send_chunked(stream, LARGE));
    client.expect_status(200);
    expect_chunked(&mut client, LARGE);
    finish(sending);
    assert_goes_on(&mut client, &mut server);
}

#[test]
fn large_response_until_close_arrives_whole() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let (mut client, mut server) =
        asked_for(&daemon, &backend, "GET / HTTP/1.0\r\nHost: a.com\r\n\r\n");
    server.send("HTTP/1.0 200 OK\r\n\r\n");
    let sending = thread_with(&server, |stream| send_plain(stream, 0, LARGE));
    client.expect_status(200);
    expect_plain(&mut client, 0, LARGE);
    finish(sending);
    server.half_close();
    client.expect_close();
}

#[test]
fn large_upload_with_a_length_arrives_whole() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    client.send(format!("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: {LARGE}\r\n\r\n"));
    let sending = thread_with(&client, |stream| send_plain(stream, 0, LARGE));
    let mut server = backend.accept();
    server.expect_head();
    expect_plain(&mut server, 0, LARGE);
    finish(sending);
    server.send(ok("got it"));
    assert_eq!(client.expect_answer().text(), "got it");
    assert_goes_on(&mut client, &mut server);
}

#[test]
fn large_upload_in_chunks_arrives_whole() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    client.send("POST / HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\n\r\n");
    let sending = thread_with(&client, |stream| send_chunked(stream, LARGE));
    let mut server = backend.accept();
    server.expect_head();
    expect_chunked(&mut server, LARGE);
    finish(sending);
    server.send(ok("got it"));
    assert_eq!(client.expect_answer().text(), "got it");
    assert_goes_on(&mut client, &mut server);
}

#[test]
fn large_bodies_pass_both_ways_at_once() {
    const TOTAL: usize = 32 * MIB;
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    client.send(format!("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: {TOTAL}\r\n\r\n"));
    let uploading = thread_with(&client, |stream| send_plain(stream, 0, TOTAL));
    let mut server = backend.accept();
    server.expect_head();
    server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    let downloading = thread_with(&server, |stream| send_chunked(stream, TOTAL));
    let receiving = std::thread::spawn(move || {
        expect_plain(&mut server, 0, TOTAL);
        server
    });
    client.expect_status(200);
    expect_chunked(&mut client, TOTAL);
    finish(uploading);
    finish(downloading);
    let mut server = receiving.join().expect("the whole upload");
    assert_goes_on(&mut client, &mut server);
}

/// Behind a large answer the next is expected to be large, too: whatever comes instead arrives
/// whole.
#[test]
fn responses_of_every_size_follow_a_large_one() {
    let (_daemon, mut client, mut server) = asked();
    let sizes = [0, 1, 800, 1024, 5_000, 16 * 1024, 31_000, 33_000, 65_536, 200_000, 3 * MIB];
    // a head that is shorter than what is looked at first, and one that is longer
    let long = "x".repeat(3_000);
    for (size, padding) in sizes.into_iter().flat_map(|size| [(size, "x"), (size, &long)]) {
        for size in [100_000, size] {
            expect_down(&mut client, &mut server, size, padding);
            client.send(get("a.com", "/"));
            server.expect_head();
        }
    }
    server.send(ok("the same connection"));
    assert_eq!(client.expect_answer().text(), "the same connection");
    assert_goes_on(&mut client, &mut server);
}

/// A head and the beginning of a body are not kept until more of it comes.
#[test]
fn partial_response_is_forwarded_at_once() {
    let (_daemon, mut client, mut server) = asked();
    for _ in 0..2 {
        server.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {MIB}\r\n\r\n"));
        client.expect_status(200);
        for (from, to) in [(0, 10), (10, 70_000), (70_000, 130_000), (130_000, MIB)] {
            let sending = thread_with(&server, move |stream| send_plain(stream, from, to));
            expect_plain(&mut client, from, to);
            finish(sending);
        }
        client.send(get("a.com", "/"));
        server.expect_head();
    }
}

/// The head is on its way together with its body when the backend ends: the client gets what there
/// was.
#[test]
fn large_response_that_ends_behind_its_head_looks_cut_off() {
    let (_daemon, mut client, mut server) = asked();
    expect_down(&mut client, &mut server, MIB, "x");
    client.send(get("a.com", "/"));
    server.expect_head();
    server.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {MIB}\r\n\r\n"));
    server.half_close();
    client.expect_status(200);
    client.expect_end();
}

#[track_caller]
fn assert_goes_on(client: &mut Connection, server: &mut Connection) {
    client.expect_nothing_more();
    server.expect_nothing_more();
    client.send(get("a.com", "/next"));
    server.expect_request("GET /next HTTP/1.1");
    server.send(ok("next"));
    assert_eq!(client.expect_answer().text(), "next");
}

/// Around the sizes at which buffers fill and copying gives way to splicing.
#[test]
fn bodies_of_every_size_arrive_whole() {
    let backend = Backend::new().serve(|head, server| {
        let size: usize = head.target()[1..].parse().expect("a size");
        let mut stream = server.sender();
        server.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n"));
        drop(send_plain(&mut stream, 0, size));
    });
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    for power in 9..23 {
        for size in [(1 << power) - 1, 1 << power, (1 << power) + 1] {
            client.send(get("a.com", &format!("/{size}")));
            client.expect_status(200);
            expect_plain(&mut client, 0, size);
        }
    }
    assert_eq!(backend.connections(), 1);
}

#[test]
fn many_clients_get_a_mebibyte_many_times() {
    let backend = Backend::new().serve(|_, server| {
        server.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {MIB}\r\n\r\n"));
        drop(send_plain(&mut server.sender(), 0, MIB));
    });
    let daemon = Setup::new().set("shards", 2).rule("a.com", backend.rule()).start();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let mut client = daemon.connect();
            std::thread::spawn(move || {
                for _ in 0..20 {
                    client.send(get("a.com", "/"));
                    client.expect_status(200);
                    expect_plain(&mut client, 0, MIB);
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("a client");
    }
    assert_eq!(backend.requests(), 160);
}

/// The answer comes while the body is still being sent, and must not wait for its end; the body is
/// no less wanted for that, nor the connections.
#[test]
fn r0002_early_response_arrives_during_its_upload() {
    const TOTAL: usize = 16 * MIB;
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    client.send(format!("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: {TOTAL}\r\n\r\n"));
    client.send(bytes_at(0, 1000));
    let mut server = backend.accept();
    server.expect_head();
    server.send(ok("early"));
    assert_eq!(client.expect_answer().text(), "early");
    let sending = thread_with(&client, |stream| send_plain(stream, 1000, TOTAL));
    expect_plain(&mut server, 0, TOTAL);
    finish(sending);
    assert_goes_on(&mut client, &mut server);
}

/// The same, for a client that wants its connection closed: that waits until it has said
/// everything.
#[test]
fn early_response_to_a_last_request_arrives() {
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let request = "POST / HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n\
                   Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n";
    let (mut client, mut server) = asked_for(&daemon, &backend, request);
    server.expect_body("5\r\nfirst\r\n");
    server.send(ok("early"));
    assert_eq!(client.expect_answer().text(), "early");
    client.expect_nothing_more();
    client.send("6\r\nsecond\r\n0\r\n\r\n");
    server.expect_body("6\r\nsecond\r\n0\r\n\r\n");
    client.expect_end();
}

/// What breaks behind an early answer can't be answered any more: the backend sees the body cut
/// off.
#[test]
fn upload_that_breaks_behind_its_response_ends_the_connection() {
    let backend = Backend::new();
    // The one that is silent has time enough for what comes before.
    let daemon = Setup::new().rule("a.com", backend.rule()).set("timeout_client", "3s").start();
    let endings: [fn(Connection) -> Option<Connection>; 4] = [
        |mut client| {
            client.send("?\r\n");
            Some(client)
        },
        |mut client| {
            client.half_close();
            Some(client)
        },
        |client| {
            client.reset();
            None
        },
        // silence
        Some,
    ];
    for end in endings {
        let request =
            "POST / HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst";
        let (mut client, mut server) = asked_for(&daemon, &backend, request);
        server.send(ok("early"));
        assert_eq!(client.expect_answer().text(), "early");
        let client = end(client);
        server.expect_body("5\r\nfirst");
        server.expect_end();
        if let Some(mut client) = client {
            client.expect_end();
        }
    }
}

/// The backend answers and closes with the upload unread, as many do for a 413.
#[test]
fn r0002_early_response_arrives_though_its_backend_closes() {
    const TOTAL: usize = 64 * MIB;
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    client.send(format!("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: {TOTAL}\r\n\r\n"));
    let sending = thread_with(&client, |stream| send_plain(stream, 0, TOTAL));
    let mut server = backend.accept();
    server.expect_head();
    expect_plain(&mut server, 0, MIB);
    server.send(
        "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nno!",
    );
    server.half_close();
    let answer = client.expect_answer();
    assert_eq!((answer.status(), answer.text().as_str()), (413, "no!"));
    drop(server);
    drop(sending.join());
    backend.expect_no_connection();
}

#[test]
fn a_client_that_stops_reading_stops_the_backend_and_can_go_on() {
    const TOTAL: usize = 64 * MIB;
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut client = Connection::client_with_small_buffer(daemon.address());
    client.send(get("a.com", "/"));
    let mut server = backend.accept();
    server.expect_head();
    server.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {TOTAL}\r\n\r\n"));
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let sending = thread_with(&server, move |stream| {
        for at in (0..TOTAL).step_by(64 * 1024) {
            send_plain(stream, at, at + 64 * 1024)?;
            counter.fetch_add(64 * 1024, Ordering::SeqCst);
        }
        Ok(())
    });
    expect_stalled(&sent);
    assert!(sent.load(Ordering::SeqCst) < 32 * MIB, "the backend was not stopped");
    client.expect_status(200);
    expect_plain(&mut client, 0, TOTAL);
    finish(sending);
}

/// The count stands still for a while.
#[track_caller]
fn expect_stalled(count: &AtomicUsize) {
    let seen = AtomicUsize::new(usize::MAX);
    let unchanged = AtomicUsize::new(0);
    eventually("sending stalls", || {
        let now = count.load(Ordering::SeqCst);
        let same = seen.swap(now, Ordering::SeqCst) == now;
        let times = if same { unchanged.fetch_add(1, Ordering::SeqCst) } else { 0 };
        if !same {
            unchanged.store(0, Ordering::SeqCst);
        }
        times > 60
    });
}

#[test]
fn a_backend_that_stops_reading_stops_the_client() {
    const TOTAL: usize = 64 * MIB;
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    let mut client = daemon.connect();
    client.send(format!("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: {TOTAL}\r\n\r\n"));
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let before = daemon.resident_bytes();
    let sending = thread_with(&client, move |stream| {
        for at in (0..TOTAL).step_by(64 * 1024) {
            send_plain(stream, at, at + 64 * 1024)?;
            counter.fetch_add(64 * 1024, Ordering::SeqCst);
        }
        Ok(())
    });
    let mut server = backend.accept();
    expect_stalled(&sent);
    let grown = daemon.resident_bytes().saturating_sub(before);
    assert!(grown < 8 * MIB as u64, "a stalled upload costs {grown} bytes");
    server.expect_head();
    expect_plain(&mut server, 0, TOTAL);
    finish(sending);
    server.send(ok("all"));
    assert_eq!(client.expect_answer().text(), "all");
}

#[test]
fn stalled_clients_cost_bounded_memory() {
    const TOTAL: usize = 512 * MIB;
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let backend = Backend::new().serve(move |_, server| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {TOTAL}\r\n\r\n");
        let mut stream = server.sender();
        drop(stream.set_write_timeout(Some(Duration::from_secs(30))));
        if stream.write_all(head.as_bytes()).is_err() {
            return;
        }
        for at in (0..TOTAL).step_by(64 * 1024) {
            if send_plain(&mut stream, at, at + 64 * 1024).is_err() {
                return;
            }
            counter.fetch_add(64 * 1024, Ordering::SeqCst);
        }
    });
    let daemon = Daemon::proxying(backend.rule());
    assert_eq!(daemon.connect().exchange(get("nowhere.com", "/")).status(), 503);
    let before = daemon.resident_bytes();
    let mut clients: Vec<Connection> =
        (0..40).map(|_| Connection::client_with_small_buffer(daemon.address())).collect();
    for client in &mut clients {
        client.send(get("a.com", "/"));
    }
    eventually("every request is at the backend", || backend.requests() == 40);
    expect_stalled(&sent);
    let grown = daemon.resident_bytes().saturating_sub(before);
    assert!(grown < 64 * MIB as u64, "forty stalled clients cost {grown} bytes");
    // the others are served meanwhile, and the forty get right bytes when they read again
    assert_eq!(daemon.connect().exchange(get("nowhere.com", "/")).status(), 503);
    for client in &mut clients {
        client.expect_status(200);
        expect_plain(client, 0, MIB);
    }
    drop(clients);
    eventually("the backend is told that they left", || backend.open_connections() == 0);
}

#[test]
fn large_response_cut_in_the_middle_looks_cut_off() {
    const TOTAL: usize = 64 * MIB;
    let backend = Backend::new();
    let daemon = Daemon::proxying(backend.rule());
    for framing in ["Content-Length: 67108864", "Transfer-Encoding: chunked"] {
        let (mut client, mut server) = crate::daemon::asked(&daemon, &backend);
        server.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n"));
        let chunked = framing.contains("chunked");
        let sending = std::thread::spawn(move || {
            let mut stream = server.sender();
            if chunked {
                stream.write_all(format!("{TOTAL:x}\r\n").as_bytes()).expect("a chunk size");
            }
            send_plain(&mut stream, 0, TOTAL / 2).expect("half of it");
            drop(server);
        });
        client.expect_status(200);
        if chunked {
            assert_eq!(client.expect_line(), format!("{TOTAL:x}").as_bytes());
        }
        expect_plain(&mut client, 0, TOTAL / 2);
        let (rest, _ending) = client.read_to_end();
        assert!(rest.is_empty() && find(&rest, b"0\r\n").is_none(), "more: {}", show(&rest));
        sending.join().expect("the backend");
    }
}
