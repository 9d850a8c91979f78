//! Signals, and the way to the end: what is under way is finished within `timeout_drain`; a second
//! signal ends it at once.

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::limits;
use crate::link::{ControlEnd, Counter, Stop};

/// The signals that mean something to us. Taken before the daemon says that it is ready, so that none
/// that comes after meets the default action.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// A file may not grow past `ulimit -f`: the write fails, too, and is answered for. Not taken, it would
    /// end the daemon.
    _file_size: Signal,
}

impl Signals {
    /// Within a tokio runtime.
    pub(super) fn take() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            _file_size: signal(SignalKind::from_raw(libc::SIGXFSZ))?,
        })
    }

    /// Waits for one that asks to stop; its name.
    pub(super) async fn stop(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => {
                    info!("SIGHUP: reloading comes with a later release; nothing changed");
                }
            }
        }
    }
}

/// The shards' threads, and the news of each one's end.
pub(super) struct Threads {
    running: usize,
    ended: mpsc::UnboundedReceiver<(usize, bool)>,
}

impl Threads {
    /// Watches them, each from a small thread that does nothing but wait: a join blocks.
    pub(super) fn watch(shards: Vec<JoinHandle<()>>) -> io::Result<Threads> {
        let (tell, ended) = mpsc::unbounded_channel();
        let running = shards.len();
        for (index, shard) in shards.into_iter().enumerate() {
            let tell = tell.clone();
            let name = format!("watch-{index}");
            std::thread::Builder::new().name(name).stack_size(64 * 1024).spawn(move || {
                let clean = shard.join().is_ok();
                // Nobody listens any more when the daemon has ended already.
                let _ = tell.send((index, clean));
            })?;
        }
        Ok(Threads { running, ended })
    }

    /// The end of the next one: its index, and whether it was no panic.
    async fn next_end(&mut self) -> (usize, bool) {
        match self.ended.recv().await {
            Some(end) => {
                self.running -= 1;
                end
            }
            // None left to wait for.
            None => std::future::pending().await,
        }
    }

    async fn all_ended(&mut self) {
        while self.running != 0 {
            self.next_end().await;
        }
    }
}

/// Serves until a signal, then stops. An error when the end was not asked for.
pub(super) async fn serve_until_stopped(
    end: &ControlEnd,
    mut signals: Signals,
    mut threads: Threads,
    drain: Duration,
) -> Result<(), String> {
    tokio::select! {
        name = signals.stop() => info!(
            "{name}: stopping; {} connections have up to {drain:?} to finish",
            end.total(Counter::Open)
        ),
        (index, clean) = threads.next_end() => {
            // A daemon with fewer shards than it was told to have is one that nobody asked for.
            let how = if clean { "ended" } else { "panicked outside any connection" };
            error!("shard {index} {how}: stopping all");
            end.stop(Stop::Now);
            let _ = tokio::time::timeout(limits::STOP_TIME, threads.all_ended()).await;
            return Err(format!("shard {index} {how}"));
        }
    }
    end.stop(Stop::Drain);
    tokio::select! {
        () = threads.all_ended() => return Ok(()),
        () = tokio::time::sleep(drain) => {
            warn!("timeout_drain is over: {} connections are cut off", end.total(Counter::Open));
        }
        name = signals.stop() => {
            warn!("{name} again: {} connections are cut off", end.total(Counter::Open));
        }
    }
    end.stop(Stop::Now);
    if tokio::time::timeout(limits::STOP_TIME, threads.all_ended()).await.is_err() {
        warn!("{} shards did not stop in time; ending without them", threads.running);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Pages;
    use crate::link::{self, Published};
    use crate::table::Snapshot;

    #[test]
    fn a_shard_that_ends_by_itself_ends_the_daemon() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let outcome = runtime.expect("a runtime").block_on(async {
            let published = Published::new(Snapshot::default(), Pages::builtin());
            let (end, _ends) = link::connect(published, 1).expect("a shard");
            let threads = Threads::watch(vec![std::thread::spawn(|| ())]).expect("a watcher");
            let signals = Signals::take().expect("signals");
            serve_until_stopped(&end, signals, threads, Duration::ZERO).await
        });
        assert_eq!(outcome, Err("shard 0 ended".to_owned()));
    }
}
