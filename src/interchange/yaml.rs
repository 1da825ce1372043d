//! Drafts → the text of a profile, as tidy as one written by hand: a line per point, aligned; what most points share stands
//! once at the top.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::draft::{Draft, Spot};
use crate::document::scalar::is_old_boolean;
use crate::mapping::compiled::Order;
use crate::mapping::written::{Access, TypeWord};

/// Names longer than this don't push the columns of all others to the right.
const WIDEST_NAME: usize = 32;

/// What stands above the points of a profile.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// The profile's name.
    pub profile: String,
    /// What the device is called.
    pub title: Option<String>,
    /// Comment lines at the top.
    pub comments: Vec<String>,
    /// Where the numbers come from.
    pub source: Option<String>,
    /// 0 or 1: what the addresses count from.
    pub base: u16,
}

/// A text, and the draft of each of its lines that holds one.
#[derive(Clone, Debug)]
pub struct Written {
    /// The whole text.
    pub text: String,
    /// Line number, counted from 1, and the index of the draft.
    pub lines: Vec<(usize, usize)>,
}

/// What most points share.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shared {
    order: Order,
    invalid: BTreeMap<TypeWord, Vec<String>>,
}

impl Shared {
    /// What most of these points share.
    pub fn of(drafts: &[Draft]) -> Self {
        let orders: Vec<Order> = drafts
            .iter()
            .filter(|draft| draft.takes_order())
            .map(|draft| draft.order.unwrap_or_default())
            .collect();
        let mut by_type: BTreeMap<TypeWord, Vec<Vec<String>>> = BTreeMap::new();
        for draft in drafts {
            if let Some(kind) = draft.register_type() {
                by_type.entry(kind).or_default().push(draft.invalid.clone());
            }
        }
        let invalid = by_type.into_iter().filter_map(|(kind, lists)| {
            let most = most_common(&lists)?;
            (!most.is_empty() && lists.len() > 1).then_some((kind, most))
        });
        Self { order: most_common(&orders).unwrap_or_default(), invalid: invalid.collect() }
    }
}

/// What more than half of them are.
fn most_common<T: Clone + PartialEq>(all: &[T]) -> Option<T> {
    // A majority survives when each pair of different ones is taken away (Boyer and Moore, 1981).
    let mut winner: Option<(&T, usize)> = None;
    for one in all {
        winner = match winner {
            None | Some((_, 0)) => Some((one, 1)),
            Some((known, votes)) if known == one => Some((known, votes + 1)),
            Some((known, votes)) => Some((known, votes - 1)),
        };
    }
    let (winner, _) = winner?;
    (all.iter().filter(|one| *one == winner).count() * 2 > all.len()).then(|| winner.clone())
}

/// The whole profile.
pub fn profile(head: &Head, drafts: &[Draft]) -> Written {
    let shared = Shared::of(drafts);
    let mut text = String::new();
    for comment in &head.comments {
        let _ = writeln!(text, "# {}", one_line(comment));
    }
    let _ = writeln!(text, "profile: {}", scalar(&head.profile));
    if let Some(title) = &head.title {
        let _ = writeln!(text, "title: {}", scalar(title));
    }
    if let Some(source) = &head.source {
        let _ = writeln!(text, "sources: [{}]", scalar(source));
    }
    if drafts.iter().any(|draft| matches!(draft.spot, Spot::Register(..))) {
        let why = if head.base == 1 { "the table counts from 1" } else { "numbers go on the wire" };
        let _ = writeln!(text, "{:<24}# {why}", format!("address_base: {}", head.base));
    }
    if shared.order != Order::Abcd {
        let _ = writeln!(
            text,
            "{:<24}# of values of two or more registers",
            format!("order: {}", order(shared.order))
        );
    }
    if !shared.invalid.is_empty() {
        let all: Vec<String> =
            shared.invalid.iter().map(|(kind, raws)| format!("{}: {}", kind.word(), list(raws))).collect();
        let _ = writeln!(text, "invalid: {{{}}}", all.join(", "));
    }
    text.push_str("points:\n");
    let lines = points(&mut text, drafts, &shared, head.base, 2);
    Written { text, lines }
}

/// The lines of the points, below a key that is there already; yields which line is which.
pub fn points(
    text: &mut String,
    drafts: &[Draft],
    shared: &Shared,
    base: u16,
    indent: usize,
) -> Vec<(usize, usize)> {
    let mut line = text.matches('\n').count();
    let keys: Vec<String> = drafts.iter().map(|draft| scalar(&draft.name) + ":").collect();
    let places: Vec<String> = drafts.iter().map(|draft| place(draft, base)).collect();
    let width = |texts: &[String]| {
        texts.iter().map(|text| text.chars().count()).filter(|width| *width <= WIDEST_NAME).max().unwrap_or(0)
    };
    let (key_width, place_width) = (width(&keys), width(&places));
    let mut lines = Vec::with_capacity(drafts.len());
    for (index, draft) in drafts.iter().enumerate() {
        if let Some(heading) = &draft.heading {
            let _ = writeln!(text, "{:indent$}# {}", "", one_line(heading));
            line += 1;
        }
        let rest = keys_of(draft, shared);
        let _ = write!(text, "{:indent$}{:<key_width$} {{", "", keys[index]);
        let _ = match rest.is_empty() {
            true => writeln!(text, "{}}}", places[index]),
            false => writeln!(
                text,
                "{:<place_width$} {}}}",
                format!("{},", places[index]),
                rest.join(", "),
                place_width = place_width + 1
            ),
        };
        line += 1;
        lines.push((line, index));
    }
    lines
}

fn place(draft: &Draft, base: u16) -> String {
    match &draft.spot {
        Spot::Register(table, address) => {
            format!("{}: {}", table.key(), u32::from(*address) + u32::from(base))
        }
        Spot::Node(node) => format!("node: {}", scalar(node)),
    }
}

/// Everything but the place.
fn keys_of(draft: &Draft, shared: &Shared) -> Vec<String> {
    let mut keys = Vec::new();
    if let Some(kind) = &draft.kind {
        // A bit of a register is a bool without saying so.
        if kind.kind != TypeWord::Bool || draft.is_node() {
            keys.push(format!("type: {}", kind.kind.word()));
        }
        if matches!(kind.kind, TypeWord::String | TypeWord::Mod10k) {
            keys.extend(kind.length.map(|length| format!("length: {length}")));
        }
        keys.extend(kind.chars.map(|chars| format!("chars: {}", chars.word())));
        keys.extend(kind.format.map(|format| format!("format: {}", format.word())));
        keys.extend(kind.zone.map(|zone| format!("zone: {}", zone.word())));
        keys.extend(kind.byte.map(|byte| format!("byte: {}", byte.word())));
        keys.extend(kind.bit.map(|bit| format!("bit: {bit}")));
        keys.extend(kind.mask.map(|mask| format!("mask: 0x{mask:X}")));
    }
    let default = if draft.takes_order() { shared.order } else { Order::Abcd };
    let own = draft.order.unwrap_or_default();
    if draft.has_order() && own != default {
        keys.push(format!("order: {}", order(own)));
    }
    keys.extend(draft.scale.map(|scale| format!("scale: {scale}")));
    keys.extend(draft.offset.map(|offset| format!("offset: {offset}")));
    keys.extend(draft.scale_from.as_ref().map(|name| format!("scale_from: {}", scalar(name))));
    keys.extend(draft.unit.as_ref().map(|unit| format!("unit: {}", scalar(unit))));
    let usual = draft.register_type().and_then(|kind| shared.invalid.get(&kind));
    match usual {
        Some(usual) if *usual == draft.invalid => {}
        Some(_) if draft.invalid.is_empty() => keys.push("invalid: none".into()),
        _ if draft.invalid.is_empty() => {}
        _ => keys.push(format!("invalid: {}", list(&draft.invalid))),
    }
    if !draft.labels.is_empty() {
        let labels: Vec<String> =
            draft.labels.iter().map(|(number, text)| format!("{number}: {}", scalar(text))).collect();
        keys.push(format!("enum: {{{}}}", labels.join(", ")));
    }
    keys.extend((draft.access != Access::Read).then(|| format!("access: {}", draft.access.word())));
    keys.extend(draft.rate.as_ref().map(|rate| format!("rate: {}", scalar(rate))));
    keys.extend(draft.desc.as_ref().map(|desc| format!("desc: {}", scalar(desc))));
    keys
}

/// One raw value, or a list of them.
fn list(raws: &[String]) -> String {
    match raws {
        [one] => one.clone(),
        _ => format!("[{}]", raws.join(", ")),
    }
}

/// The four letters.
pub fn order(order: Order) -> &'static str {
    match order {
        Order::Abcd => "ABCD",
        Order::Cdab => "CDAB",
        Order::Badc => "BADC",
        Order::Dcba => "DCBA",
    }
}

/// A text for a comment.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A text as it stands in YAML, also inside of braces: bare where nobody can take it for something else, else in quotes.
pub fn scalar(text: &str) -> String {
    let is_bare_sign =
        |c: char| matches!(c, ' ' | '_' | '-' | '.' | '/' | '(' | ')' | '+' | '°' | '²' | '³' | '·' | '=');
    let is_word =
        ["null", "true", "false", ".inf", ".nan"].iter().any(|word| text.eq_ignore_ascii_case(word));
    let is_bare = text.starts_with(|c: char| c.is_alphabetic() || c == '°')
        && text.chars().all(|c| c.is_alphanumeric() || is_bare_sign(c))
        && !text.ends_with(' ')
        && !is_word
        && !is_old_boolean(text);
    if is_bare {
        return text.to_owned();
    }
    if !text.chars().any(needs_escape) {
        return format!("'{}'", text.replace('\'', "''"));
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            c if needs_escape(c) => {
                let _ = write!(quoted, "\\U{:08X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// What YAML 1.2.2 (5.1) takes for no printable character, and what it takes for a line end.
fn needs_escape(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{FEFF}' | '\u{FFFE}' | '\u{FFFF}')
}

#[cfg(test)]
mod tests {
    use super::super::types;
    use super::*;
    use crate::document::scalar::{Meaning, meaning};
    use crate::document::yaml;
    use crate::model::diagnostic::{Diagnostics, SourceFile};
    use crate::model::place::Table;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn draft(name: &str, address: u16, kind: &str) -> Draft {
        let kind = types::kind(kind, None).unwrap();
        Draft::new(1, name, Spot::Register(Table::Input, address), Some(kind))
    }

    #[test]
    fn a_profile_looks_as_if_written_by_hand() {
        let mut points = vec![
            draft("voltage", 0, "int32 "),
            draft("power_total", 40, "int32"),
            draft("state", 506, "uint16"),
        ];
        for point in &mut points[..2] {
            (point.order, point.unit) = (Some(Order::Cdab), Some("V".into()));
            point.invalid = vec!["0x7FFFFFFF".into()];
        }
        points[1].heading = Some("Sums\n2".into());
        points[2].labels = vec![(0, "off".into()), (1, "on: yes".into())];
        let head =
            Head { profile: "a/b".into(), comments: vec!["From t.csv".into()], base: 1, ..Head::default() };
        let written = profile(&head, &points);
        let expected = "\
# From t.csv
profile: a/b
address_base: 1         # the table counts from 1
order: CDAB             # of values of two or more registers
invalid: {int32: 0x7FFFFFFF}
points:
  voltage:     {input: 1,   type: int32, unit: V}
  # Sums 2
  power_total: {input: 41,  type: int32, unit: V}
  state:       {input: 507, type: uint16, enum: {0: 'off', 1: 'on: yes'}}
";
        assert_eq!(written.text, expected);
        assert_eq!(written.lines, [(7, 0), (9, 1), (10, 2)]);
    }

    #[test]
    fn exceptions_to_what_most_points_share_are_said() {
        let mut points = vec![draft("a", 0, "float32"), draft("b", 2, "float32"), draft("c", 4, "float32")];
        (points[0].order, points[1].order) = (Some(Order::Dcba), Some(Order::Dcba));
        (points[0].invalid, points[2].invalid) = (vec!["-1".into()], vec!["-1".into()]);
        let text = profile(&Head::default(), &points).text;
        assert!(text.contains("c: {input: 4, type: float32, order: ABCD}"), "{text}");
        assert!(text.contains("b: {input: 2, type: float32, invalid: none}"), "{text}");
    }

    proptest! {
        #[test]
        fn every_text_comes_back_from_yaml(text in "\\PC*|[a-z:#,{}\\[\\]'\" \n-]{0,12}|(on|No|null|1.5|0x1|~|-|.inf|<<|99:3)|[\u{2028}\u{FEFF}\u{85}\u{1}]") {
            let document = format!("points: {{{}: {{desc: {}}}}}\n", scalar(&text), scalar(&text));
            let file = Arc::new(SourceFile { path: "f".into(), text: document });
            let mut found = Diagnostics::default();
            let node = yaml::parse(&file, &mut found);
            prop_assert!(!found.has_errors(), "{:?}", found.sorted());
            let yaml::Kind::Mapping(points) = &node.unwrap().kind else { panic!() };
            let yaml::Kind::Mapping(point) = &points[0].1.kind else { panic!() };
            let yaml::Kind::Mapping(keys) = &point[0].1.kind else { panic!() };
            for node in [&point[0].0, &keys[0].1] {
                prop_assert!(matches!(meaning(node), Meaning::Bare(found) | Meaning::Quoted(found) if found == text));
            }
        }
    }
}
