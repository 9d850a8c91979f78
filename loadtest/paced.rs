//! The open-loop load of the load tests: so many requests a second, whether the proxy keeps up or
//! not. Each is timed from when it was *due*: one that could not be sent because the one before had
//! no answer yet has waited, and that counts (what is left out otherwise is called coordinated
//! omission).
//!
//! `paced ADDRESS HOSTS PATH CONNECTIONS RATE SECONDS`; HOSTS is a name, or `@FILE` with one a
//! line. Prints one line of JSON. A connection that ends between requests is opened again
//! (`reconnects`); one that ends before the answer is an error. `lag_p99_us` is how late the
//! generator itself was: from when a request was due to when it was sent, of those whose connection
//! was free. One thread, plain epoll.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::thread::set_current_timer_slack;

const ROOM_BYTES: usize = 64 << 10;
const GRACE: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(100);
/// Hosts are asked for in an order of their own, each as often as the others: a prime apart.
const STRIDE: u64 = 7919;

struct Client {
    stream: Option<TcpStream>,
    /// When the request under way was due.
    asked: Option<Instant>,
    /// Due and not sent yet, the oldest first: number and time.
    due: VecDeque<(u64, Instant)>,
    received: Vec<u8>,
}

#[derive(Default)]
struct Outcome {
    latencies: Vec<u64>,
    lags: Vec<u64>,
    /// Connections that could not be opened, ended before the answer, answers other than 200.
    refused: u64,
    broken: u64,
    wrong: u64,
    reconnects: u64,
    unanswered: u64,
}

struct Load {
    address: SocketAddr,
    requests: Vec<String>,
    poll: OwnedFd,
    clients: Vec<Client>,
    room: Vec<u8>,
    outcome: Outcome,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, hosts, path, connections, rate, seconds] = arguments.as_slice() else {
        eprintln!("usage: paced ADDRESS HOSTS PATH CONNECTIONS RATE SECONDS");
        return ExitCode::from(2);
    };
    let numbers = [connections, rate, seconds].map(|text| text.parse::<u64>().ok());
    let [Some(connections @ 1..), Some(rate @ 1..), Some(seconds @ 1..)] = numbers else {
        eprintln!("paced: CONNECTIONS, RATE and SECONDS are numbers from 1 on");
        return ExitCode::from(2);
    };
    let outcome = requests(hosts, path).and_then(|requests| {
        // By default the kernel may wake a sleeper 50 µs late.
        set_current_timer_slack(NonZeroU64::new(1))?;
        let mut load = Load::new(address, requests, connections as usize)?;
        load.run(rate, Duration::from_secs(seconds))?;
        Ok(load.outcome)
    });
    match outcome {
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

fn requests(hosts: &str, path: &str) -> io::Result<Vec<String>> {
    let text = match hosts.strip_prefix('@') {
        Some(file) => std::fs::read_to_string(file)?,
        None => hosts.to_owned(),
    };
    Ok(text.lines().map(|host| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).collect())
}

fn report(mut outcome: Outcome) {
    outcome.latencies.sort_unstable();
    outcome.lags.sort_unstable();
    let at = |sorted: &[u64], share: f64| {
        let index = (sorted.len() as f64 * share) as usize;
        sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
    };
    let mut line = format!("{{\"requests\": {}", outcome.latencies.len());
    for (name, count) in [
        ("refused", outcome.refused),
        ("broken", outcome.broken),
        ("wrong", outcome.wrong),
        ("reconnects", outcome.reconnects),
        ("unanswered", outcome.unanswered),
        ("p50_us", at(&outcome.latencies, 0.5)),
        ("p90_us", at(&outcome.latencies, 0.9)),
        ("p99_us", at(&outcome.latencies, 0.99)),
        ("p999_us", at(&outcome.latencies, 0.999)),
        ("max_us", at(&outcome.latencies, 1.0)),
        ("lag_p99_us", at(&outcome.lags, 0.99)),
    ] {
        line.push_str(&format!(", \"{name}\": {count}"));
    }
    println!("{line}}}");
}

impl Load {
    fn new(address: &str, requests: Vec<String>, connections: usize) -> io::Result<Load> {
        let address = address.parse().map_err(io::Error::other)?;
        let poll = epoll::create(CreateFlags::CLOEXEC)?;
        let (room, outcome) = (vec![0; ROOM_BYTES], Outcome::default());
        let mut load = Load { address, requests, poll, clients: Vec::new(), room, outcome };
        for index in 0..connections {
            let (asked, due, received) = Default::default();
            load.clients.push(Client { stream: None, asked, due, received });
            load.connect(index)?;
        }
        Ok(load)
    }

    fn connect(&mut self, index: usize) -> io::Result<()> {
        let stream = TcpStream::connect_timeout(&self.address, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        epoll::add(&self.poll, &stream, EventData::new_u64(index as u64), EventFlags::IN)?;
        self.clients[index].stream = Some(stream);
        Ok(())
    }

    fn run(&mut self, rate: u64, time: Duration) -> io::Result<()> {
        let mut events: Vec<Event> = Vec::with_capacity(256);
        let start = Instant::now();
        let due_at = |number: u64| start + Duration::from_nanos(number * 1_000_000_000 / rate);
        let (mut number, end) = (0, start + time);
        // What is due at the end still has time to be answered.
        while Instant::now() < end + GRACE {
            let now = Instant::now();
            while due_at(number) <= now && due_at(number) < end {
                let index = (number % self.clients.len() as u64) as usize;
                let is_free = self.clients[index].is_idle();
                self.clients[index].due.push_back((number, due_at(number)));
                self.send(index);
                if is_free {
                    self.outcome.lags.push(due_at(number).elapsed().as_micros() as u64);
                }
                number += 1;
            }
            let is_over = due_at(number) >= end;
            if is_over && self.clients.iter().all(Client::is_idle) {
                break;
            }
            let pause = match is_over {
                true => Duration::from_millis(10),
                false => due_at(number).saturating_duration_since(Instant::now()),
            };
            let pause =
                Timespec { tv_sec: pause.as_secs() as i64, tv_nsec: pause.subsec_nanos().into() };
            events.clear();
            let spare = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.poll, spare, Some(&pause)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                let data = event.data; // the structure is packed
                self.receive(data.u64() as usize);
                self.send(data.u64() as usize);
            }
        }
        let open = self.clients.iter().map(|one| one.due.len() + usize::from(one.asked.is_some()));
        self.outcome.unanswered = open.sum::<usize>() as u64;
        Ok(())
    }

    /// Sends what is due next, if nothing is under way; what cannot be sent is an error.
    fn send(&mut self, index: usize) {
        while self.clients[index].asked.is_none() {
            let Some((number, due)) = self.clients[index].due.pop_front() else { return };
            if self.clients[index].stream.is_none() && self.connect(index).is_err() {
                self.outcome.refused += 1;
                continue;
            }
            let turn = number.wrapping_mul(STRIDE) % self.requests.len() as u64;
            let request = self.requests[turn as usize].as_bytes();
            let client = &mut self.clients[index];
            // Into an empty socket buffer a request fits whole.
            match client.stream.as_mut().map(|stream| stream.write(request)) {
                Some(Ok(count)) if count == request.len() => client.asked = Some(due),
                _ => {
                    self.outcome.broken += 1;
                    client.stream = None;
                }
            }
        }
    }

    fn receive(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let Some(stream) = &mut client.stream else { return };
        let count = match stream.read(&mut self.room) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            read => read.unwrap_or(0),
        };
        client.received.extend_from_slice(&self.room[..count]);
        if count == 0 {
            self.outcome.broken += u64::from(client.asked.take().is_some());
            return self.close(index);
        }
        let Some(answer) = Answer::read(&client.received) else { return };
        if client.received.len() < answer.length {
            return;
        }
        self.outcome.wrong += u64::from(!answer.is_right);
        client.received.clear();
        if let Some(due) = client.asked.take() {
            self.outcome.latencies.push(due.elapsed().as_micros() as u64);
        }
        if answer.is_last {
            self.close(index);
        }
    }

    /// The proxy wants no more of this connection: the next request opens another.
    fn close(&mut self, index: usize) {
        self.clients[index].stream = None;
        self.clients[index].received.clear();
        self.outcome.reconnects += 1;
    }
}

impl Client {
    fn is_idle(&self) -> bool {
        self.asked.is_none() && self.due.is_empty()
    }
}

struct Answer {
    length: usize,
    is_right: bool,
    is_last: bool,
}

impl Answer {
    /// The answer at the front, once its head is there.
    fn read(bytes: &[u8]) -> Option<Answer> {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Response::new(&mut fields);
        let Ok(httparse::Status::Complete(head_bytes)) = head.parse(bytes) else { return None };
        let value = |name: &str| {
            let mut fields = head.headers.iter();
            fields.find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
        };
        let length: usize = std::str::from_utf8(value("content-length")?).ok()?.parse().ok()?;
        let is_last = value("connection").is_some_and(|value| value.eq_ignore_ascii_case(b"close"));
        Some(Answer { length: head_bytes + length, is_right: head.code == Some(200), is_last })
    }
}
