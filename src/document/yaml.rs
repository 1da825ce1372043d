//! YAML text → nodes with places: the only file that meets the YAML parser.
//!
//! Aliases are resolved here. Depth, and the size after expansion, are bounded: an alias bomb or 10,000 levels of nesting
//! are refused at once. Tags and second documents are refused.

use std::collections::HashMap;
use std::sync::Arc;

use serde_yaml::{ErrorKind, Event, Parser, ScalarStyle, ScanError, options};

use super::codes;
use super::scalar::shortened;
use crate::model::diagnostic::{Diagnostics, SourceFile, Span};

/// Deepest nesting of lists and maps; a site file needs about 6.
pub const MAX_DEPTH: usize = 64;

/// Largest size of a document after aliases are resolved: one per node, and one per 32 bytes of text. At some 64 bytes
/// each they stay under 32 MiB.
pub const MAX_SIZE: usize = 500_000;

/// Most anchors of a document. Each keeps a copy of its node.
pub const MAX_ANCHORS: usize = 1_000;

/// A part of a YAML document.
#[derive(Clone, Debug)]
pub struct Node {
    /// Byte offset of its first character.
    from: u32,
    /// Byte offset behind its last character.
    to: u32,
    /// What it is.
    pub kind: Kind,
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A single word, number or text.
    Scalar {
        /// Its text without quotes.
        text: Box<str>,
        /// Neither in quotes nor in a block: only such a scalar can be a number, a boolean or null.
        plain: bool,
    },
    /// A list.
    Sequence(Vec<Node>),
    /// Keys and values, in the order of the file; keys may repeat.
    Mapping(Vec<(Node, Node)>),
}

impl Kind {
    /// Gives back what a list reserved for items that did not come: most maps have one or two keys.
    fn shrink(&mut self) {
        match self {
            Self::Scalar { .. } => {}
            Self::Sequence(items) => items.shrink_to_fit(),
            Self::Mapping(entries) => entries.shrink_to_fit(),
        }
    }
}

impl Node {
    /// Is it a map that has this key?
    pub fn has_key(&self, name: &str) -> bool {
        let Kind::Mapping(pairs) = &self.kind else { return false };
        pairs.iter().any(|(key, _)| matches!(&key.kind, Kind::Scalar { text, .. } if **text == *name))
    }

    /// The node's place.
    pub fn span(&self, file: &Arc<SourceFile>) -> Span {
        Span { file: Arc::clone(file), range: self.from as usize..self.to as usize }
    }
}

/// Reads the one document of a file. The first syntax error is reported with its place; an empty file is a null scalar.
pub fn parse(file: &Arc<SourceFile>, found: &mut Diagnostics) -> Option<Node> {
    let options = options! {
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let mut builder = Builder::default();
    for event in Parser::new_from_str_with_options(&file.text, options) {
        let fault = match event {
            Ok((event, span)) => {
                let start = span.start.byte_offset().unwrap_or(0);
                let range = span.byte_range().unwrap_or(start..start);
                builder.take(event, range.start as u32, range.end as u32).err()
            }
            Err(error) => Some(syntax_fault(&error, &file.text)),
        };
        if let Some(fault) = fault {
            // What is missing at the end of the text is missing behind its last character.
            let end = (fault.at + fault.length).min(file.text.len());
            let span = Span { file: Arc::clone(file), range: fault.at.min(end)..end };
            let diagnostic = found.error(fault.code, &span, fault.message);
            if let Some(help) = fault.help {
                diagnostic.help(help);
            }
            return None;
        }
    }
    let nothing = Kind::Scalar { text: "".into(), plain: true };
    Some(builder.root.unwrap_or(Node { from: 0, to: 0, kind: nothing }))
}

/// Why a text is no acceptable document.
struct Fault {
    code: &'static str,
    at: usize,
    length: usize,
    message: String,
    help: Option<&'static str>,
}

impl Fault {
    fn new(code: &'static str, at: usize, length: usize, message: impl Into<String>) -> Self {
        Self { code, at, length: length.max(1), message: message.into(), help: None }
    }

    fn help(self, help: &'static str) -> Self {
        Self { help: Some(help), ..self }
    }
}

/// A list or map whose end has not come.
struct Open {
    from: u32,
    anchor: usize,
    size: usize,
    height: usize,
    kind: Kind,
    key: Option<Node>,
}

/// A finished node that aliases may repeat.
struct Anchored {
    node: Node,
    size: usize,
    height: usize,
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    root: Option<Node>,
    documents: usize,
    size: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, from: u32, to: u32) -> Result<(), Fault> {
        let (at, length) = (from as usize, to.saturating_sub(from) as usize);
        if let Some(tag) = event.tag() {
            return Err(Fault::new(
                codes::YAML_TAG,
                at,
                length,
                format!("the tag {} is not understood", shortened(&tag.original())),
            )
            .help("remove it: types follow from the keys"));
        }
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(Fault::new(
                        codes::YAML_DOCUMENTS,
                        at,
                        length,
                        "a second document begins here",
                    )
                    .help("a file holds one document: remove the '---'"));
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, _) => {
                let size = 1 + text.len() / 32;
                self.grow(size, at, length)?;
                let plain = style == ScalarStyle::Plain;
                let node = Node { from, to, kind: Kind::Scalar { text: text.into(), plain } };
                self.finish(node, anchor, size, 0)
            }
            Event::SequenceStart(_, anchor, _) => self.begin(from, anchor, Kind::Sequence(Vec::new())),
            Event::MappingStart(_, anchor, _) => self.begin(from, anchor, Kind::Mapping(Vec::new())),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open { from, anchor, size, height, mut kind, .. }) => {
                    kind.shrink();
                    self.finish(Node { from, to: to.max(from), kind }, anchor, size, height + 1)
                }
                None => Ok(()),
            },
            Event::Alias(id) => {
                let Some((size, height)) = self.anchors.get(&id).map(|a| (a.size, a.height)) else {
                    return Err(Fault::new(
                        codes::YAML_ANCHOR,
                        at,
                        length,
                        "this alias is inside its own anchor",
                    ));
                };
                self.grow(size, at, length)?;
                match self.anchors.get(&id).map(|a| a.node.clone()) {
                    Some(node) => self.finish(node, 0, size, height),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Counts before anything is allocated.
    fn grow(&mut self, by: usize, at: usize, length: usize) -> Result<(), Fault> {
        self.size = self.size.saturating_add(by);
        if self.size > MAX_SIZE {
            return Err(Fault::new(
                codes::YAML_SIZE,
                at,
                length,
                "the document is too big once its aliases are resolved",
            )
            .help("anchors are never needed: write a profile and use it for many devices"));
        }
        Ok(())
    }

    fn begin(&mut self, from: u32, anchor: usize, kind: Kind) -> Result<(), Fault> {
        if self.open.len() >= MAX_DEPTH {
            return Err(too_deep(from as usize));
        }
        self.grow(1, from as usize, 1)?;
        self.open.push(Open { from, anchor, size: 1, height: 0, kind, key: None });
        Ok(())
    }

    /// Puts a whole node where it belongs. `size` counts it and all below it, `height` the levels below it.
    fn finish(&mut self, node: Node, anchor: usize, size: usize, height: usize) -> Result<(), Fault> {
        let at = node.from as usize;
        if self.open.len() + height > MAX_DEPTH {
            return Err(too_deep(at));
        }
        if anchor != 0 {
            // The copy is as big as the node.
            self.grow(size, at, 1)?;
            if self.anchors.len() >= MAX_ANCHORS {
                let message = format!("more than {MAX_ANCHORS} anchors");
                return Err(Fault::new(codes::YAML_SIZE, at, 1, message).help("anchors are never needed"));
            }
            self.anchors.insert(anchor, Anchored { node: node.clone(), size, height });
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(parent) => {
                parent.size += size;
                parent.height = parent.height.max(height);
                match (&mut parent.kind, parent.key.take()) {
                    (Kind::Sequence(items), _) => items.push(node),
                    (Kind::Mapping(entries), Some(key)) => entries.push((key, node)),
                    (_, None) => parent.key = Some(node),
                    (Kind::Scalar { .. }, Some(_)) => {}
                }
            }
        }
        Ok(())
    }
}

fn too_deep(at: usize) -> Fault {
    Fault::new(codes::YAML_DEPTH, at, 1, format!("nested deeper than {MAX_DEPTH} levels"))
}

/// A syntax error in the words of somebody who writes a site file, not of somebody who writes a parser.
fn syntax_fault(error: &ScanError, text: &str) -> Fault {
    let at = error.marker().byte_offset().unwrap_or(0).min(text.len());
    let found = text[floor(text, at)..].chars().next();
    let fault = |message: &str| Fault::new(codes::YAML_SYNTAX, at, 1, message);
    match error.kind() {
        ErrorKind::RecursionLimitExceeded => too_deep(at),
        ErrorKind::UnexpectedCharacter { character: '%' } => {
            fault("a value cannot begin with '%'").help("write percent: `unit: percent`")
        }
        ErrorKind::UnexpectedCharacter { character } if character.is_control() => {
            fault(&format!("the control character U+{:04X}", u32::from(*character)))
                .help("remove it: some editors show it as ^A or a box, others not at all")
        }
        ErrorKind::UnexpectedCharacter { character } => {
            fault(&format!("a value cannot begin with '{}'", character.escape_default()))
                .help("put the text in quotes")
        }
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabInPlainScalar
        | ErrorKind::TabAtBlockScalarStart => {
            fault("a tab: YAML is indented with blanks").help("replace each tab by two blanks")
        }
        ErrorKind::UnclosedQuotedScalar => fault("this quote is never closed")
            .help("close it on the same line; inside '…' a quote is written ''"),
        ErrorKind::UnclosedFlowCollection { open } => fault(&format!("this '{open}' is never closed")),
        ErrorKind::UnexpectedEofFlowMapping | ErrorKind::UnexpectedEofImplicitFlowMapping => {
            fault("a '{' is never closed")
        }
        ErrorKind::UnexpectedEofFlowSequence => fault("a '[' is never closed"),
        ErrorKind::MismatchedFlowCollectionEnd { open, close } => {
            fault(&format!("'{open}' is closed by '{close}'"))
        }
        ErrorKind::ExpectedFlowMappingSeparator | ErrorKind::ExpectedFlowSequenceSeparator => {
            separator_expected(text, at)
        }
        ErrorKind::MappingValueNotAllowed => fault("a second ':' on this line")
            .help("put a text that contains ': ' in quotes, or begin a new line"),
        ErrorKind::SimpleKeyExpected | ErrorKind::ExpectedBlockMappingKey => {
            fault("a key and ':' are expected here").help("check the indentation, and the blank after ':'")
        }
        ErrorKind::InvalidIndentation => fault("the indentation fits no line above"),
        ErrorKind::UnknownAnchor => Fault::new(codes::YAML_ANCHOR, at, 1, "an alias to an unknown anchor")
            .help("a text that begins with '*' or '&' needs quotes"),
        ErrorKind::UndeclaredTagHandle | ErrorKind::MissingTagUri | ErrorKind::InvalidTagTerminator => {
            Fault::new(codes::YAML_TAG, at, 1, "a tag").help("a text that begins with '!' needs quotes")
        }
        _ if found == Some('\t') => fault("a tab: YAML is indented with blanks"),
        _ => fault(&format!("not YAML: {}", error.info())),
    }
}

/// In a list or map in brackets: what was opened on an earlier line was most likely meant to be closed there.
fn separator_expected(text: &str, at: usize) -> Fault {
    let fault = |at: usize, message: String| Fault::new(codes::YAML_SYNTAX, at, 1, message);
    let at = floor(text, at);
    let Some((from, open)) = open_bracket(&text[..at]) else {
        return fault(at, "',' is expected here".into());
    };
    let close = if open == '{' { '}' } else { ']' };
    if !text[from..at].contains('\n') {
        return fault(at, format!("',' or '{close}' is expected here"));
    }
    fault(from, format!("this '{open}' is never closed"))
        .help("close it at the end of its line; or is a ',' missing between two lines?")
}

/// The innermost bracket that is open at the end of a text, outside of quotes and comments.
fn open_bracket(text: &str) -> Option<(usize, char)> {
    let mut open = Vec::new();
    let mut quote = None;
    let mut before = '\n';
    let mut is_comment = false;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            _ if is_comment => is_comment = c != '\n',
            (Some(_), '\\') if before == '\\' => {
                before = ' ';
                continue;
            }
            (Some('"'), '"') if before == '\\' => {}
            (Some(of), _) if of == c => quote = None,
            (Some(_), _) => {}
            (None, '#') if before.is_whitespace() => is_comment = true,
            (None, '"' | '\'') if before.is_whitespace() || "{[,:".contains(before) => quote = Some(c),
            (None, '{' | '[') => open.push((at, c)),
            (None, '}' | ']') => drop(open.pop()),
            (None, _) => {}
        }
        before = c;
    }
    open.pop()
}

fn floor(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn first_code(text: impl Into<String>) -> Option<&'static str> {
        let file = Arc::new(SourceFile { path: "f".into(), text: text.into() });
        let mut found = Diagnostics::default();
        parse(&file, &mut found);
        found.sorted().first().map(|d| d.code)
    }

    fn flat(node: &Node) -> String {
        match &node.kind {
            Kind::Scalar { text, plain: true } => text.to_string(),
            Kind::Scalar { text, plain: false } => format!("{text:?}"),
            Kind::Sequence(items) => format!("[{}]", items.iter().map(flat).collect::<Vec<_>>().join(",")),
            Kind::Mapping(entries) => {
                let entries: Vec<_> =
                    entries.iter().map(|(k, v)| format!("{}:{}", flat(k), flat(v))).collect();
                format!("{{{}}}", entries.join(","))
            }
        }
    }

    #[test]
    fn a_document_keeps_its_places_and_quotes() {
        let text = "\u{feff}# °\na: {b: 'on', c: [1, ~]}\n";
        let file = Arc::new(SourceFile { path: "f".into(), text: text.into() });
        let node = parse(&file, &mut Diagnostics::default()).unwrap();
        assert_eq!(flat(&node), r#"{a:{b:"on",c:[1,~]}}"#);
        let Kind::Mapping(entries) = &node.kind else { panic!() };
        let Kind::Mapping(inner) = &entries[0].1.kind else { panic!() };
        assert_eq!(&text[inner[1].0.span(&file).range], "c");
        assert_eq!(&text[inner[0].1.span(&file).range], "'on'");
        assert_eq!(inner[0].0.span(&file).line_column(), (2, 5));
    }

    #[test]
    fn aliases_are_resolved() {
        let file = Arc::new(SourceFile { path: "f".into(), text: "a: &x {k: 1}\nb: [*x, *x]\n".into() });
        let node = parse(&file, &mut Diagnostics::default()).unwrap();
        assert_eq!(flat(&node), "{a:{k:1},b:[{k:1},{k:1}]}");
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_string();
        for level in 1..10 {
            let before = format!("*a{}", level - 1);
            text += &format!("a{level}: &a{level} [{}]\n", vec![before; 9].join(", "));
        }
        assert_eq!(first_code(text), Some(codes::YAML_SIZE));
    }

    #[test]
    fn a_repeated_long_text_is_refused() {
        let text = format!("a: &a {}\nb: [{}]\n", "x".repeat(1_000_000), vec!["*a"; 1000].join(", "));
        assert_eq!(first_code(text), Some(codes::YAML_SIZE));
    }

    #[test]
    fn ten_thousand_levels_are_refused() {
        assert_eq!(first_code("[".repeat(10_000)), Some(codes::YAML_DEPTH));
        assert_eq!(first_code("{a: ".repeat(10_000)), Some(codes::YAML_DEPTH));
        assert_eq!(first_code("- ".repeat(10_000)), Some(codes::YAML_DEPTH));
        let ladder: String = (0..2_000).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
        assert_eq!(first_code(ladder), Some(codes::YAML_DEPTH));
    }

    #[test]
    fn depth_through_aliases_is_refused() {
        let mut text = format!("a0: &a0 {}1{}\n", "[".repeat(40), "]".repeat(40));
        text += &format!("a1: {}*a0{}\n", "[".repeat(40), "]".repeat(40));
        assert_eq!(first_code(text), Some(codes::YAML_DEPTH));
    }

    #[test]
    fn too_many_nodes_are_refused() {
        assert_eq!(first_code(format!("[{}]", "1,".repeat(MAX_SIZE + 1))), Some(codes::YAML_SIZE));
    }

    #[test]
    fn each_known_trap_is_explained() {
        for (text, message) in [
            ("unit: %", "a value cannot begin with '%'"),
            ("a: {unit: %}", "a value cannot begin with '%'"),
            ("a:\n\tb: 1", "a tab: YAML is indented with blanks"),
            ("a: 'x\nb: 1", "this quote is never closed"),
            ("a: {b: 1", "this '{' is never closed"),
            ("a:\n  b: {c: 1, d: '}'  # }\n  e: {f: 1}\n", "this '{' is never closed"),
            ("a: {b: 1 c: 2, d: 3}", "',' or '}' is expected here"),
            ("a: \u{1}b", "the control character U+0001"),
            ("a: b: c", "a second ':' on this line"),
            ("a: *b", "an alias to an unknown anchor"),
            ("a: !!str 1", "the tag !!str is not understood"),
            ("a: 1\n---\nb: 1", "a second document begins here"),
        ] {
            let file = Arc::new(SourceFile { path: "f".into(), text: text.into() });
            let mut found = Diagnostics::default();
            assert!(parse(&file, &mut found).is_none(), "{text}");
            assert_eq!(found.sorted()[0].message, message, "{text}");
        }
    }

    #[test]
    fn a_finding_at_the_very_end_lies_within_the_text() {
        let file = Arc::new(SourceFile { path: "f".into(), text: "site: !!st*".into() });
        let mut found = Diagnostics::default();
        assert!(parse(&file, &mut found).is_none());
        assert_eq!(found.sorted()[0].span.as_ref().unwrap().range, 11..11);
    }

    #[test]
    fn a_tag_with_an_escape_code_does_not_reach_the_terminal() {
        let text = format!("a: !!x%1b%5b2J{} 1", "y".repeat(1_000));
        let file = Arc::new(SourceFile { path: "f".into(), text });
        let mut found = Diagnostics::default();
        assert!(parse(&file, &mut found).is_none());
        let message = &found.sorted()[0].message;
        assert!(message.len() < 100 && !message.contains(char::is_control), "{message:?}");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(?s)[-a1:{}\\[\\],&*!'\"% \t\n#|>é]{0,200}") {
            let file = Arc::new(SourceFile { path: "f".into(), text });
            let mut found = Diagnostics::default();
            let node = parse(&file, &mut found);
            prop_assert_eq!(node.is_none(), found.has_errors());
            for diagnostic in found.sorted() {
                prop_assert!(!diagnostic.to_string().is_empty());
                let range = &diagnostic.span.as_ref().unwrap().range;
                prop_assert!(range.start <= range.end && range.end <= file.text.len(), "{range:?}");
            }
        }
    }
}
