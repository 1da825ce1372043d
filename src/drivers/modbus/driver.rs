//! The driver of a Modbus connection: what is due goes through [`super::fetch`], and what it tells is accounted.
//!
//! - A device that fails yields bad batches; only a lost link is an `Err`.
//! - A link that drops after it has answered is opened once more and the read repeated before it counts as lost: many
//!   devices close after each answer or after a short idle time, and reading twice does no harm.
//! - On a network, a link on which nobody answers any more is presumed dead (half open) and given up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use self::pipelined::InFlight;
use super::compile::{ModbusPlan, PlannedDevice};
use super::config::{Echo, Link, ModbusConfig};
use super::exchange::{Manner, Wire};
use super::fetch::{Fetch, Fetched};
use super::framing::Stray;
use super::plan::Exchange;
use super::probing::Probing;
use super::quarantine::Layout;
use super::transport::{Open, Opener};
use super::window::Window;
use crate::drivers::bans::Bans;
use crate::drivers::pace::Pace;
use crate::drivers::schedule::{Entry, Next, Schedule};
use crate::drivers::{Driver, LinkLost, Replan, Running, backoff, seed_of};
use crate::mapping::batch::{Batch, DeviceState};
use crate::mapping::device::{Device, DevicePlan};
use crate::metrics::{ConnectionMetrics, DeviceMetrics};
use crate::model::time::Stamp;

mod account;
mod merging;
mod pipelined;
mod replan;

pub(super) use self::merging::{Standing, names};

/// The driver of one Modbus connection.
pub struct ModbusDriver<O: Open = Opener> {
    config: ModbusConfig,
    opener: O,
    wire: Option<Wire<O::Stream>>,
    devices: Vec<Arc<DevicePlan>>,
    exchanges: Vec<Vec<Exchange>>,
    /// By device and read: how it's fetched where the planned request does not do.
    layouts: Vec<Vec<Option<Box<Layout>>>>,
    bans: Bans,
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
    /// Units that used to answer and timed out since the last byte from anybody; a few at most.
    fallen: Vec<u8>,
    /// The answers' data of the read in progress.
    data: Vec<u8>,
    /// Requests in flight, where several may be.
    window: Option<Window<InFlight>>,
    /// A read that must have the link to itself: it waits until nothing is in flight.
    waiting: Option<DueEntry>,
    /// Nothing new is asked for until what is in flight is answered: another plan waits.
    is_held: bool,
}

impl ModbusDriver<Opener> {
    /// A driver that opens real links. `metrics` are the devices', in the plan's order.
    pub fn new(
        name: &str,
        plan: ModbusPlan,
        metrics: Vec<Arc<DeviceMetrics>>,
        connection: Arc<ConnectionMetrics>,
    ) -> Self {
        let opener = Opener::with_rs485(plan.config.rs485);
        Self::with_opener(name, plan, metrics, connection, opener)
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
        for (planned, metrics) in plan.devices.into_iter().zip(metrics) {
            let PlannedDevice { device, reads, exchanges: of_device } = planned;
            devices.push(Arc::new(DevicePlan { device, reads, metrics }));
            exchanges.push(of_device);
        }
        let schedule = Schedule::new(entries(&devices), seed_of(name), Instant::now());
        let window = (plan.config.max_in_flight > 1).then(|| Window::new(plan.config.max_in_flight));
        Self {
            config: plan.config,
            opener,
            wire: None,
            paces: devices.iter().map(|_| Pace::default()).collect(),
            probings: devices.iter().map(|_| Probing::default()).collect(),
            devices,
            exchanges,
            layouts: Vec::new(),
            bans: Bans::default(),
            schedule,
            online: Box::new([None; 256]),
            changes: VecDeque::new(),
            metrics: connection,
            answered: false,
            rest_until: None,
            settled_at: None,
            echo_told: false,
            fallen: Vec::new(),
            data: Vec::new(),
            window,
            waiting: None,
            is_held: false,
        }
        .with_bans(Bans::default())
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
        let manner = Manner::of(&self.config, self.opener.pause(&self.config.link));
        let mut wire = Wire::new(stream, manner, Instant::now());
        if let Some(settled) = self.settled_at {
            wire.line().rest_until(settled);
        }
        self.wire = Some(wire);
        self.answered = false;
        Ok(())
    }

    fn close(&mut self) {
        self.waiting = None;
        self.window.iter_mut().for_each(|window| _ = window.take());
        if let Some(mut wire) = self.wire.take()
            && !matches!(self.config.link, Link::Tcp { .. })
        {
            self.settled_at = self.settled_at.max(Some(wire.line().settled_at()));
        }
    }

    /// One exchange of all blocks of a read; the link is opened once more if it drops.
    async fn fetch(&mut self, device: usize, read: usize) -> Result<Fetched, LinkLost> {
        let began = Instant::now();
        match self.fetch_once(device, read).await {
            Err(lost) if self.answered => {
                self.open().await.map_err(|_| lost)?;
                self.metrics.connects.inc();
                let retried = began.elapsed();
                let fetched = self.fetch_once(device, read).await?;
                Ok(Fetched { began, retried: fetched.retried + retried, ..fetched })
            }
            fetched => fetched,
        }
    }

    /// Accounts a read that is over, and makes its batch.
    fn finish(&mut self, due: DueEntry, fetched: &Fetched) -> Result<Option<Batch>, LinkLost> {
        let Entry { device, read, unit, .. } = self.schedule.entry(due.entry);
        self.devices[device].metrics.missed_ticks.add(due.missed);
        let was_away = self.is_away(device);
        self.note_silence(unit);
        self.note_wire(device, read, fetched);
        self.account(due, device, fetched);
        if fetched.is_round {
            self.note_layout(device, read);
        } else {
            self.note_pace(device, read, fetched);
        }
        if self.is_half_open(fetched) {
            return Err(LinkLost("nobody answers".into()));
        }
        // A probe that failed tells nothing that is not known.
        if was_away && self.is_away(device) {
            return Ok(None);
        }
        let readings = fetched.result.map(|()| self.readings(device, read, fetched));
        Ok(Some(Batch {
            plan: self.devices[device].clone(),
            read,
            started: fetched.started,
            received: fetched.received,
            stamp: Stamp::now(),
            readings,
            part: None,
            notes: Vec::new(),
        }))
    }

    /// The planned request, or a round around what can't be read with it.
    async fn fetch_once(&mut self, device: usize, read: usize) -> Result<Fetched, LinkLost> {
        let mut whole = None;
        if self.is_plain(device, read) {
            let fetched = self.fetching(device, read, None).await?;
            if !self.can_divide(device, read, fetched.result) {
                return Ok(fetched);
            }
            self.make_layout(device, read);
            whole = Some(fetched);
        }
        let Some(mut layout) = self.layouts[device][read].take() else {
            return whole.ok_or_else(|| LinkLost("a read without a request".into()));
        };
        let fetched = self.fetching(device, read, Some((&mut layout, whole))).await;
        self.layouts[device][read] = Some(layout);
        fetched
    }

    async fn fetching(
        &mut self,
        device: usize,
        read: usize,
        round: Option<(&mut Layout, Option<Fetched>)>,
    ) -> Result<Fetched, LinkLost> {
        let is_probe = self.is_away(device);
        let wire = self.wire.as_mut().ok_or_else(|| LinkLost("not connected".into()))?;
        let limits = &self.devices[device].device.limits;
        let rest = self.config.delay_between_requests.max(limits.delay_between_requests);
        // Behind a refused request, its parts; else the schedule has kept what the device wants between its reads.
        let rest_until = match &round {
            Some((_, Some(whole))) if !rest.is_zero() => Some(whole.received + rest),
            _ => self.rest_until,
        };
        let mut fetch = Fetch {
            wire,
            config: &self.config,
            plan: &self.devices[device],
            exchange: &self.exchanges[device][read],
            every: self.devices[device].reads[read].every,
            data: &mut self.data,
            rest,
            rest_until,
            rested: Duration::ZERO,
            probing: is_probe.then_some(&mut self.probings[device]),
        };
        let fetched = match round {
            None => fetch.run().await,
            Some((layout, whole)) => fetch.round(layout, whole).await,
        };
        self.note_strays();
        if let Ok(fetched) = &fetched {
            // After an answer, as the profiles mean it; silence has been rest enough.
            let own = self.config.delay_between_requests;
            self.rest_until = (!own.is_zero()).then(|| fetched.received + own);
            self.answered |= fetched.is_answer();
        }
        fetched
    }

    fn note_strays(&mut self) {
        let Some(strays) = self.wire.as_mut().map(Wire::take_strays) else { return };
        if strays[Stray::Echo as usize] > 0 && self.config.echo == Echo::None && !self.echo_told {
            self.echo_told = true;
            tracing::warn!(connection = %self.metrics.name, "the adapter hears its own requests: set `echo: strip` on this connection");
        }
        for (counter, count) in self.metrics.strays.iter().zip(strays) {
            counter.add(count.into());
        }
    }
}

/// A connection that is closed between reads stays open for pauses shorter than this.
const WORTH_CLOSING: Duration = Duration::from_millis(100);

/// What is due.
#[derive(Clone, Copy, Debug)]
pub enum Due {
    /// An entry of the schedule.
    Entry(DueEntry),
    /// The answer to one of the requests that are in flight; not longer than until the next entry may be due.
    Answer(Option<Instant>),
}

/// An entry of the schedule that is due.
#[derive(Clone, Copy, Debug)]
pub struct DueEntry {
    entry: usize,
    missed: u64,
}

impl<O: Open> Driver for ModbusDriver<O> {
    type Due = Due;

    fn devices(&self) -> &[Arc<DevicePlan>] {
        &self.devices
    }

    fn longest_wait(&self) -> Duration {
        match self.config.link {
            Link::Serial { .. } => backoff::LONGEST_FOR_A_PORT,
            Link::Tcp { .. } | Link::RtuOverTcp { .. } => backoff::LONGEST,
        }
    }

    async fn connect(&mut self) -> Result<(), LinkLost> {
        self.open().await?;
        // Who was away is away until it answers: its failures tell nothing new.
        self.online.iter_mut().filter(|online| **online == Some(true)).for_each(|online| *online = None);
        self.changes.clear();
        self.fallen.clear();
        self.rest_until = None;
        self.ask_again_for_the_refused();
        self.schedule.restart(Instant::now());
        Ok(())
    }

    async fn due(&mut self) -> Due {
        loop {
            if let Some(answer) = self.due_in_flight() {
                return answer;
            }
            match self.schedule.next(Instant::now()) {
                Next::Due { entry, missed } => return Due::Entry(DueEntry { entry, missed }),
                Next::At(at) => {
                    if self.config.close_between_reads && at > Instant::now() + WORTH_CLOSING {
                        self.close();
                    }
                    sleep_until(at).await;
                }
                Next::Never => std::future::pending().await,
            }
        }
    }

    async fn read(&mut self, due: Due) -> Result<Option<Batch>, LinkLost> {
        if self.wire.is_none() {
            self.open().await?;
        }
        match due {
            Due::Answer(until) => self.answer(until).await,
            Due::Entry(due) if self.window.is_some() && self.post(due) => Ok(None),
            Due::Entry(due) => {
                let Entry { device, read, .. } = self.schedule.entry(due.entry);
                let fetched = self.fetch(device, read).await?;
                self.finish(due, &fetched)
            }
        }
    }

    fn state_change(&mut self) -> Option<(usize, DeviceState)> {
        self.changes.pop_front()
    }

    fn disconnect(&mut self) {
        self.close();
    }

    fn replan(&mut self, running: &Running) -> Replan {
        self.go_over(running)
    }
}

/// The entries of the schedule: each read of each device.
fn entries(devices: &[Arc<DevicePlan>]) -> Vec<Entry> {
    let of_device = |(ix, plan): (usize, &Arc<DevicePlan>)| {
        let Device { unit, budget, .. } = plan.device;
        let entry = |(read, every)| Entry { device: ix, read, unit, every, budget: budget.within };
        plan.reads.iter().map(|read| read.every).enumerate().map(entry).collect::<Vec<_>>()
    };
    devices.iter().enumerate().flat_map(of_device).collect()
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
