//! Crash points by `strace -e inject`: the real program is killed at the n-th write, fdatasync, fsync, rename, unlink and fallocate of a
//! thread.
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
use crate::tap::{Seen, Tap};

/// What a store asks of the kernel.
const SYSCALLS: [&str; 6] = ["pwrite64", "fdatasync", "fsync", "rename", "unlink", "fallocate"];
/// A run that has delivered so many messages has begun and removed segments: half a segment's bytes are 20 messages.
const RUN: usize = 80;
/// How long a store may take to open; with a second for a machine that stalls.
const OPEN: Duration = Duration::from_secs(4);

/// Three devices with messages of 6 KB, and segments of 256 KiB.
fn site(device: &str, broker: u16) -> String {
    let points: String =
        (0..100).map(|n| format!("p{n:03}_{}: {{holding: 5, type: uint16}}, ", "x".repeat(48))).collect();
    let devices = (1..=3).map(|unit| {
        format!("  d{unit}: {{via: peer, unit_id: {unit}, every: 40ms, budget: 1s, points: {{{points}}}}}\n")
    });
    format!(
        "site: test\nconnections:\n  peer: {{tcp: 127.0.0.1:{device}}}\ndevices:\n{}store: {{size: 8MiB, sync: 100ms}}\n\
         publish:\n  local: {{mqtt: mqtt://127.0.0.1:{broker}}}\n",
        devices.collect::<String>()
    )
}

/// The gateway, and what goes around it.
struct Bench {
    // Dropped in this order: the folder last.
    tap: Tap,
    _broker: Broker,
    _device: Device,
    site: PathBuf,
    state: PathBuf,
    accepted: BTreeSet<Key>,
    folder: Folder,
}

impl Bench {
    fn new(name: &str) -> Self {
        let folder = Folder::new(name);
        let device = Device::pymodbus("tcp");
        let broker = Broker::open(&folder);
        let tap = Tap::before(broker.port);
        let site = folder.write("site.yaml", &site(&device.place, tap.port));
        let state = folder.path("state");
        Self { tap, _broker: broker, _device: device, site, state, accepted: BTreeSet::new(), folder }
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
        let before = self.tap.look(Seen::acked);
        let mut gateway = self.traced(syscall, &format!("signal=KILL:when={nth}"));
        let deadline = tokio::time::Instant::now() + 2 * SOON;
        while !gateway.ends_within(Duration::from_millis(20)) {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{syscall} {nth}: stands still\n{}",
                gateway.story()
            );
            if self.tap.look(Seen::acked) >= before + RUN {
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

    /// A last run without faults: everything accepted arrives, and every sequence number is accounted for.
    fn settle(&self) {
        let gateway = Gateway(start(&self.site, &self.state));
        self.tap.wait(Duration::from_secs(120), "everything accepted", |seen| {
            let delivered = delivered(seen);
            self.accepted.iter().all(|key| delivered.contains(key))
        });
        gateway.end();
        let (mut left, gaps) = waiting_if_any(&self.state);
        left.extend(gaps);
        self.tap.look(|seen| {
            left.extend(seen.publishes.iter().filter(|publish| publish.acked).flat_map(given_up));
            judge(seen, &self.accepted, &left, 0);
        });
    }
}

/// What a gap record that was acknowledged names.
fn given_up(publish: &crate::tap::Publish) -> Vec<Key> {
    let number = |object: &str, name: &str| member(object, name)?.parse::<u64>().ok();
    let named = || {
        let text = std::str::from_utf8(&publish.payload).ok()?;
        let gap = member(text, "gap")?;
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
    let mut bench = Bench::new("crash-points");
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
    bench.settle();
}
