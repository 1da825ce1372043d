//! Writes and calls outside of any plan: one at a time, in a session of their own, with the same checks as the driver's.
//!
//! What was written is read back: a server that says "Good" may have clamped the value, or its device may not have taken it.

use std::sync::Arc;
use std::time::Duration;

use opcua::types::{
    Argument, AttributeId, BrowseDirection, CallMethodRequest, DataValue, NodeId, NumericRange, ReadValueId,
    ReferenceTypeId, Variant, WriteValue,
};

use super::browse::kind as word_of;
use super::config::OpcuaConfig;
use super::drift::{concrete, word};
use super::link::{Channel, Failure, Identity, Link};
use super::nodes::one;
use super::services::{attribute_of, value_of};
use super::values::{quality, status};
use super::write::{Unwritable, value, variant};
use crate::drivers::LinkLost;
use crate::mapping::compiled::{Chars, Decode, Kind, Order, Reading, Transform};
use crate::mapping::inverse::Refusal;
use crate::mapping::write::{Allowed, Function, Setting, Target};
use crate::model::place::{NodePlace, Place};
use crate::model::value::{Cause, Raw, Status, Value};

/// A session that writes and calls.
#[derive(Debug)]
pub struct Client {
    link: Link,
    namespaces: Vec<String>,
}

/// What a write has come to, as the server itself shows it.
#[derive(Clone, Debug, PartialEq)]
pub enum Proof {
    /// The node holds what was written.
    Holds,
    /// It holds something else.
    Differs(Result<Raw, Cause>),
    /// The server refused the write.
    Refused(Status),
    /// It says that it's done; the node can't be read back.
    Unread,
    /// No answer in time: it may have been done.
    Unknown,
}

/// What a call has come to.
#[derive(Clone, Debug, PartialEq)]
pub enum Called {
    /// Done, with the outputs of the method in their order.
    Done(Vec<Result<Raw, Cause>>),
    /// The server, or the method, refused.
    Refused(Status),
    /// No answer in time: it may have been done.
    Unknown,
}

/// Why a write or a call could not be tried.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The node takes no such value.
    #[error(transparent)]
    Unwritable(#[from] Unwritable),
    /// An input takes no such value.
    #[error("input '{0}': {1}")]
    Input(String, Refusal),
    /// An input takes no such type.
    #[error("input '{0}': {1}")]
    InputType(String, Unwritable),
    /// Too few inputs, or too many.
    #[error("the method takes {wanted} inputs, and {given} are given")]
    Inputs {
        /// Of the method.
        wanted: usize,
        /// Of the caller.
        given: usize,
    },
    /// The node is not there, or the link is gone.
    #[error(transparent)]
    Link(#[from] LinkLost),
}

impl Client {
    /// Connects.
    pub async fn open(config: &OpcuaConfig, identity: &Identity) -> Result<Self, ClientError> {
        let link = Link::open(config, identity).await?;
        let namespaces = link.channel().namespaces(link.timeout()).await.map_err(lost)?;
        Ok(Self { link, namespaces })
    }

    /// Gives the session back.
    pub async fn close(self) {
        self.link.close().await;
    }

    /// Writes a setting to a target's node and reads it back. `namespace` is the URI of addresses that name none.
    pub async fn write(
        &self,
        target: &Target,
        namespace: Option<&str>,
        setting: &Setting,
    ) -> Result<Proof, ClientError> {
        let Place::Node(place) = &target.reading.place else { return Err(Unwritable::Type.into()) };
        let node = self.node(&place.address, namespace).await?;
        let member = place.member.as_deref();
        let kind = self.writable_kind(&node, target.reading.decode.kind).await?;
        let (value, index_range) = value(setting, kind, member)?;
        if index_range.has_range()
            && let Some(refused) = self.misses(&node, &index_range).await?
        {
            return Ok(Proof::Refused(refused));
        }
        let written =
            WriteValue { node_id: node.clone(), attribute_id: AttributeId::Value as u32, index_range, value };
        let (channel, limit) = self.way();
        match channel.write(vec![written], limit).await {
            Ok(results) if results.iter().any(|code| code.is_bad()) => {
                let code = results.into_iter().find(|code| code.is_bad()).unwrap_or_default();
                return Ok(Proof::Refused(status(code)));
            }
            Ok(_) => {}
            Err(Failure::Refused(code)) => return Ok(Proof::Refused(status(code))),
            Err(Failure::Timeout) => return Ok(Proof::Unknown),
            Err(failure) => return Err(lost(failure).into()),
        }
        if !target.readable {
            return Ok(Proof::Unread);
        }
        let found = match channel.read(vec![value_of(&node)], limit).await {
            Ok(values) => values.first().map(|value| quality(value, kind, member, None).raw),
            Err(Failure::Lost(code)) => return Err(lost(Failure::Lost(code)).into()),
            Err(_) => None,
        };
        Ok(match found {
            None => Proof::Unread,
            Some(Ok(raw)) if raw == setting.raw => Proof::Holds,
            Some(other) => Proof::Differs(other),
        })
    }

    /// Calls a method of an object. Inputs are given as people mean them, and get the types that the method's arguments have.
    pub async fn call(
        &self,
        object: &str,
        method: &str,
        namespace: Option<&str>,
        inputs: &[Value],
    ) -> Result<Called, ClientError> {
        let object_id = self.node(object, namespace).await?;
        let method_id = self.node(method, namespace).await?;
        let arguments = self.arguments(&method_id).await?;
        if arguments.len() != inputs.len() {
            return Err(ClientError::Inputs { wanted: arguments.len(), given: inputs.len() });
        }
        let inputs = arguments.iter().zip(inputs).map(|(argument, value)| input(argument, value));
        let request = CallMethodRequest {
            object_id,
            method_id,
            input_arguments: Some(inputs.collect::<Result<Vec<_>, _>>()?).filter(|inputs| !inputs.is_empty()),
        };
        let (channel, limit) = self.way();
        match channel.call(request, limit).await {
            Ok(result) if result.status_code.is_bad() => Ok(Called::Refused(status(result.status_code))),
            Ok(result) => {
                let outputs = result.output_arguments.unwrap_or_default();
                let raw = |value: Variant| quality(&DataValue::value_only(value), Kind::Any, None, None).raw;
                Ok(Called::Done(outputs.into_iter().map(raw).collect()))
            }
            Err(Failure::Refused(code)) => Ok(Called::Refused(status(code))),
            Err(Failure::Timeout) => Ok(Called::Unknown),
            Err(failure) => Err(lost(failure).into()),
        }
    }

    fn way(&self) -> (&Channel, Duration) {
        (self.link.channel(), self.link.timeout())
    }

    async fn node(&self, address: &str, namespace: Option<&str>) -> Result<NodeId, ClientError> {
        let (channel, limit) = self.way();
        Ok(one(address, namespace, &self.namespaces, channel, limit).await?)
    }

    /// Has the node no such element? Whoever answers a read of one element with all of them ignores ranges in writes too.
    async fn misses(&self, node: &NodeId, range: &NumericRange) -> Result<Option<Status>, ClientError> {
        let (channel, limit) = self.way();
        let asked = ReadValueId { index_range: range.clone(), ..value_of(node) };
        let found = channel.read(vec![asked], limit).await.map_err(lost)?.pop().unwrap_or_default();
        match (found.status.filter(|code| code.is_bad()), found.value) {
            (Some(code), _) => Ok(Some(status(code))),
            (None, Some(Variant::Array(array))) if array.values.len() == 1 => Ok(None),
            _ => Err(Unwritable::Ranges.into()),
        }
    }

    /// The type that a node is written with: the map's, which must be the server's where that is a built-in one.
    async fn writable_kind(&self, node: &NodeId, wanted: Kind) -> Result<Kind, ClientError> {
        let (channel, limit) = self.way();
        let asked = vec![attribute_of(node, AttributeId::DataType)];
        let value = channel.read(asked, limit).await.map_err(lost)?.pop().and_then(|value| value.value);
        let found = match &value {
            Some(Variant::NodeId(id)) => word_of(&concrete(id)),
            _ => None,
        };
        match (wanted, word(wanted), found) {
            (Kind::Any, _, found) => Ok(found.and_then(kind_of).ok_or(Unwritable::Type)?),
            (_, Some(wanted), Some(found)) if wanted != found => {
                Err(Unwritable::OtherType { found, wanted }.into())
            }
            _ => Ok(wanted),
        }
    }

    /// What a method takes: the value of its property InputArguments (OPC UA Part 3, 5.7). None: it takes nothing.
    async fn arguments(&self, method: &NodeId) -> Result<Vec<Argument>, ClientError> {
        let (channel, limit) = self.way();
        let properties = channel
            .references(method, ReferenceTypeId::HasProperty, BrowseDirection::Forward, limit)
            .await
            .map_err(lost)?;
        let inputs = properties.into_iter().find(|property| {
            property.browse_name.namespace_index == 0
                && property.browse_name.name.as_ref() == "InputArguments"
        });
        let Some(inputs) = inputs else { return Ok(Vec::new()) };
        let asked = vec![value_of(&inputs.node_id.node_id)];
        let value = channel.read(asked, limit).await.map_err(lost)?.pop().and_then(|value| value.value);
        let Some(Variant::Array(array)) = value else { return Ok(Vec::new()) };
        let argument = |value: Variant| match value {
            Variant::ExtensionObject(object) => object.into_inner_as::<Argument>().map(|argument| *argument),
            _ => None,
        };
        Ok(array.values.into_iter().filter_map(argument).collect())
    }
}

/// An input as its argument's type.
fn input(argument: &Argument, value: &Value) -> Result<Variant, ClientError> {
    let name = argument.name.as_ref();
    let fault = |why| ClientError::InputType(name.to_string(), why);
    let is_scalar = argument.value_rank < 0;
    let kind = word_of(&concrete(&argument.data_type)).and_then(kind_of).filter(|_| is_scalar);
    let kind = kind.ok_or_else(|| fault(Unwritable::Type))?;
    let setting = target(name, kind)
        .setting(value, None)
        .map_err(|refusal| ClientError::Input(name.to_string(), refusal))?;
    variant(&setting.raw, kind).map_err(fault)
}

/// A plain value of a type, without scale or limits.
fn target(name: &str, kind: Kind) -> Target {
    let place = Place::Node(Arc::new(NodePlace { address: "".into(), member: None }));
    Target {
        name: name.into(),
        unit: None,
        reading: Reading {
            place,
            decode: Decode { kind, order: Order::default(), byte: None, chars: Chars::default() },
        },
        order: Order::default(),
        transform: Transform::default(),
        function: Function::Service,
        allowed: Allowed::default(),
        refresh: None,
        readable: false,
    }
}

/// The type of a word, where values are written in it.
fn kind_of(word: &str) -> Option<Kind> {
    Some(match word {
        "bool" => Kind::Bool,
        "int8" => Kind::Int8,
        "int16" => Kind::Int16,
        "int32" => Kind::Int32,
        "int64" => Kind::Int64,
        "uint8" => Kind::Uint8,
        "uint16" => Kind::Uint16,
        "uint32" => Kind::Uint32,
        "uint64" => Kind::Uint64,
        "float32" => Kind::Float32,
        "float64" => Kind::Float64,
        "string" => Kind::String,
        _ => return None,
    })
}

fn lost(failure: Failure) -> LinkLost {
    LinkLost(format!("the server does not answer as it should: {failure}"))
}
