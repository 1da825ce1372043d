//! The forwarder without its shell: what is sent next, what becomes of what is late, what is owed.
//!
//! Invariants:
//! - each data message is in exactly one place (live, backlog, store, in flight, to be sent again) until it's delivered or in
//!   the gap account: sampled = delivered + waiting + gap-accounted;
//! - what was offered and not acknowledged when the link dropped is offered again first, in its order, byte-identical;
//! - what must not be late (`late: drop`) is never offered at or after its deadline, not even again, nor to a far side
//!   that has been silent for longer than the message has left;
//! - then statuses in turn with the rest: gap records, late messages, live messages by deadline; and last the backlog,
//!   oldest first, as fast as live messages do not notice (`pace`).
//!
//! Where there is a store, it has a copy of what is in memory, and alone what the backlog would have; `shelf` knows which.
//!
//! No async, no clock reads, no logging: every function takes `now`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::account::Account;
use super::backlog::Backlog;
use super::entry::{Clock, Entry, Place};
use super::live::Live;
use super::pace::Pace;
use super::shelf::{self, Shelf};
use super::status::Statuses;
use super::{Settings, Summary};
use crate::budget::OnLate;
use crate::metrics::{DeviceMetrics, RouteMetrics};
use crate::model::clock::Standing;
use crate::model::gaps::{Gap, GapId, Gaps, Reason};
use crate::model::message::{Kind, Message, Sampled};
use crate::northbound::Token;
use crate::store::{Event, Marks, Op, Stored};

/// Letters of a sink's refusal that a gap record repeats.
const LONGEST_REASON: usize = 120;

/// All that a route owns, and the rules of what happens to it.
#[derive(Debug)]
pub(super) struct Core {
    settings: Settings,
    metrics: Arc<RouteMetrics>,
    up: bool,
    ids: u64,
    tokens: Token,
    account: Account,
    statuses: Statuses,
    status_was_last: bool,
    live: Live,
    backlog: Backlog,
    pace: Pace,
    pub shelf: Shelf,
    gaps: Gaps,
    again: VecDeque<Entry>,
    in_flight: BTreeMap<Token, Entry>,
    /// Of these, how many are replayed.
    replaying: usize,
    /// The gateway ends: what is safe in the store waits for the next run.
    is_ending: bool,
    /// Where the wall clock stands, if it's right.
    pub believed: Option<Standing>,
    /// Counts messages of earlier runs: they are no part of this run's account.
    former: HashMap<Arc<str>, Arc<DeviceMetrics>>,
}

/// What is to be sent next; it's in flight as soon as this exists.
#[derive(Debug)]
pub(super) struct Offer<'a> {
    pub token: Token,
    pub message: &'a Message,
    pub payload: Bytes,
}

impl Core {
    /// Owns nothing; the link is down.
    pub fn new(settings: Settings, metrics: Arc<RouteMetrics>, now: Instant) -> Self {
        let shelf = Shelf::new(settings.durability, settings.opened);
        Self {
            settings,
            metrics,
            up: false,
            ids: 0,
            tokens: 0,
            account: Account::new(now),
            statuses: Statuses::default(),
            status_was_last: false,
            live: Live::default(),
            backlog: Backlog::default(),
            pace: Pace::new(),
            shelf,
            gaps: Gaps::default(),
            again: VecDeque::new(),
            in_flight: BTreeMap::new(),
            replaying: 0,
            is_ending: false,
            believed: None,
            former: HashMap::new(),
        }
    }

    /// Takes a message over.
    pub fn admit(&mut self, message: Message, now: Instant) {
        match &message.kind {
            Kind::Data(sampled) => {
                let deadline = sampled.deadline;
                let mut entry = self.entry(message, now);
                if self.shelf.stores_all() {
                    self.put_on_shelf(&mut entry);
                }
                self.account.open(&entry);
                self.live.push(deadline, entry);
                self.spill();
            }
            Kind::Status => {
                if !self.statuses.put(message) {
                    self.metrics.refused.inc();
                }
            }
            // Gap records are made here.
            Kind::Gap(_) => self.metrics.refused.inc(),
        }
    }

    /// The link came up.
    pub fn up(&mut self, now: Instant) {
        self.expire(now);
        self.up = true;
        self.account.link(true, now);
        self.statuses.restart();
        self.metrics.up.set(1);
        self.metrics.connects.inc();
    }

    /// The link went down: what was in flight is ours again.
    pub fn down(&mut self, now: Instant) {
        if !self.up {
            return;
        }
        self.expire(now);
        self.up = false;
        self.account.link(false, now);
        self.metrics.up.set(0);
        // Statuses are all sent again anyway, as they are by then.
        let dropped = std::mem::take(&mut self.in_flight).into_values();
        let dropped = dropped.filter(|entry| !matches!(entry.message.kind, Kind::Status));
        // Nothing else is offered before `again` is empty, so what was in flight precedes what is left of it.
        let rest = std::mem::take(&mut self.again);
        self.again = dropped.chain(rest).collect();
        self.replaying = 0;
        while let Some(entry) = self.live.pop_late() {
            self.keep(entry);
        }
        self.shed();
        self.shed_stored();
    }

    /// The far side has acknowledged a message. Tokens of other links are ignored.
    pub fn acked(&mut self, token: Token, window: usize, now: Instant) {
        self.account.expire(now);
        let Some(entry) = self.landed(token) else { return };
        self.account.delivered(&entry, now);
        if let Kind::Gap(id) = &entry.message.kind {
            self.shelf.tell(Op::GapPublished(id.clone()));
        }
        if let Some(position) = entry.position {
            self.shelf.settled(position);
        }
        match (&entry.message.kind, entry.clock.offered) {
            (Kind::Data(_), _) if entry.replayed => self.pace.replayed(window, now),
            (Kind::Data(_), Some((offered, _))) => {
                self.pace.live(now - offered, self.replaying > 0, window, now)
            }
            _ => {}
        }
        self.shed_stored();
    }

    /// The sink will never take this message.
    pub fn refused(&mut self, token: Token, reason: &str, now: Instant) {
        self.account.expire(now);
        self.metrics.refused.inc();
        if let Some(entry) = self.landed(token) {
            let reason: String = reason.chars().take(LONGEST_REASON).collect();
            if let Some(stored) = shelf::stored(&entry.message, entry.position.unwrap_or(0)) {
                self.shelf.tell(Op::DeadLetter(stored, reason.clone()));
            }
            self.give_up(entry, format!("refused: {reason}").into());
            self.shed_stored();
        }
    }

    fn landed(&mut self, token: Token) -> Option<Entry> {
        let entry = self.in_flight.remove(&token)?;
        self.replaying -= usize::from(entry.replayed);
        Some(entry)
    }

    /// The store says something.
    pub fn stored(&mut self, event: Event, now: Instant) {
        match event {
            Event::Accepted(below) => {
                let from = self.shelf.accepted(below).max(self.shelf.cursor());
                let shelf = &mut self.shelf;
                let released = self.backlog.take(from..below, |entry| shelf.release(entry));
                released.iter().for_each(|entry| self.account.released(entry));
            }
            Event::Recovered { messages, gaps } => {
                self.shelf.recovered(messages);
                gaps.into_iter().for_each(|gap| self.gaps.add(gap));
            }
            Event::Block { messages, end } => {
                self.shelf.came(messages.len(), end);
                let shed = self.shelf.shed_below();
                // What was on its way when it was to be shed is in the store's gap records by now.
                for (stored, marks) in messages.into_iter().filter(|(stored, _)| stored.position >= shed) {
                    self.came_back(stored, marks, now);
                }
            }
            Event::GivenUp { gaps, messages } => {
                self.shelf.lost(messages);
                for gap in gaps {
                    self.device(&gap.id.device, gap.id.epoch).gap_accounted.add(gap.id.to - gap.id.from + 1);
                    self.gaps.add(gap);
                }
            }
            Event::Shed { upto, reason } => {
                self.shelf.shed = Some((upto, reason));
                self.shed_stored();
            }
        }
    }

    /// A message that only the store had.
    fn came_back(&mut self, stored: Stored, marks: Marks, now: Instant) {
        self.ids += 1;
        let is_overdue = shelf::is_overdue(&stored);
        let sampled = Sampled {
            device: self.device(&stored.device, stored.epoch),
            epoch: stored.epoch,
            seq: stored.seq,
            started: now,
            received: now,
            encoded: now,
            deadline: now,
            doubted: stored.doubted,
            late: stored.late,
        };
        let Stored { topic, payload, position, .. } = stored;
        let message = Message { topic, payload, retain: false, kind: Kind::Data(sampled) };
        let entry = Entry {
            id: self.ids,
            place: Place::stored(position),
            position: Some(position),
            clock: Clock::start(&message, now, self.account.down(now)),
            message,
            sent: None,
            replayed: true,
            marks: Some(marks),
        };
        match is_overdue {
            true => self.give_up(entry, Reason::Borrowed("late")),
            false => self.backlog.push(entry),
        }
    }

    /// Who counts a device's messages of a run.
    fn device(&mut self, name: &Arc<str>, epoch: u64) -> Arc<DeviceMetrics> {
        if epoch == self.settings.epoch
            && let Some(own) = self.metrics.device(name)
        {
            return own;
        }
        let former = self.former.entry(Arc::clone(name));
        Arc::clone(former.or_insert_with(|| Arc::new(DeviceMetrics::new(Arc::clone(name)))))
    }

    /// What happens at deadlines: counts violations, and moves what is late by its policy.
    pub fn expire(&mut self, now: Instant) {
        self.account.expire(now);
        while let Some(entry) = self.live.pop_expired(now) {
            match entry.sampled().map(|sampled| sampled.late) {
                Some(OnLate::Drop) => self.give_up(entry, Reason::Borrowed("late")),
                Some(OnLate::Deliver) if self.up => self.live.push_late(entry),
                _ => self.keep(entry),
            }
        }
        self.shed();
        if self.up && !self.is_ending {
            self.shelf.read_ahead(self.backlog.bytes());
        }
    }

    /// The next moment at which [`Self::expire`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        [self.live.next_deadline(), self.account.next_deadline()].into_iter().flatten().min()
    }

    /// What to send next, while the link is up. The caller minds the sink's window.
    pub fn next(&mut self, window: usize, now: Instant) -> Option<Offer<'_>> {
        if !self.up {
            return None;
        }
        self.expire(now);
        let mut entry = self.take(window, now)?;
        self.account.offered(&mut entry, now);
        let (payload, marks) = entry.payload(now, self.believed);
        if let (Some(position), Some(marks)) = (entry.position, marks) {
            self.shelf.marked(position, marks);
        }
        self.replaying += usize::from(entry.replayed);
        self.tokens += 1;
        let token = self.tokens;
        let entry = self.in_flight.entry(token).or_insert(entry);
        Some(Offer { token, message: &entry.message, payload })
    }

    /// How many messages are in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Is the link up?
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Do statuses wait to be sent?
    pub fn owes_statuses(&self) -> bool {
        self.statuses.len() > 0
    }

    /// The gateway ends: what is safe in the store is left there.
    pub fn end(&mut self) {
        self.is_ending = true;
    }

    /// Is there nothing more to do before the end?
    pub fn is_drained(&self) -> bool {
        let left = self.summary();
        match self.up {
            true => {
                left.queued + left.in_flight + left.backlog + left.gap_records == 0
                    && self.live.len() == 0
                    && self.in_flight_data() == 0
            }
            false => left.is_settled(),
        }
    }

    fn in_flight_data(&self) -> usize {
        let data = self.in_flight.values().chain(&self.again).filter(|entry| entry.sampled().is_some());
        data.count()
    }

    /// What is owned and not settled.
    pub fn summary(&self) -> Summary {
        let count = |entries: &mut dyn Iterator<Item = &Entry>| {
            let mut counts = (0, 0);
            for entry in entries.filter(|entry| entry.sampled().is_some()) {
                match self.shelf.has(entry) {
                    true => counts.0 += 1,
                    false => counts.1 += 1,
                }
            }
            counts
        };
        let (live_safe, queued) = count(&mut self.live.iter());
        let (flight_safe, in_flight) = count(&mut self.in_flight.values().chain(&self.again));
        let (backlog_safe, backlog) = count(&mut self.backlog.iter());
        let gaps_in_flight = self.in_flight.values().chain(&self.again);
        let gaps_in_flight =
            gaps_in_flight.filter(|entry| matches!(entry.message.kind, Kind::Gap(_))).count();
        let gap_records = if self.shelf.is_there() { 0 } else { self.gaps.len() + gaps_in_flight };
        let stored = self.shelf.waiting() + live_safe + flight_safe + backlog_safe;
        Summary { queued, in_flight, backlog, gap_records, stored }
    }

    /// Brings the route's gauges up to date.
    pub fn show(&self) {
        self.metrics.queued.set(self.live.len() as u64);
        self.metrics.in_flight.set(self.in_flight.len() as u64);
        self.metrics.backlog.set((self.backlog.len() + self.again.len() + self.shelf.waiting()) as u64);
        self.metrics.backlog_bytes.set(self.backlog.bytes() as u64);
    }

    fn entry(&mut self, message: Message, now: Instant) -> Entry {
        self.ids += 1;
        let clock = Clock::start(&message, now, self.account.down(now));
        let place = Place::unstored(self.shelf.next(), self.ids);
        Entry {
            id: self.ids,
            place,
            position: None,
            message,
            sent: None,
            clock,
            replayed: false,
            marks: None,
        }
    }

    fn put_on_shelf(&mut self, entry: &mut Entry) {
        entry.position = self.shelf.append(&entry.message);
        if let Some(position) = entry.position {
            entry.place = Place::stored(position);
        }
    }

    /// What missed its time waits: in the store alone, once that has it.
    fn keep(&mut self, mut entry: Entry) {
        entry.replayed = true;
        if entry.position.is_none() {
            self.put_on_shelf(&mut entry);
        }
        if self.shelf.release(&entry) {
            return self.account.released(&entry);
        }
        if let Some(position) = entry.position.filter(|_| entry.marks.is_none() && entry.sent.is_none()) {
            // The store is to know it before it leaves.
            let marks = Marks { replayed: true, ..Marks::default() };
            self.shelf.marked(position, marks);
            entry.marks = Some(marks);
        }
        self.backlog.push(entry);
    }

    /// The next message, in the order of the module doc.
    fn take(&mut self, window: usize, now: Instant) -> Option<Entry> {
        while let Some(entry) = self.again.pop_front() {
            if entry.must_not_leave(now) {
                // It may have arrived in time. A value that is named as lost and is not does less harm than a late one.
                self.give_up(entry, Reason::Borrowed("late, unacknowledged"));
                continue;
            }
            self.metrics.redelivered.inc();
            return Some(entry);
        }
        // Thousands of statuses must not keep live messages waiting, nor the other way round.
        self.status_was_last = !self.status_was_last || self.live.len() == 0;
        if self.status_was_last
            && let Some(status) = self.statuses.pop()
        {
            return Some(self.entry(status, now));
        }
        if let Some(gap) = self.gaps.pop(&self.settings.site) {
            return Some(self.entry(gap, now));
        }
        let acked_by = self.acked_by(now);
        let data = self.live.pop(acked_by);
        if data.is_none()
            && let Some(status) = self.statuses.pop()
        {
            return Some(self.entry(status, now));
        }
        data.or_else(|| self.take_backlog(window))
    }

    /// The oldest message of the backlog, when it's its turn.
    fn take_backlog(&mut self, window: usize) -> Option<Entry> {
        // What the store has yet to hand out may be older.
        let is_next = |place: Place| self.shelf.waiting() == 0 || place.is_next_at(self.shelf.cursor());
        let is_due = self.replaying < self.pace.share(window) && self.backlog.first().is_some_and(is_next);
        if !is_due || (self.is_ending && self.shelf.is_there()) {
            return None;
        }
        let entry = self.backlog.pop();
        self.shelf.read_ahead(self.backlog.bytes());
        entry
    }

    /// When a message that leaves now would be acknowledged at the earliest, as the far side answers at present: it has
    /// to be done with the oldest one first, which has waited so long already.
    fn acked_by(&self, now: Instant) -> Instant {
        let oldest = self.in_flight.first_key_value().and_then(|(_, entry)| entry.clock.offered);
        oldest.map_or(now, |(offered, _)| now + now.saturating_duration_since(offered))
    }

    /// Under pressure the least urgent leave the live queue.
    fn spill(&mut self) {
        while let Some(entry) = self.live.pop_surplus() {
            match entry.sampled().map(|sampled| sampled.late) {
                // Out of the backlog it would be sent late.
                Some(OnLate::Drop) => self.give_up(entry, Reason::Borrowed("queue full")),
                _ => self.keep(entry),
            }
        }
        self.shed();
    }

    /// Keeps the backlog within its limit.
    fn shed(&mut self) {
        while self.backlog.bytes() + self.gaps.bytes() > self.settings.backlog_bytes {
            let Some(oldest) = self.backlog.pop() else { break };
            self.give_up(oldest, Reason::Borrowed("backlog full"));
        }
    }

    /// The store needs room: what is held of its oldest messages goes too, but for what may be acknowledged yet.
    fn shed_stored(&mut self) {
        let Some((upto, reason)) = self.shelf.shed else { return };
        let has_to_go = |entry: &Entry| entry.position.is_some_and(|position| position <= upto);
        let (gone, stays): (VecDeque<_>, _) =
            std::mem::take(&mut self.again).into_iter().partition(has_to_go);
        self.again = stays;
        let held = self.backlog.take(0..upto.saturating_add(1), has_to_go);
        gone.into_iter().chain(held).for_each(|entry| self.give_up(entry, Reason::Borrowed(reason)));
        if !self.live.iter().chain(self.in_flight.values()).any(has_to_go) {
            self.shelf.let_go(upto);
        }
    }

    /// A message that will never arrive goes to the gap account.
    fn give_up(&mut self, entry: Entry, reason: Reason) {
        self.account.close(&entry);
        if let Some(sampled) = entry.sampled() {
            sampled.device.gap_accounted.inc();
            let device = Arc::clone(&sampled.device.name);
            let id = GapId { epoch: sampled.epoch, device, from: sampled.seq, to: sampled.seq };
            let gap = Gap { id, topic: Arc::clone(&entry.message.topic), reason };
            self.shelf.tell(Op::GivenUp(entry.position, gap.clone()));
            self.gaps.add(gap);
        }
    }
}
