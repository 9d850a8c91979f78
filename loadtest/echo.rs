//! The backend of the load tests for what nginx cannot do: it echoes WebSocket messages, and reads
//! a body of any length to its end without a file before it answers. Everything else is answered as
//! the other backend does.
//!
//! `echo LISTEN`, a thread for each connection, until it is killed. A body is discarded in the
//! kernel (`MSG_TRUNC`), so that what it costs is little beside the proxy.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;

use rustix::net::{RecvFlags, recv};

const DISCARD_BYTES: usize = 1 << 20;

fn main() -> ExitCode {
    let Some(address) = std::env::args().nth(1) else {
        eprintln!("usage: echo LISTEN");
        return ExitCode::from(2);
    };
    match listen(&address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn listen(address: &str) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    loop {
        let (stream, _) = listener.accept()?;
        // A client that leaves in the middle is the load generator's to count.
        thread::spawn(move || serve(stream));
    }
}

fn serve(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut scrap = vec![0; DISCARD_BYTES];
    loop {
        // Nobody pipelines here: between two requests the reader's buffer is empty, and the kernel
        // has the next.
        let mut front = [0; 10];
        let count = stream.peek(&mut front)?;
        if front[..count].starts_with(b"GET /echo") {
            return echo(stream);
        }
        let Some(length) = read_head(&mut reader)? else { return Ok(()) };
        let buffered = length.min(reader.buffer().len());
        reader.consume(buffered);
        discard(&stream, &mut scrap, length - buffered)?;
        (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\nHello, world!\n")?;
    }
}

/// Length of the body that follows; nothing when the connection has ended.
fn read_head(reader: &mut impl BufRead) -> io::Result<Option<usize>> {
    let (mut length, mut line) = (0, String::new());
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if line == "\r\n" {
            return Ok(Some(length));
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
}

fn discard(stream: &TcpStream, scrap: &mut [u8], mut left: usize) -> io::Result<()> {
    while left > 0 {
        let most = left.min(scrap.len());
        let (_, count) = recv(stream, &mut scrap[..most], RecvFlags::TRUNC)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= count;
    }
    Ok(())
}

fn echo(stream: TcpStream) -> io::Result<()> {
    let mut socket =
        tungstenite::accept(stream).map_err(|error| io::Error::other(error.to_string()))?;
    loop {
        let message = socket.read().map_err(io::Error::other)?;
        if message.is_text() || message.is_binary() {
            socket.send(message).map_err(io::Error::other)?;
        }
    }
}
