//! Test of what the ring needs, made once at start, and the message for a kernel that lacks it.

use std::io;

use io_uring::{IoUring, Probe, opcode, squeue, types};

use crate::limits;

/// Tries to set up a ring as a shard would. The error says what is missing and what to do about it.
pub(crate) fn probe() -> Result<(), String> {
    let mut ring = build(limits::RING_ENTRIES).map_err(|error| explain(&error))?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|error| explain(&error))?;
    let needed = [
        (opcode::Accept::CODE, "accept"),
        (opcode::Connect::CODE, "connect"),
        (opcode::Recv::CODE, "recv"),
        (opcode::Send::CODE, "send"),
        (opcode::PollAdd::CODE, "poll"),
        (opcode::AsyncCancel::CODE, "cancel"),
        (opcode::Close::CODE, "close"),
    ];
    if let Some((_, name)) = needed.iter().find(|(code, _)| !probe.is_supported(*code)) {
        return Err(format!("io_uring lacks the operation {name:?}: Linux 6.1 or newer is needed"));
    }
    enter(&mut ring).map_err(|error| explain_enter(&error))
}

/// Has the kernel run an operation that does nothing: a seccomp filter may allow rings to be made
/// and forbid their use.
fn enter(ring: &mut IoUring) -> io::Result<()> {
    // SAFETY: an operation that does nothing refers to no memory.
    unsafe { run(ring, &opcode::Nop::new().build()) }.map(drop)
}

/// Runs one operation on a ring that has none under way; returns its result.
///
/// # Safety
///
/// Memory that the operation refers to has to live until this returns.
unsafe fn run(ring: &mut IoUring, entry: &squeue::Entry) -> io::Result<i32> {
    // SAFETY: the caller's promise; this returns when the operation has completed.
    let pushed = unsafe { ring.submission().push(entry) };
    pushed.map_err(io::Error::other)?;
    loop {
        match ring.submit_and_wait(1) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(_) => {
                let completion = ring.completion().next();
                return completion.map(|one| one.result()).ok_or(io::ErrorKind::NotFound.into());
            }
        }
    }
}

/// Whether a receive that goes on by itself can have a bound (Linux 6.17), and the ring a mark
/// (6.16). An older kernel refuses the bound (EINVAL) before it looks at the descriptor (EBADF).
/// Without a bound it takes up to 32 buffers in a row from a peer that has filled as many.
pub(super) fn bounds_flows(ring: &mut IoUring) -> io::Result<bool> {
    let entry = super::socket::multishot(types::Fd(-1), limits::FLOW_BYTES);
    // SAFETY: the kernel would choose the memory itself, and has none to choose from.
    let bounded = unsafe { run(ring, &entry) }?;
    // SAFETY: an operation that does nothing refers to no memory.
    let marked = unsafe { run(ring, &super::departure::mark()) }?;
    Ok(bounded != -libc::EINVAL && marked == 0)
}

/// Explains, with the remedy, why a ring that was made can't be used.
pub(super) fn explain_enter(error: &io::Error) -> String {
    format!(
        "io_uring_enter: {error}: a ring can be made here but not used: allow io_uring_setup, \
         io_uring_enter and io_uring_register in the seccomp profile (containers, \
         SystemCallFilter=)"
    )
}

pub(super) fn build(entries: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_clamp()
        .setup_cqsize(entries * limits::COMPLETIONS_PER_ENTRY)
        .build(entries)
}

/// One sentence of cause and remedy per errno of `io_uring_setup(2)`.
pub(super) fn explain(error: &io::Error) -> String {
    let advice = match error.raw_os_error() {
        Some(libc::EINVAL) => {
            "this kernel is too old: Linux 6.1 or newer is needed (IORING_SETUP_DEFER_TASKRUN)"
        }
        Some(libc::ENOSYS) => {
            "io_uring is not in this kernel, or a seccomp filter hides it: allow io_uring_setup, \
             io_uring_enter and io_uring_register (containers: a seccomp profile that has them)"
        }
        Some(libc::EPERM | libc::EACCES) => {
            "io_uring is forbidden here: set the sysctl kernel.io_uring_disabled to 0, or allow \
             io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile"
        }
        Some(libc::ENOMEM) => {
            "too little memory may be locked: raise it with `ulimit -l` or LimitMEMLOCK= in the unit"
        }
        Some(libc::EMFILE | libc::ENFILE) => {
            "no file descriptor is left: raise the limit with `ulimit -n` or LimitNOFILE="
        }
        _ => "io_uring can't be set up",
    };
    format!("io_uring: {error}: {advice}")
}
