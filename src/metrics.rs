//! Every metric of the program, one documented line each.
//!
//! Plain atomics, relaxed: each number is right by itself, two numbers read together may be one event apart.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use self::wire::Wire;
use crate::budget::{Spent, Stage};

pub mod wire;

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that moves both ways.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// Reads it.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// How far a clock is from ours, in milliseconds; unknown at first.
#[derive(Debug)]
pub struct Offset(AtomicI64);

impl Default for Offset {
    fn default() -> Self {
        Self(AtomicI64::new(i64::MIN))
    }
}

impl Offset {
    /// Sets it.
    pub fn set(&self, millis: i64) {
        self.0.store(millis, Relaxed);
    }

    /// Reads it, if it's known.
    pub fn get(&self) -> Option<i64> {
        Some(self.0.load(Relaxed)).filter(|millis| *millis != i64::MIN)
    }
}

/// When something happened last.
#[derive(Debug, Default)]
pub struct Moment(Mutex<Option<Instant>>);

impl Moment {
    /// It happened at `at`.
    pub fn set(&self, at: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    /// When it happened; `None`: never.
    pub fn get(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something that must come to an end, while it's done.
#[derive(Debug, Default)]
pub struct Work(Moment);

impl Work {
    /// It's begun.
    pub fn begin(&self, now: Instant) {
        self.0.set(now);
    }

    /// It has ended.
    pub fn end(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// For how long it has been done; zero: nothing is.
    pub fn lasts(&self, now: Instant) -> Duration {
        self.0.get().map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

/// What was found out, in sentences: written now and then, read when somebody asks.
#[derive(Debug, Default)]
pub struct Facts {
    sentences: Mutex<Arc<[String]>>,
    changes: Counter,
}

impl Facts {
    /// Replaces them.
    pub fn set(&self, sentences: Vec<String>) {
        let mut known = self.sentences.lock().unwrap_or_else(PoisonError::into_inner);
        if **known != *sentences {
            *known = sentences.into();
            self.changes.inc();
        }
    }

    /// Reads them.
    pub fn get(&self) -> Arc<[String]> {
        self.sentences.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often they have changed.
    pub fn changes(&self) -> u64 {
        self.changes.get()
    }
}

/// What is replaced as a whole when a reload changes it; whoever reads it keeps what was there then.
#[derive(Debug)]
pub struct Current<T: ?Sized>(RwLock<Arc<T>>);

impl<T: ?Sized> Current<T> {
    /// This at first.
    pub fn new(first: impl Into<Arc<T>>) -> Self {
        Self(RwLock::new(first.into()))
    }

    /// What is there now.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// This from now on.
    pub fn set(&self, next: impl Into<Arc<T>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = next.into();
    }
}

impl<T> Default for Current<[T]> {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

/// Buckets per doubling: a quantile is at most 19 % above the truth.
const STEPS: usize = 4;
/// The first bucket ends at 2^FIRST µs.
const FIRST: usize = 5;
/// Buckets from 32 µs to 2^32 µs (71 minutes); longer times count in the last one.
const BUCKETS: usize = (32 - FIRST) * STEPS + 1;

/// A distribution of durations, in buckets that grow by 2^(1/4).
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU32; BUCKETS],
    max_micros: AtomicU64,
    sum_micros: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: [const { AtomicU32::new(0) }; BUCKETS],
            max_micros: AtomicU64::new(0),
            sum_micros: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket_of(micros)].fetch_add(1, Relaxed);
        self.max_micros.fetch_max(micros, Relaxed);
        self.sum_micros.fetch_add(micros, Relaxed);
    }

    /// How many were counted up to each power of two of microseconds, from 2^`first` to 2^`last`; and all of them.
    pub fn cumulative(&self, first: u32, last: u32) -> (Vec<(Duration, u64)>, u64) {
        let counts = self.buckets.each_ref().map(|bucket| u64::from(bucket.load(Relaxed)));
        let up_to = |power: u32| {
            let end = (power as usize).saturating_sub(FIRST) * STEPS + 1;
            let count = counts.iter().take(end).sum();
            (Duration::from_micros(1 << power), count)
        };
        ((first..=last).map(up_to).collect(), counts.iter().sum())
    }

    /// All of them together.
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_micros.load(Relaxed))
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| u64::from(bucket.load(Relaxed))).sum()
    }

    /// The upper end of the bucket that the quantile `q` (0 … 1) is in, at most the longest one seen. `None` when empty.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let count = self.count();
        let rank = ((count as f64 * q).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|bucket| {
            seen += u64::from(bucket.load(Relaxed));
            seen >= rank
        })?;
        Some(Duration::from_micros(upper_micros(bucket)).min(self.max()))
    }

    /// Forgets what was counted: a measurement leaves out how a start went.
    pub fn clear(&self) {
        self.buckets.iter().for_each(|bucket| bucket.store(0, Relaxed));
        self.max_micros.store(0, Relaxed);
    }

    /// The longest one.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.max_micros.load(Relaxed))
    }
}

/// The bucket of a duration: linear within each doubling.
fn bucket_of(micros: u64) -> usize {
    if micros < 1 << FIRST {
        return 0;
    }
    let octave = 63 - micros.leading_zeros() as usize;
    let step = (micros >> (octave - 2)) as usize & (STEPS - 1);
    ((octave - FIRST) * STEPS + step + 1).min(BUCKETS - 1)
}

/// The upper end of a bucket.
fn upper_micros(bucket: usize) -> u64 {
    if bucket == 0 {
        return 1 << FIRST;
    }
    let (octave, step) = (FIRST + (bucket - 1) / STEPS, (bucket - 1) % STEPS);
    (1u64 << octave) + ((step as u64 + 1) << (octave - 2))
}

/// What a connection's bus time is spent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusUse {
    /// Reads that were answered, if only by a refusal.
    Poll,
    /// Reads that were repeated at once: a value was torn, an answer damaged, or the link had dropped.
    Retry,
    /// Waiting for answers that did not come, and the line's rest after that.
    Timeout,
    /// Asking a unit that is away whether it is back.
    Probe,
}

impl BusUse {
    /// All uses, in the order of [`DeviceMetrics::bus_micros`].
    pub const ALL: [Self; 4] = [Self::Poll, Self::Retry, Self::Timeout, Self::Probe];

    /// The use's name in metrics and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Poll => "polls",
            Self::Retry => "retries",
            Self::Timeout => "timeouts",
            Self::Probe => "probes",
        }
    }
}

/// What is counted of one device.
#[derive(Debug, Default)]
pub struct DeviceMetrics {
    /// The device's name.
    pub name: Arc<str>,
    /// Exchanges that the device answered.
    pub answered: Counter,
    /// Exchanges that ended in a timeout.
    pub timeouts: Counter,
    /// Exchanges that the device refused with an exception code.
    pub exceptions: Counter,
    /// Refused reads by exception code (Modbus Application Protocol V1.1b3, section 7); index 0: other codes, and those of OPC UA.
    /// Requests that only look for refused addresses don't count here.
    pub exception_codes: [Counter; 12],
    /// Reads of which something was asked for again at once.
    pub retries: Counter,
    /// When a reload added it; never, if it has been there since the start.
    pub added_at: Moment,
    /// When it gave values last.
    pub values_at: Moment,
    /// When a message of it was acknowledged last.
    pub acked_at: Moment,
    /// Which sequence number that was.
    pub acked_seq: Gauge,
    /// Microseconds per stage of the last message that was delivered and not replayed; in the order of `Stage::ALL`.
    pub last_stage_micros: [Gauge; 4],
    /// Its last exchanges, as bytes.
    pub wire: Wire,
    /// Answers that were dropped because their shape was wrong: late, foreign, bad CRC, wrong length.
    pub garbled: Counter,
    /// Microseconds that this device kept its bus busy, by [`BusUse`], the silence after each exchange included.
    pub bus_micros: [Counter; 4],
    /// Microseconds that its answered reads were planned to take.
    pub planned_micros: Counter,
    /// 0: nobody knows; 1: it answers; 2: it does not.
    pub state: Gauge,
    /// Values that are bad because the device refuses their addresses, while others of the same read are there.
    pub quarantined: Gauge,
    /// OPC UA: the server's clock minus ours.
    pub clock_offset_ms: Offset,
    /// OPC UA: notifications of its values that never arrived, and values that the server says it has dropped before. What such a value was
    /// is unknown; each has been followed by a later one.
    pub lost_values: Counter,
    /// OPC UA: how the server differed from the map when it was connected last.
    pub drift: Facts,
    /// Due times that passed without a request because the bus was still busy.
    pub missed_ticks: Counter,
    /// Values that were bad.
    pub bad_values: Counter,
    /// Messages made (sequence numbers given).
    pub sampled: Counter,
    /// Messages whose PUBACK arrived.
    pub delivered: Counter,
    /// Of these, messages delivered out of the backlog.
    pub replayed: Counter,
    /// Sequence numbers accounted for by gap records.
    pub gap_accounted: Counter,
    /// Messages that missed their budget, by the stage that spent the time; in the order of `Stage::ALL`.
    pub violations: [Counter; 4],
    /// Time spent per stage by delivered messages that were not replayed; in the order of `Stage::ALL`.
    pub stages: [Histogram; 4],
    /// From the request to the PUBACK, of delivered messages that were not replayed.
    pub total: Histogram,
}

impl DeviceMetrics {
    /// Zeroed metrics of the named device.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Counts the times of a message that was delivered live.
    pub fn record_spent(&self, spent: &Spent) {
        for (stage, took) in self.stages.iter().zip(spent.0) {
            stage.record(took);
        }
        for (last, took) in self.last_stage_micros.iter().zip(spent.0) {
            last.set(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        }
        self.total.record(spent.total());
    }

    /// Counts a read that was refused with a Modbus exception code.
    pub fn refused_with(&self, code: u8) {
        self.exceptions.inc();
        self.exception_codes.get(usize::from(code)).unwrap_or(&self.exception_codes[0]).inc();
    }

    /// Counts bus time.
    pub fn spent_on_bus(&self, what: BusUse, took: Duration) {
        self.bus_micros[what as usize].add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// Counts a missed budget.
    pub fn violated(&self, stage: Stage) {
        self.violations[stage as usize].inc();
    }

    /// All missed budgets.
    pub fn violations_total(&self) -> u64 {
        self.violations.iter().map(Counter::get).sum()
    }
}

/// What is counted of one connection.
#[derive(Debug, Default)]
pub struct ConnectionMetrics {
    /// The connection's name.
    pub name: Arc<str>,
    /// 1 while the link is up.
    pub up: Gauge,
    /// Times that the link came up.
    pub connects: Counter,
    /// Frames or bursts of bytes that answered no open request: late answers, echoes, frames of units that were not
    /// asked, frames of the wrong shape, noise.
    pub strays: [Counter; 5],
    /// Restarts of the driver after a panic.
    pub restarts: Counter,
    /// A connect or a read.
    pub work: Work,
}

/// What is counted of one route.
#[derive(Debug, Default)]
pub struct RouteMetrics {
    /// The route's name.
    pub name: Arc<str>,
    /// 1 while the broker accepts messages.
    pub up: Gauge,
    /// Times that the link came up.
    pub connects: Counter,
    /// Messages handed to the broker again because a connection dropped before their PUBACK.
    pub redelivered: Counter,
    /// Messages waiting in the live queue.
    pub queued: Gauge,
    /// Messages published and not yet acknowledged.
    pub in_flight: Gauge,
    /// Messages waiting in the backlog.
    pub backlog: Gauge,
    /// Bytes waiting in the backlog.
    pub backlog_bytes: Gauge,
    /// Messages that the broker will never take (too large, topic refused).
    pub refused: Counter,
    /// Messages in the store that are not delivered.
    pub stored: Gauge,
    /// For how many milliseconds the newest message of the store's oldest file has waited; 0 when none waits.
    pub stored_age_ms: Gauge,
    /// Bytes that the store's files take.
    pub stored_bytes: Gauge,
    /// 1 while the store can't be written.
    pub store_failing: Gauge,
    /// Bytes written to the store's files.
    pub store_written_bytes: Counter,
    /// Seconds of an outage that fit into the store when devices are read as planned.
    pub store_fits_seconds: Gauge,
    /// Times that the store was synced to the disk.
    pub store_syncs: Counter,
    /// What the store's thread asks of the disk.
    pub store_work: Work,
    /// What became of each device's messages on this route. The first route counts with the devices themselves; of the
    /// others only what the north counts is kept here.
    pub devices: Current<[Arc<DeviceMetrics>]>,
}

impl RouteMetrics {
    /// What counts a device's messages on this route.
    pub fn device(&self, name: &str) -> Option<Arc<DeviceMetrics>> {
        self.devices.get().iter().find(|device| *device.name == *name).cloned()
    }
}

/// The metrics of a running gateway. A reload makes another one of what has stayed and what is new.
#[derive(Debug, Default)]
pub struct Metrics {
    /// By device.
    pub devices: Vec<Arc<DeviceMetrics>>,
    /// By connection.
    pub connections: Vec<Arc<ConnectionMetrics>>,
    /// By route.
    pub routes: Vec<Arc<RouteMetrics>>,
    /// When the thread that polls and publishes was seen at work last.
    pub beat: Arc<Moment>,
    /// 1 while what ran well last runs in place of the site file.
    pub stands_in: Arc<Gauge>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_quantile_is_at_most_a_quarter_above_the_truth(micros in prop::collection::vec(1u64..1 << 32, 1..200), q in 0.01f64..1.0) {
            let histogram = Histogram::default();
            micros.iter().for_each(|m| histogram.record(Duration::from_micros(*m)));
            let mut sorted = micros;
            sorted.sort_unstable();
            let truth = sorted[((sorted.len() as f64 * q).ceil() as usize).clamp(1, sorted.len()) - 1];
            let shown = histogram.quantile(q).unwrap().as_micros() as u64;
            prop_assert!(shown >= truth && shown <= (truth + truth / 4).max(1 << FIRST), "{} for {}", shown, truth);
        }
    }

    #[test]
    fn what_took_up_to_a_power_of_two_is_counted_up_to_it() {
        let histogram = Histogram::default();
        for micros in [1, 1023, 1025, 5_000, 1 << 40] {
            histogram.record(Duration::from_micros(micros));
        }
        let (steps, all) = histogram.cumulative(10, 13);
        assert_eq!(steps.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [2, 3, 3, 4]);
        assert_eq!((steps[0].0, all), (Duration::from_micros(1024), 5));
    }

    #[test]
    fn an_empty_histogram_has_no_quantile() {
        assert_eq!(Histogram::default().quantile(0.5), None);
    }
}
