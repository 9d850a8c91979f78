//! Rights: what the kernel says of every thread of the daemon (proc_pid_status(5)) once it serves,
//! whether it began as root or with one capability. All of it needs root to begin with; without, it
//! says that it is skipped.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::backend::held_port;
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
    let port = held_port((700..1024).rev(), Ipv4Addr::LOCALHOST.into());
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
fn root_is_given_up_for_the_configured_user() {
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

/// As the unit has it: nobody in particular from the start, with one capability and only until it
/// is bound.
#[test]
fn single_capability_is_enough_and_is_given_up() {
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
fn port_is_refused_by_name_without_the_capability() {
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
fn daemon_stays_root_only_where_told_to() {
    if !is_root() {
        return;
    }
    let daemon = Setup::new().set("uid", 0).set("gid", 0).start();
    daemon.expect_log(&["Running as root, as uid = 0 asks for"]);
    assert_eq!(daemon.status_line("NoNewPrivs:"), "1");
    let setup = Setup::new().set("uid", "root");
    setup.run(&[]).expect(1, &["uid = root: that is uid 0, which stays root"]);
}

/// Who owns this file or folder, the link itself where it is one; and its mode.
fn owner(path: &std::path::Path) -> (u32, u32) {
    use std::os::unix::fs::MetadataExt;
    let found = path.symlink_metadata().expect("it is there");
    (found.uid(), found.mode() & 0o7777)
}

/// In a folder of the user that it becomes, root makes and gives away nothing: the user does.
#[test]
fn root_follows_no_link_to_the_management_socket() {
    if !is_root() {
        return;
    }
    let setup = setup();
    let (folder, victim) = (setup.path("theirs"), setup.path("roots"));
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(&victim, "root's").expect("a file");
    std::fs::set_permissions(&victim, PermissionsExt::from_mode(0o600)).expect("for root alone");
    let theirs = Some(nix::unistd::Uid::from_raw(4321));
    nix::unistd::chown(&folder, theirs, None).expect("theirs");
    let socket = folder.join("socket");
    let setup = setup.set("bind_management", format!("unix:{}", socket.display()));
    for _ in 0..2 {
        let mut daemon = setup.clone().start();
        assert_eq!(owner(&socket), (4321, 0o660));
        daemon.kill();
        // a link from the beginning is refused, and left alone
        std::fs::remove_file(&socket).expect("a socket");
        assert_eq!(owner(&victim), (0, 0o600));
    }
    std::os::unix::fs::symlink(&victim, &socket).expect("a link");
    setup.run(&[]).expect(1, &["something else than a socket"]);
    assert_eq!(owner(&victim), (0, 0o600));
    // a folder of theirs on the way
    std::fs::remove_file(&socket).expect("a link");
    let roots = setup.path("roots_folder");
    std::fs::create_dir(&roots).expect("a folder");
    std::os::unix::fs::symlink(&roots, folder.join("sub")).expect("a link");
    let setup = setup.set("bind_management", format!("unix:{}/sub/socket", folder.display()));
    setup.run(&[]).expect(1, &["no permission to make it"]);
    assert!(!roots.join("socket").exists());
}

/// Below a folder that somebody else may change, root makes nothing.
#[test]
fn root_makes_no_folder_behind_a_link() {
    if !is_root() {
        return;
    }
    let setup = setup();
    let (folder, roots) = (setup.path("theirs"), setup.path("roots"));
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::create_dir(&roots).expect("a folder");
    let theirs = Some(nix::unistd::Uid::from_raw(4321));
    nix::unistd::chown(&folder, theirs, None).expect("theirs");
    std::os::unix::fs::symlink(&roots, folder.join("sub")).expect("a link");
    let bad = setup.clone().set("state_file", folder.join("sub/lib/state.json").display());
    bad.run(&[]).expect(1, &["can't make its folder"]);
    assert!(!roots.join("lib").exists());
    let daemon = setup.set("state_file", folder.join("lib/state.json").display()).start();
    daemon.api().put("/hostname/b.com/", &json!(["empty", { "code": 402 }, false]));
    assert_eq!(owner(&folder.join("lib")), (4321, 0o750));
    for name in ["state.json.journal", "state.json.lock"] {
        assert_eq!(owner(&folder.join("lib").join(name)), (4321, 0o640), "{name}");
    }
}

/// Files of the state are nobody else's to read, also where the state file itself is.
#[test]
fn the_state_is_not_for_everybody() {
    let setup = Setup::new().rule("a.com", json!(["empty", { "code": 403 }, false]));
    setup.write_files();
    let mode = |name: &str| owner(&setup.path(name)).1;
    std::fs::set_permissions(setup.path("state.json"), PermissionsExt::from_mode(0o644))
        .expect("all");
    for name in ["state.json.lock", "state.json.journal"] {
        std::fs::write(setup.path(name), "").expect("as an earlier version made it");
        let all = PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(setup.path(name), all).expect("for all");
    }
    let mut daemon = setup.clone().start();
    daemon.api().put("/hostname/b.com/", &json!(["empty", { "code": 402 }, false]));
    assert_eq!((mode("state.json.journal"), mode("state.json.lock")), (0o640, 0o640));
    daemon.terminate();
    daemon.expect_clean_exit();
    assert_eq!((mode("state.json"), mode("state.json.lock")), (0o644, 0o640));
    let fresh = setup.path("new/state.json");
    let mut daemon = Setup::new().set("state_file", fresh.display()).start();
    daemon.api().put("/hostname/b.com/", &json!(["empty", { "code": 402 }, false]));
    daemon.terminate();
    daemon.expect_clean_exit();
    assert_eq!((mode("new"), mode("new/state.json")), (0o750, 0o640));
}

/// Files of /proc are root's where a process can't be looked into (proc(5)).
#[track_caller]
fn expect_guarded(daemon: &Daemon) {
    let file = format!("/proc/{}/environ", daemon.current_pid());
    assert_eq!(owner(std::path::Path::new(&file)).0, 0, "others of its user may look into it");
}

#[test]
fn memory_of_a_daemon_that_was_root_is_closed_to_its_user() {
    if !is_root() {
        return;
    }
    let mut daemon = setup().start();
    expect_guarded(&daemon);
    for _ in 0..2 {
        daemon.upgrade();
        expect_guarded(&daemon);
    }
    // as the unit has it
    let rights = "exec setpriv --reuid 4321 --regid 4321 --clear-groups \
                  --inh-caps=-all,+net_bind_service --ambient-caps=-all,+net_bind_service \
                  \"$0\" \"$@\"";
    let mut daemon = setup().first(rights).start();
    expect_guarded(&daemon);
    daemon.upgrade();
    expect_guarded(&daemon);
}
