//! `wake` and `idle` in a fleet: one node makes the POST for all nodes.

use std::sync::Arc;
use std::time::Duration;

use super::{Shared, Telling, attempt, deliver};
use crate::control::fleet::{Claim, Fleet};
use crate::limits;
use crate::table::Action;

/// Interval at which a node looks whether anything has changed about a host with a wake-up.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Makes the POST, if this node is the one to make it.
pub(super) async fn deliver_once(shared: Arc<Shared>, telling: Telling, fleet: Fleet) {
    match telling.idle {
        None => wake(shared, telling, &fleet).await,
        Some(_) => idle(shared, telling, &fleet).await,
    }
}

async fn wake(shared: Arc<Shared>, telling: Telling, fleet: &Fleet) {
    let Action::Spin(spin) = &telling.rule.action else { return };
    // The claim must last for as long as a wake-up of the host is remembered.
    let seconds = spin.timeout().as_secs().max(10) + 5;
    let mut pause = limits::WAKE_AGAIN;
    loop {
        match fleet.claim_wake(&telling.name, seconds).await {
            Claim::Unknown => return deliver(shared, telling).await,
            Claim::Done => return,
            Claim::Won => match attempt(&shared, &telling, pause).await {
                Some(true) => break,
                // Another node may be able to reach the address.
                Some(false) => fleet.unclaim_wake(&telling.name).await,
                None => return fleet.unclaim_wake(&telling.name).await,
            },
            Claim::Taken => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(limits::WAKE_AGAIN_MAX);
        if !shared.is_current(&telling) {
            return;
        }
    }
    if shared.is_current(&telling) {
        fleet.wake_is_told(&telling.name).await;
    }
    let until = std::time::Instant::now() + Duration::from_secs(seconds);
    while shared.is_current(&telling) && std::time::Instant::now() < until {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    fleet.unclaim_wake(&telling.name).await;
}

async fn idle(shared: Arc<Shared>, telling: Telling, fleet: &Fleet) {
    let name = telling.name.clone();
    let still = |shared: &Shared| shared.is_current(&telling) && shared.idle().is_told(&name);
    while fleet.is_connected() && !fleet.say_idle(&name).await {
        tokio::time::sleep(limits::WAKE_AGAIN).await;
    }
    let mut was_said = false;
    loop {
        if !still(&shared) {
            return fleet.unsay_idle(&name).await;
        }
        if !fleet.is_connected() || fleet.claim_idle(&name).await {
            return deliver(shared, telling).await;
        }
        // The watch brings this node's own key. When the key has gone again, another node makes the
        // POST.
        match fleet.has_said_idle(&name) {
            true => was_said = true,
            false if was_said => return,
            false => {}
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
