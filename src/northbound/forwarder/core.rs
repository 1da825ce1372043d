//! The forwarder without its shell: what is sent next, what becomes of what is late, what is owed.
//!
//! Invariants:
//! - each data message is in exactly one place (live, backlog, in flight, to be sent again) until it's delivered or in
//!   the gap account: sampled = delivered + waiting + gap-accounted;
//! - what was offered and not acknowledged when the link dropped is offered again first, in its order, byte-identical;
//! - what must not be late (`late: drop`) is never offered at or after its deadline, not even again, nor to a far side
//!   that has been silent for longer than the message has left;
//! - then statuses in turn with the rest: gap records, late messages, live messages by deadline; and last the backlog,
//!   oldest first.
//!
//! No async, no clock reads, no logging: every function takes `now`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::account::Account;
use super::backlog::Backlog;
use super::entry::{Clock, Entry};
use super::gaps::{Gaps, Reason};
use super::live::Live;
use super::status::Statuses;
use super::{Settings, Summary};
use crate::budget::OnLate;
use crate::metrics::RouteMetrics;
use crate::model::message::{Kind, Message};
use crate::northbound::Token;

/// Gap records from elsewhere that may wait; one more is refused.
const GAP_RECORDS: usize = 4096;
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
    gaps: Gaps,
    gap_records: VecDeque<Entry>,
    again: VecDeque<Entry>,
    in_flight: BTreeMap<Token, Entry>,
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
            gaps: Gaps::default(),
            gap_records: VecDeque::new(),
            again: VecDeque::new(),
            in_flight: BTreeMap::new(),
        }
    }

    /// Takes a message over.
    pub fn admit(&mut self, message: Message, now: Instant) {
        match &message.kind {
            Kind::Data(sampled) => {
                let deadline = sampled.deadline;
                let entry = self.entry(message, now);
                self.account.open(&entry);
                self.live.push(deadline, entry);
                self.spill();
            }
            Kind::Status => {
                if !self.statuses.put(message) {
                    self.metrics.refused.inc();
                }
            }
            Kind::Gap if self.gap_records.len() < GAP_RECORDS => {
                let entry = self.entry(message, now);
                self.gap_records.push_back(entry);
            }
            Kind::Gap => self.metrics.refused.inc(),
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
        while let Some(entry) = self.live.pop_late() {
            self.backlog.push(entry);
        }
        self.shed();
    }

    /// The far side has acknowledged a message. Tokens of other links are ignored.
    pub fn acked(&mut self, token: Token, now: Instant) {
        self.account.expire(now);
        if let Some(entry) = self.in_flight.remove(&token) {
            self.account.delivered(&entry, now);
        }
    }

    /// The sink will never take this message.
    pub fn refused(&mut self, token: Token, reason: &str, now: Instant) {
        self.account.expire(now);
        self.metrics.refused.inc();
        if let Some(entry) = self.in_flight.remove(&token) {
            let reason: String = reason.chars().take(LONGEST_REASON).collect();
            self.give_up(entry, format!("refused: {reason}").into());
        }
    }

    /// What happens at deadlines: counts violations, and moves what is late by its policy.
    pub fn expire(&mut self, now: Instant) {
        self.account.expire(now);
        while let Some(entry) = self.live.pop_expired(now) {
            match entry.sampled().map(|sampled| sampled.late) {
                Some(OnLate::Drop) => self.give_up(entry, Reason::Borrowed("late")),
                Some(OnLate::Deliver) if self.up => self.live.push_late(entry),
                _ => self.backlog.push(entry),
            }
        }
        self.shed();
    }

    /// The next moment at which [`Self::expire`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        [self.live.next_deadline(), self.account.next_deadline()].into_iter().flatten().min()
    }

    /// What to send next, while the link is up. The caller minds the sink's window.
    pub fn next(&mut self, now: Instant) -> Option<Offer<'_>> {
        if !self.up {
            return None;
        }
        self.expire(now);
        let mut entry = self.take(now)?;
        self.account.offered(&mut entry, now);
        let payload = entry.payload(now);
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

    /// What is owned and not settled.
    pub fn summary(&self) -> Summary {
        let data = |entry: &&Entry| entry.sampled().is_some();
        let in_flight = self.in_flight.values().chain(&self.again);
        Summary {
            queued: self.live.len(),
            in_flight: in_flight.clone().filter(data).count(),
            backlog: self.backlog.len(),
            gap_records: self.gaps.len()
                + self.gap_records.len()
                + in_flight.filter(|entry| matches!(entry.message.kind, Kind::Gap)).count(),
        }
    }

    /// Brings the route's gauges up to date.
    pub fn show(&self) {
        self.metrics.queued.set(self.live.len() as u64);
        self.metrics.in_flight.set(self.in_flight.len() as u64);
        self.metrics.backlog.set((self.backlog.len() + self.again.len()) as u64);
        self.metrics.backlog_bytes.set(self.backlog.bytes() as u64);
    }

    fn entry(&mut self, message: Message, now: Instant) -> Entry {
        self.ids += 1;
        let clock = Clock::start(&message, now, self.account.down(now));
        Entry { id: self.ids, message, sent: None, clock, replayed: false }
    }

    /// The next message, in the order of the module doc.
    fn take(&mut self, now: Instant) -> Option<Entry> {
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
        if let Some(gap) = self.gaps.pop(&self.settings.site, self.settings.epoch) {
            return Some(self.entry(gap, now));
        }
        let acked_by = self.acked_by(now);
        let data = self.gap_records.pop_front().or_else(|| self.live.pop(acked_by));
        if data.is_none()
            && let Some(status) = self.statuses.pop()
        {
            return Some(self.entry(status, now));
        }
        data.or_else(|| self.backlog.pop())
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
                _ => self.backlog.push(entry),
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

    /// A message that will never arrive goes to the gap account.
    fn give_up(&mut self, entry: Entry, reason: Reason) {
        self.account.close(&entry);
        if let Some(sampled) = entry.sampled() {
            sampled.device.gap_accounted.inc();
            self.gaps.add(&sampled.device.name, &entry.message.topic, sampled.seq, reason);
        }
    }
}
