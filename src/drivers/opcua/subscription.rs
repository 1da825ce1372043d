//! Subscriptions of one session: what is watched, what has come, and whether anything still comes.
//!
//! - One subscription for each sampling interval; the publishing interval is the same.
//! - An open link proves nothing: each subscription watches the server's clock too, which changes all the time. Keep-alives without
//!   the clock's values mean that the subscription is dead.
//! - Notifications have numbers without holes (OPC UA Part 4, 5.14.1.1). One that is missing is asked for again; if the server
//!   no longer has it, the subscription is made anew, which yields the present value of everything.

use std::collections::BTreeMap;
use std::time::Duration;

use opcua::types::{
    DataChangeFilter, DataChangeTrigger, ExtensionObject, MonitoredItemCreateRequest, MonitoringMode,
    MonitoringParameters, NodeId, VariableId,
};
use tokio::time::Instant;

use super::link::{Channel, Failure};
use super::services::{millis, value_of};
use crate::mapping::compiled::{DeviceMap, Kind};
use crate::mapping::device::Trigger;
use crate::model::value::Cause;

/// A keep-alive comes about this often when there's nothing else.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// Without us the server keeps a subscription for about this long.
const LIFETIME: Duration = Duration::from_secs(60);

/// How often the server's clock is looked at.
const PULSE: Duration = Duration::from_secs(1);

/// The client handle of the server's clock; items have theirs from 0 on.
pub const PULSE_HANDLE: u32 = u32::MAX;

/// Beyond what it should take at most, an answer may take this long.
const GRACE: Duration = Duration::from_secs(1);

/// Values of the clock after which its silence means something: there are servers whose clock node stands still.
const PULSES_TO_TRUST: u32 = 3;

/// Where a value goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Index of the read among those that are watched.
    pub gather: usize,
    /// Index of the reading in its read.
    pub slot: usize,
}

/// A node that is watched.
#[derive(Debug)]
pub struct Item {
    /// Index of the device on its connection.
    pub device: usize,
    /// Index of the reading in its device's map.
    pub reading: usize,
    /// Its values need nothing but this to be understood: no member, no time stamps, no type of the server's own.
    pub plain: Option<Kind>,
    /// How far it must move before the server tells.
    pub deadband: Option<f64>,
    /// What makes a notification.
    pub trigger: Trigger,
    /// Values kept between two notifications.
    pub queue: u32,
    /// Who wants it.
    pub targets: Vec<Target>,
    /// What is known of it in the present session.
    pub state: ItemState,
    /// Why it was told to be bad, if it was, and no value has come since: said once, not at each try.
    pub told: Option<Cause>,
    /// The server's number for it in the present subscription.
    pub id: Option<u32>,
}

/// What is known of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemState {
    /// Nothing yet.
    New,
    /// The server watches it; its first value is to be here by then.
    Awaited(Instant),
    /// The server watches it; its first value has not come in time, and may still come: asking again would only begin anew what takes so long.
    Slow,
    /// Values come.
    Watched,
    /// The server can't, and why.
    Bad(Cause),
}

/// One subscription.
#[derive(Debug)]
pub struct Subscription {
    /// The sampling interval that is wanted.
    pub sampling: Duration,
    /// Indices of its items.
    pub items: Vec<usize>,
    /// The server's number for it.
    pub id: u32,
    /// The next notification's number.
    pub next: u32,
    /// Between two answers at most.
    keep_alive: Duration,
    /// When anything came last.
    heard: Instant,
    /// When the server's clock came last, and how often it has come.
    pulse: (Instant, u32),
    /// The first value of an item comes so soon after it was created.
    first_within: Duration,
    /// When to look whether first values are missing; `None`: none is awaited.
    first_by: Option<Instant>,
    /// It has been made anew since values last came.
    pub is_second: bool,
}

/// Which of a subscription's silences has lasted too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// Not even a keep-alive came.
    Dead,
    /// Keep-alives came, and no values.
    NoValues,
    /// Some first values may not have come in time.
    NoFirstValues,
}

impl Subscription {
    /// Not created yet.
    pub fn new(sampling: Duration, items: Vec<usize>) -> Self {
        let now = Instant::now();
        Self {
            sampling,
            items,
            id: 0,
            next: 1,
            keep_alive: KEEP_ALIVE,
            heard: now,
            pulse: (now, 0),
            first_within: Duration::ZERO,
            first_by: None,
            is_second: false,
        }
    }

    /// Creates it on the server, without items.
    /// `most`: values in one notification.
    pub async fn create(&mut self, channel: &Channel, most: u32, limit: Duration) -> Result<(), Failure> {
        let keep_alive = count(KEEP_ALIVE, self.sampling);
        // At least three keep-alives (OPC UA Part 4, 5.14.2.2).
        let lifetime = count(LIFETIME, self.sampling).max(3 * keep_alive);
        let created = channel.subscribe(self.sampling, lifetime, keep_alive, most, limit).await?;
        let publishing = duration(created.revised_publishing_interval);
        if publishing > self.sampling.mul_f64(1.01) {
            tracing::warn!(asked = ?self.sampling, publishing = ?publishing, "the server publishes less often than asked for");
        }
        let now = Instant::now();
        self.id = created.subscription_id;
        self.next = 1;
        self.keep_alive =
            publishing.saturating_mul(created.revised_max_keep_alive_count.max(1)).min(LIFETIME);
        (self.heard, self.pulse) = (now, (now, 0));
        self.first_within = 2 * publishing.max(self.sampling) + limit + GRACE;
        self.first_by = None;
        Ok(())
    }

    /// The longest sampling interval that the server has granted to an item, in milliseconds.
    pub fn note_sampling(&self, granted: f64) {
        let sampling = duration(granted);
        if sampling > self.sampling.mul_f64(1.01) {
            tracing::warn!(asked = ?self.sampling, sampling = ?sampling, "the server looks at nodes less often than asked for");
        }
    }

    /// The item that watches the server's clock.
    pub fn pulse_item(&self) -> MonitoredItemCreateRequest {
        let node = NodeId::from(VariableId::Server_ServerStatus_CurrentTime);
        request(&node, PULSE_HANDLE, PULSE.max(self.sampling), 1, ExtensionObject::null())
    }

    /// An answer came.
    pub fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// The server's clock came.
    pub fn pulsed(&mut self, now: Instant) {
        self.pulse = (now, self.pulse.1.saturating_add(1));
        if self.pulse.1 >= PULSES_TO_TRUST {
            self.is_second = false;
        }
    }

    /// First values are awaited from now on; when the last of them is to be here.
    pub fn awaits(&mut self, now: Instant) -> Instant {
        let by = now + self.first_within;
        self.first_by.get_or_insert(by);
        by
    }

    /// What is left of the first values that are awaited: when to look for the next of them.
    pub fn awaits_until(&mut self, by: Option<Instant>) {
        self.first_by = by;
    }

    /// Has the server's clock come?
    pub fn has_pulsed(&self) -> bool {
        self.pulse.1 > 0
    }

    /// When to look for a silence.
    pub fn patience(&self) -> Instant {
        let dead = self.heard + self.keep_alive.mul_f64(1.5) + GRACE;
        [Some(dead), self.pulse_by(), self.first_by].into_iter().flatten().min().unwrap_or(dead)
    }

    /// Has a silence lasted too long?
    pub fn silence(&self, now: Instant) -> Option<Silence> {
        if now >= self.heard + self.keep_alive.mul_f64(1.5) + GRACE {
            return Some(Silence::Dead);
        }
        if self.pulse_by().is_some_and(|by| now >= by) {
            return Some(Silence::NoValues);
        }
        self.first_by.is_some_and(|by| now >= by).then_some(Silence::NoFirstValues)
    }

    fn pulse_by(&self) -> Option<Instant> {
        let every = PULSE.max(self.sampling) + self.sampling;
        (self.pulse.1 >= PULSES_TO_TRUST).then_some(self.pulse.0 + 3 * every + GRACE)
    }
}

/// What is to be created on the server for an item.
pub fn item_request(
    item: &Item,
    node: &NodeId,
    handle: u32,
    sampling: Duration,
    filtered: bool,
) -> MonitoredItemCreateRequest {
    let trigger = match item.trigger {
        Trigger::Status => DataChangeTrigger::Status,
        Trigger::Value => DataChangeTrigger::StatusValue,
        Trigger::Timestamp => DataChangeTrigger::StatusValueTimestamp,
    };
    // 1 is absolute, 0 is none (OPC UA Part 4, 7.22.2).
    let (deadband_type, deadband_value) = item.deadband.map_or((0, 0.0), |size| (1, size));
    // Status and value are the protocol's default, and there are servers that without a filter tell of the value only.
    let filter = match filtered {
        true => ExtensionObject::from_message(DataChangeFilter { trigger, deadband_type, deadband_value }),
        false => ExtensionObject::null(),
    };
    request(node, handle, sampling, item.queue, filter)
}

fn request(
    node: &NodeId,
    handle: u32,
    sampling: Duration,
    queue: u32,
    filter: ExtensionObject,
) -> MonitoredItemCreateRequest {
    MonitoredItemCreateRequest {
        item_to_monitor: value_of(node),
        monitoring_mode: MonitoringMode::Reporting,
        requested_parameters: MonitoringParameters {
            client_handle: handle,
            sampling_interval: millis(sampling),
            filter,
            queue_size: queue,
            discard_oldest: true,
        },
    }
}

/// The deadband of a reading in the node's own unit, where the server can apply it: of a plain number that one point is made from.
pub fn deadband(map: &DeviceMap, reading: usize) -> Option<f64> {
    use crate::mapping::compiled::{Deadband, Select, Source};
    let mut users = map
        .points
        .iter()
        .filter(|point| point.source == Source::Reading(crate::mapping::compiled::ReadingIx(reading as u32)));
    let (Some(point), None) = (users.next(), users.next()) else { return None };
    let number = matches!(
        map.readings[reading].decode.kind,
        Kind::Int8
            | Kind::Int16
            | Kind::Int32
            | Kind::Int64
            | Kind::Uint8
            | Kind::Uint16
            | Kind::Uint32
            | Kind::Uint64
            | Kind::Float32
            | Kind::Float64
    );
    let plain = number
        && point.transform.select == Select::Whole
        && point.transform.scale_from.is_none()
        && point.smooth.is_none();
    match &point.deadband {
        Some(Deadband::Absolute(size)) if plain => {
            let scale = point.transform.scale.map_or(1.0, |scale| scale.to_f64().abs());
            Some(size.to_f64() / scale).filter(|size| size.is_finite() && *size > 0.0)
        }
        _ => None,
    }
}

/// So many publishing intervals make so long a time; at least 1.
fn count(time: Duration, interval: Duration) -> u32 {
    let count = time.as_nanos() / interval.as_nanos().max(1);
    u32::try_from(count).unwrap_or(u32::MAX).clamp(1, 100_000)
}

/// A duration as servers give it; nonsense becomes a day.
fn duration(millis: f64) -> Duration {
    Duration::try_from_secs_f64(millis / 1e3).unwrap_or(Duration::from_secs(86_400))
}

/// Items by their sampling interval.
pub fn by_sampling(items: impl Iterator<Item = (usize, Duration)>) -> Vec<Subscription> {
    let mut groups: BTreeMap<Duration, Vec<usize>> = BTreeMap::new();
    for (item, sampling) in items {
        groups.entry(sampling).or_default().push(item);
    }
    groups.into_iter().map(|(sampling, items)| Subscription::new(sampling, items)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_first_value_has_its_own_time_however_old_the_subscription_is() {
        let mut subscription = Subscription::new(Duration::from_millis(250), vec![0, 1]);
        subscription.first_within = Duration::from_secs(3);
        subscription.keep_alive = Duration::from_secs(600);
        let start = Instant::now();
        let first = subscription.awaits(start);
        assert_eq!(subscription.patience(), first);
        // Another node is asked for again much later: nothing is missing at once.
        subscription.awaits_until(None);
        let late = start + Duration::from_secs(60);
        let second = subscription.awaits(late);
        assert_eq!(subscription.silence(late), None);
        assert_eq!(second, late + Duration::from_secs(3));
        assert_eq!(subscription.silence(second), Some(Silence::NoFirstValues));
    }
}
