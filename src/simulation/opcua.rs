//! A simulated OPC UA server: the nodes that the devices behind one connection have, each with a value that might be theirs.
//!
//! Through async-opcua's server. It takes anonymous users, and has no security: it's on this machine.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use opcua::types::{DataTypeId, DataValue, DateTime, NodeId, QualifiedName, Variant};
use opcua_nodes::VariableBuilder;
use opcua_server::address_space::AddressSpace;
use opcua_server::diagnostics::NamespaceMetadata;
use opcua_server::node_manager::memory::{SimpleNodeManager, simple_node_manager};
use opcua_server::{Server, ServerBuilder, ServerHandle};
use tokio::net::TcpListener;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::values::{Course, is_a_measurement, plausible_number};
use crate::drivers::opcua::address::{Address, node_id};
use crate::mapping::compiled::{Kind, Point, ReadingIx, Select, Source};
use crate::mapping::device::Device;
use crate::model::place::{NodePlace, Place};

pub mod base;

/// How often values change.
const STEP: Duration = Duration::from_millis(250);

/// Nodes that one client may watch.
const MOST_ITEMS: usize = 100_000;

/// The library makes folders for certificates wherever it's told, and in the current directory where it isn't. Without security
/// it needs none; here it can't make any.
const NO_FOLDER: &str = "/dev/null/pki";

/// A server that has not begun.
pub struct Simulated {
    server: Server,
    handle: ServerHandle,
    nodes: Vec<Node>,
    still: bool,
}

struct Node {
    address: Where,
    kind: Kind,
    base: f64,
    course: Option<Course>,
}

/// Where a node is in a server that has been built.
enum Where {
    Id {
        namespace: String,
        id: NodeId,
    },
    /// The names from the Objects folder on, all in one namespace.
    Path {
        namespace: String,
        names: Vec<String>,
    },
}

/// A server for these devices, at this address.
pub fn server(devices: &[Device], still: bool, address: SocketAddr) -> Result<Simulated, String> {
    let namespaces = namespaces(devices);
    let mut builder = ServerBuilder::new_anonymous("taktbus simulation")
        .pki_dir(NO_FOLDER)
        .application_uri("urn:taktbus:simulation")
        .host(address.ip().to_string())
        .port(address.port())
        .subscription_poll_interval_ms(10)
        .with_node_manager(base::node_manager());
    let limits = &mut builder.limits_mut().subscriptions;
    (limits.min_sampling_interval_ms, limits.min_publishing_interval_ms) = (10.0, 10.0);
    limits.max_monitored_items_per_sub = MOST_ITEMS;
    for (name, uri) in &namespaces {
        let metadata = NamespaceMetadata { namespace_uri: uri.clone(), ..NamespaceMetadata::default() };
        builder = builder.with_node_manager(simple_node_manager(metadata, name));
    }
    let (server, handle) = builder.build()?;
    let mut nodes = Vec::new();
    for device in devices {
        let of = |ix: usize| {
            device.map.points.iter().find(|point| point.source == Source::Reading(ReadingIx(ix as u32)))
        };
        for (ix, reading) in device.map.readings.iter().enumerate() {
            if let (Place::Node(place), Some(point)) = (&reading.place, of(ix)) {
                nodes.extend(node(device, place, reading.decode.kind, point, ix, still));
            }
        }
    }
    Ok(Simulated { server, handle, nodes, still })
}

/// The namespaces that the devices' addresses name: by the name of the manager that has each. An index that is written as a number
/// must be there too.
fn namespaces(devices: &[Device]) -> BTreeMap<String, String> {
    let mut uris: BTreeSet<String> = BTreeSet::new();
    let mut highest = 0;
    for device in devices {
        uris.extend(device.nodes.namespace.iter().map(ToString::to_string));
        for reading in &device.map.readings {
            let Place::Node(place) = &reading.place else { continue };
            if let Some((uri, _)) = place.address.strip_prefix("nsu=").and_then(|rest| rest.split_once(';')) {
                uris.insert(uri.to_string());
            }
            let index = place
                .address
                .strip_prefix("ns=")
                .and_then(|rest| rest.split(';').next()?.parse::<u16>().ok());
            highest = highest.max(index.unwrap_or(0));
        }
    }
    // 0 is OPC UA's own, 1 the server's.
    let numbered =
        (2..=highest).map(|index| (format!("{index:05}"), format!("urn:taktbus:simulation:{index}")));
    let named = uris.into_iter().map(|uri| (format!("uri {uri}"), uri));
    numbered.chain(named).collect()
}

/// A node with its first value; `None`: the server has it by itself.
fn node(
    device: &Device,
    place: &NodePlace,
    kind: Kind,
    point: &Point,
    at: usize,
    still: bool,
) -> Option<Node> {
    let default = device.nodes.namespace.as_deref();
    let address = match place.address.strip_prefix('/') {
        Some(path) => {
            let names: Vec<String> = path.split('/').map(str::to_string).collect();
            // Names with an index are the server's own, such as 0:Server.
            let namespace = default.filter(|_| !names.iter().any(|name| name.contains(':')))?.to_string();
            Where::Path { namespace: format!("uri {namespace}"), names }
        }
        None => {
            let (namespace, local) = match place.address.split_once(';') {
                Some((given, local)) if given.starts_with("nsu=") => (format!("uri {}", &given[4..]), local),
                Some((given, local)) if given.starts_with("ns=") => {
                    let index: u16 = given[3..].parse().ok().filter(|index| *index >= 2)?;
                    (format!("{index:05}"), local)
                }
                _ => (format!("uri {}", default?), &*place.address),
            };
            let Ok(Address::Id(id)) = node_id(local, &|| Ok(0), &[]).map(Address::Id) else { return None };
            Where::Id { namespace, id }
        }
    };
    let is_whole = !matches!(kind, Kind::Float32 | Kind::Float64 | Kind::Any);
    let base = plausible_number(&device.map, point);
    let moves = !still && point.transform.select == Select::Whole && is_a_measurement(&device.map, point);
    Some(Node { address, kind, base, course: moves.then(|| Course::of(point, base, is_whole, at)) })
}

impl Simulated {
    /// Serves until it's dropped.
    pub async fn serve(self, listener: TcpListener) {
        let Self { server, handle, nodes, still } = self;
        // The library makes tasks of its own, which end with this token.
        let _over = handle.token().clone().drop_guard();
        let serving = server.run_with(listener);
        let moving = async {
            // The address space is there when the server runs.
            tokio::task::yield_now().await;
            let nodes = add(&handle, nodes);
            if still {
                return std::future::pending().await;
            }
            let start = Instant::now();
            let mut step = interval(STEP);
            step.set_missed_tick_behavior(MissedTickBehavior::Skip);
            loop {
                step.tick().await;
                change(&handle, &nodes, start.elapsed());
            }
        };
        tokio::select! {
            _ = serving => {}
            () = moving => {}
        }
    }
}

type Placed = (Arc<SimpleNodeManager>, NodeId, Kind, f64, Option<Course>);

/// Puts the nodes into the server's address space.
fn add(handle: &ServerHandle, nodes: Vec<Node>) -> Vec<Placed> {
    let mut placed = Vec::with_capacity(nodes.len());
    for Node { address, kind, base, course } in nodes {
        let (Where::Id { namespace, .. } | Where::Path { namespace, .. }) = &address;
        let Some(manager) = handle.node_managers().get_by_name::<SimpleNodeManager>(namespace) else {
            continue;
        };
        let Some(index) = manager.namespaces().keys().next().copied() else { continue };
        let value = variant(kind, base);
        let id = {
            let mut space = manager.address_space().write();
            match address {
                Where::Id { id, .. } => {
                    let id = NodeId { namespace: index, identifier: id.identifier };
                    let name = id.identifier.to_string();
                    variable(&mut space, &id, &name, value, &NodeId::objects_folder_id());
                    id
                }
                Where::Path { names, .. } => path(&mut space, index, &names, value),
            }
        };
        placed.push((manager, id, kind, base, course));
    }
    placed
}

fn variable(space: &mut AddressSpace, id: &NodeId, name: &str, value: Variant, parent: &NodeId) {
    if space.node_exists(id) {
        return;
    }
    let data_type = value.data_type().map_or(NodeId::from(DataTypeId::BaseDataType), |id| id.node_id);
    let browse_name = QualifiedName { namespace_index: id.namespace, name: name.into() };
    VariableBuilder::new(id, browse_name, name)
        .data_type(data_type)
        .value(value)
        .component_of(parent.clone())
        .writable()
        .insert(space);
}

/// Folders down to a variable; their ids are their paths.
fn path(space: &mut AddressSpace, index: u16, names: &[String], value: Variant) -> NodeId {
    let mut parent = NodeId::objects_folder_id();
    for (at, name) in names.iter().enumerate() {
        let id = NodeId::new(index, names[..=at].join("/"));
        let browse_name = QualifiedName { namespace_index: index, name: name.as_str().into() };
        if at + 1 == names.len() {
            variable(space, &id, name, value, &parent);
            return id;
        }
        if !space.node_exists(&id) {
            space.add_folder(&id, browse_name, name.as_str(), &parent);
        }
        parent = id;
    }
    parent
}

/// Moves what moves.
fn change(handle: &ServerHandle, nodes: &[Placed], now: Duration) {
    for (manager, id, kind, base, course) in nodes {
        let Some(course) = course else { continue };
        let time = DateTime::now();
        let value = DataValue::new_at(variant(*kind, course.value(*base, now)), time);
        // The node has been there since the start.
        let _ = manager.set_value(handle.subscriptions(), id, None, value);
    }
}

fn variant(kind: Kind, number: f64) -> Variant {
    match kind {
        Kind::Bool => Variant::Boolean(number != 0.0),
        Kind::Int8 => Variant::SByte(number as i8),
        Kind::Int16 => Variant::Int16(number as i16),
        Kind::Int32 => Variant::Int32(number as i32),
        Kind::Int64 => Variant::Int64(number as i64),
        Kind::Uint8 => Variant::Byte(number as u8),
        Kind::Uint16 => Variant::UInt16(number as u16),
        Kind::Uint32 => Variant::UInt32(number as u32),
        Kind::Uint64 => Variant::UInt64(number as u64),
        Kind::Float32 => Variant::Float(number as f32),
        Kind::String => Variant::String("sim".into()),
        Kind::Datetime(_) => DateTime::now().into(),
        _ => Variant::Double(number),
    }
}
