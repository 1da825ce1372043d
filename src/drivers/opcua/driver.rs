//! The driver: polls what is due, takes what is notified, watches whether anything still comes, and asks again for what is bad.
//!
//! A node that does not exist, has another type or can't be read is a bad point and nothing else. Each session begins anew: a link that
//! broke may lead to another server, whose namespaces have other indices.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use opcua::types::{
    DataChangeNotification, DataValue, MonitoredItemCreateResult, NotificationMessage, PublishResponse,
    StatusChangeNotification, StatusCode, SubscriptionAcknowledgement, Variant,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::drift::Inspection;
use super::gather::{Gather, Gathered};
use super::link::{Channel, Failure, Identity, Link};
use super::nodes::Nodes;
use super::plan::OpcuaPlan;
use super::services::{OperationLimits, value_of};
use super::subscription::{self, Item, ItemState, PULSE_HANDLE, Silence, Subscription, Target};
use super::values::{quality, status};
use crate::drivers::schedule::{Entry, Health, Next, Outcome, Schedule};
use crate::drivers::{Driver, LinkLost, seed_of};
use crate::mapping::batch::{Batch, DeviceState, Note};
use crate::mapping::compiled::{Kind, Reading};
use crate::mapping::device::{DevicePlan, Every};
use crate::metrics::DeviceMetrics;
use crate::model::clock;
use crate::model::place::Place;
use crate::model::time::Stamp;
use crate::model::value::{Cause, Status};

/// The longest wait between two tries to connect: a server that is back is seen within 5 s.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Publish requests that wait at the server for each subscription: while one answer is on its way, the next is under way.
const PUBLISHES_PER_SUBSCRIPTION: usize = 2;

/// All together at most; small servers take few.
const MOST_PUBLISHES: usize = 10;

/// How long a publish request may wait at the server.
const PUBLISH_LIMIT: Duration = Duration::from_secs(60);

/// What is bad is asked for again after this long, then after twice as long, and so on.
const RETRY: Duration = Duration::from_secs(5);

/// What is bad is asked for again at least this often.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// Requests in a row without an answer that end a link.
const TIMEOUTS: u32 = 3;

/// Lost notifications that are asked for again; beyond, the subscription is made anew.
const MOST_REPUBLISHED: u32 = 100;

/// Values in one notification: what is longer than a server's messages may be (320 KiB are usual) is never sent. Where even so many
/// are too long, half as many are asked for at the next connect.
const MOST_NOTIFIED: u32 = 1_000;

mod monitor;
mod notified;
mod silent;

type Published = Result<Box<PublishResponse>, Failure>;

/// One connection to one server.
pub struct OpcuaDriver {
    plan: OpcuaPlan,
    identity: Identity,
    devices: Vec<Arc<DevicePlan>>,
    schedule: Schedule,
    items: Vec<Item>,
    /// What most values need of their item, close together: ten thousand items are larger than a cache.
    straight: Vec<Straight>,
    subscriptions: Vec<Subscription>,
    /// Reads that are watched, by device and read, in the order of the site file.
    gathers: Vec<(usize, usize, Gather)>,
    session: Option<Session>,
    changes: VecDeque<(usize, DeviceState)>,
    ready: VecDeque<Batch>,
    /// What has been said of addresses.
    told: BTreeSet<String>,
    /// Values that this server is asked to put into one notification at most.
    most_notified: u32,
}

/// The way of a value of a plain type to the one read that wants it.
#[derive(Clone, Copy, Debug)]
struct Straight {
    kind: Option<Kind>,
    gather: u32,
    slot: u32,
    /// The item is [`ItemState::Watched`], and nothing is to be taken back.
    is_open: bool,
}

impl Straight {
    fn of(item: &Item) -> Self {
        let target = match item.targets[..] {
            [Target { gather, slot }] => u32::try_from(gather).ok().zip(u32::try_from(slot).ok()),
            _ => None,
        };
        let (gather, slot) = target.unwrap_or_default();
        Self { kind: item.plain.filter(|_| target.is_some()), gather, slot, is_open: false }
    }
}

/// What lasts as long as a link.
struct Session {
    link: Link,
    limits: OperationLimits,
    nodes: Nodes,
    /// Publish requests that wait at the server; gone with the session.
    publishing: JoinSet<Published>,
    /// Requests in a row without an answer.
    timeouts: u32,
    /// When to ask again for what is bad, and how long to wait after that.
    retry: (Instant, Duration),
    /// What of the server is not yet compared with the map.
    inspection: Option<Inspection>,
}

/// What is to be done.
pub enum Due {
    /// A batch is ready.
    Ready,
    /// An entry of the schedule.
    Poll {
        /// Its index.
        entry: usize,
        /// Due times that passed.
        missed: u64,
    },
    /// A publish request has its answer.
    Published(Published),
    /// A subscription may be silent.
    Watch,
    /// What is bad may be good by now.
    Retry,
    /// Nothing else is due: the server may be compared with the map.
    Inspect,
}

impl OpcuaDriver {
    /// A driver. `metrics` are the devices', in the plan's order.
    pub fn new(name: &str, plan: OpcuaPlan, metrics: Vec<Arc<DeviceMetrics>>, identity: Identity) -> Self {
        let mut devices = Vec::with_capacity(plan.devices.len());
        let mut entries = Vec::new();
        for (ix, (planned, metrics)) in plan.devices.iter().zip(metrics).enumerate() {
            let (device, reads) = (planned.device.clone(), planned.reads.clone());
            let polled =
                reads.iter().enumerate().filter(|(_, read)| !matches!(read.every, Every::Changes(_)));
            entries.extend(polled.map(|(read, plan)| Entry {
                device: ix,
                read,
                // The server is the one that falls silent, whoever's nodes are asked for.
                unit: 0,
                every: plan.every,
                budget: device.budget.within,
            }));
            devices.push(Arc::new(DevicePlan { device, reads, metrics }));
        }
        let (items, samplings, gathers) = items(&devices);
        let straight = items.iter().map(Straight::of).collect();
        Self {
            plan,
            identity,
            schedule: Schedule::new(entries, seed_of(name), Instant::now()),
            subscriptions: subscription::by_sampling(samplings.into_iter().enumerate()),
            items,
            straight,
            gathers,
            devices,
            session: None,
            changes: VecDeque::new(),
            ready: VecDeque::new(),
            told: BTreeSet::new(),
            most_notified: MOST_NOTIFIED,
        }
    }

    /// A session that is ready: addresses resolved, everything watched.
    async fn begin(&mut self) -> Result<(), LinkLost> {
        let link = Link::open(&self.plan.config, &self.identity).await?;
        let (channel, limit) = (link.channel().clone(), link.timeout());
        let limits = channel.operation_limits(limit).await;
        let nodes =
            Nodes::resolve(&self.devices, &channel, limits, limit, &mut self.told).await.map_err(unusable)?;
        let retry = (Instant::now() + RETRY, RETRY);
        let inspection = Some(Inspection::of(&self.devices, &nodes));
        let publishing = JoinSet::new();
        let mut session = Session { link, limits, nodes, publishing, timeouts: 0, retry, inspection };
        self.register(&mut session).await?;
        self.gathers.iter_mut().for_each(|(_, _, gather)| gather.forget());
        self.items.iter_mut().for_each(|item| item.told = None);
        for at in 0..self.subscriptions.len() {
            self.subscriptions[at].is_second = false;
            self.subscribe(&session, at).await.map_err(unusable)?;
        }
        let publishes = (PUBLISHES_PER_SUBSCRIPTION * self.subscriptions.len()).min(MOST_PUBLISHES);
        (0..publishes).for_each(|_| session.publish(Vec::new()));
        self.announce_expiry(&mut session);
        self.session = Some(session);
        Ok(())
    }

    /// One poll: as many requests as the server's limits make of it.
    async fn poll(&mut self, entry: usize, missed: u64) -> Result<Option<Batch>, LinkLost> {
        let Entry { device, read, .. } = self.schedule.entry(entry);
        let plan = self.devices[device].clone();
        plan.metrics.missed_ticks.add(missed);
        let Some(session) = &mut self.session else { return Err(gone()) };
        let started = Instant::now();
        let outcome = session.read(&plan, device, read).await;
        let received = Instant::now();
        let (result, answered) = match outcome {
            Ok(values) => (Ok(values), Outcome::Answered),
            Err(Failure::Refused(code)) => (Err(Cause::Status(status(code))), Outcome::Refused),
            Err(Failure::Timeout) => (Err(Cause::Timeout), Outcome::Failed { cost: Duration::ZERO }),
            Err(Failure::Lost(code)) => return Err(LinkLost(format!("the session is over: {code}"))),
        };
        match answered {
            Outcome::Answered => plan.metrics.answered.inc(),
            Outcome::Failed { .. } => plan.metrics.timeouts.inc(),
            _ => plan.metrics.refused_with(0),
        }
        session.timeouts = if matches!(answered, Outcome::Failed { .. }) { session.timeouts + 1 } else { 0 };
        if session.timeouts >= TIMEOUTS {
            return Err(LinkLost(format!("the server has not answered {TIMEOUTS} requests")));
        }
        match self.schedule.done(entry, received, answered) {
            Some(Health::Sick) => self.all_are(DeviceState::Offline(Cause::Timeout)),
            Some(Health::Well) => self.all_are(DeviceState::Online),
            None => {}
        }
        let (readings, notes) = match result {
            Ok(values) => (Ok(values.0), values.1),
            Err(cause) => (Err(cause), Vec::new()),
        };
        Ok(Some(Batch { plan, read, started, received, stamp: Stamp::now(), readings, part: None, notes }))
    }

    fn set_state(&mut self, ix: usize, state: ItemState) {
        self.items[ix].state = state;
        self.straight[ix].is_open = state == ItemState::Watched;
    }

    fn all_are(&mut self, state: DeviceState) {
        self.changes.extend((0..self.devices.len()).map(|device| (device, state)));
    }

    /// Compares a part of the server with the map.
    async fn inspect(&mut self) -> Result<(), LinkLost> {
        let Some(session) = &mut self.session else { return Err(gone()) };
        let Some(inspection) = &mut session.inspection else { return Ok(()) };
        let (channel, limit) = (session.link.channel(), session.link.timeout());
        let done = inspection.go_on(&self.devices, channel, session.limits.read, limit).await;
        if done.map_err(unusable)?
            && let Some(inspection) = session.inspection.take()
        {
            inspection.tell(&self.devices);
        }
        Ok(())
    }

    /// Asks again for what is bad: the server may have it by now.
    async fn retry(&mut self) -> Result<(), LinkLost> {
        let Some(mut session) = self.session.take() else { return Err(gone()) };
        let wait = session.retry.1;
        session.retry = (Instant::now() + wait, (wait * 2).min(LONGEST_RETRY));
        self.announce_expiry(&mut session);
        let outcome = self.retry_in(&mut session).await;
        self.session = Some(session);
        outcome.map_err(unusable)
    }

    fn announce_expiry(&self, session: &mut Session) {
        for (whose, days) in session.link.expiry.due(clock::since_epoch()) {
            tracing::warn!(server = %self.plan.config.endpoint, whose, days, "a certificate expires");
        }
    }

    async fn retry_in(&mut self, session: &mut Session) -> Result<(), Failure> {
        let is_bad = |item: &Item| matches!(item.state, ItemState::Bad(_));
        if !self.items.iter().any(is_bad) {
            return Ok(());
        }
        let (channel, limit) = (session.link.channel().clone(), session.link.timeout());
        let limits = session.limits;
        match Nodes::resolve(&self.devices, &channel, limits, limit, &mut self.told).await {
            Ok(nodes) => session.nodes = nodes,
            Err(Failure::Lost(code)) => return Err(Failure::Lost(code)),
            Err(_) => return Ok(()),
        }
        for at in 0..self.subscriptions.len() {
            let bad: Vec<_> =
                self.subscriptions[at].items.iter().copied().filter(|ix| is_bad(&self.items[*ix])).collect();
            if bad.is_empty() {
                continue;
            }
            let watched: Vec<u32> = bad.iter().filter_map(|ix| self.items[*ix].id.take()).collect();
            for part in watched.chunks(limits.monitor) {
                let id = self.subscriptions[at].id;
                if let Err(Failure::Lost(code)) = channel.unmonitor(id, part.to_vec(), limit).await {
                    return Err(Failure::Lost(code));
                }
            }
            self.monitor(session, at, &bad).await?;
        }
        Ok(())
    }
}

impl Session {
    fn publish(&mut self, acknowledged: Vec<SubscriptionAcknowledgement>) {
        let channel: Arc<Channel> = self.link.channel().clone();
        self.publishing.spawn(async move { channel.publish(acknowledged, PUBLISH_LIMIT).await });
    }

    /// The values of one read, in the order of its readings, and what the server says beside them.
    async fn read(
        &self,
        plan: &DevicePlan,
        device: usize,
        read: usize,
    ) -> Result<(Readings, Vec<(usize, Note)>), Failure> {
        let readings = &plan.reads[read].readings;
        let mut values: Readings = Vec::with_capacity(readings.len());
        let mut asked = Vec::new();
        for (slot, ix) in readings.iter().enumerate() {
            match self.nodes.of(device, ix.0 as usize) {
                Ok(node) => {
                    asked.push((slot, value_of(node)));
                    values.push(Err(Cause::Timeout));
                }
                Err(cause) => values.push(Err(cause)),
            }
        }
        let most = plan.device.limits.max_nodes.map_or(usize::MAX, |most| most as usize);
        let limit = self.link.timeout().min(plan.device.budget.within);
        let mut notes = Vec::new();
        for part in asked.chunks(self.limits.read.min(most).max(1)) {
            let nodes = part.iter().map(|(_, node)| node.clone()).collect();
            for ((slot, _), value) in part.iter().zip(self.link.channel().read(nodes, limit).await?) {
                let quality = self.nodes.quality(plan, device, readings[*slot].0 as usize, &value);
                values[*slot] = quality.raw;
                notes.extend(quality.note.some().map(|note| (*slot, note)));
            }
        }
        Ok((values, notes))
    }
}

type Readings = Vec<Result<crate::model::value::Raw, Cause>>;

impl Driver for OpcuaDriver {
    type Due = Due;

    fn devices(&self) -> &[Arc<DevicePlan>] {
        &self.devices
    }

    fn longest_wait(&self) -> Duration {
        LONGEST_WAIT
    }

    async fn connect(&mut self) -> Result<(), LinkLost> {
        self.ready.clear();
        self.begin().await?;
        self.schedule.restart(Instant::now());
        self.all_are(DeviceState::Online);
        Ok(())
    }

    async fn due(&mut self) -> Due {
        if !self.ready.is_empty() || !self.changes.is_empty() {
            return Due::Ready;
        }
        let silence = (0..self.subscriptions.len()).map(|at| self.subscriptions[at].patience()).min();
        let Some(session) = &mut self.session else { return Due::Ready };
        let inspects = session.inspection.is_some();
        let poll = async {
            loop {
                match self.schedule.next(Instant::now()) {
                    Next::Due { entry, missed } => return Due::Poll { entry, missed },
                    Next::At(at) => sleep_until(at).await,
                    Next::Never => std::future::pending().await,
                }
            }
        };
        let silent = async {
            match silence {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(Ok(published)) = session.publishing.join_next() => Due::Published(published),
            () = silent => Due::Watch,
            () = sleep_until(session.retry.0) => Due::Retry,
            due = poll => due,
            () = std::future::ready(()), if inspects => Due::Inspect,
        }
    }

    async fn read(&mut self, due: Due) -> Result<Option<Batch>, LinkLost> {
        if self.session.is_none() {
            return Err(gone());
        }
        match due {
            Due::Ready => {}
            Due::Poll { entry, missed } => return self.poll(entry, missed).await,
            Due::Published(published) => self.published(published).await?,
            Due::Watch => self.watch().await?,
            Due::Retry => self.retry().await?,
            Due::Inspect => self.inspect().await?,
        }
        Ok(self.ready.pop_front())
    }

    fn state_change(&mut self) -> Option<(usize, DeviceState)> {
        self.changes.pop_front()
    }

    fn disconnect(&mut self) {
        self.ready.clear();
        if let Some(session) = self.session.take() {
            // The server has few sessions to give. It ends in a second at most, whether the server hears it or not.
            tokio::spawn(session.link.close());
        }
    }
}

type Watched = (Vec<Item>, Vec<Duration>, Vec<(usize, usize, Gather)>);

/// What is watched, how often each is sampled, and what its values become: a reading once for each interval that it's wanted at.
fn items(devices: &[Arc<DevicePlan>]) -> Watched {
    let (mut items, mut samplings, mut gathers) = Watched::default();
    let mut known: HashMap<(usize, usize, Duration), usize> = HashMap::new();
    for (device, plan) in devices.iter().enumerate() {
        for (read, of) in plan.reads.iter().enumerate() {
            let Every::Changes(sampling) = of.every else { continue };
            for (slot, reading) in of.readings.iter().enumerate() {
                let reading = reading.0 as usize;
                let at = *known.entry((device, reading, sampling)).or_insert_with(|| {
                    items.push(item(plan, device, reading));
                    samplings.push(sampling);
                    items.len() - 1
                });
                items[at].targets.push(Target { gather: gathers.len(), slot });
            }
            gathers.push((device, read, Gather::new(&plan.device.map, of)));
        }
    }
    (items, samplings, gathers)
}

fn item(plan: &DevicePlan, device: usize, reading: usize) -> Item {
    let Reading { place, decode } = &plan.device.map.readings[reading];
    let is_whole = matches!(place, Place::Node(place) if place.member.is_none());
    let is_plain = is_whole && decode.kind != Kind::Any && plan.device.nodes.times.is_none();
    Item {
        device,
        reading,
        plain: is_plain.then_some(decode.kind),
        deadband: subscription::deadband(&plan.device.map, reading),
        trigger: plan.device.nodes.trigger,
        queue: plan.device.nodes.queue.max(1),
        targets: Vec::new(),
        state: ItemState::New,
        told: None,
        id: None,
    }
}

/// Does the server not want the filter, whatever it is of the node (OPC UA Part 4, 5.13.2.4)?
fn is_about_the_filter(code: StatusCode) -> bool {
    matches!(
        code,
        StatusCode::BadMonitoredItemFilterUnsupported
            | StatusCode::BadMonitoredItemFilterInvalid
            | StatusCode::BadFilterNotAllowed
            | StatusCode::BadDeadbandFilterInvalid
    )
}

/// Does it say that the node is not there?
fn is_absence(status: Status) -> bool {
    [StatusCode::BadNodeIdUnknown, StatusCode::BadNodeIdInvalid, StatusCode::BadAttributeIdInvalid]
        .iter()
        .any(|code| code.bits() == status.code)
}

fn batch(plan: &Arc<DevicePlan>, read: usize, gathered: Gathered, now: Instant) -> Batch {
    let Gathered { part, readings, notes } = gathered;
    Batch {
        plan: plan.clone(),
        read,
        started: now,
        received: now,
        stamp: Stamp::now(),
        readings: Ok(readings),
        part,
        notes,
    }
}

fn unusable(failure: Failure) -> LinkLost {
    LinkLost(format!("the session can't be used: {failure}"))
}

fn gone() -> LinkLost {
    LinkLost("there is no session".into())
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
