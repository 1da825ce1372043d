//! Configurations of other gateways, YAML or TOML, as one kind of tree: texts, lists and maps with their lines. The only
//! file that meets the TOML parser.

use std::ops::Range;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::note::{Note, Notes};
use super::numbers;
use crate::document::scalar::shortened;
use crate::document::yaml::{self, Kind};
use crate::model::decimal::Decimal;
use crate::model::diagnostic::{Diagnostics, SourceFile, Span};

/// A value with its line.
#[derive(Clone, Debug, PartialEq)]
pub struct Tree {
    /// Counted from 1.
    pub line: usize,
    /// What it is.
    pub kind: TreeKind,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub enum TreeKind {
    /// A text, a number or a boolean, as it is written but without quotes.
    Text(String),
    /// A list.
    List(Vec<Tree>),
    /// Keys and values, in the order of the file.
    Map(Vec<(String, Tree)>),
}

/// Why a text is no tree.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct NoTree {
    /// Where.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

impl Tree {
    /// Reads TOML 1.0.
    pub fn of_toml(text: &str) -> Result<Self, NoTree> {
        let lines = Lines::of(text);
        match DeTable::parse(text) {
            Ok(table) => Ok(toml_table(table.get_ref(), lines.at(&table.span()), &lines)),
            Err(error) => Err(NoTree {
                line: error.span().map_or(1, |span| lines.at(&span)),
                message: shortened(error.message()),
            }),
        }
    }

    /// Reads YAML within the limits of our own documents; tags are refused, which Home Assistant's `!secret` is one of.
    pub fn of_yaml(text: &str) -> Result<Self, NoTree> {
        let lines = Lines::of(text);
        let file = Arc::new(SourceFile { path: String::new(), text: text.into() });
        let mut found = Diagnostics::default();
        match yaml::parse(&file, &mut found) {
            Some(node) => Ok(yaml_node(&node, &file, &lines)),
            None => {
                let first = found.sorted().into_iter().next();
                let line = first
                    .as_ref()
                    .and_then(|first| first.span.as_ref())
                    .map_or(1, |span| lines.at(&span.range));
                Err(NoTree { line, message: first.map_or_else(String::new, |first| first.message) })
            }
        }
    }

    /// The value of a key of a map.
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|(known, _)| known == key).map(|(_, value)| value)
    }

    /// The keys and values of a map; none of anything else.
    pub fn entries(&self) -> &[(String, Self)] {
        match &self.kind {
            TreeKind::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; one single value is a list of one.
    pub fn items(&self) -> &[Self] {
        match &self.kind {
            TreeKind::List(items) => items,
            TreeKind::Text(text) if text.is_empty() => &[],
            _ => std::slice::from_ref(self),
        }
    }

    /// The items below a key.
    pub fn list(&self, key: &str) -> &[Self] {
        self.get(key).map_or(&[], Self::items)
    }

    /// The text itself.
    pub fn as_text(&self) -> Option<&str> {
        match &self.kind {
            TreeKind::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The text of a key; empty where there is none.
    pub fn text(&self, key: &str) -> &str {
        self.get(key).and_then(Self::as_text).unwrap_or("")
    }

    /// Is a key `true`?
    pub fn flag(&self, key: &str) -> bool {
        ["true", "yes", "on"].iter().any(|word| self.text(key).eq_ignore_ascii_case(word))
    }

    /// A whole number, decimal or hexadecimal. An error says which key.
    pub fn number<N: TryFrom<u64>>(&self, key: &str) -> Result<Option<N>, Note> {
        let text = self.text(key);
        if self.get(key).is_none() {
            return Ok(None);
        }
        let number = match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => text.parse::<u64>().ok(),
        };
        let number = number.and_then(|number| N::try_from(number).ok());
        let fail = || Note::error(self.line, format!("{key}: '{}' is no number that fits", shortened(text)));
        number.map(Some).ok_or_else(fail)
    }

    /// An exact decimal. An error says which key.
    pub fn decimal(&self, key: &str) -> Result<Option<Decimal>, Note> {
        let fail =
            |no: numbers::NoNumber| Note::error(self.line, format!("{key}: {}", no.message)).help(no.help);
        numbers::number(self.text(key)).map_err(fail)
    }

    /// Notes the keys that are not among the known ones.
    pub fn note_others(&self, known: &[&str], notes: &mut Notes) {
        let others: Vec<String> = self
            .entries()
            .iter()
            .filter(|(key, _)| !known.contains(&key.as_str()))
            .map(|(key, _)| shortened(key))
            .collect();
        if !others.is_empty() {
            notes.push(Note::warning(self.line, format!("not carried over: {}", others.join(", "))));
        }
    }
}

/// Where lines begin.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.match_indices('\n').map(|(at, _)| at).collect())
    }

    fn at(&self, range: &Range<usize>) -> usize {
        self.0.partition_point(|end| *end < range.start) + 1
    }
}

fn toml_table(table: &DeTable<'_>, line: usize, lines: &Lines) -> Tree {
    // The library sorts keys; the order of the file is that of their places.
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let entries = entries.into_iter().map(|(key, value)| {
        let value = toml_value(value.get_ref(), lines.at(&value.span()), lines);
        (key.get_ref().to_string(), value)
    });
    Tree { line, kind: TreeKind::Map(entries.collect()) }
}

fn toml_value(value: &DeValue<'_>, line: usize, lines: &Lines) -> Tree {
    let kind = match value {
        DeValue::String(text) => TreeKind::Text(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => TreeKind::Text(number.as_str().into()),
        DeValue::Integer(number) => {
            TreeKind::Text(match u64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => number.to_string(),
                Err(_) => number.as_str().into(),
            })
        }
        DeValue::Float(number) => TreeKind::Text(number.as_str().into()),
        DeValue::Boolean(flag) => TreeKind::Text(flag.to_string()),
        DeValue::Datetime(time) => TreeKind::Text(time.to_string()),
        DeValue::Array(items) => TreeKind::List(
            items.iter().map(|item| toml_value(item.get_ref(), lines.at(&item.span()), lines)).collect(),
        ),
        DeValue::Table(table) => return toml_table(table, line, lines),
    };
    Tree { line, kind }
}

fn yaml_node(node: &yaml::Node, file: &Arc<SourceFile>, lines: &Lines) -> Tree {
    let line = |node: &yaml::Node| {
        let Span { range, .. } = node.span(file);
        lines.at(&range)
    };
    let kind = match &node.kind {
        Kind::Scalar { text, plain: true } if matches!(&**text, "~" | "null") => {
            TreeKind::Text(String::new())
        }
        Kind::Scalar { text, .. } => TreeKind::Text(text.to_string()),
        Kind::Sequence(items) => {
            TreeKind::List(items.iter().map(|item| yaml_node(item, file, lines)).collect())
        }
        Kind::Mapping(pairs) => {
            let pairs = pairs.iter().filter_map(|(key, value)| match &key.kind {
                Kind::Scalar { text, .. } => Some((text.to_string(), yaml_node(value, file, lines))),
                _ => None,
            });
            TreeKind::Map(pairs.collect())
        }
    };
    Tree { line: line(node), kind }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn toml_and_yaml_become_the_same_tree() {
        let toml = Tree::of_toml("[[m]]\nname = 'a'\nscale = 0.10\nlist = [0x10, 2]\n").unwrap();
        let yaml = Tree::of_yaml("m:\n  - name: a\n    scale: 0.10\n    list: [0x10, 2]\n").unwrap();
        for tree in [toml, yaml] {
            let one = &tree.list("m")[0];
            assert_eq!((one.text("name"), one.text("scale")), ("a", "0.10"));
            assert_eq!(one.get("scale").unwrap().line, 3);
            assert_eq!(one.number::<u8>("name").unwrap_err().line, Some(one.line));
            assert_eq!(one.list("list").len(), 2);
        }
    }

    #[test]
    fn what_is_no_tree_is_said_with_its_line() {
        assert_eq!(Tree::of_toml("a = 1\nb = \n").unwrap_err().line, 2);
        assert_eq!(Tree::of_yaml("a: 1\nb: !secret x\n").unwrap_err().line, 2);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>(), near in "[\\[\\]{}a-c=:.,\"' \n0-9!&*-]{0,40}") {
            for text in [text, near] {
                let _ = (Tree::of_toml(&text), Tree::of_yaml(&text));
            }
        }
    }
}
