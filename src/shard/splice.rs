//! Bulk bytes of one direction, moved from connection to connection through a pipe (splice(2))
//! without copying them: bodies of a known length, and tunnels for as long as their bytes come.

use super::ending::Ending;
use crate::http::Refusal;
use crate::limits;
use crate::ring::{Abort, Moved, Pipe, Ring, Stream};

/// Reason why the bytes of a direction did not get through.
#[derive(Debug)]
pub(super) enum Broken {
    /// The sender closed or reset before the end.
    Source,
    /// The sender stalled.
    SourceTimeout,
    /// The framing is wrong.
    Framing(Refusal),
    /// The receiver closed, reset or stalled.
    Target,
}

impl Broken {
    /// Ending of a request whose body broke off on its way to the backend.
    pub(super) fn of_upload(&self) -> Ending {
        match self {
            Broken::SourceTimeout => Ending::ClientTimeout,
            Broken::Framing(refusal) => Ending::Refused(*refusal),
            Broken::Source | Broken::Target => Ending::ClientGone,
        }
    }

    /// Ending of a request whose response broke off on its way to the client.
    pub(super) fn of_download(&self) -> Ending {
        match self {
            Broken::Target => Ending::ClientGone,
            Broken::Framing(refusal) => Ending::BackendCut(Some(*refusal)),
            Broken::Source | Broken::SourceTimeout => Ending::BackendCut(None),
        }
    }

    /// Says why a wait for the source was cut short.
    pub(super) fn source(error: Abort) -> Broken {
        match error {
            Abort::TimedOut => Broken::SourceTimeout,
            Abort::Io(_) => Broken::Source,
        }
    }

    /// Says why a wait for the target was cut short. Marks the sending as failed: otherwise the
    /// target would wait for the rest, and we for its response.
    pub(super) fn target(target: &Stream, error: Abort) -> Broken {
        if let Abort::Io(error) = error {
            target.sending_failed(&error);
        }
        Broken::Target
    }
}

/// One direction, as [`splice`] sees it. The direction itself decides what a wait watches, and for
/// how long.
pub(super) trait Direction {
    fn ring(&self) -> &Ring;

    fn source(&self) -> &Stream;

    fn target(&self) -> &Stream;

    /// Takes note of bytes that came from the source.
    fn moved(&self, count: usize);

    /// Waits until the source has bytes, its end or an error.
    async fn source_ready(&self) -> Result<(), Broken>;

    /// Waits until the target takes bytes, or has an error.
    async fn target_ready(&self) -> Result<(), Broken>;
}

/// Moves `left` bytes, behind those that the pipe holds already; fewer if the source ends before.
/// Before the call the target must have taken all it was sent, and no receive of the source may be
/// armed.
pub(super) async fn splice(
    direction: &impl Direction,
    pipe: &mut Pipe,
    left: &mut u64,
) -> Result<(), Broken> {
    direction.source().set_nonblocking();
    direction.target().set_nonblocking();
    // A direction that moves on while its bytes are there keeps them in the CPU's cache: in turns
    // of one pipe each, 64 uploads at a time cost nearly twice as much.
    let mut turn = limits::SPLICE_TURN_BYTES;
    while 0 < *left {
        let filled = pipe.fill(direction.source(), *left).ok();
        if let Some(Moved::Bytes(count)) = filled {
            *left -= count as u64;
            direction.moved(count);
        }
        while 0 < pipe.held() {
            match pipe.empty(direction.target()) {
                Ok(Moved::Bytes(_)) => {}
                Ok(Moved::Later) => direction.target_ready().await?,
                Ok(Moved::End) => return Err(Broken::Target),
                Err(error) => {
                    return Err(Broken::target(direction.target(), Abort::Io(error)));
                }
            }
        }
        match filled {
            Some(Moved::Bytes(count)) if count < turn => turn -= count,
            // If both sides are fast, no other direction would get its turn otherwise.
            Some(Moved::Bytes(_)) if 0 < *left => {
                direction.ring().give_way().await;
                turn = limits::SPLICE_TURN_BYTES;
            }
            Some(Moved::Bytes(_)) => {}
            Some(Moved::Later) => {
                direction.source_ready().await?;
                turn = limits::SPLICE_TURN_BYTES;
            }
            Some(Moved::End) => return Ok(()),
            None => return Err(Broken::Source),
        }
    }
    Ok(())
}
