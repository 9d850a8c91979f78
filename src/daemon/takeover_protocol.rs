//! The protocol between two daemons when one takes over from the other: frames over a Unix socket.
//! Each frame has a JSON text, bytes, and file descriptors.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde_json::Value;

use crate::limits::{DESCRIPTORS_AT_ONCE, MANAGEMENT_BODY_BYTES_MAX};

/// Size of the header of a frame: the lengths of the JSON text and of the bytes behind it, four
/// bytes each.
const HEADER: usize = 8;

/// One message of the protocol.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) what: Value,
    pub(super) bytes: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
}

/// Sends a frame with at most [`DESCRIPTORS_AT_ONCE`] descriptors, which stay open here.
pub(super) fn send(
    mut stream: &UnixStream,
    what: &Value,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let text = what.to_string();
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&length(text.len())?.to_be_bytes());
    header[4..].copy_from_slice(&length(bytes.len())?.to_be_bytes());
    let mut space = vec![MaybeUninit::uninit(); space()];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors in one frame"));
    }
    let parts = [IoSlice::new(&header)];
    let sent = retry_on_intr(|| sendmsg(stream, &parts, &mut ancillary, SendFlags::NOSIGNAL))?;
    // The descriptors were sent with the first byte.
    stream.write_all(&header[sent..])?;
    stream.write_all(text.as_bytes())?;
    stream.write_all(bytes)
}

/// Waits for the next frame; `None`: the other side has closed the socket.
pub(super) fn receive(mut stream: &UnixStream) -> io::Result<Option<Frame>> {
    let mut header = [0; HEADER];
    let mut space = vec![MaybeUninit::uninit(); space()];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    // Closing a ring may interrupt this call.
    let got = retry_on_intr(|| {
        let mut parts = [IoSliceMut::new(&mut header)];
        recvmsg(stream, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?
    .bytes;
    if got == 0 {
        return Ok(None);
    }
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = message {
            descriptors.extend(came);
        }
    }
    stream.read_exact(&mut header[got..])?;
    let [a, b, c, d, e, f, g, h] = header;
    let lengths = [u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])];
    let [text, bytes] = lengths.map(|length| length as usize);
    if MANAGEMENT_BODY_BYTES_MAX < text.max(bytes) {
        return Err(io::Error::other("a frame that is too long"));
    }
    let mut read = |length: usize| {
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).map(|()| bytes)
    };
    let what = serde_json::from_slice(&read(text)?)?;
    Ok(Some(Frame { what, bytes: read(bytes)?, descriptors }))
}

fn space() -> usize {
    rustix::cmsg_space!(ScmRights(DESCRIPTORS_AT_ONCE))
}

fn length(length: usize) -> io::Result<u32> {
    u32::try_from(length).map_err(|_| io::Error::other("a frame that is too long"))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_frame_arrives_as_it_was_sent() {
        let (one, other) = UnixStream::pair().expect("a pair");
        let (mut inner, sent) = UnixStream::pair().expect("a pair");
        let bytes = vec![7; 100_000];
        let thread = std::thread::spawn(move || {
            send(&one, &json!({ "n": 1 }), &bytes, &[sent.as_fd(), sent.as_fd()]).expect("sent");
            send(&one, &json!("last"), b"", &[]).expect("sent");
        });
        let frame = receive(&other).expect("a frame").expect("not the end");
        assert_eq!((frame.what, frame.bytes.len()), (json!({ "n": 1 }), 100_000));
        assert_eq!(frame.descriptors.len(), 2);
        inner.write_all(b"x").expect("written");
        let mut byte = [0];
        UnixStream::from(frame.descriptors.into_iter().next().expect("one"))
            .read_exact(&mut byte)
            .expect("the same socket");
        assert_eq!(receive(&other).expect("a frame").expect("not the end").what, json!("last"));
        thread.join().expect("no panic");
        assert!(receive(&other).expect("no error").is_none());
    }
}
