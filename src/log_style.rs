//! Style of the access log: the format and the fields of its lines, and which requests get a line.
//! Pure.

use std::num::NonZeroU32;

macro_rules! fields {
    ($($variant:ident $name:literal,)*) => {
        /// A field of a line in JSON, in the order in which the line has them.
        #[derive(Copy, Clone, PartialEq, Eq, Debug)]
        pub enum LogField {
            $(#[doc = $name] $variant,)*
        }

        impl LogField {
            /// Every field with its name.
            pub const ALL: &[(LogField, &str)] = &[$((LogField::$variant, $name),)*];
        }
    };
}

fields! {
    Time "time",
    Client "client",
    Host "host",
    Scheme "scheme",
    Method "method",
    Target "target",
    Version "version",
    RequestId "request_id",
    Traceparent "traceparent",
    UserAgent "user_agent",
    Referer "referer",
    Status "status",
    BytesSent "bytes_sent",
    BytesReceived "bytes_received",
    Backend "backend",
    HeldMs "held_ms",
    QueueMs "queue_ms",
    ConnectMs "connect_ms",
    FirstByteMs "first_byte_ms",
    TotalMs "total_ms",
    Termination "termination",
    Phase "phase",
    Reason "reason",
    Shard "shard",
    Rule "rule",
}

impl LogField {
    /// Returns the name of the field in a line, and in the key `access_log_fields`.
    pub fn name(self) -> &'static str {
        LogField::ALL[self as usize].1
    }
}

const _: () = assert!(LogField::ALL.len() <= 32, "a set has one bit per field");

/// A set of fields.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct LogFields(u32);

impl LogFields {
    /// No field.
    pub const NONE: LogFields = LogFields(0);
    /// Default fields: those that cost next to nothing.
    pub const DEFAULT: LogFields = {
        let costly = LogFields::NONE
            .with(LogField::Traceparent)
            .with(LogField::UserAgent)
            .with(LogField::Referer)
            .with(LogField::Rule);
        LogFields(((1 << LogField::ALL.len()) - 1) & !costly.0)
    };

    /// Returns the set with one more field.
    pub const fn with(self, field: LogField) -> LogFields {
        LogFields(self.0 | 1 << field as u32)
    }

    /// Returns the set with all fields of another set, too.
    pub const fn union(self, other: LogFields) -> LogFields {
        LogFields(self.0 | other.0)
    }

    /// Whether a field is in the set.
    #[inline]
    pub const fn has(self, field: LogField) -> bool {
        self.0 & 1 << field as u32 != 0
    }
}

/// Format of the lines.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// A JSON object.
    Json,
    /// The "combined" format of Apache and nginx.
    Combined,
}

/// Format, fields and selection of the lines.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct LogStyle {
    /// Format of the lines.
    pub format: LogFormat,
    /// Fields of a line in JSON.
    pub fields: LogFields,
    /// Number of requests of which one gets a line. Every failed request gets a line.
    pub sample: NonZeroU32,
    /// Whether targets and referers are written with their query.
    pub has_query: bool,
}

impl LogStyle {
    /// Default style.
    pub const DEFAULT: LogStyle = LogStyle {
        format: LogFormat::Json,
        fields: LogFields::DEFAULT,
        sample: NonZeroU32::MIN,
        has_query: true,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_what_was_put_in() {
        for (field, name) in LogField::ALL {
            assert_eq!(field.name(), *name);
            let one = LogFields::NONE.with(*field);
            let held = LogField::ALL.iter().filter(|(other, _)| one.has(*other));
            assert_eq!(held.map(|(_, name)| *name).collect::<Vec<_>>(), [*name]);
        }
        assert!(LogFields::DEFAULT.has(LogField::Shard) && !LogFields::DEFAULT.has(LogField::Rule));
    }
}
