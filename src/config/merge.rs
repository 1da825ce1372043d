//! Points and the changes to them: a device changes its profile's points as a profile changes those that it includes.

use std::collections::HashMap;

use crate::document::codes;
use crate::document::read::At;
use crate::document::suggest::did_you_mean;
use crate::document::types::Nullable;
use crate::mapping::compile::Written as WrittenPoint;
use crate::mapping::profile::{LOCATIONS, Point};
use crate::model::diagnostic::{Diagnostics, Span};

/// Points, after the changes.
#[derive(Clone, Debug, Default)]
pub struct Merged {
    /// Those that are left, and then those that were added.
    pub points: Vec<WrittenPoint>,
    /// Those that were dropped, where that is written.
    pub dropped: Vec<At<String>>,
}

/// What is known of the points that are changed.
#[derive(Clone, Copy)]
pub struct Base<'a> {
    /// The points.
    pub points: &'a [WrittenPoint],
    /// Whose they are, for messages.
    pub whose: &'static str,
    /// Some of them are not known, for a reason that has been reported: a name that is not there is not wrong.
    pub is_partly_known: bool,
    /// There may be more of them, where they are named was wrong.
    pub may_be_more: bool,
}

/// Points as written, each new, changed, or `null`: dropped.
pub type Changes = [(At<String>, Option<Nullable<Point>>)];

/// Applies changes to points, in their order, and appends what is new.
pub fn merge(base: Base<'_>, changes: &Changes, found: &mut Diagnostics) -> Merged {
    // Growing step by step would need half as much again: there may be tens of thousands.
    let mut points: Vec<Option<WrittenPoint>> = Vec::with_capacity(base.points.len() + changes.len());
    points.extend(base.points.iter().cloned().map(Some));
    let index: HashMap<&str, usize> =
        base.points.iter().enumerate().map(|(at, (name, _))| (name.value.as_str(), at)).collect();
    let mut dropped = Vec::new();
    let mut unknown = Unknown { index: &index, whose: base.whose, reported: None };
    for (name, change) in changes {
        let has_location =
            |point: &Point| point.faulty || LOCATIONS.iter().any(|key| point.given(key).is_some());
        let known = index.get(name.value.as_str()).copied();
        match (known, change.as_ref().map(|nullable| nullable.0.as_ref())) {
            (Some(at), Some(None)) => {
                points[at] = None;
                dropped.push(name.clone());
            }
            (Some(at), Some(Some(patch))) => {
                let point = base.points[at].1.clone();
                points[at] = Some((name.clone(), point.map(|point| point.with_patch(patch.clone()))));
            }
            (Some(at), None) => points[at] = Some((name.clone(), None)),
            (None, Some(None)) => {
                if !base.is_partly_known {
                    unknown.report(name, "nothing is dropped", found);
                }
            }
            // Without a location it is no point of its own: most likely a misspelt name.
            (None, Some(Some(patch))) if !has_location(patch) && !base.points.is_empty() => {
                if !base.is_partly_known {
                    unknown.report(name, "nothing is changed", found);
                }
                points.push(Some((name.clone(), None)));
            }
            // This may be a change to a point that nobody knows.
            (None, Some(Some(patch)))
                if (base.may_be_more || base.is_partly_known) && (patch.faulty || !has_location(patch)) =>
            {
                points.push(Some((name.clone(), None)));
            }
            (None, Some(point)) => points.push(Some((name.clone(), point.cloned()))),
            (None, None) => points.push(Some((name.clone(), None))),
        }
    }
    Merged { points: points.into_iter().flatten().collect(), dropped }
}

/// Names that are not there: one finding for all of a range.
struct Unknown<'a> {
    index: &'a HashMap<&'a str, usize>,
    whose: &'static str,
    reported: Option<Span>,
}

impl Unknown<'_> {
    fn report(&mut self, name: &At<String>, what: &str, found: &mut Diagnostics) {
        if self.reported.as_ref() == Some(&name.span) {
            return;
        }
        self.reported = Some(name.span.clone());
        let mut known: Vec<&str> = self.index.keys().copied().collect();
        known.sort_unstable();
        let near = did_you_mean(found, &name.value, known);
        let message = format!("{what}: there is no point '{}' in {}{near}", name.value, self.whose);
        found.error(codes::UNKNOWN_POINT, &name.span, message);
    }
}
