//! The closed-loop load of the load tests for what wrk cannot do: small messages back and forth
//! over WebSockets, and long uploads, whose bytes are counted as they go and not only once an
//! answer comes.
//!
//! `talk websocket|upload ADDRESS HOST PATH CONNECTIONS SECONDS FILE`, a thread for each
//! connection; FILE is the body of an upload, sent with `sendfile`. Prints the line `SUMMARY {…}`
//! that load/wrk.lua prints for wrk.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::sendfile;
use tungstenite::Message;

const MESSAGE: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// What one connection did.
#[derive(Default)]
struct Talk {
    latencies: Vec<u64>,
    bytes: u64,
    connect_errors: u64,
    errors: u64,
    wrong_answers: u64,
}

#[derive(Clone)]
struct Target {
    is_upload: bool,
    address: String,
    host: String,
    path: String,
    file: String,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, address, host, path, connections, seconds, file] = arguments.as_slice() else {
        eprintln!("usage: talk websocket|upload ADDRESS HOST PATH CONNECTIONS SECONDS FILE");
        return ExitCode::from(2);
    };
    let (Ok(connections), Ok(seconds)) = (connections.parse::<u64>(), seconds.parse()) else {
        eprintln!("talk: CONNECTIONS and SECONDS are numbers");
        return ExitCode::from(2);
    };
    let [address, host, path, file] = [address, host, path, file].map(String::clone);
    let target = Target { is_upload: what == "upload", address, host, path, file };
    let (start, time) = (Instant::now(), Duration::from_secs(seconds));
    let talks = (0..connections).map(|_| {
        let target = target.clone();
        thread::spawn(move || {
            let mut talk = Talk::default();
            match TcpStream::connect(&target.address) {
                Ok(stream) => {
                    let done = talk.run(&target, stream, start + time);
                    talk.errors += u64::from(done.is_err());
                }
                Err(_) => talk.connect_errors += 1,
            }
            talk
        })
    });
    let talks: Vec<_> = talks.collect();
    let talks: Vec<Talk> = talks.into_iter().map(|one| one.join().unwrap_or_default()).collect();
    report(&talks, start.elapsed());
    ExitCode::SUCCESS
}

impl Talk {
    fn run(&mut self, target: &Target, stream: TcpStream, end: Instant) -> io::Result<()> {
        stream.set_nodelay(true)?;
        match target.is_upload {
            true => self.upload(target, stream, end),
            false => self.echo(target, stream, end),
        }
    }

    fn echo(&mut self, target: &Target, stream: TcpStream, end: Instant) -> io::Result<()> {
        let address = format!("ws://{}{}", target.host, target.path);
        let (mut socket, _) = tungstenite::client(address, stream)
            .map_err(|error| io::Error::other(error.to_string()))?;
        while Instant::now() < end {
            let sent = Instant::now();
            socket.send(Message::text(MESSAGE)).map_err(io::Error::other)?;
            let answer = socket.read().map_err(io::Error::other)?;
            let is_right = matches!(&answer, Message::Text(text) if text.as_str() == MESSAGE);
            self.wrong_answers += u64::from(!is_right);
            self.bytes += answer.len() as u64;
            self.latencies.push(sent.elapsed().as_micros() as u64);
        }
        Ok(())
    }

    /// The last upload is finished, however late: one that is broken off would be the proxy's
    /// trouble.
    fn upload(&mut self, target: &Target, mut stream: TcpStream, end: Instant) -> io::Result<()> {
        let file = File::open(&target.file)?;
        let length = file.metadata()?.len();
        let (path, host) = (&target.path, &target.host);
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n");
        while Instant::now() < end {
            let sent = Instant::now();
            stream.write_all(head.as_bytes())?;
            let mut at = 0;
            while at < length {
                let left = (length - at) as usize;
                let count = sendfile(&stream, &file, Some(&mut at), left)?;
                self.bytes += count as u64;
            }
            let mut answer = Vec::new();
            let mut room = [0; 4096];
            while !answer.ends_with(b"Hello, world!\n") {
                match stream.read(&mut room)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    count => answer.extend_from_slice(&room[..count]),
                }
            }
            self.wrong_answers += u64::from(!answer.starts_with(b"HTTP/1.1 200"));
            self.latencies.push(sent.elapsed().as_micros() as u64);
        }
        Ok(())
    }
}

fn report(talks: &[Talk], time: Duration) {
    let sum = |figure: fn(&Talk) -> u64| talks.iter().map(figure).sum::<u64>();
    let mut latencies: Vec<u64> = talks.iter().flat_map(|talk| talk.latencies.clone()).collect();
    latencies.sort_unstable();
    let at = |percent: usize| {
        let last = latencies.len().saturating_sub(1);
        latencies.get((latencies.len() * percent / 100).min(last)).copied().unwrap_or(0)
    };
    println!(
        "SUMMARY {{\"requests\": {}, \"bytes\": {}, \"load_us\": {}, \"p50_us\": {}, \"p99_us\": {}, \
         \"connect\": {}, \"read\": {}, \"write\": 0, \"timeout\": 0, \"status\": {}}}",
        latencies.len(),
        sum(|talk| talk.bytes),
        time.as_micros(),
        at(50),
        at(99),
        sum(|talk| talk.connect_errors),
        sum(|talk| talk.errors),
        sum(|talk| talk.wrong_answers),
    );
}
