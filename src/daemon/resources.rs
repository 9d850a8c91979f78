//! Resources of the machine: CPUs, file descriptors, locked memory, and how many connections these
//! allow.

use std::time::Duration;

use rlimit::Resource;

use super::log::counted;
use crate::config::Config;
use crate::limits;

/// Resources that the shards may use.
#[derive(Debug)]
pub(super) struct Resources {
    /// Number of shards.
    pub(super) shards: usize,
    /// CPUs for the shards, in the order in which shards get them.
    cpus: Vec<usize>,
    /// Value of `steer_accepts`.
    steers: bool,
    /// File descriptors that the process may open.
    descriptors: u64,
    /// Most client connections of one shard.
    pub(super) connections_per_shard: usize,
    /// Most pipes of one shard, for bulk transfers.
    pub(super) pipes_per_shard: usize,
}

impl Resources {
    /// Raises the limits of the process as far as possible and divides the resources among the
    /// shards. `Err`: everything that is wrong with the configuration here.
    pub(super) fn gather(config: &Config) -> Result<Resources, Vec<String>> {
        let mut problems = Vec::new();
        let cpus = cpus(config).unwrap_or_else(|problem| {
            problems.push(problem);
            Vec::new()
        });
        let shards = config.shards.unwrap_or_else(|| shards_for(cpus.len()));
        problems.extend(check_locked_memory().err());
        let wanted = config.max_connections.map(|wanted| wanted.div_ceil(shards));
        let needed = wanted.map_or(0, |wanted| limits::descriptors_needed(wanted, shards));
        let descriptors = raise_descriptors(needed);
        let share = limits::descriptors_per_shard(descriptors, shards);
        let remedy = "raise the limit (`ulimit -n`, LimitNOFILE= in a unit)";
        match wanted {
            Some(wanted) if limits::CONNECTIONS_PER_SHARD_MAX < wanted => problems.push(format!(
                "max_connections: {}; expected at most {}, with {}",
                wanted * shards,
                limits::CONNECTIONS_PER_SHARD_MAX * shards,
                counted(shards, "shard")
            )),
            Some(wanted) if share.connections < wanted => problems.push(format!(
                "max_connections: {} need {needed} file descriptors, and {descriptors} are allowed, \
                 enough for {}: {remedy}, or lower max_connections",
                wanted * shards,
                share.connections * shards
            )),
            None if share.connections == 0 => problems.push(format!(
                "{descriptors} file descriptors are too few for {}: {remedy}, or lower shards",
                counted(shards, "shard")
            )),
            _ => {}
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Resources {
            shards,
            cpus,
            steers: config.steer_accepts,
            descriptors,
            connections_per_shard: wanted.unwrap_or(share.connections),
            pipes_per_shard: share.pipes,
        })
    }

    /// Resources of one shard, for tests.
    #[cfg(test)]
    pub(super) fn fixed(connections_per_shard: usize) -> Resources {
        let (cpus, descriptors, pipes_per_shard) = (Vec::new(), 4096, 10);
        let (shards, steers) = (1, false);
        Resources { shards, cpus, steers, descriptors, connections_per_shard, pipes_per_shard }
    }

    /// The CPU of shard `index`.
    pub(super) fn cpu(&self, index: usize) -> Option<usize> {
        self.cpus.get(index % self.cpus.len().max(1)).copied()
    }

    /// The CPU of each shard, if `steer_accepts` is set and each shard has a CPU of its own.
    pub(super) fn steering(&self) -> Option<&[usize]> {
        self.cpus.get(..self.shards).filter(|_| self.steers)
    }

    /// Most management connections at a time.
    pub(super) fn management_connections(&self) -> usize {
        limits::management_connections(self.descriptors)
    }

    /// Most lookups of names at a time.
    pub(super) fn lookups_at_once(&self) -> usize {
        limits::lookups_at_once(self.descriptors)
    }

    /// Most probes of backends at a time.
    pub(super) fn probes_at_once(&self) -> usize {
        limits::probes_at_once(self.descriptors)
    }

    /// Summary for the log and for `--check`.
    pub(super) fn summary(&self) -> String {
        let used = &self.cpus[..self.shards.min(self.cpus.len())];
        format!(
            "{} on {}, {} file descriptors, up to {}",
            counted(self.shards, "shard"),
            if used.is_empty() { "any CPU".to_owned() } else { format!("CPU {}", ranges(used)) },
            self.descriptors,
            counted(self.connections_per_shard * self.shards, "client connection")
        )
    }

    /// Sentence for `--check` that says how much memory is needed.
    pub(super) fn memory(&self, head_bytes_max: usize) -> String {
        let connections = self.connections_per_shard * self.shards;
        let (idle, most) = limits::memory(connections, self.shards, head_bytes_max);
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        format!(
            "memory beside the table (about 150 bytes a rule): {} MiB with {}, at most {} MiB with \
             each at its worst",
            mib(idle),
            counted(connections, "idle client connection"),
            mib(most)
        )
    }

    /// Warnings about settings that are probably mistakes.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.descriptors < limits::DESCRIPTORS_FEW {
            warnings.push(format!(
                "Only {} file descriptors are allowed, so at most {}: raise the limit (`ulimit -n`, \
                 LimitNOFILE= in a unit) for more",
                self.descriptors,
                counted(self.connections_per_shard * self.shards, "client connection")
            ));
        }
        if !self.cpus.is_empty() && self.cpus.len() < self.shards {
            warnings.push(format!(
                "{} share {}: some wait for each other",
                counted(self.shards, "shard"),
                counted(self.cpus.len(), "CPU")
            ));
        }
        if self.steers && self.steering().is_none() {
            warnings.push(format!(
                "steer_accepts = true: connections are not steered: {} can't have a CPU of their own \
                 each, as {} may be used",
                counted(self.shards, "shard"),
                counted(self.cpus.len(), "CPU")
            ));
        }
        warnings
    }
}

/// Time for which shards poll the network card; `None` if they don't. `Err` says why they can't.
pub(super) fn busy_poll(config: &Config) -> Result<Option<Duration>, String> {
    let Some(time) = config.busy_poll else { return Ok(None) };
    crate::ring::probe_busy_poll(time)
        .map(|()| Some(time))
        .map_err(|why| format!("busy_poll = {}us: nothing is polled: {why}", time.as_micros()))
}

/// The CPUs for shards, in the order in which shards get them.
fn cpus(config: &Config) -> Result<Vec<usize>, String> {
    let ids = core_affinity::get_core_ids().unwrap_or_default();
    let allowed: Vec<usize> = ids.into_iter().map(|core| core.id).collect();
    if config.cpus.is_empty() {
        return Ok(allowed);
    }
    match config.cpus.iter().find(|cpu| !allowed.contains(cpu)) {
        Some(cpu) => Err(format!(
            "cpus: this process may not use CPU {cpu}; expected some of {}",
            ranges(&allowed)
        )),
        None => Ok(config.cpus.clone()),
    }
}

/// Default number of shards: one per CPU. In a container with a quota of CPU time, no more than the
/// CPUs that the quota pays for.
fn shards_for(cpus: usize) -> usize {
    let quota = std::thread::available_parallelism().map_or(cpus, usize::from);
    cpus.min(quota).clamp(1, limits::SHARDS_MAX)
}

/// Checks the limit on locked memory, as glommio does before it makes its rings. Raises the limit
/// if it is too low.
fn check_locked_memory() -> Result<(), String> {
    let Ok((soft, hard)) = Resource::MEMLOCK.get() else { return Ok(()) };
    if limits::LOCKED_BYTES_MIN <= soft
        || raise(Resource::MEMLOCK, soft, hard, 0) == hard && limits::LOCKED_BYTES_MIN <= hard
    {
        return Ok(());
    }
    Err(format!(
        "{} KiB of memory may be locked, but io_uring needs {} KiB: raise the limit (`ulimit -l`, \
         LimitMEMLOCK= in a unit)",
        hard / 1024,
        limits::LOCKED_BYTES_MIN / 1024
    ))
}

/// Raises the limit on file descriptors to the hard limit, or to `needed` if that is higher and the
/// kernel allows it. Returns the limit in force.
fn raise_descriptors(needed: u64) -> u64 {
    match Resource::NOFILE.get() {
        Ok((soft, hard)) => raise(Resource::NOFILE, soft, hard, needed),
        Err(_) => limits::DESCRIPTORS_ASSUMED,
    }
}

/// Raises the limit on a resource to the hard limit, or to `needed` if that is higher and the
/// kernel allows it. Returns the limit in force.
fn raise(resource: Resource, soft: u64, hard: u64, needed: u64) -> u64 {
    if hard < needed && resource.set(needed, needed).is_ok() {
        return needed;
    }
    if soft < hard && resource.set(hard, hard).is_ok() { hard } else { soft }
}

/// Numbers as text, with runs as ranges: `0,2-4`.
fn ranges(numbers: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let texts = runs.iter().map(|(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    texts.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_numbers_become_ranges() {
        assert_eq!(ranges(&[]), "");
        assert_eq!(ranges(&[3]), "3");
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
    }

    #[test]
    fn steering_needs_a_cpu_for_each_shard() {
        let of = |shards, cpus: &[usize], steers| Resources {
            shards,
            cpus: cpus.to_vec(),
            steers,
            ..Resources::fixed(10)
        };
        assert_eq!(of(2, &[4, 1, 7], true).steering(), Some(&[4, 1][..]));
        assert_eq!(of(2, &[4, 1], false).steering(), None);
        assert!(of(3, &[4, 1, 7], true).warnings().is_empty());
        for cpus in [&[][..], &[4, 1]] {
            let resources = of(3, cpus, true);
            assert_eq!(resources.steering(), None);
            let warnings = resources.warnings();
            let is_named = |warning: &String| warning.starts_with("steer_accepts = true: ");
            assert!(warnings.iter().any(is_named), "{warnings:?}");
        }
    }

    #[test]
    fn needed_descriptors_are_enough() {
        for shards in [1, 2, 7, 64] {
            for connections in [1, 10, 333, 100_000] {
                let needed = limits::descriptors_needed(connections, shards);
                let share = limits::descriptors_per_shard(needed, shards);
                assert!(connections <= share.connections, "{connections} {shards} {share:?}");
            }
        }
    }

    #[test]
    fn cpu_that_may_not_be_used_is_named() {
        let config = Config::build(None, &["cpus=4095".to_owned()]).expect("a good configuration");
        let problem = cpus(&config).expect_err("no such CPU");
        assert!(problem.contains("may not use CPU 4095"), "{problem}");
    }
}
