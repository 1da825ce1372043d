//! The JSON Schemas as editors use them, judged by a validator that we did not write: whatever ships passes, nothing that
//! `check` accepts is refused, and what the schema alone can see is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::peers::{Peer, needs};

/// Codes of errors that are visible in the structure of a file alone. The others are about several keys at once, about
/// other files, about spellings that a YAML parser hides, or about what this version can't do yet.
const STRUCTURAL: [&str; 10] =
    ["E004", "E007", "E009", "E010", "E011", "E013", "E020", "E021", "E024", "E026"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All YAML files below a folder, by the name of their schema.
fn yaml_files(folder: &Path, all: &mut BTreeMap<&'static str, Vec<PathBuf>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            yaml_files(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            let is_profile = path.components().any(|part| part.as_os_str() == "mappings");
            all.entry(if is_profile { "profile" } else { "site" }).or_default().push(path);
        }
    }
}

/// The files that the validator refuses, each with the first reason.
fn refused(schema: &str, files: &[PathBuf]) -> BTreeMap<PathBuf, String> {
    let schema = root().join(format!("schemas/{schema}.schema.json"));
    let mut command = Peer::CheckJsonschema.command();
    command.args(["--output-format", "json", "--schemafile"]).arg(schema).args(files);
    let output = command.output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let list = |key: &str| report[key].as_array().cloned().unwrap_or_default();
    let mut refused = BTreeMap::new();
    for finding in list("errors").into_iter().chain(list("parse_errors")) {
        let file = PathBuf::from(finding["filename"].as_str().unwrap());
        refused.entry(file).or_insert_with(|| finding["message"].to_string());
    }
    // The exit code says the same as the report: nothing was left out.
    assert_eq!(output.status.success(), refused.is_empty());
    refused
}

#[test]
fn everything_that_ships_passes_its_schema() {
    needs!(CheckJsonschema);
    let mut files = BTreeMap::new();
    for folder in ["mappings", "examples"] {
        yaml_files(&root().join(folder), &mut files);
    }
    assert_eq!(files.len(), 2, "sites and profiles");
    for (schema, files) in files {
        assert_eq!(refused(schema, &files), BTreeMap::new());
    }
}

/// The errors of the gallery, by file: their codes.
fn errors(gallery: &Path) -> BTreeMap<PathBuf, BTreeSet<String>> {
    let mut errors: BTreeMap<PathBuf, BTreeSet<String>> = BTreeMap::new();
    for folder in std::fs::read_dir(gallery).unwrap() {
        let folder = folder.unwrap().path();
        for line in std::fs::read_to_string(folder.join("expected.txt")).unwrap().lines() {
            let Some((place, rest)) = line.split_once(": error[") else { continue };
            let file = place.split(':').next().unwrap();
            errors.entry(folder.join(file)).or_default().insert(rest[..4].to_string());
        }
    }
    errors
}

#[test]
fn the_schema_refuses_what_it_can_see_and_nothing_that_is_right() {
    needs!(CheckJsonschema);
    let gallery = root().join("tests/diagnostics");
    let errors = errors(&gallery);
    let mut files = BTreeMap::new();
    yaml_files(&gallery, &mut files);
    let (mut faults, mut seen) = (Vec::new(), 0);
    for (schema, files) in files {
        let refused = refused(schema, &files);
        for file in files {
            let codes = errors.get(&file);
            let visible =
                codes.is_some_and(|codes| codes.iter().any(|code| STRUCTURAL.contains(&code.as_str())));
            match refused.get(&file) {
                Some(reason) if codes.is_none() => {
                    faults.push(format!("{}: refused: {reason}", file.display()));
                }
                None if visible => faults.push(format!("{}: not refused: {codes:?}", file.display())),
                _ => seen += usize::from(visible),
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(seen >= 20, "only {seen} files with visible errors");
}
