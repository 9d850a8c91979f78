//! The strict parse of a head, in place: nothing is copied, every part is a slice of the input.
//!
//! `httparse` finds the parts. Input that it accepts and Mantrid does not is refused before it
//! (`scan`) or after it (here). `httparse` can't disagree about where the head ends: it gets
//! exactly the bytes that `HeadScan` measured, and if it does not use all of them, the head is
//! refused.

use std::mem::MaybeUninit;

use httparse::{Error, Header, Status};

use super::chunked::TrailerRules;
use super::field::{FieldSet, Fields, Named, Once, Survey, is_token, survey};
use super::framing::{Lengths, RequestFraming, ResponseFraming};
use super::method::Method;
use super::refusal::{BadResponse, Refusal};
use super::target::{Target, check_host, parse_target};
use super::version::Version;
use super::via::Via;
use crate::fields::is_same;
use crate::limits::FIELDS_MAX;
use crate::scheme::Scheme;

/// Buffer in which `httparse` notes the fields.
pub type FieldRoom<'b> = [MaybeUninit<Header<'b>>; FIELDS_MAX];

/// Makes a buffer for the fields of one head. It is not initialized, because clearing 4 KiB would
/// cost as much as parsing a short head.
pub fn field_room<'b>() -> FieldRoom<'b> {
    [const { MaybeUninit::uninit() }; FIELDS_MAX]
}

/// A request head that was accepted.
#[derive(Debug)]
pub struct RequestHead<'h, 'b> {
    /// The method.
    pub method: Method,
    /// The method as written.
    pub method_bytes: &'b [u8],
    /// Version that the client speaks.
    pub version: Version,
    /// The target.
    pub target: Target<'b>,
    /// Authority of an absolute target, otherwise the value of Host. Its syntax is valid, and it is
    /// as written. `None` only in HTTP/1.0.
    pub host: Option<&'b [u8]>,
    /// The end of the body.
    pub framing: RequestFraming,
    /// Whether the client wants to keep the connection alive.
    pub keep_alive: bool,
    /// Whether the client waits for a 100 before it sends the body. Never in HTTP/1.0.
    pub expect_continue: bool,
    /// Whether the client offers to upgrade to a protocol that Mantrid would forward. A caller may
    /// clear this; then the offer is not forwarded.
    pub upgrade: bool,
    /// Whether the client reads trailers, and they can reach it.
    pub takes_trailers: bool,
    /// Whether the request has credentials that authenticate its connection (NTLM, Negotiate).
    pub authenticates: bool,
    /// Scheme in X-Forwarded-Protocol, or else in X-Forwarded-Proto. It may be believed only on
    /// `bind_internal`.
    pub forwarded_scheme: Option<Scheme>,
    pub(super) fields: Fields<'h, 'b>,
    /// Fields that are not forwarded.
    pub(super) dropped: FieldSet,
    /// Fields that are forwarded only with `upgrade`.
    pub(super) upgrade_fields: FieldSet,
    /// Fields that are forwarded if a trusted peer wrote them.
    pub(super) forwarding: FieldSet,
    /// X-Request-Id.
    pub(super) request_ids: FieldSet,
    pub(super) request_id: Option<&'b [u8]>,
    pub(super) via: FieldSet,
    pub(super) named: Named,
    /// Whether Host was dropped from the fields, so that Mantrid writes it.
    pub(super) writes_host: bool,
    /// Whether the framing field was dropped from the fields, so that Mantrid writes it.
    pub(super) writes_framing: bool,
}

impl<'b> RequestHead<'_, 'b> {
    /// The X-Request-Id of the request, if there is one and it is valid: visible ASCII, not too
    /// long.
    pub fn request_id(&self) -> Option<&'b [u8]> {
        self.request_id.filter(|id| {
            (1..=crate::limits::REQUEST_ID_BYTES_MAX).contains(&id.len())
                && id.iter().all(u8::is_ascii_graphic)
        })
    }

    /// Whether a field has this name, however it is spelled (`X-A`, `x_a`).
    pub fn has_field(&self, name: &str) -> bool {
        self.fields.list.iter().any(|field| is_same(field.name.as_bytes(), name.as_bytes()))
    }

    /// Whether the request has already passed through the proxy with this name.
    pub fn came_through(&self, via: &Via) -> bool {
        self.via.iter().any(|index| via.is_in(self.fields.list[index].value))
    }

    /// Returns the values of the fields of this name, in the order in which they came.
    pub fn values(&self, name: &str) -> impl DoubleEndedIterator<Item = &'b [u8]> {
        let list = self.fields.list.iter();
        let named = list.filter(move |field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| field.value)
    }

    /// Returns the rules for the trailers behind the body.
    pub fn trailers(&self, trusted: bool, writes_id: bool) -> TrailerRules {
        TrailerRules::of_request(self.named, trusted, writes_id)
    }

    /// Path and query for a redirect. The leading `/` may be missing; empty for `*`.
    pub fn path_and_query(&self) -> &'b [u8] {
        match self.target {
            Target::Origin(path) | Target::Absolute { path, .. } => path,
            Target::Asterisk => b"",
        }
    }
}

/// Parses `head`, which is exactly what `HeadScan` measured.
pub fn parse_request<'h, 'b>(
    head: &'b [u8],
    room: &'h mut FieldRoom<'b>,
) -> Result<RequestHead<'h, 'b>, Refusal> {
    let head = head.strip_prefix(b"\r\n").unwrap_or(head);
    let (name, path, version, fields) = request_parts(head, room)?;
    let method = Method::of(name);
    if method == Method::Connect {
        return Err(Refusal::Connect);
    }
    let target = parse_target(method, path.as_bytes())?;
    let survey = survey(&fields)?;
    let host = host(&survey, version, target)?;
    let framing = RequestFraming::of(&survey, version)?;
    if survey.expect_other {
        return Err(Refusal::BadExpectation);
    }

    let is_11 = version == Version::Http11;
    // A request with a body may upgrade, too (`docker exec` is a POST): the 101 is accepted after
    // the body was sent.
    let upgrade =
        is_11 && survey.upgrade_option && survey.upgrade_wanted && !survey.upgrade_to_http;
    let writes_host = survey.host_is_odd || matches!(target, Target::Absolute { .. });
    Ok(RequestHead {
        method,
        method_bytes: name.as_bytes(),
        version,
        target,
        host,
        framing,
        keep_alive: keeps_alive(&survey, version),
        expect_continue: is_11 && survey.expect_continue,
        upgrade,
        takes_trailers: is_11 && survey.takes_trailers,
        authenticates: survey.authenticates,
        forwarded_scheme: survey.forwarded_scheme(),
        fields,
        dropped: dropped(&survey, version, writes_host),
        upgrade_fields: survey.upgrade,
        forwarding: survey.forwarding,
        request_ids: survey.request_ids,
        request_id: survey.request_id,
        via: survey.via,
        named: survey.named,
        writes_host,
        writes_framing: survey.framing_is_odd,
    })
}

/// Returns the fields of a request that are not forwarded.
#[inline]
fn dropped(survey: &Survey<'_>, version: Version, writes_host: bool) -> FieldSet {
    let mut dropped = survey.hop.union(survey.empty_expect);
    if version == Version::Http10 {
        // RFC 9110 §10.1.1: Expect in HTTP/1.0 is ignored. Forwarded with the version HTTP/1.1, it
        // would take effect at the backend.
        dropped = dropped.union(survey.expect);
    }
    // Fields that decide framing and routing are written anew if they are spelled unusually. So a
    // backend that treats white space or case in another way reads the same as Mantrid.
    if survey.framing_is_odd {
        dropped = dropped.union(survey.framing);
    }
    if writes_host {
        dropped = dropped.union(survey.hosts);
    }
    dropped
}

/// Method, target, version and fields of a request head, as `httparse` finds them.
#[inline]
fn request_parts<'h, 'b>(
    head: &'b [u8],
    room: &'h mut FieldRoom<'b>,
) -> Result<(&'b str, &'b str, Version, Fields<'h, 'b>), Refusal> {
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(head, room) {
        // httparse skips any number of empty lines, but the scan has refused more than one.
        Ok(Status::Complete(length)) if length == head.len() && head[0] != b'\r' => {}
        Ok(_) => return Err(Refusal::BadRequestLine),
        Err(error) => return Err(why_no_request(head, error)),
    }
    let httparse::Request { method: Some(name), path: Some(path), version: Some(minor), headers } =
        parsed
    else {
        return Err(Refusal::BadRequestLine);
    };
    Ok((name, path, version(minor), Fields { head, list: headers }))
}

/// A response head that was accepted.
#[derive(Debug)]
pub struct ResponseHead<'h, 'b> {
    /// Version that the backend speaks.
    pub version: Version,
    /// 100 to 999.
    pub status: u16,
    /// The end of the body.
    pub framing: ResponseFraming,
    /// Whether the backend keeps the connection alive after the body.
    pub keep_alive: bool,
    /// Whether the status is 101, so that no HTTP follows. It is an error unless the request asked
    /// for it.
    pub upgrade: bool,
    /// Seconds for which the backend keeps an idle connection, if it says so (`Keep-Alive:
    /// timeout=N`).
    pub keep_alive_seconds: Option<u32>,
    /// Whether the response asks for credentials that authenticate its connection (NTLM,
    /// Negotiate).
    pub authenticates: bool,
    pub(super) fields: Fields<'h, 'b>,
    pub(super) dropped: FieldSet,
    /// Content-Length or Transfer-Encoding.
    pub(super) framing_fields: FieldSet,
    pub(super) trailer: FieldSet,
    /// Whether the response has a Date.
    pub(super) has_date: bool,
    /// Whether Upgrade is forwarded: a 426 says with it what to upgrade to (RFC 9110 §15.5.22).
    pub(super) keeps_upgrade: bool,
    pub(super) named: Named,
    /// Meaning of the framing fields, even if no body follows.
    pub(super) lengths: Lengths,
    /// Whether the framing field was dropped from the fields, so that Mantrid writes it.
    pub(super) writes_framing: bool,
}

impl ResponseHead<'_, '_> {
    /// Returns the rules for the trailers behind the body.
    pub fn trailers(&self) -> TrailerRules {
        TrailerRules::of_response(self.named)
    }

    /// Whether the head announces a body that must not follow, as it may in a response to HEAD, a
    /// 204 or a 304. A faulty backend sends the body all the same.
    pub fn names_missing_body(&self) -> bool {
        let names_body = match self.lengths {
            Lengths::Length(length) => length != 0,
            Lengths::Chunked => true,
            Lengths::Neither => false,
        };
        self.framing == ResponseFraming::None && names_body
    }
}

/// Parses `head`, which is exactly what `HeadScan` measured, as the response to a request with the
/// method `to`.
pub fn parse_response<'h, 'b>(
    head: &'b [u8],
    room: &'h mut FieldRoom<'b>,
    to: Method,
) -> Result<ResponseHead<'h, 'b>, BadResponse> {
    let (version, status, fields) = response_parts(head, room)?;
    let survey = survey(&fields)?;
    // The fields are checked even if they do not matter here: a cache or a client that gets the
    // response may use them.
    let lengths = Lengths::of(&survey, version)?;
    let framing = ResponseFraming::of(lengths, status, to);
    let upgrade = status == 101;
    let names_protocol = survey.upgrade_wanted && !survey.upgrade_to_http;
    if upgrade && !(names_protocol && survey.upgrade_option && version == Version::Http11) {
        return Err(BadResponse::Switch);
    }
    let mut dropped = survey.hop;
    let keeps_upgrade = upgrade || (status == 426 && !survey.upgrade.is_empty());
    if !keeps_upgrade {
        dropped = dropped.union(survey.upgrade);
    }
    // RFC 9110 §8.6, RFC 9112 §6.1: a 1xx or 204 must have neither field. A client that believes
    // one would wait for a body that never comes.
    let none_allowed = status < 200 || status == 204;
    if none_allowed || survey.framing_is_odd {
        dropped = dropped.union(survey.framing);
    }
    Ok(ResponseHead {
        version,
        status,
        framing,
        keep_alive: keeps_alive(&survey, version) && framing != ResponseFraming::UntilClose,
        upgrade,
        keep_alive_seconds: survey.keep_alive_seconds,
        authenticates: survey.authenticates,
        fields,
        dropped,
        framing_fields: survey.framing,
        trailer: survey.trailer,
        has_date: !survey.dates.without(survey.hop).is_empty(),
        keeps_upgrade,
        named: survey.named,
        lengths,
        writes_framing: survey.framing_is_odd && !none_allowed,
    })
}

/// Version, status and fields of a response head, as `httparse` finds them.
#[inline]
fn response_parts<'h, 'b>(
    head: &'b [u8],
    room: &'h mut FieldRoom<'b>,
) -> Result<(Version, u16, Fields<'h, 'b>), BadResponse> {
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut parsed, head, room) {
        // An empty line is allowed only before requests (RFC 9112 §2.2).
        Ok(Status::Complete(length)) if length == head.len() && head[0] == b'H' => {}
        Ok(_) | Err(Error::Status | Error::Version | Error::Token) => {
            return Err(BadResponse::StatusLine);
        }
        Err(error) => return Err(why_no_fields(head, error).into()),
    }
    match parsed {
        httparse::Response {
            version: Some(minor), code: Some(status @ 100..), headers, ..
        } => Ok((version(minor), status, Fields { head, list: headers })),
        _ => Err(BadResponse::StatusLine),
    }
}

fn version(minor: u8) -> Version {
    if minor == 0 { Version::Http10 } else { Version::Http11 }
}

/// Whether the connection persists after this message (RFC 9112 §9.3).
fn keeps_alive(survey: &Survey<'_>, version: Version) -> bool {
    !survey.close && (version == Version::Http11 || survey.keep_alive)
}

/// Returns the host of a request. RFC 9112 §3.2 requires exactly one valid Host in HTTP/1.1, and at
/// most one in HTTP/1.0. A target in absolute form overrides Host (§3.2.2), but a bad Host is
/// refused all the same.
fn host<'b>(
    survey: &Survey<'b>,
    version: Version,
    target: Target<'b>,
) -> Result<Option<&'b [u8]>, Refusal> {
    let field = match survey.host {
        Once::Value(value) => {
            check_host(value)?;
            Some(value)
        }
        Once::Repeated => return Err(Refusal::TwoHosts),
        Once::Absent if version == Version::Http11 => return Err(Refusal::NoHost),
        Once::Absent => None,
    };
    Ok(match target {
        Target::Absolute { authority, .. } => Some(authority),
        _ => field,
    })
}

/// Finds the refusal for an error of httparse, which is less specific.
#[cold]
fn why_no_request(head: &[u8], error: Error) -> Refusal {
    let line = lines(head).next().unwrap_or_default();
    let mut words = line.split(|&b| b == b' ');
    let words = [words.next(), words.next(), words.next(), words.next()];
    match (error, words) {
        (Error::Version, [_, _, Some(word), None]) if is_some_version(word) => Refusal::BadVersion,
        (Error::Token, [Some(method), _, Some(_), None]) if is_token(method) => Refusal::BadTarget,
        (Error::HeaderName | Error::HeaderValue | Error::TooManyHeaders, _) => {
            why_no_fields(head, error)
        }
        _ => Refusal::BadRequestLine,
    }
}

/// Whether this is a version, `"HTTP/" DIGIT "." DIGIT`. It is called only for versions that
/// Mantrid does not speak.
///
/// RFC 9110 §2.5 asks to treat HTTP/1.2 as 1.1. No such version exists, so Mantrid refuses it.
fn is_some_version(word: &[u8]) -> bool {
    matches!(word, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
        if major.is_ascii_digit() && minor.is_ascii_digit())
}

#[cold]
fn why_no_fields(head: &[u8], error: Error) -> Refusal {
    if error == Error::TooManyHeaders {
        return Refusal::TooManyFields;
    }
    for line in lines(head).skip(1) {
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return Refusal::FoldedLine;
        }
        let name = line.split(|&b| b == b':').next().unwrap_or_default();
        if name.len() < line.len() && matches!(name.last(), Some(b' ' | b'\t')) {
            return Refusal::SpaceBeforeColon;
        }
        if name.len() == line.len() || !is_token(name) {
            return Refusal::BadField;
        }
    }
    Refusal::BadField
}

/// Returns the lines of a head up to the empty one. Every LF of the head must have its CR.
fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    head.split(|&b| b == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .take_while(|line| !line.is_empty())
}

#[cfg(test)]
mod tests;
