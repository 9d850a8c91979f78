//! Backends of a rule, and the host names among them.
//!
//! A backend is 16 bytes: an IPv4 address in place, an IPv6 address, the path of a Unix socket or a
//! name behind a pointer.
//! Names are interned: ten thousand rules that point to `app.internal:8000` share one [`Name`], so
//! one resolution serves them all and no snapshot has to change when an address does.

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
    /// A name whose addresses are found off the request path.
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

/// One backend in place; more behind a thin pointer, so that a rule stays 32 bytes.
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
    /// Whether the name was looked up at all, found or not.
    pub fn is_asked(&self) -> bool {
        self.is_asked.load(Ordering::Relaxed)
    }

    /// Called by the resolver.
    pub fn set_asked(&self) {
        self.is_asked.store(true, Ordering::Relaxed);
        self.is_doubted.store(false, Ordering::Relaxed);
    }

    /// Says that its addresses may be old ones, as no backend answers there; whether the resolver
    /// is to be told, which it is once until it has looked.
    pub fn doubt(&self) -> bool {
        !self.is_doubted.load(Ordering::Relaxed) && !self.is_doubted.swap(true, Ordering::Relaxed)
    }

    /// Addresses that the resolver found last; none before that. Takes no lock and no reference
    /// count.
    pub fn addresses(&self) -> Guard<Arc<Vec<SocketAddr>>> {
        self.addresses.load()
    }

    /// Called by the resolver.
    pub fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        self.addresses.store(Arc::new(addresses));
    }
}

/// Two names are the same if they are spelt the same: addresses are found, not given.
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
    /// Names by a hash of host and port: a key would cost more than the name. Two names with
    /// one hash lie at neighbouring keys; at worst, a name exists twice after a `prune`, which
    /// costs a second resolution and nothing else.
    by_hash: HashMap<u64, Arc<Name>>,
    hasher: RandomState,
    /// Names that the resolver has not been told of.
    new: Vec<Weak<Name>>,
    /// The addresses of every name that has none yet.
    no_addresses: Arc<Vec<SocketAddr>>,
}

impl Names {
    /// The one `Name` for this host (canonical already) and port.
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

    /// The names that some rule still uses: what the resolver has to keep fresh.
    pub fn iter_live(&self) -> impl Iterator<Item = &Arc<Name>> {
        self.by_hash.values().filter(|name| 1 < Arc::strong_count(name))
    }

    /// The names that came since this was asked last.
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
        // 81 is known and not used.
        assert_eq!((names.by_hash.len(), names.iter_live().count()), (2, 1));
        names.prune();
        assert_eq!(names.by_hash.len(), 1);
        drop(a);
        names.prune();
        assert!(names.by_hash.is_empty());
    }
}
