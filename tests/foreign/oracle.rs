//! The oracle: it knows how often the devices' registers were read, and what a broker has acknowledged; nothing of the gateway's insides, no sequence
//! number, no store.
//!
//! Each unit's register holds how often it was read. So each number from 1 on must arrive, in order, but for the last moments before a kill.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::SOON;
use crate::broker::Broker;
use crate::folder::Folder;
use crate::gateway::Gateway;
use crate::json::member;
use crate::peers::{Device, needs, say};
use crate::store::{Chance, is_long, start};
use crate::tap::{Seen, Tap};

/// The register that counts its reads.
const COUNTER: u16 = 7;
const UNITS: std::ops::RangeInclusive<u8> = 1..=3;
/// A sample was read and not yet accepted when the process was killed: 200 ms of them, on a machine that other tests keep busy.
const ON_ITS_WAY: u64 = 10;

fn site(device: &str, broker: u16) -> String {
    let devices = UNITS.map(|unit| {
        format!(
            "  d{unit}: {{via: peer, unit_id: {unit}, every: 20ms, budget: 1s, points: {{reads: {{holding: {COUNTER}, type: uint16}}}}}}\n"
        )
    });
    // A read that is given up and repeated would count twice.
    format!(
        "site: test\nconnections:\n  peer: {{tcp: 127.0.0.1:{device}, response_timeout: 20s}}\ndevices:\n{}\
         publish:\n  local: {{mqtt: mqtt://127.0.0.1:{broker}}}\n",
        devices.collect::<String>()
    )
}

/// The numbers of a unit that were acknowledged; and all in the order in which they came, with whether they were replayed.
fn numbers(seen: &Seen, unit: u8) -> (BTreeSet<u64>, Vec<(u64, bool)>) {
    let topic = format!("taktbus/test/d{unit}");
    let mut came = Vec::new();
    let mut acked = BTreeSet::new();
    for publish in seen.publishes.iter().filter(|publish| publish.topic == topic) {
        let text = std::str::from_utf8(&publish.payload).unwrap();
        let number = || member(member(text, "values")?, "reads")?.parse::<u64>().ok();
        let Some(number) = number() else { continue };
        if publish.acked {
            acked.insert(number);
        }
        came.push((number, member(text, "replayed").is_some()));
    }
    (acked, came)
}

#[test]
fn every_read_of_a_register_arrives_through_outages_and_kills() {
    needs!(Pymodbus, Mosquitto);
    let kills = if is_long() { 500 } else { 12 };
    let seed = u64::from(std::process::id()) << 20 | 1;
    let mut chance = Chance(seed);
    let folder = Folder::new("oracle");
    let mut device = Device::pymodbus("tcp");
    device.tell(&format!("count {COUNTER}"));
    let mut broker = Broker::open(&folder);
    let tap = Tap::before(broker.port);
    let path = folder.write("site.yaml", &site(&device.place, tap.port));
    let state = folder.path("state");
    let mut ends = BTreeMap::<u8, Vec<u64>>::new();
    let mut is_away = false;
    for _ in 0..kills {
        let mut gateway = start(&path, &state);
        for _ in 0..chance.below(3) {
            std::thread::sleep(Duration::from_millis(chance.below(700)));
            match is_away {
                true => broker.restart(),
                false => broker.kill(),
            }
            is_away = !is_away;
        }
        std::thread::sleep(Duration::from_millis(chance.below(700)));
        gateway.signal("KILL");
        gateway.finish(SOON);
        for unit in UNITS {
            ends.entry(unit).or_default().push(device.reads(unit));
        }
    }
    if is_away {
        broker.restart();
    }
    let gateway = Gateway(start(&path, &state));
    // Less than there was before the last kill can't be all.
    tap.wait(4 * SOON, "everything", |seen| {
        UNITS.into_iter().all(|unit| {
            let (acked, _) = numbers(seen, unit);
            let last = ends[&unit][kills - 1];
            acked.range(last..).count() > 20 && missing(&acked, last, &ends[&unit]).is_empty()
        })
    });
    gateway.end();
    let mut total = 0;
    for unit in UNITS {
        let (reads, (acked, came)) = (device.reads(unit), tap.look(|seen| numbers(seen, unit)));
        assert!(reads < 0x10000, "the register has come to its end");
        assert_eq!(missing(&acked, reads, &ends[&unit]), [0; 0], "of unit {unit}, of {reads} (seed {seed})");
        assert!(
            acked.iter().all(|number| (1..=reads).contains(number)),
            "unit {unit}: never read (seed {seed})"
        );
        let (mut known, mut last) = (BTreeSet::new(), BTreeMap::new());
        for (number, replayed) in came.into_iter().filter(|(number, _)| known.insert(*number)) {
            // What is live goes before what is replayed, and a run's own before that of earlier ones.
            let run = ends[&unit].partition_point(|end| *end < number);
            let before = last.insert((run, replayed), number);
            assert!(before < Some(number), "unit {unit}: {number} came after {before:?} (seed {seed})");
        }
        total += reads;
    }
    say(&format!(
        "the oracle: {total} reads, {kills} kills: each read arrived but for some in the last moment before a kill"
    ));
}

/// What did not arrive of `1..=last`, but for what was on its way when the process was killed.
fn missing(acked: &BTreeSet<u64>, last: u64, ends: &[u64]) -> Vec<u64> {
    let on_its_way = |number: &u64| {
        // All from there to the end: what was accepted was accepted in order.
        ends.iter().any(|end| {
            *number <= *end && *number + ON_ITS_WAY > *end && acked.range(*number..=*end).next().is_none()
        })
    };
    (1..=last).filter(|number| !acked.contains(number) && !on_its_way(number)).collect()
}
