//! Steering: a new connection goes to the socket of the shard on the CPU that takes it in.
//!
//! The kernel keeps the sockets that listen on one address (`SO_REUSEPORT`) in a group, in the
//! order in which they began to listen, and chooses one by a hash of the addresses. A classic BPF
//! program of the group (Linux 4.6) chooses in its place: it returns the index of a socket, and an
//! index past the end leaves the choice to the hash. The program here knows the CPU of each shard,
//! so the sockets of the group have to stand in the order of the shards. When one is closed the
//! last takes its index.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use libc::{c_int, c_void, sock_filter, sock_fprog, socklen_t};

/// Index that no socket has.
const PAST_THE_END: u32 = u32::MAX;

/// Steers connections of the group of a listening socket: the socket with index `n` gets those that
/// CPU `cpus[n]` takes in, and the kernel's hash spreads the others. Replaces an earlier program.
pub(crate) fn steer(socket: impl AsFd, cpus: &[usize]) -> io::Result<()> {
    let mut program = program(cpus);
    let len = program.len().try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: the option takes a `sock_fprog`; its `len` instructions live until the call returns,
    // by when the kernel has copied them.
    unsafe { set_option(socket, libc::SO_ATTACH_REUSEPORT_CBPF, &program) }
}

/// Leaves the choice of the socket to the kernel's hash again. Fails if nothing was steered.
pub(crate) fn stop_steering(socket: impl AsFd) -> io::Result<()> {
    // SAFETY: the option takes an int, and ignores its value.
    unsafe { set_option(socket, libc::SO_DETACH_REUSEPORT_BPF, &0) }
}

/// Sets an option of a socket (`SOL_SOCKET`).
///
/// # Safety
///
/// The option has to take a `Value`, and what that points to has to live until this returns.
unsafe fn set_option<Value>(socket: impl AsFd, option: c_int, value: &Value) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let pointer = std::ptr::from_ref(value).cast::<c_void>();
    let length = size_of::<Value>() as socklen_t;
    // SAFETY: the kernel reads `length` bytes of `value`, which outlives the call; the rest is the
    // caller's promise.
    match unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, pointer, length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes the program, which returns the position of the current CPU in `cpus`, or an index past the
/// end.
fn program(cpus: &[usize]) -> Vec<sock_filter> {
    let load = instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, CURRENT_CPU);
    let arms = cpus.iter().enumerate().flat_map(|(index, cpu)| {
        // Skips the return unless the program runs on this CPU.
        let is_it = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
        let is_it = sock_filter { jf: 1, ..instruction(is_it, *cpu as u32) };
        [is_it, instruction(libc::BPF_RET | libc::BPF_K, index as u32)]
    });
    let otherwise = instruction(libc::BPF_RET | libc::BPF_K, PAST_THE_END);
    std::iter::once(load).chain(arms).chain([otherwise]).collect()
}

/// Offset from which a program loads the number of the CPU that it runs on.
const CURRENT_CPU: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_CPU) as u32;

fn instruction(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as CPU `cpu` would; knows only the three instructions that are expected.
    fn run(program: &[sock_filter], cpu: u32) -> u32 {
        let (mut accumulator, mut at) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at];
            at += 1;
            match (code, k) {
                (0x20, 0xffff_f024) => accumulator = cpu,
                (0x15, _) => at += usize::from(if accumulator == k { jt } else { jf }),
                (0x06, _) => return k,
                other => panic!("instruction {other:x?}"),
            }
        }
    }

    #[test]
    fn program_returns_the_index_of_the_shard_on_its_cpu() {
        let program = program(&[6, 2, 4]);
        let indexes = [2, 4, 6].map(|cpu| run(&program, cpu));
        assert_eq!(indexes, [1, 2, 0]);
        for cpu in [0, 1, 3, 7, 256, u32::MAX] {
            assert_eq!(run(&program, cpu), PAST_THE_END, "{cpu}");
        }
    }

    #[test]
    fn program_for_the_most_shards_is_short_enough() {
        let cpus: Vec<usize> = (0..crate::limits::SHARDS_MAX).rev().collect();
        let program = program(&cpus);
        // BPF_MAXINSNS.
        assert!(program.len() <= 4096, "{}", program.len());
        assert_eq!(run(&program, 0), crate::limits::SHARDS_MAX as u32 - 1);
    }

    #[test]
    fn kernel_takes_the_program_and_gives_it_back() {
        use socket2::{Domain, Socket, Type};
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_reuse_port(true).expect("SO_REUSEPORT");
        let loopback = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&loopback.into()).expect("a free port");
        socket.listen(1).expect("it listens");
        let missing = stop_steering(&socket).expect_err("nothing is steered");
        assert_eq!(missing.raw_os_error(), Some(libc::ENOENT));
        steer(&socket, &[0, 1]).expect("steered");
        steer(&socket, &[1]).expect("steered in another way");
        stop_steering(&socket).expect("no longer");
        assert!(stop_steering(&socket).is_err());
    }
}
