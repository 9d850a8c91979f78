//! Settings about those who come in that are too large to be copied into `Tuning`, which says
//! whether a request has to look here at all.

use std::net::IpAddr;
use std::sync::Arc;

use crate::network::NetworkMap;

/// Settings about clients and the proxies in front of us.
#[derive(Clone, Default, Debug)]
pub(crate) struct Entrance {
    /// Field that names the client on trusted connections; none when empty.
    pub(crate) client_field: Box<str>,
    /// Proxies whose word about others is believed.
    pub(crate) trusted: Arc<NetworkMap<()>>,
    /// Path at which this daemon says whether it takes requests; none when empty.
    pub(crate) health_path: Box<str>,
}

impl Entrance {
    /// Whether this proxy is believed.
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.get(address).is_some()
    }
}
