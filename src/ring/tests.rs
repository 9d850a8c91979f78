//! The ring against real sockets on loopback: bytes arrive, dropped handles leave nothing behind,
//! and nothing is lost, leaked, or written to after it was given up.

use std::future::Future;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::*;

/// Runs `test` on a glommio executor with a ring driven beside it.
pub(super) fn on_ring<F: Future<Output = ()> + 'static>(test: impl FnOnce(Rc<Ring>) -> F) {
    let executor = glommio::LocalExecutorBuilder::default()
        .io_memory(64 * 1024)
        .ring_depth(16)
        .make()
        .expect("an executor");
    executor.run(async move {
        let ring = Ring::new().expect("a ring");
        let task = test(ring.clone());
        let stopper = ring.clone();
        glommio::spawn_local(async move {
            task.await;
            stopper.stop();
        })
        .detach();
        drive(ring).await;
    });
}

pub(super) fn pair(ring: &Rc<Ring>) -> (Stream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let near = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
    let (far, _) = listener.accept().expect("accept");
    far.set_nodelay(true).expect("nodelay");
    (Stream::new(ring, OwnedFd::from(near)), far)
}

pub(super) fn in_ten_seconds(ring: &Rc<Ring>) -> Deadline {
    let deadline = Deadline::new(ring);
    deadline.set(Duration::from_secs(10));
    deadline
}

fn poll_once<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// Writes bytes, and waits until the kernel has them for `near`.
pub(super) fn deliver(near: &Stream, far: &mut TcpStream, bytes: &[u8]) {
    far.write_all(bytes).expect("written");
    while rustix::io::ioctl_fionread(near.fd()).expect("a count") < bytes.len() as u64 {
        std::thread::yield_now();
    }
}

/// Waits until every slot of a dropped handle is free again.
pub(super) async fn settled(ring: &Rc<Ring>, slots: usize) {
    let deadline = Deadline::new(ring);
    for _ in 0..500 {
        if ring.inner.borrow().slots.len() == slots {
            return;
        }
        deadline.set(Duration::from_millis(16));
        deadline.expired().await;
    }
    panic!("{} slots are still taken", ring.inner.borrow().slots.len());
}

/// Lets the driver turn once.
pub(super) async fn turned(ring: &Ring) {
    ring.note_runnable();
    yield_once().await;
}

/// The name of the socket in `/proc/self/fd`; no other socket ever has the same.
fn name_of(stream: &Stream) -> String {
    format!("socket:[{}]", rustix::fs::fstat(stream.fd()).expect("fstat").st_ino)
}

/// The open descriptors by name, with those of other tests of this process among them.
fn open_descriptors() -> Vec<String> {
    std::fs::read_dir("/proc/self/fd")
        .expect("proc")
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .collect()
}

#[test]
fn bytes_arrive_and_leave() {
    on_ring(|ring| async move {
        let (stream, mut far) = pair(&ring);
        let deadline = in_ten_seconds(&ring);
        far.write_all(b"hello").expect("write");
        assert_eq!(&*stream.recv(&deadline).await.expect("bytes"), b"hello");
        stream
            .send(SendBuf::Vec(b"world".to_vec()), &deadline, Duration::from_secs(1))
            .await
            .expect("sent");
        let mut answer = [0; 5];
        far.read_exact(&mut answer).expect("read");
        assert_eq!(&answer, b"world");
        drop(far);
        assert!(stream.recv(&deadline).await.expect("end").is_empty());
        assert!(stream.recv(&deadline).await.expect("still the end").is_empty());
    });
}

#[test]
fn receive_given_up_loses_nothing() {
    on_ring(|ring| async move {
        let (stream, mut far) = pair(&ring);
        let short = Deadline::new(&ring);
        short.set(Duration::from_millis(30));
        assert!(matches!(stream.recv(&short).await, Err(Abort::TimedOut)));
        {
            let mut dropped = pin!(stream.recv(&short));
            let _ = poll_once(dropped.as_mut());
        }
        far.write_all(b"late").expect("write");
        assert_eq!(&*stream.recv(&in_ten_seconds(&ring)).await.expect("bytes"), b"late");
    });
}

#[test]
fn large_send_survives_short_writes() {
    on_ring(|ring| async move {
        let (stream, mut far) = pair(&ring);
        let size = 8 * 1024 * 1024;
        let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        let expected = bytes.clone();
        let reader = std::thread::spawn(move || {
            let mut received = vec![0; size];
            far.read_exact(&mut received).expect("read");
            received
        });
        stream
            .send(SendBuf::Vec(bytes), &in_ten_seconds(&ring), Duration::from_secs(10))
            .await
            .expect("sent");
        assert!(reader.join().expect("reader") == expected, "the bytes differ");
    });
}

/// A request and its response: only the response ends the sleep of the shard.
#[test]
fn send_that_takes_all_bytes_asks_for_no_completion() {
    on_ring(|ring| async move {
        let (stream, mut far) = pair(&ring);
        let peer = std::thread::spawn(move || {
            let mut request = [0; 7];
            while far.read_exact(&mut request).is_ok() {
                assert_eq!(&request, b"request");
                far.write_all(b"response").expect("write");
            }
        });
        for _ in 0..20 {
            let before = ring.figures().completions;
            stream.begin_send_kept(b"request".to_vec());
            assert!(!stream.is_sent(), "the kernel may still have the bytes");
            let response = stream.recv(&in_ten_seconds(&ring)).await.expect("bytes");
            assert_eq!(&*response, b"response");
            assert_eq!(ring.figures().completions - before, 1, "of the receive");
            assert!(stream.is_sent());
            assert_eq!(stream.take_sent().as_deref(), Some(&b"request"[..]));
        }
        drop(stream);
        ring.flush();
        peer.join().expect("the peer");
    });
}

#[test]
fn first_send_on_a_full_socket_waits_for_room() {
    on_ring(|ring| async move {
        let (stream, mut far) = pair(&ring);
        let filled = Rc::new(Cell::new(0_usize));
        while let Ok(count) =
            rustix::net::send(stream.fd(), &[1; 65_536], rustix::net::SendFlags::DONTWAIT)
        {
            filled.set(filled.get() + count);
        }
        stream.begin_send(SendBuf::Vec(vec![2; 1000]));
        for _ in 0..10 {
            turned(&ring).await;
        }
        assert!(!stream.is_sent());
        let mut received = vec![0; filled.get() + 1000];
        let reader = std::thread::spawn(move || {
            far.read_exact(&mut received).expect("read");
            received
        });
        stream.sent(&in_ten_seconds(&ring), Duration::from_secs(10)).await.expect("sent");
        let received = reader.join().expect("reader");
        let (first, second) = received.split_at(filled.get());
        assert!(first.iter().all(|&byte| byte == 1) && second.iter().all(|&byte| byte == 2));
    });
}

#[test]
fn first_send_to_a_peer_that_has_reset_fails() {
    on_ring(|ring| async move {
        let (stream, far) = pair(&ring);
        Socket::from(far).set_linger(Some(Duration::ZERO)).expect("linger");
        stream.begin_send(SendBuf::Vec(b"too late".to_vec()));
        let sent = stream.sent(&in_ten_seconds(&ring), Duration::from_secs(10)).await;
        assert!(matches!(sent, Err(Abort::Io(_))), "{sent:?}");
        assert!(stream.send_failed() && !stream.is_sent());
    });
}

#[test]
fn dropped_stream_gives_back_slot_buffer_and_descriptor() {
    on_ring(|ring| async move {
        let mut names = Vec::new();
        let slots = ring.inner.borrow().slots.len();
        for round in 0..600 {
            let (stream, mut far) = pair(&ring);
            names.push(name_of(&stream));
            match round % 7 {
                // Nothing in flight; a receive queued but not submitted; one in flight; bytes
                // waiting to be taken; a send that the peer does not take; one that its socket has
                // room for; both directions at once.
                0 => {}
                1 => stream.arm(),
                2 => {
                    stream.arm();
                    turned(&ring).await;
                    turned(&ring).await;
                }
                3 => {
                    stream.arm();
                    far.write_all(b"untaken").expect("write");
                    while !stream.has_bytes() {
                        turned(&ring).await;
                    }
                }
                4 => stream.begin_send(SendBuf::Vec(vec![7; 4 << 20])),
                5 => stream.begin_send(SendBuf::Vec(vec![7; 4 << 10])),
                _ => {
                    stream.arm();
                    stream.begin_send_kept(vec![7; 4 << 20]);
                    turned(&ring).await;
                }
            }
            drop(stream);
            if round % 2 == 0 {
                drop(far);
            } else {
                // The peer writes at a connection that is being given up.
                let _ = far.write_all(b"too late");
            }
        }
        settled(&ring, slots).await;
        let open = open_descriptors();
        assert!(names.iter().all(|name| !open.contains(name)), "descriptors leaked");
        // Every buffer is with the kernel again: as many receives as there are buffers succeed, and
        // none of them had to bring its own memory.
        let missed = ring.figures().buffers_missed;
        let mut streams = Vec::new();
        for _ in 0..limits::RECV_BUFFERS {
            let (stream, mut far) = pair(&ring);
            far.write_all(b"x").expect("write");
            let buf = stream.recv(&in_ten_seconds(&ring)).await.expect("bytes");
            streams.push((stream, far, buf));
        }
        assert_eq!(ring.figures().buffers_missed, missed, "buffers leaked");
        // One more receive finds no buffer, and gets its bytes all the same.
        let (stream, mut far) = pair(&ring);
        far.write_all(b"own memory").expect("write");
        assert_eq!(&*stream.recv(&in_ten_seconds(&ring)).await.expect("bytes"), b"own memory");
        assert_eq!(ring.figures().buffers_missed, missed + 1);
    });
}

#[test]
fn closed_number_is_not_read_by_a_stale_submission() {
    // A receive that was queued for a descriptor that is then dropped must never take bytes from
    // the connection that gets the same number next.
    on_ring(|ring| async move {
        for _ in 0..200 {
            let (stream, far) = pair(&ring);
            stream.arm();
            drop(stream);
            drop(far);
            let (next, mut far) = pair(&ring);
            far.write_all(b"mine").expect("write");
            assert_eq!(&*next.recv(&in_ten_seconds(&ring)).await.expect("bytes"), b"mine");
        }
    });
}

#[test]
fn connect_is_refused_and_accepted() {
    on_ring(|ring| async move {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let stream = Stream::connect(&ring, &address.into(), &in_ten_seconds(&ring)).await;
        assert!(stream.is_ok(), "{:?}", stream.err());
        drop(listener);
        let refused = Stream::connect(&ring, &address.into(), &in_ten_seconds(&ring)).await;
        assert!(matches!(refused, Err(Abort::Io(_))));
        // The connect is dropped in the middle: its slot goes when the kernel is done with it.
        {
            let unroutable: SocketAddr = "127.0.0.1:1".parse().expect("address");
            let unroutable = unroutable.into();
            let deadline = in_ten_seconds(&ring);
            let mut attempt = pin!(Stream::connect(&ring, &unroutable, &deadline));
            let _ = poll_once(attempt.as_mut());
        }
        drop(stream);
        settled(&ring, 0).await;
    });
}

#[test]
fn unix_socket_is_connected_once_its_queue_has_room() {
    on_ring(|ring| async move {
        let folder = tempfile::tempdir().expect("a folder");
        let address = SockAddr::unix(folder.path().join("app.sock")).expect("a path");
        let gone = Stream::connect(&ring, &address, &in_ten_seconds(&ring)).await;
        assert!(matches!(gone, Err(Abort::Io(error)) if error.kind() == ErrorKind::NotFound));
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).expect("a socket");
        listener.bind(&address).expect("bind");
        // Room for one connection that is not accepted.
        listener.listen(0).expect("listen");
        let first = Stream::connect(&ring, &address, &in_ten_seconds(&ring)).await;
        let first = first.map_err(|abort| format!("{abort:?}")).expect("a connection");
        let soon = Deadline::new(&ring);
        soon.set(Duration::from_millis(20));
        let full = Stream::connect(&ring, &address, &soon).await;
        assert!(matches!(full, Err(Abort::TimedOut)));
        let deadline = in_ten_seconds(&ring);
        let mut second = pin!(Stream::connect(&ring, &address, &deadline));
        assert!(poll_once(second.as_mut()).is_pending());
        let (mut far, _) = listener.accept().expect("the first connection");
        let second = second.await.map_err(|abort| format!("{abort:?}")).expect("a connection");
        far.write_all(b"hello").expect("write");
        assert_eq!(&*first.recv(&in_ten_seconds(&ring)).await.expect("bytes"), b"hello");
        drop((first, second));
        settled(&ring, 0).await;
    });
}

#[test]
fn multishot_accept_takes_all_and_stops() {
    on_ring(|ring| async move {
        let socket = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = socket.local_addr().expect("address");
        let listener = Listener::new(&ring, socket.into());
        let clients: Vec<TcpStream> =
            (0..50).map(|_| TcpStream::connect(address).expect("connect")).collect();
        for _ in 0..clients.len() {
            listener.accept().await.expect("a connection");
        }
        drop(listener);
        settled(&ring, 0).await;
        assert!(TcpStream::connect(address).is_err(), "still listening");
    });
}

#[test]
fn splice_moves_everything_once() {
    on_ring(|ring| async move {
        let (source, mut writer) = pair(&ring);
        let (target, mut reader) = pair(&ring);
        let size = 6 * 1024 * 1024;
        let bytes: Vec<u8> = (0..size).map(|at| (at % 249) as u8).collect();
        let expected = bytes.clone();
        let writing = std::thread::spawn(move || writer.write_all(&bytes).map(|()| writer));
        let reading = std::thread::spawn(move || {
            let mut received = vec![0; size];
            reader.read_exact(&mut received).expect("read");
            received
        });
        source.set_nonblocking();
        target.set_nonblocking();
        let mut pipe = Pipe::take(&ring).expect("a pipe");
        let mut left = size as u64;
        let deadline = in_ten_seconds(&ring);
        while left > 0 || pipe.held() > 0 {
            match pipe.fill(&source, left).expect("fill") {
                Moved::Bytes(n) => left -= n as u64,
                Moved::Later if pipe.held() == 0 => {
                    poll_fn(|cx| source.poll_readable(cx, &deadline)).await.expect("ready")
                }
                Moved::Later | Moved::End => {}
            }
            if pipe.held() > 0 && pipe.empty(&target).expect("empty") == Moved::Later {
                target.writable(&deadline).await.expect("ready");
            }
        }
        assert!(reading.join().expect("reader") == expected, "the bytes differ");
        drop(writing.join().expect("writer"));
    });
}

#[test]
fn deadlines_come_in_order_and_can_move() {
    on_ring(|ring| async move {
        let first = Deadline::new(&ring);
        let second = Deadline::new(&ring);
        let moved = Deadline::new(&ring);
        moved.set(Duration::from_millis(20));
        second.set(Duration::from_millis(80));
        first.set(Duration::from_millis(40));
        moved.set(Duration::from_millis(200));
        let began = Instant::now();
        first.expired().await;
        assert!(Duration::from_millis(39) <= began.elapsed());
        assert!(poll_once(pin!(second.expired())).is_pending());
        second.expired().await;
        assert!(Duration::from_millis(79) <= began.elapsed());
        assert!(poll_once(pin!(moved.expired())).is_pending());
        // The deadline is moved earlier again, and then cleared.
        moved.set(Duration::from_millis(1));
        moved.expired().await;
        assert!(began.elapsed() < Duration::from_millis(190));
        moved.clear();
        assert!(poll_once(pin!(moved.expired())).is_pending());
    });
}

#[test]
fn eventfd_wakes_a_sleeping_shard() {
    on_ring(|ring| async move {
        let flags = rustix::event::EventfdFlags::NONBLOCK;
        let eventfd = rustix::event::eventfd(0, flags).expect("eventfd");
        let remote = eventfd.try_clone().expect("a copy");
        let wakes = WakeReceiver::new(&ring, eventfd).expect("receiver");
        let thread = std::thread::spawn(move || {
            rustix::io::write(&remote, &1u64.to_ne_bytes()).expect("write");
        });
        wakes.woken().await;
        thread.join().expect("thread");
    });
}

#[test]
fn flow_brings_all_in_order_and_stops_when_no_task_takes_it() {
    on_ring(async |ring: Rc<Ring>| {
        let (near, mut far) = pair(&ring);
        near.start_flow();
        near.arm();
        let deadline = in_ten_seconds(&ring);
        // Small messages, taken as they come: one receive for all of them.
        for byte in 0..20u8 {
            far.write_all(&[byte; 100]).expect("written");
            let got = near.recv(&deadline).await.expect("received");
            assert_eq!(&got[..], [byte; 100]);
            assert!(near.is_flowing());
        }
        // More bytes than any task takes: most of them have to stay in the kernel.
        let sent: Vec<u8> = (0..4_000_000u32).map(|n| (n >> 4) as u8).collect();
        let writer = std::thread::spawn({
            let sent = sent.clone();
            move || {
                far.write_all(&sent).expect("written");
                far
            }
        });
        while near.is_flowing() {
            let pause = Deadline::new(&ring);
            pause.set(Duration::from_millis(16));
            pause.expired().await;
        }
        let mut got = Vec::new();
        while got.len() < sent.len() {
            got.extend_from_slice(&near.recv(&deadline).await.expect("received"));
        }
        assert!(got == sent, "bytes were lost or changed places");
        drop(writer.join().expect("the writer"));
        assert!(near.recv(&deadline).await.expect("the end").is_empty());
        drop(near);
        settled(&ring, 0).await;
    });
}

#[test]
fn peers_that_take_nothing_leave_the_buffers_to_others() {
    on_ring(async |ring: Rc<Ring>| {
        let (source, mut source_far) = pair(&ring);
        let deadline = in_ten_seconds(&ring);
        let mut receive = async |byte: u8| {
            source_far.write_all(&[byte; 1000]).expect("written");
            source.recv(&deadline).await.expect("received")
        };
        let mut full = Vec::new();
        for number in 0..limits::RECV_BUFFERS {
            // Of a Unix socket nothing moves on by itself, so a full one stays full.
            let (near, far) = UnixStream::pair().expect("a pair");
            let near = Stream::new(&ring, OwnedFd::from(near));
            let mut before = 0;
            let flags = rustix::net::SendFlags::DONTWAIT;
            while let Ok(count) = rustix::net::send(near.fd(), &[0; 4096], flags) {
                before += count;
            }
            near.begin_send(SendBuf::Recv(receive(number as u8).await));
            full.push((near, far, before));
        }
        turned(&ring).await;
        turned(&ring).await;
        let missed = ring.figures().buffers_missed;
        assert_eq!(&receive(7).await[..], &[7; 1000]);
        assert_eq!(ring.figures().buffers_missed, missed, "every buffer waits for a slow peer");
        for (number, (near, mut far, before)) in full.into_iter().enumerate() {
            assert!(!near.is_sent(), "the peer takes nothing");
            let reader = std::thread::spawn(move || {
                let mut bytes = vec![0; before + 1000];
                far.read_exact(&mut bytes).expect("read");
                bytes.split_off(before)
            });
            near.sent(&in_ten_seconds(&ring), Duration::from_secs(10)).await.expect("sent");
            assert_eq!(reader.join().expect("the reader"), [number as u8; 1000]);
        }
    });
}

/// Bytes that nearly fill four small buffers, and fit into the window of a new connection.
const FOUR_BUFFERS: usize = 60_000;

#[test]
fn flow_of_one_peer_leaves_the_buffers_to_others() {
    on_ring(async |ring: Rc<Ring>| {
        if !ring.inner.borrow().bounds_flows {
            return;
        }
        let (near, mut far) = pair(&ring);
        let index = ring.inner.borrow().slots.iter().next().expect("its slot").0 as u32;
        // All bytes lie there before the flow begins.
        deliver(&near, &mut far, &[b'x'; FOUR_BUFFERS]);
        near.start_bounded_flow();
        near.arm();
        let deadline = in_ten_seconds(&ring);
        let mut got = 0;
        while got < FOUR_BUFFERS {
            got += near.recv(&deadline).await.expect("received").len();
            let waiting: Vec<_> =
                ring.inner.borrow_mut().socket(index).receive.received.take_lent().collect();
            let most = limits::FLOW_BYTES.div_ceil(limits::RECV_BUFFER_BYTES) as usize;
            assert!(waiting.len() < most, "{} more buffers were taken at once", waiting.len());
            for lent in waiting {
                got += (lent.end - lent.start) as usize;
                ring.inner.borrow_mut().groups[lent.group as usize].give(lent.buffer);
            }
        }
    });
}

#[test]
fn small_messages_start_a_flow_and_a_large_one_ends_it() {
    on_ring(async |ring: Rc<Ring>| {
        let (near, mut far) = pair(&ring);
        let deadline = in_ten_seconds(&ring);
        for count in 1..=limits::SMALL_MESSAGES + 2 {
            near.note_small();
            far.write_all(b"small").expect("written");
            assert_eq!(&near.recv(&deadline).await.expect("received")[..], b"small");
            let flows = ring.inner.borrow().bounds_flows && limits::SMALL_MESSAGES <= count;
            assert_eq!(near.is_flowing(), flows, "after {count}");
        }
        near.peek();
        near.halted().await;
        far.write_all(b"small").expect("written");
        assert_eq!(&near.recv(&deadline).await.expect("received")[..], b"small");
        assert!(!near.is_flowing());
        near.note_small();
        near.arm();
        assert!(!near.is_flowing(), "one is no habit");
    });
}

#[test]
fn halted_flow_leaves_the_rest_to_others_and_loses_nothing() {
    on_ring(async |ring: Rc<Ring>| {
        let (near, mut far) = pair(&ring);
        near.start_flow();
        near.arm();
        let deadline = in_ten_seconds(&ring);
        far.write_all(b"one").expect("written");
        assert_eq!(&near.recv(&deadline).await.expect("received")[..], b"one");
        near.halted().await;
        far.write_all(b"two").expect("written");
        assert!(!near.is_armed(), "no receive of the ring reads it now");
        let mut room = [0; 8];
        std::future::poll_fn(|cx| near.poll_readable(cx, &deadline)).await.expect("readable");
        let n = rustix::io::read(near.fd(), &mut room).expect("read");
        assert_eq!(&room[..n], b"two");
        near.start_flow();
        far.write_all(b"three").expect("written");
        assert_eq!(&near.recv(&deadline).await.expect("received")[..], b"three");
        // The stream is dropped with bytes that no task took: every buffer goes back.
        far.write_all(b"four").expect("written");
        std::future::poll_fn(|cx| near.poll_readable(cx, &deadline)).await.expect("readable");
        drop(near);
        settled(&ring, 0).await;
    });
}
