//! Rights: what the kernel says of every thread of the daemon (proc_pid_status(5)) once it serves, whether it
//! began as root or with one capability. All of it needs root to begin with; without, it says that it is skipped.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::json;

use crate::daemon::{Daemon, Setup};
use crate::message::get;

const NONE: &str = "0000000000000000";

fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("skipped: only root has rights to drop");
    }
    is_root
}

/// In a folder that whoever the daemon becomes may use, with a port that not everybody may bind.
fn setup() -> Setup {
    let setup = Setup::new().unset("uid").unset("gid").copied();
    for path in [setup.path(""), setup.path("mantrid")] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).expect("for all");
    }
    // each port once: these tests run at the same time
    static NEXT: AtomicU16 = AtomicU16::new(1023);
    let mut ports = std::iter::repeat_with(|| NEXT.fetch_sub(1, Ordering::Relaxed)).take(300);
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let port = ports.find(free).expect("a free port below 1024");
    setup
        .set("bind", format!("127.0.0.1:{port}"))
        .set("shards", 2)
        .rule("a.com", json!(["empty", { "code": 403 }, false]))
}

/// What every thread has under this key.
#[track_caller]
fn expect_everywhere(daemon: &Daemon, key: &str, value: &str) {
    let folder = format!("/proc/{}/task", daemon.current_pid());
    let tasks = std::fs::read_dir(folder).expect("its threads").flatten();
    let mut count = 0;
    for status in tasks.map(|task| task.path().join("status")) {
        // threads of a pool come and go
        let Ok(text) = std::fs::read_to_string(status) else { continue };
        let found = text.lines().find_map(|line| line.strip_prefix(key)).expect(key);
        assert_eq!(found.trim(), value, "{key} of {}", text.lines().next().unwrap_or_default());
        count += 1;
    }
    assert!(3 < count, "only {count} threads");
}

#[track_caller]
fn expect_nobody_in_particular(daemon: &Daemon) {
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 403);
    for (key, value) in [
        ("Uid:", "4321\t4321\t4321\t4321"),
        ("Gid:", "4321\t4321\t4321\t4321"),
        ("Groups:", ""),
        ("NoNewPrivs:", "1"),
        ("CapInh:", NONE),
        ("CapPrm:", NONE),
        ("CapEff:", NONE),
        ("CapAmb:", NONE),
    ] {
        expect_everywhere(daemon, key, value);
    }
}

#[test]
fn root_becomes_nobody_in_particular() {
    if !is_root() {
        return;
    }
    // with groups and inheritable capabilities, as a container may have it
    let rights =
        "exec setpriv --groups 0,4,27 --inh-caps +net_bind_service,+sys_admin \"$0\" \"$@\"";
    let mut daemon = setup().first(rights).start();
    daemon.expect_log(&["Dropped to UID 4321, GID 4321"]);
    expect_nobody_in_particular(&daemon);
    expect_everywhere(&daemon, "CapBnd:", NONE);
    // who takes over has no rights to give up, and the port that needed some
    daemon.upgrade();
    expect_nobody_in_particular(&daemon);
    expect_everywhere(&daemon, "CapBnd:", NONE);
}

/// As the unit has it: nobody in particular from the start, with one capability and only until it is bound.
#[test]
fn one_capability_is_enough_and_is_given_up() {
    if !is_root() {
        return;
    }
    let one = "--inh-caps=-all,+net_bind_service --ambient-caps=-all,+net_bind_service \
               --bounding-set=-all,+net_bind_service";
    let user = "--reuid 4321 --regid 4321 --clear-groups";
    let rights = format!("exec setpriv {user} {one} \"$0\" \"$@\"");
    let mut daemon = setup().first(rights).start();
    expect_nobody_in_particular(&daemon);
    daemon.upgrade();
    expect_nobody_in_particular(&daemon);
}

#[test]
fn without_it_the_port_is_refused_by_name() {
    let limit = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    if !is_root() || limit.is_ok_and(|limit| limit.trim() == "0") {
        eprintln!("skipped: here everybody may bind every port");
        return;
    }
    let rights = "--reuid 4321 --regid 4321 --clear-groups --inh-caps=-all --bounding-set=-all";
    let setup = setup().first(format!("exec setpriv {rights} \"$0\" \"$@\""));
    setup.run(&[]).expect(1, &["bind = 127.0.0.1:", "no permission for this port"]);
}

#[test]
fn to_stay_root_must_be_meant() {
    if !is_root() {
        return;
    }
    let daemon = Setup::new().set("uid", 0).set("gid", 0).start();
    daemon.expect_log(&["Running as root, as uid = 0 asks for"]);
    assert_eq!(daemon.status_line("NoNewPrivs:"), "1");
    let setup = Setup::new().set("uid", "root");
    setup.run(&[]).expect(1, &["uid = root: that is uid 0, which stays root"]);
}
