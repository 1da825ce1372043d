//! What this process takes of the machine, as Linux tells in `/proc` (proc(5)).

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Bytes of memory that are resident.
pub fn resident_bytes() -> Option<u64> {
    resident_of(&std::fs::read_to_string("/proc/self/status").ok()?)
}

/// Open file descriptors.
pub fn open_files() -> Option<usize> {
    // One of them reads the folder.
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1))
}

/// Processor time of all threads so far.
pub fn cpu_time() -> Duration {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    Duration::from_secs(part(spent.tv_sec)) + Duration::from_nanos(part(spent.tv_nsec))
}

/// A part of a timespec, whose type differs between architectures.
fn part(number: impl TryInto<u64>) -> u64 {
    number.try_into().unwrap_or(0)
}

fn resident_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_what_it_takes() {
        assert_eq!(resident_of("Name:\tx\nVmRSS:\t    5120 kB\n"), Some(5120 * 1024));
        assert_eq!(resident_of("VmRSS:\tmany kB\n"), None);
        assert!(resident_bytes().is_some_and(|bytes| bytes > 100_000));
        let before = open_files().unwrap();
        let _file = std::fs::File::open("/proc/self/status").unwrap();
        // Other tests open and close files meanwhile.
        assert!(before > 0 && open_files().unwrap() > 0);
        assert!(cpu_time() > Duration::ZERO);
    }
}
