//! The log: writes what it's told into segments, syncs it, and makes room. Blocking; [`serve`](super::serve) gives it a thread.
//!
//! - Records are written in the order of the ops, and a segment is begun only after the one before it is synced.
//! - When a write or an fdatasync fails, nothing is tried again on that file: it's sealed, and what was not synced is written again
//!   into the next one (an fdatasync that failed may have dropped the pages, and would succeed the next time). Until there
//!   is a next one everything waits in memory.
//! - What the disk does not yield for a moment is read when it does.
//! - The oldest segment goes when all of its messages are settled, or when there is no room: then a gap record for
//!   each message is durable first.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::disk::{Disk, DiskFile};
use super::format::{
    self, BLOCK, FRAME, HEADER, Header, MOST_BODY, MOST_POSITIONS, MOST_RANGES, NoHeader, Record,
};
use super::ledger::Ledger;
use super::segment::{Reader, header};
use super::{Event, Op, Restamp, Settings, StoreError};
use crate::metrics::RouteMetrics;
use crate::model::clock;
use crate::model::gaps::Gap;
use holes::Holes;
use recover::Through;

mod holes;
mod read;
mod recover;
mod shed;

/// An fdatasync is due after so many bytes, however little time has passed.
const SYNC_BYTES: u64 = 64 << 10;
/// How long to leave a disk alone after it failed.
const RETRY: Duration = Duration::from_secs(2);
/// A read that the disk refuses is tried again, [`RETRY`] apart, so many times. Then what it does not yield is given up, block by block,
/// until it yields something again.
const MOST_REFUSED_READS: u32 = 15;
/// A store has so many segments when it's full.
const SEGMENTS: u64 = 32;
/// Bytes of a segment, at least and at most.
const SEGMENT_SIZE: (u64, u64) = (4 * BLOCK as u64, 8 << 20);
/// How many segments the oldest may keep while the forwarder still has some of it in flight.
const GRACE: u64 = 2;
/// Bytes of dead letters, twice.
const MOST_DEAD_LETTERS: u64 = 4 << 20;

/// What is known as soon as a store is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The position of the first message of this run.
    pub next: u64,
    /// The highest epoch of the runs before, 0 if there was none.
    pub last_epoch: u64,
}

/// A store on a disk.
pub struct Log<D: Disk> {
    disk: D,
    settings: Settings,
    metrics: Arc<RouteMetrics>,
    epoch: u64,
    ledger: Ledger,
    /// The segments' newest number; the next one has one more.
    number: u64,
    current: Option<Current<D::File>>,
    spare: Option<D::File>,
    /// Records that are not written.
    pending: VecDeque<Record>,
    /// Records that are written and not synced.
    unsynced: Vec<Record>,
    dirty_since: Option<Instant>,
    dirty_bytes: u64,
    /// Above the highest position that was to be appended, and above that which is written.
    next: u64,
    accepted: u64,
    /// What the forwarder knows of that.
    told: u64,
    /// The first position of this run.
    run: u64,
    /// Bytes of ops that are done with.
    done_bytes: usize,
    /// Segments that are to be read through, and what's found missing in them.
    unread: VecDeque<u64>,
    through: Option<Through<D::File>>,
    holes: Holes,
    reading: Option<(u64, Reader<D::File>)>,
    read_from: u64,
    /// Why nothing is written, and when it's tried again.
    failing: Option<(String, Instant)>,
    /// One segment more than there may be is there for the records of what is given up.
    is_overdrawn: bool,
    /// So many bytes are to be read: at once, or as soon as the disk is well.
    to_read: Option<usize>,
    /// How many reads in a row the disk has refused, and until when it's left alone.
    refused_reads: u32,
    read_after: Option<Instant>,
    /// The forwarder was asked to give up what it has up to here.
    shedding: Option<(u64, &'static str)>,
    events: Vec<Event>,
}

struct Current<F> {
    file: F,
    offset: u64,
}

impl<D: Disk> Log<D> {
    /// Looks at what is there: no more than is needed to go on.
    pub fn open(
        disk: D,
        settings: Settings,
        metrics: Arc<RouteMetrics>,
    ) -> Result<(Self, Opened), StoreError> {
        let mut numbers: Vec<u64> = disk.list()?.iter().filter_map(|name| format::number(name)).collect();
        numbers.sort_unstable();
        let mut log = Self {
            disk,
            settings,
            metrics,
            epoch: 0,
            ledger: Ledger::default(),
            number: numbers.last().copied().unwrap_or(0),
            current: None,
            spare: None,
            pending: VecDeque::new(),
            unsynced: Vec::new(),
            dirty_since: None,
            dirty_bytes: 0,
            next: 0,
            accepted: 0,
            told: 0,
            run: 0,
            done_bytes: 0,
            unread: VecDeque::new(),
            through: None,
            holes: Holes::default(),
            reading: None,
            read_from: 0,
            failing: None,
            is_overdrawn: false,
            to_read: None,
            refused_reads: 0,
            read_after: None,
            shedding: None,
            events: Vec::new(),
        };
        let mut last_epoch = 0;
        for number in numbers {
            last_epoch = log.found(number)?.unwrap_or(last_epoch).max(last_epoch);
        }
        log.next = log.highest().max(log.next);
        (log.accepted, log.told, log.run) = (log.next, log.next, log.next);
        let opened = Opened { next: log.next, last_epoch };
        Ok((log, opened))
    }

    /// Begins a run.
    pub fn start(&mut self, epoch: u64, now: Instant) {
        self.epoch = epoch;
        if let Err(error) = self.begin() {
            self.fail(&error, now);
        }
    }

    /// Takes an op over. It's done when [`Self::turn`] says so.
    pub fn apply(&mut self, op: Op) {
        let bytes = op.bytes();
        match op {
            Op::Append(stored) => {
                self.next = self.next.max(stored.position + 1);
                self.pending.push_back(Record::Message(stored));
                return;
            }
            Op::Settled(from, to) => self.add_range(from, to, false),
            Op::Released(position) => {
                self.ledger.release(position);
                self.add_range(position, position, true);
            }
            Op::Marked(position, marks) => {
                if let Some(stamp) = marks.stamp {
                    self.add_restamped(position, stamp);
                }
                if marks.replayed {
                    self.add_range(position, position, true);
                } else if let Some(late) = marks.late_ms {
                    self.pending.push_back(Record::Late(position, late));
                }
            }
            Op::GivenUp(position, gap) => {
                let positions = position.map(|position| (position, position));
                self.pending.push_back(Record::GivenUp(positions.into_iter().collect(), gap));
            }
            Op::GapPublished(id) => self.pending.push_back(Record::GapPublished(id)),
            Op::Read(most) => self.to_read = Some(most),
            Op::Shed(upto) => self.shed(upto),
            Op::DeadLetter(stored, why) => {
                let text = format::dead_letter(&stored, &why);
                if let Err(error) = self.disk.append_line(format::DEAD_LETTERS, &text, MOST_DEAD_LETTERS) {
                    tracing::warn!(%error, "a refused message can't be kept");
                }
            }
        }
        self.done_bytes += bytes;
    }

    /// Writes what waits, syncs when it's time, makes room. Says what the forwarder should know.
    pub fn turn(&mut self, now: Instant) -> Vec<Event> {
        let retried = self.failing.as_ref().is_none_or(|(_, at)| now >= *at);
        if retried && let Err(error) = self.work(now) {
            self.fail(&error, now);
        }
        if self.dirty_since.is_none() && !self.unsynced.is_empty() {
            self.dirty_since = Some(now);
        }
        if self.may_read(now)
            && let Some(most) = self.to_read.take()
        {
            self.answer(most, now);
        }
        self.show();
        std::mem::take(&mut self.events)
    }

    /// When [`Self::turn`] has something to do, though no op comes.
    pub fn due(&self) -> Option<Instant> {
        let write = match &self.failing {
            Some((_, at)) => Some(*at),
            None => self.dirty_since.map(|since| since + self.settings.sync),
        };
        let read = self.read_after.filter(|_| self.to_read.is_some() || self.is_recovering());
        [write, read].into_iter().flatten().min()
    }

    /// Has the disk yielded what it was asked for, or been left alone for long enough?
    pub fn may_read(&self, now: Instant) -> bool {
        self.read_after.is_none_or(|after| now >= after)
    }

    /// Is what the disk has not yielded to be tried again?
    fn is_read_again(&mut self, error: &io::Error, now: Instant) -> bool {
        if self.refused_reads >= MOST_REFUSED_READS {
            return false;
        }
        if self.refused_reads == 0 {
            tracing::error!(%error, "the store can't be read; it's tried again");
        }
        self.refused_reads += 1;
        self.read_after = Some(now + RETRY);
        true
    }

    fn was_read(&mut self) {
        (self.refused_reads, self.read_after) = (0, None);
    }

    /// Writes and syncs everything.
    pub fn finish(&mut self) {
        let ended = self.write().and_then(|()| self.sync());
        if let Err(error) = ended {
            tracing::error!(%error, unwritten = self.pending.len(), unsynced = self.unsynced.len(), "the store ends with messages that are not on disk");
        }
    }

    /// What counts it.
    pub(super) fn metrics(&self) -> &RouteMetrics {
        &self.metrics
    }

    /// Bytes of ops that are done with since this was asked last.
    pub fn take_done(&mut self) -> usize {
        std::mem::take(&mut self.done_bytes)
    }

    fn work(&mut self, now: Instant) -> io::Result<()> {
        self.write()?;
        let due = self.settings.sync.is_zero()
            || self.dirty_bytes >= SYNC_BYTES
            || self.dirty_since.is_some_and(|since| now >= since + self.settings.sync);
        if due && !self.unsynced.is_empty() {
            self.sync()?;
            self.tidy()?;
        }
        if let Some((reason, _)) = self.failing.take() {
            tracing::info!(after = reason, "the store works again");
        }
        Ok(())
    }

    /// Settled or replayed positions join those that wait, so that they cost little.
    fn add_range(&mut self, from: u64, to: u64, replayed: bool) {
        let ranges = match self.pending.back_mut() {
            Some(Record::Settled(ranges)) if !replayed && ranges.len() < MOST_RANGES => ranges,
            Some(Record::Replayed(ranges)) if replayed && ranges.len() < MOST_RANGES => ranges,
            _ => {
                let range = vec![(from, to)];
                self.pending.push_back(if replayed {
                    Record::Replayed(range)
                } else {
                    Record::Settled(range)
                });
                return;
            }
        };
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == from => *last = to,
            _ => ranges.push((from, to)),
        }
    }

    fn add_restamped(&mut self, position: u64, stamp: Restamp) {
        let ranges = match self.pending.back_mut() {
            Some(Record::Restamped(last, ranges)) if *last == stamp && ranges.len() < MOST_RANGES => ranges,
            _ => {
                self.pending.push_back(Record::Restamped(stamp, vec![(position, position)]));
                return;
            }
        };
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == position => *last = position,
            _ => ranges.push((position, position)),
        }
    }

    /// Writes everything that waits.
    fn write(&mut self) -> io::Result<()> {
        let mut out = Vec::new();
        let mut body = Vec::new();
        // What could not be synced is to be written again, be there more or not.
        while !self.pending.is_empty() || (self.current.is_none() && !self.unsynced.is_empty()) {
            if self.current.is_none() {
                self.begin()?;
            }
            let size = self.segment_size();
            let number = self.number;
            let first = self.ledger.segments().back().map_or(0, |segment| segment.first);
            let Some(current) = &mut self.current else { break };
            let start = current.offset;
            let mut end = start;
            let mut count = 0;
            for record in &self.pending {
                body.clear();
                record.encode(&mut body);
                if body.len() > MOST_BODY {
                    body.clear();
                    // Nothing stands for it; it's not a message that was accepted (`Handle` refuses longer ones).
                    count += 1;
                    continue;
                }
                let at = format::place(end, body.len());
                let is_far = position(record).is_some_and(|position| position >= first + MOST_POSITIONS);
                if at + (FRAME + body.len()) as u64 > size || is_far {
                    break;
                }
                out.resize((at - start) as usize, 0);
                out.extend_from_slice(&(body.len() as u32).to_le_bytes());
                out.extend_from_slice(&format::checksum(number, at, &body).to_le_bytes());
                out.extend_from_slice(&body);
                end = at + (FRAME + body.len()) as u64;
                count += 1;
            }
            current.file.write_at(&out, start)?;
            current.offset = end;
            self.dirty_bytes += out.len() as u64;
            self.metrics.store_written_bytes.add(out.len() as u64);
            out.clear();
            for record in self.pending.drain(..count) {
                self.ledger.note(&record, number);
                // One that is written again, since it could not be synced, was counted the first time.
                if let Record::Message(stored) = &record
                    && stored.position >= self.accepted
                {
                    self.done_bytes += stored.payload.len() + super::PENDING_OVERHEAD;
                    self.accepted = stored.position + 1;
                }
                self.unsynced.push(record);
            }
            if !self.pending.is_empty() {
                self.sync()?;
                self.tidy()?;
                self.current = None;
            }
        }
        if self.accepted > self.told {
            self.told = self.accepted;
            self.events.push(Event::Accepted(self.accepted));
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if let Some(current) = &mut self.current
            && !self.unsynced.is_empty()
        {
            current.file.sync()?;
            self.metrics.store_syncs.inc();
        }
        self.unsynced.clear();
        (self.dirty_since, self.dirty_bytes) = (None, 0);
        Ok(())
    }

    /// Begins the next segment, with what must not go with older ones.
    fn begin(&mut self) -> io::Result<()> {
        let size = self.segment_size();
        let most = self.most_bytes() + (GRACE + u64::from(self.is_overdrawn)) * size;
        let mut file = match self.spare.take() {
            Some(file) => file,
            None if self.ledger.bytes() + size > most => {
                return Err(io::ErrorKind::StorageFull.into());
            }
            None => self.disk.create(format::SPARE, size)?,
        };
        let number = self.number + 1;
        let waiting = self.unsynced.iter().chain(&self.pending);
        let first = waiting.filter_map(position).min().unwrap_or(self.next);
        let header = Header { number, first, epoch: self.epoch, at: clock::steady_millis() };
        file.write_at(&header.encode(), 0)?;
        file.sync()?;
        self.disk.rename(format::SPARE, &format::name(number))?;
        self.disk.sync()?;
        self.number = number;
        self.ledger.begin(number, first, size);
        let owed: Vec<_> = self.ledger.gaps.iter().map(|gap| Record::GivenUp(Vec::new(), gap)).collect();
        // What could not be synced comes first again, and the gaps that are owed before it.
        let again = std::mem::take(&mut self.unsynced);
        for record in owed.into_iter().chain(again).rev() {
            self.pending.push_front(record);
        }
        self.current = Some(Current { file, offset: HEADER as u64 });
        self.make_spare();
        Ok(())
    }

    /// The next segment's file is there before it's needed: a disk that is full then does not matter. One that is full long before
    /// is waited for until half of this segment is used.
    fn make_spare(&mut self) {
        let size = self.segment_size();
        if self.spare.is_some() {
            return;
        }
        if self.ledger.bytes() + size > self.most_bytes() {
            self.ask_to_shed("store full");
            return;
        }
        self.spare = self.disk.create(format::SPARE, size).ok();
        if self.spare.is_none() && self.current.as_ref().is_none_or(|current| current.offset > size / 2) {
            self.ask_to_shed("disk full");
        }
    }

    /// Lets segments go of which nothing is wanted any more. Everything is synced.
    fn tidy(&mut self) -> io::Result<()> {
        while let Some(oldest) = self.ledger.segments().front()
            && oldest.unsettled == 0
            && !self.ledger.has_strays(oldest.number)
            && oldest.number != self.number
            && self.unread.is_empty()
        {
            self.remove_oldest()?;
        }
        if let Some(oldest) = self.ledger.segments().front()
            && let (Some(age), Some(most)) = (shed::age(oldest), self.settings.age)
            && u128::try_from(age).is_ok_and(|age| age > most.as_millis())
        {
            self.ask_to_shed("store: too old");
        }
        self.make_spare();
        Ok(())
    }

    fn remove_oldest(&mut self) -> io::Result<()> {
        let Some(oldest) = self.ledger.segments().front() else { return Ok(()) };
        let number = oldest.number;
        if self.reading.as_ref().is_some_and(|(reading, _)| *reading == number) {
            self.reading = None;
        }
        let name = format::name(number);
        if self.spare.is_none() && self.is_of_right_size(&name) {
            self.disk.rename(&name, format::SPARE)?;
            self.spare = self.disk.open(format::SPARE).ok();
        } else {
            self.disk.remove(&name)?;
        }
        self.ledger.forget_oldest();
        if self
            .shedding
            .is_some_and(|(upto, _)| self.ledger.segments().front().is_none_or(|s| s.first > upto))
        {
            self.shedding = None;
        }
        Ok(())
    }

    fn is_of_right_size(&self, name: &str) -> bool {
        let size = self.disk.open(name).and_then(|file| file.size());
        size.is_ok_and(|size| size == self.segment_size())
    }

    /// The file is not touched again; what was not synced is written into the next one.
    fn seal(&mut self) {
        self.current = None;
        // The disk may have dropped it, or drop it yet.
        self.unsynced.iter().filter_map(position).for_each(|position| self.ledger.unwritten(position));
    }

    fn fail(&mut self, error: &io::Error, now: Instant) {
        let text = error.to_string();
        if self.failing.as_ref().is_none_or(|(reason, _)| *reason != text) {
            tracing::error!(
                error = text,
                "the store can't be written; messages are kept in memory until it can"
            );
        } else if error.kind() == io::ErrorKind::StorageFull {
            // It was not for a moment only.
            self.ask_to_shed("disk full");
        }
        self.seal();
        (self.dirty_since, self.dirty_bytes) = (None, 0);
        self.failing = Some((text, now + RETRY));
    }

    fn segment_size(&self) -> u64 {
        let block = BLOCK as u64;
        (self.settings.size / SEGMENTS).clamp(SEGMENT_SIZE.0, SEGMENT_SIZE.1) / block * block
    }

    fn most_bytes(&self) -> u64 {
        // One segment's is the spare's.
        let size = self.segment_size();
        (self.settings.size / size).max(3) * size - size
    }

    fn show(&self) {
        self.metrics.stored.set(self.ledger.unsettled() as u64);
        let oldest = self.ledger.segments().iter().find(|segment| segment.unsettled > 0);
        let age = oldest.and_then(shed::age).and_then(|age| u64::try_from(age).ok());
        self.metrics.stored_age_ms.set(age.unwrap_or(0));
        let spare = self.spare.as_ref().map_or(0, |_| self.segment_size());
        self.metrics.stored_bytes.set(self.ledger.bytes() + spare);
        self.metrics.store_failing.set(u64::from(self.failing.is_some() || self.refused_reads > 0));
    }
}

fn position(record: &Record) -> Option<u64> {
    match record {
        Record::Message(stored) => Some(stored.position),
        _ => None,
    }
}
