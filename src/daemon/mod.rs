//! The daemon: bind while still root, drop rights, load, run the shards, stop cleanly.

mod arguments;
mod check;
mod demo;
mod listen;
mod privileges;
mod resources;

use std::path::Path;
use std::process::ExitCode;
use std::thread::JoinHandle;

use tracing::{error, info, warn};

use crate::config::Config;
use crate::control::{self, Loaded};
use crate::link::{self, Counter, Published};
use crate::shard;
use arguments::Arguments;
use listen::Bound;
use resources::Resources;

/// Runs `mantrid`; the exit code is 0 after a clean stop, 1 when the start failed.
pub fn main() -> ExitCode {
    let arguments = Arguments::from_command_line();
    let outcome = match configuration(&arguments) {
        Ok(config) if arguments.check => return check::run(&config),
        Ok(config) if arguments.demo => demo::run(config, &arguments),
        Ok(config) => run(&config, arguments.debug, None),
        Err(problems) => Err(problems),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problems) => {
            for problem in problems {
                eprintln!("mantrid: {problem}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Told when every shard accepts, with the addresses.
type Announce<'a> = &'a dyn Fn(&[Bound]);

/// Why the daemon can't start: one line a problem.
type Problems = Vec<String>;

const DEFAULT_FILE: &str = "/etc/mantrid/mantrid.conf";

fn configuration(arguments: &Arguments) -> Result<Config, Problems> {
    let path = match &arguments.config {
        Some(path) => Some(path.clone()),
        // The demo touches nothing that is installed.
        None if arguments.demo => None,
        None => Some(DEFAULT_FILE.to_owned()).filter(|path| Path::new(path).exists()),
    };
    let text = match &path {
        Some(path) => Some(
            std::fs::read_to_string(path)
                .map_err(|error| vec![format!("{path}: can't read the configuration: {error}")])?,
        ),
        None => None,
    };
    let mut overrides = arguments.overrides.clone();
    if arguments.demo {
        demo::preset(&mut overrides);
    }
    let file = path.as_deref().zip(text.as_deref());
    Config::build(file, &overrides)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

/// Binds, drops rights, loads, serves until asked to stop. `announce` is called when every shard
/// accepts, with the addresses.
fn run(config: &Config, debug: bool, announce: Option<Announce<'_>>) -> Result<(), Problems> {
    start_logging(debug);
    for note in &config.notes {
        warn!("{note}");
    }
    let resources = Resources::gather(config)?;
    resources.log();
    let bound = listen::bind_all(config, resources.shards())?;
    privileges::drop_to(config).map_err(|problem| vec![problem])?;
    let Loaded { snapshot, names, pages } = control::load(config)?;
    info!("{} rules from {}", snapshot.len(), config.state_file.display());

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| vec![format!("can't start the control shard: {error}")])?;
    runtime.block_on(async {
        control::resolve_once(&names).await;
        let (end, ends) = link::connect(Published::new(snapshot, pages), resources.shards())
            .map_err(|error| vec![format!("can't make the shards' wake-ups: {error}")])?;
        let threads = start_shards(config, &resources, &bound, ends)?;
        for address in &bound {
            info!("Listening for requests on {}", address.local);
        }
        info!("Ready");
        if let Some(announce) = announce {
            announce(&bound);
        }
        drop(bound);
        let resolver = tokio::spawn(control::keep_resolved(names));
        control::until_stopped(&end, config.timeouts.drain, threads).await;
        resolver.abort();
        info!(
            "Exiting: {} connections, {} requests, {} refused, {} shed, {} panics",
            end.total(Counter::Accepted),
            end.total(Counter::Requests),
            end.total(Counter::Refused),
            end.total(Counter::Shed),
            end.total(Counter::Panics),
        );
        Ok(())
    })
}

fn start_shards(
    config: &Config,
    resources: &Resources,
    bound: &[Bound],
    ends: Vec<link::ShardEnd>,
) -> Result<Vec<JoinHandle<()>>, Problems> {
    let mut threads = Vec::new();
    for end in ends {
        let index = end.index;
        let listeners = bound
            .iter()
            .map(|address| address.listener(index))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|problem| vec![problem])?;
        let settings = shard::Settings {
            cpu: resources.cpu(index),
            head_bytes_max: config.max_head,
            connections_max: resources.connections_per_shard,
            pipes_max: resources.pipes_per_shard,
            timeouts: shard::Timeouts {
                http_request: config.timeouts.http_request,
                http_keep_alive: config.timeouts.http_keep_alive,
                client: config.timeouts.client,
                connect: config.timeouts.connect,
                server: config.timeouts.server,
                tunnel: config.timeouts.tunnel,
            },
        };
        let started = shard::spawn(settings, listeners, end);
        threads.push(started.map_err(|why| {
            error!("shard {index}: {why}");
            vec![format!("shard {index}: {why}")]
        })?);
    }
    Ok(threads)
}

fn start_logging(debug: bool) {
    use std::io::IsTerminal;
    let level = if debug { tracing::Level::DEBUG } else { tracing::Level::INFO };
    let _ = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_max_level(level)
        .try_init();
}
