//! Networks of IP addresses (CIDR), and maps of networks in which the longest prefix decides.
//!
//! An IPv4 address that is mapped into IPv6 (`::ffff:192.0.2.1`) counts as that IPv4 address, also
//! in a network. Pure.

#[cfg(any(test, fuzzing))]
pub mod properties;

use std::cmp::Reverse;
use std::fmt;
use std::net::IpAddr;

/// A network: all addresses with the same prefix, such as `192.0.2.0/24` or `2001:db8::/32`, or a
/// single address.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Network {
    /// First address of the network.
    address: IpAddr,
    bits: u8,
}

/// Reason for which a text is not a network.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum NetworkError {
    /// The text is neither an address nor an address with a length.
    Syntax,
    /// The address has bits behind the prefix. The network is the one that contains the address.
    HostBits(Network),
}

/// Bits of the shortest prefix that has only IPv4 addresses mapped into IPv6.
const MAPPED_BITS: u8 = 96;

impl Network {
    /// Reads a network.
    pub fn parse(text: &str) -> Result<Network, NetworkError> {
        let (address, bits) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
        let address: IpAddr = address.parse().map_err(|_| NetworkError::Syntax)?;
        let most = width(address);
        let is_number = |bits: &str| bits.bytes().all(|byte| byte.is_ascii_digit());
        let bits = match bits {
            None => most,
            Some(bits) if is_number(bits) => bits.parse().map_err(|_| NetworkError::Syntax)?,
            Some(_) => return Err(NetworkError::Syntax),
        };
        let bits = match address.to_canonical() {
            _ if most < bits => return Err(NetworkError::Syntax),
            IpAddr::V4(_) if most == 128 && bits < MAPPED_BITS => return Err(NetworkError::Syntax),
            IpAddr::V4(_) if most == 128 => bits - MAPPED_BITS,
            _ => bits,
        };
        let address = address.to_canonical();
        let network = Network { address: first(address, bits), bits };
        match network.address == address {
            true => Ok(network),
            false => Err(NetworkError::HostBits(network)),
        }
    }

    /// Returns the first and the last address, as numbers.
    fn range(&self) -> (u128, u128) {
        let first = number(self.address);
        (first, first | low_bits(u32::from(width(self.address) - self.bits)))
    }
}

/// Returns the bits of an address of this family.
fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Writes the shortest form that is read as the same network.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bits == width(self.address) {
            true => self.address.fmt(f),
            false => write!(f, "{}/{}", self.address, self.bits),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// Returns the number whose lowest `count` bits are set.
fn low_bits(count: u32) -> u128 {
    u128::MAX.checked_shr(128 - count).unwrap_or(0)
}

/// Returns the first address with the same first `bits` bits.
fn first(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}

/// Map from networks to marks. An address has the mark of the longest prefix that it begins with.
/// Finding the mark takes one binary search, however many networks there are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NetworkMap<M> {
    v4: Box<[Step<M>]>,
    v6: Box<[Step<M>]>,
}

/// First address of a range, and the mark of that range.
type Step<M> = (u128, Option<M>);

impl<M> Default for NetworkMap<M> {
    fn default() -> NetworkMap<M> {
        NetworkMap { v4: Box::default(), v6: Box::default() }
    }
}

impl<M: Copy> NetworkMap<M> {
    /// Makes the map. If a network comes twice, its last mark counts.
    pub fn new(marked: impl IntoIterator<Item = (Network, M)>) -> NetworkMap<M> {
        let (v4, v6): (Vec<_>, Vec<_>) =
            marked.into_iter().partition(|(network, _)| network.address.is_ipv4());
        NetworkMap { v4: steps(v4), v6: steps(v6) }
    }

    /// Returns the mark of an address.
    pub fn get(&self, address: IpAddr) -> Option<M> {
        let address = address.to_canonical();
        let steps = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        let address = number(address);
        let next = steps.partition_point(|(from, _)| *from <= address);
        steps.get(next.checked_sub(1)?)?.1
    }
}

/// Makes the steps for the networks of one family. Two networks never overlap partly: they are
/// disjoint, or one contains the other.
fn steps<M: Copy>(marked: Vec<(Network, M)>) -> Box<[Step<M>]> {
    let mut ranges: Vec<_> =
        marked.into_iter().map(|(network, mark)| (network.range(), mark)).collect();
    // A network comes before those that it contains. The sort is stable, so of equal networks the
    // last one comes last.
    ranges.sort_by_key(|((first, last), _)| (*first, Reverse(*last)));
    let mut steps: Vec<Step<M>> = Vec::new();
    let mut step = |from: u128, mark: Option<M>| {
        if steps.last().is_some_and(|(before, _)| *before == from) {
            steps.pop();
        }
        steps.push((from, mark));
    };
    // Networks that contain the current one, each contained in the one before it.
    let mut around: Vec<(u128, M)> = Vec::new();
    for ((first, last), mark) in ranges {
        while let Some((end, _)) = around.pop_if(|(end, _)| *end < first) {
            step(end + 1, around.last().map(|(_, mark)| *mark));
        }
        step(first, Some(mark));
        around.push((last, mark));
    }
    while let Some((end, _)) = around.pop() {
        if let Some(next) = end.checked_add(1) {
            step(next, around.last().map(|(_, mark)| *mark));
        }
    }
    steps.into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> Network {
        Network::parse(text).unwrap_or_else(|error| panic!("{text}: {error:?}"))
    }

    #[test]
    fn networks_are_read_and_written() {
        for (text, written) in [
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("192.0.2.7", "192.0.2.7"),
            ("192.0.2.7/32", "192.0.2.7"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("2001:db8::1", "2001:db8::1"),
            ("2001:db8::1/128", "2001:db8::1"),
            ("::/0", "::/0"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
        ] {
            assert_eq!(network(text).to_string(), written, "{text}");
        }
        for text in [
            "",
            "a",
            "192.0.2",
            "192.0.2.0/33",
            "192.0.2.0/",
            "192.0.2.0/+24",
            "192.0.2.0/24/8",
            "192.0.2.0 /24",
            "192.0.02.1",
            "[2001:db8::1]",
            "2001:db8::/129",
            "2001:db8::1%eth0",
            "::ffff:0:0/95",
            "192.0.2.1:80",
        ] {
            assert_eq!(Network::parse(text), Err(NetworkError::Syntax), "{text:?}");
        }
        for (text, meant) in [("10.1.2.3/8", "10.0.0.0/8"), ("2001:db8::1/64", "2001:db8::/64")] {
            assert_eq!(Network::parse(text), Err(NetworkError::HostBits(network(meant))), "{text}");
        }
    }

    #[test]
    fn longest_prefix_decides() {
        let marked = [
            ("10.0.0.0/8", 'a'),
            ("10.1.0.0/16", 'b'),
            ("10.1.2.3", 'c'),
            ("10.2.0.0/16", 'd'),
            ("255.255.255.255", 'e'),
            ("::/0", 'f'),
            ("2001:db8::/32", 'g'),
            ("10.2.0.0/16", 'h'),
        ];
        let map = NetworkMap::new(marked.map(|(text, mark)| (network(text), mark)));
        for (address, mark) in [
            ("9.255.255.255", None),
            ("10.0.0.0", Some('a')),
            ("10.1.2.2", Some('b')),
            ("10.1.2.3", Some('c')),
            ("::ffff:10.1.2.3", Some('c')),
            ("10.1.2.4", Some('b')),
            ("10.2.255.255", Some('h')),
            ("10.3.0.0", Some('a')),
            ("11.0.0.0", None),
            ("255.255.255.254", None),
            ("255.255.255.255", Some('e')),
            ("::1", Some('f')),
            ("2001:db8::", Some('g')),
            ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Some('f')),
        ] {
            assert_eq!(map.get(address.parse().expect(address)), mark, "{address}");
        }
        assert!(NetworkMap::<char>::default().get(IpAddr::from([10, 0, 0, 1])).is_none());
    }

    /// Makes networks that lie close together, so that some are adjacent and some contain others.
    fn any_network() -> impl Strategy<Value = Network> {
        (any::<bool>(), 0..64_u8, 0..=8_u8).prop_map(|(is_v4, low, free)| {
            let (address, width): (IpAddr, u8) = match is_v4 {
                true => ([255, 255, 255, low.wrapping_mul(4)].into(), 32),
                false => (std::net::Ipv6Addr::from_bits(u128::from(low)).into(), 128),
            };
            let bits = width - free;
            Network { address: first(address, bits), bits }
        })
    }

    proptest! {
        #[test]
        fn networks_hold(text in "(([0-9]{1,3}[.]){3}[0-9]{1,3}|[0-9a-f:]{2,20}|::ffff:10[.]0[.]0[.][0-9])(/[0-9]{1,3})?(,(::|10[.]0[.]0[.]0|fe80::)/[0-9]{1,3}){0,5}") {
            properties::networks(text.as_bytes());
        }

        #[test]
        fn networks_hold_for_any_bytes(bytes in vec(any::<u8>(), 0..60)) {
            properties::networks(&bytes);
        }

        /// Compares the map with a search through all networks.
        #[test]
        fn map_is_a_search_for_the_longest_prefix(
            marked in vec((any_network(), any::<u8>()), 0..20),
            low in any::<u8>(),
        ) {
            let map = NetworkMap::new(marked.iter().copied());
            let addresses: [IpAddr; 3] = [
                [255, 255, 255, low].into(),
                std::net::Ipv6Addr::from_bits(low.into()).into(),
                std::net::Ipv6Addr::from_bits(0xffff_ffff_ff00 | u128::from(low)).into(),
            ];
            for address in addresses {
                let has_it = |network: &Network| properties::contains(network, address);
                let found = marked.iter().filter(|(network, _)| has_it(network));
                // Of equal networks the last one counts.
                let expected = found.max_by_key(|(network, _)| network.bits).map(|(_, mark)| *mark);
                prop_assert_eq!(map.get(address), expected, "{}", address);
            }
        }
    }
}
