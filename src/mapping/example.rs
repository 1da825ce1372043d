//! Test vectors as written: what a device's registers hold, and what its points are then.

use std::fmt;

use serde_json::{Value, json};

use super::written::parse_key;
use crate::document::codes;
use crate::document::fields::document;
use crate::document::read::{At, Read, Reader};
use crate::document::scalar::{Meaning, meaning, shortened};
use crate::document::schema::Schemas;
use crate::document::types::{Flag, Int, List, Names, Number, Text};
use crate::document::yaml::Node;
use crate::model::decimal::Decimal;

document! {
    /// A test vector: what the device's registers hold, and what its points are then.
    pub struct Example ("an example") {
        /// What it shows.
        /// Example: `A full load`
        optional title: Text,
        /// What the registers hold.
        optional registers: Memory,
        /// What the nodes of points hold, by the points' names; null: nothing good.
        optional values: Names<Expected>,
        /// The points' values then; null: no good value.
        required expect: Names<Expected>,
    }
}

document! {
    /// Words and bits of a device by table and first address, counted as the points' addresses are.
    pub struct Memory ("registers") {
        /// Coils: {0: [1, 0, 1]}.
        optional coil: Cells<1>,
        /// Discrete inputs: {0: [1, 0, 1]}.
        optional discrete: Cells<1>,
        /// Input registers: {40: [0x08FC, 0]}.
        optional input: Cells<65_535>,
        /// Holding registers: {40: [0x08FC, 0]}.
        optional holding: Cells<65_535>,
    }
}

/// What addresses hold, each run by its first address; every cell holds 0 to `MOST`.
#[derive(Clone, Debug, PartialEq)]
pub struct Cells<const MOST: i64>(pub Vec<(At<i64>, List<Int<0, MOST>>)>);

impl<const MOST: i64> Read for Cells<MOST> {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        let mut runs = Vec::new();
        for entry in to.entries(node, "first addresses and what stands there")? {
            let address = parse_key(entry.key).filter(|address| (0..=65_536).contains(address));
            let cells = List::read(entry.value, to);
            match (address, cells) {
                (Some(value), Some(cells)) => runs.push((At { value, span: to.span(entry.at) }, cells)),
                (Some(_), None) => {}
                (None, _) => {
                    to.error(codes::BAD_KEY, entry.at, format!("'{}' is no address", shortened(entry.key)))
                        .help("write the first address and what stands there: {40: [0x08FC, 0]}");
                }
            }
        }
        Some(Self(runs))
    }

    fn schema(schemas: &mut Schemas) -> Value {
        json!({
            "type": "object",
            "propertyNames": { "pattern": "^((0|[1-9][0-9]*)|0x[0-9a-fA-F]+)$" },
            "additionalProperties": List::<Int<0, MOST>>::schema(schemas),
        })
    }
}

/// What a point is expected to be, or what its node holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    /// `null`: there is no good value.
    Bad,
    /// A bit.
    Bool(bool),
    /// A number, exactly.
    Number(Decimal),
    /// A text, or the label of an enum.
    Text(String),
    /// Some or all of its named bits.
    Flags(Vec<(At<String>, Option<Flag>)>),
}

impl Read for Expected {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        match meaning(node) {
            Meaning::Null => Some(Self::Bad),
            Meaning::Bool(bit) => Some(Self::Bool(bit)),
            Meaning::Integer(_) | Meaning::Float(_) => {
                Number::read(node, to).map(|number| Self::Number(number.0))
            }
            Meaning::Map => Names::read(node, to).map(|names| Self::Flags(names.0)),
            Meaning::Bare(_) | Meaning::Quoted(_) => Text::read(node, to).map(|text| Self::Text(text.0)),
            Meaning::List => {
                to.expected(node, "a value (null for a bad one)");
                None
            }
        }
    }

    fn schema(_: &mut Schemas) -> Value {
        json!({
            "type": ["null", "boolean", "number", "string", "object"],
            "additionalProperties": { "type": "boolean" },
        })
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bad => f.write_str("no good value"),
            Self::Bool(bit) => write!(f, "{bit}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => write!(f, "'{text}'"),
            Self::Flags(flags) => {
                let shown = |(name, flag): &(At<String>, Option<Flag>)| {
                    format!("{}: {}", name.value, flag.is_some_and(|flag| flag.0))
                };
                write!(f, "{{{}}}", flags.iter().map(shown).collect::<Vec<_>>().join(", "))
            }
        }
    }
}
