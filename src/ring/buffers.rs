//! Buffers that the kernel fills when data arrives, so that an idle connection owns none.
//!
//! A group is a provided-buffer ring (Linux 5.19): the kernel takes a buffer when it has bytes to
//! put in, and names it in the completion. From then until [`RecvBuf`] is dropped the buffer is
//! ours alone. When a group is empty the receive is repeated into memory of its own (see
//! `socket/receive.rs`): slow readers cannot starve the others.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

use super::Ring;

const PAGE: usize = 4096;

/// The groups of a ring, by their numbers.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Group {
    /// Small buffers: heads and what comes with them.
    Heads = 0,
    /// Large ones: bodies that are known to go on.
    Bulk = 1,
}

/// One provided-buffer ring and the memory of its buffers.
pub(super) struct BufferGroup {
    entries: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    count: u16,
    buffer_bytes: u32,
    tail: u16,
}

impl BufferGroup {
    /// `count` must be a power of two. Pages are touched only when the kernel fills them.
    pub(super) fn new(ring: &IoUring, id: u16, count: u16, bytes: u32) -> io::Result<BufferGroup> {
        debug_assert!(count.is_power_of_two());
        let mut group = BufferGroup {
            entries: allocate(Self::entries_layout(count)).cast(),
            memory: allocate(Self::memory_layout(count, bytes)),
            count,
            buffer_bytes: bytes,
            tail: 0,
        };
        // SAFETY: `entries` is page-aligned, zeroed and holds `count` entries; it is freed in Drop,
        // which runs after the ring (declared before the groups in `Inner`) is closed.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                group.entries.as_ptr() as u64,
                count,
                id,
                0,
            )?;
        }
        for buffer in 0..count {
            group.give(buffer);
        }
        Ok(group)
    }

    fn entries_layout(count: u16) -> Layout {
        Layout::from_size_align(usize::from(count) * size_of::<BufRingEntry>(), PAGE)
            .expect("a few pages")
    }

    fn memory_layout(count: u16, bytes: u32) -> Layout {
        Layout::from_size_align(usize::from(count) * bytes as usize, PAGE).expect("a few MiB")
    }

    fn address(&self, buffer: u16) -> *mut u8 {
        debug_assert!(buffer < self.count);
        // SAFETY: `buffer < count`, so the offset is inside the allocation.
        unsafe { self.memory.as_ptr().add(usize::from(buffer) * self.buffer_bytes as usize) }
    }

    /// Hands `buffer` to the kernel.
    pub(super) fn give(&mut self, buffer: u16) {
        let index = self.tail & (self.count - 1);
        let address = self.address(buffer) as u64;
        // SAFETY: index < count; the kernel reads an entry only after the tail below passes it, and
        // there are exactly `count` buffers, so this entry is not one it still has to read.
        let entry = unsafe { &mut *self.entries.as_ptr().add(usize::from(index)) };
        entry.set_addr(address);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies in the reserved field of the first entry, by the kernel's
        // definition of the structure; release ordering publishes the entry before the tail.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }

    /// Writes `bytes` into a buffer that is lent to the caller alone, from `start` on.
    fn write(&self, buffer: u16, start: u32, bytes: &[u8]) {
        assert!(start as usize + bytes.len() <= self.buffer_bytes as usize);
        // SAFETY: within the buffer, as asserted. The kernel has lent the buffer, and its only
        // holder calls this with `&mut`: nothing reads it meanwhile, and `bytes` lie elsewhere.
        unsafe {
            let first = self.address(buffer).add(start as usize);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), first, bytes.len());
        }
    }

    pub(super) fn bytes(&self, lent: &Lent) -> *const [u8] {
        assert!(lent.start <= lent.end && lent.end <= self.buffer_bytes);
        // SAFETY: within the buffer, as asserted.
        let first = unsafe { self.address(lent.buffer).add(lent.start as usize) };
        std::ptr::slice_from_raw_parts(first, (lent.end - lent.start) as usize)
    }
}

impl Drop for BufferGroup {
    fn drop(&mut self) {
        // SAFETY: allocated with the same layouts; the ring is closed already (field order of
        // `Inner`) and no RecvBuf is left, for each holds the Ring.
        unsafe {
            dealloc(self.entries.as_ptr().cast(), Self::entries_layout(self.count));
            dealloc(self.memory.as_ptr(), Self::memory_layout(self.count, self.buffer_bytes));
        }
    }
}

fn allocate(layout: Layout) -> NonNull<u8> {
    // SAFETY: the layouts above have non-zero size.
    let memory = unsafe { alloc_zeroed(layout) };
    NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout))
}

/// A buffer that the kernel has handed to us. The holder of this has to give it back.
#[derive(Copy, Clone)]
pub(super) struct Lent {
    pub(super) group: Group,
    pub(super) buffer: u16,
    pub(super) start: u32,
    pub(super) end: u32,
}

/// Bytes received. Gives its buffer back to the kernel when dropped.
pub(crate) struct RecvBuf(Memory);

enum Memory {
    Ring { ring: Rc<Ring>, lent: Lent },
    Own { bytes: Vec<u8>, start: usize },
}

impl RecvBuf {
    pub(super) fn lent(ring: Rc<Ring>, lent: Lent) -> RecvBuf {
        RecvBuf(Memory::Ring { ring, lent })
    }

    pub(super) fn own(bytes: Vec<u8>) -> RecvBuf {
        RecvBuf(Memory::Own { bytes, start: 0 })
    }

    /// No bytes: the result of a receive at the end of the stream.
    pub(crate) fn empty() -> RecvBuf {
        RecvBuf::own(Vec::new())
    }

    /// Drops the first `n` bytes.
    pub(crate) fn consume(&mut self, n: usize) {
        assert!(n <= self.len());
        match &mut self.0 {
            Memory::Ring { lent, .. } => lent.start += n as u32,
            Memory::Own { start, .. } => *start += n,
        }
    }

    /// Writes `head` in front of the bytes that are left, into the room of bytes that were
    /// consumed. Returns false, and writes nothing, if fewer bytes were consumed than `head` needs.
    pub(crate) fn put_in_front(&mut self, head: &[u8]) -> bool {
        match &mut self.0 {
            Memory::Ring { ring, lent } => {
                let Some(start) = (lent.start as usize).checked_sub(head.len()) else {
                    return false;
                };
                lent.start = start as u32;
                ring.inner.borrow().groups[lent.group as usize].write(
                    lent.buffer,
                    lent.start,
                    head,
                );
            }
            Memory::Own { bytes, start } => {
                let Some(first) = start.checked_sub(head.len()) else { return false };
                bytes[first..*start].copy_from_slice(head);
                *start = first;
            }
        }
        true
    }

    /// Takes the buffer apart, for a holder inside the ring that will give it back itself.
    pub(super) fn into_parts(mut self) -> Result<Lent, Vec<u8>> {
        match std::mem::replace(&mut self.0, Memory::Own { bytes: Vec::new(), start: 0 }) {
            Memory::Ring { lent, .. } => Ok(lent),
            Memory::Own { mut bytes, start } => {
                bytes.drain(..start);
                Err(bytes)
            }
        }
    }
}

impl Deref for RecvBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Memory::Ring { ring, lent } => {
                let bytes = ring.inner.borrow().groups[lent.group as usize].bytes(lent);
                // SAFETY: the kernel gave this buffer to us with the completion and gets it back
                // only in Drop; nothing else refers to it, and its memory lives as long as the ring
                // we hold.
                unsafe { &*bytes }
            }
            Memory::Own { bytes, start } => &bytes[*start..],
        }
    }
}

impl Drop for RecvBuf {
    fn drop(&mut self) {
        if let Memory::Ring { ring, lent } = &self.0 {
            ring.inner.borrow_mut().groups[lent.group as usize].give(lent.buffer);
        }
    }
}

impl From<Vec<u8>> for RecvBuf {
    fn from(bytes: Vec<u8>) -> RecvBuf {
        RecvBuf::own(bytes)
    }
}
