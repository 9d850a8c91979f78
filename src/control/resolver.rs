//! Looks up the names of backends, each once however many rules use it, and again every half minute.
//! Shards see addresses only. When a lookup fails the last good addresses stay.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::limits;
use crate::table::{Name, Names};

/// Looks every name up, for the start; gives slow ones a few seconds.
pub(crate) async fn resolve_once(names: &Names) {
    let _ = tokio::time::timeout(limits::RESOLVE_AT_START, resolve(names)).await;
}

/// Keeps looking them up.
pub(crate) async fn keep_resolved(mut names: Names) {
    loop {
        tokio::time::sleep(pause(&names)).await;
        names.prune();
        resolve(&names).await;
    }
}

/// Sooner while a name has no address at all, with a jitter so that a fleet does not ask in step.
fn pause(names: &Names) -> Duration {
    let missing = names.iter_live().any(|name| name.addresses().is_empty());
    let base = if missing { limits::RESOLVE_AGAIN } else { limits::RESOLVE_EVERY };
    let jitter = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |now| now.subsec_millis());
    base + base.mul_f64(f64::from(jitter) / 10_000.0)
}

async fn resolve(names: &Names) {
    let mut lookups = JoinSet::new();
    for name in names.iter_live() {
        if limits::RESOLVE_AT_ONCE <= lookups.len() {
            lookups.join_next().await;
        }
        lookups.spawn(look_up(name.clone()));
    }
    while lookups.join_next().await.is_some() {}
}

async fn look_up(name: Arc<Name>) {
    match tokio::net::lookup_host((&*name.host, name.port)).await {
        Ok(found) => {
            let mut addresses: Vec<_> = found.collect();
            addresses.sort_unstable();
            addresses.dedup();
            if !addresses.is_empty() && **name.addresses() != addresses {
                tracing::info!("{}:{} is now {addresses:?}", name.host, name.port);
                name.set_addresses(addresses);
            }
        }
        Err(error) => tracing::warn!("{}:{}: lookup failed: {error}", name.host, name.port),
    }
}
