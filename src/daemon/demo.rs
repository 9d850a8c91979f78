//! `--demo`: a playground on loopback for a newcomer's first minute. It leaves nothing behind.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;

use nix::unistd::{getegid, geteuid};
use serde_json::json;
use socket2::{Domain, Socket, Type};

use super::demo_backend;
use super::demo_fleet::DemoFleet;
use super::log::say;
use crate::control::Management;

/// The demo's backends and its folder, for as long as it runs.
pub(super) struct Demo {
    /// The fleet. It comes before `folder`, so that it is dropped before its folder is removed.
    fleet: Option<RefCell<DemoFleet>>,
    folder: Folder,
    backends: Vec<SocketAddr>,
    /// A socket that is bound and never listens, so that connections to it are certainly refused.
    dead: Socket,
}

impl Demo {
    /// Starts the backends.
    pub(super) fn prepare(with_fleet: bool) -> Result<Demo, Vec<String>> {
        let failed = |what: &str, error: io::Error| vec![format!("--demo: {what}: {error}")];
        let folder = Folder::new().map_err(|error| failed("no temporary folder", error))?;
        let backends = ["one", "two"].into_iter().map(demo_backend::start);
        let backends = backends
            .collect::<io::Result<_>>()
            .map_err(|error| failed("can't start a backend", error))?;
        let dead = dead_port().map_err(|error| failed("no free port", error))?;
        let fleet = with_fleet.then(|| DemoFleet::start(&folder.0)).transpose();
        let fleet = fleet.map_err(|problem| vec![problem])?.map(RefCell::new);
        Ok(Demo { fleet, folder, backends, dead })
    }

    /// Returns the text of the demo's configuration file. `-o` overrides it. The demo runs as the
    /// user who started it: a playground on loopback has no attackers.
    pub(super) fn configuration(&self) -> String {
        let mut text = String::from("bind = 127.0.0.1:8080\n");
        if TcpListener::bind("[::1]:0").is_ok() {
            text += "bind = [::1]:8080\n";
        }
        text += "bind_management = 127.0.0.1:8042\n";
        let folder = self.folder.0.display();
        // Writing to a String does not fail.
        let _ = write!(
            text,
            "state_file = {folder}/state.json\nstatic_dir = {folder}/static\nuid = {}\ngid = {}\n",
            geteuid(),
            getegid()
        );
        if let Some(fleet) = &self.fleet {
            text += &fleet.borrow().configuration();
        }
        text
    }

    /// Writes the state file with the demo's rules, once the addresses are known.
    pub(super) fn write_table(&self, addresses: &[SocketAddr]) -> Result<(), String> {
        let file = self.folder.0.join("state.json");
        let text = format!("{:#}\n", self.table(&url(addresses)));
        fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))
    }

    fn table(&self, url: &str) -> serde_json::Value {
        let backends: Vec<String> = self.backends.iter().map(ToString::to_string).collect();
        let dead = self.dead.local_addr().ok().and_then(|address| address.as_socket());
        let dead: Vec<String> = dead.iter().map(ToString::to_string).collect();
        json!({"hosts": {
            "localhost": ["proxy", {"backends": backends, "algorithm": "round_robin"}, false],
            "also.example": ["alias", {"hostname": "localhost"}, true],
            "old.example": ["redirect", {"redirect_to": url}, true],
            "test.example": ["static", {"type": "test"}, false],
            "secret.example": ["empty", {"code": 403}, false],
            "down.example": ["proxy", {"backends": dead}, false],
        }, "stats": {}})
    }

    /// Prints what can be tried.
    pub(super) fn announce(
        &self,
        addresses: &[SocketAddr],
        management: &[Management],
    ) -> Result<(), String> {
        let url = url(addresses);
        let [one, two] = self.backends[..] else { return Ok(()) };
        let mut text = format!(
            "\nMantrid's demo listens on {url}/. Behind it are two backends, on {one} and {two}.\n\
             Try in another terminal:\n\n"
        );
        for Try { options, host, path, what } in TRIES {
            let host = match url.contains("//localhost:") && *host == "localhost" {
                true => String::new(),
                false => format!(" -H 'Host: {host}'"),
            };
            let _ = writeln!(text, "  curl{options}{host} '{url}{path}'\n      # {what}");
        }
        if let Some(management) = management.first() {
            let _ = writeln!(
                text,
                "\nThe table is edited while it runs, here or in a browser, at {management} :\n\n  \
                 curl {management}hostname/\n      # every rule\n  \
                 curl -X PUT {JSON} '[\"empty\", {{\"code\": 418}}, true]' {management}hostname/tea.example/\n      \
                 # a new rule; then:\n  curl -i -H 'Host: tea.example' '{url}/'\n  \
                 curl {management}stats/localhost/\n      # counters of a host\n\n\
                 Requests can wait until their application is ready:\n\n  \
                 curl -X PUT {JSON} '[\"spin\", {{}}, true]' {management}hostname/wait.example/\n      \
                 # hold what comes for this host\n  \
                 curl -i -H 'Host: wait.example' '{url}/' &\n      \
                 # it waits, until the rule is another one:\n  \
                 curl -X PUT {JSON} '[\"alias\", {{\"hostname\": \"localhost\"}}, true]' \
                 {management}hostname/wait.example/"
            );
        }
        if let (Some(fleet), Some(first)) = (&self.fleet, management.first()) {
            fleet.borrow_mut().announce(&first.to_string())?;
        }
        let table = self.folder.0.join("state.json");
        let _ = writeln!(text, "\nThe table is kept in {}.", table.display());
        say(&(text + "Ctrl-C ends the demo; nothing is left behind."));
        Ok(())
    }
}

/// Arguments of curl for a JSON body. The shorter `--json` needs curl 7.82.
const JSON: &str = "-H 'Content-Type: application/json' -d";

struct Try {
    options: &'static str,
    host: &'static str,
    path: &'static str,
    what: &'static str,
}

const fn attempt(
    options: &'static str,
    host: &'static str,
    path: &'static str,
    what: &'static str,
) -> Try {
    Try { options, host, path, what }
}

const TRIES: &[Try] = &[
    attempt("", "localhost", "/", "proxy: the backends take turns; run it twice"),
    attempt("", "localhost", "/headers", "the head of the request as a backend sees it"),
    attempt("", "localhost", "/slow?ms=2000", "an answer that takes two seconds"),
    attempt(" -o /dev/null", "localhost", "/big?bytes=100000000", "100 MB"),
    attempt(" -d 'there and back'", "localhost", "/echo", "a body that comes back"),
    attempt(" -i", "also.example", "/", "alias: another name for localhost, subdomains too"),
    attempt(" -i", "old.example", "/headers", "redirect: 302, whose Location is localhost"),
    attempt(" -i", "test.example", "/", "static: the built-in page `test`"),
    attempt(" -i", "secret.example", "/", "empty: a bare 403"),
    attempt(" -i", "down.example", "/", "a backend that nobody listens on: 502"),
    attempt(" -i", "who.example", "/", "a host without a rule: the page `unknown`, 503"),
];

/// Returns the URL for a browser: with a name, if that name leads to this daemon.
fn url(addresses: &[SocketAddr]) -> String {
    let usual = addresses.iter().find(|address| address.ip() == Ipv4Addr::LOCALHOST);
    match (usual, addresses.first()) {
        (Some(address), _) => format!("http://localhost:{}", address.port()),
        (None, Some(address)) => format!("http://{address}"),
        (None, None) => String::new(),
    }
}

fn dead_port() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    Ok(socket)
}

/// Folder that is removed when the demo ends.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Folder> {
        // The folder is accessible for this user only, and nobody can have prepared its name.
        let path = nix::unistd::mkdtemp(&std::env::temp_dir().join("mantrid-demo-XXXXXX"))?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!("{} stays behind: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state;
    use crate::table::{Match, Names, Scheme};

    #[test]
    fn every_rule_of_the_demo_is_good_and_tried() {
        let demo = Demo::prepare(false).expect("a demo");
        let text = demo.table("http://localhost:8080").to_string();
        let loaded = state::parse(text.as_bytes(), &mut Names::default()).expect("a table");
        assert!(loaded.rejected.is_empty(), "{:?}", loaded.rejected);
        let matched = |host: &str| match loaded.snapshot.lookup(host, Scheme::Http) {
            Match::Found(found) => Some(found.name().to_owned()),
            _ => None,
        };
        let tried: std::collections::HashSet<_> =
            TRIES.iter().filter_map(|attempt| matched(attempt.host)).collect();
        assert_eq!(tried.len(), loaded.snapshot.len());
        assert_eq!(matched("who.example"), None);
    }

    #[test]
    fn its_folder_goes_with_it() {
        let demo = Demo::prepare(false).expect("a demo");
        let folder = demo.folder.0.clone();
        demo.write_table(&["127.0.0.1:8080".parse().expect("an address")]).expect("a table");
        assert!(folder.join("state.json").exists());
        drop(demo);
        assert!(!folder.exists());
    }
}
