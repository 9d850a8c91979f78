//! A timeout for writing: a peer has to take what it is sent. Without the timeout, a client that
//! asks for much and reads nothing would keep its place for ever, and a few such clients would keep
//! all places.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::crowd::Seat;

/// A stream whose write fails once no byte at all could be written for `patience`.
pub(super) struct WriteTimeout<S> {
    stream: S,
    patience: Duration,
    /// Place of the connection, to which its progress is reported.
    seat: Option<Seat>,
    /// Timer of a write that has to wait.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> WriteTimeout<S> {
    pub(super) fn new(stream: S, patience: Duration, seat: Option<Seat>) -> WriteTimeout<S> {
        WriteTimeout { stream, patience, seat, stalled: None }
    }

    fn judge(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            if let (Some(seat), Poll::Ready(Ok(count))) = (&self.seat, &written) {
                seat.moved(*count);
            }
            return written;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        stalled.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, room)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.judge(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("a runtime").block_on(future)
    }

    #[test]
    fn peer_that_takes_nothing_is_given_up() {
        run(async {
            let (near, _far) = tokio::io::duplex(8);
            let mut stream = WriteTimeout::new(near, Duration::from_millis(20), None);
            let failed = stream.write_all(&[0; 100]).await.expect_err("nobody reads");
            assert_eq!(failed.kind(), io::ErrorKind::TimedOut);
        });
    }

    #[test]
    fn peer_that_takes_little_is_kept() {
        run(async {
            let (near, mut far) = tokio::io::duplex(8);
            let mut stream = WriteTimeout::new(near, Duration::from_secs(60), None);
            let reading = async {
                let mut room = [0; 1];
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                    far.read_exact(&mut room).await.expect("a byte");
                }
            };
            let (written, ()) = tokio::join!(stream.write_all(&[0; 100]), reading);
            written.expect("all of it");
            assert!(stream.stalled.is_none());
        });
    }
}
