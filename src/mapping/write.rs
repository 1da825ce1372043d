//! What may be written to a device: a place, the way there, and the values that are allowed. Pure.
//!
//! - A target is what the device's profile says; whether a site allows it is the site's `allow_write`.
//! - What is a part of a register (a bit, a mask, one byte) is written by mask write only: no other function code leaves
//!   the rest of the register alone.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::compiled::{Kind, Order, Reading, Select, Transform};
use super::inverse::{self, Refusal};
use crate::model::decimal::Decimal;
use crate::model::place::Table;
use crate::model::value::{Raw, Value};

/// A point that can be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Its name in messages.
    pub name: Arc<str>,
    /// Its unit, for people.
    pub unit: Option<Arc<str>>,
    /// Where it is, as it is read: what reads it back.
    pub reading: Reading,
    /// The byte order on the wire of what is written; some devices read in one order and write in another.
    pub order: Order,
    /// What its raw value means.
    pub transform: Transform,
    /// How it's written.
    pub function: Function,
    /// Which values it takes.
    pub allowed: Allowed,
    /// It must be written again so often, or the device falls back.
    pub refresh: Option<Duration>,
    /// `false`: it can't be read back.
    pub readable: bool,
}

/// The function codes that write (Modbus Application Protocol V1.1b3, 6.5, 6.6, 6.11, 6.12, 6.16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// OPC UA's Write service (Part 4, 5.11.4), which has no function code.
    Service = 0,
    /// Write single coil.
    Coil = 5,
    /// Write single register.
    Register = 6,
    /// Write multiple coils.
    Coils = 15,
    /// Write multiple registers.
    Registers = 16,
    /// Mask write register.
    Mask = 22,
}

impl Function {
    /// All that have a code.
    pub const ALL: [Self; 5] = [Self::Coil, Self::Register, Self::Coils, Self::Registers, Self::Mask];

    /// Its number.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The function of a number.
    pub fn of(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|function| function.code() == code)
    }

    /// The functions that can write such a place, the usual one first. Empty: nothing can.
    pub fn fitting(table: Table, registers: u16, is_part: bool) -> &'static [Self] {
        match (table, registers) {
            (Table::Coil, _) => &[Self::Coil, Self::Coils],
            (Table::Holding, _) if is_part => &[Self::Mask],
            (Table::Holding, 1) => &[Self::Register, Self::Registers],
            (Table::Holding, _) => &[Self::Registers],
            (Table::Discrete | Table::Input, _) => &[],
        }
    }
}

/// The standard's name: `write single register`.
impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Service => "write",
            Self::Coil => "write single coil",
            Self::Register => "write single register",
            Self::Coils => "write multiple coils",
            Self::Registers => "write multiple registers",
            Self::Mask => "mask write register",
        })
    }
}

/// Which values may be written, in the point's unit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allowed {
    /// Smallest and largest. `None`: whatever the type holds.
    pub range: Option<(Decimal, Decimal)>,
    /// Single values outside of the range.
    pub also: Vec<Decimal>,
}

impl Allowed {
    fn takes(&self, value: Decimal) -> bool {
        self.range.is_none_or(|(low, high)| low <= value && value <= high) || self.also.contains(&value)
    }
}

/// `6 to 16, or 0`
impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((low, high)) = self.range {
            write!(f, "{low} to {high}")?;
        }
        for (at, value) in self.also.iter().enumerate() {
            let or = if at > 0 || self.range.is_some() { ", or " } else { "" };
            write!(f, "{or}{value}")?;
        }
        Ok(())
    }
}

/// A raw value to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The whole raw value; of a part of a register only the bits in `mask` count.
    pub raw: Raw,
    /// The bits of the raw value that change. `None`: all of them.
    pub mask: Option<u64>,
}

impl Target {
    /// The raw value of `value`. `exponent` is the present value of the point's `scale_from`.
    pub fn setting(&self, value: &Value, exponent: Option<i32>) -> Result<Setting, Refusal> {
        let setting = inverse::invert(value, self, exponent)?;
        self.check_allowed(&setting, exponent)?;
        Ok(setting)
    }

    /// Is the value written into a part of a register?
    pub fn is_part(&self) -> bool {
        is_part(self.reading.decode.kind, &self.transform.select)
    }

    fn check_allowed(&self, setting: &Setting, exponent: Option<i32>) -> Result<(), Refusal> {
        let Some(number) = inverse::number_of(setting, &self.transform, exponent) else { return Ok(()) };
        let limited = self.allowed.range.is_some() || !self.allowed.also.is_empty();
        let labelled = inverse::label_of(setting, &self.transform).is_some();
        if limited && !self.allowed.takes(number) {
            return Err(Refusal::NotAllowed { value: number.to_string(), allowed: self.allowed.to_string() });
        }
        // The device's states are those that have a name.
        if !limited && !labelled && !self.transform.labels.is_empty() {
            let labels = inverse::labels(&self.transform);
            return Err(Refusal::NoLabel { value: number.to_string(), labels });
        }
        Ok(())
    }
}

/// Does such a value fill only a part of its register?
pub fn is_part(kind: Kind, select: &Select) -> bool {
    !matches!(select, Select::Whole) || matches!(kind, Kind::Int8 | Kind::Uint8)
}
