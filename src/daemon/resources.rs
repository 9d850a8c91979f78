//! What the machine gives us: CPUs, descriptors, locked memory, a kernel with io_uring; and how many
//! connections follow from it.

use crate::config::Config;
use crate::limits;

/// What the shards may use.
#[derive(Debug)]
pub(super) struct Resources {
    shards: usize,
    cpus: Vec<usize>,
    descriptors: u64,
    pub(super) connections_per_shard: usize,
    pub(super) pipes_per_shard: usize,
}

impl Resources {
    /// Raises the descriptor limit as far as it goes and shares it out.
    pub(super) fn gather(config: &Config) -> Result<Resources, Vec<String>> {
        let mut problems = Vec::new();
        let allowed: Vec<usize> = core_affinity::get_core_ids()
            .unwrap_or_default()
            .into_iter()
            .map(|core| core.id)
            .collect();
        let cpus = if config.cpus.is_empty() { allowed.clone() } else { config.cpus.clone() };
        if let Some(cpu) = cpus.iter().find(|cpu| !allowed.contains(cpu)) {
            problems.push(format!("cpus: this process may not use CPU {cpu}, only {allowed:?}"));
        }
        let shards = config.shards.unwrap_or(cpus.len().max(1));
        if let Err(problem) = crate::ring::probe() {
            problems.push(problem);
        }
        if let Ok((locked, _)) = rlimit::Resource::MEMLOCK.get()
            && locked < limits::LOCKED_BYTES_MIN
        {
            problems.push(format!(
                "only {locked} bytes of memory may be locked, {} are needed: raise it with \
                 `ulimit -l` or LimitMEMLOCK=",
                limits::LOCKED_BYTES_MIN
            ));
        }
        let descriptors = rlimit::increase_nofile_limit(u64::MAX)
            .or_else(|_| rlimit::Resource::NOFILE.get().map(|(soft, _)| soft))
            .unwrap_or(1024);
        let share = limits::descriptors_per_shard(descriptors, shards);
        let fits = share.connections;
        if fits == 0 {
            problems.push(format!(
                "{descriptors} file descriptors are too few for {shards} shards: raise the limit \
                 (`ulimit -n`, LimitNOFILE=) or lower `shards`"
            ));
        }
        let connections_per_shard = match config.max_connections {
            Some(wanted) if fits * shards < wanted => {
                problems.push(format!(
                    "max_connections = {wanted}: {descriptors} file descriptors are enough for {}: \
                     raise the limit (`ulimit -n`, LimitNOFILE=) or lower it",
                    fits * shards
                ));
                fits
            }
            Some(wanted) => wanted.div_ceil(shards),
            None => fits,
        };
        if !problems.is_empty() {
            return Err(problems);
        }
        let pipes_per_shard = share.pipes;
        Ok(Resources { shards, cpus, descriptors, connections_per_shard, pipes_per_shard })
    }

    pub(super) fn shards(&self) -> usize {
        self.shards
    }

    /// The CPU of shard `index`.
    pub(super) fn cpu(&self, index: usize) -> Option<usize> {
        self.cpus.get(index % self.cpus.len().max(1)).copied()
    }

    pub(super) fn summary(&self) -> String {
        format!(
            "{} shards on CPUs {:?}; {} file descriptors: up to {} client connections",
            self.shards,
            self.cpus,
            self.descriptors,
            self.connections_per_shard * self.shards
        )
    }

    pub(super) fn log(&self) {
        tracing::info!("{}", self.summary());
        if self.descriptors < 4096 {
            tracing::warn!(
                "{} file descriptors are few: raise the limit (`ulimit -n`, LimitNOFILE=) for more \
                 connections",
                self.descriptors
            );
        }
    }
}
