//! Frames as the specifications describe them, written without a look at the code under test: slow and plain.
//!
//! Sources: Modbus Application Protocol V1.1b3 (6.1–6.4, 7), MODBUS Messaging on TCP/IP V1.0b (3.1.3), MODBUS over serial
//! line V1.02 (6.2.2).

use taktbus::drivers::modbus::framing::Request;
use taktbus::model::place::Table;

/// CRC-16 bit by bit, as the appendix of the serial line specification computes it.
pub fn crc(bytes: &[u8]) -> [u8; 2] {
    let mut crc = 0xFFFFu16;
    for byte in bytes {
        crc ^= u16::from(*byte);
        for _ in 0..8 {
            let carry = crc & 1 == 1;
            crc >>= 1;
            if carry {
                crc ^= 0xA001;
            }
        }
    }
    crc.to_le_bytes()
}

/// Does a CRC close these bytes?
pub fn is_closed(frame: &[u8]) -> bool {
    frame.len() >= 4 && crc(&frame[..frame.len() - 2]) == frame[frame.len() - 2..]
}

/// The function code of a read.
pub fn function(table: Table) -> u8 {
    match table {
        Table::Coil => 1,
        Table::Discrete => 2,
        Table::Holding => 3,
        Table::Input => 4,
    }
}

/// How many data bytes the answer to a read has.
pub fn data_length(request: Request) -> usize {
    let count = usize::from(request.block.count);
    match request.block.table {
        Table::Coil | Table::Discrete => count.div_ceil(8),
        Table::Holding | Table::Input => count * 2,
    }
}

/// A read's PDU with the unit id in front.
pub fn asked(request: Request) -> Vec<u8> {
    let mut bytes = vec![request.unit, function(request.block.table)];
    bytes.extend(request.block.address.to_be_bytes());
    bytes.extend(request.block.count.to_be_bytes());
    bytes
}

/// Unit id and PDU of what answers a read with these data.
pub fn answered(request: Request, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![request.unit, function(request.block.table), data.len() as u8];
    bytes.extend(data);
    bytes
}

/// Unit id and PDU → an RTU frame.
pub fn rtu(body: &[u8]) -> Vec<u8> {
    [body, &crc(body)].concat()
}

/// Unit id and PDU → an MBAP frame.
pub fn mbap(transaction: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = transaction.to_be_bytes().to_vec();
    frame.extend([0, 0]);
    frame.extend((body.len() as u16).to_be_bytes());
    frame.extend(body);
    frame
}

/// Is this RTU frame an answer to the read, with data or an exception?
pub fn is_rtu_answer(request: Request, frame: &[u8]) -> bool {
    frame.len() >= 4 && is_answer(request, &frame[..frame.len() - 2]) && is_closed(frame)
}

/// Are this unit id and PDU an answer to the read, with data or an exception?
pub fn is_answer(request: Request, body: &[u8]) -> bool {
    let asked = function(request.block.table);
    match body {
        [unit, answered, count, data @ ..] if *unit == request.unit && *answered == asked => {
            usize::from(*count) == data.len() && data.len() == data_length(request)
        }
        [unit, answered, _] => *unit == request.unit && *answered == asked + 0x80,
        _ => false,
    }
}

/// Do these RTU bytes hold an answer to the read, wherever it begins?
pub fn holds_rtu_answer(request: Request, bytes: &[u8]) -> bool {
    windows(bytes, 5)
        .chain(windows(bytes, data_length(request) + 5))
        .any(|frame| is_rtu_answer(request, frame))
}

/// Do these RTU bytes hold the read itself?
pub fn holds_rtu_echo(request: Request, bytes: &[u8]) -> bool {
    let echo = rtu(&asked(request));
    windows(bytes, echo.len()).any(|frame| frame == echo)
}

/// Does the answer to the read begin somewhere in these RTU bytes, without its end?
pub fn holds_unfinished_answer(request: Request, bytes: &[u8]) -> bool {
    let (function, length) = (function(request.block.table), data_length(request));
    let begins = |rest: &[u8], head: &[u8]| head.iter().zip(rest).all(|(a, b)| a == b);
    (0..bytes.len()).map(|at| &bytes[at..]).any(|rest| {
        (rest.len() < length + 5 && begins(rest, &[request.unit, function, length as u8]))
            || (rest.len() < 5 && begins(rest, &[request.unit, function | 0x80]))
    })
}

/// Does `needle` lie in `bytes`?
pub fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    windows(bytes, needle.len()).any(|window| window == needle)
}

fn windows(bytes: &[u8], length: usize) -> impl Iterator<Item = &[u8]> {
    bytes.windows(length.max(1))
}
