//! The index of the shipped profiles: the part of `mappings/README.md` that is made from them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use taktbus::mapping::device::Limits;

use super::names::QUANTITIES;
use super::shipped::Shipped;

/// What the generated parts of the page stand between.
const MARKS: [(&str, &str); 2] = [
    ("<!-- quantities: made by tests/library -->", "<!-- end of quantities -->"),
    ("<!-- index: made by tests/library -->", "<!-- end of index -->"),
];

/// The page with its generated parts renewed.
pub fn renewed(page: &str, profiles: &[Shipped]) -> String {
    let parts = [quantities(), index(profiles)];
    let mut page = page.to_string();
    for ((begin, end), part) in MARKS.iter().zip(parts) {
        let from = page.find(begin).unwrap_or_else(|| panic!("no '{begin}'")) + begin.len();
        let to = page.find(end).unwrap_or_else(|| panic!("no '{end}'"));
        page.replace_range(from..to, &format!("\n\n{part}\n"));
    }
    page
}

fn quantities() -> String {
    let mut text = String::from("| words | units | |\n| --- | --- | --- |\n");
    for quantity in QUANTITIES {
        let units: Vec<&str> =
            quantity.units.iter().map(|unit| if unit.is_empty() { "none" } else { unit }).collect();
        writeln!(text, "| `{}` | {} | {} |", quantity.words, units.join(", "), quantity.meaning).unwrap();
    }
    text
}

fn index(profiles: &[Shipped]) -> String {
    let points: usize = profiles.iter().map(|profile| profile.points().count()).sum();
    let mut text = format!("{} profiles, {points} points.\n\n", profiles.len());
    text += "| profile | device | points | writable | tables | requests |\n| --- | --- | --- | --- | --- | --- |\n";
    for profile in profiles {
        let name = &profile.name;
        writeln!(
            text,
            "| [{name}]({name}.yaml) | {} | {} | {} | {} | {} |",
            profile.title(),
            profile.points().count(),
            profile.map.writes.len(),
            tables(profile),
            requests(&profile.limits()),
        )
        .unwrap();
    }
    text += "\nWhat to know about each, and where its numbers come from:\n\n";
    for profile in profiles {
        let notes = profile.notes();
        let space = if notes.is_empty() { "" } else { " " };
        writeln!(text, "- **{}**: {notes}{space}*Sources: {}.*", profile.name, profile.sources().join("; "))
            .unwrap();
    }
    text
}

/// The tables that its points are in.
fn tables(profile: &Shipped) -> String {
    let keys = ["coil", "discrete", "input", "holding", "node"];
    let used: BTreeSet<usize> = profile
        .points()
        .flat_map(|(_, point)| {
            (0..keys.len()).filter(|key| point.given(keys[*key]).is_some()).collect::<Vec<_>>()
        })
        .collect();
    used.into_iter().map(|key| keys[key]).collect::<Vec<_>>().join(", ")
}

/// What requests respect, where it is more than the protocol's own limits.
fn requests(limits: &Limits) -> String {
    let usual = Limits::default();
    let mut words = Vec::new();
    if limits.max_registers != usual.max_registers {
        words.push(format!("{} registers", limits.max_registers));
    }
    if limits.max_bits != usual.max_bits {
        words.push(format!("{} bits", limits.max_bits));
    }
    if limits.max_gap != usual.max_gap {
        words.push(format!("gaps of {}", limits.max_gap));
    }
    for (delay, what) in [
        (limits.delay_after_connect, "after connecting"),
        (limits.delay_between_requests, "between requests"),
    ] {
        if delay != Duration::ZERO {
            words.push(format!("{delay:?} {what}"));
        }
    }
    words.join(", ")
}
