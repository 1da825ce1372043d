//! A difference for people.

use std::collections::BTreeMap;

use super::{Change, DeviceChange, Difference};

/// So many points are named; of more there is a count.
const NAMED: usize = 8;

/// A line for each part.
pub(super) fn as_text(difference: &Difference) -> String {
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
        Change::Added => vec![format!("added: {}, via {connection}", points_counted(*count))],
        Change::Removed => vec![format!("removed: {}, via {connection}", points_counted(*count))],
    };
    let mut alike = BTreeMap::<String, Vec<&str>>::new();
    for (name, change) in points {
        alike.entry(part(change)).or_default().push(name);
    }
    for (what, names) in alike {
        said.push(match names.len() == *count {
            true => format!("all {} {what}", points_counted(*count)),
            false => format!("{} {what} ({})", points_counted(names.len()), listed(&names)),
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

fn points_counted(count: usize) -> String {
    format!("{count} point{}", if count == 1 { "" } else { "s" })
}
