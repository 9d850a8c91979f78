//! A message there and back over loopback, both ends in one thread: through the shard's ring, with
//! epoll, and with plain calls that never wait. On one connection at a time, and on 64.
//!
//! Fair, because each sends and receives the same bytes over the same sort of sockets, and none
//! waits for another thread. The benchmark hides the gain of a ring where a real peer keeps it
//! waiting, and epoll here has no tasks, no timeouts and no buffers to lend out: it is the least
//! that readiness can cost. The plain calls know beforehand which end is next; they are the
//! kernel's price for moving the bytes. Every echo is compared inside.

#![allow(missing_docs, reason = "criterion's macros define an undocumented function")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mantrid::bench::round_trips;
use rustix::event::epoll;

const MESSAGE: &[u8] = &[b'm'; 256];
const PAIRS: [usize; 2] = [1, 64];

fn pairs(count: usize) -> Vec<[TcpStream; 2]> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let pair = |_| {
        let near = TcpStream::connect(address).expect("connect");
        let (far, _) = listener.accept().expect("accept");
        near.set_nodelay(true).and_then(|()| far.set_nodelay(true)).expect("nodelay");
        [near, far]
    };
    (0..count).map(pair).collect()
}

/// Sends the message from one end to the other and compares what comes.
fn pass(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(MESSAGE).expect("write");
    let mut room = [0; MESSAGE.len()];
    to.read_exact(&mut room).expect("read");
    assert_eq!(room, MESSAGE);
}

fn plain(pairs: &mut [[TcpStream; 2]], each: usize) -> Duration {
    let began = Instant::now();
    for _ in 0..each {
        for [near, far] in &mut *pairs {
            pass(near, far);
            pass(far, near);
        }
    }
    began.elapsed()
}

/// Watches all ends. An end that is readable is read and answers, the asking ends `each` times.
fn with_epoll(pairs: &mut [[TcpStream; 2]], each: usize) -> Duration {
    let watched = epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll");
    let mut asked = vec![1; pairs.len()];
    for (index, pair) in pairs.iter().enumerate() {
        for (end, stream) in pair.iter().enumerate() {
            let data = epoll::EventData::new_u64((2 * index + end) as u64);
            epoll::add(&watched, stream, data, epoll::EventFlags::IN).expect("watched");
        }
    }
    let began = Instant::now();
    for [near, _] in &mut *pairs {
        near.write_all(MESSAGE).expect("write");
    }
    let mut left = pairs.len();
    let mut events = Vec::with_capacity(256);
    while left != 0 {
        events.clear();
        epoll::wait(&watched, rustix::buffer::spare_capacity(&mut events), None).expect("events");
        for event in &events {
            let number = event.data.u64() as usize;
            let (index, end) = (number / 2, number % 2);
            let stream = &mut pairs[index][end];
            let mut room = [0; MESSAGE.len()];
            stream.read_exact(&mut room).expect("read");
            assert_eq!(room, MESSAGE);
            let is_echo = end == 1;
            if is_echo || asked[index] < each {
                stream.write_all(&room).expect("write");
                asked[index] += usize::from(!is_echo);
            } else {
                left -= 1;
            }
        }
    }
    assert!(asked.iter().all(|count| *count == each));
    began.elapsed()
}

/// Measures the time per message there and back.
fn trips(criterion: &mut Criterion) {
    for count in PAIRS {
        let mut group = criterion.benchmark_group(format!("round_trip/{count}"));
        group.throughput(Throughput::Elements(1));
        // criterion asks for so many trips; each connection makes its part of them.
        let scaled = |trips: u64, run: &mut dyn FnMut(usize) -> Duration| {
            let each = (trips as usize).div_ceil(count);
            run(each).mul_f64(trips as f64 / (each * count) as f64)
        };
        group.bench_function("ring", |bencher| {
            bencher
                .iter_custom(|trips| scaled(trips, &mut |each| round_trips(count, each, MESSAGE)));
        });
        group.bench_function("epoll", |bencher| {
            let mut pairs = pairs(count);
            bencher.iter_custom(|trips| scaled(trips, &mut |each| with_epoll(&mut pairs, each)));
        });
        group.bench_function("plain", |bencher| {
            let mut pairs = pairs(count);
            bencher.iter_custom(|trips| scaled(trips, &mut |each| plain(&mut pairs, each)));
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20)
        .warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = trips
}
criterion_main!(benches);
