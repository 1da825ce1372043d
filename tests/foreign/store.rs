//! `kill -9` at any moment: what was accepted arrives, in order, and a copy is the same to the byte.
//!
//! The witnesses: the tap before the broker, and a second reader of the store's files, in Python, made from their specification.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::SOON;
use crate::broker::Broker;
use crate::folder::Folder;
use crate::gateway::{Gateway, taktbus};
use crate::json::member;
use crate::peers::{Device, needs};
use crate::process::Process;
use crate::tap::{Seen, Tap};

/// Kills in CI, and in a long run (TAKTBUS_LONG=1).
const KILLS: (usize, usize) = (100, 2000);

/// Is it a long run?
pub fn is_long() -> bool {
    std::env::var("TAKTBUS_LONG").is_ok_and(|long| long == "1")
}

pub fn site(device: &str, broker: u16) -> String {
    let devices = (1..=3).map(|unit| {
        format!(
            "  d{unit}: {{via: peer, unit_id: {unit}, every: 20ms, budget: 100ms, \
             points: {{speed: {{holding: 5, type: uint16}}}}}}\n"
        )
    });
    format!(
        "site: test\nconnections:\n  peer: {{tcp: 127.0.0.1:{device}}}\ndevices:\n{}\
         publish:\n  local: {{mqtt: mqtt://127.0.0.1:{broker}}}\n",
        devices.collect::<String>()
    )
}

pub fn start(site: &Path, state: &Path) -> Process {
    Process::start("taktbus", taktbus().arg("run").arg(site).arg("--state").arg(state))
}

/// What waits in the store, by the second reader: device, epoch, seq; and the gaps that are owed.
fn waiting(state: &Path) -> (BTreeSet<Key>, BTreeSet<Key>) {
    let store = state.join("store/local");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store_reader.py");
    let output = Command::new("python3").arg(script).arg(&store).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (mut messages, mut gaps) = (BTreeSet::new(), BTreeSet::new());
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let json: serde_json::Value = serde_json::from_str(line).unwrap();
        let number = |key: &str| json[key].as_u64();
        let key = |seq| (json["device"].as_str().unwrap().to_string(), number("epoch").unwrap(), seq);
        match (number("seq"), number("gap")) {
            (Some(seq), _) => messages.insert(key(seq)),
            (_, Some(seq)) => gaps.insert(key(seq)),
            _ => panic!("{line}"),
        };
    }
    (messages, gaps)
}

/// Device, epoch, sequence number.
pub type Key = (String, u64, u64);

/// xorshift64: the moments are others each time, and the seed is told.
pub struct Chance(pub u64);

impl Chance {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

#[test]
fn kills_at_any_moment_lose_nothing_that_was_accepted() {
    needs!(Pymodbus, Mosquitto);
    let kills = if is_long() { KILLS.1 } else { KILLS.0 };
    let seed = u64::from(std::process::id()) << 20 | 1;
    let mut chance = Chance(seed);
    let folder = Folder::new("killed");
    let device = Device::pymodbus("tcp");
    let mut broker = Broker::open(&folder);
    let tap = Tap::before(broker.port);
    let site = folder.write("site.yaml", &site(&device.place, tap.port));
    let state = folder.path("state");
    let mut accepted = BTreeSet::new();
    let mut is_away = false;
    for kill in 0..kills {
        // Away for a third of the kills; back, with a backlog to drain, for the others.
        let away = kill / 5 % 3 == 1;
        if away != is_away {
            if away {
                broker.kill()
            } else {
                broker.restart()
            }
            is_away = away;
        }
        let mut gateway = start(&site, &state);
        // A third while it starts. There is nothing to wait for: the moment is to be any.
        let within = if kill % 3 == 0 { 80 } else { 600 };
        std::thread::sleep(Duration::from_millis(chance.below(within)));
        gateway.signal("KILL");
        gateway.finish(SOON);
        if kill % 10 == 9 || away {
            let (messages, gaps) = waiting_if_any(&state);
            accepted.extend(messages);
            assert!(gaps.is_empty(), "nothing was given up: {gaps:?} (seed {seed})");
        }
    }
    if is_away {
        broker.restart();
    }
    let gateway = Gateway(start(&site, &state));
    let last = accepted.clone();
    tap.wait(Duration::from_secs(120), "everything accepted", |seen| {
        let delivered = delivered(seen);
        last.iter().all(|key| delivered.contains(key))
    });
    gateway.end();
    let (left, gaps) = waiting(&state);
    assert!(gaps.is_empty(), "{gaps:?}");
    assert!(accepted.len() > 100, "{} messages waited at a kill", accepted.len());
    tap.look(|seen| judge(seen, &accepted, &left, seed));
}

pub fn waiting_if_any(state: &Path) -> (BTreeSet<Key>, BTreeSet<Key>) {
    // Killed before it made one.
    if state.join("store/local").exists() { waiting(state) } else { Default::default() }
}

fn key_of(payload: &[u8], topic: &str) -> Option<Key> {
    let text = std::str::from_utf8(payload).ok()?;
    let device =
        topic.strip_prefix("taktbus/test/").filter(|device| !device.contains('/') && *device != "status")?;
    let number = |name: &str| member(text, name).and_then(|n| n.parse::<u64>().ok());
    Some((device.to_owned(), number("epoch")?, number("seq")?))
}

pub fn delivered(seen: &Seen) -> BTreeSet<Key> {
    let acked = seen.publishes.iter().filter(|publish| publish.acked);
    acked.filter_map(|publish| key_of(&publish.payload, &publish.topic)).collect()
}

/// Every sequence number up to the last one that was accepted or acknowledged by the broker was acknowledged, or waits; the
/// first copies came in order; all copies are the same.
pub fn judge(seen: &Seen, accepted: &BTreeSet<Key>, left: &BTreeSet<Key>, seed: u64) {
    let delivered = delivered(seen);
    let mut highest = BTreeMap::<(String, u64), u64>::new();
    for (device, epoch, seq) in delivered.iter().chain(accepted) {
        let top = highest.entry((device.clone(), *epoch)).or_default();
        *top = (*seq).max(*top);
    }
    let mut copies = BTreeMap::<Key, &[u8]>::new();
    let mut last = BTreeMap::<(String, u64, bool), u64>::new();
    for publish in &seen.publishes {
        let Some(key) = key_of(&publish.payload, &publish.topic) else { continue };
        let (device, epoch, seq) = key.clone();
        if let Some(first) = copies.get(&key) {
            let texts = [*first, &publish.payload[..]].map(String::from_utf8_lossy);
            assert_eq!(texts[0], texts[1], "a copy differs (seed {seed})");
            continue;
        }
        copies.insert(key, &publish.payload);
        let replayed = publish.payload.ends_with(b",\"replayed\":true}");
        let before = last.insert((device.clone(), epoch, replayed), seq);
        assert!(before < Some(seq), "{device} {epoch} {seq} came after {before:?} (seed {seed})");
    }
    for ((device, epoch), top) in highest {
        for seq in 0..=top {
            let key = (device.clone(), epoch, seq);
            assert!(
                delivered.contains(&key) || left.contains(&key),
                "{key:?} of {top} is lost (seed {seed})"
            );
        }
    }
}

#[test]
fn a_second_gateway_does_not_touch_the_first_ones_store() {
    needs!(Pymodbus, Mosquitto);
    let folder = Folder::new("second-gateway");
    let device = Device::pymodbus("tcp");
    let broker = Broker::open(&folder);
    let tap = Tap::before(broker.port);
    let site = folder.write("site.yaml", &site(&device.place, tap.port));
    let state = folder.path("state");
    let gateway = Gateway(start(&site, &state));
    tap.wait(SOON, "messages", |seen| seen.acked() >= 10);
    let second = taktbus().arg("run").arg(&site).arg("--state").arg(&state).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another gateway has it open"));
    gateway.end();
}
