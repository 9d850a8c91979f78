//! One pass over the fields of a head that collects what they say. What is dropped is remembered as
//! a set of bits, one per field.

use httparse::Header;

use super::{Refusal, Scheme};
pub(super) use crate::fields::{Name, classify, is_token, is_token_byte, is_value_byte};
use crate::fields::{fold_byte, is};
use crate::limits::{CONNECTION_OPTIONS_MAX, FIELDS_MAX};

const _: () = assert!(FIELDS_MAX <= u128::BITS as usize, "a FieldSet has one bit per field");

/// A set of fields, by their place in the head.
#[derive(Copy, Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct FieldSet(u128);

impl FieldSet {
    pub(super) fn insert(&mut self, index: usize) {
        self.0 |= 1 << index;
    }

    pub(super) fn union(self, other: FieldSet) -> FieldSet {
        FieldSet(self.0 | other.0)
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The set without the fields of another.
    pub(super) fn without(self, other: FieldSet) -> FieldSet {
        FieldSet(self.0 & !other.0)
    }

    /// The first field in the set, if any.
    pub(super) fn first(self) -> Option<usize> {
        if self.is_empty() { None } else { Some(self.0.trailing_zeros() as usize) }
    }

    /// The set without fields before `index`.
    pub(super) fn starting_at(self, index: usize) -> FieldSet {
        if index >= u128::BITS as usize {
            FieldSet(0)
        } else {
            FieldSet(self.0 & (u128::MAX << index))
        }
    }

    /// The fields in the set.
    pub(super) fn iter(self) -> impl Iterator<Item = usize> {
        let mut rest = self;
        std::iter::from_fn(move || {
            let index = rest.first()?;
            rest = rest.starting_at(index + 1);
            Some(index)
        })
    }

    /// The first place at or after `index` that is not in the set.
    pub(super) fn gap_from(self, index: usize) -> usize {
        if index >= u128::BITS as usize {
            return index;
        }
        index + (!(self.0 >> index)).trailing_zeros() as usize
    }
}

/// The fields of a head and the bytes they lie in.
#[derive(Copy, Clone, Debug)]
pub(super) struct Fields<'h, 'b> {
    /// Bytes from the start-line to the final empty line, both included.
    pub(super) head: &'b [u8],
    pub(super) list: &'h [Header<'b>],
}

impl Fields<'_, '_> {
    /// Start of the line of field `index`; for one past the last, of the final empty line.
    pub(super) fn line_start(&self, index: usize) -> usize {
        match self.list.get(index) {
            // No folded line and no space before a name was let through: a line begins with it.
            Some(field) => field.name.as_ptr() as usize - self.head.as_ptr() as usize,
            None => self.head.len() - 2,
        }
    }

    /// The line is `name: value` with one space, as nearly all of them are.
    fn is_plainly_spaced(&self, index: usize) -> bool {
        let field = &self.list[index];
        let start = self.line_start(index);
        self.line_start(index + 1) - start == field.name.len() + field.value.len() + 4
            && self.head[start + field.name.len() + 1] == b' '
    }
}

/// One value out of at most one field.
#[derive(Copy, Clone, Debug, Default)]
pub(super) enum Once<'b> {
    #[default]
    Absent,
    Value(&'b [u8]),
    Repeated,
}

impl<'b> Once<'b> {
    fn add(&mut self, value: &'b [u8]) {
        *self = match self {
            Once::Absent => Once::Value(value),
            _ => Once::Repeated,
        };
    }
}

/// Findings of one pass over the fields.
#[derive(Debug, Default)]
pub(super) struct Survey<'b> {
    pub(super) host: Once<'b>,
    pub(super) length: Once<'b>,
    pub(super) coding: Once<'b>,
    /// The line of Content-Length or Transfer-Encoding is not spelt as we would spell it.
    pub(super) framing_is_odd: bool,
    /// The line of Host is not spaced as we would space it.
    pub(super) host_is_odd: bool,
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    /// A connection option may name a field.
    extra_options: bool,
    /// `upgrade` is among the connection options.
    pub(super) upgrade_option: bool,
    /// An Upgrade field that we would let a backend see.
    pub(super) upgrade_wanted: bool,
    /// An Upgrade field that names a version of HTTP.
    pub(super) upgrade_to_http: bool,
    pub(super) expect_continue: bool,
    pub(super) expect_other: bool,
    /// The sender says that it reads trailers.
    pub(super) takes_trailers: bool,
    proto: Option<&'b [u8]>,
    protocol: Option<&'b [u8]>,
    /// Never forwarded.
    pub(super) hop: FieldSet,
    pub(super) forwarding: FieldSet,
    /// X-Request-Id, and the value of the first.
    pub(super) request_ids: FieldSet,
    pub(super) request_id: Option<&'b [u8]>,
    pub(super) upgrade: FieldSet,
    pub(super) framing: FieldSet,
    pub(super) hosts: FieldSet,
    pub(super) expect: FieldSet,
    /// Expect fields that expect nothing.
    pub(super) empty_expect: FieldSet,
    pub(super) trailer: FieldSet,
    pub(super) dates: FieldSet,
    pub(super) via: FieldSet,
    /// The options of Connection that name fields which are plain to us.
    pub(super) named: Named,
    /// The seconds of `Keep-Alive: timeout=N`.
    pub(super) keep_alive_seconds: Option<u32>,
    /// A field offers or brings credentials of a scheme that authenticates the connection.
    pub(super) authenticates: bool,
}

/// Collects what the fields say; refuses only what can't be bounded.
pub(super) fn survey<'b>(fields: &Fields<'_, 'b>) -> Result<Survey<'b>, Refusal> {
    let mut found = Survey::default();
    for (index, field) in fields.list.iter().enumerate() {
        found.read(fields, index, field);
    }
    if found.extra_options {
        found.drop_named_by_connection(fields)?;
    }
    Ok(found)
}

impl<'b> Survey<'b> {
    /// Collects what one field says.
    #[inline]
    fn read(&mut self, fields: &Fields<'_, 'b>, index: usize, field: &Header<'b>) {
        match classify(field.name.as_bytes()) {
            Name::Plain => self.read_authentication(field.name.as_bytes(), field.value),
            Name::Host => {
                self.host.add(field.value);
                self.hosts.insert(index);
                self.host_is_odd |= !fields.is_plainly_spaced(index);
            }
            Name::ContentLength => {
                self.length.add(field.value);
                self.framing.insert(index);
                let leading_zero = field.value.len() > 1 && field.value[0] == b'0';
                self.framing_is_odd |= leading_zero || !fields.is_plainly_spaced(index);
            }
            Name::TransferEncoding => {
                self.coding.add(field.value);
                self.framing.insert(index);
                self.framing_is_odd |=
                    field.value != b"chunked" || !fields.is_plainly_spaced(index);
            }
            Name::Connection => {
                self.hop.insert(index);
                self.read_options(field.value);
            }
            Name::Upgrade => {
                self.upgrade.insert(index);
                self.read_upgrade(field.value);
            }
            Name::Expect => self.read_expect(index, field.value),
            Name::Trailer => self.trailer.insert(index),
            Name::Hop => {
                self.hop.insert(index);
                if is(field.name.as_bytes(), b"keep-alive") {
                    let seconds = keep_alive_seconds(field.value);
                    self.keep_alive_seconds = self.keep_alive_seconds.or(seconds);
                }
            }
            Name::Te => {
                self.hop.insert(index);
                self.takes_trailers |= list(field.value).any(|coding| is(coding, b"trailers"));
            }
            Name::Date => self.dates.insert(index),
            Name::Via => self.via.insert(index),
            Name::ForwardedProto => {
                self.proto = Some(field.value);
                self.forwarding.insert(index);
            }
            Name::ForwardedProtocol => {
                self.protocol = Some(field.value);
                self.forwarding.insert(index);
            }
            Name::Forwarding => self.forwarding.insert(index),
            Name::RequestId => {
                self.request_ids.insert(index);
                self.request_id = self.request_id.or(Some(field.value));
            }
        }
    }
}

impl Survey<'_> {
    /// Scheme that a TLS terminator says the client spoke; believed by the caller on
    /// `bind_internal` only. Of a field that is there twice the last one counts, as in the
    /// original.
    pub(super) fn forwarded_scheme(&self) -> Option<Scheme> {
        let said = self.protocol.or(self.proto)?;
        Some(if is(said, b"https") || is(said, b"ssl") { Scheme::Https } else { Scheme::Http })
    }

    fn read_options(&mut self, value: &[u8]) {
        for option in list(value) {
            match option.len() {
                0 => {}
                5 if is(option, b"close") => self.close = true,
                10 if is(option, b"keep-alive") => self.keep_alive = true,
                7 if is(option, b"upgrade") => self.upgrade_option = true,
                _ => self.extra_options = true,
            }
        }
    }

    /// An expectation of no member expects nothing, and stays here: a reader that is stricter would
    /// refuse it.
    fn read_expect(&mut self, index: usize, value: &[u8]) {
        let mut expects = false;
        for member in list(value) {
            match member {
                b"" => {}
                _ if is(member, b"100-continue") => expects = true,
                _ => self.expect_other = true,
            }
        }
        if !expects {
            self.empty_expect.insert(index);
        }
        self.expect_continue |= expects;
        self.expect.insert(index);
    }

    /// NTLM and Negotiate authenticate the connection in place of the request (RFC 4559 §6). They
    /// may stand anywhere in a list, of several fields, with or without a token. As with HAProxy
    /// the beginnings are enough, which finds `Nego2` too; a realm that looks like one makes a
    /// connection private, no more.
    fn read_authentication(&mut self, name: &[u8], value: &[u8]) {
        let is_known = match name.len() {
            13 => is(name, b"authorization"),
            16 => is(name, b"www-authenticate"),
            _ => false,
        };
        let is_such = |scheme: &[u8]| {
            let beginning = scheme.get(..4).unwrap_or_default();
            is(beginning, b"ntlm") || is(beginning, b"nego")
        };
        self.authenticates |= is_known && list(value).any(is_such);
    }

    /// An upgrade to some version of HTTP is never passed on: behind it the backend would read
    /// requests that were not routed and whose forwarding fields were not written here (`h2c`
    /// smuggling).
    fn read_upgrade(&mut self, value: &[u8]) {
        for protocol in list(value) {
            let name = protocol.split(|&b| b == b'/').next().unwrap_or_default();
            if is(name, b"h2c") || is(name, b"h2") || is(name, b"http") {
                self.upgrade_to_http = true;
            } else if !name.is_empty() {
                self.upgrade_wanted = true;
            }
        }
    }

    /// Fields that `Connection` names are hop-by-hop (RFC 9110 §7.6.1), but what frames or routes
    /// a message, or says who the client is, can't be stripped that way: a client that removes
    /// `Transfer-Encoding` behind our back makes us and the backend disagree on where it ends.
    #[cold]
    fn drop_named_by_connection(&mut self, fields: &Fields<'_, '_>) -> Result<(), Refusal> {
        let mut count = 0;
        for field in fields.list {
            if classify(field.name.as_bytes()) != Name::Connection {
                continue;
            }
            for option in list(field.value) {
                // Each option costs a look at every field: a bound keeps the product small.
                count += 1;
                if count > CONNECTION_OPTIONS_MAX {
                    return Err(Refusal::TooManyOptions);
                }
                if !matches!(classify(option), Name::Plain | Name::Trailer | Name::Date) {
                    continue;
                }
                self.named.insert(option);
                for (index, field) in fields.list.iter().enumerate() {
                    if is(field.name.as_bytes(), option) {
                        self.hop.insert(index);
                    }
                }
            }
        }
        Ok(())
    }
}

/// The names of fields that `Connection` names, or that a rule sets, for the trailers that may come
/// under them. Kept as hashes, without memory of their own: a few in all but forged messages. Past
/// that number none of the trailers is taken to be free of them.
#[derive(Copy, Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Named {
    /// Bytes, not numbers, which would have to be aligned: each connection has room for them.
    hashes: [[u8; 4]; NAMED_KEPT],
    /// One more than fits: any name.
    count: u8,
}

/// How many are told apart.
const NAMED_KEPT: usize = 4;

impl Named {
    pub(super) fn insert(&mut self, name: &[u8]) {
        if name.is_empty() || self.contains(name) {
            return;
        }
        if let Some(place) = self.hashes.get_mut(usize::from(self.count)) {
            *place = hash(name);
        }
        self.count = (self.count + 1).min(NAMED_KEPT as u8 + 1);
    }

    /// Reads an X-Forwarded-Proto, for tests.
    #[cfg(any(test, fuzzing))]
    pub(super) fn of(names: &[&[u8]]) -> Named {
        let mut named = Named::default();
        names.iter().for_each(|name| named.insert(name));
        named
    }

    pub(super) fn contains(&self, name: &[u8]) -> bool {
        match self.hashes.get(..usize::from(self.count)) {
            Some(hashes) => !hashes.is_empty() && hashes.contains(&hash(name)),
            None => true,
        }
    }
}

/// FNV-1a of the name as `fields::is_same` compares it. A sender that finds another name of the
/// same value loses a trailer.
fn hash(name: &[u8]) -> [u8; 4] {
    let hash = name.iter().fold(0x811c_9dc5_u32, |hash, &byte| {
        (hash ^ u32::from(fold_byte(byte))).wrapping_mul(0x0100_0193)
    });
    hash.to_ne_bytes()
}

/// The seconds in a value as `timeout=5, max=100`; a server that writes something else says
/// nothing.
fn keep_alive_seconds(value: &[u8]) -> Option<u32> {
    list(value).find_map(|parameter| {
        let at = parameter.iter().position(|&b| b == b'=')?;
        let (name, seconds) = (trim(&parameter[..at]), trim(&parameter[at + 1..]));
        let digits = std::str::from_utf8(seconds).ok()?.trim_matches('"');
        is(name, b"timeout").then(|| digits.parse().ok())?
    })
}

/// The members of a comma-separated list, white space around them removed.
fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(trim)
}

/// Cuts off optional white space (RFC 9110 §5.6.3: SP and HTAB) at both ends.
pub(super) fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}
