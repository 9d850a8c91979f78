//! Notices when a shard, or control, makes no progress for a second, and logs where it is. This
//! runs on a thread of its own, because control itself may hang.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::warn;

use crate::limits;
use crate::link::ControlEnd;

/// Handle of the thread that watches. Dropping it ends the thread.
pub(super) struct Lookout {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Lookout {
    pub(super) fn start(shards: ControlEnd) -> std::io::Result<Lookout> {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let thread = std::thread::Builder::new().name("lookout".to_owned());
        let thread = thread.stack_size(128 * 1024).spawn(move || look(&shards, &over))?;
        Ok(Lookout { is_over, thread: Some(thread) })
    }
}

impl Drop for Lookout {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

/// A shard, or control.
struct Watched {
    /// Name of the thread; `None`: the first thread of the process.
    thread: Option<String>,
    name: String,
    beat: Option<u64>,
    /// Moment at which the present value of `beat` was seen first; `cpu` is the CPU time that the
    /// thread had used then.
    since: Instant,
    cpu: Duration,
    is_told: bool,
}

impl Watched {
    /// Notes the present beat, and logs if the thread makes no progress or goes on again.
    fn take(&mut self, beat: Option<u64>, now: Instant, part: Option<&str>) {
        let stood = now.saturating_duration_since(self.since);
        if beat != self.beat || beat.is_none() {
            if self.is_told && beat.is_some() {
                warn!("{} goes on after {:.1} s", self.name, stood.as_secs_f64());
            }
            let cpu = self.task().map(|task| task.cpu).unwrap_or_default();
            (self.beat, self.since, self.cpu, self.is_told) = (beat, now, cpu, false);
        } else if limits::STALL_TIME <= stood && !self.is_told {
            self.is_told = true;
            let part = part.map(|part| format!(" in {part};")).unwrap_or_default();
            let task = self.task().map_or_else(String::new, |task| task.describe(self.cpu));
            let (name, stood) = (&self.name, stood.as_secs_f64());
            warn!("{name} makes no progress for {stood:.1} s:{part} {task}");
        }
    }

    fn task(&self) -> Option<Task> {
        let id = std::process::id();
        let folder = PathBuf::from("/proc/self/task");
        let folder = match &self.thread {
            None => folder.join(id.to_string()),
            Some(name) => {
                let is_it = |path: &PathBuf| {
                    fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name)
                };
                fs::read_dir(folder).ok()?.flatten().map(|task| task.path()).find(is_it)?
            }
        };
        let stat = fs::read_to_string(folder.join("stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        // utime and stime of proc_pid_stat(5), in ticks of 10 ms.
        let ticks = |at: usize| fields.get(at).and_then(|ticks| ticks.parse::<u64>().ok());
        let cpu = Duration::from_millis(10 * (ticks(11)? + ticks(12)?));
        let place = fs::read_to_string(folder.join("wchan")).unwrap_or_default();
        Some(Task { state: fields.first()?.chars().next()?, cpu, place })
    }
}

/// State of a thread in the kernel.
struct Task {
    state: char,
    cpu: Duration,
    /// Kernel function in which the thread waits.
    place: String,
}

impl Task {
    fn describe(&self, before: Duration) -> String {
        let used = self.cpu.saturating_sub(before);
        let state = match self.state {
            'R' if used < limits::STALL_TIME / 4 => "it waits for a CPU",
            'R' => "it runs",
            'S' => "it sleeps",
            'D' => "it waits for a device",
            't' | 'T' => "it was stopped from outside",
            _ => "its state is not known",
        };
        let place = match self.place.trim() {
            "" | "0" => String::new(),
            place => format!(" in the kernel's {place}"),
        };
        format!("{state}{place}, and used {used:?} of CPU time")
    }
}

fn look(shards: &ControlEnd, is_over: &AtomicBool) {
    let mut last = Instant::now();
    let watched = |name: String, thread| Watched {
        thread,
        name,
        beat: None,
        since: last,
        cpu: Duration::ZERO,
        is_told: false,
    };
    let count = shards.beats().len();
    let mut all: Vec<Watched> = (0..count)
        .map(|index| watched(format!("shard {index}"), Some(format!("shard-{index}"))))
        .chain([watched("control".to_owned(), None)])
        .collect();
    while !is_over.load(Ordering::Relaxed) {
        shards.wake_all();
        std::thread::park_timeout(limits::STALL_LOOK);
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        let now = Instant::now();
        let late = now.saturating_duration_since(last).saturating_sub(limits::STALL_LOOK);
        last = now;
        if limits::STALL_TIME <= late {
            // Nothing can be said about the other threads: they got no CPU time either, or the
            // machine was suspended.
            let late = late.as_secs_f64();
            warn!("the whole process got no CPU time for {late:.1} s: is the machine overloaded?");
            all.iter_mut().for_each(|one| one.since = now);
            continue;
        }
        let control = &shards.together.beat;
        let beats = shards.beats().into_iter().map(|beat| (beat, None));
        let beats = beats.chain([(Some(control.count()), Some(control.part()))]);
        for (one, (beat, part)) in all.iter_mut().zip(beats) {
            one.take(beat, now, part);
        }
    }
}
