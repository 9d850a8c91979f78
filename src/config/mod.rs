//! The configuration: the settings of the operator, checked and converted once.
//!
//! Pure: takes texts, and returns a [`Config`] or all problems at once. `keys` is the table of all
//! keys; the command line, the example file and the manual are made from it.

mod fleet;
mod key;
mod keys;
mod parse;
mod text;
mod value;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

pub use crate::log_style::LogStyle;
pub use crate::network::Network;
pub use fleet::FleetKeys;
pub use key::{InForce, Key};
pub use keys::KEYS;
pub use text::{example_file, manual, manual_page};
pub use value::{Address, Bind, Identity};

/// Address of the management API.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ManagementAddress {
    /// TCP.
    Tcp(Address),
    /// A Unix socket.
    Unix(PathBuf),
}

impl ManagementAddress {
    /// The address of a TCP socket.
    pub fn tcp(&self) -> Option<&Address> {
        match self {
            ManagementAddress::Tcp(address) => Some(address),
            ManagementAddress::Unix(_) => None,
        }
    }
}

/// Target of the access log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum AccessLog {
    /// Nowhere.
    #[default]
    Off,
    /// Standard output.
    Stdout,
    /// A file.
    File(PathBuf),
}

/// Target of the daemon's own log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum LogTarget {
    /// Standard error.
    #[default]
    Stderr,
    /// The syslog that listens on this socket.
    Syslog(PathBuf),
}

/// Format of the daemon's own log.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub enum DaemonLogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Networks, and files with more of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TrustedSources {
    /// Networks that are written in the setting itself.
    pub networks: Vec<Network>,
    /// Files with one network a line.
    pub files: Vec<PathBuf>,
}

impl TrustedSources {
    /// Whether there are neither networks nor files.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.files.is_empty()
    }
}

/// Timeouts, with HAProxy's names and meanings.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// Timeout for a whole request head.
    pub http_request: Duration,
    /// Timeout between two requests of one connection.
    pub http_keep_alive: Duration,
    /// Timeout for a client that should send or take bytes.
    pub client: Duration,
    /// Timeout to connect to a backend, and to wait in its queue.
    pub connect: Duration,
    /// Timeout for a backend that should respond, send or take bytes.
    pub server: Duration,
    /// Timeout for a tunnel without a byte.
    pub tunnel: Duration,
    /// Timeout for requests under way when the program is asked to stop.
    pub drain: Duration,
    /// Time for which health checks fail before the program stops to accept.
    pub unhealthy: Duration,
}

/// Everything that can be configured; settings that were not written have their defaults.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Addresses for HTTP of untrusted clients.
    pub bind: Vec<Bind>,
    /// Addresses for HTTP from a TLS terminator.
    pub bind_internal: Vec<Bind>,
    /// Addresses for raw TCP, each with the host whose rule applies.
    pub bind_tcp: Vec<(Bind, String)>,
    /// Addresses for TLS that is routed by server name.
    pub bind_tls: Vec<Bind>,
    /// Proxies that are trusted to say who their clients are.
    pub trusted_sources: TrustedSources,
    /// Field that names the client on `bind_internal`.
    pub client_field: Option<String>,
    /// Path of health checks that this daemon replies to itself.
    pub health_path: Option<String>,
    /// Addresses of the management API.
    pub bind_management: Vec<ManagementAddress>,
    /// The file that holds the bearer token.
    pub management_token_file: Option<PathBuf>,
    /// The file that holds tokens with roles.
    pub management_tokens_file: Option<PathBuf>,
    /// Addresses of the metrics alone.
    pub bind_metrics: Vec<ManagementAddress>,
    /// Whether the management API may have no token although its address is not local.
    pub management_insecure: bool,
    /// File that holds the table.
    pub state_file: PathBuf,
    /// Pages that add to or override the built-in ones.
    pub static_dir: PathBuf,
    /// Status of the page `unknown`; that of the page when `None`.
    pub unknown_status: Option<u16>,
    /// User to become.
    pub uid: Identity,
    /// Group to become.
    pub gid: Identity,
    /// Number of shards; one per CPU when `None`.
    pub shards: Option<usize>,
    /// CPUs of the shards; all allowed ones when empty.
    pub cpus: Vec<usize>,
    /// Whether a connection goes to the shard on the CPU that takes it in.
    pub steer_accepts: bool,
    /// Time for which a shard polls the network card before it sleeps; `None`: it does not poll.
    pub busy_poll: Option<Duration>,
    /// Timeouts of clients, backends and tunnels, and for stopping.
    pub timeouts: Timeouts,
    /// Most client connections of all shards; `None`: as many as the limit on file descriptors
    /// allows.
    pub max_connections: Option<usize>,
    /// Longest request head, bytes.
    pub max_head: usize,
    /// Most held requests.
    pub max_held: usize,
    /// Most held requests of one client address; `None`: only the limit on all of them applies.
    pub max_held_per_source: Option<usize>,
    /// Most client connections of one address; any number when `None`.
    pub max_connections_per_source: Option<NonZeroU32>,
    /// The access log.
    pub access_log: AccessLog,
    /// Format and fields of the lines in the access log.
    pub log_style: LogStyle,
    /// Target of the daemon's own log.
    pub log: LogTarget,
    /// Format of the daemon's own log.
    pub log_format: DaemonLogFormat,
    /// Whether requests are forwarded with an `X-Request-Id`.
    pub request_id: bool,
    /// Whether requests are forwarded with the moment of their arrival.
    pub request_start: bool,
    /// Whether a client that closes its sending side counts as gone.
    pub abort_on_close: bool,
    /// The name of this proxy in Via; none is sent when `None`.
    pub via: Option<String>,
    /// The fleet, if any.
    pub fleet: FleetKeys,
    /// Settings as they were written.
    pub written: Written,
}

/// Settings as they were written, keys with values: text for people. All are equal, so that
/// configurations with the same meaning are equal, however they are written.
#[derive(Clone, Debug, Default)]
pub struct Written(pub Vec<(&'static str, String)>);

impl PartialEq for Written {
    fn eq(&self, _: &Written) -> bool {
        true
    }
}

impl Eq for Written {}

/// One thing wrong with the configuration, in one line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// `FILE:LINE` or `-o key=value`.
    pub place: String,
    /// Sentence that says what was found and what was expected.
    pub problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.problem)
    }
}

impl std::error::Error for ConfigError {}

impl Default for Config {
    fn default() -> Config {
        let seconds = Duration::from_secs;
        let loopback = |ip: IpAddr| ManagementAddress::Tcp(Address::At(SocketAddr::new(ip, 8042)));
        Config {
            bind: vec![Bind { address: Address::Any(80), accept_proxy: false, https: false }],
            bind_internal: Vec::new(),
            bind_tcp: Vec::new(),
            bind_tls: Vec::new(),
            trusted_sources: TrustedSources::default(),
            client_field: None,
            health_path: None,
            bind_management: vec![
                loopback(IpAddr::from([127, 0, 0, 1])),
                loopback(IpAddr::from(std::net::Ipv6Addr::LOCALHOST)),
            ],
            management_token_file: None,
            management_tokens_file: None,
            bind_metrics: Vec::new(),
            management_insecure: false,
            state_file: PathBuf::from("/var/lib/mantrid/state.json"),
            static_dir: PathBuf::from("/etc/mantrid/static/"),
            unknown_status: None,
            uid: Identity::Id(4321),
            gid: Identity::Id(4321),
            shards: None,
            cpus: Vec::new(),
            steer_accepts: false,
            busy_poll: None,
            timeouts: Timeouts {
                http_request: seconds(10),
                http_keep_alive: seconds(60),
                client: seconds(60),
                connect: seconds(5),
                server: seconds(60),
                tunnel: seconds(3600),
                drain: seconds(30),
                unhealthy: seconds(0),
            },
            max_connections: None,
            max_head: crate::limits::HEAD_BYTES_DEFAULT,
            max_held: 10_000,
            max_held_per_source: None,
            max_connections_per_source: None,
            access_log: AccessLog::Off,
            log_style: LogStyle::DEFAULT,
            log: LogTarget::Stderr,
            log_format: DaemonLogFormat::Text,
            request_id: false,
            request_start: false,
            abort_on_close: true,
            via: None,
            fleet: FleetKeys::default(),
            written: Written::default(),
        }
    }
}

impl Config {
    /// Takes the values of `new` for all keys that are in force at once. Returns the result, and
    /// the changed keys that wait for the next start.
    pub fn reloaded(&self, new: &Config) -> (Config, Vec<&'static str>) {
        let mut config = Config { written: new.written.clone(), ..self.clone() };
        KEYS.iter().filter(|key| key.is_at_once()).for_each(|key| key.copy(new, &mut config));
        let later = KEYS.iter().filter(|key| !key.is_same(&config, new));
        let later = later.map(|key| key.name).collect();
        (config, later)
    }

    /// Builds the configuration from the text of a file, if there is one (its path is for
    /// messages), and from `-o` settings, which take precedence.
    pub fn build(
        file: Option<(&str, &str)>,
        overrides: &[String],
    ) -> Result<Config, Vec<ConfigError>> {
        let mut problems = Vec::new();
        let settings = parse::settings(file, overrides, &mut problems);
        let written = Written(parse::written(&settings));
        let mut config = Config { written, ..Config::default() };
        for key in KEYS {
            parse::apply(key, &settings, &mut config, &mut problems);
        }
        let place = |key: &str, value: &str| parse::place(&settings, key, value);
        config.check_management(&mut problems, place);
        config.check_twice(&mut problems, place);
        config.check_sources(&mut problems, place);
        config.check_health(&mut problems, place);
        config.fleet.check(&mut problems, place);
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    fn check_management(
        &self,
        problems: &mut Vec<ConfigError>,
        place: impl Fn(&str, &str) -> String,
    ) {
        let has_tokens =
            self.management_token_file.is_some() || self.management_tokens_file.is_some();
        if has_tokens || self.management_insecure {
            return;
        }
        for address in self.management_tcp() {
            if !address.is_loopback() {
                problems.push(ConfigError {
                    place: place("bind_management", &address.to_string()),
                    problem: format!(
                        "bind_management: {address} can be reached from other machines: give a token \
                         with management_token_file or management_tokens_file, or write \
                         management_insecure = true"
                    ),
                });
            }
        }
    }

    /// The TCP addresses of the management API.
    pub fn management_tcp(&self) -> impl Iterator<Item = &Address> {
        self.bind_management.iter().filter_map(ManagementAddress::tcp)
    }

    /// The TCP addresses that control listens on, each with its key.
    pub fn control_tcp(&self) -> impl Iterator<Item = (&'static str, &Address)> {
        let management = self.management_tcp().map(|address| ("bind_management", address));
        let metrics = self.bind_metrics.iter().filter_map(ManagementAddress::tcp);
        management.chain(metrics.map(|address| ("bind_metrics", address)))
    }

    /// Every address for clients, with its key.
    fn binds(&self) -> impl Iterator<Item = (&'static str, &Bind)> {
        let bind = self.bind.iter().map(|bind| ("bind", bind));
        let internal = self.bind_internal.iter().map(|bind| ("bind_internal", bind));
        let tcp = self.bind_tcp.iter().map(|(bind, _)| ("bind_tcp", bind));
        let tls = self.bind_tls.iter().map(|bind| ("bind_tls", bind));
        bind.chain(internal).chain(tcp).chain(tls)
    }

    /// Checks that trusted sources are named: a sender of the PROXY protocol can claim to be any
    /// client.
    fn check_sources(&self, problems: &mut Vec<ConfigError>, place: impl Fn(&str, &str) -> String) {
        let mut binds = self.binds();
        if let Some((key, bind)) = binds.find(|(_, bind)| bind.accept_proxy)
            && self.trusted_sources.is_empty()
        {
            let value = format!("{} accept-proxy", bind.address);
            problems.push(ConfigError {
                place: place(key, &bind.address.to_string()),
                problem: format!(
                    "{key}: {value}: set trusted_sources to the proxies whose headers are \
                     believed, such as 192.0.2.0/24"
                ),
            });
        }
    }

    /// Checks that `timeout_unhealthy` is only set with a `health_path`, whose health checks can
    /// fail.
    fn check_health(&self, problems: &mut Vec<ConfigError>, place: impl Fn(&str, &str) -> String) {
        if self.health_path.is_none() && !self.timeouts.unhealthy.is_zero() {
            problems.push(ConfigError {
                place: place("timeout_unhealthy", ""),
                problem: "timeout_unhealthy: which health checks are to fail? Set health_path, as \
                          /healthz"
                    .to_owned(),
            });
        }
    }

    /// Checks that no address is used twice. The kernel would distribute its connections between
    /// two sockets at random: half of the clients of a `bind` could claim what only a TLS
    /// terminator may say.
    fn check_twice(&self, problems: &mut Vec<ConfigError>, place: impl Fn(&str, &str) -> String) {
        let mut seen: Vec<(&str, Address)> = Vec::new();
        let clients = self.binds().map(|(key, bind)| (key, bind.address));
        let control = self.control_tcp().map(|(key, address)| (key, *address));
        for (key, address) in clients.chain(control) {
            // Port 0 may come twice: each becomes a port of its own.
            let same = |other: &Address| address.socket() == other.socket();
            let taken = seen.iter().find(|(_, other)| same(other) && address.socket().port() != 0);
            if let Some((other, _)) = taken {
                problems.push(ConfigError {
                    place: place(key, &address.to_string()),
                    problem: format!("{key}: {address} is taken by {other} already"),
                });
            }
            seen.push((key, address));
        }
    }
}
