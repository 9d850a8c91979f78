//! `add-backend` and `remove-backend` change one rule; `backend …` changes all rules at once, in
//! one batch, all or nothing. If the table is changed meanwhile, the change is planned anew.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::{Map, Value};

use super::backend_list::list;
use super::change::{duration, not_drained};
use super::diff::Difference;
use super::edit::{Edited, edit};
use super::failure::{Failure, say};
use super::options::{Drain, Trial};
use super::pool::{Effect, PoolChange, Share, apply, members, normal};
use super::print::{action, counted, entries, plain};
use super::request::{Api, Ask, Fetched, PATIENCE, Sending, encoded};
use super::{lines, pool, print_json, query};

/// Time for which the change of one rule is tried anew while other changes come first.
const TRY_FOR: Duration = Duration::from_secs(10);
/// Time for which a batch is tried anew; reading a large table takes a while.
const TRY_BATCH_FOR: Duration = Duration::from_secs(60);
/// Longest time of one batch: it may change a million rules, and wait for all nodes to have them.
const BATCH_PATIENCE: Duration = Duration::from_secs(600);
/// Pause between two checks whether requests are left.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Most rules that a message names; the others are only counted.
const NAMED_MAX: usize = 10;

/// Commands for one backend in all rules.
#[derive(Subcommand, Debug)]
pub enum BackendCommand {
    /// Print the backends of all rules with their health; of one, each rule that has it
    List {
        /// One backend: host:port
        address: Option<String>,
    },
    /// Put another backend in the place of one, with its weight, in every rule that has it
    Move {
        /// The backend that goes
        old: String,
        /// The backend that comes: host:port
        new: String,
        #[command(flatten)]
        trial: Trial,
        #[command(flatten)]
        drain: Drain,
    },
    /// Give a backend no more requests (weight 0), in every rule that has it
    Drain {
        /// The backend, as `backend list` shows it
        address: String,
        /// Give it requests again (weight 1)
        #[arg(long, conflicts_with = "wait")]
        undo: bool,
        #[command(flatten)]
        trial: Trial,
        #[command(flatten)]
        drain: Drain,
    },
    /// Remove a backend from every rule that has another
    Remove {
        /// The backend, as `backend list` shows it
        address: String,
        #[command(flatten)]
        trial: Trial,
        #[command(flatten)]
        drain: Drain,
    },
}

/// A backend for one rule.
#[derive(Args, Debug)]
pub struct AddBackend {
    /// The host name
    #[arg(allow_hyphen_values = true)]
    pub host: String,
    /// The backend: host:port, such as 127.0.0.1:8000, app.internal:8000 or [::1]:8000
    pub address: String,
    /// Share of the requests, relative to the other backends (1); 0 for none yet
    #[arg(long, value_name = "N")]
    pub weight: Option<u16>,
    /// Add it to `backup`: it gets requests while none of the others is usable
    #[arg(long, conflicts_with = "weight")]
    pub backup: bool,
    #[command(flatten)]
    pub trial: Trial,
}

/// A backend that leaves one rule.
#[derive(Args, Debug)]
pub struct RemoveBackend {
    /// The host name
    #[arg(allow_hyphen_values = true)]
    pub host: String,
    /// The backend, as `backend list` shows it
    pub address: String,
    #[command(flatten)]
    pub trial: Trial,
    #[command(flatten)]
    pub drain: Drain,
}

/// Runs a command for all rules.
pub async fn run(api: &Api, command: &BackendCommand, json: bool) -> Result<(), Failure> {
    let (change, address, trial, drain) = match command {
        BackendCommand::List { address } => return list(api, address.as_deref(), json).await,
        BackendCommand::Move { old, new, trial, drain } => {
            let new = pool::backend(new).map_err(Failure::Other)?;
            (PoolChange::Move { old: old.clone(), new }, old, trial, drain)
        }
        BackendCommand::Drain { address, undo, trial, drain } => {
            let of = address.clone();
            let change = match undo {
                true => PoolChange::Undrain { address: of },
                false => PoolChange::Drain { address: of },
            };
            (change, address, trial, drain)
        }
        BackendCommand::Remove { address, trial, drain } => {
            (PoolChange::Remove { address: address.clone() }, address, trial, drain)
        }
    };
    let timeout = timeout_of(drain)?;
    // Look the addresses up before the change: once no rule has the name, the daemon no longer
    // knows them.
    let watched = if drain.wait { addresses(api, address).await? } else { Vec::new() };
    let plan = |found: &Fetched| Batch::plan(found, &change, address, trial);
    let Edited { planned: batch, answer } = edit(api, "/hostname/", TRY_BATCH_FOR, plan).await?;
    batch.told(answer.as_ref(), address, trial, json)?;
    if drain.wait {
        until_free(api, address, &watched, timeout, &drain.timeout).await?;
    }
    batch.rest(address)
}

/// Rules that one change concerns.
#[derive(Default)]
struct Batch {
    difference: Difference,
    changed: usize,
    /// Rules that have no other backend.
    kept: Vec<String>,
    /// Rules that are left without a backend that gets requests.
    drained: Vec<String>,
}

impl Batch {
    /// Plans the change of a whole table.
    fn plan(
        found: &Fetched,
        change: &PoolChange,
        address: &str,
        trial: &Trial,
    ) -> Result<(Batch, Option<Ask>), Failure> {
        let mut batch = Batch::default();
        let mut changes = Map::new();
        let mut is_known = false;
        let read = entries(&found.body, |host, rule| match apply(&rule, change) {
            Effect::Changed(new) => {
                changes.insert(host.clone(), new.clone());
                if members(&new).iter().all(|(_, share)| *share == Share::Weight(0)) {
                    batch.drained.push(host.clone());
                }
                batch.difference.add(host, Some(rule), Some(new));
            }
            Effect::Last => batch.kept.push(host),
            Effect::Unchanged => is_known = true,
            Effect::Absent | Effect::NoProxy => {}
        });
        read.map_err(|error| found.foreign(&error))?;
        batch.changed = changes.len();
        if changes.is_empty() {
            return match (is_known, &batch.kept[..]) {
                (true, _) => Ok((batch, None)),
                (false, []) => {
                    let why = format!("no rule has the backend {}", plain(address));
                    Err(Failure::Other(why))
                }
                (false, kept) => Err(Failure::Other(format!(
                    "{} is the only backend of {}: nothing was changed; add another one first, by \
                     add-backend",
                    plain(address),
                    some(kept)
                ))),
            };
        }
        let query = if trial.dry_run { "dry_run=1" } else { "wait=fleet" };
        let ask = Ask {
            method: Method::PATCH,
            target: format!("/hostname/?{query}"),
            body: Some(Sending::json(&Value::Object(changes))),
            if_match: None,
            patience: BATCH_PATIENCE,
        };
        Ok((batch, Some(ask)))
    }

    /// Prints what was done.
    fn told(
        &self,
        answer: Option<&Fetched>,
        address: &str,
        trial: &Trial,
        json: bool,
    ) -> Result<(), Failure> {
        match answer {
            _ if trial.dry_run && !json => lines(self.difference.lines())?,
            Some(answer) if json => print_json(&answer.body)?,
            None if json => print_json(br#"{"ok":true}"#)?,
            _ => {}
        }
        let rules = counted(self.changed, "rule");
        say(&match (answer, trial.dry_run) {
            (None, _) => format!("{}: nothing to change", plain(address)),
            (_, true) => format!("{}: {rules} would be changed; none was", plain(address)),
            (_, false) => format!("{}: {rules} changed", plain(address)),
        });
        if !self.drained.is_empty() {
            let hosts = some(&self.drained);
            say(&format!("no backend is left that gets requests, so they get 503: {hosts}"));
        }
        let answer = answer.map(Fetched::value).transpose()?.unwrap_or_default();
        let lagging = answer["fleet"]["lagging"].as_array().into_iter().flatten();
        let lagging: Vec<String> = lagging.filter_map(Value::as_str).map(plain).collect();
        if !lagging.is_empty() {
            say(&format!("not on all nodes yet: {}", lagging.join(", ")));
        }
        Ok(())
    }

    /// Fails if rules were left as they are: an operator who wants to stop the backend must know.
    fn rest(self, address: &str) -> Result<(), Failure> {
        if self.kept.is_empty() {
            return Ok(());
        }
        let (address, kept) = (plain(address), some(&self.kept));
        let why = format!("{address} is still the only backend of {kept}: don't stop it yet");
        Err(Failure::Other(why))
    }
}

/// Adds a backend to one rule.
pub async fn add(api: &Api, adding: &AddBackend, json: bool) -> Result<(), Failure> {
    let backend = pool::backend(&adding.address).map_err(Failure::Other)?;
    let change = match adding.backup {
        true => PoolChange::AddBackup { backend },
        false => PoolChange::Add { backend, weight: adding.weight },
    };
    let query = if adding.trial.dry_run { "?dry_run=1" } else { "" };
    let one = One { host: &adding.host, address: &adding.address, query, patience: PATIENCE };
    let edited = one.edit(api, &change).await?;
    if edited.answer.is_none() {
        let (host, address) = (plain(&adding.host), plain(&adding.address));
        say(&format!("{host} has the backend {address} already: nothing was changed"));
    }
    one.told(&edited, &adding.trial, json).map(drop)
}

/// Removes a backend from one rule.
pub async fn remove(api: &Api, removing: &RemoveBackend, json: bool) -> Result<(), Failure> {
    let RemoveBackend { host, address, trial, drain } = removing;
    let timeout = timeout_of(drain)?;
    let query = match (trial.dry_run, drain.wait) {
        (true, _) => "?dry_run=1".to_owned(),
        (false, true) => format!("?wait=drained&timeout={}", drain.timeout),
        (false, false) => String::new(),
    };
    let patience = if drain.wait { PATIENCE + timeout } else { PATIENCE };
    let one = One { host, address, query: &query, patience };
    let edited = one.edit(api, &PoolChange::Remove { address: address.clone() }).await?;
    let answer = one.told(&edited, trial, json)?;
    match answer.get("drained") {
        Some(Value::Bool(false)) => Err(Failure::Other(not_drained(host, &drain.timeout, &answer))),
        _ => Ok(()),
    }
}

/// A backend of one rule.
struct One<'a> {
    host: &'a str,
    address: &'a str,
    query: &'a str,
    patience: Duration,
}

impl One<'_> {
    /// Changes the rule; the result is the difference.
    async fn edit(&self, api: &Api, change: &PoolChange) -> Result<Edited<Difference>, Failure> {
        let path = format!("/hostname/{}/", encoded(self.host));
        edit(api, &path, TRY_FOR, |found| {
            let before = found.value()?;
            let mut difference = Difference::default();
            let after = match apply(&before, change) {
                Effect::Changed(after) => after,
                Effect::Unchanged => return Ok((difference, None)),
                refused => return Err(Failure::Other(self.refused(&refused, &before))),
            };
            let ask = Ask {
                method: Method::PUT,
                target: format!("{path}{}", self.query),
                body: Some(Sending::json(&after)),
                if_match: None,
                patience: self.patience,
            };
            difference.add(self.host.to_owned(), Some(before), Some(after));
            Ok((difference, Some(ask)))
        })
        .await
    }

    /// Says why a rule is not changed.
    fn refused(&self, effect: &Effect, rule: &Value) -> String {
        let (host, address) = (plain(self.host), plain(self.address));
        match effect {
            Effect::Last => format!(
                "{address} is the only backend of {host}: nothing was changed; add another one \
                 first, by add-backend, or delete the rule"
            ),
            Effect::Absent => {
                let others = members(rule).into_iter().map(|(backend, _)| plain(&backend));
                let others: Vec<String> = others.collect();
                format!("{host} has no backend {address}; it has {}", some(&others))
            }
            _ if rule.is_null() => {
                format!("{host} has no rule of its own (a subdomain uses its parent's rule)")
            }
            _ if rule[0] == "alias" => {
                let target = plain(rule[1]["hostname"].as_str().unwrap_or_default());
                format!("{host} is an alias of {target}: name that")
            }
            _ => format!("the rule of {host} is {}, which has no backends", action(rule)),
        }
    }

    /// Prints what was done; returns the daemon's answer.
    fn told(
        &self,
        edited: &Edited<Difference>,
        trial: &Trial,
        json: bool,
    ) -> Result<Value, Failure> {
        let Edited { planned, answer } = edited;
        match answer {
            Some(answer) if json => print_json(&answer.body)?,
            None if json => print_json(br#"{"ok":true}"#)?,
            Some(_) if trial.dry_run => lines(planned.lines())?,
            _ => {}
        }
        Ok(answer.as_ref().map(Fetched::value).transpose()?.unwrap_or_default())
    }
}

/// Reads `--timeout`.
fn timeout_of(drain: &Drain) -> Result<Duration, Failure> {
    let time = drain.timeout.as_str();
    let why = || format!("--timeout {time:?}: expected a time such as 30s or 2m");
    duration(time).ok_or_else(|| Failure::Other(why()))
}

/// The addresses of a backend, as the daemon knows them.
async fn addresses(api: &Api, backend: &str) -> Result<Vec<String>, Failure> {
    let backend = normal(backend);
    let target = format!("/backends/{}", query([("address", backend.as_str())]));
    let found = api.fetch(Ask::get(target)).await?.value()?;
    Ok(found.as_object().into_iter().flatten().map(|(address, _)| address.clone()).collect())
}

/// Waits until no request is open at these addresses.
async fn until_free(
    api: &Api,
    backend: &str,
    addresses: &[String],
    timeout: Duration,
    shown: &str,
) -> Result<(), Failure> {
    if addresses.is_empty() {
        return Ok(());
    }
    let query = query(addresses.iter().map(|address| ("address", address.as_str())));
    let target = format!("/backends/{query}");
    let began = Instant::now();
    loop {
        let found = api.fetch(Ask::get(target.clone())).await?.value()?;
        let open = found.as_object().into_iter().flatten().filter_map(|(address, backend)| {
            let open = backend["open_requests"].as_u64().filter(|open| *open != 0)?;
            Some(format!("{} ({open})", plain(address)))
        });
        let open: Vec<String> = open.collect();
        if open.is_empty() {
            return Ok(());
        }
        if timeout <= began.elapsed() {
            return Err(Failure::Other(format!(
                "{} gets no more requests by these rules, but after {shown} there are still open \
                 ones at {}: don't stop it yet",
                plain(backend),
                open.join(", ")
            )));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The first of many names, and how many others there are.
pub fn some(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(NAMED_MAX).map(|name| plain(name)).collect();
    match names.len().checked_sub(NAMED_MAX) {
        Some(more @ 1..) => format!("{} and {more} more", shown.join(", ")),
        _ => shown.join(", "),
    }
}
