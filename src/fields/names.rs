//! Names of fields that a proxy knows, and the characters of names and values.
//!
//! Length and first byte of a name are looked at before it is compared, so that an unknown field
//! costs only a few instructions.

/// Role of a field for the proxy.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Name {
    /// Any other field, forwarded as it came.
    Plain,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Upgrade,
    Expect,
    Trailer,
    /// Hop-by-hop field (RFC 9110 §7.6.1) without a meaning for Mantrid.
    Hop,
    /// `TE`: hop-by-hop, but its member `trailers` is forwarded.
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

/// Returns the known name that this is. Case does not matter.
pub(crate) fn classify(name: &[u8]) -> Name {
    let Some(first) = name.first() else { return Name::Plain };
    // An `if` in each arm rather than a table: the compiler turns length and letter into jumps.
    match (name.len(), first | 0x20) {
        (2, b't') if is(name, b"te") => Name::Te,
        (3, b'v') if is(name, b"via") => Name::Via,
        (4, b'd') if is(name, b"date") => Name::Date,
        (4, b'h') if is(name, b"host") => Name::Host,
        // No field may have this name (RFC 9112 §9.6): a `Connection: close` that Mantrid writes
        // would name it.
        (5, b'c') if is(name, b"close") => Name::Hop,
        (6, b'e') if is(name, b"expect") => Name::Expect,
        (7, b'u') if is(name, b"upgrade") => Name::Upgrade,
        (7, b't') if is(name, b"trailer") => Name::Trailer,
        (9, b'f') if is(name, b"forwarded") => Name::Forwarding,
        (10, b'c') if is(name, b"connection") => Name::Connection,
        (10, b'k') if is(name, b"keep-alive") => Name::Hop,
        (12, b'x') if spells(name, b"x-request-id") => Name::RequestId,
        (14, b'c') if is(name, b"content-length") => Name::ContentLength,
        // This field belongs to `Upgrade: h2c` (RFC 7540 §3.2.1), which is never forwarded.
        (14, b'h') if is(name, b"http2-settings") => Name::Hop,
        (16, b'p') if is(name, b"proxy-connection") => Name::Hop,
        (17, b't') if is(name, b"transfer-encoding") => Name::TransferEncoding,
        (17, b'x') if is(name, b"x-forwarded-proto") => Name::ForwardedProto,
        (20, b'x') if is(name, b"x-forwarded-protocol") => Name::ForwardedProtocol,
        (9.., b'x' | b'c' | b't' | b'f') if is_forwarding(name) => Name::Forwarding,
        _ => Name::Plain,
    }
}

pub(crate) fn is(name: &[u8], lower: &[u8]) -> bool {
    name.eq_ignore_ascii_case(lower)
}

/// Whether a field of this name (of at least nine bytes) tells a backend who the client is or what
/// it asked for, overriding what the connection and the head say.
///
/// This includes all names that begin with `X-Forwarded`: servers and frameworks believe some
/// thirty of these, more with each year. It also includes the names that TLS terminators and
/// content delivery networks write and that a widespread server, framework or library believes by
/// default. docs/threat-model.md names them.
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

/// Compares like `is`, but every character that is not a letter or digit counts as `-`. CGI and its
/// successors (WSGI, Rack, PHP) can't tell these characters apart, so they would believe a client's
/// `X_Forwarded.For` like the field that Mantrid writes.
pub(crate) fn spells(name: &[u8], lower: &[u8]) -> bool {
    name.len() == lower.len() && name.iter().zip(lower).all(|(&a, &b)| fold_byte(a) == b)
}

/// Whether two names are spellings of the same name, as in `spells`.
pub(crate) fn is_same(name: &[u8], other: &[u8]) -> bool {
    name.len() == other.len() && name.iter().zip(other).all(|(&a, &b)| fold_byte(a) == fold_byte(b))
}

/// Returns the name in the form in which `spells` compares it.
pub(crate) fn fold(name: &[u8]) -> Box<[u8]> {
    name.iter().map(|&byte| fold_byte(byte)).collect()
}

pub(crate) fn fold_byte(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' }
}

/// Whether a token may have this byte (RFC 9110 §5.6.2).
pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.')
        || matches!(byte, b'^'..=b'`' | b'|' | b'~')
}

/// Whether this is a token, such as a method or a field name.
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().copied().all(is_token_byte)
}

/// Whether a field value may have this byte: visible, SP, HTAB or obs-text (RFC 9110 §5.5).
pub(crate) fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}
