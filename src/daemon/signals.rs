//! Signals, as nginx has them: SIGTERM and SIGINT stop, SIGHUP reads the configuration again, SIGUSR1 opens the
//! access log anew, SIGUSR2 starts a new daemon that takes over. And the way to the end: what is under way is
//! finished within `timeout_drain`; a second signal ends it at once.

use std::io;
use std::pin::pin;
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use super::log::counted;
use super::reload::Reload;
use super::service;
use super::upgrade::{self, Program, Sockets, Successor};
use crate::limits;
use crate::link::{ControlEnd, Counter, Handed, Stop};

/// What an operator wants of us.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Wanted {
    /// The signal's name.
    Stop(&'static str),
    Reload,
    OpenLogAnew,
    Upgrade,
}

/// The signals that mean something to us. Taken before the daemon says that it is ready, so that none
/// that comes after meets the default action.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user_1: Signal,
    user_2: Signal,
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
            user_1: signal(SignalKind::user_defined1())?,
            user_2: signal(SignalKind::user_defined2())?,
            _file_size: signal(SignalKind::from_raw(libc::SIGXFSZ))?,
        })
    }

    async fn next(&mut self) -> Wanted {
        tokio::select! {
            _ = self.terminate.recv() => Wanted::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Wanted::Stop("SIGINT"),
            _ = self.hangup.recv() => Wanted::Reload,
            _ = self.user_1.recv() => Wanted::OpenLogAnew,
            _ = self.user_2.recv() => Wanted::Upgrade,
        }
    }

    /// Waits for one that asks to stop; its name. The others mean nothing any more.
    async fn stop(&mut self) -> &'static str {
        loop {
            if let Wanted::Stop(name) = self.next().await {
                return name;
            }
        }
    }
}

/// What serves the operator's wishes.
pub(super) struct Operations {
    pub(super) reload: Reload,
    pub(super) program: Program,
    /// Let go of with the end: nobody is to be taken in then.
    pub(super) sockets: Sockets,
    /// Connections still come from the daemon before us, until this is told.
    pub(super) taking_over: Option<oneshot::Receiver<()>>,
    /// Of a playground there is one.
    pub(super) is_demo: bool,
    /// What shards hand over.
    pub(super) handed: Receiver<Option<Handed>>,
}

impl Operations {
    /// Starts a new daemon and waits until it is ready. Signals are heard meanwhile; a reload is for whoever
    /// serves in the end.
    async fn upgrade(&mut self, signals: &mut Signals) -> Result<Successor, Option<&'static str>> {
        if self.is_demo {
            error!("SIGUSR2: the demo can't be taken over; nothing changed");
            return Err(None);
        }
        if let Some(last) = &mut self.taking_over {
            // What came after our shards have ended would be lost.
            tokio::select! {
                _ = last => {}
                name = signals.stop() => return Err(Some(name)),
            }
            self.taking_over = None;
        }
        let mut wants_reload = false;
        let outcome = {
            let begun = upgrade::begin(&self.program, &self.sockets, &self.reload.control);
            let mut begun = pin!(begun);
            loop {
                tokio::select! {
                    outcome = &mut begun => break outcome,
                    wanted = signals.next() => match wanted {
                        Wanted::Stop(name) => return Err(Some(name)),
                        Wanted::OpenLogAnew => self.reload.log.reopen(),
                        Wanted::Reload => wants_reload = true,
                        Wanted::Upgrade => {}
                    },
                }
            }
        };
        match outcome {
            Ok(successor) => {
                if wants_reload {
                    successor.reload();
                }
                Ok(successor)
            }
            Err(problem) => {
                error!("upgrade: {problem}. Going on as if nothing had happened");
                service::ready("serving");
                if wants_reload {
                    self.reload.run();
                }
                Err(None)
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

/// How serving comes to its end.
enum End {
    /// By this signal.
    Asked(&'static str),
    Successor(Successor),
    /// A shard ended, or panicked outside any connection.
    Broken(usize, bool),
}

async fn serve(signals: &mut Signals, threads: &mut Threads, operations: &mut Operations) -> End {
    loop {
        let wanted = tokio::select! {
            wanted = signals.next() => wanted,
            (index, clean) = threads.next_end() => return End::Broken(index, clean),
        };
        match wanted {
            Wanted::Stop(name) => return End::Asked(name),
            Wanted::OpenLogAnew => operations.reload.log.reopen(),
            Wanted::Reload if !operations.program.is_replaced() => operations.reload.run(),
            wanted => {
                if wanted == Wanted::Reload {
                    info!("SIGHUP: there is a new program: it is to take over");
                }
                match operations.upgrade(signals).await {
                    Ok(successor) => return End::Successor(successor),
                    Err(Some(name)) => return End::Asked(name),
                    Err(None) => {}
                }
            }
        }
    }
}

/// Serves until a signal, then stops. An error when the end was not asked for.
pub(super) async fn serve_until_stopped(
    end: &ControlEnd,
    mut signals: Signals,
    mut threads: Threads,
    mut operations: Operations,
) -> Result<(), String> {
    let how = serve(&mut signals, &mut threads, &mut operations).await;
    let Operations { reload, sockets, handed, .. } = operations;
    let drain = reload.config.timeouts.drain;
    drop(sockets);
    let outcome = match how {
        End::Broken(index, clean) => {
            // A daemon with fewer shards than it was told to have is one that nobody asked for.
            let how = if clean { "ended" } else { "panicked outside any connection" };
            error!("shard {index} {how}: stopping all");
            end.stop(Stop::Now);
            let _ = tokio::time::timeout(limits::STOP_TIME, threads.all_ended()).await;
            Err(format!("shard {index} {how}"))
        }
        End::Asked(name) => {
            info!(
                "{name}: stopping; up to {drain:?} for {} to finish",
                counted(end.total(Counter::Open), "connection")
            );
            service::stopping();
            stop(end, Stop::Drain, &mut signals, &mut threads, drain).await;
            Ok(())
        }
        End::Successor(successor) => {
            let thread = std::thread::Builder::new().name("hand-over".to_owned());
            let thread = thread.spawn(move || {
                successor.pass_on(&handed);
                successor
            });
            stop(end, Stop::HandOver, &mut signals, &mut threads, drain).await;
            end.end_hand_over();
            let counted = reload.control.counted_since().await;
            match thread {
                Ok(thread) => {
                    let last = move || thread.join().map(|to| to.pass_counts_on(&counted));
                    drop(tokio::task::spawn_blocking(last).await);
                }
                Err(error) => error!("no thread to hand connections over: {error}"),
            }
            Ok(())
        }
    };
    reload.log.finish();
    outcome
}

/// Sees the shards to their end.
async fn stop(
    end: &ControlEnd,
    how: Stop,
    signals: &mut Signals,
    threads: &mut Threads,
    drain: Duration,
) {
    end.stop(how);
    tokio::select! {
        () = threads.all_ended() => return,
        () = tokio::time::sleep(drain) => {
            let left = counted(end.total(Counter::Open), "connection");
            warn!("timeout_drain is over: cutting off {left}");
        }
        name = signals.stop() => {
            let left = counted(end.total(Counter::Open), "connection");
            warn!("{name} again: cutting off {left}");
        }
    }
    end.stop(Stop::Now);
    if tokio::time::timeout(limits::STOP_TIME, threads.all_ended()).await.is_err() {
        let left = counted(threads.running, "shard");
        warn!("{left} did not stop in time; ending all the same");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_shard_is_noticed() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let end = |shard: fn()| {
            let mut threads = Threads::watch(vec![std::thread::spawn(shard)]).expect("a watcher");
            runtime.as_ref().expect("a runtime").block_on(threads.next_end())
        };
        assert_eq!(end(|| ()), (0, true));
        assert_eq!(end(|| panic!("on purpose")), (0, false));
    }
}
