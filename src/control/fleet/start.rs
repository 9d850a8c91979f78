//! The start of a node: its own table and the fleet's are brought together before the first
//! request, or the start is refused with what to do about it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};
use tracing::{info, warn};

use super::drain::DrainAsk;
use super::etcd::message::{PutRequest, TxnRequest};
use super::etcd::{self, Client, EtcdError};
use super::keys::Keys;
use super::load::{Base, Missing, base_text, difference, missing};
use super::log::{Chunks, pieces};
use super::remote::{self, Head, ReadError, Remote};
use super::{Applied, Counts, Fleet, LoadReason, Settings, Shared, View, nonce, tag_of};
use crate::control::trial::Asked;
use crate::control::{Rest, SharedNames};
use crate::limits;
use crate::link::Tag;
use crate::state::{self, Membership};
use crate::table::Snapshot;

/// Step of a node at its start.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    /// Create the fleet, with this node's table: there is no fleet of this name yet.
    Create,
    /// Take the fleet's table: this node's own one is empty, the same, or given up.
    Join,
    /// Follow the log from this sequence on: this node has the fleet's table as of there.
    CatchUp(u64),
    /// Stop, for this reason: etcd does not hold the fleet that this node's table comes from.
    Lost(String),
}

/// Decides the step. `own`: the place of this node's table in a fleet of this name.
fn step(own: Option<&Membership>, remote: &Remote, adopt: bool) -> Step {
    let there = remote.id.as_ref().zip(remote.head.as_ref());
    match (own, there) {
        (_, Some(_)) if adopt => Step::Join,
        (None, None) => Step::Create,
        (None, Some(_)) => Step::Join,
        (Some(own), there) => match lost(&own.id, own.sequence, there) {
            Some(why) => Step::Lost(why),
            None => Step::CatchUp(own.sequence),
        },
    }
}

/// Says why etcd does not hold the fleet with this id, of which entries up to `sequence` were seen;
/// `None`: it does.
pub(super) fn lost(id: &str, sequence: u64, there: Option<(&String, &Head)>) -> Option<String> {
    match there {
        None => Some("etcd has no fleet of this name any more".to_owned()),
        Some((other, _)) if other != id => {
            Some(format!("etcd has another fleet of this name, with the id {other}"))
        }
        Some((_, head)) if head.sequence < sequence => Some(format!(
            "etcd is older than this node: its log ends at {}, this node is at {sequence}",
            head.sequence
        )),
        Some(_) => None,
    }
}

/// A node that has found its place.
pub(in crate::control) struct Joined {
    pub(in crate::control) fleet: Fleet,
    pub(in crate::control) membership: Membership,
    /// Whether the state file does not have the table yet.
    is_unwritten: bool,
    pub(super) proposals: mpsc::Receiver<Asked>,
    pub(super) drains: mpsc::UnboundedReceiver<DrainAsk>,
}

/// The fleet that the table belongs to, for the writer.
pub(in crate::control) struct FleetParts {
    pub(in crate::control) fleet: Fleet,
    pub(in crate::control) membership: Membership,
    pub(in crate::control) is_unwritten: bool,
}

impl Joined {
    /// Makes the tag of the table at the start, which is the same on each node.
    pub(in crate::control) fn tag(&self) -> Tag {
        tag_of(&self.membership.id, self.membership.sequence)
    }

    /// Returns the part that the writer needs.
    pub(in crate::control) fn parts(&self) -> FleetParts {
        let (fleet, membership) = (self.fleet.clone(), self.membership.clone());
        FleetParts { fleet, membership, is_unwritten: self.is_unwritten }
    }
}

/// Asks each member of etcd for its status, and then for the fleet.
pub(in crate::control) async fn try_members(settings: &Settings) -> Vec<Result<String, String>> {
    let client = match Client::new(&settings.access) {
        Ok(client) => client,
        Err(why) => return vec![Err(format!("fleet_endpoints: {why}"))],
    };
    let mut found = Vec::new();
    for member in 0..client.members() {
        let url = client.url(member).to_owned();
        found.push(match client.status(member).await {
            Ok(status) if status.leader == 0 => {
                Err(format!("fleet_endpoints = {url}: it has no leader"))
            }
            Ok(status) => {
                let megabytes = status.db_size / 1_000_000;
                let errors = status.errors.join(", ");
                let errors = if errors.is_empty() { errors } else { format!(", {errors}") };
                Ok(format!("etcd {} at {url}, {megabytes} MB{errors}", status.version))
            }
            Err(error) => Err(format!("fleet_endpoints = {url}: {error}")),
        });
    }
    // A member may be well, and the fleet's own keys may still be forbidden.
    let keys = Keys::new(&settings.name);
    found.push(match remote::look(&client, &keys).await {
        Ok(Remote { head: Some(head), members, .. }) => Ok(format!(
            "fleet {} is at {}, with {} live nodes",
            settings.name,
            head.sequence,
            members.len()
        )),
        Ok(_) => Ok(format!("fleet {} does not exist yet", settings.name)),
        Err(error) => Err(format!("fleet = {}: {error}", settings.name)),
    });
    found
}

/// State of this node, as loaded so far.
pub(in crate::control) struct Own<'l> {
    pub(in crate::control) snapshot: &'l mut Snapshot,
    pub(in crate::control) rest: &'l mut Rest,
    pub(in crate::control) state_file: &'l Path,
}

/// Finds the node's place in the fleet. Afterwards the table in `own` is that of the fleet, and the
/// state file says so.
pub(in crate::control) async fn start(settings: Settings, own: Own<'_>) -> Result<Joined, String> {
    let client = Client::new(&settings.access).map_err(|why| format!("fleet_endpoints: {why}"))?;
    let keys = Keys::new(&settings.name);
    let known = own.rest.fleet.clone().filter(|known| known.fleet == settings.name);
    let instance = known.as_ref().map_or_else(nonce, |known| known.instance.clone());
    let found = find(&client, &keys, &settings, known.is_some()).await;
    let remote = match found {
        Ok(remote) => Some(remote),
        Err(why) if known.is_some() => {
            warn!("fleet: {why}; serving the copy of the table, changes are refused until then");
            None
        }
        Err(why) => return Err(format!("fleet: {why}")),
    };
    if let Some(remote) = &remote {
        free_name(&settings, &instance, remote, &client, &keys).await?;
    }
    let mut starting = Starting {
        client: &client,
        keys: &keys,
        settings: &settings,
        own,
        is_unwritten: false,
        is_loaded: false,
    };
    let (membership, revision, lost) = starting.go(known, &instance, remote).await?;
    let is_unwritten = starting.is_unwritten;
    let counts = Counts::default();
    if starting.is_loaded {
        counts.loads[LoadReason::Start as usize].store(1, Ordering::Relaxed);
    }
    let (proposals, proposed) = mpsc::channel(limits::CHANGES_WAITING_MAX);
    let (drains, asks) = mpsc::unbounded_channel();
    let view = View {
        id: membership.id.clone(),
        connected: false,
        since: Instant::now(),
        lost,
        base: None,
        turn: None,
        left: false,
        members: BTreeMap::new(),
        rejected: BTreeMap::new(),
    };
    let fleet = Fleet(Arc::new(Shared {
        settings,
        keys,
        client,
        instance,
        view: watch::Sender::new(view),
        applied: watch::Sender::new(Applied { sequence: membership.sequence, revision }),
        proposals,
        drains,
        drained: watch::Sender::default(),
        idle_hosts: Mutex::default(),
        asked: watch::Sender::new(0),
        decided: Notify::new(),
        adopt: AtomicBool::new(false),
        quiet: AtomicBool::new(false),
        lease: AtomicI64::new(0),
        last_event: Mutex::new(Instant::now()),
        log_size: Mutex::default(),
        own_edits: Mutex::default(),
        counts,
    }));
    Ok(Joined { fleet, membership, is_unwritten, proposals: proposed, drains: asks })
}

/// Looks at the fleet. A node without a copy of the table waits for etcd for as long as the
/// operator allows.
async fn find(
    client: &Client,
    keys: &Keys,
    settings: &Settings,
    has_copy: bool,
) -> Result<Remote, String> {
    let until = Instant::now() + settings.patience;
    loop {
        match remote::look(client, keys).await {
            Ok(remote) => return Ok(remote),
            Err(error @ EtcdError::Unreachable(_)) if !has_copy && Instant::now() < until => {
                info!("fleet: waiting: {error}");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Err(error @ EtcdError::Unreachable(_)) if !has_copy => {
                return Err(format!(
                    "{error}; there is no copy of the table yet, and none came in fleet_start \
                     ({:?})",
                    settings.patience
                ));
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Waits for another node of the same name to go: a node that ended without revoking its lease
/// stays until the lease ends.
async fn free_name(
    settings: &Settings,
    instance: &str,
    remote: &Remote,
    client: &Client,
    keys: &Keys,
) -> Result<(), String> {
    let node = &settings.node;
    let until = Instant::now() + settings.patience;
    let mut members = remote.members.clone();
    loop {
        let Some(member) = members.get(node).filter(|it| it.instance != instance) else {
            return Ok(());
        };
        if until <= Instant::now() {
            let url = &member.url;
            return Err(format!(
                "fleet_node = {node}: another node has this name, at {url}: give this one another"
            ));
        }
        info!("fleet: another node has the name {node}: waiting until its lease ends");
        tokio::time::sleep(Duration::from_secs(1)).await;
        if let Ok(remote) = remote::look(client, keys).await {
            members = remote.members;
        }
    }
}

struct Starting<'s> {
    client: &'s Client,
    keys: &'s Keys,
    settings: &'s Settings,
    own: Own<'s>,
    is_unwritten: bool,
    /// Whether the whole table was read.
    is_loaded: bool,
}

/// The place found, the revision of the head that belongs to it, and why the store is not the
/// fleet's.
type Place = (Membership, i64, Option<String>);

impl Starting<'_> {
    async fn go(
        &mut self,
        known: Option<Membership>,
        instance: &str,
        remote: Option<Remote>,
    ) -> Result<Place, String> {
        let Some(mut remote) = remote else {
            let known = known.ok_or("fleet: there is no copy of the table")?;
            return Ok((known, 0, None));
        };
        let name = self.settings.name.clone();
        // More than one round is needed if another node creates the fleet at the same time.
        for _ in 0..3 {
            match step(known.as_ref(), &remote, self.settings.adopt) {
                Step::Create => {
                    let id = nonce();
                    let made = create(self.client, self.keys, self.own.snapshot, &id, 0, None);
                    if let Some(revision) = made.await.map_err(|error| format!("fleet: {error}"))? {
                        info!("fleet: created {name} with {} rules", self.own.snapshot.len());
                        let instance = instance.to_owned();
                        let membership = Membership { fleet: name, id, instance, sequence: 0 };
                        self.write(&membership);
                        return Ok((membership, revision, None));
                    }
                    remote = remote::look(self.client, self.keys)
                        .await
                        .map_err(|error| format!("fleet: {error}"))?;
                }
                Step::Join => return self.join(known.is_some(), instance, &remote).await,
                Step::CatchUp(sequence) => {
                    let known = known.ok_or("fleet: there is no copy of the table")?;
                    return Ok(self.catch_up(known, sequence, &remote).await);
                }
                Step::Lost(why) => {
                    let known = known.ok_or("fleet: there is no copy of the table")?;
                    warn!(
                        "fleet: {why}; serving the copy of the table, changes are refused until \
                         mantrid-client fleet init --from-here, or fleet join, decides"
                    );
                    return Ok((known, 0, Some(why)));
                }
            }
        }
        Err("fleet: others create it again and again".to_owned())
    }

    fn names(&self) -> SharedNames {
        self.own.rest.names.clone()
    }

    async fn join(
        &mut self,
        is_known: bool,
        instance: &str,
        remote: &Remote,
    ) -> Result<Place, String> {
        let (Some(id), Some(head)) = (&remote.id, &remote.head) else {
            return Err("fleet: there is none to join".to_owned());
        };
        let read = remote::table(self.client, self.keys, remote, &self.names()).await;
        let (table, rejected) = read.map_err(|error| format!("fleet: {error}"))?;
        self.is_loaded = true;
        for (name, why) in rejected {
            warn!("fleet: {name}: not used: {why}");
        }
        let own = &*self.own.snapshot;
        let edits = if own.is_empty() { Vec::new() } else { difference(own, &table) };
        if !edits.is_empty() && !self.settings.adopt && !is_known {
            return Err(self.differs(own, &table, edits.len()));
        }
        if !edits.is_empty() {
            let path = self.keep_own().map_err(|why| format!("fleet: --adopt: {why}"))?;
            info!("fleet: the table that was here is kept in {path}");
        }
        *self.own.snapshot = table;
        let membership = Membership {
            fleet: self.settings.name.clone(),
            id: id.clone(),
            instance: instance.to_owned(),
            sequence: head.sequence,
        };
        info!("fleet: joined {} at {}", self.settings.name, head.sequence);
        self.write(&membership);
        Ok((membership, head.revision, None))
    }

    fn differs(&self, own: &Snapshot, other: &Snapshot, count: usize) -> String {
        let name = &self.settings.name;
        let only =
            |a: &Snapshot, b: &Snapshot| a.iter().filter(|(n, _)| b.get(n).is_none()).count();
        let (here, there) = (only(own, other), only(other, own));
        let changed = count - here - there;
        format!(
            "fleet = {name}: this node has a table of its own, with {here} rules that the fleet has \
             not, {there} fewer than the fleet has, and {changed} that differ; start it once with \
             --adopt to take the fleet's table (its own is kept beside the state file), or move \
             {} away",
            self.own.state_file.display()
        )
    }

    /// Writes this node's own table to a file beside the state file.
    fn keep_own(&self) -> Result<String, String> {
        let mut path = self.own.state_file.as_os_str().to_owned();
        path.push(".before-fleet");
        let failed = |error: std::io::Error| format!("{}: {error}", Path::new(&path).display());
        let mut out = BufWriter::new(File::create(&path).map_err(failed)?);
        let stats = self.own.rest.stats.iter().cloned();
        state::write(&mut out, self.own.snapshot, stats, 0).map_err(failed)?;
        let file = out.into_inner().map_err(|error| failed(error.into_error()))?;
        file.sync_all().map_err(failed)?;
        Ok(Path::new(&path).display().to_string())
    }

    /// Reads what is missing before the first request. What can't be read now comes with the watch.
    async fn catch_up(&mut self, known: Membership, sequence: u64, remote: &Remote) -> Place {
        let Some(head) = &remote.head else { return (known, 0, None) };
        let caught = match missing(Some(sequence), head.sequence, remote.first) {
            Missing::Nothing => return (known, head.revision, None),
            // The task that follows the log does the same, and also knows what to do with a bad
            // entry.
            Missing::Entries(from) if head.sequence - from < limits::FLEET_CATCH_UP_HERE => {
                self.entries(from, head.sequence, remote.revision).await
            }
            Missing::Entries(_) | Missing::Table => {
                self.is_loaded = true;
                remote::table(self.client, self.keys, remote, &self.names()).await
            }
        };
        match caught {
            Ok((table, rejected)) if rejected.is_empty() => {
                *self.own.snapshot = table;
                let membership = Membership { sequence: head.sequence, ..known };
                info!("fleet: caught up from {sequence} to {}", head.sequence);
                self.write(&membership);
                (membership, head.revision, None)
            }
            Ok(_) => (known, 0, None),
            Err(error) => {
                warn!("fleet: {error}; serving the copy of the table");
                (known, 0, None)
            }
        }
    }

    async fn entries(
        &self,
        from: u64,
        to: u64,
        revision: i64,
    ) -> Result<(Snapshot, remote::NotTaken), ReadError> {
        let mut table = self.own.snapshot.clone();
        let mut not_taken = Vec::new();
        let mut next = from;
        while next <= to {
            let found = remote::entries(self.client, self.keys, next, to, revision).await?;
            if found.first().is_none_or(|found| found.sequence != next) {
                return Err(ReadError::Broken(format!("entry {next} is missing")));
            }
            for found in found {
                next = found.sequence + 1;
                let entry = found.entry.map_err(ReadError::Broken)?;
                let edits = remote::edits_of(self.client, self.keys, entry, &self.names()).await?;
                for edit in edits {
                    let (new, more) = remote::apply(&table, &edit);
                    table = new;
                    not_taken.extend(more);
                }
            }
        }
        Ok((table, not_taken))
    }

    /// Writes the state file, with the fleet that the table belongs to.
    fn write(&mut self, membership: &Membership) {
        if limits::FLEET_WRITTEN_HERE_MAX < self.own.snapshot.len() {
            // Writing takes a second or two, so requests are served first.
            self.is_unwritten = true;
            return;
        }
        let Some(store) = &mut self.own.rest.store else { return };
        store.set_fleet(Some(membership.clone()));
        let stats = self.own.rest.stats.clone();
        if let Err(error) = store.rewrite(self.own.snapshot, stats) {
            warn!("state_file: the copy of the fleet's table can't be written: {error}");
        }
    }
}

/// Makes a fleet of a table; its log begins after `sequence`. `over`: the revision of the head that
/// may be replaced. Returns the revision at which the fleet was made, or `None` if another node was
/// faster.
pub(super) async fn create(
    client: &Client,
    keys: &Keys,
    table: &Snapshot,
    id: &str,
    sequence: u64,
    over: Option<i64>,
) -> Result<Option<i64>, EtcdError> {
    let base = write_base(client, keys, table, sequence).await?;
    let head = Head::to_value(sequence, &nonce());
    let compare = match over {
        None => vec![etcd::is_at(&keys.id(), 0), etcd::is_at(&keys.head(), 0)],
        Some(revision) => vec![etcd::is_at(&keys.head(), revision)],
    };
    let mut compare = compare;
    if base.chunks.count != 0 {
        compare.push(etcd::exists(&keys.base_piece(&base.chunks.nonce, 0)));
    }
    let value = serde_json::json!({ "fleet": id, "format": 1 }).to_string();
    let success = vec![
        etcd::delete_prefix(&keys.all_log()),
        etcd::put(&keys.base(), base.to_value()),
        etcd::put(&keys.id(), value),
        etcd::put(&keys.head(), head),
    ];
    let done = client.txn(TxnRequest { compare, success, failure: Vec::new() }).await?;
    Ok(done.succeeded.then(|| done.revision()))
}

/// Writes the pieces of a base at a pace, so that changes go on meanwhile. `live/base` does not
/// lead to them yet.
pub(super) async fn write_base(
    client: &Client,
    keys: &Keys,
    table: &Snapshot,
    sequence: u64,
) -> Result<Base, EtcdError> {
    let table = table.clone();
    let text = tokio::task::spawn_blocking(move || base_text(&table)).await;
    let text = text.map_err(|_| EtcdError::Other("the table can't be written".to_owned()))?;
    let name = format!("{sequence}-{}", &nonce()[..8]);
    let chunks = Chunks::of(&name, &text);
    let began = Instant::now();
    let mut written = 0;
    for (index, piece) in pieces(&text).enumerate() {
        let key = keys.base_piece(&name, index).into();
        let put = PutRequest { key, value: piece.to_vec(), lease: 0 };
        client.put_again(put).await?;
        written += piece.len() as u64;
        let due = Duration::from_secs_f64(written as f64 / limits::FLEET_FOLD_BYTES_PER_SECOND);
        tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
    }
    Ok(Base { sequence, chunks })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(id: &str, sequence: u64) -> Membership {
        let [fleet, id, instance] = ["f", id, "i"].map(str::to_owned);
        Membership { fleet, id, instance, sequence }
    }

    fn remote(id: &str, sequence: u64) -> Remote {
        let head = Some(Head { sequence, revision: 9 });
        Remote { id: Some(id.to_owned()), head, ..Remote::default() }
    }

    #[test]
    fn every_pair_of_states_has_its_step() {
        let none = Remote::default();
        assert_eq!(step(None, &none, false), Step::Create);
        assert_eq!(step(None, &none, true), Step::Create);
        assert_eq!(step(None, &remote("a", 7), false), Step::Join);
        assert_eq!(step(Some(&own("a", 7)), &remote("a", 7), false), Step::CatchUp(7));
        assert_eq!(step(Some(&own("a", 3)), &remote("a", 7), false), Step::CatchUp(3));
        for (own, remote) in [
            (own("a", 8), remote("a", 7)),
            (own("a", 3), remote("b", 7)),
            (own("a", 3), Remote::default()),
        ] {
            let found = step(Some(&own), &remote, false);
            assert!(matches!(found, Step::Lost(_)), "{own:?} {remote:?}: {found:?}");
        }
        assert_eq!(step(Some(&own("a", 8)), &remote("b", 7), true), Step::Join);
    }
}
