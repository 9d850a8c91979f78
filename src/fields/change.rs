//! A field that a rule sets or removes. Fields that frame a message, control its connection, route
//! it, or identify its client can't be changed, however they are spelled.

use super::names::{Name, classify, fold, is_token, is_value_byte, spells};
use crate::limits::{FIELD_NAME_BYTES_MAX, RULE_TEXT_BYTES_MAX};

/// Change of a field: replaces all fields of its name, or removes them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldChange {
    /// Name as it was written.
    name: Box<str>,
    /// Name as it is compared: in lower case, with `-` for every character that is not a letter or
    /// digit.
    folded: Box<[u8]>,
    value: Option<Box<str>>,
}

impl FieldChange {
    /// Checks name and value; `None` removes the field. The error ends a sentence about the field.
    pub(crate) fn new(name: &str, value: Option<&str>) -> Result<FieldChange, &'static str> {
        if !is_token(name.as_bytes()) {
            return Err("is not a name: letters, digits and !#$%&'*+-.^_`|~");
        }
        if FIELD_NAME_BYTES_MAX < name.len() {
            return Err("has a name of more than 100 bytes");
        }
        let folded = fold(name.as_bytes());
        if let Some(why) = kept_for(&folded) {
            return Err(why);
        }
        if let Some(value) = value {
            check_value(value)?;
        }
        Ok(FieldChange { name: name.into(), folded, value: value.map(Box::from) })
    }

    /// Name as it was written.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Value; `None`: the field is removed.
    pub fn value(&self) -> Option<&str> {
        self.value.as_deref()
    }

    /// Whether this change replaces a field of this name. `X_User` counts as `X-User`, because CGI
    /// and its successors read it so.
    pub(crate) fn replaces(&self, name: &[u8]) -> bool {
        spells(name, &self.folded)
    }
}

/// Reason for which no rule may change the field of this folded name.
fn kept_for(folded: &[u8]) -> Option<&'static str> {
    let is_own = [b"x-request-start".as_slice(), b"x-held-ms"].contains(&folded);
    Some(match classify(folded) {
        Name::Plain if is_own => "is written by Mantrid itself",
        Name::Plain => return None,
        Name::Host => "is changed by the argument host",
        Name::ContentLength | Name::TransferEncoding | Name::Trailer => {
            "says where the message ends"
        }
        Name::Connection | Name::Upgrade | Name::Expect | Name::Hop | Name::Te => {
            "belongs to the connection"
        }
        Name::Forwarding | Name::ForwardedProto | Name::ForwardedProtocol => {
            "says who the client is, or what it asked for"
        }
        Name::Date | Name::Via | Name::RequestId => "is written by Mantrid itself",
    })
}

/// Checks a value by RFC 9110 §5.5: no white space at the ends, and no control character except a
/// tab.
fn check_value(value: &str) -> Result<(), &'static str> {
    let bytes = value.as_bytes();
    if RULE_TEXT_BYTES_MAX < bytes.len() {
        return Err("has a value of more than 2048 bytes");
    }
    if !bytes.iter().copied().all(is_value_byte) {
        return Err("has a value with a control character");
    }
    match value.trim_matches([' ', '\t']).len() == value.len() {
        true => Ok(()),
        false => Err("has a value with white space at its beginning or end"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(name: &str, value: Option<&str>) -> &'static str {
        FieldChange::new(name, value).err().unwrap_or("none")
    }

    #[test]
    fn fields_that_nobody_may_change_are_refused_in_any_spelling() {
        for (names, why) in [
            ("Host HOST", "is changed by the argument host"),
            ("Content-Length content_length Content.Length", "says where the message ends"),
            ("Transfer-Encoding TRANSFER_ENCODING Trailer", "says where the message ends"),
            ("Connection Keep-Alive Keep_Alive TE Upgrade", "belongs to the connection"),
            ("Proxy-Connection Expect HTTP2-Settings close", "belongs to the connection"),
            ("Forwarded X-Forwarded-For X_Forwarded_For", "says who the client is"),
            ("x.forwarded!proto X-Forwarded-Anything X-Real_IP", "says who the client is"),
            ("CF-Connecting-IP true_client_ip X-Original-URL", "says who the client is"),
            ("Via Date X-Request-Id X_REQUEST_ID", "is written by Mantrid itself"),
            ("X-Request-Start x_held_ms", "is written by Mantrid itself"),
        ] {
            for name in names.split(' ') {
                assert!(error(name, Some("x")).starts_with(why), "{name}: {}", error(name, None));
                assert_eq!(error(name, None), error(name, Some("x")), "{name}");
            }
        }
        for name in ["X-User", "Server", "Cookie", "X-Forward", "Hosts", "X-Request", "!"] {
            assert_eq!(error(name, Some("x")), "none", "{name}");
        }
    }

    #[test]
    fn names_and_values_are_those_of_fields() {
        for name in ["", "a b", "a:", "a\r\nb", "ü", "a\0"] {
            assert!(error(name, None).starts_with("is not a name"), "{name:?}");
        }
        assert!(error(&"x".repeat(101), None).contains("more than 100 bytes"));
        for value in ["a\rb", "a\nb", "a\0b", "\u{7f}", "\u{1b}[0m"] {
            assert!(error("X-A", Some(value)).contains("control character"), "{value:?}");
        }
        for value in [" a", "a ", "\ta", "a\t", " "] {
            assert!(error("X-A", Some(value)).contains("white space"), "{value:?}");
        }
        assert!(error("X-A", Some(&"x".repeat(2049))).contains("more than 2048 bytes"));
        for value in ["", "a", "a \t b", "ü", "max-age=31536000; includeSubDomains", "\"x\""] {
            assert_eq!(error("X-A", Some(value)), "none", "{value:?}");
        }
    }

    #[test]
    fn every_spelling_gives_way() {
        let change = FieldChange::new("X-User.Name", Some("a")).unwrap();
        for name in ["X-User.Name", "x-user-name", "X_USER_NAME"] {
            assert!(change.replaces(name.as_bytes()), "{name}");
        }
        for name in ["X-User", "X-UserXName", "X-User-Names"] {
            assert!(!change.replaces(name.as_bytes()), "{name}");
        }
    }
}
