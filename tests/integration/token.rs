//! A token that is rotated: in force after a SIGHUP and in the daemon that takes over, or said not
//! to be.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::api::empty;
use crate::daemon::{Daemon, Setup};
use crate::guard::{TOKEN, with_token};

const OTHER: &str = "another-token-0123456789";

#[track_caller]
fn expect_token(daemon: &Daemon, token: &str, status: u16) {
    let mut api = daemon.api().with(&format!("Authorization: Bearer {token}"));
    api.ask("GET", "/hostname/").expect_status(status);
}

fn token_file(setup: &Setup) -> std::path::PathBuf {
    let path = fs::read_to_string(setup.write_files()).expect("the configuration");
    let line = path.lines().find_map(|line| line.strip_prefix("management_token_file = "));
    line.expect("a token file").into()
}

#[test]
fn a_rotated_token_is_in_force_after_a_reload() {
    let setup = with_token(TOKEN.as_bytes()).rule("a.com", empty(402));
    let mut daemon = setup.clone().start();
    let file = token_file(&setup);
    expect_token(&daemon, TOKEN, 200);
    fs::write(&file, OTHER).expect("another token");
    daemon.signal("HUP");
    daemon.expect_log(&["SIGHUP: the configuration is in force"]);
    expect_token(&daemon, TOKEN, 401);
    expect_token(&daemon, OTHER, 200);
    daemon.upgrade();
    expect_token(&daemon, TOKEN, 401);
    expect_token(&daemon, OTHER, 200);
    // what can't be read or is none leaves the old one, and is not said to be in force
    for is_removed in [false, true] {
        match is_removed {
            false => fs::write(&file, "").expect("emptied"),
            true => fs::remove_file(&file).expect("removed"),
        }
        let stays = daemon.log.text().matches("the configuration stays as it was").count();
        daemon.signal("HUP");
        assert!(daemon.log.wait_count("the configuration stays as it was", stays + 1));
        expect_token(&daemon, OTHER, 200);
        let mut api = daemon.api().with(&format!("Authorization: Bearer {OTHER}"));
        assert!(api.ask("GET", "/metrics").text().contains("mantrid_last_reload_successful 0"));
    }
    daemon.expect_log(&["management_token_file", "stays the one that it was"]);
}

/// A file that root alone may read: a start reads it before rights are dropped, a reload can't.
#[test]
fn a_token_that_root_alone_may_read_stays_after_a_reload() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: only root has rights to drop");
    }
    let setup = with_token(TOKEN.as_bytes()).rule("a.com", empty(402)).copied();
    let mode = |name: &str, mode| {
        fs::set_permissions(setup.path(name), PermissionsExt::from_mode(mode)).expect("its mode");
    };
    mode("", 0o777);
    mode("mantrid", 0o755);
    let file = token_file(&setup);
    let setup = setup.clone().set("uid", 4321).set("gid", 4321);
    let finished = setup.run(&["--check"]);
    finished.expect(0, &[]);
    let said = format!("{}{}", finished.out, finished.err);
    assert!(said.contains("warning: management_token_file"), "{said}");
    assert!(said.contains("uid 4321 can't read it on SIGHUP or SIGUSR2"), "{said}");
    let mut daemon = setup.start();
    expect_token(&daemon, TOKEN, 200);
    fs::write(&file, OTHER).expect("another token");
    for _ in 0..2 {
        let before = daemon.log.text().matches("the configuration stays as it was").count();
        daemon.signal("HUP");
        assert!(daemon.log.wait_count("the configuration stays as it was", before + 1));
        expect_token(&daemon, TOKEN, 200);
        expect_token(&daemon, OTHER, 401);
        daemon.upgrade();
        expect_token(&daemon, TOKEN, 200);
    }
    daemon.expect_log(&["SIGHUP: management_token_file", "uid 4321 must be able to read it"]);
    // readable for its user, it is in force
    let user = nix::unistd::Uid::from_raw(4321);
    nix::unistd::chown(&file, Some(user), None).expect("given away");
    daemon.signal("HUP");
    daemon.expect_log(&["SIGHUP: the configuration is in force"]);
    expect_token(&daemon, OTHER, 200);
    expect_token(&daemon, TOKEN, 401);
}
