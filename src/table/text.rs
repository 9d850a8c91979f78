//! A text that is usually short and takes 32 bytes. Up to 30 bytes of text are stored in place:
//! reading them costs no further cache miss, and a million names need no million allocations. A
//! longer text is stored once and shared by its clones.

use std::fmt;
use std::sync::Arc;

const SHORT_MAX: usize = 30;

/// An immutable text.
#[derive(Clone)]
pub(super) enum Text {
    Short { length: u8, bytes: [u8; SHORT_MAX] },
    Long(Arc<str>),
}

const _: () = assert!(size_of::<Text>() == 32);

impl Text {
    pub(super) fn new(text: &str) -> Text {
        if SHORT_MAX < text.len() {
            return Text::Long(text.into());
        }
        let mut bytes = [0; SHORT_MAX];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Text::Short { length: text.len() as u8, bytes }
    }

    #[inline]
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Text::Short { length, bytes } => &bytes[..usize::from(*length)],
            Text::Long(text) => text.as_bytes(),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        // The bytes are those of a `str`, so the default is never used. The check of the encoding
        // takes time: a comparison is cheaper with `as_bytes`.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}
