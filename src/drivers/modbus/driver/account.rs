//! What a read that is over means: for the counts, the schedule, the units' states, and the link.

use tokio::time::Instant;

use super::{DueEntry, ModbusDriver};
use crate::drivers::modbus::config::Link;
use crate::drivers::modbus::exchange::Wire;
use crate::drivers::modbus::fetch::Fetched;
use crate::drivers::modbus::plan::Block;
use crate::drivers::modbus::timing;
use crate::drivers::modbus::transport::Open;
use crate::drivers::pace::Change;
use crate::drivers::schedule::{Health, Outcome};
use crate::mapping::batch::DeviceState;
use crate::metrics::BusUse;
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

/// The PDU of a request, and how that of an answer begins (Modbus Application Protocol V1.1b3, 6.1 to 6.4).
fn pdus(block: Block) -> ([u8; 5], [u8; 2]) {
    let function = block.table.read_function();
    let ([a, b], [c, d]) = (block.address.to_be_bytes(), block.count.to_be_bytes());
    // 250 bytes at most: a block is no larger than an answer.
    ([function, a, b, c, d], [function, u8::try_from(block.bytes()).unwrap_or(u8::MAX)])
}

impl<O: Open> ModbusDriver<O> {
    /// Keeps what was asked and answered, for whoever asks why.
    pub(super) fn note_wire(&self, device: usize, read: usize, fetched: &Fetched) {
        let took = fetched.received.saturating_duration_since(fetched.started);
        self.devices[device].metrics.wire.record(read, fetched.started, took, |wire| {
            if let (Some(layout), true) = (&self.layouts[device][read], fetched.is_round) {
                for got in layout.got() {
                    let (request, head) = pdus(got.block);
                    let data = self.data.get(got.at..got.at + got.block.bytes()).unwrap_or_default();
                    wire.add(&request, [&head, data]);
                }
                return;
            }
            let mut at = 0;
            for block in &self.exchanges[device][read].blocks {
                let (request, head) = pdus(*block);
                let end = at + block.bytes();
                match (self.data.get(at..end), fetched.result) {
                    (Some(data), _) => wire.add(&request, [&head, data]),
                    (None, Err(Cause::Exception(code))) => {
                        return wire.add(&request, [&[request[0] | 0x80, code], &[]]);
                    }
                    (None, _) => return wire.add(&request, [&[], &[]]),
                }
                at = end;
            }
        });
    }

    /// Counts what happened, tells the schedule, and notes who came or went.
    pub(super) fn account(&mut self, due: DueEntry, device: usize, fetched: &Fetched) {
        let plan = &self.devices[device];
        let (metrics, unit) = (&plan.metrics, plan.device.unit);
        match fetched.result {
            Ok(()) => {
                metrics.answered.inc();
                let took = fetched.received.saturating_duration_since(fetched.started);
                self.probings[device].answered(took);
            }
            Err(Cause::Exception(code)) => {
                metrics.refused_with(code);
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
        metrics.retries.add(u64::from(!fetched.retried.is_zero()));
        let spent = quiet_until.max(fetched.received).saturating_duration_since(fetched.began);
        let outcome = match fetched.result {
            Ok(()) if self.is_unfinished(due) => Outcome::Refused,
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
        metrics.spent_on_bus(what, spent.saturating_sub(fetched.retried));
        metrics.spent_on_bus(BusUse::Retry, fetched.retried.min(spent));
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
    pub(super) fn note_pace(&mut self, device: usize, read: usize, fetched: &Fetched) {
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

    pub(super) fn is_away(&self, device: usize) -> bool {
        self.online[usize::from(self.devices[device].device.unit)] == Some(false)
    }

    /// A network link that stays silent towards everybody is half open: only a new connection heals it. One dead unit
    /// among others behind a gateway is no such case, and on a serial port there is nothing to reconnect to.
    pub(super) fn is_half_open(&self, fetched: &Fetched) -> bool {
        let (timeouts, Some(since)) = self.silence() else { return false };
        // A tight budget makes for short timeouts: three of them may pass while a device thinks.
        let silent_for = fetched.received.saturating_duration_since(since);
        !matches!(self.config.link, Link::Serial { .. })
            && timeouts >= SILENT_TIMEOUTS
            && silent_for >= fetched.response_timeout * SILENT_TIMEOUTS
            && (self.schedule.nobody_answers() || self.fallen.len() >= FALLEN_UNITS)
    }

    /// Remembers which units fell silent in the present silence.
    pub(super) fn note_silence(&mut self, unit: u8) {
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
