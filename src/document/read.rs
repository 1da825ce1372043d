//! From nodes to values: the trait of everything that can be read from YAML, and the ways that all readers share.
//!
//! A reader reports what is wrong and yields `None`; `None` always means "already reported".

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

use serde_json::Value;

use super::codes;
use super::scalar::{Meaning, describe, is_old_boolean, meaning, sexagesimal, shortened};
use super::schema::Schemas;
use super::suggest;
use super::yaml::{Kind, Node};
use crate::model::diagnostic::{Diagnostic, Diagnostics, SourceFile, Span};

/// Something that is read from a YAML node, and that can tell its JSON Schema.
pub trait Read: Sized {
    /// Reads it, and reports everything that is wrong with it.
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self>;

    /// The same for what stands under a key, which is where something missing is reported.
    fn read_under(_key: &Node, node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        Self::read(node, to)
    }

    /// Its JSON Schema (draft 2020-12); what is used often goes into the definitions.
    fn schema(schemas: &mut Schemas) -> Value;
}

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where it is written.
    pub span: Span,
}

impl<T> Deref for At<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// The file being read, and where findings go.
pub struct Reader<'a> {
    /// The file.
    pub file: &'a Arc<SourceFile>,
    /// What was found so far.
    pub found: &'a mut Diagnostics,
    /// Points that ranges of names have made so far, at most [`MAX_EXPANDED`].
    pub expanded: usize,
}

/// Most points that ranges of names may make in one file: as many as a table has registers.
pub const MAX_EXPANDED: usize = 65_536;

/// One key of a map and its value.
pub struct Entry<'n> {
    /// The key's text.
    pub key: &'n str,
    /// The key's node.
    pub at: &'n Node,
    /// The value.
    pub value: &'n Node,
}

impl<'a> Reader<'a> {
    /// A reader of a file.
    pub fn new(file: &'a Arc<SourceFile>, found: &'a mut Diagnostics) -> Self {
        Self { file, found, expanded: 0 }
    }

    /// The place of a node.
    pub fn span(&self, node: &Node) -> Span {
        node.span(self.file)
    }

    /// Reports an error at a node.
    pub fn error(&mut self, code: &'static str, node: &Node, message: impl Into<String>) -> &mut Diagnostic {
        self.found.error(code, &node.span(self.file), message)
    }

    /// Reports that something else was expected.
    pub fn expected(&mut self, node: &Node, what: &str) -> &mut Diagnostic {
        let found = describe(node);
        self.error(codes::WRONG_TYPE, node, format!("{what} is expected, found {found}"))
    }

    /// Reads a value together with its place.
    pub fn at<T: Read>(&mut self, node: &Node) -> Option<At<T>> {
        let value = T::read(node, self)?;
        Some(At { value, span: self.span(node) })
    }

    /// `: did you mean 'float32'?`, or nothing.
    pub fn did_you_mean<'k>(&self, word: &str, known: impl IntoIterator<Item = &'k str>) -> String {
        suggest::did_you_mean(self.found, word, known)
    }

    /// The entries of a map, each key once. Reports what is no map, keys that are no words, and keys given twice.
    pub fn entries<'n>(&mut self, node: &'n Node, what: &str) -> Option<Vec<Entry<'n>>> {
        let Kind::Mapping(pairs) = &node.kind else {
            self.expected(node, &format!("a map ({what})"));
            return None;
        };
        let mut entries = Vec::with_capacity(pairs.len());
        let mut first: HashMap<&str, &Node> = HashMap::with_capacity(pairs.len());
        for (at, value) in pairs {
            let Some(key) = self.key(at, value) else { continue };
            if let Some(earlier) = first.get(key) {
                self.duplicate(key, at, earlier);
                continue;
            }
            first.insert(key, at);
            entries.push(Entry { key, at, value });
        }
        Some(entries)
    }

    /// Reports a key that is given twice.
    fn duplicate(&mut self, key: &str, at: &Node, earlier: &Node) {
        // Counting lines takes time, and a finding that is not kept needs no number.
        let line = if self.found.is_full() { 0 } else { self.span(earlier).line_column().0 };
        let message = format!("the key '{}' is given twice, first on line {line}", shortened(key));
        self.error(codes::DUPLICATE_KEY, at, message).help("keep one of them");
    }

    /// The text of a key. Reports what is no word, or is one to some parsers only.
    fn key<'n>(&mut self, at: &'n Node, value: &Node) -> Option<&'n str> {
        match meaning(at) {
            Meaning::Bare("<<") => {
                self.error(codes::MERGE_KEY, at, "the merge key '<<' is not part of YAML 1.2")
                    .help("write a profile and patch single keys of it");
                None
            }
            Meaning::Bare(text) if is_old_boolean(text) => {
                self.error(codes::BARE_WORD, at, format!("the key {text} is a boolean to some YAML parsers"))
                    .help(format!("write '{text}' in quotes"));
                None
            }
            Meaning::Bare(text) if sexagesimal(text).is_some() => {
                self.error(codes::SEXAGESIMAL, at, format!("'{text}' is neither a number nor a key"))
                    .help(format!("write a blank behind the colon: {}", text.replacen(':', ": ", 1)));
                None
            }
            Meaning::Bare(text) if text.contains(':') && meaning(value) == Meaning::Null => {
                self.error(
                    codes::BAD_KEY,
                    at,
                    format!("'{}' has no blank behind its colon", shortened(text)),
                )
                .help(format!("write {}", shortened(&text.replacen(':', ": ", 1))));
                None
            }
            Meaning::Bare(text) | Meaning::Quoted(text) | Meaning::Integer(text) => Some(text),
            Meaning::Float(_) | Meaning::Null | Meaning::Bool(_) | Meaning::List | Meaning::Map => {
                let found = describe(at);
                self.error(codes::BAD_KEY, at, format!("a key must be a word, found {found}"))
                    .help("put the key in quotes");
                None
            }
        }
    }

    /// One of some words. `old` are words that other tools use, with ours.
    pub fn choice<T: Copy>(
        &mut self,
        node: &Node,
        noun: &str,
        words: &[(&str, T)],
        unsupported: &[&str],
        old: &[(&str, &str)],
    ) -> Option<T> {
        let text = match meaning(node) {
            Meaning::Bare(text) | Meaning::Quoted(text) => text,
            _ => {
                let list = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
                self.expected(node, noun).help(format!("one of: {list}"));
                return None;
            }
        };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let noun = noun.trim_start_matches("an ").trim_start_matches("a ");
        if unsupported.contains(&text) {
            self.error(codes::UNSUPPORTED, node, format!("{noun} '{text}' is not supported by this version"));
            return None;
        }
        let lower = text.to_lowercase();
        let near = match old.iter().find(|(word, _)| *word == lower) {
            Some((_, ours)) => format!(": did you mean '{ours}'?"),
            None => self.did_you_mean(text, words.iter().map(|(word, _)| *word)),
        };
        let list = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        self.error(codes::UNKNOWN_WORD, node, format!("unknown {noun} '{}'{near}", shortened(text)))
            .help(format!("one of: {list}"));
        None
    }
}
