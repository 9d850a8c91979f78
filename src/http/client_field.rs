//! The client's address in a field that proxies on its way have added to, such as X-Forwarded-For.
//!
//! Each proxy appends the address that it was connected from, so only the end of the list is
//! certain: what the nearest proxy has written. It is read from there, as far as the proxies are
//! trusted.

use std::net::IpAddr;

use super::field::trim;

/// The client in the values of a field, in the order in which they came: the rightmost address that
/// is not trusted. Reading ends at a member that is no plain address, such as `unknown`, an address
/// with a port, or a quoted one: what stands before it was not written by a trusted proxy, as far
/// as anybody can tell. Then, and where all addresses are trusted, the client is the last address
/// that was read; `None` where there is none.
pub fn client_in<'v>(
    values: impl DoubleEndedIterator<Item = &'v [u8]>,
    is_trusted: impl Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    let mut nearest = None;
    for member in values.rev().flat_map(|value| value.rsplit(|&b| b == b',')) {
        let Some(address) = address(trim(member)) else { return nearest };
        nearest = Some(address);
        if !is_trusted(address) {
            return nearest;
        }
    }
    nearest
}

fn address(member: &[u8]) -> Option<IpAddr> {
    let address: IpAddr = std::str::from_utf8(member).ok()?.parse().ok()?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The client in these values, where 10.0.0.0/8 and fd00::/8 are trusted.
    fn client(values: &[&str]) -> Option<String> {
        let is_trusted = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets()[0] == 10,
            IpAddr::V6(address) => address.octets()[0] == 0xfd,
        };
        let values = values.iter().map(|value| value.as_bytes());
        client_in(values, is_trusted).map(|address| address.to_string())
    }

    #[test]
    fn rightmost_address_that_is_not_trusted_is_the_client() {
        for (values, expected) in [
            (&["203.0.113.7"][..], "203.0.113.7"),
            (&["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
            (&["198.51.100.1,203.0.113.7 ,\t10.0.0.1,fd00::1"], "203.0.113.7"),
            (&["198.51.100.1", "203.0.113.7, 10.0.0.1", "10.0.0.2"], "203.0.113.7"),
            (&["2001:DB8::7, 10.0.0.1"], "2001:db8::7"),
            (&["::ffff:203.0.113.7"], "203.0.113.7"),
            (&["198.51.100.1, ::ffff:10.0.0.1"], "198.51.100.1"),
            (&["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ] {
            assert_eq!(client(values).as_deref(), Some(expected), "{values:?}");
        }
    }

    #[test]
    fn what_is_no_address_ends_the_search() {
        for garbage in [
            "",
            " ",
            "unknown",
            "_hidden",
            "\"203.0.113.7\"",
            "203.0.113.7:4711",
            "[2001:db8::7]",
            "[2001:db8::7]:4711",
            "2001:db8::7%eth0",
            "203.0.113.07",
            "203.0.113",
            "0xcb007107",
            "3405803783",
            "203.0.113.7 198.51.100.2",
            "for=203.0.113.7",
            "203.0.113.7/32",
            "\u{fe}",
        ] {
            let value = format!("198.51.100.1, {garbage}");
            assert_eq!(client(&[&value]), None, "{garbage:?} is the last");
            let value = format!("198.51.100.1, {garbage}, 10.0.0.1");
            assert_eq!(client(&[&value]).as_deref(), Some("10.0.0.1"), "{garbage:?} in front");
            let value = format!("{garbage}, 198.51.100.1");
            assert_eq!(client(&[&value]).as_deref(), Some("198.51.100.1"), "{garbage:?} behind");
        }
        assert_eq!(client(&[]), None);
    }
}
