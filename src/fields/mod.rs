//! Fields of a head, for rules and for messages: names that have a meaning for a proxy, and changes
//! that a rule makes.
//!
//! Pure, and independent of messages: `http` finds the fields in a message.

mod change;
mod names;

pub use change::FieldChange;
pub(crate) use names::{
    Name, classify, fold_byte, is, is_same, is_token, is_token_byte, is_value_byte,
};
