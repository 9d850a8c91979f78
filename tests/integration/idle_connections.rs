//! Connections that are idle, and served by turns: more of them than there are tasks, called one by
//! one, all at once, and by what ends them.

use crate::backend::Backend;
use crate::daemon::{Daemon, Setup, eventually};
use crate::message::{get, ok};
use crate::script::Connection;
use crate::spin::metric;

const COUNT: usize = 200;

fn echoing() -> (crate::backend::Serving, Daemon) {
    let backend = Backend::new().serve(|head, connection| {
        let target = head.target().to_owned();
        drop(connection.try_send(ok(&target)));
    });
    let daemon = Daemon::proxying(backend.rule());
    (backend, daemon)
}

/// Sends a request with a token of its own on each of these, then looks at the responses.
fn exchange(clients: &mut [Connection], round: usize, is_asked: impl Fn(usize) -> bool) {
    let asked = || (0..COUNT).filter(|n| is_asked(*n));
    for n in asked() {
        clients[n].send(get("a.com", &format!("/{round}/{n}")));
    }
    for n in asked() {
        assert_eq!(clients[n].expect_answer().text(), format!("/{round}/{n}"));
    }
}

#[test]
fn each_connection_gets_its_own_responses() {
    let (_backend, daemon) = echoing();
    let mut clients: Vec<Connection> = (0..COUNT).map(|_| daemon.connect()).collect();
    for round in 0..30 {
        // All at once, a few, and those that were silent meanwhile.
        let part = [1, 7, 2, 50, 3][round % 5];
        exchange(&mut clients, round, |n| (n + round).is_multiple_of(part));
    }
    // Pieces of heads and requests in a row go on where they were.
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(&get("a.com", &format!("/pieces/{n}"))[..12]);
    }
    for (n, client) in clients.iter_mut().enumerate() {
        let rest = get("a.com", &format!("/pieces/{n}"))[12..].to_owned();
        client.send(rest + &get("a.com", "/second"));
        assert_eq!(client.expect_answer().text(), format!("/pieces/{n}"));
        assert_eq!(client.expect_answer().text(), "/second");
    }
}

#[test]
fn connections_that_end_while_idle_take_nothing_from_others() {
    let (_backend, daemon) = echoing();
    for round in 0..10 {
        let mut clients: Vec<Connection> = (0..COUNT).map(|_| daemon.connect()).collect();
        exchange(&mut clients, round, |_| true);
        // Their places among the idle ones are taken by the next.
        let mut n = 0;
        clients.retain(|_| {
            n += 1;
            n % 3 == 0
        });
        let mut others: Vec<Connection> =
            (clients.len()..COUNT).map(|_| daemon.connect()).collect();
        clients.append(&mut others);
        exchange(&mut clients, round, |_| true);
    }
    let mut api = daemon.api();
    eventually("no connection is left", || metric(&mut api, "connections_open") == 0.0);
}

#[test]
fn all_idle_connections_end_in_their_time() {
    let backend = Backend::new().serve_text("hello");
    let setup = Setup::new().set("timeout_http_keep_alive", "1s").rule("a.com", backend.rule());
    let daemon = setup.start();
    let mut clients: Vec<Connection> = (0..COUNT).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.exchange(get("a.com", "/")).status(), 200);
    }
    for client in &mut clients {
        client.expect_end();
    }
}
