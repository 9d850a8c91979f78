//! The control shard: the single owner of everything that changes. It is off the request path, so
//! it is ordinary tokio on one thread, with a second thread beside it for work that waits for the
//! disk. No shard ever waits for the control shard.
//!
//! `writer` alone changes the table, and `store` puts it on disk. People and programs ask for
//! changes through `api`. `statistics` adds up what the shards count, `heart` reports it once a
//! second, and `events` passes these reports on to readers. `health` probes backends, `held`
//! decides how long requests wait, and `resolver` and `pages` keep up to date what shards must not
//! look up themselves.

mod api;
mod change;
mod dashboard;
mod drained;
mod elder;
mod events;
mod figures;
mod fleet;
mod grant;
mod health;
mod heart;
mod held;
mod history;
mod loops;
mod orders;
mod pages;
mod pause;
mod resolver;
mod statistics;
mod store;
mod times;
mod trial;
mod wake;
mod writer;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, mpsc, watch};

use crate::http::Pages;
use crate::limits;
use crate::link::{ControlEnd, Part, Published, Tag, TaggedTable};
use crate::state::{Membership, Totals};
use crate::table::Names;
use api::{AcceptState, Api, Door, Sources};
use events::{EventBus, health_event};
use figures::Figures;
use health::{Health, Prober};
use heart::{Heart, Last};
use held::{Bounds, Held, HoldScheduler};
use history::{History, SharedChanges};
use pages::PageFolder;
use resolver::Resolver;
use statistics::Statistics;
use store::Store;
use wake::{Wake, WakeMemory};
use writer::{Wiring, Writer};

pub(crate) use api::{About, Management};
#[doc(hidden)]
pub use fleet::any_value as any_value_of_a_fleet;
pub(crate) use fleet::{EtcdAccess, Settings as FleetSettings};
pub(crate) use grant::{Token, Tokens};

/// Name of a host, and its totals.
pub(crate) type Counted = (String, Totals);

/// Paths of the files that control reads and writes.
pub(crate) struct Files {
    /// State file, which holds the table.
    pub(crate) state: PathBuf,
    /// Folder of the pages, `static_dir`.
    pub(crate) pages: PathBuf,
}

/// Content of these files at the start.
pub(crate) struct Loaded {
    pub(crate) table: TaggedTable,
    pub(crate) pages: Pages,
    /// Rules and pages that are not used, each with the reason: one line each.
    pub(crate) warnings: Vec<String>,
    /// Part of the content that only control needs.
    pub(crate) rest: Rest,
}

/// Part of the loaded content that stays with control.
pub(crate) struct Rest {
    names: SharedNames,
    stats: Vec<Counted>,
    /// Fleet that the table belongs to, according to the files.
    fleet: Option<Membership>,
    joined: Option<fleet::Joined>,
    /// The store. `None`: the files were only read, and are not locked.
    store: Option<Store>,
}

/// Reads the table and the pages, without changing or locking anything.
pub(crate) fn look(files: &Files) -> Result<Loaded, String> {
    let mut names = Names::default();
    let state = Store::read(&files.state, &mut names)?;
    Ok(loaded(files, names, state, None))
}

/// Process id of the daemon that runs on these files, if one does.
pub(crate) fn running(files: &Files) -> Option<String> {
    Store::holder(&files.state)
}

/// Reads the table and the pages, and locks the state files: no other process may write them from
/// here on.
pub(crate) fn load(files: &Files) -> Result<Loaded, String> {
    let mut names = Names::default();
    let (store, state) = Store::open(&files.state, &mut names)?;
    Ok(loaded(files, names, state, Some(store)))
}

fn loaded(files: &Files, names: Names, state: store::StoredState, store: Option<Store>) -> Loaded {
    let (pages, problems) = pages::load(&files.pages, None);
    let mut warnings = state.warnings;
    warnings.extend(problems);
    let tag = Tag::of_start(store.as_ref().map_or(0, Store::sequence));
    let table = TaggedTable { table: state.snapshot, tag };
    let names = Arc::new(Mutex::new(names));
    let rest = Rest { names, stats: state.stats, fleet: state.fleet, joined: None, store };
    Loaded { table, pages, warnings, rest }
}

/// Joins the fleet, before the first request. Afterwards the table is that of the fleet, and its
/// tag is the same on every node.
pub(crate) async fn join(
    settings: FleetSettings,
    files: &Files,
    loaded: &mut Loaded,
) -> Result<(), String> {
    let Loaded { table, rest, .. } = loaded;
    let own = fleet::Own { snapshot: &mut table.table, rest, state_file: &files.state };
    let joined = fleet::start(settings, own).await?;
    loaded.table.tag = joined.tag();
    loaded.rest.joined = Some(joined);
    Ok(())
}

/// Asks each member of a fleet's etcd cluster for its state. Each answer is the state, or what is
/// wrong.
pub(crate) async fn try_fleet(settings: &FleetSettings) -> Vec<Result<String, String>> {
    fleet::try_members(settings).await
}

/// Names of backends. They are created when rules are read, and looked up by the resolver.
type SharedNames = Arc<Mutex<Names>>;

/// Tokens of the API, and limits of control.
pub(crate) struct Access {
    pub(crate) tokens: Tokens,
    pub(crate) connections_max: usize,
    /// Most probes of backends at a time.
    pub(crate) probes_max: usize,
    /// Most lookups of names at a time.
    pub(crate) lookups_max: usize,
    /// Most requests held at a time: in all, and of one source address.
    pub(crate) held_max: (usize, usize),
}

/// All tasks of the control shard.
pub(crate) struct Control {
    resolver: Resolver,
    pages: PageFolder,
    prober: Prober,
    heart: Heart,
    scheduler: HoldScheduler,
    wake: Wake,
    writer: Writer,
    api: Arc<Api>,
    taking: watch::Sender<AcceptState>,
    tasks: Option<Box<fleet::Tasks>>,
}

/// Access of the daemon to control, by which it passes on what the operator wants.
#[derive(Clone)]
pub(crate) struct Handle {
    pages: Arc<Notify>,
    taking: watch::Sender<AcceptState>,
    wake: Wake,
    runtime: tokio::runtime::Handle,
    api: Arc<Api>,
}

impl Handle {
    /// Replaces the tokens that the API accepts.
    pub(crate) fn set_tokens(&self, tokens: Tokens) {
        self.api.tokens.store(Arc::new(tokens));
    }

    /// Tokens that the API accepts.
    pub(crate) fn tokens(&self) -> Tokens {
        Tokens::clone(&self.api.tokens.load())
    }

    /// Replaces the facts for `/support`.
    pub(crate) fn set_about(&self, about: About) {
        self.api.about.store(Arc::new(about));
    }

    /// Notes that the daemon accepts no more clients. From here on `/readyz` says that it is not
    /// ready.
    pub(crate) fn tell_stopping(&self) {
        self.api.is_stopping.store(true, Ordering::Relaxed);
    }

    /// Notes whether the configuration that was read last is in force.
    pub(crate) fn tell_reload(&self, is_done: bool) {
        self.api.sources.figures.reload.note(is_done);
    }

    /// Notes how an upgrade ended: whether this daemon has taken over from another one, or another
    /// one from it.
    pub(crate) fn tell_upgrade(&self, is_done: bool) {
        self.api.sources.figures.upgrade.note(is_done);
    }

    /// Releases the state file for another process. Waits first until the management requests under
    /// way have ended; later ones have to wait.
    pub(crate) async fn release(&self) {
        self.taking.send_replace(AcceptState::Paused);
        if let Some(fleet) = &self.api.sources.fleet {
            fleet.set_quiet(true);
        }
        // The wait has a timeout, because a reader of events, for example, never ends.
        let all = self.api.places.acquire_many(self.api.places_max as u32);
        let _ = tokio::time::timeout(limits::MANAGEMENT_PAUSE, all).await;
        self.api.sources.orders.release().await;
    }

    /// Takes the state file back and goes on, because the other process did not take over.
    pub(crate) async fn resume(&self) {
        self.api.sources.orders.resume().await;
        if let Some(fleet) = &self.api.sources.fleet {
            fleet.set_quiet(false);
        }
        self.wake.resume();
        self.taking.send_replace(AcceptState::Yes);
    }

    /// Closes the management sockets, because another process has taken over.
    pub(crate) fn close(&self) {
        self.taking.send_replace(AcceptState::Never);
    }

    /// Lists what hosts have counted since the state file was released.
    pub(crate) async fn counted_since(&self) -> Vec<Counted> {
        self.api.sources.orders.counted_since().await
    }

    /// Adds counts of another process. Called from a thread that may block.
    pub(crate) fn add_counts(&self, counted: Vec<Counted>) {
        self.api.sources.orders.add_counts(counted);
    }

    /// Sets how many requests may be held: in all, and of one source address.
    pub(crate) fn bound_held(&self, held_max: (usize, usize)) {
        self.api.sources.held.set_bounds(bounds(held_max));
    }

    /// Has the pages read again now.
    pub(crate) fn read_pages(&self) {
        self.pages.notify_one();
    }
}

fn bounds((total, per_source): (usize, usize)) -> Bounds {
    Bounds { total, per_source }
}

impl Control {
    /// Makes all tasks; must be called within a tokio runtime.
    pub(crate) fn new(
        files: Files,
        rest: Rest,
        published: Arc<Published>,
        shards: &ControlEnd,
        access: Access,
    ) -> Result<Control, String> {
        let store = rest.store.ok_or("the state file was only looked at")?;
        let names = rest.names;
        let table = published.table_full();
        let statistics = Arc::new(Mutex::new(Statistics::new(shards.clone(), &table, &rest.stats)));
        let of_fleet = rest.joined.as_ref().map(fleet::Joined::parts);
        let fleet = of_fleet.as_ref().map(|of| of.fleet.clone());
        let health = Health::new(&table);
        let resolver = Resolver::new(names.clone(), access.lookups_max);
        let parts = (health.clone(), shards.clone(), published.clone());
        let prober = prober(parts, access.probes_max, &resolver)?;
        let held = Held::new(bounds(access.held_max), published.clone(), shards.clone());
        let scheduler = scheduler(&held)?;
        let (happened, happenings) = mpsc::unbounded_channel();
        let (told, events) = (WakeMemory::default(), EventBus::new());
        let trouble = Arc::new(ArcSwapOption::from(store.trouble().map(Arc::new)));
        let figures = Arc::new(Figures::begun());
        let (changes, history) = (SharedChanges::default(), History::new());
        let writer = Writer::start(Wiring {
            store,
            figures: figures.clone(),
            trouble: trouble.clone(),
            held: held.clone(),
            told: told.clone(),
            statistics: statistics.clone(),
            shards: shards.clone(),
            published: published.clone(),
            happened,
            changes: changes.clone(),
            fleet: of_fleet,
        });
        let writer = writer.map_err(|error| format!("no thread for the writer: {error}"))?;
        let api = Arc::new(Api::new(
            Sources {
                fleet: fleet.clone(),
                orders: writer.orders(),
                names,
                lookups: resolver.lookups(),
                statistics: statistics.clone(),
                held: held.clone(),
                shards: shards.clone(),
                events: events.clone(),
                health: health.clone(),
                trouble,
                published: published.clone(),
                figures,
                changes,
                history: history.clone(),
            },
            access.tokens,
            access.connections_max,
        ));
        let tasks = rest.joined.map(|joined| fleet_tasks(joined, &api, &writer, &held));
        let wake = Wake::new(events.clone(), held.clone(), told, fleet);
        let heart = Heart {
            events,
            statistics,
            shards: shards.clone(),
            published: published.clone(),
            orders: writer.orders(),
            happened: happenings,
            wake: wake.clone(),
            history,
            last: Last::default(),
        };
        let (taking, _) = watch::channel(AcceptState::Yes);
        Ok(Control {
            resolver,
            pages: PageFolder::new(files.pages, published),
            prober,
            heart,
            scheduler,
            wake,
            writer,
            api,
            taking,
            tasks,
        })
    }

    /// Makes a handle by which the daemon passes on what the operator wants.
    pub(crate) fn handle(&self) -> Handle {
        Handle {
            pages: self.pages.now(),
            taking: self.taking.clone(),
            wake: self.wake.clone(),
            runtime: tokio::runtime::Handle::current(),
            api: self.api.clone(),
        }
    }

    /// Looks up every name before the first request, for a few seconds at most.
    pub(crate) async fn prepare(&mut self, published: &Published) {
        self.resolver.first_round().await;
        loops::warn_of(&published.own, published.table().iter());
    }

    /// Runs until it is dropped. Management and metrics are served from the first poll on.
    pub(crate) async fn run(
        &mut self,
        management: Vec<Management>,
        metrics: Vec<Management>,
    ) -> Infallible {
        let bound = Door::of_each(management, metrics);
        let sources = &self.api.sources;
        let tasks = async {
            match &mut self.tasks {
                Some(tasks) => tasks.run().await,
                None => std::future::pending().await,
            }
        };
        let beat = &sources.shards.together.beat;
        tokio::select! {
            never = tasks => never,
            never = beat.of(Part::Names, self.resolver.run()) => never,
            never = beat.of(Part::Pages, self.pages.run()) => never,
            never = beat.of(Part::Probes, self.prober.run(|change| {
                sources.events.tell(health_event(change));
                if !change.state.is_bad() {
                    let check = change.check.as_ref();
                    let check = check.and_then(|of| Some(of.check.as_ref()?.id()));
                    sources.held.reached(change.backend, check);
                }
            })) => never,
            never = beat.of(Part::Held, self.scheduler.run(
                |begun| self.wake.begun(begun),
                |wanted| sources.health.want(wanted, &sources.published.table()),
            )) => never,
            never = beat.of(Part::Statistics, self.heart.run(
                |happened| sources.health.changed(&happened.watched),
            )) => never,
            never = beat.of(Part::Management, api::serve(
                self.api.clone(),
                bound,
                &self.taking,
            )) => never,
        }
    }

    /// Writes to disk what is not on disk yet, and ends.
    pub(crate) async fn finish(self) {
        if let Some(fleet) = &self.api.sources.fleet {
            fleet.finish().await;
        }
        self.writer.finish().await;
    }
}

fn scheduler(held: &Held) -> Result<HoldScheduler, String> {
    let scheduler = HoldScheduler::new(held.clone());
    scheduler.map_err(|error| format!("can't hear of held requests: {error}"))
}

fn prober(
    (health, shards, published): (Health, ControlEnd, Arc<Published>),
    probes_max: usize,
    resolver: &Resolver,
) -> Result<Prober, String> {
    let prober = Prober::new(health, shards, published, probes_max, resolver.lookups());
    prober.map_err(|error| format!("can't hear of failed backends: {error}"))
}

fn fleet_tasks(
    joined: fleet::Joined,
    api: &Api,
    writer: &Writer,
    held: &Held,
) -> Box<fleet::Tasks> {
    let sources = &api.sources;
    let around = fleet::Around {
        shards: sources.shards.clone(),
        elder: api.elder.clone(),
        events: sources.events.clone(),
        held: held.clone(),
        lookups: sources.lookups.clone(),
    };
    let (published, names) = (sources.published.clone(), sources.names.clone());
    Box::new(fleet::Tasks::new(joined, published, names, writer.orders(), around))
}
