//! The floor of the load tests: a relay of TCP connections that parses nothing, counts nothing,
//! knows one backend and has no time-outs. What it costs is what the kernel takes for moving the
//! bytes with the plain system calls (`epoll_wait`, `recv`, `send`, `splice`); a proxy that comes
//! close to it has nothing left to save but the calls themselves.
//!
//! `floor LISTEN BACKEND copy|splice`, one thread, until it is killed.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::ExitCode;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::pipe::{self, PipeFlags, SpliceFlags};

const BUFFER_BYTES: usize = 64 << 10;
const PIPE_BYTES: usize = 1 << 20;
const LISTENER: u64 = u64::MAX;

struct Direction {
    from: TcpStream,
    to: TcpStream,
    /// Read and not written yet.
    left: Vec<u8>,
    pipe: Option<(OwnedFd, OwnedFd)>,
    in_pipe: usize,
    ended: bool,
}

enum Moved {
    All,
    Ended,
}

impl Direction {
    fn new(from: &TcpStream, to: &TcpStream, splices: bool) -> io::Result<Direction> {
        let pipe = if splices {
            let (read, write) = pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
            pipe::fcntl_setpipe_size(&write, PIPE_BYTES)?;
            Some((read, write))
        } else {
            None
        };
        let (from, to) = (from.try_clone()?, to.try_clone()?);
        Ok(Direction { from, to, left: Vec::new(), pipe, in_pipe: 0, ended: false })
    }

    fn run(&mut self, buffer: &mut [u8]) -> io::Result<Moved> {
        let moved = if self.ended {
            return Ok(Moved::Ended);
        } else if self.pipe.is_some() {
            self.splice()
        } else {
            self.copy(buffer)
        };
        match moved {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Moved::All),
            Ok(Moved::Ended) => {
                self.ended = true;
                self.to.shutdown(Shutdown::Write)?;
                Ok(Moved::Ended)
            }
            moved => moved,
        }
    }

    fn copy(&mut self, buffer: &mut [u8]) -> io::Result<Moved> {
        loop {
            while !self.left.is_empty() {
                let written = self.to.write(&self.left)?;
                self.left.drain(..written);
            }
            let count = self.from.read(buffer)?;
            if count == 0 {
                return Ok(Moved::Ended);
            }
            let written = match self.to.write(&buffer[..count]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                written => written?,
            };
            self.left.extend_from_slice(&buffer[written..count]);
            // A short read has emptied the socket: the next edge tells of more.
            if count < buffer.len() && self.left.is_empty() {
                return Ok(Moved::All);
            }
        }
    }

    fn splice(&mut self) -> io::Result<Moved> {
        let Some((read, write)) = &self.pipe else { return Ok(Moved::All) };
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        loop {
            while 0 < self.in_pipe {
                self.in_pipe -= pipe::splice(read, None, &self.to, None, self.in_pipe, flags)?;
            }
            match pipe::splice(&self.from, None, write, None, PIPE_BYTES, flags)? {
                0 => return Ok(Moved::Ended),
                count => self.in_pipe += count,
            }
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, backend, how] = arguments.as_slice() else {
        eprintln!("usage: floor LISTEN BACKEND copy|splice");
        return ExitCode::from(2);
    };
    if let Err(error) = relay(listen, backend, how == "splice") {
        eprintln!("floor: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn relay(listen: &str, backend: &str, splices: bool) -> io::Result<()> {
    let listener = TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    let poll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&poll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut tunnels: Vec<Option<[Direction; 2]>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut events: Vec<Event> = Vec::with_capacity(256);
    loop {
        events.clear();
        match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let data = event.data; // the structure is packed
            if data.u64() == LISTENER {
                while let Ok((client, _)) = listener.accept() {
                    let tunnel = open(client, backend, splices)?;
                    let index = free.pop().unwrap_or(tunnels.len());
                    let flags =
                        EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
                    for direction in &tunnel {
                        epoll::add(
                            &poll,
                            &direction.from,
                            EventData::new_u64(index as u64),
                            flags,
                        )?;
                    }
                    if index == tunnels.len() {
                        tunnels.push(Some(tunnel));
                    } else {
                        tunnels[index] = Some(tunnel);
                    }
                }
                continue;
            }
            let index = data.u64() as usize;
            // It may have ended with another event of the same round.
            let Some(tunnel) = tunnels.get_mut(index).and_then(Option::as_mut) else { continue };
            let results = tunnel.each_mut().map(|direction| direction.run(&mut buffer));
            let is_over = results.iter().all(|result| matches!(result, Ok(Moved::Ended)))
                || results.iter().any(Result::is_err);
            if is_over {
                tunnels[index] = None;
                free.push(index);
            }
        }
    }
}

fn open(client: TcpStream, backend: &str, splices: bool) -> io::Result<[Direction; 2]> {
    let server = TcpStream::connect(backend)?;
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
    }
    Ok([Direction::new(&client, &server, splices)?, Direction::new(&server, &client, splices)?])
}
