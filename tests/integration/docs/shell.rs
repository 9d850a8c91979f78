//! A shell in a fresh folder, in which the commands of a document are run one after another, as a
//! reader would type them. Only ports are others, as tests run side by side: four digits, too, so
//! that columns stay where they are.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::backend::held_port;
use crate::daemon::Log;
use crate::message::ok;
use crate::script::Connection;

/// Ends what a command printed.
const END: u8 = 1;

/// A port of each document's, and the one that it is here.
type Ports = Vec<(u16, u16)>;

pub struct Shell {
    child: Child,
    commands: ChildStdin,
    printed: BufReader<ChildStdout>,
    /// What daemons log.
    log: Arc<Log>,
    starts: usize,
    ports: Ports,
    folder: TempDir,
}

impl Shell {
    /// With applications on the ports 8000 and 8001, and on the Unix socket `app.sock`.
    pub fn new() -> Shell {
        let folder = tempfile::Builder::new().prefix("mantrid-docs-").tempdir().expect("a folder");
        // As a folder of root's mostly is; the daemon becomes somebody else.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("a mode");
        let mut ports = Ports::new();
        for port in [8080, 8042, 9042, 8432, 8443, 2379, 2380] {
            ports.push((port, free_port()));
        }
        for (port, text) in [(8000, "Hello from port 8000\n"), (8001, "Hello from port 8001\n")] {
            ports.push((port, application(text)));
        }
        let socket = folder.path().join("app.sock");
        serve_socket(UnixListener::bind(&socket).expect("a socket"), "Hello from app.sock\n");
        std::fs::set_permissions(socket, PermissionsExt::from_mode(0o777)).expect("a mode");
        let programs = Path::new(env!("CARGO_BIN_EXE_mantrid")).parent().expect("a folder");
        let path = std::env::var("PATH").expect("PATH");
        let mut command = Command::new("bash");
        command
            .args(["--norc", "--noprofile"])
            .current_dir(folder.path())
            .env("PATH", format!("{}:{path}", programs.display()))
            .env("MANTRID_URL", mapped(&ports, "http://localhost:8042"))
            .env_remove("MANTRID_TOKEN")
            .env("EXAMPLES", super::page::root().join("docs/examples"))
            .env("LC_ALL", "C.UTF-8")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("bash");
        let mut commands = child.stdin.take().expect("its input");
        let printed = BufReader::new(child.stdout.take().expect("its output"));
        let log = Log::collect(child.stderr.take().expect("the log"));
        // Daemons log to 3; everything else goes where it would in a terminal.
        commands.write_all(b"exec 3>&2 2>&1\n").expect("bash reads");
        Shell { child, commands, printed, log, starts: 0, ports, folder }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// With the ports of this shell.
    pub fn mapped(&self, text: &str) -> String {
        mapped(&self.ports, text)
    }

    /// Runs a command, and returns what it printed. A daemon that is started behind the scenes is
    /// ready afterwards.
    #[track_caller]
    pub fn run(&mut self, command: &str) -> String {
        let command = self.mapped(command);
        match command.strip_suffix(" &").filter(|command| command.starts_with("mantrid ")) {
            None => self.ask(&command),
            Some(daemon) => {
                let printed = self.ask(&format!("{daemon} >&3 2>&3 &"));
                self.starts += 1;
                let is_ready = self.log.wait_count("Ready", self.starts);
                assert!(is_ready, "{daemon}: not ready:\n{}", self.log.text());
                printed
            }
        }
    }

    #[track_caller]
    fn ask(&mut self, command: &str) -> String {
        let script = format!("{command}\nprintf '\\001'\n");
        self.commands.write_all(script.as_bytes()).expect("bash reads");
        let mut printed = Vec::new();
        self.printed.read_until(END, &mut printed).expect("bash prints");
        assert_eq!(printed.pop(), Some(END), "bash ended:\n{}", String::from_utf8_lossy(&printed));
        let text = String::from_utf8(printed).expect("UTF-8");
        // Of a job that was killed, bash tells a script at some later time, in the middle of a
        // line.
        let kept = |line| match str::split_once(line, "bash: line ") {
            Some((before, told)) if told.contains(" Killed ") => before,
            _ => line,
        };
        text.split_inclusive('\n').map(kept).collect()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.child.id().try_into().expect("a process id"));
        let _ = killpg(group, Signal::SIGKILL);
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("--- the log of the daemon\n{}", self.log.text());
        }
    }
}

/// Replaces the ports behind addresses of this machine, and nowhere else.
fn mapped(ports: &Ports, text: &str) -> String {
    let mut text = text.to_owned();
    for (shown, here) in ports {
        for host in ["localhost", "127.0.0.1", "*"] {
            text = text.replace(&format!("{host}:{shown}"), &format!("{host}:{here}"));
            for comma in [",", ", "] {
                let (from, to) =
                    (format!("\"{host}\"{comma}{shown}"), format!("\"{host}\"{comma}{here}"));
                text = text.replace(&from, &to);
            }
        }
    }
    text
}

/// A port of four digits on which nobody listens, and that no other shell is given.
fn free_port() -> u16 {
    held_port(std::iter::repeat_with(next_port), Ipv4Addr::UNSPECIFIED.into())
}

fn next_port() -> u16 {
    const FIRST: u16 = 2000;
    const COUNT: u16 = 5900;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Several test programs may run at a time.
    let start = std::process::id().wrapping_mul(7919) % u32::from(COUNT);
    let start = u16::try_from(start).expect("less than COUNT");
    FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT
}

/// An application that answers every request with this text, on both loopbacks as far as there are
/// two.
fn application(text: &'static str) -> u16 {
    loop {
        let port = next_port();
        let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) else { continue };
        serve(listener, text);
        if let Ok(listener) = TcpListener::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, port))) {
            serve(listener, text);
        }
        return port;
    }
}

fn serve(listener: TcpListener, text: &'static str) {
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            std::thread::spawn(move || answer(stream, text));
        }
    });
}

fn serve_socket(listener: UnixListener, text: &'static str) {
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let stream = TcpStream::from(OwnedFd::from(stream));
            std::thread::spawn(move || answer(stream, text));
        }
    });
}

fn answer(stream: TcpStream, text: &str) {
    let mut connection = Connection::of_backend(stream);
    while connection.next_head().is_ok() {
        drop(connection.try_send(ok(text)));
    }
}
