//! Messages there and back over loopback, both ends on one ring; used by `bench/ring.rs` alone.
//!
//! The executor is set up as a shard's, and the driver is the one that shards run. With both ends
//! on one thread no other thread's wake-up is measured, so the figure is the cost of the ring, its
//! tasks and the kernel.

use std::cell::Cell;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{Deadline, Ring, SendBuf, Stream, drive};

const WAIT: Duration = Duration::from_secs(30);

/// Sends `each` messages on each of `pairs` connections, on all at the same time, and has them
/// echoed. Returns the time taken, without the set-up. Every byte that comes back is compared.
///
/// # Panics
/// Where the kernel refuses a ring or sockets, or a message does not come back as it was.
#[must_use]
pub fn round_trips(pairs: usize, each: usize, message: &'static [u8]) -> Duration {
    let executor = glommio::LocalExecutorBuilder::new(glommio::Placement::Unbound)
        .io_memory(64 * 1024)
        .ring_depth(16)
        .preempt_timer(Duration::from_secs(1))
        .make()
        .expect("an executor");
    executor.run(async move {
        let ring = Ring::new().expect("a ring");
        let left = Rc::new(Cell::new(pairs));
        let connected: Vec<_> = (0..pairs).map(|_| pair(&ring)).collect();
        let began = Instant::now();
        let mut tasks = Vec::new();
        for (near, far) in connected {
            tasks.push(glommio::spawn_local(echo(ring.clone(), far)));
            let (ring, left) = (ring.clone(), left.clone());
            tasks.push(glommio::spawn_local(async move {
                ask(&ring, &near, each, message).await;
                left.set(left.get() - 1);
                if left.get() == 0 {
                    ring.stop();
                }
            }));
        }
        drive(ring.clone()).await;
        let took = began.elapsed();
        assert_eq!(left.get(), 0);
        for task in tasks {
            task.cancel().await;
        }
        ring.flush();
        took
    })
}

fn pair(ring: &Rc<Ring>) -> (Stream, Stream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let near = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
    let (far, _) = listener.accept().expect("accept");
    near.set_nodelay(true).and_then(|()| far.set_nodelay(true)).expect("nodelay");
    (Stream::new(ring, OwnedFd::from(near)), Stream::new(ring, OwnedFd::from(far)))
}

async fn ask(ring: &Rc<Ring>, stream: &Stream, each: usize, message: &[u8]) {
    let deadline = Deadline::new(ring);
    for _ in 0..each {
        let mut out = ring.take_vec();
        out.extend_from_slice(message);
        stream.begin_send(SendBuf::Vec(out));
        let mut at = 0;
        while at < message.len() {
            deadline.set(WAIT);
            let bytes = stream.recv(&deadline).await.expect("an echo");
            assert!(!bytes.is_empty() && message[at..].starts_with(&bytes), "another echo");
            at += bytes.len();
        }
        stream.sent(&deadline, WAIT).await.expect("sent");
    }
}

/// Passes received buffers on as they are, as bodies go.
async fn echo(ring: Rc<Ring>, stream: Stream) {
    let deadline = Deadline::new(&ring);
    loop {
        deadline.set(WAIT);
        let bytes = stream.recv(&deadline).await.expect("a message");
        if bytes.is_empty() {
            return;
        }
        stream.begin_send(SendBuf::Recv(bytes));
        stream.sent(&deadline, WAIT).await.expect("sent");
    }
}
