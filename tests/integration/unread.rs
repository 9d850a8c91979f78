//! Standard error or standard output is a pipe that is full, and nobody reads: whoever serves goes
//! on as if somebody did.

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::api::empty;
use crate::backend::{Backend, closed_port};
use crate::daemon::{Setup, eventually};
use crate::manage::Api;
use crate::message::get;
use crate::script::Connection;
use crate::spin::{expect_held, spin};

/// A pipe without room for a byte, and how many are in it.
fn full_pipe() -> (PipeReader, PipeWriter, usize) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let set = |flags| fcntl(writer.as_fd(), FcntlArg::F_SETFL(flags)).expect("its flags");
    set(OFlag::O_NONBLOCK);
    let mut count = 0;
    for size in [4096, 1] {
        while let Ok(written) = writer.write(&[b'.'; 4096][..size]) {
            count += written;
        }
    }
    let set = |flags| fcntl(writer.as_fd(), FcntlArg::F_SETFL(flags)).expect("its flags");
    set(OFlag::empty());
    (reader, writer, count)
}

/// The daemon, with the management socket and the port that it was given. Killed in the end.
struct Unread {
    child: Child,
    socket: PathBuf,
    port: u16,
}

impl Unread {
    fn start(setup: &Setup, out: impl Into<Stdio>, log: impl Into<Stdio>) -> Unread {
        let port = closed_port();
        let setup = setup.clone().set("bind", format!("127.0.0.1:{port}"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_mantrid"));
        command.arg("--debug").arg("-c").arg(setup.write_files()).stdin(Stdio::null());
        let child = command.stdout(out).stderr(log).spawn().expect("the program starts");
        Unread { child, socket: setup.path("management.sock"), port }
    }

    /// Once it serves.
    #[track_caller]
    fn api(&mut self) -> Api {
        let path = self.socket.clone();
        let connect = || std::os::unix::net::UnixStream::connect(&path).is_ok();
        eventually("management listens", || {
            assert!(self.child.try_wait().expect("its state").is_none(), "it has ended");
            connect()
        });
        let mut api = Api::over(Connection::unix(&path));
        api.get("/hostname/");
        api
    }

    fn connect(&self) -> Connection {
        Connection::client(([127, 0, 0, 1], self.port).into())
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("it is there");
    }

    #[track_caller]
    fn expect_exit(&mut self, code: i32) {
        let mut status = None;
        eventually("it ends", || {
            status = self.child.try_wait().expect("its state");
            status.is_some()
        });
        assert_eq!(status.and_then(|status| status.code()), Some(code));
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Requests, changes, held requests, lines without end, signals.
#[track_caller]
fn expect_all_works(daemon: &mut Unread, backend: &Backend) {
    let mut api = daemon.api();
    api.put("/hostname/a.com/", &spin(json!({})));
    let mut held = daemon.connect();
    held.send(get("a.com", "/"));
    expect_held(&mut api, "a.com", 1);
    // the debug level has a line for each
    for _ in 0..200 {
        let mut broken = Connection::unix(&daemon.socket);
        broken.send("GET / HTTP/1.1\r\nbroken\r\n\r\n");
        broken.read_to_end();
    }
    daemon.signal(Signal::SIGUSR1);
    daemon.signal(Signal::SIGHUP);
    api.put("/hostname/a.com/", &backend.rule());
    let mut server = backend.accept();
    server.expect_request("GET / HTTP/1.1");
    server.send(crate::message::ok("flipped"));
    assert_eq!(held.expect_answer().text(), "flipped");
    for _ in 0..50 {
        assert_eq!(daemon.connect().exchange(get("b.com", "/")).status(), 402);
    }
    assert_eq!(api.ask("GET", "/metrics").status(), 200);
    assert_eq!(daemon.connect().exchange("GET / HTTP/1.1\r\n\r\n").status(), 400);
}

#[test]
fn an_unread_standard_error_stops_nobody() {
    let backend = Backend::new();
    let setup = Setup::new().rule("b.com", empty(402));
    let (reader, writer, _) = full_pipe();
    let mut daemon = Unread::start(&setup, Stdio::null(), writer);
    expect_all_works(&mut daemon, &backend);
    daemon.signal(Signal::SIGTERM);
    daemon.expect_exit(0);
    drop(reader);
}

#[test]
fn an_unread_access_log_stops_nobody() {
    let backend = Backend::new();
    let setup = Setup::new().rule("b.com", empty(402)).set("access_log", "stdout");
    let (reader, writer, _) = full_pipe();
    let mut daemon = Unread::start(&setup, writer, Stdio::null());
    expect_all_works(&mut daemon, &backend);
    // the log can still be sent elsewhere
    let setup = setup.set("bind", format!("127.0.0.1:{}", daemon.port));
    let file = setup.path("access.log");
    setup.clone().set("access_log", file.display()).write_files();
    daemon.signal(Signal::SIGHUP);
    eventually("lines are in the file", || {
        assert_eq!(daemon.connect().exchange(get("b.com", "/")).status(), 402);
        std::fs::read(&file).is_ok_and(|lines| !lines.is_empty())
    });
    daemon.signal(Signal::SIGTERM);
    daemon.expect_exit(0);
    drop(reader);
}

/// Nothing is lost that there was room for, and the last lines wait for a reader who goes on.
#[test]
fn lines_come_when_they_are_read() {
    let setup = Setup::new().rule("b.com", empty(402));
    let (mut reader, writer, filled) = full_pipe();
    let mut daemon = Unread::start(&setup, Stdio::null(), writer);
    daemon.api();
    reader.read_exact(&mut vec![0; filled]).expect("what fills it");
    let mut lines = BufReader::new(reader).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("Listening for requests")));
    assert!(lines.any(|line| line.ends_with("Ready")));
    daemon.signal(Signal::SIGTERM);
    assert!(lines.any(|line| line.contains("Stopped after")));
    daemon.expect_exit(0);
}

#[test]
fn a_start_that_fails_ends_unread() {
    let setup = Setup::new().set("management_token_file", "/no/such/file");
    let (reader, writer, filled) = full_pipe();
    Unread::start(&setup, Stdio::null(), writer).expect_exit(1);
    drop(reader);
    let (mut reader, writer, _) = full_pipe();
    let mut daemon = Unread::start(&setup, Stdio::null(), writer);
    reader.read_exact(&mut vec![0; filled]).expect("what fills it");
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("text");
    assert!(text.contains("management_token_file = /no/such/file"), "{text}");
    daemon.expect_exit(1);
}
