//! Under systemd: what it is told, what it gives, and that it notices when we hang. A thread is
//! stopped as a debugger would: to everybody else that is a thread that hangs.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde_json::json;

use crate::backend::{Backend, closed_port};
use crate::daemon::{Daemon, Setup, eventually};
use crate::message::get;
use crate::script::{Connection, PATIENCE};
use crate::spin::metric;

/// The other end of NOTIFY_SOCKET.
pub struct Systemd(UnixDatagram);

impl Systemd {
    /// With a daemon that tells it.
    pub fn of(setup: Setup, watchdog: Option<Duration>) -> (Systemd, Daemon) {
        let path = setup.path("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let mut first = format!("export NOTIFY_SOCKET={}", path.display());
        if let Some(watchdog) = watchdog {
            // as systemd has it: for this process
            first += &format!(" WATCHDOG_USEC={} WATCHDOG_PID=$$", watchdog.as_micros());
        }
        (Systemd(socket), setup.first(first).start())
    }

    fn next(&self) -> Option<String> {
        let mut room = [0; 1024];
        match self.0.recv(&mut room) {
            Ok(count) => Some(String::from_utf8_lossy(&room[..count]).into_owned()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                None
            }
            Err(error) => panic!("the notify socket: {error}"),
        }
    }

    /// Drops what was sent so far.
    pub fn forget(&self) {
        self.0.set_read_timeout(Some(Duration::from_millis(1))).expect("a time-out");
        while self.next().is_some() {}
        self.0.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    }

    /// Waits for a message that has this.
    #[track_caller]
    pub fn expect(&self, word: &str) -> String {
        loop {
            let message = self.next().unwrap_or_else(|| panic!("nothing said {word}"));
            if message.contains(word) {
                return message;
            }
        }
    }
}

fn answering() -> Setup {
    Setup::new().rule("a.com", json!(["empty", { "code": 403 }, false]))
}

/// The queue of the socket is full, and nobody reads it: the daemon goes on, and says it all when
/// somebody does.
#[test]
fn a_notify_socket_that_is_not_read_holds_nothing_up() {
    let setup = answering();
    let path = setup.path("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    let filler = UnixDatagram::unbound().expect("a socket");
    filler.set_nonblocking(true).expect("non-blocking");
    filler.connect(&path).expect("connected");
    while filler.send(b"full").is_ok() {}
    let first =
        format!("export NOTIFY_SOCKET={} WATCHDOG_USEC=200000 WATCHDOG_PID=$$", path.display());
    let mut daemon = setup.clone().first(first).start();
    let serves = |daemon: &Daemon, code: u16| {
        daemon.api().put("/hostname/a.com/", &json!(["empty", { "code": code }, false]));
        assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), code);
    };
    serves(&daemon, 402);
    daemon.signal("HUP");
    daemon.expect_log(&["systemd does not read"]);
    daemon.expect_log(&["SIGHUP: the configuration is in force"]);
    serves(&daemon, 404);
    // a stop does not wait for it for long
    daemon.terminate();
    daemon.expect_clean_exit();
    let mut daemon = setup.first(format!("export NOTIFY_SOCKET={}", path.display())).start();
    daemon.signal("HUP");
    daemon.expect_log(&["SIGHUP: the configuration is in force"]);
    serves(&daemon, 402);
    socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let systemd = Systemd(socket);
    for word in ["READY=1", "RELOADING=1", "READY=1"] {
        systemd.expect(word);
    }
    daemon.terminate();
    systemd.expect("STOPPING=1");
    daemon.expect_clean_exit();
}

#[test]
fn systemd_is_told() {
    let setup = answering();
    let (systemd, mut daemon) = Systemd::of(setup.clone(), None);
    systemd.expect("READY=1");
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 403);
    daemon.signal("HUP");
    assert!(systemd.expect("RELOADING=1").contains("MONOTONIC_USEC="));
    systemd.expect("READY=1");
    daemon.upgrade();
    systemd.expect(&format!("MAINPID={}", daemon.current_pid()));
    eventually("the old daemon is gone", || daemon.has_exited().is_some());
    daemon.terminate();
    systemd.expect("STOPPING=1");
}

/// A thread of the daemon that hangs as long as this lives.
pub struct Hanging(Pid);

impl Hanging {
    pub fn thread(daemon: &Daemon, name: &str) -> Hanging {
        let folder = PathBuf::from(format!("/proc/{}/task", daemon.pid()));
        let tasks = fs::read_dir(&folder).expect("its threads").flatten();
        let is_it = |path: &Path| {
            fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name)
        };
        let task = tasks.map(|task| task.path()).find(|path| is_it(path)).expect(name);
        let id = task.file_name().and_then(|id| id.to_str()?.parse().ok()).expect("a number");
        let id = Pid::from_raw(id);
        ptrace::seize(id, ptrace::Options::empty()).expect("PTRACE_SEIZE");
        ptrace::interrupt(id).expect("PTRACE_INTERRUPT");
        waitpid(id, Some(WaitPidFlag::__WALL)).expect("it stops");
        Hanging(id)
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        ptrace::detach(self.0, None).expect("PTRACE_DETACH");
    }
}

#[test]
fn the_watchdog_is_fed_only_while_every_shard_runs() {
    let (systemd, daemon) =
        Systemd::of(answering().set("shards", 2), Some(Duration::from_millis(400)));
    for _ in 0..5 {
        systemd.expect("WATCHDOG=1");
    }
    let hanging = Hanging::thread(&daemon, "shard-1");
    daemon.expect_log(&["shard 1 makes no progress"]);
    // what was sent before that
    systemd.0.set_read_timeout(Some(Duration::from_millis(1))).expect("a time-out");
    while systemd.next().is_some() {}
    systemd.0.set_read_timeout(Some(Duration::from_millis(800))).expect("a time-out");
    assert_eq!(systemd.next(), None, "twice its time without a word");
    drop(hanging);
    systemd.0.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    systemd.expect("WATCHDOG=1");
}

#[test]
fn traffic_goes_on_without_control_and_nobody_feeds_the_watchdog() {
    let (systemd, daemon) = Systemd::of(answering(), Some(Duration::from_millis(400)));
    systemd.expect("WATCHDOG=1");
    let hanging = Hanging::thread(&daemon, "mantrid");
    systemd.0.set_read_timeout(Some(Duration::from_millis(1))).expect("a time-out");
    while systemd.next().is_some() {}
    let mut open = daemon.connect();
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(800) {
        assert_eq!(open.exchange(get("a.com", "/")).status(), 403);
        assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 403);
    }
    assert_eq!(systemd.next(), None, "a watchdog that control did not feed");
    drop(hanging);
    systemd.0.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    systemd.expect("WATCHDOG=1");
    daemon.api().put("/hostname/b.com/", &json!(["empty", { "code": 402 }, false]));
    assert_eq!(daemon.connect().exchange(get("b.com", "/")).status(), 402);
}

/// It would be killed otherwise, with all that it has taken over.
#[test]
fn the_watchdog_is_fed_by_the_one_that_took_over() {
    let (systemd, mut daemon) = Systemd::of(answering(), Some(Duration::from_millis(400)));
    systemd.expect("WATCHDOG=1");
    daemon.upgrade();
    eventually("the old daemon is gone", || daemon.has_exited().is_some());
    systemd.0.set_read_timeout(Some(Duration::from_millis(1))).expect("a time-out");
    while systemd.next().is_some() {}
    systemd.0.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    systemd.expect("WATCHDOG=1");
}

/// Nothing of the traffic waits for control, nothing of what happened meanwhile is lost, and what
/// it was asked then is done.
#[test]
fn traffic_outlives_ten_seconds_without_control() {
    const STALL: Duration = Duration::from_secs(10);
    let backend = Backend::new().serve_text("hello");
    let setup = Setup::new();
    let log = setup.path("access.log");
    let setup = setup.set("access_log", log.display()).set("shards", 2);
    let daemon = setup.rule("a.com", backend.rule()).start();
    let mut clients: Vec<_> = (0..4).map(|_| daemon.connect()).collect();
    let (mut asked, mut slowest) = (0, Duration::ZERO);
    let mut ask = |client: &mut Connection| {
        let began = Instant::now();
        assert_eq!(client.exchange(get("a.com", "/")).text(), "hello");
        slowest = slowest.max(began.elapsed());
        asked += 1;
    };
    clients.iter_mut().for_each(&mut ask);
    let hanging = Hanging::thread(&daemon, "mantrid");
    let began = Instant::now();
    // whoever asks control waits for it, and is not forgotten
    let mut change = daemon.api();
    let rule = json!(["empty", { "code": 402 }, false]).to_string();
    let request = change.request("PUT", "/hostname/b.com/", "", &rule);
    change.wire.send(request);
    while began.elapsed() < STALL {
        clients.iter_mut().for_each(&mut ask);
        ask(&mut daemon.connect());
        // not so many that the log of one moment would have no room for them
        clients[0].expect_nothing_within(Duration::from_millis(5));
    }
    change.wire.expect_nothing_more();
    drop(hanging);
    assert_eq!(change.wire.expect_answer().status(), 200);
    assert_eq!(daemon.connect().exchange(get("b.com", "/")).status(), 402);
    assert!(slowest < Duration::from_secs(2), "a request took {slowest:?}");
    assert!(500 < asked, "only {asked} requests in {STALL:?}");
    let mut api = daemon.api();
    let stats = api.get("/stats/a.com/");
    assert_eq!((&stats["completed_requests"], &stats["open_requests"]), (&json!(asked), &json!(0)));
    let dropped = metric(&mut api, "access_log_dropped_total") as usize;
    eventually("the access log has the rest", || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        text.lines().filter(|line| line.contains("\"a.com\"")).count() + dropped == asked
    });
    assert!(dropped < asked / 2, "{dropped} lines of {asked} were dropped");
}

fn is_there(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    if !found {
        eprintln!("skipped: there is no {program}");
    }
    found
}

#[test]
fn a_socket_of_systemd_is_used_by_every_shard() {
    if !is_there("systemd-socket-activate") {
        return;
    }
    let address = SocketAddr::from(([127, 0, 0, 1], closed_port()));
    let setup = answering().set("bind", address).set("shards", 3);
    let file = setup.write_files();
    let mut activator = Command::new("systemd-socket-activate")
        .args(["-l", &address.to_string(), env!("CARGO_BIN_EXE_mantrid"), "-c"])
        .arg(&file)
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    eventually("it listens", || std::net::TcpStream::connect(address).is_ok());
    for _ in 0..30 {
        assert_eq!(Connection::client(address).exchange(get("a.com", "/")).status(), 403);
    }
    // it has become the daemon
    let pid = Pid::from_raw(activator.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("a signal");
    assert_eq!(activator.wait().expect("its end").code(), Some(0));
}

#[test]
fn the_units_are_sound_and_the_sandbox_is_tight() {
    if !is_there("systemd-analyze") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    for unit in ["mantrid.service", "mantrid.socket"] {
        let text = fs::read_to_string(source.join(unit)).expect("a unit");
        // the program is not installed here
        let text = text.replace("/usr/bin/mantrid", env!("CARGO_BIN_EXE_mantrid"));
        let text: String = text
            .lines()
            .filter(|line| !line.starts_with("Documentation="))
            .fold(String::new(), |all, line| all + line + "\n");
        fs::write(folder.path().join(unit), text).expect("a copy");
    }
    let analyze = |arguments: &[&str]| {
        let mut command = Command::new("systemd-analyze");
        let done = command.args(arguments).current_dir(folder.path()).output().expect("it runs");
        let said = [done.stdout, done.stderr].concat();
        (done.status.success(), String::from_utf8_lossy(&said).into_owned())
    };
    let (is_sound, said) = analyze(&["verify", "./mantrid.service", "./mantrid.socket"]);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("mantrid")).collect();
    assert!(is_sound && ours.is_empty(), "{said}");
    let security = ["security", "--offline=true", "--threshold=20", "--no-pager"];
    let (is_tight, said) = analyze(&[&security[..], &["./mantrid.service"]].concat());
    assert!(is_tight, "{said}");
}
