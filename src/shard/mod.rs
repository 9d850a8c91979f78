//! A shard: one pinned thread that accepts, routes and relays its own connections.
//!
//! A shard shares nothing that it writes: the table is a snapshot, and the pool of backend
//! connections and the counters are its own. A shard never does: files, DNS, locks on the path of a
//! request, logging that can block.

mod accept;
mod backend;
mod body;
mod call;
mod client;
mod closing;
mod connection;
mod date;
mod ending;
mod exchange;
mod failures;
mod heads;
mod hold;
mod inbox;
mod log_line;
mod measure;
mod open_requests;
mod own;
mod phase;
mod plan;
mod pool;
mod ramp;
mod raw;
mod record;
mod reply;
mod request;
mod response;
mod route;
mod serving;
mod splice;
mod tally;
mod tunnel;
mod upload;
mod waiting;

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use glommio::{LocalExecutorBuilder, Placement};

use crate::http::HttpDate;
use crate::link::{
    ByKey, Counter, Protocol, Published, Rate, ShardEnd, Shed, Stop, Timeouts, ToShard, Tuning,
    Turn,
};
use crate::ring::{self, EndCounts, Notify, Ring, WakeReceiver};
use crate::table::{Proxy, Snapshot};
use route::Spent;

/// Settings of a shard; fixed while it runs.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The CPU to which the thread is pinned; `None`: not pinned.
    pub(crate) cpu: Option<usize>,
    /// Most pipes for bulk bodies at a time.
    pub(crate) pipes_max: usize,
    /// Time for which the thread polls the network card before it sleeps.
    pub(crate) busy_poll: Option<Duration>,
}

/// Whether a peer with this address may say, by the PROXY protocol, for whom a connection is.
pub(crate) type TrustedPeers = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// A bound socket of this shard.
pub(crate) struct Listener {
    pub(crate) socket: TcpListener,
    pub(crate) speaks: Protocol,
    /// Peers that may send the PROXY protocol header with which each connection begins; `None`:
    /// connections begin without one.
    pub(crate) believes: Option<TrustedPeers>,
}

/// Starts a shard's thread. Returns once the shard accepts connections, or with the reason why it
/// can't.
pub(crate) fn spawn(
    settings: Settings,
    listeners: Vec<Listener>,
    end: ShardEnd,
) -> Result<std::thread::JoinHandle<()>, String> {
    let (ready, started) = mpsc::sync_channel(1);
    let name = format!("shard-{}", end.index);
    let ending = end.ending();
    let thread = std::thread::Builder::new()
        .name(name)
        .spawn(move || {
            let _ending = ending;
            // The thread is not pinned by glommio, which wants to read the machine's topology from
            // /sys, and panics if there is none.
            if let Some(cpu) = settings.cpu
                && !core_affinity::set_for_current(core_affinity::CoreId { id: cpu })
            {
                let _ = ready.send(Err(format!("it can't be pinned to CPU {cpu}")));
                return;
            }
            let executor = LocalExecutorBuilder::new(Placement::Unbound)
                // Our bytes move through our own ring: glommio's ring needs next to nothing.
                .io_memory(64 * 1024)
                .ring_depth(16)
                .preempt_timer(Duration::from_secs(1))
                .make();
            match executor {
                Ok(executor) => executor.run(run(settings, listeners, end, &ready)),
                Err(error) => {
                    let _ = ready.send(Err(format!("shard can't start: {error}")));
                }
            }
        })
        .map_err(|error| format!("no thread for a shard: {error}"))?;
    match started.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(why)) => Err(why),
        Err(mpsc::RecvError) => Err("a shard died while it started".to_owned()),
    }
}

async fn run(
    settings: Settings,
    listeners: Vec<Listener>,
    end: ShardEnd,
    ready: &mpsc::SyncSender<Result<(), String>>,
) {
    let prepared = Ring::new().and_then(|ring| {
        settings.busy_poll.map_or(Ok(()), |time| ring.poll_busily(time))?;
        let eventfd = end.waker().receiver().map_err(|error| error.to_string())?;
        let wakes = WakeReceiver::new(&ring, eventfd).map_err(|error| error.to_string())?;
        Ok((ring, wakes))
    });
    let (ring, wakes) = match prepared {
        Ok(prepared) => prepared,
        Err(why) => {
            let _ = ready.send(Err(why));
            return;
        }
    };
    ring.limit_pipes(settings.pipes_max);
    let shard = Rc::new(Shard::new(ring.clone(), end));
    let thread = rustix::thread::gettid().as_raw_nonzero().get();
    shard.end.counters().set(Counter::Thread, u64::from(thread.unsigned_abs()));
    for listener in listeners {
        let socket = ring::Listener::new(&ring, listener.socket.into());
        shard.spawn(accept::accept_loop(shard.clone(), socket, listener.speaks, listener.believes));
    }
    shard.spawn(attend(shard.clone(), wakes));
    shard.spawn(pool::sweep(shard.clone()));
    shard.spawn(serving::make_tasks(shard.clone()));
    let _ = ready.send(Ok(()));
    ring::drive(ring.clone()).await;
    shard.idle.clear();
    shard.pool.clear();
    // Submits the closes that the last tasks queued: other shards may run on for long.
    ring.flush();
}

/// Follows what the other threads say: stop, a permit of a limited backend, a new table, a message.
async fn attend(shard: Rc<Shard>, wakes: WakeReceiver) {
    loop {
        let stop = shard.end.stop();
        if shard.stop.get() < stop {
            shard.stop.set(stop);
            shard.drain.notify();
            // No request comes that could use idle connections, and other shards may wait for their
            // permits.
            shard.pool.clear();
            // Idle connections wait for bytes: once woken, they look at `stopping` again and close.
            shard.ring.wake_receivers();
            shard.wake_held();
        }
        if stop == Stop::Now || (stop != Stop::No && shard.is_drained()) {
            shard.ring.stop();
            return;
        }
        shard.pool.attend_gates(&shard);
        shard.open_requests.attend();
        shard.tuning.set(**shard.published().tuning.load());
        // A table by which no request is routed any more should not stay just because no request
        // comes.
        shard.table();
        while let Some(message) = shard.end.next_message() {
            match message {
                ToShard::Adopt(handed) => accept::adopt(&shard, handed),
                ToShard::Drain(drain) => shard.take_drain(&drain),
                ToShard::Held(ticket, word) => shard.take_word(ticket, word),
            }
        }
        shard.note_ring();
        wakes.woken().await;
    }
}

/// Everything the tasks of one shard share.
pub(super) struct Shard {
    ring: Rc<Ring>,
    tuning: Cell<Tuning>,
    end: ShardEnd,
    table: RefCell<Rc<Table>>,
    /// How many tables came before the current one.
    generation: Cell<u64>,
    pool: pool::Pool,
    idle: serving::IdleConnections,
    failures: failures::Failures,
    open_requests: open_requests::OpenRequests,
    tallies: tally::Tallies,
    records: record::Records,
    /// Rates of the rules with `max_requests_per_second` that this shard has met.
    rates: RefCell<ByKey<Arc<Rate>>>,
    locals: own::Locals,
    holds: hold::Holds,
    stop: Cell<Stop>,
    /// Notified when the shard begins to close; the listeners wait for that.
    drain: Notify,
    listeners: Cell<usize>,
    connections: Cell<usize>,
    /// Connections that were turned away and whose bytes are still read off.
    shed_lingering: Cell<usize>,
    random: Cell<u64>,
    clock: date::DateClock,
    /// First half of each request's id.
    tag: u64,
    request_ids: Cell<u64>,
    /// Round-robin positions of the rules that this shard has met; all shards share each position.
    turns: RefCell<ByKey<Arc<Turn>>>,
    /// The key under which requests without a rule are counted.
    unknown: u64,
    started: Instant,
}

/// The snapshot by which a request was routed. References to it are counted within the shard,
/// without an atomic operation per request.
pub(super) struct Table {
    snapshot: Arc<crate::link::TaggedTable>,
}

impl Table {
    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }
}

impl Shard {
    fn new(ring: Rc<Ring>, end: ShardEnd) -> Shard {
        let snapshot = end.published.table_full();
        let unknown = snapshot.key(crate::table::UNKNOWN);
        end.counters().name_endings(ending::Ending::SLUGS);
        Shard {
            drain: Notify::new(&ring),
            pool: pool::Pool::new(),
            idle: serving::IdleConnections::default(),
            failures: failures::Failures::default(),
            open_requests: open_requests::OpenRequests::default(),
            tallies: tally::Tallies::new(),
            records: record::Records::default(),
            rates: RefCell::default(),
            locals: own::Locals::default(),
            tuning: Cell::new(**end.published.tuning.load()),
            holds: hold::Holds::default(),
            generation: Cell::new(0),
            table: RefCell::new(Rc::new(Table { snapshot })),
            stop: Cell::new(Stop::No),
            listeners: Cell::new(0),
            connections: Cell::new(0),
            shed_lingering: Cell::new(0),
            random: Cell::new(seed(end.index)),
            clock: date::DateClock::new(ring.now()),
            tag: seed(end.index),
            request_ids: Cell::new(0),
            turns: RefCell::default(),
            unknown,
            started: ring.now(),
            ring,
            end,
        }
    }

    /// The newest snapshot. One relaxed comparison when nothing changed.
    fn table(&self) -> Rc<Table> {
        let current = self.end.published.table();
        let mut table = self.table.borrow_mut();
        if !Arc::ptr_eq(&table.snapshot, &current) {
            *table = Rc::new(Table { snapshot: Arc::clone(&current) });
            self.generation.set(self.generation.get() + 1);
        }
        table.clone()
    }

    fn published(&self) -> &Published {
        &self.end.published
    }

    fn count(&self, counter: Counter) {
        self.end.counters().add(counter, 1);
    }

    /// Publishes the ring's figures and the thread's CPU time.
    fn note_ring(&self) {
        let figures = self.ring.figures();
        let counters = self.end.counters();
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        let micros = cpu.tv_sec as u64 * 1_000_000 + cpu.tv_nsec as u64 / 1000;
        counters.set(Counter::CpuMicros, micros);
        let alive = (self.ring.now() - self.started).as_micros() as u64;
        // The coarse clock may be behind. A counter that went back would look as if it had begun
        // anew.
        let asleep = alive.saturating_sub(micros).max(counters.get(Counter::AsleepMicros));
        counters.set(Counter::AsleepMicros, asleep);
        counters.set(Counter::AliveMicros, alive);
        counters.set(Counter::RingEnters, figures.enters);
        counters.set(Counter::RingCompletions, figures.completions);
        counters.set(Counter::ReceiveBuffersMissed, figures.buffers_missed);
        counters.set(Counter::Pipes, figures.pipes as u64);
    }

    /// Tuning as published last; the shard is woken when it changes.
    fn tuning(&self) -> Tuning {
        self.tuning.get()
    }

    /// Date for the messages that are made now.
    fn date(&self) -> HttpDate {
        self.clock.date(self.ring.now())
    }

    fn timeouts(&self) -> Timeouts {
        self.tuning.get().timeouts
    }

    /// Admits a request of a client at a rule. `Err`: the rate of the rule that is spent, which is
    /// counted.
    fn admits(&self, rule: u64, client: IpAddr, proxy: &Proxy) -> Result<(), Spent> {
        // The client's own rate comes first: requests beyond it take nothing from the others.
        if let Some(most) = proxy.max_requests_per_second_per_source() {
            let rates = &self.end.together.source_rates;
            if rates.admit(rule, client, most, self.ring.now()).is_err() {
                self.end.counters().add_shed(Shed::SourceRate);
                return Err(Spent::Source);
            }
        }
        match proxy.max_requests_per_second() {
            Some(most) if !self.admits_at(rule, most) => Err(Spent::Rule),
            _ => Ok(()),
        }
    }

    fn admits_at(&self, rule: u64, per_second: std::num::NonZeroU32) -> bool {
        let now = self.ring.now();
        let mut known = self.rates.borrow_mut();
        if crate::limits::RATES_KEPT <= known.len() && !known.contains_key(&rule) {
            known.clear();
        }
        let rates = &self.end.together.rates;
        let rate = known.entry(rule).or_insert_with(|| rates.get(rule, now));
        let is_admitted = rates.admit(rate, per_second, now).is_ok();
        if !is_admitted {
            self.end.counters().add_shed(Shed::Rate);
        }
        is_admitted
    }

    /// Says which end of a client's bytes counts as leaving, by the key `abort_on_close`: any end
    /// if `all`, otherwise only an end with nothing waiting in front of it.
    fn end_counts(&self, all: bool) -> EndCounts {
        match (self.tuning().abort_on_close, all) {
            (false, _) => EndCounts::Never,
            (true, true) => EndCounts::Always,
            (true, false) => EndCounts::WhenReached,
        }
    }

    /// Whether connections should end with the exchange they are in.
    fn stopping(&self) -> bool {
        Stop::Drain <= self.stop.get()
    }

    /// Whether connections should go to the process that takes over, as soon as they can.
    fn leaving(&self) -> bool {
        self.stop.get() == Stop::HandOver
    }

    /// Whether no new connections are taken in.
    fn closing(&self) -> bool {
        self.stop.get() != Stop::No
    }

    fn is_drained(&self) -> bool {
        self.connections.get() == 0 && self.listeners.get() == 0
    }

    /// Notes that a connection or listener ended: perhaps it was the last one that a drain waits
    /// for.
    fn one_less(&self) {
        if self.closing() && self.is_drained() {
            self.ring.stop();
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.ring.note_runnable();
        glommio::spawn_local(task).detach();
    }

    /// Draws a number by xorshift64*: enough to spread load; nothing secret depends on it.
    fn random(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// The rule key of requests without a rule. It is not their host key, because a rule may be
    /// called `unknown`.
    fn no_rule(&self) -> u64 {
        !self.unknown
    }

    /// The next number of a request, never 0.
    fn request_id(&self) -> u64 {
        self.request_ids.set(self.request_ids.get() + 1);
        self.request_ids.get()
    }

    /// Returns an id that tells a request from all others: 64 bits drawn at random when the shard
    /// started, and the request's number on this shard.
    fn whole_request_id(&self, number: u64) -> u128 {
        match number {
            0 => 0,
            number => u128::from(self.tag) << 64 | u128::from(number),
        }
    }

    /// A round-robin position of a rule: the next one, or the one that was given last.
    fn turn(&self, rule: u64, which: fn(&Turn) -> u64) -> u64 {
        let mut turns = self.turns.borrow_mut();
        if crate::limits::TURNS_MAX <= turns.len() && !turns.contains_key(&rule) {
            // Rules that are gone leave their entries behind.
            turns.clear();
        }
        let shared = &self.end.together.turns;
        let turn = turns.entry(rule).or_insert_with(|| shared.get(rule, self.random()));
        which(turn)
    }
}

fn seed(index: usize) -> u64 {
    use std::hash::BuildHasher;
    foldhash::fast::RandomState::default().hash_one(index) | 1
}
