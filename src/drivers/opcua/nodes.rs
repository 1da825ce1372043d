//! The nodes of a connection's devices, as its present session knows them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use opcua::types::{DataValue, NodeId, StatusCode};

use super::address::{Address, resolve};
use super::link::{Channel, Failure};
use super::services::OperationLimits;
use super::types::{Labels, Types};
use super::values::{Quality, quality, stamp, status};
use crate::drivers::LinkLost;
use crate::mapping::compiled::Kind;
use crate::mapping::device::{DevicePlan, Times};
use crate::model::place::Place;
use crate::model::value::{Cause, Raw};

/// The node of one address, for whoever looks at a single one.
pub async fn one(
    address: &str,
    default: Option<&str>,
    namespaces: &[String],
    channel: &Channel,
    limit: Duration,
) -> Result<NodeId, LinkLost> {
    match resolve(address, default, namespaces).map_err(|error| LinkLost(error.to_string()))? {
        Address::Id(id) => Ok(id),
        Address::Path(path) => {
            let found = channel.translate(vec![*path], limit).await;
            let found = found.map_err(|failure| LinkLost(format!("'{address}' is not found: {failure}")))?;
            let mut targets = found.into_iter().filter_map(|result| result.targets).flatten();
            let target = targets.find(|target| target.remaining_path_index == u32::MAX);
            target
                .map(|target| target.target_id.node_id)
                .ok_or_else(|| LinkLost(format!("there is no node {address}")))
        }
    }
}

/// By device and reading: the id, or why there is none; and what is known of its type.
#[derive(Debug, Default)]
pub struct Nodes {
    ids: Vec<Vec<Result<NodeId, Cause>>>,
    labels: HashMap<(usize, usize), Labels>,
    types: Types,
}

impl Nodes {
    /// Resolves the addresses of all readings of all devices. What has no node is a bad point and nothing else.
    pub async fn resolve(
        devices: &[Arc<DevicePlan>],
        channel: &Channel,
        limits: OperationLimits,
        limit: Duration,
        told: &mut BTreeSet<String>,
    ) -> Result<Self, Failure> {
        let namespaces = channel.namespaces(limit).await?;
        let mut nodes = Self::default();
        let mut paths = Vec::new();
        for (device, plan) in devices.iter().enumerate() {
            let default = plan.device.nodes.namespace.as_deref();
            let mut ids = Vec::with_capacity(plan.device.map.readings.len());
            for (reading, of) in plan.device.map.readings.iter().enumerate() {
                let Place::Node(place) = &of.place else {
                    ids.push(Err(Cause::WrongType));
                    continue;
                };
                ids.push(match resolve(&place.address, default, &namespaces) {
                    Ok(Address::Id(id)) => Ok(id),
                    Ok(Address::Path(path)) => {
                        paths.push(((device, reading), *path));
                        Err(Cause::Status(status(StatusCode::BadNoMatch)))
                    }
                    Err(error) => {
                        if told.insert(format!("{} {error}", plan.device.name)) {
                            tracing::warn!(device = %plan.device.name, %error, "nodes without an address");
                        }
                        Err(Cause::Status(status(StatusCode::BadNodeIdUnknown)))
                    }
                });
            }
            nodes.ids.push(ids);
        }
        for part in paths.chunks(limits.translate) {
            let asked = part.iter().map(|(_, path)| path.clone()).collect();
            let found = match channel.translate(asked, limit).await {
                Ok(found) => found,
                // A server without this service has no paths, and its other nodes are as good as ever.
                Err(Failure::Refused(code)) => {
                    part.iter().for_each(|((d, r), _)| nodes.ids[*d][*r] = Err(Cause::Status(status(code))));
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            for (((device, reading), _), result) in part.iter().zip(found) {
                let whole =
                    |target: &&opcua::types::BrowsePathTarget| target.remaining_path_index == u32::MAX;
                let target = result.targets.as_ref().and_then(|targets| targets.iter().find(whole));
                nodes.ids[*device][*reading] = match target {
                    Some(target) if result.status_code.is_good() => Ok(target.target_id.node_id.clone()),
                    _ if result.status_code.is_bad() => Err(Cause::Status(status(result.status_code))),
                    _ => Err(Cause::Status(status(StatusCode::BadNoMatch))),
                };
            }
        }
        nodes.ask_for_types(devices, channel, limits, limit).await?;
        Ok(nodes)
    }

    /// Asks for the types of nodes whose type the map leaves open.
    async fn ask_for_types(
        &mut self,
        devices: &[Arc<DevicePlan>],
        channel: &Channel,
        limits: OperationLimits,
        limit: Duration,
    ) -> Result<(), Failure> {
        let (mut open, mut ids) = (Vec::new(), Vec::new());
        for (device, plan) in devices.iter().enumerate() {
            for (reading, of) in plan.device.map.readings.iter().enumerate() {
                let Place::Node(place) = &of.place else { continue };
                let is_open = of.decode.kind == Kind::Any || place.member.is_some();
                if let Ok(id) = self.of(device, reading)
                    && is_open
                {
                    open.push((device, reading));
                    ids.push(id.clone());
                }
            }
        }
        self.types = match Types::of(&ids, channel, limits, limit).await {
            Ok(types) => types,
            // Without them numbers are numbers, and structures are bad values.
            Err(Failure::Refused(_) | Failure::Timeout) => Types::default(),
            Err(failure) => return Err(failure),
        };
        for (at, key) in open.into_iter().enumerate() {
            if let Some(labels) = self.types.labels(at) {
                self.labels.insert(key, labels.clone());
            }
        }
        Ok(())
    }

    /// A value as the map wants it: a number of an enumeration as its text, where the map leaves the type open.
    pub fn quality(&self, plan: &DevicePlan, device: usize, reading: usize, value: &DataValue) -> Quality {
        let of = &plan.device.map.readings[reading];
        let member = match &of.place {
            Place::Node(place) => place.member.as_deref(),
            _ => None,
        };
        let mut found = quality(value, of.decode.kind, member, self.types.tree.as_deref());
        let time = match plan.device.nodes.times {
            None => None,
            Some(Times::Source) => value.source_timestamp.as_ref(),
            Some(Times::Server) => value.server_timestamp.as_ref(),
        };
        found.note.time = time.filter(|_| found.raw.is_ok()).and_then(stamp);
        if let (Ok(Raw::Int(number)), None) = (&found.raw, member)
            && let Some(text) = self.labels.get(&(device, reading)).and_then(|labels| labels.get(number))
        {
            found.raw = Ok(Raw::Text(text.clone()));
        }
        found
    }

    /// The node of a device's reading.
    pub fn of(&self, device: usize, reading: usize) -> Result<&NodeId, Cause> {
        self.ids[device][reading].as_ref().map_err(|cause| *cause)
    }

    /// Puts the id in place that the server has registered for a node.
    pub fn replace(&mut self, device: usize, reading: usize, id: NodeId) {
        self.ids[device][reading] = Ok(id);
    }
}
