//! One daemon takes over from another (SIGUSR2): the new program is started by the old, with the same
//! arguments, and gets the listening sockets, then the state file, then, one by one, the client connections
//! that are held or between two requests. The sockets are the same ones, so nobody who connects meanwhile is
//! refused or reset; until the new daemon says that it is ready the old one serves as if nothing happened,
//! and whatever goes wrong by then changes nothing.
//!
//! | old | new |
//! | --- | --- |
//! | sockets → | reads its configuration, makes ready all that it can |
//! | | ← `prepared` |
//! | writes the state a last time, takes no more changes; `state` → | reads it, starts its shards |
//! | | ← `ready` |
//! | takes in nobody any more; connections → | |
//! | at its end: what it counted since it let go of the state; `counted` → | |

use std::io;
use std::net::{IpAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::frames::{self, Frame};
use super::given::{Given, Tcp};
use super::service;
use crate::control::{Counted, Handle, Token};
use crate::limits;
use crate::link::{ControlEnd, Handed, Speaks};

/// Set for the new daemon, whose standard input the socket is.
const VARIABLE: &str = "MANTRID_TAKES_OVER";
/// What it is set to where memory of the old daemon can't be read by others of its user.
const GUARDED: &str = "guarded";

/// What a daemon keeps to hand over its sockets.
pub(super) struct Sockets {
    /// A copy of each shard's.
    pub(super) tcp: Vec<Tcp>,
    pub(super) unix: Vec<(std::path::PathBuf, OwnedFd)>,
    /// Its file may be readable for root alone.
    pub(super) token: Option<Token>,
}

/// The program that runs now, to start what has taken its place.
pub(super) struct Program {
    path: std::path::PathBuf,
    identity: Option<(u64, u64)>,
}

impl Program {
    /// Called at the start: later the file may be another.
    pub(super) fn of_this_process() -> io::Result<Program> {
        let path = std::env::current_exe()?;
        let identity = identity(std::path::Path::new("/proc/self/exe"));
        Ok(Program { path, identity })
    }

    /// Whether there is another program in its place.
    pub(super) fn is_replaced(&self) -> bool {
        let now = identity(&self.path);
        now.is_some() && now != self.identity
    }
}

fn identity(path: &std::path::Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    path.metadata().ok().map(|found| (found.dev(), found.ino()))
}

/// The new daemon, seen from the old: killed, unless it has become ready.
pub(super) struct Successor {
    stream: UnixStream,
    child: Option<Child>,
    process: i32,
}

impl Successor {
    /// Why it did not get ready, as far as we know. It has let go of us before it could say more, perhaps: killed
    /// at once it never would.
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
            // It may have ended by itself.
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
    // The start of a program undoes it.
    let is_guarded = nix::sys::prctl::get_dumpable() == Ok(false);
    let (ours, theirs) =
        UnixStream::pair().map_err(|error| failed("can't make a socket", &error))?;
    let child = Command::new(&program.path)
        .args(std::env::args_os().skip(1))
        .env(VARIABLE, if is_guarded { GUARDED } else { "1" })
        // Those of systemd were for us.
        .env_remove("LISTEN_FDS")
        .env_remove("LISTEN_PID")
        .env_remove("LISTEN_FDNAMES")
        // Whose watchdog it is: with ours the new daemon would never feed it.
        .env_remove("WATCHDOG_PID")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .map_err(|error| failed(&format!("can't start {}", program.path.display()), &error))?;
    let id = child.id().unwrap_or_default();
    info!("process {id} of {} is to take over", program.path.display());
    let process = i32::try_from(id).map_err(|error| failed("can't start it", &error))?;
    let mut successor = Successor { stream: ours, child: Some(child), process };
    if let Err(why) = hand_over(&successor.stream, sockets, control).await {
        return Err(successor.gave_up(why).await);
    }
    successor.child = None;
    service::succeeded_by(id);
    info!("process {id} has taken over");
    Ok(successor)
}

/// The sockets first, and the state last, when nothing more is expected to go wrong.
async fn hand_over(to: &UnixStream, sockets: &Sockets, control: &Handle) -> Result<(), String> {
    let offers = offers(sockets).map_err(|error| format!("can't copy the sockets: {error}"))?;
    let stream = to.try_clone().map_err(|error| error.to_string())?;
    stream
        .set_read_timeout(Some(limits::UPGRADE_TIME))
        .and_then(|()| stream.set_write_timeout(Some(limits::UPGRADE_TIME)))
        .map_err(|error| error.to_string())?;
    talk(move || {
        for (what, descriptors) in &offers {
            let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
            frames::send(&stream, what, b"", &descriptors)?;
        }
        frames::send(&stream, &json!("all"), b"", &[])?;
        expect(&stream, "prepared")
    })
    .await?;
    control.release().await;
    let mut released = Released(Some(control.clone()));
    let stream = to.try_clone().map_err(|error| error.to_string())?;
    talk(move || {
        frames::send(&stream, &json!("state"), b"", &[])?;
        expect(&stream, "ready")
    })
    .await?;
    released.0 = None;
    Ok(())
}

/// Control has let go of the state file, and takes it back unless somebody else has it.
struct Released(Option<Handle>);

impl Drop for Released {
    fn drop(&mut self) {
        if let Some(control) = self.0.take() {
            tokio::spawn(async move { control.resume().await });
        }
    }
}

/// Without keeping control from its work meanwhile.
async fn talk(what: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<(), String> {
    match tokio::task::spawn_blocking(what).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(format!("it was not ready after {:?}", limits::UPGRADE_TIME))
        }
        Ok(Err(error)) => Err(format!("it did not get ready: {error}")),
        Err(_) => Err("the talk with it panicked".to_owned()),
    }
}

fn expect(stream: &UnixStream, word: &str) -> io::Result<()> {
    match frames::receive(stream)? {
        Some(frame) if frame.what == word => Ok(()),
        Some(frame) => Err(io::Error::other(format!("it said {} and not {word}", frame.what))),
        None => Err(io::Error::other("it ended; its log says why")),
    }
}

type Offer = (Value, Vec<OwnedFd>);

fn offers(sockets: &Sockets) -> io::Result<Vec<Offer>> {
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
    if let Some(token) = &sockets.token {
        offers.push((json!({ "token": token.as_str() }), Vec::new()));
    }
    Ok(offers)
}

impl Successor {
    /// Its operator took us for it.
    pub(super) fn reload(&self) {
        let process = nix::unistd::Pid::from_raw(self.process);
        if let Err(errno) = nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGHUP) {
            warn!("SIGHUP could not be passed on: {}", errno.desc());
        }
    }

    /// Passes connections on until the shards have ended; from a thread of its own.
    pub(super) fn pass_on(&self, handed: &Receiver<Option<Handed>>) {
        let mut count = 0_usize;
        // A new daemon that takes nothing any more is no reason to stay for ever.
        let _ = self.stream.set_write_timeout(Some(limits::UPGRADE_TIME));
        for one in handed.iter().map_while(|one| one) {
            let what = json!({
                "peer": one.peer.to_string(),
                "port": one.port,
                "secure": one.secure,
                "speaks": match &one.speaks {
                    Speaks::Http { trusted, .. } => json!({ "http": trusted }),
                    Speaks::Tcp(host) => json!({ "tcp": **host }),
                    Speaks::Tls => json!("tls"),
                },
                "held_ns": one.held.map(|held| held.as_nanos() as u64),
            });
            match frames::send(&self.stream, &what, &one.bytes, &[one.socket.as_fd()]) {
                Ok(()) => count += 1,
                Err(error) => {
                    warn!("a client connection could not be handed over: {error}");
                    break;
                }
            }
        }
        info!("{count} client connections were handed over");
    }

    /// Tells it what was counted after the state file was its own.
    pub(super) fn pass_counts_on(&self, counted: &[Counted]) {
        for some in counted.chunks(limits::COUNTED_AT_ONCE) {
            let what = json!({ "counted": some });
            if let Err(error) = frames::send(&self.stream, &what, b"", &[]) {
                return warn!("the last counters could not be handed over: {error}");
            }
        }
    }
}

/// The old daemon, seen from the new.
pub(super) struct Predecessor(UnixStream);

impl Predecessor {
    /// If we were started to take over: the old daemon, and its sockets.
    pub(super) fn find() -> Result<Option<(Predecessor, Given)>, String> {
        if std::env::var_os(VARIABLE).is_none() {
            return Ok(None);
        }
        let failed = |error: &dyn std::fmt::Display| {
            format!("{VARIABLE} is set, but standard input is no daemon: {error}")
        };
        let stream = rustix::stdio::stdin().try_clone_to_owned().map_err(|error| failed(&error))?;
        let stream = UnixStream::from(stream);
        // Whatever reads it later finds nothing.
        let nothing = std::fs::File::open("/dev/null").map_err(|error| failed(&error))?;
        rustix::stdio::dup2_stdin(&nothing).map_err(|error| failed(&error))?;
        stream.set_read_timeout(Some(limits::UPGRADE_TIME)).map_err(|error| failed(&error))?;
        let mut given = Given::default();
        loop {
            let frame = frames::receive(&stream).map_err(|error| failed(&error))?;
            let Some(Frame { what, descriptors, .. }) = frame else {
                return Err(failed(&"it ended"));
            };
            if what == "all" {
                break;
            }
            let [tcp, unix, token] = ["tcp", "unix", "token"].map(|key| what[key].as_str());
            if let Some(token) = token {
                given.token = Token::parse(token);
                continue;
            }
            if let Some(Ok(asked)) = tcp.map(str::parse) {
                let sockets = descriptors.into_iter().map(TcpListener::from).collect();
                let is_activated = what["activated"].as_bool().unwrap_or(false);
                given.tcp.push(Tcp { asked, sockets, is_activated });
            } else if let (Some(path), Some(socket)) = (unix, descriptors.into_iter().next()) {
                given.unix.push((path.into(), socket.into()));
            } else {
                return Err(failed(&format!("what is {what}?")));
            }
        }
        Ok(Some((Predecessor(stream), given)))
    }

    /// Whether others of its user can't read its memory.
    pub(super) fn is_guarded(&self) -> bool {
        std::env::var_os(VARIABLE).is_some_and(|value| value == GUARDED)
    }

    /// All is well so far: waits until the state is ours.
    pub(super) fn prepared(&self) -> Result<(), String> {
        frames::send(&self.0, &json!("prepared"), b"", &[])
            .and_then(|()| expect(&self.0, "state"))
            .map_err(|error| format!("the daemon that was to hand over: {error}"))
    }

    /// Every shard accepts: takes the connections that come, from a thread of its own. What it returns is told
    /// when the last one has come.
    pub(super) fn ready(
        self,
        shards: ControlEnd,
        control: Handle,
    ) -> io::Result<oneshot::Receiver<()>> {
        frames::send(&self.0, &json!("ready"), b"", &[])?;
        self.0.set_read_timeout(None)?;
        let thread = std::thread::Builder::new().name("take-over".to_owned());
        let (over, is_over) = oneshot::channel();
        thread.spawn(move || {
            self.take_over(&shards, &control);
            // Nobody may want to know.
            let _ = over.send(());
        })?;
        Ok(is_over)
    }

    fn take_over(&self, shards: &ControlEnd, control: &Handle) {
        let mut count = 0_usize;
        loop {
            match frames::receive(&self.0) {
                Ok(None) => break,
                Ok(Some(frame)) if frame.what["counted"].is_array() => {
                    match serde_json::from_value(frame.what["counted"].clone()) {
                        Ok(counted) => control.add_counts(counted),
                        Err(error) => warn!("the last counters make no sense: {error}"),
                    }
                }
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
        info!("{count} client connections were taken over");
    }
}

fn handed(frame: Frame) -> Option<Handed> {
    let Frame { what, bytes, descriptors } = frame;
    // One without this word comes from a version that knew no such thing.
    let secure = what["secure"].as_bool().unwrap_or(false);
    let speaks = match &what["speaks"] {
        Value::String(tls) if tls == "tls" => Speaks::Tls,
        speaks => match (speaks["http"].as_bool(), speaks["tcp"].as_str()) {
            (Some(trusted), _) => Speaks::Http { trusted, secure },
            (None, Some(host)) => Speaks::Tcp(host.into()),
            (None, None) => return None,
        },
    };
    Some(Handed {
        socket: descriptors.into_iter().next()?,
        peer: what["peer"].as_str()?.parse::<IpAddr>().ok()?,
        port: u16::try_from(what["port"].as_u64()?).ok()?,
        secure,
        speaks,
        bytes,
        held: what["held_ns"].as_u64().map(Duration::from_nanos),
    })
}
