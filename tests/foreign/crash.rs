//! Crash points and failing disks by `strace -e inject`: the real program is killed at the n-th write, fdatasync, fsync, rename, unlink and
//! fallocate of a thread, or told that it failed.
//!
//! Needs strace, and a machine that permits ptrace; elsewhere the tests say that they were left out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::SOON;
use crate::broker::Broker;
use crate::folder::Folder;
use crate::gateway::{Gateway, taktbus};
use crate::json::member;
use crate::peers::{Device, needs, say};
use crate::process::Process;
use crate::store::{Key, delivered, is_long, judge, start, waiting_if_any};
use crate::tap::{Publish, Seen, Tap};

/// What a store asks of the kernel that changes something.
const SYSCALLS: [&str; 6] = ["pwrite64", "fdatasync", "fsync", "rename", "unlink", "fallocate"];
/// A run that has delivered so many messages has begun and removed segments: half a segment's bytes are 20 messages.
const RUN: usize = 80;
/// How long a store may take to open; with a second for a machine that stalls.
const OPEN: Duration = Duration::from_secs(4);

/// Three devices with messages of 6 KB; segments are a 32nd of the store's size.
fn site(device: &str, broker: u16, size: &str) -> String {
    let points: String =
        (0..100).map(|n| format!("p{n:03}_{}: {{holding: 5, type: uint16}}, ", "x".repeat(48))).collect();
    let devices = (1..=3).map(|unit| {
        format!("  d{unit}: {{via: peer, unit_id: {unit}, every: 40ms, budget: 1s, points: {{{points}}}}}\n")
    });
    format!(
        "site: test\nconnections:\n  peer: {{tcp: 127.0.0.1:{device}}}\ndevices:\n{}store: {{size: {size}, sync: 100ms}}\n\
         publish:\n  local: {{mqtt: mqtt://127.0.0.1:{broker}}}\n",
        devices.collect::<String>()
    )
}

/// The gateway, and what goes around it.
struct Bench {
    // Dropped in this order: the folder last.
    tap: Tap,
    broker: Broker,
    _device: Device,
    site: PathBuf,
    state: PathBuf,
    accepted: BTreeSet<Key>,
    folder: Folder,
}

impl Bench {
    fn new(name: &str, size: &str) -> Self {
        let folder = Folder::new(name);
        let device = Device::pymodbus("tcp");
        let broker = Broker::open(&folder);
        let tap = Tap::before(broker.port);
        let site = folder.write("site.yaml", &site(&device.place, tap.port, size));
        let state = folder.path("state");
        Self { tap, broker, _device: device, site, state, accepted: BTreeSet::new(), folder }
    }

    /// The gateway below strace. Signals go to the gateway itself: `-D` makes strace its grandchild. Without `--seccomp-bpf`: with it
    /// only the first call of a thread is met.
    fn traced(&self, syscall: &str, fault: &str) -> Process {
        let mut command = Command::new("strace");
        command.args(["-D", "-f", "-qq", "-o"]).arg(self.folder.path("strace.log"));
        command.args(["-e", &format!("trace={syscall}"), "-e", &format!("inject={syscall}:{fault}")]);
        let gateway = command.arg(taktbus().get_program()).arg("run").arg(&self.site);
        Process::start("taktbus below strace", gateway.arg("--state").arg(&self.state))
    }

    /// A run until enough was delivered. Was it killed before its end?
    fn crashes(&self, syscall: &str, nth: usize) -> bool {
        let before = self.tap.look(|seen| seen.publishes.len());
        let mut gateway = self.traced(syscall, &format!("signal=KILL:when={nth}"));
        let deadline = tokio::time::Instant::now() + 2 * SOON;
        while !gateway.ends_within(Duration::from_millis(20)) {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{syscall} {nth}: stands still\n{}",
                gateway.story()
            );
            if self.tap.look(|seen| is_run(seen, before)) {
                gateway.signal("TERM");
                break;
            }
        }
        !gateway.finish(SOON).success()
    }

    /// What is in the store after a crash is sound, and is owed to the broker from here on.
    fn check(&mut self, what: &str) {
        let (messages, gaps) = waiting_if_any(&self.state);
        assert!(gaps.is_empty(), "{what}: nothing was given up: {gaps:?}");
        self.accepted.extend(messages);
        if self.state.join("store/local").exists() {
            let began = tokio::time::Instant::now();
            let verify = taktbus().args(["store", "verify", "--state"]).arg(&self.state).output().unwrap();
            assert!(verify.status.success(), "{what}: {}", String::from_utf8_lossy(&verify.stdout));
            assert!(began.elapsed() < OPEN, "{what}: opening took {:?}", began.elapsed());
        }
    }

    /// A run without faults: everything accepted arrives, or is named as what a full disk has cost, if it may have been full; and every sequence
    /// number is accounted for.
    fn settle(&self, was_full: bool) {
        let mut gateway = Gateway(start(&self.site, &self.state));
        let deadline = tokio::time::Instant::now() + Duration::from_secs(120);
        loop {
            let mut known = self.tap.look(delivered);
            if was_full {
                known.extend(self.tap.look(|seen| given_up(seen, "disk full")));
            }
            let missing: Vec<_> = self.accepted.difference(&known).collect();
            if missing.is_empty() {
                break;
            }
            let mut story = || {
                format!(
                    "{} missing: {:?}\n{}",
                    missing.len(),
                    &missing[..missing.len().min(40)],
                    gateway.0.story()
                )
            };
            assert!(tokio::time::Instant::now() < deadline, "{}", story());
            std::thread::sleep(Duration::from_millis(200));
        }
        gateway.end();
        let (mut left, gaps) = waiting_if_any(&self.state);
        left.extend(gaps);
        self.tap.look(|seen| {
            left.extend(given_up(seen, ""));
            judge(seen, &self.accepted, &left, 0);
        });
    }
}

/// Has a run delivered enough of its own? `before` counts what was published before it.
fn is_run(seen: &Seen, before: usize) -> bool {
    let own = |publish: &&Publish| publish.acked && !publish.payload.ends_with(b",\"replayed\":true}");
    seen.publishes[before..].iter().filter(own).count() >= RUN
}

/// What acknowledged gap records name, of which the reason is this or any.
fn given_up(seen: &Seen, reason: &str) -> BTreeSet<Key> {
    let acked = seen.publishes.iter().filter(|publish| publish.acked);
    acked.flat_map(|publish| named(publish, reason)).collect()
}

fn named(publish: &Publish, why: &str) -> Vec<Key> {
    let number = |object: &str, name: &str| member(object, name)?.parse::<u64>().ok();
    let named = || {
        let text = std::str::from_utf8(&publish.payload).ok()?;
        let gap = member(text, "gap").filter(|gap| gap.contains(why))?;
        let device = publish.topic.strip_prefix("taktbus/test/")?.to_owned();
        let (epoch, from, to) = (number(text, "epoch")?, number(gap, "from")?, number(gap, "to")?);
        Some((from..=to).map(|seq| (device.clone(), epoch, seq)).collect())
    };
    named().unwrap_or_default()
}

/// Says why not, when this machine does not let a process be traced.
fn can_trace(folder: &Path) -> bool {
    let probe = Command::new("strace")
        .args(["-D", "-f", "-qq", "-o"])
        .arg(folder.join("probe.log"))
        .args(["-e", "trace=fsync", "-e", "inject=fsync:error=EIO:when=1..2", "true"])
        .output();
    let refused = match probe {
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    say(&format!("LEFT OUT: crash points need strace: {refused}"));
    false
}

#[test]
fn a_crash_at_any_system_call_of_the_store_loses_nothing_that_was_accepted() {
    needs!(Pymodbus, Mosquitto);
    let mut bench = Bench::new("crash-points", "8MiB");
    if !can_trace(&bench.folder.path("")) {
        return;
    }
    let mut crashes = Vec::new();
    for syscall in SYSCALLS {
        let (mut nth, mut count) = (1, 0);
        while bench.crashes(syscall, nth) {
            bench.check(&format!("{syscall} {nth}"));
            count += 1;
            // In CI those at powers of two.
            nth = if is_long() { nth + 1 } else { 2 * nth };
        }
        crashes.push((syscall, count));
    }
    say(&format!("crash points: {crashes:?}"));
    assert!(
        crashes.iter().all(|(_, count)| *count > 0),
        "a system call that the store does not use: {crashes:?}"
    );
    bench.settle(false);
}

#[test]
fn system_calls_that_fail_for_a_while_cost_nothing() {
    needs!(Pymodbus, Mosquitto);
    let mut bench = Bench::new("failing-calls", "128MiB");
    if !can_trace(&bench.folder.path("")) {
        return;
    }
    // The first of two calls that fail.
    let firsts: Vec<(&str, usize)> = if is_long() {
        let each = |call| [1, 2, 3, 4, 5, 8, 13, 21, 34].map(|first| (call, first));
        SYSCALLS.into_iter().flat_map(each).collect()
    } else {
        vec![("pwrite64", 3), ("fdatasync", 3), ("rename", 1)]
    };
    // The first two of a thread may be the dynamic loader's.
    let reads: &[usize] = if is_long() { &[3, 4, 5, 8, 13] } else { &[3] };
    // EROFS: the kernel has found an error, and made the file system read-only until somebody mounts it anew.
    for (error, calls) in
        [("EIO", firsts.len()), ("EROFS", if is_long() { 9 } else { 1 }), ("ENOSPC", firsts.len())]
    {
        let mut failed = Vec::new();
        for (syscall, first) in &firsts[..calls] {
            failed.push(fails_for_a_while(&mut bench, syscall, error, *first));
        }
        if error == "EIO" {
            // What the others have left is read.
            failed.extend(reads.iter().map(|first| fails_for_a_while(&mut bench, "pread64", error, *first)));
        }
        let count = failed.iter().filter(|failed| **failed).count();
        say(&format!("{error}: met in {count} of {} runs", failed.len()));
        assert!(is_long() || count == failed.len(), "{error}: {failed:?}");
        bench.settle(error == "ENOSPC");
    }
}

/// Two calls fail. Messages reach the broker meanwhile, and after that the store takes them again: what is sampled while the broker is
/// away survives a kill. Says whether one has failed.
fn fails_for_a_while(bench: &mut Bench, syscall: &str, error: &str, first: usize) -> bool {
    let what = format!("{syscall} {first} {error}");
    let before = bench.tap.look(|seen| seen.publishes.len());
    let mut gateway = bench.traced(syscall, &format!("error={error}:when={first}..{}", first + 1));
    bench.tap.wait(SOON, "messages while the disk fails", |seen| is_run(seen, before));
    bench.broker.kill();
    let known = waiting_if_any(&bench.state).0;
    let deadline = tokio::time::Instant::now() + 2 * SOON;
    // More than was on its way when the broker went.
    while waiting_if_any(&bench.state).0.difference(&known).count() < 100 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{what}: the store takes nothing\n{}",
            gateway.story()
        );
        assert!(!gateway.ends_within(Duration::from_millis(100)), "{what}: it ended\n{}", gateway.story());
    }
    gateway.signal("KILL");
    gateway.finish(SOON);
    bench.accepted.extend(waiting_if_any(&bench.state).0);
    bench.broker.restart();
    std::fs::read_to_string(bench.folder.path("strace.log")).unwrap().contains("(INJECTED)")
}
