//! Settings that an operator may change while shards run: a reload publishes new ones.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::http::Via;
use crate::log_style::LogStyle;

/// Timeouts, with the names and meanings of HAProxy.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Timeouts {
    /// Time from the first byte of a head (or a connection's start) to its end.
    pub(crate) http_request: Duration,
    /// Time between a response and the first byte of the next request.
    pub(crate) http_keep_alive: Duration,
    /// Time without progress of a client that should send or take bytes.
    pub(crate) client: Duration,
    /// Time to open a connection to a backend, and to wait for a permit of a backend.
    pub(crate) connect: Duration,
    /// Time without progress of a backend that should respond, send or take bytes.
    pub(crate) server: Duration,
    /// Time without a byte in either direction of a tunnel.
    pub(crate) tunnel: Duration,
}

/// Settings of one shard.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Tuning {
    pub(crate) timeouts: Timeouts,
    /// Longest head accepted, bytes.
    pub(crate) head_bytes_max: usize,
    /// Most client connections at a time.
    pub(crate) connections_max: usize,
    /// Most client connections from one address, on all shards together.
    pub(crate) connections_per_source_max: Option<NonZeroU32>,
    /// Whether each request is forwarded with an `X-Request-Id`.
    pub(crate) request_id: bool,
    /// Whether each request is forwarded with the time of its arrival.
    pub(crate) request_start: bool,
    /// Whether a request is aborted when its client closes the sending side.
    pub(crate) abort_on_close: bool,
    /// Name of this proxy in `Via`, if there is one.
    pub(crate) via: Via,
    /// Status of the page `unknown`, in place of the one that the page has.
    pub(crate) unknown_status: Option<u16>,
    /// Whether a field names the client on trusted connections: `Entrance` says which.
    pub(crate) has_client_field: bool,
    /// Whether this daemon replies to health checks itself: `Entrance` says at which path.
    pub(crate) has_health_path: bool,
    /// Whether health checks get an unhealthy reply, so that clients are sent elsewhere: the daemon
    /// is about to stop.
    pub(crate) is_unhealthy: bool,
    /// Style of the lines of the access log.
    pub(crate) log_style: LogStyle,
}

#[cfg(test)]
impl Default for Tuning {
    fn default() -> Tuning {
        let any = Duration::from_secs(1);
        Tuning {
            timeouts: Timeouts {
                http_request: any,
                http_keep_alive: any,
                client: any,
                connect: any,
                server: any,
                tunnel: any,
            },
            head_bytes_max: 1,
            connections_max: 1,
            connections_per_source_max: None,
            request_id: false,
            request_start: false,
            abort_on_close: true,
            via: Via::NONE,
            unknown_status: None,
            has_client_field: false,
            has_health_path: false,
            is_unhealthy: false,
            log_style: LogStyle::DEFAULT,
        }
    }
}
