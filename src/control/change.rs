//! A change of the table on its way: from the client that asks for it, to the writer, to its
//! answer.

use std::sync::Arc;

use super::grant::{Forbidden, Grant};
use crate::link::Tag;
use crate::table::{EditError, Rule, Snapshot};

/// Method by which a change was asked for.
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

/// Edits of the table, with their conditions.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) verb: Verb,
    /// Name of the client that asked, else its address or user.
    pub(super) who: String,
    /// Address or user of a client that has a name.
    pub(super) from: Option<String>,
    /// Rights of that client.
    pub(super) grant: Arc<Grant>,
    /// Rules by canonical name; `None` deletes.
    pub(super) edits: Vec<(String, Option<Rule>)>,
    /// Whether the edits are the whole table: every other rule is deleted.
    pub(super) whole: bool,
    /// The tags of which one must be the table's (RFC 9110 §13.1.1), as they were sent.
    pub(super) if_match: Option<String>,
    /// Whether the change is only checked.
    pub(super) dry_run: bool,
    /// All nodes of the fleet are to say when they have it.
    pub(super) everywhere: bool,
}

impl Change {
    /// Whether `If-Match` lets it through.
    pub(super) fn matches(&self, tag: Tag) -> bool {
        let Some(wanted) = &self.if_match else { return true };
        let tag = tag.to_string();
        wanted.split(',').map(str::trim).any(|one| one == "*" || one == tag)
    }

    /// The host of a change of one, for the audit line.
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
    /// The rule of a change of one, as it was before.
    pub(super) before: Option<Rule>,
}

/// Why a change was not made.
#[derive(Clone, Debug)]
pub(super) enum Refused {
    /// The table would make no sense.
    Edit(EditError),
    /// The client's token is not for this.
    Forbidden(Forbidden),
    /// The table is another one than the client thought.
    Precondition(Tag),
    /// The change could not be written to disk.
    NotWritten(String),
    /// Change that could not be made in the fleet.
    Fleet(super::fleet::Trouble),
    /// The daemon is stopping.
    Stopping,
}

/// A change that is in force, for those parts of control that follow the table.
#[derive(Clone, Debug)]
pub(super) struct Happened {
    pub(super) verb: Verb,
    pub(super) who: String,
    pub(super) tag: Tag,
    pub(super) rules: usize,
    pub(super) changed: usize,
    /// The edits, unless they are many.
    pub(super) edits: Option<Vec<(String, Option<Rule>)>>,
    /// Rules before and after, where one of them has a `check`.
    pub(super) watched: Vec<RuleChange>,
    /// The table afterwards.
    pub(super) table: Snapshot,
}

/// A rule that became another, where one of the two asks for more than routing: for a `check`, or
/// for notice when the host is `idle`.
#[derive(Clone, Debug)]
pub(super) struct RuleChange {
    pub(super) name: String,
    pub(super) before: Option<Rule>,
    pub(super) after: Option<Rule>,
}
