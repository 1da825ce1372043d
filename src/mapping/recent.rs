//! What was read last of each device, so that a question about one value can be answered.
//!
//! Bounded by the site: a slot per reading, and [`FAILURES`] failures per device. Batches are moved in, not copied.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::batch::Batch;
use super::compiled::ReadingIx;
use super::device::DevicePlan;
use crate::model::time::Stamp;
use crate::model::value::{Cause, Raw};

/// Failed reads that are remembered of a device; the oldest goes.
const FAILURES: usize = 8;

/// What was read last, by device.
#[derive(Debug, Default)]
pub struct Recents(Mutex<HashMap<Arc<str>, Recent>>);

/// What was read last of one device.
#[derive(Debug)]
pub struct Recent {
    /// The plan that it was read by.
    pub plan: Arc<DevicePlan>,
    /// The last reads that failed as a whole, the newest last.
    pub failures: VecDeque<(Stamp, Cause)>,
    seen: Vec<Option<Seen>>,
}

/// One reading.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What it was.
    pub raw: Result<Raw, Cause>,
    /// Index of the read that it came with.
    pub read: usize,
    /// When the request left.
    pub started: Instant,
    /// When the answer was there.
    pub received: Instant,
    /// The same by the wall clock.
    pub stamp: Stamp,
}

impl Recents {
    /// Forgets the devices that are not to be kept.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|device, _| keep(device));
    }

    /// Keeps what a batch has, in place of what was there.
    pub fn note(&self, mut batch: Batch) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = all.entry(batch.plan.device.name.clone()).or_insert_with(|| Recent::of(&batch.plan));
        if !Arc::ptr_eq(&recent.plan, &batch.plan) {
            // Indices of another plan mean other readings.
            *recent = Recent::of(&batch.plan);
        }
        let readings = std::mem::replace(&mut batch.readings, Ok(Vec::new()));
        let (read, started, received, stamp) = (batch.read, batch.started, batch.received, batch.stamp);
        let mut put = |ix: &ReadingIx, raw| {
            if let Some(slot) = recent.seen.get_mut(ix.0 as usize) {
                *slot = Some(Seen { raw, read, started, received, stamp });
            }
        };
        let of = &batch.read().readings;
        match readings {
            Ok(readings) => of.iter().zip(readings).for_each(|(ix, raw)| put(ix, raw)),
            Err(cause) => {
                of.iter().for_each(|ix| put(ix, Err(cause)));
                if recent.failures.len() >= FAILURES {
                    recent.failures.pop_front();
                }
                recent.failures.push_back((stamp, cause));
            }
        }
    }

    /// Looks at what is known of a device; `None`: nothing was read yet.
    pub fn with<T>(&self, device: &str, look: impl FnOnce(&Recent) -> T) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(device).map(look)
    }
}

impl Recent {
    fn of(plan: &Arc<DevicePlan>) -> Self {
        let seen = vec![None; plan.device.map.readings.len()];
        Self { plan: Arc::clone(plan), failures: VecDeque::new(), seen }
    }

    /// A reading as it was last.
    pub fn seen(&self, ix: ReadingIx) -> Option<&Seen> {
        self.seen.get(ix.0 as usize)?.as_ref()
    }
}
