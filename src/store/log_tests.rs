//! The log against a model, on a disk that crashes, loses power, flips bits and fails.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::disk::Disk;
use super::memory::{Fault, Memory};
use super::*;
use crate::metrics::RouteMetrics;
use crate::model::gaps::{GapId, Gaps};

mod damage;

const SIZE: u64 = 8 << 20;
/// Three segments.
const SMALL: u64 = 1 << 20;

fn settings(size: u64) -> Settings {
    Settings { size, age: None, sync: Duration::from_secs(1) }
}

fn open(disk: &Memory, size: u64) -> (Log<Memory>, Opened) {
    Log::open(disk.clone(), settings(size), Arc::new(RouteMetrics::default())).unwrap()
}

fn message(position: u64, epoch: u64, device: u64, seq: u64, length: usize) -> Stored {
    let device: Arc<str> = format!("d{device}").into();
    let payload =
        format!(r#"{{"device":"{device}","epoch":{epoch},"seq":{seq},"fill":"{}"}}"#, "x".repeat(length));
    let topic = format!("t/{device}").into();
    Stored {
        position,
        epoch,
        seq,
        at: 1_000,
        doubted: None,
        late: OnLate::Deliver,
        device,
        topic,
        payload: payload.into(),
    }
}

/// What a forwarder would have done, and what it must get back.
struct Model {
    disk: Memory,
    log: Log<Memory>,
    size: u64,
    now: Instant,
    epoch: u64,
    next: u64,
    seqs: [u64; 3],
    /// Everything that was ever appended, by position.
    appended: BTreeMap<u64, Stored>,
    settled: BTreeSet<u64>,
    accepted: u64,
    durable: u64,
    gaps: Gaps,
    /// What was handed out in this run.
    handed: Vec<Stored>,
    recovered: bool,
    /// A disk that can't be read is well again after it has been left alone so often.
    heals_after: u32,
}

impl Model {
    fn new(size: u64) -> Self {
        let disk = Memory::default();
        let (log, opened) = open(&disk, size);
        let mut model = Self {
            disk,
            log,
            size,
            now: Instant::now(),
            epoch: 1,
            next: opened.next,
            seqs: [0; 3],
            appended: BTreeMap::new(),
            settled: BTreeSet::new(),
            accepted: 0,
            durable: 0,
            gaps: Gaps::default(),
            handed: Vec::new(),
            recovered: false,
            heals_after: 0,
        };
        model.start();
        model
    }

    fn start(&mut self) {
        self.log.start(self.epoch, self.now);
        while self.log.is_recovering() {
            if self.log.may_read(self.now) {
                self.log.recover_one(self.now);
            } else {
                self.rest();
            }
        }
        self.turn();
    }

    fn rest(&mut self) {
        self.now = self.log.due().unwrap();
        match self.heals_after.checked_sub(1) {
            Some(left) => self.heals_after = left,
            None => self.disk.fail(0, None),
        }
    }

    fn turn(&mut self) {
        loop {
            let events = self.log.turn(self.now);
            if events.is_empty() {
                break;
            }
            events.into_iter().for_each(|event| self.hear(event));
        }
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Accepted(below) => self.accepted = below,
            Event::Recovered { gaps, .. } => {
                self.recovered = true;
                gaps.into_iter().for_each(|gap| self.gaps.add(gap));
            }
            Event::Block { messages, .. } => {
                self.handed.extend(messages.into_iter().map(|(stored, _)| stored))
            }
            Event::GivenUp { gaps, .. } => gaps.into_iter().for_each(|gap| self.gaps.add(gap)),
            Event::Shed { upto, .. } => {
                // What was handed out is delivered by then.
                let held = self.handed.iter().map(|stored| stored.position);
                for position in held.filter(|position| *position <= upto) {
                    self.settled.insert(position);
                    self.log.apply(Op::Settled(position, position));
                }
                self.log.apply(Op::Shed(upto));
            }
        }
    }

    fn append(&mut self, device: usize, length: usize) {
        let stored = message(self.next, self.epoch, device as u64, self.seqs[device], length);
        self.next += 1;
        self.seqs[device] += 1;
        self.appended.insert(stored.position, stored.clone());
        self.log.apply(Op::Append(stored));
    }

    fn settle(&mut self, which: usize) {
        let open: Vec<u64> = self
            .appended
            .keys()
            .filter(|p| !self.settled.contains(p) && **p < self.accepted)
            .copied()
            .collect();
        if !open.is_empty() {
            let position = open[which % open.len()];
            self.settled.insert(position);
            self.log.apply(Op::Settled(position, position));
        }
    }

    fn sync(&mut self) {
        self.turn();
        self.now += Duration::from_secs(3);
        self.turn();
        self.durable = self.accepted;
    }

    fn restart(&mut self, disk: Memory) {
        self.disk = disk;
        self.reopen(None);
    }

    /// Another run on the same disk, which refuses to be read after so many operations.
    fn reopen(&mut self, refuses_after: Option<u32>) {
        self.disk.fail(refuses_after.unwrap_or(0), refuses_after.map(|_| Fault::Read));
        let opened = Log::open(self.disk.clone(), settings(self.size), Arc::new(RouteMetrics::default()));
        let (log, opened) = opened.unwrap_or_else(|_| {
            self.disk.fail(0, None);
            open(&self.disk, self.size)
        });
        (self.log, self.next) = (log, opened.next);
        self.epoch = opened.last_epoch.max(self.epoch) + 1;
        self.seqs = [0; 3];
        self.gaps = Gaps::default();
        self.handed.clear();
        (self.accepted, self.recovered) = (opened.next, false);
        self.start();
        assert!(self.recovered);
    }

    fn read_all(&mut self) {
        loop {
            let before = self.handed.len();
            self.log.apply(Op::Read(10_000));
            self.turn();
            if !self.log.may_read(self.now) {
                self.rest();
            } else if self.handed.len() == before {
                break;
            }
        }
    }

    fn in_gaps(&self, stored: &Stored) -> bool {
        self.gaps.iter().any(|gap| covers(&gap.id, stored))
    }

    /// Nothing is handed out that was not appended just so, in order and once; and nothing is missing below `kept`.
    fn check(&self, kept: u64) {
        let mut last = None;
        for stored in &self.handed {
            assert!(last < Some(stored.position), "{} after {last:?}", stored.position);
            last = Some(stored.position);
            assert_eq!(self.appended.get(&stored.position), Some(stored));
            assert!(!self.in_gaps(stored), "{stored:?} is in a gap");
        }
        let handed: BTreeSet<u64> = self.handed.iter().map(|stored| stored.position).collect();
        for (position, stored) in self.appended.range(..kept) {
            let fine = handed.contains(position) || self.settled.contains(position) || self.in_gaps(stored);
            assert!(fine, "{stored:?} is lost; gaps: {:?}", self.gaps.iter().collect::<Vec<_>>());
        }
    }
}

fn covers(id: &GapId, stored: &Stored) -> bool {
    id.device == stored.device && id.epoch == stored.epoch && (id.from..=id.to).contains(&stored.seq)
}

#[derive(Clone, Debug)]
enum Act {
    Append(usize, usize),
    Settle(usize),
    Turn,
    Sync,
    Kill,
    Cut(u64),
    Fault(u32, Option<Fault>),
}

/// After so many operations the disk refuses something, or nothing any more.
fn refusal() -> impl Strategy<Value = Act> {
    let fault = prop_oneof![Just(Fault::Full), Just(Fault::Write), Just(Fault::Unsynced)];
    (0u32..8, prop::option::of(fault)).prop_map(|(after, fault)| Act::Fault(after, fault))
}

fn act(cuts: bool) -> impl Strategy<Value = Act> {
    let length = prop_oneof![8 => 0usize..400, 1 => 60_000usize..70_000, 1 => 1000usize..100_000];
    prop_oneof![
        12 => (0usize..3, length).prop_map(|(device, length)| Act::Append(device, length)),
        6 => any::<usize>().prop_map(Act::Settle),
        6 => Just(Act::Turn),
        2 => Just(Act::Sync),
        1 => any::<u64>().prop_map(move |seed| if cuts { Act::Cut(seed) } else { Act::Kill }),
    ]
}

fn coin(mut seed: u64) -> impl FnMut() -> bool {
    seed |= 1;
    move || {
        // xorshift64
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed & 2 == 0
    }
}

/// `TAKTBUS_HISTORIES=10000` makes it that many.
fn cases(usual: u32) -> ProptestConfig {
    let wanted = std::env::var("TAKTBUS_HISTORIES").ok().and_then(|count| count.parse().ok());
    ProptestConfig::with_cases(wanted.unwrap_or(usual))
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn after_a_kill_everything_accepted_is_there(acts in prop::collection::vec(act(false), 1..120)) {
        let mut model = Model::new(32 << 20);
        for act in acts {
            match act {
                Act::Append(device, length) => model.append(device, length),
                Act::Settle(which) => model.settle(which),
                Act::Turn => model.turn(),
                Act::Sync => model.sync(),
                Act::Fault(after, fault) => model.disk.fail(after, fault),
                Act::Kill | Act::Cut(_) => {
                    let kept = model.accepted;
                    let disk = model.disk.killed();
                    model.appended.retain(|position, _| *position < kept);
                    model.restart(disk);
                    model.read_all();
                    model.check(kept);
                }
            }
        }
        model.turn();
        let (kept, disk) = (model.accepted, model.disk.killed());
        model.appended.retain(|position, _| *position < kept);
        model.restart(disk);
        model.read_all();
        model.check(kept);
    }

    #[test]
    fn a_disk_that_refuses_and_a_kill_cost_nothing_that_was_accepted(
        acts in prop::collection::vec(prop_oneof![4 => act(false), 1 => refusal()], 1..120),
        size in prop_oneof![Just(32 << 20), Just(SMALL)],
    ) {
        let mut model = Model::new(size);
        for act in acts.into_iter().chain([Act::Turn, Act::Kill]) {
            match act {
                Act::Append(device, length) => model.append(device, length),
                Act::Settle(which) => model.settle(which),
                Act::Turn => model.turn(),
                Act::Sync => model.sync(),
                // With no room at all the oldest goes before its gap record can be written.
                Act::Fault(_, Some(Fault::Full)) if size == SMALL => {}
                Act::Fault(after, fault) => model.disk.fail(after, fault),
                Act::Kill | Act::Cut(_) => {
                    let kept = model.accepted;
                    model.disk.fail(0, None);
                    let disk = model.disk.killed();
                    model.restart(disk);
                    let next = model.next;
                    prop_assert!(next >= kept);
                    model.read_all();
                    prop_assert!(model.gaps.iter().all(|gap| ["disk full", "store full"].contains(&&*gap.reason)));
                    model.check(kept);
                    let there: BTreeSet<u64> = model.handed.iter().map(|stored| stored.position).collect();
                    let settled = model.settled.clone();
                    model.appended.retain(|p, _| *p < next && (there.contains(p) || settled.contains(p)));
                }
            }
        }
    }

    #[test]
    fn after_a_power_cut_everything_durable_is_there(acts in prop::collection::vec(act(true), 1..120)) {
        let mut model = Model::new(32 << 20);
        for act in acts.into_iter().chain([Act::Turn, Act::Cut(3)]) {
            match act {
                Act::Append(device, length) => model.append(device, length),
                Act::Settle(which) => model.settle(which),
                Act::Turn => model.turn(),
                Act::Sync => model.sync(),
                Act::Fault(after, fault) => model.disk.fail(after, fault),
                Act::Kill | Act::Cut(_) => {
                    let Act::Cut(seed) = act else { unreachable!() };
                    let kept = model.durable;
                    let disk = model.disk.cut(coin(seed));
                    model.restart(disk);
                    // Positions of the tail that is gone are given again.
                    let next = model.next;
                    model.read_all();
                    model.check(kept);
                    let there: BTreeSet<u64> = model.handed.iter().map(|stored| stored.position).collect();
                    let settled = model.settled.clone();
                    model.appended.retain(|p, _| *p < next && (*p < kept || there.contains(p) || settled.contains(p)));
                    model.settled.retain(|position| *position < next);
                    model.durable = kept.min(next);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn a_disk_that_fails_for_a_while_costs_nothing(
        count in 20usize..120,
        after in 0u32..60,
        fault in prop_oneof![Just(Fault::Full), Just(Fault::Write), Just(Fault::Sync)],
        heals in 1usize..60,
        syncs in 1usize..20,
    ) {
        let mut model = Model::new(32 << 20);
        model.disk.fail(after, Some(fault));
        for i in 0..count {
            model.append(i % 3, (i * 997) % 20_000);
            if i % syncs == 0 { model.sync() } else { model.turn() }
            if i == heals {
                model.disk.fail(0, None);
            }
        }
        model.disk.fail(0, None);
        model.now += Duration::from_secs(60);
        model.sync();
        prop_assert_eq!(model.accepted, count as u64);
        let disk = model.disk.cut(|| false);
        model.restart(disk);
        model.read_all();
        prop_assert_eq!(model.handed.len(), count);
        model.check(u64::MAX);
    }
}

#[test]
fn a_message_that_is_written_again_is_done_with_once() {
    let (disk, metrics) = (Memory::default(), Arc::new(RouteMetrics::default()));
    let (mut log, opened) = Log::open(disk.clone(), settings(SIZE), Arc::clone(&metrics)).unwrap();
    let mut now = Instant::now();
    log.start(1, now);
    let (mut told, mut done, mut failed) = (0, 0, Vec::new());
    for round in 0..4 {
        disk.fail(0, [1, 2].contains(&round).then_some(Fault::Sync));
        for seq in round * 5..round * 5 + 5 {
            let op = Op::Append(message(opened.next + seq, 1, 0, seq, 300));
            told += op.bytes();
            log.apply(op);
        }
        // The first writes, and the second syncs what the first has written.
        for _ in 0..2 {
            now += Duration::from_secs(3);
            log.turn(now);
            done += log.take_done();
            assert!(done <= told, "{done} of {told} bytes in round {round}");
        }
        failed.push(metrics.store_failing.get());
    }
    assert_eq!((done, failed), (told, vec![0, 1, 1, 0]));
    // Each is there, and once, though it was written twice.
    let mut model = Model::new(SIZE);
    model.restart(disk.cut(|| false));
    model.read_all();
    let positions = model.handed.iter().map(|stored| stored.position);
    assert!(positions.eq(opened.next..opened.next + 20));
}

#[test]
fn a_full_store_gives_up_its_oldest_and_says_which() {
    let mut model = Model::new(SIZE);
    for i in 0..30_000 {
        model.append(i % 3, 500);
        if i % 50 == 0 {
            model.turn();
        }
        if i % 1000 == 0 {
            model.sync();
        }
    }
    model.sync();
    let bytes: usize = model.disk.list().unwrap().len() * 256 * 1024;
    assert!(bytes as u64 <= SIZE + 4 * 256 * 1024, "{bytes}");
    let disk = model.disk.killed();
    model.restart(disk);
    model.read_all();
    let given_up = model.gaps.iter().map(|gap| gap.id.to - gap.id.from + 1).sum::<u64>();
    assert!((10_000..25_000).contains(&given_up), "{given_up}");
    assert_eq!((model.handed.len() as u64 + given_up, model.appended.len()), (30_000, 30_000), "{given_up}");
    model.check(u64::MAX);
}

#[test]
fn delivered_segments_are_used_again() {
    let mut model = Model::new(SIZE);
    for i in 0..20_000u64 {
        model.append(0, 500);
        if i % 50 == 0 {
            model.turn();
            model.log.apply(Op::Settled(0, i));
            model.settled.extend(0..=i);
        }
        if i % 500 == 0 {
            model.sync();
        }
    }
    model.sync();
    let files = model.disk.list().unwrap();
    assert!(files.len() <= 4, "{files:?}");
    assert!(model.gaps.is_empty());
}

#[test]
fn what_was_released_comes_back_in_order_with_its_marks() {
    let mut model = Model::new(SIZE);
    for _ in 0..10 {
        model.append(0, 10);
    }
    model.turn();
    for position in [3, 4, 8] {
        model.log.apply(Op::Released(position));
    }
    model.log.apply(Op::Marked(5, Marks { late_ms: Some(42), ..Marks::default() }));
    let stamps = [(6, Restamp::Unsynced), (7, Restamp::Moved(-3)), (9, Restamp::Unsynced)];
    for (position, stamp) in stamps {
        model.log.apply(Op::Marked(position, Marks { stamp: Some(stamp), ..Marks::default() }));
    }
    model.log.apply(Op::Settled(0, 2));
    model.read_all();
    assert_eq!(model.handed.iter().map(|stored| stored.position).collect::<Vec<_>>(), [3, 4, 8]);
    model.sync();
    let disk = model.disk.killed();
    let (mut log, opened) = open(&disk, SIZE);
    assert_eq!(opened, Opened { next: 10, last_epoch: 1 });
    log.start(2, model.now);
    while log.is_recovering() {
        log.recover_one(Instant::now());
    }
    log.apply(Op::Read(1 << 20));
    let block = log.turn(model.now).into_iter().find_map(|event| match event {
        Event::Block { messages, .. } => Some(messages),
        _ => None,
    });
    let block = block.unwrap();
    let stamped = block.iter().filter_map(|(stored, marks)| Some((stored.position, marks.stamp?)));
    assert!(stamped.eq(stamps));
    let marks: Vec<(u64, bool, Option<u64>)> =
        block.iter().map(|(stored, marks)| (stored.position, marks.replayed, marks.late_ms)).collect();
    let plain = |position| (position, false, None);
    let replayed = |position| (position, true, None);
    assert_eq!(
        marks,
        [replayed(3), replayed(4), (5, false, Some(42)), plain(6), plain(7), replayed(8), plain(9)]
    );
}

#[test]
fn starting_again_and_again_in_an_outage_does_not_fill_a_store() {
    let mut disk = Memory::default();
    for run in 0..100 {
        let (mut log, opened) = open(&disk, SIZE);
        assert_eq!(opened.next, run * 3);
        log.start(run + 1, Instant::now());
        while log.is_recovering() {
            log.recover_one(Instant::now());
        }
        (0..3).for_each(|i| log.apply(Op::Append(message(run * 3 + i, run + 1, 0, i, 100))));
        let events = log.turn(Instant::now());
        assert!(!events.iter().any(|event| matches!(event, Event::Shed { .. })), "{events:?}");
        disk = disk.killed();
    }
    let (mut log, _) = open(&disk, SIZE);
    log.start(101, Instant::now());
    while log.is_recovering() {
        log.recover_one(Instant::now());
    }
    let events = log.turn(Instant::now());
    let waiting = events.iter().find_map(|event| match event {
        Event::Recovered { messages, gaps } => Some((*messages, gaps.len())),
        _ => None,
    });
    assert_eq!(waiting, Some((300, 0)));
}

#[test]
fn gaps_are_owed_until_their_record_is_acknowledged() {
    let mut model = Model::new(SIZE);
    let gap = |from, to| {
        let id = GapId { epoch: 1, device: "d0".into(), from, to };
        Gap { id, topic: "t/d0".into(), reason: "late".into() }
    };
    model.append(0, 10);
    model.append(0, 10);
    model.turn();
    model.log.apply(Op::GivenUp(Some(0), gap(0, 0)));
    model.log.apply(Op::GivenUp(Some(1), gap(1, 1)));
    model.sync();
    let disk = model.disk.killed();
    model.restart(disk);
    assert_eq!(model.gaps.iter().collect::<Vec<_>>(), [gap(0, 1)]);
    model.log.apply(Op::GapPublished(gap(0, 1).id));
    model.sync();
    let disk = model.disk.killed();
    model.restart(disk);
    assert!(model.gaps.is_empty());
    model.read_all();
    assert!(model.handed.is_empty());
}
