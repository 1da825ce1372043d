//! Looking into a store from outside, beside whoever writes into it or without.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::disk::{Disk, DiskFile, Folder};
use super::format::{self, Header, Record};
use super::ledger::Ledger;
use super::segment::{Reader, header};
use super::{Marks, Stored};
use crate::model::gaps::Gap;

/// A store as it's found.
#[derive(Debug, Default)]
pub struct Contents {
    /// Its segments, oldest first.
    pub segments: Vec<Segment>,
    /// What waits, by device and epoch.
    pub waiting: BTreeMap<(Arc<str>, u64), Waiting>,
    /// Gaps whose records were not acknowledged.
    pub gaps: Vec<Gap>,
    /// Bytes of all files.
    pub bytes: u64,
}

/// One segment.
#[derive(Debug)]
pub struct Segment {
    /// Its file name.
    pub file: String,
    /// Its header, if that can be read.
    pub header: Option<Header>,
    /// Messages in it.
    pub messages: u64,
    /// Records in it, messages included.
    pub records: u64,
    /// Records with a right checksum that say nothing this program knows.
    pub unknown: u64,
    /// Bytes that the disk did not yield.
    pub unreadable: u64,
    /// Positions that are missing before or in it.
    pub missing: u64,
}

/// Messages of a device that wait.
#[derive(Debug, Default)]
pub struct Waiting {
    /// How many.
    pub messages: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// The lowest and the highest sequence number.
    pub seq: (u64, u64),
    /// When the first and the last were admitted, milliseconds since 1970.
    pub at: (i64, i64),
}

/// Reads the store in a folder. `each` is called for every message that waits, in order.
pub fn look(path: &Path, mut each: impl FnMut(&Stored, Marks)) -> io::Result<Contents> {
    let folder = Folder::look(path)?;
    let mut contents = Contents::default();
    let mut ledger = Ledger::default();
    let mut names = folder.list()?;
    names.sort_unstable();
    for name in &names {
        contents.bytes += folder.open(name).and_then(|file| file.size()).unwrap_or(0);
    }
    let numbers: Vec<u64> = names.iter().filter_map(|name| format::number(name)).collect();
    let mut next = 0;
    for number in &numbers {
        let file = folder.open(&format::name(*number))?;
        let header = header(&file)?.ok();
        next = header.map_or(next, |header| header.first).max(next);
        ledger.begin(*number, next, file.size()?);
    }
    let mut expected: Option<u64> = None;
    for number in &numbers {
        let name = format::name(*number);
        let file = folder.open(&name)?;
        let header = header(&file)?.ok();
        let mut segment =
            Segment { file: name, header, messages: 0, records: 0, unknown: 0, unreadable: 0, missing: 0 };
        let mut reader = Reader::new(file, *number)?;
        while let Some(found) = reader.next() {
            segment.records += 1;
            let Some(record) = Record::decode(found.body) else {
                segment.unknown += 1;
                continue;
            };
            if let Record::Message(stored) = &record {
                segment.messages += 1;
                if let Some(expected) = expected {
                    segment.missing += stored.position.saturating_sub(expected);
                }
                expected = expected.max(Some(stored.position + 1));
            }
            ledger.note(&record, *number);
        }
        segment.unreadable = reader.unreadable();
        contents.segments.push(segment);
    }
    for number in &numbers {
        let mut reader = Reader::new(folder.open(&format::name(*number))?, *number)?;
        while let Some(found) = reader.next() {
            let Some(Record::Message(stored)) = Record::decode(found.body) else { continue };
            if !ledger.is_unsettled(stored.position) || !ledger.has_copy(*number, stored.position) {
                continue;
            }
            let key = (Arc::clone(&stored.device), stored.epoch);
            let new =
                Waiting { seq: (stored.seq, stored.seq), at: (stored.at, stored.at), ..Waiting::default() };
            let waiting = contents.waiting.entry(key).or_insert(new);
            waiting.messages += 1;
            waiting.bytes += stored.payload.len() as u64;
            waiting.seq.1 = stored.seq;
            waiting.at.1 = stored.at;
            each(&stored, ledger.marks(stored.position));
        }
    }
    contents.gaps = ledger.gaps.iter().collect();
    Ok(contents)
}
