//! `--check` says all that a start would: ports that are in use or out of bounds, a kernel that
//! lets rings be made and not used, folders. Beside the daemon that runs on the same state it finds
//! nothing wrong with what that daemon has.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::daemon::{Daemon, Finished, Setup, eventually};

fn said(finished: &Finished) -> String {
    format!("{}{}", finished.out, finished.err)
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn a_port_in_use_is_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address");
    let own = format!("(pid {})", std::process::id());
    for (key, value) in [
        ("bind", address.to_string()),
        ("bind_internal", address.to_string()),
        ("bind_tcp", format!("{address} a.com")),
        ("bind_tls", address.to_string()),
        ("bind_management", address.to_string()),
    ] {
        let setup = Setup::new().set(key, value);
        let words = [key, &address.to_string(), "the port is in use", &own];
        setup.run(&["--check"]).expect(1, &words);
        setup.run(&[]).expect(1, &words);
    }
}

#[test]
fn a_management_socket_in_use_is_an_error() {
    let setup = Setup::new();
    let path = setup.path("management.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    for arguments in [&["--check"][..], &[]] {
        setup.run(arguments).expect(1, &["bind_management", "somebody listens there already"]);
    }
    drop(listener);
    // A program that another test just starts has it for a moment, until it is that program.
    eventually("nobody has it", || UnixStream::connect(&path).is_err());
    // one that was left behind is no matter
    setup.run(&["--check"]).expect(0, &[]);
    std::fs::remove_file(&path).expect("removed");
    std::fs::write(&path, "").expect("a file");
    for arguments in [&["--check"][..], &[]] {
        setup.run(arguments).expect(1, &["bind_management", "something else than a socket"]);
    }
    let nowhere = setup.set("bind_management", "unix:/nowhere/at/all/management.sock");
    for arguments in [&["--check"][..], &[]] {
        nowhere.run(arguments).expect(1, &["bind_management", "the folder is not there"]);
    }
}

/// A reload of the unit may run `--check` beside the daemon.
#[test]
fn the_ports_of_the_daemon_that_runs_on_this_state_are_free() {
    let setup = Setup::new().management_tcp().rule("a.com", json!(["no_hosts", {}, false]));
    let mut daemon = setup.clone().start();
    let check = |more: &[String]| {
        let mut words = vec!["--check".to_owned()];
        more.iter().for_each(|word| words.extend(["-o".to_owned(), word.clone()]));
        setup.run(&words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let management = |daemon: &Daemon| format!("bind_management={}", daemon.api_address());
    let own = [format!("bind={}", daemon.address()), management(&daemon)];
    let finished = check(&own);
    finished.expect(0, &[]);
    let pid = format!("mantrid (pid {})", daemon.pid());
    assert!(said(&finished).contains(&pid), "{}", said(&finished));
    // another address on its port, as an upgrade may take it
    check(&[format!("bind=*:{}", daemon.address().port())]).expect(0, &[]);
    // another program's port is not the daemon's
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address");
    check(&[format!("bind={address}")]).expect(1, &["the port is in use"]);
    // nor is its own port another daemon's, which has another state
    let state = format!("state_file={}", setup.path("other.json").display());
    for address in &own {
        check(&[address.clone(), state.clone()]).expect(1, &["the port is in use by mantrid"]);
    }
    daemon.upgrade();
    check(&own).expect(0, &[]);
    daemon.kill();
    check(&own).expect(0, &[]);
}

#[test]
fn a_port_below_1024_without_the_right_is_an_error() {
    let first = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
    let first = std::fs::read_to_string(first).unwrap_or_default();
    if first.trim().parse::<u16>().is_ok_and(|first| first < 1000) {
        return eprintln!("skipped: everybody may bind each port here");
    }
    let mut setup = Setup::new().copied().set("bind", "127.0.0.1:999");
    if is_root() {
        setup = setup.unset("uid").unset("gid");
        for path in [setup.path(""), setup.path("mantrid")] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).expect("for all");
        }
        setup = setup.first(
            "exec setpriv --reuid 4321 --regid 4321 --clear-groups --inh-caps -all \"$0\" \"$@\"",
        );
    }
    for arguments in [&["--check"][..], &[]] {
        let words = ["bind = 127.0.0.1:999", "no permission for this port", "CAP_NET_BIND_SERVICE"];
        setup.run(arguments).expect(1, &words);
    }
}

/// A filter is set before the program begins, as a container's profile may have it.
#[test]
fn a_ring_that_can_t_be_used_is_an_error() {
    let filter = r#"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
lines = [(0x20, 0, 0, 0), (0x15, 0, 1, 426), (0x06, 0, 0, 0x50000 | 1), (0x06, 0, 0, 0x7fff0000)]
room = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
program = struct.pack("HxxxxxxP", len(lines), ctypes.addressof(room))
fine = libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
if not fine: sys.exit("skipped: no filter can be set here")
os.execv(sys.argv[1], sys.argv[1:])
"#;
    let python = Command::new("python3").arg("--version").stdout(Stdio::null()).status();
    if !python.is_ok_and(|status| status.success()) {
        return eprintln!("skipped: there is no python3");
    }
    let setup = Setup::new();
    std::fs::write(setup.path("filter.py"), filter).expect("a script");
    let filter = setup.path("filter.py");
    let setup = setup.first(format!("exec python3 {} \"$0\" \"$@\"", filter.display()));
    for arguments in [&["--check"][..], &[]] {
        let finished = setup.run(arguments);
        if said(&finished).contains("skipped:") {
            return eprintln!("{}", said(&finished));
        }
        finished.expect(1, &["io_uring_enter", "Operation not permitted", "seccomp"]);
    }
}

/// A folder that root makes for the daemon's user is no reason to warn.
#[test]
fn a_state_folder_that_root_makes_is_no_warning() {
    if !is_root() {
        return eprintln!("skipped: only root makes the folder for another user");
    }
    let setup = Setup::new().copied().set("uid", 4321).set("gid", 4321);
    for path in [setup.path(""), setup.path("mantrid")] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("readable");
    }
    // the folder of the test itself is root's alone
    let good = setup.clone().set("state_file", setup.path("lib/mantrid/state.json").display());
    let finished = good.run(&["--check"]);
    finished.expect(0, &[]);
    assert!(said(&finished).contains("Nothing is wrong."), "{}", said(&finished));
    assert!(!setup.path("lib").exists());
    good.start();
    assert!(setup.path("lib/mantrid").exists());
    // one that is there and root's is
    std::fs::create_dir(setup.path("own")).expect("a folder");
    let own = setup.clone().set("state_file", setup.path("own/state.json").display());
    let finished = own.run(&["--check"]);
    finished.expect(0, &[]);
    assert!(said(&finished).contains("uid 4321 can't write to"), "{}", said(&finished));
    // one that can't be made stops a start
    let never = setup.clone().set("state_file", setup.path("mantrid/lib/state.json").display());
    for arguments in [&["--check"][..], &[]] {
        never.run(arguments).expect(1, &["state_file", "can't make its folder"]);
    }
}
