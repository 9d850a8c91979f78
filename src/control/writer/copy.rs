//! The writer of a fleet's node. Entries of the fleet's log are applied and published as they come,
//! and then written to this node's own journal. The journal is only a copy, so nothing waits for
//! its sync: etcd has the entry.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::{Made, Writing};
use crate::control::change::Change;
use crate::control::fleet::{self, Applied, Brought, Edit, Fleet, FleetParts, NotTaken, Rules};
use crate::control::grant::Grant;
use crate::control::store::Record;
use crate::limits;
use crate::link::{Tag, TaggedTable};
use crate::state::Membership;
use crate::table::Snapshot;

/// The copy on disk of a fleet's table.
pub(super) struct TableCopy {
    pub(super) fleet: Fleet,
    /// The fleet that the table in force belongs to, and the sequence that it is at.
    pub(super) membership: Membership,
    /// Edits in force that are not in the journal yet, each with whether it replaces the whole
    /// table.
    unkept: Vec<(bool, Rules)>,
    unkept_count: usize,
    /// Whether the journal lacks the sequence that is in force.
    is_behind: bool,
    /// Whether the files have another table, with which records added to the journal would make no
    /// sense.
    is_unwritten: bool,
}

impl TableCopy {
    pub(super) fn new(of: FleetParts) -> TableCopy {
        let FleetParts { fleet, membership, is_unwritten } = of;
        TableCopy {
            fleet,
            membership,
            unkept: Vec::new(),
            unkept_count: 0,
            is_behind: is_unwritten,
            is_unwritten,
        }
    }

    /// Records that the files have all that is in force.
    pub(super) fn is_kept(&mut self) {
        self.unkept.clear();
        self.unkept_count = 0;
        self.is_behind = false;
        self.is_unwritten = false;
    }
}

impl Writing {
    /// Takes news of the fleet.
    pub(super) fn take_brought(&mut self, brought: Brought) {
        match brought {
            Brought::Entry { sequence, revision, node, edits, broken } => {
                let own = self.copy.as_ref().is_some_and(|copy| copy.fleet.node() == node);
                let node = (!own).then_some(node);
                let mut not_taken = Vec::new();
                if let Some(why) = broken {
                    not_taken.push((format!("entry {sequence}"), why));
                }
                let tag = Tag { sequence, ..self.wiring.published.table().tag };
                self.apply(tag, node, edits, &mut not_taken);
                self.applied(sequence, revision, not_taken);
            }
            Brought::Table { table, membership, revision } => {
                let sequence = membership.sequence;
                let tag = fleet::tag_of(&membership.id, sequence);
                if let Some(copy) = &mut self.copy {
                    copy.membership = membership;
                }
                self.turn_into(&table, tag);
                self.applied(sequence, revision, Vec::new());
            }
            Brought::Keep => return self.keep(),
            Brought::Leave(done) => {
                self.leave();
                let _ = done.send(());
            }
        }
        let unkept = self.copy.as_ref().map_or(0, |copy| copy.unkept_count);
        if limits::FLEET_EDITS_UNKEPT_MAX < unkept {
            self.keep();
        }
    }

    /// Applies an entry and publishes the outcome.
    fn apply(
        &mut self,
        tag: Tag,
        node: Option<String>,
        edits: Vec<Edit>,
        not_taken: &mut NotTaken,
    ) {
        let mut now = TaggedTable::clone(&self.wiring.published.table());
        let mut all = Vec::new();
        for edit in edits {
            let applied = catch_unwind(AssertUnwindSafe(|| fleet::apply(&now.table, &edit)));
            let Ok((table, more)) = applied else {
                let names = edit.rules.into_iter().map(|(name, _)| (name, "a panic".to_owned()));
                not_taken.extend(names.take(limits::REJECTED_TOLD_MAX));
                continue;
            };
            not_taken.extend(more);
            let after = TaggedTable { table, tag };
            let before = std::mem::replace(&mut now, after.clone());
            let (answer, _) = oneshot::channel();
            let who = match &node {
                Some(node) => format!("{node}: {}", edit.who),
                None => edit.who,
            };
            let change = Change {
                verb: edit.verb,
                who,
                from: None,
                // The node that was asked has checked the grant.
                grant: Arc::new(Grant::EVERYTHING),
                edits: edit.rules,
                whole: edit.whole,
                if_match: None,
                dry_run: false,
                everywhere: false,
            };
            all.push(Made { asked: (change, answer), before, after });
        }
        now.tag = tag;
        self.publish(now, &all);
        for made in all {
            if let Some(copy) = &mut self.copy {
                let (change, _) = &made.asked;
                copy.unkept_count += change.edits.len();
                copy.unkept.push((change.whole, change.edits.clone()));
            }
            self.tell(made);
        }
    }

    /// Puts a table in force, as an edit of the rules in which it differs from the current one.
    fn turn_into(&mut self, table: &Snapshot, tag: Tag) {
        let start = self.wiring.published.table_full();
        let rules = fleet::difference(&start.table, table);
        if rules.is_empty() {
            // The same table under another tag: nothing for the shards to look at.
            self.old.push(self.wiring.published.retag(tag));
            return;
        }
        info!("fleet: {} rules differ from the fleet's", rules.len());
        let (verb, who) = (crate::control::change::Verb::Patch, "fleet".to_owned());
        let edit = Edit { verb, who, whole: false, rules, rejected: Vec::new() };
        let mut not_taken = Vec::new();
        self.apply(tag, None, vec![edit], &mut not_taken);
    }

    fn applied(&mut self, sequence: u64, revision: i64, not_taken: NotTaken) {
        let Some(copy) = &mut self.copy else { return };
        copy.membership.sequence = sequence;
        copy.is_behind = true;
        if !not_taken.is_empty() {
            copy.fleet.set_rejected(not_taken);
        }
        copy.fleet.set_applied(Applied { sequence, revision });
    }

    /// Brings the journal up to date.
    pub(super) fn keep(&mut self) {
        let Some(copy) = &mut self.copy else { return };
        if !copy.is_behind || self.released.is_some() {
            return;
        }
        let records = copy.unkept.iter().map(|(whole, rules)| match whole {
            true => Record::Replace(rules),
            false => Record::Set(rules),
        });
        let mut records: Vec<Record<'_>> = records.collect();
        records.push(Record::Fleet(Some(&copy.membership)));
        let committed = match self.wiring.store.needs_rewrite() || copy.is_unwritten {
            false => self.wiring.store.commit(&records).map(drop).map_err(|e| e.to_string()),
            true => Err("it is to be written anew".to_owned()),
        };
        if let Err(error) = committed {
            if !std::mem::replace(&mut copy.is_unwritten, true) {
                warn!("state_file: the copy of the fleet's table is behind: {error}");
            }
            // From now on the journal lacks edits: only the whole table makes up for them.
            copy.unkept.clear();
            copy.unkept_count = 0;
            let current = self.wiring.published.table_full();
            if let Err(error) = self.rewrite(&current) {
                error!("state_file: the copy of the fleet's table can't be written: {error}");
            }
            return;
        }
        copy.is_kept();
        self.fold();
    }

    fn leave(&mut self) {
        let Some(copy) = self.copy.take() else { return };
        copy.fleet.set_left();
        let current = self.wiring.published.table_full();
        let tag = Tag::of_start(self.wiring.store.sequence());
        self.old.push(self.wiring.published.retag(tag));
        if let Err(error) = self.rewrite(&current) {
            warn!("state_file: can't be written: {error}");
        }
        info!("fleet: this node has left it, with the table that it had");
    }
}
