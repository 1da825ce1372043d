//! Values before and after the mapping, and why a value may be bad.
//!
//! A bad value is a value: every layer carries `Result<_, Cause>` per point, never a made-up number.

use std::fmt;
use std::sync::Arc;

use super::decimal::Decimal;

/// A reading as the device gave it: decoded by type and order, not yet scaled.
#[derive(Clone, Debug, PartialEq)]
pub enum Raw {
    /// A coil, a discrete input, or one bit.
    Bool(bool),
    /// int8 … int64.
    Int(i64),
    /// uint8 … uint64, and bcd16/bcd32 after decoding.
    Uint(u64),
    /// float16 and float32.
    Float32(f32),
    /// float64.
    Float64(f64),
    /// string, and whatever OPC UA gives as text.
    Text(Box<str>),
    /// An array or a structure, as valid JSON.
    Json(Box<str>),
}

/// A mapped value: what is published.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A bit.
    Bool(bool),
    /// Every integer, and every scaled value that fits: exact.
    Number(Decimal),
    /// A float32 that needed no scaling. Always finite.
    Float32(f32),
    /// A float64, or a scaled value whose exponent no [`Decimal`] holds. Always finite.
    Float64(f64),
    /// A string, or the label of an enum.
    Text(Arc<str>),
    /// An array or a structure, as valid JSON.
    Json(Arc<str>),
    /// The word of a point with named `bits`; the names are the point's.
    Flags(u64),
}

impl Value {
    /// The value as a float, for comparisons that need no exactness (a relative deadband, a table).
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Bool(b) => Some(f64::from(u8::from(*b))),
            Self::Number(d) => Some(d.to_f64()),
            Self::Float32(f) => Some(f64::from(*f)),
            Self::Float64(f) => Some(*f),
            Self::Flags(w) => Some(*w as f64),
            Self::Text(_) | Self::Json(_) => None,
        }
    }
}

/// Why a point has no value. The text is what the message's `bad` object carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// No answer within the response timeout.
    Timeout,
    /// The device refused with a Modbus exception code (Modbus Application Protocol V1.1b3, section 7).
    Exception(u8),
    /// The connection is down.
    Offline,
    /// An answer came, but not of the right shape (unit, function, length, CRC).
    Garbled,
    /// The raw value is the profile's mark for "not available".
    Invalid,
    /// The value is outside of what its point may be.
    Implausible,
    /// NaN or infinite, which JSON can't carry.
    NotFinite,
    /// The value fits no number that we can carry exactly (overflow), or BCD digits above 9.
    OutOfRange,
    /// Registers that make one value changed between the reads that fetched them.
    Torn,
    /// A value that this one is computed from is bad.
    Dependency,
    /// The value is not of the type that the map says.
    WrongType,
    /// The OPC UA server says that it's bad, and why (OPC UA Part 4, 7.39).
    Status(Status),
}

/// An OPC UA status code with its symbolic name, as far as the specification has one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status {
    /// All 32 bits.
    pub code: u32,
    /// `BadNodeIdUnknown`, `UncertainLastUsableValue`, …
    pub name: Option<&'static str>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            Some(name) => f.write_str(name),
            None => write!(f, "0x{:08X}", self.code),
        }
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("timeout"),
            Self::Exception(code) => write!(f, "exception {code}{}", exception_name(*code)),
            Self::Offline => f.write_str("offline"),
            Self::Garbled => f.write_str("garbled answer"),
            Self::Invalid => f.write_str("invalid"),
            Self::Implausible => f.write_str("implausible"),
            Self::NotFinite => f.write_str("not finite"),
            Self::OutOfRange => f.write_str("out of range"),
            Self::Torn => f.write_str("torn"),
            Self::Dependency => f.write_str("dependency"),
            Self::WrongType => f.write_str("wrong type"),
            Self::Status(status) => status.fmt(f),
        }
    }
}

/// The standard's name of an exception code, with a leading blank; empty for codes it does not name.
fn exception_name(code: u8) -> &'static str {
    match code {
        1 => " (illegal function)",
        2 => " (illegal data address)",
        3 => " (illegal data value)",
        4 => " (server device failure)",
        5 => " (acknowledge)",
        6 => " (server device busy)",
        8 => " (memory parity error)",
        10 => " (gateway path unavailable)",
        11 => " (gateway target failed to respond)",
        _ => "",
    }
}
