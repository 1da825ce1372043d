//! Points on their way into a profile: what was understood, before it's written as YAML.

use crate::mapping::compiled::{ClockFormat, Order};
use crate::mapping::written::{Access, ClockWord, TypeWord};
use crate::model::decimal::Decimal;
use crate::model::place::Table;

use super::types::TypeCell;

/// Where a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spot {
    /// The first register, or the bit; as on the wire.
    Register(Table, u16),
    /// An OPC UA node id.
    Node(String),
}

/// A point.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// The line that it comes from.
    pub line: usize,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub spot: Spot,
    /// The type and what belongs to it; `None` for coils and discrete inputs.
    pub kind: Option<TypeCell>,
    /// The byte order, where it's known.
    pub order: Option<Order>,
    /// `None`: 1.
    pub scale: Option<Decimal>,
    /// `None`: 0.
    pub offset: Option<Decimal>,
    /// The point that holds the exponent of a power of ten.
    pub scale_from: Option<String>,
    /// The unit.
    pub unit: Option<String>,
    /// Raw values that mean "not available", as they are written.
    pub invalid: Vec<String>,
    /// Texts for numbers.
    pub labels: Vec<(i64, String)>,
    /// May it be read, written?
    pub access: Access,
    /// Its rate.
    pub rate: Option<String>,
    /// What it is, for people.
    pub desc: Option<String>,
    /// A heading of the table that it's the first below.
    pub heading: Option<String>,
}

impl Draft {
    /// A point that is read as it is.
    pub fn new(line: usize, name: impl Into<String>, spot: Spot, kind: Option<TypeCell>) -> Self {
        Self {
            line,
            name: name.into(),
            spot,
            order: kind.as_ref().and_then(|kind| kind.order),
            kind,
            scale: None,
            offset: None,
            scale_from: None,
            unit: None,
            invalid: Vec::new(),
            labels: Vec::new(),
            access: Access::Read,
            rate: None,
            desc: None,
            heading: None,
        }
    }

    /// The type of the whole register, where there is one.
    pub fn register_type(&self) -> Option<TypeWord> {
        let kind = self.kind.as_ref().filter(|_| !self.is_node())?;
        Some(if kind.kind == TypeWord::Bool { TypeWord::Uint16 } else { kind.kind })
    }

    /// Does a profile's order apply to it? It is for numbers of two or more registers.
    pub fn takes_order(&self) -> bool {
        let Some(kind) = self.kind.as_ref().filter(|_| !self.is_node()) else { return false };
        let is_calendar = kind.kind == TypeWord::Datetime && !is_linear(kind.format);
        let is_wide = kind.kind != TypeWord::String && kind.registers().is_some_and(|count| count > 1);
        !is_calendar && (is_wide || kind.kind == TypeWord::Mod10k)
    }

    /// Does the order of bytes make a difference? Not for a calendar, nor for what is one byte.
    pub fn has_order(&self) -> bool {
        let is_text_or_number = self.kind.as_ref().is_some_and(|kind| {
            !matches!(kind.kind, TypeWord::Bool | TypeWord::Int8 | TypeWord::Uint8 | TypeWord::Datetime)
        });
        !self.is_node() && (is_text_or_number || self.takes_order())
    }

    /// Is it an OPC UA node?
    pub fn is_node(&self) -> bool {
        matches!(self.spot, Spot::Node(_))
    }

    /// Is its value a single bit?
    pub fn is_bool(&self) -> bool {
        match (&self.spot, &self.kind) {
            (Spot::Register(table, _), None) => table.is_bits(),
            (_, Some(kind)) => kind.kind == TypeWord::Bool || kind.bit.is_some(),
            (Spot::Node(_), None) => false,
        }
    }

    /// Can it be scaled?
    pub fn is_number(&self) -> bool {
        let is_text = |kind: &TypeCell| matches!(kind.kind, TypeWord::String | TypeWord::Datetime);
        !self.is_bool() && !self.kind.as_ref().is_some_and(is_text)
    }
}

/// Is a datetime a number of seconds?
fn is_linear(format: Option<ClockWord>) -> bool {
    format.is_none_or(|format| matches!(format.format(), ClockFormat::Unix | ClockFormat::UnixMs))
}
