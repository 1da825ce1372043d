//! Reading one segment: its records in order, past what is damaged.

use std::io;
use std::ops::Range;

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
    pub fn new(file: F, number: u64) -> io::Result<Self> {
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

    /// The next record; `None` at the end. Blocks that the disk does not yield are passed over.
    pub fn next(&mut self) -> Option<Found<'_>> {
        let body = loop {
            match self.advance() {
                Ok(body) => break body,
                Err(_) => self.skip_block(),
            }
        };
        body.map(|body| Found { body: &self.buffer[body] })
    }

    /// The same, but fails where the disk does not yield what is next: it may, the next time.
    pub fn try_next(&mut self) -> io::Result<Option<Found<'_>>> {
        Ok(self.advance()?.map(|body| Found { body: &self.buffer[body] }))
    }

    /// Gives up what is left of a block.
    pub fn skip_block(&mut self) {
        let end = block_end(self.offset);
        self.unreadable += end.min(self.size) - self.offset;
        self.offset = end;
    }

    /// The place of the next record's body in the buffer.
    fn advance(&mut self) -> io::Result<Option<Range<usize>>> {
        loop {
            let offset = self.offset;
            if offset + FRAME as u64 > self.size {
                return Ok(None);
            }
            let block_end = block_end(offset);
            match self.record(offset, block_end)? {
                Look::Record(length) => {
                    self.offset = offset + (FRAME + length) as u64;
                    let at = (offset - self.start) as usize + FRAME;
                    return Ok(Some(at..at + length));
                }
                Look::Nothing => self.offset = block_end,
            }
        }
    }

    fn record(&mut self, offset: u64, block_end: u64) -> io::Result<Look> {
        let is_block_start = offset.is_multiple_of(BLOCK as u64);
        if block_end - offset < FRAME as u64 {
            return Ok(Look::Nothing);
        }
        let Some(frame) = self.bytes(offset, FRAME)? else { return Ok(Look::Nothing) };
        let length = u32::from_le_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
        let crc = u32::from_le_bytes([frame[4], frame[5], frame[6], frame[7]]);
        if length == 0 {
            return Ok(Look::Nothing);
        }
        let end = offset + (FRAME + length) as u64;
        if length > MOST_BODY || end > self.size || (end > block_end && !is_block_start) {
            return Ok(Look::Nothing);
        }
        let number = self.number;
        Ok(match self.bytes(offset, FRAME + length)? {
            Some(bytes) if checksum(number, offset, &bytes[FRAME..]) == crc => Look::Record(length),
            _ => Look::Nothing,
        })
    }

    /// Bytes of the file, out of the buffer. `None`: the file is not so long.
    fn bytes(&mut self, offset: u64, count: usize) -> io::Result<Option<&[u8]>> {
        let inside = offset >= self.start && offset + count as u64 <= self.start + self.buffer.len() as u64;
        if !inside {
            self.buffer.resize(CHUNK.max(count), 0);
            let read = self.file.read_at(&mut self.buffer, offset).or_else(|_| {
                // These bytes alone may be fine where the whole chunk is not.
                self.buffer.resize(count, 0);
                self.file.read_at(&mut self.buffer, offset)
            });
            self.buffer.truncate(*read.as_ref().unwrap_or(&0));
            self.start = offset;
            read?;
        }
        let at = (offset - self.start) as usize;
        Ok(self.buffer.get(at..at + count))
    }
}

fn block_end(offset: u64) -> u64 {
    (offset / BLOCK as u64 + 1) * BLOCK as u64
}

enum Look {
    Record(usize),
    Nothing,
}

/// A file's header.
pub(super) fn header<F: DiskFile>(file: &F) -> io::Result<Result<Header, NoHeader>> {
    let mut bytes = [0; HEADER];
    let read = file.read_at(&mut bytes, 0)?;
    Ok(Header::decode(&bytes[..read]))
}
