//! A shard that polls its network card before it sleeps. Loopback has no queue to poll; a veth has
//! one where it works as a card does.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::daemon::{Daemon, Setup};
use crate::message::get;
use crate::script::Connection;

const NAPI: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/napi.py");
const REQUESTS: usize = 50;
/// How often both daemons are measured before the test fails.
const TRIES: usize = 20;
const ADDRESS: &str = "10.77.0.1:80";

fn setup() -> Setup {
    Setup::new().rule("a.com", json!(["empty", { "code": 403 }, false]))
}

fn run(script: &str) -> std::io::Result<std::process::Output> {
    Command::new("sh").args(["-ec", script]).output()
}

/// Whether a test may have networks with a veth between them.
fn may_have_networks() -> bool {
    let trial = format!("ip link add v0 type veth peer name v1 && python3 {NAPI} v0");
    let tried = Command::new("unshare").args(["-n", "sh", "-ec", &trial]).output();
    let may = tried.as_ref().is_ok_and(|tried| tried.status.success());
    if !may {
        eprintln!("skipped: networks of one's own are not allowed here: {tried:?}");
    }
    may
}

/// Starts a daemon in a network of its own.
#[track_caller]
fn start_inside(setup: Setup) -> Daemon {
    let inside = "ip link set lo up && exec \"$0\" \"$@\"";
    let first = format!("exec unshare -n sh -c '{inside}' \"$0\" \"$@\"; false");
    setup.set("bind", "0.0.0.0:80").first(first).start()
}

/// Median of the CPU times that the shard takes for a request and for its wait for the next. The
/// client is in another network, on the other end of a veth.
fn cost(daemon: &Daemon) -> Duration {
    let pid = daemon.pid();
    std::thread::scope(|scope| {
        let client = scope.spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network");
            let made = run(&format!(
                "ip link add v1 type veth peer name v0 netns {pid}; \
                 ip addr add 10.77.0.2/24 dev v1; ip link set v1 up; python3 {NAPI} v1; \
                 nsenter -t {pid} -n sh -ec 'ip addr add 10.77.0.1/24 dev v0; ip link set v0 up; \
                 python3 {NAPI} v0'"
            ));
            assert!(made.as_ref().is_ok_and(|made| made.status.success()), "{made:?}");
            let address: SocketAddr = ADDRESS.parse().expect("an address");
            let mut client = Connection::client(address);
            let mut costs: Vec<Duration> = Vec::new();
            for _ in 0..REQUESTS {
                let before = cpu_time(pid);
                assert_eq!(client.exchange(get("a.com", "/")).status(), 403);
                // The shard is to have nothing to do for longer than it polls.
                std::thread::park_timeout(Duration::from_millis(3));
                costs.push(cpu_time(pid) - before);
            }
            costs.sort_unstable();
            // The other end goes with it.
            let gone = run("ip link del v1");
            assert!(gone.as_ref().is_ok_and(|gone| gone.status.success()), "{gone:?}");
            costs[costs.len() / 2]
        });
        client.join().expect("the client")
    })
}

/// CPU time of the only shard of a process.
fn cpu_time(pid: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    let read = |thread: &std::fs::DirEntry, file: &str| {
        std::fs::read_to_string(thread.path().join(file)).unwrap_or_default()
    };
    let is_shard = |thread: &std::fs::DirEntry| read(thread, "comm").starts_with("shard-");
    let shard = threads.flatten().find(is_shard).expect("a shard");
    let nanoseconds =
        read(&shard, "schedstat").split(' ').next().and_then(|time| time.parse().ok());
    Duration::from_nanos(nanoseconds.expect("its time"))
}

#[test]
fn daemon_that_may_poll_serves_on_any_kernel() {
    let daemon = setup().set("busy_poll", "50us").set("shards", 2).start();
    for _ in 0..10 {
        assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 403);
    }
    let log = daemon.log.text();
    let is_refused = log.contains("busy_poll = 50us: nothing is polled: ");
    assert_eq!(is_refused, !can_poll(), "{log}");
}

#[test]
fn shard_polls_a_card_before_it_sleeps() {
    if !can_poll() {
        eprintln!("skipped: this kernel can't poll");
        return;
    }
    if !may_have_networks() {
        return;
    }
    let sleeping = start_inside(setup());
    let polling = start_inside(setup().set("busy_poll", "1000us"));
    // Each request should cost a millisecond more. Other programs on the shard's CPU, and other
    // machines on the same processor, disturb single measurements.
    let mut seen = Vec::new();
    let is_busy = (0..TRIES).any(|_| {
        let (asleep, busy) = (cost(&sleeping), cost(&polling));
        seen.push((asleep, busy));
        asleep + Duration::from_micros(300) < busy
    });
    eprintln!("CPU times of a request, asleep and polling between them: {seen:?}");
    assert!(is_busy, "the shard is not busy while it waits: {seen:?}");
}

/// Whether the kernel is new enough (6.9), and made for it.
fn can_poll() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("its release");
    let mut numbers = release.split(['.', '-']).map(|number| number.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    // This setting is there where the kernel was made with CONFIG_NET_RX_BUSY_POLL.
    (6, 9) <= version && std::path::Path::new("/proc/sys/net/core/busy_poll").exists()
}
