//! Several requests in flight on one TCP connection: reads are posted as they fall due and told as they are answered.
//!
//! A read of several requests, or of a device that wants rests, waits until nothing is in flight and has the link to itself.

use std::time::Duration;

use tokio::time::Instant;

use super::{Due, DueEntry, ModbusDriver};
use crate::drivers::LinkLost;
use crate::drivers::modbus::fetch::{Fetched, patience, result};
use crate::drivers::modbus::framing::Request;
use crate::drivers::modbus::plan::Exchange;
use crate::drivers::modbus::transport::Open;
use crate::drivers::schedule::{Entry, Next};
use crate::mapping::batch::Batch;

/// What a request in flight is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct InFlight {
    due: DueEntry,
    response_timeout: Duration,
}

impl<O: Open> ModbusDriver<O> {
    /// What is due while requests are in flight, or while a read waits for the link.
    pub(super) fn due_in_flight(&mut self) -> Option<Due> {
        let window = self.window.as_ref()?;
        if window.is_empty() {
            return self.waiting.take().map(Due::Entry);
        }
        if self.waiting.is_some() || self.is_held || !window.has_room() {
            return Some(Due::Answer(None));
        }
        Some(match self.schedule.next(Instant::now()) {
            Next::Due { entry, missed } => Due::Entry(DueEntry { entry, missed }),
            Next::At(at) => Due::Answer(Some(at)),
            Next::Never => Due::Answer(None),
        })
    }

    /// Posts a read, or lets it wait for the link. `false`: it has the link to itself.
    pub(super) fn post(&mut self, due: DueEntry) -> bool {
        let Entry { device, read, .. } = self.schedule.entry(due.entry);
        let exchange = &self.exchanges[device][read];
        let rest =
            self.config.delay_between_requests.max(self.devices[device].device.limits.delay_between_requests);
        let Exchange { blocks, repeat_first: false, .. } = exchange else { return self.wait(due) };
        let [block] = blocks[..] else { return self.wait(due) };
        if !rest.is_zero() || !self.is_plain(device, read) {
            return self.wait(due);
        }
        let is_probe = self.is_away(device);
        let (Some(wire), Some(window)) = (&mut self.wire, &mut self.window) else { return false };
        let target = &self.devices[device].device;
        let probing = is_probe.then_some(&mut self.probings[device]);
        let patience = patience(&self.config, target, block, Duration::ZERO, probing);
        let request = Request { unit: target.unit, block };
        let response_timeout = patience.response_timeout;
        window.post(wire, request, patience, InFlight { due, response_timeout });
        true
    }

    /// A merged request was refused: its read has its round, alone on the link, as soon as nothing is in flight.
    fn goes_on_alone(&mut self, due: DueEntry, fetched: &Fetched) -> bool {
        let Entry { device, read, .. } = self.schedule.entry(due.entry);
        if self.waiting.is_some() || !self.can_divide(device, read, fetched.result) {
            return false;
        }
        self.whole_refused(device, read, fetched.result);
        self.waiting = Some(due);
        true
    }

    fn wait(&mut self, due: DueEntry) -> bool {
        let is_busy = self.window.as_ref().is_some_and(|window| !window.is_empty());
        self.waiting = is_busy.then_some(due);
        is_busy
    }

    /// Waits for one answer, at most until `until`; the link is opened once more, and everything asked again, if it drops.
    pub(super) async fn answer(&mut self, until: Option<Instant>) -> Result<Option<Batch>, LinkLost> {
        loop {
            let (Some(wire), Some(window)) = (&mut self.wire, &mut self.window) else {
                return Err(LinkLost("not connected".into()));
            };
            self.data.clear();
            let next = window.next(wire, until, &mut self.data).await;
            self.note_strays();
            match next {
                Ok(None) => return Ok(None),
                Ok(Some((done, InFlight { due, response_timeout }))) => {
                    let fetched = Fetched {
                        result: result(done.reply),
                        began: done.started,
                        started: done.started,
                        received: done.received,
                        response_timeout,
                        torn: false,
                        is_round: false,
                        retried: Duration::ZERO,
                    };
                    self.answered |= fetched.is_answer();
                    if self.goes_on_alone(due, &fetched) {
                        return Ok(None);
                    }
                    return self.finish(due, &fetched);
                }
                Err(lost) if self.answered => self.ask_again(lost).await?,
                Err(lost) => return Err(lost),
            }
        }
    }

    async fn ask_again(&mut self, lost: LinkLost) -> Result<(), LinkLost> {
        let waiting = self.waiting;
        let in_flight = self.window.as_mut().map(|window| window.take()).unwrap_or_default();
        self.open().await.map_err(|_| lost)?;
        self.metrics.connects.inc();
        in_flight.into_iter().for_each(|(_, InFlight { due, .. })| _ = self.post(due));
        self.waiting = waiting;
        Ok(())
    }
}
