//! What a device makes of a plan: every read is done until nothing is left to find out about it, and nothing is published.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::driver::{Standing, names};
use super::plan::Block;
use super::transport::Open;
use super::{ModbusDriver, ModbusPlan};
use crate::drivers::{Driver, LinkLost};
use crate::mapping::device::Every;
use crate::metrics::{ConnectionMetrics, DeviceMetrics};
use crate::model::value::Cause;

/// Longer intervals are shortened to this: somebody is waiting.
const EVERY: Duration = Duration::from_millis(500);

/// What became of one read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rehearsed {
    /// How long the last one took, and its result; `None`: its turn did not come.
    pub told: Option<(Duration, Result<(), Cause>)>,
    /// How it came to be fetched.
    pub standing: Standing,
}

/// What it came to, for people: `answered in 45.2ms`, `answered in 45.2ms by 2 requests: …; refuses …`.
impl fmt::Display for Rehearsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.told {
            None => return f.write_str("not reached"),
            Some((_, Err(cause))) => write!(f, "{cause}")?,
            Some((took, Ok(()))) => write!(f, "answered in {took:.1?}")?,
        }
        let Standing { requests, refused, barred, is_settled } = &self.standing;
        if requests.len() > 1 {
            write!(f, " by {} requests: {}", requests.len(), names(requests))?;
        }
        if let [(_, code), ..] = refused[..] {
            let blocks: Vec<Block> = refused.iter().map(|(block, _)| *block).collect();
            write!(f, "; refuses {} (exception {code})", names(&blocks))?;
        }
        if !barred.is_empty() {
            write!(f, "; wrong behind {}: not read over", names(barred))?;
        }
        if *is_settled || self.told.is_none() { Ok(()) } else { f.write_str("; not settled yet") }
    }
}

/// Does all reads of a plan until each is settled, or until `deadline`. One list per device, in the plan's order; the
/// error is why the link ended, with what was found out before.
pub async fn rehearse(
    mut plan: ModbusPlan,
    opener: impl Open,
    deadline: Instant,
) -> (Vec<Vec<Rehearsed>>, Option<LinkLost>) {
    for read in plan.devices.iter_mut().flat_map(|device| &mut device.reads) {
        if let Every::Interval(every) = &mut read.every {
            *every = EVERY.min(*every);
        }
    }
    let mut reads: Vec<Vec<Rehearsed>> =
        plan.devices.iter().map(|device| vec![Rehearsed::default(); device.reads.len()]).collect();
    let metrics = plan.devices.iter().map(|_| Arc::new(DeviceMetrics::default())).collect();
    let mut driver =
        ModbusDriver::with_opener("rehearsal", plan, metrics, Arc::new(ConnectionMetrics::default()), opener);
    let living = async {
        driver.connect().await?;
        while !reads.iter().flatten().all(|read| read.told.is_some() && read.standing.is_settled) {
            let due = driver.due().await;
            if let Some(batch) = driver.read(due).await? {
                let device = driver.devices().iter().position(|plan| Arc::ptr_eq(plan, &batch.plan));
                let Some(device) = device else { continue };
                let took = batch.received.saturating_duration_since(batch.started);
                let standing = driver.standing(device, batch.read);
                let told = Some((took, batch.readings.map(drop)));
                reads[device][batch.read] = Rehearsed { told, standing };
            }
        }
        Ok(())
    };
    let lost = timeout_at(deadline, living).await.ok().and_then(Result::err);
    (reads, lost)
}
