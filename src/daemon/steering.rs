//! Connections steered to the shard on the CPU that takes them in (`steer_accepts`).

use tracing::{info, warn};

use super::inherited::Tcp;
use super::listen::{Bound, GroupOrder};
use crate::ring;

/// Steers the connections of each address to the shards on these CPUs. Without CPUs, and where the
/// order of the sockets is not that of the shards, the kernel's hash spreads them; a daemon that we
/// take over from may have steered them.
///
/// Called when the old daemon no longer serves: it has the same sockets, perhaps of other CPUs.
pub(super) fn steer(bound: &[Bound], copies: &[Tcp], cpus: Option<&[usize]>) {
    for (one, copy) in bound.iter().zip(copies) {
        // Any of a group stands for all of it.
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
            // Fails where they were not steered before.
            None => drop(ring::stop_steering(socket)),
        }
    }
}
