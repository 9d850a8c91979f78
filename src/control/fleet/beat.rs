//! Heartbeats: the node writes its key, under a lease, at intervals and when another node asks.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tracing::warn;

use super::etcd::EtcdError;
use super::etcd::message::PutRequest;
use super::member::{Member, Numbers};
use super::{Fleet, random_below};
use crate::limits;

/// Runs for ever.
pub(super) async fn run(fleet: &Fleet, numbers: Numbers) -> Infallible {
    let mut asked = fleet.0.asked.subscribe();
    let mut view = fleet.0.view.subscribe();
    let mut completed = None;
    let mut renewed = Instant::now();
    loop {
        let is_speaking = {
            let view = view.borrow_and_update();
            view.connected && view.lost.is_none() && !view.left
        };
        if !is_speaking || fleet.is_quiet() {
            tokio::select! {
                _ = view.changed() => {}
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
            continue;
        }
        let member = member(fleet, &numbers, &mut completed);
        let mut pause = limits::FLEET_BEAT - limits::FLEET_BEAT_JITTER / 2;
        pause += Duration::from_millis(random_below(limits::FLEET_BEAT_JITTER.as_millis() as u64));
        if let Err(error) = beat(fleet, &member, &mut renewed).await {
            warn!("fleet: no heartbeat: {error}");
            fleet.look_again();
            pause = Duration::from_secs(1);
        }
        wait(fleet, &mut asked, member.sequence, pause).await;
    }
}

/// Waits until the next heartbeat is due: `pause` is over, or this node now has a table that
/// another node asked for.
async fn wait(
    fleet: &Fleet,
    asked: &mut tokio::sync::watch::Receiver<u64>,
    told: u64,
    pause: Duration,
) {
    let mut applied = fleet.0.applied.subscribe();
    let wanted = async {
        loop {
            let wanted = *asked.borrow_and_update();
            let now = applied.borrow_and_update().sequence;
            if told < wanted && wanted <= now {
                return;
            }
            tokio::select! {
                _ = asked.changed() => {}
                _ = applied.changed(), if told < wanted => {}
            }
        }
    };
    tokio::select! {
        () = wanted => {}
        () = tokio::time::sleep(pause) => {}
    }
}

fn member(fleet: &Fleet, numbers: &Numbers, last: &mut Option<(Instant, u64)>) -> Member {
    let [held, connections, completed] = numbers();
    let now = Instant::now();
    let rate = last.map_or(0.0, |(at, before)| {
        let seconds = (now - at).as_secs_f64().max(0.001);
        completed.saturating_sub(before) as f64 / seconds
    });
    // Heartbeats that are asked for may be too close to each other for a rate.
    if last.is_none_or(|(at, _)| Duration::from_secs(1) < now - at) {
        *last = Some((now, completed));
    }
    Member {
        url: fleet.0.settings.url.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance: fleet.0.instance.clone(),
        sequence: fleet.applied().sequence,
        held,
        connections,
        requests_per_second: (rate * 10.0).round() / 10.0,
        at: now,
    }
}

/// Sends one heartbeat, under a new lease if the old one has ended.
async fn beat(fleet: &Fleet, member: &Member, renewed: &mut Instant) -> Result<(), EtcdError> {
    let shared = &fleet.0;
    let mut lease = shared.lease.load(Ordering::Relaxed);
    // Heartbeats that are asked for may come often; they need not renew the lease each time.
    let is_fresh = renewed.elapsed() < limits::FLEET_BEAT / 2;
    if lease != 0 && !is_fresh {
        if !shared.client.keep_alive(lease).await? {
            lease = 0;
        }
        *renewed = Instant::now();
    }
    if lease == 0 {
        *renewed = Instant::now();
        lease = shared.client.grant(limits::FLEET_LEASE_SECONDS).await?;
        shared.lease.store(lease, Ordering::Relaxed);
    }
    let key = shared.keys.node(fleet.node()).into();
    let put = shared.client.put(PutRequest { key, value: member.to_value(), lease }).await;
    if let Err(EtcdError::Other(_)) = &put {
        // etcd no longer knows the lease.
        shared.lease.store(0, Ordering::Relaxed);
    }
    put.map(drop)
}
