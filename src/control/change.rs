//! A change of the table on its way: from the client that asks for it, to the writer, and back to
//! the client as a result.

use std::sync::Arc;

use super::grant::{Forbidden, Grant};
use crate::link::Tag;
use crate::table::{EditError, Rule, Snapshot};

/// Method of the request for a change.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Verb {
    Put,
    Patch,
    Delete,
}

impl Verb {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Verb::Put => "PUT",
            Verb::Patch => "PATCH",
            Verb::Delete => "DELETE",
        }
    }
}

/// Edits of the table, with the conditions under which they are made.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) verb: Verb,
    /// Name of the client that asked; its address or user if it has no name.
    pub(super) who: String,
    /// Address or user of the client, if it has a name.
    pub(super) from: Option<String>,
    /// Rights of that client.
    pub(super) grant: Arc<Grant>,
    /// Rules by canonical name. `None`: the rule is deleted.
    pub(super) edits: Vec<(String, Option<Rule>)>,
    /// Whether the edits are the whole table, so that every other rule is deleted.
    pub(super) whole: bool,
    /// Value of `If-Match` as it was sent: tags, one of which must be the table's (RFC 9110
    /// §13.1.1).
    pub(super) if_match: Option<String>,
    /// Whether the change is only checked, and not made.
    pub(super) dry_run: bool,
    /// Whether each node of the fleet is to report when it has the change.
    pub(super) everywhere: bool,
}

impl Change {
    /// Whether `If-Match` allows the change.
    pub(super) fn matches(&self, tag: Tag) -> bool {
        let Some(wanted) = &self.if_match else { return true };
        let tag = tag.to_string();
        wanted.split(',').map(str::trim).any(|one| one == "*" || one == tag)
    }

    /// Host for the audit line; `*` if the change is not about a single rule.
    pub(super) fn host(&self) -> &str {
        match &self.edits[..] {
            [(name, _)] if !self.whole => name,
            _ => "*",
        }
    }
}

/// A change that was made.
#[derive(Clone, Debug)]
pub(super) struct Done {
    pub(super) tag: Tag,
    /// Rule before the change, if the change was of a single rule.
    pub(super) before: Option<Rule>,
}

/// Why a change was not made.
#[derive(Clone, Debug)]
pub(super) enum Refused {
    /// The resulting table would not be valid.
    Edit(EditError),
    /// The client's token does not allow the change.
    Forbidden(Forbidden),
    /// The table has changed since the client read it.
    Precondition(Tag),
    /// The change could not be written to disk.
    NotWritten(String),
    /// The change could not be made in the fleet.
    Fleet(super::fleet::Trouble),
    /// The daemon is stopping.
    Stopping,
}

/// A change that is in force, for the parts of control that follow the table.
#[derive(Clone, Debug)]
pub(super) struct Happened {
    pub(super) verb: Verb,
    pub(super) who: String,
    pub(super) tag: Tag,
    pub(super) rules: usize,
    pub(super) changed: usize,
    /// The edits, unless there are too many.
    pub(super) edits: Option<Vec<(String, Option<Rule>)>>,
    /// Changed rules that ask for more than routing, before and after the change.
    pub(super) watched: Vec<RuleChange>,
    /// The table afterwards.
    pub(super) table: Snapshot,
}

/// A rule before and after a change, where one of the two asks for more than routing: for a
/// `check`, for `slow_start`, or for notice when the host is `idle`.
#[derive(Clone, Debug)]
pub(super) struct RuleChange {
    pub(super) name: String,
    pub(super) before: Option<Rule>,
    pub(super) after: Option<Rule>,
}
