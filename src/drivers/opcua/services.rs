//! The services that the driver uses, each one request (OPC UA Part 4). Answers are checked for their shape here: one result for
//! each thing that was asked for.

use std::time::Duration;

use opcua::core::{RequestMessage, ResponseMessage};
use opcua::types::{
    AttributeId, BrowseDescription, BrowseDirection, BrowseNextRequest, BrowsePath, BrowsePathResult,
    BrowseRequest, CallMethodRequest, CallMethodResult, CallRequest, CreateMonitoredItemsRequest,
    CreateSubscriptionRequest, CreateSubscriptionResponse, DataValue, DeleteMonitoredItemsRequest,
    DeleteSubscriptionsRequest, MonitoredItemCreateRequest, MonitoredItemCreateResult, NodeId,
    PublishRequest, PublishResponse, QualifiedName, ReadRequest, ReadValueId, ReferenceDescription,
    ReferenceTypeId, RegisterNodesRequest, RepublishRequest, RepublishResponse, StatusCode,
    SubscriptionAcknowledgement, TimestampsToReturn, TranslateBrowsePathsToNodeIdsRequest, VariableId,
    Variant, ViewDescription, WriteRequest, WriteValue,
};

use super::link::{Channel, Failure};

/// Things in one request where the server gives no limit of its own.
const MOST_PER_REQUEST: usize = 1_000;

/// References of one node that are followed.
const MOST_REFERENCES: usize = 100_000;

/// How many things one request may have (OPC UA Part 5, 6.3.11, OperationLimits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationLimits {
    /// MaxNodesPerRead.
    pub read: usize,
    /// MaxMonitoredItemsPerCall.
    pub monitor: usize,
    /// MaxNodesPerRegisterNodes.
    pub register: usize,
    /// MaxNodesPerTranslateBrowsePathsToNodeIds.
    pub translate: usize,
    /// MaxNodesPerBrowse.
    pub browse: usize,
}

impl Default for OperationLimits {
    fn default() -> Self {
        let most = MOST_PER_REQUEST;
        Self { read: most, monitor: most, register: most, translate: most, browse: most }
    }
}

/// The answer of a service, if it's that service's, with as many results as were asked for.
macro_rules! answer {
    ($answer:expr, $service:ident) => {
        match $answer? {
            ResponseMessage::$service(answer) => Ok::<_, Failure>(answer),
            _ => Err(Failure::Lost(StatusCode::BadUnknownResponse)),
        }
    };
}

fn all<T>(results: Option<Vec<T>>, count: usize) -> Result<Vec<T>, Failure> {
    results.filter(|results| results.len() == count).ok_or(Failure::Lost(StatusCode::BadUnknownResponse))
}

/// The value attribute of a node.
pub fn value_of(node: &NodeId) -> ReadValueId {
    attribute_of(node, AttributeId::Value)
}

/// An attribute of a node.
pub fn attribute_of(node: &NodeId, attribute: AttributeId) -> ReadValueId {
    ReadValueId {
        node_id: node.clone(),
        attribute_id: attribute as u32,
        index_range: Default::default(),
        data_encoding: QualifiedName::null(),
    }
}

impl Channel {
    /// Read (Part 4, 5.11.2): one value for each node, fresh from the device.
    pub async fn read(&self, nodes: Vec<ReadValueId>, limit: Duration) -> Result<Vec<DataValue>, Failure> {
        let count = nodes.len();
        let request = ReadRequest {
            request_header: self.header(limit),
            max_age: 0.0,
            timestamps_to_return: TimestampsToReturn::Both,
            nodes_to_read: Some(nodes),
        };
        all(answer!(self.request(request, limit).await, Read)?.results, count)
    }

    /// Write (Part 4, 5.11.4): what became of each value.
    pub async fn write(&self, values: Vec<WriteValue>, limit: Duration) -> Result<Vec<StatusCode>, Failure> {
        let count = values.len();
        let request = WriteRequest { request_header: self.header(limit), nodes_to_write: Some(values) };
        all(answer!(self.request(request, limit).await, Write)?.results, count)
    }

    /// Call (Part 4, 5.12.2), of one method.
    pub async fn call(
        &self,
        method: CallMethodRequest,
        limit: Duration,
    ) -> Result<CallMethodResult, Failure> {
        let request = CallRequest { request_header: self.header(limit), methods_to_call: Some(vec![method]) };
        let mut results = all(answer!(self.request(request, limit).await, Call)?.results, 1)?;
        results.pop().ok_or(Failure::Lost(StatusCode::BadUnknownResponse))
    }

    /// The URIs of the server's namespaces, by their index.
    pub async fn namespaces(&self, limit: Duration) -> Result<Vec<String>, Failure> {
        let node = value_of(&VariableId::Server_NamespaceArray.into());
        let value = self.read(vec![node], limit).await?.pop().and_then(|value| value.value);
        let Some(Variant::Array(array)) = value else {
            return Err(Failure::Refused(StatusCode::BadDataUnavailable));
        };
        let uri = |value: &Variant| match value {
            Variant::String(text) => text.as_ref().to_string(),
            _ => String::new(),
        };
        Ok(array.values.iter().map(uri).collect())
    }

    /// What the server allows in one request; where it says nothing, or 0, [`OperationLimits::default`].
    pub async fn operation_limits(&self, limit: Duration) -> OperationLimits {
        const ASKED: [VariableId; 5] = [
            VariableId::Server_ServerCapabilities_OperationLimits_MaxNodesPerRead,
            VariableId::Server_ServerCapabilities_OperationLimits_MaxMonitoredItemsPerCall,
            VariableId::Server_ServerCapabilities_OperationLimits_MaxNodesPerRegisterNodes,
            VariableId::Server_ServerCapabilities_OperationLimits_MaxNodesPerTranslateBrowsePathsToNodeIds,
            VariableId::Server_ServerCapabilities_OperationLimits_MaxNodesPerBrowse,
        ];
        let nodes = ASKED.iter().map(|id| value_of(&(*id).into())).collect();
        // Small servers have no such nodes.
        let values = self.read(nodes, limit).await.unwrap_or_default();
        let given = |at: usize| match values.get(at).and_then(|value| value.value.as_ref()) {
            Some(Variant::UInt32(most @ 1..)) => (*most as usize).min(MOST_PER_REQUEST),
            _ => MOST_PER_REQUEST,
        };
        OperationLimits {
            read: given(0),
            monitor: given(1),
            register: given(2),
            translate: given(3),
            browse: given(4),
        }
    }

    /// TranslateBrowsePathsToNodeIds (Part 4, 5.9.4).
    pub async fn translate(
        &self,
        paths: Vec<BrowsePath>,
        limit: Duration,
    ) -> Result<Vec<BrowsePathResult>, Failure> {
        let count = paths.len();
        let request = TranslateBrowsePathsToNodeIdsRequest {
            request_header: self.header(limit),
            browse_paths: Some(paths),
        };
        all(answer!(self.request(request, limit).await, TranslateBrowsePathsToNodeIds)?.results, count)
    }

    /// RegisterNodes (Part 4, 5.9.5): ids that the server reads faster, for this session.
    pub async fn register(&self, nodes: Vec<NodeId>, limit: Duration) -> Result<Vec<NodeId>, Failure> {
        let count = nodes.len();
        let request =
            RegisterNodesRequest { request_header: self.header(limit), nodes_to_register: Some(nodes) };
        all(answer!(self.request(request, limit).await, RegisterNodes)?.registered_node_ids, count)
    }

    /// Browse and BrowseNext (Part 4, 5.9.2 and 5.9.3): where references of one type, and of its subtypes, lead from a node.
    pub async fn references(
        &self,
        node: &NodeId,
        reference: ReferenceTypeId,
        direction: BrowseDirection,
        limit: Duration,
    ) -> Result<Vec<ReferenceDescription>, Failure> {
        let description = BrowseDescription {
            node_id: node.clone(),
            browse_direction: direction,
            reference_type_id: reference.into(),
            include_subtypes: true,
            // All classes, all that is to be known of the target.
            node_class_mask: 0,
            result_mask: 0x3F,
        };
        let request = BrowseRequest {
            request_header: self.header(limit),
            view: ViewDescription::default(),
            requested_max_references_per_node: MOST_PER_REQUEST as u32,
            nodes_to_browse: Some(vec![description]),
        };
        let mut results = all(answer!(self.request(request, limit).await, Browse)?.results, 1)?;
        let mut found = Vec::new();
        while let Some(result) = results.pop() {
            if result.status_code.is_bad() {
                return Err(Failure::Refused(result.status_code));
            }
            found.extend(result.references.unwrap_or_default());
            let point = result.continuation_point;
            let is_last = point.is_null_or_empty() || found.len() >= MOST_REFERENCES;
            let request = BrowseNextRequest {
                request_header: self.header(limit),
                release_continuation_points: is_last,
                continuation_points: Some(vec![point.clone()]),
            };
            if !point.is_null_or_empty() {
                let answer = answer!(self.request(request, limit).await, BrowseNext)?;
                results = if is_last { Vec::new() } else { all(answer.results, 1)? };
            }
        }
        Ok(found)
    }

    /// CreateSubscription (Part 4, 5.14.2), with so many values in one notification at most.
    pub async fn subscribe(
        &self,
        publishing: Duration,
        lifetime: u32,
        keep_alive: u32,
        most: u32,
        limit: Duration,
    ) -> Result<CreateSubscriptionResponse, Failure> {
        let request = CreateSubscriptionRequest {
            request_header: self.header(limit),
            requested_publishing_interval: millis(publishing),
            requested_lifetime_count: lifetime,
            requested_max_keep_alive_count: keep_alive,
            max_notifications_per_publish: most,
            publishing_enabled: true,
            priority: 0,
        };
        Ok(*answer!(self.request(request, limit).await, CreateSubscription)?)
    }

    /// DeleteSubscriptions (Part 4, 5.14.8).
    pub async fn unsubscribe(&self, subscription: u32, limit: Duration) -> Result<(), Failure> {
        let ids = Some(vec![subscription]);
        let request =
            DeleteSubscriptionsRequest { request_header: self.header(limit), subscription_ids: ids };
        answer!(self.request(request, limit).await, DeleteSubscriptions).map(drop)
    }

    /// CreateMonitoredItems (Part 4, 5.13.2).
    pub async fn monitor(
        &self,
        subscription: u32,
        items: Vec<MonitoredItemCreateRequest>,
        limit: Duration,
    ) -> Result<Vec<MonitoredItemCreateResult>, Failure> {
        let count = items.len();
        let request = CreateMonitoredItemsRequest {
            request_header: self.header(limit),
            subscription_id: subscription,
            timestamps_to_return: TimestampsToReturn::Both,
            items_to_create: Some(items),
        };
        all(answer!(self.request(request, limit).await, CreateMonitoredItems)?.results, count)
    }

    /// DeleteMonitoredItems (Part 4, 5.13.6).
    pub async fn unmonitor(
        &self,
        subscription: u32,
        items: Vec<u32>,
        limit: Duration,
    ) -> Result<(), Failure> {
        let request = DeleteMonitoredItemsRequest {
            request_header: self.header(limit),
            subscription_id: subscription,
            monitored_item_ids: Some(items),
        };
        answer!(self.request(request, limit).await, DeleteMonitoredItems).map(drop)
    }

    /// Publish (Part 4, 5.14.5): answered when there's a notification, or a keep-alive.
    pub async fn publish(
        &self,
        acknowledged: Vec<SubscriptionAcknowledgement>,
        limit: Duration,
    ) -> Result<Box<PublishResponse>, Failure> {
        let subscription_acknowledgements =
            Some(acknowledged).filter(|acknowledged| !acknowledged.is_empty());
        let request = PublishRequest { request_header: self.header(limit), subscription_acknowledgements };
        answer!(self.request(request, limit).await, Publish)
    }

    /// Republish (Part 4, 5.14.6): a notification that got lost.
    pub async fn republish(
        &self,
        subscription: u32,
        number: u32,
        limit: Duration,
    ) -> Result<Box<RepublishResponse>, Failure> {
        let request = RepublishRequest {
            request_header: self.header(limit),
            subscription_id: subscription,
            retransmit_sequence_number: number,
        };
        answer!(self.request(RequestMessage::from(request), limit).await, Republish)
    }
}

/// OPC UA's durations are milliseconds (Part 3, 8.13).
pub fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
