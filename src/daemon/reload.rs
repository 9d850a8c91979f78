//! SIGHUP: the configuration is read again, and what may change while shards run is put in force, all of it or
//! nothing. What needs sockets, threads or rights that only a start has is named, and left for the next one.

use std::sync::Arc;

use tracing::{error, info, warn};

use super::access_log::LogWriter;
use super::listen::Trusted;
use super::resources::Resources;
use super::service;
use super::{Problems, management};
use crate::config::Config;
use crate::control::{Handle, Token};
use crate::http::Via;
use crate::link::{ControlEnd, Published, Timeouts, Tuning};

/// What shards are to go by.
pub(super) fn tuning(config: &Config, resources: &Resources) -> Tuning {
    let timeouts = &config.timeouts;
    Tuning {
        timeouts: Timeouts {
            http_request: timeouts.http_request,
            http_keep_alive: timeouts.http_keep_alive,
            client: timeouts.client,
            connect: timeouts.connect,
            server: timeouts.server,
            tunnel: timeouts.tunnel,
        },
        head_bytes_max: config.max_head,
        connections_max: resources.connections_per_shard,
        connections_per_source_max: config.max_connections_per_source,
        request_id: config.request_id,
        abort_on_close: config.abort_on_close,
        via: config.via.as_deref().and_then(Via::new).unwrap_or(Via::NONE),
    }
}

/// Requests that may be held, in all and of one source.
pub(super) fn held_max(config: &Config) -> (usize, usize) {
    (config.max_held, config.max_held_per_source.unwrap_or(config.max_held))
}

/// Reads the configuration.
pub(super) type Source = Box<dyn Fn() -> Result<Config, Problems>>;

/// What a reload works on.
pub(super) struct Reload {
    pub(super) source: Source,
    /// In force.
    pub(super) config: Config,
    pub(super) trusted: Trusted,
    pub(super) published: Arc<Published>,
    pub(super) shards: ControlEnd,
    pub(super) control: Handle,
    pub(super) log: LogWriter,
}

impl Reload {
    /// Reads it all again; what is wrong with it is logged, and changes nothing.
    pub(super) fn run(&mut self) {
        service::reloading();
        self.control.read_pages();
        let outcome = self.apply();
        self.control.tell_reload(outcome.is_ok());
        match outcome {
            Ok(later) => {
                info!("SIGHUP: the configuration is in force as it is now");
                for key in later {
                    warn!(
                        "SIGHUP: {key} has changed: that needs a restart, or an upgrade (SIGUSR2)"
                    );
                }
            }
            Err(problems) => {
                problems.iter().for_each(|problem| error!("SIGHUP: {problem}"));
                error!("SIGHUP: the configuration stays as it was");
            }
        }
        service::ready("serving");
    }

    /// The keys that wait for the next start.
    fn apply(&mut self) -> Result<Vec<&'static str>, Problems> {
        let config = (self.source)()?;
        let resources = Resources::gather(&Config {
            // Threads stay as they are.
            shards: self.config.shards,
            cpus: self.config.cpus.clone(),
            ..config.clone()
        })?;
        let token = self.token(&config)?;
        if config.access_log != self.config.access_log {
            self.log.switch(&config.access_log).map_err(|problem| vec![problem])?;
        }
        self.published.tuning.store(Arc::new(tuning(&config, &resources)));
        self.trusted.store(Arc::new(config.trusted_sources.clone()));
        if let Some(token) = token {
            self.control.set_token(token);
        }
        self.control.bound_held(held_max(&config));
        self.shards.wake_all();
        let later = self.unchanged(&config);
        // What is left for later is compared again with the next reload.
        self.config = Config {
            timeouts: config.timeouts,
            max_connections: config.max_connections,
            max_head: config.max_head,
            max_held: config.max_held,
            max_held_per_source: config.max_held_per_source,
            max_connections_per_source: config.max_connections_per_source,
            access_log: config.access_log,
            request_id: config.request_id,
            abort_on_close: config.abort_on_close,
            via: config.via,
            trusted_sources: config.trusted_sources,
            ..self.config.clone()
        };
        Ok(later)
    }

    /// The token as it is now; `None`: it stays. That there is one at all is for a start to say.
    fn token(&self, config: &Config) -> Result<Option<Token>, Problems> {
        let same = config.management_token_file == self.config.management_token_file;
        if !same || config.management_token_file.is_none() {
            return Ok(None);
        }
        management::token(config, None).map_err(|problem| {
            let user = nix::unistd::geteuid();
            vec![format!(
                "{problem}; uid {user} must be able to read it. The token stays the one that it was"
            )]
        })
    }

    fn unchanged(&self, new: &Config) -> Vec<&'static str> {
        let old = &self.config;
        let keys = [
            ("bind", old.bind == new.bind),
            ("bind_internal", old.bind_internal == new.bind_internal),
            ("bind_tcp", old.bind_tcp == new.bind_tcp),
            ("bind_tls", old.bind_tls == new.bind_tls),
            ("bind_management", old.bind_management == new.bind_management),
            ("management_token_file", old.management_token_file == new.management_token_file),
            ("state_file", old.state_file == new.state_file),
            ("static_dir", old.static_dir == new.static_dir),
            ("uid", old.uid == new.uid),
            ("gid", old.gid == new.gid),
            ("shards", old.shards == new.shards),
            ("cpus", old.cpus == new.cpus),
        ];
        keys.into_iter().filter(|(_, is_same)| !is_same).map(|(key, _)| key).collect()
    }
}
