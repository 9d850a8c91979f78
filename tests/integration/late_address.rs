//! An address that this machine gets only after the daemon has started, under systemd. In a network
//! of its own, where that can be had.

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::daemon::{Log, Setup};
use crate::script::PATIENCE;

#[test]
fn a_late_address_is_waited_for() {
    let script = "ip link set lo up && ip addr show";
    let own_network = ["-r", "-n", "sh", "-c"];
    let mut trial = Command::new("unshare");
    let trial = trial.args(own_network).arg(script).stdout(Stdio::null()).stderr(Stdio::null());
    if !trial.status().is_ok_and(|status| status.success()) {
        return eprintln!("skipped: no network namespace can be made here");
    }
    let setup =
        Setup::new().set("bind", "192.0.2.1:8080").rule("a.com", json!(["no_hosts", {}, false]));
    let systemd = UnixDatagram::bind(setup.path("notify")).expect("a socket");
    systemd.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    // the address comes with a line on standard input
    let script = "ip link set lo up; (read line <&3; ip addr add 192.0.2.1/32 dev lo) & \
                  exec \"$0\" -c \"$1\" 3<&-";
    let mut command = Command::new("unshare");
    command.args(own_network).arg(format!("exec 3<&0; {script}"));
    command.arg(env!("CARGO_BIN_EXE_mantrid")).arg(setup.write_files());
    command.env("NOTIFY_SOCKET", setup.path("notify"));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut daemon = command.spawn().expect("it starts");
    let log = Log::collect(daemon.stderr.take().expect("its log"));
    let is_told = log.wait_count("bind = 192.0.2.1:8080: this machine has no such address", 1);
    // gives it the address
    drop(daemon.stdin.take());
    let is_ready = is_told && log.wait_count("Ready", 1);
    drop(daemon.kill());
    drop(daemon.wait());
    assert!(is_ready, "{}", log.text());
}
