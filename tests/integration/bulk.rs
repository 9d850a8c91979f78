//! Large bodies whose every byte is known, so that a lost, doubled or misplaced one shows.

use std::io::Write;
use std::net::TcpStream;
use std::sync::OnceLock;

use crate::message::assert_same;
use crate::script::Connection;

pub const MIB: usize = 1024 * 1024;

/// Coprime to every buffer size, so that a block repeated or left out never fits.
const PERIOD: usize = 1_048_573;

/// Byte `n` of every large body is byte `n % PERIOD` of this; twice as long, to slice at will.
fn pattern() -> &'static [u8] {
    static PATTERN: OnceLock<Vec<u8>> = OnceLock::new();
    PATTERN.get_or_init(|| {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        let period: Vec<u8> = (0..PERIOD).map(|_| next()).collect();
        [period.as_slice(), &period].concat()
    })
}

/// The bytes from `offset`, at most `PERIOD` of them.
pub fn bytes_at(offset: usize, count: usize) -> &'static [u8] {
    let start = offset % PERIOD;
    &pattern()[start..start + count.min(PERIOD)]
}

/// Sends bytes `from` to `to` of a body; stops at the first error.
pub fn send_plain(stream: &mut TcpStream, from: usize, to: usize) -> std::io::Result<()> {
    let mut at = from;
    while at < to {
        let piece = bytes_at(at, (to - at).min(MIB / 2));
        stream.write_all(piece)?;
        at += piece.len();
    }
    Ok(())
}

/// Sends a body of `total` bytes in chunks from 1 byte to half a MiB.
pub fn send_chunked(stream: &mut TcpStream, total: usize) -> std::io::Result<()> {
    let sizes = [1, 2, 500, 16_000, 70_000, MIB / 2, 4096, 300_000];
    let mut at = 0;
    let mut turn = 0;
    while at < total {
        let piece = bytes_at(at, (total - at).min(sizes[turn % sizes.len()]));
        let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
        chunk.extend_from_slice(piece);
        chunk.extend_from_slice(b"\r\n");
        stream.write_all(&chunk)?;
        at += piece.len();
        turn += 1;
    }
    stream.write_all(b"0\r\n\r\n")
}

/// Receives bytes `from` to `to` of a body and compares each.
#[track_caller]
pub fn expect_plain(connection: &mut Connection, from: usize, to: usize) {
    let mut room = vec![0; 256 * 1024];
    let mut at = from;
    while at < to {
        let most = room.len().min(to - at);
        let count = connection.read_some(&mut room[..most]);
        assert_same(&format!("the body at {at}"), bytes_at(at, count), &room[..count]);
        at += count;
    }
}

/// Receives a chunked body of `total` bytes and compares each.
#[track_caller]
pub fn expect_chunked(connection: &mut Connection, total: usize) {
    let mut at = 0;
    loop {
        let line = String::from_utf8(connection.expect_line()).expect("a chunk size");
        let size = usize::from_str_radix(&line, 16).expect("a chunk size");
        if size == 0 {
            assert_same("the end of the body", b"", &connection.expect_line());
            assert_eq!(total, at, "length of the body: expected and found");
            return;
        }
        expect_plain(connection, at, at + size);
        at += size;
        assert_same("the end of a chunk", b"", &connection.expect_line());
    }
}
