//! Writing as Modbus does it: a setting → a request, what its answer must be, and the read that proves it. Pure.
//!
//! Sources: Modbus Application Protocol V1.1b3, 6.5 (write single coil), 6.6 (write single register), 6.11 (write
//! multiple coils), 6.12 (write multiple registers), 6.16 (mask write register).

use super::encode::{self, Unfit};
use super::plan::Block;
use crate::mapping::compiled::{Decode, Kind};
use crate::mapping::write::{Function, Setting, Target};
use crate::model::place::Place;
use crate::model::value::Raw;

/// The most registers that one request writes (6.12).
pub const MOST_REGISTERS: u16 = 123;

/// A write as it goes on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Whom it changes.
    pub unit: u8,
    /// First address, zero-based, as on the wire.
    pub address: u16,
    /// What it changes there.
    pub change: Change,
}

/// What a write changes, by the function that does it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Function code 5.
    Coil(bool),
    /// Function code 6.
    Register([u8; 2]),
    /// Function code 15, for one coil.
    Coils(bool),
    /// Function code 16: registers as their bytes in the order of the wire.
    Registers(Box<[u8]>),
    /// Function code 22: the register becomes (register AND `and`) OR (`or` AND NOT `and`).
    Mask {
        /// The bits that stay.
        and: u16,
        /// The bits that are set among those that don't.
        or: u16,
    },
}

/// Why a setting can't be written in the way that its target says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The raw value and the type disagree.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// The place is not one that the function code writes.
    #[error("function code {0} does not write there")]
    Function(u8),
}

/// What the answer to a write says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Done, as it was asked.
    Done,
    /// The device, or a gateway for it, refused.
    Exception(u8),
    /// It answers something else.
    Misfit,
}

impl Write {
    /// The write that makes a setting of a unit's target.
    pub fn new(unit: u8, target: &Target, setting: &Setting) -> Result<Self, WriteError> {
        let wrong = WriteError::Function(target.function.code());
        let Place::Run { table, address, count } = target.reading.place else { return Err(wrong) };
        let fitting = Function::fitting(table, count, target.is_part());
        if !fitting.contains(&target.function) || count > MOST_REGISTERS {
            return Err(wrong);
        }
        let decode = Decode { order: target.order, ..target.reading.decode.clone() };
        let words = |raw: &Raw| {
            let mut words = vec![0; usize::from(count) * 2];
            encode::registers(&decode, raw, &mut words).map(|()| words)
        };
        let (address, change) = match (target.function, &setting.raw) {
            (Function::Coil, Raw::Bool(set)) => (address, Change::Coil(*set)),
            (Function::Coils, Raw::Bool(set)) => (address, Change::Coils(*set)),
            (Function::Register, raw) => {
                let words = words(raw)?;
                (address, Change::Register([words[0], words[1]]))
            }
            (Function::Registers, raw) => (address, Change::Registers(words(raw)?.into())),
            (Function::Mask, raw) => {
                let (offset, and, or) =
                    masked(&words(&changed_bits(&decode, setting))?, &words(raw)?).ok_or(wrong)?;
                (address + offset, Change::Mask { and, or })
            }
            (Function::Coil | Function::Coils | Function::Service, _) => return Err(wrong),
        };
        Ok(Self { unit, address, change })
    }

    /// Its function code.
    pub fn function(&self) -> Function {
        match self.change {
            Change::Coil(_) => Function::Coil,
            Change::Register(_) => Function::Register,
            Change::Coils(_) => Function::Coils,
            Change::Registers(_) => Function::Registers,
            Change::Mask { .. } => Function::Mask,
        }
    }

    /// Function code and data, without what a framing puts around them.
    pub fn pdu(&self) -> Vec<u8> {
        let mut pdu = vec![self.function().code()];
        pdu.extend(self.address.to_be_bytes());
        match &self.change {
            // The only two values that there are (6.5).
            Change::Coil(set) => pdu.extend(if *set { [0xFF, 0] } else { [0, 0] }),
            Change::Register(word) => pdu.extend(word),
            Change::Coils(set) => pdu.extend([0, 1, 1, u8::from(*set)]),
            Change::Registers(words) => {
                // Checked when it was made: at most 123 registers.
                let count = (words.len() / 2) as u16;
                pdu.extend(count.to_be_bytes());
                pdu.push(words.len() as u8);
                pdu.extend(words);
            }
            Change::Mask { and, or } => {
                pdu.extend(and.to_be_bytes());
                pdu.extend(or.to_be_bytes());
            }
        }
        pdu
    }

    /// The PDU of the answer when it is done: the request again, of several coils or registers only address and count.
    pub fn answer(&self) -> Vec<u8> {
        let mut pdu = self.pdu();
        if matches!(self.change, Change::Coils(_) | Change::Registers(_)) {
            pdu.truncate(5);
        }
        pdu
    }

    /// What an answer's PDU says.
    pub fn check(&self, pdu: &[u8]) -> Written {
        match pdu {
            [refused, code] if *refused == self.function().code() | 0x80 => Written::Exception(*code),
            pdu if *pdu == *self.answer() => Written::Done,
            _ => Written::Misfit,
        }
    }
}

/// The length of the PDU that answers a write, by its first bytes. `None`: more are needed.
pub fn answer_length(pdu: &[u8]) -> Option<usize> {
    Function::of(*pdu.first()?).map(|function| if function == Function::Mask { 7 } else { 5 })
}

/// The read that shows whether a write to a target has worked: the whole value, as it's always read.
pub fn read_back(target: &Target) -> Option<Block> {
    match target.reading.place {
        Place::Run { table, address, count } if target.readable => Some(Block { table, address, count }),
        _ => None,
    }
}

/// Does a raw value that was read back hold what was written?
pub fn holds(setting: &Setting, raw: &Raw) -> bool {
    match (setting.mask, &setting.raw, raw) {
        (Some(mask), Raw::Uint(wanted), Raw::Uint(word)) => word & mask == *wanted,
        (Some(mask), Raw::Uint(wanted), Raw::Int(word)) => word.cast_unsigned() & mask == *wanted,
        (None, wanted, raw) => wanted == raw,
        _ => false,
    }
}

/// The PDU of a read.
pub fn read_pdu(block: Block) -> Vec<u8> {
    let mut pdu = vec![block.table.read_function()];
    pdu.extend(block.address.to_be_bytes());
    pdu.extend(block.count.to_be_bytes());
    pdu
}

/// A raw value whose set bits are those that a setting changes.
fn changed_bits(decode: &Decode, setting: &Setting) -> Raw {
    match (setting.mask, decode.kind) {
        (Some(mask), _) => Raw::Uint(mask),
        (None, Kind::Int8) => Raw::Int(-1),
        (None, _) => Raw::Uint(0xFF),
    }
}

/// The one register that changes, and how. `None` when several do, or none.
fn masked(mask: &[u8], words: &[u8]) -> Option<(u16, u16, u16)> {
    let word = |bytes: &[u8]| u16::from_be_bytes([bytes[0], bytes[1]]);
    let mut found = None;
    for (offset, (mask, word_of)) in (0..).zip(mask.chunks_exact(2).zip(words.chunks_exact(2))) {
        if word(mask) != 0 && found.replace((offset, !word(mask), word(word_of))).is_some() {
            return None;
        }
    }
    found
}

#[cfg(test)]
#[path = "write_tests.rs"]
mod tests;
