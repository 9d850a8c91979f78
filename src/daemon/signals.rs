//! Signals, as in nginx: SIGTERM and SIGINT stop the daemon, SIGHUP reloads the configuration,
//! SIGUSR1 reopens the access log, SIGUSR2 starts a new daemon that takes over. When the daemon
//! stops, requests under way get `timeout_drain` to finish; a second signal ends them at once.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal as NixSignal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use super::log::counted;
use super::reload::Reload;
use super::service;
use super::upgrade::{self, Program, Sockets, Successor};
use crate::control::Handle;
use crate::limits;
use crate::link::{ControlEnd, Counter, HandedOver, Stop, Tuning};

/// Wish of an operator, given by a signal.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
enum Wanted {
    /// Stop, because of the signal with this name.
    Stop(&'static str),
    Reload,
    OpenLogAnew,
    Upgrade,
}

/// Streams of the signals that the daemon handles. By default SIGHUP, SIGUSR1 and SIGUSR2 would end
/// a daemon that is not ready yet, so they are blocked from the beginning of `main` on and wait
/// until they are taken here.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user_1: Signal,
    user_2: Signal,
    /// SIGXFSZ, sent when a file would grow beyond `ulimit -f`. It is taken so that it does not end
    /// the daemon: the write fails as well, and that error is handled.
    _file_size: Signal,
}

/// Blocks the signals that do not ask the daemon to stop, so that they wait until they are taken.
/// Must be called first.
pub(super) fn block() {
    // This only fails for numbers that are no signals.
    let _ = waiting().thread_block();
}

fn waiting() -> SigSet {
    SigSet::from_iter([NixSignal::SIGHUP, NixSignal::SIGUSR1, NixSignal::SIGUSR2])
}

impl Signals {
    /// Takes the signals, including those that wait. Needs a tokio runtime.
    pub(super) fn take() -> io::Result<Signals> {
        let signals = Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user_1: signal(SignalKind::user_defined1())?,
            user_2: signal(SignalKind::user_defined2())?,
            _file_size: signal(SignalKind::from_raw(libc::SIGXFSZ))?,
        };
        waiting().thread_unblock()?;
        Ok(signals)
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

    /// Waits for a signal that asks to stop; returns its name. Other signals are ignored, because
    /// they mean nothing any more.
    async fn stop(&mut self) -> &'static str {
        loop {
            if let Wanted::Stop(name) = self.next().await {
                return name;
            }
        }
    }
}

/// Reaps orphans if the daemon is the first process of a container. The kernel makes that process
/// the parent of all orphans in the container, and an orphan that has ended stays in the process
/// table until its parent reaps it. There the daemon has no children of its own.
pub(super) async fn reap_orphans() -> Infallible {
    let children = (std::process::id() == 1).then(|| signal(SignalKind::child()));
    let Some(Ok(mut children)) = children else { return std::future::pending().await };
    loop {
        // This also reaps orphans that ended before the daemon listened.
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
        }
        children.recv().await;
    }
}

/// Parts of the daemon that carry out the operator's signals.
pub(super) struct Operations {
    pub(super) reload: Reload,
    pub(super) program: Program,
    /// Copies of the sockets. They are closed when the daemon stops, so that no connection is
    /// accepted any more.
    pub(super) sockets: Sockets,
    /// Told when the last connection from the daemon before has come; `None`: none are expected.
    pub(super) taking_over: Option<oneshot::Receiver<()>>,
    /// Whether this is the playground of `--demo`, which is not upgraded.
    pub(super) is_demo: bool,
    /// Connections that shards hand over.
    pub(super) handed: Receiver<Option<HandedOver>>,
    /// Whether SIGUSR2 came again while this daemon waited for a new one that then did not get
    /// ready.
    pub(super) wants_another: bool,
}

impl Operations {
    /// Starts a new daemon and waits until it is ready. Signals are handled meanwhile, but a reload
    /// waits: it is done by the daemon that serves in the end.
    async fn upgrade(&mut self, signals: &mut Signals) -> Result<Successor, Option<&'static str>> {
        if self.is_demo {
            error!("SIGUSR2: the demo can't be taken over; nothing changed");
            return Err(None);
        }
        if std::process::id() == 1 {
            error!("SIGUSR2: this is PID 1: the container would end with it; nothing changed");
            return Err(None);
        }
        self.wait_for_the_one_before(signals).await.map_err(Some)?;
        let (mut wants_reload, mut wants_another) = (false, false);
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
                        Wanted::Upgrade => wants_another = true,
                    },
                }
            }
        };
        match outcome {
            Ok(successor) => {
                // The program may have been replaced again in the meantime.
                if wants_another {
                    successor.pass(NixSignal::SIGUSR2);
                }
                if wants_reload {
                    successor.pass(NixSignal::SIGHUP);
                }
                Ok(successor)
            }
            Err(problem) => {
                error!("upgrade: {problem}. Going on as if nothing had happened");
                self.reload.control.tell_upgrade(false);
                service::ready("serving");
                if wants_reload {
                    self.reload.run();
                }
                self.wants_another = wants_another;
                Err(None)
            }
        }
    }

    /// Waits for the end of the daemon before, because connections that it handed over after the
    /// shards here have ended would be lost. `Err`: the name of a signal that asked to stop
    /// meanwhile.
    async fn wait_for_the_one_before(&mut self, signals: &mut Signals) -> Result<(), &'static str> {
        while let Some(last) = &mut self.taking_over {
            let wanted = tokio::select! {
                _ = last => {
                    self.taking_over = None;
                    return Ok(());
                }
                wanted = signals.next() => wanted,
            };
            match wanted {
                Wanted::Stop(name) => return Err(name),
                Wanted::OpenLogAnew => self.reload.log.reopen(),
                Wanted::Reload => self.reload.run(),
                // The upgrade waits already.
                Wanted::Upgrade => {}
            }
        }
        Ok(())
    }
}

/// Number of shards that run, and the channel that reports the end of each.
pub(super) struct Threads {
    running: usize,
    ended: mpsc::UnboundedReceiver<(usize, bool)>,
}

impl Threads {
    /// Watches the shards. Because a join blocks, each shard is watched by a small thread that only
    /// waits for it.
    pub(super) fn watch(shards: Vec<JoinHandle<()>>) -> io::Result<Threads> {
        let (tell, ended) = mpsc::unbounded_channel();
        let running = shards.len();
        for (index, shard) in shards.into_iter().enumerate() {
            let tell = tell.clone();
            let name = format!("watch-{index}");
            std::thread::Builder::new().name(name).stack_size(64 * 1024).spawn(move || {
                let clean = shard.join().is_ok();
                // An error means that the daemon is ending and does not wait for this.
                let _ = tell.send((index, clean));
            })?;
        }
        Ok(Threads { running, ended })
    }

    /// Waits for the next shard to end. Returns its index, and whether it ended without a panic.
    async fn next_end(&mut self) -> (usize, bool) {
        match self.ended.recv().await {
            Some(end) => {
                self.running -= 1;
                end
            }
            // No shard is left to wait for.
            None => std::future::pending().await,
        }
    }

    async fn all_ended(&mut self) {
        while self.running != 0 {
            self.next_end().await;
        }
    }
}

/// Reason for which serving ends.
enum End {
    /// The signal with this name asked to stop.
    Asked(&'static str),
    Successor(Successor),
    /// The shard with this index ended (`true`), or panicked outside any connection (`false`).
    Broken(usize, bool),
}

async fn serve(signals: &mut Signals, threads: &mut Threads, operations: &mut Operations) -> End {
    loop {
        let again = std::mem::take(&mut operations.wants_another);
        let wanted = tokio::select! {
            wanted = async { if again { Wanted::Upgrade } else { signals.next().await } } => wanted,
            (index, clean) = threads.next_end() => return End::Broken(index, clean),
        };
        match wanted {
            Wanted::Stop(name) => return End::Asked(name),
            Wanted::OpenLogAnew => operations.reload.log.reopen(),
            Wanted::Reload if std::process::id() == 1 || !operations.program.is_replaced() => {
                operations.reload.run();
            }
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

/// Serves until a signal asks to stop or a new daemon has taken over, then stops. `Err`: a shard
/// has ended without being asked to.
pub(super) async fn serve_until_stopped(
    end: &ControlEnd,
    mut signals: Signals,
    mut threads: Threads,
    mut operations: Operations,
) -> Result<(), String> {
    let how = serve(&mut signals, &mut threads, &mut operations).await;
    let Operations { reload, sockets, handed, taking_over, .. } = operations;
    let drain = reload.config.timeouts.drain;
    drop(sockets);
    let outcome = match how {
        End::Broken(index, clean) => {
            // The daemon does not go on with fewer shards than the operator has configured.
            let how = if clean { "ended" } else { "panicked outside any connection" };
            error!("shard {index} {how}: stopping all");
            end.stop(Stop::Now);
            let _ = tokio::time::timeout(limits::STOP_TIME, threads.all_ended()).await;
            Err(format!("shard {index} {how}"))
        }
        End::Asked(name) => {
            service::stopping();
            reload.control.tell_stopping();
            let is_urgent = fail_health_checks(name, &reload, &mut signals, &mut threads).await;
            info!(
                "{name}: stopping; up to {drain:?} for {} to finish",
                counted(end.total(Counter::Open), "connection")
            );
            let drain = if is_urgent { Duration::ZERO } else { drain };
            let until = Instant::now() + drain;
            if taking_over.is_some() {
                reload.control.elder().stop(false);
            }
            stop(end, Stop::Drain, &mut signals, &mut threads, drain).await;
            if let Some(last) = taking_over {
                // Under systemd the old daemon would be killed when this one has ended.
                wait_for_the_elder(last, until, &mut signals, &reload.control).await;
            }
            Ok(())
        }
        End::Successor(successor) => {
            hand_over(end, successor, handed, &mut signals, &mut threads, &reload).await;
            Ok(())
        }
    };
    reload.log.finish();
    outcome
}

/// Goes on serving for `timeout_unhealthy` while health checks fail, so that load balancers in
/// front send clients elsewhere before any connection is refused. Returns whether a second signal
/// has asked to stop at once.
async fn fail_health_checks(
    name: &str,
    reload: &Reload,
    signals: &mut Signals,
    threads: &mut Threads,
) -> bool {
    let time = reload.config.timeouts.unhealthy;
    if time.is_zero() {
        return false;
    }
    info!("{name}: health checks fail from now on; accepting for {time:?} more");
    let tuning = Tuning { is_unhealthy: true, ..**reload.published.tuning.load() };
    reload.published.tuning.store(Arc::new(tuning));
    reload.shards.wake_all();
    let end = tokio::time::sleep(time);
    let mut end = pin!(end);
    loop {
        let wanted = tokio::select! {
            () = &mut end => return false,
            _ = threads.next_end() => return false,
            wanted = signals.next() => wanted,
        };
        match wanted {
            Wanted::Stop(_) => return true,
            Wanted::OpenLogAnew => reload.log.reopen(),
            // A daemon that stops ignores these.
            Wanted::Reload | Wanted::Upgrade => {}
        }
    }
}

/// Waits until the daemon before this one has finished as well.
async fn wait_for_the_elder(
    mut last: oneshot::Receiver<()>,
    until: Instant,
    signals: &mut Signals,
    control: &Handle,
) {
    tokio::select! {
        _ = &mut last => return,
        () = tokio::time::sleep_until(until.into()) => {}
        _ = signals.stop() => {}
    }
    control.elder().stop(true);
    let _ = tokio::time::timeout(limits::STOP_TIME, last).await;
}

/// Hands connections over to the new daemon, and finishes the others while reporting them to it.
async fn hand_over(
    end: &ControlEnd,
    successor: Successor,
    handed: Receiver<Option<HandedOver>>,
    signals: &mut Signals,
    threads: &mut Threads,
    reload: &Reload,
) {
    let (successor, is_over) = (Arc::new(successor), Arc::new(AtomicBool::new(false)));
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    let (to, control, shards, over) =
        (successor.clone(), reload.control.clone(), end.clone(), is_over.clone());
    let telling = thread("tell").spawn(move || to.tell(&control, &shards, &over));
    let to = successor.clone();
    let passing = thread("hand-over").spawn(move || to.pass_on(&handed));
    reload.control.close();
    end.stop(Stop::HandOver);
    let drain = reload.config.timeouts.drain;
    drain_for_the_next(end, &successor, signals, threads, drain).await;
    end.end_hand_over();
    reload.control.wake_settled().await;
    is_over.store(true, Ordering::SeqCst);
    let counted = reload.control.counted_since().await;
    let last = move || {
        for thread in [telling, passing] {
            match thread {
                // A panic of the thread has been logged already.
                Ok(thread) => drop(thread.join()),
                Err(error) => error!("no thread to hand connections over: {error}"),
            }
        }
        successor.pass_counts_on(&counted);
    };
    drop(tokio::task::spawn_blocking(last).await);
}

/// Waits for the shards to end, as `stop` does. The first signal to stop makes the shards drain,
/// without handing over more connections; the second one ends the shards at once. Other signals are
/// passed on to the daemon that has taken over.
async fn drain_for_the_next(
    end: &ControlEnd,
    next: &Successor,
    signals: &mut Signals,
    threads: &mut Threads,
    drain: Duration,
) {
    let time = tokio::time::sleep(drain);
    let mut time = pin!(time);
    let mut is_asked = false;
    loop {
        let wanted = tokio::select! {
            () = threads.all_ended() => return,
            () = &mut time => {
                tell_cut(end, "timeout_drain is over");
                break;
            }
            wanted = signals.next() => wanted,
        };
        match wanted {
            Wanted::Stop(name) if is_asked => {
                tell_cut(end, &format!("{name} again"));
                break;
            }
            Wanted::Stop(_) => {
                is_asked = true;
                end.stop(Stop::Drain);
            }
            Wanted::Reload => next.pass(NixSignal::SIGHUP),
            Wanted::OpenLogAnew => next.pass(NixSignal::SIGUSR1),
            Wanted::Upgrade => next.pass(NixSignal::SIGUSR2),
        }
    }
    cut_off(end, threads).await;
}

/// Stops the shards and waits for them to end; after the time, or at a second signal, at once.
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
            tell_cut(end, "timeout_drain is over");
        }
        name = signals.stop() => {
            tell_cut(end, &format!("{name} again"));
        }
    }
    cut_off(end, threads).await;
}

fn tell_cut(end: &ControlEnd, why: &str) {
    warn!("{why}: cutting off {}", counted(end.total(Counter::Open), "connection"));
}

async fn cut_off(end: &ControlEnd, threads: &mut Threads) {
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
