//! Trial of changes. Each change is tried on the table that results from the changes before it,
//! before anything is written. The writer of a single node and a node of a fleet both try changes
//! here.

use tokio::sync::oneshot;
use tracing::field::display;
use tracing::info;

use super::change::{Change, Done, Refused};
use crate::link::{Tag, TaggedTable};
use crate::table::{Snapshot, edit_canonical};

/// A change, and the channel for its result.
pub(super) type Asked = (Change, oneshot::Sender<Result<Done, Refused>>);

/// A change that was accepted, with the table before and after it.
pub(super) struct Made {
    pub(super) asked: Asked,
    pub(super) before: TaggedTable,
    pub(super) after: TaggedTable,
}

impl Made {
    /// Number of rules that the change touches.
    pub(super) fn weight(&self) -> usize {
        let (change, _) = &self.asked;
        change.edits.len() + if change.whole { self.before.table.len() } else { 0 }
    }
}

/// A batch that was tried but is not yet on disk.
pub(super) struct Tried {
    pub(super) accepted: Vec<Made>,
    pub(super) refused: Vec<(Asked, Refused)>,
}

/// Tries each change on the table that results from the changes before it. A change that is only to
/// be checked is answered here.
pub(super) fn try_all(batch: Vec<Asked>, start: &TaggedTable) -> Tried {
    let mut now = start.clone();
    let mut tried = Tried { accepted: Vec::new(), refused: Vec::new() };
    for (change, answer) in batch {
        match attempt(&change, &now) {
            Err(why) => tried.refused.push(((change, answer), why)),
            Ok(_) if change.dry_run => {
                reply(&change, answer, Ok(Done { tag: start.tag, before: None }));
            }
            Ok(table) => {
                // The change is not on disk yet, so it has no number that a client could know.
                let tag = Tag { sequence: u64::MAX, ..start.tag };
                let before = std::mem::replace(&mut now, TaggedTable { table, tag });
                let asked = (change, answer);
                tried.accepted.push(Made { asked, before, after: now.clone() });
            }
        }
    }
    tried
}

/// Applies one change to a table.
fn attempt(change: &Change, now: &TaggedTable) -> Result<Snapshot, Refused> {
    if !change.matches(now.tag) {
        return Err(Refused::Precondition(now.tag));
    }
    let allowed = change.grant.check_edits(&change.edits, change.whole, &now.table);
    allowed.map_err(Refused::Forbidden)?;
    let empty = Snapshot::default();
    let from = if change.whole { &empty } else { &now.table };
    edit_canonical(from, &change.edits).map_err(Refused::Edit)
}

/// Answers a change, and logs the answer.
pub(super) fn reply(
    change: &Change,
    answer: oneshot::Sender<Result<Done, Refused>>,
    outcome: Result<Done, Refused>,
) {
    let (tag, result) = match &outcome {
        Ok(done) => (Some(done.tag), "checked"),
        Err(Refused::Edit(error)) => (None, error.code()),
        Err(Refused::Forbidden(forbidden)) => (None, forbidden.code),
        Err(Refused::Precondition(tag)) => (Some(*tag), "precondition_failed"),
        Err(Refused::NotWritten(_)) => (None, "state_not_written"),
        Err(Refused::Fleet(trouble)) => (None, trouble.code()),
        Err(Refused::Stopping) => (None, "stopping"),
    };
    audit(change, tag, result);
    let _ = answer.send(outcome);
}

/// Logs a change and the client that made it, in one line.
pub(super) fn audit(change: &Change, tag: Option<Tag>, result: &str) {
    let (verb, host, edits) = (change.verb.as_str(), change.host(), change.edits.len());
    let (who, from) = (&change.who, change.from.as_deref().map(display));
    let generation = tag.map(|tag| display(tag.sequence));
    info!(%who, from, verb, host, edits, generation, result, "audit");
}

/// Answers changes that were refused in the trial. A change whose condition failed gets the tag of
/// the table that is in force now.
pub(super) fn refuse(refused: Vec<(Asked, Refused)>, now: Tag) {
    for ((change, answer), why) in refused {
        let why = match why {
            Refused::Precondition(_) => Refused::Precondition(now),
            why => why,
        };
        reply(&change, answer, Err(why));
    }
}
