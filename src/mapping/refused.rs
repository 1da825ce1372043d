//! Addresses that a device answers with exception 2 (illegal data address), as a profile lists them.
//!
//! No point is there, and no request reads over them, whatever `max_gap` allows.

use serde_json::{Value, json};

use super::device::Stretch;
use crate::document::codes;
use crate::document::fields::document;
use crate::document::read::{Read, Reader};
use crate::document::scalar::{Meaning, meaning, shortened};
use crate::document::schema::Schemas;
use crate::document::types::{List, whole_number};
use crate::document::yaml::Node;
use crate::model::diagnostic::Diagnostics;
use crate::model::place::Table;

document! {
    /// Addresses that the device answers with exception 2: one, or the first and the last.
    pub struct RefusedWords ("refused addresses") {
        /// Coils: an address, or a range such as 100..119.
        optional coil: AddressRange,
        /// Discrete inputs: an address, or a range such as 100..119.
        optional discrete: AddressRange,
        /// Input registers: an address, or a range such as 100..119.
        optional input: AddressRange,
        /// Holding registers: an address, or a range such as 100..119.
        optional holding: AddressRange,
    }
}

/// The first and the last address, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange(pub u32, pub u32);

/// The last address, counted from 1.
const LAST: i128 = 65_536;

impl Read for AddressRange {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        let number = |text: &str| {
            let text = text.trim();
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u32>().ok().filter(|number| digits && i128::from(*number) <= LAST)
        };
        if let Meaning::Bare(text) | Meaning::Quoted(text) = meaning(node) {
            let ends = text.split_once("..").and_then(|(first, last)| Some((number(first)?, number(last)?)));
            if let Some((first, last)) = ends.filter(|(first, last)| first <= last) {
                return Some(Self(first, last));
            }
            to.error(codes::ADDRESS, node, format!("'{}' is no range of addresses", shortened(text)))
                .help("the first and the last, such as 100..119, or one address");
            return None;
        }
        match whole_number(node, to)? {
            one @ 0..=LAST => Some(Self(one as u32, one as u32)),
            other => {
                to.error(codes::ADDRESS, node, format!("{other} is no address"));
                None
            }
        }
    }

    fn schema(_: &mut Schemas) -> Value {
        json!({
            "anyOf": [
                { "type": "integer", "minimum": 0, "maximum": 65_536 },
                { "type": "string", "pattern": r"^ *[0-9]{1,5} *\.\. *[0-9]{1,5} *$" },
            ],
            "examples": [100, "100..119"],
        })
    }
}

/// What a profile's `refused` says, in addresses on the wire.
pub fn stretches(words: &List<RefusedWords>, base: u16, found: &mut Diagnostics) -> Vec<Stretch> {
    let mut all = Vec::new();
    for item in words.0.iter().filter(|item| !item.value.faulty) {
        let given = [
            (Table::Coil, &item.coil),
            (Table::Discrete, &item.discrete),
            (Table::Input, &item.input),
            (Table::Holding, &item.holding),
        ];
        for (table, at) in given {
            let Some(at) = at else { continue };
            let wire = |address: u32| u16::try_from(i64::from(address) - i64::from(base)).ok();
            match (wire(at.0), wire(at.1)) {
                (Some(first), Some(last)) => all.push(Stretch { table, first, last }),
                _ => {
                    let last = 65_535 + u32::from(base);
                    let message = format!("addresses go from {base} to {last} here");
                    found.error(codes::ADDRESS, &at.span, message);
                }
            }
        }
        if given.iter().all(|(_, at)| at.is_none()) {
            found
                .error(codes::NO_LOCATION, &item.span, "no addresses are named")
                .help("such as {holding: 100..119}");
        }
    }
    all
}
