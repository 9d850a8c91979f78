//! Bodies without connections: where each kind ends, in whatever pieces it comes.

use proptest::prelude::*;

use super::*;
use crate::http::{self, Method, TrailerRules};

const CHUNKED: &[u8] = b"3\r\nabc\r\n5;x=y\r\ndefgh\r\n0\r\nX-T: 1\r\n\r\n";

fn rules() -> TrailerRules {
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut room = http::field_room();
    http::parse_response(head, &mut room, Method::Get).expect("a head").trailers()
}

fn chunked() -> Chunked {
    Chunked::new(rules())
}

/// Passes `bytes` on in pieces; returns what went on, and how many of them belonged to the body.
fn pass(body: &mut Body, bytes: &[u8], cuts: &[prop::sample::Index]) -> (Vec<u8>, usize) {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    let ring = Ring::new().expect("a ring");
    let (mut out, mut inbox, mut left) = (Vec::new(), Inbox::default(), 0);
    for cut in cuts.windows(2).filter(|cut| cut[0] < cut[1]) {
        inbox.push(&ring, RecvBuf::from(bytes[cut[0]..cut[1]].to_vec()));
        body.join(&ring, &mut inbox, &mut out).expect("a good body");
        left = inbox.bytes().len();
    }
    (out, bytes.len() - left)
}

fn cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn length_ends_after_its_bytes(cuts in cuts(), length in 0..30usize) {
        let mut body = Body::Length(length as u64);
        let (out, consumed) = pass(&mut body, b"0123456789012345678901234567890123", &cuts);
        prop_assert!(body.is_done());
        prop_assert_eq!((out.len(), consumed), (length, length));
    }

    #[test]
    fn chunks_go_on_as_they_came_up_to_their_end(cuts in cuts()) {
        let mut body = Body::Chunked(chunked());
        let bytes = [CHUNKED, b"HTTP/1.1 200"].concat();
        let (out, consumed) = pass(&mut body, &bytes, &cuts);
        prop_assert!(body.is_done());
        prop_assert_eq!(consumed, CHUNKED.len());
        prop_assert_eq!(out, CHUNKED);
    }

    /// The data of `CHUNKED` are eight bytes.
    #[test]
    fn chunks_past_a_limit_are_refused_in_whatever_pieces(cuts in cuts(), left in 0..12u64) {
        let limited = |left| Body::Limited(Box::new(LimitedChunks { chunked: chunked(), left }));
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(CHUNKED.len() + 1)).collect();
        cuts.extend([0, CHUNKED.len()]);
        cuts.sort_unstable();
        let (mut body, mut passed) = (limited(left), 0);
        let refused = cuts.windows(2).find_map(|cut| {
            let piece = &CHUNKED[cut[0]..cut[1]];
            let result = if body.is_done() { Ok(()) } else { body.advance(piece).map(drop) };
            passed = if result.is_ok() { cut[1] } else { passed };
            result.err()
        });
        prop_assert_eq!(refused, (left < 8).then_some(Refusal::BodyTooLarge));
        prop_assert!(refused.is_some() || body.is_done());
        // Not a byte of data past the limit has passed.
        let data = CHUNKED[..passed].iter().filter(|byte| (b'a'..=b'h').contains(byte)).count();
        prop_assert!(8 <= left || data as u64 <= left);
    }

    #[test]
    fn decoded_chunks_are_their_data(cuts in cuts()) {
        let mut body = Body::Decoded(chunked());
        let (out, consumed) = pass(&mut body, CHUNKED, &cuts);
        prop_assert!(body.is_done());
        prop_assert_eq!((&out[..], consumed), (&b"abcdefgh"[..], CHUNKED.len()));
    }
}

#[test]
fn until_close_ends_when_its_sender_does() {
    let mut body = Body::UntilClose(false);
    let (out, consumed) = pass(&mut body, b"anything\r\n\r\n", &[]);
    assert_eq!((out.len(), consumed), (12, 12));
    assert!(!body.is_done() && body.ends_by_close());
    assert!(Body::UntilClose(true).is_done());
}

#[test]
fn no_body_is_done_and_takes_nothing() {
    let mut body = Body::NONE;
    let (out, consumed) = pass(&mut body, b"GET / HTTP/1.1", &[]);
    assert!(body.is_done() && out.is_empty());
    assert_eq!(consumed, 0);
}

#[test]
fn only_a_long_length_is_worth_splicing() {
    assert!(Body::Length(limits::SPLICE_BYTES_MIN).is_large());
    for body in [Body::Length(limits::SPLICE_BYTES_MIN - 1), Body::Chunked(chunked())] {
        assert!(!body.is_large(), "{body:?}");
    }
}
