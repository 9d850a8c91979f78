//! Files of the state that are taken away, changed or replaced while the daemon runs: a 200 means
//! that it is on disk all the same, and nobody's work is lost.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::api::empty;
use crate::daemon::{Daemon, Setup, eventually};

/// With the state in a folder of its own.
fn setup() -> Setup {
    let setup = Setup::new();
    let folder = setup.path("state");
    fs::create_dir(&folder).expect("a folder");
    let hosts = json!({"hosts": {"a.com": empty(402)}, "stats": {}});
    fs::write(folder.join("s.json"), hosts.to_string()).expect("a state file");
    let file = folder.join("s.json").display().to_string();
    setup.set("state_file", file)
}

/// What somebody does to the folder of the state.
type Harm = (&'static str, fn(&Path));

const HARMS: &[Harm] = &[
    ("the folder is removed", |folder| fs::remove_dir_all(folder).expect("removed")),
    ("the folder is moved", |folder| {
        fs::rename(folder, folder.with_extension("old")).expect("moved");
    }),
    ("the folder is another", |folder| {
        fs::rename(folder, folder.with_extension("old")).expect("moved");
        fs::create_dir(folder).expect("a folder");
    }),
    ("the journal is removed", |folder| {
        fs::remove_file(folder.join("s.json.journal")).expect("removed");
    }),
    ("the journal is moved", |folder| {
        fs::rename(folder.join("s.json.journal"), folder.join("j")).expect("moved");
    }),
    ("the journal is emptied", |folder| {
        fs::write(folder.join("s.json.journal"), "").expect("emptied");
    }),
    ("the journal is another", |folder| {
        fs::copy(folder.join("s.json.journal"), folder.join("j")).expect("copied");
        fs::rename(folder.join("j"), folder.join("s.json.journal")).expect("replaced");
    }),
    ("the journal is a folder", |folder| {
        fs::rename(folder.join("s.json.journal"), folder.join("j")).expect("moved");
        fs::create_dir(folder.join("s.json.journal")).expect("a folder");
        fs::remove_dir(folder.join("s.json.journal")).expect("removed");
    }),
    ("the state file is removed", |folder| {
        fs::remove_file(folder.join("s.json")).expect("removed");
    }),
    ("a backup is unpacked over it", |folder| {
        let backup = json!({"hosts": {"old.com": empty(404)}, "stats": {}, "sequence": 7});
        fs::write(folder.join("b"), backup.to_string()).expect("a backup");
        fs::rename(folder.join("b"), folder.join("s.json")).expect("unpacked");
        fs::write(folder.join("s.json.journal"), "").expect("unpacked");
    }),
    ("all files go", |folder| {
        for entry in fs::read_dir(folder).expect("the folder") {
            fs::remove_file(entry.expect("a file").path()).expect("removed");
        }
    }),
];

/// Makes a change before and after; what the table is to be.
#[track_caller]
fn harmed(daemon: &Daemon, setup: &Setup, harm: fn(&Path)) -> Value {
    let mut api = daemon.api();
    api.put("/hostname/before.com/", &empty(405));
    harm(&setup.path("state"));
    api.put("/hostname/after.com/", &empty(406));
    api.delete("a.com");
    json!({"before.com": empty(405), "after.com": empty(406)})
}

#[test]
fn changes_acknowledged_afterwards_outlive_a_kill() {
    for (what, harm) in HARMS {
        let setup = setup();
        let mut daemon = setup.clone().start();
        let table = harmed(&daemon, &setup, *harm);
        daemon.expect_log(&["state_file", "written anew"]);
        daemon.kill();
        assert_eq!(setup.start().api().get("/hostname/"), table, "{what}");
    }
}

#[test]
fn a_clean_stop_writes_the_table_anew() {
    for (what, harm) in HARMS {
        let setup = setup();
        let mut daemon = setup.clone().start();
        daemon.api().put("/hostname/before.com/", &empty(405));
        harm(&setup.path("state"));
        daemon.terminate();
        daemon.expect_clean_exit();
        assert!(!daemon.log.text().contains("journal stays"), "{what}");
        let table = json!({"a.com": empty(402), "before.com": empty(405)});
        assert_eq!(setup.start().api().get("/hostname/"), table, "{what}");
    }
}

#[test]
fn a_second_daemon_is_refused_afterwards_too() {
    let setup = setup();
    let daemon = setup.clone().start();
    harmed(&daemon, &setup, |folder| fs::remove_dir_all(folder).expect("removed"));
    let path = setup.path("other.sock").display().to_string();
    let second = setup.clone().set("bind_management", format!("unix:{path}"));
    second.run(&[]).expect(1, &["state_file", &format!("pid {}", daemon.pid())]);
}

/// Where it can't be written anew no change is made, and the table is not lost at the end.
#[test]
fn change_that_can_t_be_written_anew_is_refused() {
    let setup = setup();
    let temporary = setup.path("temporary");
    fs::create_dir(&temporary).expect("a folder");
    let first = format!("export TMPDIR={}", temporary.display());
    let mut daemon = setup.clone().first(first).start();
    let mut api = daemon.api();
    api.put("/hostname/before.com/", &empty(405));
    let folder = setup.path("state");
    fs::rename(&folder, setup.path("moved")).expect("moved");
    fs::write(&folder, "no folder").expect("a file in its place");
    let answer = api.tell("PUT", "/hostname/after.com/", &empty(406));
    answer.expect_error(507, "state_not_written");
    let health = api.get("/healthz");
    assert_eq!((&health["ok"], &health["state_writable"]), (&json!(true), &json!(false)));
    assert!(api.ask("GET", "/metrics").text().contains("mantrid_state_writable 0"));
    daemon.terminate();
    daemon.expect_clean_exit();
    assert!(!daemon.log.text().contains("journal stays"));
    let rescued = temporary.join(format!("mantrid-state-{}.json", daemon.pid()));
    daemon.expect_log(&["state_file", "NOT written", &rescued.display().to_string()]);
    let mode = fs::metadata(&rescued).expect("the rescued table").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    fs::remove_file(&folder).expect("removed");
    fs::create_dir(&folder).expect("a folder");
    fs::rename(rescued, folder.join("s.json")).expect("put there");
    let table = json!({"a.com": empty(402), "before.com": empty(405)});
    assert_eq!(setup.start().api().get("/hostname/"), table);
}

/// What somebody writes into the state file of a daemon that runs is not in force, nor lost.
#[test]
fn an_edit_while_it_runs_is_kept_aside() {
    for by_rename in [false, true] {
        let setup = setup();
        let mut daemon = setup.clone().start();
        let mut api = daemon.api();
        let file = setup.path("state/s.json");
        let edit = json!({"hosts": {"edited.com": empty(404)}, "stats": {}}).to_string();
        let write = || {
            if by_rename {
                fs::write(setup.path("state/new"), &edit).expect("an edit");
                fs::rename(setup.path("state/new"), &file).expect("an edit");
            } else {
                fs::write(&file, &edit).expect("an edit");
            }
        };
        write();
        api.put("/hostname/b.com/", &empty(403));
        daemon.expect_log(&["somebody else", "s.json.found-1"]);
        write();
        daemon.terminate();
        daemon.expect_clean_exit();
        daemon.expect_log(&["somebody else", "s.json.found-2"]);
        for kept in ["s.json.found-1", "s.json.found-2"] {
            let text = fs::read_to_string(setup.path("state").join(kept)).expect("what was kept");
            assert_eq!(text, edit, "{kept}");
        }
        let table = json!({"a.com": empty(402), "b.com": empty(403)});
        assert_eq!(setup.start().api().get("/hostname/"), table);
    }
}

/// A daemon that only counts does so within the time that statistics are saved in.
#[test]
fn an_untouched_state_is_written_once() {
    let setup = setup();
    let daemon = setup.clone().start();
    let mut api = daemon.api();
    for n in 0..20 {
        api.put(&format!("/hostname/h{n}.com/"), &empty(403));
    }
    assert_eq!(api.get("/healthz"), json!({"ok": true}));
    assert!(api.ask("GET", "/metrics").text().contains("mantrid_state_writable 1"));
    let log = daemon.log.text();
    assert!(!log.contains("written anew") && !setup.path("state/s.json.found-1").exists(), "{log}");
}

#[test]
fn an_empty_file_is_damage() {
    for text in ["", "\n", " ", "{", "\0"] {
        let setup = Setup::new();
        fs::write(setup.path("state.json"), text).expect("a state file");
        for arguments in [&["--check"][..], &[]] {
            setup.run(arguments).expect(1, &["state.json", "line 1", "it was left as it is"]);
        }
        assert_eq!(fs::read_to_string(setup.path("state.json")).expect("it"), text);
        fs::remove_file(setup.path("state.json")).expect("removed");
    }
}

/// In mounts of its own, as root, who may mount.
#[test]
fn a_state_file_that_is_mounted_by_itself_is_told() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: only root may mount");
    }
    let setup = setup();
    let file = setup.path("state/s.json");
    let other = setup.path("other.json");
    fs::copy(&file, &other).expect("a copy");
    let mount = format!("mount --bind {} {}", other.display(), file.display());
    let setup = setup.first_unshared(mount);
    let finished = setup.run(&["--check"]);
    let said = format!("{}{}", finished.out, finished.err);
    if said.contains("unshare") || said.contains("mount:") {
        return eprintln!("skipped: {said}");
    }
    finished.expect(0, &[]);
    assert!(said.contains("mounted by itself") && said.contains("mount its folder"), "{said}");
    let daemon = setup.start();
    daemon.expect_log(&["mounted by itself", "mount its folder"]);
    daemon.api().put("/hostname/b.com/", &empty(403));
    eventually("it is served", || daemon.api().get("/hostname/b.com/") == empty(403));
}
