//! What the server says about the types of its nodes: the members of structures, and the texts of enumerations (OPC UA Part 3, 8.48
//! DataTypeDefinition, which servers have since OPC UA 1.04).
//!
//! Asked for at each connect, and only for nodes whose type the map leaves open.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use opcua::types::custom::{
    DataTypeTree, DataTypeVariant, DynamicTypeLoader, EncodingIds, ParentIds, TypeInfo,
};
use opcua::types::{
    AttributeId, BrowseDirection, DataTypeDefinition, DataTypeId, EnumDefinition, ExtensionObject, NodeId,
    ReferenceTypeId, StructureDefinition, Variant,
};

use super::link::{Channel, Failure};
use super::services::{OperationLimits, attribute_of};

/// Types that are asked for, those inside of structures included.
const MOST_TYPES: usize = 1_000;

/// The texts of an enumeration.
pub type Labels = Arc<BTreeMap<i64, Box<str>>>;

/// What is known of the types of some nodes.
#[derive(Debug, Default)]
pub struct Types {
    /// Structures and what they are made of.
    pub tree: Option<Arc<DataTypeTree>>,
    /// The texts of enumerations, by data type.
    enums: HashMap<NodeId, Labels>,
    /// The data types of the nodes, in the order that they were asked in.
    of_nodes: Vec<Option<NodeId>>,
}

impl Types {
    /// Asks for the types of these nodes, and prepares the channel for decoding their values.
    pub async fn of(
        nodes: &[NodeId],
        channel: &Channel,
        limits: OperationLimits,
        limit: Duration,
    ) -> Result<Self, Failure> {
        let mut types = Self::default();
        for part in nodes.chunks(limits.read) {
            let asked = part.iter().map(|node| attribute_of(node, AttributeId::DataType)).collect();
            let values = channel.read(asked, limit).await?;
            types.of_nodes.extend(values.into_iter().map(|value| match value.value {
                Some(Variant::NodeId(id)) => Some(*id),
                _ => None,
            }));
        }
        let wanted: BTreeSet<String> = types.of_nodes.iter().flatten().map(ToString::to_string).collect();
        let mut open: Vec<NodeId> = wanted.iter().filter_map(|text| text.parse().ok()).collect();
        let mut parents = ParentIds::new();
        let mut known: HashMap<NodeId, Definition> = HashMap::new();
        while let Some(id) = open.pop() {
            if known.len() >= MOST_TYPES || known.contains_key(&id) || is_built_in(&id) {
                continue;
            }
            let definition = Definition::of(&id, channel, limit).await?;
            if let Some(parent) = &definition.parent {
                parents.add_type(id.clone(), parent.clone());
                open.push(parent.clone());
            }
            open.extend(definition.fields());
            known.insert(id, definition);
        }
        let mut tree = DataTypeTree::new(parents);
        let mut has_structures = false;
        for (id, definition) in known {
            let variant = tree.parent_ids().get_data_type_variant(&id);
            match (variant, definition.definition) {
                (
                    Some(DataTypeVariant::Structure),
                    Some(definition_of @ DataTypeDefinition::Structure(_)),
                ) => {
                    let name = definition.name;
                    let encodings = Some(definition.encodings);
                    // A structure with a member of a type that nobody knows stays what it is: undecoded, and so a bad value.
                    if let Ok(info) = TypeInfo::from_type_definition(
                        definition_of,
                        name,
                        encodings,
                        definition.is_abstract,
                        &id,
                        tree.parent_ids(),
                    ) {
                        has_structures = true;
                        tree.add_type(id, info);
                    }
                }
                (Some(DataTypeVariant::Enumeration), Some(DataTypeDefinition::Enum(definition))) => {
                    let fields = definition.fields.into_iter().flatten();
                    let labels = fields.map(|field| (field.value, field.name.as_ref().into()));
                    types.enums.insert(id, Arc::new(labels.collect()));
                }
                _ => {}
            }
        }
        if has_structures {
            let tree = Arc::new(tree);
            channel.decoding().write().loaders_mut().add(Arc::new(DynamicTypeLoader::new(tree.clone())));
            types.tree = Some(tree);
        }
        Ok(types)
    }

    /// The texts of a node's values, if they are an enumeration.
    pub fn labels(&self, at: usize) -> Option<&Labels> {
        self.enums.get(self.of_nodes.get(at)?.as_ref()?)
    }
}

/// Types that the protocol itself knows (OPC UA Part 6, 5.1.2), and the roots of all others.
fn is_built_in(id: &NodeId) -> bool {
    id.namespace == 0
        && id.as_u32().is_some_and(|number| number <= 29 || number == DataTypeId::Decimal as u32)
}

/// What the server says of one data type.
#[derive(Debug, Default)]
struct Definition {
    name: String,
    parent: Option<NodeId>,
    is_abstract: bool,
    definition: Option<DataTypeDefinition>,
    encodings: EncodingIds,
}

impl Definition {
    async fn of(id: &NodeId, channel: &Channel, limit: Duration) -> Result<Self, Failure> {
        let mut found = Self::default();
        let attributes = [AttributeId::BrowseName, AttributeId::IsAbstract, AttributeId::DataTypeDefinition];
        let asked = attributes.iter().map(|attribute| attribute_of(id, *attribute)).collect();
        for value in channel.read(asked, limit).await?.into_iter().filter_map(|value| value.value) {
            match value {
                Variant::QualifiedName(name) => found.name = name.name.to_string(),
                Variant::Boolean(is_abstract) => found.is_abstract = is_abstract,
                Variant::ExtensionObject(object) => found.definition = definition(object),
                _ => {}
            }
        }
        let up = channel.references(id, ReferenceTypeId::HasSubtype, BrowseDirection::Inverse, limit).await?;
        found.parent = up.into_iter().next().map(|reference| reference.node_id.node_id);
        if matches!(found.definition, Some(DataTypeDefinition::Structure(_))) {
            let encodings =
                channel.references(id, ReferenceTypeId::HasEncoding, BrowseDirection::Forward, limit).await?;
            for reference in encodings {
                match reference.browse_name.name.as_ref() {
                    "Default Binary" => found.encodings.binary_id = reference.node_id.node_id,
                    "Default XML" => found.encodings.xml_id = reference.node_id.node_id,
                    "Default JSON" => found.encodings.json_id = reference.node_id.node_id,
                    _ => {}
                }
            }
        }
        Ok(found)
    }

    /// The types of its members.
    fn fields(&self) -> Vec<NodeId> {
        match &self.definition {
            Some(DataTypeDefinition::Structure(structure)) => {
                structure.fields.iter().flatten().map(|field| field.data_type.clone()).collect()
            }
            _ => Vec::new(),
        }
    }
}

fn definition(object: ExtensionObject) -> Option<DataTypeDefinition> {
    if object.inner_is::<StructureDefinition>() {
        return object
            .into_inner_as::<StructureDefinition>()
            .map(|found| DataTypeDefinition::Structure(*found));
    }
    object.into_inner_as::<EnumDefinition>().map(|found| DataTypeDefinition::Enum(*found))
}
