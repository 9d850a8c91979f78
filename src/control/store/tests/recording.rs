//! A disk in memory: it records every operation, lets chosen ones fail, and knows what may be left
//! on it when the power fails at any moment.
//!
//! A power failure leaves all of a file up to its last successful sync. It leaves nothing, all, or
//! any pages of what was written later, with zeros between the pages, and any of the changes of
//! names since the last sync of the folder. Data that a failed sync was to write may be gone for
//! good, though memory still shows it.

use std::collections::HashMap;
use std::io::{self, Cursor, Read, Write};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::disk::{Disk, Output, Part, Trace};
use super::super::lock::LockError;

/// Bytes of a page: so few that a line has several pages.
const PAGE_BYTES: usize = 32;

/// Operation on the disk; the file by the name it was opened under.
#[derive(Copy, Clone, PartialEq, Debug)]
pub(super) enum Step {
    Lock,
    Read(Part),
    Create(Part),
    Append(Part),
    Rename(Part),
    Remove(Part),
    SyncFolder,
    Write(Part),
    Truncate(Part),
    Sync(Part),
}

/// Entry of the recording.
#[derive(Clone, Debug)]
pub(super) enum Op<N> {
    Create {
        part: Part,
        inode: usize,
    },
    Rename {
        from: Part,
        to: Part,
        inode: usize,
    },
    Remove {
        part: Part,
        inode: usize,
    },
    SyncFolder,
    Write {
        inode: usize,
        bytes: Vec<u8>,
    },
    Truncate {
        inode: usize,
        bytes: usize,
    },
    WriteAgain {
        inode: usize,
        offset: usize,
    },
    Sync {
        inode: usize,
        is_done: bool,
    },
    /// Note of the test at this moment.
    Note(N),
}

/// How an operation goes wrong.
#[derive(Copy, Clone, Debug)]
pub(super) enum Fault {
    /// The operation fails with this error number.
    Fails(i32),
    /// A write of no more than this many bytes.
    Short(usize),
}

type Decide = Box<dyn FnMut(Step) -> Option<Fault> + Send>;
type Between = Box<dyn FnMut() + Send>;

struct Inner<N> {
    ops: Vec<Op<N>>,
    names: HashMap<Part, usize>,
    files: Vec<Vec<u8>>,
    decide: Decide,
    between: Option<Between>,
}

/// The disk; clones are the same disk.
pub(super) struct Recording<N>(Arc<Mutex<Inner<N>>>);

impl<N> Clone for Recording<N> {
    fn clone(&self) -> Self {
        Recording(self.0.clone())
    }
}

impl<N> Default for Recording<N> {
    fn default() -> Self {
        Recording::with(Vec::new(), HashMap::new(), Vec::new())
    }
}

impl<N> Recording<N> {
    fn with(ops: Vec<Op<N>>, names: HashMap<Part, usize>, files: Vec<Vec<u8>>) -> Recording<N> {
        let decide = Box::new(|_| None);
        Recording(Arc::new(Mutex::new(Inner { ops, names, files, decide, between: None })))
    }

    /// Files that are on disk.
    fn holding(files: Vec<(Part, Vec<u8>)>) -> Recording<N> {
        let mut ops = Vec::new();
        for (inode, (part, bytes)) in files.iter().enumerate() {
            ops.push(Op::Create { part: *part, inode });
            ops.push(Op::Write { inode, bytes: bytes.clone() });
            ops.push(Op::Sync { inode, is_done: true });
        }
        ops.push(Op::SyncFolder);
        let names = files.iter().enumerate().map(|(inode, (part, _))| (*part, inode)).collect();
        Recording::with(ops, names, files.into_iter().map(|(_, bytes)| bytes).collect())
    }

    fn inner<T>(&self, act: impl FnOnce(&mut Inner<N>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has `decide` say, from now on, what goes wrong.
    pub(super) fn decide(&self, decide: impl FnMut(Step) -> Option<Fault> + Send + 'static) {
        self.inner(|inner| inner.decide = Box::new(decide));
    }

    /// Lets the next operation of this kind fail, and the later ones succeed.
    pub(super) fn fail_once(&self, step: Step, error: i32) {
        let mut is_over = false;
        self.decide(move |asked| {
            let is_it = !is_over && asked == step;
            is_over |= is_it;
            is_it.then_some(Fault::Fails(error))
        });
    }

    /// Has `between` run before each operation from now on (`None`: nothing). It does not run
    /// before operations that it makes itself.
    pub(super) fn between(&self, between: Option<Between>) {
        self.inner(|inner| inner.between = between);
    }

    pub(super) fn note(&self, note: N) {
        self.inner(|inner| inner.ops.push(Op::Note(note)));
    }

    pub(super) fn content(&self, part: Part) -> Option<Vec<u8>> {
        self.inner(|inner| inner.names.get(&part).map(|inode| inner.files[*inode].clone()))
    }

    fn step(&self, step: Step) -> io::Result<Option<usize>> {
        if let Some(mut between) = self.inner(|inner| inner.between.take()) {
            between();
            self.between(Some(between));
        }
        match self.inner(|inner| (inner.decide)(step)) {
            None => Ok(None),
            Some(Fault::Short(bytes)) => Ok(Some(bytes)),
            Some(Fault::Fails(error)) => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

impl<N: Clone> Recording<N> {
    pub(super) fn ops(&self) -> Vec<Op<N>> {
        self.inner(|inner| inner.ops.clone())
    }
}

impl<N: Send + 'static> Disk for Recording<N> {
    fn path(&self, part: Part) -> PathBuf {
        format!("disk/{part:?}").into()
    }

    fn unlock(&self) {}

    fn lock(&self) -> Result<(), LockError> {
        self.step(Step::Lock)?;
        Ok(())
    }

    fn read(&self, part: Part) -> io::Result<Option<Box<dyn Read>>> {
        self.step(Step::Read(part))?;
        Ok(self.content(part).map(|bytes| Box::new(Cursor::new(bytes)) as Box<dyn Read>))
    }

    fn bytes(&self, part: Part) -> io::Result<Option<u64>> {
        Ok(self.content(part).map(|bytes| bytes.len() as u64))
    }

    fn create(&self, part: Part) -> io::Result<Box<dyn Output>> {
        self.remove(part)?;
        self.step(Step::Create(part))?;
        let inode = self.inner(|inner| {
            let inode = inner.files.len();
            inner.files.push(Vec::new());
            inner.names.insert(part, inode);
            inner.ops.push(Op::Create { part, inode });
            inode
        });
        Ok(Box::new(Opened { disk: self.clone(), part, inode }))
    }

    fn append(&self, part: Part) -> io::Result<Box<dyn Output>> {
        self.step(Step::Append(part))?;
        match self.inner(|inner| inner.names.get(&part).copied()) {
            Some(inode) => Ok(Box::new(Opened { disk: self.clone(), part, inode })),
            None => self.create(part),
        }
    }

    fn rename(&self, from: Part, to: Part) -> io::Result<()> {
        self.step(Step::Rename(from))?;
        self.inner(|inner| {
            let inode = inner.names.remove(&from).ok_or(io::ErrorKind::NotFound)?;
            inner.names.insert(to, inode);
            inner.ops.push(Op::Rename { from, to, inode });
            Ok(())
        })
    }

    fn remove(&self, part: Part) -> io::Result<()> {
        self.step(Step::Remove(part))?;
        self.inner(|inner| {
            if let Some(inode) = inner.names.remove(&part) {
                inner.ops.push(Op::Remove { part, inode });
            }
        });
        Ok(())
    }

    // No other process writes to this disk.
    fn trace(&self, _: Part) -> io::Result<Option<Trace>> {
        Ok(None)
    }

    fn keep_aside(&self, _: Part) -> io::Result<PathBuf> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync_folder(&self) -> io::Result<()> {
        // A sync that fails leaves things as uncertain as they were.
        self.step(Step::SyncFolder)?;
        self.inner(|inner| inner.ops.push(Op::SyncFolder));
        Ok(())
    }
}

struct Opened<N> {
    disk: Recording<N>,
    part: Part,
    inode: usize,
}

impl<N> Write for Opened<N> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.disk.step(Step::Write(self.part))?;
        let bytes = &bytes[..room.unwrap_or(usize::MAX).min(bytes.len())];
        self.disk.inner(|inner| {
            inner.files[self.inode].extend_from_slice(bytes);
            inner.ops.push(Op::Write { inode: self.inode, bytes: bytes.to_vec() });
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<N: Send + 'static> Output for Opened<N> {
    fn sync_data(&mut self) -> io::Result<()> {
        let outcome = self.disk.step(Step::Sync(self.part)).map(|_| ());
        let is_done = outcome.is_ok();
        self.disk.inner(|inner| inner.ops.push(Op::Sync { inode: self.inode, is_done }));
        outcome
    }

    fn sync_all(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&mut self, bytes: u64) -> io::Result<()> {
        self.disk.step(Step::Truncate(self.part))?;
        self.disk.inner(|inner| {
            let file = &mut inner.files[self.inode];
            file.truncate(bytes as usize);
            inner.ops.push(Op::Truncate { inode: self.inode, bytes: bytes as usize });
        });
        Ok(())
    }

    fn write_again(&mut self, offset: u64) -> io::Result<()> {
        self.disk.step(Step::Write(self.part))?;
        let op = Op::WriteAgain { inode: self.inode, offset: offset as usize };
        self.disk.inner(|inner| inner.ops.push(op));
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        self.disk.inner(|inner| Ok(inner.files[self.inode].len() as u64))
    }

    fn trace(&self) -> io::Result<Option<Trace>> {
        Ok(None)
    }
}

/// Random numbers from a seed, so that they can be drawn again.
#[derive(Clone)]
pub(super) struct Chance(pub(super) u64);

impl Chance {
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % limit.max(1)
    }

    pub(super) fn one_in(&mut self, limit: usize) -> bool {
        self.below(limit) == 0
    }
}

/// Part of the unsynced bytes that is left.
#[derive(Copy, Clone, PartialEq, Debug)]
pub(super) enum Survivors {
    /// All: the process was killed, the machine runs on.
    All,
    /// Nothing.
    Nothing,
    /// Whatever chance leaves.
    Some,
}

#[derive(Clone, Default)]
struct Inode {
    durable: Vec<u8>,
    live: Vec<u8>,
    /// Parts of `live` that are in memory only and never written: a sync of them failed.
    lost: Vec<Range<usize>>,
}

impl Inode {
    /// Bytes that a sync of everything would put on disk.
    fn written(&self) -> Vec<u8> {
        let mut bytes = self.live.clone();
        for range in &self.lost {
            bytes[range.clone()].fill(0);
        }
        bytes
    }

    /// Brings lost bytes from there on back to be written once more, or drops them.
    fn find(&mut self, offset: usize) {
        self.lost.iter_mut().for_each(|range| range.end = range.end.min(offset));
        self.lost.retain(|range| range.start < range.end);
    }

    fn left(&self, left: Survivors, chance: &mut Chance) -> Vec<u8> {
        match left {
            Survivors::All => self.live.clone(),
            Survivors::Nothing => self.durable.clone(),
            Survivors::Some => {
                let (old, new) = (&self.durable, self.written());
                let (least, most) = (old.len().min(new.len()), old.len().max(new.len()));
                let length = match chance.below(3) {
                    0 => old.len(),
                    1 => new.len(),
                    _ => least + chance.below(most - least + 1),
                };
                let mut bytes = vec![0; length];
                for (index, page) in bytes.chunks_mut(PAGE_BYTES).enumerate() {
                    let from = if chance.one_in(2) { old } else { &new };
                    let start = (index * PAGE_BYTES).min(from.len());
                    let count = page.len().min(from.len() - start);
                    page[..count].copy_from_slice(&from[start..start + count]);
                }
                bytes
            }
        }
    }
}

/// The disk as the next start finds it, if everything stops after these operations.
pub(super) fn after_crash<N: Clone>(
    ops: &[Op<N>],
    left: Survivors,
    chance: &mut Chance,
) -> Recording<N> {
    let mut inodes: HashMap<usize, Inode> = HashMap::new();
    let mut names: HashMap<Part, usize> = HashMap::new();
    let mut pending: Vec<&Op<N>> = Vec::new();
    for op in ops {
        match op {
            Op::Create { inode, .. } => {
                inodes.entry(*inode).or_default();
                pending.push(op);
            }
            Op::Rename { .. } | Op::Remove { .. } => pending.push(op),
            Op::SyncFolder => pending.drain(..).for_each(|op| change_name(&mut names, op)),
            Op::Write { inode, bytes } => {
                inodes.entry(*inode).or_default().live.extend_from_slice(bytes);
            }
            Op::Truncate { inode, bytes } => {
                let inode = inodes.entry(*inode).or_default();
                inode.live.truncate(*bytes);
                inode.find(*bytes);
            }
            Op::WriteAgain { inode, offset } => inodes.entry(*inode).or_default().find(*offset),
            Op::Sync { inode, is_done } => {
                let inode = inodes.entry(*inode).or_default();
                if *is_done {
                    inode.durable = inode.written();
                } else if chance.one_in(2) && inode.durable.len() < inode.live.len() {
                    inode.lost.push(inode.durable.len()..inode.live.len());
                }
            }
            Op::Note(_) => {}
        }
    }
    let is_kept = |_: &&Op<N>| match left {
        Survivors::All => true,
        Survivors::Nothing => false,
        Survivors::Some => chance.one_in(2),
    };
    pending.into_iter().filter(is_kept).for_each(|op| change_name(&mut names, op));
    if left == Survivors::All {
        // Nothing of it is on disk that was not before.
        let count = inodes.keys().max().map_or(0, |inode| inode + 1);
        let files = (0..count).map(|inode| inodes.remove(&inode).unwrap_or_default().live);
        return Recording::with(ops.to_vec(), names, files.collect());
    }
    let mut left = |inode| inodes.get(&inode).map(|inode| inode.left(left, chance));
    Recording::holding(
        names.into_iter().map(|(part, inode)| (part, left(inode).unwrap_or_default())).collect(),
    )
}

fn change_name<N>(names: &mut HashMap<Part, usize>, op: &Op<N>) {
    let mut forget = |part, inode| {
        if names.get(part) == Some(inode) {
            names.remove(part);
        }
    };
    match op {
        Op::Create { part, inode } => _ = names.insert(*part, *inode),
        Op::Remove { part, inode } => forget(part, inode),
        Op::Rename { from, to, inode } => {
            forget(from, inode);
            names.insert(*to, *inode);
        }
        _ => {}
    }
}
