//! What is due when, on one connection. Pure: every function takes `now`.
//!
//! - Fixed phase: a read's ticks are `start + phase + k × interval`, whatever the reads take. Ticks that pass while the
//!   bus is busy are skipped and counted, never caught up with.
//! - Of what is due, the earliest deadline (due time + budget) goes first, then the order of the entries.
//! - A unit that failed [`FAILURES_TO_SICK`] times in a row is sick: its reads are suspended, and one of them is tried
//!   from time to time, at a bounded share of the bus. The first answer makes it well; one that soon falls sick again
//!   must answer several times in a row, so that a loose contact does not come and go with every answer.
//! - A unit that says it is busy is left alone for a while, longer each time.
//! - Each call costs O(log n); a unit that changes between well and sick costs O(its reads × log n).

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::mapping::device::Every;

/// Failures in a row that make a unit sick.
pub const FAILURES_TO_SICK: u32 = 3;

/// A sick unit is probed after this many times of what a failed probe costs: 0.5 % of the bus. A probe that is due just
/// before somebody else's read makes it late; this rarely it does not show in the 99th percentile.
pub const PROBE_REST: u32 = 200;

/// A sick unit is probed at least this often, so that its return is seen soon: then a probe that costs up to 400 ms stays
/// within 2 % of the bus.
pub const LONGEST_PROBE_REST: Duration = Duration::from_secs(20);

/// All sick units together leave this many times of a failed probe's cost between two probes: 10 % of the bus.
pub const PROBE_SPACING: u32 = 10;

/// A unit that falls sick so soon after it got well has relapsed.
pub const RELAPSE_WITHIN: Duration = Duration::from_secs(60);

/// Each relapse wants so many more answers in a row before the unit counts as well.
const ANSWERS_PER_RELAPSE: u32 = 3;

/// More are not asked for: with [`ANSWERED_PROBE_REST`] between them, a unit that is back for good is well within 30 s.
const MOST_ANSWERS: u32 = 8;

/// A sick unit that has answered, but not often enough, is probed again after this time or its shortest interval.
const ANSWERED_PROBE_REST: Duration = Duration::from_secs(1);

/// A busy unit is left alone for this long, then for twice as long, and so on.
pub const BUSY_REST: Duration = Duration::from_millis(500);

/// The longest that a busy unit is left alone.
pub const LONGEST_BUSY_REST: Duration = Duration::from_secs(16);

/// A read that failed while its unit is not sick yet is due again after this time, if its interval is longer: a device in
/// standby sleeps through the request that wakes it.
pub const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A read that is wanted once is tried again after this long.
pub const ONCE_RETRY: Duration = Duration::from_secs(10);

/// Every first read happens within this time, however long its interval: somebody is watching the start.
pub const FIRST_WITHIN: Duration = Duration::from_millis(150);

/// Shorter intervals than the timer can keep are raised to it.
pub const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

/// One read of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Index of the device on its connection.
    pub device: usize,
    /// Index of the read in its device's plan.
    pub read: usize,
    /// Who answers: what makes one entry's unit sick makes all entries of that unit sick.
    pub unit: u8,
    /// How often.
    pub every: Every,
    /// Its deadline is so long after its due time.
    pub budget: Duration,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Run this entry, then call [`Schedule::done`].
    Due {
        /// Index of the entry.
        entry: usize,
        /// Ticks of it that were skipped.
        missed: u64,
    },
    /// Nothing before this time.
    At(Instant),
    /// Nothing, ever.
    Never,
}

/// How a run of an entry ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The device gave the values.
    Answered,
    /// The device refused: it is alive, and this read has not succeeded.
    Refused,
    /// The device is there, and has no time.
    Busy,
    /// Nobody answered, or nothing that could be understood.
    Failed {
        /// The bus time that it cost.
        cost: Duration,
    },
}

/// A change of a unit's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answers again.
    Well,
    /// It has failed too often.
    Sick,
}

/// The schedule of one connection.
#[derive(Debug)]
pub struct Schedule {
    slots: Vec<Slot>,
    units: Vec<Unit>,
    /// By the time that something is to be done about them.
    waiting: BTreeSet<(Instant, usize)>,
    /// By deadline.
    ready: BTreeSet<(Instant, usize)>,
    /// No probe of any sick unit before.
    probes_from: Instant,
    seed: u64,
}

#[derive(Debug)]
struct Slot {
    entry: Entry,
    unit: usize,
    /// The next time in phase.
    tick: Instant,
    /// When the entry is to run: its tick, or earlier (the first read, a probe, a recovery).
    due: Instant,
    /// Where it is kept, with its key there.
    kept: Kept,
    /// A `once` that has succeeded.
    finished: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Nowhere,
    Waiting(Instant),
    Ready(Instant),
}

#[derive(Debug)]
struct Unit {
    slots: Vec<usize>,
    failures: u32,
    sick: bool,
    /// While sick: answers in a row, and probes that failed.
    answers: u32,
    failed_probes: u32,
    /// When it got well last, and how often it has fallen sick again soon after.
    well_since: Option<Instant>,
    relapses: u32,
    /// Times in a row that it was busy.
    busy: u32,
    /// Which slot probes next.
    probe: usize,
    /// No request before.
    held_until: Option<Instant>,
    shortest: Duration,
}

impl Schedule {
    /// A schedule that begins at `start`. `seed` spreads the phases of several connections, the units of one are spread
    /// evenly over their intervals; the same seed and entries give the same phases.
    pub fn new(entries: impl IntoIterator<Item = Entry>, seed: u64, start: Instant) -> Self {
        let mut schedule = Self {
            slots: Vec::new(),
            units: Vec::new(),
            waiting: BTreeSet::new(),
            ready: BTreeSet::new(),
            probes_from: start,
            seed,
        };
        let mut by_id = [None; 256];
        for entry in entries {
            let unit = *by_id[usize::from(entry.unit)].get_or_insert_with(|| {
                schedule.units.push(Unit::new());
                schedule.units.len() - 1
            });
            let slot = schedule.slots.len();
            schedule.units[unit].slots.push(slot);
            if let Every::Interval(interval) = entry.every {
                let shortest = &mut schedule.units[unit].shortest;
                *shortest = interval.max(SHORTEST_INTERVAL).min(*shortest);
            }
            schedule.slots.push(Slot {
                entry,
                unit,
                tick: start,
                due: start,
                kept: Kept::Nowhere,
                finished: false,
            });
        }
        schedule.restart(start);
        schedule
    }

    /// Begins anew, as after a reconnect: everything is due soon, everybody is well, `once` counts again.
    pub fn restart(&mut self, start: Instant) {
        self.waiting.clear();
        self.ready.clear();
        self.probes_from = start;
        for unit in &mut self.units {
            (unit.failures, unit.sick, unit.answers, unit.busy, unit.held_until) = (0, false, 0, 0, None);
        }
        for ix in 0..self.slots.len() {
            let slot = &mut self.slots[ix];
            let part = part_of(self.seed, slot.unit);
            let soon = start + share(FIRST_WITHIN, part);
            // Phases are spread over the whole interval. Where that makes the first tick late, one read goes before it.
            slot.tick = interval_of(slot.entry.every).map_or(soon, |interval| start + share(interval, part));
            slot.due = if slot.tick <= start + FIRST_WITHIN { slot.tick } else { soon };
            slot.kept = Kept::Nowhere;
            slot.finished = false;
            self.wait(ix, self.slots[ix].due);
        }
    }

    /// Goes on where another schedule of the same line was: an entry that was there too (`same` gives its index) keeps its phase, and a
    /// unit with such an entry its health; one without is asked at once. What `old` had given out and not seen done is due now.
    pub fn take_over(&mut self, old: &Self, same: impl Fn(usize) -> Option<usize>, now: Instant) {
        self.probes_from = old.probes_from;
        for ix in 0..self.slots.len() {
            let Some(was) = same(ix).and_then(|was| old.slots.get(was)) else { continue };
            let slot = &mut self.slots[ix];
            (slot.tick, slot.finished) = (was.tick, was.finished);
            slot.due = if was.kept == Kept::Nowhere && !was.finished { now } else { was.due };
            self.unkeep(ix);
            self.enqueue(ix);
        }
        for unit in 0..self.units.len() {
            let id = self.units[unit].slots.first().map(|ix| self.slots[*ix].entry.unit);
            let is_same = |was: &&Unit| was.slots.first().map(|ix| old.slots[*ix].entry.unit) == id;
            let Some(was) = old.units.iter().find(is_same) else { continue };
            if !self.units[unit].slots.iter().any(|ix| same(*ix).is_some()) {
                self.units[unit].held_until = was.held_until;
                continue;
            }
            self.units[unit].keep_health(was);
            if was.sick {
                let probe = was.slots.iter().find_map(|ix| match old.slots[*ix].kept {
                    Kept::Waiting(at) => Some(at),
                    Kept::Ready(_) | Kept::Nowhere => None,
                });
                self.suspend(unit);
                self.probe_at(unit, probe.unwrap_or(now));
            }
        }
    }

    /// The entries, in the order that indices refer to.
    pub fn entry(&self, entry: usize) -> Entry {
        self.slots[entry].entry
    }

    /// What is to be done at `now`. An entry that is `Due` is not given again before [`Schedule::done`].
    pub fn next(&mut self, now: Instant) -> Next {
        while let Some(&(at, ix)) = self.waiting.first()
            && at <= now
        {
            self.waiting.pop_first();
            let slot = &mut self.slots[ix];
            let deadline = slot.due + slot.entry.budget;
            slot.kept = Kept::Ready(deadline);
            self.ready.insert((deadline, ix));
        }
        while let Some((_, ix)) = self.ready.pop_first() {
            self.slots[ix].kept = Kept::Nowhere;
            if let Some(until) = self.units[self.slots[ix].unit].held_until.filter(|until| *until > now) {
                self.wait(ix, until);
                continue;
            }
            return Next::Due { entry: ix, missed: self.depart(ix, now) };
        }
        self.waiting.first().map_or(Next::Never, |(at, _)| Next::At(*at))
    }

    /// Tells how a run that [`Schedule::next`] gave out has ended.
    pub fn done(&mut self, entry: usize, now: Instant, outcome: Outcome) -> Option<Health> {
        let slot = &mut self.slots[entry];
        let unit = slot.unit;
        match interval_of(slot.entry.every) {
            Some(_) => slot.due = slot.tick,
            None if outcome == Outcome::Answered => slot.finished = true,
            None => slot.due = now + ONCE_RETRY,
        }
        match outcome {
            Outcome::Failed { cost } => self.failed(unit, entry, now, cost),
            Outcome::Answered | Outcome::Refused => {
                self.units[unit].busy = 0;
                self.answered(unit, entry, now)
            }
            Outcome::Busy => {
                let busy = &mut self.units[unit].busy;
                let rest = BUSY_REST.saturating_mul(1 << (*busy).min(8)).min(LONGEST_BUSY_REST);
                *busy = busy.saturating_add(1);
                self.hold(entry, now + rest);
                self.answered(unit, entry, now)
            }
        }
    }

    /// The unit lives.
    fn answered(&mut self, unit: usize, entry: usize, now: Instant) -> Option<Health> {
        let known = &mut self.units[unit];
        known.failures = 0;
        if !known.sick {
            self.enqueue(entry);
            return None;
        }
        known.answers += 1;
        if known.answers < (1 + known.relapses * ANSWERS_PER_RELAPSE).min(MOST_ANSWERS) {
            let at = now + known.shortest.min(ANSWERED_PROBE_REST);
            self.probe_at(unit, at);
            return None;
        }
        known.sick = false;
        known.well_since = Some(now);
        self.resume(unit, entry, now);
        self.enqueue(entry);
        Some(Health::Well)
    }

    fn failed(&mut self, unit: usize, entry: usize, now: Instant, cost: Duration) -> Option<Health> {
        let known = &mut self.units[unit];
        known.failures = known.failures.saturating_add(1);
        known.answers = 0;
        if known.failures < FAILURES_TO_SICK && !known.sick {
            let due = &mut self.slots[entry].due;
            *due = (*due).min(now + AGAIN_AFTER);
            self.enqueue(entry);
            return None;
        }
        let falls = !std::mem::replace(&mut known.sick, true);
        if falls {
            let is_relapse = known.well_since.is_some_and(|since| now - since < RELAPSE_WITHIN);
            known.relapses = if is_relapse { known.relapses.saturating_add(1).min(MOST_ANSWERS) } else { 0 };
            known.failed_probes = 0;
            self.suspend(unit);
        }
        self.plan_probe(unit, now, cost);
        falls.then_some(Health::Sick)
    }

    /// No request to this entry's unit before `until`: it rests, or its late answer may still come.
    pub fn hold(&mut self, entry: usize, until: Instant) {
        let held_until = &mut self.units[self.slots[entry].unit].held_until;
        *held_until = (*held_until).max(Some(until));
    }

    /// Is this entry's unit sick?
    pub fn is_sick(&self, entry: usize) -> bool {
        self.units[self.slots[entry].unit].sick
    }

    /// Has no unit answered its last request?
    pub fn nobody_answers(&self) -> bool {
        self.units.iter().all(|unit| unit.failures > 0)
    }

    /// Advances an entry's phase past `now` and counts the ticks that are lost.
    fn depart(&mut self, ix: usize, now: Instant) -> u64 {
        let sick = self.units[self.slots[ix].unit].sick;
        let slot = &mut self.slots[ix];
        let Some(interval) = interval_of(slot.entry.every) else { return 0 };
        let passed = advance(&mut slot.tick, interval, now);
        // One of the passed ticks is the one that is served; those of a sick unit are not missed, it is away.
        if sick { 0 } else { passed.saturating_sub(1) }
    }

    fn suspend(&mut self, unit: usize) {
        for i in 0..self.units[unit].slots.len() {
            self.unkeep(self.units[unit].slots[i]);
        }
    }

    /// The reads that a unit's sickness kept back are due at once, and stay in phase.
    fn resume(&mut self, unit: usize, probe: usize, now: Instant) {
        for i in 0..self.units[unit].slots.len() {
            let ix = self.units[unit].slots[i];
            let slot = &mut self.slots[ix];
            if let Some(interval) = interval_of(slot.entry.every) {
                advance(&mut slot.tick, interval, now);
            }
            // The probe that was answered has had its turn.
            if ix != probe {
                slot.due = now;
                self.enqueue(ix);
            }
        }
    }

    /// Plans a probe after one that failed: all probes together leave the bus its share.
    fn plan_probe(&mut self, unit: usize, now: Instant, cost: Duration) {
        let sick = &mut self.units[unit];
        let rest = (cost * PROBE_REST).clamp(sick.shortest, LONGEST_PROBE_REST);
        // Most who fall silent are soon back: the first probes follow quickly, each after twice the rest of the last.
        let first = sick.shortest.max(cost * 2).saturating_mul(1 << sick.failed_probes.min(16));
        sick.failed_probes = sick.failed_probes.saturating_add(1);
        let at = now + rest.min(first);
        let at = at.max(self.probes_from);
        self.probes_from = at + cost * PROBE_SPACING;
        self.probe_at(unit, at);
    }

    /// The reads of a sick unit take turns: one that always fails must not hide that the others would not.
    fn probe_at(&mut self, unit: usize, at: Instant) {
        let sick = &mut self.units[unit];
        for _ in 0..sick.slots.len() {
            sick.probe = (sick.probe + 1) % sick.slots.len();
            if !self.slots[sick.slots[sick.probe]].finished {
                break;
            }
        }
        let ix = sick.slots[sick.probe];
        self.unkeep(ix);
        self.slots[ix].due = at;
        self.wait(ix, at);
    }

    fn enqueue(&mut self, ix: usize) {
        if !self.slots[ix].finished && self.slots[ix].kept == Kept::Nowhere {
            self.wait(ix, self.slots[ix].due);
        }
    }

    fn wait(&mut self, ix: usize, at: Instant) {
        self.slots[ix].kept = Kept::Waiting(at);
        self.waiting.insert((at, ix));
    }

    fn unkeep(&mut self, ix: usize) {
        match std::mem::replace(&mut self.slots[ix].kept, Kept::Nowhere) {
            Kept::Nowhere => {}
            Kept::Waiting(at) => _ = self.waiting.remove(&(at, ix)),
            Kept::Ready(deadline) => _ = self.ready.remove(&(deadline, ix)),
        }
    }
}

impl Unit {
    fn new() -> Self {
        Self {
            slots: Vec::new(),
            failures: 0,
            sick: false,
            answers: 0,
            failed_probes: 0,
            well_since: None,
            relapses: 0,
            busy: 0,
            probe: 0,
            held_until: None,
            shortest: LONGEST_PROBE_REST,
        }
    }

    /// All but what its reads are.
    fn keep_health(&mut self, was: &Self) {
        let Self { failures, sick, answers, failed_probes, well_since, relapses, busy, held_until, .. } =
            *was;
        let (slots, probe, shortest) = (std::mem::take(&mut self.slots), self.probe, self.shortest);
        *self = Self {
            slots,
            probe,
            shortest,
            failures,
            sick,
            answers,
            failed_probes,
            well_since,
            relapses,
            busy,
            held_until,
        };
    }
}

fn interval_of(every: Every) -> Option<Duration> {
    match every {
        Every::Interval(interval) => Some(interval.max(SHORTEST_INTERVAL)),
        Every::Once | Every::Changes(_) => None,
    }
}

/// Moves a tick to the first one after `now`; how many it passed.
fn advance(tick: &mut Instant, interval: Duration, now: Instant) -> u64 {
    if *tick > now {
        return 0;
    }
    let passed = (now - *tick).as_nanos() / interval.as_nanos() + 1;
    let passed = u64::try_from(passed).unwrap_or(u64::MAX);
    let nanos = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
    *tick += Duration::from_nanos(nanos.saturating_mul(passed));
    passed
}

/// The unit's place in [0, 1) as a fraction of 2^64: multiples of the golden ratio spread any number of units evenly.
fn part_of(seed: u64, unit: usize) -> u64 {
    const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
    seed.wrapping_add((unit as u64).wrapping_mul(GOLDEN))
}

fn share(whole: Duration, part: u64) -> Duration {
    let nanos = (whole.as_nanos() * u128::from(part)) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
