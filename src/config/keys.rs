//! The table of all configuration keys. Parsing, help, the example file and the manual are made
//! from it.

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
            "an address with a port: `*:80`, `192.0.2.1:80`, `[2001:db8::1]:80`; optionally \
             `https` and `accept-proxy` behind it",
            "Addresses for HTTP requests of untrusted clients. Forwarding fields that a client \
             sends are removed, and Mantrid sets X-Forwarded-For and X-Forwarded-Proto itself. `*` \
             is every address, IPv6 and IPv4 (IPv4 alone where IPv6 is switched off). Port 0 is \
             any free port; the log says which one. `https` behind the address: clients speak TLS \
             to the load balancer in front, so the scheme of their requests is https. \
             `accept-proxy`: see trusted_sources.",
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
                "an address with a port; optionally `https` and `accept-proxy` behind it",
                "Addresses for HTTP requests of a TLS terminator. Its forwarding fields are \
                 believed: they are passed on unchanged and decide the scheme. A request without \
                 such a field has the scheme https if `https` stands behind the address, and http \
                 otherwise. With `accept-proxy`, the header of the PROXY protocol is believed \
                 instead of the fields: see trusted_sources.",
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
            "Addresses for raw TCP connections. The host name behind the address selects the rule.",
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
            "Addresses for TLS connections. They are passed through undecrypted; the server name \
             that the client sends (SNI) selects the rule.",
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
        "Proxies in front of Mantrid that are believed when they name their clients. On an address \
         with `accept-proxy`, every connection begins with a header of the PROXY protocol (version \
         1 or 2), and connections of other peers are closed. This header then gives the client's \
         address, and says whether the client came over TLS. Forwarding fields behind the header \
         are the client's own, so they are removed, on `bind_internal` too. When Mantrid reads the \
         field that client_field names, it skips the addresses of trusted sources. A file has one \
         network per line and `#` comments, as CDNs publish them. It is read again on SIGHUP, as \
         the user that the daemon has switched to.",
        at_once!(trusted_sources),
        |config, text| {
            config.trusted_sources = value::sources(text)?;
            Ok(())
        },
    ),
    beware(
        "If the TLS terminator passes the field on as the client sent it, each client can choose \
         its own address.",
        key(
            "client_field",
            "none",
            "none, or the name of a field, such as X-Forwarded-For",
            "A field of requests on `bind_internal` that names the client: the rightmost address \
             in it that is not in trusted_sources. A member of the field that is not a plain \
             address ends the search. If only trusted addresses were found, the leftmost of them \
             is the client; if none was found, the connected peer is. This client is used in the \
             access log, for `source`, for `allow` and `deny`, for limits per client address, and \
             in PROXY headers to backends. docs/clients.md.",
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
        "Path at which this daemon itself replies to GET and HEAD, on `bind` and `bind_internal` \
         and for any host: with 200, or with 503 while it is about to stop (timeout_unhealthy). \
         Meant for the health checks of load balancers in front. These requests go to no rule, \
         count under no host, and have no line in the access log.",
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
                "Addresses that serve only `/metrics`, `/healthz` and `/readyz`, and need no \
                 token.",
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
        "A file with the bearer token that every management request must then carry. Required if \
         other machines can reach a management address.",
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
        "A file with one bearer token per line; every management request must carry one of them. A \
         line is `NAME ROLE TOKEN`. A host name behind these limits the token to the hosts under \
         that name. The roles are `read`, `operate` and `admin`. The file is read again on SIGHUP. \
         The token of `management_token_file` is accepted as well, as one more `admin`.",
        next_start!(management_tokens_file),
        |config, text| {
            config.management_tokens_file = Some(path(text)?);
            Ok(())
        },
    ),
    beware(
        "Without a token, anybody who can connect can send your traffic elsewhere.",
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
        "The file that holds the table, as JSON. A state file of the original Mantrid is loaded as \
         it is. A missing file is an empty table; a damaged file stops the start and is left \
         unchanged. An invalid rule in the file does not stop the valid ones: it is logged, and \
         kept in a file of the same path with `.rejected` behind it.",
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
        "Status of the page `unknown`, the reply to requests that match no rule. It replaces the \
         status that the page itself has. 404 tells crawlers that the site is gone, 503 that it \
         may come back. The rule `*` gives such requests another reply: docs/rules.md.",
        at_once!(unknown_status),
        |config, text| {
            config.unknown_status = Some(value::error_status(text)?);
            Ok(())
        },
    ),
    beware(
        "0 keeps root: an attacker who breaks into the process then owns the machine. Only the \
         number 0 does that; a name that stands for 0 is refused.",
        key(
            "uid",
            "4321",
            "a number or a name",
            "The user to switch to after the addresses are bound, when started as root. This user \
             must be able to read static_dir and to write to the folder of state_file; if that \
             folder is missing, the daemon makes it for this user. Started as another user, the \
             daemon keeps that user.",
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
        "The group to switch to when started as root. All other groups are given up.",
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
        "Number of threads that accept and relay connections, each with its share of \
         max_connections. More shards than CPUs cost speed.",
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
        "Whether a new connection goes to the shard on the CPU that receives its first packet, \
         instead of to a shard that the kernel chooses by a hash. Each shard needs a CPU of its \
         own. This helps if the network card spreads its interrupts evenly over the CPUs of the \
         shards: docs/operations.md says how to see that. Sockets that systemd passes are never \
         steered.",
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
            "Time, in microseconds, for which an idle shard polls the queues of the network card \
             (NAPI) before it sleeps. This saves the wait for an interrupt and a wake-up. It needs \
             Linux 6.9; with an older kernel nothing is polled, and the log says so. Loopback has \
             no queues to poll.",
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
        "Timeout for a whole request head, from its first byte (408 past it). It stops slow-head \
         attacks."
    ),
    timeout!(
        "timeout_http_keep_alive",
        http_keep_alive,
        "60s",
        "Timeout for the next request on a connection. Past it the connection is closed."
    ),
    timeout!(
        "timeout_client",
        client,
        "60s",
        "Timeout for a client that should send a body or take a response and does neither. While \
         bytes move in one direction, the other may be silent. After the last response on a \
         connection, it also limits how long Mantrid reads and discards what the client still \
         sends."
    ),
    timeout!(
        "timeout_connect",
        connect,
        "5s",
        "Timeout for one connection attempt to a backend (502 past it), and for the wait in the \
         queue of a backend with max_connections (503 past it)."
    ),
    timeout!(
        "timeout_server",
        server,
        "60s",
        "Timeout for a backend that should respond (504 past it), send a body, or take one. While \
         bytes move in one direction, the other may be silent."
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
        "Timeout for requests under way when the program is asked to stop. Past it they are cut \
         off."
    ),
    key(
        "timeout_unhealthy",
        "0",
        "0, or a duration (ms, s, m, h)",
        "Time between the request to stop and the moment when the program accepts no more \
         connections. Until then the program serves as before, but health_path replies 503. If the \
         time is longer than the load balancers in front need to notice, no request fails when the \
         daemon stops. systemd's TimeoutStopSec must be longer than this time and timeout_drain \
         together.",
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
        "Most client connections at a time, all shards together; further ones get a 503. Each may \
         need two descriptors, and two more for bulk transfers.",
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
        "Longest request head; a longer one is refused with 431. A connection needs that much \
         memory only while its head arrives in pieces.",
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
        "Most requests held at a time, all hosts together; further ones get a 503.",
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
        "Most requests held at a time for one client address (for IPv6: one /64 network); further \
         ones get a 503. Behind a TLS terminator, all clients have the terminator's address unless \
         client_field is set.",
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
        "Most client connections at a time from one client address (for IPv6: one /64 network), \
         all shards together; further ones get a 503. Connections on `bind_internal` are not \
         counted, because all clients behind a TLS terminator have the terminator's address.",
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
        "Whether a client that closes its sending side counts as gone. If so, its request is given \
         up, whatever is being waited for, and the backend's connection is closed. A browser that \
         closes a tab sends no other sign. With false, such a client still gets its response, as \
         scripts with `nc -N` or `socat` expect. A reset always counts as gone. HAProxy calls this \
         `abortonclose`.",
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
        "Target of the access log: one line per request, in JSON unless access_log_format says \
         otherwise, written when the request has ended. The file is reopened on SIGUSR1. Lines \
         that can't be written as fast as they come are dropped and counted; no request waits for \
         them.",
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
        "Format of the lines: a JSON object, or the combined format of Apache and nginx. In the \
         combined format the size includes heads, and `-` stands for a missing status.",
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
        "Fields of a JSON line, always in this order: time, client, host, scheme, method, target, \
         version, request_id, traceparent, user_agent, referer, status, bytes_sent, \
         bytes_received, backend, held_ms, queue_ms, connect_ms, first_byte_ms, total_ms, \
         termination, phase, reason, shard, rule. `default` is all but traceparent, user_agent, \
         referer and rule, which need a look at the head or the table for each request. \
         docs/operations.md says what the fields mean.",
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
        "Whether the lines include the queries of targets and referers, which may hold tokens and \
         personal data. With false, targets and referers end before the question mark.",
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
        "Share of the requests that get a line, chosen at random. Requests that got a status of \
         400 or more, or failed in another way, always get one.",
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
        "Target of the daemon's own log: standard error, which under systemd is the journal, or \
         the syslog of this machine, at `/dev/log` or at the path given, with the facility \
         `daemon`. Lines that no syslog accepts go to standard error.",
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
        "Format of the daemon's own log: lines for people, or one JSON object per line with \
         `time`, `level`, `message` and all else that is known, such as `who`, `verb` and `host` \
         of a change.",
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
        "Sends an X-Request-Id with each request to its backend, and writes it to the access log. \
         The ID is new, unless the request came on `bind_internal` with one.",
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
        "Sends an `X-Request-Start: t=N` with each request to its backend, where N is the time of \
         the request's arrival in microseconds since 1970; New Relic, Scout and others derive the \
         queue time from it. Sends an `X-Held-Ms: N` with a request that was held for N \
         milliseconds. On `bind`, both replace fields that the client sent; on `bind_internal`, an \
         X-Request-Start that came with the request is kept.",
        at_once!(request_start),
        |config, text| {
            config.request_start = value::truth(text)?;
            Ok(())
        },
    ),
    key(
        "via",
        "off",
        "off, or a name: letters, digits, `-`, `.`, `_`, and optionally a port behind it",
        "Adds a `Via` with this name to each request and each response that passes, and replies \
         508 to a request that already carries this name. This ends loops between proxies. Each \
         proxy of a chain needs a name of its own.",
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
