//! The files of a store: the specification, and its encoding. `tests/store_reader.py` is a second reader, made from this page alone.
//!
//! A store is a folder with
//! - `lock`, which whoever writes holds by flock(2);
//! - segments, `NUMBER.seg`, the number in 16 hexadecimal digits, ascending and never used twice. All numbers are little endian;
//! - `spare`, a file that is to become a segment, and may have been one: its contents mean nothing;
//! - `dead-letters.jsonl`, for people (and `dead-letters.jsonl.1`, what was there before that became too long).
//!
//! # A segment
//!
//! It begins with a header of [`HEADER`] bytes:
//!
//! | offset | bytes | |
//! | --- | --- | --- |
//! | 0 | 8 | `taktlog\n` |
//! | 8 | 4 | version of the format: 1 |
//! | 12 | 4 | CRC-32 (IEEE 802.3, as in zlib) of bytes 16 to 63 |
//! | 16 | 8 | the segment's number |
//! | 24 | 8 | the first position of which this segment decides |
//! | 32 | 8 | the epoch of the run that began it |
//! | 40 | 8 | when it was begun, milliseconds since 1970 |
//! | 48 | 16 | zeros |
//!
//! Behind it are records, in blocks of [`BLOCK`] bytes that are counted from the segment's first byte. A record that
//! does not fit into the rest of its block begins at the next one, and zeros are between; only what is longer than a block
//! goes over the end of blocks. So damage costs at most the block that it is in: reading goes on with the next. A record is
//!
//! | bytes | |
//! | --- | --- |
//! | 4 | length of the body, 1 to [`MOST_BODY`] |
//! | 4 | CRC-32 of: the segment's number (8 bytes), the record's offset in the segment (8 bytes), the body |
//! | … | the body |
//!
//! Number and offset in the checksum make what an earlier segment has left in the same file invalid. A length of zero, or
//! a record that is not valid, means: nothing more in this block. The log ends where no block has a valid record any more.
//!
//! # Bodies
//!
//! The first byte is the kind. *text* is 2 bytes of length and so many of UTF-8.
//!
//! | kind | body | says |
//! | --- | --- | --- |
//! | 1 | position 8, epoch 8, seq 8, at 8, late 1, device *text*, topic *text*, payload to the end | a message: `at` in milliseconds since 1970, `late` 0 deliver, 1 drop, 2 store |
//! | 2 | n × (from 8, to 8) | these positions are settled: delivered |
//! | 3 | n × (from 8, to 8) | these were, or will be, sent with `"replayed":true` |
//! | 4 | position 8, milliseconds 8 | this one was sent with `"late_ms"` |
//! | 5 | n 4, n × (from 8, to 8), epoch 8, from 8, to 8, device *text*, topic *text*, reason *text* | these sequence numbers will never arrive; the n ranges of positions are settled |
//! | 6 | epoch 8, from 8, to 8, device *text* | the gap record of these was acknowledged |
//! | 7 | boot 8, ahead 8, and then as kind 1 | a message whose `at` and time stamp are of a clock that was not synchronised: `ahead` milliseconds ahead of the time since the boot with this number |
//! | 8 | moved 8, n × (from 8, to 8) | these were, or will be, sent with their time stamp moved by so many milliseconds (-2⁶³: as it is, with `"clock":"unsynced"`) |
//!
//! A position is below 2⁶² ([`MOST_POSITION`]), and less than 2²⁰ ([`MOST_POSITIONS`]) above the first one of its segment; a message
//! with another one says nothing.
//!
//! # What it means
//!
//! Read segments by ascending number, and records by offset. A message may be there twice: when an fdatasync has failed, what it was
//! about is written again into the next segment, whose first position is then below where the one before it ends. Copies are the same, and each of
//! them is good; a crash may have left either. What is neither settled nor given up waits to be delivered. Gaps that were given up and whose record was not acknowledged are owed; each
//! segment begins with all that are owed by then (kind 5 without a position), so that older segments can go. They go oldest
//! first, once all of their positions are settled.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};

use super::{Restamp, Stored};
use crate::budget::OnLate;
use crate::model::clock::Standing;
use crate::model::gaps::{Gap, GapId};

/// The version of this page.
pub const VERSION: u32 = 1;
/// Bytes of a segment's header.
pub const HEADER: usize = 64;
/// Bytes that damage can cost.
pub const BLOCK: usize = 64 << 10;
/// Bytes of the longest body; a larger message is not stored.
pub const MOST_BODY: usize = 1 << 20;
/// Positions are below it.
pub const MOST_POSITION: u64 = 1 << 62;
/// The positions of a segment's messages are less than so many apart. What is never stored has positions too.
pub const MOST_POSITIONS: u64 = 1 << 20;
/// Bytes before a body.
pub const FRAME: usize = 8;
const MAGIC: &[u8; 8] = b"taktlog\n";
const NOT_MOVED: i64 = i64::MIN;

/// The name of the file that becomes the next segment.
pub const SPARE: &str = "spare";
/// The name of the file of messages that were refused.
pub const DEAD_LETTERS: &str = "dead-letters.jsonl";

/// A segment's file name.
pub fn name(number: u64) -> String {
    format!("{number:016x}.seg")
}

/// The number in a segment's file name.
pub fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// What a segment begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The segment's number.
    pub number: u64,
    /// The first position of which it decides.
    pub first: u64,
    /// The epoch of the run that began it.
    pub epoch: u64,
    /// When it was begun, milliseconds since 1970.
    pub at: i64,
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHeader {
    /// It's no segment, or a damaged one.
    Foreign,
    /// It's of a later version.
    Version(u32),
}

impl Header {
    /// Its bytes.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut fields = Vec::with_capacity(HEADER - 16);
        fields.put_u64_le(self.number);
        fields.put_u64_le(self.first);
        fields.put_u64_le(self.epoch);
        fields.put_i64_le(self.at);
        fields.resize(HEADER - 16, 0);
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&crc32fast::hash(&fields).to_le_bytes());
        bytes[16..].copy_from_slice(&fields);
        bytes
    }

    /// Reads it.
    pub fn decode(bytes: &[u8]) -> Result<Self, NoHeader> {
        if bytes.len() < HEADER || !bytes.starts_with(MAGIC) {
            return Err(NoHeader::Foreign);
        }
        let mut rest = &bytes[8..HEADER];
        let (version, crc) = (rest.get_u32_le(), rest.get_u32_le());
        match version {
            VERSION if crc32fast::hash(rest) == crc => {}
            VERSION | 0 => return Err(NoHeader::Foreign),
            later => return Err(NoHeader::Version(later)),
        }
        let (number, first) = (rest.get_u64_le(), rest.get_u64_le());
        if first >= MOST_POSITION {
            return Err(NoHeader::Foreign);
        }
        Ok(Self { number, first, epoch: rest.get_u64_le(), at: rest.get_i64_le() })
    }
}

/// What a body says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A message.
    Message(Stored),
    /// Positions that are delivered.
    Settled(Vec<(u64, u64)>),
    /// Positions that are sent as replayed.
    Replayed(Vec<(u64, u64)>),
    /// A position that was sent late, and by how many milliseconds.
    Late(u64, u64),
    /// Numbers that will never arrive, and the positions that they had. In one record, so that a power cut can't part them.
    GivenUp(Vec<(u64, u64)>, Gap),
    /// A gap record was acknowledged.
    GapPublished(GapId),
    /// What became of these positions' time stamps.
    Restamped(Restamp, Vec<(u64, u64)>),
}

impl Record {
    /// Appends its body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Message(stored) => {
                let Stored { position, epoch, seq, at, doubted, late, device, topic, payload } = stored;
                match doubted {
                    None => out.put_u8(1),
                    Some(Standing { boot, ahead }) => {
                        out.put_u8(7);
                        out.put_u64_le(*boot);
                        out.put_i64_le(*ahead);
                    }
                }
                [*position, *epoch, *seq].into_iter().for_each(|number| out.put_u64_le(number));
                out.put_i64_le(*at);
                out.put_u8(match late {
                    OnLate::Deliver => 0,
                    OnLate::Drop => 1,
                    OnLate::Store => 2,
                });
                put_text(out, device);
                put_text(out, topic);
                out.extend_from_slice(payload);
            }
            Self::Settled(ranges) => {
                out.put_u8(2);
                put_ranges(out, ranges);
            }
            Self::Replayed(ranges) => {
                out.put_u8(3);
                put_ranges(out, ranges);
            }
            Self::Late(position, millis) => {
                out.put_u8(4);
                out.put_u64_le(*position);
                out.put_u64_le(*millis);
            }
            Self::GivenUp(positions, Gap { id, topic, reason }) => {
                out.put_u8(5);
                out.put_u32_le(u32::try_from(positions.len()).unwrap_or(u32::MAX));
                put_ranges(out, positions);
                put_gap(out, id);
                put_text(out, topic);
                put_text(out, reason);
            }
            Self::GapPublished(id) => {
                out.put_u8(6);
                put_gap(out, id);
            }
            Self::Restamped(stamp, ranges) => {
                out.put_u8(8);
                out.put_i64_le(match stamp {
                    Restamp::Unsynced => NOT_MOVED,
                    Restamp::Moved(by) => *by,
                });
                put_ranges(out, ranges);
            }
        }
    }

    /// Reads a body whose checksum was right. `None`: this program never wrote it.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let mut rest = body;
        let kind = rest.try_get_u8().ok()?;
        let record = match kind {
            1 | 7 => {
                let doubted = match kind {
                    1 => None,
                    _ => Some(Standing { boot: u64_of(&mut rest)?, ahead: rest.try_get_i64_le().ok()? }),
                };
                let [position, epoch, seq] =
                    [position_of(&mut rest)?, u64_of(&mut rest)?, u64_of(&mut rest)?];
                let at = rest.try_get_i64_le().ok()?;
                let late = match rest.try_get_u8().ok()? {
                    0 => OnLate::Deliver,
                    1 => OnLate::Drop,
                    2 => OnLate::Store,
                    _ => return None,
                };
                let (device, topic) = (text_of(&mut rest)?, text_of(&mut rest)?);
                let payload = Bytes::copy_from_slice(std::mem::take(&mut rest));
                Self::Message(Stored { position, epoch, seq, at, doubted, late, device, topic, payload })
            }
            2 => Self::Settled(ranges_of(&mut rest)?),
            3 => Self::Replayed(ranges_of(&mut rest)?),
            4 => Self::Late(u64_of(&mut rest)?, u64_of(&mut rest)?),
            5 => {
                let length = (rest.try_get_u32_le().ok()? as usize).checked_mul(16)?;
                let (mut ranges, behind) = rest.split_at_checked(length)?;
                rest = behind;
                let positions = ranges_of(&mut ranges)?;
                let id = gap_of(&mut rest)?;
                let (topic, reason) = (text_of(&mut rest)?, text_of(&mut rest)?);
                Self::GivenUp(positions, Gap { id, topic, reason: reason.to_string().into() })
            }
            6 => Self::GapPublished(gap_of(&mut rest)?),
            8 => {
                let stamp = match rest.try_get_i64_le().ok()? {
                    NOT_MOVED => Restamp::Unsynced,
                    by => Restamp::Moved(by),
                };
                Self::Restamped(stamp, ranges_of(&mut rest)?)
            }
            _ => return None,
        };
        rest.is_empty().then_some(record)
    }
}

/// Ranges in one record at most; more of them make more records.
pub const MOST_RANGES: usize = 2048;

/// The longest text in bytes; what is longer is cut.
const LONGEST_TEXT: usize = u16::MAX as usize;

fn put_text(out: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(LONGEST_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.put_u16_le(u16::try_from(end).unwrap_or(u16::MAX));
    out.extend_from_slice(&text.as_bytes()[..end]);
}

fn text_of(rest: &mut &[u8]) -> Option<Arc<str>> {
    let length = usize::from(rest.try_get_u16_le().ok()?);
    let (text, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(std::str::from_utf8(text).ok()?.into())
}

fn u64_of(rest: &mut &[u8]) -> Option<u64> {
    rest.try_get_u64_le().ok()
}

/// A message's position; none where no message has such.
pub fn position_of(rest: &mut &[u8]) -> Option<u64> {
    u64_of(rest).filter(|position| *position < MOST_POSITION)
}

fn put_ranges(out: &mut Vec<u8>, ranges: &[(u64, u64)]) {
    for (from, to) in ranges {
        out.put_u64_le(*from);
        out.put_u64_le(*to);
    }
}

fn ranges_of(rest: &mut &[u8]) -> Option<Vec<(u64, u64)>> {
    let mut ranges = Vec::with_capacity(rest.len() / 16);
    while !rest.is_empty() {
        ranges.push((u64_of(rest)?, u64_of(rest)?));
    }
    Some(ranges)
}

fn put_gap(out: &mut Vec<u8>, id: &GapId) {
    [id.epoch, id.from, id.to].into_iter().for_each(|number| out.put_u64_le(number));
    put_text(out, &id.device);
}

fn gap_of(rest: &mut &[u8]) -> Option<GapId> {
    let [epoch, from, to] = [u64_of(rest)?, u64_of(rest)?, u64_of(rest)?];
    (from <= to).then_some(GapId { epoch, from, to, device: text_of(rest)? })
}

/// Bytes that a message takes in a segment.
pub fn message_bytes(device: &str, topic: &str, payload: usize) -> u64 {
    // Kind, four numbers, `late`, and the lengths of two texts.
    (FRAME + 1 + 4 * 8 + 1 + 2 * 2 + device.len() + topic.len() + payload) as u64
}

/// The checksum of a body at a place.
pub fn checksum(number: u64, offset: u64, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(&offset.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// A refused message as a line for people.
pub fn dead_letter(stored: &Stored, why: &str) -> String {
    let Stored { epoch, seq, device, topic, payload, .. } = stored;
    let payload = String::from_utf8_lossy(payload);
    serde_json::json!({ "device": &**device, "epoch": epoch, "seq": seq, "topic": &**topic, "refused": why, "payload": payload })
        .to_string()
}

/// Where a body of this length goes, at this offset or behind it.
pub fn place(offset: u64, length: usize) -> u64 {
    let block = BLOCK as u64;
    let left = block - offset % block;
    if (FRAME + length) as u64 <= left || left == block { offset } else { offset + left }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = Arc<str>> {
        ".{0,12}".prop_map(|text| text.as_str().into())
    }

    fn gap_id() -> impl Strategy<Value = GapId> {
        (any::<u64>(), any::<u64>(), any::<u64>(), text()).prop_map(|(epoch, a, b, device)| GapId {
            epoch,
            device,
            from: a.min(b),
            to: a.max(b),
        })
    }

    pub fn record() -> impl Strategy<Value = Record> {
        let late = prop_oneof![Just(OnLate::Deliver), Just(OnLate::Drop), Just(OnLate::Store)];
        let standing = (any::<u64>(), any::<i64>()).prop_map(|(boot, ahead)| Standing { boot, ahead });
        let numbers =
            (0..MOST_POSITION, any::<u64>(), any::<u64>(), any::<i64>(), prop::option::of(standing));
        let payload = prop::collection::vec(any::<u8>(), 0..300);
        let message = (numbers, late, text(), text(), payload).prop_map(
            |((position, epoch, seq, at, doubted), late, device, topic, payload)| {
                let payload = payload.into();
                Record::Message(Stored { position, epoch, seq, at, doubted, late, device, topic, payload })
            },
        );
        let ranges = || prop::collection::vec(any::<(u64, u64)>(), 0..20);
        let gap = (gap_id(), text(), text()).prop_map(|(id, topic, reason)| Gap {
            id,
            topic,
            reason: reason.to_string().into(),
        });
        prop_oneof![
            message,
            ranges().prop_map(Record::Settled),
            ranges().prop_map(Record::Replayed),
            any::<(u64, u64)>().prop_map(|(position, millis)| Record::Late(position, millis)),
            (ranges(), gap).prop_map(|(positions, gap)| Record::GivenUp(positions, gap)),
            gap_id().prop_map(Record::GapPublished),
            ranges().prop_map(|ranges| Record::Restamped(Restamp::Unsynced, ranges)),
            (-i64::MAX..=i64::MAX, ranges())
                .prop_map(|(by, ranges)| Record::Restamped(Restamp::Moved(by), ranges)),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(record in record(), cut in any::<prop::sample::Index>()) {
            let mut body = Vec::new();
            record.encode(&mut body);
            if let Record::Message(Stored { doubted: None, device, topic, payload, .. }) = &record {
                prop_assert_eq!((FRAME + body.len()) as u64, message_bytes(device, topic, payload.len()));
            }
            prop_assert_eq!(Record::decode(&body), Some(record));
            let _ = Record::decode(&body[..cut.index(body.len())]);
        }

        #[test]
        fn headers_are_read_and_harmed_ones_are_not(number in any::<u64>(), first in 0..MOST_POSITION, bit in 0usize..HEADER * 8) {
            let header = Header { number, first, epoch: 7, at: -1 };
            let mut bytes = header.encode();
            prop_assert_eq!(Header::decode(&bytes), Ok(header));
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Header::decode(&bytes).is_err());
        }

        #[test]
        fn only_what_is_longer_than_a_block_goes_over_its_end(offset in 0u64..1 << 24, length in 1usize..MOST_BODY) {
            let at = place(offset, length);
            prop_assert!(at >= offset && at - offset < BLOCK as u64);
            let fits = at % BLOCK as u64 + (FRAME + length) as u64 <= BLOCK as u64;
            prop_assert!(fits || at.is_multiple_of(BLOCK as u64));
        }
    }

    #[test]
    fn a_segments_name_has_its_number() {
        assert_eq!(name(255), "00000000000000ff.seg");
        assert_eq!(number("00000000000000ff.seg"), Some(255));
        assert_eq!((number("ff.seg"), number("spare"), number("zz000000000000ff.seg")), (None, None, None));
    }
}
