//! Reading one segment: its records in order, past what is damaged.

use super::disk::DiskFile;
use super::format::{BLOCK, FRAME, HEADER, Header, MOST_BODY, NoHeader, checksum};

/// Bytes that are read at once; what is longer (one message) makes the buffer grow.
const CHUNK: usize = 256 << 10;

/// Reads a segment's records.
#[derive(Debug)]
pub(super) struct Reader<F> {
    file: F,
    number: u64,
    size: u64,
    offset: u64,
    buffer: Vec<u8>,
    start: u64,
    /// Bytes that the disk did not yield.
    unreadable: u64,
}

/// A record whose checksum is right.
#[derive(Debug)]
pub(super) struct Found<'a> {
    /// What it says.
    pub body: &'a [u8],
}

impl<F: DiskFile> Reader<F> {
    /// Reads from the first record on.
    pub fn new(file: F, number: u64) -> std::io::Result<Self> {
        let size = file.size()?;
        Ok(Self { file, number, size, offset: HEADER as u64, buffer: Vec::new(), start: 0, unreadable: 0 })
    }

    /// Forgets what is buffered: the file has been written to.
    pub fn forget(&mut self) {
        self.buffer.clear();
    }

    /// Where reading goes on.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes that the disk did not yield.
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// The next record; `None` at the end.
    pub fn next(&mut self) -> Option<Found<'_>> {
        loop {
            let offset = self.offset;
            if offset + FRAME as u64 > self.size {
                return None;
            }
            let block_end = (offset / BLOCK as u64 + 1) * BLOCK as u64;
            match self.record(offset, block_end) {
                Look::Record(length) => {
                    self.offset = offset + (FRAME + length) as u64;
                    let at = (offset - self.start) as usize + FRAME;
                    return Some(Found { body: &self.buffer[at..at + length] });
                }
                Look::Nothing => self.offset = block_end,
            }
        }
    }

    fn record(&mut self, offset: u64, block_end: u64) -> Look {
        let is_block_start = offset.is_multiple_of(BLOCK as u64);
        if block_end - offset < FRAME as u64 {
            return Look::Nothing;
        }
        let Some(frame) = self.bytes(offset, FRAME) else { return Look::Nothing };
        let length = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
        let crc = u32::from_le_bytes([frame[4], frame[5], frame[6], frame[7]]);
        if length == 0 {
            return Look::Nothing;
        }
        let end = offset + (FRAME + length) as u64;
        if length > MOST_BODY || end > self.size || (end > block_end && !is_block_start) {
            return Look::Nothing;
        }
        let number = self.number;
        match self.bytes(offset, FRAME + length) {
            Some(bytes) if checksum(number, offset, &bytes[FRAME..]) == crc => Look::Record(length),
            _ => Look::Nothing,
        }
    }

    /// Bytes of the file, out of the buffer. `None`: the disk does not yield them.
    fn bytes(&mut self, offset: u64, count: usize) -> Option<&[u8]> {
        let inside = offset >= self.start && offset + count as u64 <= self.start + self.buffer.len() as u64;
        if !inside {
            self.buffer.resize(CHUNK.max(count), 0);
            match self.file.read_at(&mut self.buffer, offset) {
                Ok(read) => self.buffer.truncate(read),
                Err(_) => {
                    // The block alone may be fine where the whole chunk is not.
                    self.buffer.resize(count, 0);
                    match self.file.read_at(&mut self.buffer, offset) {
                        Ok(read) => self.buffer.truncate(read),
                        Err(_) => {
                            self.buffer.clear();
                            self.unreadable += (BLOCK as u64 - offset % BLOCK as u64).min(self.size - offset);
                        }
                    }
                }
            }
            self.start = offset;
        }
        let at = (offset - self.start) as usize;
        self.buffer.get(at..at + count)
    }
}

enum Look {
    Record(usize),
    Nothing,
}

/// A file's header.
pub(super) fn header<F: DiskFile>(file: &F) -> std::io::Result<Result<Header, NoHeader>> {
    let mut bytes = [0; HEADER];
    let read = file.read_at(&mut bytes, 0)?;
    Ok(Header::decode(&bytes[..read]))
}
