//! HTTP/1 as bytes: where a message ends, what of it goes on, and the answers we give ourselves.
//!
//! A head is parsed once, in place, by `httparse`, and only these fields are interpreted: the
//! request target, `Host`, and what decides where the message ends or which way the bytes flow
//! (`Content-Length`, `Transfer-Encoding`, `Connection`, `Upgrade`, `Expect`), with the forwarding
//! fields beside them. Everything else goes on byte for byte and in order, and of a body only
//! the framing is looked at.
//!
//! Ambiguity is refused, never repaired: two readers who disagree about where a message ends are
//! a security hole for the one behind. What the RFCs let a recipient mend, we refuse, and say so
//! at the place.
//!
//! Pure: no I/O, no clock, no threads; nothing is allocated but the growth of an output buffer
//! that the caller uses again.

mod affinity;
mod chunked;
mod client_field;
mod date;
mod edit;
mod field;
mod forward;
mod framing;
mod head;
mod method;
mod pages;
#[cfg(any(test, fuzzing))]
pub mod properties;
mod refusal;
mod reply;
mod scan;
mod target;
#[cfg(test)]
mod tests;
mod version;
mod via;

pub use crate::scheme::Scheme;
pub use chunked::{Chunked, Passed, TrailerRules};
pub use client_field::client_in;
pub use date::HttpDate;
pub use edit::{add_field, change_fields, replace_field, set_host};
pub use forward::{
    FramingOut, RequestForward, ResponseForward, say_close, write_request, write_response,
};
pub use framing::{RequestFraming, ResponseFraming};
pub use head::{FieldRoom, RequestHead, ResponseHead, field_room, parse_request, parse_response};
pub use method::Method;
pub use pages::{Page, PageError, Pages, write_page, write_page_as};
pub use refusal::{BadResponse, Refusal};
pub use reply::{
    ReplyTo, reason, status_of, write_empty, write_redirect, write_refusal, write_status,
    write_too_many,
};
pub use scan::HeadScan;
pub use target::Target;
pub use version::Version;
pub use via::Via;
