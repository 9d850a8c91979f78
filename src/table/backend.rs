//! Backends of a rule, and the host names among them.
//!
//! A backend takes 16 bytes: an IPv4 address is stored in place; an IPv6 address, the path of a
//! Unix socket or a name is stored behind a pointer.
//! Names are interned: ten thousand rules that point to `app.internal:8000` share one [`Name`]. One
//! lookup serves them all, and no snapshot has to change when the addresses of a name do.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::{ArcSwap, Guard};

use crate::address::{Address, UnixPath};

/// One place to send requests to, with its share of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend(Packed);

#[derive(Clone, Debug, PartialEq)]
enum Packed {
    V4 { weight: u16, address: SocketAddrV4 },
    V6 { weight: u16, address: Arc<SocketAddrV6> },
    Unix { weight: u16, path: Arc<UnixPath> },
    Name { weight: u16, name: Arc<Name> },
}

/// Target of a backend: an address or a name.
#[derive(Copy, Clone, Debug)]
pub enum Target<'a> {
    /// An address.
    Address(Address),
    /// A name. The resolver looks up its addresses, outside the request path.
    Name(&'a Arc<Name>),
}

impl Backend {
    /// A backend given by address.
    pub fn address(address: SocketAddr, weight: u16) -> Backend {
        Backend(match address {
            SocketAddr::V4(address) => Packed::V4 { weight, address },
            SocketAddr::V6(address) => Packed::V6 { weight, address: Arc::new(address) },
        })
    }

    /// A backend that is a Unix socket.
    pub fn unix(path: Arc<UnixPath>, weight: u16) -> Backend {
        Backend(Packed::Unix { weight, path })
    }

    /// A backend given by name.
    pub fn name(name: Arc<Name>, weight: u16) -> Backend {
        Backend(Packed::Name { weight, name })
    }

    /// Address or name of the backend.
    #[inline]
    pub fn target(&self) -> Target<'_> {
        match &self.0 {
            Packed::V4 { address, .. } => Target::Address(Address::V4(*address)),
            Packed::V6 { address, .. } => Target::Address(Address::V6(**address)),
            Packed::Unix { path, .. } => Target::Address(path.address()),
            Packed::Name { name, .. } => Target::Name(name),
        }
    }

    /// Path of the backend, or `@` and its abstract name, if it is a Unix socket.
    pub fn path(&self) -> Option<&str> {
        match &self.0 {
            Packed::Unix { path, .. } => Some(path.as_str()),
            _ => None,
        }
    }

    /// Host by which a request names the backend.
    pub fn host(&self) -> BackendHost<'_> {
        BackendHost(self)
    }

    /// Visits the addresses of the backend, as they are known now.
    pub fn each_address(&self, mut visit: impl FnMut(Address)) {
        match self.target() {
            Target::Address(address) => visit(address),
            Target::Name(name) => {
                name.addresses().iter().for_each(|address| visit((*address).into()));
            }
        }
    }

    /// Share of the requests relative to the other backends; a backend of weight 0 gets none.
    #[inline]
    pub fn weight(&self) -> u16 {
        match &self.0 {
            Packed::V4 { weight, .. }
            | Packed::V6 { weight, .. }
            | Packed::Unix { weight, .. }
            | Packed::Name { weight, .. } => *weight,
        }
    }

    pub(super) fn set_weight(&mut self, to: u16) {
        match &mut self.0 {
            Packed::V4 { weight, .. }
            | Packed::V6 { weight, .. }
            | Packed::Unix { weight, .. }
            | Packed::Name { weight, .. } => *weight = to,
        }
    }
}

/// `host:port`, with brackets around an IPv6 address; `unix:/path`.
impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.target() {
            Target::Address(address) => address.fmt(f),
            Target::Name(name) => name.fmt(f),
        }
    }
}

/// Host by which a request names a backend: its name or address, with its port.
pub struct BackendHost<'b>(&'b Backend);

impl fmt::Display for BackendHost<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.path() {
            // A path is no host (RFC 9110 §7.2).
            Some(_) => f.write_str("localhost"),
            None => self.0.fmt(f),
        }
    }
}

/// Backends of a rule: one in place, or several behind a thin pointer, so that a rule stays 32
/// bytes.
#[derive(Clone, Debug)]
pub(super) enum Backends {
    One(Backend),
    // A thin pointer: Arc<[Backend]> is twice as wide.
    Many(Arc<Vec<Backend>>),
}

impl Backends {
    pub(super) fn new(mut backends: Vec<Backend>) -> Backends {
        if backends.len() == 1
            && let Some(one) = backends.pop()
        {
            return Backends::One(one);
        }
        backends.shrink_to_fit();
        Backends::Many(Arc::new(backends))
    }

    #[inline]
    pub(super) fn as_slice(&self) -> &[Backend] {
        match self {
            Backends::One(one) => std::slice::from_ref(one),
            Backends::Many(many) => many,
        }
    }
}

impl PartialEq for Backends {
    fn eq(&self, other: &Backends) -> bool {
        self.as_slice() == other.as_slice()
    }
}

/// A backend's host name and port, with what the resolver last found. Shared by every rule that
/// names it; the addresses change under the rules without a new snapshot.
#[derive(Debug)]
pub struct Name {
    /// The host: lower case, A-labels, no trailing dot.
    pub host: Box<str>,
    /// The port.
    pub port: u16,
    addresses: ArcSwap<Vec<SocketAddr>>,
    is_asked: AtomicBool,
    is_doubted: AtomicBool,
}

impl Name {
    /// Whether the name has been looked up, with or without success.
    pub fn is_asked(&self) -> bool {
        self.is_asked.load(Ordering::Relaxed)
    }

    /// Records that the name has been looked up. Called by the resolver.
    pub fn set_asked(&self) {
        self.is_asked.store(true, Ordering::Relaxed);
        self.is_doubted.store(false, Ordering::Relaxed);
    }

    /// Marks the addresses as possibly out of date, because no backend answers there. Returns
    /// whether the resolver must be told, which is true only once between two lookups.
    pub fn doubt(&self) -> bool {
        !self.is_doubted.load(Ordering::Relaxed) && !self.is_doubted.swap(true, Ordering::Relaxed)
    }

    /// Addresses that the resolver found last; none before that. Takes no lock and no reference
    /// count.
    pub fn addresses(&self) -> Guard<Arc<Vec<SocketAddr>>> {
        self.addresses.load()
    }

    /// Stores the addresses that a lookup has found. Called by the resolver.
    pub fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        self.addresses.store(Arc::new(addresses));
    }
}

/// Two names are equal if host and port are. Their addresses do not count: these are looked up, not
/// configured.
impl PartialEq for Name {
    fn eq(&self, other: &Name) -> bool {
        self.host == other.host && self.port == other.port
    }
}

impl Eq for Name {}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Every [`Name`] in use, one per host and port.
#[derive(Debug, Default)]
pub struct Names {
    /// Names by a hash of host and port, because a full key would take more memory than the name.
    /// Two names with the same hash have neighbouring keys. At worst, a name exists twice after a
    /// `prune`; that costs a second lookup and nothing else.
    by_hash: HashMap<u64, Arc<Name>>,
    hasher: RandomState,
    /// Names that the resolver has not taken yet.
    new: Vec<Weak<Name>>,
    /// Empty list that all names without addresses share.
    no_addresses: Arc<Vec<SocketAddr>>,
}

impl Names {
    /// The only `Name` for this host, which is in canonical form, and port.
    pub fn get(&mut self, host: &str, port: u16) -> Arc<Name> {
        let mut key = self.hasher.hash_one((host, port));
        while let Some(name) = self.by_hash.get(&key) {
            if *name.host == *host && name.port == port {
                return Arc::clone(name);
            }
            key = key.wrapping_add(1);
        }
        let addresses = ArcSwap::new(Arc::clone(&self.no_addresses));
        let (is_asked, is_doubted) = (AtomicBool::new(false), AtomicBool::new(false));
        let name = Arc::new(Name { host: host.into(), port, addresses, is_asked, is_doubted });
        self.by_hash.insert(key, Arc::clone(&name));
        self.new.push(Arc::downgrade(&name));
        name
    }

    /// Names that something still uses. The resolver keeps their addresses up to date.
    pub fn iter_live(&self) -> impl Iterator<Item = &Arc<Name>> {
        self.by_hash.values().filter(|name| 1 < Arc::strong_count(name))
    }

    /// Names that were added since the last call.
    pub fn take_new(&mut self) -> Vec<Weak<Name>> {
        std::mem::take(&mut self.new)
    }

    /// Forgets the names that nothing uses any more.
    pub fn prune(&mut self) {
        self.by_hash.retain(|_, name| 1 < Arc::strong_count(name));
        self.by_hash.shrink_to(2 * self.by_hash.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shared_and_pruned() {
        let mut names = Names::default();
        let a = names.get("app.internal", 80);
        assert!(Arc::ptr_eq(&a, &names.get("app.internal", 80)));
        assert!(!Arc::ptr_eq(&a, &names.get("app.internal", 81)));
        assert!(a.addresses().is_empty());
        let address = "10.0.0.1:80".parse().unwrap();
        a.set_addresses(vec![address]);
        assert_eq!(**names.get("app.internal", 80).addresses(), [address]);
        // Port 81: the name is known, but nothing uses it.
        assert_eq!((names.by_hash.len(), names.iter_live().count()), (2, 1));
        names.prune();
        assert_eq!(names.by_hash.len(), 1);
        drop(a);
        names.prune();
        assert!(names.by_hash.is_empty());
    }
}
