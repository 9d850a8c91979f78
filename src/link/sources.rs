//! Number of connections of each client address, on all shards together. It is used when a
//! connection begins and when it ends, and only if there is a limit; requests never come here.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

/// Number of locks: many, so that shards seldom want the same one.
const PARTS: usize = 64;

type SourceMap = Mutex<HashMap<IpAddr, u32, foldhash::fast::RandomState>>;

/// The counts.
pub(crate) struct Sources {
    parts: [SourceMap; PARTS],
    hasher: foldhash::fast::RandomState,
}

impl Sources {
    pub(super) fn new() -> Sources {
        let parts = std::array::from_fn(|_| SourceMap::default());
        Sources { parts, hasher: foldhash::fast::RandomState::default() }
    }

    /// Counts one more connection if the source has fewer than `most`; returns whether it was
    /// counted.
    pub(crate) fn enter(&self, source: IpAddr, most: u32) -> bool {
        let source = source_network(source);
        let mut part = self.part(source);
        let count = part.entry(source).or_default();
        let has_room = *count < most;
        *count += u32::from(has_room);
        has_room
    }

    /// Counts the end of a connection that `enter` has counted.
    pub(crate) fn leave(&self, source: IpAddr) {
        let source = source_network(source);
        let mut part = self.part(source);
        debug_assert!(part.contains_key(&source), "{source} has no connection that is counted");
        if let Some(count) = part.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                part.remove(&source);
            }
        }
    }

    fn part(
        &self,
        source: IpAddr,
    ) -> std::sync::MutexGuard<'_, HashMap<IpAddr, u32, foldhash::fast::RandomState>> {
        let at = self.hasher.hash_one(source) as usize % PARTS;
        self.parts[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the address under which a source is counted. For IPv6 this is its /64 network, because a
/// subscriber has at least such a network and all addresses in it (RFC 6177).
pub(crate) fn source_network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_for_itself() {
        let sources = Sources::new();
        let [one, other]: [IpAddr; 2] = [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()];
        assert!(sources.enter(one, 2) && sources.enter(one, 2) && sources.enter(other, 2));
        assert!(!sources.enter(one, 2), "a third");
        sources.leave(one);
        assert!(sources.enter(one, 2));
        for source in [one, one, other] {
            sources.leave(source);
        }
        assert!(sources.parts.iter().all(|part| part.lock().expect("no panic").is_empty()));
    }

    #[test]
    fn a_subscriber_s_network_is_one_source() {
        let sources = Sources::new();
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert!(sources.enter(address("2001:db8:0:1::1"), 1));
        assert!(!sources.enter(address("2001:db8:0:1:ffff::2"), 1));
        assert!(sources.enter(address("2001:db8:0:2::1"), 1));
        assert!(sources.enter(address("::ffff:192.0.2.1"), 1));
        assert!(!sources.enter(address("192.0.2.1"), 1));
    }
}
