//! Stopping: what is under way is finished within `timeout_drain`; a second signal ends it at once.

use std::thread::JoinHandle;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use crate::limits;
use crate::link::{ControlEnd, Counter, Stop};

/// The signals we act on; taken before anybody is told that we are ready, or an early one kills.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    pub(crate) fn take() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// Returns when a signal asked to stop and all shards have.
pub(crate) async fn until_stopped(
    end: &ControlEnd,
    signals: Signals,
    drain: Duration,
    threads: Vec<JoinHandle<()>>,
) {
    let Signals { mut terminate, mut interrupt, mut hangup } = signals;
    let mut ended = tokio::task::spawn_blocking(move || {
        for thread in threads {
            if thread.join().is_err() {
                error!("a shard panicked outside any connection");
            }
        }
    });
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => info!("SIGHUP: reloading comes with a later release; nothing done"),
            _ = &mut ended => return error!("all shards have ended by themselves"),
        }
    }
    info!("Stopping: {} connections open, for at most {drain:?}", end.total(Counter::Open));
    end.stop(Stop::Drain);
    tokio::select! {
        _ = &mut ended => return,
        () = tokio::time::sleep(drain) => {
            warn!("timeout_drain: {} connections are cut off", end.total(Counter::Open));
        }
        _ = terminate.recv() => warn!("asked again: stopping at once"),
        _ = interrupt.recv() => warn!("asked again: stopping at once"),
    }
    end.stop(Stop::Now);
    let _ = tokio::time::timeout(limits::STOP_TIME, ended).await;
}
