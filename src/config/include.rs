//! Profiles made of others: what is included comes first, and the profile's own keys change it. Pure.

use std::collections::HashMap;

use super::merge::{Base, Merged, merge};
use crate::document::codes;
use crate::document::read::At;
use crate::mapping::compile::Written as WrittenPoint;
use crate::mapping::compiled::Order;
use crate::mapping::profile::Profile;
use crate::mapping::written::ProfileName;
use crate::model::diagnostic::Diagnostics;

/// What a profile includes, put together.
#[derive(Default)]
pub struct Included {
    written: Profile,
    merged: Merged,
    /// How many profiles there are.
    count: usize,
    /// Something of it is not known, which has been reported.
    pub is_partly_known: bool,
}

impl Included {
    /// Adds a profile. What disagrees with those before it is reported at its name.
    pub fn add(
        &mut self,
        name: &At<ProfileName>,
        written: &Profile,
        merged: &Merged,
        found: &mut Diagnostics,
    ) {
        self.check_clash(name, &merged.points, found);
        let taken: Vec<&str> = self.merged.points.iter().map(|(name, _)| name.value.as_str()).collect();
        let fresh: Vec<WrittenPoint> =
            merged.points.iter().filter(|(name, _)| !taken.contains(&name.value.as_str())).cloned().collect();
        self.merged.points.extend(fresh);
        self.merged.dropped.extend(merged.dropped.iter().cloned());
        self.check_keys(name, written, found);
        self.written = overlaid(std::mem::take(&mut self.written), written.clone());
        self.count += 1;
    }

    /// Two profiles may include the same third one; two points of one name are a clash.
    fn check_clash(&self, include: &At<ProfileName>, points: &[WrittenPoint], found: &mut Diagnostics) {
        let known: HashMap<&str, _> =
            self.merged.points.iter().map(|(name, _)| (name.value.as_str(), &name.span)).collect();
        let clash = points
            .iter()
            .find(|(name, _)| known.get(name.value.as_str()).is_some_and(|other| **other != name.span));
        let Some((name, _)) = clash else { return };
        let other = known.get(name.value.as_str()).map_or("", |span| span.file.path.as_str());
        let message = format!("'{}' has a point '{}', and so has {other}", include.value.0, name.value);
        found
            .error(codes::INCLUDE, &include.span, message)
            .help("include one of them, or write the points of the other here");
    }

    /// Two includes must agree on how addresses and registers are meant, which holds for all of their points.
    fn check_keys(&self, include: &At<ProfileName>, written: &Profile, found: &mut Diagnostics) {
        if self.count == 0 {
            return;
        }
        let differs = [
            ("address_base", base(&self.written) != base(written)),
            ("order", order(&self.written) != order(written)),
        ];
        for (key, _) in differs.iter().filter(|(_, differs)| *differs) {
            let message =
                format!("'{}' has another '{key}' than what is included before it", include.value.0);
            found.error(codes::INCLUDE, &include.span, message);
        }
    }

    /// The profile with all that it includes; its points are taken out of it.
    pub fn complete(self, mut own: Profile, found: &mut Diagnostics) -> (Profile, Merged) {
        let included = own.include.is_some();
        let theirs = base(&self.written);
        if let Some(at) = own.address_base.as_mut().filter(|at| self.count > 0 && at.value.0 != theirs) {
            let message = format!("what is included counts addresses from {theirs}");
            found
                .error(codes::INCLUDE, &at.span, message)
                .help(format!("count from {theirs} here too, and remove this key"));
            // So that no address is blamed for it.
            at.value.0 = theirs;
        }
        let base = Base {
            points: &self.merged.points,
            whose: if included { "what is included" } else { "the profile" },
            is_partly_known: self.is_partly_known,
            may_be_more: false,
        };
        let points = own.points.take();
        let mut merged = merge(base, points.as_ref().map_or(&[], |at| &at.value.0), found);
        merged.dropped.extend(self.merged.dropped);
        (overlaid(self.written, own), merged)
    }
}

/// What a profile's addresses count from.
fn base(profile: &Profile) -> i64 {
    profile.address_base.as_ref().map_or(0, |at| at.value.0)
}

/// The order of a profile's numbers.
fn order(profile: &Profile) -> Order {
    profile.order.as_ref().map_or(Order::Abcd, |at| at.value.order())
}

/// A profile over another: single limits, sentinels and parameters replace those below, and so do whole other keys.
fn overlaid(mut below: Profile, mut above: Profile) -> Profile {
    if let (Some(under), Some(over)) = (&below.limits, &mut above.limits) {
        over.value = under.value.clone().patched(over.value.clone());
    }
    if let (Some(under), Some(over)) = (&below.invalid, &mut above.invalid) {
        let given: Vec<_> = over.value.0.iter().map(|(kind, ..)| *kind).collect();
        over.value.0.extend(under.value.0.iter().filter(|(kind, ..)| !given.contains(kind)).cloned());
    }
    if let (Some(under), Some(over)) = (&below.parameters, &mut above.parameters) {
        let given: Vec<_> = over.value.0.iter().map(|(name, _)| name.value.clone()).collect();
        over.value.0.extend(under.value.0.iter().filter(|(name, _)| !given.contains(&name.value)).cloned());
    }
    // These speak of the profile that has them.
    (below.profile, below.title, below.sources, below.examples) = (None, None, None, None);
    below.patched(above)
}
