//! Starts the daemon on ephemeral ports in a fresh folder, waits until it is ready, and ends it;
//! again on the same folder where a test wants to see what it finds there. When a test panics, the
//! daemon's log is printed with it.

use std::fmt::Display;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::backend::Backend;
use crate::message::get;
use crate::script::{Connection, PATIENCE};

const PROGRAM: &str = env!("CARGO_BIN_EXE_mantrid");

/// What a daemon is to be started with. A clone of it starts on the same folder.
#[derive(Clone)]
pub struct Setup {
    folder: Arc<TempDir>,
    hosts: Map<String, Value>,
    lines: Vec<(String, String)>,
    /// How many descriptors it finds open that nobody told it of.
    inherited: i32,
    /// What a shell does first, in the process that becomes the daemon.
    first: Option<String>,
    /// That shell has mounts of its own.
    unshared: bool,
    /// Another file than the one that was built.
    program: Option<PathBuf>,
}

impl Setup {
    /// One shard, one untrusted address, no rules, management on a socket in the fresh folder.
    pub fn new() -> Setup {
        let folder = tempfile::Builder::new().prefix("mantrid-").tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("static")).expect("the folder of pages");
        let mut setup = Setup {
            folder: Arc::new(folder),
            hosts: Map::new(),
            lines: Vec::new(),
            inherited: 0,
            first: None,
            unshared: false,
            program: None,
        };
        for (key, value) in [("bind", "127.0.0.1:0"), ("shards", "1")] {
            setup = setup.set(key, value);
        }
        let path = |name: &str| setup.path(name).display().to_string();
        let (management, state, pages) =
            (path("management.sock"), path("state.json"), path("static"));
        setup = setup
            .set("bind_management", format!("unix:{management}"))
            .set("state_file", state)
            .set("static_dir", pages);
        if nix::unistd::geteuid().is_root() {
            setup = setup.set("uid", 0).set("gid", 0);
        }
        setup
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn rule(mut self, host: &str, rule: Value) -> Setup {
        self.hosts.insert(host.to_owned(), rule);
        self
    }

    /// Sets a key of the configuration in place of what it was.
    pub fn set(mut self, key: &str, value: impl Display) -> Setup {
        self.lines.retain(|(known, _)| known != key);
        self.add(key, value)
    }

    /// One more line for a key that may be repeated.
    pub fn add(mut self, key: &str, value: impl Display) -> Setup {
        self.lines.push((key.to_owned(), value.to_string()));
        self
    }

    pub fn unset(mut self, key: &str) -> Setup {
        self.lines.retain(|(known, _)| known != key);
        self
    }

    /// Management over TCP, besides the Unix socket.
    pub fn management_tcp(self) -> Setup {
        self.add("bind_management", "127.0.0.1:0")
    }

    /// An address behind a TLS terminator, besides the untrusted one.
    pub fn internal(self) -> Setup {
        self.set("bind_internal", "127.0.0.1:0")
    }

    /// A page in `static_dir`.
    pub fn page(self, name: &str, text: &str) -> Setup {
        std::fs::write(self.path("static").join(name), text).expect("a page");
        self
    }

    /// Starts it with so few descriptors.
    pub fn files_max(self, count: u32) -> Setup {
        self.first(format!("ulimit -n {count}"))
    }

    /// Starts it with so many open already, from number 100 on.
    pub fn inherits_files(self, count: i32) -> Setup {
        Setup { inherited: count, ..self }
    }

    /// Has a shell run this first, in the process that becomes the daemon.
    pub fn first(mut self, command: impl Into<String>) -> Setup {
        self.first = Some(command.into());
        self
    }

    /// The same, in a mount namespace of its own: what it mounts is nobody else's, and goes with
    /// it.
    pub fn first_unshared(self, command: impl Into<String>) -> Setup {
        Setup { unshared: true, ..self.first(command) }
    }

    /// Starts a copy of the program, which a test can replace by another.
    pub fn copied(mut self) -> Setup {
        let copy = self.path("mantrid");
        put_program(None, &copy);
        self.program = Some(copy);
        self
    }

    /// Starts it by this path.
    pub fn program(mut self, path: &Path) -> Setup {
        self.program = Some(path.to_owned());
        self
    }

    /// Puts another copy in its place, or a script.
    pub fn replace_program(&self, script: Option<&str>) {
        let new = self.path("mantrid.new");
        put_program(script, &new);
        std::fs::rename(new, self.path("mantrid")).expect("replaced");
    }

    /// Writes the files as they are to be from now on, for a daemon that runs on the same folder.
    pub fn write_files(&self) -> PathBuf {
        let state = json!({ "hosts": self.hosts, "stats": {} });
        let configured = self.lines.iter().find(|(key, _)| key == "state_file");
        let own = self.path("state.json");
        if configured.is_some_and(|(_, path)| Path::new(path) == own) && !own.exists() {
            std::fs::write(own, state.to_string()).expect("a state file");
        }
        let text: String =
            self.lines.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
        let file = self.path("mantrid.conf");
        std::fs::write(&file, text).expect("a configuration file");
        file
    }

    fn command(&self) -> Command {
        let program = self.program.as_deref().unwrap_or(Path::new(PROGRAM));
        let mut command = match &self.first {
            None => Command::new(program),
            Some(first) => {
                let words: &[&str] = if self.unshared { &["unshare", "-m", "sh"] } else { &["sh"] };
                let mut shell = Command::new(words[0]);
                shell.args(&words[1..]);
                shell.args(["-c", &format!("{first} && exec \"$0\" \"$@\"")]).arg(program);
                shell
            }
        };
        command.arg("-c").arg(self.write_files()).stdin(Stdio::null());
        if 0 < self.inherited {
            let nothing = || File::open("/dev/null").expect("/dev/null").into();
            let inherited = (100..100 + self.inherited)
                .map(|number| FdMapping { parent_fd: nothing(), child_fd: number })
                .collect();
            command.fd_mappings(inherited).expect("numbers that are not taken");
        }
        command
    }

    /// Starts the daemon and waits until it accepts.
    #[track_caller]
    pub fn start(self) -> Daemon {
        let command = self.command();
        let count = |key| self.lines.iter().filter(|(known, _)| known == key).count();
        let (public, internal) = (count("bind"), count("bind_internal"));
        Daemon::start(command, self.folder, public, internal)
    }

    /// Starts a daemon whose log goes elsewhere: its addresses are not known, nor when it is ready.
    pub fn start_quiet(self) -> Daemon {
        let mut command = self.command();
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Daemon::of(child.expect("the program starts"), self.folder, 0)
    }

    /// Starts a daemon whose log is JSON, and waits until it is ready.
    #[track_caller]
    pub fn start_json(self) -> Daemon {
        let mut daemon = self.start_quiet();
        daemon.expect_log(&["Ready"]);
        for line in daemon.log.lines() {
            let line: Value = serde_json::from_str(&line).expect("JSON");
            let message = line["message"].as_str().unwrap_or_default();
            if let Some(rest) = message.strip_prefix("Listening for management on ") {
                daemon.management.push(rest.to_owned());
            }
        }
        daemon
    }

    /// Runs it to its end, which must come by itself.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Finished {
        let mut command = self.command();
        command.args(arguments);
        run(command)
    }
}

/// A program that ended by itself.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Finished {
    /// Fails unless it ended with this code and its standard error holds each of `words`.
    #[track_caller]
    pub fn expect(&self, code: i32, words: &[&str]) {
        let all = words.iter().all(|word| self.err.contains(word));
        assert!(
            self.code == Some(code) && all,
            "expected exit code {code} and {words:?}\n--- found exit code {:?}, standard error:\n{}\n\
             --- standard output:\n{}",
            self.code,
            self.err,
            self.out
        );
    }
}

/// Runs the program with these arguments alone.
#[track_caller]
pub fn run_with(arguments: &[&str]) -> Finished {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).stdin(Stdio::null());
    run(command)
}

#[track_caller]
fn run(mut command: Command) -> Finished {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("the program starts");
    let out = Log::collect(child.stdout.take().expect("its output"));
    let err = Log::collect(child.stderr.take().expect("its log"));
    let ended = out.wait(|log| log.ended) && err.wait(|log| log.ended);
    if !ended {
        drop(child.kill());
    }
    let status = child.wait().expect("its exit status");
    let (out, err) = (out.text(), err.text());
    assert!(ended, "it runs on; standard error:\n{err}\nstandard output:\n{out}");
    Finished { code: status.code(), out, err }
}

/// Lines of a child, collected by a thread as they come.
#[derive(Default)]
pub struct Log {
    lines: Mutex<Collected>,
    more: Condvar,
}

#[derive(Default)]
struct Collected {
    lines: Vec<String>,
    ended: bool,
}

impl Log {
    pub fn collect(stream: impl Read + Send + 'static) -> Arc<Log> {
        let log = Arc::new(Log::default());
        let into = Arc::clone(&log);
        std::thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while matches!(stream.read_until(b'\n', &mut line), Ok(count) if count > 0) {
                let text = without_colours(String::from_utf8_lossy(&line).trim_end());
                into.lines.lock().expect("the log").lines.push(text);
                into.more.notify_all();
                line.clear();
            }
            into.lines.lock().expect("the log").ended = true;
            into.more.notify_all();
        });
        log
    }

    /// Waits until `enough`; false when that did not come in time.
    fn wait(&self, enough: impl Fn(&Collected) -> bool) -> bool {
        self.wait_for(PATIENCE, enough)
    }

    fn wait_for(&self, patience: Duration, enough: impl Fn(&Collected) -> bool) -> bool {
        let lines = self.lines.lock().expect("the log");
        let (_lines, timeout) =
            self.more.wait_timeout_while(lines, patience, |lines| !enough(lines)).expect("the log");
        !timeout.timed_out()
    }

    /// Waits until so many lines have this word.
    pub fn wait_count(&self, word: &str, count: usize) -> bool {
        self.wait_count_for(word, count, PATIENCE)
    }

    /// The same, where it is known to take long.
    pub fn wait_count_for(&self, word: &str, count: usize, patience: Duration) -> bool {
        let has = |line: &&String| line.contains(word);
        self.wait_for(patience, |log| count <= log.lines.iter().filter(has).count())
    }

    pub fn text(&self) -> String {
        self.lines.lock().expect("the log").lines.join("\n")
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("the log").lines.clone()
    }
}

/// A terminal's colours taken out.
fn without_colours(line: &str) -> String {
    let mut pieces = line.split("\x1b[");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |text, piece| {
        text + piece
            .trim_start_matches(|c: char| c.is_ascii_digit() || c == ';')
            .trim_start_matches('m')
    })
}

pub struct Daemon {
    child: Child,
    pub log: Arc<Log>,
    pub out: Arc<Log>,
    /// Goes with the last that uses it.
    _folder: Arc<TempDir>,
    /// The addresses of `bind`, then those of `bind_internal`.
    pub addresses: Vec<SocketAddr>,
    /// Those of `bind_management`, as the log tells them.
    pub management: Vec<String>,
    public: usize,
    /// A test makes it panic.
    pub may_panic: bool,
}

impl Daemon {
    /// One rule for every host under `a.com`, to this backend.
    pub fn proxying(rule: Value) -> Daemon {
        Setup::new().rule("a.com", rule).start()
    }

    /// `mantrid --demo` on ephemeral ports.
    #[track_caller]
    pub fn demo(arguments: &[&str]) -> Daemon {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new(PROGRAM);
        command.arg("--demo").args(arguments).current_dir(folder.path()).stdin(Stdio::null());
        // where a killed one leaves its files
        command.env("TMPDIR", folder.path());
        Daemon::start(command, Arc::new(folder), 1, 0)
    }

    fn of(mut child: Child, folder: Arc<TempDir>, public: usize) -> Daemon {
        let out = Log::collect(child.stdout.take().expect("its output"));
        let log = Log::collect(child.stderr.take().expect("its log"));
        let (addresses, management) = (Vec::new(), Vec::new());
        let may_panic = false;
        Daemon { child, log, out, _folder: folder, addresses, management, public, may_panic }
    }

    #[track_caller]
    fn start(mut command: Command, folder: Arc<TempDir>, public: usize, internal: usize) -> Daemon {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut daemon = Daemon::of(child.expect("the program starts"), folder, public);
        let ready = |log: &Collected| log.lines.iter().any(|line| line.contains("Ready"));
        let told = daemon.log.wait(|log| log.ended || ready(log));
        let lines = daemon.log.lines();
        assert!(told && lines.iter().any(|line| line.contains("Ready")), "it did not get ready");
        for line in &lines {
            if let Some((_, rest)) = line.split_once("Listening for management on ") {
                daemon.management.push(rest.trim().to_owned());
            }
            if let Some((_, rest)) = line.split_once("Listening for requests on ") {
                let word = rest.split_whitespace().next().unwrap_or_default();
                let address = word.trim_end_matches([',', '.', ';']).parse();
                daemon.addresses.push(address.unwrap_or_else(|_| panic!("no address in {line:?}")));
            }
        }
        assert_eq!(daemon.addresses.len(), public + internal, "addresses told at start-up");
        daemon
    }

    /// The first address of `bind_tcp` or `bind_tls`, whose key says what is spoken there.
    pub fn raw_address(&self, speaks: &str) -> SocketAddr {
        let told = format!("Listening for {speaks} on ");
        let lines = self.log.lines();
        let rest = lines.iter().find_map(|line| Some(line.split_once(&told)?.1.to_owned()));
        let rest = rest.unwrap_or_else(|| panic!("nothing listens for {speaks}"));
        let word = rest.split([',', ' ']).next().unwrap_or_default();
        word.parse().unwrap_or_else(|_| panic!("no address in {rest:?}"))
    }

    /// The first untrusted address.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    pub fn connect(&self) -> Connection {
        Connection::client(self.address())
    }

    /// A client that is a TLS terminator.
    pub fn connect_internal(&self) -> Connection {
        Connection::client(self.internal_address())
    }

    /// The first address for TLS terminators.
    pub fn internal_address(&self) -> SocketAddr {
        self.addresses[self.public]
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a crash would, and waits for that.
    pub fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Waits until the log has a line with all these words.
    #[track_caller]
    pub fn expect_log(&self, words: &[&str]) {
        let has = |line: &String| words.iter().all(|word| line.contains(word));
        let told = self.log.wait(|log| log.lines.iter().any(has));
        assert!(told, "the log never had a line with {words:?}");
    }

    /// Waits until standard output has this text, and returns all of it.
    #[track_caller]
    pub fn expect_printed(&self, text: &str) -> String {
        let told = self.out.wait(|out| out.lines.iter().any(|line| line.contains(text)));
        assert!(told, "standard output never had {text:?}:\n{}", self.out.text());
        self.out.text()
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.status_number("VmRSS:") * 1024
    }

    fn status_number(&self, key: &str) -> u64 {
        let line = self.status_line(key);
        line.split_whitespace().next().and_then(|word| word.parse().ok()).expect(key)
    }

    /// What the kernel says of the process under this key.
    pub fn status_line(&self, key: &str) -> String {
        status_line(self.current_pid(), key)
    }

    /// CPU time used so far, user and system.
    pub fn cpu_time(&self) -> Duration {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = std::fs::read_to_string(path).expect("the stat of the daemon");
        let rest = text.rsplit(')').next().unwrap_or_default();
        let field = |at: usize| -> u64 {
            rest.split_whitespace().nth(at).and_then(|word| word.parse().ok()).unwrap_or(0)
        };
        // utime and stime are fields 14 and 15 of proc(5), in ticks of 10 ms
        Duration::from_millis(10 * (field(11) + field(12)))
    }

    /// Waits for a second in which it does next to nothing: something that turns in circles leaves
    /// none, and what it still has to do comes to its end.
    #[track_caller]
    pub fn expect_rest(&self) {
        eventually("a second of rest", || {
            let before = self.cpu_time();
            std::thread::park_timeout(Duration::from_secs(1));
            self.cpu_time() - before < Duration::from_millis(300)
        });
    }

    pub fn open_files(&self) -> usize {
        self.file_numbers().count()
    }

    /// How many descriptors the process could still open.
    pub fn free_files(&self) -> usize {
        let pid = i32::try_from(self.child.id()).expect("a process number");
        let (mut limit, mut hard) = (0, 0);
        let found = Some((&mut limit, &mut hard));
        rlimit::prlimit(pid, rlimit::Resource::NOFILE, None, found).expect("the daemon's limit");
        // the limit is on numbers: one beyond it takes nothing away
        let open = self.file_numbers().filter(|number| *number < limit).count();
        usize::try_from(limit).expect("a limit") - open
    }

    fn file_numbers(&self) -> impl Iterator<Item = u64> {
        let path = format!("/proc/{}/fd", self.child.id());
        let entries = std::fs::read_dir(path).expect("the descriptors of the daemon");
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
    }

    /// Sends a signal by its name; `STOP` is waited for.
    #[track_caller]
    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.current_pid());
        let status = Command::new("sh").args(["-c", &kill]).status().expect("a shell");
        assert!(status.success(), "{kill} failed");
        if name == "STOP" {
            wait_for_stop(self.current_pid());
        }
    }

    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// It runs and has not said that it ends.
    #[track_caller]
    pub fn expect_running(&mut self) {
        let status = self.child.try_wait().expect("its status");
        assert!(status.is_none(), "it ended: {status:?}");
    }

    /// Whether the process that was started is gone, and what it said.
    pub fn has_exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("its status")
    }

    /// Waits for its end.
    #[track_caller]
    pub fn expect_exit(&mut self) -> ExitStatus {
        assert!(self.log.wait(|log| log.ended), "it runs on");
        self.child.wait().expect("its exit status")
    }

    /// Waits for a clean end.
    #[track_caller]
    pub fn expect_clean_exit(&mut self) {
        let status = self.expect_exit();
        let (code, signal) = (status.code(), status.signal());
        assert!(code == Some(0), "expected exit code 0, found {code:?}, signal {signal:?}");
    }
}

impl Daemon {
    /// Has it start a new one that takes over, waits until it is gone, and goes on with the new.
    #[track_caller]
    pub fn upgrade(&mut self) {
        let before = self.successors().len();
        self.signal("USR2");
        let told = self.log.wait_count("has taken over", before + 1);
        assert!(told, "nobody took over");
    }

    /// The processes that took over, one from the other.
    fn successors(&self) -> Vec<i32> {
        let lines = self.log.lines();
        let pid = |line: &String| {
            let (before, _) = line.split_once(" has taken over")?;
            before.rsplit(' ').next()?.parse().ok()
        };
        lines.iter().filter_map(pid).collect()
    }

    /// The process that serves.
    pub fn current_pid(&self) -> i32 {
        self.successors().last().copied().unwrap_or(self.child.id() as i32)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        for pid in self.successors() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        drop(self.child.kill());
        drop(self.child.wait());
        self.log.wait(|log| log.ended);
        let log = self.log.text();
        if std::thread::panicking() {
            eprintln!("--- log of the daemon\n{log}\n---");
        } else {
            assert!(self.may_panic || !log.contains("panicked at"), "the daemon panicked:\n{log}");
        }
    }
}

/// Returns the line of `/proc/PID/status` that begins with this key, without the key.
pub fn status_line(pid: i32, key: &str) -> String {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(path).expect("the status of the process");
    let line = text.lines().find_map(|line| line.strip_prefix(key)).expect(key);
    line.trim().to_owned()
}

/// Polls what has no event to wait for, until it holds or `PATIENCE` is over.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "never came true: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Waits until every thread of a process stands still: one that has yet to be told may still
/// accept, read or answer.
#[track_caller]
pub fn wait_for_stop(pid: i32) {
    let stands = |thread: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, fields)| fields.starts_with('T'))
    };
    eventually("every thread stands still", || {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
        threads.flatten().all(stands)
    });
}

/// A client whose request has arrived at the backend.
#[track_caller]
pub fn asked(daemon: &Daemon, backend: &Backend) -> (Connection, Connection) {
    asked_for(daemon, backend, get("a.com", "/"))
}

/// The same, of another request.
#[track_caller]
pub fn asked_for(
    daemon: &Daemon,
    backend: &Backend,
    request: impl AsRef<[u8]>,
) -> (Connection, Connection) {
    let mut client = daemon.connect();
    client.send(request);
    let mut server = backend.accept();
    server.expect_head();
    (client, server)
}

/// A copy of the program, or a script, written by another process: what this one has open for
/// writing would be open, too, in whatever another test starts just then, and a program that is
/// being written to can't be run.
fn put_program(script: Option<&str>, at: &Path) {
    let mut writer = match script {
        None => Command::new("cp"),
        Some(_) => Command::new("sh"),
    };
    match script {
        None => writer.arg(PROGRAM),
        Some(script) => {
            let write = r##"printf '#!/bin/sh\n%s\n' "$1" > "$2" && chmod 755 "$2""##;
            writer.args(["-c", write, "sh", script])
        }
    };
    assert!(writer.arg(at).status().expect("sh and cp").success());
}
