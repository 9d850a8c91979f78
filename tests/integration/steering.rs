//! Connections that go to the shard on the CPU that takes them in. On loopback that is the CPU of
//! the client.

use std::net::SocketAddr;

use serde_json::json;

use crate::daemon::{Daemon, Setup, eventually};
use crate::message::get;
use crate::script::Connection;
use crate::spin::metric;

/// Connections made from each CPU: all of them go to one shard by chance once in two billion times.
const CONNECTIONS: usize = 32;

/// A daemon with two shards, each on a CPU of its own. `None` where there are not two.
fn setup() -> Option<(Setup, [usize; 2])> {
    let ids = core_affinity::get_core_ids().unwrap_or_default();
    let [first, second, ..] = ids[..] else {
        eprintln!("skipped: two CPUs are needed, and these may be used: {ids:?}");
        return None;
    };
    let cpus = [first.id, second.id];
    let setup = Setup::new().set("shards", 2).set("cpus", format!("{},{}", cpus[0], cpus[1]));
    Some((setup.rule("a.com", json!(["empty", { "code": 403 }, false])), cpus))
}

/// Connects so often from a CPU, and returns how many connections each shard has accepted of them.
#[track_caller]
fn accepted_from(daemon: &Daemon, cpu: usize, address: SocketAddr) -> [usize; 2] {
    let mut api = daemon.api();
    let mut accepted = || {
        let of = |shard| format!("connections_accepted_total{{shard=\"{shard}\"}}");
        [0, 1].map(|shard| metric(&mut api, &of(shard)) as usize)
    };
    let before = accepted();
    let connect = move || {
        assert!(core_affinity::set_for_current(core_affinity::CoreId { id: cpu }), "pinned");
        let clients: Vec<_> = (0..CONNECTIONS).map(|_| Connection::client(address)).collect();
        clients.len()
    };
    assert_eq!(std::thread::spawn(connect).join().expect("they connect"), CONNECTIONS);
    let mut since = [0; 2];
    eventually("all are accepted", || {
        let now = accepted();
        since = [now[0] - before[0], now[1] - before[1]];
        since[0] + since[1] == CONNECTIONS
    });
    since
}

/// Upgrades, and waits until the old daemon, which has the same sockets, is gone.
#[track_caller]
fn upgrade(daemon: &mut Daemon, times: usize) {
    daemon.upgrade();
    assert!(daemon.log.wait_count("Ready", times + 1), "the new one is ready");
    assert!(daemon.log.wait_count("Stopped after", times), "the old one is gone");
}

#[track_caller]
fn expect_steered(daemon: &Daemon, cpus: [usize; 2], address: SocketAddr) {
    assert_eq!(accepted_from(daemon, cpus[0], address), [CONNECTIONS, 0]);
    assert_eq!(accepted_from(daemon, cpus[1], address), [0, CONNECTIONS]);
}

#[track_caller]
fn expect_spread(daemon: &Daemon, cpus: [usize; 2], address: SocketAddr) {
    for cpu in cpus {
        let accepted = accepted_from(daemon, cpu, address);
        assert!(!accepted.contains(&0), "{accepted:?} from CPU {cpu}");
    }
}

#[test]
fn connections_are_spread_by_default() {
    let Some((setup, cpus)) = setup() else { return };
    let daemon = setup.start();
    expect_spread(&daemon, cpus, daemon.address());
}

#[test]
fn connections_go_to_the_shard_on_their_cpu() {
    let Some((setup, cpus)) = setup() else { return };
    let setup = setup.set("steer_accepts", true);
    let mut daemon = setup.clone().start();
    let address = daemon.address();
    daemon.expect_log(&[&format!("Connections to {address} are steered by CPU")]);
    expect_steered(&daemon, cpus, address);
    upgrade(&mut daemon, 1);
    expect_steered(&daemon, cpus, address);
    // One shard has both sockets, and the next daemon gives them to two again.
    setup.clone().set("shards", 1).write_files();
    upgrade(&mut daemon, 2);
    assert_eq!(daemon.connect().exchange(get("a.com", "/")).status(), 403);
    let beside = SocketAddr::from(([127, 0, 0, 2], address.port()));
    setup.clone().add("bind", beside).write_files();
    upgrade(&mut daemon, 3);
    expect_steered(&daemon, cpus, address);
    expect_steered(&daemon, cpus, beside);
    // The program that steered belongs to the sockets, which stay.
    setup.clone().set("steer_accepts", false).write_files();
    upgrade(&mut daemon, 4);
    expect_spread(&daemon, cpus, address);
}

#[test]
fn socket_of_a_shard_that_is_new_is_steered_to() {
    let Some((setup, cpus)) = setup() else { return };
    let setup = setup.set("steer_accepts", true);
    let mut daemon = setup.clone().set("shards", 1).start();
    setup.write_files();
    upgrade(&mut daemon, 1);
    expect_steered(&daemon, cpus, daemon.address());
}

#[test]
fn shards_that_share_a_cpu_are_named() {
    let Some((setup, cpus)) = setup() else { return };
    let setup = setup.set("cpus", cpus[0]).set("steer_accepts", true);
    let daemon = setup.start();
    daemon.expect_log(&["steer_accepts = true: connections are not steered", "1 CPU"]);
    expect_spread(&daemon, cpus, daemon.address());
}
