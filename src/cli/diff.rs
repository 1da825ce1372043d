//! `taktbus diff`: what is different between two site files, in what they mean.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::{Outcome, SiteArgs, site};
use crate::config::difference::{Change, DeviceChange, Difference};
use crate::config::plan::Site;
use crate::model::diagnostic::Severity;

/// So many points are named; of more there is a count.
const NAMED: usize = 8;

#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    /// The site file as it was
    #[arg(value_name = "OLD.yaml")]
    old: PathBuf,
    /// The site file as it is to be
    #[arg(value_name = "NEW.yaml")]
    new: PathBuf,
    /// Look for profiles here too, after the mappings folders beside the site files
    #[arg(long = "mappings", value_name = "DIR")]
    mappings: Vec<PathBuf>,
    /// For programs
    #[arg(long)]
    json: bool,
}

pub(super) fn diff(args: &DiffArgs) -> Result<Outcome> {
    let (Some(old), Some(new)) = (read(&args.old, args), read(&args.new, args)) else {
        return Ok(Outcome::WrongConfiguration);
    };
    let difference = Difference::between(&old, &new);
    match args.json {
        true => outln!("{:#}", difference.as_json()),
        false => out!("{}", as_text(&difference)),
    }
    Ok(if difference.is_none() { Outcome::Fine } else { Outcome::Failed })
}

/// Warnings are for `check`.
fn read(path: &std::path::Path, args: &DiffArgs) -> Option<Site> {
    let mut loaded = site::read(&SiteArgs { site: path.into(), mappings: args.mappings.clone() });
    let is_sound = loaded.is_sound();
    loaded.diagnostics.retain(|finding| finding.severity == Severity::Error);
    site::print(&loaded.diagnostics);
    loaded.site.filter(|_| is_sound)
}

fn as_text(difference: &Difference) -> String {
    let Difference { site, connections, devices, routes } = difference;
    let mut text = String::new();
    let mut line = |kind: &str, name: &str, what: String| text += &format!("{kind:<11} {name:<20} {what}\n");
    if difference.is_none() {
        return "no difference\n".into();
    }
    if !site.is_empty() {
        line("site", "", format!("changed: {}", site.join(", ")));
    }
    connections.iter().for_each(|(name, change)| line("connection", name, part(change)));
    devices.iter().for_each(|(name, change)| line("device", name, device(change)));
    routes.iter().for_each(|(name, change)| line("route", name, part(change)));
    text
}

fn part(change: &Change) -> String {
    match change {
        Change::Added => "added".into(),
        Change::Removed => "removed".into(),
        Change::Changed(keys) => format!("changed: {}", keys.join(", ")),
    }
}

fn device(device: &DeviceChange) -> String {
    let DeviceChange { change, connection, count, points } = device;
    let mut said = match change {
        Change::Changed(keys) if keys.is_empty() => Vec::new(),
        Change::Changed(_) => vec![part(change)],
        Change::Added => vec![format!("added: {}, via {connection}", site::plural(*count, "point"))],
        Change::Removed => vec![format!("removed: {}, via {connection}", site::plural(*count, "point"))],
    };
    let mut alike = BTreeMap::<String, Vec<&str>>::new();
    for (name, change) in points {
        alike.entry(part(change)).or_default().push(name);
    }
    for (what, names) in alike {
        said.push(match names.len() == *count {
            true => format!("all {} {what}", site::plural(*count, "point")),
            false => format!("{} {what} ({})", site::plural(names.len(), "point"), listed(&names)),
        });
    }
    said.join("; ")
}

fn listed(names: &[&str]) -> String {
    let named = names[..names.len().min(NAMED)].join(", ");
    match names.len().checked_sub(NAMED) {
        Some(more @ 1..) => format!("{named} and {more} more"),
        _ => named,
    }
}
