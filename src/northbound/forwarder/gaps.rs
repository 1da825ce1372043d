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
pub(super) type Reason = Cow<'static, str>;

/// The gaps that are not yet published, by device.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    devices: BTreeMap<Arc<str>, DeviceGaps>,
    ranges: usize,
}

#[derive(Debug)]
struct DeviceGaps {
    topic: Arc<str>,
    /// By first sequence number; disjoint.
    ranges: BTreeMap<u64, Range>,
}

#[derive(Debug)]
struct Range {
    to: u64,
    reason: Reason,
}

impl Gaps {
    /// Accounts for one sequence number of a device whose data go to `topic`.
    pub fn add(&mut self, device: &Arc<str>, topic: &Arc<str>, seq: u64, reason: Reason) {
        let gaps = self
            .devices
            .entry(Arc::clone(device))
            .or_insert_with(|| DeviceGaps { topic: Arc::clone(topic), ranges: BTreeMap::new() });
        self.ranges -= gaps.ranges.len();
        gaps.add(seq, reason);
        self.ranges += gaps.ranges.len();
    }

    /// Takes the next gap out, as the message that reports it.
    pub fn pop(&mut self, site: &str, epoch: u64) -> Option<Message> {
        let mut first = self.devices.first_entry()?;
        let device = Arc::clone(first.key());
        let (from, range) = first.get_mut().ranges.pop_first()?;
        let topic = Arc::clone(&first.get().topic);
        if first.get().ranges.is_empty() {
            first.remove();
        }
        self.ranges -= 1;
        let payload = record(site, &device, epoch, from, &range);
        Some(Message { topic, payload, retain: false, kind: Kind::Gap })
    }

    /// How many gap records wait.
    pub fn len(&self) -> usize {
        self.ranges
    }

    /// Bytes that they keep in memory.
    pub fn bytes(&self) -> usize {
        self.ranges * RANGE_BYTES
    }
}

impl DeviceGaps {
    fn add(&mut self, seq: u64, reason: Reason) {
        let before = self.ranges.range(..=seq).next_back().map(|(from, range)| (*from, range.to));
        if before.is_some_and(|(_, to)| seq <= to) {
            return;
        }
        self.ranges.insert(seq, Range { to: seq, reason });
        self.join(seq, false);
        if let Some((from, _)) = before {
            self.join(from, false);
        }
        if self.ranges.len() > RANGES_PER_DEVICE {
            let mut from = self.ranges.first_key_value().map(|(from, _)| *from);
            while let Some(at) = from {
                while self.join(at, true) {}
                from = self.ranges.range(at + 1..).next().map(|(next, _)| *next);
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

/// `{"site":…,"device":…,"epoch":7,"gap":{"from":12,"to":40,"reason":"backlog full"}}`
fn record(site: &str, device: &str, epoch: u64, from: u64, range: &Range) -> Bytes {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    Bytes::from(format!(
        r#"{{"site":{},"device":{},"epoch":{epoch},"gap":{{"from":{from},"to":{},"reason":{}}}}}"#,
        text(site),
        text(device),
        range.to,
        text(&range.reason),
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn records(gaps: &mut Gaps) -> Vec<(String, serde_json::Value)> {
        std::iter::from_fn(|| gaps.pop("bak\"ery", 7))
            .map(|m| (m.topic.to_string(), serde_json::from_slice(&m.payload).unwrap()))
            .collect()
    }

    #[test]
    fn consecutive_numbers_make_one_record() {
        let mut gaps = Gaps::default();
        for seq in [13, 12, 15, 14, 20] {
            gaps.add(&"main".into(), &"t/main".into(), seq, "late".into());
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
            gaps.add(&"main".into(), &"t".into(), seq, reason(seq).into());
        }
        assert_eq!(gaps.len(), RANGES_PER_DEVICE);
        gaps.add(&"main".into(), &"t".into(), RANGES_PER_DEVICE as u64, "late".into());
        assert_eq!(gaps.len(), 1);
        assert_eq!(records(&mut gaps)[0].1["gap"]["reason"], SEVERAL);
    }

    proptest! {
        #[test]
        fn the_records_cover_what_was_added_and_nothing_else(
            added in prop::collection::vec((0u8..3, 0u64..60, prop::bool::ANY), 0..200)
        ) {
            let mut gaps = Gaps::default();
            for (device, seq, late) in &added {
                let name: Arc<str> = format!("d{device}").into();
                gaps.add(&name, &name, *seq, if *late { "late" } else { "backlog full" }.into());
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
            let expected: BTreeSet<_> = added.iter().map(|(d, seq, _)| (format!("d{d}"), *seq)).collect();
            prop_assert_eq!(covered.len(), expected.len());
            prop_assert_eq!(covered.into_iter().collect::<BTreeSet<_>>(), expected);
        }
    }
}
