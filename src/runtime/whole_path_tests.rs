//! South to north in simulated time: devices whose register counts its reads, driver, pipeline, forwarder, a store on a simulated disk, and a far side
//! that comes and goes. Runs end in a kill or a power cut. The judge knows what the devices have answered and what has arrived; of what is between
//! them it knows only how a gap record is written.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::counting::counted;
use super::reload;
use crate::config::{LoadOptions, load_text};
use crate::drivers::modbus::ModbusDriver;
use crate::drivers::modbus::config::Link;
use crate::drivers::modbus::framing::crc;
use crate::drivers::modbus::transport::Open;
use crate::drivers::{Plan, session};
use crate::metrics::Metrics;
use crate::northbound::forwarder::far_side::{FarSide, Seen};
use crate::northbound::forwarder::{self, Durability, Settings};
use crate::pipeline::{self, Identity, RouteInput};
use crate::store::memory::{Fault, Memory};
use crate::store::{self, Log, connected, serve};

/// Unit ids are the devices' numbers. The register is two words wide: half a number would be a wrong one.
const SITE: &str = "
site: x
connections:
  net: {tcp: 'plant:502', response_timeout: 100ms}
  line: {tcp: 'plant:4196', framing: rtu, response_timeout: 100ms}
devices:
  d1: {via: net, unit_id: 1, every: 20ms, budget: 60ms, points: {reads: {holding: 7, type: uint32}}}
  d2: {via: net, unit_id: 2, every: 30ms, budget: {within: 60ms, late: drop}, points: {reads: {holding: 7, type: uint32}}}
  d3: {via: line, unit_id: 3, every: 50ms, budget: {within: 60ms, late: store}, points: {reads: {holding: 7, type: uint32}}}
  d4: {via: line, unit_id: 4, every: 70ms, budget: 60ms, points: {reads: {holding: 7, type: uint32}}}
publish:
  far: {mqtt: 'mqtt://far:1883'}
";
const SYNC: Duration = Duration::from_millis(100);
/// How long what was answered may take to be accepted: no time passes while anything is under way.
const ACCEPTED: Duration = Duration::from_millis(2);

/// What the devices do wrong.
#[derive(Clone, Copy, Debug)]
enum South {
    /// No answer.
    Silent,
    /// Answers come after the timeout; on a line none.
    Slow,
    /// The connection is closed instead of an answer.
    Closes,
    /// Exception 6, server device busy.
    Busy,
    /// A bit of each answer is flipped on the line; on a network the connection is closed within the answer.
    Damages,
}

/// An answer.
struct Answer {
    run: u64,
    at: Instant,
    /// It was whole, in time, and counts.
    sure: bool,
}

/// The devices behind both connections. Clones are the same devices.
#[derive(Clone, Default)]
struct Plant(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    run: u64,
    fault: Option<South>,
    /// By unit: what its register holds is what the last one was, and one more.
    answers: BTreeMap<u8, Vec<Answer>>,
    /// By unit, in this run.
    absences: BTreeMap<u8, Absences>,
}

/// Who has relapsed is asked some times before it counts as present, so that a loose contact does not come and go with each answer; what it answers
/// then is no sample.
#[derive(Default)]
struct Absences {
    failures: u32,
    count: u32,
    /// Answers in a row that are wanted before the next one counts.
    owed: u32,
}

impl Absences {
    fn failed(&mut self) {
        self.failures += 1;
        self.count += u32::from(self.failures == 3);
        if self.failures >= 3 || self.owed > 0 {
            self.owed = 3 * self.count.saturating_sub(1);
        }
    }

    fn answered(&mut self) -> bool {
        self.failures = 0;
        let counts = self.owed == 0;
        self.owed = self.owed.saturating_sub(1);
        counts
    }
}

impl Plant {
    fn begin(&self, run: u64) {
        let mut inner = self.0.lock().unwrap();
        inner.run = run;
        inner.absences.clear();
    }

    fn meet(&self, fault: Option<South>) {
        self.0.lock().unwrap().fault = fault;
    }

    /// A read of the register, which is counted: the data of the answer.
    fn count(&self, unit: u8) -> [u8; 4] {
        let mut inner = self.0.lock().unwrap();
        let (run, is_good) = (inner.run, inner.fault.is_none());
        let absences = inner.absences.entry(unit).or_default();
        let sure = is_good && absences.answered();
        let answers = inner.answers.entry(unit).or_default();
        answers.push(Answer { run, at: Instant::now(), sure });
        (answers.len() as u32).to_be_bytes()
    }

    async fn serve(self, far: DuplexStream, rtu: bool) -> io::Result<()> {
        let (mut far, write) = tokio::io::split(far);
        let write = Arc::new(tokio::sync::Mutex::new(write));
        // They end with the link.
        let mut slow = JoinSet::new();
        loop {
            let mut frame = vec![0; if rtu { 8 } else { 12 }];
            far.read_exact(&mut frame).await?;
            let pdu = if rtu { &frame[..6] } else { &frame[6..] };
            assert_eq!(pdu[1..], [3, 0, 7, 0, 2], "read holding registers 7 and 8");
            let (unit, fault) = (pdu[0], self.0.lock().unwrap().fault);
            if fault.is_some() {
                self.0.lock().unwrap().absences.entry(unit).or_default().failed();
            }
            let good = |data: [u8; 4]| [&[unit, 3, 4][..], &data].concat();
            let framed = |body: Vec<u8>| match rtu {
                true => [&body[..], &crc(&body).to_le_bytes()].concat(),
                false => [&frame[..5], &[body.len() as u8], &body[..]].concat(),
            };
            let reply = match fault {
                None => framed(good(self.count(unit))),
                Some(South::Silent) => continue,
                Some(South::Slow) if rtu => continue,
                Some(South::Slow) => {
                    let (reply, write) = (framed(good(self.count(unit))), write.clone());
                    slow.spawn(async move {
                        sleep(Duration::from_millis(150)).await;
                        write.lock().await.write_all(&reply).await
                    });
                    continue;
                }
                Some(South::Closes) => return Ok(()),
                Some(South::Busy) => framed(vec![unit, 0x83, 6]),
                Some(South::Damages) => {
                    let mut reply = framed(good(self.count(unit)));
                    if !rtu {
                        return write.lock().await.write_all(&reply[..9]).await;
                    }
                    reply[6] ^= 4;
                    reply
                }
            };
            write.lock().await.write_all(&reply).await?;
        }
    }
}

impl Open for Plant {
    type Stream = DuplexStream;

    async fn open(&mut self, link: &Link) -> io::Result<DuplexStream> {
        let (near, far) = duplex(1024);
        tokio::spawn(self.clone().serve(far, matches!(link, Link::RtuOverTcp { .. })));
        Ok(near)
    }
}

/// How a run goes; times are milliseconds.
#[derive(Clone, Debug)]
struct Run {
    lasts: u64,
    /// From when, how long, and what the devices do wrong.
    south: Vec<(u64, u64, South)>,
    /// The far side is away and there, in turn.
    north: Vec<u64>,
    latency: u64,
    /// From when, how long, and what the disk refuses.
    disk: Vec<(u64, u64, Fault)>,
    /// The end: a power cut with this seed, or a kill.
    cut: Option<u64>,
}

fn a_run() -> impl Strategy<Value = Run> {
    let south = [South::Silent, South::Slow, South::Closes, South::Busy, South::Damages];
    let south = (0u64..400, 1u64..300, prop::sample::select(south.to_vec()).no_shrink());
    let south = prop::collection::vec(south, 0..4);
    let north = prop::collection::vec(0u64..400, 0..6);
    (100u64..1500, south, north, 0u64..20, prop::option::of(any::<u64>())).prop_map(
        |(lasts, south, north, latency, cut)| Run { lasts, south, north, latency, disk: vec![], cut },
    )
}

fn refusals() -> impl Strategy<Value = Vec<(u64, u64, Fault)>> {
    let faults = [Fault::Full, Fault::Write, Fault::Sync, Fault::Unsynced, Fault::Read];
    prop::collection::vec((0u64..600, 1u64..1500, prop::sample::select(faults.to_vec())), 1..4)
}

/// One after the other: waits, sets something, waits, and sets it back.
fn in_turn<F: Copy + Send + 'static>(
    turns: &[(u64, u64, F)],
    set: impl Fn(Option<F>) + Send + 'static,
) -> JoinHandle<()> {
    let turns = turns.to_vec();
    tokio::spawn(async move {
        for (from, long, fault) in turns {
            sleep(Duration::from_millis(from)).await;
            set(Some(fault));
            sleep(Duration::from_millis(long)).await;
            set(None);
        }
    })
}

#[derive(Default)]
struct World {
    plant: Plant,
    disk: Memory,
    arrived: Seen,
    /// What was answered until then in a run must be accounted for; the last run has no such end.
    kept: BTreeMap<u64, Instant>,
}

impl World {
    async fn run(&mut self, run: &Run, last: bool) {
        let site = load_text("site.yaml", SITE, &LoadOptions::default()).site.unwrap();
        let plans = reload::plan(site.connections, &[]).unwrap();
        let (metrics, counted) = counted(&plans, &site.routes, &Metrics::default());
        let route = metrics.routes[0].clone();
        let settings = store::Settings { size: 32 << 20, age: None, sync: SYNC };
        let (log, opened) = Log::open(self.disk.clone(), settings, route.clone()).unwrap();
        let epoch = (self.plant.0.lock().unwrap().run + 1).max(opened.last_epoch + 1);
        self.plant.begin(epoch);

        let (handle, ends) = connected();
        let store = tokio::spawn(serve(log, epoch, ends));
        let far_side =
            FarSide::new(epoch, &run.north, run.latency, last, (self.arrived.clone(), Seen::default()));
        let settings = Settings {
            site: "x".into(),
            epoch,
            backlog_bytes: 1 << 20,
            durability: Durability::Always,
            opened: Some(opened),
            offline: None,
        };
        let (messages, admitted) = mpsc::channel(64);
        let stop_north = CancellationToken::new();
        let forwarder = tokio::spawn(forwarder::run(
            far_side,
            admitted,
            Some(handle),
            settings,
            route.clone(),
            stop_north.clone(),
        ));
        let input = RouteInput {
            topic: "{device}".into(),
            passes: site.routes[0].passes.clone(),
            messages,
            site_topic: "site".into(),
            metrics: route,
        };
        let (events, batches) = mpsc::channel(64);
        let (_reload, reloads) = mpsc::channel(1);
        let identity = Identity { site: "x".into(), epoch };
        let pipeline = tokio::spawn(pipeline::run(identity, vec![input], batches, reloads, Arc::default()));
        let stop_south = CancellationToken::new();
        let sessions = plans.iter().zip(counted).map(|((name, plan), (connection, devices))| {
            let Plan::Modbus(plan) = &**plan else { panic!("{name} is no Modbus") };
            let plant = self.plant.clone();
            let driver = ModbusDriver::with_opener(name, plan.clone(), devices, connection.clone(), plant);
            tokio::spawn(session::run(driver, events.clone(), stop_south.clone(), connection))
        });
        let sessions: Vec<_> = sessions.collect();
        drop(events);

        let plant = self.plant.clone();
        let south = in_turn(&run.south, move |fault| plant.meet(fault));
        let disk = self.disk.clone();
        let refusing = in_turn(&run.disk, move |fault| disk.fail(0, fault));
        sleep(Duration::from_millis(run.lasts)).await;
        south.abort();
        refusing.await.unwrap();
        // Nothing is on its way at the end of a run, so that it's known what must have been accepted.
        self.plant.meet(Some(South::Silent));
        let end = Instant::now();
        sleep(ACCEPTED).await;
        if last {
            // Before the stop: what a store has is not waited for after it.
            sleep(Duration::from_secs(if run.disk.is_empty() { 5 } else { 60 })).await;
            stop_south.cancel();
            for session in sessions {
                session.await.unwrap();
            }
            pipeline.await.unwrap();
            stop_north.cancel();
            let left = forwarder.await.unwrap();
            assert!(left.is_settled() && left.stored == 0, "{left:?}");
            store.await.unwrap();
        } else {
            sessions.iter().for_each(JoinHandle::abort);
            pipeline.abort();
            forwarder.abort();
            store.abort();
            self.disk = match run.cut {
                None => self.disk.killed(),
                Some(seed) => {
                    let mut random = proptest::test_runner::TestRng::from_seed(
                        proptest::test_runner::RngAlgorithm::XorShift,
                        &[seed | 1, seed].map(u64::to_be_bytes).concat(),
                    );
                    self.disk.cut(|| random.next_u32() & 1 == 0)
                }
            };
            // The write comes before the wait for the sync.
            let durable = if run.cut.is_some() { end - SYNC - ACCEPTED } else { end };
            self.kept.insert(epoch, durable);
        }
        self.plant.meet(None);
    }

    fn judge(&self) {
        // By device and epoch: the numbers that came, by sequence number, and the sequence numbers in gaps.
        let mut numbers: BTreeMap<(u8, u64), BTreeMap<u64, usize>> = BTreeMap::new();
        let mut gaps: BTreeMap<(u8, u64), BTreeSet<u64>> = BTreeMap::new();
        for (_, _, payload) in self.arrived.lock().unwrap().iter() {
            let json: serde_json::Value = serde_json::from_slice(payload).unwrap();
            let unit = json["device"].as_str().unwrap()[1..].parse().unwrap();
            let of = (unit, json["epoch"].as_u64().unwrap());
            if let Some(gap) = json.get("gap") {
                let (from, to) = (gap["from"].as_u64().unwrap(), gap["to"].as_u64().unwrap());
                gaps.entry(of).or_default().extend(from..=to);
            } else if let Some(number) = json["values"]["reads"].as_u64() {
                let seq = json["seq"].as_u64().unwrap();
                let before = numbers.entry(of).or_default().insert(seq, number as usize);
                assert!(before.is_none_or(|before| before == number as usize), "{of:?} {seq} is two values");
            }
        }
        let answers = &self.plant.0.lock().unwrap().answers;
        for ((unit, epoch), came) in &numbers {
            let in_order: Vec<_> = came.values().copied().collect();
            assert!(in_order.is_sorted_by(|a, b| a < b), "d{unit} in {epoch}: {in_order:?}");
            for number in in_order {
                let answer = number.checked_sub(1).and_then(|index| answers[unit].get(index));
                assert!(answer.is_some_and(|answer| answer.run == *epoch), "d{unit} never answered {number}");
            }
        }
        for (unit, answers) in answers {
            // Between which sequence numbers that came how many answers are missing.
            let mut missing: BTreeMap<(u64, Option<u64>, Option<u64>), u64> = BTreeMap::new();
            for (number, answer) in (1..).zip(answers) {
                let must = answer.sure && self.kept.get(&answer.run).is_none_or(|kept| answer.at <= *kept);
                let came = numbers.get(&(*unit, answer.run));
                let came = || came.into_iter().flatten().map(|(seq, number)| (*seq, *number));
                if must && came().all(|(_, other)| other != number) {
                    let before = came().filter(|(_, other)| *other < number).map(|(seq, _)| seq).next_back();
                    let after = came().find(|(_, other)| *other > number).map(|(seq, _)| seq);
                    *missing.entry((answer.run, before, after)).or_default() += 1;
                }
            }
            for ((run, before, after), missing) in missing {
                let between = |seq: &&u64| {
                    before.is_none_or(|before| before < **seq) && after.is_none_or(|after| **seq < after)
                };
                let named = gaps.get(&(*unit, run)).map_or(0, |gaps| gaps.iter().filter(between).count());
                assert!(
                    missing <= named as u64,
                    "d{unit}, run {run}, between {before:?} and {after:?}: {missing} answers are missing, {named} in gaps"
                );
            }
        }
    }
}

fn live(runs: &[Run]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let mut world = World::default();
        for (index, run) in runs.iter().enumerate() {
            world.run(run, index + 1 == runs.len()).await;
        }
        world.judge();
    });
}

/// `TAKTBUS_HISTORIES=10000` makes it that many.
fn cases() -> ProptestConfig {
    let wanted = std::env::var("TAKTBUS_HISTORIES").ok().and_then(|count| count.parse().ok());
    ProptestConfig::with_cases(wanted.unwrap_or(100))
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn every_answer_arrives_or_is_accounted_for(runs in prop::collection::vec(a_run(), 1..4)) {
        live(&runs);
    }

    #[test]
    fn a_disk_that_refuses_costs_no_answer(run in a_run(), disk in refusals()) {
        live(&[Run { disk, ..run }]);
    }
}
