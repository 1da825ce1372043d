//! `docs/quirks.md` keeps what it promises: every quirk is there, and every test that it names exists.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The quirks of Modbus devices are numbered from 1 to this.
const LAST: usize = 29;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Number → tests, row by row.
fn rows() -> Vec<(usize, Vec<String>)> {
    let text = fs::read_to_string(root().join("docs/quirks.md")).unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim().strip_prefix('|')?.split(" | ").map(str::trim).collect();
        let number = cells[0].parse().ok()?;
        assert_eq!(cells.len(), 4, "{line}");
        assert!(cells[1..].iter().all(|cell| cell.len() > 10), "an empty cell: {line}");
        let tests = cells[3].split('`').filter(|word| word.starts_with("quirk_"));
        Some((number, tests.map(str::to_owned).collect()))
    };
    text.lines().filter_map(row).collect()
}

/// The names of all functions right below a test's attribute, or within `proptest!`.
fn tests(folder: &Path, all: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let mut is_test = false;
            for line in text.lines().map(str::trim) {
                let function = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
                if let Some(name) = function.and_then(|function| function.split('(').next())
                    && is_test
                {
                    all.insert(name.to_owned());
                }
                is_test = line == "#[test]" || line.starts_with("#[tokio::test");
            }
        }
    }
}

#[test]
fn every_quirk_is_in_the_table_once_in_order() {
    let numbers: Vec<usize> = rows().iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=LAST).collect::<Vec<_>>());
}

#[test]
fn every_quirk_names_tests_of_its_number_that_exist() {
    let mut known = BTreeSet::new();
    tests(&root().join("src"), &mut known);
    tests(&root().join("tests"), &mut known);
    let mut named = BTreeSet::new();
    for (number, tests) in rows() {
        assert!(!tests.is_empty(), "quirk {number} has no test");
        for test in tests {
            assert!(test.starts_with(&format!("quirk_{number:02}_")), "{test} is not of quirk {number}");
            assert!(known.contains(&test), "there is no test {test}");
            named.insert(test);
        }
    }
    let unnamed: Vec<&String> =
        known.iter().filter(|test| test.starts_with("quirk_") && !named.contains(*test)).collect();
    assert!(unnamed.is_empty(), "not in the table: {unnamed:?}");
}
