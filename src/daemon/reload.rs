//! SIGHUP: reads the configuration again. Settings that may change while shards run are put in
//! force, all or none. Settings that need sockets, threads or rights that only a start has are
//! named in the log and left for the next start.

use std::sync::Arc;

use tracing::{error, info, warn};

use super::access_log::LogWriter;
use super::listen::Trusted;
use super::resources::Resources;
use super::service;
use super::{Problems, tokens, trusted};
use crate::config::Config;
use crate::control::{Handle, Tokens};
use crate::http::Via;
use crate::link::{ControlEnd, Entrance, Published, Timeouts, Tuning};
use crate::network::NetworkMap;

/// Returns the settings for the shards.
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
        request_start: config.request_start,
        abort_on_close: config.abort_on_close,
        via: config.via.as_deref().and_then(Via::new).unwrap_or(Via::NONE),
        unknown_status: config.unknown_status,
        has_client_field: config.client_field.is_some(),
        has_health_path: config.health_path.is_some(),
        is_unhealthy: false,
        log_style: config.log_style,
    }
}

/// Returns the settings about incoming connections, with the networks of `trusted_sources`.
pub(super) fn entrance(config: &Config, trusted: Arc<NetworkMap<()>>) -> Entrance {
    Entrance {
        client_field: config.client_field.as_deref().unwrap_or_default().into(),
        trusted,
        health_path: config.health_path.as_deref().unwrap_or_default().into(),
    }
}

/// Returns how many requests may be held, in total and from one source.
pub(super) fn held_max(config: &Config) -> (usize, usize) {
    (config.max_held, config.max_held_per_source.unwrap_or(config.max_held))
}

/// Function that reads the configuration.
pub(super) type Source = Box<dyn Fn() -> Result<Config, Problems>>;

/// Parts of the daemon that a reload changes.
pub(super) struct Reload {
    pub(super) source: Source,
    /// Configuration in force.
    pub(super) config: Config,
    pub(super) trusted: Trusted,
    pub(super) published: Arc<Published>,
    pub(super) shards: ControlEnd,
    pub(super) control: Handle,
    pub(super) log: LogWriter,
}

impl Reload {
    /// Reloads the configuration. Problems with it are logged, and then nothing changes.
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

    /// Puts the new configuration in force. Returns the changed keys that wait for the next start.
    fn apply(&mut self) -> Result<Vec<&'static str>, Problems> {
        let config = (self.source)()?;
        let resources = Resources::gather(&Config {
            // The number of threads and their CPUs stay as they are.
            shards: self.config.shards,
            cpus: self.config.cpus.clone(),
            ..config.clone()
        })?;
        let tokens = self.tokens(&config)?;
        let trusted = Arc::new(trusted::read(&config)?);
        if config.access_log != self.config.access_log {
            self.log.switch(&config.access_log).map_err(|problem| vec![problem])?;
        }
        self.published.entrance.store(Arc::new(entrance(&config, trusted.clone())));
        self.published.tuning.store(Arc::new(tuning(&config, &resources)));
        self.trusted.store(trusted);
        self.control.set_tokens(tokens);
        self.control.bound_held(held_max(&config));
        self.shards.wake_all();
        let (config, later) = self.config.reloaded(&config);
        self.control.set_about(super::about(&config));
        // The next reload compares the keys that wait for a start with this configuration.
        self.config = config;
        Ok(later)
    }

    /// Reads the tokens again. Only a start requires that there are any.
    fn tokens(&self, config: &Config) -> Result<Tokens, Problems> {
        let read = tokens::read_again(&self.config, config, &self.control.tokens());
        read.map_err(|problem| {
            let user = nix::unistd::geteuid();
            vec![format!(
                "{problem}; uid {user} must be able to read it. The token stays the one that it was"
            )]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KEYS;

    /// Returns the settings that [`Reload::apply`] puts in force, as text.
    fn in_force(config: &Config) -> String {
        let resources = Resources::fixed(config.max_connections.unwrap_or(1000));
        format!(
            "{:?} {:?} {:?} {:?} {:?} {:?}",
            tuning(config, &resources),
            held_max(config),
            entrance(config, Arc::new(trusted::read(config).expect("networks"))),
            config.access_log,
            config.timeouts.unhealthy,
            config.timeouts.drain
        )
    }

    #[test]
    fn keys_in_force_at_once_are_those_that_a_reload_applies() {
        // Settings that some keys need beside them.
        let base = [
            "health_path=/b",
            "fleet=b",
            "fleet_endpoints=https://127.0.0.1:1",
            "fleet_cert=/b",
            "fleet_key=/b",
            "fleet_user=b",
            "fleet_password_file=/b",
        ];
        let base = base.map(str::to_owned);
        let old = Config::build(None, &base).expect("a configuration");
        for key in KEYS {
            let value = match key.name {
                "bind" | "bind_internal" | "bind_tls" => "127.0.0.1:1",
                "bind_tcp" => "127.0.0.1:1 a.example",
                "bind_management" | "bind_metrics" => "unix:/a",
                "trusted_sources" => "192.0.2.1",
                "management_insecure" | "request_id" | "request_start" | "steer_accepts" => "true",
                "busy_poll" => "7us",
                "abort_on_close" => "false",
                "max_head" => "32k",
                "unknown_status" => "404",
                "access_log" | "static_dir" | "state_file" => "/a",
                "management_token_file" | "management_tokens_file" => "/a",
                "via" => "edge",
                "log" => "syslog",
                "log_format" => "json",
                "client_field" => "X-Real-IP",
                "health_path" => "/a",
                "access_log_sample" => "1/7",
                "access_log_fields" => "default, rule",
                "access_log_format" => "combined",
                "access_log_query" => "false",
                name if name.starts_with("timeout_") => "7s",
                "fleet" | "fleet_node" | "fleet_user" => "a",
                "fleet_endpoints" => "https://127.0.0.1:2379",
                "fleet_url" => "http://127.0.0.1:8042",
                "fleet_ca" | "fleet_cert" | "fleet_key" | "fleet_password_file" => "/a",
                "fleet_insecure" => "true",
                "fleet_start" | "fleet_stale" => "7s",
                "fleet_limits" => "each",
                _ => "7",
            };
            let own = format!("{}=", key.name);
            let mut options: Vec<String> =
                base.iter().filter(|option| !option.starts_with(&own)).cloned().collect();
            options.push(format!("{own}{value}"));
            let new = Config::build(None, &options).expect(key.name);
            assert!(!key.is_same(&old, &new), "{}", key.name);
            let (reloaded, later) = old.reloaded(&new);
            let expected: &[&str] = if key.is_at_once() { &[] } else { &[key.name] };
            assert_eq!(later, expected, "{}", key.name);
            assert_eq!(key.is_at_once(), reloaded == new, "{}", key.name);
            let is_applied = in_force(&old) != in_force(&new);
            assert_eq!(is_applied, key.is_at_once(), "{}", key.name);
        }
    }
}
