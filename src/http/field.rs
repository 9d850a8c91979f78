//! Field names we know, and one pass over the fields of a head that collects what they say.
//!
//! A name is told by its length and first byte before it is compared, so that an uninteresting
//! field costs a few instructions. What is dropped is remembered as a set of bits, one per field.

use httparse::Header;

use super::{Refusal, Scheme};
use crate::limits::{CONNECTION_OPTIONS_MAX, FIELDS_MAX};

/// Role of a field for the proxy.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Name {
    /// Forwarded as it came.
    Plain,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Upgrade,
    Expect,
    Trailer,
    /// Hop-by-hop (RFC 9110 §7.6.1) and without a meaning for us.
    Hop,
    /// Hop-by-hop, but `trailers` in it goes on.
    Te,
    Date,
    Via,
    /// `X-Forwarded-Proto`, spelt exactly so.
    ForwardedProto,
    /// `X-Forwarded-Protocol`, spelt exactly so.
    ForwardedProtocol,
    /// Any other field that tells a backend who the client is.
    Forwarding,
    /// `X-Request-Id`.
    RequestId,
}

/// The known name that this is. Case does not matter.
pub(super) fn classify(name: &[u8]) -> Name {
    let Some(first) = name.first() else { return Name::Plain };
    // An `if` in each arm rather than a table: the compiler turns length and letter into jumps.
    match (name.len(), first | 0x20) {
        (2, b't') if is(name, b"te") => Name::Te,
        (3, b'v') if is(name, b"via") => Name::Via,
        (4, b'd') if is(name, b"date") => Name::Date,
        (4, b'h') if is(name, b"host") => Name::Host,
        // No field may have this name (RFC 9112 §9.6): a `Connection: close` of ours would name it.
        (5, b'c') if is(name, b"close") => Name::Hop,
        (6, b'e') if is(name, b"expect") => Name::Expect,
        (7, b'u') if is(name, b"upgrade") => Name::Upgrade,
        (7, b't') if is(name, b"trailer") => Name::Trailer,
        (9, b'f') if is(name, b"forwarded") => Name::Forwarding,
        (10, b'c') if is(name, b"connection") => Name::Connection,
        (10, b'k') if is(name, b"keep-alive") => Name::Hop,
        (12, b'x') if spells(name, b"x-request-id") => Name::RequestId,
        (14, b'c') if is(name, b"content-length") => Name::ContentLength,
        // Belongs to `Upgrade: h2c` (RFC 7540 §3.2.1), which is never forwarded.
        (14, b'h') if is(name, b"http2-settings") => Name::Hop,
        (16, b'p') if is(name, b"proxy-connection") => Name::Hop,
        (17, b't') if is(name, b"transfer-encoding") => Name::TransferEncoding,
        (17, b'x') if is(name, b"x-forwarded-proto") => Name::ForwardedProto,
        (20, b'x') if is(name, b"x-forwarded-protocol") => Name::ForwardedProtocol,
        (9.., b'x' | b'c' | b't' | b'f') if is_forwarding(name) => Name::Forwarding,
        _ => Name::Plain,
    }
}

fn is(name: &[u8], lower: &[u8]) -> bool {
    name.eq_ignore_ascii_case(lower)
}

/// Whether a name of at least nine bytes tells a backend who the client is or what it asked for,
/// in place of what the connection and the head say.
///
/// All that begins with `X-Forwarded`: servers and frameworks believe some thirty of these, more
/// with each year. Beside them the names that terminators and content delivery networks write and
/// that a widespread server, framework or library believes without being told to.
/// docs/threat-model.md names them.
fn is_forwarding(name: &[u8]) -> bool {
    match (name.len(), name[0] | 0x20, name[2] | 0x20) {
        (11.., b'x', b'f') => spells(&name[..11], b"x-forwarded"),
        (9, b'x', b'r') => spells(name, b"x-real-ip"),
        (13, b'x', b'r') => spells(name, b"x-rewrite-url"),
        (11, b'x', b'c') => spells(name, b"x-client-ip"),
        (19, b'x', b'c') => spells(name, b"x-cluster-client-ip"),
        (14, b'x', b'p') => spells(name, b"x-proxyuser-ip"),
        (14, b'x', b'o') => spells(name, b"x-original-url"),
        (15, b'x', b'o') => spells(name, b"x-original-host"),
        (24, b'x', b'o') => spells(name, b"x-original-forwarded-for"),
        (12, b'x', b'u') => spells(name, b"x-url-scheme"),
        (9, b'c', b'i') => spells(name, b"client-ip"),
        (16, b'c', _) => spells(name, b"cf-connecting-ip"),
        (18, b'c', _) => spells(name, b"cf-connecting-ipv6"),
        (14, b't', b'u') => spells(name, b"true-client-ip"),
        (15, b'f', b'o') => spells(name, b"front-end-https"),
        (16, b'f', b's') => spells(name, b"fastly-client-ip"),
        _ => false,
    }
}

/// Like `is`, but every character that is no letter or digit counts as `-`: CGI and its heirs
/// (WSGI, Rack, PHP) can't tell them apart, so `X_Forwarded.For` would be believed as ours.
fn spells(name: &[u8], lower: &[u8]) -> bool {
    name.len() == lower.len()
        && name.iter().zip(lower).all(|(&a, &b)| {
            let a = if a.is_ascii_alphanumeric() { a.to_ascii_lowercase() } else { b'-' };
            a == b
        })
}

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
    let mut extra_options = false;
    for (index, field) in fields.list.iter().enumerate() {
        match classify(field.name.as_bytes()) {
            Name::Plain => found.read_authentication(field.name.as_bytes(), field.value),
            Name::Host => {
                found.host.add(field.value);
                found.hosts.insert(index);
                found.host_is_odd |= !fields.is_plainly_spaced(index);
            }
            Name::ContentLength => {
                found.length.add(field.value);
                found.framing.insert(index);
                let leading_zero = field.value.len() > 1 && field.value[0] == b'0';
                found.framing_is_odd |= leading_zero || !fields.is_plainly_spaced(index);
            }
            Name::TransferEncoding => {
                found.coding.add(field.value);
                found.framing.insert(index);
                found.framing_is_odd |=
                    field.value != b"chunked" || !fields.is_plainly_spaced(index);
            }
            Name::Connection => {
                found.hop.insert(index);
                extra_options |= found.read_options(field.value);
            }
            Name::Upgrade => {
                found.upgrade.insert(index);
                found.read_upgrade(field.value);
            }
            Name::Expect => {
                found.read_expect(index, field.value);
            }
            Name::Trailer => found.trailer.insert(index),
            Name::Hop => {
                found.hop.insert(index);
                if is(field.name.as_bytes(), b"keep-alive") {
                    let seconds = keep_alive_seconds(field.value);
                    found.keep_alive_seconds = found.keep_alive_seconds.or(seconds);
                }
            }
            Name::Te => {
                found.hop.insert(index);
                found.takes_trailers |= list(field.value).any(|coding| is(coding, b"trailers"));
            }
            Name::Date => found.dates.insert(index),
            Name::Via => found.via.insert(index),
            Name::ForwardedProto => {
                found.proto = Some(field.value);
                found.forwarding.insert(index);
            }
            Name::ForwardedProtocol => {
                found.protocol = Some(field.value);
                found.forwarding.insert(index);
            }
            Name::Forwarding => found.forwarding.insert(index),
            Name::RequestId => {
                found.request_ids.insert(index);
                found.request_id = found.request_id.or(Some(field.value));
            }
        }
    }
    if extra_options {
        found.drop_named_by_connection(fields)?;
    }
    Ok(found)
}

impl Survey<'_> {
    /// Scheme that a TLS terminator says the client spoke; believed by the caller on
    /// `bind_internal` only. Of a field that is there twice the last one counts, as in the
    /// original.
    pub(super) fn forwarded_scheme(&self) -> Option<Scheme> {
        let said = self.protocol.or(self.proto)?;
        Some(if is(said, b"https") || is(said, b"ssl") { Scheme::Https } else { Scheme::Http })
    }

    /// Returns whether an option may name a field of its own.
    fn read_options(&mut self, value: &[u8]) -> bool {
        let mut extra = false;
        for option in list(value) {
            match option.len() {
                0 => {}
                5 if is(option, b"close") => self.close = true,
                10 if is(option, b"keep-alive") => self.keep_alive = true,
                7 if is(option, b"upgrade") => self.upgrade_option = true,
                _ => extra = true,
            }
        }
        extra
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

/// The names of fields that `Connection` names, for the trailers that may come under them. Kept as
/// hashes, without memory of their own: a few in all but forged messages. Past that number none of
/// the trailers is taken to be free of them.
#[derive(Copy, Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Named {
    hashes: [u32; NAMED_KEPT],
    /// One more than fits: any name.
    count: u8,
}

/// How many are told apart.
const NAMED_KEPT: usize = 4;

impl Named {
    fn insert(&mut self, name: &[u8]) {
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

/// FNV-1a of the name in lower case. Who finds another name of the same value loses a trailer.
fn hash(name: &[u8]) -> u32 {
    name.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0193)
    })
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

/// Whether a byte may stand in a token (RFC 9110 §5.6.2).
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.')
        || matches!(byte, b'^'..=b'`' | b'|' | b'~')
}

/// Whether this is a token, such as a method or a field name.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().copied().all(is_token_byte)
}

/// Whether a byte may stand in a field value: visible, SP, HTAB or obs-text (RFC 9110 §5.5).
pub(super) fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}
