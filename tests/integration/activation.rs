//! A socket that systemd holds, as `mantrid.socket` has it: clients in its queue outlive the
//! daemon.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::api::empty;
use crate::daemon::{Log, Setup, wait_for_stop};
use crate::message::get;
use crate::script::Connection;

/// Started with this socket as systemd would; killed in the end.
struct Activated(Child);

impl Activated {
    #[track_caller]
    fn start(setup: &Setup, socket: &TcpListener) -> Activated {
        let script = "export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" -c \"$1\"";
        let mut command = Command::new("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_mantrid")]).arg(setup.write_files());
        let parent_fd = socket.try_clone().expect("a copy").into();
        command.fd_mappings(vec![FdMapping { parent_fd, child_fd: 3 }]).expect("it is free");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let log = Log::collect(child.stderr.take().expect("its log"));
        let daemon = Activated(child);
        assert!(log.wait_count("Ready", 1), "{}", log.text());
        daemon
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).expect("it is there");
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn queued_clients_outlive_the_daemon() {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = socket.local_addr().expect("its address");
    let setup = Setup::new().set("bind", address).set("shards", 3).rule("a.com", empty(402));
    let daemon = Activated::start(&setup, &socket);
    for _ in 0..10 {
        assert_eq!(Connection::client(address).exchange(get("a.com", "/")).status(), 402);
    }
    // clients come while nobody accepts, and the daemon ends
    daemon.signal(Signal::SIGSTOP);
    wait_for_stop(daemon.0.id() as i32);
    let mut clients: Vec<Connection> = (0..20).map(|_| Connection::client(address)).collect();
    clients.iter_mut().for_each(|client| client.send(get("a.com", "/")));
    drop(daemon);
    let mut daemon = Activated::start(&setup, &socket);
    for client in &mut clients {
        assert_eq!(client.expect_answer().status(), 402);
    }
    // a stop ends while others hold the socket
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.0.wait().expect("its end").code(), Some(0));
    let mut late = Connection::client(address);
    late.send(get("a.com", "/"));
    let _daemon = Activated::start(&setup, &socket);
    assert_eq!(late.expect_answer().status(), 402);
}
