//! A message while the forwarder owns it, and the clock of where its time went.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::time::Instant;

use crate::budget::{OnLate, Spent, expired};
use crate::model::clock::Standing;
use crate::model::message::{Kind, Message, Sampled};
use crate::model::time::Stamp;
use crate::store::{Marks, Restamp};

/// What an entry costs besides its payload and topic: the message, the map nodes that hold it, the allocations'
/// own headers. Measured as `size_of::<Entry>()` plus a third for half-filled nodes, rounded up.
pub(super) const ENTRY_OVERHEAD: usize = 528;

/// A message that the forwarder owns.
#[derive(Debug)]
pub(super) struct Entry {
    /// In order of admission; never used twice.
    pub id: u64,
    /// Its place in the backlog.
    pub place: Place,
    /// Its position in the store, if it was given to it.
    pub position: Option<u64>,
    /// As it came.
    pub message: Message,
    /// As it was first sent: redeliveries are byte-identical.
    pub sent: Option<Bytes>,
    /// Where its time went.
    pub clock: Clock,
    /// Did it come out of the backlog?
    pub replayed: bool,
    /// How it is to be sent, if that is settled: it may have been sent so before a restart.
    pub marks: Option<Marks>,
}

/// A place in the order of admission, among what is stored and what is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    position: u64,
    /// Behind everything that was not stored and came before it, if it is.
    order: u64,
}

impl Place {
    /// Of a stored message.
    pub fn stored(position: u64) -> Self {
        Self { position, order: u64::MAX }
    }

    /// Of one that is not stored, and came before what will have this position.
    pub fn unstored(next: u64, id: u64) -> Self {
        Self { position: next, order: id }
    }

    /// Before everything that has this position or comes before it.
    pub fn before(position: u64) -> Self {
        Self { position, order: 0 }
    }

    /// Does every stored message before it have a lower position than this?
    pub fn is_next_at(self, cursor: u64) -> bool {
        self.position <= cursor
    }
}

impl Entry {
    /// The account, for data messages.
    pub fn sampled(&self) -> Option<&Sampled> {
        match &self.message.kind {
            Kind::Data(sampled) => Some(sampled),
            Kind::Status | Kind::Gap(_) => None,
        }
    }

    /// Is it late, and to be dropped then?
    pub fn must_not_leave(&self, now: Instant) -> bool {
        self.sampled().is_some_and(|sampled| sampled.late == OnLate::Drop && expired(sampled.deadline, now))
    }

    /// Bytes that it keeps in memory.
    pub fn bytes(&self) -> usize {
        self.message.payload.len() + self.message.topic.len() + ENTRY_OVERHEAD
    }

    /// What to send: the first time with the marks that are true `now`, by what is `believed` of the clock, and then always the same
    /// bytes. Says with which marks, if they are new and any.
    pub fn payload(&mut self, now: Instant, believed: Option<Standing>) -> (Bytes, Option<Marks>) {
        if let Some(sent) = &self.sent {
            return (sent.clone(), None);
        }
        let (mut marks, mut is_new) = match self.marks {
            Some(marks) => (marks, false),
            None => (self.marks_at(now), true),
        };
        if let Some(doubted) = self.sampled().and_then(|sampled| sampled.doubted)
            && marks.stamp.is_none()
        {
            let behind = believed.and_then(|right| doubted.behind(right));
            marks.stamp = Some(behind.map_or(Restamp::Unsynced, Restamp::Moved));
            is_new = true;
        }
        let payload = match marks == Marks::default() {
            true => self.message.payload.clone(),
            false => marked(&self.message.payload, marks),
        };
        self.sent = Some(payload.clone());
        (payload, Some(marks).filter(|marks| is_new && *marks != Marks::default()))
    }

    /// What is replayed is late anyway, and by how much depends on the outage and not on us.
    fn marks_at(&self, now: Instant) -> Marks {
        let late =
            self.sampled().filter(|s| !self.replayed && expired(s.deadline, now)).map(|s| now - s.deadline);
        let late_ms = late.map(|late| u64::try_from(late.as_millis()).unwrap_or(u64::MAX));
        Marks { replayed: self.replayed, late_ms, stamp: None }
    }
}

/// The payload with its time stamp put right, and `,"late_ms":MILLISECONDS`, `,"replayed":true` or `,"clock":"unsynced"` before its
/// last brace; untouched when it has none.
fn marked(payload: &Bytes, marks: Marks) -> Bytes {
    let moved = match marks.stamp {
        Some(Restamp::Moved(by)) => moved(payload, by),
        _ => None,
    };
    let payload = moved.as_ref().unwrap_or(payload);
    let Some(body) = payload.strip_suffix(b"}") else { return payload.clone() };
    let late = marks.late_ms.map(|late| format!("\"late_ms\":{late}"));
    let replayed = marks.replayed.then(|| "\"replayed\":true".to_string());
    let mut out = BytesMut::with_capacity(payload.len() + 48);
    out.put_slice(body);
    let unsynced = (marks.stamp == Some(Restamp::Unsynced)).then(|| "\"clock\":\"unsynced\"".to_string());
    for mark in late.iter().chain(&replayed).chain(&unsynced) {
        if out.len() > 1 {
            out.put_u8(b',');
        }
        out.put_slice(mark.as_bytes());
    }
    out.put_u8(b'}');
    out.freeze()
}

/// The payload with its `"ts"` moved by so many milliseconds. The first is the message's own: what is before it are the names of site and
/// device, and a text in JSON has no bare quotation mark.
fn moved(payload: &Bytes, by: i64) -> Option<Bytes> {
    const KEY: &[u8] = b",\"ts\":\"";
    let start = payload.windows(KEY.len()).position(|window| window == KEY)? + KEY.len();
    let length = payload[start..].iter().position(|byte| *byte == b'"')?;
    let stamp = Stamp::parse(std::str::from_utf8(&payload[start..start + length]).ok()?)?;
    let mut out = BytesMut::with_capacity(payload.len() + 8);
    out.put_slice(&payload[..start]);
    out.put_slice(Stamp::from_unix_millis(stamp.unix_millis().saturating_add(by)).to_string().as_bytes());
    out.put_slice(&payload[start + length..]);
    Some(out.freeze())
}

/// When a message passed which stage.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// The request left.
    pub started: Instant,
    /// The answer was complete.
    pub received: Instant,
    /// The message was encoded.
    pub encoded: Instant,
    /// How long the link had been down in all when the message was admitted.
    pub down_before: Duration,
    /// When it was first offered, and how long the link had been down in all by then.
    pub offered: Option<(Instant, Duration)>,
}

impl Clock {
    /// The clock of a message that's admitted when the link has been down for `down` in all.
    pub fn start(message: &Message, now: Instant, down: Duration) -> Self {
        let (started, received, encoded) = match &message.kind {
            Kind::Data(s) => (s.started, s.received, s.encoded),
            Kind::Status | Kind::Gap(_) => (now, now, now),
        };
        Self { started, received, encoded, down_before: down, offered: None }
    }

    /// Where the time went until `now`, when the link has been down for `down` in all.
    ///
    /// Waiting for a link that's down counts as the broker's time: it's the broker that is missing.
    pub fn spent(&self, now: Instant, down: Duration) -> Spent {
        let (left, down_then) = self.offered.unwrap_or((now, down));
        let waited = left.saturating_duration_since(self.encoded);
        let missing = down_then.saturating_sub(self.down_before).min(waited);
        Spent([
            self.received.saturating_duration_since(self.started),
            self.encoded.saturating_duration_since(self.received),
            waited - missing,
            missing + now.saturating_duration_since(left),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_go_before_the_last_brace() {
        let payload = Bytes::from_static(b"{\"a\":{}}");
        let late = Marks { late_ms: Some(120), ..Marks::default() };
        let replayed = Marks { replayed: true, ..Marks::default() };
        assert_eq!(marked(&payload, late), "{\"a\":{},\"late_ms\":120}");
        assert_eq!(marked(&payload, replayed), "{\"a\":{},\"replayed\":true}");
        assert_eq!(marked(&Bytes::from_static(b"{}"), replayed), "{\"replayed\":true}");
    }

    #[test]
    fn a_time_stamp_that_was_wrong_is_put_right_or_marked() {
        let payload = Bytes::from_static(
            br#"{"site":"a\",\"ts\":\"","device":"d","ts":"1970-01-01T00:00:01.500Z","times":{"p":"2020"}}"#,
        );
        let replayed =
            Marks { replayed: true, stamp: Some(Restamp::Moved(1_763_812_800_000)), ..Marks::default() };
        assert_eq!(
            marked(&payload, replayed),
            &br#"{"site":"a\",\"ts\":\"","device":"d","ts":"2025-11-22T12:00:01.500Z","times":{"p":"2020"},"replayed":true}"#[..]
        );
        let unsynced = Marks { stamp: Some(Restamp::Unsynced), ..Marks::default() };
        assert!(marked(&payload, unsynced).ends_with(br#""times":{"p":"2020"},"clock":"unsynced"}"#));
        assert_eq!(marked(&Bytes::from_static(b"{}"), replayed), "{\"replayed\":true}");
    }

    #[test]
    fn what_is_not_stored_comes_before_what_is_stored_after_it() {
        let mut places = [Place::stored(5), Place::unstored(5, 2), Place::stored(4), Place::unstored(5, 1)];
        places.sort();
        assert_eq!(
            places,
            [Place::stored(4), Place::unstored(5, 1), Place::unstored(5, 2), Place::stored(5)]
        );
        assert!(Place::before(5) < Place::unstored(5, 1) && Place::before(5) > Place::stored(4));
    }

    #[test]
    fn waiting_for_a_missing_broker_is_the_brokers_time() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let clock = Clock {
            started: start,
            received: start + ms(10),
            encoded: start + ms(11),
            down_before: ms(100),
            offered: Some((start + ms(50), ms(130))),
        };
        assert_eq!(clock.spent(start + ms(60), ms(130)), Spent([ms(10), ms(1), ms(9), ms(40)]));
    }

    #[test]
    fn the_overhead_covers_the_entry() {
        assert!(size_of::<Entry>() * 4 / 3 <= ENTRY_OVERHEAD, "{}", size_of::<Entry>());
    }
}
