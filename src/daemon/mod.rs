//! The daemon: bind while still root, drop rights, load, start the shards, serve, stop cleanly.
//!
//! Every problem with a start is found before the first connection is accepted, and is reported in
//! one line.

mod access_log;
mod arguments;
mod check;
mod demo;
mod demo_backend;
mod demo_fleet;
mod fleet;
mod inherited;
mod json_lines;
mod listen;
mod log;
mod log_lines;
mod management;
mod port_owner;
mod privileges;
mod reload;
mod resources;
mod service;
mod signals;
mod stalls;
mod steering;
mod syslog;
mod takeover_protocol;
mod tokens;
mod trusted;
mod upgrade;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use tracing::{info, warn};

use crate::config::Config;
use crate::control::{self, About, Access, Control, Files, Tokens};
use crate::link::{self, Counter, Own, Part, Protocol, Published, ShardEnd};
use crate::{limits, shard};
use access_log::LogWriter;
use arguments::{Arguments, Asked};
use demo::Demo;
use inherited::InheritedSockets;
use listen::{Bound, Trusted};
use log::counted;
use management::Listening;
use reload::{Reload, Source};
use resources::Resources;
use signals::{Operations, Signals, Threads};
use upgrade::{Predecessor, Program, Sockets};

/// Problems for which the daemon can't start, one line each.
type Problems = Vec<String>;

const DEFAULT_FILE: &str = "/etc/mantrid/mantrid.conf";

/// Runs `mantrid`. The exit code is 0 after a clean stop, and 1 if the start failed.
pub fn main() -> ExitCode {
    signals::block();
    let code = start().unwrap_or_else(|problems| {
        report(&problems);
        ExitCode::FAILURE
    });
    service::finish();
    log::finish();
    code
}

fn start() -> Result<ExitCode, Problems> {
    let arguments = match arguments::read().map_err(|problem| vec![problem])? {
        Asked::Run(arguments) => arguments,
        Asked::Print(text) => {
            log::say(text.trim_end());
            return Ok(ExitCode::SUCCESS);
        }
    };
    if arguments.demo {
        let demo = Demo::prepare(arguments.fleet)?;
        let text = demo.configuration();
        let overrides = arguments.overrides.clone();
        let source: Source =
            Box::new(move || build(Some(("the demo's configuration", &text)), &overrides));
        let how = How { debug: arguments.debug, adopt: false };
        run(source, how, Some(&demo))?;
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.check {
        return Ok(check::run(&configured(&arguments)?));
    }
    let how = How { debug: arguments.debug, adopt: arguments.adopt };
    run(Box::new(move || configured(&arguments)), how, None)?;
    Ok(ExitCode::SUCCESS)
}

fn report(problems: &[String]) {
    problems.iter().for_each(|problem| log::complain(problem));
}

fn configured(arguments: &Arguments) -> Result<Config, Problems> {
    let path = match &arguments.config {
        Some(path) => path,
        None if Path::new(DEFAULT_FILE).exists() => DEFAULT_FILE,
        None => return build(None, &arguments.overrides),
    };
    let bytes = std::fs::read(path)
        .map_err(|error| vec![format!("{path}: can't read the configuration: {error}")])?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + memchr::memchr_iter(b'\n', before).count();
        vec![format!("{path}:{line}: expected text in UTF-8")]
    })?;
    build(Some((path, &text)), &arguments.overrides)
}

fn build(file: Option<(&str, &str)>, overrides: &[String]) -> Result<Config, Problems> {
    Config::build(file, overrides)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

fn files(config: &Config) -> Files {
    Files { state: config.state_file.clone(), pages: config.static_dir.clone() }
}

/// Options of the command line that are not part of the configuration.
#[derive(Copy, Clone)]
struct How {
    debug: bool,
    adopt: bool,
}

/// Serves until asked to stop.
fn run(source: Source, how: How, demo: Option<&Demo>) -> Result<(), Problems> {
    let one = |problem: String| vec![problem];
    let config = source()?;
    log::start(how.debug, &config);
    let program = Program::of_this_process().map_err(|error| vec![error.to_string()])?;
    let (predecessor, mut given) = match Predecessor::find().map_err(one)? {
        Some((predecessor, given)) => (Some(predecessor), given),
        None => (None, InheritedSockets::by_systemd().map_err(one)?),
    };
    let default = Config::default();
    let is_set = (&config.uid, &config.gid) != (&default.uid, &default.gid);
    if demo.is_none() && predecessor.is_none() && is_set && !privileges::are_root() {
        warn!("Not started as root: uid and gid stay as they are");
    }
    let resources = Resources::gather(&config)?;
    let target = privileges::find(&config)?;
    let wrong_hosts = check::hosts(&config);
    if !wrong_hosts.is_empty() {
        return Err(wrong_hosts);
    }
    let tokens = tokens::read(&config, std::mem::take(&mut given.tokens)).map_err(one)?;
    let trusted: Trusted = Arc::new(ArcSwap::from_pointee(trusted::read(&config)?));
    // A daemon that takes over must not wait here, because the old daemon waits for it.
    if predecessor.is_none() && std::env::var_os("NOTIFY_SOCKET").is_some() {
        listen::wait_for_addresses(&config, &given, crate::limits::ADDRESS_WAIT);
    }
    let fleet = fleet::settings(&config, how.adopt).map_err(one)?;
    let bound = listen::bind_all(&config, resources.shards, &trusted, &mut given)?;
    let management = management::bind_all(&config, target, &mut given)?;
    close_left(given, predecessor.is_some());
    let addresses: Vec<_> = bound.iter().map(|bound| bound.local).collect();
    if let Some(demo) = demo {
        demo.write_table(&addresses).map_err(one)?;
    }
    privileges::make_folder(&config.state_file, target).map_err(one)?;
    // The demo runs as the user who started it, unless told otherwise.
    if demo.is_none() || !target.stays_root() {
        let is_guarded = predecessor.as_ref().is_some_and(Predecessor::is_guarded);
        privileges::drop_to(target, is_guarded).map_err(one)?;
    }
    log::start_writer();
    // Checked after rights were dropped, because io_uring may be allowed only for root.
    crate::ring::probe().map_err(one)?;
    info!("{}", resources.summary());
    resources.warnings().iter().for_each(|warning| warn!("{warning}"));
    let mut memory = None;
    if let Some(predecessor) = &predecessor {
        // Problems with the files must be found while the old daemon still has them, so that it can
        // go on.
        access_log::check(&config.access_log).map_err(one)?;
        control::look(&files(&config)).map_err(one)?;
        memory = Some(predecessor.prepared().map_err(one)?);
    }
    let mut loaded = control::load(&files(&config)).map_err(one)?;
    loaded.warnings.iter().for_each(|warning| warn!("{warning}"));
    let rules = counted(loaded.table.len(), "rule");
    info!("{rules} from {}", config.state_file.display());

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(limits::BLOCKING_THREADS + resources.lookups_at_once())
        .build()
        .map_err(|error| vec![format!("can't start the control shard: {error}")])?;
    if let Some(settings) = fleet {
        let files = files(&config);
        let joined = control::join(settings, &files, &mut loaded);
        runtime.block_on(joined).map_err(one)?;
    }
    let access = access(&config, &resources, tokens);
    let sockets = copies(&config, &bound, &management)
        .map_err(|error| vec![format!("can't copy the sockets: {error}")])?;
    let wiring = Wiring {
        bound,
        management,
        access,
        loaded,
        sockets,
        trusted,
        program,
        predecessor,
        memory,
    };
    let outcome = runtime.block_on(serve(source, config, &resources, wiring, demo));
    // A lookup may hang in the system's resolver for a long time, so lookups are not waited for.
    runtime.shutdown_background();
    outcome.map_err(one)
}

/// Copies every listening socket, for a daemon that takes over.
fn copies(config: &Config, bound: &[Bound], management: &Listening) -> std::io::Result<Sockets> {
    let mut sockets = Sockets { tcp: listen::copies(bound)?, unix: Vec::new() };
    management::copies(config, management, &mut sockets)?;
    Ok(sockets)
}

/// Closes the inherited sockets that the configuration does not use: a client that connected to one
/// would wait for ever.
fn close_left(given: InheritedSockets, is_upgrade: bool) {
    for left in given.left() {
        if is_upgrade {
            info!(
                "{left} is no address any more: it is closed when the old daemon has let go of it"
            );
        } else {
            warn!("A listening socket was given for {left}, which the configuration does not bind");
        }
    }
}

/// Returns facts about this daemon for `mantrid-client support`.
fn about(config: &Config) -> About {
    About { written: config.written.0.clone(), recent_lines: Some(log::recent) }
}

fn access(config: &Config, resources: &Resources, tokens: Tokens) -> Access {
    Access {
        tokens,
        connections_max: resources.management_connections(),
        probes_max: resources.probes_at_once(),
        lookups_max: resources.lookups_at_once(),
        held_max: reload::held_max(config),
    }
}

/// Parts of the daemon that a start has prepared.
struct Wiring {
    bound: Vec<Bound>,
    management: Listening,
    access: Access,
    loaded: control::Loaded,
    sockets: Sockets,
    trusted: Trusted,
    program: Program,
    predecessor: Option<Predecessor>,
    /// State that the old daemon has passed on beside the state file.
    memory: Option<serde_json::Value>,
}

async fn serve(
    source: Source,
    config: Config,
    resources: &Resources,
    wiring: Wiring,
    demo: Option<&Demo>,
) -> Result<(), String> {
    let Wiring { mut bound, management, access, loaded, sockets, trusted, program, .. } = wiring;
    let Wiring { predecessor, memory, .. } = wiring;
    let signals = Signals::take().map_err(|error| format!("can't take signals: {error}"))?;
    let tuning = reload::tuning(&config, resources);
    let clients = bound.iter().map(|bound| bound.local);
    let tcp = clients.chain(management.addresses()).collect();
    let own = Own::new(tcp, management.paths());
    let published = Published::new(loaded.table, loaded.pages, tuning, own);
    published.entrance.store(Arc::new(reload::entrance(&config, trusted.load_full())));
    let (end, ends, handed) = link::connect(published, resources.shards)
        .map_err(|error| format!("can't make the shards' wake-ups: {error}"))?;
    let published = ends.first().map(|end| end.published.clone()).ok_or("there is no shard")?;
    let log = LogWriter::start(&config.access_log, end.together.clone())?;
    let mut control = Control::new(files(&config), loaded.rest, published.clone(), &end, access)?;
    control.handle().set_about(about(&config));
    let hears = memory.as_ref().is_some_and(serde_json::Value::is_object);
    if let Some(memory) = memory {
        control.recall(&memory);
    }
    control.prepare(&published).await;
    listen::begin(&mut bound)?;
    let threads = start_shards(&config, resources, &mut bound, ends)?;
    let threads = Threads::watch(threads).map_err(|error| format!("no thread: {error}"))?;
    announce(&bound, &management);
    let taking_over = match predecessor {
        Some(predecessor) => {
            control.handle().tell_upgrade(true);
            let ready = predecessor.ready(end.clone(), control.handle(), hears);
            Some(ready.map_err(|error| format!("the daemon that was to hand over: {error}"))?)
        }
        None => None,
    };
    steering::steer(&bound, &sockets.tcp, resources.steering());
    info!("Ready");
    service::ready("serving");
    if let Some(demo) = demo {
        let addresses: Vec<_> = bound.iter().map(|bound| bound.local).collect();
        demo.announce(&addresses, &management.management)?;
    }
    let operations = Operations {
        is_demo: demo.is_some(),
        program,
        sockets,
        taking_over,
        handed,
        wants_another: false,
        reload: Reload {
            source,
            config,
            trusted,
            published,
            shards: end.clone(),
            control: control.handle(),
            log,
        },
    };
    let lookout =
        stalls::Lookout::start(end.clone()).map_err(|error| format!("no thread: {error}"))?;
    let beat = &end.together.beat;
    let outcome = tokio::select! {
        outcome = beat.of(
            Part::Signals,
            signals::serve_until_stopped(&end, signals, threads, operations),
        ) => outcome,
        never = control.run(management.management, management.metrics) => match never {},
        never = beat.of(Part::Watchdog, service::feed_watchdog(&end)) => match never {},
        never = service::beat(beat) => match never {},
        never = signals::reap_orphans() => match never {},
    };
    // Nothing watches the progress of control from here on, because what is left may wait for the
    // disk.
    drop(lookout);
    control.finish().await;
    info!(
        "Stopped after {} and {}",
        counted(end.total(Counter::Accepted), "connection"),
        counted(end.total(Counter::Requests), "request")
    );
    outcome
}

fn announce(bound: &[Bound], control: &Listening) {
    for one in bound {
        let Bound { local, speaks, .. } = one;
        match speaks {
            Protocol::Http { trusted: false, .. } => info!("Listening for requests on {local}"),
            Protocol::Http { trusted: true, .. } => {
                let believed = match one.accepts_proxy() {
                    true => "the PROXY protocol is",
                    false => "forwarding fields are",
                };
                info!("Listening for requests on {local} (internal: {believed} believed)");
            }
            Protocol::Tcp(host) => info!("Listening for TCP on {local}, for {host}"),
            Protocol::Tls => info!("Listening for TLS on {local}"),
        }
    }
    for one in &control.management {
        info!("Listening for management on {one}");
    }
    for one in &control.metrics {
        info!("Listening for metrics on {one}");
    }
}

/// Makes the shards and starts their threads.
fn start_shards(
    config: &Config,
    resources: &Resources,
    bound: &mut [Bound],
    ends: Vec<ShardEnd>,
) -> Result<Vec<JoinHandle<()>>, String> {
    let busy_poll = resources::busy_poll(config).unwrap_or_else(|warning| {
        warn!("{warning}");
        None
    });
    let start = |end: ShardEnd| {
        let index = end.index;
        let (cpu, pipes_max) = (resources.cpu(index), resources.pipes_per_shard);
        let settings = shard::Settings { cpu, pipes_max, busy_poll };
        shard::spawn(settings, listen::for_one_shard(bound, index), end)
            .map_err(|why| format!("shard {index} can't start: {why}"))
    };
    ends.into_iter().map(start).collect()
}
