//! The schemas that editors use are those of the code, and everything that the repository ships is accepted.
//!
//! `TAKTBUS_BLESS=1 cargo test --test schema` rewrites the committed schemas.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use serde_json::Value;
use taktbus::config::{self, DocumentKind, LoadOptions};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn yaml_files(folder: &Path, all: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            yaml_files(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            all.push(path);
        }
    }
}

#[test]
fn the_committed_schemas_are_those_of_the_code() {
    for (kind, name) in [(DocumentKind::Site, "site"), (DocumentKind::Profile, "profile")] {
        let path = root().join(format!("schemas/{name}.schema.json"));
        let generated = serde_json::to_string_pretty(&config::schema(kind)).unwrap() + "\n";
        if std::env::var_os("TAKTBUS_BLESS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &generated).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == generated, "{} is not what the code generates", path.display());
    }
}

#[test]
fn every_reference_of_a_schema_resolves_and_every_key_is_described() {
    fn walk(value: &Value, whole: &Value) {
        match value {
            Value::Object(object) => {
                if let Some(Value::String(reference)) = object.get("$ref") {
                    let pointer = reference.strip_prefix('#').unwrap();
                    assert!(whole.pointer(pointer).is_some(), "{reference}");
                }
                if let Some(Value::Object(properties)) = object.get("properties") {
                    for (key, property) in properties {
                        assert!(property["description"].is_string(), "{key} has no description");
                    }
                    assert_eq!(object["additionalProperties"], Value::Bool(false));
                }
                object.values().for_each(|value| walk(value, whole));
            }
            Value::Array(array) => array.iter().for_each(|value| walk(value, whole)),
            _ => {}
        }
    }
    for kind in [DocumentKind::Site, DocumentKind::Profile] {
        let schema = config::schema(kind);
        walk(&schema, &schema);
    }
}

/// Where a key has no closed list of words, an editor shows what one writes there.
#[test]
fn every_key_has_an_example_or_a_list_of_words() {
    /// Does an editor know what stands there, from this schema or from its parts?
    fn is_shown(schema: &Value, whole: &Value) -> bool {
        let referred = schema["$ref"].as_str().and_then(|at| whole.pointer(&at[1..]));
        let parts = schema["anyOf"].as_array().into_iter().flatten();
        ["examples", "enum", "properties", "additionalProperties"].iter().any(|key| schema.get(key).is_some())
            || schema["type"] == "boolean"
            || referred.into_iter().chain(parts).any(|part| is_shown(part, whole))
    }
    let mut faults = Vec::new();
    for kind in [DocumentKind::Site, DocumentKind::Profile] {
        let whole = config::schema(kind);
        let documents = whole["$defs"].as_object().unwrap();
        for (name, document) in documents {
            for (key, schema) in document["properties"].as_object().into_iter().flatten() {
                if !is_shown(schema, &whole) {
                    faults.push(format!("{name}.{key}"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "no example: {}", faults.join(", "));
}

#[test]
fn every_shipped_profile_is_accepted() {
    let mut files = Vec::new();
    yaml_files(&root().join("mappings"), &mut files);
    assert_eq!(config::built_in_profiles().count(), files.len(), "each profile is built into the binary");
    for path in files {
        let loaded = config::load_profile(&path);
        assert!(loaded.map.is_some(), "{}: {:#?}", path.display(), texts(&loaded.diagnostics));
        assert!(loaded.diagnostics.is_empty(), "{}: {:#?}", path.display(), texts(&loaded.diagnostics));
        let name = path.strip_prefix(root().join("mappings")).unwrap().with_extension("");
        assert_eq!(loaded.name.as_deref(), name.to_str(), "a profile is called like its file");
    }
}

#[test]
fn every_shipped_file_names_its_schema_for_editors() {
    let mut files = Vec::new();
    for folder in ["mappings", "examples"] {
        yaml_files(&root().join(folder), &mut files);
    }
    assert!(files.len() > 5);
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let first = text.lines().next().unwrap();
        let schema = first.strip_prefix("# yaml-language-server: $schema=").unwrap_or_default();
        let is_profile = path.components().any(|part| part.as_os_str() == "mappings");
        let name = if is_profile { "profile" } else { "site" };
        let named = path.parent().unwrap().join(schema).canonicalize().ok();
        let wanted = root().join(format!("schemas/{name}.schema.json")).canonicalize().unwrap();
        assert_eq!(named, Some(wanted), "{}: {first}", path.display());
    }
}

#[test]
fn every_example_is_accepted() {
    let mut files = Vec::new();
    yaml_files(&root().join("examples"), &mut files);
    let options = LoadOptions { mapping_dirs: vec![root().join("mappings")], ..LoadOptions::default() };
    for path in files.iter().filter(|path| !path.components().any(|part| part.as_os_str() == "mappings")) {
        let loaded = config::load(path, &options);
        assert!(loaded.site.is_some(), "{}: {:#?}", path.display(), texts(&loaded.diagnostics));
        assert!(loaded.diagnostics.is_empty(), "{}: {:#?}", path.display(), texts(&loaded.diagnostics));
    }
}

fn texts(diagnostics: &[taktbus::model::diagnostic::Diagnostic]) -> Vec<String> {
    diagnostics.iter().map(ToString::to_string).collect()
}
