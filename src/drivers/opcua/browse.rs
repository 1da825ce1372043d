//! What a server has: its nodes below one of them, with all that a map needs to know.

use std::collections::{HashMap, HashSet};

use opcua::types::{
    AttributeId, BrowseDirection, NodeClass, NodeId, ReferenceDescription, ReferenceTypeId, Variant,
    VariantScalarTypeId,
};

use super::config::OpcuaConfig;
use super::link::{Failure, Identity, Link};
use super::nodes::one;
use super::services::{OperationLimits, attribute_of};
use crate::drivers::LinkLost;

/// Nodes that are looked at in one go.
pub const MOST_NODES: usize = 100_000;

/// One node of a server.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// How far below the start, which is 0.
    pub depth: usize,
    /// Its display name.
    pub name: String,
    /// Its id with its namespace's URI: `nsu=http://vendor/uri;s=Line1.Speed`.
    pub id: String,
    /// The URI of its namespace.
    pub namespace: String,
    /// What it holds, if it's a variable.
    pub variable: Option<Variable>,
}

/// What a variable holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Variable {
    /// The name of its data type: `Double`, `Zone`.
    pub data_type: String,
    /// The word of the mapping language for it; `None`: it has none, and needs none.
    pub kind: Option<&'static str>,
    /// Is it an array?
    pub is_array: bool,
    /// May the user of the session read it?
    pub readable: bool,
    /// May the user of the session write it?
    pub writable: bool,
}

/// The nodes below `start` (a node id or a path; the Objects folder by default), each once, down to `depth`. `told` hears of each
/// node as it's found. `false` with the nodes: there are more than [`MOST_NODES`].
pub async fn browse(
    config: &OpcuaConfig,
    identity: &Identity,
    start: Option<&str>,
    depth: usize,
    mut told: impl FnMut(usize),
) -> Result<(Vec<Found>, bool), LinkLost> {
    let link = Link::open(config, identity).await?;
    let found = Browser::new(&link).await.map_err(failed)?.walk(start, depth, &mut told).await;
    link.close().await;
    found
}

fn failed(failure: Failure) -> LinkLost {
    LinkLost(format!("browsing failed: {failure}"))
}

struct Browser<'l> {
    link: &'l Link,
    limits: OperationLimits,
    namespaces: Vec<String>,
    /// The names of data types.
    types: HashMap<NodeId, String>,
}

impl<'l> Browser<'l> {
    async fn new(link: &'l Link) -> Result<Self, Failure> {
        let channel = link.channel();
        let namespaces = channel.namespaces(link.timeout()).await?;
        let limits = channel.operation_limits(link.timeout()).await;
        Ok(Self { link, limits, namespaces, types: HashMap::new() })
    }

    async fn walk(
        self,
        start: Option<&str>,
        depth: usize,
        told: &mut impl FnMut(usize),
    ) -> Result<(Vec<Found>, bool), LinkLost> {
        let start = self.start(start).await?;
        let mut found: Vec<(Found, NodeId, bool)> = Vec::new();
        let mut seen: HashSet<NodeId> = HashSet::from([start.clone()]);
        let mut open = vec![(1, self.children(&start).await.map_err(failed)?)];
        // Depth first, so that a child stands below its parent.
        while let Some((level, references)) = open.last_mut() {
            let level = *level;
            let Some(reference) = references.pop() else {
                open.pop();
                continue;
            };
            let id = reference.node_id.node_id.clone();
            if reference.node_id.server_index != 0 || !seen.insert(id.clone()) {
                continue;
            }
            if found.len() >= MOST_NODES {
                return Ok((self.with_variables(found).await.map_err(failed)?, false));
            }
            let is_variable = reference.node_class == NodeClass::Variable;
            found.push((self.found(level, &reference), id.clone(), is_variable));
            told(found.len());
            let is_worth = matches!(reference.node_class, NodeClass::Object | NodeClass::Variable);
            if is_worth && level < depth {
                // A node that doesn't let us look below it has nothing for us there.
                match self.children(&id).await {
                    Ok(children) => open.push((level + 1, children)),
                    Err(Failure::Refused(_)) => {}
                    Err(failure) => return Err(failed(failure)),
                }
            }
        }
        Ok((self.with_variables(found).await.map_err(failed)?, true))
    }

    async fn start(&self, start: Option<&str>) -> Result<NodeId, LinkLost> {
        let Some(text) = start else { return Ok(NodeId::objects_folder_id()) };
        one(text, None, &self.namespaces, self.link.channel(), self.link.timeout()).await
    }

    /// What is below a node, the last first.
    async fn children(&self, id: &NodeId) -> Result<Vec<ReferenceDescription>, Failure> {
        let (channel, limit) = (self.link.channel(), self.link.timeout());
        let down = BrowseDirection::Forward;
        let mut found = channel.references(id, ReferenceTypeId::HierarchicalReferences, down, limit).await?;
        found.reverse();
        Ok(found)
    }

    fn found(&self, depth: usize, reference: &ReferenceDescription) -> Found {
        let id = &reference.node_id.node_id;
        let namespace = self.namespaces.get(usize::from(id.namespace)).cloned().unwrap_or_default();
        let local = NodeId { namespace: 0, identifier: id.identifier.clone() };
        let id = if id.namespace == 0 { local.to_string() } else { format!("nsu={namespace};{local}") };
        let name = reference.display_name.text.as_ref();
        let name = if name.is_empty() { reference.browse_name.name.as_ref() } else { name };
        Found { depth, name: name.to_string(), id, namespace, variable: None }
    }

    /// Adds what variables hold.
    async fn with_variables(mut self, found: Vec<(Found, NodeId, bool)>) -> Result<Vec<Found>, Failure> {
        const ASKED: [AttributeId; 3] =
            [AttributeId::DataType, AttributeId::ValueRank, AttributeId::UserAccessLevel];
        let (channel, limit) = (self.link.channel().clone(), self.link.timeout());
        let mut found = found;
        let variables: Vec<usize> = found
            .iter()
            .enumerate()
            .filter(|(_, (_, _, is_variable))| *is_variable)
            .map(|(at, _)| at)
            .collect();
        for part in variables.chunks((self.limits.read / ASKED.len()).max(1)) {
            let asked =
                part.iter().flat_map(|at| ASKED.map(|attribute| attribute_of(&found[*at].1, attribute)));
            let values = channel.read(asked.collect(), limit).await?;
            for (at, values) in part.iter().zip(values.chunks(ASKED.len())) {
                let data_type = match &values[0].value {
                    Some(Variant::NodeId(id)) => (**id).clone(),
                    _ => NodeId::null(),
                };
                let is_array = matches!(values[1].value, Some(Variant::Int32(rank)) if rank >= 0);
                // CurrentRead and CurrentWrite (OPC UA Part 3, 8.57).
                let access = match values[2].value {
                    Some(Variant::Byte(bits)) => bits,
                    _ => 1,
                };
                let kind = kind(&data_type).filter(|_| !is_array);
                found[*at].0.variable = Some(Variable {
                    data_type: self.type_name(&data_type).await?,
                    kind,
                    is_array,
                    readable: access & 1 != 0,
                    writable: access & 2 != 0,
                });
            }
        }
        Ok(found.into_iter().map(|(found, _, _)| found).collect())
    }

    async fn type_name(&mut self, id: &NodeId) -> Result<String, Failure> {
        if let Some(name) = self.types.get(id) {
            return Ok(name.clone());
        }
        let asked = vec![attribute_of(id, AttributeId::BrowseName)];
        let value =
            self.link.channel().read(asked, self.link.timeout()).await?.pop().and_then(|value| value.value);
        let name = match value {
            Some(Variant::QualifiedName(name)) => name.name.to_string(),
            _ => id.to_string(),
        };
        self.types.insert(id.clone(), name.clone());
        Ok(name)
    }
}

/// The mapping language's word for a built-in data type.
pub(super) fn kind(data_type: &NodeId) -> Option<&'static str> {
    let number = data_type.as_u32().filter(|_| data_type.namespace == 0)?;
    [
        (VariantScalarTypeId::Boolean, "bool"),
        (VariantScalarTypeId::SByte, "int8"),
        (VariantScalarTypeId::Byte, "uint8"),
        (VariantScalarTypeId::Int16, "int16"),
        (VariantScalarTypeId::UInt16, "uint16"),
        (VariantScalarTypeId::Int32, "int32"),
        (VariantScalarTypeId::UInt32, "uint32"),
        (VariantScalarTypeId::Int64, "int64"),
        (VariantScalarTypeId::UInt64, "uint64"),
        (VariantScalarTypeId::Float, "float32"),
        (VariantScalarTypeId::Double, "float64"),
        (VariantScalarTypeId::String, "string"),
        (VariantScalarTypeId::DateTime, "datetime"),
    ]
    .into_iter()
    .find_map(|(id, word)| (id as u32 == number).then_some(word))
}
