//! The account of every unsettled data message: counts each missed budget once, with the stage that spent the time.
//!
//! It watches deadlines wherever a message is (queue, window, backlog), so the places themselves don't have to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::entry::{Clock, Entry};
use crate::budget::expired;
use crate::metrics::DeviceMetrics;

/// Messages whose deadline has not passed and whose PUBACK has not come, and the link's up and down times.
#[derive(Debug)]
pub(super) struct Account {
    open: BTreeMap<(Instant, u64), (Arc<DeviceMetrics>, Clock)>,
    /// Deadlines of messages that left for the store before them, by position.
    away: BTreeMap<u64, (Instant, u64)>,
    down: Duration,
    down_since: Option<Instant>,
}

impl Account {
    /// An account of a link that is down.
    pub fn new(now: Instant) -> Self {
        Self { open: BTreeMap::new(), away: BTreeMap::new(), down: Duration::ZERO, down_since: Some(now) }
    }

    /// How long the link has been down in all.
    pub fn down(&self, now: Instant) -> Duration {
        self.down + self.down_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// The link came up or went down.
    pub fn link(&mut self, up: bool, now: Instant) {
        self.down = self.down(now);
        self.down_since = (!up).then_some(now);
    }

    /// Watches a data message.
    pub fn open(&mut self, entry: &Entry) {
        if let Some(s) = entry.sampled() {
            self.open.insert((s.deadline, entry.id), (Arc::clone(&s.device), entry.clock));
        }
    }

    /// Stamps a message that is offered for the first time.
    pub fn offered(&mut self, entry: &mut Entry, now: Instant) {
        if entry.clock.offered.is_some() {
            return;
        }
        entry.clock.offered = Some((now, self.down(now)));
        if let Some(s) = entry.sampled()
            && let Some((_, clock)) = self.open.get_mut(&(s.deadline, entry.id))
        {
            *clock = entry.clock;
        }
    }

    /// The PUBACK has come: counts the delivery and where its time went.
    pub fn delivered(&mut self, entry: &Entry, now: Instant) {
        let Some(s) = entry.sampled() else { return };
        self.close(entry);
        s.device.delivered.inc();
        s.device.acked_at.set(now);
        s.device.acked_seq.set(s.seq);
        if entry.replayed {
            s.device.replayed.inc();
        } else {
            s.device.record_spent(&entry.clock.spent(now, self.down(now)));
        }
    }

    /// Stops watching a message that is settled.
    pub fn close(&mut self, entry: &Entry) {
        if let Some(s) = entry.sampled() {
            let away = entry.position.and_then(|position| self.away.remove(&position));
            self.open.remove(&away.unwrap_or((s.deadline, entry.id)));
        }
    }

    /// A message leaves memory for the store. It's watched all the same.
    pub fn released(&mut self, entry: &Entry) {
        if let (Some(s), Some(position)) = (entry.sampled(), entry.position)
            && self.open.contains_key(&(s.deadline, entry.id))
        {
            self.away.insert(position, (s.deadline, entry.id));
        }
    }

    /// Counts the budgets that are missed by `now`.
    pub fn expire(&mut self, now: Instant) {
        while let Some(first) = self.open.first_entry().filter(|first| expired(first.key().0, now)) {
            let ((deadline, _), (device, clock)) = first.remove_entry();
            // By its deadline, not by the moment it was noticed: the stage to blame is the one that spent the budget.
            let at = deadline.max(clock.encoded);
            device.violated(clock.spent(at, self.down(at)).culprit());
        }
        if !self.away.is_empty() {
            self.away.retain(|_, (deadline, _)| !expired(*deadline, now));
        }
    }

    /// The next moment at which a budget is missed.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.open.first_key_value().map(|((deadline, _), _)| *deadline)
    }
}
