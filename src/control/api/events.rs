//! `GET /events`: server-sent events. Each reader gets the kinds and hosts that it asked for.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use axum::http::request::Parts;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_stream::wrappers::ReceiverStream;

use super::super::events::{Event, Rates, Tick, health_data};
use super::super::grant::Tokens;
use super::super::health::Health;
use super::super::statistics::{self, SharedStatistics, name_of, to_json};
use super::asker::{Asker, OwnPart};
use super::crowd::Seat;
use super::error::ApiError;
use super::guard;
use super::narrowed::narrowed;
use super::route::Query;
use super::{Api, read};
use crate::limits;
use crate::link::{Published, Sums};
use crate::table::Snapshot;

/// Kinds of events that a reader can choose. `hello` is not among them: every reader gets it, and
/// it names the table that the later events are about.
const KINDS: &[&str] = &["change", "health", "held", "idle", "wake", "fleet", "traffic"];
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// One reader, with its choice of events.
struct Reader {
    asker: Asker,
    pass: Pass,
    /// Part of the table that the reader may see. `None`: it may see all of it.
    view: Option<OwnPart>,
    kinds: Vec<String>,
    hosts: Vec<(String, u64)>,
    busiest: usize,
    statistics: SharedStatistics,
    health: Health,
    published: Arc<Published>,
}

pub(super) async fn stream(api: &Api, parts: &Parts, asker: &Asker) -> Result<Response, ApiError> {
    let query = Query::of(parts.uri.query(), &["host", "busiest", "only"])?;
    let busiest = query.count("busiest", limits::BUSIEST_MAX)?.unwrap_or(50);
    let kinds: Vec<String> = match query.get("only") {
        None => KINDS.iter().map(|kind| (*kind).to_owned()).collect(),
        Some(only) => only.split(',').map(str::to_owned).collect(),
    };
    if let Some(other) = kinds.iter().find(|kind| !KINDS.contains(&&***kind)) {
        let expected = KINDS.join(", ");
        return Err(ApiError::bad("query_invalid", format!("only={other}: expected {expected}")));
    }
    let table = api.current();
    let hosts = read::hosts(&query, &[], &asker.grant)?.into_iter();
    let hosts = hosts.map(|name| {
        let key = table.key(&name);
        (name, key)
    });
    let hosts = hosts.collect();
    let events = api.sources.events.follow(limits::event_readers(api.places_max));
    let events = events.ok_or_else(|| ApiError::busy("too many follow the events already"))?;
    if let Some(seat) = Seat::of(parts) {
        seat.stay();
    }
    let view = asker.view(table).await;
    let hello = hello(api, asker, view.as_ref());
    let (asker, pass) = (asker.clone(), Pass::of(api, parts));
    let (statistics, published) = (api.sources.statistics.clone(), api.sources.published.clone());
    let health = api.sources.health.clone();
    let reader = Reader { asker, pass, view, kinds, hosts, busiest, statistics, health, published };
    let (pieces, body) = tokio::sync::mpsc::channel(4);
    tokio::spawn(async move {
        if pieces.send(Ok(sse("hello", &hello))).await.is_ok() {
            reader.follow(events, pieces).await;
        }
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(ReceiverStream::new(body)).keep_alive(keep_alive).into_response())
}

fn hello(api: &Api, asker: &Asker, view: Option<&OwnPart>) -> String {
    let current = api.current();
    let since = api.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "etag": current.tag.to_string(),
        "rules": view.map_or(current.table.len(), |view| view.rules),
        "shards": api.sources.shards.counters().len(),
        "since": since.as_secs(),
        "asker": asker.describe(),
    })
    .to_string()
}

/// Token of a request that lasts for long. Meanwhile the token may get other rights, or be
/// withdrawn.
struct Pass {
    given: Option<Box<[u8]>>,
    tokens: Arc<ArcSwap<Tokens>>,
    /// Tokens of the API when this token was last found among them.
    seen: Arc<Tokens>,
}

impl Pass {
    fn of(api: &Api, parts: &Parts) -> Pass {
        let (tokens, seen) = (api.tokens.clone(), api.tokens.load_full());
        Pass { given: guard::bearer(&parts.headers).map(Box::from), tokens, seen }
    }

    /// Whether the token still has the same rights.
    fn is_good(&mut self, asker: &Asker) -> bool {
        let now = self.tokens.load();
        if Arc::ptr_eq(&now, &self.seen) || !now.are_needed() {
            return true;
        }
        let found = self.given.as_ref().and_then(|given| now.find(given));
        self.seen = Arc::clone(&now);
        found.is_some_and(|grant| grant == asker.grant)
    }
}

type Piece = Result<sse::Event, Infallible>;

fn sse(kind: &str, data: &str) -> sse::Event {
    sse::Event::default().event(kind).data(data)
}

impl Reader {
    fn wants(&self, kind: &str) -> bool {
        self.kinds.iter().any(|wanted| wanted == kind)
    }

    /// Makes the view again if it is not that of the table in force.
    async fn look(&mut self) {
        if let Some(view) = &self.view {
            let current = self.published.table_full();
            if !view.is_fresh(&current) {
                self.view = self.asker.view(current).await;
            }
        }
    }

    /// Sends events until the reader leaves, its rights change, or the daemon ends.
    async fn follow(
        mut self,
        mut events: broadcast::Receiver<Event>,
        pieces: tokio::sync::mpsc::Sender<Piece>,
    ) {
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = pieces.closed() => return,
            };
            if !self.pass.is_good(&self.asker) {
                return;
            }
            self.look().await;
            let event = match event {
                Ok(event) => narrowed(event, &self.asker, self.view.as_ref()).map(Ok),
                Err(error) => Some(Err(error)),
            };
            let Some(event) = event else { continue };
            let piece = match event {
                Ok(Event::Change(data)) if self.wants("change") => sse("change", &data),
                Ok(Event::Health(time, change)) if self.wants("health") => {
                    sse("health", &health_data(time, &change))
                }
                Ok(Event::Other(kind, data)) if self.wants(kind) => sse(kind, &data),
                Ok(Event::Tick(tick)) if self.wants("traffic") => {
                    sse("traffic", &self.traffic(&tick))
                }
                Ok(_) => continue,
                Err(RecvError::Lagged(missed)) => {
                    sse("lagged", &json!({ "missed": missed }).to_string())
                }
                Err(RecvError::Closed) => return,
            };
            if pieces.send(Ok(piece)).await.is_err() {
                return;
            }
        }
    }

    fn traffic(&self, tick: &Tick) -> String {
        let table = self.published.table_full();
        let missing =
            self.hosts.iter().map(|(_, key)| *key).filter(|key| !tick.busy.contains_key(key));
        let missing = statistics::lock(&self.statistics).of(&missing.collect());
        let hosts = self.hosts.iter().map(|(name, key)| {
            let sums = tick.busy.get(key).or_else(|| missing.get(key));
            (name.clone(), moving(sums, tick.rates_of(*key)))
        });
        let hosts: Map<String, Value> = hosts.collect();
        json!({
            "time": tick.time,
            "rules": self.view.as_ref().map_or(tick.rules, |view| view.rules),
            "etag": tick.current_tag,
            "totals": tick.totals,
            "shards": tick.shards,
            "hosts": hosts,
            "busiest": self.busiest(tick, &table),
            "down": self.down(),
            "checks_down": self.checks_down(),
            "held": tick.totals["held_requests"],
        })
        .to_string()
    }

    /// Backends that the requests of all rules pass over.
    fn down(&self) -> Vec<String> {
        let own = self.view.as_ref().map(|view| &view.backends);
        let down = self.health.down().into_iter();
        let told = down.filter(|backend| own.is_none_or(|own| own.contains(backend)));
        let told = told.take(limits::BUSIEST_MAX);
        told.map(|backend| backend.to_string()).collect()
    }

    /// Rules whose checks fail, each with the backend.
    fn checks_down(&self) -> Vec<Value> {
        let sees = self.asker.filter();
        let told = self.health.failing_rules(limits::BUSIEST_MAX, sees.as_ref()).into_iter();
        told.map(|(rule, backend)| json!({ "rule": &*rule, "backend": backend.to_string() }))
            .collect()
    }

    fn busiest(&self, tick: &Tick, table: &Snapshot) -> Vec<Value> {
        let named = tick.ranked.iter().filter_map(|key| Some((*key, name_of(table, *key)?)));
        let rows = named.filter(|(_, name)| self.asker.sees(name)).take(self.busiest).map(
            |(key, name)| {
                let mut row = Map::from_iter([("host".to_owned(), json!(name))]);
                if let Value::Object(counters) = moving(tick.busy.get(&key), tick.rates_of(key)) {
                    row.extend(counters);
                }
                Value::Object(row)
            },
        );
        rows.collect()
    }
}

/// Returns the counters of a host with its rates.
fn moving(sums: Option<&Sums>, rates: Rates) -> Value {
    let mut counters = to_json(sums.unwrap_or(&Sums::default()));
    let names = ["requests_per_second", "bytes_sent_per_second", "bytes_received_per_second"];
    counters
        .extend(names.into_iter().zip(rates).map(|(name, rate)| (name.to_owned(), json!(rate))));
    Value::Object(counters)
}
