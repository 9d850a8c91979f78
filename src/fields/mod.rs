//! Fields of a head, as rules and messages share them: names that mean something to a proxy, and
//! changes that a rule makes.
//!
//! Pure, and without a message: `http` finds the fields in one.

mod change;
mod names;

pub use change::FieldChange;
pub(crate) use names::{
    Name, classify, fold_byte, is, is_same, is_token, is_token_byte, is_value_byte,
};
