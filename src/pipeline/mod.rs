//! Batch → mapping → message per route.
//!
//! One task owns what is remembered of every device: its sequence number, the last published values (for
//! deadbands), its state. It outlives a driver's restart, so sequence numbers have no holes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::mapping::batch::{Batch, DeviceState, Event};
use crate::mapping::compiled::PointIx;
use crate::mapping::device::DevicePlan;
use crate::mapping::transform::{Sample, evaluate, moved};
use crate::metrics::DeviceMetrics;
use crate::model::message::{Kind, Message, Sampled};
use crate::model::value::Value;

pub mod encode;
pub mod status;

/// How often the counts in device status messages are brought up to date, when they have changed.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// What all messages of this process share.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The site's name.
    pub site: Arc<str>,
    /// Grows with every start of the process: (device, epoch, seq) names a message for ever.
    pub epoch: u64,
}

/// One northbound route as the pipeline sees it.
pub struct RouteInput {
    /// Topic template; `{site}` and `{device}` stand for the names.
    pub topic: String,
    /// To the route's forwarder, which never waits for its broker before it receives.
    pub messages: mpsc::Sender<Message>,
    /// The accounts of this route, if it is not the first one (which uses the device's own).
    pub accounts: HashMap<Arc<str>, Arc<DeviceMetrics>>,
}

/// Maps and encodes everything that arrives, until all senders are gone.
pub async fn run(identity: Identity, routes: Vec<RouteInput>, mut events: mpsc::Receiver<Event>) {
    let mut pipeline = Pipeline::new(identity, routes);
    let mut status = interval(STATUS_EVERY);
    status.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(Event::Batch(batch)) => pipeline.batch(batch).await,
                Some(Event::State { plan, state }) => pipeline.state(plan, state).await,
                None => return pipeline.last_statuses().await,
            },
            _ = status.tick() => pipeline.refresh_statuses().await,
        }
    }
}

/// Replaces the placeholders of a topic template.
pub fn topic(template: &str, site: &str, device: &str) -> String {
    template.replace("{site}", site).replace("{device}", device)
}

struct Pipeline {
    identity: Identity,
    routes: Vec<RouteInput>,
    devices: HashMap<Arc<str>, Device>,
    samples: Vec<Sample>,
    slots: Vec<u32>,
    payload: Vec<u8>,
}

/// What is remembered of a device.
struct Device {
    plan: Arc<DevicePlan>,
    prefix: Vec<u8>,
    /// Per route: the topic of messages, the topic of the status, and the account.
    ways: Vec<Way>,
    next_seq: u64,
    /// What was last published of the points that have a deadband.
    last: HashMap<PointIx, Option<Value>>,
    state: Option<DeviceState>,
    told: status::Counts,
}

struct Way {
    topic: Arc<str>,
    status_topic: Arc<str>,
    account: Arc<DeviceMetrics>,
}

impl Pipeline {
    fn new(identity: Identity, routes: Vec<RouteInput>) -> Self {
        Self {
            identity,
            routes,
            devices: HashMap::new(),
            samples: Vec::new(),
            slots: Vec::new(),
            payload: Vec::new(),
        }
    }

    async fn batch(&mut self, batch: Batch) {
        let Self { identity, routes, devices, samples, slots, payload } = self;
        let device = remembered(devices, &batch.plan, identity, routes);
        let plan = &batch.plan;
        let (map, read) = (&plan.device.map, &plan.reads[batch.read]);
        samples.clear();
        match &batch.readings {
            Ok(readings) => evaluate(map, read, readings, slots, samples),
            Err(cause) => samples.extend(read.points.iter().map(|ix| (*ix, Err(*cause)))),
        }
        samples.retain(|(ix, value)| {
            let point = &map.points[ix.0 as usize];
            if !point.published {
                return false;
            }
            let Some(deadband) = &point.deadband else { return true };
            let last = device.last.entry(*ix).or_insert(None);
            match (&*last, value) {
                (Some(last), Ok(value)) if !moved(deadband, last, value) => return false,
                (_, value) => *last = value.as_ref().ok().cloned(),
            }
            true
        });
        let bad = samples.iter().filter(|(_, value)| value.is_err()).count();
        plan.metrics.bad_values.add(bad as u64);
        if samples.is_empty() {
            return;
        }
        let seq = device.next_seq;
        device.next_seq += 1;
        payload.clear();
        encode::data(&device.prefix, batch.stamp, identity.epoch, seq, &map.points, samples.iter(), payload);
        let bytes = Bytes::copy_from_slice(payload);
        let encoded = Instant::now();
        for (route, way) in routes.iter().zip(&device.ways) {
            way.account.sampled.inc();
            let sampled = Sampled {
                device: way.account.clone(),
                seq,
                started: batch.started,
                received: batch.received,
                encoded,
                deadline: batch.started + plan.device.budget.within,
                late: plan.device.budget.late,
            };
            let (topic, payload) = (way.topic.clone(), bytes.clone());
            let message = Message { topic, payload, retain: false, kind: Kind::Data(sampled) };
            // A forwarder that is gone has been ended by the supervisor, and so are we.
            let _ = route.messages.send(message).await;
        }
    }

    async fn state(&mut self, plan: Arc<DevicePlan>, state: DeviceState) {
        let device = remembered(&mut self.devices, &plan, &self.identity, &self.routes);
        if device.state.replace(state) != Some(state) {
            device.told = status::Counts::of(&plan.metrics);
            tell(&self.identity, &self.routes, device).await;
        }
    }

    async fn refresh_statuses(&mut self) {
        for device in self.devices.values_mut() {
            let counts = status::Counts::of(&device.plan.metrics);
            if device.state.is_some() && counts.worth_telling(&device.told) {
                device.told = counts;
                tell(&self.identity, &self.routes, device).await;
            }
        }
    }

    /// Nobody reads the devices any more.
    async fn last_statuses(&mut self) {
        for device in self.devices.values_mut() {
            device.state = None;
            tell(&self.identity, &self.routes, device).await;
        }
    }
}

/// Publishes a device's status on every route.
async fn tell(identity: &Identity, routes: &[RouteInput], device: &Device) {
    for (route, way) in routes.iter().zip(&device.ways) {
        let payload = status::device(&identity.site, &device.plan, device.state, &way.account);
        let message = Message {
            topic: way.status_topic.clone(),
            payload: payload.into(),
            retain: true,
            kind: Kind::Status,
        };
        let _ = route.messages.send(message).await;
    }
}

fn remembered<'a>(
    devices: &'a mut HashMap<Arc<str>, Device>,
    plan: &Arc<DevicePlan>,
    identity: &Identity,
    routes: &[RouteInput],
) -> &'a mut Device {
    let name = &plan.device.name;
    if !devices.contains_key(name) {
        devices.insert(name.clone(), Device::new(plan, identity, routes));
    }
    let device = devices.entry(name.clone()).or_insert_with(|| Device::new(plan, identity, routes));
    if !Arc::ptr_eq(&device.plan, plan) {
        // Indices of another plan mean other points.
        device.last.clear();
        device.plan = plan.clone();
    }
    device
}

impl Device {
    fn new(plan: &Arc<DevicePlan>, identity: &Identity, routes: &[RouteInput]) -> Self {
        let name = &plan.device.name;
        let way = |route: &RouteInput| {
            let topic = topic(&route.topic, &identity.site, name);
            Way {
                status_topic: format!("{topic}/status").into(),
                topic: topic.into(),
                account: route.accounts.get(name).unwrap_or(&plan.metrics).clone(),
            }
        };
        Self {
            plan: plan.clone(),
            prefix: encode::prefix(&identity.site, name),
            ways: routes.iter().map(way).collect(),
            next_seq: 0,
            last: HashMap::new(),
            state: None,
            told: status::Counts::default(),
        }
    }
}

#[cfg(test)]
mod tests;
