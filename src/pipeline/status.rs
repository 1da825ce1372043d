//! Retained status messages: what a subscriber sees of a device or a site when it comes late.

use std::fmt::Write as _;

use super::encode::{Bytes, text};
use crate::budget::Stage;
use crate::mapping::batch::DeviceState;
use crate::mapping::device::DevicePlan;
use crate::metrics::DeviceMetrics;
use crate::model::time::Stamp;

/// The counts that make a status worth telling again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    violations: u64,
    missed: u64,
    gaps: u64,
    drift: u64,
    lost: u64,
}

impl Counts {
    /// The counts now, of a route's account, and of the device itself.
    pub fn of(account: &DeviceMetrics, device: &DeviceMetrics) -> Self {
        Self {
            violations: account.violations_total(),
            missed: device.missed_ticks.get(),
            gaps: account.gap_accounted.get(),
            drift: device.drift.changes(),
            lost: device.lost_values.get(),
        }
    }
}

/// A device's status: `{"site":…,"device":…,"state":"online","ts":…,"budget_ms":800,"sampled":…,…}`.
/// `state` is an `Err` when nobody reads it any more, and why.
pub fn device(
    site: &str,
    plan: &DevicePlan,
    state: Result<DeviceState, &str>,
    account: &DeviceMetrics,
) -> Vec<u8> {
    let mut out = b"{\"site\":".to_vec();
    text(site, &mut out);
    out.extend_from_slice(b",\"device\":");
    text(&plan.device.name, &mut out);
    let (state, cause) = match state {
        Ok(DeviceState::Online) => ("online", None),
        Ok(DeviceState::Offline(cause)) => ("offline", Some(cause.to_string())),
        Err(reason) => ("offline", Some(reason.to_string())),
    };
    let _ = write!(Bytes(&mut out), ",\"state\":\"{state}\"");
    if let Some(cause) = cause {
        out.extend_from_slice(b",\"cause\":");
        text(&cause, &mut out);
    }
    let _ = write!(
        Bytes(&mut out),
        ",\"ts\":\"{}\",\"budget_ms\":{},\"sampled\":{},\"delivered\":{},\"gap_accounted\":{},\"missed\":{},\"violations\":{{",
        Stamp::now(),
        plan.device.budget.within.as_millis(),
        account.sampled.get(),
        account.delivered.get(),
        account.gap_accounted.get(),
        plan.metrics.missed_ticks.get(),
    );
    for (i, stage) in Stage::ALL.iter().enumerate() {
        let comma = if i > 0 { "," } else { "" };
        let _ = write!(Bytes(&mut out), "{comma}\"{stage}\":{}", account.violations[i].get());
    }
    out.push(b'}');
    if let Some(offset) = plan.metrics.clock_offset_ms.get() {
        let _ = write!(Bytes(&mut out), ",\"clock_offset_ms\":{offset}");
    }
    if plan.metrics.lost_values.get() > 0 {
        let _ = write!(Bytes(&mut out), ",\"lost_values\":{}", plan.metrics.lost_values.get());
    }
    let drift = plan.metrics.drift.get();
    if !drift.is_empty() {
        out.extend_from_slice(b",\"drift\":[");
        for (i, sentence) in drift.iter().enumerate() {
            out.extend_from_slice(if i > 0 { b"," } else { b"" });
            text(sentence, &mut out);
        }
        out.push(b']');
    }
    out.push(b'}');
    out
}

/// The site's status: its birth when `online`, else what the last will says.
pub fn site(site: &str, online: Option<(u64, usize)>) -> Vec<u8> {
    let mut out = b"{\"site\":".to_vec();
    text(site, &mut out);
    match online {
        Some((epoch, devices)) => {
            let version = env!("CARGO_PKG_VERSION");
            let _ = write!(
                Bytes(&mut out),
                ",\"state\":\"online\",\"ts\":\"{}\",\"epoch\":{epoch},\"devices\":{devices},\"version\":\"{version}\"}}",
                Stamp::now()
            );
        }
        // No time stamp: the broker publishes the last will at a time that nobody knows in advance.
        None => out.extend_from_slice(b",\"state\":\"offline\"}"),
    }
    out
}
