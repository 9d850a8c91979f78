//! Containers, as `docs/containers.md` has them: the daemon under the seccomp profile of
//! `docs/examples/container`, without rights, as the first process; and the files there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;

use crate::api::empty;
use crate::daemon::{Setup, run_with};
use crate::message::get;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/container").join(name)
}

fn confine(profile: &Path) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/confine.py");
    let mut command = Command::new("python3");
    command.arg(script).arg(profile);
    command
}

/// Whether a program can be confined here.
fn can_confine() -> bool {
    let tried = confine(&example("seccomp.json")).arg("true").output();
    let can = tried.as_ref().is_ok_and(|tried| tried.status.success());
    if !can || !geteuid().is_root() {
        eprintln!("skipped: needs root, python3 and libseccomp: {tried:?}");
    }
    can && geteuid().is_root()
}

/// The first process of a namespace. It ends with this: its parent cannot see to that, as a process
/// that changes its user loses the signal which tells it of its parent's end (prctl(2)).
struct FirstProcess(i32);

impl Drop for FirstProcess {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0), Signal::SIGKILL);
    }
}

/// Everything that a container takes away, and a process namespace of its own.
#[test]
fn daemon_serves_as_the_first_process_without_rights() {
    if !can_confine() {
        return;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/confine.py");
    let setup = Setup::new().rule("a.com", empty(402)).copied();
    let folder = setup.path("").display().to_string();
    let inside = format!(
        "chown -R 4321:4321 {folder} && exec unshare -pf --kill-child python3 {} {} \"$0\" \"$@\"; \
         false",
        script.display(),
        example("seccomp.json").display()
    );
    let daemon = setup.first(inside).start();
    let first =
        fs::read_to_string(format!("/proc/{}/task/{}/children", daemon.pid(), daemon.pid()));
    let first = FirstProcess(first.expect("its child").trim().parse().expect("a process id"));
    for _ in 0..2 {
        assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 402);
    }
    // names, files and threads are not in the way either
    let mut api = daemon.api();
    let named = serde_json::json!(["proxy", {"backends": "localhost:1", "check": "tcp"}, false]);
    api.put("/hostname/b.com/", &named);
    assert_eq!(daemon.connect().exchange(get("b.com", "/")).status(), 502);
    api.put("/hostname/a.com/", &empty(403));
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 403);
    let status = fs::read_to_string(format!("/proc/{}/status", first.0)).expect("its status");
    let is_there = |line: &str| status.lines().any(|known| known == line);
    assert!(is_there("Seccomp:\t2") && is_there("NoNewPrivs:\t1"), "{status}");
    assert!(is_there("CapEff:\t0000000000000000"), "{status}");
    assert!(status.contains("\nNSpid:") && status.contains("\t1\n"), "{status}");
    kill(Pid::from_raw(first.0), Signal::SIGUSR2).expect("it runs");
    daemon.expect_log(&["SIGUSR2: this is PID 1"]);
}

/// The three calls are what is needed: the profile without them ends the daemon, which says why.
#[test]
fn daemon_says_that_io_uring_is_forbidden() {
    if !can_confine() {
        return;
    }
    let setup = Setup::new().copied();
    let text = fs::read_to_string(example("seccomp.json")).expect("a profile");
    let mut profile: Value = serde_json::from_str(&text).expect("JSON");
    let calls = profile["syscalls"].as_array_mut().expect("a list");
    let removed = calls.remove(0);
    assert_eq!(removed["names"][0], "io_uring_setup", "the first entry is that of io_uring");
    let without = setup.path("without.json");
    fs::write(&without, profile.to_string()).expect("a profile");
    let conf = setup.write_files();
    let program = env!("CARGO_BIN_EXE_mantrid");
    let copied = setup.path("other");
    assert!(Command::new("cp").arg(program).arg(&copied).status().expect("cp").success());
    let chown = Command::new("chown").args(["-R", "4321:4321"]).arg(setup.path("")).status();
    assert!(chown.expect("chown").success());
    let ended = confine(&without).arg(&copied).arg("-c").arg(&conf).output().expect("python3");
    let told = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{told}");
    assert!(told.contains("io_uring"), "{told}");
}

#[test]
fn profile_forbids_what_a_service_does_not_need() {
    if !can_confine() {
        return;
    }
    let profile = example("seccomp.json");
    for words in [&["unshare", "-U", "true"][..], &["mount", "-t", "tmpfs", "x", "/mnt"]] {
        let ended = confine(&profile).args(words).output().expect("python3");
        assert!(!ended.status.success(), "{words:?}");
    }
    let ended = confine(&profile).args(["sh", "-c", "echo well"]).output().expect("python3");
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "well\n");
}

#[test]
fn configuration_in_the_container_is_right() {
    let setup = Setup::new();
    let folder = setup.path("").display().to_string();
    let text = fs::read_to_string(example("mantrid.conf")).expect("a configuration");
    let text = text
        .replace("/run/mantrid", folder.trim_end_matches('/'))
        .replace("/var/lib/mantrid", folder.trim_end_matches('/'))
        .replace("*:80", "127.0.0.1:0")
        .replace("127.0.0.1:8042", "127.0.0.1:0");
    let user = if geteuid().is_root() { "uid = 0\ngid = 0\n" } else { "" };
    let conf = setup.path("mantrid.conf");
    fs::write(&conf, text + user).expect("a configuration");
    let conf = conf.display().to_string();
    let checked = run_with(&["-c", &conf, "--check"]);
    checked.expect(0, &[]);
    assert!(checked.out.trim_end().ends_with("Nothing is wrong."), "{}", checked.out);
}

/// Each file that one of the others names is there.
#[test]
fn files_name_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let image = fs::read_to_string(example("Containerfile")).expect("a Containerfile");
    let copied = image.lines().filter_map(|line| line.strip_prefix("COPY "));
    let mut count = 0;
    for line in copied.filter(|line| !line.starts_with("--from")) {
        let mut words: Vec<&str> = line.split(' ').collect();
        words.pop();
        for word in words {
            assert!(root.join(word).exists(), "Containerfile: {word}");
            count += 1;
        }
    }
    // all that Cargo.toml names is copied
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("Cargo.toml");
    for line in manifest.lines().filter(|line| line.starts_with("path = ")) {
        let path = line.split('"').nth(1).expect("a path");
        let top = path.split('/').next().expect("a folder");
        assert!(image.contains(&format!("COPY {top} {top}\n")), "Containerfile: {path}");
    }
    let compose = fs::read_to_string(example("compose.yaml")).expect("a compose file");
    for word in compose.split([' ', '\n', '=', ':', '"']) {
        if word.starts_with("./") || word.starts_with("../") {
            assert!(example(word).exists(), "compose.yaml: {word}");
            count += 1;
        }
    }
    assert!(9 < count, "only {count}");
    let sites = fs::read_to_string(example("sites.json")).expect("sites");
    let sites: Value = serde_json::from_str(&sites).expect("JSON");
    let shop = sites["shop.example"]["container"].as_str().expect("a container");
    assert!(compose.contains(&format!("container_name: {shop}\n")));
}
