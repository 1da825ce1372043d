//! The order of the house (`src/lib.rs`): a module imports only those before it, each outside library is met in its
//! rooms only, and only a few start tasks.
#![allow(clippy::unwrap_used)] // also in what the tests share

use std::fs;
use std::path::{Path, PathBuf};

/// The modules in dependency order.
const ORDER: [&str; 16] = [
    "budget",
    "metrics",
    "model",
    "document",
    "mapping",
    "drivers",
    "pipeline",
    "store",
    "northbound",
    "config",
    "interchange",
    "runtime",
    "simulation",
    "demo",
    "cli",
    "fuzzing",
];

/// North does not know south: they meet in `model` and `mapping`.
const STRANGERS: [(&str, &str); 2] = [("pipeline", "drivers"), ("northbound", "drivers")];

/// Imports against the order that are meant, each with its reason.
const EXCEPTIONS: [(&str, &str); 0] = [];

/// Outside libraries and the folders (or files) below `src/` that may name them.
const ROOMS: [(&str, &[&str]); 20] = [
    ("ratatui", &["cli/top"]),
    ("calamine", &["interchange/spreadsheet.rs"]),
    ("zip", &["interchange/spreadsheet.rs"]),
    ("csv", &["interchange/sheet.rs", "interchange/export.rs"]),
    ("toml", &["interchange/tree.rs"]),
    ("serde_yaml", &["document/"]),
    ("rumqttc", &["northbound/mqtt", "demo/"]),
    ("serial2", &["drivers/modbus/port.rs"]),
    ("tokio_serial", &["drivers/modbus/", "simulation/"]),
    ("tokio_modbus", &["simulation/"]),
    ("opcua", &["drivers/opcua/", "drivers/mod.rs", "simulation/", "cli/", "config/", "runtime/"]),
    ("reqwest", &["northbound/http/"]),
    ("hyper", &["runtime/http.rs"]),
    ("hyper_util", &["runtime/http.rs"]),
    ("http_body_util", &["runtime/http.rs"]),
    ("flate2", &["northbound/http/"]),
    ("crc32fast", &["store/"]),
    ("anyhow", &["cli/", "main.rs"]),
    ("clap_mangen", &["cli/generate.rs"]),
    ("clap_complete", &["cli/generate.rs"]),
];

/// Who may start tasks: long-lived ones are the runtime's alone. Those of a link end with it: what moves its bytes, and the requests that
/// wait at its far side.
const SPAWNERS: [&str; 7] =
    ["runtime/", "simulation/", "demo/", "cli/", "main.rs", "drivers/opcua/", "northbound/http/"];

#[test]
fn a_module_imports_only_those_before_it() {
    let wrong = findings(|source, line| {
        let module = source.module();
        let place = rank(module)?;
        let forbidden = |other: &&str| {
            let strangers = STRANGERS.contains(&(module, *other));
            let later = rank(other).is_some_and(|rank| rank > place);
            (strangers || later) && !EXCEPTIONS.contains(&(module, *other))
        };
        let others = crate_paths(line);
        let others = others.iter().map(String::as_str).filter(forbidden).collect::<Vec<_>>();
        (!others.is_empty()).then(|| format!("{module} must not import {}", others.join(", ")))
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_has_its_place_in_the_order() {
    let unknown = sources()
        .iter()
        .map(|source| source.module().to_owned())
        .filter(|module| !matches!(module.as_str(), "lib" | "main") && rank(module).is_none())
        .collect::<Vec<_>>();
    assert!(unknown.is_empty(), "not in the order of tests/layering.rs and src/lib.rs: {unknown:?}");
}

#[test]
fn each_outside_library_is_met_in_its_rooms() {
    let wrong = findings(|source, line| {
        let is_elsewhere =
            |rooms: &[&str]| source.in_tests || rooms.iter().any(|room| source.path.starts_with(room));
        let (library, rooms) =
            ROOMS.iter().find(|(library, rooms)| !is_elsewhere(rooms) && names(line, library))?;
        Some(format!("{library} is met in {} only", rooms.join(", ")))
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_the_runtime_starts_tasks() {
    let wrong = findings(|source, line| {
        let may = source.in_tests || SPAWNERS.iter().any(|spawner| source.path.starts_with(spawner));
        let starts = ["tokio::spawn(", "task::spawn(", "task::spawn_local(", "JoinSet::new("];
        (!may && starts.iter().any(|call| line.contains(call)))
            .then(|| "only the runtime starts tasks".to_owned())
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_dependency_is_explained() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manifests =
        ["Cargo.toml", "fuzz/Cargo.toml"].map(|path| fs::read_to_string(root.join(path)).unwrap());
    let page = fs::read_to_string(root.join("docs/dependencies.md")).unwrap();
    let mut is_dependency = false;
    let mut names = Vec::new();
    for line in manifests.iter().flat_map(|manifest| manifest.lines()) {
        if line.starts_with('[') {
            is_dependency = line.ends_with("dependencies]");
        } else if let Some((name, _)) = line.split_once(" = ").filter(|_| is_dependency) {
            names.push(name);
        }
    }
    assert!(names.len() > 15, "read only {names:?}");
    names.retain(|name| *name != "taktbus");
    names.retain(|name| !page.contains(&format!("`{name}`")));
    assert!(names.is_empty(), "docs/dependencies.md says nothing about {names:?}");
}

#[test]
fn the_reading_of_paths_sees_them_all() {
    assert_eq!(crate_paths("use crate::model::value::{Raw, Value};"), ["model"]);
    assert_eq!(
        crate_paths("use crate::{budget::Budget, drivers, model::{time::Stamp, value}};"),
        ["budget", "drivers", "model"]
    );
    assert_eq!(
        crate_paths("    fn run(sink: crate::northbound::Forwarder) -> crate::metrics::X {"),
        ["northbound", "metrics",]
    );
    assert_eq!(crate_paths("pub(crate) fn crate_name() {}"), [""; 0]);
    assert!(names("use rumqttc::Event;", "rumqttc") && names("rumqttc::mqttbytes::v4", "rumqttc"));
    assert!(!names("let my_rumqttc = 1; // rumqttcx", "rumqttc"));
}

/// One file below `src/`, without comments, `use` statements joined into one line each.
struct Source {
    /// Below `src/`, with forward slashes.
    path: String,
    /// A file of tests, or the rest of a file from its `#[cfg(test)]` on.
    in_tests: bool,
    /// Line number and text.
    statements: Vec<(usize, String)>,
}

impl Source {
    /// The top-level module that the file belongs to.
    fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }
}

fn findings(check: impl Fn(&Source, &str) -> Option<String>) -> Vec<String> {
    let mut found = Vec::new();
    for source in &sources() {
        for (number, line) in &source.statements {
            found.extend(check(source, line).map(|what| format!("src/{}:{number}: {what}", source.path)));
        }
    }
    found
}

fn rank(module: &str) -> Option<usize> {
    ORDER.iter().position(|name| *name == module)
}

/// All sources; a file with unit tests at its end gives two, since tests may meet libraries and start tasks
/// (but not import later modules).
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    assert!(files.len() > 20, "found only {} files below {}", files.len(), root.display());
    let mut sources = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let path = file.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
        let is_test_file =
            path.ends_with("/tests.rs") || path.contains("/tests/") || path.ends_with("_tests.rs");
        let statements = statements(&text);
        // `#[cfg(test)] mod x;` names another file, and code goes on behind it.
        let tests_from = statements
            .windows(2)
            .position(|pair| pair[0].1.trim() == "#[cfg(test)]" && pair[1].1.trim_end().ends_with('{'));
        let (code, tests) = statements.split_at(tests_from.unwrap_or(statements.len()));
        sources.push(Source { path: path.clone(), in_tests: is_test_file, statements: code.to_vec() });
        sources.push(Source { path, in_tests: true, statements: tests.to_vec() });
    }
    sources
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Lines without comments; a `use` that spans lines becomes one.
fn statements(text: &str) -> Vec<(usize, String)> {
    let mut statements: Vec<(usize, String)> = Vec::new();
    let mut open_use = false;
    for (number, line) in text.lines().enumerate() {
        let code = without_comment(line);
        match statements.last_mut() {
            Some((_, statement)) if open_use => statement.push_str(code.trim()),
            _ => statements.push((number + 1, code.to_owned())),
        }
        let starts = code.trim_start().trim_start_matches("pub ").starts_with("use ");
        open_use = (open_use || starts) && !code.contains(';');
    }
    statements
}

/// Cuts a `//` comment, but not the `//` of a URL inside a string.
fn without_comment(line: &str) -> &str {
    if line.trim_start().starts_with("//") {
        return "";
    }
    line.find(" // ").map_or(line, |at| &line[..at])
}

/// The top-level modules that a statement names: `crate::x::…`, `crate::{x, y::z}`.
fn crate_paths(line: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    for (at, start) in line.match_indices("crate::") {
        let is_path = !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$');
        let rest = &line[at + start.len()..];
        match rest.strip_prefix('{') {
            _ if !is_path => {}
            Some(group) => found.extend(top_level_items(group).iter().map(|item| word(item.trim()))),
            None => found.push(word(rest)),
        }
    }
    found.retain(|name| !name.is_empty() && name != "self");
    found
}

/// The comma-separated items of a group, up to its closing brace; commas of inner groups don't count.
fn top_level_items(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut items) = (0, 0, Vec::new());
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => {
                items.push(&group[start..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    items
}

/// Does the line use a library as the root of a path (`name::`), or import it whole?
fn names(line: &str, library: &str) -> bool {
    line.match_indices(library).any(|(at, name)| {
        let before = line[..at].chars().next_back();
        let is_root = !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':');
        let after = &line[at + name.len()..];
        is_root
            && (after.starts_with("::")
                || (line.trim_start().starts_with("use ") && after.starts_with([';', ' '])))
    })
}
