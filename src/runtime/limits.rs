//! The process's own limits.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the soft limit on open files to the hard one: each device on TCP is a descriptor, and the usual soft
/// limit of 1,024 is a default for programs that use select(2). Returns the limit in force; `None`: unlimited.
pub fn raise_open_files() -> Option<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    let soft = limit.current;
    limit.current = limit.maximum;
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => limit.maximum,
        Err(_) => soft,
    }
}
