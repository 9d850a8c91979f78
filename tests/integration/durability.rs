//! A 200 means that it is on disk: writers under a daemon that is killed again and again, and disks
//! that are full, read-only, or allow no larger files. `MANTRID_ROUNDS=100` has it killed a hundred
//! times, with changes among them that are large enough for the journal to be folded; else it is a
//! few.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;

use serde_json::{Value, json};

use crate::api::empty;
use crate::daemon::{Daemon, Setup};
use crate::manage::Api;
use crate::message::{Framing, get};

/// A rule that carries a number.
fn numbered(number: u64) -> Value {
    json!(["redirect", {"redirect_to": format!("http://x.example/{number}")}, false])
}

/// Whether the change was acknowledged; `None` when the daemon went before it said.
fn told(api: &mut Api, method: &str, path: &str, body: &Value) -> Option<()> {
    let request = api.request(method, path, "", &body.to_string());
    api.wire.try_send(request).ok()?;
    let head = api.wire.try_head()?;
    assert_eq!(head.status(), 200, "{head:#?}");
    let Framing::Length(mut length) = head.framing() else { panic!("no length: {head:#?}") };
    // acknowledged, even should the rest of it not come
    let mut room = [0; 1000];
    while 0 < length {
        match api.wire.read_or_end(&mut room[..length.min(1000)]) {
            Some(count) => length -= count,
            None => break,
        }
    }
    Some(())
}

/// What one writer knows of its own hosts.
#[derive(Clone, Default)]
struct Known {
    /// As last acknowledged; those that were deleted are null.
    acknowledged: BTreeMap<String, Value>,
    /// Hosts of the change that was under way, and what each was to become.
    in_flight: BTreeMap<String, Value>,
}

impl Known {
    /// Fails unless each host is as it was acknowledged, or the change under way was made, whole.
    fn compare(&self, table: &Value) {
        let after: Vec<bool> =
            self.in_flight.iter().map(|(host, rule)| table[host] == *rule).collect();
        let is_made = !after.is_empty() && after.iter().all(|same| *same);
        for (host, rule) in &self.acknowledged {
            let in_flight = self.in_flight.get(host).filter(|_| is_made);
            let expected = in_flight.unwrap_or(rule);
            assert!(
                table[host] == *expected,
                "{host} is {}; acknowledged was {rule}, under way {:?}",
                table[host],
                self.in_flight
            );
        }
    }
}

/// Changes its hosts until the daemon goes.
fn write(
    mut api: Api,
    writer: usize,
    mut known: Known,
    first: u64,
    done: &mpsc::Sender<()>,
) -> Known {
    for number in first.. {
        let host = format!("w{writer}-{}.com", number % 7);
        let mut change = BTreeMap::new();
        let (method, path, body) = match number % 5 {
            0 => {
                change.insert(host.clone(), Value::Null);
                ("DELETE", format!("/hostname/{host}/"), Value::Null)
            }
            1 | 2 => {
                let rules = ["left", "right", "middle"].map(|side| format!("w{writer}-{side}.com"));
                change.extend(rules.map(|name| (name, numbered(number))));
                change.insert(host, Value::Null);
                ("PATCH", "/hostname/".to_owned(), json!(change))
            }
            _ => {
                change.insert(host.clone(), numbered(number));
                ("PUT", format!("/hostname/{host}"), numbered(number))
            }
        };
        known.in_flight = change;
        if told(&mut api, method, &path, &body).is_none() {
            return known;
        }
        known.acknowledged.append(&mut known.in_flight);
        // whoever counts may have stopped
        let _ = done.send(());
    }
    known
}

/// Large changes, so that the journal is folded now and then.
fn write_large(mut api: Api, mut known: Known, first: u64) -> Known {
    for number in first.. {
        let to = format!("http://{number}.example/{}", "x".repeat(2000));
        let rules = (0..700)
            .map(|n| (format!("large{n}.com"), json!(["redirect", {"redirect_to": to}, false])));
        known.in_flight = rules.collect();
        if told(&mut api, "PATCH", "/hostname/", &json!(known.in_flight)).is_none() {
            return known;
        }
        known.acknowledged.append(&mut known.in_flight);
    }
    known
}

#[test]
fn acknowledged_changes_survive_any_kill() {
    const WRITERS: usize = 4;
    let rounds = std::env::var("MANTRID_ROUNDS").ok().and_then(|text| text.parse().ok());
    let with_large = rounds.is_some();
    let setup = Setup::new();
    let mut known: Vec<Known> = vec![Known::default(); WRITERS + usize::from(with_large)];
    let (mut folded, mut changes) = (0, 0);
    for round in 0..rounds.unwrap_or(15_u64) {
        let mut daemon = setup.clone().start();
        let (done, count) = mpsc::channel();
        let first = round * 1_000_000;
        let writers = known.drain(..).enumerate().map(|(writer, known)| {
            let (api, done) = (daemon.api(), done.clone());
            std::thread::spawn(move || match writer {
                WRITERS => write_large(api, known, first),
                _ => write(api, writer, known, first, &done),
            })
        });
        let writers: Vec<_> = writers.collect();
        // at any moment, also before the first is done
        let wanted = (round * 7919 % 53) as usize * if with_large { 5 } else { 1 };
        changes += count.iter().take(wanted).count();
        daemon.kill();
        folded += usize::from(setup.path("state.json.journal.folding").exists());
        known.extend(writers.into_iter().map(|writer| writer.join().expect("a writer")));
        let table = setup.clone().start().api().get("/hostname/");
        for one in &mut known {
            one.compare(&table);
            // what it found is what it goes on from
            for host in std::mem::take(&mut one.in_flight)
                .into_keys()
                .chain(one.acknowledged.clone().into_keys())
            {
                one.acknowledged.insert(host.clone(), table[&host].clone());
            }
        }
        let wanted =
            known.iter().flat_map(|one| one.acknowledged.values()).filter(|rule| !rule.is_null());
        assert_eq!(
            table.as_object().map(serde_json::Map::len),
            Some(wanted.count()),
            "hosts of nobody"
        );
    }
    eprintln!("{changes} changes were waited for, {folded} folds broken off");
}

/// A disk of this size at `FOLDER/small`, of which the daemon's state is on; or none, where we may
/// not.
fn on_a_small_disk(bytes: usize) -> Option<Setup> {
    let setup = Setup::new();
    let folder = setup.path("small");
    fs::create_dir(&folder).expect("a folder");
    let mount = format!("mount -t tmpfs -o size={bytes} none {}", folder.display());
    let tried = Command::new("unshare").args(["-m", "sh", "-c", &mount]).output();
    if !tried.as_ref().is_ok_and(|tried| tried.status.success()) {
        eprintln!("skipped: mounting a small disk is not allowed here: {tried:?}");
        return None;
    }
    Some(setup.set("state_file", folder.join("state.json").display()).first_unshared(mount))
}

/// The folder of `on_a_small_disk` as the daemon sees it.
fn small_disk(setup: &Setup, daemon: &Daemon) -> PathBuf {
    let path = setup.path("small");
    let inside = path.strip_prefix("/").expect("an absolute path");
    PathBuf::from(format!("/proc/{}/root", daemon.pid())).join(inside)
}

/// Leaves no room at all on the disk of this folder but so many bytes; the file that takes it up.
fn fill(folder: &std::path::Path, left: u64) -> PathBuf {
    let filler = folder.join("filler");
    let mut file = fs::File::create(&filler).expect("a filler");
    while std::io::Write::write_all(&mut file, &[0; 1024]).is_ok() {}
    let length = file.metadata().expect("its length").len();
    file.set_len(length.saturating_sub(left)).expect("room");
    filler
}

/// The table that a daemon finds in a copy of these files.
#[track_caller]
fn table_of_a_copy(folder: &std::path::Path) -> Value {
    let copy = Setup::new();
    for name in ["state.json", "state.json.journal", "state.json.journal.folding"] {
        if let Ok(bytes) = fs::read(folder.join(name)) {
            fs::write(copy.path(name), bytes).expect("a copy");
        }
    }
    // one that was not there: `Setup` would make up its own
    if !folder.join("state.json").exists() {
        fs::write(copy.path("state.json"), r#"{"hosts": {}}"#).expect("an empty table");
    }
    copy.start().api().get("/hostname/")
}

/// Changes are refused with the reason, nothing of them is in force, and requests go on.
#[track_caller]
fn expect_refused(daemon: &Daemon, words: &[&str]) {
    let mut api = daemon.api();
    let before = api.ask("GET", "/hostname/");
    let rules: Value = (0..40).map(|n| (format!("n{n}.com"), numbered(n))).collect();
    for _ in 0..2 {
        for (method, path, body) in [
            ("PUT", "/hostname/a.com/", empty(499)),
            ("PUT", "/hostname/", rules.clone()),
            ("PATCH", "/hostname/", rules.clone()),
            ("DELETE", "/hostname/a.com/", Value::Null),
        ] {
            let answer = api.tell(method, path, &body);
            let sentence = answer.expect_error(507, "state_not_written");
            assert!(words.iter().all(|word| sentence.contains(word)), "{sentence:?}: no {words:?}");
        }
        let after = api.ask("GET", "/hostname/");
        assert_eq!((after.json(), after.etag()), (before.json(), before.etag()));
        assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 402);
        assert_eq!(daemon.connect().exchange(get("n1.com", "/")).status(), 503);
    }
}

#[test]
fn full_disk_refuses_changes_until_there_is_room() {
    let Some(setup) = on_a_small_disk(256 * 1024) else { return };
    let mut daemon = setup.clone().start();
    let folder = small_disk(&setup, &daemon);
    let mut api = daemon.api();
    api.put("/hostname/a.com/", &empty(402));
    for round in 0..3 {
        // what the last page of the journal has room for is filled up, too
        let page = json!(["redirect", {"redirect_to": format!("http://{round}/{}", "x".repeat(2000))}, false]);
        let filler = fill(&folder, 0);
        let mut fits = 0;
        while api.tell("PUT", &format!("/hostname/f{round}-{fits}.com/"), &page).status() == 200 {
            fits += 1;
            assert!(fits < 4, "the disk is not full");
        }
        while api.ask("DELETE", "/hostname/x/").status() == 200 {}
        expect_refused(&daemon, &["state.json.journal", "No space left"]);
        let table = api.get("/hostname/");
        assert!(table_of_a_copy(&folder) == table, "what was written in vain is read");
        // of this much one page can be written, and not the rest
        fs::remove_file(&filler).expect("the filler");
        let filler = fill(&folder, 4096);
        let many: Value = (0..80).map(|n| (format!("m{n}.com"), page.clone())).collect();
        api.tell("PATCH", "/hostname/", &many).expect_error(507, "state_not_written");
        assert!(table_of_a_copy(&folder) == table, "half of a change is read");
        fs::remove_file(filler).expect("the filler");
        // and it goes on
        api.put(&format!("/hostname/after{round}.com/"), &empty(403));
        api.put("/hostname/a.com/", &empty(402));
    }
    let table = api.get("/hostname/");
    assert!(table_of_a_copy(&folder) == table);
    // at its end it can't write one tidy file: the journal says it all
    fill(&folder, 0);
    daemon.terminate();
    daemon.expect_clean_exit();
    daemon.expect_log(&["state_file", "the journal stays"]);
}

/// A limit of the process instead of the disk. Its signal would end a program that does not expect
/// it.
#[test]
fn limit_of_file_sizes_refuses_changes() {
    // blocks of 512 bytes
    let setup = Setup::new().rule("a.com", empty(402)).first("ulimit -S -f 32");
    let mut daemon = setup.clone().start();
    let mut api = daemon.api();
    let long =
        json!(["redirect", {"redirect_to": format!("http://x/{}", "x".repeat(1000))}, false]);
    let mut count = 0;
    while api.tell("PUT", &format!("/hostname/h{count}.com/"), &long).status() == 200 {
        count += 1;
        assert!(count < 40, "the limit is not there");
    }
    while api.ask("DELETE", "/hostname/x/").status() == 200 {}
    expect_refused(&daemon, &["state.json.journal", "File too large"]);
    daemon.expect_running();
    let table = api.get("/hostname/");
    let pid = i32::try_from(daemon.pid()).expect("a process number");
    let unlimited = (rlimit::INFINITY, rlimit::INFINITY);
    rlimit::prlimit(pid, rlimit::Resource::FSIZE, Some(unlimited), None).expect("prlimit");
    api.put("/hostname/a.com/", &empty(403));
    daemon.kill();
    let mut expected = table;
    expected["a.com"] = empty(403);
    assert!(setup.first("true").start().api().get("/hostname/") == expected);
}

/// The folder may be read and not written: it starts, serves, refuses changes, and takes them as
/// soon as it can.
#[test]
fn folder_that_can_t_be_written_refuses_changes() {
    let mut setup = Setup::new();
    if nix::unistd::geteuid().is_root() {
        // whom no rights of files stop; the daemon becomes somebody else
        setup = setup.unset("uid").unset("gid");
    }
    let mode = |path: PathBuf, mode| {
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("a mode");
    };
    mode(setup.path(""), 0o777);
    let kept = setup.path("kept");
    fs::create_dir(&kept).expect("a folder");
    let state = json!({"hosts": {"a.com": empty(402)}, "stats": {}});
    fs::write(kept.join("state.json"), state.to_string()).expect("a state file");
    mode(kept.join("state.json"), 0o644);
    mode(kept.clone(), 0o555);
    let setup = setup.set("state_file", kept.join("state.json").display());
    let mut daemon = setup.clone().start();
    expect_refused(&daemon, &["kept", "Permission denied"]);
    mode(kept.clone(), 0o777);
    daemon.api().put("/hostname/b.com/", &empty(403));
    daemon.kill();
    let mut daemon = setup.clone().start();
    assert_eq!(daemon.api().get("/hostname/"), json!({"a.com": empty(402), "b.com": empty(403)}));
    // while it runs, what is open stays open
    mode(kept.clone(), 0o555);
    daemon.api().put("/hostname/c.com/", &empty(404));
    daemon.terminate();
    daemon.expect_clean_exit();
    let daemon = setup.start();
    let table = json!({"a.com": empty(402), "b.com": empty(403), "c.com": empty(404)});
    assert_eq!(daemon.api().get("/hostname/"), table);
    mode(kept, 0o777);
}

/// A folder that is not there is made, and what is in it then found again.
#[test]
fn missing_folder_is_made() {
    let setup = Setup::new();
    let path = setup.path("not/there/yet/state.json");
    let setup = setup.set("state_file", path.display());
    let mut daemon = setup.clone().start();
    daemon.api().put("/hostname/a.com/", &empty(402));
    daemon.kill();
    assert_eq!(setup.start().api().get("/hostname/"), json!({"a.com": empty(402)}));
}
