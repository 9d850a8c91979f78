//! `top` on a pseudo-terminal: it shows what comes, obeys keys, and gives the terminal back however
//! it ends.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::termios::{LocalFlags, tcgetattr};
use serde_json::json;

use crate::backend::Backend;
use crate::management::{Call, Client, answer, events, expect_asked, json_ok};
use crate::script::Connection;

const ASKED: &str = "GET /events?busiest=200&only=traffic HTTP/1.1";
pub const ENTER: &str = "\u{1b}[?1049h";
pub const LEAVE: &str = "\u{1b}[?1049l";

fn traffic(host: &str) -> String {
    let data = json!({"rules": 1, "busiest": [{"host": host, "requests_per_second": 3}]});
    format!("event: traffic\ndata: {data}\n\n")
}

/// The test's side of a terminal.
pub struct Terminal {
    screen: OwnedFd,
    terminal: OwnedFd,
}

impl Terminal {
    pub fn new() -> Terminal {
        Terminal::sized((24, 80))
    }

    /// A terminal of so many rows and columns.
    pub fn sized((rows, columns): (u16, u16)) -> Terminal {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(&size, None).expect("a pseudo-terminal");
        Terminal { screen: master, terminal: slave }
    }

    pub fn run(&self, call: Call) -> Client {
        let handle = |descriptor: &OwnedFd| descriptor.try_clone().expect("a handle");
        call.start_on(handle(&self.terminal), handle(&self.screen))
    }

    pub fn press(&self, keys: &str) {
        let mut keyboard = File::from(self.screen.try_clone().expect("a handle"));
        keyboard.write_all(keys.as_bytes()).expect("keys");
    }

    /// Whether it does lines, echo and signals: what a shell expects of it.
    #[track_caller]
    pub fn expect_usual(&self, is_usual: bool) {
        let flags = tcgetattr(&self.terminal).expect("its settings").local_flags;
        let usual = LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG;
        assert_eq!(flags.contains(usual), is_usual, "{flags:?}");
    }
}

/// The connection that asks for events. What is asked beside them gets a 404, as of a daemon that
/// does not know it.
#[track_caller]
fn accept_stream(server: &Backend) -> Connection {
    for _ in 0..1000 {
        let mut asked = server.accept();
        let Some(head) = asked.try_head() else { continue };
        if head.start == ASKED {
            return asked;
        }
        let unknown = json!({"error": "path_unknown", "message": "there is no such path"});
        asked.send(answer("404 Not Found", "", &unknown.to_string()));
    }
    panic!("nothing asks for events");
}

/// It runs and shows a first host.
fn shown(terminal: &Terminal, server: &Backend) -> (Client, Connection) {
    let client = terminal.run(Call::to(server, &["top"]));
    let mut asked = accept_stream(server);
    asked.send(events(&traffic("www.example.com")));
    client.expect_out("www.example.com");
    client.expect_out(ENTER);
    terminal.expect_usual(false);
    (client, asked)
}

#[test]
fn top_gives_the_terminal_back() {
    let ends: [fn(&Client, &Terminal); 4] = [
        |_, terminal| terminal.press("q"),
        |_, terminal| terminal.press("\u{1b}"),
        |_, terminal| terminal.press("\u{3}"),
        |client, _| client.terminate(),
    ];
    for end in ends {
        let (terminal, server) = (Terminal::new(), Backend::new());
        let (client, _asked) = shown(&terminal, &server);
        end(&client, &terminal);
        client.expect_out(LEAVE);
        client.expect_exit(0);
        terminal.expect_usual(true);
    }
}

#[test]
fn top_goes_on_when_the_daemon_comes_back() {
    let (terminal, server) = (Terminal::new(), Backend::new());
    let (client, asked) = shown(&terminal, &server);
    drop(asked);
    client.expect_out("trying again");
    let mut asked = accept_stream(&server);
    asked.send(events(&traffic("other.example.com")));
    client.expect_out("other");
    terminal.press("/www\r");
    client.expect_out("only ");
    // what ends it is said when the screen is the user's again
    drop(asked);
    let mut asked = accept_stream(&server);
    asked.send(answer("401 Unauthorized", "", "{\"message\": \"a token is wanted\"}"));
    client.expect_err("MANTRID_TOKEN");
    client.expect_out(LEAVE);
    client.expect_exit(1);
    terminal.expect_usual(true);
}

/// Accepts what is asked for beside the stream until it is this.
#[track_caller]
fn accept_question(server: &Backend, line: &str) -> Connection {
    for _ in 0..1000 {
        let mut asked = server.accept();
        let Some(head) = asked.try_head() else { continue };
        if head.start == line {
            return asked;
        }
        asked.send(json_ok(&json!(null)));
    }
    panic!("nothing asks {line}");
}

#[test]
fn keys_ask_for_an_order_and_for_a_host() {
    let (terminal, server) = (Terminal::new(), Backend::new());
    let (client, _asked) = shown(&terminal, &server);
    terminal.press("e");
    let mut asked = accept_question(&server, "GET /stats/?sort=errors&limit=200 HTTP/1.1");
    asked.send(json_ok(&json!({"failing.example": {"errors_per_second": 7}, "a.example": {}})));
    client.expect_on_screen((24, 80), &["failing.example", "a.example"]);
    terminal.press("\r");
    client.expect_on_screen((24, 80), &["LAST CHANGES"]);
    let line = "GET /hostname/failing.example/ HTTP/1.1";
    let rule = json!(["proxy", {"backends": [["10.9.8.7", 65]]}, false]);
    accept_question(&server, line).send(json_ok(&rule));
    let line = "GET /stats/failing.example/ HTTP/1.1";
    accept_question(&server, line).send(json_ok(&json!({"errors_per_second": 7})));
    let line = "GET /changes/?host=failing.example&limit=20 HTTP/1.1";
    let change = json!({"time": 951_782_399, "who": "alice", "verb": "PUT", "rule": rule});
    accept_question(&server, line).send(json_ok(&json!([change])));
    client.expect_on_screen((24, 80), &["10.9.8.7:65", "2000-02-28T23:59:59Z PUT by alice"]);
    terminal.press("\u{1b}");
    accept_question(&server, "GET /stats/?sort=errors&limit=200 HTTP/1.1");
    terminal.press("q");
    client.expect_out(LEAVE);
    client.expect_exit(0);
}

#[test]
fn top_prints_json_where_no_terminal_is() {
    let server = Backend::new();
    Call::to(&server, &["top"]).finish().expect(1, &["needs a terminal", "--json"]);
    server.expect_no_connection();
    let client = Call::to(&server, &["top", "--json", "--hosts", "3"]).start();
    let mut asked = server.accept();
    expect_asked(&mut asked, "GET /events?busiest=3&only=traffic HTTP/1.1");
    asked.send(events("event: hello\ndata: {}\n\nevent: traffic\ndata: {\"rules\": 1}\n\n"));
    client.expect_out("{\"rules\": 1}\n");
}
