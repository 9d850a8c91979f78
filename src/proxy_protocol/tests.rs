//! Tests of the PROXY protocol, byte by byte.

use proptest::prelude::*;

use super::*;

fn of(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Makes a header of version 2 from the command, the family, and the bytes behind the length.
fn v2(command: u8, family: u8, rest: &[&[u8]]) -> Vec<u8> {
    let rest = rest.concat();
    let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
    [V2_SIGNATURE, &[0x20 | command, family], &length, &rest].concat()
}

fn extension_of(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).expect("short").to_be_bytes();
    [&[kind], &length[..], value].concat()
}

/// 192.0.2.1:5000 to 192.0.2.2:80.
const TCP4: &[u8] = &[192, 0, 2, 1, 192, 0, 2, 2, 0x13, 0x88, 0, 80];

/// Makes a header with the extension CRC32C, with a right or a wrong checksum.
fn summed(family: u8, front: &[u8], spoilt: bool) -> Vec<u8> {
    let mut header = v2(1, family, &[front, &extension_of(3, &[0; 4]), &extension_of(4, b"more")]);
    let at = V2_FIXED_BYTES + front.len() + 3;
    let sum = crc32c(&[&header]) ^ u32::from(spoilt);
    header[at..at + 4].copy_from_slice(&sum.to_be_bytes());
    header
}

/// Checks that a header is accepted when it is complete, at every cut and whatever follows.
#[track_caller]
fn expect(bytes: &[u8], source: Option<&str>, secure: bool) {
    let header_of = Header { length: bytes.len(), source: source.map(of), secure };
    let expected = Seen::Header(header_of);
    assert_eq!(header(bytes), expected, "{bytes:?}");
    let longer = [bytes, b"GET / \xff\r\n\r\n"].concat();
    assert_eq!(header(&longer), expected);
    for cut in (0..bytes.len().min(300)).chain(bytes.len().saturating_sub(300)..bytes.len()) {
        assert_eq!(header(&bytes[..cut]), Seen::More, "{cut} of {bytes:?}");
    }
}

#[test]
fn checksum_is_crc32c() {
    assert_eq!(crc32c(&[b"123456789"]), 0xe306_9283);
    assert_eq!(crc32c(&[b"1234", b"", b"56789"]), 0xe306_9283);
}

#[test]
fn addresses_are_read() {
    let tcp6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[1], &[0; 15], &[9, 0, 1, 0, 2]].concat();
    for (bytes, source) in [
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 80\r\n".to_vec(), "192.0.2.1:5000"),
        (b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n".to_vec(), "[2001:db8::1]:1"),
        (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n".to_vec(), "192.0.2.1:1"),
        (v2(1, 0x11, &[TCP4]), "192.0.2.1:5000"),
        (v2(1, 0x11, &[TCP4, &extension_of(4, b"more")]), "192.0.2.1:5000"),
        (v2(1, 0x21, &[&tcp6]), "[2001:db8::1]:1"),
        (summed(0x11, TCP4, false), "192.0.2.1:5000"),
    ] {
        expect(&bytes, Some(source), false);
    }
}

#[test]
fn headers_without_an_address_are_taken() {
    let long = vec![0xff; 65_535];
    for bytes in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN ff:ff 1 2 3\r\n".to_vec(),
        b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n".to_vec(),
        b"PROXY UNKNOWN \xff\0\x01 \n\r \r\n".to_vec(),
        [&b"PROXY UNKNOWN "[..], &[b'x'; 91], b"\r\n"].concat(),
        // UNSPEC, with extensions and with other bytes.
        v2(1, 0, &[]),
        v2(1, 0, &[b"x"]),
        v2(1, 0, &[&extension_of(4, b"more")]),
        v2(1, 0x01, &[TCP4]),
        v2(1, 0x10, &[TCP4]),
        // UDP, Unix
        v2(1, 0x12, &[TCP4]),
        v2(1, 0x22, &[&[1; 36]]),
        v2(1, 0x31, &[&[0; 216]]),
        v2(1, 0x32, &[&[0; 216], &extension_of(4, b"more")]),
        summed(0x12, TCP4, false),
    ] {
        expect(&bytes, None, false);
    }
    // LOCAL: any family, any length, any content.
    for family in [0, 0x11, 0x12, 0x21, 0x31, 0x44, 0xff] {
        for rest in [&[][..], b"x", TCP4, &long] {
            expect(&v2(0, family, &[rest]), None, false);
        }
    }
    let mut spoilt = summed(0x11, TCP4, true);
    spoilt[12] = 0x20;
    expect(&spoilt, None, false);
}

#[test]
fn tls_of_the_client_is_known() {
    let version = extension_of(0x21, b"TLSv1.3");
    let ssl = |client: u8, more: &[u8]| extension_of(0x20, &[&[client, 0, 0, 0, 0], more].concat());
    let source = Some("192.0.2.1:5000");
    expect(&v2(1, 0x11, &[TCP4, &ssl(1, b"")]), source, true);
    expect(&v2(1, 0x11, &[TCP4, &ssl(7, &version), &extension_of(4, b"")]), source, true);
    expect(&v2(1, 0x11, &[TCP4, &ssl(0, &version)]), source, false);
    expect(&v2(1, 0x11, &[TCP4, &ssl(6, &version)]), source, false);
    expect(&v2(1, 0, &[&ssl(1, &version)]), None, true);
    expect(&v2(1, 0x31, &[&[0; 216], &ssl(1, &version)]), None, true);
    // The sender's own connection is not that of a client.
    expect(&v2(0, 0x11, &[TCP4, &ssl(1, b"")]), None, false);
}

#[test]
fn written_headers_are_read_back() {
    for (source, target, line) in [
        ("192.0.2.1:5000", "192.0.2.2:80", "PROXY TCP4 192.0.2.1 192.0.2.2 5000 80\r\n"),
        ("[::ffff:192.0.2.1]:5000", "192.0.2.2:80", "PROXY TCP4 192.0.2.1 192.0.2.2 5000 80\r\n"),
        ("[2001:db8::1]:1", "[::1]:2", "PROXY TCP6 2001:db8::1 ::1 1 2\r\n"),
        ("[2001:db8::1]:1", "192.0.2.2:80", "PROXY TCP6 2001:db8::1 ::ffff:192.0.2.2 1 80\r\n"),
    ] {
        let both = (of(source), of(target));
        let known = SocketAddr::new(both.0.ip().to_canonical(), both.0.port()).to_string();
        for secure in [false, true] {
            let mut out = Vec::new();
            write(Version::One, both, secure, &mut out);
            assert_eq!(std::str::from_utf8(&out), Ok(line));
            expect(&out, Some(&known), false);
            out.clear();
            write(Version::Two, both, secure, &mut out);
            expect(&out, Some(&known), secure);
        }
    }
}

#[test]
fn malformed_headers_are_refused() {
    let ssl = |value: &[u8]| v2(1, 0x11, &[TCP4, &extension_of(0x20, value)]);
    for bytes in [
        b"GET / HTTP/1.1\r\n".to_vec(),
        b"X".to_vec(),
        b"PROXX".to_vec(),
        b"PROXY \r\n".to_vec(),
        b"PROXY TCP4\r\n".to_vec(),
        b"PROXY TCP5 192.0.2.1 192.0.2.2 5000 80\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 192.0.2.2 5000\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 80 \r\n".to_vec(),
        b"PROXY TCP4  192.0.2.1 192.0.2.2 5000 80\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.999 192.0.2.2 5000 80\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 99999\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.1 192.0.2.2 +500 80\r\n".to_vec(),
        b"PROXY TCP4 2001:db8::1 ::1 5000 80\r\n".to_vec(),
        b"PROXY TCP6 192.0.2.1 192.0.2.2 5000 80\r\n".to_vec(),
        [&b"PROXY UNKNOWN "[..], &[b'x'; 92], b"\r\n"].concat(),
        b"\r\n\r\nGET".to_vec(),
        // version, command, family, protocol
        [V2_SIGNATURE, b"\x11\x11\0\0"].concat(),
        [V2_SIGNATURE, b"\x31\x11\0\0"].concat(),
        v2(2, 0x11, &[TCP4]),
        v2(1, 0x41, &[TCP4]),
        v2(1, 0x13, &[TCP4]),
        // too short for their addresses
        v2(1, 0x11, &[&TCP4[..11]]),
        v2(1, 0x12, &[&TCP4[..11]]),
        v2(1, 0x21, &[&[0; 35]]),
        v2(1, 0x31, &[&[0; 215]]),
        // Extensions that end past the end, that have no length, and inner ones.
        v2(1, 0x11, &[TCP4, &[4, 0, 1]]),
        v2(1, 0x11, &[TCP4, &[4, 0]]),
        v2(1, 0x11, &[TCP4, &[4]]),
        v2(1, 0x12, &[TCP4, &[4, 0xff, 0xff, 1]]),
        v2(1, 0x31, &[&[0; 216], &[4, 0, 1]]),
        ssl(&[1, 0, 0, 0]),
        ssl(&[1, 0, 0, 0, 0, 0x21, 0, 9, 1]),
        ssl(&[1, 0, 0, 0, 0, 0x21]),
        // checksums
        summed(0x11, TCP4, true),
        summed(0x12, TCP4, true),
        summed(0, &[], true),
        v2(1, 0x11, &[TCP4, &extension_of(3, b"abc")]),
    ] {
        assert_eq!(header(&bytes), Seen::Wrong, "{bytes:?}");
    }
    let endless = format!("PROXY UNKNOWN {}", "x".repeat(V1_MAX));
    assert_eq!(header(endless.as_bytes()), Seen::Wrong);
}

proptest! {
    #[test]
    fn nothing_panics(start in 0..4_usize, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let with_length = [V2_SIGNATURE, &[0x21, 0x11, 0, 40]].concat();
        let starts: [&[u8]; 4] = [b"", b"PROXY TCP4 ", V2_SIGNATURE, &with_length];
        let all = [starts[start], &bytes].concat();
        let seen = header(&all);
        if let Seen::Header(header) = seen {
            prop_assert!(header.length <= all.len());
        }
        // A header that was accepted or refused stays so, whatever comes next.
        for cut in 0..all.len() {
            let before = header(&all[..cut]);
            prop_assert!(before == Seen::More || before == seen, "{cut} of {all:?}");
        }
    }
}
