//! Stopping: what is under way is finished within `timeout_drain`; a second signal ends it at once.

use std::thread::JoinHandle;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use crate::limits;
use crate::link::{ControlEnd, Counter, Stop};

/// Returns when a signal asked to stop and all shards have.
pub(crate) async fn until_stopped(end: &ControlEnd, drain: Duration, threads: Vec<JoinHandle<()>>) {
    let (mut terminate, mut interrupt, mut hangup) = match signals() {
        Ok(signals) => signals,
        Err(error) => {
            error!("can't take signals: {error}: stopping");
            return finish(end, threads).await;
        }
    };
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

async fn finish(end: &ControlEnd, threads: Vec<JoinHandle<()>>) {
    end.stop(Stop::Now);
    let joined = tokio::task::spawn_blocking(move || {
        for thread in threads {
            let _ = thread.join();
        }
    });
    let _ = tokio::time::timeout(limits::STOP_TIME, joined).await;
}

fn signals() -> std::io::Result<(Signal, Signal, Signal)> {
    Ok((
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    ))
}
