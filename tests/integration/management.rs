//! The built client, run against whatever answers as a management API: a scripted one on a socket
//! of the test, or a daemon.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::backend::Backend;
use crate::daemon::{Finished, status_line};
use crate::message::Head;
use crate::script::{Connection, PATIENCE, find};
use crate::terminal_screen::lines;

const PROGRAM: &str = env!("CARGO_BIN_EXE_mantrid-client");

/// What `--url` takes for a scripted API.
pub fn url(server: &Backend) -> String {
    format!("http://127.0.0.1:{}", server.port)
}

/// The same API on a Unix socket, for as many connections as come.
pub fn on_socket(server: &Backend, path: &Path) {
    let listener = UnixListener::bind(path).expect("a Unix socket");
    let port = server.port;
    std::thread::spawn(move || {
        while let Ok((near, _)) = listener.accept() {
            let far = TcpStream::connect(("127.0.0.1", port)).expect("the scripted API");
            join(near, far);
        }
    });
}

/// Copies both ways, each until its end.
fn join(near: UnixStream, far: TcpStream) {
    let (mut near_reader, mut far_writer) =
        (near.try_clone().expect("a handle"), far.try_clone().expect("a handle"));
    std::thread::spawn(move || {
        drop(std::io::copy(&mut near_reader, &mut far_writer));
        drop(far_writer.shutdown(std::net::Shutdown::Write));
    });
    let (mut near_writer, mut far_reader) = (near, far);
    std::thread::spawn(move || {
        drop(std::io::copy(&mut far_reader, &mut near_writer));
        drop(near_writer.shutdown(std::net::Shutdown::Write));
    });
}

/// An answer as the daemon gives it.
pub fn answer(status: &str, fields: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{fields}\r\n{body}",
        body.len()
    )
}

pub fn json_ok(body: &Value) -> String {
    answer("200 OK", "", &body.to_string())
}

/// The head of a stream of events, and then this.
pub fn events(text: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n{text}")
}

/// Takes a request with exactly this first line, and its body.
#[track_caller]
pub fn expect_asked(connection: &mut Connection, line: &str) -> (Head, Vec<u8>) {
    let head = connection.expect_request(line);
    let length = head.field("Content-Length").map_or(0, |length| length.parse().expect("a length"));
    let body = connection.read_exactly(length);
    (head, body)
}

/// How the client is to be run.
pub struct Call(Command);

impl Call {
    pub fn new<S: AsRef<OsStr>>(arguments: &[S]) -> Call {
        let mut command = Command::new(PROGRAM);
        command.args(arguments);
        Call::of(command)
    }

    fn of(mut command: Command) -> Call {
        command.env_remove("MANTRID_URL").env_remove("MANTRID_TOKEN");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Call(command)
    }

    /// Against this scripted API.
    pub fn to(server: &Backend, arguments: &[&str]) -> Call {
        Call::at(&url(server), arguments)
    }

    /// Against the API at this address.
    pub fn at(url: &str, arguments: &[&str]) -> Call {
        let mut call = Call::new(&["--url", url]);
        call.0.args(arguments);
        call
    }

    /// In the network of this process.
    pub fn beside(pid: u32, arguments: &[&str]) -> Call {
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid.to_string(), "-n", "--", PROGRAM]).args(arguments);
        Call::of(command)
    }

    pub fn env(mut self, name: &str, value: &str) -> Call {
        self.0.env(name, value);
        self
    }

    /// With these bytes on standard input.
    pub fn reading(mut self, text: &str) -> Client {
        self.0.stdin(Stdio::piped());
        let mut client = self.start();
        let mut input = client.child.stdin.take().expect("its input");
        input.write_all(text.as_bytes()).expect("it reads its input");
        client
    }

    pub fn command(&mut self) -> &mut Command {
        &mut self.0
    }

    pub fn start(mut self) -> Client {
        let mut child = self.0.spawn().expect("the client starts");
        // None where a test gave it another.
        let out = child.stdout.take().map(Output::collect).unwrap_or_default();
        let err = Output::collect(child.stderr.take().expect("its errors"));
        Client { child, out, err }
    }

    /// Its output is the caller's to read, or to close.
    pub fn start_unread(mut self) -> (Client, ChildStdout) {
        let mut child = self.0.spawn().expect("the client starts");
        let unread = child.stdout.take().expect("its output");
        let err = Output::collect(child.stderr.take().expect("its errors"));
        (Client { child, out: Arc::default(), err }, unread)
    }

    /// On this terminal, which `screen` is the other side of.
    pub fn start_on(mut self, terminal: OwnedFd, screen: OwnedFd) -> Client {
        let second = terminal.try_clone().expect("a handle");
        self.0.stdin(terminal).stdout(second);
        let mut child = self.0.spawn().expect("the client starts");
        let err = Output::collect(child.stderr.take().expect("its errors"));
        // or its handles to the terminal would stay open here
        drop(self);
        Client { child, out: Output::collect(File::from(screen)), err }
    }

    /// For what needs no answer.
    #[track_caller]
    pub fn finish(self) -> Finished {
        self.start().finish()
    }
}

/// The client as it runs.
pub struct Client {
    child: Child,
    out: Arc<Output>,
    err: Arc<Output>,
}

impl Client {
    /// Waits for its end.
    #[track_caller]
    pub fn finish(mut self) -> Finished {
        let ended = self.out.wait(Taken::is_over) && self.err.wait(Taken::is_over);
        assert!(ended, "it runs on; standard error:\n{}", self.err.text());
        let status = self.child.wait().expect("its exit status");
        let (out, err) = (self.out.text(), self.err.text());
        assert!(!err.contains("panicked"), "the client panicked:\n{err}");
        Finished { code: status.code(), out, err }
    }

    /// It ended with 0, said nothing on standard error and exactly this on standard output.
    #[track_caller]
    pub fn expect_printed(self, expected: &str) {
        let finished = self.finish();
        finished.expect(0, &[]);
        crate::message::assert_same("its output", expected.as_bytes(), finished.out.as_bytes());
        crate::message::assert_same("its errors", b"", finished.err.as_bytes());
    }

    /// Waits until standard output has this.
    #[track_caller]
    pub fn expect_out(&self, text: &str) {
        let told = self.out.wait(|taken| find(&taken.bytes, text.as_bytes()).is_some());
        assert!(told, "never printed {text:?}:\n{}\n{}", self.out.text(), self.err.text());
    }

    /// Waits until the screen of its terminal has all of these.
    #[track_caller]
    pub fn expect_on_screen(&self, (rows, columns): (u16, u16), texts: &[&str]) {
        let screen = |bytes: &[u8]| lines(bytes, rows.into(), columns.into()).join("\n");
        let told = self.out.wait(|taken| {
            let screen = screen(&taken.bytes);
            texts.iter().all(|text| screen.contains(text))
        });
        let shown = screen(&self.out.taken.lock().expect("the output").bytes);
        assert!(told, "never on the screen: {texts:?}\n{shown}");
    }

    /// Waits until the line below the one with `above` has this.
    #[track_caller]
    pub fn expect_on_screen_line(&self, (rows, columns): (u16, u16), above: &str, text: &str) {
        let below = |bytes: &[u8]| {
            let lines = lines(bytes, rows.into(), columns.into());
            let at = lines.iter().position(|line| line.contains(above));
            at.and_then(|at| lines.get(at + 1).cloned()).unwrap_or_default()
        };
        let told = self.out.wait(|taken| below(&taken.bytes).contains(text));
        let shown = below(&self.out.taken.lock().expect("the output").bytes);
        assert!(told, "never below {above}: {text}\n{shown}");
    }

    /// Waits for its end where its output does not end with it.
    #[track_caller]
    pub fn expect_exit(mut self, code: i32) {
        assert!(self.err.wait(Taken::is_over), "it runs on");
        let status = self.child.wait().expect("its exit status");
        assert_eq!(status.code(), Some(code), "{}", self.err.text());
    }

    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Ends it as Ctrl-C does. A client that was started with SIGINT ignored, as all programs of a
    /// shell's background jobs and of `nohup` are, has to ignore it: such a client gets SIGTERM.
    pub fn interrupt(&self) {
        let ignored = u64::from_str_radix(&status_line(self.pid().as_raw(), "SigIgn:"), 16);
        let ignored = ignored.expect("a mask");
        let ignores_interrupts = ignored & (1 << (Signal::SIGINT as u32 - 1)) != 0;
        self.signal(if ignores_interrupts { Signal::SIGTERM } else { Signal::SIGINT });
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it runs");
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process number"))
    }

    /// Waits until standard error has this.
    #[track_caller]
    pub fn expect_err(&self, text: &str) {
        let told = self.err.wait(|taken| find(&taken.bytes, text.as_bytes()).is_some());
        assert!(told, "never said {text:?}:\n{}", self.err.text());
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What a child writes, to the byte, collected by a thread.
#[derive(Default)]
struct Output {
    taken: Mutex<Taken>,
    more: Condvar,
}

#[derive(Default)]
struct Taken {
    bytes: Vec<u8>,
    goes_on: bool,
}

impl Taken {
    fn is_over(&self) -> bool {
        !self.goes_on
    }
}

impl Output {
    fn collect(mut stream: impl Read + Send + 'static) -> Arc<Output> {
        let output = Arc::new(Output::default());
        output.taken.lock().expect("the output").goes_on = true;
        let into = Arc::clone(&output);
        std::thread::spawn(move || {
            let mut room = [0; 16 * 1024];
            loop {
                let count = stream.read(&mut room).unwrap_or(0);
                let mut taken = into.taken.lock().expect("the output");
                taken.bytes.extend_from_slice(&room[..count]);
                taken.goes_on = count != 0;
                into.more.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
        output
    }

    /// Waits until `enough`; false when that did not come in time.
    fn wait(&self, enough: impl Fn(&Taken) -> bool) -> bool {
        let taken = self.taken.lock().expect("the output");
        let waited = self.more.wait_timeout_while(taken, PATIENCE, |taken| !enough(taken));
        !waited.expect("the output").1.timed_out()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.taken.lock().expect("the output").bytes).into_owned()
    }
}
