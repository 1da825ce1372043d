//! The driver of a Modbus connection: what is due goes through [`super::fetch`], and what it tells is accounted.
//!
//! - A device that fails yields bad batches; only a lost link is an `Err`.
//! - A link that drops after it has answered is opened once more and the read repeated before it counts as lost: many
//!   devices close after each answer or after a short idle time, and reading twice does no harm.
//! - On a network, a link on which nobody answers any more is presumed dead (half open) and given up.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use tokio::time::{Instant, sleep_until};

use super::compile::{ModbusPlan, PlannedDevice};
use super::config::{Echo, Link, ModbusConfig};
use super::exchange::{Manner, Wire};
use super::fetch::{Fetch, Fetched, readings};
use super::framing::{Framing, Stray};
use super::plan::Exchange;
use super::probing::Probing;
use super::timing;
use super::transport::{Open, Opener};
use crate::drivers::pace::{Change, Pace};
use crate::drivers::schedule::{Entry, Health, Next, Outcome, Schedule};
use crate::drivers::{Driver, LinkLost};
use crate::mapping::batch::{Batch, DeviceState};
use crate::mapping::device::DevicePlan;
use crate::metrics::{BusUse, ConnectionMetrics, DeviceMetrics};
use crate::model::time::Stamp;
use crate::model::value::Cause;

/// On a network, so many timeouts in a row without a byte from anybody make a link suspect.
const SILENT_TIMEOUTS: u32 = 3;

/// So many units that used to answer don't fall silent one after the other by themselves: the link is gone.
const FALLEN_UNITS: usize = 3;

/// Gateway path unavailable, gateway target failed to respond (Modbus Application Protocol V1.1b3, section 7): the
/// gateway lives, the device behind it doesn't.
const GATEWAY_EXCEPTIONS: [u8; 2] = [0x0A, 0x0B];

/// Acknowledge (a long command is being executed), server device busy (section 7): ask again later.
const BUSY_EXCEPTIONS: [u8; 2] = [0x05, 0x06];

/// The driver of one Modbus connection.
pub struct ModbusDriver<O: Open = Opener> {
    config: ModbusConfig,
    opener: O,
    wire: Option<Wire<O::Stream>>,
    devices: Vec<Arc<DevicePlan>>,
    exchanges: Vec<Vec<Exchange>>,
    paces: Vec<Pace>,
    /// What is known of each device's answers, for probes.
    probings: Vec<Probing>,
    schedule: Schedule,
    /// By unit id: does it answer? `None`: not known since the link came up.
    online: Box<[Option<bool>; 256]>,
    changes: VecDeque<(usize, DeviceState)>,
    metrics: Arc<ConnectionMetrics>,
    /// Has anybody answered since the link was opened?
    answered: bool,
    /// No request to anybody before: the connection's own rest.
    rest_until: Option<Instant>,
    /// RTU: until then an answer to what was asked on an earlier link may still arrive: the line remembers what the
    /// link forgets, behind a serial device server too.
    settled_at: Option<Instant>,
    /// An echo that nobody expected has been reported.
    echo_told: bool,
    /// Units that used to answer and timed out since the last byte from anybody; at most [`FALLEN_UNITS`].
    fallen: Vec<u8>,
    /// The answers' data of the read in progress.
    data: Vec<u8>,
}

impl ModbusDriver<Opener> {
    /// A driver that opens real links. `metrics` are the devices', in the plan's order.
    pub fn new(
        name: &str,
        plan: ModbusPlan,
        metrics: Vec<Arc<DeviceMetrics>>,
        connection: Arc<ConnectionMetrics>,
    ) -> Self {
        Self::with_opener(name, plan, metrics, connection, Opener::default())
    }
}

impl<O: Open> ModbusDriver<O> {
    /// A driver that talks through what `opener` gives.
    pub fn with_opener(
        name: &str,
        plan: ModbusPlan,
        metrics: Vec<Arc<DeviceMetrics>>,
        connection: Arc<ConnectionMetrics>,
        opener: O,
    ) -> Self {
        let mut devices = Vec::with_capacity(plan.devices.len());
        let mut exchanges = Vec::with_capacity(plan.devices.len());
        let mut entries = Vec::new();
        for (ix, (planned, metrics)) in plan.devices.into_iter().zip(metrics).enumerate() {
            let PlannedDevice { device, reads, exchanges: of_device } = planned;
            entries.extend(reads.iter().enumerate().map(|(read, plan)| Entry {
                device: ix,
                read,
                unit: device.unit,
                every: plan.every,
                budget: device.budget.within,
            }));
            devices.push(Arc::new(DevicePlan { device, reads, metrics }));
            exchanges.push(of_device);
        }
        Self {
            config: plan.config,
            opener,
            wire: None,
            paces: devices.iter().map(|_| Pace::default()).collect(),
            probings: devices.iter().map(|_| Probing::default()).collect(),
            devices,
            exchanges,
            schedule: Schedule::new(entries, seed_of(name), Instant::now()),
            online: Box::new([None; 256]),
            changes: VecDeque::new(),
            metrics: connection,
            answered: false,
            rest_until: None,
            settled_at: None,
            echo_told: false,
            fallen: Vec::new(),
            data: Vec::new(),
        }
    }

    /// Opens the link and leaves it the rest that it or a device wants.
    async fn open(&mut self) -> Result<(), LinkLost> {
        self.close();
        let stream =
            self.opener.open(&self.config.link).await.map_err(|error| LinkLost(error.to_string()))?;
        let wanted = self.devices.iter().map(|plan| plan.device.limits.delay_after_connect).max();
        let delay = self.config.delay_after_connect.max(wanted.unwrap_or_default());
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let framing = match self.config.link {
            Link::Tcp { .. } => Framing::Mbap,
            Link::RtuOverTcp { .. } | Link::Serial { .. } => Framing::Rtu,
        };
        let manner = Manner {
            framing,
            silence: self.config.silence(),
            late_window: self.config.late_window,
            is_serial: matches!(self.config.link, Link::Serial { .. }),
            pause: self.opener.pause(&self.config.link),
        };
        let mut wire = Wire::new(stream, manner, Instant::now());
        if let Some(settled) = self.settled_at {
            wire.line().rest_until(settled);
        }
        self.wire = Some(wire);
        self.answered = false;
        Ok(())
    }

    fn close(&mut self) {
        if let Some(mut wire) = self.wire.take()
            && !matches!(self.config.link, Link::Tcp { .. })
        {
            self.settled_at = self.settled_at.max(Some(wire.line().settled_at()));
        }
    }

    /// One exchange of all blocks of a read; the link is opened once more if it drops.
    async fn fetch(&mut self, device: usize, read: usize) -> Result<Fetched, LinkLost> {
        match self.fetch_once(device, read).await {
            Err(lost) if self.answered => {
                self.open().await.map_err(|_| lost)?;
                self.metrics.connects.inc();
                self.fetch_once(device, read).await
            }
            fetched => fetched,
        }
    }

    async fn fetch_once(&mut self, device: usize, read: usize) -> Result<Fetched, LinkLost> {
        let is_probe = self.is_away(device);
        let wire = self.wire.as_mut().ok_or_else(|| LinkLost("not connected".into()))?;
        let limits = &self.devices[device].device.limits;
        let rest = self.config.delay_between_requests.max(limits.delay_between_requests);
        let mut fetch = Fetch {
            wire,
            config: &self.config,
            plan: &self.devices[device],
            exchange: &self.exchanges[device][read],
            data: &mut self.data,
            rest,
            rest_until: self.rest_until,
            probing: is_probe.then_some(&mut self.probings[device]),
        };
        let fetched = fetch.run().await;
        let strays = wire.take_strays();
        if strays[Stray::Echo as usize] > 0 && self.config.echo == Echo::None && !self.echo_told {
            self.echo_told = true;
            tracing::warn!(connection = %self.metrics.name, "the adapter hears its own requests: set `echo: strip` on this connection");
        }
        for (counter, count) in self.metrics.strays.iter().zip(strays) {
            counter.add(count.into());
        }
        if let Ok(fetched) = &fetched {
            // After an answer, as the profiles mean it; silence has been rest enough.
            let own = self.config.delay_between_requests;
            self.rest_until = (!own.is_zero()).then(|| fetched.received + own);
            self.answered |= fetched.is_answer();
        }
        fetched
    }

    /// Counts what happened, tells the schedule, and notes who came or went.
    fn account(&mut self, due: Due, device: usize, fetched: &Fetched) {
        let plan = &self.devices[device];
        let (metrics, unit) = (&plan.metrics, plan.device.unit);
        match fetched.result {
            Ok(()) => {
                metrics.answered.inc();
                let took = fetched.received.saturating_duration_since(fetched.started);
                self.probings[device].answered(took);
            }
            Err(Cause::Exception(code)) => {
                metrics.exceptions.inc();
                if GATEWAY_EXCEPTIONS.contains(&code) {
                    self.probings[device].gateway_answered();
                }
            }
            Err(Cause::Timeout) => metrics.timeouts.inc(),
            Err(_) => metrics.garbled.inc(),
        }
        let line = self.wire.as_mut().map(Wire::line);
        let free = line.as_ref().and_then(|line| line.free_at(unit));
        let quiet_until = line.map_or(fetched.received, |line| line.quiet_until());
        let spent = quiet_until.max(fetched.received).saturating_duration_since(fetched.began);
        let outcome = match fetched.result {
            Ok(()) => Outcome::Answered,
            Err(Cause::Exception(code)) if BUSY_EXCEPTIONS.contains(&code) => Outcome::Busy,
            Err(Cause::Exception(code)) if !GATEWAY_EXCEPTIONS.contains(&code) => Outcome::Refused,
            Err(_) => Outcome::Failed { cost: spent },
        };
        let what = match outcome {
            _ if self.schedule.is_sick(due.entry) => BusUse::Probe,
            Outcome::Failed { .. } => BusUse::Timeout,
            _ => BusUse::Poll,
        };
        metrics.spent_on_bus(what, spent);
        let health = self.schedule.done(due.entry, fetched.received, outcome);
        let rest = plan.device.limits.delay_between_requests;
        let rested = (!rest.is_zero()).then(|| fetched.received + rest);
        if let Some(until) = rested.max(free) {
            self.schedule.hold(due.entry, until);
        }
        match (outcome, fetched.result) {
            (Outcome::Failed { .. }, Err(cause)) if health == Some(Health::Sick) => {
                self.unit_is(unit, DeviceState::Offline(cause));
            }
            // A sick unit is back when the schedule says so, not at each answer of a loose contact.
            (Outcome::Failed { .. }, _) => {}
            _ if !self.schedule.is_sick(due.entry) => self.unit_is(unit, DeviceState::Online),
            _ => {}
        }
    }

    /// Compares an answered read with its plan.
    fn note_pace(&mut self, device: usize, read: usize, fetched: &Fetched) {
        if fetched.result.is_err() {
            return;
        }
        let plan = &self.devices[device];
        let exchange = &self.exchanges[device][read];
        let planned = timing::exchange_time(&self.config, &plan.device.limits, exchange);
        plan.metrics.planned_micros.add(u64::try_from(planned.as_micros()).unwrap_or(u64::MAX));
        let measured = fetched.received.saturating_duration_since(fetched.began);
        if let Some(Change { is_slow, planned, measured }) = self.paces[device].note(planned, measured) {
            let text = if is_slow { "answers slower than planned" } else { "answers as planned again" };
            tracing::info!(device = %plan.device.name, ?planned, ?measured, "{text}");
        }
    }

    /// Notes a unit's state for all devices of that unit id, if it changed.
    fn unit_is(&mut self, unit: u8, state: DeviceState) {
        let online = Some(state == DeviceState::Online);
        if std::mem::replace(&mut self.online[usize::from(unit)], online) == online {
            return;
        }
        let of_unit = self.devices.iter().enumerate().filter(|(_, plan)| plan.device.unit == unit);
        self.changes.extend(of_unit.map(|(ix, _)| (ix, state)));
    }

    fn is_away(&self, device: usize) -> bool {
        self.online[usize::from(self.devices[device].device.unit)] == Some(false)
    }

    /// A network link that stays silent towards everybody is half open: only a new connection heals it. One dead unit
    /// among others behind a gateway is no such case, and on a serial port there is nothing to reconnect to.
    fn is_half_open(&self, fetched: &Fetched) -> bool {
        let (timeouts, Some(since)) = self.silence() else { return false };
        // A tight budget makes for short timeouts: three of them may pass while a device thinks.
        let silent_for = fetched.received.saturating_duration_since(since);
        !matches!(self.config.link, Link::Serial { .. })
            && timeouts >= SILENT_TIMEOUTS
            && silent_for >= fetched.response_timeout * SILENT_TIMEOUTS
            && (self.schedule.nobody_answers() || self.fallen.len() >= FALLEN_UNITS)
    }

    /// Remembers which units fell silent in the present silence.
    fn note_silence(&mut self, unit: u8) {
        let (timeouts, _) = self.silence();
        if timeouts <= 1 {
            self.fallen.clear();
        }
        let fell = timeouts > 0 && self.online[usize::from(unit)] == Some(true);
        if fell && self.fallen.len() < FALLEN_UNITS && !self.fallen.contains(&unit) {
            self.fallen.push(unit);
        }
    }

    fn silence(&self) -> (u32, Option<Instant>) {
        self.wire.as_ref().map_or((0, None), Wire::silence)
    }
}

/// What is due: an entry of the schedule.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    entry: usize,
    missed: u64,
}

impl<O: Open> Driver for ModbusDriver<O> {
    type Due = Due;

    fn devices(&self) -> &[Arc<DevicePlan>] {
        &self.devices
    }

    async fn connect(&mut self) -> Result<(), LinkLost> {
        self.open().await?;
        // Who was away is away until it answers: its failures tell nothing new.
        self.online.iter_mut().filter(|online| **online == Some(true)).for_each(|online| *online = None);
        self.changes.clear();
        self.fallen.clear();
        self.rest_until = None;
        self.schedule.restart(Instant::now());
        Ok(())
    }

    async fn due(&mut self) -> Due {
        loop {
            match self.schedule.next(Instant::now()) {
                Next::Due { entry, missed } => return Due { entry, missed },
                Next::At(at) => sleep_until(at).await,
                Next::Never => std::future::pending().await,
            }
        }
    }

    async fn read(&mut self, due: Due) -> Result<Option<Batch>, LinkLost> {
        let Entry { device, read, unit, .. } = self.schedule.entry(due.entry);
        self.devices[device].metrics.missed_ticks.add(due.missed);
        let was_away = self.is_away(device);
        let fetched = self.fetch(device, read).await?;
        self.note_silence(unit);
        self.account(due, device, &fetched);
        self.note_pace(device, read, &fetched);
        if self.is_half_open(&fetched) {
            return Err(LinkLost("nobody answers".into()));
        }
        // A probe that failed tells nothing that is not known.
        if was_away && self.is_away(device) {
            return Ok(None);
        }
        let exchange = &self.exchanges[device][read];
        let readings = fetched.result.map(|()| readings(exchange, &self.data, fetched.torn));
        Ok(Some(Batch {
            plan: self.devices[device].clone(),
            read,
            started: fetched.started,
            received: fetched.received,
            stamp: Stamp::now(),
            readings,
        }))
    }

    fn state_change(&mut self) -> Option<(usize, DeviceState)> {
        self.changes.pop_front()
    }

    fn disconnect(&mut self) {
        self.close();
    }
}

/// The connection's phase: the same at every start, different for each name.
fn seed_of(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(name.as_bytes());
    hasher.finish()
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
