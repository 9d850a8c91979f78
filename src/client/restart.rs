//! `restart HOST -- COMMAND`: holds the requests of a host, waits until those under way have ended,
//! runs the command that restarts its application, waits until a backend answers, and flips the
//! host back. If something goes wrong, the host stays held, or gets its old rule back if that was
//! asked for. The error says which of the two, and what to do next.

use std::cell::Cell;
use std::ffi::OsString;
use std::io::Write;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

use super::arguments::Restart;
use super::backend::{Application, Applications, Check};
use super::change::duration;
use super::failure::{Failure, say};
use super::print::plain;
use super::request::Api;
use super::spin::{before, held, is_spin, put_back, replace, requests};
use super::{print, print_json};

/// Pause between two tries to reach a backend, or to get the turn.
const LOOK_EACH: Duration = Duration::from_millis(100);
/// Longest time that a backend may take to answer.
const LOOK_TIME: Duration = Duration::from_secs(2);
/// Exit code for a command that can't be run, as in a shell.
const NOT_RUN: u8 = 127;

pub async fn restart(api: &Api, restart: &Restart, json: bool) -> Result<(), Failure> {
    let host = &*restart.host;
    let ready = time("--ready", &restart.ready)?;
    time("--drain", &restart.drain)?;
    let mut signals = EndSignals::new()?;
    let _turn = turn(api, host, &mut signals).await?;
    let query = format!("?wait=drained&timeout={}", restart.drain);
    let done = replace(api, host, &query, |rule| {
        application(host, rule)?;
        Ok(held(rule, &restart.holding.given()))
    });
    let done = tokio::select! {
        done = done => done?,
        signal = signals.next() => {
            let now = match take_back(api, host).await? {
                true => "has its old rule back",
                false => "was not changed",
            };
            let why = format!("{}, before the command ran: {} {now}", signal.as_str(), plain(host));
            return Err(Failure::Command { code: code_of(signal as i32), why });
        }
    };
    let old = application(host, &done.before)?;
    if !done.lagging.is_empty() {
        put_back(api, host).await?;
        let (host, nodes) = (plain(host), done.lagging.join(", "));
        let why = format!(
            "{nodes} did not say in time that the requests of {host} are held there, so the command \
             was not run: {host} has its old rule back"
        );
        return Err(Failure::Command { code: NOT_RUN, why });
    }
    if done.answer.value()?["drained"] == false {
        say(&format!(
            "{}: requests are still under way after {}; going on without them",
            plain(host),
            restart.drain
        ));
    }
    let outcome = match run(&restart.command, &mut signals).await {
        Ok(()) => answers(host, &old, ready, &mut signals).await,
        Err(failed) => Err(failed),
    };
    match outcome {
        Ok(()) => {
            let held = put_back(api, host).await?;
            match json {
                true => print_json(json!({ "ok": true, "held": held }).to_string().as_bytes()),
                false => print(|out| writeln!(out, "{}", requests(held))),
            }
        }
        // Put the old rule back, too, if nothing has been done to the application (`NOT_RUN`), or
        // if another backend answers in its place.
        Err(failed) if restart.restore || failed.code == NOT_RUN || failed.is_served => {
            put_back(api, host).await?;
            let why = format!("{}: {} has its old rule back", failed.why, plain(host));
            Err(Failure::Command { code: failed.code, why })
        }
        Err(Failed { code, why, .. }) => {
            let host = plain(host);
            let why = format!(
                "{why}: {host} still holds its requests. When it is well: mantrid-client flip {host}"
            );
            Err(Failure::Command { code, why })
        }
    }
}

fn time(option: &str, text: &str) -> Result<Duration, Failure> {
    duration(text).ok_or_else(|| {
        Failure::Other(format!("{option} {text:?}: expected a time such as 30s or 2m"))
    })
}

/// The proxy rule whose application is restarted: the rule in force or, if the host is held, the
/// rule that stood before.
fn application(host: &str, rule: &Value) -> Result<Value, Failure> {
    let rule = if is_spin(rule) { before(host, rule)? } else { rule.clone() };
    match rule[0].as_str() {
        Some("proxy") => Ok(rule),
        action => Err(Failure::Other(format!(
            "{} has no application to restart, its rule is {}: nothing was changed",
            plain(host),
            plain(action.unwrap_or("something else"))
        ))),
    }
}

/// Failure of the command, and the exit code that says so.
struct Failed {
    code: u8,
    why: String,
    /// Whether the old rule has a backend that answers all the same.
    is_served: bool,
}

impl Failed {
    fn new(code: u8, why: String) -> Failed {
        Failed { code, why, is_served: false }
    }
}

/// Puts the old rule back while our change may still be on its way. If our change arrives later, it
/// is refused, because the table has been changed in between. Returns whether the host was held.
async fn take_back(api: &Api, host: &str) -> Result<bool, Failure> {
    let was_held = Cell::new(false);
    replace(api, host, "", |rule| {
        was_held.set(is_spin(rule));
        if is_spin(rule) { before(host, rule) } else { Ok(rule.clone()) }
    })
    .await?;
    Ok(was_held.get())
}

/// Waits until no other `restart` of this host at this address is under way on this machine.
/// Otherwise the first one would let the requests go while the application of the second one is
/// still down. The name stays bound as long as this process lives, however it ends.
async fn turn(api: &Api, host: &str, signals: &mut EndSignals) -> Result<UnixListener, Failure> {
    let host = host.trim_end_matches('.').to_lowercase();
    let name = format!("mantrid-client restart {host} {}", api.address());
    // The length of a socket's name is limited.
    let name = &name.as_bytes()[..name.len().min(100)];
    let failed = |error: &std::io::Error| {
        Failure::Other(format!("can't see whether {} is restarted already: {error}", plain(&host)))
    };
    let address = SocketAddr::from_abstract_name(name).map_err(|error| failed(&error))?;
    let mut is_told = false;
    loop {
        match UnixListener::bind_addr(&address) {
            Ok(turn) => return Ok(turn),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(failed(&error)),
        }
        if !std::mem::replace(&mut is_told, true) {
            say(&format!(
                "{}: another restart of it is under way: waiting for its end",
                plain(&host)
            ));
        }
        tokio::select! {
            () = sleep(LOOK_EACH) => {}
            signal = signals.next() => {
                let why = format!(
                    "{}, while another restart of {} was waited for: nothing was changed",
                    signal.as_str(),
                    plain(&host)
                );
                return Err(Failure::Command { code: code_of(signal as i32), why });
            }
        }
    }
}

/// Signals that would end the program, and leave the host as it is without a message.
struct EndSignals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
}

impl EndSignals {
    fn new() -> Result<EndSignals, Failure> {
        let of = |kind| {
            signal(kind).map_err(|error| Failure::Other(format!("can't hear signals: {error}")))
        };
        Ok(EndSignals {
            interrupt: of(SignalKind::interrupt())?,
            terminate: of(SignalKind::terminate())?,
            hangup: of(SignalKind::hangup())?,
            quit: of(SignalKind::quit())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::SIGINT,
            _ = self.terminate.recv() => Signal::SIGTERM,
            _ = self.hangup.recv() => Signal::SIGHUP,
            _ = self.quit.recv() => Signal::SIGQUIT,
        }
    }
}

/// Runs the command to its end.
async fn run(command: &[OsString], signals: &mut EndSignals) -> Result<(), Failed> {
    let shown = plain(&command[0].to_string_lossy());
    let child = Command::new(&command[0]).args(&command[1..]).spawn();
    let child =
        child.map_err(|error| Failed::new(NOT_RUN, format!("{shown} can't be run: {error}")))?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let mut ended = tokio::task::spawn_blocking(move || wait(child));
    let mut stopped_by = None;
    let status = loop {
        tokio::select! {
            status = &mut ended => break status,
            // Signals of a terminal's keys reach the command as well. Signals that are sent to us
            // alone do not, so pass them on.
            signal = signals.next() => {
                stopped_by = Some(signal);
                if !matches!(signal, Signal::SIGINT | Signal::SIGQUIT) {
                    let _ = kill(pid, signal);
                }
            }
        }
    };
    let status = status.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    let status = status.map_err(|error| Failed::new(1, format!("{shown}: {error}")))?;
    match (status.code(), status.signal()) {
        (Some(0), _) => match stopped_by {
            None => Ok(()),
            Some(signal) => {
                let why = format!("{}, while {shown} ran", signal.as_str());
                Err(Failed::new(code_of(signal as i32), why))
            }
        },
        (Some(code), _) => {
            let why = format!("{shown} ended with status {code}");
            Err(Failed::new(u8::try_from(code).unwrap_or(1), why))
        }
        (None, signal) => {
            let signal = signal.unwrap_or_default();
            let why = format!("{shown} was ended by signal {signal}");
            Err(Failed::new(code_of(signal), why))
        }
    }
}

/// Exit code for a command that a signal ended, as in a shell.
fn code_of(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(1)
}

fn wait(mut child: Child) -> std::io::Result<ExitStatus> {
    child.wait()
}

/// Waits until a backend of the rule answers. A backend of `backup` does not count, because it may
/// answer before the application is back.
async fn answers(
    name: &str,
    rule: &Value,
    most: Duration,
    signals: &mut EndSignals,
) -> Result<(), Failed> {
    let until = Instant::now() + most;
    let check = Check::of(name, &rule[1]);
    let Applications { used, backup } = Applications::of(rule);
    loop {
        let Err(why) = one_answers(&used, check.as_ref()).await else { return Ok(()) };
        if until <= Instant::now() {
            let why = format!("no backend answers after {most:?} ({why})");
            return Err(match one_answers(&backup, check.as_ref()).await {
                Ok(backup) => {
                    let backup = plain(&backup.to_string());
                    let why = format!("{why}, its backup {backup} does");
                    Failed { code: 1, why, is_served: true }
                }
                Err(_) => Failed::new(1, why),
            });
        }
        tokio::select! {
            () = sleep(LOOK_EACH) => {}
            signal = signals.next() => {
                let code = code_of(signal as i32);
                let why = format!("{}, while no backend answered yet", signal.as_str());
                return Err(Failed::new(code, why));
            }
        }
    }
}

/// Asks backends, one after the other, until one answers; the error is that of the last backend.
async fn one_answers<'a>(
    all: &'a [Application],
    check: Option<&Check<'_>>,
) -> Result<&'a Application, String> {
    let mut why = String::new();
    for backend in all {
        let look = timeout(LOOK_TIME, backend.look(check));
        match look.await.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
            Ok(()) => return Ok(backend),
            Err(error) => why = format!("{}: {error}", plain(&backend.to_string())),
        }
    }
    Err(why)
}
