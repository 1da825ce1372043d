//! What was seen, as tables, as lines for a profile, and as JSON.

use serde_json::{Value as Json, json};

use super::expect::Expect;
use super::guess::{Meaning, Way, Words, number, ways};
use super::look::Seen;
use crate::cli::summary::short;
use crate::cli::table::Table;
use crate::model::place::Table as Place;
use crate::model::value::Raw;

/// Columns of the table of all types: more do not fit a terminal.
const COLUMNS: usize = 5;

/// How many readings are offered, and how many of them as lines to paste.
const MOST_OFFERED: usize = 12;
const MOST_LINES: usize = 3;

/// Widest number of the table of all types.
const WIDEST: usize = 14;

/// A look with what it was for.
pub struct Shown<'a> {
    pub link: String,
    pub unit: u8,
    pub table: Place,
    /// The addresses that were asked for.
    pub asked: &'a [u16],
    /// Those that values are taken to begin at.
    pub starts: &'a [u16],
    pub seen: &'a Seen,
    pub expect: Option<Expect>,
    pub found: &'a [Meaning],
    /// Show every type and order, whatever is found.
    pub all: bool,
}

impl Shown<'_> {
    pub fn as_text(&self) -> String {
        let mut out = self.head();
        out += &self.registers();
        if self.table.is_bits() {
            return out;
        }
        if self.expect.is_none() || self.all {
            out += &self.every_way();
        }
        out += &self.offers();
        out
    }

    fn head(&self) -> String {
        let (first, last) = (self.asked.first(), self.asked.last());
        let asked = match (first, last) {
            (Some(first), Some(last)) if first != last => format!("{first}–{last}"),
            (Some(first), _) => first.to_string(),
            _ => String::new(),
        };
        let requests = crate::cli::site::plural(self.seen.requests as usize, "request");
        format!(
            "{}, unit {}: {} {asked} and neighbours, {requests}, the slowest {}\n\n",
            self.link,
            self.unit,
            self.table.key(),
            short(self.seen.slowest)
        )
    }

    /// The registers themselves, with their numbers in all notations.
    fn registers(&self) -> String {
        let titles = match self.table.is_bits() {
            true => &["", ">address", ">from 1", ">paper", "value"][..],
            false => &["", ">address", ">from 1", ">paper", "hex", ">uint16", ">int16", "text"],
        };
        let mut table = Table::new(titles);
        let known = self.seen.words.iter().map(|(address, word)| (*address, Ok(*word)));
        let refused = self.seen.refused.iter().map(|(address, cause)| (*address, Err(*cause)));
        let mut all: Vec<_> = known.chain(refused).collect();
        all.sort_by_key(|(address, _)| *address);
        for (address, word) in all {
            let mark = if self.asked.contains(&address) { "→" } else { "" };
            let mut row = vec![
                mark.into(),
                address.to_string(),
                (u32::from(address) + 1).to_string(),
                paper(self.table, address),
            ];
            match word {
                Ok(bit) if self.table.is_bits() => row.push(bit.to_string()),
                Ok(word) => {
                    row.extend([
                        format!("0x{word:04X}"),
                        word.to_string(),
                        word.cast_signed().to_string(),
                        text(word),
                    ]);
                }
                Err(cause) => {
                    row.resize(titles.len() - 1, "-".into());
                    row.push(cause.to_string());
                }
            }
            table.row(row);
        }
        table.render() + "\n"
    }

    /// Every type in every order, side by side for the addresses that it may begin at.
    fn every_way(&self) -> String {
        let mut out = String::new();
        for starts in self.starts.chunks(COLUMNS) {
            let titles: Vec<String> =
                starts.iter().map(|at| format!(">at {at} (from 1: {})", u32::from(*at) + 1)).collect();
            let mut table = Table::new(
                &["type", "order"].into_iter().chain(titles.iter().map(String::as_str)).collect::<Vec<_>>(),
            );
            for way in ways() {
                let cells: Vec<String> = starts.iter().map(|at| cell(way, &self.seen.words, *at)).collect();
                if cells.iter().any(|cell| cell != "-") {
                    let words = [way.type_word().to_string(), way.order_word().to_string()];
                    table.row(words.into_iter().chain(cells));
                }
            }
            out += &table.render();
            out.push('\n');
        }
        out
    }

    /// The likeliest readings, and the lines to paste.
    fn offers(&self) -> String {
        let mut out = match (self.expect, self.found.len()) {
            (Some(expect), 0) => {
                return format!(
                    "nothing here is {} to {}, in any type and order, times 10, 1, 0.1, 0.01 or 0.001\n",
                    expect.low, expect.high
                );
            }
            (Some(expect), count) => {
                let best = if count > MOST_OFFERED {
                    format!("the likeliest {MOST_OFFERED} of ")
                } else {
                    String::new()
                };
                format!("{} to {}: {best}{count} readings, the likeliest first\n\n", expect.low, expect.high)
            }
            (None, 0) => String::new(),
            (None, _) => {
                "what looks like a measurement (--expect 230±10 ranks by the value that it should be)\n\n"
                    .into()
            }
        };
        if self.found.is_empty() {
            return "a value that you know helps: --expect 230±10 ranks all readings by it\n".into();
        }
        let mut table = Table::new(&[">value", ">address", ">from 1", "type", "order", ">scale"]);
        for meaning in self.found.iter().take(MOST_OFFERED) {
            let kind = meaning.way.type_word();
            let kind = if meaning.or_signed { format!("{kind} or {}", &kind[1..]) } else { kind.into() };
            table.row([
                meaning.value.to_string(),
                meaning.address.to_string(),
                (u32::from(meaning.address) + 1).to_string(),
                kind,
                meaning.way.order_word().into(),
                meaning.scale.to_string(),
            ]);
        }
        out += &table.render();
        out += "\nin a profile (its addresses count from 0):\n";
        for meaning in self.found.iter().take(MOST_LINES) {
            out += &format!("  {}\n", meaning.yaml(self.table.key(), 0));
        }
        if let Some(best) = self.found.first() {
            out += "or, with address_base: 1:\n";
            out += &format!("  {}\n", best.yaml(self.table.key(), 1));
        }
        out
    }

    pub fn as_json(&self) -> Json {
        let registers: Vec<Json> = self
            .seen
            .words
            .iter()
            .map(|(address, word)| json!({ "address": address, "value": word }))
            .collect();
        let refused: Vec<Json> = self
            .seen
            .refused
            .iter()
            .map(|(address, cause)| json!({ "address": address, "cause": cause.to_string() }))
            .collect();
        let readings: Vec<Json> = match self.table.is_bits() {
            true => Vec::new(),
            false => {
                self.starts.iter().flat_map(|at| ways().filter_map(|way| self.reading(way, *at))).collect()
            }
        };
        let found: Vec<Json> = self.found.iter().map(|meaning| self.meaning(meaning)).collect();
        json!({
            "connection": self.link,
            "unit_id": self.unit,
            "table": self.table.key(),
            "asked": self.asked,
            "requests": self.seen.requests,
            "registers": registers,
            "refused": refused,
            "readings": readings,
            "expect": self.expect.map(|expect| json!({ "low": exact(expect.low), "high": exact(expect.high) })),
            "likely": found,
        })
    }

    fn reading(&self, way: Way, address: u16) -> Option<Json> {
        let value = number(&way.read(&self.seen.words, address)?)?;
        Some(json!({
            "address": address, "type": way.type_word(), "order": way.order_word(), "value": exact(value),
        }))
    }

    fn meaning(&self, meaning: &Meaning) -> Json {
        json!({
            "address": meaning.address,
            "type": meaning.way.type_word(),
            "order": meaning.way.order_word(),
            "scale": exact(meaning.scale),
            "value": exact(meaning.value),
            "signed_too": meaning.or_signed,
            "rank": meaning.rank,
            "yaml": meaning.yaml(self.table.key(), 0),
        })
    }
}

/// A decimal as a number of JSON, as near as a double comes.
fn exact(decimal: crate::model::decimal::Decimal) -> Json {
    match decimal.to_i64() {
        Some(whole) => json!(whole),
        None => json!(decimal.to_f64()),
    }
}

fn cell(way: Way, words: &Words, address: u16) -> String {
    let Some(raw) = way.read(words, address) else { return "-".into() };
    let shown = match (&raw, number(&raw)) {
        (_, Some(number)) => number.to_string(),
        (Raw::Float32(float), None) => float.to_string(),
        (Raw::Float64(float), None) => float.to_string(),
        _ => "-".into(),
    };
    if shown.len() <= WIDEST {
        return shown;
    }
    match raw {
        Raw::Float32(float) => format!("{float:.5e}"),
        Raw::Float64(float) => format!("{float:.5e}"),
        _ => shown,
    }
}

/// The number on paper, counted from 1 (Modicon PI-MBUS-300): 40101, or 6 digits where 5 do not reach.
fn paper(table: Place, address: u16) -> String {
    let number = u32::from(address) + 1;
    let (short, long) = match table {
        Place::Coil => (0, 0),
        Place::Discrete => (10_000, 100_000),
        Place::Input => (30_000, 300_000),
        Place::Holding => (40_000, 400_000),
    };
    let digits = (number + if number < 10_000 { short } else { long }).to_string();
    format!("{digits:0>5}")
}

/// The two characters of a register, where they are printable.
fn text(word: u16) -> String {
    let shown = |byte: u8| if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '.' };
    word.to_be_bytes().map(shown).iter().collect()
}
