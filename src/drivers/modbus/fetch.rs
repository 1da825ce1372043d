//! One read of a device: its blocks one after the other, and a second look at the first where a value is split.
//!
//! No request outlives what the device's budget leaves of the time since the first one left.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};

use super::config::ModbusConfig;
use super::exchange::{Patience, Reply, Wire};
use super::framing::Request;
use super::plan::{Block, Cut, Exchange, Pick};
use super::{decode, timing};
use crate::drivers::LinkLost;
use crate::mapping::device::DevicePlan;
use crate::model::value::{Cause, Raw};

/// A torn read is tried so often in all.
const TRIES_WHEN_TORN: u32 = 2;

/// A read that is over.
pub(super) struct Fetched {
    pub(super) result: Result<(), Cause>,
    /// When the bus was taken for it.
    pub(super) began: Instant,
    /// When the request left whose answer is the oldest in the data.
    pub(super) started: Instant,
    pub(super) received: Instant,
    /// The block that was read twice differed.
    pub(super) torn: bool,
}

impl Fetched {
    /// Did anybody answer, if only to refuse?
    pub(super) fn is_answer(&self) -> bool {
        matches!(self.result, Ok(()) | Err(Cause::Exception(_)))
    }
}

/// One read in progress.
pub(super) struct Fetch<'a, S> {
    pub(super) wire: &'a mut Wire<S>,
    pub(super) config: &'a ModbusConfig,
    pub(super) plan: &'a DevicePlan,
    pub(super) exchange: &'a Exchange,
    pub(super) data: &'a mut Vec<u8>,
    /// Between the requests of this read.
    pub(super) rest: Duration,
    pub(super) rest_until: Option<Instant>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Fetch<'_, S> {
    /// All blocks; a torn read is repeated at once, a second time it stays torn.
    pub(super) async fn run(&mut self) -> Result<Fetched, LinkLost> {
        let mut fetched = self.blocks().await?;
        let began = fetched.began;
        for _ in 1..TRIES_WHEN_TORN {
            if !fetched.torn {
                break;
            }
            fetched = self.blocks().await?;
        }
        Ok(Fetched { began, ..fetched })
    }

    async fn blocks(&mut self) -> Result<Fetched, LinkLost> {
        self.data.clear();
        let mut times: Option<(Instant, Instant)> = None;
        let again = self.exchange.repeat_first.then(|| self.exchange.blocks.first()).flatten();
        for block in self.exchange.blocks.iter().chain(again) {
            if let Some(until) = self.rest_until.take() {
                sleep_until(until).await;
            }
            let patience = self.patience(*block, times.map(|(started, _)| started));
            if patience.timeout.is_zero() {
                // The budget is spent: an answer could only be late.
                let now = Instant::now();
                let (began, _) = times.unwrap_or((now, now));
                return Ok(Fetched {
                    result: Err(Cause::Timeout),
                    began,
                    started: began,
                    received: now,
                    torn: false,
                });
            }
            let request = Request { unit: self.plan.device.unit, block: *block };
            let done = self.wire.exchange(request, patience, self.data).await?;
            let (started, received) = (times.map_or(done.started, |(started, _)| started), done.received);
            times = Some((started, received));
            let result = match done.reply {
                Reply::Data => Ok(()),
                Reply::Exception(code) => Err(Cause::Exception(code)),
                Reply::Timeout => Err(Cause::Timeout),
                Reply::Garbled => Err(Cause::Garbled),
            };
            if result.is_err() {
                return Ok(Fetched { result, began: started, started, received, torn: false });
            }
            self.rest_until = (!self.rest.is_zero()).then(|| received + self.rest);
        }
        let now = Instant::now();
        let (started, received) = times.unwrap_or((now, now));
        Ok(Fetched { result: Ok(()), began: started, started, received, torn: self.is_torn() })
    }

    /// The response timeout, or what the budget leaves of it.
    fn patience(&self, block: Block, started: Option<Instant>) -> Patience {
        let device = &self.plan.device;
        let response_timeout = timing::response_timeout(self.config, &device.limits, block);
        let spent = started.map_or(Duration::ZERO, |started| started.elapsed());
        Patience {
            timeout: response_timeout.min(device.budget.within.saturating_sub(spent)),
            response_timeout,
        }
    }

    /// Did words that are used change between the two answers of the first block?
    fn is_torn(&self) -> bool {
        self.exchange.repeat_first
            && self.exchange.cuts.iter().any(|cut| is_torn(cut, self.exchange, self.data))
    }
}

/// Decodes all readings of an answered read; those of a torn block have no value.
pub(super) fn readings(exchange: &Exchange, data: &[u8], torn: bool) -> Vec<Result<Raw, Cause>> {
    let reading = |cut: &Cut| match torn && is_torn(cut, exchange, data) {
        true => Err(Cause::Torn),
        false => decode::cut(cut, data),
    };
    exchange.cuts.iter().map(reading).collect()
}

/// Do this reading's bytes in the first block differ from those of its repetition at the end?
fn is_torn(cut: &Cut, exchange: &Exchange, data: &[u8]) -> bool {
    let Some(length) = exchange.blocks.first().map(|block| block.bytes()) else { return false };
    let Some(repeated) = data.len().checked_sub(length) else { return false };
    let differs = |at: usize, bytes: usize| {
        at + bytes <= length && data.get(at..at + bytes) != data.get(repeated + at..repeated + at + bytes)
    };
    match &cut.pick {
        Pick::Words { at, count } => differs(*at as usize, usize::from(*count) * 2),
        Pick::Scattered(places) => places.iter().any(|at| differs(*at as usize, 2)),
        Pick::Bit(at) => {
            let (byte, bit) = (*at as usize / 8, at % 8);
            let is = |byte: usize| data.get(byte).map(|byte| byte >> bit & 1);
            byte < length && is(byte) != is(repeated + byte)
        }
    }
}
