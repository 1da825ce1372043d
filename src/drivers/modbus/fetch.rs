//! One read of a device: its blocks one after the other, and a second look at the first where a value is split.
//!
//! No request outlives what the device's budget leaves of the time since the first one left.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};

use super::config::ModbusConfig;
use super::exchange::{Patience, Reply, Wire};
use super::framing::Request;
use super::line::QUIET_HALVES;
use super::plan::{Block, Cut, Exchange, Pick};
use super::probing::Probing;
use super::{decode, timing};
use crate::drivers::LinkLost;
use crate::mapping::device::{Device, DevicePlan};
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
    /// The unit's full response timeout.
    pub(super) response_timeout: Duration,
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
    /// The unit is away, and this asks whether it's back.
    pub(super) probing: Option<&'a mut Probing>,
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
        let mut so_far: Option<Fetched> = None;
        let again = self.exchange.repeat_first.then(|| self.exchange.blocks.first()).flatten();
        for block in self.exchange.blocks.iter().chain(again) {
            let next = self.block(*block, so_far.as_ref().map(|fetched| fetched.started)).await?;
            let failed = next.result.is_err();
            so_far = Some(next);
            if failed {
                break;
            }
        }
        let fetched = so_far.ok_or_else(|| LinkLost("a read without a request".into()))?;
        let torn = fetched.result.is_ok() && self.is_torn();
        Ok(Fetched { torn, ..fetched })
    }

    /// One block; `first` is when the read's first request left, if this is not it.
    async fn block(&mut self, block: Block, first: Option<Instant>) -> Result<Fetched, LinkLost> {
        if let Some(until) = self.rest_until.take() {
            sleep_until(until).await;
        }
        let spent = first.map_or(Duration::ZERO, |first| first.elapsed());
        let device = &self.plan.device;
        let patience = patience(self.config, device, block, spent, self.probing.as_deref_mut());
        let Patience { timeout, response_timeout, .. } = patience;
        let fetched = |result, started: Instant, received| {
            let started = first.unwrap_or(started);
            Fetched { result, began: started, started, received, response_timeout, torn: false }
        };
        if timeout.is_zero() {
            // The budget is spent: an answer could only be late.
            let now = Instant::now();
            return Ok(fetched(Err(Cause::Timeout), now, now));
        }
        let request = Request { unit: self.plan.device.unit, block };
        let done = self.wire.exchange(request, patience, self.data).await?;
        self.rest_until = (!self.rest.is_zero()).then(|| done.received + self.rest);
        Ok(fetched(result(done.reply), done.started, done.received))
    }

    /// Did words that are used change between the two answers of the first block?
    fn is_torn(&self) -> bool {
        self.exchange.repeat_first
            && self.exchange.cuts.iter().any(|cut| is_torn(cut, self.exchange, self.data))
    }
}

/// How long to wait for a block of a read whose first request left `spent` ago: the response timeout, or what the budget
/// leaves of it; for a probe, less.
pub(super) fn patience(
    config: &ModbusConfig,
    device: &Device,
    block: Block,
    spent: Duration,
    probing: Option<&mut Probing>,
) -> Patience {
    let response_timeout = timing::response_timeout(config, &device.limits, block);
    let left = response_timeout.min(device.budget.within.saturating_sub(spent));
    let Some(probing) = probing else {
        let line_rest = response_timeout * QUIET_HALVES / 2;
        return Patience { timeout: left, response_timeout, line_rest };
    };
    let frames = timing::line_of(&config.link).map_or(Duration::ZERO, |line| timing::frames(line, block));
    let timeout = probing.patience(frames, left, Instant::now());
    Patience { timeout, response_timeout, line_rest: timeout }
}

/// The cause of a reply that carries no data.
pub(super) fn result(reply: Reply) -> Result<(), Cause> {
    match reply {
        Reply::Data => Ok(()),
        Reply::Exception(code) => Err(Cause::Exception(code)),
        Reply::Timeout => Err(Cause::Timeout),
        Reply::Garbled => Err(Cause::Garbled),
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
