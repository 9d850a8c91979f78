//! HTTP/1 as bytes: where a message ends, which parts of it are forwarded, and the replies that
//! Mantrid makes itself.
//!
//! A head is parsed once, in place, by `httparse`, and only these fields are interpreted: the
//! request target, `Host`, and what decides where the message ends or which way the bytes flow
//! (`Content-Length`, `Transfer-Encoding`, `Connection`, `Upgrade`, `Expect`), with the forwarding
//! fields beside them. Everything else is forwarded byte for byte and in order. Of a body, only the
//! framing is parsed.
//!
//! Ambiguity is refused, never repaired: if Mantrid and a backend disagree about where a message
//! ends, an attacker can smuggle requests to the backend. Where an RFC allows a recipient to repair
//! a message, Mantrid refuses it, and a comment there says so.
//!
//! Pure: no I/O, no clock, no threads. Nothing is allocated, except when an output buffer grows,
//! which the caller uses again.

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
