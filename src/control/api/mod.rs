//! The management API: the requests and responses of the original Mantrid, and later additions.
//! `docs/api.md` says what the API promises.
//!
//! Each connection is a task on the control shard. Work that takes long (reading or writing a
//! million rules) is done on other threads. Changes of the table go through the writer.

mod asker;
mod busiest;
mod crowd;
mod daemon_metrics;
mod error;
mod events;
mod exposition;
mod families;
mod fleet;
mod fleet_metrics;
mod guard;
mod held;
mod listing;
mod metrics;
mod narrowed;
mod openapi;
mod past;
mod process;
mod ranking;
mod reached;
mod read;
mod ready;
mod route;
mod rules;
mod search;
mod serve;
mod stats;
mod support;
mod value;
mod which;
mod would;
mod write_timeout;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Instant, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, Request, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::field::display;
use tracing::info;

use super::change::{Change, Done};
use super::elder::Elder;
use super::events::EventBus;
use super::figures::Figures;
use super::fleet::Fleet;
use super::grant::Tokens;
use super::health::Health;
use super::held::Held;
use super::history::{History, SharedChanges};
use super::orders::Orders;
use super::resolver::Lookups;
use super::statistics::{self, SharedStatistics, Statistics};
use super::{SharedNames, dashboard};
use crate::limits;
use crate::link::{ControlEnd, Published, Tag, TaggedTable};
use asker::Asker;
use crowd::{Crowd, Seat};
use daemon_metrics::PathTimes;
use error::ApiError;
use guard::Peer;
use metrics::Ranks;
use ranking::HostSources;
use route::{ROUTES, Route};

pub(super) use read::unasked;
pub(crate) use serve::Management;
pub(super) use serve::{AcceptState, Door, serve};
pub(crate) use support::About;

/// Parts of control from which requests are answered, or to which they are passed.
pub(super) struct Sources {
    pub(super) fleet: Option<Fleet>,
    pub(super) orders: Orders,
    pub(super) names: SharedNames,
    pub(super) lookups: Lookups,
    pub(super) statistics: SharedStatistics,
    pub(super) held: Held,
    pub(super) shards: ControlEnd,
    pub(super) events: EventBus,
    pub(super) health: Health,
    /// Reason why changes can't be written to disk; `None` while they can.
    pub(super) trouble: Arc<ArcSwapOption<String>>,
    pub(super) published: Arc<Published>,
    pub(super) figures: Arc<Figures>,
    pub(super) changes: SharedChanges,
    pub(super) history: History,
}

/// The management API.
pub(super) struct Api {
    pub(super) sources: Sources,
    pub(super) tokens: Arc<ArcSwap<Tokens>>,
    /// Whether the daemon accepts no more clients.
    pub(super) is_stopping: AtomicBool,
    /// Facts for `/support`.
    pub(super) about: ArcSwap<About>,
    /// Response times, by path.
    times: Arc<PathTimes>,
    ranks: Mutex<Ranks>,
    /// Memory for bodies of requests, in KiB.
    room: Arc<Semaphore>,
    started: SystemTime,
    /// Places for management connections.
    pub(super) places: Arc<Semaphore>,
    pub(super) places_max: usize,
    /// The daemon before this one, while requests are under way there.
    pub(super) elder: Elder,
    crowd: Arc<Crowd>,
    /// Places for requests that wait for something after the change of a rule.
    waiters: Arc<Semaphore>,
}

/// A body, and the permit for its memory, which is kept until the request is done.
struct TakenBody {
    bytes: Bytes,
    room: OwnedSemaphorePermit,
}

impl Api {
    pub(super) fn new(sources: Sources, tokens: Tokens, places_max: usize) -> Api {
        let places = Arc::new(Semaphore::new(places_max));
        Api {
            sources,
            tokens: Arc::new(ArcSwap::from_pointee(tokens)),
            is_stopping: AtomicBool::new(false),
            about: ArcSwap::default(),
            times: Arc::new(PathTimes::new(ROUTES.iter().map(|(path, _)| *path))),
            ranks: Mutex::default(),
            room: Arc::new(Semaphore::new(limits::MANAGEMENT_BODIES_BYTES_MAX / 1024)),
            started: SystemTime::now(),
            crowd: Crowd::new(places.clone()),
            waiters: Arc::new(Semaphore::new(limits::drain_waiters(places_max))),
            places,
            places_max,
            elder: Elder::default(),
        }
    }

    /// Answers one request.
    async fn answer(&self, door: Door, peer: &Peer, request: Request<Body>) -> Response {
        let began = Instant::now();
        let (parts, body) = request.into_parts();
        let is_head = parts.method == Method::HEAD;
        let mut asker = Asker::new(peer);
        let mut response = match self.admit(door, &mut asker, &parts) {
            Ok(route) => {
                let path = route.path();
                let answer = self.act(&asker, route, &parts, body).await;
                self.times.add(path, began);
                answer
            }
            Err(refused) => {
                // If bytes of the body were left unread, closing the connection would send a reset,
                // which may overtake the response.
                read::discard(&parts, body).await;
                Err(refused)
            }
        }
        .unwrap_or_else(|error| {
            let changes = matches!(parts.method, Method::PUT | Method::PATCH | Method::DELETE);
            if changes && !error.is_audited {
                let (verb, path) = (parts.method.as_str(), parts.uri.path());
                let (who, from) = (asker.who(), asker.from().map(display));
                info!(%who, from, verb, path, result = error.code, "audit");
            }
            error.into_response()
        });
        let headers = response.headers_mut();
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if is_head { response.map(|_| Body::empty()) } else { response }
    }

    /// Returns the route that a request asks for, if the request is allowed.
    fn admit(&self, door: Door, asker: &mut Asker, parts: &Parts) -> Result<Route, ApiError> {
        let route = Route::of(parts.uri.path());
        if door == Door::Metrics {
            return Api::admit_to_metrics(route, parts);
        }
        let open = route == Ok(Route::Dashboard);
        asker.grant = guard::check(parts, &asker.peer, &self.tokens.load(), open)?;
        let route = route?;
        let methods = route.methods();
        if !methods.split(", ").any(|method| method == parts.method.as_str()) {
            return Err(ApiError::method(methods));
        }
        asker.check(&route, &parts.method)?;
        Ok(route)
    }

    /// Returns the route that a request to an address of `bind_metrics` asks for, if it is served
    /// there.
    fn admit_to_metrics(route: Result<Route, ApiError>, parts: &Parts) -> Result<Route, ApiError> {
        let open = [Route::Metrics, Route::Liveness, Route::Readiness];
        match route.ok().filter(|route| open.contains(route)) {
            None => Err(ApiError::not_for_metrics()),
            Some(route) if [Method::GET, Method::HEAD].contains(&parts.method) => Ok(route),
            Some(route) => Err(ApiError::method(route.methods())),
        }
    }

    async fn act(
        &self,
        asker: &Asker,
        route: Route,
        parts: &Parts,
        body: Body,
    ) -> Result<Response, ApiError> {
        match route {
            Route::Rules => rules::all(self, parts, body, asker).await,
            Route::Rule(host) => rules::one(self, parts, body, asker, &host).await,
            Route::AllStatistics => stats::all(self, parts, asker).await,
            Route::Statistics(host) => stats::one(self, parts, &host).await,
            Route::Fleet => fleet::show(self, parts),
            Route::FleetStep(step) => {
                read::discard(parts, body).await;
                fleet::act(self, parts, asker, step).await
            }
            Route::Which(host) => which::answer(self, parts, asker, &host),
            Route::Backends => stats::backends(self, parts, asker).await,
            Route::Changes => past::changes(self, parts, asker),
            Route::History => past::history(self, parts, asker).await,
            Route::Held => held::list(self, parts, asker),
            Route::Events => events::stream(self, parts, asker).await,
            Route::Metrics => metrics::answer(self, parts, asker).await,
            Route::Liveness => ready::alive(self, parts),
            Route::Readiness => ready::ready(self, parts),
            Route::Description => openapi::answer(parts),
            Route::Support => support::answer(self, parts).await,
            Route::Dashboard => Ok((dashboard::fields(), dashboard::page()).into_response()),
        }
    }

    /// The fleet, while this node is in it.
    fn fleet(&self) -> Option<&Fleet> {
        self.sources.fleet.as_ref().filter(|fleet| fleet.is_in())
    }

    fn current(&self) -> Arc<TaggedTable> {
        self.sources.published.table_full()
    }

    /// Parts of control that know the conditions of hosts.
    fn host_sources(&self) -> HostSources {
        let (statistics, published) = (&self.sources.statistics, &self.sources.published);
        HostSources { statistics: statistics.clone(), published: published.clone() }
    }

    fn lock_statistics(&self) -> MutexGuard<'_, Statistics> {
        statistics::lock(&self.sources.statistics)
    }

    /// Reads a body, if there is memory for it.
    async fn take_body(
        &self,
        parts: &Parts,
        body: Body,
        most: usize,
    ) -> Result<TakenBody, ApiError> {
        let length = parts.headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        // A body of unknown length may be as long as is allowed.
        let taken = match length {
            None if parts.headers.contains_key(header::TRANSFER_ENCODING) => most,
            None => 0,
            Some(length) if most < length => {
                read::discard(parts, body).await;
                return Err(ApiError::too_large(most));
            }
            // Small bodies need no permit: there are no more of them than connections, and they
            // must not be kept out by large bodies that are promised and never sent.
            Some(length) if length <= limits::PARSED_HERE_BYTES_MAX => 0,
            Some(length) => length,
        };
        let room = u32::try_from(taken.div_ceil(1024)).unwrap_or(u32::MAX);
        // Fail instead of queueing: a request that waits for much memory would block every later
        // one that needs little.
        let room = self.room.clone().try_acquire_many_owned(room);
        let room =
            room.map_err(|_| ApiError::busy("other large bodies are being read: try again"))?;
        let seat = Seat::of(parts);
        Ok(TakenBody { bytes: read::body(body, length.unwrap_or(0), most, seat).await?, room })
    }

    /// Has a change made. First the names of backends in it are looked up, because a rule that is
    /// in force should work.
    async fn make(&self, change: Change) -> Result<Done, ApiError> {
        if !change.dry_run {
            let unasked = read::unasked(&change.edits);
            if !unasked.is_empty() {
                self.sources.lookups.ready(&unasked).await;
            }
        }
        // A node of a fleet proposes the change to the fleet, and its own writer gets it back from
        // the log.
        Ok(match self.fleet() {
            Some(fleet) => fleet.change(change).await?,
            None => self.sources.orders.change(change).await?,
        })
    }
}

/// A response of JSON.
fn json_response(body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body.into()).into_response()
}

/// Adds the header fields that say how many rules match, and how many the client may see.
fn tell_counts(response: &mut Response, [matched, rules]: [usize; 2]) {
    let headers = response.headers_mut();
    headers.insert("mantrid-matched", HeaderValue::from(matched));
    headers.insert("mantrid-rules", HeaderValue::from(rules));
}

/// A response of JSON with the tag of the table that it shows.
fn tagged(tag: Tag, body: impl Into<Body>) -> Response {
    let mut response = json_response(body);
    if let Ok(tag) = HeaderValue::from_str(&tag.to_string()) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}
