//! Properties of networks that hold for every text: proptest runs them in `cargo test`, a fuzzer in
//! `fuzz/`.

use std::net::{IpAddr, Ipv6Addr};

use super::{Network, NetworkError, NetworkMap, first};

/// Checks that each network in a list, between commas, is read again as it was written, and that a
/// map of these networks finds the same as a search through all of them.
pub fn networks(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let networks: Vec<Network> = text.split(',').filter_map(network).collect();
    let marked = || networks.iter().copied().zip(0_usize..);
    let map = NetworkMap::new(marked());
    for address in networks.iter().flat_map(edges) {
        let found = marked().filter(|(network, _)| contains(network, address));
        // Of equal networks the last one counts.
        let longest = found.max_by_key(|(network, _)| network.bits).map(|(_, mark)| mark);
        assert_eq!(map.get(address), longest, "{address} in {text:?}");
    }
}

fn network(text: &str) -> Option<Network> {
    let network = match Network::parse(text) {
        Ok(network) => network,
        Err(NetworkError::Syntax) => return None,
        Err(NetworkError::HostBits(network)) => {
            let address: IpAddr = text[..text.find('/')?].parse().expect("an address");
            assert!(contains(&network, address), "{text:?} is not in {network}");
            network
        }
    };
    assert_eq!(Network::parse(&network.to_string()), Ok(network), "{text:?}");
    Some(network)
}

/// Whether an address is in a network, by comparing their first bits.
pub(super) fn contains(network: &Network, address: IpAddr) -> bool {
    let address = address.to_canonical();
    let is_of_family = address.is_ipv4() == network.address.is_ipv4();
    is_of_family && first(address, network.bits) == network.address
}

/// Returns the first and the last address of a network, and those before and behind it.
fn edges(network: &Network) -> [IpAddr; 4] {
    let (first, last) = network.range();
    let edges = [first.wrapping_sub(1), first, last, last.wrapping_add(1)];
    edges.map(|number| match network.address {
        IpAddr::V4(_) => IpAddr::from((number as u32).to_be_bytes()),
        IpAddr::V6(_) => Ipv6Addr::from_bits(number).into(),
    })
}
