//! WebSocket (RFC 6455) as a library speaks it on both sides, through the proxy: messages of all
//! sizes, pings, the closing handshake, many at once, and one that is held while its application
//! starts.

use std::net::{TcpListener, TcpStream};
use std::thread;

use tungstenite::{Message, WebSocket};

use serde_json::json;

use crate::backend::{closed_port, rule_for};
use crate::daemon::{Daemon, Setup};
use crate::script::PATIENCE;
use crate::spin::expect_held;

/// An application that answers every message with itself, on as many connections as come.
fn echo(port: u16) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                let mut socket =
                    tungstenite::accept(stream.expect("accepted")).expect("a handshake");
                // An error is its end: agreed upon, or with the test.
                while let Ok(message) = socket.read() {
                    if message.is_text() || message.is_binary() {
                        socket.send(message).expect("sent back");
                    }
                }
            });
        }
    });
    port
}

fn open(daemon: &Daemon) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(daemon.address()).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let (socket, response) = tungstenite::client("ws://a.com/chat", stream).expect("a handshake");
    assert_eq!(response.status().as_u16(), 101);
    socket
}

#[test]
fn a_library_talks_to_a_library() {
    let daemon = Daemon::proxying(rule_for(&[echo(0)], json!({})));
    let mut socket = open(&daemon);
    // Every way to write a length (7, 16 and 64 bits), across every buffer and into splicing.
    for bytes in [0, 1, 125, 126, 65_535, 65_536, 1 << 20, 8 << 20, 5] {
        let message: Vec<u8> = (0..bytes).map(|n| (n % 251) as u8).collect();
        socket.send(Message::binary(message.clone())).expect("sent");
        let answer = socket.read().expect("answered");
        assert!(answer.into_data() == message, "{bytes} bytes came back changed");
    }
    socket.send(Message::text("grüße")).expect("sent");
    assert_eq!(socket.read().expect("answered"), Message::text("grüße"));
    socket.send(Message::Ping("are you there".into())).expect("sent");
    assert_eq!(socket.read().expect("answered"), Message::Pong("are you there".into()));
    socket.close(None).expect("asked to close");
    loop {
        match socket.read() {
            Ok(Message::Close(_)) => {}
            Ok(other) => panic!("{other:?} after the close"),
            Err(tungstenite::Error::ConnectionClosed) => break,
            Err(error) => panic!("not closed as agreed: {error}"),
        }
    }
}

#[test]
fn many_at_once_keep_to_themselves() {
    let daemon = Daemon::proxying(rule_for(&[echo(0)], json!({})));
    let mut sockets: Vec<_> = (0..50).map(|_| open(&daemon)).collect();
    for round in 0..20 {
        for (number, socket) in sockets.iter_mut().enumerate() {
            socket.send(Message::text(format!("{number} {round}"))).expect("sent");
        }
        for (number, socket) in sockets.iter_mut().enumerate() {
            let answer = socket.read().expect("answered");
            assert_eq!(answer, Message::text(format!("{number} {round}")));
        }
    }
}

#[test]
fn websocket_is_held_until_its_application_listens() {
    let port = closed_port();
    let daemon = Setup::new().rule("a.com", rule_for(&[port], json!({"hold": 30}))).start();
    let mut api = daemon.api();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| open(&daemon));
        expect_held(&mut api, "a.com", 1);
        echo(port);
        let mut socket = waiting.join().expect("opened");
        socket.send(Message::text("at last")).expect("sent");
        assert_eq!(socket.read().expect("answered"), Message::text("at last"));
    });
}
