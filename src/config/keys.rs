//! The one table of keys: parsing, help, the example file and the manual come from it.

use super::key::{
    DURATION, Field, InForce, Key, at_once, beware, field, key, next_start, path, repeatable,
};
use super::{AccessLog, DaemonLogFormat, LogTarget, ManagementAddress, fleet, value};
use crate::limits;
use crate::log_style::LogFormat;

fn management_address(text: &str) -> Result<ManagementAddress, String> {
    Ok(match text.strip_prefix("unix:") {
        Some(file) => ManagementAddress::Unix(path(file)?),
        None => ManagementAddress::Tcp(value::address(text)?),
    })
}

macro_rules! timeout {
    ($name:literal, $field:ident, $default:literal, $meaning:literal) => {
        key($name, $default, DURATION, $meaning, at_once!(timeouts.$field), |config, text| {
            config.timeouts.$field = value::duration(text)?;
            Ok(())
        })
    };
}

/// Every key, in the order of the manual.
pub const KEYS: &[Key] = &[
    repeatable(
        key(
            "bind",
            "*:80",
            "an address with a port: `*:80`, `192.0.2.1:80`, `[2001:db8::1]:80`; behind it \
             `https`, `accept-proxy`",
            "Addresses for HTTP requests of untrusted clients: forwarding fields that they send are \
             removed, and X-Forwarded-For and X-Forwarded-Proto are set. `*` is every address, IPv6 \
             and IPv4 (IPv4 alone where IPv6 is switched off). Port 0 is any free one; the log says \
             which. `https` behind the address: clients speak TLS to the load balancer in front, \
             so that is their scheme. `accept-proxy`: see trusted_sources.",
            next_start!(bind),
            |config, text| {
                config.bind.push(value::bind_http(text)?);
                Ok(())
            },
        ),
        |config| config.bind.clear(),
    ),
    beware(
        "A peer that can reach this address may claim to be any client: let only the terminator \
         reach it.",
        repeatable(
            key(
                "bind_internal",
                "none",
                "an address with a port; behind it `https`, `accept-proxy`",
                "Addresses for HTTP requests of a TLS terminator: its forwarding fields are believed, \
             passed on unchanged, and decide the scheme; where there are none, `https` behind the \
             address says what it is. With `accept-proxy` the header of the PROXY protocol is \
             believed in their place: see trusted_sources.",
                next_start!(bind_internal),
                |config, text| {
                    config.bind_internal.push(value::bind_http(text)?);
                    Ok(())
                },
            ),
            |config| config.bind_internal.clear(),
        ),
    ),
    repeatable(
        key(
            "bind_tcp",
            "none",
            "an address with a port, and a host name",
            "Addresses for raw TCP connections, which follow the rule of that host.",
            next_start!(bind_tcp),
            |config, text| {
                let words: Vec<&str> = text.split_whitespace().collect();
                let [address, host, more @ ..] = &words[..] else {
                    let expected = "expected ADDRESS:PORT HOST, as in *:5432 db.example.com";
                    return Err(format!("{text:?}: {expected}"));
                };
                let bind = value::bind(&format!("{address} {}", more.join(" ")))?;
                config.bind_tcp.push((bind, (*host).to_owned()));
                Ok(())
            },
        ),
        |config| config.bind_tcp.clear(),
    ),
    repeatable(
        key(
            "bind_tls",
            "none",
            "an address with a port",
            "Addresses for TLS connections, which are passed through untouched, by server name.",
            next_start!(bind_tls),
            |config, text| {
                config.bind_tls.push(value::bind(text)?);
                Ok(())
            },
        ),
        |config| config.bind_tls.clear(),
    ),
    key(
        "trusted_sources",
        "none",
        "addresses, networks and files (`@PATH`), with commas",
        "Proxies in front of us whose word about their clients is believed. On an address with \
         `accept-proxy` behind it every connection begins with a header of the PROXY protocol (version 1 \
         or 2), and connections of other peers are closed. The client's address, and that it came over \
         TLS, are then what the header says; forwarding fields behind it are the client's own, and \
         removed, on `bind_internal` too. In the field client_field the addresses of trusted sources \
         are passed over. A file has a network a line and `#` comments, as CDNs publish them; it is \
         read again on SIGHUP, by the user that the daemon has become.",
        at_once!(trusted_sources),
        |config, text| {
            config.trusted_sources = value::sources(text)?;
            Ok(())
        },
    ),
    beware(
        "A TLS terminator that passes the field on as the client sent it lets each client choose its \
         address.",
        key(
            "client_field",
            "none",
            "none, or the name of a field, as X-Forwarded-For",
            "A field of requests on `bind_internal` that names the client: the rightmost address in it that \
             is not in trusted_sources; what is no plain address ends the search, and without an address the \
             client is the connected peer. That client is the one of the access log, of `source`, of \
             `allow` and `deny`, of limits for one address, and of PROXY headers to backends. \
             docs/clients.md.",
            at_once!(client_field),
            |config, text| {
                config.client_field = match text {
                    "none" => None,
                    name => Some(value::field_name(name)?),
                };
                Ok(())
            },
        ),
    ),
    key(
        "health_path",
        "none",
        "none, or a path that starts with /",
        "Path at which this daemon replies to GET and HEAD itself, on `bind` and `bind_internal` and for \
         any host: 200, and 503 while it is about to stop (timeout_unhealthy). For health checks of \
         balancers in front. Such requests go to no rule, count under no host, and have no line in the \
         access log.",
        at_once!(health_path),
        |config, text| {
            config.health_path = match text {
                "none" => None,
                path => Some(value::url_path(path)?),
            };
            Ok(())
        },
    ),
    beware(
        "Every program that can reach this address can change the table.",
        repeatable(
            key(
                "bind_management",
                "127.0.0.1:8042 and [::1]:8042",
                "an address with a port, or `unix:/path`",
                "Addresses of the management API and the dashboard.",
                next_start!(bind_management),
                |config, text| {
                    config.bind_management.push(management_address(text)?);
                    Ok(())
                },
            ),
            |config| config.bind_management.clear(),
        ),
    ),
    beware(
        "Every program that can reach this address can read the names of the busiest hosts and \
         backends, and how busy they are.",
        repeatable(
            key(
                "bind_metrics",
                "none",
                "an address with a port, or `unix:/path`",
                "Addresses that answer `/metrics`, `/healthz` and `/readyz` alone, and ask for no token.",
                next_start!(bind_metrics),
                |config, text| {
                    config.bind_metrics.push(management_address(text)?);
                    Ok(())
                },
            ),
            |config| config.bind_metrics.clear(),
        ),
    ),
    key(
        "management_token_file",
        "none",
        "a path",
        "A file with the bearer token that every management request must then carry. Required when a \
         management address can be reached from other machines.",
        next_start!(management_token_file),
        |config, text| {
            config.management_token_file = Some(path(text)?);
            Ok(())
        },
    ),
    key(
        "management_tokens_file",
        "none",
        "a path",
        "A file with one bearer token a line, of which every management request must carry one: \
         `NAME ROLE TOKEN`, and behind it a host name where the token is only for the hosts under \
         it. The roles are `read`, `operate` and `admin`. It is read again on SIGHUP. The token of \
         `management_token_file` counts beside them as one `admin`.",
        next_start!(management_tokens_file),
        |config, text| {
            config.management_tokens_file = Some(path(text)?);
            Ok(())
        },
    ),
    beware(
        "Without a token anybody who can connect can send your traffic elsewhere.",
        key(
            "management_insecure",
            "false",
            "true or false",
            "Lets management addresses be reached from other machines without a token.",
            next_start!(management_insecure),
            |config, text| {
                config.management_insecure = value::truth(text)?;
                Ok(())
            },
        ),
    ),
    key(
        "state_file",
        "/var/lib/mantrid/state.json",
        "a path",
        "The file that holds the table, as JSON; the original's loads as it is. A missing one is an \
         empty table; a damaged one stops the start and is left as it is. A rule in it that is not \
         valid is logged, kept in the same path with `.rejected` behind it, and does not stop the \
         others.",
        next_start!(state_file),
        |config, text| {
            config.state_file = path(text)?;
            Ok(())
        },
    ),
    key(
        "static_dir",
        "/etc/mantrid/static/",
        "a path",
        "A folder of NAME.http files, each a whole HTTP response, that add to or override the \
         built-in pages no-hosts, unknown, test, timeout, 502 and 504. The files are read again when \
         they change.",
        next_start!(static_dir),
        |config, text| {
            config.static_dir = path(text)?;
            Ok(())
        },
    ),
    key(
        "unknown_status",
        "that of the page, 503",
        "a status from 400 to 599",
        "Status of the page `unknown`, which requests get that no rule is for, whatever status the \
         page has. 404 tells crawlers that the site is gone, and 503 that it may come back. The \
         rule `*` gives such requests another reply: docs/rules.md.",
        at_once!(unknown_status),
        |config, text| {
            config.unknown_status = Some(value::error_status(text)?);
            Ok(())
        },
    ),
    beware(
        "0 stays root: an attacker who breaks into the process then owns the machine. Only the number 0 \
         does that, no name.",
        key(
            "uid",
            "4321",
            "a number or a name",
            "The user to become after the addresses are bound, when started as root; it must be able \
             to write to the folder of state_file, which is made for it where it is missing, and to \
             read static_dir. Started as another user, the daemon keeps that user.",
            next_start!(uid),
            |config, text| {
                config.uid = value::identity(text)?;
                Ok(())
            },
        ),
    ),
    key(
        "gid",
        "4321",
        "a number or a name",
        "The group to become when started as root. All other groups are given up.",
        next_start!(gid),
        |config, text| {
            config.gid = value::identity(text)?;
            Ok(())
        },
    ),
    key(
        "shards",
        "one per CPU of `cpus`",
        "a number",
        "How many threads accept and relay connections, each with its share of max_connections. More \
         than there are CPUs costs speed.",
        next_start!(shards),
        |config, text| {
            let shards = value::count(text)?;
            if limits::SHARDS_MAX < shards {
                return Err(format!("{text:?}: expected at most {}", limits::SHARDS_MAX));
            }
            config.shards = Some(shards);
            Ok(())
        },
    ),
    key(
        "cpus",
        "all that the process may use",
        "CPU numbers: `0,2-3`",
        "The CPUs that shards are pinned to, in turn.",
        next_start!(cpus),
        |config, text| {
            config.cpus = value::cpus(text)?;
            Ok(())
        },
    ),
    key(
        "steer_accepts",
        "false",
        "true or false",
        "Whether a new connection goes to the shard on the CPU that takes in its first packet, in place of \
         one that the kernel chooses by a hash. Each shard needs a CPU of its own. It is of use where the \
         network card spreads its interrupts evenly over the CPUs of the shards: docs/operations.md says \
         how to see that. Sockets of systemd are never steered.",
        next_start!(steer_accepts),
        |config, text| {
            config.steer_accepts = value::truth(text)?;
            Ok(())
        },
    ),
    beware(
        "A shard that polls keeps its CPU busy while it waits, for this time after each response.",
        key(
            "busy_poll",
            "off",
            "off, or 1us to 1000us",
            "Time for which a shard that has nothing to do polls the queues of the network card (NAPI) \
             before it sleeps, in microseconds. It saves the wait for an interrupt and a wake-up. It needs \
             Linux 6.9; an older kernel is named in the log, and nothing is polled. Loopback has no \
             queues to poll.",
            next_start!(busy_poll),
            |config, text| {
                config.busy_poll = value::busy_poll(text)?;
                Ok(())
            },
        ),
    ),
    timeout!(
        "timeout_http_request",
        http_request,
        "10s",
        "Timeout for a whole request head, from its first byte; it stops slow-head attacks. 408 past it."
    ),
    timeout!(
        "timeout_http_keep_alive",
        http_keep_alive,
        "60s",
        "Timeout for the next request on a connection; then the connection is closed."
    ),
    timeout!(
        "timeout_client",
        client,
        "60s",
        "Timeout for a client that should send a body or take a response and does neither: while bytes move in \
         one direction, the other may be silent. It also bounds how long bytes are discarded that a client \
         still sends after its last response."
    ),
    timeout!(
        "timeout_connect",
        connect,
        "5s",
        "Timeout for one connection attempt to a backend (502 past it), and for a place in the queue of a \
         backend with max_connections (503 past it)."
    ),
    timeout!(
        "timeout_server",
        server,
        "60s",
        "Timeout for a backend that should respond (504 past it), send, or take a body; while bytes move in one \
         direction, the other may be silent."
    ),
    timeout!(
        "timeout_tunnel",
        tunnel,
        "1h",
        "Timeout for a WebSocket or other tunnel without a byte in either direction."
    ),
    timeout!(
        "timeout_drain",
        drain,
        "30s",
        "Timeout for requests under way when the program is asked to stop; then they are cut off."
    ),
    key(
        "timeout_unhealthy",
        "0",
        "0, or a duration (ms, s, m, h)",
        "Time for which health_path says 503 before the program, when it is asked to stop, accepts no \
         more connections; until then it serves as before. Longer than the checks of the balancers in \
         front take to notice, it ends a daemon without a failed request. systemd's TimeoutStopSec must \
         be longer than this and timeout_drain together.",
        at_once!(timeouts.unhealthy),
        |config, text| {
            config.timeouts.unhealthy = match text {
                "0" => std::time::Duration::ZERO,
                text => value::duration(text)?,
            };
            Ok(())
        },
    ),
    key(
        "max_connections",
        "from the descriptor limit",
        "a number",
        "Most client connections at a time, of all shards together; more are answered 503. Each may \
         need two descriptors, and bulk transfers two more.",
        at_once!(max_connections),
        |config, text| {
            config.max_connections = Some(value::count(text)?);
            Ok(())
        },
    ),
    key(
        "max_head",
        "16k",
        "a size (k, m), 1k to 1m",
        "Longest request head; more is refused with 431. A connection needs that much memory only \
         while a head comes in pieces.",
        at_once!(max_head),
        |config, text| {
            let size = value::size(text)?;
            if !(1024..=1024 * 1024).contains(&size) {
                return Err(format!("{text:?}: expected from 1k to 1m"));
            }
            config.max_head = size;
            Ok(())
        },
    ),
    key(
        "max_held",
        "10000",
        "a number",
        "Most requests held at a time, all hosts together; more are answered 503.",
        at_once!(max_held),
        |config, text| {
            config.max_held = value::count(text)?;
            Ok(())
        },
    ),
    key(
        "max_held_per_source",
        "max_held",
        "a number, or max_held",
        "Most requests held at a time for one client address (of IPv6 one network of 64 bits); more \
         are answered 503. Behind a TLS terminator its address is that of all clients, unless \
         client_field names them.",
        at_once!(max_held_per_source),
        |config, text| {
            config.max_held_per_source = match text {
                "max_held" => None,
                _ => Some(value::count(text)?),
            };
            Ok(())
        },
    ),
    key(
        "max_connections_per_source",
        "none",
        "a number, or none",
        "Most client connections at a time of one client address (of IPv6 one network of 64 bits), all shards \
         together; more are answered 503. Those of `bind_internal` are not counted: behind a TLS \
         terminator all clients have its address.",
        at_once!(max_connections_per_source),
        |config, text| {
            config.max_connections_per_source = match text {
                "none" => None,
                _ => u32::try_from(value::count(text)?).ok().and_then(std::num::NonZeroU32::new),
            };
            Ok(())
        },
    ),
    key(
        "abort_on_close",
        "true",
        "true or false",
        "Whether a client that closes its sending side has left: its request is given up, whatever is \
         being waited for, and the backend's connection closed. A browser that closes a tab does no more. \
         With false such a client still gets its response, as scripts with `nc -N` or `socat` want it. A \
         reset always counts as leaving. HAProxy calls it `abortonclose`.",
        at_once!(abort_on_close),
        |config, text| {
            config.abort_on_close = value::truth(text)?;
            Ok(())
        },
    ),
    key(
        "access_log",
        "off",
        "off, stdout or a path",
        "Target of one JSON line per request, written when the request has ended. The file is opened \
         anew on SIGUSR1. Lines that can't be written as fast as they come are dropped and \
         counted; no request waits.",
        at_once!(access_log),
        |config, text| {
            config.access_log = match text {
                "off" => AccessLog::Off,
                "stdout" => AccessLog::Stdout,
                file => AccessLog::File(path(file)?),
            };
            Ok(())
        },
    ),
    key(
        "access_log_format",
        "json",
        "json or combined",
        "Format of the lines: a JSON object, or the combined format of Apache and nginx, of which the \
         size counts heads too, and a line without a status has `-` there.",
        at_once!(log_style.format),
        |config, text| {
            config.log_style.format = match text {
                "json" => LogFormat::Json,
                "combined" => LogFormat::Combined,
                _ => return Err(format!("{text:?}: expected json or combined")),
            };
            Ok(())
        },
    ),
    key(
        "access_log_fields",
        "default",
        "`default` and names of fields, with commas",
        "Fields of a line in JSON, always in this order: time, client, host, scheme, method, target, \
         version, request_id, traceparent, user_agent, referer, status, bytes_sent, bytes_received, \
         backend, held_ms, queue_ms, connect_ms, first_byte_ms, total_ms, termination, phase, \
         reason, shard, rule. `default` is all but traceparent, user_agent, referer and rule, which cost a \
         look at the head, or at the table, for each request. docs/operations.md says what they mean.",
        at_once!(log_style.fields),
        |config, text| {
            config.log_style.fields = value::log_fields(text)?;
            Ok(())
        },
    ),
    key(
        "access_log_query",
        "true",
        "true or false",
        "Whether the lines have the query of targets and of referers, where tokens and personal data may \
         stand. With false they end in front of the question mark.",
        at_once!(log_style.has_query),
        |config, text| {
            config.log_style.has_query = value::truth(text)?;
            Ok(())
        },
    ),
    key(
        "access_log_sample",
        "1/1",
        "1/N, as 1/100",
        "Share of the requests that have a line, chosen by chance. Requests that got a status of 400 or \
         more, or failed in another way, always have one.",
        at_once!(log_style.sample),
        |config, text| {
            config.log_style.sample = value::one_of(text)?;
            Ok(())
        },
    ),
    key(
        "log",
        "stderr",
        "stderr, syslog, or syslog:/path",
        "Target of the daemon's own log: standard error, which under systemd is the journal, or the \
         syslog of this machine at `/dev/log`, or at this path, as facility `daemon`. Lines that no syslog \
         takes go to standard error.",
        next_start!(log),
        |config, text| {
            config.log = match text {
                "stderr" => LogTarget::Stderr,
                "syslog" => LogTarget::Syslog("/dev/log".into()),
                _ => match text.strip_prefix("syslog:") {
                    Some(socket) => LogTarget::Syslog(path(socket)?),
                    None => {
                        return Err(format!("{text:?}: expected stderr, syslog or syslog:/path"));
                    }
                },
            };
            Ok(())
        },
    ),
    key(
        "log_format",
        "text",
        "text or json",
        "Format of the daemon's own log: lines for people, or one JSON object a line, with `time`, \
         `level`, `message` and what else is known, as `who`, `verb` and `host` of a change.",
        next_start!(log_format),
        |config, text| {
            config.log_format = match text {
                "text" => DaemonLogFormat::Text,
                "json" => DaemonLogFormat::Json,
                _ => return Err(format!("{text:?}: expected text or json")),
            };
            Ok(())
        },
    ),
    key(
        "request_id",
        "false",
        "true or false",
        "Sends an X-Request-Id with each request to its backend, and writes it in the access log: a new \
         one, or on `bind_internal` the one that came with it.",
        at_once!(request_id),
        |config, text| {
            config.request_id = value::truth(text)?;
            Ok(())
        },
    ),
    key(
        "request_start",
        "false",
        "true or false",
        "Sends an `X-Request-Start: t=N` with each request to its backend, where N is the moment of its \
         arrival in microseconds since 1970 (what New Relic, Scout and others read as the time in the queue), \
         and an `X-Held-Ms: N` with a request that was held, for N milliseconds. On `bind` both replace \
         what the client sent, and on `bind_internal` an X-Request-Start that came with the request stays.",
        at_once!(request_start),
        |config, text| {
            config.request_start = value::truth(text)?;
            Ok(())
        },
    ),
    key(
        "via",
        "off",
        "off, or a name: letters, digits, `-`, `.`, `_`, and a port behind it",
        "Adds a `Via` with this name to each request and each response that passes, and replies 508 to a \
         request that carries it already, so that a loop between proxies ends. Each proxy of a \
         chain needs a name of its own.",
        at_once!(via),
        |config, text| {
            config.via = match text {
                "off" => None,
                name => Some(value::pseudonym(name)?),
            };
            Ok(())
        },
    ),
    fleet::FLEET,
    fleet::ENDPOINTS,
    fleet::NODE,
    fleet::URL,
    fleet::CA,
    fleet::CERT,
    fleet::KEY,
    fleet::USER,
    fleet::PASSWORD_FILE,
    fleet::INSECURE,
    fleet::START,
    fleet::STALE,
    fleet::LIMITS,
];
