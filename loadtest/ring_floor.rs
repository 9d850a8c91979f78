//! The second floor of the load tests: a relay that parses nothing, like `floor.rs`, on the shard's
//! own kind of ring (`DEFER_TASKRUN`, provided buffers, multishot receive, pipes of 1 MiB), without
//! an executor and without time-outs. The lower of the two floors is the price of moving the bytes.
//!
//! `ring_floor LISTEN BACKEND copy|splice`, one thread, until it is killed.
#![expect(unsafe_code, reason = "submissions to a ring: each block says who keeps its promise")]

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::io::Errno;
use rustix::pipe::{self, PipeFlags, SpliceFlags};

const ENTRIES: u32 = 2048;
const BUFFERS: u16 = 256;
const BUFFER_BYTES: usize = 16 << 10;
const PIPE_BYTES: usize = 1 << 20;
const LISTENER: u64 = u64::MAX;

/// An operation of one direction of a tunnel.
#[derive(Copy, Clone, PartialEq)]
#[repr(u64)]
enum Op {
    Receive = 0,
    Send = 1,
    PollIn = 2,
    PollOut = 3,
}

/// The provided buffers of the ring; they live as long as the process.
struct Buffers {
    entries: *mut BufRingEntry,
    memory: *mut u8,
    tail: u16,
}

impl Buffers {
    fn new(ring: &IoUring) -> io::Result<Buffers> {
        #[repr(align(4096))]
        #[derive(Clone)]
        struct Page(#[expect(dead_code, reason = "the kernel reads and writes it")] [u8; 4096]);
        let pages = |bytes: usize| -> *mut u8 {
            let pages = vec![Page([0; 4096]); bytes.div_ceil(4096)];
            Box::leak(pages.into_boxed_slice()).as_mut_ptr().cast()
        };
        let entries = pages(usize::from(BUFFERS) * size_of::<BufRingEntry>()).cast();
        let memory = pages(usize::from(BUFFERS) * BUFFER_BYTES);
        // SAFETY: the entries are page-aligned, zeroed and never freed.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(entries as u64, BUFFERS, 0, 0)?;
        }
        let mut buffers = Buffers { entries, memory, tail: 0 };
        (0..BUFFERS).for_each(|buffer| buffers.give(buffer));
        Ok(buffers)
    }

    fn address(&self, buffer: u16) -> *mut u8 {
        self.memory.wrapping_add(usize::from(buffer) * BUFFER_BYTES)
    }

    fn give(&mut self, buffer: u16) {
        let address = self.address(buffer) as u64;
        // SAFETY: the index is below BUFFERS; the kernel reads the entry once the tail has passed
        // it.
        let entry = unsafe { &mut *self.entries.add(usize::from(self.tail & (BUFFERS - 1))) };
        entry.set_addr(address);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail is part of the registered memory; the store publishes the entry.
        unsafe {
            let tail = BufRingEntry::tail(self.entries).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }
}

/// Received bytes on their way out.
struct Piece {
    buffer: u16,
    start: u32,
    end: u32,
}

/// One direction of a tunnel.
#[derive(Default)]
struct Direction {
    queue: VecDeque<Piece>,
    is_receiving: bool,
    is_sending: bool,
    has_ended: bool,
    pipe: Option<(OwnedFd, OwnedFd)>,
    in_pipe: usize,
}

/// Two sockets; direction `n` leads from socket `n` to the other.
struct Tunnel {
    sockets: [TcpStream; 2],
    directions: [Direction; 2],
    in_flight: u32,
    is_broken: bool,
}

struct Relay {
    ring: IoUring,
    buffers: Buffers,
    tunnels: Vec<Option<Tunnel>>,
    free: Vec<usize>,
    /// Directions that found no buffer.
    starved: Vec<(usize, usize)>,
    listener: TcpListener,
    backend: String,
    splices: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, backend, how] = arguments.as_slice() else {
        eprintln!("usage: ring_floor LISTEN BACKEND copy|splice");
        return ExitCode::from(2);
    };
    match Relay::new(listen, backend, how == "splice").and_then(Relay::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ring_floor: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Relay {
    fn new(listen: &str, backend: &str, splices: bool) -> io::Result<Relay> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_cqsize(4 * ENTRIES)
            .build(ENTRIES)?;
        let buffers = Buffers::new(&ring)?;
        let (tunnels, free, starved) = (Vec::new(), Vec::new(), Vec::new());
        let (listener, backend) = (TcpListener::bind(listen)?, backend.to_owned());
        Ok(Relay { ring, buffers, tunnels, free, starved, listener, backend, splices })
    }

    fn run(mut self) -> io::Result<()> {
        self.accept();
        let mut completions = Vec::new();
        loop {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            completions.extend(
                self.ring.completion().map(|one| (one.user_data(), one.result(), one.flags())),
            );
            for (data, result, flags) in completions.drain(..) {
                if data == LISTENER {
                    self.accepted(result, flags)?;
                } else {
                    self.completed(data, result, flags);
                }
            }
            for (index, way) in std::mem::take(&mut self.starved) {
                self.receive(index, way);
            }
        }
    }

    fn accept(&mut self) {
        let accept = opcode::AcceptMulti::new(Fd(self.listener.as_raw_fd())).build();
        self.push(accept.user_data(LISTENER));
    }

    fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: memory named in an entry is a provided buffer, never freed, that is given back to
        // the kernel only after the completion; descriptors stay open while anything is in flight.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            let _ = self.ring.submit();
        }
    }

    fn accepted(&mut self, result: i32, flags: u32) -> io::Result<()> {
        if 0 <= result {
            // SAFETY: the kernel has made this descriptor for us.
            let client = unsafe { TcpStream::from_raw_fd(result) };
            let tunnel = self.open(client)?;
            let index = self.free.pop().unwrap_or_else(|| {
                self.tunnels.push(None);
                self.tunnels.len() - 1
            });
            self.tunnels[index] = Some(tunnel);
            for way in 0..2 {
                if self.splices { self.pump(index, way) } else { self.receive(index, way) }
            }
        }
        if !cqueue::more(flags) {
            self.accept();
        }
        Ok(())
    }

    fn open(&self, client: TcpStream) -> io::Result<Tunnel> {
        let sockets = [client, TcpStream::connect(&self.backend)?];
        let mut directions = [Direction::default(), Direction::default()];
        for (socket, direction) in sockets.iter().zip(&mut directions) {
            socket.set_nodelay(true)?;
            if self.splices {
                socket.set_nonblocking(true)?;
                let (read, write) = pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
                pipe::fcntl_setpipe_size(&write, PIPE_BYTES)?;
                direction.pipe = Some((read, write));
            }
        }
        Ok(Tunnel { sockets, directions, in_flight: 0, is_broken: false })
    }

    /// Submits an operation of a direction and counts it.
    fn start(&mut self, index: usize, way: usize, op: Op, entry: squeue::Entry) {
        if let Some(tunnel) = &mut self.tunnels[index] {
            tunnel.in_flight += 1;
        }
        self.push(entry.user_data((index as u64) << 8 | (way as u64) << 4 | op as u64));
    }

    fn receive(&mut self, index: usize, way: usize) {
        let Some(tunnel) = &mut self.tunnels[index] else { return };
        if tunnel.is_broken || std::mem::replace(&mut tunnel.directions[way].is_receiving, true) {
            return;
        }
        let fd = Fd(tunnel.sockets[way].as_raw_fd());
        self.start(index, way, Op::Receive, opcode::RecvMulti::new(fd, 0).build());
    }

    /// Sends what is at the front of a direction's queue; behind the last piece its end.
    fn send(&mut self, index: usize, way: usize) {
        let Some(tunnel) = &mut self.tunnels[index] else { return };
        let direction = &mut tunnel.directions[way];
        if direction.is_sending {
            return;
        }
        let Some(piece) = direction.queue.front() else {
            if direction.has_ended {
                let _ = tunnel.sockets[1 - way].shutdown(Shutdown::Write);
            }
            return;
        };
        direction.is_sending = true;
        let from = self.buffers.address(piece.buffer).wrapping_add(piece.start as usize);
        let fd = Fd(tunnel.sockets[1 - way].as_raw_fd());
        let entry = opcode::Send::new(fd, from, piece.end - piece.start).build();
        self.start(index, way, Op::Send, entry);
    }

    fn completed(&mut self, data: u64, result: i32, flags: u32) {
        let (index, way) = ((data >> 8) as usize, (data >> 4 & 1) as usize);
        let Some(tunnel) = &mut self.tunnels[index] else { return };
        if !cqueue::more(flags) {
            tunnel.in_flight -= 1;
        }
        match data & 0xf {
            op if op == Op::Receive as u64 => self.received(index, way, result, flags),
            op if op == Op::Send as u64 => self.sent(index, way, result),
            _ => self.pump(index, way),
        }
        self.close_if_over(index);
    }

    fn received(&mut self, index: usize, way: usize, result: i32, flags: u32) {
        let Some(tunnel) = &mut self.tunnels[index] else { return };
        let direction = &mut tunnel.directions[way];
        if !cqueue::more(flags) {
            direction.is_receiving = false;
        }
        match (result, cqueue::buffer_select(flags)) {
            (1.., Some(buffer)) => {
                direction.queue.push_back(Piece { buffer, start: 0, end: result as u32 });
            }
            (0, _) => direction.has_ended = true,
            (errno, _) if errno == -libc::ENOBUFS => {}
            _ => tunnel.is_broken = true,
        }
        let is_starved = !direction.is_receiving && !direction.has_ended;
        if is_starved && !tunnel.is_broken {
            self.starved.push((index, way));
        }
        self.send(index, way);
    }

    fn sent(&mut self, index: usize, way: usize, result: i32) {
        let Some(tunnel) = &mut self.tunnels[index] else { return };
        let direction = &mut tunnel.directions[way];
        direction.is_sending = false;
        if result < 0 {
            tunnel.is_broken = true;
            return;
        }
        if let Some(piece) = direction.queue.front_mut() {
            piece.start += result as u32;
            if piece.start == piece.end {
                let buffer = piece.buffer;
                direction.queue.pop_front();
                self.buffers.give(buffer);
            }
        }
        self.send(index, way);
    }

    /// Splices until the source is empty or the target full.
    fn pump(&mut self, index: usize, way: usize) {
        let Some(tunnel) = &mut self.tunnels[index] else { return };
        let direction = &mut tunnel.directions[way];
        if direction.has_ended || tunnel.is_broken {
            return;
        }
        let (from, to) = (&tunnel.sockets[way], &tunnel.sockets[1 - way]);
        let Some((read, write)) = &direction.pipe else { return };
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let (op, fd, events) = loop {
            if 0 < direction.in_pipe {
                match pipe::splice(read, None, to, None, direction.in_pipe, flags) {
                    Ok(count) => direction.in_pipe -= count,
                    Err(Errno::AGAIN) => break (Op::PollOut, to.as_raw_fd(), libc::POLLOUT),
                    Err(_) => return tunnel.is_broken = true,
                }
                continue;
            }
            match pipe::splice(from, None, write, None, PIPE_BYTES, flags) {
                Ok(0) => {
                    direction.has_ended = true;
                    let _ = to.shutdown(Shutdown::Write);
                    return;
                }
                Ok(count) => direction.in_pipe += count,
                Err(Errno::AGAIN) => break (Op::PollIn, from.as_raw_fd(), libc::POLLIN),
                Err(_) => return tunnel.is_broken = true,
            }
        };
        self.start(index, way, op, opcode::PollAdd::new(Fd(fd), events as u32).build());
    }

    /// Closes a tunnel whose directions have ended, or one that broke, once nothing is in flight.
    fn close_if_over(&mut self, index: usize) {
        let Some(tunnel) = &mut self.tunnels[index] else { return };
        let is_done = |direction: &Direction| direction.has_ended && direction.queue.is_empty();
        if !tunnel.is_broken && !tunnel.directions.iter().all(is_done) {
            return;
        }
        for socket in &tunnel.sockets {
            let _ = socket.shutdown(Shutdown::Both);
        }
        if tunnel.in_flight == 0 {
            for piece in tunnel.directions.iter_mut().flat_map(|way| way.queue.drain(..)) {
                self.buffers.give(piece.buffer);
            }
            self.tunnels[index] = None;
            self.free.push(index);
        }
    }
}
