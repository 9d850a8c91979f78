//! Metrics of the process, under the names that every Prometheus client uses, and so without
//! `mantrid_` in front.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use rlimit::Resource;

use super::families::gauge;

/// The kernel's unit of times in /proc on every platform that Mantrid runs on (`USER_HZ`, time(7)).
const TICKS_PER_SECOND: f64 = 100.0;

/// Numbers of the process at one moment.
#[derive(Debug)]
pub(super) struct ProcessNumbers {
    cpu_seconds: Option<f64>,
    /// Start of the process, in seconds since 1970.
    started: Option<f64>,
    resident_bytes: Option<f64>,
    virtual_bytes: Option<f64>,
    open_files: Option<f64>,
    files_max: Option<f64>,
}

impl ProcessNumbers {
    /// Reads /proc. This may take a moment if very many descriptors are open on an old kernel.
    pub(super) fn read() -> ProcessNumbers {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
        ProcessNumbers {
            cpu_seconds: cpu_seconds(&stat),
            started: started(&stat, &boot),
            resident_bytes: kibibytes(&status, "VmRSS:"),
            virtual_bytes: kibibytes(&status, "VmSize:"),
            open_files: open_files(),
            files_max: Resource::NOFILE.get().ok().map(|(soft, _)| soft as f64),
        }
    }
}

/// Reads a field of proc_pid_stat(5), by its number there. Fields are counted from behind the
/// process's name, because the name may hold anything.
fn stat_field(stat: &str, number: usize) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((stat_field(stat, 14)? + stat_field(stat, 15)?) / TICKS_PER_SECOND)
}

fn started(stat: &str, boot: &str) -> Option<f64> {
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(boot.trim().parse::<f64>().ok()? + stat_field(stat, 22)? / TICKS_PER_SECOND)
}

fn kibibytes(status: &str, key: &str) -> Option<f64> {
    let value = status.lines().find_map(|line| line.strip_prefix(key))?;
    let number: f64 = value.split_whitespace().next()?.parse().ok()?;
    Some(number * 1024.0)
}

/// Counts the open descriptors. Since Linux 6.2 the size of the folder is their number; before it
/// they are listed and counted.
fn open_files() -> Option<f64> {
    let folder = "/proc/self/fd";
    match fs::metadata(folder).ok()?.len() {
        // The descriptor that lists the folder is among them.
        0 => Some(fs::read_dir(folder).ok()?.count().saturating_sub(1) as f64),
        count => Some(count as f64),
    }
}

impl Collector for ProcessNumbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if let Some(seconds) = self.cpu_seconds {
            let help = "Time on a CPU, of the program and of the kernel for it";
            let counter = MetricType::Counter;
            let metric = encoder.encode_descriptor("process_cpu_seconds", help, None, counter)?;
            ConstCounter::new(seconds).encode(metric)?;
        }
        for (name, help, value) in [
            ("process_start_time_seconds", "When the process started, since 1970", self.started),
            ("process_resident_memory_bytes", "Memory in use", self.resident_bytes),
            ("process_virtual_memory_bytes", "Addresses in use", self.virtual_bytes),
            ("process_open_fds", "Descriptors open", self.open_files),
            ("process_max_fds", "Descriptors that may be open", self.files_max),
        ] {
            if let Some(value) = value {
                gauge(&mut encoder, name, help, value)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 9 0 1234 1 1";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(started(stat, "cpu 1\nbtime 1000\n"), Some(1012.34));
        assert_eq!(kibibytes("Name:\tx\nVmRSS:\t  12 kB\n", "VmRSS:"), Some(12288.0));
        for broken in ["", "7 (a", "7 (a) S"] {
            assert_eq!((cpu_seconds(broken), started(broken, "btime 1")), (None, None));
        }
        let numbers = ProcessNumbers::read();
        let all = [numbers.cpu_seconds, numbers.resident_bytes, numbers.open_files];
        assert!(all.iter().all(Option::is_some), "{numbers:?}");
    }
}
