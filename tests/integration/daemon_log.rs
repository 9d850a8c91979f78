//! The daemon's own log as JSON, and to a syslog.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use serde_json::Value;

use crate::api::empty;
use crate::daemon::Setup;
use crate::guard::{TOKEN, with_token};

/// A syslog that a test reads.
struct Syslog(UnixDatagram);

impl Syslog {
    fn at(path: &std::path::Path) -> Syslog {
        let socket = UnixDatagram::bind(path).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        Syslog(socket)
    }

    /// The next line with this word.
    #[track_caller]
    fn expect(&self, word: &str) -> String {
        let mut room = [0; 64 * 1024];
        loop {
            let count = self.0.recv(&mut room).unwrap_or_else(|error| panic!("{word}: {error}"));
            let line = String::from_utf8_lossy(&room[..count]).into_owned();
            if line.contains(word) {
                return line;
            }
        }
    }
}

#[test]
fn lines_are_json_where_the_configuration_says_so() {
    let setup = with_token(TOKEN.as_bytes()).set("log_format", "json").rule("a.com", empty(404));
    let mut daemon = setup.clone().start_json();
    let mut api = daemon.api().with(&format!("Authorization: Bearer {TOKEN}"));
    api.put("/hostname/b.com/", &empty(405));
    daemon.expect_log(&["\"audit\"", "b.com"]);
    setup.clone().set("log_format", "json").set("max_held", "many").write_files();
    daemon.signal("HUP");
    daemon.expect_log(&["the configuration stays as it was"]);
    daemon.terminate();
    daemon.expect_clean_exit();
    let lines: Vec<Value> = daemon
        .log
        .lines()
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    for line in &lines {
        let level = line["level"].as_str().expect("a level");
        assert!(["info", "warn", "error"].contains(&level), "{line}");
        assert!(line["time"].as_str().is_some_and(|time| time.contains('T')), "{line}");
        assert!(line["message"].as_str().is_some_and(|message| !message.is_empty()), "{line}");
    }
    let audit = lines.iter().find(|line| line["message"] == "audit").expect("a change");
    for (name, value) in [("verb", "PUT"), ("host", "b.com"), ("result", "done")] {
        assert_eq!(audit[name], value, "{audit}");
    }
    assert_eq!(audit["edits"], 1);
    assert!(audit["who"].as_str().is_some_and(|who| who.starts_with("uid ")), "{audit}");
    assert!(!daemon.log.text().contains(TOKEN));
}

#[test]
fn lines_go_to_a_syslog_and_to_the_next_one() {
    let setup = Setup::new();
    let path = setup.path("log.sock");
    let syslog = Syslog::at(&path);
    let setup = setup.set("log", format!("syslog:{}", path.display())).rule("a.com", empty(404));
    let socket = setup.path("management.sock");
    let mut started = setup.clone().start_quiet();
    let line = syslog.expect("Ready");
    assert_eq!(line, format!("<30>mantrid[{}]: Ready", started.pid()));
    let mut api = crate::manage::Api::over(crate::script::Connection::unix(&socket));
    api.put("/hostname/b.com/", &empty(405));
    let line = syslog.expect("audit");
    assert!(line.starts_with("<30>mantrid[") && line.contains("host=\"b.com\""), "{line}");
    // A syslog that is started anew is found; what nobody takes goes to standard error.
    drop(syslog);
    std::fs::remove_file(&path).expect("removed");
    api.put("/hostname/c.com/", &empty(405));
    started.expect_log(&["audit", "\"c.com\""]);
    let syslog = Syslog::at(&path);
    setup.clone().set("max_held", "many").write_files();
    started.signal("HUP");
    let line = syslog.expect("the configuration stays as it was");
    assert!(line.starts_with("<27>mantrid["), "an error: {line}");
    started.terminate();
    syslog.expect("Stopped after");
    started.expect_clean_exit();
    assert!(!started.log.text().contains("Stopped"), "{}", started.log.text());
}

#[test]
fn a_syslog_that_is_not_there_is_told_of_and_missed_by_nobody() {
    let setup = Setup::new();
    let path = setup.path("nowhere.sock").display().to_string();
    let daemon = setup.set("log", format!("syslog:{path}")).start();
    daemon.expect_log(&["log: ", &path, "lines go to standard error"]);
    daemon.expect_log(&["Ready"]);
    for (key, value) in [("log", "file"), ("log", "syslog:"), ("log_format", "xml")] {
        Setup::new().set(key, value).run(&["--check"]).expect(1, &[key, "expected"]);
    }
}
