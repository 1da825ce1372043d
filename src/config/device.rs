//! Devices as written: a profile and its patches → a map, a budget, and what is read when.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::library::{Entry, Library};
use super::merge::{Base, Merged, merge};
use super::rates;
use super::written::{Device as Written, Late, TimesWord, TriggerWord};
use crate::budget::{Budget, OnLate};
use crate::document::codes;
use crate::document::read::At;
use crate::document::types::Either;
use crate::mapping::compile::{self, Defaults, Selection, Written as WrittenPoint};
use crate::mapping::compiled::DeviceMap;
use crate::mapping::device::{Device, Limits, Nodes, Times, Trigger};
use crate::mapping::written::Access;
use crate::model::diagnostic::Diagnostics;
use crate::model::place::Place;

/// Unit ids of devices on a serial line (MODBUS over serial line V1.02, 2.2); 0 is the broadcast.
const SERIAL_UNITS: std::ops::RangeInclusive<i64> = 1..=247;

/// What is known of a device, compiled or not.
pub struct Outcome {
    /// The device; `None` when something about it was reported.
    pub device: Option<Device>,
    /// Its points by all names that they have, for `allow_write`; `None` when they are not known.
    pub points: Option<BTreeMap<String, Known>>,
}

/// What `allow_write` needs to know of a point.
#[derive(Clone, Debug)]
pub struct Known {
    /// The name that it's published by.
    pub published: String,
    /// Does its access allow writing?
    pub writable: bool,
}

/// What a device hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// A serial line, or what is behind a serial device server.
    Serial,
    /// A Modbus TCP server.
    Network,
    /// An OPC UA server.
    Opcua,
}

/// Compiles a device. `wire`: what it hangs on; `None`: its connection is not known.
pub fn compile(
    name: &At<String>,
    written: &Written,
    wire: Option<Wire>,
    library: &mut Library,
    found: &mut Diagnostics,
) -> Outcome {
    let before = found.errors();
    let unit = wire.and_then(|wire| unit_id(name, written, wire, found));
    let entry = written.profile.as_ref().and_then(|profile| library.get(profile, found));
    // Nothing is said about points that nobody knows.
    let profile_missing = match &entry {
        Some(entry) => !entry.is_whole,
        None => written.profile.is_some() || written.points.is_none(),
    };
    if written.profile.is_none() {
        check_needs_profile(name, written, found);
    }
    let limits = match (&entry, &written.limits) {
        (Some(entry), None) => entry.limits.clone(),
        (Some(entry), Some(patch)) => compile::limits(entry.limits.clone(), &patch.value),
        (None, Some(patch)) => compile::limits(Limits::default(), &patch.value),
        (None, None) => Limits::default(),
    };
    let defaults = defaults(name, written, entry.as_deref(), found);
    let base = Base {
        points: entry.as_ref().map_or(&[], |entry| &entry.merged.points),
        whose: "the profile",
        is_partly_known: profile_missing,
        may_be_more: written.faulty,
    };
    let Merged { points, mut dropped } =
        merge(base, written.points.as_ref().map_or(&[], |at| &at.value.0), found);
    dropped.extend(entry.iter().flat_map(|entry| entry.merged.dropped.iter().cloned()));
    let map = if profile_missing {
        None
    } else {
        let unchanged = written.points.is_none()
            && written.only.is_none()
            && written.except.is_none()
            && written.rename.is_none()
            && written.limits.is_none()
            && written.with.is_none();
        match &entry {
            Some(entry) if unchanged => entry.map.clone(),
            _ => {
                let selection = Selection {
                    only: written.only.as_ref().map(|at| at.value.0.as_slice()),
                    except: written.except.as_ref().map_or(&[], |at| &at.value.0),
                    rename: written.rename.as_ref().map_or(&[], |at| &at.value.0),
                    dropped: &dropped,
                    limits: written.given("limits"),
                };
                compile_map(name, entry.as_deref(), &defaults, &points, &limits, selection, found)
            }
        }
    };
    let map = map.filter(|map| check_protocol(name, written, map, wire, found));
    let groups = match &map {
        Some(map) if !written.faulty => check_published(name, map, found)
            .and_then(|()| rates::groups(name, written, map, limits.refresh, found)),
        _ => None,
    };
    let device = match (unit, map, groups) {
        (Some(unit), Some(map), Some(groups)) if found.errors() == before && !written.faulty => {
            Some(Device {
                name: name.value.as_str().into(),
                profile: written.profile.as_ref().map(|at| at.value.0.as_str().into()),
                unit,
                budget: budget(written),
                map,
                groups,
                limits,
                nodes: nodes(written, entry.as_deref()),
            })
        }
        _ => None,
    };
    Outcome { device, points: (!profile_missing).then(|| writable(&points, written)) }
}

/// Keys of a device that mean something on one protocol only.
const OPCUA_KEYS: [&str; 5] = ["subscribe", "trigger", "queue", "namespace", "timestamps"];

/// Can the connection read the device's points?
fn check_protocol(
    name: &At<String>,
    written: &Written,
    map: &DeviceMap,
    wire: Option<Wire>,
    found: &mut Diagnostics,
) -> bool {
    let Some(wire) = wire else { return true };
    let is_opcua = wire == Wire::Opcua;
    let foreign = if is_opcua { &["unit_id"][..] } else { &OPCUA_KEYS[..] };
    let (ours, theirs) = if is_opcua { ("OPC UA", "Modbus") } else { ("Modbus", "OPC UA") };
    for key in foreign {
        if let Some(span) = written.given(key) {
            let message =
                format!("'{key}' is for {theirs}, and the connection of '{}' speaks {ours}", name.value);
            found.error(codes::WRONG_PROTOCOL, span, message).help("remove it, or correct 'via'");
            return false;
        }
    }
    let fits = map.readings.iter().all(|reading| matches!(reading.place, Place::Node(_)) == is_opcua);
    if !fits {
        let what = if is_opcua { "registers" } else { "OPC UA nodes" };
        let message = format!("device '{}' has {what}, and its connection speaks {ours}", name.value);
        found
            .error(codes::WRONG_PROTOCOL, &name.span, message)
            .help("correct 'via', or the connection's kind");
    }
    fits
}

fn nodes(written: &Written, entry: Option<&Entry>) -> Nodes {
    let of_profile = || entry.and_then(|entry| entry.written.namespace.as_ref());
    let namespace = written.namespace.as_ref().or_else(of_profile).map(|at| at.value.0.as_str().into());
    let trigger = match written.trigger.as_ref().map(|at| at.value) {
        Some(TriggerWord::Status) => Trigger::Status,
        Some(TriggerWord::Value) | None => Trigger::Value,
        Some(TriggerWord::Timestamp) => Trigger::Timestamp,
    };
    let queue = written.queue.as_ref().and_then(|at| u32::try_from(at.0).ok()).unwrap_or(1);
    let times = written.timestamps.as_ref().map(|at| match at.value {
        TimesWord::Source => Times::Source,
        TimesWord::Server => Times::Server,
    });
    Nodes { namespace, queue, trigger, times }
}

fn unit_id(name: &At<String>, written: &Written, wire: Wire, found: &mut Diagnostics) -> Option<u8> {
    let serial = wire == Wire::Serial;
    match &written.unit_id {
        // Reported by check_protocol.
        _ if wire == Wire::Opcua => Some(0),
        Some(at) if serial && !SERIAL_UNITS.contains(&at.0) => {
            let what = if at.0 == 0 { "0 is the broadcast, which nobody answers" } else { "it is reserved" };
            found
                .error(
                    codes::UNIT_ID,
                    &at.span,
                    format!("no device on a serial line has the unit id {}: {what}", at.0),
                )
                .help("1 to 247 is allowed");
            None
        }
        Some(at) => u8::try_from(at.0).ok(),
        None if written.faulty => None,
        None if serial => {
            found
                .error(codes::NO_UNIT_ID, &name.span, format!("device '{}' needs a unit_id", name.value))
                .help("on a serial line each device has its own, 1 to 247");
            None
        }
        // MODBUS Messaging on TCP/IP V1.0b, 4.4.2.3: servers reached directly ignore it; 1 works with those that don't.
        None => Some(1),
    }
}

/// Keys that change a profile's points are meaningless without a profile.
fn check_needs_profile(name: &At<String>, written: &Written, found: &mut Diagnostics) {
    if let Some(span) = written.given("rename") {
        found
            .error(codes::PATCH_WITHOUT_PROFILE, span, "'rename' without a profile")
            .help("give the points the names that you want");
    }
    if let Some(span) = written.given("with") {
        found
            .error(codes::PATCH_WITHOUT_PROFILE, span, "'with' without a profile")
            .help("it gives the parameters of a profile their values");
    }
    if written.points.is_none() && !written.faulty {
        found
            .error(
                codes::NO_POINTS,
                &name.span,
                format!("device '{}' has neither a profile nor points", name.value),
            )
            .help("add profile: VENDOR/DEVICE, or points: {NAME: {holding: 0, type: uint16}}");
    }
}

/// What the profile says about all points, with the device's values of its parameters.
fn defaults<'e>(
    name: &At<String>,
    written: &Written,
    entry: Option<&'e Entry>,
    found: &mut Diagnostics,
) -> Cow<'e, Defaults> {
    let given = written.with.as_ref().map(|at| &at.value);
    let Some(entry) = entry else { return Cow::Owned(Defaults::default()) };
    let parameters = entry.defaults.parameters();
    if given.is_none() && parameters.are_complete() {
        return Cow::Borrowed(&entry.defaults);
    }
    let parameters = parameters.with(given, name, found);
    Cow::Owned(entry.defaults.clone().with_parameters(parameters))
}

fn compile_map(
    name: &At<String>,
    entry: Option<&Entry>,
    defaults: &Defaults,
    points: &[WrittenPoint],
    limits: &Limits,
    selection: Selection<'_>,
    found: &mut Diagnostics,
) -> Option<Arc<DeviceMap>> {
    // The profile's own faults come up again with each device that uses it: reported once.
    let mut later = Diagnostics::default();
    let map = compile::compile(points, defaults, limits, selection, &name.span, &mut later);
    found.absorb(later);
    // A selection or a patch that changes nothing shares the profile's map.
    let map = map?;
    match entry.and_then(|entry| entry.map.as_ref()) {
        Some(shared) if **shared == map => Some(Arc::clone(shared)),
        _ => Some(Arc::new(map)),
    }
}

fn check_published(name: &At<String>, map: &DeviceMap, found: &mut Diagnostics) -> Option<()> {
    if map.points.iter().any(|point| point.published) {
        return Some(());
    }
    found
        .error(codes::NO_DEVICE_POINTS, &name.span, format!("device '{}' publishes no point", name.value))
        .help("check only, except, internal and access");
    None
}

fn budget(written: &Written) -> Budget {
    match written.budget.as_ref().map(|at| &at.value) {
        None => Budget::default(),
        Some(Either::Short(within)) => Budget { within: within.0, late: OnLate::default() },
        Some(Either::Long(words)) => {
            let within = words.within.as_ref().map_or(Budget::default().within, |within| within.0);
            let late = match words.late.as_ref().map(|late| late.value) {
                None | Some(Late::Deliver) => OnLate::Deliver,
                Some(Late::Drop) => OnLate::Drop,
                Some(Late::Store) => OnLate::Store,
            };
            Budget { within, late }
        }
    }
}

/// The names that `allow_write` may use: the profile's, and those that points were renamed to.
fn writable(points: &[WrittenPoint], written: &Written) -> BTreeMap<String, Known> {
    let known = |point: &WrittenPoint| {
        let access = point.1.as_ref().and_then(|point| point.access.as_ref());
        // A faulty point was reported: nothing more is said about it.
        let writable = point.1.is_none() || access.is_some_and(|access| access.value != Access::Read);
        (point.0.value.clone(), Known { published: point.0.value.clone(), writable })
    };
    let mut names: BTreeMap<String, Known> = points.iter().map(known).collect();
    for (old, new) in written.rename.iter().flat_map(|at| &at.value.0) {
        if let (Some(new), Some(known)) = (new, names.get_mut(&old.value)) {
            known.published = new.0.clone();
            let known = known.clone();
            names.insert(new.0.clone(), known);
        }
    }
    names
}
