//! Requests to bytes, and bytes to answers, for MBAP (TCP) and RTU frames. Pure, without allocation.
//!
//! An answer is taken only when everything that the protocol offers agrees with the request: on TCP the transaction,
//! protocol and unit ids, the function code and both lengths; on RTU the unit id, the function code, the byte count and
//! the CRC. RTU frames carry no length of their own, so the request's expected length frames them.
//!
//! Sources: Modbus Application Protocol V1.1b3 (6.1–6.4, 7), MODBUS Messaging on TCP/IP V1.0b (3.1.3), MODBUS over
//! serial line V1.02 (2.5.1, 6.2).
//!
//! RTU bytes that are no answer stay where they are until the answer begins behind them, a whole frame of somebody
//! else's is recognised, or their room is needed: so that a foreign frame that arrives in pieces is counted as what it is.

use std::ops::Range;

use super::plan::Block;
use crate::drivers::LinkLost;

/// The longest frame there is: an MBAP header and a PDU of 253 bytes.
pub const LONGEST_FRAME: usize = 260;

/// The longest request that is sent.
pub const LONGEST_REQUEST: usize = 12;

/// MBAP header: transaction, protocol, length, unit.
const MBAP: usize = 7;

/// Marks an exception answer.
pub const EXCEPTION: u8 = 0x80;

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
    /// The first bytes belong to no open request.
    Stray {
        /// What they are.
        kind: Stray,
        /// Bytes that it takes, from the front.
        used: usize,
    },
    /// A frame of so many bytes that carries this request's transaction id, but answers something else.
    Misfit(usize),
    /// Bytes are missing.
    More,
    /// The frames' borders are lost for good: only a new connection helps.
    Broken,
}

/// What came that answers no open request. As an index: the order of [`crate::metrics::ConnectionMetrics::strays`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stray {
    /// The answer to an earlier request.
    Late,
    /// The request itself, heard back: a two-wire adapter that echoes.
    Echo,
    /// A good frame of a unit that was not asked.
    Foreign,
    /// A good frame of the unit that was asked, with another function code or length than was asked for.
    Misshapen,
    /// Bytes that make no frame.
    Noise,
}

impl Framing {
    /// Writes the request's frame into `out` and gives its length.
    pub fn encode(self, request: Request, transaction: u16, out: &mut [u8; LONGEST_REQUEST]) -> usize {
        let pdu = unit_and_pdu(request);
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

/// What MBAP bytes begin with, whoever they answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// A whole frame of `used` bytes.
    Frame {
        /// Its transaction id.
        transaction: u16,
        /// Bytes that the frame takes, from the front.
        used: usize,
    },
    /// Bytes are missing.
    More,
    /// The frames' borders are lost for good.
    Broken,
}

/// Looks at the frame at the front of MBAP bytes.
pub fn mbap_head(bytes: &[u8]) -> Head {
    let Some(header) = bytes.first_chunk::<MBAP>() else { return Head::More };
    let protocol = u16::from_be_bytes([header[2], header[3]]);
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let used = MBAP - 1 + length;
    // Shorter than an exception or longer than a PDU may be: nothing that follows can be trusted to be a header.
    if protocol != 0 || !(3..=LONGEST_FRAME - (MBAP - 1)).contains(&length) {
        return Head::Broken;
    }
    match bytes.len() < used {
        true => Head::More,
        false => Head::Frame { transaction: u16::from_be_bytes([header[0], header[1]]), used },
    }
}

/// The far side of a TCP link sends something else than MBAP frames.
pub fn not_modbus() -> LinkLost {
    LinkLost("the far side does not speak Modbus TCP".into())
}

fn scan_mbap(request: Request, transaction: u16, bytes: &[u8]) -> Scan {
    let (answered, used) = match mbap_head(bytes) {
        Head::Frame { transaction, used } => (transaction, used),
        Head::More => return Scan::More,
        Head::Broken => return Scan::Broken,
    };
    match transaction.wrapping_sub(answered) {
        0 => {}
        // Ids count up: half of their circle lies behind.
        1..0x8000 => return Scan::Stray { kind: Stray::Late, used },
        _ => return Scan::Stray { kind: Stray::Foreign, used },
    }
    let function = request.block.table.read_function();
    let expected = request.block.bytes();
    match &bytes[MBAP - 1..used] {
        [unit, ..] if *unit != request.unit => Scan::Misfit(used),
        // Something that sends back what it gets; it may have the shape of an answer with three bytes.
        echo if *echo == unit_and_pdu(request) => Scan::Misfit(used),
        [_, refused, code] if *refused == function | EXCEPTION => Scan::Exception { code: *code, used },
        [_, answered, count, data @ ..]
            if *answered == function && usize::from(*count) == expected && data.len() == expected =>
        {
            Scan::Complete { data: MBAP + 2..used, used }
        }
        _ => Scan::Misfit(used),
    }
}

fn scan_rtu(request: Request, bytes: &[u8]) -> Scan {
    // Before anything else: an echo may look like the beginning of an answer.
    if is_echo(request, bytes) {
        return Scan::Stray { kind: Stray::Echo, used: RTU_REQUEST };
    }
    for start in 0..bytes.len() {
        match rtu_frame(request, &bytes[start..]) {
            Frame::No => {}
            Frame::Partial if start == 0 => return Scan::More,
            // It may also lie within a foreign frame that is not whole yet.
            Frame::Partial => {}
            // What is in front of the answer goes first.
            _ if start > 0 => {
                let (kind, used) = stray(request, &bytes[..start]);
                return Scan::Stray { kind, used };
            }
            Frame::Data(data, used) => return Scan::Complete { data, used },
            Frame::Exception(code, used) => return Scan::Exception { code, used },
        }
    }
    match stray(request, bytes) {
        (Stray::Noise, _) => Scan::More,
        (kind, used) => Scan::Stray { kind, used },
    }
}

/// Unit, function, address, count, CRC.
const RTU_REQUEST: usize = 8;

/// Unit, function, code, CRC.
const RTU_EXCEPTION: usize = 5;

enum Frame {
    Data(Range<usize>, usize),
    Exception(u8, usize),
    Partial,
    No,
}

/// Is there an answer to the request at the very front, or may there be one?
fn rtu_frame(request: Request, bytes: &[u8]) -> Frame {
    let function = request.block.table.read_function();
    let expected = request.block.bytes();
    let refused = match bytes {
        [unit, ..] if *unit != request.unit => return Frame::No,
        [_] | [] => return Frame::Partial,
        [_, answered, ..] => match *answered {
            answered if answered == function => false,
            answered if answered == function | EXCEPTION => true,
            _ => return Frame::No,
        },
    };
    if !refused && bytes.get(2).is_some_and(|count| usize::from(*count) != expected) {
        return Frame::No;
    }
    let length = if refused { RTU_EXCEPTION } else { rtu_answer_length(request) };
    let Some(frame) = bytes.get(..length) else { return Frame::Partial };
    match is_whole(frame) {
        true if refused => Frame::Exception(frame[2], length),
        true => Frame::Data(3..length - 2, length),
        false => Frame::No,
    }
}

/// Bytes of the RTU answer to a request that is not refused: unit, function, count, data, CRC.
pub fn rtu_answer_length(request: Request) -> usize {
    request.block.bytes() + 5
}

/// How many RTU bytes can go to make room: up to where the answer to the request may begin, at least one.
pub fn before_answer(request: Request, bytes: &[u8]) -> usize {
    let may_begin = |start: &usize| matches!(rtu_frame(request, &bytes[*start..]), Frame::Partial);
    (1..bytes.len()).find(may_begin).unwrap_or(bytes.len())
}

/// What RTU bytes that are no answer to the request begin with, and how much of them that is.
pub fn stray(request: Request, bytes: &[u8]) -> (Stray, usize) {
    let known = |bytes: &[u8]| {
        if is_echo(request, bytes) {
            return Some((Stray::Echo, RTU_REQUEST));
        }
        let kind = if bytes.first() == Some(&request.unit) { Stray::Misshapen } else { Stray::Foreign };
        anybodys_frame(bytes).map(|length| (kind, length))
    };
    known(bytes).unwrap_or_else(|| {
        let next = (1..bytes.len()).find(|start| known(&bytes[*start..]).is_some());
        (Stray::Noise, next.unwrap_or(bytes.len()))
    })
}

/// Do these bytes hold the complete RTU answer to the request, whatever is in front of it?
pub fn holds_answer(request: Request, bytes: &[u8]) -> bool {
    let mut rest = bytes;
    loop {
        match scan_rtu(request, rest) {
            Scan::Stray { used, .. } if used < rest.len() => rest = &rest[used..],
            Scan::Complete { .. } | Scan::Exception { .. } => return true,
            _ => return false,
        }
    }
}

/// An answer that has its full length and the right head, but not its CRC: the unit has had its say.
pub fn is_damaged_answer(request: Request, bytes: &[u8]) -> bool {
    bytes.len() >= rtu_answer_length(request)
        && bytes[0] == request.unit
        && bytes[1] == request.block.table.read_function()
}

fn is_echo(request: Request, bytes: &[u8]) -> bool {
    bytes.get(..RTU_REQUEST).is_some_and(|frame| frame[..6] == unit_and_pdu(request) && is_whole(frame))
}

/// A request without what its framing puts around it.
fn unit_and_pdu(request: Request) -> [u8; 6] {
    let [address_high, address_low] = request.block.address.to_be_bytes();
    let [count_high, count_low] = request.block.count.to_be_bytes();
    let function = request.block.table.read_function();
    [request.unit, function, address_high, address_low, count_high, count_low]
}

/// The length of a whole frame, request or answer, of whatever unit.
fn anybodys_frame(bytes: &[u8]) -> Option<usize> {
    let &[_, function, third, ..] = bytes else { return None };
    let lengths = match function {
        1..=4 => [usize::from(third) + 5, RTU_REQUEST],
        5 | 6 | 15 | 16 => [RTU_REQUEST; 2],
        // Mask write register (6.16).
        22 => [10; 2],
        EXCEPTION.. => [RTU_EXCEPTION; 2],
        _ => return None,
    };
    lengths.into_iter().find(|length| bytes.get(..*length).is_some_and(is_whole))
}

/// The CRC of a frame with its own CRC behind it is 0.
fn is_whole(frame: &[u8]) -> bool {
    crc(frame) == 0
}

/// A frame around a PDU.
pub fn frame(framing: Framing, unit: u8, transaction: u16, pdu: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(pdu.len() + 7);
    match framing {
        Framing::Mbap => {
            frame.extend(transaction.to_be_bytes());
            frame.extend([0, 0]);
            frame.extend((pdu.len() as u16 + 1).to_be_bytes());
            frame.push(unit);
            frame.extend(pdu);
        }
        Framing::Rtu => {
            frame.push(unit);
            frame.extend(pdu);
            frame.extend(crc(&frame).to_le_bytes());
        }
    }
    frame
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
        assert_eq!(scan(&good[..5]), Scan::More);
        assert_eq!(scan(&good[..12]), Scan::More);
        assert_eq!(scan(&[0, 9, 0, 0, 0, 3, 1, 0x83, 2]), Scan::Exception { code: 2, used: 9 });
        let wrong = |place: usize, value: u8| {
            let mut bytes = good;
            bytes[place] = value;
            scan(&bytes)
        };
        assert_eq!(wrong(1, 8), Scan::Stray { kind: Stray::Late, used: 13 });
        assert_eq!(wrong(1, 10), Scan::Stray { kind: Stray::Foreign, used: 13 });
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
        let foreign = rtu(&[2, 3, 4, 1, 2, 3, 4]);
        let misshapen = rtu(&[1, 4, 4, 1, 2, 3, 4]);
        for (kind, front) in [
            (Stray::Noise, &[0, 0xFF][..]),
            (Stray::Echo, &echo[..length]),
            (Stray::Foreign, &foreign),
            (Stray::Misshapen, &misshapen),
        ] {
            let bytes = [front, &answer].concat();
            assert_eq!(Framing::Rtu.scan(asked, 0, &bytes), Scan::Stray { kind, used: front.len() });
            let behind = Framing::Rtu.scan(asked, 0, &bytes[front.len()..]);
            assert_eq!(behind, Scan::Complete { data: 3..7, used: 9 });
            // In pieces, nothing is dropped before it's known.
            assert!(holds_answer(asked, &bytes));
            for end in 1..front.len() {
                assert_eq!(Framing::Rtu.scan(asked, 0, &bytes[..end]), Scan::More, "{kind:?} {end}");
            }
        }
    }

    #[test]
    fn an_echo_on_tcp_is_no_answer() {
        // The address's high byte is the answer's byte count: 24 coils.
        let asked = Request { unit: 1, block: Block { table: Table::Coil, address: 0x0305, count: 24 } };
        let mut echo = [0; LONGEST_REQUEST];
        let length = Framing::Mbap.encode(asked, 9, &mut echo);
        assert_eq!(Framing::Mbap.scan(asked, 9, &echo[..length]), Scan::Misfit(12));
    }

    #[test]
    fn an_echo_that_looks_like_an_answer_is_an_echo() {
        // The address's high byte is the answer's byte count.
        let asked = request(1, 0x0400, 2);
        let mut echo = [0; LONGEST_REQUEST];
        let length = Framing::Rtu.encode(asked, 0, &mut echo);
        let bytes = [&echo[..length], &rtu(&[1, 3, 4, 0xAA, 0xBB, 0xCC, 0xDD])].concat();
        assert_eq!(Framing::Rtu.scan(asked, 0, &bytes), Scan::Stray { kind: Stray::Echo, used: 8 });
    }

    #[test]
    fn an_rtu_answer_with_a_good_crc_and_the_wrong_shape_is_stray() {
        let asked = request(1, 0, 2);
        let misshapen = |used| Scan::Stray { kind: Stray::Misshapen, used };
        let longer = rtu(&[1, 3, 6, 1, 2, 3, 4, 5, 6]);
        assert_eq!(Framing::Rtu.scan(asked, 0, &longer), misshapen(longer.len()));
        assert_eq!(Framing::Rtu.scan(asked, 0, &rtu(&[1, 0x83, 2])), Scan::Exception { code: 2, used: 5 });
        assert_eq!(Framing::Rtu.scan(asked, 0, &rtu(&[1, 0x84, 2])), misshapen(5));
        assert_eq!(Framing::Rtu.scan(asked, 0, &[1, 3]), Scan::More);
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_each_scan_makes_progress(bytes in prop::collection::vec(any::<u8>(), 0..300), unit in any::<u8>()) {
            for framing in [Framing::Mbap, Framing::Rtu] {
                match framing.scan(request(unit, 0, 3), 7, &bytes) {
                    Scan::Complete { data, used } => prop_assert!(data.len() == 6 && data.end <= used && used <= bytes.len()),
                    Scan::Exception { used, .. } | Scan::Stray { used, .. } | Scan::Misfit(used) => {
                        prop_assert!(used > 0 && used <= bytes.len());
                    }
                    Scan::More | Scan::Broken => {}
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
