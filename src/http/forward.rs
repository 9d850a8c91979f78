//! Writes heads as they are forwarded: hop-by-hop fields are removed, forwarding fields are added,
//! and everything else stays as it came.
//!
//! Consecutive lines that stay are copied in one go, so a head costs about as many copies as it has
//! dropped fields.

use std::net::{IpAddr, Ipv4Addr};

use super::field::{FieldSet, Fields};
use super::framing::Lengths;
use super::{
    HttpDate, RequestFraming, RequestHead, ResponseFraming, ResponseHead, Scheme, Target, Version,
    Via,
};

/// Most bytes that are added to a head: Host (bounded by the head itself), forwarding fields,
/// framing, Via, Date, Connection.
const ADDED_BYTES: usize = 384;

/// Facts about a request that are not in its head.
#[derive(Copy, Clone, Debug)]
pub struct RequestForward {
    /// Address of the client.
    pub client: IpAddr,
    /// Whether the listener is a `bind_internal`: then forwarding fields are kept unchanged, and
    /// none are added.
    pub trusted: bool,
    /// Scheme that the client spoke.
    pub scheme: Scheme,
    /// Number that is sent as X-Request-Id, in hexadecimal, unless a trusted peer gave one; 0: that
    /// field is forwarded as it came.
    pub request_id: u128,
    /// Name of this proxy in Via, if there is one.
    pub via: Via,
}

/// Appends the head as it is sent to the backend: with HTTP/1.1, in origin form, without hop-by-hop
/// fields.
pub fn write_request(head: &RequestHead<'_, '_>, how: RequestForward, out: &mut Vec<u8>) {
    out.reserve(head.fields.head.len() + ADDED_BYTES);
    let mut dropped = head.dropped;
    if !how.trusted {
        dropped = dropped.union(head.forwarding);
    }
    if !head.upgrade {
        dropped = dropped.union(head.upgrade_fields);
    }
    let writes_id = how.request_id != 0 && !(how.trusted && head.request_id().is_some());
    if writes_id {
        dropped = dropped.union(head.request_ids);
    }
    let as_it_came =
        head.version == Version::Http11 && !matches!(head.target, Target::Absolute { .. });
    let from = if as_it_came {
        0
    } else {
        write_request_line(head, out);
        head.fields.line_start(0)
    };
    if head.writes_host && !as_it_came {
        // RFC 9110 §7.2: Host should be the first field.
        write_host(head, out);
        copy_lines(head.fields, from, dropped, out);
    } else {
        copy_lines(head.fields, from, dropped, out);
        if head.writes_host {
            write_host(head, out);
        }
    }
    if head.writes_framing {
        match head.framing {
            RequestFraming::Length(length) => write_length(length, out),
            RequestFraming::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            RequestFraming::None => {}
        }
    }
    if !how.trusted {
        write_forwarding(how, out);
    }
    if writes_id {
        write_request_id(how.request_id, out);
    }
    how.via.write(head.version, out);
    if head.takes_trailers {
        // RFC 9110 §10.1.4: no other coding is offered, because Mantrid decodes none.
        out.extend_from_slice(b"TE: trailers\r\n");
    }
    out.extend_from_slice(match (head.upgrade, head.takes_trailers) {
        (false, false) => b"\r\n",
        (true, false) => b"Connection: upgrade\r\n\r\n",
        (false, true) => b"Connection: TE\r\n\r\n",
        (true, true) => b"Connection: upgrade, TE\r\n\r\n",
    });
}

/// Adds `Connection: close` to a whole request head.
pub fn say_close(head: &mut Vec<u8>) {
    debug_assert!(head.ends_with(b"\r\n\r\n"), "a whole head");
    head.truncate(head.len() - 2);
    head.extend_from_slice(b"Connection: close\r\n\r\n");
}

/// Writes the request line for the backend (RFC 9112 §3.2.1, and §3.2.4 for OPTIONS without a
/// path).
fn write_request_line(head: &RequestHead<'_, '_>, out: &mut Vec<u8>) {
    out.extend_from_slice(head.method_bytes);
    out.push(b' ');
    match head.target {
        Target::Origin(path) => out.extend_from_slice(path),
        Target::Asterisk => out.push(b'*'),
        Target::Absolute { path: b"", .. } if head.method == super::Method::Options => {
            out.push(b'*');
        }
        Target::Absolute { path, .. } => {
            if path.first() != Some(&b'/') {
                out.push(b'/');
            }
            out.extend_from_slice(path);
        }
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

fn write_host(head: &RequestHead<'_, '_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Host: ");
    out.extend_from_slice(head.host.unwrap_or_default());
    out.extend_from_slice(b"\r\n");
}

/// Writes the forwarding fields, with the client's address and scheme.
fn write_forwarding(how: RequestForward, out: &mut Vec<u8>) {
    out.extend_from_slice(b"X-Forwarded-For: ");
    write_address(how.client, out);
    out.extend_from_slice(match how.scheme.is_secure() {
        false => b"\r\nX-Forwarded-Proto: http\r\n".as_slice(),
        true => b"\r\nX-Forwarded-Proto: https\r\n",
    });
}

/// Whether the body is forwarded as it came.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum FramingOut {
    /// Byte for byte.
    AsIs,
    /// The data without chunk framing, for an HTTP/1.0 client. Such a body ends with the
    /// connection.
    DecodeChunked,
}

/// Facts about a response that are not in its head.
#[derive(Copy, Clone, Debug)]
pub struct ResponseForward {
    /// Version that the client speaks.
    pub client_version: Version,
    /// Whether the client's connection is kept open after the response.
    pub keep_alive: bool,
    /// Whether the body is forwarded as it came.
    pub framing_out: FramingOut,
    /// Date that is added to a final response without one (RFC 9110 §6.6.1).
    pub date: HttpDate,
    /// Name of this proxy in Via, if there is one.
    pub via: Via,
}

/// Appends the head as it is sent to the client: with HTTP/1.1, without hop-by-hop fields.
pub fn write_response(head: &ResponseHead<'_, '_>, how: ResponseForward, out: &mut Vec<u8>) {
    let fields = head.fields;
    out.reserve(fields.head.len() + ADDED_BYTES);
    let chunked = matches!(head.lengths, Lengths::Chunked);
    // RFC 9112 §6.1: Transfer-Encoding must not be sent to a client that did not use HTTP/1.1.
    let decoded = chunked
        && (how.framing_out == FramingOut::DecodeChunked || how.client_version == Version::Http10);
    debug_assert!(
        !decoded
            || how.framing_out == FramingOut::DecodeChunked
            || head.framing == ResponseFraming::None,
        "chunks go to a client that can't read them"
    );
    let mut dropped = head.dropped;
    if decoded {
        dropped = dropped.union(head.framing_fields).union(head.trailer);
    }
    write_status_line(fields, out);
    copy_lines(fields, fields.line_start(0), dropped, out);
    if head.writes_framing {
        match head.lengths {
            Lengths::Length(length) => write_length(length, out),
            Lengths::Chunked if !decoded => {
                out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
            }
            Lengths::Chunked | Lengths::Neither => {}
        }
    }
    how.via.write(head.version, out);
    if !head.has_date && head.status >= 200 {
        how.date.write(out);
    }
    let ends_with_connection = head.framing == ResponseFraming::UntilClose
        || (decoded && head.framing == ResponseFraming::Chunked);
    write_connection(head, how, ends_with_connection, out);
    out.extend_from_slice(b"\r\n");
}

/// Writes a status line with HTTP/1.1.
fn write_status_line(fields: Fields<'_, '_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1");
    let line_end = fields.line_start(0) - 2;
    out.extend_from_slice(&fields.head[b"HTTP/1.1".len()..line_end]);
    if line_end == b"HTTP/1.1 200".len() {
        // RFC 9112 §4: the space is sent even without a reason phrase.
        out.push(b' ');
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the Connection field of a response, if it needs one.
fn write_connection(
    head: &ResponseHead<'_, '_>,
    how: ResponseForward,
    ends_with_connection: bool,
    out: &mut Vec<u8>,
) {
    // An interim response says nothing about the connection, and after a 101 no HTTP follows.
    let of_connection: &[u8] = if head.status < 200 {
        b""
    } else if !how.keep_alive || ends_with_connection {
        b"close"
    } else if how.client_version == Version::Http10 {
        b"keep-alive"
    } else {
        b""
    };
    let upgrade: &[u8] = if head.keeps_upgrade { b"upgrade" } else { b"" };
    if !(upgrade.is_empty() && of_connection.is_empty()) {
        out.extend_from_slice(b"Connection: ");
        out.extend_from_slice(upgrade);
        if !(upgrade.is_empty() || of_connection.is_empty()) {
            out.extend_from_slice(b", ");
        }
        out.extend_from_slice(of_connection);
        out.extend_from_slice(b"\r\n");
    }
}

/// Copies the field lines from the offset `from` on, without the fields in `dropped`. `from` is at
/// the first field line or before it. The final empty line is not copied.
fn copy_lines(fields: Fields<'_, '_>, from: usize, dropped: FieldSet, out: &mut Vec<u8>) {
    let mut from = from;
    let mut rest = dropped;
    while let Some(index) = rest.first() {
        out.extend_from_slice(&fields.head[from..fields.line_start(index)]);
        let next = dropped.gap_from(index);
        from = fields.line_start(next);
        rest = dropped.starting_at(next);
    }
    out.extend_from_slice(&fields.head[from..fields.head.len() - 2]);
}

fn write_request_id(id: u128, out: &mut Vec<u8>) {
    use std::io::Write;
    // Writing to a Vec can't fail.
    let _ = write!(out, "X-Request-Id: {id:032x}\r\n");
}

fn write_length(length: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Content-Length: ");
    write_number(length, out);
    out.extend_from_slice(b"\r\n");
}

/// Writes a number in decimal digits, without the cost of `fmt`.
pub(super) fn write_number(number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Writes an address. An IPv4 client of a dual-stack listener is written as IPv4.
fn write_address(address: IpAddr, out: &mut Vec<u8>) {
    match address.to_canonical() {
        IpAddr::V4(address) => write_ipv4(address, out),
        IpAddr::V6(address) => {
            use std::io::Write;
            // Writing to a Vec can't fail.
            let _ = write!(out, "{address}");
        }
    }
}

fn write_ipv4(address: Ipv4Addr, out: &mut Vec<u8>) {
    for (index, octet) in address.octets().into_iter().enumerate() {
        if index > 0 {
            out.push(b'.');
        }
        write_number(u64::from(octet), out);
    }
}

#[cfg(test)]
mod tests;
