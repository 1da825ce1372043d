//! What waits to be POSTed, how much of it goes into one request, and when that leaves. Pure.
//!
//! - A request has at most `max_batch` messages, and ends with the one that takes it over [`MOST_BODY`].
//! - It waits for more messages for `linger` at most, never longer than half of what any message in it has left, and not at all before it
//!   is known how long the server takes to answer: waiting breaks no budget.
//! - A request that failed for now is put together again as it was, so that it has the same idempotency key.
//! - Of a request that was refused each message goes alone, before anything else.
//! - What must not be late never leaves late, however long it has been here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::budget::expired;
use crate::northbound::Token;

/// Bytes of messages in one request; nginx takes as many unless told otherwise (`client_max_body_size`).
const MOST_BODY: usize = 1 << 20;

/// A message that the forwarder has offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub token: Token,
    /// Its idempotency key, when it travels alone.
    pub key: Option<String>,
    /// The device that it is about; none for the gateway's own.
    pub device: Arc<str>,
    /// What is sent.
    pub payload: Bytes,
    /// Until when it should be answered.
    pub deadline: Option<Instant>,
    /// Must it not leave after that?
    pub drops: bool,
    /// Will it be offered again after an outage, and in its order?
    pub returns: bool,
}

/// The messages that were offered and are not under way.
#[derive(Debug)]
pub(super) struct Outbox {
    max_batch: usize,
    linger: Duration,
    waiting: Vec<Item>,
    bytes: usize,
    leaves_at: Option<Instant>,
    /// Of a request that was refused.
    singly: VecDeque<Item>,
    /// How many messages the request that failed had.
    repeats: Option<usize>,
    /// How long the server takes to answer, at worst of late.
    round_trip: Option<Duration>,
    /// Is nothing more to be expected?
    hurries: bool,
}

/// What [`Outbox::take`] finds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// The next request.
    pub request: Vec<Item>,
    /// What must not leave any more.
    pub overdue: Vec<Item>,
}

impl Outbox {
    pub fn new(max_batch: usize, linger: Duration) -> Self {
        Self {
            max_batch,
            linger,
            waiting: Vec::new(),
            bytes: 0,
            leaves_at: None,
            singly: VecDeque::new(),
            repeats: None,
            round_trip: None,
            hurries: false,
        }
    }

    /// How many messages may be here.
    pub fn room(&self) -> usize {
        match self.singly.is_empty() && self.bytes < MOST_BODY {
            true => self.repeats.unwrap_or(self.max_batch),
            false => 0,
        }
    }

    /// Takes a message; only while there is room.
    pub fn push(&mut self, item: Item, now: Instant) {
        let until = self.patience(item.deadline, now);
        self.leaves_at = Some(self.leaves_at.map_or(until, |other| other.min(until)));
        self.bytes += item.payload.len();
        self.waiting.push(item);
    }

    /// When the next request leaves, if nothing else happens.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        let is_full = self.waiting.len() >= self.room() || self.hurries;
        match (self.singly.is_empty(), self.waiting.is_empty()) {
            (true, true) => None,
            (true, false) if !is_full => self.leaves_at,
            _ => Some(now),
        }
    }

    /// The next request.
    pub fn take(&mut self, now: Instant) -> Taken {
        let mut taken = Taken::default();
        while let Some(item) = self.singly.pop_front() {
            if item.is_overdue(now) {
                taken.overdue.push(item);
            } else {
                taken.request.push(item);
                return taken;
            }
        }
        let waiting = std::mem::take(&mut self.waiting);
        (taken.overdue, taken.request) = {
            let (late, fine): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|item| item.is_overdue(now));
            (taken.overdue.into_iter().chain(late).collect(), fine)
        };
        (self.bytes, self.leaves_at) = (0, None);
        if !taken.request.is_empty() {
            self.repeats = None;
        }
        taken
    }

    /// The server has answered a request, so long after it left.
    pub fn answered(&mut self, round_trip: Duration) {
        // Slower is believed at once, faster by and by.
        self.round_trip = Some(self.round_trip.map_or(round_trip, |before| round_trip.max(before / 2)));
    }

    /// A request of several messages was refused.
    pub fn one_by_one(&mut self, request: Vec<Item>) {
        self.singly.extend(request);
    }

    /// The route is down: everything that was offered is the forwarder's again, `request` first.
    pub fn lost(&mut self, request: &[Item]) {
        let returning = request.iter().filter(|item| item.returns).count();
        if returning > 0 {
            self.repeats = Some(returning);
        }
        self.waiting.clear();
        self.singly.clear();
        (self.bytes, self.leaves_at) = (0, None);
    }

    /// No more messages are to be waited for.
    pub fn hurry(&mut self) {
        self.hurries = true;
    }

    /// Until when a request with this message may wait for others.
    fn patience(&self, deadline: Option<Instant>, now: Instant) -> Instant {
        let Some(deadline) = deadline else { return now + self.linger };
        let left = deadline.saturating_duration_since(now);
        let spare = self.round_trip.map_or(Duration::ZERO, |usual| left.saturating_sub(2 * usual));
        now + self.linger.min(left / 2).min(spare)
    }
}

impl Item {
    fn is_overdue(&self, now: Instant) -> bool {
        self.drops && self.deadline.is_some_and(|deadline| expired(deadline, now))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn item(token: Token, deadline: Option<Instant>) -> Item {
        let payload = Bytes::from_static(b"{}");
        Item { token, key: None, device: "m".into(), payload, deadline, drops: false, returns: true }
    }

    fn tokens(items: &[Item]) -> Vec<Token> {
        items.iter().map(|item| item.token).collect()
    }

    fn outbox(max_batch: usize, linger: Duration) -> Outbox {
        let mut outbox = Outbox::new(max_batch, linger);
        outbox.answered(MS);
        outbox
    }

    #[test]
    fn nothing_waits_before_the_servers_pace_is_known() {
        let now = Instant::now();
        let mut outbox = Outbox::new(10, 100 * MS);
        outbox.push(item(0, Some(now + 1000 * MS)), now);
        assert_eq!(outbox.due(now), Some(now));
    }

    #[test]
    fn a_slow_server_leaves_no_time_to_wait() {
        let now = Instant::now();
        let mut outbox = outbox(10, 100 * MS);
        outbox.answered(490 * MS);
        outbox.push(item(0, Some(now + 1000 * MS)), now);
        assert_eq!(outbox.due(now), Some(now + 20 * MS));
    }

    #[test]
    fn a_full_request_and_the_last_one_leave_at_once() {
        let now = Instant::now();
        let mut outbox = outbox(2, 100 * MS);
        outbox.push(item(0, None), now);
        assert_eq!(outbox.due(now), Some(now + 100 * MS));
        outbox.push(item(1, None), now);
        assert_eq!(outbox.due(now), Some(now));
        assert_eq!(tokens(&outbox.take(now).request), [0, 1]);
        outbox.push(item(2, None), now);
        outbox.hurry();
        assert_eq!(outbox.due(now), Some(now));
    }

    #[test]
    fn a_large_message_ends_a_request() {
        let now = Instant::now();
        let mut outbox = outbox(10, 100 * MS);
        outbox.push(Item { payload: vec![b' '; MOST_BODY].into(), ..item(0, None) }, now);
        assert_eq!((outbox.room(), outbox.due(now)), (0, Some(now)));
        assert_eq!(tokens(&outbox.take(now).request), [0]);
        assert_eq!(outbox.room(), 10);
    }

    #[test]
    fn what_failed_is_repeated_as_it_was() {
        let now = Instant::now();
        let mut outbox = outbox(10, Duration::ZERO);
        (0..3).for_each(|token| outbox.push(item(token, None), now));
        let mut request = outbox.take(now).request;
        request.push(Item { returns: false, ..item(3, None) });
        outbox.lost(&request);
        assert_eq!(outbox.room(), 3, "a status is not offered again");
        // Nor does a failure without a request change that.
        outbox.lost(&[]);
        assert_eq!(outbox.room(), 3);
        (0..3).for_each(|token| outbox.push(item(token, None), now));
        assert_eq!(tokens(&outbox.take(now).request), [0, 1, 2]);
        assert_eq!(outbox.room(), 10);
    }

    #[test]
    fn what_must_not_be_late_does_not_leave_late() {
        let now = Instant::now();
        let mut outbox = outbox(3, Duration::ZERO);
        let soon = Some(now + MS);
        let request =
            vec![item(0, soon), Item { drops: true, ..item(1, soon) }, Item { drops: true, ..item(2, None) }];
        outbox.one_by_one(request);
        let mut left = Vec::new();
        let mut overdue = Vec::new();
        while outbox.due(now).is_some() {
            let taken = outbox.take(now + MS);
            left.extend(tokens(&taken.request));
            overdue.extend(tokens(&taken.overdue));
        }
        assert_eq!((left, overdue), (vec![0, 2], vec![1]));
    }

    proptest! {
        /// Whatever comes when: everything leaves once, in its order, in requests that are not too large, and at a time that leaves
        /// each message two round trips, or all that it had when it came.
        #[test]
        fn everything_leaves_once_in_order_and_in_time(
            max_batch in 1usize..6,
            linger in 0u32..50,
            round_trip in 0u32..30,
            arrivals in prop::collection::vec((0u32..20, prop::option::of(0u32..100)), 1..60),
        ) {
            let mut now = Instant::now();
            let mut outbox = Outbox::new(max_batch, linger * MS);
            outbox.answered(round_trip * MS);
            let mut came = Vec::new();
            let mut left = Vec::new();
            let leave = |outbox: &mut Outbox, at: Instant, left: &mut Vec<(Token, Instant)>| {
                let request = outbox.take(at).request;
                assert!(!request.is_empty() && request.len() <= max_batch);
                left.extend(tokens(&request).into_iter().map(|token| (token, at)));
            };
            for (token, (after, budget)) in (0u64..).zip(arrivals) {
                let next = now + after * MS;
                while let Some(due) = outbox.due(now).filter(|due| *due <= next) {
                    leave(&mut outbox, due, &mut left);
                }
                now = next;
                let deadline = budget.map(|budget| now + budget * MS);
                outbox.push(item(token, deadline), now);
                came.push((now, deadline));
            }
            while let Some(due) = outbox.due(now) {
                leave(&mut outbox, due, &mut left);
            }
            prop_assert_eq!(left.iter().map(|(token, _)| *token).collect::<Vec<_>>(), (0..came.len() as u64).collect::<Vec<_>>());
            for ((_, at), (since, deadline)) in left.iter().zip(&came) {
                prop_assert!(*at <= *since + linger * MS);
                let in_time = deadline.is_none_or(|deadline| *at == *since || *at + 2 * round_trip * MS <= deadline);
                prop_assert!(in_time, "{:?} {:?} {:?}", at, since, deadline);
            }
        }
    }
}
