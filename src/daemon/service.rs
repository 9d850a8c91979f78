//! Messages to systemd (sd_notify(3)): ready, reloading, stopping, which process is the main one
//! now; and that all is well, as long as it is.

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

/// Messages that systemd had no room for, in their order; a thread sends them as room comes.
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

/// Sends one message, where systemd has started us. While nobody reads the socket, messages wait
/// in a queue and the caller does not.
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
        // One that came late would tell of a time that is over.
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

/// Sends what waits, until nothing does.
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
        // Not a newer one, where this one has made room for it.
        if unsent.messages.front() == Some(&message) {
            unsent.messages.pop_front();
        }
    }
    ALL_SENT.notify_all();
}

/// Waits at the end for systemd to read what it is told, if it reads.
pub(super) fn finish() {
    let is_waiting = |unsent: &mut Unsent| unsent.has_thread;
    let _ = ALL_SENT.wait_timeout_while(unsent(), limits::NOTIFY_FLUSH_TIME, is_waiting);
}

/// Every shard accepts.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The configuration is read again; [`ready`] is to follow.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

pub(super) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("finishing what is under way")]);
}

/// Another process goes on.
pub(super) fn succeeded_by(process: u32) {
    tell(&[NotifyState::MainPid(process)]);
}

/// Shows that control gets on.
pub(super) async fn beat(beat: &Beat) -> Infallible {
    loop {
        beat.beat();
        tokio::time::sleep(limits::STALL_LOOK / 2).await;
    }
}

/// Feeds the watchdog, where there is one, as long as every shard gets around to what it is asked.
/// This task is control's own: if control hangs, the watchdog is not fed.
pub(super) async fn feed_watchdog(shards: &ControlEnd) -> Infallible {
    let Some(patience) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    // Twice in that time is what sd_watchdog_enabled(3) advises; each look tells of the one before.
    let pause = (patience / 4).max(Duration::from_millis(1));
    let mut before = Vec::new();
    let mut is_told = false;
    loop {
        shards.wake_all();
        tokio::time::sleep(pause).await;
        let now = shards.beats();
        // One that has drained and ended is not stuck: the others may drain on for long.
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
