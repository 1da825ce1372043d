//! Sequence numbers that will never arrive, merged into ranges until they're published as gap records.
//!
//! How large it gets: two ranges of a device are kept apart only by a message that is still owned (waiting or in
//! flight), since gap records go before data. So there are at most as many ranges as devices plus owned messages;
//! their bytes count against the backlog's limit, and shedding the backlog merges them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::model::message::{Kind, Message};

/// Ranges of one device that differ only in their reason and touch are kept apart up to this many.
const RANGES_PER_DEVICE: usize = 16;
/// The reason of ranges that were joined nevertheless.
const SEVERAL: &str = "several";
/// What a range costs in memory.
const RANGE_BYTES: usize = 64;

/// Why messages will never arrive.
pub type Reason = Cow<'static, str>;

/// Which sequence numbers a gap is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GapId {
    /// The run that they belong to.
    pub epoch: u64,
    /// The device.
    pub device: Arc<str>,
    /// The first of them.
    pub from: u64,
    /// The last of them.
    pub to: u64,
}

/// Sequence numbers that will never arrive, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Which.
    pub id: GapId,
    /// Where the device's messages go.
    pub topic: Arc<str>,
    /// Why.
    pub reason: Reason,
}

/// The gaps that are not yet published, by device and epoch.
#[derive(Debug, Default)]
pub struct Gaps {
    devices: BTreeMap<(Arc<str>, u64), DeviceGaps>,
    ranges: usize,
}

#[derive(Debug)]
struct DeviceGaps {
    topic: Arc<str>,
    /// By first sequence number; disjoint.
    ranges: BTreeMap<u64, Range>,
}

#[derive(Clone, Debug)]
struct Range {
    to: u64,
    reason: Reason,
}

impl Gaps {
    /// Accounts for a gap. What is known of it already keeps its reason.
    pub fn add(&mut self, gap: Gap) {
        let Gap { id, topic, reason } = gap;
        let gaps = self
            .devices
            .entry((id.device, id.epoch))
            .or_insert_with(|| DeviceGaps { topic, ranges: BTreeMap::new() });
        self.ranges -= gaps.ranges.len();
        gaps.add(id.from, id.to, &reason);
        self.ranges += gaps.ranges.len();
    }

    /// Forgets what has been published.
    pub fn remove(&mut self, id: &GapId) {
        let key = (Arc::clone(&id.device), id.epoch);
        let Some(gaps) = self.devices.get_mut(&key) else { return };
        self.ranges -= gaps.ranges.len();
        gaps.remove(id.from, id.to);
        self.ranges += gaps.ranges.len();
        if gaps.ranges.is_empty() {
            self.devices.remove(&key);
        }
    }

    /// Takes the next gap out, as the message that reports it.
    pub fn pop(&mut self, site: &str) -> Option<Message> {
        let gap = self.iter().next()?;
        self.remove(&gap.id);
        Some(gap.message(site))
    }

    /// All of them, by device, epoch and number.
    pub fn iter(&self) -> impl Iterator<Item = Gap> {
        self.devices.iter().flat_map(|((device, epoch), gaps)| {
            gaps.ranges.iter().map(|(from, range)| Gap {
                id: GapId { epoch: *epoch, device: Arc::clone(device), from: *from, to: range.to },
                topic: Arc::clone(&gaps.topic),
                reason: range.reason.clone(),
            })
        })
    }

    /// How many gap records wait.
    pub fn len(&self) -> usize {
        self.ranges
    }

    /// Does none wait?
    pub fn is_empty(&self) -> bool {
        self.ranges == 0
    }

    /// Bytes that they keep in memory.
    pub fn bytes(&self) -> usize {
        self.ranges * RANGE_BYTES
    }
}

impl Gap {
    /// `{"site":…,"device":…,"epoch":7,"gap":{"from":12,"to":40,"reason":"backlog full"}}`
    fn message(self, site: &str) -> Message {
        let text = |text: &str| serde_json::Value::from(text).to_string();
        let GapId { epoch, device, from, to } = &self.id;
        let payload = Bytes::from(format!(
            r#"{{"site":{},"device":{},"epoch":{epoch},"gap":{{"from":{from},"to":{to},"reason":{}}}}}"#,
            text(site),
            text(device),
            text(&self.reason),
        ));
        Message { topic: self.topic, payload, retain: false, kind: Kind::Gap(self.id) }
    }
}

impl DeviceGaps {
    fn add(&mut self, from: u64, to: u64, reason: &Reason) {
        let mut at = from;
        while at <= to {
            let before = self.ranges.range(..=at).next_back().map(|(from, range)| (*from, range.to));
            let end = match before {
                Some((_, end)) if end >= at => end,
                _ => {
                    let next = self.ranges.range(at..).next().map(|(next, _)| next - 1);
                    let end = next.map_or(to, |before_next| before_next.min(to));
                    self.ranges.insert(at, Range { to: end, reason: reason.clone() });
                    self.join(at, false);
                    if let Some((from, _)) = before {
                        self.join(from, false);
                    }
                    end
                }
            };
            let Some(next) = end.checked_add(1) else { break };
            at = next;
        }
        if self.ranges.len() > RANGES_PER_DEVICE {
            let mut from = self.ranges.first_key_value().map(|(from, _)| *from);
            while let Some(at) = from {
                while self.join(at, true) {}
                from = self.ranges.range(at + 1..).next().map(|(next, _)| *next);
            }
        }
    }

    fn remove(&mut self, from: u64, to: u64) {
        let touched: Vec<u64> = self
            .ranges
            .range(..=to)
            .rev()
            .take_while(|(_, range)| range.to >= from)
            .map(|(at, _)| *at)
            .collect();
        for at in touched {
            let Some(range) = self.ranges.remove(&at) else { continue };
            if at < from {
                self.ranges.insert(at, Range { to: from - 1, reason: range.reason.clone() });
            }
            if range.to > to {
                self.ranges.insert(to + 1, range);
            }
        }
    }

    /// Joins the range that begins at `from` with the one that begins right after it.
    fn join(&mut self, from: u64, whatever_reason: bool) -> bool {
        let Some(range) = self.ranges.get(&from) else { return false };
        let Some(after) = range.to.checked_add(1) else { return false };
        let Some(next) = self.ranges.get(&after) else { return false };
        let same = range.reason == next.reason;
        if !same && !whatever_reason {
            return false;
        }
        let to = next.to;
        self.ranges.remove(&after);
        if let Some(range) = self.ranges.get_mut(&from) {
            range.to = to;
            if !same {
                range.reason = Cow::Borrowed(SEVERAL);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn gap(device: &str, from: u64, to: u64, reason: &'static str) -> Gap {
        let id = GapId { epoch: 7, device: device.into(), from, to };
        Gap { id, topic: format!("t/{device}").into(), reason: reason.into() }
    }

    fn records(gaps: &mut Gaps) -> Vec<(String, serde_json::Value)> {
        std::iter::from_fn(|| gaps.pop("bak\"ery"))
            .map(|m| (m.topic.to_string(), serde_json::from_slice(&m.payload).unwrap()))
            .collect()
    }

    #[test]
    fn consecutive_numbers_make_one_record() {
        let mut gaps = Gaps::default();
        for seq in [13, 12, 15, 14, 20] {
            gaps.add(gap("main", seq, seq, "late"));
        }
        assert_eq!(gaps.len(), 2);
        let all = records(&mut gaps);
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].0, "t/main");
        let expected = serde_json::json!({"site": "bak\"ery", "device": "main", "epoch": 7,
            "gap": {"from": 12, "to": 15, "reason": "late"}});
        assert_eq!(all[0].1, expected);
        assert_eq!((gaps.len(), gaps.bytes()), (0, 0));
    }

    #[test]
    fn different_reasons_stay_apart_until_there_are_many() {
        let mut gaps = Gaps::default();
        let reason = |seq: u64| if seq.is_multiple_of(2) { "late" } else { "backlog full" };
        for seq in 0..RANGES_PER_DEVICE as u64 {
            gaps.add(gap("main", seq, seq, reason(seq)));
        }
        assert_eq!(gaps.len(), RANGES_PER_DEVICE);
        gaps.add(gap("main", RANGES_PER_DEVICE as u64, RANGES_PER_DEVICE as u64, "late"));
        assert_eq!(gaps.len(), 1);
        assert_eq!(records(&mut gaps)[0].1["gap"]["reason"], SEVERAL);
    }

    proptest! {
        #[test]
        fn the_records_cover_what_was_added_and_not_removed(
            acts in prop::collection::vec((0u8..3, 0u64..60, 0u64..12, prop::bool::ANY, prop::bool::weighted(0.2)), 0..200)
        ) {
            let mut gaps = Gaps::default();
            let mut expected = BTreeSet::new();
            for (device, from, more, late, removes) in &acts {
                let device = format!("d{device}");
                let to = from + more;
                let gap = gap(&device, *from, to, if *late { "late" } else { "backlog full" });
                for seq in *from..=to {
                    match removes {
                        true => expected.remove(&(format!("t/{device}"), seq)),
                        false => expected.insert((format!("t/{device}"), seq)),
                    };
                }
                match removes {
                    true => gaps.remove(&gap.id),
                    false => gaps.add(gap),
                }
            }
            let waiting = gaps.len();
            let all = records(&mut gaps);
            prop_assert_eq!(all.len(), waiting);
            let mut covered = Vec::new();
            for (topic, record) in all {
                for seq in record["gap"]["from"].as_u64().unwrap()..=record["gap"]["to"].as_u64().unwrap() {
                    covered.push((topic.clone(), seq));
                }
            }
            prop_assert_eq!(covered.len(), expected.len());
            prop_assert_eq!(covered.into_iter().collect::<BTreeSet<_>>(), expected);
        }
    }
}
