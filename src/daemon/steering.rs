//! Steers each connection to the shard on the CPU that receives it (`steer_accepts`).

use tracing::{info, warn};

use super::inherited::Tcp;
use super::listen::{Bound, GroupOrder};
use crate::ring;

/// Steers the connections of each address to the shards on these CPUs. Without CPUs, or if the
/// order of the sockets is not that of the shards, the kernel's hash distributes the connections.
/// Then steering is switched off, because the daemon before may have switched it on.
///
/// Must be called when the old daemon no longer serves: it has the same sockets, perhaps with
/// shards on other CPUs.
pub(super) fn steer(bound: &[Bound], copies: &[Tcp], cpus: Option<&[usize]>) {
    for (one, copy) in bound.iter().zip(copies) {
        // The program is attached to the whole group through any of its sockets.
        let Some(socket) = copy.sockets.first() else { continue };
        let steered = match (cpus, one.order) {
            (Some(cpus), GroupOrder::OfShards) => Some(ring::steer(socket, cpus)),
            (Some(_), GroupOrder::Unknown(why)) => {
                warn!("steer_accepts = true: connections to {} are not steered: {why}", one.local);
                None
            }
            (None, _) => None,
        };
        match steered {
            Some(Ok(())) => info!("Connections to {} are steered by CPU", one.local),
            Some(Err(error)) => {
                warn!(
                    "steer_accepts = true: connections to {} are not steered: {error}",
                    one.local
                );
            }
            // This fails if the connections were not steered before.
            None => drop(ring::stop_steering(socket)),
        }
    }
}
