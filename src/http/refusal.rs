//! Why a message is refused: one table from which status, slug, sentence, log, metric and test
//! come.

/// Writes the enum and its three look-ups from one list, so that they can't drift apart.
macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident, $status:literal, $slug:literal, $sentence:literal;)*) => {
        /// Why a message is refused before (or, for a body, while) it is forwarded.
        #[derive(Copy, Clone, PartialEq, Eq, Debug, Hash)]
        pub enum Refusal { $($(#[$doc])* $name,)* }

        impl Refusal {
            /// Every refusal, in the order of the table.
            pub const ALL: &[Refusal] = &[$(Refusal::$name),*];

            /// The status code the client gets.
            pub fn status(self) -> u16 {
                match self { $(Refusal::$name => $status),* }
            }

            /// The word for it in logs, metrics and tests.
            pub fn slug(self) -> &'static str {
                match self { $(Refusal::$name => $slug),* }
            }

            /// The sentence the client reads.
            pub fn sentence(self) -> &'static str {
                match self { $(Refusal::$name => $sentence),* }
            }
        }
    };
}

refusals! {
    /// A CR that no LF follows (RFC 9112 §2.2).
    BareCr, 400, "bare_cr", "The head holds a CR that is not followed by LF.";
    /// An LF without its CR. RFC 9112 §2.2 allows leniency here, we are strict.
    BareLf, 400, "bare_lf", "The head holds an LF without a CR before it.";
    /// A NUL byte (RFC 9110 §5.5).
    Nul, 400, "nul", "The head holds a NUL byte.";
    /// RFC 9112 §2.2 asks us to skip at least one empty line; one is what old clients send.
    EmptyLines, 400, "empty_lines", "There is more than one empty line before the head.";
    /// A continuation line (RFC 9112 §5.2).
    FoldedLine, 400, "folded_line", "A field line starts with white space.";
    /// RFC 9112 §5.1: a server must refuse this.
    SpaceBeforeColon, 400, "space_before_colon",
        "There is white space between a field name and its colon.";
    /// A request line that is not `method SP target SP version`.
    BadRequestLine, 400, "bad_request_line",
        "The request line is not a method, a target and a version.";
    /// A version that is well formed but not ours (RFC 9110 §15.6.6).
    BadVersion, 505, "bad_version", "Only HTTP/1.0 and HTTP/1.1 are spoken here.";
    /// A field line that is not `name: value`.
    BadField, 400, "bad_field", "A field line is not a name, a colon and a value.";
    /// RFC 9112 §3.2: more than one Host, even the same twice.
    TwoHosts, 400, "two_hosts", "There is more than one Host field.";
    /// RFC 9112 §3.2.
    NoHost, 400, "no_host", "An HTTP/1.1 request needs a Host field.";
    /// A host that is no name and no address, or a port that is no number.
    BadHost, 400, "bad_host", "The host is not a valid name or address.";
    /// RFC 9112 §6.1 lets a server mend this by dropping the length, we are strict.
    BothLengths, 400, "both_lengths", "There are both Content-Length and Transfer-Encoding.";
    /// A length that is not decimal digits, or has more than 63 bits.
    BadLength, 400, "bad_length", "Content-Length is not a valid number.";
    /// More than one Content-Length. RFC 9112 §6.3 lets identical ones be merged, we are strict:
    /// the next reader might take the first, the last, or the list.
    DifferingLengths, 400, "differing_lengths", "There is more than one Content-Length.";
    /// Anything but exactly `chunked`, once.
    BadTransferCoding, 400, "bad_transfer_coding", "Transfer-Encoding is not exactly chunked.";
    /// RFC 9112 §6.1: its framing must be taken as faulty.
    TransferCodingIn10, 400, "transfer_coding_in_1_0", "HTTP/1.0 has no Transfer-Encoding.";
    /// More options in `Connection` than anyone has a use for.
    TooManyOptions, 400, "too_many_options", "The Connection field has too many options.";
    /// We are no forward proxy.
    Connect, 405, "connect", "CONNECT is not offered here.";
    /// The head is longer than `max_head`.
    HeadTooLarge, 431, "head_too_large", "The head is too large.";
    /// More than `limits::FIELDS_MAX` fields.
    TooManyFields, 431, "too_many_fields", "The head has too many fields.";
    /// The request line alone is longer than `max_head`.
    TargetTooLong, 414, "target_too_long", "The request line is too long.";
    /// An expectation other than `100-continue` (RFC 9110 §10.1.1).
    BadExpectation, 417, "bad_expectation", "Only the expectation 100-continue can be met.";
    /// A target that is in none of the four forms of RFC 9112 §3.2, or not for this method.
    BadTarget, 400, "bad_target", "The request target is not valid.";
    /// A chunk that is not by the grammar of RFC 9112 §7.1.
    BadChunk, 400, "bad_chunk", "The chunked body is malformed.";
    /// A trailer section that is malformed, too long, or holds what only a head may hold.
    BadTrailer, 400, "bad_trailer", "The trailer section is not valid.";
    /// The head did not arrive within `timeout_http_request`.
    HeadTimeout, 408, "head_timeout", "The request did not arrive in time.";
    /// The body stalled for `timeout_client`.
    BodyTimeout, 408, "body_timeout", "The request body did not arrive in time.";
    /// The body is longer than the rule's `max_body` (RFC 9110 §15.5.14).
    BodyTooLarge, 413, "body_too_large", "The request body is too large for this host.";
}

/// Why a response can't be passed on; the client gets a 502 and the backend connection is closed.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Hash)]
pub enum BadResponse {
    /// Malformed or ambiguous in a way that a request can be, too.
    Message(Refusal),
    /// A line that is not `version SP status [SP reason]`, or a version that is not ours.
    StatusLine,
    /// A 101 that does not say what to switch to (RFC 9110 §15.2.2).
    Switch,
}

impl BadResponse {
    /// The word for it in logs, metrics and tests.
    pub fn slug(self) -> &'static str {
        match self {
            BadResponse::Message(refusal) => refusal.slug(),
            BadResponse::StatusLine => "bad_status_line",
            BadResponse::Switch => "bad_switch",
        }
    }
}

impl From<Refusal> for BadResponse {
    fn from(refusal: Refusal) -> Self {
        BadResponse::Message(refusal)
    }
}
