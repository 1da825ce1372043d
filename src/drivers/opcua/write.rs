//! Writing as OPC UA does it: a setting → a typed value and the part of the node that it replaces. Pure.
//!
//! A value is written with the type that the node has (OPC UA Part 4, 5.11.4.1: servers shall refuse all others; some don't). No status
//! and no time stamps are written, since many servers take values only (BadWriteNotSupported).

use opcua::types::{Array, DataValue, NumericRange, Variant, VariantScalarTypeId};

use crate::mapping::compiled::Kind;
use crate::mapping::node::{Step, steps};
use crate::mapping::write::Setting;
use crate::model::value::Raw;

/// Why a setting can't be written to a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unwritable {
    /// Other bits of the node would have to be read and written back, and may change in between.
    #[error("a part of a number can't be written by itself")]
    Bits,
    /// A member of a structure, likewise.
    #[error("a member of a structure can't be written by itself")]
    Member,
    /// The type is none that values are written in.
    #[error("this type of node can't be written")]
    Type,
    /// The node has another type than the map says. Some servers would take the value all the same, and change the node's type.
    #[error("the node's type is {found}, not {wanted}")]
    OtherType {
        /// The server's, in the map's words.
        found: &'static str,
        /// The map's.
        wanted: &'static str,
    },
    /// The server ignores ranges: it would replace the whole array by its new element.
    #[error("the server can't write single elements of arrays")]
    Ranges,
    /// The raw value and the type disagree.
    #[error("the value does not fit into the node's type")]
    Misfit,
}

/// What is written, and into which part of the node.
pub fn value(
    setting: &Setting,
    kind: Kind,
    member: Option<&str>,
) -> Result<(DataValue, NumericRange), Unwritable> {
    if setting.mask.is_some() {
        return Err(Unwritable::Bits);
    }
    let value = variant(&setting.raw, kind)?;
    let Some(member) = member else { return Ok((plain(value), NumericRange::None)) };
    let mut indices = Vec::new();
    for step in steps(member).ok_or(Unwritable::Member)? {
        let Step::Element(index) = step else { return Err(Unwritable::Member) };
        indices.push(u32::try_from(index).map_err(|_| Unwritable::Misfit)?);
    }
    // An element is written as an array of one, with as many dimensions as the node's (Part 4, 7.27).
    let (id, dimensions) = (scalar(&value)?, vec![1u32; indices.len()]);
    let array = match indices.len() {
        1 => Array::new(id, vec![value]),
        _ => Array::new_multi(id, vec![value], dimensions),
    };
    let array = array.map_err(|_| Unwritable::Misfit)?;
    let mut ranges: Vec<NumericRange> = indices.into_iter().map(NumericRange::Index).collect();
    let range = match ranges.len() {
        1 => ranges.remove(0),
        _ => NumericRange::MultipleRanges(ranges),
    };
    Ok((plain(Variant::Array(Box::new(array))), range))
}

fn plain(value: Variant) -> DataValue {
    DataValue { value: Some(value), ..DataValue::default() }
}

/// A raw value as a built-in type.
pub fn variant(raw: &Raw, kind: Kind) -> Result<Variant, Unwritable> {
    let whole = match raw {
        Raw::Int(number) => Some(i128::from(*number)),
        Raw::Uint(number) => Some(i128::from(*number)),
        _ => None,
    };
    macro_rules! number {
        ($variant:ident, $type:ty) => {
            whole.and_then(|number| <$type>::try_from(number).ok()).map(Variant::$variant)
        };
    }
    let value = match kind {
        Kind::Bool => match raw {
            Raw::Bool(bit) => Some(Variant::Boolean(*bit)),
            _ => None,
        },
        Kind::Int8 => number!(SByte, i8),
        Kind::Int16 => number!(Int16, i16),
        Kind::Int32 => number!(Int32, i32),
        Kind::Int64 => number!(Int64, i64),
        Kind::Uint8 => number!(Byte, u8),
        Kind::Uint16 => number!(UInt16, u16),
        Kind::Uint32 => number!(UInt32, u32),
        Kind::Uint64 => number!(UInt64, u64),
        Kind::Float32 => match raw {
            Raw::Float32(number) => Some(Variant::Float(*number)),
            _ => None,
        },
        Kind::Float64 => match raw {
            Raw::Float64(number) => Some(Variant::Double(*number)),
            _ => None,
        },
        Kind::String => match raw {
            Raw::Text(text) => Some(Variant::String(text.to_string().into())),
            _ => None,
        },
        _ => return Err(Unwritable::Type),
    };
    value.ok_or(Unwritable::Misfit)
}

fn scalar(value: &Variant) -> Result<VariantScalarTypeId, Unwritable> {
    value.scalar_type_id().ok_or(Unwritable::Type)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(raw: Raw) -> Setting {
        Setting { raw, mask: None }
    }

    #[test]
    fn a_value_has_the_type_of_its_node() {
        for (raw, kind, expected) in [
            (Raw::Bool(true), Kind::Bool, Variant::Boolean(true)),
            (Raw::Int(-5), Kind::Int16, Variant::Int16(-5)),
            (Raw::Uint(5), Kind::Uint8, Variant::Byte(5)),
            (Raw::Uint(u64::MAX), Kind::Uint64, Variant::UInt64(u64::MAX)),
            (Raw::Float32(1.5), Kind::Float32, Variant::Float(1.5)),
            (Raw::Float64(1.5), Kind::Float64, Variant::Double(1.5)),
            (Raw::Text("a ".into()), Kind::String, Variant::from("a ")),
        ] {
            let expected = (plain(expected), NumericRange::None);
            assert_eq!(value(&setting(raw), kind, None), Ok(expected), "{kind:?}");
        }
        assert_eq!(value(&setting(Raw::Int(70_000)), Kind::Int16, None), Err(Unwritable::Misfit));
        assert_eq!(value(&setting(Raw::Float64(1.5)), Kind::Float32, None), Err(Unwritable::Misfit));
        assert_eq!(value(&setting(Raw::Uint(1)), Kind::Any, None), Err(Unwritable::Type));
    }

    #[test]
    fn an_element_is_written_alone_and_what_is_no_element_not_at_all() {
        let (written, range) = value(&setting(Raw::Float32(2.5)), Kind::Float32, Some("[3]")).unwrap();
        assert_eq!((written.value, range), (Some(Variant::from(vec![2.5f32])), NumericRange::Index(3)));
        let (written, range) = value(&setting(Raw::Int(7)), Kind::Int32, Some("[1][2]")).unwrap();
        let ranges = vec![NumericRange::Index(1), NumericRange::Index(2)];
        assert_eq!(range, NumericRange::MultipleRanges(ranges));
        let Some(Variant::Array(array)) = written.value else { panic!("an array") };
        assert_eq!(array.dimensions, Some(vec![1, 1]));
        for member in ["zone.temperature", "[1].label"] {
            let refused = value(&setting(Raw::Float32(2.5)), Kind::Float32, Some(member));
            assert_eq!(refused, Err(Unwritable::Member), "{member}");
        }
        let bits = Setting { raw: Raw::Uint(4), mask: Some(4) };
        assert_eq!(value(&bits, Kind::Uint16, None), Err(Unwritable::Bits));
    }
}
