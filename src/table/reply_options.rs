//! Arguments that `redirect`, `static` and `empty` share. Nearly no rule has any of them, so they
//! lie behind one pointer.

use std::sync::Arc;

use super::access::Access;
use super::arguments::{Arguments, Problem};
use super::overrides::Overrides;

/// Arguments of a rule with a reply of our own, besides those that say what the reply is.
#[derive(Clone, Debug, PartialEq, Default)]
pub(super) struct ReplyOptions {
    pub access: Option<Box<Access>>,
    pub overrides: Option<Arc<Overrides>>,
}

impl ReplyOptions {
    /// Reads the arguments; `None` if none is given.
    pub fn read(arguments: &Arguments<'_>) -> Result<Option<Box<ReplyOptions>>, Problem> {
        let options = ReplyOptions {
            access: Access::read(arguments)?,
            overrides: Overrides::read(arguments)?,
        };
        Ok((options != ReplyOptions::default()).then(|| Box::new(options)))
    }
}
