//! Collecting JSON Schemas (draft 2020-12) of the documents.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::read::Read;

/// Definitions that schemas refer to, each built once.
#[derive(Default)]
pub struct Schemas {
    definitions: BTreeMap<&'static str, Value>,
}

impl Schemas {
    /// A reference to a named schema; `build` is called the first time.
    pub fn named(&mut self, name: &'static str, build: impl FnOnce(&mut Self) -> Value) -> Value {
        if !self.definitions.contains_key(name) {
            // Holds the place, so that a schema may contain itself.
            self.definitions.insert(name, Value::Null);
            let schema = build(self);
            self.definitions.insert(name, schema);
        }
        json!({ "$ref": format!("#/$defs/{name}") })
    }
}

/// The complete schema of a document.
pub fn of<T: Read>(title: &str) -> Value {
    let mut schemas = Schemas::default();
    let root = T::schema(&mut schemas);
    let mut whole = Map::new();
    whole.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
    whole.insert("title".into(), title.into());
    if let Value::Object(root) = root {
        whole.extend(root);
    }
    whole.insert("$defs".into(), schemas.definitions.into_iter().map(|(k, v)| (k.to_string(), v)).collect());
    Value::Object(whole)
}

/// Adds a description, unless there is none.
pub fn described(schema: Value, doc: &[&str]) -> Value {
    let text = doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
    match schema {
        Value::Object(mut object) if !text.is_empty() => {
            object.insert("description".into(), text.into());
            Value::Object(object)
        }
        other => other,
    }
}
