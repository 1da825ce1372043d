//! Which devices and points a route carries: `only` and `except`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::written::Publish;
use crate::document::codes;
use crate::document::read::At;
use crate::document::suggest::did_you_mean;
use crate::document::types::Text;
use crate::model::diagnostic::Diagnostics;
use crate::pipeline::passes::{Pass, Passes};

/// The published points of each device that is known; `None`: which they are is not.
pub type Published = BTreeMap<String, Option<BTreeSet<String>>>;

/// What a route lets through.
pub fn passes(
    name: &At<String>,
    written: &Publish,
    published: &Published,
    found: &mut Diagnostics,
) -> Passes {
    let only = named(written.only.as_ref().map(|at| at.value.0.as_slice()), published, found);
    let except =
        named(written.except.as_ref().map(|at| at.value.0.as_slice()), published, found).unwrap_or_default();
    if only.is_none() && except.is_empty() {
        return Passes::default();
    }
    let mut devices = BTreeMap::new();
    for (device, points) in published {
        let chosen = match only.as_ref().map(|only| only.get(device)) {
            None => Pass::All,
            Some(None) => Pass::None,
            Some(Some(points)) if points.is_empty() => Pass::All,
            Some(Some(points)) => Pass::Only(points.clone()),
        };
        let pass = match (chosen, except.get(device)) {
            (chosen, None) => chosen,
            (_, Some(left_out)) if left_out.is_empty() => Pass::None,
            (Pass::All, Some(left_out)) => Pass::Except(left_out.clone()),
            (Pass::Only(mut points), Some(left_out)) => {
                points.retain(|point| !left_out.contains(point));
                Pass::Only(points)
            }
            (pass, Some(_)) => pass,
        };
        let is_nothing = match (&pass, points) {
            (Pass::None, _) => true,
            (Pass::Only(points), _) => points.is_empty(),
            (Pass::Except(left_out), Some(points)) => {
                points.iter().all(|point| left_out.contains(point.as_str()))
            }
            (Pass::All | Pass::Except(_), _) => false,
        };
        devices.insert(Arc::from(device.as_str()), if is_nothing { Pass::None } else { pass });
    }
    if devices.values().all(|pass| *pass == Pass::None) && !published.is_empty() {
        let message = format!("route '{}' carries nothing", name.value);
        found.error(codes::BAD_FILTER, &name.span, message).help("check only and except");
    }
    Passes { devices }
}

type Named = BTreeMap<String, BTreeSet<Arc<str>>>;

/// Devices with the points that are named; no points: all of it.
fn named(words: Option<&[At<Text>]>, published: &Published, found: &mut Diagnostics) -> Option<Named> {
    let mut all = Named::new();
    for word in words? {
        let text = word.value.0.as_str();
        // Names may have dots: the longest device that fits is meant.
        let fitting = published.keys().filter(|device| {
            text.strip_prefix(device.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        });
        let Some(device) = fitting.max_by_key(|device| device.len()) else {
            let wanted = text.split('.').next().unwrap_or(text);
            let near = did_you_mean(found, wanted, published.keys().map(String::as_str));
            found.error(codes::BAD_FILTER, &word.span, format!("there is no device '{wanted}'{near}"));
            continue;
        };
        let is_new = !all.contains_key(device);
        let points = all.entry(device.clone()).or_default();
        match text[device.len()..].strip_prefix('.') {
            // The whole device, whatever points were named before.
            None => points.clear(),
            Some(point) => {
                let known = published.get(device).and_then(Option::as_ref);
                if let Some(known) = known.filter(|known| !known.contains(point)) {
                    let near = did_you_mean(found, point, known.iter().map(String::as_str));
                    let message = format!("device '{device}' publishes no point '{point}'{near}");
                    found.error(codes::BAD_FILTER, &word.span, message);
                } else if is_new || !points.is_empty() {
                    points.insert(point.into());
                }
            }
        }
    }
    Some(all)
}
