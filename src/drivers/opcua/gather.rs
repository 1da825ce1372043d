//! Notified values → batches. Pure.
//!
//! A notification has the nodes that changed, and with a queue several values of one node: the second value of a node begins another
//! batch, since a batch is one moment. Points that are computed from several nodes need the last values of those that did not change.

use crate::mapping::batch::Note;
use crate::mapping::compiled::{DeviceMap, Source};
use crate::mapping::device::Read;
use crate::model::value::{Cause, Raw};

/// Values of one read that wait to become a batch.
#[derive(Debug)]
pub struct Gather {
    read: Read,
    /// Points and readings are the same, one by one.
    is_plain: bool,
    values: Vec<Option<Result<Raw, Cause>>>,
    /// Indices of the values that there are, as they came.
    touched: Vec<usize>,
    notes: Vec<(usize, Note)>,
    /// The last values, where points are computed from several.
    last: Vec<Option<Result<Raw, Cause>>>,
    /// By reading, the points (by their index in `read.publishes`) that are computed from it.
    dependents: Vec<Vec<usize>>,
}

/// What became of gathered values.
#[derive(Debug, PartialEq)]
pub struct Gathered {
    /// What of the read it is; `None`: all of it.
    pub part: Option<Box<Read>>,
    /// As [`crate::mapping::batch::Batch::readings`] has them.
    pub readings: Vec<Result<Raw, Cause>>,
    /// As [`crate::mapping::batch::Batch::notes`] has them.
    pub notes: Vec<(usize, Note)>,
}

impl Gather {
    /// Gathers values of a read.
    pub fn new(map: &DeviceMap, read: &Read) -> Self {
        let is_plain = read.points == read.publishes
            && read.points.len() == read.readings.len()
            && read.points.iter().zip(&read.readings).all(|(point, reading)| {
                let point = &map.points[point.0 as usize];
                point.source == Source::Reading(*reading) && point.transform.scale_from.is_none()
            });
        let count = read.readings.len();
        let mut dependents = vec![Vec::new(); if is_plain { 0 } else { count }];
        for (at, ix) in read.publishes.iter().enumerate().filter(|_| !is_plain) {
            for need in map.needs(*ix) {
                let Source::Reading(reading) = map.points[need.0 as usize].source else { continue };
                if let Some(slot) = read.readings.iter().position(|known| *known == reading) {
                    dependents[slot].push(at);
                }
            }
        }
        Self {
            read: read.clone(),
            is_plain,
            values: vec![None; count],
            touched: Vec::new(),
            notes: Vec::new(),
            last: vec![None; if is_plain { 0 } else { count }],
            dependents,
        }
    }

    /// Takes a value. When there is one of the same reading already, what there is becomes a batch first.
    pub fn take(&mut self, slot: usize, raw: Result<Raw, Cause>, note: Note) -> Option<Gathered> {
        let before = if self.values[slot].is_some() { self.flush() } else { None };
        self.values[slot] = Some(raw);
        self.touched.push(slot);
        self.notes.extend(note.some().map(|note| (slot, note)));
        before
    }

    /// Makes a batch of what there is; `None`: nothing, or nothing that is known well enough to be told.
    pub fn flush(&mut self) -> Option<Gathered> {
        let mut touched = std::mem::take(&mut self.touched);
        let notes = std::mem::take(&mut self.notes);
        touched.sort_unstable();
        let gathered = match self.is_plain {
            true => self.plain(&touched, notes),
            false => self.computed(&touched, notes),
        };
        touched.clear();
        self.touched = touched;
        gathered
    }

    /// The link is gone: what was known is old.
    pub fn forget(&mut self) {
        self.values.fill(None);
        self.last.fill(None);
        self.touched.clear();
        self.notes.clear();
    }

    fn plain(&mut self, touched: &[usize], mut notes: Vec<(usize, Note)>) -> Option<Gathered> {
        if touched.is_empty() {
            return None;
        }
        let readings: Vec<_> = touched.iter().filter_map(|slot| self.values[*slot].take()).collect();
        if touched.len() == self.values.len() {
            return Some(Gathered { part: None, readings, notes });
        }
        for (slot, _) in &mut notes {
            *slot = touched.binary_search(slot).unwrap_or_default();
        }
        let Read { every, readings: all, points, .. } = &self.read;
        let points: Vec<_> = touched.iter().map(|slot| points[*slot]).collect();
        let part = Read {
            every: *every,
            readings: touched.iter().map(|slot| all[*slot]).collect(),
            publishes: points.clone(),
            points,
        };
        Some(Gathered { part: Some(Box::new(part)), readings, notes })
    }

    fn computed(&mut self, touched: &[usize], notes: Vec<(usize, Note)>) -> Option<Gathered> {
        let mut changed = vec![false; self.read.publishes.len()];
        for slot in touched {
            self.last[*slot] = self.values[*slot].take();
            self.dependents[*slot].iter().for_each(|at| changed[*at] = true);
        }
        // A point whose parts have not all come yet is not bad: it is not there.
        for (slot, _) in self.last.iter().enumerate().filter(|(_, value)| value.is_none()) {
            self.dependents[slot].iter().for_each(|at| changed[*at] = false);
        }
        let publishes: Vec<_> = self
            .read
            .publishes
            .iter()
            .zip(&changed)
            .filter(|(_, changed)| **changed)
            .map(|(ix, _)| *ix)
            .collect();
        if publishes.is_empty() {
            return None;
        }
        let known = |value: &Option<Result<Raw, Cause>>| value.clone().unwrap_or(Err(Cause::Dependency));
        let readings = self.last.iter().map(known).collect();
        let part = Read { publishes, ..self.read.clone() };
        Some(Gathered { part: Some(Box::new(part)), readings, notes })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::mapping::compiled::{Point, PointIx, ReadingIx, Transform};
    use crate::mapping::device::Every;
    use crate::model::decimal::Decimal;
    use crate::model::value::Status;

    fn point(source: Source) -> Point {
        Point {
            name: "a".into(),
            unit: None,
            source,
            transform: Transform::default(),
            published: true,
            plausible: None,
            deadband: None,
            heartbeat: None,
            smooth: None,
            alone: false,
            rate: "default".into(),
        }
    }

    /// A read of so many nodes, and of points made from them.
    fn gather(nodes: u32, points: &[Source]) -> Gather {
        let map = DeviceMap { points: points.iter().cloned().map(point).collect(), ..DeviceMap::default() };
        let all: Vec<_> = (0..points.len()).map(|ix| PointIx(ix as u32)).collect();
        let read = Read {
            every: Every::Changes(Duration::from_millis(250)),
            readings: (0..nodes).map(ReadingIx).collect(),
            points: all.clone(),
            publishes: all,
        };
        Gather::new(&map, &read)
    }

    const PLAIN: [Source; 3] =
        [Source::Reading(ReadingIx(0)), Source::Reading(ReadingIx(1)), Source::Reading(ReadingIx(2))];

    fn int(number: i64) -> Result<Raw, Cause> {
        Ok(Raw::Int(number))
    }

    #[test]
    fn what_changed_is_a_part_of_the_read_and_all_is_the_read() {
        let mut gather = gather(3, &PLAIN);
        let status = Status { code: 0x4090_0000, name: Some("UncertainLastUsableValue") };
        let note = Note { uncertain: Some(status), time: None };
        assert_eq!(gather.take(2, int(3), note), None);
        assert_eq!(gather.take(0, int(1), Note::default()), None);
        let some = gather.flush().unwrap();
        let part = some.part.unwrap();
        assert_eq!(part.readings, [ReadingIx(0), ReadingIx(2)]);
        assert_eq!(part.points, [PointIx(0), PointIx(2)]);
        assert_eq!(some.readings, [int(1), int(3)]);
        assert_eq!(some.notes, [(1, note)]);
        for slot in [1, 2, 0] {
            assert_eq!(gather.take(slot, int(slot as i64), Note::default()), None);
        }
        let all = gather.flush().unwrap();
        assert_eq!((all.part, all.readings), (None, vec![int(0), int(1), int(2)]));
        assert_eq!(gather.flush(), None);
    }

    #[test]
    fn a_second_value_of_a_node_begins_another_batch() {
        let mut gather = gather(3, &PLAIN);
        assert_eq!(gather.take(0, int(1), Note::default()), None);
        assert_eq!(gather.take(1, int(7), Note::default()), None);
        let first = gather.take(0, int(2), Note::default()).unwrap();
        assert_eq!(first.readings, [int(1), int(7)]);
        assert_eq!(gather.flush().unwrap().readings, [int(2)]);
    }

    #[test]
    fn a_computed_point_takes_the_last_values_and_waits_for_the_first() {
        let sum = Source::Sum(vec![(PointIx(0), Decimal::ONE), (PointIx(1), Decimal::ONE)]);
        let mut gather = gather(2, &[PLAIN[0].clone(), PLAIN[1].clone(), sum]);
        gather.take(0, int(1), Note::default());
        let first = gather.flush().unwrap();
        assert_eq!(first.part.unwrap().publishes, [PointIx(0)], "b has not come yet");
        gather.take(1, int(2), Note::default());
        let second = gather.flush().unwrap();
        assert_eq!(second.part.unwrap().publishes, [PointIx(1), PointIx(2)]);
        assert_eq!(second.readings, [int(1), int(2)]);
        gather.forget();
        gather.take(1, int(3), Note::default());
        assert_eq!(gather.flush().unwrap().part.unwrap().publishes, [PointIx(1)]);
    }
}
