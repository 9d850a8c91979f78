//! The control shard: the single owner of everything that changes. Off the request path, so ordinary
//! tokio on one thread, with a thread beside it for what waits for the disk; no shard ever waits for it.
//!
//! `writer` alone changes the table, and `store` puts it on disk; `api` is how people and programs ask
//! for it; `statistics` adds up what the shards count and `pulse` tells of it once a second; `health`
//! probes backends, `resolver` and `pages` keep fresh what shards must not look up themselves.

mod api;
mod change;
mod dashboard;
mod elder;
mod events;
mod health;
mod heart;
mod held;
mod loops;
mod pages;
mod resolver;
mod statistics;
mod store;
mod wake;
mod writer;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, Semaphore, mpsc, watch};

use crate::http::Pages;
use crate::limits;
use crate::link::{ControlEnd, Part, Published, Tag, TaggedTable};
use crate::state::Counters;
use crate::table::Names;
use api::{Api, Crowd, Taking};
use elder::Elder;
use events::{EventBus, health_event};
use health::{Health, Prober};
use heart::{Heart, Last};
use held::{Bounds, Held, Keeper};
use pages::PageFolder;
use resolver::Resolver;
use statistics::{SharedStatistics, Statistics};
use store::Store;
use wake::{Told, Wake};
use writer::{Orders, Wiring, Writer};

pub(crate) use api::{Management, Token};

/// A host's name, and of it requests completed, bytes sent and bytes received.
pub(crate) type Counted = (String, [u64; 3]);

/// The files that control reads, and the one it writes.
pub(crate) struct Files {
    /// The table.
    pub(crate) state: PathBuf,
    /// The folder of pages.
    pub(crate) pages: PathBuf,
}

/// What the start finds in them.
pub(crate) struct Loaded {
    pub(crate) table: TaggedTable,
    pub(crate) pages: Pages,
    /// Rules and pages that are not used, and why: one line each.
    pub(crate) warnings: Vec<String>,
    /// What only control needs.
    pub(crate) rest: Rest,
}

/// The part of what was loaded that stays with control.
pub(crate) struct Rest {
    names: Names,
    stats: Vec<(String, Counters)>,
    /// None where it was only looked at.
    store: Option<Store>,
}

/// Reads the table and the pages; changes nothing.
pub(crate) fn look(files: &Files) -> Result<Loaded, String> {
    let mut names = Names::default();
    let state = Store::read(&files.state, &mut names)?;
    Ok(loaded(files, names, state, None))
}

/// The same, to go on from: nobody else may write the state from here on.
pub(crate) fn load(files: &Files) -> Result<Loaded, String> {
    let mut names = Names::default();
    let (store, state) = Store::open(&files.state, &mut names)?;
    Ok(loaded(files, names, state, Some(store)))
}

fn loaded(files: &Files, names: Names, state: store::Loaded, store: Option<Store>) -> Loaded {
    let (pages, problems) = pages::load(&files.pages, None);
    let mut warnings = state.warnings;
    warnings.extend(problems);
    let tag = Tag::of_start(store.as_ref().map_or(0, Store::sequence));
    let table = TaggedTable { table: state.snapshot, tag };
    let rest = Rest { names, stats: state.stats, store };
    Loaded { table, pages, warnings, rest }
}

/// Names are made by whoever reads rules and looked up by the resolver.
type SharedNames = Arc<Mutex<Names>>;

/// Who may ask, and how much may be open at a time.
pub(crate) struct Access {
    pub(crate) token: Option<Token>,
    pub(crate) connections_max: usize,
    /// Connections to backends to see whether they are well, at a time.
    pub(crate) probes_max: usize,
    /// Lookups of names at a time.
    pub(crate) lookups_max: usize,
    /// Requests held at a time, in all and of one source address.
    pub(crate) held_max: (usize, usize),
}

/// All tasks of the control shard.
pub(crate) struct Control {
    resolver: Resolver,
    pages: PageFolder,
    health: Health,
    prober: Prober,
    heart: Heart,
    held: Held,
    keeper: Keeper,
    wake: Wake,
    writer: Writer,
    api: Arc<Api>,
    taking: watch::Sender<Taking>,
}

/// How the daemon tells control what its operator wants.
#[derive(Clone)]
pub(crate) struct Handle {
    orders: Orders,
    held: Held,
    pages: Arc<Notify>,
    taking: watch::Sender<Taking>,
    places: Arc<Semaphore>,
    places_max: usize,
    names: SharedNames,
    health: Health,
    wake: Wake,
    shards: ControlEnd,
    published: Arc<Published>,
    statistics: SharedStatistics,
    elder: Elder,
    runtime: tokio::runtime::Handle,
    api: Arc<Api>,
}

impl Handle {
    /// From now on requests need this token.
    pub(crate) fn set_token(&self, token: Token) {
        self.api.token.store(Some(Arc::new(token)));
    }

    /// The token that requests need.
    pub(crate) fn token(&self) -> Option<Token> {
        self.api.token.load().as_deref().cloned()
    }

    /// Whether the configuration that was read last is in force.
    pub(crate) fn tell_reload(&self, is_done: bool) {
        self.api.is_reloaded.store(is_done, Ordering::Relaxed);
    }

    /// Lets another process have the state file, once what is under way by the API has ended; who asks next waits.
    pub(crate) async fn release(&self) {
        self.taking.send_replace(Taking::Paused);
        // Whoever follows events, say, never ends.
        let all = self.places.acquire_many(self.places_max as u32);
        let _ = tokio::time::timeout(limits::MANAGEMENT_PAUSE, all).await;
        self.orders.release().await;
    }

    /// Goes on: it did not take over.
    pub(crate) async fn resume(&self) {
        self.orders.resume().await;
        self.wake.resume();
        self.taking.send_replace(Taking::Yes);
    }

    /// Closes the management sockets: another process has taken over.
    pub(crate) fn close(&self) {
        self.taking.send_replace(Taking::Never);
    }

    /// What was counted since the state file was let go of.
    pub(crate) async fn counted_since(&self) -> Vec<Counted> {
        self.orders.counted_since().await
    }

    /// Adds what another process counted; from a thread that may wait.
    pub(crate) fn add_counts(&self, counted: Vec<Counted>) {
        self.orders.add_counts(counted);
    }

    /// From now on so many requests may be held, in all and of one source.
    pub(crate) fn bound_held(&self, (total, per_source): (usize, usize)) {
        self.held.set_bounds(Bounds { total, per_source });
    }

    /// Has the pages read again now.
    pub(crate) fn read_pages(&self) {
        self.pages.notify_one();
    }
}

impl Control {
    /// Within a tokio runtime.
    pub(crate) fn new(
        files: Files,
        rest: Rest,
        published: Arc<Published>,
        shards: &ControlEnd,
        access: Access,
    ) -> Result<Control, String> {
        let store = rest.store.ok_or("the state file was only looked at")?;
        let names: SharedNames = Arc::new(Mutex::new(rest.names));
        let table = published.table_full();
        let statistics = Statistics::new(shards.clone(), &table, &rest.stats);
        let statistics = Arc::new(Mutex::new(statistics));
        let health = Health::new(&table);
        let resolver = Resolver::new(names.clone(), access.lookups_max);
        let prober = Prober::new(
            health.clone(),
            shards.clone(),
            published.clone(),
            access.probes_max,
            resolver.lookups(),
        );
        let prober = prober.map_err(|error| format!("can't hear of failed backends: {error}"))?;
        let (total, per_source) = access.held_max;
        let held = Held::new(Bounds { total, per_source }, published.clone(), shards.clone());
        let keeper = Keeper::new(held.clone())
            .map_err(|error| format!("can't hear of held requests: {error}"))?;
        let (happened, happenings) = mpsc::unbounded_channel();
        let told = Told::default();
        let trouble = Arc::new(ArcSwapOption::from(store.trouble().map(Arc::new)));
        let writer = Writer::start(Wiring {
            store,
            trouble: trouble.clone(),
            held: held.clone(),
            told: told.clone(),
            statistics: statistics.clone(),
            shards: shards.clone(),
            published: published.clone(),
            happened,
        });
        let writer = writer.map_err(|error| format!("no thread for the writer: {error}"))?;
        let events = EventBus::new();
        let places = Arc::new(Semaphore::new(access.connections_max));
        let api = Api {
            orders: writer.orders(),
            names,
            lookups: resolver.lookups(),
            statistics: statistics.clone(),
            shards: shards.clone(),
            events: events.clone(),
            health: health.clone(),
            token: ArcSwapOption::from(access.token.map(Arc::new)),
            is_reloaded: AtomicBool::new(true),
            trouble,
            room: Arc::new(Semaphore::new(limits::MANAGEMENT_BODIES_BYTES_MAX / 1024)),
            started: SystemTime::now(),
            crowd: Crowd::new(places.clone()),
            waiters: Arc::new(Semaphore::new(limits::drain_waiters(access.connections_max))),
            places,
            places_max: access.connections_max,
            elder: Elder::default(),
            published: published.clone(),
        };
        let wake = Wake::new(events.clone(), held.clone(), told);
        let heart = Heart {
            events,
            statistics,
            shards: shards.clone(),
            published: published.clone(),
            orders: writer.orders(),
            happened: happenings,
            wake: wake.clone(),
            last: Last::default(),
        };
        let pages = PageFolder::new(files.pages, published);
        let api = Arc::new(api);
        let (taking, _) = watch::channel(Taking::Yes);
        Ok(Control {
            resolver,
            pages,
            health,
            prober,
            heart,
            held,
            keeper,
            wake,
            writer,
            api,
            taking,
        })
    }

    /// For whoever tells it what the operator wants.
    pub(crate) fn handle(&self) -> Handle {
        Handle {
            orders: self.writer.orders(),
            held: self.held.clone(),
            pages: self.pages.now(),
            taking: self.taking.clone(),
            places: self.api.places.clone(),
            places_max: self.api.places_max,
            names: self.api.names.clone(),
            health: self.health.clone(),
            wake: self.wake.clone(),
            shards: self.api.shards.clone(),
            published: self.api.published.clone(),
            statistics: self.api.statistics.clone(),
            elder: self.api.elder.clone(),
            runtime: tokio::runtime::Handle::current(),
            api: self.api.clone(),
        }
    }

    /// Before the first request: looks every name up, for a few seconds at most.
    pub(crate) async fn prepare(&mut self, published: &Published) {
        self.resolver.first_round().await;
        loops::warn_of(&published.own, published.table().iter());
    }

    /// Until it is dropped. Management is served from the first poll on.
    pub(crate) async fn run(&mut self, management: Vec<Management>) -> Infallible {
        let events = self.api.events.clone();
        let together = self.api.shards.together.clone();
        let beat = &together.beat;
        tokio::select! {
            never = beat.of(Part::Names, self.resolver.run()) => never,
            never = beat.of(Part::Pages, self.pages.run()) => never,
            never = beat.of(Part::Probes, self.prober.run(|change| {
                events.tell(health_event(change));
                if !change.state.is_bad() {
                    self.held.reached(change.backend);
                }
            })) => never,
            never = beat.of(Part::Held, self.keeper.run(
                |begun| self.wake.begun(begun),
                |wanted| self.health.want(wanted),
            )) => never,
            never = beat.of(Part::Statistics, self.heart.run(
                |happened| self.health.changed(&happened.watched),
            )) => never,
            never = beat.of(Part::Management, api::serve(
                self.api.clone(),
                management,
                &self.taking,
            )) => never,
        }
    }

    /// At the end: what is not on disk yet goes there.
    pub(crate) async fn finish(self) {
        self.writer.finish().await;
    }
}
