//! Batch → mapping → message per route.
//!
//! One task owns what is remembered of every device: its sequence number, the last published values (for
//! deadbands), its state. It outlives a driver's restart, so sequence numbers have no holes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::budget::OnLate;
use crate::mapping::batch::{Batch, DeviceState, Event};
use crate::mapping::compiled::PointIx;
use crate::mapping::device::DevicePlan;
use crate::mapping::recent::Recents;
use crate::mapping::transform::{Sample, evaluate};
use crate::metrics::{DeviceMetrics, RouteMetrics};
use crate::model::clock;
use crate::model::message::{Kind, Message, Sampled};
use passes::{Pass, Passes};
use reporting::Reporting;

pub mod encode;
pub mod passes;
mod reporting;
pub mod status;

/// How often the counts in device status messages are brought up to date, when they have changed.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// What all messages of this process share.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The site's name.
    pub site: Arc<str>,
    /// Another one at every start of the process: (device, epoch, seq) names a message for ever.
    pub epoch: u64,
}

/// One northbound route as the pipeline sees it.
pub struct RouteInput {
    /// Topic template; `{site}` and `{device}` stand for the names.
    pub topic: String,
    /// What it carries.
    pub passes: Passes,
    /// To the route's forwarder, which never waits for its broker before it receives.
    pub messages: mpsc::Sender<Message>,
    /// Where the status of the site itself goes.
    pub site_topic: Arc<str>,
    /// What counts each device's messages on this route; a device that it does not have counts them itself.
    pub metrics: Arc<RouteMetrics>,
}

impl RouteInput {
    fn account(&self, plan: &DevicePlan) -> Arc<DeviceMetrics> {
        self.metrics.device(&plan.device.name).unwrap_or_else(|| plan.metrics.clone())
    }
}

/// What a reload changes for the pipeline.
#[derive(Debug)]
pub struct Reloaded {
    /// The names of the devices that there are now.
    pub devices: HashSet<Arc<str>>,
    /// What each route carries now, in their order.
    pub passes: Vec<Passes>,
}

/// Maps and encodes everything that arrives, until all senders of events are gone.
/// What was read last is kept in `recents`.
pub async fn run(
    identity: Identity,
    routes: Vec<RouteInput>,
    mut events: mpsc::Receiver<Event>,
    mut reloads: mpsc::Receiver<Reloaded>,
    recents: Arc<Recents>,
) {
    let mut pipeline = Pipeline::new(identity, routes);
    let mut status = interval(STATUS_EVERY);
    status.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(Event::Batch(batch)) => {
                    pipeline.batch(&batch).await;
                    recents.note(batch);
                }
                Some(Event::State { plan, state }) => pipeline.state(plan, state).await,
                None => return pipeline.last_statuses().await,
            },
            Some(reloaded) = reloads.recv() => {
                recents.retain(|device| reloaded.devices.contains(device));
                pipeline.reload(reloaded).await;
            }
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
    /// What deadbands and means look back at.
    reporting: Reporting,
    state: Option<DeviceState>,
    /// Messages that all routes have given up, as counted last.
    lost: u64,
}

struct Way {
    pass: Pass,
    /// Without holes on this route, whatever it carries.
    next_seq: u64,
    topic: Arc<str>,
    status_topic: Arc<str>,
    account: Arc<DeviceMetrics>,
    /// The counts in the status that was told last.
    told: status::Counts,
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

    async fn batch(&mut self, batch: &Batch) {
        let Self { identity, routes, devices, samples, slots, payload } = self;
        let device = remembered(devices, &batch.plan, identity, routes);
        let plan = &batch.plan;
        let (map, read) = (&plan.device.map, batch.read());
        samples.clear();
        match &batch.readings {
            Ok(readings) => {
                plan.metrics.values_at.set(batch.received);
                evaluate(map, read, readings, slots, samples);
                // Both lists have the same order.
                let mut publishes = read.publishes.iter().peekable();
                samples.retain(|(ix, _)| publishes.next_if_eq(&ix).is_some());
            }
            Err(cause) => samples.extend(read.publishes.iter().map(|ix| (*ix, Err(*cause)))),
        }
        device.forget_what_was_lost();
        device.reporting.news(map, read.every, batch.received, samples);
        let bad = samples.iter().filter(|(_, value)| value.is_err()).count();
        plan.metrics.bad_values.add(bad as u64);
        if samples.is_empty() {
            return;
        }
        // That nothing came in time is no value that could be late: it must arrive, or the old value passes for fresh.
        let (started, late) = match &batch.readings {
            Ok(_) => (batch.started, plan.device.budget.late),
            Err(_) => (batch.received, OnLate::Deliver),
        };
        let mut notes = batch.point_notes();
        notes.retain(|(ix, _)| samples.iter().any(|(point, value)| point == ix && value.is_ok()));
        let points = &map.points;
        // Routes that carry the whole device have mostly the same message.
        let mut whole: Option<(u64, Bytes)> = None;
        for (route, way) in routes.iter().zip(&mut device.ways) {
            let lets = |ix: &PointIx| way.pass.lets(&points[ix.0 as usize].name);
            let seq = way.next_seq;
            let same = whole.as_ref().filter(|(known, _)| way.pass == Pass::All && *known == seq);
            let bytes = match same {
                Some((_, bytes)) => bytes.clone(),
                None => {
                    let passing = samples.iter().filter(|(ix, _)| lets(ix));
                    if passing.clone().next().is_none() {
                        continue;
                    }
                    let notes: Vec<_> = notes.iter().filter(|(ix, _)| lets(ix)).copied().collect();
                    payload.clear();
                    let heading = encode::Heading {
                        prefix: &device.prefix,
                        stamp: batch.stamp,
                        epoch: identity.epoch,
                        seq,
                    };
                    encode::data(&heading, points, passing, &notes, payload);
                    Bytes::copy_from_slice(payload)
                }
            };
            if way.pass == Pass::All {
                whole = Some((seq, bytes.clone()));
            }
            way.next_seq += 1;
            way.account.sampled.inc();
            let sampled = Sampled {
                device: way.account.clone(),
                epoch: identity.epoch,
                seq,
                started,
                received: batch.received,
                encoded: Instant::now(),
                deadline: started + plan.device.budget.within,
                doubted: clock::doubted(),
                late,
            };
            let (topic, payload) = (way.topic.clone(), bytes);
            let message = Message { topic, payload, retain: false, kind: Kind::Data(sampled) };
            // A forwarder that is gone has been ended by the supervisor, and so are we.
            let _ = route.messages.send(message).await;
        }
    }

    async fn state(&mut self, plan: Arc<DevicePlan>, state: DeviceState) {
        let device = remembered(&mut self.devices, &plan, &self.identity, &self.routes);
        if device.state.replace(state) != Some(state) {
            tell(&self.identity, &self.routes, device, STOPPED).await;
        }
    }

    async fn refresh_statuses(&mut self) {
        for device in self.devices.values_mut() {
            let metrics = &device.plan.metrics;
            let news = device.ways.iter().any(|way| status::Counts::of(&way.account, metrics) != way.told);
            if device.state.is_some() && news {
                tell(&self.identity, &self.routes, device, STOPPED).await;
            }
        }
    }

    /// Devices that are gone are offline, and keep their sequence numbers, should they come back.
    async fn reload(&mut self, reloaded: Reloaded) {
        let Self { identity, routes, devices, .. } = self;
        for (name, device) in devices.iter_mut().filter(|(name, _)| !reloaded.devices.contains(*name)) {
            tracing::info!(device = %name, "device removed");
            device.state = None;
            tell(identity, routes, device, REMOVED).await;
        }
        for (route, passes) in routes.iter_mut().zip(reloaded.passes) {
            route.passes = passes;
            let count = reloaded.devices.len();
            let payload = status::site(&identity.site, Some((identity.epoch, count)));
            let topic = route.site_topic.clone();
            let message = Message { topic, payload: payload.into(), retain: true, kind: Kind::Status };
            let _ = route.messages.send(message).await;
        }
        for (name, device) in devices {
            for (route, way) in routes.iter().zip(&mut device.ways) {
                way.pass = route.passes.of(name);
            }
        }
    }

    /// Nobody reads the devices any more.
    async fn last_statuses(&mut self) {
        for device in self.devices.values_mut() {
            device.state = None;
            tell(&self.identity, &self.routes, device, STOPPED).await;
        }
    }
}

/// Why nobody reads a device any more.
const STOPPED: &str = "gateway stopped";
const REMOVED: &str = "removed from the site";

/// Publishes a device's status on every route. `gone`: why it has no state, if it has none.
async fn tell(identity: &Identity, routes: &[RouteInput], device: &mut Device, gone: &str) {
    let metrics = device.plan.metrics.clone();
    for (route, way) in routes.iter().zip(&mut device.ways).filter(|(_, way)| way.pass != Pass::None) {
        way.told = status::Counts::of(&way.account, &metrics);
        let payload = status::device(&identity.site, &device.plan, device.state.ok_or(gone), &way.account);
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
    let name = plan.device.name.clone();
    let device = devices.entry(name).or_insert_with(|| Device::new(plan, identity, routes));
    if !Arc::ptr_eq(&device.plan, plan) {
        // Indices of another plan mean other points.
        device.reporting.forget_published();
        if !Arc::ptr_eq(&device.plan.metrics, &plan.metrics) {
            // It was gone, and is counted anew.
            device.lost = 0;
            for (route, way) in routes.iter().zip(&mut device.ways) {
                way.account = route.account(plan);
            }
        }
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
                pass: route.passes.of(name),
                next_seq: 0,
                status_topic: format!("{topic}/status").into(),
                topic: topic.into(),
                account: route.account(plan),
                told: status::Counts::default(),
            }
        };
        Self {
            plan: plan.clone(),
            prefix: encode::prefix(&identity.site, name),
            ways: routes.iter().map(way).collect(),
            reporting: Reporting::default(),
            state: None,
            lost: 0,
        }
    }

    /// What a deadband compares with must have arrived: after a loss, every value is news again.
    fn forget_what_was_lost(&mut self) {
        if self.reporting.is_empty() {
            return;
        }
        let lost = self.ways.iter().map(|way| way.account.gap_accounted.get()).sum();
        if std::mem::replace(&mut self.lost, lost) != lost {
            self.reporting.forget_published();
        }
    }
}

#[cfg(test)]
mod tests;
