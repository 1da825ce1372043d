//! The device library below `mappings/`: every profile is accepted without a finding, says what it is, proves itself by
//! examples, speaks the words of the convention, and is in the index and in the binary.
//!
//! `TAKTBUS_BLESS=1 cargo test --test library` rewrites the generated parts of `mappings/README.md`.

#![allow(clippy::unwrap_used)] // also outside the test functions

mod index;
mod names;
mod shipped;

use std::collections::BTreeSet;

use shipped::{Shipped, folder, profiles};
use taktbus::config::{self, LoadOptions};
use taktbus::mapping::compiled::Kind;

/// What is wrong with the profiles, one line each; the test fails with all of them.
fn report(faults: impl IntoIterator<Item = String>) {
    let faults: Vec<String> = faults.into_iter().collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_profile_is_accepted_without_a_finding() {
    report(
        profiles().into_iter().filter(|profile| !profile.findings.is_empty()).map(|profile| profile.findings),
    );
}

#[test]
fn every_profile_says_what_it_is_and_where_its_numbers_come_from() {
    report(profiles().iter().flat_map(|profile| {
        let schema =
            profile.text.starts_with("# yaml-language-server: $schema=../../schemas/profile.schema.json\n");
        let said = [
            ("schema in its first line", schema),
            ("title", !profile.title().is_empty()),
            ("sources", !profile.sources().is_empty()),
            ("address_base", profile.written.address_base.is_some() || profile.is_opc_ua()),
            ("limits", profile.written.limits.is_some() || profile.is_opc_ua()),
        ];
        said.into_iter()
            .filter(|(_, said)| !said)
            .map(|(what, _)| format!("{}: no {what}", profile.name))
            .collect::<Vec<_>>()
    }));
}

#[test]
fn every_profile_has_examples_also_for_what_is_not_available() {
    report(profiles().iter().filter_map(|profile| {
        let examples = profile.expectations();
        let values = examples.iter().flatten().filter(|(_, bad)| !bad).count();
        let bad = examples.iter().flatten().filter(|(_, bad)| *bad).count();
        let wanted = if profile.points().count() > 3 { 4 } else { 2 };
        let fault = match (values, bad) {
            (values, _) if values < wanted => format!("its examples expect {values} values"),
            (_, 0) if has_unavailable(profile) => "no example expects null for what is not available".into(),
            _ => return None,
        };
        Some(format!("{}: {fault}", profile.name))
    }));
}

/// Can a point of it be "not available"?
fn has_unavailable(profile: &Shipped) -> bool {
    let floats = profile
        .map
        .readings
        .iter()
        .any(|reading| matches!(reading.decode.kind, Kind::Float32 | Kind::Float64));
    floats || profile.map.points.iter().any(|point| !point.transform.invalid.is_empty())
}

#[test]
fn every_unit_is_from_one_list() {
    let known: BTreeSet<&str> = names::QUANTITIES
        .iter()
        .flat_map(|quantity| quantity.units)
        .chain(names::OTHER_UNITS)
        .copied()
        .collect();
    report(profiles().iter().flat_map(|profile| {
        let units = profile.points().filter_map(|(name, point)| Some((name, &point.unit.as_ref()?.value.0)));
        let strange = units.filter(|(_, unit)| !known.contains(unit.as_str()));
        strange.map(|(name, unit)| format!("{}: {name} is in '{unit}'", profile.name)).collect::<Vec<_>>()
    }));
}

#[test]
fn every_name_follows_the_convention() {
    report(profiles().iter().flat_map(|profile| {
        let faults = profile.points().filter_map(|(name, point)| {
            let unit = point.unit.as_ref().map_or("", |unit| &unit.value.0);
            let is_number = point.r#enum.is_none()
                && point.bits.is_none()
                && point.bit.is_none()
                && !name.ends_with("_sf");
            let fault = names::fault(name, unit, is_number)?;
            Some(format!("{}: {name}: {fault}", profile.name))
        });
        faults.collect::<Vec<_>>()
    }));
}

#[test]
fn the_convention_sees_what_breaks_it() {
    for (name, unit) in [
        ("Voltage", "V"),
        ("voltage__l1", "V"),
        ("1_voltage", "V"),
        ("voltage_l1_n", "V"),
        ("active_power_total", "W"),
        ("flow_temp", "°C"),
        ("voltage_l1", "A"),
        ("pv1_current", ""),
        ("thd_voltage_l1", "V"),
        ("reactive_energy_import", "kWh"),
    ] {
        assert!(names::fault(name, unit, true).is_some(), "{name} in '{unit}'");
    }
    for (name, unit) in
        [("voltage_l1", "V"), ("pv1_current", "A"), ("thd_current_l2", "percent"), ("serial_number", "")]
    {
        assert_eq!(names::fault(name, unit, true), None, "{name} in '{unit}'");
    }
    assert_eq!(names::fault("active_power_control_mode", "", false), None);
}

#[test]
fn the_index_is_made_from_the_profiles() {
    let path = folder().join("README.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let renewed = index::renewed(&page, &profiles());
    if std::env::var_os("TAKTBUS_BLESS").is_some() {
        std::fs::write(&path, &renewed).unwrap();
    } else {
        assert!(
            page == renewed,
            "{} is not what the profiles say: TAKTBUS_BLESS=1 renews it",
            path.display()
        );
    }
}

#[test]
fn the_readme_counts_the_profiles() {
    let readme = std::fs::read_to_string(folder().parent().unwrap().join("README.md")).unwrap();
    let count = format!("{} profiles", profiles().len());
    assert!(readme.contains(&count), "README.md does not say '{count}'");
}

#[test]
fn a_site_finds_every_profile_in_the_binary() {
    let shipped = profiles();
    let built_in: BTreeSet<&str> = config::built_in_profiles().collect();
    assert_eq!(built_in, shipped.iter().map(|profile| profile.name.as_str()).collect());
    report(shipped.iter().filter_map(|profile| {
        let (link, unit) = match profile.is_opc_ua() {
            true => ("opcua: opc.tcp://127.0.0.1", ""),
            false => ("tcp: 127.0.0.1:502", "unit_id: 1, "),
        };
        let site = format!(
            "site: library\nconnections:\n  c: {{{link}}}\ndevices:\n  \
             d: {{via: c, {unit}profile: {}, every: 1h, budget: 1m}}\npublish:\n  \
             p: {{mqtt: \"mqtt://127.0.0.1:1883\"}}\n",
            profile.name
        );
        let loaded = config::load_text("no-such-folder/site.yaml", &site, &LoadOptions::default());
        let found: Vec<_> = loaded.diagnostics.iter().map(|finding| finding.code).collect();
        (!found.is_empty()).then(|| format!("{}: {found:?}", profile.name))
    }));
}
