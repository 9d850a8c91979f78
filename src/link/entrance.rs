//! Settings about incoming connections that are too large to be copied into `Tuning`. Flags in
//! `Tuning` tell a request whether it has to look here at all.

use std::net::IpAddr;
use std::sync::Arc;

use crate::network::NetworkMap;

/// Settings about clients and the proxies in front of Mantrid.
#[derive(Clone, Default, Debug)]
pub(crate) struct Entrance {
    /// Field that names the client on trusted connections; none when empty.
    pub(crate) client_field: Box<str>,
    /// Networks of the proxies that may name another client than themselves.
    pub(crate) trusted: Arc<NetworkMap<()>>,
    /// Path at which this daemon replies to health checks; none when empty.
    pub(crate) health_path: Box<str>,
}

impl Entrance {
    /// Whether this address is that of a trusted proxy.
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.get(address).is_some()
    }
}
