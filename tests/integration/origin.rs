//! Whose request it is: nothing is served for a client whose address can't be had any more.

use crate::backend::Backend;
use crate::daemon::{Setup, eventually};
use crate::message::{get, ok};
use crate::spin::metric;

/// A reset that comes before the accept leaves the kernel without the client's address.
#[test]
fn requests_of_clients_that_reset_never_have_a_false_origin() {
    const CLIENTS: usize = 300;
    let backend = Backend::new().serve(|_, connection| drop(connection.try_send(ok("there"))));
    let setup = Setup::new().rule("a.com", backend.rule()).internal();
    let log = setup.path("access.log");
    let daemon = setup.set("access_log", log.display()).start();
    // Nothing is accepted until all of them have gone.
    daemon.signal("STOP");
    for n in 0..CLIENTS {
        let mut client = if n % 4 == 0 { daemon.connect_internal() } else { daemon.connect() };
        client.send(match n % 2 {
            0 => get("a.com", "/gone"),
            _ => "POST /gone HTTP/1.1\r\nHost: a.com\r\nContent-Length: 3\r\n\r\nabc".to_owned(),
        });
        client.reset();
    }
    daemon.signal("CONT");
    let mut api = daemon.api();
    eventually("all have been accepted", || {
        CLIENTS as f64 <= metric(&mut api, "connections_accepted_total")
    });
    assert_eq!(daemon.connect().exchange(get("a.com", "/after")).status(), 200);
    for head in backend.take_heads() {
        let origin = head.field("X-Forwarded-For");
        assert!(matches!(origin, None | Some("127.0.0.1")), "{head:#?}");
    }
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    assert!(!text.contains("0.0.0.0"), "{text}");
    let vanished = metric(&mut api, "shed_total{reason=\"client_vanished\"}");
    // The daemon does not stop at once: some may have been accepted before.
    assert!(CLIENTS as f64 / 2.0 < vanished, "{vanished}");
}
