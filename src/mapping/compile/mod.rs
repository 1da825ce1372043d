//! Points as written → a device's map, ready to run. Pure; every problem is reported, none stops the others.
//!
//! Three steps: each point by itself ([`draft`]), names between points ([`link`]), and the map without names.

mod blocks;
mod draft;
mod invalid;
mod link;
mod place;
mod suspicions;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;

pub use self::draft::DEFAULT_RATE;
use super::compiled::{DeviceMap, Order};
use super::device::{self, FixedBlock};
use super::parameters::Parameters;
use super::profile::{Limits, Point, Profile};
use super::refused;
use super::written::TypeWord;
use crate::document::read::At;
use crate::document::types::Name;
use crate::model::diagnostic::{Diagnostics, Span};
use crate::model::value::Raw;

/// A point with its name. `None`: its declaration was wrong, and reported.
pub type Written = (At<String>, Option<Point>);

/// What a profile says about all of its points.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    /// What is subtracted from addresses.
    address_base: u16,
    /// Order of numbers of two or more registers.
    order: Order,
    /// Order of numbers of two or more registers that are written. `None`: as they are read.
    write_order: Option<Order>,
    /// Raw values that mean "not available".
    invalid: BTreeMap<TypeWord, Vec<Raw>>,
    /// Addresses that are read as a whole only, sorted.
    blocks: Vec<At<FixedBlock>>,
    /// What a site may give.
    parameters: Parameters,
}

impl Defaults {
    /// Those of a profile.
    pub fn of(profile: &Profile, found: &mut Diagnostics) -> Self {
        let mut invalid = BTreeMap::new();
        for (kind, span, words) in profile.invalid.iter().flat_map(|at| &at.value.0) {
            if let Some(raws) = invalid::by_type(*kind, span, words, found) {
                invalid.insert(*kind, raws);
            }
        }
        let address_base = profile.address_base.as_ref().map_or(0, |base| base.0 as u16);
        Self {
            address_base,
            order: profile.order.as_ref().map_or(Order::Abcd, |order| order.order()),
            write_order: profile.write_order.as_ref().map(|order| order.order()),
            invalid,
            blocks: blocks::of(profile, address_base, found),
            parameters: Parameters::of(profile, found),
        }
    }

    /// What is read as a whole only, sorted.
    pub fn blocks(&self) -> Vec<FixedBlock> {
        self.blocks.iter().map(|block| block.value).collect()
    }

    /// The profile's parameters.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The same with other values of the parameters.
    pub fn with_parameters(self, parameters: Parameters) -> Self {
        Self { parameters, ..self }
    }
}

/// Which points a device takes, and under which names.
#[derive(Clone, Copy, Debug, Default)]
pub struct Selection<'a> {
    /// Only these.
    pub only: Option<&'a [At<Name>]>,
    /// All but these.
    pub except: &'a [At<Name>],
    /// The profile's names and those to publish under. `None`: the new name was wrong, and reported.
    pub rename: &'a [(At<String>, Option<Name>)],
    /// Points of the profile that the device does without.
    pub dropped: &'a [At<String>],
    /// Where the device changes the limits.
    pub limits: Option<&'a Span>,
}

/// Compiles points. `owner` is the place to blame when there is nothing to read. `None` when there were errors.
pub fn compile(
    points: &[Written],
    defaults: &Defaults,
    limits: &device::Limits,
    selection: Selection<'_>,
    owner: &Span,
    found: &mut Diagnostics,
) -> Option<DeviceMap> {
    let before = found.errors();
    blocks::check(&defaults.blocks, limits, selection.limits, found);
    let mut failed: Option<&Span> = None;
    let drafts: Vec<Option<draft::Draft>> = points
        .iter()
        .map(|(name, point)| {
            // A faulty point has been reported; guessing at the rest of it would only mislead. The points of a range share
            // its place: what is wrong with one of them is said once.
            let point = point.as_ref().filter(|point| !point.faulty && failed != Some(&name.span))?;
            let errors = found.errors();
            let draft = complete(name, point, defaults, limits, selection.limits, found);
            if found.errors() > errors {
                failed = Some(&name.span);
            }
            draft
        })
        .collect();
    let map = link::link(points, &drafts, selection, owner, found);
    let whole = drafts.iter().all(Option::is_some);
    if whole && found.errors() == before {
        suspicions::check(points, &drafts, found);
    }
    map.filter(|_| whole && found.errors() == before)
}

/// The limits of requests to a profile's device.
pub fn profile_limits(profile: &Profile, defaults: &Defaults, found: &mut Diagnostics) -> device::Limits {
    let refused = profile.refused.as_ref();
    let refused =
        refused.map_or(Vec::new(), |at| refused::stretches(&at.value, defaults.address_base, found));
    let base =
        device::Limits { refused: refused.into(), blocks: defaults.blocks(), ..device::Limits::default() };
    match &profile.limits {
        Some(patch) => limits(base, &patch.value),
        None => base,
    }
}

/// A point by itself, with the way it's written. `changed` is where the device's own limits are.
fn complete(
    name: &At<String>,
    point: &Point,
    defaults: &Defaults,
    limits: &device::Limits,
    changed: Option<&Span>,
    found: &mut Diagnostics,
) -> Option<draft::Draft> {
    let mut draft = draft::draft(name, point, defaults, found)?;
    draft.check_limits(&name.value, limits, changed, found);
    if draft.writable {
        let rules = write::Rules { defaults, limits, changed };
        draft.target = write::target(name, point, &draft, rules, found).map(Box::new);
    }
    Some(draft)
}

/// The limits of requests: `patch` replaces single ones of `base`.
pub fn limits(base: device::Limits, patch: &Limits) -> device::Limits {
    let functions = patch.functions.as_ref().map(|list| list.0.iter().map(|code| code.0 as u8).collect());
    device::Limits {
        max_registers: patch.max_registers.as_ref().map_or(base.max_registers, |n| n.0 as u16),
        max_bits: patch.max_bits.as_ref().map_or(base.max_bits, |n| n.0 as u16),
        max_gap: patch.max_gap.as_ref().map_or(base.max_gap, |n| n.0 as u16),
        delay_after_connect: patch.delay_after_connect.as_ref().map_or(base.delay_after_connect, |d| d.0),
        delay_between_requests: patch
            .delay_between_requests
            .as_ref()
            .map_or(base.delay_between_requests, |d| d.0),
        response_timeout: patch.response_timeout.as_ref().map(|d| d.0).or(base.response_timeout),
        functions: functions.or(base.functions),
        blocks: base.blocks,
        refresh: patch.refresh.as_ref().map(|d| d.0).or(base.refresh),
        refused: base.refused,
        max_nodes: patch.max_nodes.as_ref().map(|n| n.0 as u32).or(base.max_nodes),
    }
}
