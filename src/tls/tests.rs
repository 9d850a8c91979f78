//! Tests with hellos cut anywhere, unusual hellos, and bytes that are not a hello.

use proptest::prelude::*;

use super::*;

const LONGEST: usize = 16 * 1024;

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    let mut out = kind.to_be_bytes().to_vec();
    out.extend((content.len() as u16).to_be_bytes());
    out.extend(content);
    out
}

fn sni(names: &[&[u8]]) -> Vec<u8> {
    let mut list = Vec::new();
    for name in names {
        list.push(0);
        list.extend((name.len() as u16).to_be_bytes());
        list.extend(*name);
    }
    let mut content = (list.len() as u16).to_be_bytes().to_vec();
    content.extend(list);
    extension(0, &content)
}

/// Makes a handshake message with these extensions. Without extensions, the message has no
/// extension block.
fn message(extensions: &[Vec<u8>]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 4, 0x13, 0x01, 0x0a, 0x0a]);
    body.extend([1, 0]);
    if !extensions.is_empty() {
        let all = extensions.concat();
        body.extend((all.len() as u16).to_be_bytes());
        body.extend(all);
    }
    let length = (body.len() as u32).to_be_bytes();
    [&[1], &length[1..], &body].concat()
}

/// Splits a message into records of at most `each` bytes.
fn records(message: &[u8], each: usize) -> Vec<u8> {
    let record = |part: &[u8]| {
        let length = (part.len() as u16).to_be_bytes();
        [&[22, 3, 1], &length[..], part].concat()
    };
    message.chunks(each).flat_map(record).collect()
}

fn usual(name: &[u8]) -> Vec<Vec<u8>> {
    // GREASE in front, an encrypted hello, padding
    vec![
        extension(0x1a1a, &[]),
        sni(&[name]),
        extension(0xfe0d, &[1, 2, 3]),
        extension(21, &[0; 300]),
    ]
}

fn named(name: &[u8]) -> Seen {
    Seen::Hello(Some(name.into()))
}

#[test]
fn the_name_is_found() {
    for name in [b"a.com".as_slice(), b"A.Com.", b"x", b"\xff\0"] {
        let hello = records(&message(&usual(name)), RECORD_MAX);
        assert_eq!(client_hello(&hello, LONGEST), named(name));
        // Bytes that follow are ignored.
        assert_eq!(client_hello(&[&hello[..], b"more"].concat(), LONGEST), named(name));
    }
    assert_eq!(client_hello(&records(&message(&[]), RECORD_MAX), LONGEST), Seen::Hello(None));
    let other = message(&[extension(0x1a1a, &[1])]);
    assert_eq!(client_hello(&records(&other, RECORD_MAX), LONGEST), Seen::Hello(None));
}

#[test]
fn other_bytes_are_no_hello() {
    let hello = message(&usual(b"a.com"));
    let wrong = |bytes: &[u8]| {
        let seen = client_hello(bytes, LONGEST);
        assert!(matches!(seen, Seen::Wrong(_)), "{seen:?}");
    };
    wrong(b"GET / HTTP/1.1\r\n");
    wrong(b"G");
    wrong(b"\x15\x03\x01\x00\x02\x02\x28");
    wrong(&records(&[&[2], &hello[1..]].concat(), 100));
    wrong(&[22, 3, 1, 0, 0]);
    wrong(&[22, 3, 1, 0x40, 1]);
    wrong(&[22, 2, 0, 0, 5]);
    // Longer than is accepted: refused at once.
    wrong(&[22, 3, 1, 0, 4, 1, 1, 0, 0]);
    wrong(&records(&message(&[sni(&[b"a.com", b"b.com"])]), RECORD_MAX));
    wrong(&records(&message(&[sni(&[b"a.com"]), sni(&[b"b.com"])]), RECORD_MAX));
    // An extension that claims more bytes than there are.
    wrong(&records(&message(&[vec![0, 0, 0, 9, 1]]), RECORD_MAX));
}

proptest! {
    /// Checks that a hello, wherever it is cut into records and segments, is found when it is
    /// complete and not before, and that the number of missing bytes is never too large.
    #[test]
    fn cut_anywhere(each in 1..600_usize, name in "[a-z]{1,60}\\.com") {
        let hello = records(&message(&usual(name.as_bytes())), each);
        let mut at = 0;
        loop {
            match client_hello(&hello[..at], LONGEST) {
                Seen::More(needed) => {
                    prop_assert!(at < needed && needed <= hello.len());
                    for before in at..needed {
                        let seen = client_hello(&hello[..before], LONGEST);
                        prop_assert!(matches!(seen, Seen::More(_)));
                    }
                    at = needed;
                }
                seen => {
                    prop_assert_eq!(seen, named(name.as_bytes()));
                    break;
                }
            }
        }
        prop_assert_eq!(at, hello.len());
    }

    #[test]
    fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = client_hello(&bytes, LONGEST);
        // A hello with some of its bytes changed causes no panic either.
        let mut hello = records(&message(&usual(b"a.com")), 100);
        for (at, byte) in bytes.iter().enumerate().take(40) {
            let at = (at * 37 + usize::from(*byte)) % hello.len();
            hello[at] ^= byte;
        }
        let _ = client_hello(&hello, LONGEST);
    }
}
