//! Requests that `top` repeats beside the stream of events: hosts in the order of the daemon, which
//! knows all of them; backends; the fleet; and the host that is opened.

use std::time::Duration;

use hyper::StatusCode;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::figures::{Backend, ChangeLine, Close, Fleet, Host};
use super::model::{Answered, HISTORY_MAX, Wanted};
use crate::client::failure::RequestError;
use crate::client::print::entries;
use crate::client::request::{Api, Ask, encoded};

/// Pause between two rounds of questions.
const PAUSE: Duration = Duration::from_secs(1);
/// Rounds of questions for each question about the fleet.
const ROUNDS_PER_FLEET: u64 = 5;
const CHANGES_SHOWN: usize = 20;
/// Longest plausible step of a history, in seconds.
const STEP_SECONDS_MAX: u64 = 60;

/// Error of a poll whose answers are no longer read.
struct Unread;

/// Asks until the answers are no longer read. Questions that can't be answered are skipped: the
/// stream of events shows if there is no daemon.
pub async fn run(api: Api, mut wanted: watch::Receiver<Wanted>, answers: mpsc::Sender<Answered>) {
    let mut asker = Asker { api, answers, sorts: true, has_fleet: true, has_changes: true };
    if asker.past().await.is_err() {
        return;
    }
    for round in 0.. {
        let now = wanted.borrow_and_update().clone();
        if asker.ask(&now, round).await.is_err() {
            return;
        }
        tokio::select! {
            () = sleep(PAUSE) => {}
            changed = wanted.changed() => if changed.is_err() { return },
        }
    }
}

struct Asker {
    api: Api,
    answers: mpsc::Sender<Answered>,
    /// Whether the daemon knows `sort=`, a fleet, and `/changes/`: an older one does not.
    sorts: bool,
    has_fleet: bool,
    has_changes: bool,
}

impl Asker {
    async fn ask(&mut self, wanted: &Wanted, round: u64) -> Result<(), Unread> {
        match &wanted.close {
            Some(host) => self.close(host).await?,
            None => self.hosts(wanted).await?,
        }
        self.backends().await?;
        if self.has_fleet && round.is_multiple_of(ROUNDS_PER_FLEET) {
            self.fleet().await?;
        }
        Ok(())
    }

    async fn tell(&self, answered: Answered) -> Result<(), Unread> {
        self.answers.send(answered).await.map_err(|_| Unread)
    }

    /// Asks for the history before now, so that the plot does not begin empty.
    async fn past(&self) -> Result<(), Unread> {
        let Some(past) = self.value("/history/".to_owned()).await else { return Ok(()) };
        let step = past.get("step").and_then(Value::as_u64).unwrap_or(0).min(STEP_SECONDS_MAX);
        let rates = past.get("requests_per_second").and_then(Value::as_array);
        let rates = rates.into_iter().flatten().rev().filter_map(Value::as_f64);
        let seconds = rates.flat_map(|rate| (0..step).map(move |_| rate.max(0.0).round() as u64));
        self.tell(Answered::Past(seconds.take(HISTORY_MAX).collect())).await
    }

    async fn hosts(&mut self, wanted: &Wanted) -> Result<(), Unread> {
        if !self.sorts {
            return Ok(());
        }
        let mut target = format!("/stats/?sort={}&limit={}", wanted.sort.word(), wanted.limit);
        if !wanted.search.is_empty() {
            target = format!("{target}&search={}", encoded(&wanted.search));
        }
        if let Some(only) = wanted.only {
            target = format!("{target}&filter={}", only.word());
        }
        match self.api.fetch(Ask::get(target)).await {
            Ok(answer) => {
                let mut hosts = Vec::new();
                match entries(&answer.body, |name, value| hosts.push(Host::of(&name, &value))) {
                    Ok(()) => self.tell(Answered::Hosts(hosts)).await,
                    Err(_) => Ok(()),
                }
            }
            Err(error) => {
                self.sorts = !is_unknown(&error);
                Ok(())
            }
        }
    }

    async fn backends(&self) -> Result<(), Unread> {
        let Some(value) = self.value("/backends/".to_owned()).await else { return Ok(()) };
        let backends = value.as_object().into_iter().flatten();
        let backends = backends.map(|(address, backend)| Backend::of(address, backend)).collect();
        self.tell(Answered::Backends(backends)).await
    }

    async fn fleet(&mut self) -> Result<(), Unread> {
        let Some(value) = self.value("/fleet/".to_owned()).await else { return Ok(()) };
        self.has_fleet = !value.is_null();
        self.tell(Answered::Fleet(Fleet::of(&value))).await
    }

    async fn close(&mut self, host: &str) -> Result<(), Unread> {
        let name = encoded(host);
        let Some(rule) = self.value(format!("/hostname/{name}/")).await else { return Ok(()) };
        let Some(stats) = self.value(format!("/stats/{name}/")).await else { return Ok(()) };
        let (scheme, bare) = host.split_once("://").unwrap_or(("http", host));
        let which = format!("/which/{}?scheme={scheme}", encoded(bare));
        let which = self.value(which).await.unwrap_or_default();
        let mut close = Close::of(host, &rule, &stats, &which);
        if self.has_changes {
            let target = format!("/changes/?host={name}&limit={CHANGES_SHOWN}");
            match self.api.fetch(Ask::get(target)).await {
                Ok(answer) => {
                    let changes = answer.value().unwrap_or_default();
                    let changes = changes.as_array().into_iter().flatten();
                    close.changes = changes.map(ChangeLine::of).collect();
                }
                Err(error) => {
                    self.has_changes = !is_unknown(&error);
                    close.unknown = Some(error.to_string());
                }
            }
        }
        self.tell(Answered::Close(Box::new(close))).await
    }

    async fn value(&self, target: String) -> Option<Value> {
        self.api.fetch(Ask::get(target)).await.ok()?.value().ok()
    }
}

/// Whether the daemon does not know the question.
fn is_unknown(error: &RequestError) -> bool {
    const UNKNOWN: [StatusCode; 2] = [StatusCode::BAD_REQUEST, StatusCode::NOT_FOUND];
    matches!(error, RequestError::Refused { status, .. } if UNKNOWN.contains(status))
}
