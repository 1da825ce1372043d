//! Declaring documents: one declaration gives the struct, its reader and its JSON Schema.
//!
//! ```ignore
//! document! {
//!     /// A register.
//!     pub struct Register ("a register") {
//!         /// Its number.
//!         required number: Int<0, 65535>,
//!         /// A label. What a line `Example: …` says becomes an example of the schema.
//!         /// Example: `kWh`
//!         optional unit: Text,
//!     }
//!     unsupported: [("node", "OPC UA")]
//! }
//! ```
//! Every field is `Option<Box<At<T>>>` (most keys of most documents are absent, so they must cost little): `None` when the key is absent, or wrong and reported; `faulty` tells whether anything in the
//! document was reported, so that later stages need not guess.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::codes;
use super::read::{Read, Reader};
use super::scalar::shortened;
use super::schema::{Schemas, described};
use super::yaml::{self, Node};
use crate::model::diagnostic::{Diagnostics, SourceFile};

/// A key of a document.
pub struct Field {
    /// The key.
    pub key: &'static str,
    /// Its documentation, line by line.
    pub doc: &'static [&'static str],
    /// Must it be there?
    pub required: bool,
    /// The schema of its value.
    pub schema: fn(&mut Schemas) -> Value,
    /// Is this text such a value?
    pub accepts: fn(&str) -> bool,
}

/// What `document!` implements.
pub trait Document: Default {
    /// The name of its schema.
    const NAME: &'static str;
    /// What it is called in messages, with its article.
    const NOUN: &'static str;
    /// Its documentation, line by line.
    const DOC: &'static [&'static str];
    /// Its keys.
    const FIELDS: &'static [Field];
    /// Keys of the language that this version refuses, and what they stand for.
    const UNSUPPORTED: &'static [(&'static str, &'static str)];

    /// Reads the value of a key.
    fn set(&mut self, key: &str, value: &Node, to: &mut Reader<'_>);

    /// Remembers that something was reported.
    fn mark_faulty(&mut self);
}

/// Reads a document, and reports all that is wrong with it; keys that are missing at `place`.
pub fn read_document<D: Document>(place: &Node, node: &Node, to: &mut Reader<'_>) -> Option<D> {
    let before = to.found.errors();
    let entries = to.entries(node, D::NOUN)?;
    let mut document = D::default();
    let known = || D::FIELDS.iter().map(|field| field.key);
    for entry in &entries {
        if known().any(|key| key == entry.key) {
            document.set(entry.key, entry.value, to);
        } else if let Some((_, what)) = D::UNSUPPORTED.iter().find(|(key, _)| *key == entry.key) {
            to.error(codes::UNSUPPORTED, entry.at, format!("{what} is not supported by this version"));
        } else {
            let near = to.did_you_mean(entry.key, known());
            let message = format!("unknown key '{}' in {}{near}", shortened(entry.key), D::NOUN);
            let help = if entry.key.bytes().all(|b| b.is_ascii_digit()) {
                "is this a decimal comma? Write a point".to_string()
            } else {
                format!("known keys: {}", known().collect::<Vec<_>>().join(", "))
            };
            to.error(codes::UNKNOWN_KEY, entry.at, message).help(help);
        }
    }
    for field in D::FIELDS.iter().filter(|field| field.required) {
        if !entries.iter().any(|entry| entry.key == field.key) {
            to.error(codes::MISSING_KEY, place, format!("{} needs the key '{}'", D::NOUN, field.key));
        }
    }
    if to.found.errors() > before {
        document.mark_faulty();
    }
    Some(document)
}

/// The schema of a document: an object that allows its keys only.
pub fn document_schema<D: Document>(schemas: &mut Schemas) -> Value {
    schemas.named(D::NAME, |schemas| {
        let properties: Map<String, Value> =
            D::FIELDS.iter().map(|field| (field.key.to_string(), field_schema(field, schemas))).collect();
        let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
        let required: Vec<&str> = D::FIELDS.iter().filter(|f| f.required).map(|f| f.key).collect();
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        described(schema, D::DOC)
    })
}

fn field_schema(field: &Field, schemas: &mut Schemas) -> Value {
    let (examples, doc): (Vec<&str>, Vec<&str>) =
        field.doc.iter().partition(|line| line.trim_start().starts_with(EXAMPLE));
    let mut schema = described((field.schema)(schemas), &doc);
    for line in examples {
        let text = line.trim().trim_start_matches(EXAMPLE).trim_matches(['`', ' ']);
        debug_assert!((field.accepts)(text), "the example of '{}' is none: {text}", field.key);
        let example: Value = serde_json::from_str(text).unwrap_or_else(|_| text.into());
        schema["examples"] = json!([example]);
    }
    schema
}

/// How the line of a field's documentation begins that gives an example.
const EXAMPLE: &str = "Example:";

/// Is it read without a finding?
pub fn accepts<T: Read>(text: &str) -> bool {
    let file = Arc::new(SourceFile { path: String::new(), text: text.into() });
    let mut found = Diagnostics::default();
    let node = yaml::parse(&file, &mut found);
    let value = node.and_then(|node| T::read(&node, &mut Reader::new(&file, &mut found)));
    value.is_some() && found.sorted().is_empty()
}

/// The key of a field: a raw identifier's without `r#`.
pub const fn key_of(field: &'static str) -> &'static str {
    match field.as_bytes() {
        [b'r', b'#', ..] => field.split_at(2).1,
        _ => field,
    }
}

/// The schema of a field's type.
pub fn schema_of<T: Read>(schemas: &mut Schemas) -> Value {
    T::schema(schemas)
}

/// See the [module](self).
macro_rules! document {
    (
        $(#[doc = $doc:literal])*
        pub struct $name:ident ($noun:literal) {
            $( $(#[doc = $field_doc:literal])* $mode:ident $field:ident : $type:ty, )*
        }
        $(unsupported: [$(($unsupported:literal, $what:literal)),*])?
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $name {
            $( $(#[doc = $field_doc])* pub $field: Option<Box<$crate::document::read::At<$type>>>, )*
            /// Was anything in it reported?
            pub faulty: bool,
        }

        impl $crate::document::fields::Document for $name {
            const NAME: &'static str = stringify!($name);
            const NOUN: &'static str = $noun;
            const DOC: &'static [&'static str] = &[$($doc),*];
            const FIELDS: &'static [$crate::document::fields::Field] = &[
                $( $crate::document::fields::Field {
                    key: $crate::document::fields::key_of(stringify!($field)),
                    doc: &[$($field_doc),*],
                    required: $crate::document::fields::document!(@required $mode),
                    schema: $crate::document::fields::schema_of::<$type>,
                    accepts: $crate::document::fields::accepts::<$type>,
                }, )*
            ];
            const UNSUPPORTED: &'static [(&'static str, &'static str)] = &[$($(($unsupported, $what)),*)?];

            fn set(
                &mut self,
                key: &str,
                value: &$crate::document::yaml::Node,
                to: &mut $crate::document::read::Reader<'_>,
            ) {
                $( if key == $crate::document::fields::key_of(stringify!($field)) {
                    self.$field = to.at(value).map(Box::new);
                } )*
            }

            fn mark_faulty(&mut self) {
                self.faulty = true;
            }
        }

        impl $name {
            /// Where a key's value is, when it is given.
            #[allow(dead_code)]
            pub fn given(&self, key: &str) -> Option<&$crate::model::diagnostic::Span> {
                $( if key == $crate::document::fields::key_of(stringify!($field)) {
                    return self.$field.as_ref().map(|at| &at.span);
                } )*
                None
            }

            /// This document with single keys replaced by those that `patch` has.
            #[allow(dead_code)]
            pub fn patched(self, patch: Self) -> Self {
                Self {
                    $( $field: patch.$field.or(self.$field), )*
                    faulty: self.faulty || patch.faulty,
                }
            }
        }

        impl $crate::document::read::Read for $name {
            fn read(
                node: &$crate::document::yaml::Node,
                to: &mut $crate::document::read::Reader<'_>,
            ) -> Option<Self> {
                $crate::document::fields::read_document(node, node, to)
            }

            fn read_under(
                key: &$crate::document::yaml::Node,
                node: &$crate::document::yaml::Node,
                to: &mut $crate::document::read::Reader<'_>,
            ) -> Option<Self> {
                $crate::document::fields::read_document(key, node, to)
            }

            fn schema(schemas: &mut $crate::document::schema::Schemas) -> serde_json::Value {
                $crate::document::fields::document_schema::<Self>(schemas)
            }
        }
    };
    (@required required) => { true };
    (@required optional) => { false };
}

/// Declares an enum of words, its reader and its schema. `unsupported` words belong to the language and are refused;
/// `instead_of` words are those of other tools.
macro_rules! choice {
    (
        $(#[doc = $doc:literal])*
        pub enum $name:ident ($noun:literal) {
            $( $(#[doc = $variant_doc:literal])* $variant:ident = $word:literal, )*
        }
        $(unsupported: [$($unsupported:literal),*])?
        $(instead_of: [$(($old:literal, $ours:literal)),*])?
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $( $(#[doc = $variant_doc])* #[doc = concat!("`", $word, "`")] $variant, )*
        }

        impl $name {
            /// All words with what they mean.
            pub const WORDS: &'static [(&'static str, Self)] = &[$(($word, Self::$variant)),*];

            /// Its word.
            #[allow(dead_code)]
            pub fn word(self) -> &'static str {
                match self { $( Self::$variant => $word, )* }
            }
        }

        impl $crate::document::read::Read for $name {
            fn read(
                node: &$crate::document::yaml::Node,
                to: &mut $crate::document::read::Reader<'_>,
            ) -> Option<Self> {
                to.choice(node, $noun, Self::WORDS, &[$($($unsupported),*)?], &[$($(($old, $ours)),*)?])
            }

            fn schema(_: &mut $crate::document::schema::Schemas) -> serde_json::Value {
                serde_json::json!({ "enum": [$($word),*] })
            }
        }
    };
}

pub(crate) use {choice, document};
