//! The nodes of a connection's devices, as its present session knows them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use opcua::types::{NodeId, StatusCode};

use super::address::{Address, resolve};
use super::link::{Channel, Failure};
use super::services::OperationLimits;
use super::values::status;
use crate::mapping::device::DevicePlan;
use crate::model::place::Place;
use crate::model::value::Cause;

/// By device and reading: the id, or why there is none.
#[derive(Debug, Default)]
pub struct Nodes(Vec<Vec<Result<NodeId, Cause>>>);

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
            nodes.0.push(ids);
        }
        for part in paths.chunks(limits.translate) {
            let asked = part.iter().map(|(_, path)| path.clone()).collect();
            let found = match channel.translate(asked, limit).await {
                Ok(found) => found,
                // A server without this service has no paths, and its other nodes are as good as ever.
                Err(Failure::Refused(code)) => {
                    part.iter().for_each(|((d, r), _)| nodes.0[*d][*r] = Err(Cause::Status(status(code))));
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            for (((device, reading), _), result) in part.iter().zip(found) {
                let whole = |target: &&opcua::types::BrowsePathTarget| target.remaining_path_index == u32::MAX;
                let target = result.targets.as_ref().and_then(|targets| targets.iter().find(whole));
                nodes.0[*device][*reading] = match target {
                    Some(target) if result.status_code.is_good() => Ok(target.target_id.node_id.clone()),
                    _ if result.status_code.is_bad() => Err(Cause::Status(status(result.status_code))),
                    _ => Err(Cause::Status(status(StatusCode::BadNoMatch))),
                };
            }
        }
        Ok(nodes)
    }

    /// The node of a device's reading.
    pub fn of(&self, device: usize, reading: usize) -> Result<&NodeId, Cause> {
        self.0[device][reading].as_ref().map_err(|cause| *cause)
    }

    /// Puts the id in place that the server has registered for a node.
    pub fn replace(&mut self, device: usize, reading: usize, id: NodeId) {
        self.0[device][reading] = Ok(id);
    }
}
