//! The law of conservation, against a scripted far side that goes down, acknowledges out of order and loses PUBACKs.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{DRAIN_LIMIT, Durability, Settings, Summary, run};
use crate::budget::{OnLate, Stage};
use crate::metrics::{DeviceMetrics, RouteMetrics};
use crate::model::message::{Kind, Message, Sampled};
use crate::northbound::{Refused, Sink, SinkEvent, Token};

const BUDGET: Duration = Duration::from_millis(30);
const WINDOW: usize = 4;

/// What the far side does.
#[derive(Clone, Copy, Debug)]
enum Act {
    Up,
    /// What was not acknowledged is lost, or its PUBACK is: the far side may have it.
    Down,
    /// Acknowledges one of the open messages, not always the oldest.
    Ack(usize),
    /// Refuses one of the open messages, if it has values: the law is about those.
    Refuse(usize),
}

/// What the far side saw.
#[derive(Debug, Default)]
struct Seen {
    /// Each offer of a data message: device, seq, payload.
    offers: Vec<(String, u64, Bytes)>,
    /// When each data message was acknowledged first.
    acked: HashMap<(String, u64), Instant>,
    /// When each refused data message was refused.
    refused: HashMap<(String, u64), Instant>,
    /// Acknowledged gap records: device, from, to, reason.
    gaps: Vec<(String, u64, u64, String)>,
    statuses: Vec<String>,
    last_token: Token,
    closed: bool,
    flushed: bool,
}

struct Far {
    seen: Arc<Mutex<Seen>>,
    script: VecDeque<(Instant, Act)>,
    /// After the script: up, and acknowledge at once? Or do nothing any more?
    recovers: bool,
    up: bool,
    open: Vec<(Token, Message, Bytes)>,
    /// What must come again first, in this order.
    owed: VecDeque<(Bytes, Option<Instant>)>,
    refuses: Option<u64>,
}

impl Far {
    fn new(script: VecDeque<(Instant, Act)>, recovers: bool) -> (Self, Arc<Mutex<Seen>>) {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let far = Self {
            seen: Arc::clone(&seen),
            script,
            recovers,
            up: false,
            open: Vec::new(),
            owed: VecDeque::new(),
            refuses: None,
        };
        (far, seen)
    }

    fn ack(&mut self, which: usize) -> SinkEvent {
        let (token, message, payload) = self.open.remove(which % self.open.len());
        let mut seen = self.seen.lock().unwrap();
        let json: serde_json::Value = serde_json::from_slice(&payload).unwrap();
        match &message.kind {
            Kind::Data(s) => {
                let earlier = seen.acked.insert((s.device.name.to_string(), s.seq), Instant::now());
                assert!(earlier.is_none(), "{} {} was sent again after its PUBACK", s.device.name, s.seq);
            }
            Kind::Gap(_) => {
                let gap = &json["gap"];
                let number = |key: &str| gap[key].as_u64().unwrap();
                let (device, reason) = (json["device"].as_str().unwrap(), gap["reason"].as_str().unwrap());
                seen.gaps.push((device.into(), number("from"), number("to"), reason.into()));
            }
            Kind::Status => seen.statuses.push(json["state"].as_str().unwrap().into()),
        }
        SinkEvent::Acked(token)
    }

    fn refuse(&mut self, which: usize) -> SinkEvent {
        let which = which % self.open.len();
        let Kind::Data(s) = &self.open[which].1.kind else { return self.ack(which) };
        let key = (s.device.name.to_string(), s.seq);
        let earlier = self.seen.lock().unwrap().refused.insert(key, Instant::now());
        assert!(earlier.is_none(), "it was sent again after it was refused");
        SinkEvent::Refused(self.open.remove(which).0, "HTTP 422".into())
    }
}

impl Sink for Far {
    async fn event(&mut self) -> SinkEvent {
        loop {
            let Some((at, act)) = self.script.front().copied() else {
                match (self.recovers, self.up) {
                    (true, false) => {
                        self.up = true;
                        return SinkEvent::Up;
                    }
                    (true, true) if !self.open.is_empty() => return self.ack(0),
                    _ => std::future::pending().await,
                }
                continue;
            };
            sleep_until(at).await;
            self.script.pop_front();
            match act {
                Act::Up if !self.up => {
                    self.up = true;
                    return SinkEvent::Up;
                }
                Act::Down => {
                    self.up = false;
                    let open = self.open.drain(..).filter(|(_, m, _)| !matches!(m.kind, Kind::Status));
                    let rest = std::mem::take(&mut self.owed);
                    let owed = |(_, message, payload): (_, Message, _)| match message.kind {
                        Kind::Data(s) if s.late == OnLate::Drop => (payload, Some(s.deadline)),
                        _ => (payload, None),
                    };
                    self.owed = open.map(owed).chain(rest).collect();
                    return SinkEvent::Down("gone".into());
                }
                Act::Ack(which) if !self.open.is_empty() => return self.ack(which),
                Act::Refuse(which) if !self.open.is_empty() => return self.refuse(which),
                Act::Up | Act::Ack(_) | Act::Refuse(_) => {}
            }
        }
    }

    fn offer(&mut self, token: Token, message: &Message, payload: Bytes) -> Result<(), Refused> {
        assert!(self.up, "offered while the link is down");
        assert!(self.open.len() < WINDOW, "the window is exceeded");
        let mut seen = self.seen.lock().unwrap();
        assert!(token > seen.last_token, "a token was used twice");
        seen.last_token = token;
        if let Kind::Data(s) = &message.kind {
            if self.refuses == Some(s.seq) {
                return Err(Refused("too large".into()));
            }
            let in_time = s.late != OnLate::Drop || Instant::now() < s.deadline;
            assert!(in_time, "{} {} leaves late and was to be dropped", s.device.name, s.seq);
            seen.offers.push((s.device.name.to_string(), s.seq, payload.clone()));
        }
        while let Some((owed, droppable)) = self.owed.pop_front() {
            if owed == payload {
                break;
            }
            let dropped = droppable.is_some_and(|deadline| Instant::now() >= deadline);
            assert!(dropped, "what was not acknowledged comes first, in its order");
        }
        self.open.push((token, message.clone(), payload));
        Ok(())
    }

    fn window(&self) -> usize {
        WINDOW
    }

    fn flush(&mut self) {
        self.seen.lock().unwrap().flushed = true;
    }

    async fn close(&mut self) {
        self.seen.lock().unwrap().closed = true;
    }
}

fn data(device: &Arc<DeviceMetrics>, seq: u64, started: Instant, late: OnLate) -> Message {
    device.sampled.inc();
    Message {
        topic: format!("t/{}", device.name).into(),
        payload: Bytes::from(format!(r#"{{"device":"{}","seq":{seq}}}"#, device.name)),
        retain: false,
        kind: Kind::Data(Sampled {
            device: Arc::clone(device),
            epoch: 7,
            seq,
            started,
            received: started,
            encoded: started,
            deadline: started + BUDGET,
            doubted: None,
            late,
        }),
    }
}

fn status(state: &str) -> Message {
    let payload = Bytes::from(format!(r#"{{"state":"{state}"}}"#));
    Message { topic: "t/status".into(), payload, retain: true, kind: Kind::Status }
}

fn settings(backlog_bytes: usize) -> Settings {
    Settings {
        site: "x".into(),
        epoch: 7,
        backlog_bytes,
        durability: Durability::Off,
        opened: None,
        offline: Some(status("offline")),
    }
}

/// Runs a forwarder against the script while `samples` are made; everything is told to stop after the last of both.
struct Trial {
    far: Far,
    devices: Vec<(Arc<DeviceMetrics>, OnLate)>,
    /// Milliseconds before each sample, and its device.
    samples: Vec<(u64, usize)>,
    backlog_bytes: usize,
    end: Instant,
}

impl Trial {
    async fn run(self) -> (Summary, BTreeMap<(String, u64), Instant>) {
        let (sender, receiver) = mpsc::channel(8);
        let stop = CancellationToken::new();
        let metrics = Arc::new(RouteMetrics::default());
        let settings = settings(self.backlog_bytes);
        let forwarder = tokio::spawn(run(self.far, receiver, None, settings, metrics, stop.clone()));
        let mut deadlines = BTreeMap::new();
        let mut seqs = vec![0; self.devices.len()];
        for (delay, which) in self.samples {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            let (device, late) = &self.devices[which];
            let now = Instant::now();
            deadlines.insert((device.name.to_string(), seqs[which]), now + BUDGET);
            sender.try_send(data(device, seqs[which], now, *late)).expect("it never waits for the far side");
            seqs[which] += 1;
            tokio::task::yield_now().await;
        }
        sleep_until(self.end.max(Instant::now() + BUDGET * 2)).await;
        stop.cancel();
        (forwarder.await.unwrap(), deadlines)
    }
}

fn devices(policies: &[OnLate]) -> Vec<(Arc<DeviceMetrics>, OnLate)> {
    let device = |i| Arc::new(DeviceMetrics::new(format!("d{i}")));
    policies.iter().enumerate().map(|(i, late)| (device(i), *late)).collect()
}

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![2 => Just(Act::Up), 1 => Just(Act::Down), 8 => (0..WINDOW).prop_map(Act::Ack), 1 => (0..WINDOW).prop_map(Act::Refuse)]
}

fn is_replayed(payload: &Bytes) -> bool {
    payload.ends_with(b",\"replayed\":true}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_message_is_delivered_or_waits_or_is_in_a_gap(
        script in prop::collection::vec((0u64..12, act()), 0..120),
        samples in prop::collection::vec((0u64..8, 0usize..3), 1..100),
        recovers in any::<bool>(),
        room in 2usize..60,
    ) {
        paused().block_on(async {
            let mut at = Instant::now();
            let script = script.into_iter().map(|(delay, act)| {
                at += Duration::from_millis(delay);
                (at, act)
            }).collect();
            let (far, seen) = Far::new(script, recovers);
            let devices = devices(&[OnLate::Deliver, OnLate::Drop, OnLate::Store]);
            let made = devices.clone();
            let end = at + Duration::from_millis(1);
            let trial = Trial { far, devices, samples, backlog_bytes: room * 450, end };
            let (left, deadlines) = trial.run().await;
            check(&seen.lock().unwrap(), &made, &left, &deadlines, recovers);
        });
    }
}

fn check(
    seen: &Seen,
    devices: &[(Arc<DeviceMetrics>, OnLate)],
    left: &Summary,
    deadlines: &BTreeMap<(String, u64), Instant>,
    recovers: bool,
) {
    assert!(seen.closed && seen.flushed);
    let mut waiting = 0;
    for (device, late) in devices {
        let name = device.name.to_string();
        let delivered: BTreeSet<u64> =
            seen.acked.keys().filter(|(n, _)| *n == name).map(|(_, seq)| *seq).collect();
        assert_eq!(device.delivered.get(), delivered.len() as u64);
        waiting += device.sampled.get() - device.delivered.get() - device.gap_accounted.get();
        let mut in_gaps = BTreeSet::new();
        for (_, from, to, _) in seen.gaps.iter().filter(|(n, ..)| *n == name) {
            for seq in *from..=*to {
                assert!(!delivered.contains(&seq), "{name} {seq} was delivered and is in a gap record");
                assert!(in_gaps.insert(seq) || !recovers, "{name} {seq} is in two gap records");
            }
        }
        if left.gap_records == 0 {
            assert_eq!(in_gaps.len() as u64, device.gap_accounted.get());
        }
        let missed = |(key, deadline): (&(String, u64), &Instant)| {
            let settled = seen.acked.get(key).or(seen.refused.get(key));
            key.0 == name && settled.is_none_or(|settled| settled >= deadline)
        };
        let missed = deadlines.iter().filter(|entry| missed(*entry)).count();
        assert_eq!(device.violations_total(), missed as u64, "each missed budget counts once");
        for (_, seq) in seen.refused.keys().filter(|(n, _)| *n == name) {
            assert!(
                !delivered.contains(seq) && (in_gaps.contains(seq) || left.gap_records > 0),
                "{name} {seq}"
            );
        }
        in_order_and_identical(seen, &name, *late);
    }
    assert_eq!(waiting as usize, left.queued + left.in_flight + left.backlog, "{left:?}");
    if recovers {
        assert!(left.is_settled(), "{left:?}");
        assert_eq!(seen.statuses.last().map(String::as_str), Some("offline"));
    }
}

/// Live messages leave in order of seq, replayed ones too, and what is sent again is byte-identical.
fn in_order_and_identical(seen: &Seen, name: &str, late: OnLate) {
    let mut first: HashMap<u64, &Bytes> = HashMap::new();
    let (mut live, mut replayed) = (None, None);
    for (_, seq, payload) in seen.offers.iter().filter(|(n, ..)| n == name) {
        if let Some(before) = first.get(seq) {
            assert_eq!(*before, payload);
            continue;
        }
        first.insert(*seq, payload);
        let last = if is_replayed(payload) { &mut replayed } else { &mut live };
        assert!(last.is_none_or(|last| last < *seq), "{name} {seq} left after {last:?}");
        *last = Some(*seq);
        let text = String::from_utf8_lossy(payload);
        assert!(
            !(late == OnLate::Drop && (is_replayed(payload) || text.contains("late_ms"))),
            "{text} was to be dropped"
        );
        assert!(
            late != OnLate::Store || is_replayed(payload) || !text.contains("late_ms"),
            "{text} was to be stored"
        );
    }
}

fn script(acts: &[(u64, Act)], start: Instant) -> VecDeque<(Instant, Act)> {
    acts.iter().map(|(ms, act)| (start + Duration::from_millis(*ms), *act)).collect()
}

/// Runs one device's samples, made at these milliseconds, against a script that ends in recovery.
async fn one_device(
    late: OnLate,
    acts: &[(u64, Act)],
    gaps_ms: &[u64],
    backlog_bytes: usize,
) -> (Arc<DeviceMetrics>, Arc<Mutex<Seen>>) {
    let start = Instant::now();
    let (far, seen) = Far::new(script(acts, start), true);
    let devices = devices(&[late]);
    let device = Arc::clone(&devices[0].0);
    let samples = gaps_ms.iter().map(|ms| (*ms, 0)).collect();
    Trial { far, devices, samples, backlog_bytes, end: start }.run().await;
    (device, seen)
}

fn payloads(seen: &Mutex<Seen>) -> Vec<String> {
    seen.lock()
        .unwrap()
        .offers
        .iter()
        .map(|(_, _, payload)| String::from_utf8_lossy(payload).into())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn late_while_the_link_is_up_is_sent_with_its_lateness() {
    // Four fill the window until 50 ms; the fifth waits past its deadline at 30 ms.
    let acts = [(0, Act::Up), (50, Act::Ack(0))];
    let (device, seen) = one_device(OnLate::Deliver, &acts, &[1, 0, 0, 0, 0], 10_000).await;
    assert_eq!(payloads(&seen)[4], r#"{"device":"d0","seq":4,"late_ms":19}"#);
    assert_eq!(device.violations_total(), 5);
    assert_eq!(device.violations[Stage::Queue as usize].get(), 1);
    assert_eq!(device.violations[Stage::Broker as usize].get(), 4);
    assert_eq!((device.delivered.get(), device.replayed.get(), device.total.count()), (5, 0, 5));
}

#[tokio::test(start_paused = true)]
async fn late_while_the_link_is_down_is_replayed_after_live_messages() {
    let acts = [(100, Act::Up)];
    let (device, seen) = one_device(OnLate::Deliver, &acts, &[1, 1, 96], 10_000).await;
    let expected = [
        r#"{"device":"d0","seq":2}"#,
        r#"{"device":"d0","seq":0,"replayed":true}"#,
        r#"{"device":"d0","seq":1,"replayed":true}"#,
    ];
    assert_eq!(payloads(&seen), expected);
    assert_eq!((device.delivered.get(), device.replayed.get()), (3, 2));
    assert_eq!(device.violations[Stage::Broker as usize].get(), 2, "the broker was missing");
}

#[tokio::test(start_paused = true)]
async fn what_is_to_be_dropped_is_never_sent_late_but_accounted_for() {
    let acts = [(100, Act::Up)];
    let (device, seen) = one_device(OnLate::Drop, &acts, &[1, 1, 96], 10_000).await;
    assert_eq!(payloads(&seen), [r#"{"device":"d0","seq":2}"#]);
    assert_eq!(seen.lock().unwrap().gaps, [("d0".into(), 0, 1, "late".into())]);
    assert_eq!((device.delivered.get(), device.gap_accounted.get()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn what_is_to_be_dropped_does_not_leave_towards_a_far_side_that_stalls() {
    // The first is not acknowledged until 100 ms; budgets are 30 ms. Another leaves while the silence is still short.
    let acts = [(0, Act::Up), (100, Act::Ack(0)), (100, Act::Ack(0))];
    let (device, seen) = one_device(OnLate::Drop, &acts, &[1, 10, 10, 10, 10, 70], 10_000).await;
    let left: Vec<u64> = seen.lock().unwrap().offers.iter().map(|(_, seq, _)| *seq).collect();
    assert_eq!(left, [0, 1, 2, 5]);
    let gap = |seq| ("d0".into(), seq, seq, "late".into());
    assert_eq!(seen.lock().unwrap().gaps, [gap(3), gap(4)]);
    assert_eq!((device.delivered.get(), device.gap_accounted.get()), (4, 2));
}

#[tokio::test(start_paused = true)]
async fn what_is_to_be_dropped_is_not_sent_again_late() {
    let acts = [(0, Act::Up), (10, Act::Down), (100, Act::Up)];
    let (device, seen) = one_device(OnLate::Drop, &acts, &[1, 1, 96], 10_000).await;
    let left: Vec<u64> = seen.lock().unwrap().offers.iter().map(|(_, seq, _)| *seq).collect();
    assert_eq!(left, [0, 1, 2]);
    assert_eq!(seen.lock().unwrap().gaps, [("d0".into(), 0, 1, "late, unacknowledged".into())]);
    assert_eq!((device.delivered.get(), device.gap_accounted.get()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_full_backlog_sheds_its_oldest_into_one_gap() {
    let acts = [(200, Act::Up)];
    let (device, seen) = one_device(OnLate::Deliver, &acts, &[1; 20], 4000).await;
    let gaps = seen.lock().unwrap().gaps.clone();
    assert_eq!(gaps.len(), 1);
    let (_, from, to, reason) = &gaps[0];
    assert_eq!((*from, reason.as_str()), (0, "backlog full"));
    assert_eq!(device.replayed.get(), 20 - (to + 1));
    assert!((6..=9).contains(&device.replayed.get()), "{to}");
}

#[tokio::test(start_paused = true)]
async fn a_refused_message_is_accounted_for_and_blocks_nothing() {
    let (mut far, seen) = Far::new(VecDeque::new(), true);
    far.refuses = Some(1);
    let devices = devices(&[OnLate::Deliver]);
    let device = Arc::clone(&devices[0].0);
    let trial = Trial { far, devices, samples: vec![(1, 0); 3], backlog_bytes: 10_000, end: Instant::now() };
    assert!(trial.run().await.0.is_settled());
    assert_eq!(seen.lock().unwrap().gaps, [("d0".into(), 1, 1, "refused: too large".into())]);
    assert_eq!((device.delivered.get(), device.gap_accounted.get()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_after_its_offer_is_accounted_for_and_blocks_nothing() {
    let acts = [(0, Act::Up), (5, Act::Refuse(1)), (6, Act::Ack(0)), (7, Act::Refuse(0))];
    let (device, seen) = one_device(OnLate::Deliver, &acts, &[1; 4], 10_000).await;
    let gap = |seq| ("d0".into(), seq, seq, "refused: HTTP 422".into());
    assert_eq!(seen.lock().unwrap().gaps, [gap(1), gap(2)]);
    assert_eq!((device.delivered.get(), device.gap_accounted.get()), (2, 2));
    assert_eq!(device.violations_total(), 0, "they were given up in time");
}

#[tokio::test(start_paused = true)]
async fn draining_ends_after_its_limit_and_says_what_remains() {
    let start = Instant::now();
    let (far, _) = Far::new(script(&[(0, Act::Up)], start), false);
    let devices = devices(&[OnLate::Deliver]);
    let trial = Trial { far, devices, samples: vec![(1, 0); 6], backlog_bytes: 10_000, end: start };
    let (left, _) = trial.run().await;
    assert_eq!(left, Summary { queued: 2, in_flight: 4, ..Summary::default() });
    let took = start.elapsed();
    assert!(took >= DRAIN_LIMIT && took < DRAIN_LIMIT + Duration::from_secs(1), "{took:?}");
}
