//! etcd for the tests of fleets: real members, where it is installed, and a way to them that can be
//! cut, or fall silent as a network does that loses all packets.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::backend::closed_port;
use crate::daemon::eventually;

/// Whether etcd is there; where it is not, the test says that it was skipped.
pub fn is_installed() -> bool {
    let is_there = Path::new("/usr/bin/etcd").exists() && Path::new("/usr/bin/etcdctl").exists();
    if !is_there {
        println!("skipped: etcd is not installed");
    }
    is_there
}

/// A cluster on loopback.
pub struct Etcd {
    pub members: Vec<Member>,
    folder: TempDir,
    arguments: Vec<String>,
}

pub struct Member {
    name: String,
    pub url: String,
    peer: String,
    child: Option<Child>,
}

impl Etcd {
    /// So many members, with these arguments beside the usual ones; `None` where etcd is not
    /// installed.
    #[track_caller]
    pub fn start(count: usize, arguments: &[&str]) -> Option<Etcd> {
        if !is_installed() {
            return None;
        }
        let url = |scheme: &str| format!("{scheme}://127.0.0.1:{}", closed_port());
        let is_tls = arguments.iter().any(|one| one.starts_with("--cert-file"));
        let scheme = if is_tls { "https" } else { "http" };
        let member = |at| Member {
            name: format!("m{at}"),
            url: url(scheme),
            peer: url("http"),
            child: None,
        };
        let mut etcd = Etcd {
            members: (0..count).map(member).collect(),
            folder: tempfile::Builder::new().prefix("etcd-").tempdir().expect("a folder"),
            arguments: arguments.iter().map(|one| (*one).to_owned()).collect(),
        };
        (0..count).for_each(|at| etcd.start_member(at));
        etcd.wait();
        Some(etcd)
    }

    pub fn start_member(&mut self, at: usize) {
        let all = self.members.iter().map(|it| format!("{}={}", it.name, it.peer));
        let all: Vec<String> = all.collect();
        let member = &mut self.members[at];
        let child = Command::new("/usr/bin/etcd")
            .args(["--name", &member.name, "--initial-cluster", &all.join(",")])
            .args(["--listen-client-urls", &member.url, "--advertise-client-urls", &member.url])
            .args(["--listen-peer-urls", &member.peer])
            .args(["--initial-advertise-peer-urls", &member.peer])
            .arg("--data-dir")
            .arg(self.folder.path().join(&member.name))
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        member.child = Some(child.expect("etcd starts"));
    }

    /// Until it takes writes.
    #[track_caller]
    pub fn wait(&self) {
        eventually("etcd takes writes", || self.try_control(&["put", "/ready", "1"]).is_some());
    }

    /// Ends a member as a crash would.
    pub fn kill(&mut self, at: usize) {
        if let Some(mut child) = self.members[at].child.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }

    pub fn signal(&self, at: usize, signal: Signal) {
        if let Some(child) = &self.members[at].child {
            kill(Pid::from_raw(child.id() as i32), signal).expect("a signal");
        }
    }

    /// All of it is gone, and a new one is there at the same addresses.
    #[track_caller]
    pub fn lose(&mut self) {
        for at in 0..self.members.len() {
            self.kill(at);
            drop(std::fs::remove_dir_all(self.folder.path().join(&self.members[at].name)));
        }
        (0..self.members.len()).for_each(|at| self.start_member(at));
        self.wait();
    }

    pub fn urls(&self) -> Vec<String> {
        self.members.iter().map(|member| member.url.clone()).collect()
    }

    /// What etcdctl prints.
    #[track_caller]
    pub fn control(&self, arguments: &[&str]) -> String {
        self.try_control(arguments).unwrap_or_else(|| panic!("etcdctl {arguments:?} failed"))
    }

    fn try_control(&self, arguments: &[&str]) -> Option<String> {
        let mut command = Command::new("/usr/bin/etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.urls().join(",")]);
        command.args(["--command-timeout=2s"]);
        // What the members are started with is good for their client, too.
        let same =
            [("--cert-file", "--cert"), ("--key-file", "--key"), ("--trusted-ca-file", "--cacert")];
        for argument in &self.arguments {
            let named = argument.split_once('=');
            let known = same.iter().find(|(ours, _)| Some(*ours) == named.map(|(name, _)| name));
            if let (Some((_, theirs)), Some((_, value))) = (known, named) {
                command.arg(format!("{theirs}={value}"));
            }
        }
        let done = command.args(arguments).stdin(Stdio::null()).output().expect("etcdctl");
        done.status.success().then(|| String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// How many keys have a prefix.
    #[track_caller]
    pub fn count(&self, prefix: &str) -> usize {
        let keys = self.control(&["get", "--prefix", "--keys-only", prefix]);
        keys.lines().filter(|line| !line.is_empty()).count()
    }

    /// Forgets all revisions but the newest.
    #[track_caller]
    pub fn compact(&self) {
        let status = self.control(&["get", "/ready", "-w", "json"]);
        let status: Value = serde_json::from_str(&status).expect("JSON");
        let revision = status["header"]["revision"].to_string();
        // Another test's writes are not in here: it has a cluster of its own.
        self.control(&["compact", "--physical", &revision]);
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|at| self.kill(at));
    }
}

/// What becomes of bytes on a [`Way`].
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Passing {
    All,
    /// Answers stay away, requests arrive.
    Requests,
    /// Neither; connections stay open.
    Nothing,
    /// Connections are closed, and new ones too.
    Cut,
}

/// A way to a member, on an address of its own.
pub struct Way {
    pub url: String,
    state: Arc<(Mutex<Passing>, Condvar)>,
}

impl Way {
    pub fn to(url: &str) -> Way {
        let target = url.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let state = Arc::new((Mutex::new(Passing::All), Condvar::new()));
        let shared = state.clone();
        std::thread::spawn(move || {
            while let Ok((near, _)) = listener.accept() {
                if *shared.0.lock().expect("no panic") == Passing::Cut {
                    continue;
                }
                let Ok(far) = TcpStream::connect(&target) else { continue };
                let both = [(&near, &far, true), (&far, &near, false)];
                for (from, to, is_request) in both {
                    let pair = (from.try_clone(), to.try_clone());
                    let (Ok(from), Ok(to)) = pair else { continue };
                    let state = shared.clone();
                    std::thread::spawn(move || pass(from, to, is_request, &state));
                }
            }
        });
        Way { url, state }
    }

    pub fn set(&self, passing: Passing) {
        *self.state.0.lock().expect("no panic") = passing;
        self.state.1.notify_all();
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.set(Passing::Cut);
    }
}

fn pass(
    mut from: TcpStream,
    mut to: TcpStream,
    is_request: bool,
    state: &(Mutex<Passing>, Condvar),
) {
    let mut room = [0; 16 * 1024];
    // A connection that is idle must notice that it was cut.
    let _ = from.set_read_timeout(Some(std::time::Duration::from_millis(20)));
    loop {
        let count = match from.read(&mut room) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
            Err(_) => break,
        };
        let waits = |passing: &mut Passing| match passing {
            Passing::All | Passing::Cut => false,
            Passing::Requests => !is_request,
            Passing::Nothing => true,
        };
        let passing = state.0.lock().expect("no panic");
        let passing = *state.1.wait_while(passing, waits).expect("no panic");
        if passing == Passing::Cut || to.write_all(&room[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
