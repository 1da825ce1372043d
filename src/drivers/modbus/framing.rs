//! Requests to bytes, and bytes to answers, for MBAP (TCP) and RTU frames. Pure, without allocation.
//!
//! An answer is taken only when everything that the protocol offers agrees with the request: on TCP the transaction,
//! protocol and unit ids, the function code and both lengths; on RTU the unit id, the function code, the byte count and
//! the CRC. RTU frames carry no length of their own, so the request's expected length frames them.
//!
//! Sources: Modbus Application Protocol V1.1b3 (6.1–6.4, 7), MODBUS Messaging on TCP/IP V1.0b (3.1.3), MODBUS over
//! serial line V1.02 (2.5.1, 6.2).

use std::ops::Range;

use super::plan::Block;

/// The longest frame there is: an MBAP header and a PDU of 253 bytes.
pub const LONGEST_FRAME: usize = 260;

/// The longest request that is sent.
pub const LONGEST_REQUEST: usize = 12;

/// MBAP header: transaction, protocol, length, unit.
const MBAP: usize = 7;

/// Marks an exception answer.
const EXCEPTION: u8 = 0x80;

/// How frames are delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Modbus TCP.
    Mbap,
    /// Unit id in front, CRC behind.
    Rtu,
}

/// One read request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Whom it asks.
    pub unit: u8,
    /// What it asks for.
    pub block: Block,
}

/// What the bytes received so far begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scan {
    /// The answer; its data bytes are at `data`.
    Complete {
        /// Where the registers' or bits' bytes are.
        data: Range<usize>,
        /// Bytes that the frame takes, from the front.
        used: usize,
    },
    /// The device refused.
    Exception {
        /// Exception code.
        code: u8,
        /// Bytes that the frame takes, from the front.
        used: usize,
    },
    /// So many bytes belong to no open request: a late answer, a foreign unit, noise.
    Stray(usize),
    /// A frame of so many bytes that carries this request's transaction id, but answers something else.
    Misfit(usize),
    /// At least so many bytes are missing.
    More(usize),
    /// The frames' borders are lost for good: only a new connection helps.
    Broken,
}

impl Framing {
    /// Writes the request's frame into `out` and gives its length.
    pub fn encode(self, request: Request, transaction: u16, out: &mut [u8; LONGEST_REQUEST]) -> usize {
        let [address_high, address_low] = request.block.address.to_be_bytes();
        let [count_high, count_low] = request.block.count.to_be_bytes();
        let function = request.block.table.read_function();
        let pdu = [request.unit, function, address_high, address_low, count_high, count_low];
        match self {
            Self::Mbap => {
                let [id_high, id_low] = transaction.to_be_bytes();
                out[..6].copy_from_slice(&[id_high, id_low, 0, 0, 0, 6]);
                out[6..12].copy_from_slice(&pdu);
                12
            }
            Self::Rtu => {
                out[..6].copy_from_slice(&pdu);
                out[6..8].copy_from_slice(&crc(&pdu).to_le_bytes());
                8
            }
        }
    }

    /// Looks for the answer to `request` at the front of `bytes`.
    pub fn scan(self, request: Request, transaction: u16, bytes: &[u8]) -> Scan {
        match self {
            Self::Mbap => scan_mbap(request, transaction, bytes),
            Self::Rtu => scan_rtu(request, bytes),
        }
    }
}

fn scan_mbap(request: Request, transaction: u16, bytes: &[u8]) -> Scan {
    let Some(header) = bytes.first_chunk::<MBAP>() else { return Scan::More(MBAP - bytes.len()) };
    let protocol = u16::from_be_bytes([header[2], header[3]]);
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let used = MBAP - 1 + length;
    // Shorter than an exception or longer than a PDU may be: nothing that follows can be trusted to be a header.
    if protocol != 0 || !(3..=LONGEST_FRAME - (MBAP - 1)).contains(&length) {
        return Scan::Broken;
    }
    if bytes.len() < used {
        return Scan::More(used - bytes.len());
    }
    if u16::from_be_bytes([header[0], header[1]]) != transaction {
        return Scan::Stray(used);
    }
    let function = request.block.table.read_function();
    let expected = request.block.bytes();
    let pdu = &bytes[MBAP..used];
    match pdu {
        _ if header[6] != request.unit => Scan::Misfit(used),
        [refused, code] if *refused == function | EXCEPTION => Scan::Exception { code: *code, used },
        [answered, count, data @ ..]
            if *answered == function && usize::from(*count) == expected && data.len() == expected =>
        {
            Scan::Complete { data: MBAP + 2..used, used }
        }
        _ => Scan::Misfit(used),
    }
}

fn scan_rtu(request: Request, bytes: &[u8]) -> Scan {
    for start in 0..bytes.len() {
        match rtu_frame(request, &bytes[start..]) {
            Frame::No => {}
            // What is in front of a frame, or of what may become one, is dropped first.
            _ if start > 0 => return Scan::Stray(start),
            Frame::Data(data, used) => return Scan::Complete { data, used },
            Frame::Exception(code, used) => return Scan::Exception { code, used },
            Frame::Partial(missing) => return Scan::More(missing),
        }
    }
    if bytes.is_empty() { Scan::More(RTU_EXCEPTION) } else { Scan::Stray(bytes.len()) }
}

/// Unit, function, code, CRC.
const RTU_EXCEPTION: usize = 5;

enum Frame {
    Data(Range<usize>, usize),
    Exception(u8, usize),
    Partial(usize),
    No,
}

/// Is there an answer to the request at the very front, or may there be one?
fn rtu_frame(request: Request, bytes: &[u8]) -> Frame {
    let function = request.block.table.read_function();
    let expected = request.block.bytes();
    let refused = match bytes {
        [unit, ..] if *unit != request.unit => return Frame::No,
        [_] | [] => return Frame::Partial(RTU_EXCEPTION - bytes.len()),
        [_, answered, ..] => match *answered {
            answered if answered == function => false,
            answered if answered == function | EXCEPTION => true,
            _ => return Frame::No,
        },
    };
    if !refused && bytes.get(2).is_some_and(|count| usize::from(*count) != expected) {
        return Frame::No;
    }
    let length = if refused { RTU_EXCEPTION } else { expected + 5 };
    let Some(frame) = bytes.get(..length) else { return Frame::Partial(length - bytes.len()) };
    // The CRC of a frame with its own CRC behind it is 0.
    match crc(frame) {
        0 if refused => Frame::Exception(frame[2], length),
        0 => Frame::Data(3..length - 2, length),
        _ => Frame::No,
    }
}

/// CRC-16 of an RTU frame; sent low byte first (MODBUS over serial line V1.02, 6.2.2).
pub fn crc(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xFFFF, |crc, byte| crc >> 8 ^ CRC_TABLE[usize::from((crc as u8) ^ byte)])
}

const CRC_TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u16;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xA001 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::place::Table;
    use proptest::prelude::*;

    fn request(unit: u8, address: u16, count: u16) -> Request {
        Request { unit, block: Block { table: Table::Holding, address, count } }
    }

    fn rtu(body: &[u8]) -> Vec<u8> {
        [body, &crc(body).to_le_bytes()].concat()
    }

    #[test]
    fn requests_are_those_of_the_specification() {
        let mut out = [0; LONGEST_REQUEST];
        // V1.1b3, 6.3: read holding registers 108–110.
        let length = Framing::Mbap.encode(request(0x11, 0x6B, 3), 0x1501, &mut out);
        assert_eq!(out[..length], [0x15, 0x01, 0, 0, 0, 6, 0x11, 3, 0, 0x6B, 0, 3]);
        // The same as an RTU frame, with the CRC that every Modbus tutorial shows for it.
        let length = Framing::Rtu.encode(request(0x11, 0x6B, 3), 0, &mut out);
        assert_eq!(out[..length], [0x11, 3, 0, 0x6B, 0, 3, 0x76, 0x87]);
    }

    #[test]
    fn an_mbap_answer_must_agree_in_everything() {
        let good = [0, 9, 0, 0, 0, 7, 1, 3, 4, 0xAA, 0xBB, 0xCC, 0xDD];
        let scan = |bytes: &[u8]| Framing::Mbap.scan(request(1, 0, 2), 9, bytes);
        assert_eq!(scan(&good), Scan::Complete { data: 9..13, used: 13 });
        assert_eq!(scan(&good[..5]), Scan::More(2));
        assert_eq!(scan(&good[..12]), Scan::More(1));
        assert_eq!(scan(&[0, 9, 0, 0, 0, 3, 1, 0x83, 2]), Scan::Exception { code: 2, used: 9 });
        let wrong = |place: usize, value: u8| {
            let mut bytes = good;
            bytes[place] = value;
            scan(&bytes)
        };
        assert_eq!(wrong(1, 8), Scan::Stray(13));
        assert_eq!(wrong(3, 1), Scan::Broken);
        assert_eq!(wrong(4, 2), Scan::Broken);
        assert_eq!(wrong(5, 2), Scan::Broken);
        for (place, value) in [(6, 2), (7, 4), (7, 0x83), (8, 2)] {
            assert_eq!(wrong(place, value), Scan::Misfit(13), "byte {place}");
        }
    }

    #[test]
    fn an_rtu_answer_is_found_behind_noise_echo_and_foreign_frames() {
        let asked = request(1, 0, 2);
        let answer = rtu(&[1, 3, 4, 0xAA, 0xBB, 0xCC, 0xDD]);
        let mut echo = [0; LONGEST_REQUEST];
        let length = Framing::Rtu.encode(asked, 0, &mut echo);
        for front in
            [&[0, 0xFF][..], &echo[..length], &rtu(&[2, 3, 4, 1, 2, 3, 4]), &rtu(&[1, 4, 4, 1, 2, 3, 4])]
        {
            let mut bytes = [front, &answer].concat();
            let mut dropped = 0;
            let found = loop {
                match Framing::Rtu.scan(asked, 0, &bytes) {
                    Scan::Stray(strays) => {
                        dropped += strays;
                        bytes.drain(..strays);
                    }
                    other => break other,
                }
            };
            assert_eq!((found, dropped), (Scan::Complete { data: 3..7, used: 9 }, front.len()));
        }
    }

    #[test]
    fn an_rtu_answer_with_a_good_crc_and_the_wrong_shape_is_stray() {
        let asked = request(1, 0, 2);
        let longer = rtu(&[1, 3, 6, 1, 2, 3, 4, 5, 6]);
        assert_eq!(Framing::Rtu.scan(asked, 0, &longer), Scan::Stray(longer.len()));
        assert_eq!(Framing::Rtu.scan(asked, 0, &rtu(&[1, 0x83, 2])), Scan::Exception { code: 2, used: 5 });
        assert_eq!(Framing::Rtu.scan(asked, 0, &rtu(&[1, 0x84, 2])), Scan::Stray(5));
        assert_eq!(Framing::Rtu.scan(asked, 0, &[1, 3]), Scan::More(7));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_each_scan_makes_progress(bytes in prop::collection::vec(any::<u8>(), 0..300), unit in any::<u8>()) {
            for framing in [Framing::Mbap, Framing::Rtu] {
                match framing.scan(request(unit, 0, 3), 7, &bytes) {
                    Scan::Complete { data, used } => prop_assert!(data.len() == 6 && data.end <= used && used <= bytes.len()),
                    Scan::Exception { used, .. } | Scan::Stray(used) | Scan::Misfit(used) => {
                        prop_assert!(used > 0 && used <= bytes.len());
                    }
                    Scan::More(missing) => prop_assert!(missing > 0 && missing <= LONGEST_FRAME),
                    Scan::Broken => {}
                }
            }
        }

        #[test]
        fn one_flipped_bit_never_passes_for_an_rtu_answer(data in any::<[u8; 6]>(), bit in 0usize..88) {
            let mut frame = rtu(&[&[1, 3, 6], &data[..]].concat());
            frame[bit / 8] ^= 1 << (bit % 8);
            let taken = matches!(Framing::Rtu.scan(request(1, 0, 3), 0, &frame), Scan::Complete { .. });
            prop_assert!(!taken);
        }
    }
}
