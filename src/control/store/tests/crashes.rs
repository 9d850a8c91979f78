//! Random runs, stopped after each of their operations and in the middle of each write. What was
//! acknowledged must be found, and besides it at most what was under way; and the store must go on
//! from there.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use libc::{EINTR, EIO, ENOSPC};

use super::super::disk::Part;
use super::recording::{Chance, Fault, Op, Recording, Step, Survivors, after_crash};
use super::*;

/// Rules and counters, kept in the simplest way.
#[derive(Clone, PartialEq, Debug, Default)]
struct Model {
    rules: BTreeMap<String, u16>,
    stats: BTreeMap<String, u64>,
}

impl Model {
    fn of(loaded: &StoredState) -> Model {
        let code = |rule: &Rule| match &rule.action {
            crate::table::Action::Empty(empty) => empty.code(),
            _ => 0,
        };
        let rules = loaded.snapshot.iter().map(|(name, rule)| (name.to_owned(), code(rule)));
        let stats = loaded.stats.iter().map(|(name, c)| (name.clone(), c.completed_requests));
        Model { rules: rules.collect(), stats: stats.collect() }
    }

    fn table(&self) -> Snapshot {
        let changes: Vec<_> = self.rules.iter().map(|(name, code)| set(name, *code)).collect();
        edited(&Snapshot::default(), &changes)
    }

    fn counted(&self) -> Vec<(String, Totals)> {
        self.stats.iter().map(|(name, count)| counted(name, *count)).collect()
    }

    fn take(&mut self, change: &Drawn) {
        let code = |rule: &Option<Rule>| match &rule.as_ref()?.action {
            crate::table::Action::Empty(empty) => Some(empty.code()),
            _ => None,
        };
        match change {
            Drawn::Set(changes) => {
                for (name, rule) in changes {
                    match code(rule) {
                        Some(code) => _ = self.rules.insert(name.clone(), code),
                        None => {
                            self.rules.remove(name);
                            self.stats.remove(name);
                        }
                    }
                }
            }
            Drawn::Replace(rules) => {
                let rules =
                    rules.iter().filter_map(|(name, rule)| Some((name.clone(), code(rule)?)));
                self.rules = rules.collect();
                self.stats.retain(|name, _| self.rules.contains_key(name));
            }
            Drawn::Stats(stats) => self.stats.extend(
                stats.iter().map(|(name, counters)| (name.clone(), counters.completed_requests)),
            ),
        }
    }
}

enum Drawn {
    Set(Vec<Change>),
    Replace(Vec<Change>),
    Stats(Vec<(String, Totals)>),
}

impl Drawn {
    fn draw(chance: &mut Chance) -> Drawn {
        let name = |chance: &mut Chance| ["a", "b", "c.d", "http://e"][chance.below(4)];
        let code = |chance: &mut Chance| 200 + chance.below(300) as u16;
        match chance.below(6) {
            0 => Drawn::Replace(vec![set(name(chance), code(chance))]),
            1 => Drawn::Stats(vec![counted(name(chance), chance.below(1000) as u64)]),
            _ => Drawn::Set(
                (0..chance.below(3))
                    .map(|_| match chance.one_in(3) {
                        true => delete(name(chance)),
                        false => set(name(chance), code(chance)),
                    })
                    .collect(),
            ),
        }
    }

    fn record(&self) -> Record<'_> {
        match self {
            Drawn::Set(changes) => Record::Set(changes),
            Drawn::Replace(rules) => Record::Replace(rules),
            Drawn::Stats(stats) => Record::Stats(stats),
        }
    }
}

/// Knowledge that the caller of the store has at some moment.
#[derive(Clone, Debug)]
enum Note {
    /// A commit begins; these are the contents after each of its records.
    Trying(Vec<Model>),
    /// Only this content is on disk.
    Is(Model),
    /// The last content is on disk, or a later one that was tried.
    Unsure,
}

type NotedDisk = Recording<Note>;

struct Run {
    disk: NotedDisk,
    store: Store,
    model: Model,
    chance: Chance,
}

/// Opens the store as a start would.
fn recover(disk: &NotedDisk) -> Result<(Store, StoredState), String> {
    Store::open_on(Arc::new(disk.clone()), &mut Names::default())
}

impl Run {
    /// Makes a run of so many actions, in which one in `faults` operations fails, or none.
    fn make(seed: u64, actions: usize, faults: Option<usize>) -> NotedDisk {
        let disk = NotedDisk::default();
        let (store, _) = recover(&disk).expect("an empty disk");
        disk.note(Note::Is(Model::default()));
        let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        if let Some(faults) = faults {
            let mut chance = Chance(chance.0 ^ 0x55);
            disk.decide(move |step| fault(step, &mut chance, faults));
        }
        chance.below(1);
        let run = Run { disk: disk.clone(), store, model: Model::default(), chance };
        let run = Arc::new(Mutex::new(run));
        for _ in 0..actions {
            Run::act(&run);
        }
        disk
    }

    fn act(run: &Arc<Mutex<Run>>) {
        let locked = || run.lock().unwrap_or_else(PoisonError::into_inner);
        let action = locked().chance.below(20);
        match action {
            0..=2 => {
                let (fold, model) = {
                    let mut run = locked();
                    let Ok(fold) = run.store.begin_fold() else { return };
                    (fold, run.model.clone())
                };
                // Commits go on between any two operations of the fold.
                let beside = run.clone();
                let commit = move || {
                    let mut run = beside.lock().unwrap_or_else(PoisonError::into_inner);
                    if run.chance.one_in(3) {
                        run.commit();
                    }
                };
                let disk = locked().disk.clone();
                disk.between(Some(Box::new(commit)));
                let outcome = fold.run(&model.table(), model.counted());
                disk.between(None);
                locked().store.end_fold(&outcome);
            }
            3 => locked().rewrite(),
            4 => locked().restart(),
            _ => {
                let mut run = locked();
                if run.store.needs_rewrite() {
                    run.rewrite();
                }
                run.commit();
            }
        }
    }

    fn commit(&mut self) {
        let changes: Vec<_> =
            (0..1 + self.chance.below(3)).map(|_| Drawn::draw(&mut self.chance)).collect();
        let records: Vec<_> = changes.iter().map(Drawn::record).collect();
        let mut model = self.model.clone();
        let mut tried = Vec::new();
        for change in &changes {
            model.take(change);
            tried.push(model.clone());
        }
        if !self.store.needs_rewrite() {
            self.disk.note(Note::Trying(tried));
        }
        if self.store.commit(&records).is_ok() {
            self.model = model;
        }
        self.note();
    }

    fn rewrite(&mut self) {
        let (table, stats) = (self.model.table(), self.model.counted());
        if self.store.rewrite(&table, stats).is_ok() {
            self.disk.note(Note::Is(self.model.clone()));
        }
    }

    /// Kills the process and starts it again; what was in memory only is still there.
    fn restart(&mut self) {
        let (store, loaded) = recover(&self.disk).unwrap_or_else(|error| panic!("{error}"));
        let found = Model::of(&loaded);
        assert!(allowed(&self.disk.ops()).contains(&found), "{found:?}");
        (self.store, self.model) = (store, found);
        self.note();
    }

    fn note(&self) {
        let is_sure = matches!(self.store.mode, Mode::Ready(_));
        self.disk.note(if is_sure { Note::Is(self.model.clone()) } else { Note::Unsure });
    }
}

fn fault(step: Step, chance: &mut Chance, one_in: usize) -> Option<Fault> {
    match step {
        Step::Read(_) => None,
        Step::Write(_) if chance.one_in(4) => Some(Fault::Short(1 + chance.below(60))),
        Step::Write(_) if chance.one_in(8) => Some(Fault::Fails(EINTR)),
        _ if chance.one_in(one_in) => Some(Fault::Fails([EIO, ENOSPC][chance.below(2)])),
        _ => None,
    }
}

/// Contents that may be found after these operations: the last acknowledged one, then those tried
/// since.
fn allowed(ops: &[Op<Note>]) -> Vec<Model> {
    let mut allowed = Vec::new();
    for op in ops {
        match op {
            Op::Note(Note::Trying(tried)) => allowed.extend_from_slice(tried),
            Op::Note(Note::Is(model)) => allowed = vec![model.clone()],
            _ => {}
        }
    }
    if allowed.is_empty() { vec![Model::default()] } else { allowed }
}

/// Stops the run behind each operation, and looks at what is found.
fn stop_everywhere(seed: u64, ops: &[Op<Note>]) -> usize {
    let mut stops = 0;
    for end in 0..=ops.len() {
        let ops = &ops[..end];
        let allowed = allowed(ops);
        if matches!(ops.last(), Some(Op::Note(_))) {
            continue;
        }
        for (index, left) in [Survivors::All, Survivors::Nothing, Survivors::Some, Survivors::Some]
            .into_iter()
            .enumerate()
        {
            let mut chance = Chance(seed << 32 | (end as u64) << 4 | index as u64 | 8);
            chance.below(1);
            let mut ops = ops.to_vec();
            if let Some(Op::Write { bytes, .. }) = ops.last_mut()
                && chance.one_in(2)
            {
                bytes.truncate(chance.below(bytes.len()));
            }
            let disk = after_crash(&ops, left, &mut chance);
            let at =
                || format!("seed {seed}, {end} operations, {left:?} {index}: {:?}", ops.last());
            let found =
                check(&disk, &allowed, &mut chance).unwrap_or_else(|why| panic!("{}: {why}", at()));
            if chance.one_in(200) {
                check_for_real(&disk, &found).unwrap_or_else(|why| panic!("{}: {why}", at()));
            }
            stops += 1;
        }
    }
    stops
}

fn check(crashed: &NotedDisk, allowed: &[Model], chance: &mut Chance) -> Result<Model, String> {
    let before = [Part::State, Part::Folding, Part::Journal].map(|part| crashed.content(part));
    let ops_before = crashed.ops().len();
    let (mut store, loaded) = recover(crashed)?;
    let found = Model::of(&loaded);
    if !allowed.contains(&found) {
        return Err(format!("found {found:?}, not among {allowed:?}, in {before:?}"));
    }
    // The store goes on from there: what is found is on disk now, and what is added too.
    let mut model = found.clone();
    let change = Drawn::Set(vec![set("later", 299)]);
    store.commit(&[change.record()]).map_err(|error| error.to_string())?;
    model.take(&change);
    for left in [Survivors::Nothing, Survivors::Some] {
        let disk = after_crash(&crashed.ops(), left, chance);
        let (_, loaded) = recover(&disk).map_err(|why| format!("at the second crash: {why}"))?;
        if Model::of(&loaded) != model {
            return Err(format!("after the second crash {:?}, not {model:?}", Model::of(&loaded)));
        }
    }
    // Or the run stops again on the way there.
    let ops = crashed.ops();
    let end = ops_before + chance.below(ops.len() - ops_before);
    let (_, loaded) = recover(&after_crash(&ops[..end], Survivors::Some, chance))
        .map_err(|why| format!("stopped again after {:?}: {why}", &ops[ops_before..end]))?;
    let again = Model::of(&loaded);
    if again != model && !allowed.contains(&again) {
        return Err(format!("stopped again after {:?}: {again:?}", &ops[ops_before..end]));
    }
    let (mut store, loaded) = recover(crashed)?;
    if Model::of(&loaded) != model || loaded.warnings.iter().any(|line| line.contains("dropped")) {
        return Err(format!("then {:?}, {:?}", Model::of(&loaded), loaded.warnings));
    }
    let stats = loaded.stats.clone();
    store.rewrite(&loaded.snapshot, stats).map_err(|error| error.to_string())?;
    let (_, loaded) = recover(crashed)?;
    match Model::of(&loaded) == model {
        true => Ok(found),
        false => Err(format!("rewritten {:?}", Model::of(&loaded))),
    }
}

/// Checks the same in a real folder. `crashed` has gone on, and is put there as it is.
fn check_for_real(crashed: &NotedDisk, found: &Model) -> Result<(), String> {
    let (_folder, path) = folder();
    for (part, suffix) in
        [(Part::State, ""), (Part::Journal, ".journal"), (Part::Folding, ".journal.folding")]
    {
        if let Some(bytes) = crashed.content(part) {
            fs::write(beside(&path, suffix), bytes).expect("a file");
        }
    }
    let (_, loaded) = Store::open(&path, &mut Names::default())?;
    let mut expected = found.clone();
    expected.take(&Drawn::Set(vec![set("later", 299)]));
    match Model::of(&loaded) == expected {
        true => Ok(()),
        false => Err(format!("in a folder {:?}", Model::of(&loaded))),
    }
}

#[test]
fn what_was_acknowledged_survives_a_crash_at_any_moment() {
    let mut stops = 0;
    for seed in 1..=3 {
        let disk = Run::make(seed, 30, None);
        stops += stop_everywhere(seed, &disk.ops());
    }
    assert!(1000 < stops, "only {stops} stops: the runs do too little");
}

#[test]
fn and_whatever_fails_on_the_way() {
    let mut stops = 0;
    for seed in 1..=6 {
        let disk = Run::make(seed, 30, Some(25));
        stops += stop_everywhere(seed, &disk.ops());
    }
    assert!(2000 < stops, "only {stops} stops: the runs do too little");
}
