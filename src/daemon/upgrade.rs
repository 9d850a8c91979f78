//! One daemon takes over from another (SIGUSR2). The old daemon starts the new program with the
//! same arguments. It hands over the listening sockets, then the state file, then, one by one, the
//! client connections that are between two requests or whose request is held. Both daemons use the
//! same sockets, so no client that connects meanwhile is refused or reset. Until the new daemon
//! says that it is ready, the old one goes on serving, and a failure changes nothing.
//!
//! | old | new |
//! | --- | --- |
//! | sockets → | reads its configuration, makes ready all that it can |
//! | | ← `prepared` |
//! | writes the state a last time, takes no changes; `state`, its counts → | reads it, starts |
//! | | ← `ready` |
//! | accepts no more connections; idle and held connections → | |
//! | count of requests under way, each time that it changes; `open` → | `ask`, `stop` |
//! | at its end: counts since it let go of the state; `counted` → | |

use std::io;
use std::net::{IpAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::inherited::{InheritedSockets, Tcp};
use super::log::counted;
use super::service;
use super::takeover_protocol::{self, Frame};
use crate::control::{Counted, Handle, Token, Tokens};
use crate::limits;
use crate::link::{ControlEnd, Drain, HandedOver, Protocol, Stop};
use crate::state::Totals;

/// Environment variable that tells the new daemon that its standard input is the socket to the old
/// one.
const VARIABLE: &str = "MANTRID_TAKES_OVER";
/// Value of [`VARIABLE`] if other processes of its user can't read the memory of the old daemon.
const GUARDED: &str = "guarded";
/// Sent with `ready` by a new daemon that understands reports on requests under way. An older
/// program would take such a report for a connection.
const HEARS: &[u8] = b"open";

/// Copies of the listening sockets, which a daemon keeps to hand them over.
pub(super) struct Sockets {
    /// Copies of the sockets of all shards, by address.
    pub(super) tcp: Vec<Tcp>,
    pub(super) unix: Vec<(PathBuf, OwnedFd)>,
}

/// Path and identity of the program that runs now, to start the program that is at this path later.
pub(super) struct Program {
    path: PathBuf,
    identity: Option<(u64, u64)>,
}

impl Program {
    /// Finds the program of this process. Must be called at the start, because the file may be
    /// replaced later. If the program was started through a symbolic link, the path of the link is
    /// kept: the link may lead to another program later, and that is then the one to start.
    pub(super) fn of_this_process() -> io::Result<Program> {
        let own = identity(Path::new("/proc/self/exe"));
        let asked = std::env::args_os().next().unwrap_or_default();
        let found = places(Path::new(&asked)).find(|path| identity(path) == own && own.is_some());
        let path = match found {
            Some(path) => path,
            // The parent process may have passed any name as `argv[0]`.
            None => std::env::current_exe()?,
        };
        Ok(Program { path, identity: own })
    }

    /// Whether another program is at the path now.
    pub(super) fn is_replaced(&self) -> bool {
        let now = identity(&self.path);
        now.is_some() && now != self.identity
    }
}

/// Paths that a program started by this name may have: the name itself as a path, or files in the
/// folders of `PATH`.
fn places(asked: &Path) -> impl Iterator<Item = PathBuf> {
    let here = std::env::current_dir().unwrap_or_default();
    let is_name = asked.components().count() == 1 && !asked.is_absolute();
    let folders = std::env::var_os("PATH").filter(|_| is_name).unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&folders).collect();
    let all = std::iter::once(here.clone()).chain(folders);
    let in_folder = move |folder| here.join(folder).join(asked).components().collect();
    all.map(in_folder)
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    path.metadata().ok().map(|found| (found.dev(), found.ino()))
}

/// The new daemon, as the old one sees it. It is killed unless it has become ready.
pub(super) struct Successor {
    stream: UnixStream,
    child: Option<Child>,
    process: i32,
    /// Lock for sending: several threads send.
    turn: Mutex<()>,
    /// Whether the successor understands reports on the requests under way here, and asks for them.
    hears: bool,
}

impl Successor {
    /// Returns why the new daemon did not get ready, as far as is known. It may have closed the
    /// socket before it logged the reason. So it gets some time to do so and end, and is killed
    /// only then.
    async fn gave_up(&mut self, why: String) -> String {
        let Some(child) = &mut self.child else { return why };
        match tokio::time::timeout(limits::LAST_WORDS_TIME, child.wait()).await {
            Ok(Ok(status)) => format!("it did not get ready ({status}): its log says why"),
            Ok(Err(_)) | Err(_) => why,
        }
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // An error means that it has ended by itself.
            let _ = child.start_kill();
        }
    }
}

/// Starts the new daemon and waits until it is ready to take over.
pub(super) async fn begin(
    program: &Program,
    sockets: &Sockets,
    control: &Handle,
) -> Result<Successor, String> {
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    // Starting a program resets this flag, so the new daemon is told.
    let is_guarded = nix::sys::prctl::get_dumpable() == Ok(false);
    let (ours, theirs) =
        UnixStream::pair().map_err(|error| failed("can't make a socket", &error))?;
    let child = Command::new(&program.path)
        .args(std::env::args_os().skip(1))
        .env(VARIABLE, if is_guarded { GUARDED } else { "1" })
        // These name sockets that systemd passed to this process.
        .env_remove("LISTEN_FDS")
        .env_remove("LISTEN_PID")
        .env_remove("LISTEN_FDNAMES")
        // This names the process that feeds the watchdog. With the number of this process, the new
        // daemon would never feed it.
        .env_remove("WATCHDOG_PID")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .map_err(|error| failed(&format!("can't start {}", program.path.display()), &error))?;
    let id = child.id().unwrap_or_default();
    info!("process {id} of {} is to take over", program.path.display());
    let process = i32::try_from(id).map_err(|error| failed("can't start it", &error))?;
    let mut successor = Successor {
        stream: ours,
        child: Some(child),
        process,
        turn: Mutex::default(),
        hears: false,
    };
    match hand_over(&successor.stream, sockets, control).await {
        Ok(hears) => successor.hears = hears,
        Err(why) => return Err(successor.gave_up(why).await),
    }
    successor.child = None;
    service::succeeded_by(id);
    info!("process {id} has taken over");
    Ok(successor)
}

/// Hands over the sockets first, and the state last, when nothing more is expected to go wrong.
/// Returns whether the new daemon understands reports on requests under way, which older programs
/// do not.
async fn hand_over(to: &UnixStream, sockets: &Sockets, control: &Handle) -> Result<bool, String> {
    let offers = offers(sockets, &control.tokens())
        .map_err(|error| format!("can't copy the sockets: {error}"))?;
    let stream = to.try_clone().map_err(|error| error.to_string())?;
    stream
        .set_read_timeout(Some(limits::UPGRADE_TIME))
        .and_then(|()| stream.set_write_timeout(Some(limits::UPGRADE_TIME)))
        .map_err(|error| error.to_string())?;
    talk(move || {
        for (what, descriptors) in &offers {
            let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
            takeover_protocol::send(&stream, what, b"", &descriptors)?;
        }
        takeover_protocol::send(&stream, &json!("all"), b"", &[])?;
        expect(&stream, "prepared").map(drop)
    })
    .await?;
    control.release().await;
    let mut released = Released(Some(control.clone()));
    // An older program reads the word and ignores the bytes with it.
    let memory = control.memory().to_string();
    let stream = to.try_clone().map_err(|error| error.to_string())?;
    let hears = talk(move || {
        takeover_protocol::send(&stream, &json!("state"), memory.as_bytes(), &[])?;
        expect(&stream, "ready").map(|more| !more.is_empty())
    })
    .await?;
    released.0 = None;
    Ok(hears)
}

/// Mark that control has released the state file. When it is dropped, control takes the file back,
/// unless the new daemon has it by then.
struct Released(Option<Handle>);

impl Drop for Released {
    fn drop(&mut self) {
        if let Some(control) = self.0.take() {
            tokio::spawn(async move { control.resume().await });
        }
    }
}

/// Runs an exchange with the new daemon on another thread, so that control does not wait for it.
async fn talk<T: Send + 'static>(
    what: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(what).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(format!("it was not ready after {:?}", limits::UPGRADE_TIME))
        }
        Ok(Err(error)) => Err(format!("it did not get ready: {error}")),
        Err(_) => Err("the talk with it panicked".to_owned()),
    }
}

/// Receives a frame that must be `word`; returns the bytes that come with it.
fn expect(stream: &UnixStream, word: &str) -> io::Result<Vec<u8>> {
    match takeover_protocol::receive(stream)? {
        Some(frame) if frame.what == word => Ok(frame.bytes),
        Some(frame) => Err(io::Error::other(format!("it said {} and not {word}", frame.what))),
        None => Err(io::Error::other("it ended; its log says why")),
    }
}

type Offer = (Value, Vec<OwnedFd>);

fn offers(sockets: &Sockets, tokens: &Tokens) -> io::Result<Vec<Offer>> {
    let mut offers = Vec::new();
    for Tcp { asked, sockets, is_activated } in &sockets.tcp {
        for some in sockets.chunks(limits::DESCRIPTORS_AT_ONCE) {
            let copies = some.iter().map(|socket| socket.as_fd().try_clone_to_owned());
            let what = json!({ "tcp": asked.to_string(), "activated": is_activated });
            offers.push((what, copies.collect::<io::Result<_>>()?));
        }
    }
    for (path, socket) in &sockets.unix {
        let copy = socket.try_clone()?;
        offers.push((json!({ "unix": path.display().to_string() }), vec![copy]));
    }
    let (single, listed) = tokens.clone().apart();
    if let Some(token) = single {
        offers.push((json!({ "token": token.as_str() }), Vec::new()));
    }
    if listed.are_needed() {
        offers.push((json!({ "tokens": listed.to_text() }), Vec::new()));
    }
    Ok(offers)
}

/// Takes the tokens that a frame of the old daemon offers. Returns whether the frame was such an
/// offer.
fn take_tokens(what: &Value, tokens: &mut Tokens) -> bool {
    let (single, listed) = (what["token"].as_str(), what["tokens"].as_str());
    let (known_single, known_listed) = std::mem::take(tokens).apart();
    let single_token = single.and_then(Token::parse).or(known_single);
    let listed_tokens = listed.and_then(|text| Tokens::parse(text).ok()).unwrap_or(known_listed);
    // Parsing does not fail: the old daemon had these tokens in use.
    *tokens = listed_tokens.with_single(single_token).unwrap_or_default();
    single.is_some() || listed.is_some()
}

impl Successor {
    /// Passes on a signal that the operator has sent to this process, but meant for the new daemon.
    pub(super) fn pass(&self, signal: nix::sys::signal::Signal) {
        let process = nix::unistd::Pid::from_raw(self.process);
        if let Err(errno) = nix::sys::signal::kill(process, signal) {
            warn!("{signal} could not be passed on: {}", errno.desc());
        }
    }

    fn say(&self, what: &Value, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        takeover_protocol::send(&self.stream, what, bytes, descriptors)
    }

    /// Answers the questions of the new daemon, and reports the requests under way here to it,
    /// until `is_over`. Runs on a thread of its own.
    pub(super) fn tell(&self, control: &Handle, shards: &ControlEnd, is_over: &AtomicBool) {
        if !self.hears {
            return;
        }
        // The old daemon must not stay for ever because the new one reads nothing any more.
        let _ = self.stream.set_write_timeout(Some(limits::UPGRADE_TIME));
        let (asked, questions) = channel();
        let stream = self.stream.try_clone();
        let heard = stream.and_then(|stream| {
            stream.set_read_timeout(None)?;
            let (control, shards) = (control.clone(), shards.clone());
            let thread = std::thread::Builder::new().name("questions".to_owned());
            thread.spawn(move || listen(&stream, &control, &shards, &asked)).map(drop)
        });
        if let Err(error) = heard {
            warn!("the new daemon can't be heard: {error}");
        }
        let mut open: Vec<(u64, Arc<Drain>, Value)> = Vec::new();
        let mut last = Value::Null;
        loop {
            // This must be read before the counts, so that the last report is complete.
            let is_last = is_over.load(Ordering::SeqCst);
            let mut said = Vec::new();
            let under_way = control.under_way();
            if under_way != last {
                said.push(under_way.clone());
                last = under_way;
            }
            open.extend(questions.try_iter().map(|(number, drain)| (number, drain, Value::Null)));
            open.retain_mut(|(number, drain, before)| {
                let (answer, is_done) = Handle::answer(*number, drain, shards);
                if answer != *before {
                    said.push(answer.clone());
                    *before = answer;
                }
                !is_done
            });
            let untold = control.take_untold();
            if !untold.is_empty() {
                said.push(json!({ "untold": untold }));
            }
            if said.iter().any(|one| self.say(one, b"", &[]).is_err()) || is_last {
                return;
            }
            std::thread::park_timeout(limits::ELDER_TELLS);
        }
    }

    /// Passes connections on until the shards have ended. Runs on a thread of its own.
    pub(super) fn pass_on(&self, handed: &Receiver<Option<HandedOver>>) {
        let mut count = 0_usize;
        for one in handed.iter().map_while(|one| one) {
            let what = json!({
                "peer": one.peer.to_string(),
                "port": one.port,
                "secure": one.secure,
                "speaks": match &one.speaks {
                    Protocol::Http { trusted, .. } => json!({ "http": trusted }),
                    Protocol::Tcp(host) => json!({ "tcp": **host }),
                    Protocol::Tls => json!("tls"),
                },
                "held_ns": one.held.map(|held| held.as_nanos() as u64),
            });
            match self.say(&what, &one.bytes, &[one.socket.as_fd()]) {
                Ok(()) => count += 1,
                Err(error) => {
                    warn!("a client connection could not be handed over: {error}");
                    break;
                }
            }
        }
        info!("{} handed over", counted(count, "client connection"));
    }

    /// Sends the counts since the state file was handed over.
    pub(super) fn pass_counts_on(&self, counted: &[Counted]) {
        for some in counted.chunks(limits::COUNTED_AT_ONCE) {
            if let Err(error) = self.say(&counts_to_json(some), b"", &[]) {
                return warn!("the last counters could not be handed over: {error}");
            }
        }
    }
}

/// Writes the last counts as JSON. Programs from before errors were counted read lists of exactly
/// three numbers, so the other numbers have a list of their own.
fn counts_to_json(counted: &[Counted]) -> Value {
    let three =
        |totals: &Totals| [totals.completed_requests, totals.bytes_sent, totals.bytes_received];
    let each: Vec<_> = counted.iter().map(|(name, totals)| (name, three(totals))).collect();
    let failed: Vec<_> =
        counted.iter().map(|(_, totals)| [totals.errors, totals.limited]).collect();
    json!({ "counted": each, "failed": failed })
}

/// Reads the counts that [`counts_to_json`] of the old daemon has written.
fn counts_from_json(what: &Value) -> serde_json::Result<Vec<Counted>> {
    let counted = Vec::<(String, [u64; 3])>::deserialize(&what["counted"])?;
    let failed = Vec::<[u64; 2]>::deserialize(&what["failed"]).unwrap_or_default();
    let failed = failed.into_iter().chain(std::iter::repeat([0; 2]));
    let each = counted.into_iter().zip(failed).map(|((name, three), [errors, limited])| {
        let [completed_requests, bytes_sent, bytes_received] = three;
        (name, Totals { completed_requests, bytes_sent, bytes_received, errors, limited })
    });
    Ok(each.collect())
}

/// Receives the requests of the new daemon to this one.
fn listen(
    stream: &UnixStream,
    control: &Handle,
    shards: &ControlEnd,
    asked: &Sender<(u64, Arc<Drain>)>,
) {
    while let Ok(Some(frame)) = takeover_protocol::receive(stream) {
        match frame.what["stop"].as_str() {
            Some("now") => shards.stop(Stop::Now),
            Some(_) => shards.stop(Stop::Drain),
            None => {
                if let Some(question) = control.question(&frame.what) {
                    // An error means that the thread which answers has ended.
                    let _ = asked.send(question);
                }
            }
        }
    }
}

/// The old daemon, as the new one sees it.
pub(super) struct Predecessor(UnixStream);

impl Predecessor {
    /// Returns the old daemon and its sockets, if this process was started to take over.
    pub(super) fn find() -> Result<Option<(Predecessor, InheritedSockets)>, String> {
        if std::env::var_os(VARIABLE).is_none() {
            return Ok(None);
        }
        let failed = |error: &dyn std::fmt::Display| {
            format!("{VARIABLE} is set, but standard input is no daemon: {error}")
        };
        let stream = rustix::stdio::stdin().try_clone_to_owned().map_err(|error| failed(&error))?;
        let stream = UnixStream::from(stream);
        // Standard input becomes empty for whatever reads it later.
        let nothing = std::fs::File::open("/dev/null").map_err(|error| failed(&error))?;
        rustix::stdio::dup2_stdin(&nothing).map_err(|error| failed(&error))?;
        stream.set_read_timeout(Some(limits::UPGRADE_TIME)).map_err(|error| failed(&error))?;
        let mut given = InheritedSockets::default();
        loop {
            let frame = takeover_protocol::receive(&stream).map_err(|error| failed(&error))?;
            let Some(Frame { what, descriptors, .. }) = frame else {
                return Err(failed(&"it ended"));
            };
            if what == "all" {
                break;
            }
            let [tcp, unix] = ["tcp", "unix"].map(|key| what[key].as_str());
            if take_tokens(&what, &mut given.tokens) {
                continue;
            }
            if let Some(Ok(asked)) = tcp.map(str::parse) {
                let sockets = descriptors.into_iter().map(TcpListener::from).collect();
                let is_activated = what["activated"].as_bool().unwrap_or(false);
                given.add(Tcp { asked, sockets, is_activated });
            } else if let (Some(path), Some(socket)) = (unix, descriptors.into_iter().next()) {
                given.unix.push((path.into(), socket.into()));
            } else {
                return Err(failed(&format!("what is {what}?")));
            }
        }
        Ok(Some((Predecessor(stream), given)))
    }

    /// Whether other processes of its user can't read the memory of the old daemon.
    pub(super) fn is_guarded(&self) -> bool {
        std::env::var_os(VARIABLE).is_some_and(|value| value == GUARDED)
    }

    /// Says that all is well so far, and waits until the old daemon has released the state file.
    ///
    /// Returns what else the old daemon knows, beside the state. An older program sends nothing of
    /// this.
    pub(super) fn prepared(&self) -> Result<Value, String> {
        let memory = takeover_protocol::send(&self.0, &json!("prepared"), b"", &[])
            .and_then(|()| expect(&self.0, "state"))
            .map_err(|error| format!("the daemon that was to hand over: {error}"))?;
        Ok(serde_json::from_slice(&memory).unwrap_or_default())
    }

    /// Says that every shard accepts, and takes the connections that the old daemon hands over, on
    /// a thread of its own. The returned receiver is told when the last one has come. `hears`:
    /// whether the old daemon understands questions, which an older program does not.
    pub(super) fn ready(
        self,
        shards: ControlEnd,
        control: Handle,
        hears: bool,
    ) -> io::Result<oneshot::Receiver<()>> {
        // An older program reads the word and ignores the bytes with it.
        takeover_protocol::send(&self.0, &json!("ready"), HEARS, &[])?;
        self.0.set_read_timeout(None)?;
        if hears {
            let questions = control.elder().begin();
            let stream = self.0.try_clone()?;
            std::thread::Builder::new().name("ask".to_owned()).spawn(move || {
                // The task ends when the old daemon, which gets the questions, is gone.
                questions
                    .iter()
                    .all(|what| takeover_protocol::send(&stream, &what, b"", &[]).is_ok())
            })?;
        }
        let thread = std::thread::Builder::new().name("take-over".to_owned());
        let (over, is_over) = oneshot::channel();
        thread.spawn(move || {
            self.take_over(&shards, &control);
            control.elder_is_gone();
            // An error means that this is not waited for.
            let _ = over.send(());
        })?;
        Ok(is_over)
    }

    fn take_over(&self, shards: &ControlEnd, control: &Handle) {
        let mut count = 0_usize;
        loop {
            match takeover_protocol::receive(&self.0) {
                Ok(None) => break,
                Ok(Some(frame)) if frame.what["counted"].is_array() => {
                    match counts_from_json(&frame.what) {
                        Ok(counted) => control.add_counts(counted),
                        Err(error) => warn!("the last counters make no sense: {error}"),
                    }
                }
                Ok(Some(frame)) if control.hear(&frame.what) => {}
                // A newer program may send frames that this one does not know.
                Ok(Some(frame)) if frame.descriptors.is_empty() => {}
                Ok(Some(frame)) => match handed(frame) {
                    Some(one) => {
                        shards.adopt(count, one);
                        count += 1;
                    }
                    None => warn!("a connection was handed over that makes no sense"),
                },
                Err(error) => {
                    warn!("connections are handed over no more: {error}");
                    break;
                }
            }
        }
        info!("{} taken over", counted(count, "client connection"));
    }
}

fn handed(frame: Frame) -> Option<HandedOver> {
    let Frame { what, bytes, descriptors } = frame;
    // Without this word, the connection comes from a version that did not know it.
    let secure = what["secure"].as_bool().unwrap_or(false);
    let speaks = match &what["speaks"] {
        Value::String(tls) if tls == "tls" => Protocol::Tls,
        speaks => match (speaks["http"].as_bool(), speaks["tcp"].as_str()) {
            (Some(trusted), _) => Protocol::Http { trusted, secure },
            (None, Some(host)) => Protocol::Tcp(host.into()),
            (None, None) => return None,
        },
    };
    Some(HandedOver {
        socket: descriptors.into_iter().next()?,
        peer: what["peer"].as_str()?.parse::<IpAddr>().ok()?,
        port: u16::try_from(what["port"].as_u64()?).ok()?,
        secure,
        speaks,
        bytes,
        held: what["held_ns"].as_u64().map(Duration::from_nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_as_they_were_written() {
        let counted: Vec<Counted> = vec![
            ("a.com".to_owned(), Totals::from([1, 2, 3, 4, 5])),
            ("b.com".to_owned(), Totals::from([6, 7, 8, 0, 0])),
        ];
        let written = counts_to_json(&counted);
        assert_eq!(counts_from_json(&written).expect("counts"), counted);
        // An older program reads the lists of three numbers, and writes nothing else.
        assert_eq!(written["counted"][0], json!(["a.com", [1, 2, 3]]));
        let old = json!({ "counted": [["a.com", [1, 2, 3]]] });
        let expected = [("a.com".to_owned(), Totals::from([1, 2, 3, 0, 0]))];
        assert_eq!(counts_from_json(&old).expect("counts"), expected);
        assert!(counts_from_json(&json!({ "counted": [["a.com", [1]]] })).is_err());
    }
}
