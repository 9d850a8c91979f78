//! The client's address in a list field to which each proxy on the way appends an address, such as
//! X-Forwarded-For.
//!
//! A proxy appends the address that connected to it. So only the last address is certain: the
//! nearest proxy wrote it. The list is read from its end, as long as the addresses are those of
//! trusted proxies; what stands before may be forged.

use std::net::IpAddr;

use super::field::trim;

/// Finds the client in the values of a field, given in the order in which they came. The client is
/// the rightmost address that is not trusted.
///
/// A member that is not a plain address, such as `unknown`, an address with a port, or a quoted
/// address, ends the search: nothing shows that a trusted proxy wrote the members before it. After
/// such a member, or if all addresses are trusted, the client is the last address that was read;
/// `None` if none was.
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

    /// The client in these values, if 10.0.0.0/8 and fd00::/8 are trusted.
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
    fn member_that_is_no_plain_address_ends_the_search() {
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
