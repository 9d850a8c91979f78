//! One pass over the fields of a head, which collects their meaning. Dropped fields are noted in a
//! set of bits, one for each field.

use httparse::Header;

use super::{Refusal, Scheme};
pub(super) use crate::fields::{Name, classify, is_token, is_token_byte, is_value_byte};
use crate::fields::{fold_byte, is};
use crate::limits::{CONNECTION_OPTIONS_MAX, FIELDS_MAX};

const _: () = assert!(FIELDS_MAX <= u128::BITS as usize, "a FieldSet has one bit per field");

/// A set of fields, by their position in the head.
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

    /// Returns the set without the fields of another set.
    pub(super) fn without(self, other: FieldSet) -> FieldSet {
        FieldSet(self.0 & !other.0)
    }

    /// Returns the first field in the set, if there is one.
    pub(super) fn first(self) -> Option<usize> {
        if self.is_empty() { None } else { Some(self.0.trailing_zeros() as usize) }
    }

    /// Returns the set without the fields before `index`.
    pub(super) fn starting_at(self, index: usize) -> FieldSet {
        if index >= u128::BITS as usize {
            FieldSet(0)
        } else {
            FieldSet(self.0 & (u128::MAX << index))
        }
    }

    /// Returns the fields in the set.
    pub(super) fn iter(self) -> impl Iterator<Item = usize> {
        let mut rest = self;
        std::iter::from_fn(move || {
            let index = rest.first()?;
            rest = rest.starting_at(index + 1);
            Some(index)
        })
    }

    /// Returns the first position at or after `index` that is not in the set.
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
    /// Returns the start of the line of field `index`; for the index past the last field, the start
    /// of the final empty line.
    pub(super) fn line_start(&self, index: usize) -> usize {
        match self.list.get(index) {
            // Folded lines and spaces before a name are refused, so a line begins with the name.
            Some(field) => field.name.as_ptr() as usize - self.head.as_ptr() as usize,
            None => self.head.len() - 2,
        }
    }

    /// Whether the line is `name: value` with one space, as nearly all lines are.
    fn is_plainly_spaced(&self, index: usize) -> bool {
        let field = &self.list[index];
        let start = self.line_start(index);
        self.line_start(index + 1) - start == field.name.len() + field.value.len() + 4
            && self.head[start + field.name.len() + 1] == b' '
    }
}

/// Value of a field that may come at most once.
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
    /// Whether the line of Content-Length or Transfer-Encoding is not spelled as Mantrid would
    /// write it.
    pub(super) framing_is_odd: bool,
    /// Whether the line of Host is not spaced as Mantrid would write it.
    pub(super) host_is_odd: bool,
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    /// Whether a connection option may name a field.
    extra_options: bool,
    /// Whether `upgrade` is among the connection options.
    pub(super) upgrade_option: bool,
    /// Whether an Upgrade field names a protocol that Mantrid would forward.
    pub(super) upgrade_wanted: bool,
    /// Whether an Upgrade field names a version of HTTP.
    pub(super) upgrade_to_http: bool,
    pub(super) expect_continue: bool,
    pub(super) expect_other: bool,
    /// Whether the sender says that it reads trailers.
    pub(super) takes_trailers: bool,
    proto: Option<&'b [u8]>,
    protocol: Option<&'b [u8]>,
    /// Fields that are never forwarded.
    pub(super) hop: FieldSet,
    pub(super) forwarding: FieldSet,
    /// Fields X-Request-Id; `request_id` is the value of the first.
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
    /// Options of Connection that name fields without a meaning for Mantrid.
    pub(super) named: Named,
    /// The seconds of `Keep-Alive: timeout=N`.
    pub(super) keep_alive_seconds: Option<u32>,
    /// Whether a field offers or has credentials of a scheme that authenticates the connection.
    pub(super) authenticates: bool,
}

/// Collects the meaning of the fields. Refuses only heads whose processing could not be bounded.
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
    /// Collects the meaning of one field.
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
    /// Scheme that, according to a TLS terminator, the client spoke. The caller believes it only on
    /// `bind_internal`. If a field comes twice, the last one counts, as in the original.
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

    /// Reads an Expect field. A field without a member expects nothing. It is not forwarded,
    /// because a stricter backend would refuse it.
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

    /// Looks for NTLM and Negotiate, which authenticate the connection instead of the request (RFC
    /// 4559 §6). They may come anywhere in a list or in several fields, with or without a token. As
    /// in HAProxy, comparing the beginning of the scheme is enough, and finds `Nego2`, too. A realm
    /// that looks like one of these only makes the connection private.
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

    /// Reads an Upgrade field. An upgrade to a version of HTTP is never forwarded: after it the
    /// backend would read requests that Mantrid has not routed, with forwarding fields that it has
    /// not written (`h2c` smuggling).
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

    /// Drops the fields that `Connection` names, because these are hop-by-hop (RFC 9110 §7.6.1).
    /// Fields that frame or route a message, or say who the client is, can't be removed like this:
    /// if a client could remove `Transfer-Encoding`, Mantrid and the backend would disagree about
    /// where the message ends.
    #[cold]
    fn drop_named_by_connection(&mut self, fields: &Fields<'_, '_>) -> Result<(), Refusal> {
        let mut count = 0;
        for field in fields.list {
            if classify(field.name.as_bytes()) != Name::Connection {
                continue;
            }
            for option in list(field.value) {
                // Each option is compared with every field, so their number is bounded.
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

/// Names of fields that `Connection` names or that a rule sets: trailers with these names are not
/// forwarded. The names are kept as hashes in a fixed number of places, which is enough for all but
/// forged messages. With more names than that, every trailer counts as named.
#[derive(Copy, Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Named {
    /// Bytes and not numbers, so that no room is lost for alignment: each connection keeps these.
    hashes: [[u8; 4]; NAMED_KEPT],
    /// Number of hashes; one more than there is room for means any name.
    count: u8,
}

/// Most names that are told apart.
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

    /// Makes the set of these names, for tests.
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

/// FNV-1a of the name, in the form in which `fields::is_same` compares it. If a sender finds
/// another name with the same hash, it only loses a trailer.
fn hash(name: &[u8]) -> [u8; 4] {
    let hash = name.iter().fold(0x811c_9dc5_u32, |hash, &byte| {
        (hash ^ u32::from(fold_byte(byte))).wrapping_mul(0x0100_0193)
    });
    hash.to_ne_bytes()
}

/// Returns the seconds in a value such as `timeout=5, max=100`. Other values are ignored.
fn keep_alive_seconds(value: &[u8]) -> Option<u32> {
    list(value).find_map(|parameter| {
        let at = parameter.iter().position(|&b| b == b'=')?;
        let (name, seconds) = (trim(&parameter[..at]), trim(&parameter[at + 1..]));
        let digits = std::str::from_utf8(seconds).ok()?.trim_matches('"');
        is(name, b"timeout").then(|| digits.parse().ok())?
    })
}

/// Returns the members of a comma-separated list, without the white space around them.
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
