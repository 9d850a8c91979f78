//! Reasons for which a message is refused: one table, from which status, slug, sentence, log,
//! metric and test are made.

/// Writes the enum and its three look-up functions from one list, so that they always agree.
macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident, $status:literal, $slug:literal, $sentence:literal;)*) => {
        /// Reason for which a message is refused before (or, for a body, while) it is forwarded.
        #[derive(Copy, Clone, PartialEq, Eq, Debug, Hash)]
        pub enum Refusal { $($(#[$doc])* $name,)* }

        impl Refusal {
            /// Every refusal, in the order of the table.
            pub const ALL: &[Refusal] = &[$(Refusal::$name),*];

            /// The status code the client gets.
            pub fn status(self) -> u16 {
                match self { $(Refusal::$name => $status),* }
            }

            /// Name of the reason in logs, metrics and tests.
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
    /// An LF without its CR. RFC 9112 §2.2 allows a recipient to accept it; Mantrid does not.
    BareLf, 400, "bare_lf", "The head holds an LF without a CR before it.";
    /// A NUL byte (RFC 9110 §5.5).
    Nul, 400, "nul", "The head holds a NUL byte.";
    /// More than one empty line before the head. RFC 9112 §2.2 asks to skip at least one, which old
    /// clients send.
    EmptyLines, 400, "empty_lines", "There is more than one empty line before the head.";
    /// A continuation line (RFC 9112 §5.2).
    FoldedLine, 400, "folded_line", "A field line starts with white space.";
    /// White space between a field name and its colon. RFC 9112 §5.1: a server must refuse this.
    SpaceBeforeColon, 400, "space_before_colon",
        "There is white space between a field name and its colon.";
    /// A request line that is not `method SP target SP version`.
    BadRequestLine, 400, "bad_request_line",
        "The request line is not a method, a target and a version.";
    /// A version that is well formed, but neither HTTP/1.0 nor HTTP/1.1 (RFC 9110 §15.6.6).
    BadVersion, 505, "bad_version", "Only HTTP/1.0 and HTTP/1.1 are spoken here.";
    /// A field line that is not `name: value`.
    BadField, 400, "bad_field", "A field line is not a name, a colon and a value.";
    /// More than one Host, even with the same value (RFC 9112 §3.2).
    TwoHosts, 400, "two_hosts", "There is more than one Host field.";
    /// No Host in HTTP/1.1 (RFC 9112 §3.2).
    NoHost, 400, "no_host", "An HTTP/1.1 request needs a Host field.";
    /// A host that is neither a name nor an address, or a port that is not a number.
    BadHost, 400, "bad_host", "The host is not a valid name or address.";
    /// Both Content-Length and Transfer-Encoding. RFC 9112 §6.1 allows a server to drop the length;
    /// Mantrid refuses the message.
    BothLengths, 400, "both_lengths", "There are both Content-Length and Transfer-Encoding.";
    /// A length that is not decimal digits, or has more than 63 bits.
    BadLength, 400, "bad_length", "Content-Length is not a valid number.";
    /// More than one Content-Length. RFC 9112 §6.3 allows a recipient to merge identical ones;
    /// Mantrid refuses them, because the next recipient might use the first, the last, or the list.
    DifferingLengths, 400, "differing_lengths", "There is more than one Content-Length.";
    /// Anything but exactly `chunked`, once.
    BadTransferCoding, 400, "bad_transfer_coding", "Transfer-Encoding is not exactly chunked.";
    /// Transfer-Encoding in HTTP/1.0. RFC 9112 §6.1: the framing must be treated as faulty.
    TransferCodingIn10, 400, "transfer_coding_in_1_0", "HTTP/1.0 has no Transfer-Encoding.";
    /// More options in `Connection` than any real message has.
    TooManyOptions, 400, "too_many_options", "The Connection field has too many options.";
    /// The method CONNECT: Mantrid is not a forward proxy.
    Connect, 405, "connect", "CONNECT is not offered here.";
    /// The head is longer than `max_head`.
    HeadTooLarge, 431, "head_too_large", "The head is too large.";
    /// More than `limits::FIELDS_MAX` fields.
    TooManyFields, 431, "too_many_fields", "The head has too many fields.";
    /// The request line alone is longer than `max_head`.
    TargetTooLong, 414, "target_too_long", "The request line is too long.";
    /// An expectation other than `100-continue` (RFC 9110 §10.1.1).
    BadExpectation, 417, "bad_expectation", "Only the expectation 100-continue can be met.";
    /// A target that has none of the four forms of RFC 9112 §3.2, or a form that this method does
    /// not allow.
    BadTarget, 400, "bad_target", "The request target is not valid.";
    /// A chunk that does not follow the grammar of RFC 9112 §7.1.
    BadChunk, 400, "bad_chunk", "The chunked body is malformed.";
    /// A trailer section that is malformed, is too long, or has a field that only a head may have.
    BadTrailer, 400, "bad_trailer", "The trailer section is not valid.";
    /// The head did not arrive within `timeout_http_request`.
    HeadTimeout, 408, "head_timeout", "The request did not arrive in time.";
    /// The body stalled for `timeout_client`.
    BodyTimeout, 408, "body_timeout", "The request body did not arrive in time.";
    /// The body is longer than the rule's `max_body` (RFC 9110 §15.5.14).
    BodyTooLarge, 413, "body_too_large", "The request body is too large for this host.";
}

/// Reason for which a response can't be forwarded. The client gets a 502, and the backend
/// connection is closed.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Hash)]
pub enum BadResponse {
    /// The response is malformed or ambiguous in a way that a request can be, too.
    Message(Refusal),
    /// A status line that is not `version SP status [SP reason]`, or has a version that Mantrid
    /// does not speak.
    StatusLine,
    /// A 101 that does not say what to switch to (RFC 9110 §15.2.2).
    Switch,
}

impl BadResponse {
    /// Name of the reason in logs, metrics and tests.
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
