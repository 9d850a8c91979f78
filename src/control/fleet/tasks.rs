//! The tasks of a node: each runs for ever beside the others, until control ends.

use std::convert::Infallible;
use std::sync::Arc;

use serde_json::json;
use tokio::sync::mpsc;

use super::brought::Brought;
use super::drain::{self, DrainAsk};
use super::follow::Follower;
use super::propose::Proposer;
use super::start::Joined;
use super::{Fleet, beat, fold};
use crate::control::SharedNames;
use crate::control::elder::Elder;
use crate::control::events::{Event, EventBus, unix_time};
use crate::control::held::Held;
use crate::control::orders::Orders;
use crate::control::resolver::Lookups;
use crate::limits;
use crate::link::{ControlEnd, Counter, Published};

/// Parts of control that learn from the fleet.
#[derive(Clone)]
pub(in crate::control) struct Around {
    pub(in crate::control) shards: ControlEnd,
    pub(in crate::control) elder: Elder,
    pub(in crate::control) events: EventBus,
    pub(in crate::control) held: Held,
    pub(in crate::control) lookups: Lookups,
}

/// All tasks of a node.
pub(in crate::control) struct Tasks {
    fleet: Fleet,
    published: Arc<Published>,
    follower: Option<Follower>,
    proposer: Option<Proposer>,
    orders: Orders,
    around: Around,
    drains: Option<mpsc::UnboundedReceiver<DrainAsk>>,
}

impl Tasks {
    pub(in crate::control) fn new(
        joined: Joined,
        published: Arc<Published>,
        names: SharedNames,
        orders: Orders,
        around: Around,
    ) -> Tasks {
        let lookups = around.lookups.clone();
        let Joined { fleet, membership, proposals, drains, .. } = joined;
        let follower = Follower {
            fleet: fleet.clone(),
            names,
            orders: orders.clone(),
            lookups,
            fed: membership.sequence,
        };
        let proposer = Proposer { fleet: fleet.clone(), published: published.clone(), proposals };
        Tasks {
            fleet,
            published,
            follower: Some(follower),
            proposer: Some(proposer),
            orders,
            around,
            drains: Some(drains),
        }
    }

    /// Runs for ever.
    pub(in crate::control) async fn run(&mut self) -> Infallible {
        let (shards, elder) = (self.around.shards.clone(), self.around.elder.clone());
        let counted = shards.clone();
        let numbers = [Counter::Held, Counter::Open, Counter::Completed];
        let numbers = Box::new(move || numbers.map(|counter| counted.total(counter)));
        let (Some(follower), Some(proposer), Some(drains)) =
            (self.follower.take(), self.proposer.take(), self.drains.take())
        else {
            return std::future::pending().await;
        };
        tokio::select! {
            never = follower.run() => never,
            never = proposer.run() => never,
            never = beat::run(&self.fleet, numbers) => never,
            never = fold::run(&self.fleet, self.published.clone()) => never,
            never = drain::run(&self.fleet, shards, elder, drains) => never,
            never = tell(&self.fleet, &self.around) => never,
            never = keep(&self.orders, &self.fleet) => never,
        }
    }
}

/// Runs for ever: has the writer bring its copy on disk up to date, once a second if there is
/// something new.
async fn keep(orders: &Orders, fleet: &Fleet) -> Infallible {
    let mut applied = fleet.0.applied.subscribe();
    // The start may have left something to write.
    applied.mark_changed();
    loop {
        let _ = applied.changed().await;
        tokio::time::sleep(limits::FLEET_KEEP_EVERY).await;
        orders.bring(Brought::Keep).await;
    }
}

/// Runs for ever: makes an event when etcd or a node comes or goes, and divides the limits anew.
async fn tell(fleet: &Fleet, around: &Around) -> Infallible {
    let mut view = fleet.0.view.subscribe();
    let mut last = None;
    loop {
        let now = {
            let view = view.borrow_and_update();
            let nodes: Vec<String> = view.members.keys().cloned().collect();
            (view.connected, view.lost.clone(), nodes)
        };
        if last.as_ref() != Some(&now) {
            let shares = fleet.shares();
            around.shards.together.shares.set(shares);
            around.held.set_shares(shares);
            let (connected, lost, nodes) = &now;
            let told = json!({
                "time": unix_time(),
                "fleet": fleet.name(),
                "node": fleet.node(),
                "connected": connected,
                "lost": lost,
                "nodes": nodes,
            });
            around.events.tell(Event::Other("fleet", told.to_string().into()));
            last = Some(now);
        }
        let _ = view.changed().await;
    }
}
