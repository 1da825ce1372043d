//! OPC UA values → raw values. Pure.
//!
//! A value must have the type that the map says, if it says one: a node whose type has changed is a bad value, not a number that
//! means something else. Arrays and structures are JSON, unless a member of them is asked for.

use opcua::types::custom::{DataTypeTree, DynamicStructure};
use opcua::types::{
    Array, DataValue, DateTime, ExtensionObject, StatusCode, StructureType, SubStatusCode, UAString, Variant,
};
use serde_json::Value as Json;

use crate::mapping::batch::Note;
use crate::mapping::compiled::Kind;
use crate::mapping::node::{Step, steps};
use crate::model::time::Stamp;
use crate::model::value::{Cause, Raw, Status};

/// What the server says about the structures of its namespaces, where it has been asked.
pub type Types<'t> = Option<&'t DataTypeTree>;

/// A value with what the server says of its quality.
#[derive(Clone, Debug, PartialEq)]
pub struct Quality {
    /// The value, or why there is none.
    pub raw: Result<Raw, Cause>,
    /// What the server says beside it.
    pub note: Note,
}

/// The symbolic name of a status code, with all its bits.
pub fn status(code: StatusCode) -> Status {
    let bits = code.bits();
    // The lower half are flags, and no part of the name (OPC UA Part 4, 7.39.1).
    let name = SubStatusCode::from_value(bits & 0xFFFF_0000).map(|name| name.name());
    Status { code: bits, name }
}

/// What a server gives for a node of this type.
pub fn quality(value: &DataValue, kind: Kind, member: Option<&str>, types: Types<'_>) -> Quality {
    let code = value.status.unwrap_or(StatusCode::Good);
    if code.is_bad() {
        return Quality { raw: Err(Cause::Status(status(code))), note: Note::default() };
    }
    let raw = match (&value.value, member) {
        (None, _) => Err(Cause::Invalid),
        (Some(value), None) => raw(value, kind, types),
        (Some(value), Some(path)) => match part(value, path) {
            Some(value) => raw(&value, kind, types),
            None => Err(Cause::WrongType),
        },
    };
    let uncertain = code.is_uncertain().then(|| status(code));
    Quality { raw, note: Note { uncertain, time: None } }
}

/// A value as the type that the map says.
fn raw(value: &Variant, kind: Kind, types: Types<'_>) -> Result<Raw, Cause> {
    match (kind, value) {
        (_, Variant::Variant(inner)) => raw(inner, kind, types),
        (_, Variant::DataValue(inner)) => quality(inner, kind, None, types).raw,
        (_, Variant::Empty) => Err(Cause::Invalid),
        (Kind::Any | Kind::Bool, Variant::Boolean(bit)) => Ok(Raw::Bool(*bit)),
        (Kind::Any | Kind::Int8, Variant::SByte(number)) => Ok(Raw::Int((*number).into())),
        (Kind::Any | Kind::Int16, Variant::Int16(number)) => Ok(Raw::Int((*number).into())),
        (Kind::Any | Kind::Int32, Variant::Int32(number)) => Ok(Raw::Int((*number).into())),
        (Kind::Any | Kind::Int64, Variant::Int64(number)) => Ok(Raw::Int(*number)),
        (Kind::Any | Kind::Uint8, Variant::Byte(number)) => Ok(Raw::Uint((*number).into())),
        (Kind::Any | Kind::Uint16, Variant::UInt16(number)) => Ok(Raw::Uint((*number).into())),
        (Kind::Any | Kind::Uint32, Variant::UInt32(number)) => Ok(Raw::Uint((*number).into())),
        (Kind::Any | Kind::Uint64, Variant::UInt64(number)) => Ok(Raw::Uint(*number)),
        (Kind::Any | Kind::Float32, Variant::Float(number)) => Ok(Raw::Float32(*number)),
        (Kind::Any | Kind::Float64, Variant::Double(number)) => Ok(Raw::Float64(*number)),
        (Kind::Any | Kind::Datetime(_), Variant::DateTime(time)) => datetime(time).map(text),
        (Kind::Any, Variant::Array(_) | Variant::ExtensionObject(_)) => {
            let json = json(value, types).ok_or(Cause::WrongType)?;
            Ok(Raw::Json(json.to_string().into()))
        }
        (Kind::Any | Kind::String, other) => words(other).ok_or(Cause::WrongType)?.map(text),
        _ => Err(Cause::WrongType),
    }
}

fn text(text: String) -> Raw {
    Raw::Text(text.into())
}

/// Whatever OPC UA has that is a text, or is best shown as one; `None`: it's none.
fn words(value: &Variant) -> Option<Result<String, Cause>> {
    let string = |text: &UAString| text.value().clone().ok_or(Cause::Invalid);
    Some(match value {
        Variant::String(text) => string(text),
        Variant::XmlElement(xml) => Ok(xml.to_string()),
        Variant::LocalizedText(localized) => string(&localized.text),
        Variant::QualifiedName(name) => string(&name.name),
        Variant::Guid(guid) => Ok(guid.to_string()),
        Variant::NodeId(id) => Ok(id.to_string()),
        Variant::ExpandedNodeId(id) => Ok(id.to_string()),
        Variant::StatusCode(code) => Ok(status(*code).to_string()),
        Variant::ByteString(bytes) if bytes.is_null() => Err(Cause::Invalid),
        Variant::ByteString(bytes) => Ok(bytes.as_base64()),
        _ => return None,
    })
}

/// A time as a stamp; `None`: OPC UA's null, or outside of the years that we write.
pub fn stamp(time: &DateTime) -> Option<Stamp> {
    let time = (!time.is_null()).then(|| time.as_chrono().timestamp_micros())?;
    Stamp::from_unix_micros(time)
}

/// `2026-11-23T12:00:00.123Z`; what is before 1601 or after 9999 is no time.
fn datetime(time: &DateTime) -> Result<String, Cause> {
    if time.is_null() {
        return Err(Cause::Invalid);
    }
    let stamp = Stamp::from_unix_micros(time.as_chrono().timestamp_micros()).ok_or(Cause::OutOfRange)?;
    Ok(stamp.to_string())
}

/// The part of a value that a member path leads to.
fn part(value: &Variant, path: &str) -> Option<Variant> {
    let mut value = value.clone();
    let steps = steps(path)?;
    let mut steps = steps.iter().peekable();
    while let Some(step) = steps.next() {
        value = match (unwrapped(value), step) {
            (Variant::ExtensionObject(object), Step::Field(name)) => {
                object.inner_as::<DynamicStructure>()?.get_field_by_name(name)?.clone()
            }
            (Variant::Array(array), Step::Element(first)) => {
                // An array of several dimensions is one list, the last dimension closest together (OPC UA Part 6, 5.2.2.16).
                let dimensions = array.dimensions.clone().filter(|dimensions| dimensions.len() > 1);
                let mut at = *first;
                for dimension in dimensions.iter().flatten().skip(1) {
                    let Some(Step::Element(next)) = steps.next() else { return None };
                    let dimension = *dimension as usize;
                    at = at
                        .checked_mul(dimension)?
                        .checked_add(Some(*next).filter(|next| *next < dimension)?)?;
                }
                array.values.get(at)?.clone()
            }
            _ => return None,
        };
    }
    Some(value)
}

fn unwrapped(value: Variant) -> Variant {
    match value {
        Variant::Variant(inner) => unwrapped(*inner),
        Variant::DataValue(inner) => inner.value.map_or(Variant::Empty, unwrapped),
        value => value,
    }
}

/// Any value as JSON; `None`: it's a structure whose type is not known.
fn json(value: &Variant, types: Types<'_>) -> Option<Json> {
    Some(match value {
        Variant::Variant(inner) => json(inner, types)?,
        Variant::DataValue(inner) => {
            inner.value.as_ref().map_or(Some(Json::Null), |value| json(value, types))?
        }
        Variant::Array(array) => list(array, types)?,
        Variant::ExtensionObject(object) => structure(object, types)?,
        value => match raw(value, Kind::Any, types) {
            Ok(Raw::Bool(bit)) => bit.into(),
            Ok(Raw::Int(number)) => number.into(),
            Ok(Raw::Uint(number)) => number.into(),
            // By its shortest text, which JSON keeps: 230.4 and not 230.39999389648438.
            Ok(Raw::Float32(number)) => {
                number.to_string().parse::<f64>().ok().filter(|n| n.is_finite()).into()
            }
            Ok(Raw::Float64(number)) => Some(number).filter(|number| number.is_finite()).into(),
            Ok(Raw::Text(text)) => String::from(text).into(),
            // What has no value in JSON: NaN, a null string.
            Ok(Raw::Json(_)) | Err(_) => Json::Null,
        },
    })
}

fn list(array: &Array, types: Types<'_>) -> Option<Json> {
    let values = array.values.iter().map(|value| json(value, types)).collect::<Option<Vec<_>>>()?;
    let Some(dimensions) = array.dimensions.as_ref().filter(|dimensions| dimensions.len() > 1) else {
        return Some(values.into());
    };
    let mut level = values;
    for dimension in dimensions.iter().skip(1).rev() {
        let size = usize::try_from(*dimension).ok().filter(|size| *size > 0)?;
        level = level.chunks(size).map(|row| Json::from(row.to_vec())).collect();
    }
    Some(level.into())
}

fn structure(object: &ExtensionObject, types: Types<'_>) -> Option<Json> {
    if object.is_null() {
        return Some(Json::Null);
    }
    let structure = object.inner_as::<DynamicStructure>()?;
    let id = object.data_type()?.node_id;
    let info = types?.get_struct_type(&id)?;
    if info.structure_type == StructureType::Union {
        return structure.values().first().map_or(Some(Json::Null), |value| json(value, types));
    }
    let names = info.fields.iter().map(|field| field.name.to_string());
    let fields = names.zip(structure.values()).map(|(name, value)| Some((name, json(value, types)?)));
    Some(Json::Object(fields.collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use opcua::types::{ByteString, Guid, LocalizedText};

    use super::*;

    fn read(value: impl Into<Variant>, kind: Kind) -> Result<Raw, Cause> {
        quality(&DataValue::value_only(value.into()), kind, None, None).raw
    }

    fn texts(text: &str) -> Result<Raw, Cause> {
        Ok(Raw::Text(text.into()))
    }

    #[test]
    fn a_value_has_the_type_of_the_map_or_is_bad() {
        assert_eq!(read(-5i16, Kind::Int16), Ok(Raw::Int(-5)));
        assert_eq!(read(-5i16, Kind::Int32), Err(Cause::WrongType));
        assert_eq!(read(1.5f64, Kind::Float32), Err(Cause::WrongType));
        assert_eq!(read(1.5f64, Kind::Any), Ok(Raw::Float64(1.5)));
        assert_eq!(read("a", Kind::Float64), Err(Cause::WrongType));
        assert_eq!(read(5i32, Kind::String), Err(Cause::WrongType), "a number is no text");
        assert_eq!(read(u64::MAX, Kind::Any), Ok(Raw::Uint(u64::MAX)));
        assert_eq!(read(true, Kind::Bool), Ok(Raw::Bool(true)));
        assert_eq!(read(Variant::Empty, Kind::Any), Err(Cause::Invalid));
    }

    #[test]
    fn what_is_best_shown_as_text_is_text() {
        assert_eq!(read("läuft", Kind::Any), texts("läuft"));
        assert_eq!(read(UAString::null(), Kind::Any), Err(Cause::Invalid));
        assert_eq!(read(Variant::from(LocalizedText::new("de", "läuft")), Kind::String), texts("läuft"));
        assert_eq!(read(ByteString::from(vec![1u8, 2]), Kind::Any), texts("AQI="));
        assert_eq!(read(Guid::null(), Kind::Any), texts("00000000-0000-0000-0000-000000000000"));
        assert_eq!(read(StatusCode::BadNodeIdUnknown, Kind::Any), texts("BadNodeIdUnknown"));
        let time = DateTime::ymd_hms(2026, 11, 23, 12, 0, 1);
        assert_eq!(read(time, Kind::Any), texts("2026-11-23T12:00:01.000Z"));
    }

    #[test]
    fn a_bad_value_is_its_status_and_an_uncertain_one_is_marked() {
        let of = |code| {
            quality(&DataValue { status: Some(code), ..DataValue::value_only(1i32) }, Kind::Int32, None, None)
        };
        let bad = of(StatusCode::BadSensorFailure);
        assert_eq!(bad.raw.map_err(|cause| cause.to_string()), Err("BadSensorFailure".into()));
        let uncertain = of(StatusCode::UncertainLastUsableValue);
        assert_eq!(uncertain.raw, Ok(Raw::Int(1)));
        assert_eq!(
            uncertain.note.uncertain.map(|status| status.to_string()).as_deref(),
            Some("UncertainLastUsableValue")
        );
        // Limit and overflow bits are no part of the name.
        let flagged = of(StatusCode::BadSensorFailure.set_overflow(true));
        assert_eq!(flagged.raw.map_err(|cause| cause.to_string()), Err("BadSensorFailure".into()));
        assert_eq!(status(StatusCode::from(0x8FFF_0000)).to_string(), "0x8FFF0000");
    }

    #[test]
    fn an_array_is_json_and_its_elements_can_be_asked_for() {
        let array = DataValue::value_only(Variant::from(vec![1.5f32, f32::NAN, 230.4]));
        let of = |value: &DataValue, member| quality(value, Kind::Any, member, None).raw;
        assert_eq!(of(&array, None), Ok(Raw::Json("[1.5,null,230.4]".into())));
        assert_eq!(of(&array, Some("[2]")), Ok(Raw::Float32(230.4)));
        assert_eq!(of(&array, Some("[3]")), Err(Cause::WrongType), "there is none");
        assert_eq!(of(&array, Some("a")), Err(Cause::WrongType));
        let values = (0..6i32).map(Variant::from).collect::<Vec<_>>();
        let matrix = Array::new_multi(opcua::types::VariantScalarTypeId::Int32, values, vec![2, 3]).unwrap();
        let matrix = DataValue::value_only(Variant::Array(Box::new(matrix)));
        assert_eq!(of(&matrix, None), Ok(Raw::Json("[[0,1,2],[3,4,5]]".into())));
        assert_eq!(of(&matrix, Some("[1][2]")), Ok(Raw::Int(5)));
        assert_eq!(of(&matrix, Some("[0][3]")), Err(Cause::WrongType));
        assert_eq!(of(&matrix, Some("[1]")), Err(Cause::WrongType));
    }
}
