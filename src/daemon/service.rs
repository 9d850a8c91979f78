//! Messages to systemd (sd_notify(3)): ready, reloading, stopping, which process is the main one
//! now; and that all is well, as long as it is.

use std::convert::Infallible;
use std::time::Duration;

use sd_notify::NotifyState;
use tracing::error;

use crate::limits;
use crate::link::{Beat, ControlEnd};

/// Sends the states to systemd, if it has started this process.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("can't tell systemd: {error}");
    }
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
