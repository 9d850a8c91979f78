//! Properties that hold for every input: proptest runs them in `cargo test`, the fuzzers in
//! `fuzz/`.
//!
//! Each property compares the code with something written in another way: the code itself at other
//! splits, `httparse`, a model that is naive on purpose, or its own output read again.

use std::net::{IpAddr, Ipv4Addr};

use super::chunked::Verdict;
use super::field::{Name, Named, classify, is_token_byte, is_value_byte};
use super::{
    Chunked, FramingOut, HeadScan, HttpDate, Method, Passed, Refusal, RequestForward,
    RequestFraming, ResponseForward, ResponseFraming, Scheme, Target, TrailerRules, Version, Via,
    client_in, field_room, parse_request, parse_response, write_request, write_response,
};
use crate::limits::FIELDS_MAX;

/// Checks that a head is measured the same at any split, that the parser never disagrees, and that
/// the forwarded head means the same as the one that came.
pub fn head(bytes: &[u8]) {
    let end = scan(bytes);
    let mut room = field_room();
    let mut lenient = httparse::Request::new(&mut []);
    let complete = lenient.parse_with_uninit_headers(bytes, &mut room);
    match end {
        Ok(Some(length)) => {
            if let Ok(httparse::Status::Complete(other)) = complete {
                assert_eq!(other, length, "the parser sees another end of the head");
            }
            request(&bytes[..length]);
        }
        Ok(None) => {
            let stalled = matches!(complete, Ok(httparse::Status::Complete(_)));
            assert!(!stalled, "the scan waits for more of a head that is complete");
        }
        Err(_) => {}
    }
}

fn scan(bytes: &[u8]) -> Result<Option<usize>, Refusal> {
    let end = HeadScan::default().advance(bytes);
    assert_eq!(end, naive_scan(bytes), "scan and model differ");
    let mut scan = HeadScan::default();
    let mut trickled = Ok(None);
    for length in 0..=bytes.len() {
        trickled = scan.advance(&bytes[..length]);
        if trickled != Ok(None) {
            break;
        }
    }
    assert_eq!(trickled, end, "byte by byte differs from all at once");
    for middle in [bytes.len() / 3, bytes.len() / 2, bytes.len().saturating_sub(2)] {
        let mut scan = HeadScan::default();
        let mut split = scan.advance(&bytes[..middle]);
        if split == Ok(None) {
            split = scan.advance(bytes);
        }
        assert_eq!(split, end, "split at {middle} differs from all at once");
    }
    end
}

/// Naive scan: takes one byte at a time and keeps all lines.
fn naive_scan(bytes: &[u8]) -> Result<Option<usize>, Refusal> {
    let mut lines: Vec<Vec<u8>> = vec![vec![]];
    for (at, &byte) in bytes.iter().enumerate() {
        let after_cr = lines.last().is_some_and(|line| line.last() == Some(&b'\r'));
        match byte {
            b'\n' if after_cr => {
                let is_empty = |line: &Vec<u8>| line == b"\r";
                if lines.iter().all(is_empty) && lines.len() == 2 {
                    return Err(Refusal::EmptyLines);
                }
                if lines.last().is_some_and(is_empty) && !lines.iter().all(is_empty) {
                    return Ok(Some(at + 1));
                }
                lines.push(vec![]);
            }
            _ if after_cr => return Err(Refusal::BareCr),
            b'\n' => return Err(Refusal::BareLf),
            0 => return Err(Refusal::Nul),
            _ => lines.last_mut().into_iter().for_each(|line| line.push(byte)),
        }
    }
    Ok(None)
}

/// Returns the fields of a head, split at every CRLF.
fn naive_fields(head: &[u8]) -> Vec<(&[u8], &[u8])> {
    let text = head.strip_prefix(b"\r\n").unwrap_or(head);
    text.split(|&b| b == b'\n')
        .skip(1)
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| !line.is_empty())
        .map(|line| line.split_at(line.iter().position(|&b| b == b':').unwrap_or(line.len())))
        .collect()
}

/// Returns the fields that must not be changed, in order and with their white space.
fn plain_fields(head: &[u8]) -> Vec<(&[u8], &[u8])> {
    let fields = naive_fields(head);
    let mut options: Vec<Vec<u8>> = vec![];
    for (name, value) in &fields {
        if classify(name) == Name::Connection {
            let value = value.strip_prefix(b":").unwrap_or(value).to_ascii_lowercase();
            options.extend(value.split(|&b| b == b',').map(|option| option.trim_ascii().to_vec()));
        }
    }
    let is_named = |name: &[u8]| options.contains(&name.to_ascii_lowercase());
    fields
        .iter()
        .filter(|(name, _)| matches!(classify(name), Name::Plain | Name::Via) && !is_named(name))
        .copied()
        .collect()
}

fn count(head: &[u8], wanted: &[u8]) -> usize {
    naive_fields(head).iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).count()
}

/// Most fields that are added to one head: Host, if it was read from the target, two forwarding
/// fields, TE and Connection.
const FIELDS_ADDED_MAX: usize = 5;

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn request(bytes: &[u8]) {
    let mut room = field_room();
    let Ok(head) = parse_request(bytes, &mut room) else { return };
    assert!(head.host.is_some() || head.version == Version::Http10);
    if head.host.is_none() || naive_fields(bytes).len() + FIELDS_ADDED_MAX > FIELDS_MAX {
        // The request is not forwarded, because it has no host; or its forwarded head may have more
        // fields than Mantrid's own parser accepts.
        return;
    }
    for trusted in [false, true] {
        let mut out = Vec::new();
        let how = RequestForward {
            client: CLIENT,
            trusted,
            scheme: Scheme::Http,
            request_id: 0,
            via: Via::NONE,
        };
        write_request(&head, how, &mut out);
        let show = String::from_utf8_lossy(&out);
        assert_eq!(HeadScan::default().advance(&out), Ok(Some(out.len())), "{show}");
        let mut room = field_room();
        let again = parse_request(&out, &mut room).unwrap_or_else(|refusal| {
            panic!("what was written is refused: {refusal:?} {show}");
        });
        assert_eq!(again.method_bytes, head.method_bytes);
        assert_eq!(again.version, Version::Http11);
        assert_eq!(again.host, head.host, "{show}");
        assert_eq!(again.framing, head.framing, "{show}");
        assert_eq!(again.expect_continue, head.expect_continue, "{show}");
        assert_eq!(again.upgrade, head.upgrade, "{show}");
        assert_eq!(again.takes_trailers, head.takes_trailers, "{show}");
        assert!(again.keep_alive, "{show}");
        match (head.target, again.target) {
            (Target::Absolute { path, .. }, Target::Origin(written)) => {
                let slash: &[u8] = if path.starts_with(b"/") { b"" } else { b"/" };
                assert_eq!([slash, path].concat(), written);
            }
            (Target::Absolute { path: b"", .. }, Target::Asterisk) => {
                assert_eq!(head.method, Method::Options);
            }
            (came, written) => assert_eq!(came, written),
        }
        request_fields(bytes, &out, trusted, (head.upgrade, head.takes_trailers));

        let mut twice = Vec::new();
        write_request(&again, RequestForward { trusted: true, ..how }, &mut twice);
        let fields = |head| naive_fields(head).len();
        assert_eq!(fields(&twice), fields(&out), "{show}");
    }
}

fn request_fields(bytes: &[u8], out: &[u8], trusted: bool, (upgrade, te): (bool, bool)) {
    let show = String::from_utf8_lossy(out);
    assert_eq!(plain_fields(bytes), plain_fields(out), "{show}");
    assert_eq!(count(out, b"host"), 1, "{show}");
    assert_eq!(count(out, b"connection"), usize::from(upgrade || te), "{show}");
    assert_eq!(count(out, b"te"), usize::from(te), "{show}");
    let forwarding = |head| {
        naive_fields(head)
            .into_iter()
            .filter(|(name, _)| {
                let kind = classify(name);
                use Name::*;
                matches!(kind, Forwarding | ForwardedProto | ForwardedProtocol)
            })
            .collect::<Vec<_>>()
    };
    if trusted {
        assert_eq!(forwarding(bytes), forwarding(out), "{show}");
    } else {
        let ours: [(&[u8], &[u8]); 2] =
            [(b"X-Forwarded-For", b": 192.0.2.1"), (b"X-Forwarded-Proto", b": http")];
        assert_eq!(forwarding(out), ours, "{show}");
    }
    for (name, value) in naive_fields(out) {
        match classify(name) {
            Name::Te => assert_eq!(value, b": trailers", "{show}"),
            Name::Hop => panic!("a hop-by-hop field goes on: {show}"),
            Name::Upgrade => assert!(upgrade, "{show}"),
            Name::TransferEncoding => assert_eq!(value, b": chunked", "{show}"),
            Name::ContentLength => {
                let digits = value.strip_prefix(b": ").unwrap_or_default();
                assert!(!digits.is_empty() && digits.iter().all(u8::is_ascii_digit), "{show}");
            }
            _ => {}
        }
    }
}

/// Checks the properties of the head of a response.
pub fn response_head(bytes: &[u8]) {
    let Ok(Some(length)) = scan(bytes) else { return };
    let bytes = &bytes[..length];
    if naive_fields(bytes).len() + FIELDS_ADDED_MAX > FIELDS_MAX {
        // The forwarded head may have more fields than Mantrid's own parser accepts.
        return;
    }
    for to in [Method::Get, Method::Head] {
        let mut room = field_room();
        let Ok(head) = parse_response(bytes, &mut room, to) else { continue };
        let decode = head.framing == ResponseFraming::Chunked;
        for (client_version, keep_alive) in [
            (Version::Http11, true),
            (Version::Http11, false),
            (Version::Http10, true),
            (Version::Http10, false),
        ] {
            let to_10 = client_version == Version::Http10;
            let framing_out =
                if decode && to_10 { FramingOut::DecodeChunked } else { FramingOut::AsIs };
            let (date, via) = (HttpDate::at(0), Via::NONE);
            let how = ResponseForward { client_version, keep_alive, framing_out, date, via };
            let mut out = Vec::new();
            write_response(&head, how, &mut out);
            let show = String::from_utf8_lossy(&out);
            assert_eq!(HeadScan::default().advance(&out), Ok(Some(out.len())), "{show}");
            let mut room = field_room();
            let again = parse_response(&out, &mut room, to).unwrap_or_else(|bad| {
                panic!("what was written is refused: {bad:?} {show}");
            });
            assert_eq!(again.status, head.status, "{show}");
            assert_eq!(again.version, Version::Http11, "{show}");
            assert_eq!(again.upgrade, head.upgrade, "{show}");
            let framing = match framing_out {
                FramingOut::DecodeChunked => ResponseFraming::UntilClose,
                FramingOut::AsIs => head.framing,
            };
            assert_eq!(again.framing, framing, "{show}");
            if head.status >= 200 {
                let ends = framing == ResponseFraming::UntilClose || !keep_alive;
                assert_eq!(again.keep_alive, !ends, "{show}");
            }
            if !decode || !to_10 {
                let (came, written) = (plain_fields(bytes), plain_fields(&out));
                assert_eq!(came, written, "{show}");
            }
            if head.status >= 200 {
                assert!(0 < count(&out, b"date"), "{show}");
            }
            if to_10 {
                assert_eq!(count(&out, b"transfer-encoding"), 0, "{show}");
            }
            for (name, _) in naive_fields(&out) {
                assert!(classify(name) != Name::Hop, "a hop-by-hop field goes on: {show}");
            }
        }
    }
}

/// Checks that a chunked body ends at the same byte at any split, which is the byte where a naive
/// model ends it, and that its data and the forwarded bytes are those of the model.
pub fn chunked(bytes: &[u8]) {
    let named = Named::of(&[b"X-Named", b"x-other"]);
    for rules in [
        TrailerRules::of_request(Named::default(), false, false),
        TrailerRules::of_request(named, true, true),
        TrailerRules::of_response(named),
    ] {
        chunked_by(bytes, rules);
    }
}

fn chunked_by(bytes: &[u8], rules: TrailerRules) {
    let expected = naive_chunked(bytes, &rules);
    let mut body = Chunked::new(rules);
    let mut data = Vec::new();
    let decoded = body.decode(bytes, &mut data);
    let mut whole = Vec::new();
    match (&expected, decoded) {
        (Naive::Complete(length, content, passed), Ok(consumed)) => {
            assert!(body.is_done());
            assert_eq!(consumed, *length);
            assert_eq!(&data, content);
            whole.clone_from(passed);
        }
        (Naive::More, Ok(consumed)) => {
            assert!(!body.is_done());
            assert_eq!(consumed, bytes.len());
        }
        (Naive::Wrong(expected), Err(refusal)) => assert_eq!(refusal, *expected),
        (expected, actual) => panic!("model: {expected:?}, ours: {actual:?}"),
    }
    for step in [1, 2, 3, 7, bytes.len().max(1)] {
        let mut split = Chunked::new(rules);
        let mut split_data = Vec::new();
        let mut result = Ok(0);
        for piece in bytes.chunks(step) {
            // If the input ended without an error, the body is incomplete and all bytes were
            // consumed.
            assert!(!split.is_done());
            let consumed = split.decode(piece, &mut split_data);
            result = consumed.map(|count| result.unwrap_or(0) + count);
            if result.is_err() || split.is_done() {
                break;
            }
        }
        assert_eq!(result, decoded, "{step} bytes at a time");
        assert_eq!(split.is_done(), body.is_done(), "{step} bytes at a time");
        assert_eq!(split_data, data, "{step} bytes at a time");
        passing(bytes, step, rules, body.is_done().then_some(&whole));
    }
    skipping(bytes, rules, decoded);
}

/// Checks that the same bytes are forwarded at any split. Of an incomplete body they are a prefix
/// of what came, without any of its trailer section.
fn passing(bytes: &[u8], step: usize, rules: TrailerRules, whole: Option<&Vec<u8>>) {
    let mut body = Chunked::new(rules);
    let mut passed = Vec::new();
    for piece in bytes.chunks(step) {
        let Ok(Passed { consumed, as_is }) = body.advance(piece) else { break };
        assert!(as_is <= consumed && consumed <= piece.len());
        passed.extend_from_slice(&piece[..as_is]);
        assert!(bytes.starts_with(&passed));
        if body.is_done() {
            passed.extend(body.take_trailer().unwrap_or_default());
            assert_eq!(body.take_trailer(), None);
            break;
        }
        assert_eq!(body.take_trailer(), None);
    }
    assert_eq!(body.is_done(), whole.is_some());
    if let Some(whole) = whole {
        assert_eq!(&passed, whole, "{step} bytes at a time");
    }
}

/// Checks that data which is forwarded without the checker is accounted for.
fn skipping(bytes: &[u8], rules: TrailerRules, expected: Result<usize, Refusal>) {
    let mut body = Chunked::new(rules);
    let mut at = 0;
    while at < bytes.len() && !body.is_done() {
        let left = usize::try_from(body.data_left()).unwrap_or(usize::MAX).min(bytes.len() - at);
        if left > 0 {
            body.skip_data(left as u64);
            at += left;
            continue;
        }
        match body.advance(&bytes[at..at + 1]) {
            Ok(passed) => at += passed.consumed,
            Err(refusal) => return assert_eq!(Err(refusal), expected, "with skipping"),
        }
    }
    assert_eq!(Ok(at), expected, "with skipping");
}

#[derive(Debug)]
enum Naive {
    /// Length of the body, its data, and the bytes that are forwarded.
    Complete(usize, Vec<u8>, Vec<u8>),
    More,
    Wrong(Refusal),
}

/// Naive model: goes over the whole input line by line. It must not refuse input earlier than the
/// checker does, so an incomplete line is accepted if there is any way to complete it.
fn naive_chunked(bytes: &[u8], rules: &TrailerRules) -> Naive {
    let mut at = 0;
    let mut data = Vec::new();
    loop {
        let (line, end) = naive_line(&bytes[at..]);
        let size = match (naive_size(line, end.is_some()), end) {
            (Err(()), _) => return Naive::Wrong(Refusal::BadChunk),
            (Ok(_), None) => return Naive::More,
            (Ok(size), Some(end)) => {
                at += end;
                size
            }
        };
        if size == 0 {
            break;
        }
        let rest = &bytes[at..];
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if rest.len() <= size {
            return Naive::More;
        }
        data.extend_from_slice(&rest[..size]);
        match &rest[size..] {
            [b'\r'] => return Naive::More,
            [b'\r', b'\n', ..] => at += size + 2,
            _ => return Naive::Wrong(Refusal::BadChunk),
        }
    }
    let trailer = at;
    let mut passed = bytes[..at].to_vec();
    loop {
        let (line, end) = naive_line(&bytes[at..]);
        let too_long = at - trailer + line.len() > crate::limits::TRAILER_BYTES_MAX as usize
            || end
                .is_some_and(|end| at - trailer + end > crate::limits::TRAILER_BYTES_MAX as usize);
        let Ok(passes) = naive_trailer(line, end.is_some(), rules) else {
            return Naive::Wrong(Refusal::BadTrailer);
        };
        if too_long {
            return Naive::Wrong(Refusal::BadTrailer);
        }
        let Some(end) = end else { return Naive::More };
        if passes {
            passed.extend_from_slice(&bytes[at..at + end]);
        }
        at += end;
        if line.is_empty() {
            return Naive::Complete(at, data, passed);
        }
    }
}

/// Returns the bytes up to the first CRLF, and the position behind it. Without a CRLF, returns all
/// bytes except a CR at the end, which may be the first half of a CRLF.
fn naive_line(bytes: &[u8]) -> (&[u8], Option<usize>) {
    match bytes.windows(2).position(|pair| pair == b"\r\n") {
        Some(end) => (&bytes[..end], Some(end + 2)),
        None => (bytes, None),
    }
}

fn naive_size(line: &[u8], whole: bool) -> Result<u64, ()> {
    let limit = crate::limits::CHUNK_LINE_BYTES_MAX as usize;
    if line.len() + 2 * usize::from(whole) > limit {
        return Err(());
    }
    // A CR at the end of an incomplete line either ends the line or is an error. Here it is only
    // checked that it does not come too early.
    let (line, ended) = match line.strip_suffix(b"\r") {
        Some(line) if !whole => (line, true),
        _ => (line, whole),
    };
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let mut size = 0u64;
    for &digit in &line[..digits] {
        size = size.checked_mul(16).ok_or(())? + u64::from((digit as char).to_digit(16).ok_or(())?);
    }
    if digits > 16 || size > i64::MAX as u64 {
        return Err(());
    }
    if digits == 0 && (ended || !line.is_empty()) {
        return Err(());
    }
    naive_extensions(&line[digits..], ended).map(|()| size)
}

/// `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted ) ] )` by recursion on the rest.
fn naive_extensions(rest: &[u8], ended: bool) -> Result<(), ()> {
    let is_space = |b: &&u8| matches!(**b, b' ' | b'\t');
    let skip_space = |rest: &[u8]| rest[rest.iter().take_while(is_space).count()..].to_vec();
    let unfinished = |rest: &[u8]| if rest.is_empty() && !ended { Ok(()) } else { Err(()) };
    if rest.is_empty() {
        return Ok(());
    }
    let rest = skip_space(rest);
    let Some(rest) = rest.strip_prefix(b";") else { return unfinished(&rest) };
    let rest = skip_space(rest);
    let name = rest.iter().take_while(|b| is_token_byte(**b)).count();
    if name == 0 {
        return unfinished(&rest);
    }
    let after_name = &rest[name..];
    let rest = skip_space(after_name);
    let Some(rest) = rest.strip_prefix(b"=") else {
        return naive_extensions(after_name, ended);
    };
    let rest = skip_space(rest);
    if rest.first() != Some(&b'"') {
        let value = rest.iter().take_while(|b| is_token_byte(**b)).count();
        return if value == 0 {
            unfinished(&rest)
        } else {
            naive_extensions(&rest[value..], ended)
        };
    }
    let mut at = 1;
    loop {
        match rest.get(at) {
            None => return unfinished(b""),
            Some(b'"') => return naive_extensions(&rest[at + 1..], ended),
            Some(b'\\') => match rest.get(at + 1) {
                None => return unfinished(b""),
                Some(b) if is_value_byte(*b) => at += 2,
                Some(_) => return Err(()),
            },
            Some(b) if is_value_byte(*b) => at += 1,
            Some(_) => return Err(()),
        }
    }
}

/// Whether the line of a trailer is forwarded.
fn naive_trailer(line: &[u8], whole: bool, rules: &TrailerRules) -> Result<bool, ()> {
    let (line, ended) = match line.strip_suffix(b"\r") {
        Some(line) if !whole => (line, true),
        _ => (line, whole),
    };
    if line.is_empty() {
        return Ok(true);
    }
    let Some(colon) = line.iter().position(|&b| b == b':') else {
        let open = !ended && line.iter().all(|b| is_token_byte(*b));
        return if open { Ok(true) } else { Err(()) };
    };
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let verdict = rules.verdict(name);
    let valid = !name.is_empty()
        && name.iter().all(|b| is_token_byte(*b))
        && verdict != Verdict::Refused
        && value.iter().all(|b| is_value_byte(*b));
    if valid { Ok(verdict == Verdict::Passes) } else { Err(()) }
}

/// Claims that no request is ever accepted, which is wrong, so it must fail. A fuzzer that does not
/// find a counterexample within moments does not test anything.
pub fn canary(bytes: &[u8]) {
    if let Ok(Some(length)) = HeadScan::default().advance(bytes) {
        let mut room = field_room();
        let head = parse_request(&bytes[..length], &mut room);
        let chunked = head.is_ok_and(|head| head.framing == RequestFraming::Chunked);
        assert!(!chunked, "the canary sings: a chunked request was accepted");
    }
}

/// Checks that the client in the lines of a field is the rightmost address that is not trusted, and
/// that nothing that a client writes before it changes that. Here the addresses that end with an
/// even number are trusted.
pub fn client_field(bytes: &[u8]) {
    let is_trusted = |address: IpAddr| match address {
        IpAddr::V4(address) => address.to_bits() % 2 == 0,
        IpAddr::V6(address) => address.to_bits() % 2 == 0,
    };
    let values: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let client = client_in(values.iter().copied(), is_trusted);
    let all = values.join(&b',');
    let members = String::from_utf8_lossy(&all);
    let address =
        |text: &str| Some(text.trim_matches([' ', '\t']).parse::<IpAddr>().ok()?.to_canonical());
    let known: Vec<IpAddr> = members.rsplit(',').map_while(address).collect();
    let expected = known.iter().find(|address| !is_trusted(**address)).or(known.last());
    assert_eq!(client, expected.copied(), "{members:?}");
    assert_eq!(client_in([&*all].into_iter(), is_trusted), client, "one line differs from many");
    if client.is_some_and(|client| !is_trusted(client)) {
        for forged in [&b"192.0.2.1"[..], b"192.0.2.2", b"", b"unknown"] {
            let values = [forged].into_iter().chain(values.iter().copied());
            assert_eq!(client_in(values, is_trusted), client, "{forged:?} before {members:?}");
        }
    }
}
