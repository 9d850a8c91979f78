//! Completions as the shells use them: what TAB offers in bash, zsh and fish. A shell that is not
//! installed is skipped, and says so.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;
use tempfile::TempDir;

use crate::api::empty;
use crate::daemon::Setup;
use crate::docs::page::root;
use crate::management::Call;

#[derive(Copy, Clone, PartialEq, Debug)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// A shell with the completions, in a folder that holds them and a file.
struct Typist {
    shell: Shell,
    folder: TempDir,
    url: String,
}

impl Typist {
    /// `None`: there is no such shell here.
    fn new(shell: Shell, url: &str) -> Option<Typist> {
        let (name, file) = match shell {
            Shell::Bash => ("bash", "mantrid-client.bash"),
            Shell::Zsh => ("zsh", "_mantrid-client"),
            Shell::Fish => ("fish", "mantrid-client.fish"),
        };
        let found = Command::new(name).args(["-c", "exit 0"]).stdout(Stdio::null()).status();
        if !found.is_ok_and(|status| status.success()) {
            eprintln!("skipped: there is no {name} here");
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let printed = Call::new(&["completions", name]).finish();
        printed.expect(0, &[]);
        std::fs::write(folder.path().join(file), printed.out).expect("a script");
        std::fs::write(folder.path().join("table.json"), "{}").expect("a file");
        let rc = root().join("tests/data/zsh_tab.zshrc");
        std::fs::copy(rc, folder.path().join("zshrc")).expect("a file");
        Some(Typist { shell, folder, url: url.to_owned() })
    }

    /// What TAB offers behind a line, sorted.
    fn tab(&self, line: &str) -> Vec<String> {
        let mut command = match self.shell {
            Shell::Bash => {
                // As bash calls it; it parts words at each = and :, and so must what is offered.
                let script = "source mantrid-client.bash; compopt() { :; }; COMP_LINE=$1\n\
                    COMP_POINT=${#COMP_LINE}; _mantrid_client\n\
                    word=${COMP_LINE##* }; for one in \"${COMPREPLY[@]}\"; do\n\
                    echo \"${word%\"${word##*[=:]}\"}$one\"; done";
                let mut command = Command::new("bash");
                command.args(["--norc", "-c", script, "bash", line]);
                command
            }
            Shell::Zsh => {
                let mut command = Command::new("zsh");
                let script = root().join("tests/data/zsh_tab.zsh");
                command.arg("-f").arg(script).arg(self.folder.path()).arg(line);
                command
            }
            Shell::Fish => {
                let mut command = Command::new("fish");
                let script = "source mantrid-client.fish; complete -C $argv[1]";
                command.args(["--no-config", "-c", script, line]);
                command
            }
        };
        let programs = Path::new(env!("CARGO_BIN_EXE_mantrid-client")).parent().expect("a folder");
        let path = std::env::var("PATH").unwrap_or_default();
        let ended = command
            .env("PATH", format!("{}:{path}", programs.display()))
            .env("MANTRID_URL", &self.url)
            .env("HOME", self.folder.path())
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .output()
            .expect("a shell");
        let err = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success() && err.is_empty(), "{:?}: {line}: {err}", self.shell);
        let out = String::from_utf8_lossy(&ended.stdout);
        // fish tells what each means behind a tab.
        let words = out.lines().map(|line| line.split('\t').next().unwrap_or_default().trim_end());
        let mut words: Vec<String> = words.map(str::to_owned).collect();
        words.sort();
        words.dedup();
        words
    }
}

#[test]
fn tab_offers_what_may_stand_there() {
    let daemon = Setup::new()
        .rule("shop.example", empty(403))
        .rule("shoes.example", empty(403))
        .rule("http://old.example", json!(["redirect", {"redirect_to": "shop.example"}, false]))
        .start();
    let url = daemon.management.iter().find(|one| one.starts_with("unix:")).expect("a socket");
    let with_url = format!("mantrid-client --url {url} flip sho");
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let Some(typist) = Typist::new(shell, url) else { continue };
        for (line, expected) in [
            ("mantrid-client l", &["list", "load"][..]),
            ("mantrid-client comp", &["completions"]),
            ("mantrid-client backend ", &["drain", "help", "list", "move", "remove"]),
            ("mantrid-client list --fi", &["--filter"]),
            ("mantrid-client top --filter ", &["down", "failing", "held", "limited"]),
            ("mantrid-client which --scheme t", &["tcp", "tls"]),
            ("mantrid-client flip sho", &["shoes.example", "shop.example"]),
            ("mantrid-client flip http://o", &["http://old.example"]),
            ("mantrid-client set shop.example s", &["spin", "static"]),
            ("mantrid-client set shop.example proxy ", &["false", "true"]),
            ("mantrid-client set shop.example proxy true back", &["backends=", "backup="]),
            (
                "mantrid-client set a.com proxy true backends=b:1 algorithm=l",
                &["algorithm=least_connections"],
            ),
            ("mantrid-client list --search 'a' --so", &["--socket", "--sort"]),
            ("mantrid-client nothing ", &[]),
        ] {
            assert_eq!(typist.tab(line), expected, "{shell:?}: {line}");
        }
        // bash itself lists files, where it is told to.
        if shell != Shell::Bash {
            assert_eq!(typist.tab("mantrid-client load ta"), ["table.json"], "{shell:?}");
        }
        let elsewhere = Typist { url: "unix:/nowhere".to_owned(), ..typist };
        assert_eq!(elsewhere.tab("mantrid-client flip sho"), [] as [&str; 0], "{shell:?}");
        assert_eq!(elsewhere.tab(&with_url), ["shoes.example", "shop.example"], "{shell:?}");
    }
}

/// bash puts no space behind a key, whose value is still to come, and lists files.
#[test]
fn bash_goes_on_behind_a_key() {
    let Some(typist) = Typist::new(Shell::Bash, "unix:/nowhere") else { return };
    let script = "source mantrid-client.bash; compopt() { echo \"$@\"; }; COMP_LINE=$1\n\
        COMP_POINT=${#COMP_LINE}; _mantrid_client";
    for (line, expected) in [
        ("mantrid-client set a.com proxy true backe", "-o nospace\n"),
        ("mantrid-client set a.com proxy true algorithm=le", ""),
        ("mantrid-client load ta", "-o default\n"),
    ] {
        let programs = Path::new(env!("CARGO_BIN_EXE_mantrid-client")).parent().expect("a folder");
        let path = std::env::var("PATH").unwrap_or_default();
        let ended = Command::new("bash")
            .args(["--norc", "-c", script, "bash", line])
            .env("PATH", format!("{}:{path}", programs.display()))
            .current_dir(typist.folder.path())
            .output()
            .expect("bash");
        assert_eq!(String::from_utf8_lossy(&ended.stdout), expected, "{line}");
    }
}

/// Names come from the daemon that the line names, however many there are, and not a word of it
/// where there is none.
#[test]
fn names_of_hosts_are_asked_of_the_daemon_of_the_line() {
    let daemon = Setup::new().start();
    let mut api = daemon.api();
    let many = (0..500).map(|n| (format!("m{n:03}.example"), empty(404)));
    let some = ["a.com", "shop.example", "shop.example.org", "zoo.example"];
    let some = some.into_iter().map(|name| (name.to_owned(), empty(404)));
    api.put("/hostname/", &serde_json::Value::Object(many.chain(some).collect()));
    let url = daemon.management.iter().find(|one| one.starts_with("unix:")).expect("a socket");
    let socket = url.trim_start_matches("unix:");
    let offered = |address: &[&str], prefix: &str| {
        let words = [&["complete", "--"], address, &["get", prefix]].concat();
        let finished = Call::new(&words).finish();
        finished.expect(0, &[]);
        assert_eq!(finished.err, "");
        let names =
            finished.out.lines().map(|line| line.split('\t').next().expect("a name").to_owned());
        names.collect::<Vec<String>>()
    };
    for address in [&["--socket", socket][..], &["--url", url]] {
        assert_eq!(offered(address, "sh"), ["shop.example", "shop.example.org"]);
        assert_eq!(offered(address, "shop.example.o"), ["shop.example.org"]);
        assert_eq!(offered(address, "b"), [] as [&str; 0]);
        assert_eq!(offered(address, "m499"), ["m499.example"]);
        assert_eq!(offered(address, "").len(), 200, "no more than one can look through");
    }
    assert_eq!(offered(&["--socket", "/nowhere.sock"], "a"), [] as [&str; 0]);
}
