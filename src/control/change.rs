//! A change of the table on its way: from whoever asks for it, to the writer, to its answer.

use crate::link::Tag;
use crate::table::{EditError, Rule, Snapshot};

/// How it was asked for.
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

/// What is to become of the table.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) verb: Verb,
    /// Address or user of whoever asked.
    pub(super) who: String,
    /// By canonical name; `None` deletes.
    pub(super) edits: Vec<(String, Option<Rule>)>,
    /// These are all rules that there are to be.
    pub(super) whole: bool,
    /// The tags of which one must be the table's (RFC 9110 §13.1.1), as they were sent.
    pub(super) if_match: Option<String>,
    /// Only to be checked.
    pub(super) dry_run: bool,
}

impl Change {
    /// Whether `If-Match` lets it through.
    pub(super) fn matches(&self, tag: Tag) -> bool {
        let Some(wanted) = &self.if_match else { return true };
        let tag = tag.to_string();
        wanted.split(',').map(str::trim).any(|one| one == "*" || one == tag)
    }

    /// For the audit line.
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

/// Why one was not made.
#[derive(Clone, Debug)]
pub(super) enum Refused {
    /// It would make no sense.
    Edit(EditError),
    /// The table is another one than the asker thought.
    Precondition(Tag),
    /// It could not be written down.
    NotWritten(String),
    /// The daemon is stopping.
    Stopping,
}

/// A change that is in force, for whoever follows.
#[derive(Clone, Debug)]
pub(super) struct Happened {
    pub(super) verb: Verb,
    pub(super) who: String,
    pub(super) tag: Tag,
    pub(super) rules: usize,
    pub(super) changed: usize,
    /// Unless they are many.
    pub(super) edits: Option<Vec<(String, Option<Rule>)>>,
    /// Rules before and after, where one of them has a `check`.
    pub(super) watched: Vec<Watched>,
    /// The table afterwards.
    pub(super) table: Snapshot,
}

/// A rule that became another, which asks for more than routing: for a `check`, or to be told when it is `idle`.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    pub(super) name: String,
    pub(super) before: Option<Rule>,
    pub(super) after: Option<Rule>,
}
