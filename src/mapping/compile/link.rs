//! Names between points: who needs whom, who is chosen, and the map without names.

use std::collections::HashMap;
use std::sync::Arc;

use super::draft::{Draft, DraftSource};
use super::{Selection, Written};
use crate::document::codes;
use crate::document::read::At;
use crate::document::suggest::did_you_mean;
use crate::mapping::compiled::{DeviceMap, Kind, Point, PointIx, Reading, ReadingIx, Source, Transform};
use crate::model::diagnostic::{Diagnostics, Span};

/// Longest chain of points that are computed from each other; real ones have 2 links.
const MAX_CHAIN: usize = 16;

/// Builds the map of the chosen points and of those they are computed from.
pub fn link<'a>(
    points: &'a [Written],
    drafts: &'a [Option<Draft>],
    selection: Selection<'a>,
    owner: &Span,
    found: &'a mut Diagnostics,
) -> Option<DeviceMap> {
    let mut linker = Linker {
        points,
        drafts,
        index: points.iter().enumerate().map(|(at, (name, _))| (name.value.as_str(), at)).collect(),
        dropped: selection.dropped.iter().map(|name| (name.value.as_str(), name)).collect(),
        marks: vec![Mark::New; points.len()],
        order: Vec::with_capacity(points.len()),
        found,
    };
    let chosen = linker.choose(selection);
    let names = linker.names(selection, &chosen);
    // Points that nobody needs are visited too, so that their faults are found; then only what is needed is kept.
    for at in 0..points.len() {
        linker.visit(at, 0);
    }
    if let (Some(list), false) = (selection.only, chosen.contains(&true)) {
        if list.is_empty() {
            linker.found.error(codes::NO_DEVICE_POINTS, owner, "'only' chooses no point");
        }
    } else if points.is_empty() {
        linker
            .found
            .error(codes::NO_POINTS, owner, "there are no points")
            .help("such as power: {input: 12, type: float32}");
    }
    let published: Vec<bool> = (0..points.len())
        .map(|at| chosen[at] && drafts[at].as_ref().is_some_and(|draft| draft.readable && !draft.internal))
        .collect();
    let written: Vec<usize> = (0..points.len())
        .filter(|at| chosen[*at] && drafts[*at].as_ref().is_some_and(|draft| draft.target.is_some()))
        .collect();
    linker.assemble(&published, &written, &names)
}

#[derive(Clone, Copy, PartialEq)]
enum Mark {
    New,
    Open,
    Done,
}

struct Linker<'a> {
    points: &'a [Written],
    drafts: &'a [Option<Draft>],
    index: HashMap<&'a str, usize>,
    dropped: HashMap<&'a str, &'a At<String>>,
    marks: Vec<Mark>,
    /// Dependencies first.
    order: Vec<usize>,
    found: &'a mut Diagnostics,
}

impl<'a> Linker<'a> {
    /// Which points does the selection take?
    fn choose(&mut self, selection: Selection<'a>) -> Vec<bool> {
        let mut chosen = vec![selection.only.is_none(); self.points.len()];
        for (list, take) in [(selection.only.unwrap_or_default(), true), (selection.except, false)] {
            for name in list {
                if let Some(at) = self.resolve(&name.value.0, &name.span) {
                    chosen[at] = take;
                }
            }
        }
        chosen
    }

    /// The names to publish under.
    fn names(&mut self, selection: Selection<'_>, chosen: &[bool]) -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> =
            self.points.iter().map(|(name, _)| name.value.as_str().into()).collect();
        let mut renamed = HashMap::new();
        for (old, new) in selection.rename {
            if let (Some(at), Some(new)) = (self.resolve(&old.value, &old.span), new) {
                names[at] = new.0.as_str().into();
                renamed.insert(at, &old.span);
            }
        }
        if renamed.is_empty() {
            return names;
        }
        let mut taken: HashMap<&str, usize> = HashMap::with_capacity(names.len());
        for (at, name) in names.iter().enumerate().filter(|(at, _)| chosen[*at]) {
            let Some(other) = taken.insert(name, at) else { continue };
            if let Some(span) = renamed.get(&at).or_else(|| renamed.get(&other)) {
                self.found.error(codes::NAME_COLLISION, span, format!("there is a point '{name}' already"));
            }
        }
        names
    }

    /// The point of a name.
    fn resolve(&mut self, name: &str, span: &Span) -> Option<usize> {
        let at = self.index.get(name).copied();
        if at.is_none() {
            let near =
                did_you_mean(self.found, name, self.points.iter().map(|(name, _)| name.value.as_str()));
            self.found.error(codes::UNKNOWN_POINT, span, format!("there is no point '{name}'{near}"));
        }
        at
    }

    /// What a point is computed from.
    fn references(&self, at: usize) -> Vec<&'a At<String>> {
        let drafts = self.drafts;
        let Some(draft) = &drafts[at] else { return Vec::new() };
        let parts = match &draft.source {
            DraftSource::Sum(parts) => parts.as_slice(),
            DraftSource::Reading(_) => &[],
        };
        parts.iter().map(|(name, _)| name).chain(&draft.scale_from).collect()
    }

    /// Puts a point into the order, behind all that it needs.
    fn visit(&mut self, at: usize, depth: usize) {
        if self.marks[at] != Mark::New {
            return;
        }
        self.marks[at] = Mark::Open;
        for name in self.references(at) {
            if let Some(dropped) = self.dropped.get(name.value.as_str()) {
                let by = &self.points[at].0.value;
                let message = format!("'{}' is dropped here, and '{by}' is computed from it", name.value);
                self.found
                    .error(codes::UNKNOWN_POINT, &dropped.span, message)
                    .help(format!("drop '{by}' too"));
                continue;
            }
            let Some(needed) = self.resolve(&name.value, &name.span) else { continue };
            if self.marks[needed] == Mark::Open {
                let message = format!(
                    "'{}' is computed from itself, through '{}'",
                    name.value, self.points[at].0.value
                );
                self.found.error(codes::CYCLE, &name.span, message);
            } else if depth >= MAX_CHAIN {
                let message = format!("more than {MAX_CHAIN} points are computed one from the other");
                self.found.error(codes::CYCLE, &name.span, message);
            } else {
                self.check_needed(needed, name);
                self.visit(needed, depth + 1);
            }
        }
        self.marks[at] = Mark::Done;
        self.order.push(at);
    }

    /// Only a number that can be read can be calculated with.
    fn check_needed(&mut self, needed: usize, name: &At<String>) {
        let drafts = self.drafts;
        let Some(draft) = &drafts[needed] else { return };
        if !draft.readable {
            self.found.error(codes::WRITE_ONLY, &name.span, format!("'{}' can only be written", name.value));
        }
        let text = match &draft.source {
            DraftSource::Reading(reading) => matches!(reading.decode.kind, Kind::String | Kind::Datetime(_)),
            DraftSource::Sum(_) => false,
        };
        if text {
            self.found.error(
                codes::TYPE_MISMATCH,
                &name.span,
                format!("'{}' is a text, not a number", name.value),
            );
        }
    }

    /// The map of the published points, of those that can be written, and of all that they need.
    fn assemble(&self, published: &[bool], written: &[usize], names: &[Arc<str>]) -> Option<DeviceMap> {
        let mut needed = published.to_vec();
        let scale_from = |at: usize| self.drafts[at].as_ref()?.scale_from.as_ref();
        for name in written.iter().filter_map(|at| scale_from(*at)) {
            needed[*self.index.get(name.value.as_str())?] = true;
        }
        // Dependencies come first in the order, so one walk backwards reaches all of them.
        for at in self.order.iter().rev() {
            if needed[*at] {
                for name in self.references(*at) {
                    needed[*self.index.get(name.value.as_str())?] = true;
                }
            }
        }
        let mut map = DeviceMap::default();
        let mut places: HashMap<usize, PointIx> = HashMap::new();
        let mut readings: HashMap<&Reading, ReadingIx> = HashMap::new();
        for at in self.order.iter().copied().filter(|at| needed[*at]) {
            let draft = self.drafts[at].as_ref()?;
            let place_of = |name: &At<String>| places.get(self.index.get(name.value.as_str())?).copied();
            let source = match &draft.source {
                DraftSource::Reading(reading) => {
                    Source::Reading(*readings.entry(reading).or_insert_with(|| {
                        map.readings.push(reading.clone());
                        ReadingIx(map.readings.len() as u32 - 1)
                    }))
                }
                DraftSource::Sum(parts) => {
                    let parts = parts.iter().map(|(name, factor)| Some((place_of(name)?, *factor)));
                    Source::Sum(parts.collect::<Option<_>>()?)
                }
            };
            let scale_from = match &draft.scale_from {
                Some(name) => Some(place_of(name)?),
                None => None,
            };
            places.insert(at, PointIx(map.points.len() as u32));
            map.points.push(Point {
                name: names[at].clone(),
                unit: draft.unit.clone(),
                source,
                transform: Transform { scale_from, ..draft.transform() },
                published: published[at],
                plausible: draft.plausible.clone(),
                deadband: draft.deadband,
                heartbeat: draft.heartbeat,
                smooth: draft.smooth,
                alone: draft.alone,
                rate: draft.rate.clone(),
            });
        }
        for at in written {
            let mut target = self.drafts[*at].as_ref()?.target.as_deref()?.clone();
            target.name = names[*at].clone();
            if let Some(name) = scale_from(*at) {
                target.transform.scale_from = Some(*places.get(self.index.get(name.value.as_str())?)?);
            }
            map.writes.push(target);
        }
        Some(map)
    }
}
