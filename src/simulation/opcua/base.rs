//! The part of OPC UA's own namespace that clients ask for: folders, references, and what the server says of itself.
//!
//! async-opcua can have all 10,000 nodes of OPC 10000-5 instead. They are 10 MB of program, for a demo.

use opcua::types::{
    DataTypeId, DataValue, DateTime, NodeId, ObjectId, ObjectTypeId, ReferenceTypeId, VariableId, Variant,
};
use opcua_nodes::{ObjectBuilder, ReferenceTypeBuilder, VariableBuilder};
use opcua_server::address_space::AddressSpace;
use opcua_server::diagnostics::NamespaceMetadata;
use opcua_server::node_manager::memory::{
    InMemoryNodeManagerBuilder, InMemoryNodeManagerImplBuilder, SimpleNodeManagerBuilder,
    SimpleNodeManagerImpl,
};
use opcua_server::node_manager::{NodeManagerBuilder, ServerContext};

const URI: &str = "http://opcfoundation.org/UA/";

/// References that clients follow, each with what it is a kind of (OPC 10000-5, section 11).
const REFERENCES: [(ReferenceTypeId, ReferenceTypeId); 12] = {
    use ReferenceTypeId::*;
    [
        (HierarchicalReferences, References),
        (NonHierarchicalReferences, References),
        (HasChild, HierarchicalReferences),
        (Organizes, HierarchicalReferences),
        (Aggregates, HasChild),
        (HasSubtype, HasChild),
        (HasProperty, Aggregates),
        (HasComponent, Aggregates),
        (HasOrderedComponent, HasComponent),
        (HasTypeDefinition, NonHierarchicalReferences),
        (HasEncoding, NonHierarchicalReferences),
        (HasModellingRule, NonHierarchicalReferences),
    ]
};

/// Has these nodes. Comes before every other manager: the server's own namespace is the second one.
pub fn node_manager() -> impl NodeManagerBuilder {
    InMemoryNodeManagerBuilder::new(Base)
}

struct Base;

impl InMemoryNodeManagerImplBuilder for Base {
    type Impl = SimpleNodeManagerImpl;

    fn build(self, context: ServerContext, space: &mut AddressSpace) -> Self::Impl {
        let metadata = NamespaceMetadata { namespace_uri: URI.into(), ..NamespaceMetadata::default() };
        let manager = SimpleNodeManagerBuilder::new(metadata, "base").build(context.clone(), space);
        let own = context.info.application_uri.to_string();
        context.type_tree.write().namespaces_mut().add_namespace(&own);
        add_references(space);
        add_folders(space);
        add_server(space, &manager, &context);
        manager
    }
}

fn add_references(space: &mut AddressSpace) {
    let root = NodeId::from(ReferenceTypeId::References);
    ReferenceTypeBuilder::new(&root, "References", "References").is_abstract(true).insert(space);
    for (kind, of) in REFERENCES {
        let name = format!("{kind:?}");
        ReferenceTypeBuilder::new(&kind.into(), name.as_str(), name.as_str()).subtype_of(of).insert(space);
    }
}

fn add_folders(space: &mut AddressSpace) {
    let folder = |id: ObjectId, name: &str| ObjectBuilder::new(&id.into(), name, name).is_folder();
    folder(ObjectId::RootFolder, "Root").insert(space);
    folder(ObjectId::ObjectsFolder, "Objects").organized_by(ObjectId::RootFolder).insert(space);
}

/// What the server says of itself (OPC 10000-5, section 6.3).
fn add_server(space: &mut AddressSpace, manager: &SimpleNodeManagerImpl, context: &ServerContext) {
    use VariableId as Id;
    let object = |id: ObjectId, name: &str, parent: ObjectId, kind: ObjectTypeId| {
        ObjectBuilder::new(&id.into(), name, name).component_of(parent).has_type_definition(kind)
    };
    let server = object(ObjectId::Server, "Server", ObjectId::ObjectsFolder, ObjectTypeId::ServerType);
    server.insert(space);
    let (capabilities, limits) =
        (ObjectId::Server_ServerCapabilities, ObjectId::Server_ServerCapabilities_OperationLimits);
    object(capabilities, "ServerCapabilities", ObjectId::Server, ObjectTypeId::ServerCapabilitiesType)
        .insert(space);
    object(limits, "OperationLimits", capabilities, ObjectTypeId::OperationLimitsType).insert(space);

    let mut add = |id: Id, name: &str, parent: NodeId, kind: DataTypeId, read: Read| {
        let rank = if matches!(read(), Variant::Array(_)) { 1 } else { -1 };
        let node = VariableBuilder::new(&id.into(), name, name).data_type(kind).value_rank(rank);
        node.component_of(parent).insert(space);
        manager.add_read_callback(id.into(), move |_, _, _| Ok(DataValue::new_now(read())));
    };
    let of_server = || NodeId::from(ObjectId::Server);
    let (types, uri) = (context.type_tree.clone(), context.info.application_uri.clone());
    let namespaces = move || {
        let known = types.read();
        let mut known: Vec<_> = known.namespaces().known_namespaces().iter().collect();
        known.sort_unstable_by_key(|(_, index)| **index);
        known.into_iter().map(|(uri, _)| uri.clone()).collect::<Vec<String>>().into()
    };
    add(Id::Server_NamespaceArray, "NamespaceArray", of_server(), DataTypeId::String, Box::new(namespaces));
    let servers = move || vec![uri.to_string()].into();
    add(Id::Server_ServerArray, "ServerArray", of_server(), DataTypeId::String, Box::new(servers));
    let status = context.status.clone();
    let whole = move || Variant::from(status.full_status_obj());
    let status_type = DataTypeId::ServerStatusDataType;
    add(Id::Server_ServerStatus, "ServerStatus", of_server(), status_type, Box::new(whole));
    let of_status = || NodeId::from(Id::Server_ServerStatus);
    let status = context.status.clone();
    let state = move || Variant::Int32(status.state() as i32);
    add(Id::Server_ServerStatus_State, "State", of_status(), DataTypeId::ServerState, Box::new(state));
    let now = || DateTime::now().into();
    add(Id::Server_ServerStatus_CurrentTime, "CurrentTime", of_status(), DataTypeId::UtcTime, Box::new(now));

    let most = &context.info.config.limits.operational;
    for (id, name, most) in [
        (
            Id::Server_ServerCapabilities_OperationLimits_MaxNodesPerRead,
            "MaxNodesPerRead",
            most.max_nodes_per_read,
        ),
        (
            Id::Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall,
            "MaxMonitoredItemsPerCall",
            most.max_monitored_items_per_call,
        ),
        (
            Id::Server_ServerCapabilities_OperationLimits_MaxNodesPerRegisterNodes,
            "MaxNodesPerRegisterNodes",
            most.max_nodes_per_register_nodes,
        ),
        (
            Id::Server_ServerCapabilities_OperationLimits_MaxNodesPerTranslateBrowsePathsToNodeIds,
            "MaxNodesPerTranslateBrowsePathsToNodeIds",
            most.max_nodes_per_translate_browse_paths_to_node_ids,
        ),
        (
            Id::Server_ServerCapabilities_OperationLimits_MaxNodesPerBrowse,
            "MaxNodesPerBrowse",
            most.max_nodes_per_browse,
        ),
    ] {
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        add(id, name, limits.into(), DataTypeId::UInt32, Box::new(move || most.into()));
    }
}

type Read = Box<dyn Fn() -> Variant + Send + Sync>;
