//! Is the server still what the map was written for? Types and access of all nodes, compared once per connect.
//!
//! A value of another type, or none at all, is bad by itself; this says why in one place, before anybody has to look for it. Data types
//! that are no built-in ones (a vendor's own, or abstract ones) are not judged: their values are.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use opcua::types::{AttributeId, DataValue, NodeId, StatusCode, Variant};

use super::browse::kind;
use super::link::{Channel, Failure};
use super::nodes::Nodes;
use super::services::attribute_of;
use super::values::status;
use crate::mapping::compiled::{DeviceMap, Kind, Source};
use crate::mapping::device::DevicePlan;
use crate::model::place::Place;
use crate::model::value::{Cause, Status};

/// What is asked of each node.
const ASKED: [AttributeId; 3] = [AttributeId::DataType, AttributeId::ValueRank, AttributeId::UserAccessLevel];

/// Nodes that are asked for in one go: few, since values wait meanwhile.
const AT_ONCE: usize = 100;

/// Differences of one device that are told one by one; the others are counted.
const MOST_TOLD: usize = 10;

/// How a node differs from what the map says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drift {
    /// The server does not have it (any more).
    Gone(Cause),
    /// It has another type.
    Type {
        /// The map's word.
        wanted: &'static str,
        /// The word for what the server has.
        found: &'static str,
    },
    /// It is an array, and the map takes a single value.
    Array,
    /// This user may not read it.
    Unreadable,
}

/// `is int32 on the server, not float64`
impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(cause) => write!(f, "is not there ({cause})"),
            Self::Type { wanted, found } => write!(f, "is {found} on the server, not {wanted}"),
            Self::Array => f.write_str("is an array on the server, not a single value"),
            Self::Unreadable => f.write_str("may not be read by this user"),
        }
    }
}

/// What is left to be compared in a session, and what was found.
#[derive(Debug)]
pub struct Inspection {
    open: VecDeque<(usize, usize, NodeId)>,
    /// By device.
    found: Vec<Vec<(usize, Drift)>>,
}

impl Inspection {
    /// All nodes of all devices.
    pub fn of(devices: &[Arc<DevicePlan>], nodes: &Nodes) -> Self {
        let mut inspection = Self { open: VecDeque::new(), found: vec![Vec::new(); devices.len()] };
        for (device, plan) in devices.iter().enumerate() {
            for reading in 0..plan.device.map.readings.len() {
                match nodes.of(device, reading) {
                    Ok(node) => inspection.open.push_back((device, reading, node.clone())),
                    Err(cause) => inspection.found[device].push((reading, Drift::Gone(cause))),
                }
            }
        }
        inspection
    }

    /// Compares some nodes. `true`: that was all, or the server does not tell.
    pub async fn go_on(
        &mut self,
        devices: &[Arc<DevicePlan>],
        channel: &Channel,
        most: usize,
        limit: Duration,
    ) -> Result<bool, Failure> {
        let size = (most / ASKED.len()).clamp(1, AT_ONCE).min(self.open.len());
        let part: Vec<_> = self.open.drain(..size).collect();
        let asked = part.iter().flat_map(|(_, _, node)| ASKED.map(|attribute| attribute_of(node, attribute)));
        match channel.read(asked.collect(), limit).await {
            Ok(values) => {
                for ((device, reading, _), values) in part.iter().zip(values.chunks(ASKED.len())) {
                    let drift = compare(&devices[*device].device.map, *reading, values);
                    self.found[*device].extend(drift.map(|drift| (*reading, drift)));
                }
                Ok(self.open.is_empty())
            }
            Err(Failure::Lost(code)) => Err(Failure::Lost(code)),
            Err(_) => Ok(true),
        }
    }

    /// Says what was found, in the log once, and where people ask for it until the next connect.
    pub fn tell(mut self, devices: &[Arc<DevicePlan>]) {
        for (plan, found) in devices.iter().zip(&mut self.found) {
            found.sort_by_key(|(reading, _)| *reading);
            let sentences = sentences(plan, found);
            if !sentences.is_empty() {
                tracing::warn!(
                    device = %plan.device.name, nodes = found.len(), differences = %sentences.join("; "),
                    "the server is not as the map says"
                );
            }
            plan.metrics.drift.set(sentences);
        }
    }
}

/// Compares one reading of a map with what the server says of its node; `values` are those of [`ASKED`].
fn compare(map: &DeviceMap, reading: usize, values: &[DataValue]) -> Option<Drift> {
    let [data_type, rank, access] = values else { return None };
    if let Some(gone) = absence(data_type).or_else(|| absence(access)) {
        return Some(Drift::Gone(Cause::Status(gone)));
    }
    // CurrentRead (OPC UA Part 3, 8.57). Some servers don't even let ask; one that doesn't tell lets read.
    let refused = [StatusCode::BadUserAccessDenied, StatusCode::BadNotReadable];
    if access.status.is_some_and(|code| refused.iter().any(|known| known.bits() == code.bits()))
        || matches!(access.value, Some(Variant::Byte(bits)) if bits & 1 == 0)
    {
        return Some(Drift::Unreadable);
    }
    let of = &map.readings[reading];
    // What the map says of a part says nothing of the whole.
    if matches!(&of.place, Place::Node(place) if place.member.is_some()) {
        return None;
    }
    let wanted = word(of.decode.kind)?;
    if matches!(rank.value, Some(Variant::Int32(rank)) if rank >= 0) {
        return Some(Drift::Array);
    }
    let Some(Variant::NodeId(id)) = &data_type.value else { return None };
    let found = kind(&concrete(id))?;
    // Whatever is best shown as text is read as one: no built-in type that has a word of its own is.
    (found != wanted).then_some(Drift::Type { wanted, found })
}

/// The differences of a device in sentences, `speed is int32 on the server, not float64`, by the points that they are about.
fn sentences(plan: &DevicePlan, found: &[(usize, Drift)]) -> Vec<String> {
    let mut told: Vec<String> = found
        .iter()
        .take(MOST_TOLD)
        .map(|(reading, drift)| format!("{} {drift}", points(&plan.device.map, *reading)))
        .collect();
    if found.len() > MOST_TOLD {
        told.push(format!("{} more nodes differ", found.len() - MOST_TOLD));
    }
    told
}

/// The points that are made from a reading.
fn points(map: &DeviceMap, reading: usize) -> String {
    let uses = |source: &Source| matches!(source, Source::Reading(ix) if ix.0 as usize == reading);
    let names: Vec<&str> =
        map.points.iter().filter(|point| uses(&point.source)).map(|point| &*point.name).collect();
    names.join(", ")
}

fn absence(value: &DataValue) -> Option<Status> {
    let code = value.status.filter(|code| code.is_bad())?;
    let gone = [StatusCode::BadNodeIdUnknown, StatusCode::BadNodeIdInvalid];
    gone.iter().any(|known| known.bits() == code.bits() & 0xFFFF_0000).then(|| status(code))
}

/// Standard types that are a built-in one with a meaning (OPC UA Part 5, 12.2).
pub fn concrete(id: &NodeId) -> NodeId {
    let number = id.as_u32().filter(|_| id.namespace == 0);
    let built_in = match number {
        Some(288 | 289) => 7,  // IntegerId, Counter: UInt32
        Some(290) => 11,       // Duration: Double
        Some(291 | 295) => 12, // NumericRange, LocaleId: String
        Some(293 | 294) => 13, // Date, UtcTime: DateTime
        Some(29) => 6,         // Enumeration: Int32
        _ => return id.clone(),
    };
    NodeId::new(0, built_in)
}

/// The map's word for a type; `None`: it takes any.
pub fn word(kind: Kind) -> Option<&'static str> {
    Some(match kind {
        Kind::Bool => "bool",
        Kind::Int8 => "int8",
        Kind::Int16 => "int16",
        Kind::Int32 => "int32",
        Kind::Int64 => "int64",
        Kind::Uint8 => "uint8",
        Kind::Uint16 => "uint16",
        Kind::Uint32 => "uint32",
        Kind::Uint64 => "uint64",
        Kind::Float32 => "float32",
        Kind::Float64 => "float64",
        Kind::String => "string",
        Kind::Datetime(_) => "datetime",
        Kind::Float16 | Kind::Bcd16 | Kind::Bcd32 | Kind::Mod10k | Kind::Any => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use opcua::types::DataTypeId;

    use super::*;
    use crate::mapping::compiled::{Chars, Decode, Order, Reading};
    use crate::model::place::NodePlace;

    fn map(kind: Kind, member: Option<&str>) -> DeviceMap {
        let place =
            Place::Node(Arc::new(NodePlace { address: "s=a".into(), member: member.map(Into::into) }));
        let decode = Decode { kind, order: Order::default(), byte: None, chars: Chars::Both };
        DeviceMap { readings: vec![Reading { place, decode }], ..DeviceMap::default() }
    }

    fn said(data_type: impl Into<NodeId>, rank: i32, access: u8) -> [DataValue; 3] {
        [
            DataValue::value_only(Variant::from(data_type.into())),
            DataValue::value_only(rank),
            DataValue::value_only(access),
        ]
    }

    #[test]
    fn what_is_as_the_map_says_is_not_told() {
        for (kind, data_type) in [
            (Kind::Float64, DataTypeId::Double),
            (Kind::Float64, DataTypeId::Duration),
            (Kind::Uint32, DataTypeId::Counter),
            (Kind::Int32, DataTypeId::Enumeration),
            // What is shown as text, or is not one type.
            (Kind::String, DataTypeId::LocalizedText),
            (Kind::Int16, DataTypeId::Number),
            (Kind::Any, DataTypeId::Double),
        ] {
            assert_eq!(compare(&map(kind, None), 0, &said(data_type, -1, 3)), None, "{data_type:?}");
        }
        let vendors = said(NodeId::new(3, 3002), -1, 1);
        assert_eq!(compare(&map(Kind::Int16, None), 0, &vendors), None);
        let element = said(DataTypeId::Double, 1, 1);
        assert_eq!(compare(&map(Kind::Float64, Some("[1]")), 0, &element), None);
    }

    #[test]
    fn what_is_not_as_the_map_says_is_told() {
        let told = |kind, said: [DataValue; 3]| {
            compare(&map(kind, None), 0, &said).map(|drift| drift.to_string()).unwrap_or_default()
        };
        assert_eq!(
            told(Kind::Float64, said(DataTypeId::Int32, -1, 1)),
            "is int32 on the server, not float64"
        );
        assert_eq!(told(Kind::String, said(DataTypeId::Int32, -1, 1)), "is int32 on the server, not string");
        assert_eq!(
            told(Kind::Float64, said(DataTypeId::Double, 1, 1)),
            "is an array on the server, not a single value"
        );
        assert_eq!(told(Kind::Any, said(DataTypeId::Double, -1, 2)), "may not be read by this user");
        let denied = || DataValue { status: Some(StatusCode::BadUserAccessDenied), ..DataValue::default() };
        assert_eq!(told(Kind::Any, [denied(), denied(), denied()]), "may not be read by this user");
        let gone = || DataValue { status: Some(StatusCode::BadNodeIdUnknown), ..DataValue::default() };
        assert_eq!(told(Kind::Any, [gone(), gone(), gone()]), "is not there (BadNodeIdUnknown)");
        // A server without access levels has the node all the same.
        let unknown = DataValue { status: Some(StatusCode::BadAttributeIdInvalid), ..DataValue::default() };
        let [data_type, rank, _] = said(DataTypeId::Double, -1, 1);
        assert_eq!(told(Kind::Float64, [data_type, rank, unknown]), "");
    }
}
