//! `--demo --fleet`: etcd and two more nodes beside the demo, on loopback, for as long as it runs.

use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::log::say;

/// The processes of etcd and, once they run, of the other nodes.
pub(super) struct DemoFleet {
    folder: PathBuf,
    etcd: String,
    processes: Vec<Child>,
}

impl DemoFleet {
    /// Starts etcd, with its data in this folder.
    pub(super) fn start(folder: &Path) -> Result<DemoFleet, String> {
        let (client, peer) = (free_url()?, free_url()?);
        let mut command = deathly("etcd");
        command
            .args(["--name", "demo", "--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client, "--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer, "--data-dir"])
            .arg(folder.join("etcd"))
            .arg(format!("--initial-cluster=demo={peer}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().map_err(|error| {
            format!("--fleet: etcd: {error}; it is in Debian's package etcd-server")
        })?;
        Ok(DemoFleet { folder: folder.to_owned(), etcd: client, processes: vec![child] })
    }

    /// Returns the configuration keys of the demo's own node.
    pub(super) fn configuration(&self) -> String {
        self.keys("a")
    }

    fn keys(&self, node: &str) -> String {
        let etcd = &self.etcd;
        format!("fleet = demo\nfleet_node = {node}\nfleet_endpoints = {etcd}\nfleet_start = 30s\n")
    }

    /// Starts the other nodes, once the first has made the fleet, and prints what can be tried.
    pub(super) fn announce(&mut self, first: &str) -> Result<(), String> {
        let mut text = String::from(
            "\nThe demo is a fleet of three nodes with one table, and etcd beside them:\n\n",
        );
        let mut last = (String::new(), String::new());
        for node in ["b", "c"] {
            let (serves, manages) = (free_url()?, free_url()?);
            self.node(node, &serves, &manages).map_err(|error| format!("--fleet: {error}"))?;
            // Writing to a String does not fail.
            let _ =
                writeln!(text, "  node {node}: requests at {serves}/, management at {manages}/");
            last = (serves, manages);
        }
        let (serves, manages) = last;
        let _ = write!(
            text,
            "\nTry:\n\n  mantrid-client --url {first} fleet\n      # who is in it\n  \
             curl -X PUT --json '[\"empty\", {{\"code\": 418}}, true]' \
             '{manages}/hostname/every.example/?wait=fleet'\n      \
             # a change by node c, in force on all when it is answered; then by node a:\n  \
             curl -i -H 'Host: every.example' {serves}/\n  \
             curl {first}fleet/\n      # the same, as JSON\n"
        );
        say(&text);
        Ok(())
    }

    fn node(&mut self, name: &str, serves: &str, manages: &str) -> io::Result<()> {
        let folder = self.folder.join(name);
        std::fs::create_dir_all(folder.join("static"))?;
        let address = |url: &str| url.trim_start_matches("http://").to_owned();
        let (state, pages) = (folder.join("state.json"), folder.join("static"));
        let text = format!(
            "bind = {}\nbind_management = {}\nstate_file = {}\nstatic_dir = {}\nshards = 1\n\
             uid = {}\ngid = {}\n{}",
            address(serves),
            address(manages),
            state.display(),
            pages.display(),
            nix::unistd::geteuid(),
            nix::unistd::getegid(),
            self.keys(name),
        );
        let file = folder.join("mantrid.conf");
        std::fs::write(&file, text)?;
        let log = std::fs::File::create(folder.join("log"))?;
        let program = std::env::current_exe()?;
        let mut command = deathly(&program.display().to_string());
        command.arg("-c").arg(file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.processes.push(command.spawn()?);
        Ok(())
    }
}

impl Drop for DemoFleet {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Command of a program that is killed when this process ends in any way, if util-linux (`setpriv`)
/// is installed.
fn deathly(program: &str) -> Command {
    let has_setpriv = Path::new("/usr/bin/setpriv").exists();
    let mut command = Command::new(if has_setpriv { "/usr/bin/setpriv" } else { program });
    if has_setpriv {
        command.args(["--pdeathsig", "KILL", "--", program]);
    }
    command
}

fn free_url() -> Result<String, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let address = listener.and_then(|listener| listener.local_addr());
    address
        .map(|address| format!("http://{address}"))
        .map_err(|error| format!("--fleet: no free port: {error}"))
}
