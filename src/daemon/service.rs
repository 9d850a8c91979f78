//! Messages to systemd (sd_notify(3)): ready, reloading, stopping, the main process, and the
//! watchdog's keep-alive.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::unix::net::UnixDatagram;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::error;

use crate::limits;
use crate::link::{Beat, ControlEnd};

/// Messages for which systemd's socket had no room, in order. A thread sends them when there is
/// room.
#[derive(Default)]
struct Unsent {
    messages: VecDeque<String>,
    has_thread: bool,
}

static UNSENT: Mutex<Unsent> = Mutex::new(Unsent { messages: VecDeque::new(), has_thread: false });
static ALL_SENT: Condvar = Condvar::new();

fn unsent() -> MutexGuard<'static, Unsent> {
    UNSENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends one message, if systemd has started this process. If systemd does not read its socket, the
/// message waits in a queue; the caller never waits.
fn tell(states: &[NotifyState<'_>]) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let lines = states.iter().map(|state| format!("{state}\n"));
    let message: String = lines.collect();
    let mut unsent = unsent();
    let sent = match unsent.has_thread {
        true => Err(ErrorKind::WouldBlock.into()),
        false => send(&path, &message, true),
    };
    match sent {
        Ok(()) => {}
        // A late keep-alive would vouch for a time that is over, so it is dropped.
        Err(error) if error.kind() == ErrorKind::WouldBlock && is_heartbeat(states) => {}
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            if limits::NOTIFY_MESSAGES_MAX <= unsent.messages.len() {
                unsent.messages.pop_front();
            }
            unsent.messages.push_back(message);
            if !unsent.has_thread {
                tracing::warn!("systemd does not read what it is told: it is told later");
                let thread = std::thread::Builder::new().name("notify".to_owned());
                let thread = thread.stack_size(128 * 1024);
                unsent.has_thread = thread.spawn(move || send_rest(&path)).is_ok();
            }
        }
        Err(error) => tracing::warn!("can't tell systemd: {error}"),
    }
}

fn is_heartbeat(states: &[NotifyState<'_>]) -> bool {
    matches!(states, [NotifyState::Watchdog])
}

fn send(path: &OsStr, message: &str, at_once: bool) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(at_once)?;
    socket.connect(path)?;
    socket.send(message.as_bytes()).map(drop)
}

/// Sends the messages that wait, until the queue is empty.
fn send_rest(path: &OsStr) {
    let next = || {
        let mut unsent = unsent();
        let message = unsent.messages.front().cloned();
        unsent.has_thread = message.is_some();
        message
    };
    while let Some(message) = next() {
        if let Err(error) = send(path, &message, false) {
            tracing::warn!("can't tell systemd: {error}");
        }
        let mut unsent = unsent();
        // If the queue was full meanwhile, this message may have been dropped from it already. Then
        // the message in front is a newer one and stays.
        if unsent.messages.front() == Some(&message) {
            unsent.messages.pop_front();
        }
    }
    ALL_SENT.notify_all();
}

/// Waits for a limited time, at the end, until systemd has read the messages that wait.
pub(super) fn finish() {
    let is_waiting = |unsent: &mut Unsent| unsent.has_thread;
    let _ = ALL_SENT.wait_timeout_while(unsent(), limits::NOTIFY_FLUSH_TIME, is_waiting);
}

/// Tells systemd that every shard accepts.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Tells systemd that the configuration is read again. [`ready`] must follow.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

pub(super) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("finishing what is under way")]);
}

/// Tells systemd that another process is now the main one.
pub(super) fn succeeded_by(process: u32) {
    tell(&[NotifyState::MainPid(process)]);
}

/// Counts rounds of control, which show that control makes progress.
pub(super) async fn beat(beat: &Beat) -> Infallible {
    loop {
        beat.beat();
        tokio::time::sleep(limits::STALL_LOOK / 2).await;
    }
}

/// Feeds the watchdog, if there is one, as long as every shard makes progress. This task runs on
/// control's thread: if control hangs, the watchdog is not fed.
pub(super) async fn feed_watchdog(shards: &ControlEnd) -> Infallible {
    let Some(patience) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    // sd_watchdog_enabled(3) advises to feed twice in that time. Each look judges the time since
    // the one before, so the pause is half of that.
    let pause = (patience / 4).max(Duration::from_millis(1));
    let mut before = Vec::new();
    let mut is_told = false;
    loop {
        shards.wake_all();
        tokio::time::sleep(pause).await;
        let now = shards.beats();
        // A shard that has drained and ended is not stuck: the other shards may drain for a long
        // time.
        let stuck =
            now.iter().zip(&before).position(|(now, before)| now.is_some() && now == before);
        match stuck {
            None => {
                tell(&[NotifyState::Watchdog]);
                is_told = false;
            }
            Some(shard) if !is_told => {
                error!("shard {shard} makes no progress: the watchdog is not fed");
                is_told = true;
            }
            Some(_) => {}
        }
        before = now;
    }
}
