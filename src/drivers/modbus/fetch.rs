//! One read of a device: its blocks one after the other, and a second look at the first where a value is split.
//!
//! No request outlives what the device's budget leaves of the time since the first one left; the rests that the device wants
//! between them don't count, since it would never be read otherwise. Its values are late then, and say so.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};

use super::config::ModbusConfig;
use super::exchange::{Patience, Reply, Wire};
use super::framing::Request;
use super::line::QUIET_HALVES;
use super::plan::{Block, Cut, Exchange, Pick};
use super::probing::Probing;
use super::quarantine::{Layout, SPLIT_EXCEPTIONS};
use super::{decode, timing};
use crate::drivers::LinkLost;
use crate::mapping::device::{Device, DevicePlan, Every};
use crate::model::value::{Cause, Raw};

/// A torn read is tried so often in all.
const TRIES_WHEN_TORN: u32 = 2;

/// The part of a read's interval and of its budget that may have passed when a request leaves that only finds something
/// out: one in so many.
const EXTRA_SHARE: u32 = 4;

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
    /// Its values are in what its layout has got.
    pub(super) is_round: bool,
    /// The part of it that went into requests which had to be repeated.
    pub(super) retried: Duration,
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
    pub(super) every: Every,
    pub(super) data: &'a mut Vec<u8>,
    /// Between the requests of this read.
    pub(super) rest: Duration,
    pub(super) rest_until: Option<Instant>,
    /// What the rests since the read's first request come to.
    pub(super) rested: Duration,
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
            let retried = fetched.received.saturating_duration_since(began);
            fetched = self.blocks().await?;
            fetched.retried += retried;
        }
        Ok(Fetched { began, ..fetched })
    }

    async fn blocks(&mut self) -> Result<Fetched, LinkLost> {
        self.data.clear();
        self.rested = Duration::ZERO;
        let mut so_far: Option<Fetched> = None;
        let again = self.exchange.repeat_first.then(|| self.exchange.blocks.first()).flatten();
        for block in self.exchange.blocks.iter().chain(again) {
            let next = self.behind(*block, so_far.as_ref()).await?;
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

    /// Round after round of requests, as the layout wants them; `so_far` is the whole request, if it was refused just now.
    /// A read that yields any value is answered.
    pub(super) async fn round(
        &mut self,
        layout: &mut Layout,
        so_far: Option<Fetched>,
    ) -> Result<Fetched, LinkLost> {
        let most_spent = most_spent(self.plan, self.every);
        match &so_far {
            Some(Fetched { result: Err(Cause::Exception(code)), .. }) => {
                layout.whole_refused(*code, most_spent)
            }
            _ => layout.begin(most_spent),
        }
        self.data.clear();
        let mut so_far = so_far;
        let mut failed = None;
        loop {
            let first = so_far.as_ref().map(|fetched| fetched.started);
            let spent = self.spent_since(first);
            let Some(ask) = layout.next(Instant::now(), spent) else { break };
            let at = self.data.len();
            let next = self.behind(ask.block, so_far.as_ref()).await?;
            let now = Instant::now();
            match next.result {
                Ok(()) => layout.answered(ask, &self.data[at..], at, now),
                Err(Cause::Exception(code)) if SPLIT_EXCEPTIONS.contains(&code) => {
                    layout.refused_with(ask, code, now);
                }
                Err(cause) => {
                    layout.failed(ask, now);
                    // What was only to be found out does no harm to the values.
                    failed = (!ask.is_extra || layout.got().is_empty()).then_some(cause);
                }
            }
            let is_over = next.result.is_err_and(|cause| !is_refusal(cause));
            so_far = Some(next);
            if is_over {
                break;
            }
        }
        layout.end(Instant::now());
        let fetched = so_far.ok_or_else(|| LinkLost("a read without a request".into()))?;
        let result = match failed {
            Some(cause) => Err(cause),
            None if !layout.got().is_empty() => Ok(()),
            None => Err(Cause::Exception(layout.exception(0).unwrap_or(SPLIT_EXCEPTIONS[0]))),
        };
        Ok(Fetched { result, is_round: true, ..fetched })
    }

    /// One block of a read, behind what is there of it.
    async fn behind(&mut self, block: Block, so_far: Option<&Fetched>) -> Result<Fetched, LinkLost> {
        let mut next = self.block(block, so_far.map(|fetched| fetched.started)).await?;
        if let Some(Fetched { began, started, retried, .. }) = so_far {
            (next.began, next.started) = (*began, *started);
            next.retried += *retried;
        }
        Ok(next)
    }

    /// One block; `first` is when the read's first request left, if this is not it. An answer that was damaged on the line
    /// is asked for once more.
    async fn block(&mut self, block: Block, first: Option<Instant>) -> Result<Fetched, LinkLost> {
        let (mut began, mut retried) = (None, Duration::ZERO);
        loop {
            if let Some(until) = self.rest_until.take() {
                let rest = until.saturating_duration_since(Instant::now());
                sleep_until(until).await;
                if first.or(began).is_some() {
                    self.rested += rest;
                }
            }
            let spent = self.spent_since(first.or(began));
            let device = &self.plan.device;
            let patience = patience(self.config, device, block, spent, self.probing.as_deref_mut());
            let response_timeout = patience.response_timeout;
            let fetched = |result, began, started, received| {
                let (torn, is_round) = (false, false);
                Fetched { result, began, started, received, response_timeout, torn, is_round, retried }
            };
            if patience.timeout.is_zero() {
                // The budget is spent: an answer could only be late.
                let now = Instant::now();
                let cause = if began.is_some() { Cause::Garbled } else { Cause::Timeout };
                return Ok(fetched(Err(cause), began.unwrap_or(now), now, now));
            }
            let request = Request { unit: device.unit, block };
            let done = self.wire.exchange(request, patience, self.data).await?;
            self.rest_until = (!self.rest.is_zero()).then(|| done.received + self.rest);
            if done.reply == Reply::Damaged && began.is_none() {
                began = Some(done.started);
                retried = done.received.saturating_duration_since(done.started);
                continue;
            }
            let began = began.unwrap_or(done.started);
            return Ok(fetched(result(done.reply), began, done.started, done.received));
        }
    }

    /// The time since the read's first request, without rests.
    fn spent_since(&self, first: Option<Instant>) -> Duration {
        first.map_or(Duration::ZERO, |first| first.elapsed().saturating_sub(self.rested))
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

/// The device does not like what is asked for, but may like a part of it.
pub(super) fn is_refusal(cause: Cause) -> bool {
    matches!(cause, Cause::Exception(code) if SPLIT_EXCEPTIONS.contains(&code))
}

/// How long after a read's first request another one may leave that only finds something out.
fn most_spent(plan: &DevicePlan, every: Every) -> Duration {
    let within = plan.device.budget.within;
    match every {
        Every::Interval(interval) => interval.min(within) / EXTRA_SHARE,
        Every::Once | Every::Changes(_) => within / EXTRA_SHARE,
    }
}

/// The cause of a reply that carries no data.
pub(super) fn result(reply: Reply) -> Result<(), Cause> {
    match reply {
        Reply::Data => Ok(()),
        Reply::Exception(code) => Err(Cause::Exception(code)),
        Reply::Timeout => Err(Cause::Timeout),
        Reply::Garbled | Reply::Damaged => Err(Cause::Garbled),
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

/// Decodes what a round has got. A reading that several requests yielded must be the same in all of them: the others of
/// its atom came with it.
pub(super) fn round_readings(exchange: &Exchange, layout: &Layout, data: &[u8]) -> Vec<Result<Raw, Cause>> {
    let mut readings = vec![Err(Cause::Torn); exchange.cuts.len()];
    for (atom, code) in
        exchange.atoms.iter().enumerate().filter_map(|(i, atom)| Some((atom, layout.exception(i)?)))
    {
        atom.cuts.iter().for_each(|cut| readings[*cut as usize] = Err(Cause::Exception(code)));
    }
    let Some(whole) = exchange.blocks.first() else { return readings };
    // Which request a reading was taken from.
    let mut taken = vec![None; readings.len()];
    for (request, got) in layout.got().iter().enumerate() {
        let data = data.get(got.at..got.at + got.block.bytes()).unwrap_or_default();
        let before = u32::from(got.block.address.saturating_sub(whole.address));
        for ix in exchange.atoms[got.from..got.to].iter().flat_map(|atom| &atom.cuts) {
            let ix = *ix as usize;
            match taken[ix].replace(request) {
                Some(last) if last == request => {}
                None => readings[ix] = decode::cut(&exchange.cuts[ix].behind(before), data),
                Some(_) if is_same(&readings[ix], &decode::cut(&exchange.cuts[ix].behind(before), data)) => {}
                Some(_) => readings[ix] = Err(Cause::Torn),
            }
        }
    }
    readings
}

/// Equal, where one NaN is as good as another.
fn is_same(one: &Result<Raw, Cause>, other: &Result<Raw, Cause>) -> bool {
    match (one, other) {
        (Ok(Raw::Float32(one)), Ok(Raw::Float32(other))) => one.to_bits() == other.to_bits(),
        (Ok(Raw::Float64(one)), Ok(Raw::Float64(other))) => one.to_bits() == other.to_bits(),
        (one, other) => one == other,
    }
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
