//! The open-loop load of the load tests: so many requests a second, whether the proxy keeps up or not. Each is
//! timed from when it was *due*: one that could not be sent because the one before had no answer yet has waited,
//! and that counts (what is left out otherwise is called coordinated omission).
//!
//! `paced ADDRESS HOST PATH CONNECTIONS RATE SECONDS`; prints one line of JSON. One thread, plain epoll.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

struct Client {
    stream: TcpStream,
    /// When the request under way was due.
    asked: Option<Instant>,
    /// Due and not sent yet, the oldest first.
    due: std::collections::VecDeque<Instant>,
    received: Vec<u8>,
}

struct Outcome {
    latencies: Vec<u64>,
    errors: u64,
    late: u64,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, host, path, connections, rate, seconds] = arguments.as_slice() else {
        eprintln!("usage: paced ADDRESS HOST PATH CONNECTIONS RATE SECONDS");
        return ExitCode::from(2);
    };
    let numbers = [connections, rate, seconds].map(|text| text.parse::<u64>().ok());
    let [Some(connections @ 1..), Some(rate @ 1..), Some(seconds @ 1..)] = numbers else {
        eprintln!("paced: CONNECTIONS, RATE and SECONDS are numbers from 1 on");
        return ExitCode::from(2);
    };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    match run(address, request.as_bytes(), connections, rate, Duration::from_secs(seconds)) {
        Ok(outcome) => {
            report(outcome);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("paced: {error}");
            ExitCode::FAILURE
        }
    }
}

fn report(mut outcome: Outcome) {
    outcome.latencies.sort_unstable();
    let count = outcome.latencies.len();
    let at = |share: f64| {
        let index = (count as f64 * share) as usize;
        outcome.latencies.get(index.min(count.saturating_sub(1))).copied().unwrap_or(0)
    };
    println!(
        "{{\"requests\": {count}, \"errors\": {}, \"unanswered\": {}, \"p50_us\": {}, \"p99_us\": {}, \
         \"p999_us\": {}, \"max_us\": {}}}",
        outcome.errors,
        outcome.late,
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
}

fn run(
    address: &str,
    request: &[u8],
    connections: u64,
    rate: u64,
    time: Duration,
) -> io::Result<Outcome> {
    let poll = epoll::create(CreateFlags::CLOEXEC)?;
    let mut clients = Vec::new();
    for index in 0..connections {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        epoll::add(&poll, &stream, EventData::new_u64(index), EventFlags::IN)?;
        let (due, received) = Default::default();
        clients.push(Client { stream, asked: None, due, received });
    }
    let mut outcome = Outcome { latencies: Vec::new(), errors: 0, late: 0 };
    let mut events: Vec<Event> = Vec::with_capacity(256);
    let start = Instant::now();
    let due_at = |number: u64| start + Duration::from_nanos(number * 1_000_000_000 / rate);
    let (mut number, end) = (0, start + time);
    // What is due at the end still has a second to be answered.
    while Instant::now() < end + Duration::from_secs(1) {
        let now = Instant::now();
        while due_at(number) <= now && due_at(number) < end {
            let client = &mut clients[(number % connections) as usize];
            client.due.push_back(due_at(number));
            client.send(request, &mut outcome);
            number += 1;
        }
        let is_over = due_at(number) >= end;
        if is_over && clients.iter().all(|client| client.asked.is_none() && client.due.is_empty()) {
            break;
        }
        let pause = match is_over {
            true => Duration::from_millis(10),
            false => due_at(number).saturating_duration_since(Instant::now()),
        };
        let pause = Timespec { tv_sec: 0, tv_nsec: pause.subsec_nanos().into() };
        events.clear();
        match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&pause)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let data = event.data; // the structure is packed
            let client = &mut clients[data.u64() as usize];
            client.receive(&mut outcome)?;
            client.send(request, &mut outcome);
        }
    }
    let open = clients.iter().map(|client| client.due.len() + usize::from(client.asked.is_some()));
    outcome.late = open.sum::<usize>() as u64;
    Ok(outcome)
}

impl Client {
    fn send(&mut self, request: &[u8], outcome: &mut Outcome) {
        if self.asked.is_some() {
            return;
        }
        let Some(due) = self.due.pop_front() else { return };
        // Into an empty socket buffer a request fits whole.
        match self.stream.write(request) {
            Ok(count) if count == request.len() => self.asked = Some(due),
            _ => outcome.errors += 1,
        }
    }

    fn receive(&mut self, outcome: &mut Outcome) -> io::Result<()> {
        let mut room = [0; 64 * 1024];
        match self.stream.read(&mut room) {
            Ok(0) => return Err(io::Error::other("the proxy closed a connection")),
            Ok(count) => self.received.extend_from_slice(&room[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
        let Some(length) = answer(&self.received) else { return Ok(()) };
        if self.received.len() < length {
            return Ok(());
        }
        if !self.received.starts_with(b"HTTP/1.1 200") {
            outcome.errors += 1;
        }
        self.received.clear();
        if let Some(due) = self.asked.take() {
            outcome.latencies.push(due.elapsed().as_micros() as u64);
        }
        Ok(())
    }
}

/// Length of the answer at the front, once its head is there.
fn answer(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let length =
        text.split("content-length:").nth(1)?.lines().next()?.trim().parse::<usize>().ok()?;
    Some(head + length)
}
