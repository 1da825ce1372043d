//! From the pipeline through forwarder and store to the far side, over several runs that end in a kill or a power cut; what the far side has
//! seen is judged by someone who knows nothing of how it came.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::far_side::{FarSide, Seen};
use super::{Durability, Settings, run};
use crate::budget::OnLate;
use crate::metrics::{Current, DeviceMetrics, RouteMetrics};
use crate::model::clock::{self, Standing};
use crate::model::message::{Kind, Message, Sampled};
use crate::store::memory::{Fault, Memory};
use crate::store::{Log, connected, serve};

const BUDGET: Duration = Duration::from_millis(30);
const SYNC: Duration = Duration::from_millis(100);

/// How a run goes.
#[derive(Clone, Debug)]
struct Run {
    /// Milliseconds between samples, and of which device.
    samples: Vec<(u64, usize)>,
    /// Milliseconds that the far side is away and there, in turn.
    turns: Vec<u64>,
    latency: u64,
    /// The end: a power cut with this seed, or a kill.
    cut: Option<u64>,
    /// When the disk refuses something, for how long, and what.
    refusals: Vec<(u64, u64, Fault)>,
}

fn refusals() -> impl Strategy<Value = Vec<(u64, u64, Fault)>> {
    let fault =
        prop::sample::select(&[Fault::Full, Fault::Write, Fault::Sync, Fault::Unsynced, Fault::Read][..]);
    prop::collection::vec((0u64..600, 1u64..3000, fault), 1..4)
}

fn a_run() -> impl Strategy<Value = Run> {
    let samples = prop::collection::vec((0u64..12, 0usize..3), 0..120);
    let turns = prop::collection::vec(0u64..400, 0..6);
    (samples, turns, 0u64..20, prop::option::of(any::<u64>()))
        .prop_map(|(samples, turns, latency, cut)| Run { samples, turns, latency, cut, refusals: vec![] })
}

/// What was sampled: payload without marks, when, and what may become of it.
struct Made {
    at: Instant,
    late: OnLate,
}

/// Everything that happened.
struct World {
    disk: Memory,
    arrived: Seen,
    acked: Seen,
    /// By device, epoch and sequence number.
    made: BTreeMap<(String, u64, u64), Made>,
    durability: Durability,
    clock: u64,
    had_cuts: bool,
    /// Bytes of the store, and of what makes each message longer.
    size: u64,
    fill: usize,
}

const POLICIES: [OnLate; 3] = [OnLate::Deliver, OnLate::Drop, OnLate::Store];

impl World {
    /// One run. What must have survived it: everything that was made before this moment.
    async fn run(&mut self, plan: &Run, last: bool) -> Instant {
        let metrics = Arc::new(RouteMetrics {
            devices: Current::new(
                (0..3).map(|i| Arc::new(DeviceMetrics::new(format!("d{i}")))).collect::<Vec<_>>(),
            ),
            ..RouteMetrics::default()
        });
        let settings = crate::store::Settings { size: self.size, age: None, sync: SYNC };
        let (log, opened) = Log::open(self.disk.clone(), settings, metrics.clone()).unwrap();
        self.clock += 1;
        let epoch = self.clock.max(opened.last_epoch + 1);
        self.clock = epoch;
        let (handle, ends) = connected();
        let store = tokio::spawn(serve(log, epoch, ends));
        let broker =
            FarSide::new(epoch, &plan.turns, plan.latency, last, (self.arrived.clone(), self.acked.clone()));
        let settings = Settings {
            site: "x".into(),
            epoch,
            backlog_bytes: 1 << 20,
            durability: self.durability,
            opened: Some(opened),
            offline: None,
        };
        let (sender, receiver) = mpsc::channel(64);
        let stop = CancellationToken::new();
        let forwarder =
            tokio::spawn(run(broker, receiver, Some(handle), settings, metrics.clone(), stop.clone()));
        let (disk, refusals) = (self.disk.clone(), plan.refusals.clone());
        let faults = tokio::spawn(async move {
            for (from, long, fault) in refusals {
                sleep(Duration::from_millis(from)).await;
                disk.fail(0, Some(fault));
                sleep(Duration::from_millis(long)).await;
                disk.fail(0, None);
            }
        });
        let mut seqs = [0; 3];
        for (delay, which) in &plan.samples {
            sleep(Duration::from_millis(*delay)).await;
            let device = metrics.devices.get()[*which].clone();
            let now = Instant::now();
            let (seq, late) = (seqs[*which], POLICIES[*which]);
            seqs[*which] += 1;
            let fill = "x".repeat(self.fill);
            // Stamps of an hour ago: some can be put right, some never.
            let boot = if seq % 2 == 0 { clock::boot() } else { 1 };
            let ahead = clock::believed().unwrap().ahead - 3_600_000;
            let doubted = (seq % 5 < 2).then_some(Standing { boot, ahead });
            let payload = format!(
                r#"{{"device":"{}","ts":"2026-01-01T00:00:00.000Z","epoch":{epoch},"seq":{seq},"fill":"{fill}"}}"#,
                device.name
            );
            self.made.insert((device.name.to_string(), epoch, seq), Made { at: now, late });
            let sampled = Sampled {
                device,
                epoch,
                seq,
                started: now,
                received: now,
                encoded: now,
                deadline: now + BUDGET,
                doubted,
                late,
            };
            let topic = format!("t/d{which}").into();
            let message =
                Message { topic, payload: payload.into(), retain: false, kind: Kind::Data(sampled) };
            sender.send(message).await.unwrap();
        }
        faults.await.unwrap();
        if last {
            sleep(Duration::from_secs(60)).await;
            stop.cancel();
            let left = forwarder.await.unwrap();
            assert!(left.is_settled() && left.stored == 0, "{left:?}");
            store.await.unwrap();
        } else {
            sleep(Duration::from_millis(2)).await;
            forwarder.abort();
            store.abort();
        }
        let now = Instant::now();
        let mut seed = plan.cut.unwrap_or(0) | 1;
        let coin = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed & 2 == 0
        };
        match plan.cut {
            Some(_) => {
                self.disk = self.disk.cut(coin);
                // A moment more than what may be lost: the write comes before the wait for the sync.
                now - SYNC - Duration::from_millis(10)
            }
            None => {
                self.disk = self.disk.killed();
                now
            }
        }
    }

    /// The judge. `kept` says what had to survive its run, by epoch.
    fn judge(&self, kept: &BTreeMap<u64, Instant>) {
        let mut copies: BTreeMap<(String, u64, u64), Bytes> = BTreeMap::new();
        let mut gaps: BTreeMap<(String, u64, u64), Instant> = BTreeMap::new();
        let mut last = BTreeMap::new();
        for (run, at, payload) in self.arrived.lock().unwrap().iter() {
            let json: serde_json::Value = serde_json::from_slice(payload).unwrap();
            let (device, epoch) =
                (json["device"].as_str().unwrap().to_string(), json["epoch"].as_u64().unwrap());
            if let Some(gap) = json.get("gap") {
                let (from, to) = (gap["from"].as_u64().unwrap(), gap["to"].as_u64().unwrap());
                gaps.extend((from..=to).map(|seq| ((device.clone(), epoch, seq), *at)));
                continue;
            }
            let seq = json["seq"].as_u64().unwrap();
            let key = (device.clone(), epoch, seq);
            let made = self.made.get(&key).unwrap_or_else(|| panic!("{key:?} was never made"));
            if let Some(earlier) = copies.get(&key) {
                // A power cut may cost the note of how something was sent, as it may cost the note that it was acknowledged.
                match self.had_cuts {
                    true => assert_eq!(unmarked(earlier), unmarked(payload)),
                    false => assert_eq!(earlier, payload, "a repetition has the same bytes"),
                }
                continue;
            }
            copies.insert(key.clone(), payload.clone());
            let (of_another_boot, was_wrong) = (seq % 2 == 1, seq % 5 < 2);
            let hour = if was_wrong && !of_another_boot { 1 } else { 0 };
            assert_eq!(json["ts"], format!("2026-01-01T0{hour}:00:00.000Z"));
            assert_eq!(json.get("clock").is_some(), was_wrong && of_another_boot);
            let replayed = json.get("replayed").is_some();
            assert!(!(made.late == OnLate::Drop && replayed), "{key:?} was to be dropped");
            // Live messages go before what is replayed; what is of an earlier run is replayed whatever its marks say.
            let before = last.insert((device, epoch, *run, replayed && *run == epoch), seq);
            assert!(before < Some(seq), "{key:?} came after {before:?}");
        }
        // What was acknowledged, and the run did not end before that was noted.
        let mut settled = BTreeMap::new();
        for (run, at, payload) in self.acked.lock().unwrap().iter() {
            let json: serde_json::Value = serde_json::from_slice(payload).unwrap();
            if let Some(seq) = json["seq"].as_u64()
                && kept.get(run).is_none_or(|kept| *at + Duration::from_millis(1) < *kept)
            {
                let device = json["device"].as_str().unwrap().to_string();
                settled.entry((device, json["epoch"].as_u64().unwrap(), seq)).or_insert(*at);
            }
        }
        for (key, made) in &self.made {
            let delivered = copies.contains_key(key);
            if let (Some(acked), Some(named)) = (settled.get(key), gaps.get(key)) {
                // A power cut may cost the note that it was given up, and then it arrives after all.
                assert!(self.had_cuts && named < acked, "{key:?} was acknowledged and is in a gap");
            }
            let must = kept.get(&key.1).is_none_or(|kept| made.at <= *kept);
            assert!(!must || delivered || gaps.contains_key(key), "{key:?} of {:?} is lost", made.late);
        }
    }
}

fn unmarked(payload: &Bytes) -> serde_json::Value {
    let mut json: serde_json::Value = serde_json::from_slice(payload).unwrap();
    json.as_object_mut().unwrap().retain(|key, _| !["replayed", "late_ms"].contains(&key.as_str()));
    json
}

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

fn live(runs: Vec<Run>, durability: Durability, (size, fill): (u64, usize)) {
    paused().block_on(async {
        let mut world = World {
            disk: Memory::default(),
            arrived: Seen::default(),
            acked: Seen::default(),
            made: BTreeMap::new(),
            durability,
            clock: 0,
            size,
            fill,
            had_cuts: runs.iter().any(|run| run.cut.is_some()),
        };
        let mut kept = BTreeMap::new();
        let count = runs.len();
        for (i, plan) in runs.iter().enumerate() {
            let safe = world.run(plan, i + 1 == count).await;
            if i + 1 < count {
                kept.insert(world.clock, safe);
            }
        }
        world.judge(&kept);
    });
}

/// `TAKTBUS_HISTORIES=10000` makes it that many.
fn cases() -> ProptestConfig {
    let wanted = std::env::var("TAKTBUS_HISTORIES").ok().and_then(|count| count.parse().ok());
    ProptestConfig::with_cases(wanted.unwrap_or(150))
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn kills_and_power_cuts_lose_nothing_that_was_stored(runs in prop::collection::vec(a_run(), 1..5)) {
        live(runs, Durability::Always, LARGE);
    }

    #[test]
    fn a_store_that_is_too_small_names_what_it_gave_up(runs in prop::collection::vec(a_run(), 1..5)) {
        live(runs, Durability::Always, SMALL);
    }

    #[test]
    fn a_disk_that_refuses_for_a_while_costs_nothing(run in a_run(), refusals in refusals()) {
        let run = Run { refusals, ..run };
        live(vec![run.clone()], Durability::Always, LARGE);
        live(vec![run], Durability::OnOutage, LARGE);
    }

    #[test]
    fn what_is_stored_only_on_outages_is_in_one_place(run in a_run()) {
        live(vec![run.clone()], Durability::OnOutage, LARGE);
        live(vec![run], Durability::OnOutage, SMALL);
    }
}

const LARGE: (u64, usize) = (32 << 20, 0);
/// Three segments, and messages of which some dozens fill one.
const SMALL: (u64, usize) = (1 << 20, 6000);

#[test]
fn a_backlog_of_an_earlier_run_is_replayed_in_order_behind_live_messages() {
    let samples = |count| (0..count).map(|_| (5, 0)).collect::<Vec<_>>();
    let away = Run { samples: samples(200), turns: vec![], latency: 1, cut: None, refusals: vec![] };
    let back = Run { samples: samples(50), turns: vec![20], latency: 1, cut: None, refusals: vec![] };
    live(vec![away, back], Durability::Always, LARGE);
}
