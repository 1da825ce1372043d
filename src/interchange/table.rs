//! A register table (CSV, TSV, spreadsheet) → a profile.

use std::collections::HashMap;

use super::address::{self, AddressCell, Counting};
pub use super::columns::NoColumns;
use super::columns::{Titled, find};
use super::draft::{Draft, Spot};
use super::names::{self, Taken};
use super::note::{Note, Notes};
use super::rows::Rows;
use super::sheet::{self, Row, SheetError};
pub use super::titles::Column;
use super::words::table_of;
use super::yaml::Head;
use super::{checked, numbers};
use crate::document::scalar::shortened;
use crate::model::place::Table;

/// How a table is to be read.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Columns by their titles, where the titles are not known.
    pub map: Vec<(Column, String)>,
    /// What the numbers of the column `address` count from: 0 or 1. `None`: paper references are recognised, other
    /// numbers go on the wire.
    pub base: Option<u16>,
    /// The sheet of a spreadsheet. `None`: the one with most known titles.
    pub sheet: Option<String>,
    /// The table of rows that name none. `None`: holding registers.
    pub table: Option<Table>,
    /// The profile's name.
    pub profile: String,
    /// The name of the file, for the profile's first comment.
    pub file: String,
}

/// What came of an import.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The YAML. Empty when there are no points.
    pub yaml: String,
    /// How many points it has.
    pub points: usize,
    /// How many rows (or entries) were left out; each has an error or a warning.
    pub left_out: usize,
    /// Everything to say.
    pub notes: Vec<Note>,
}

/// Why there is no table at all.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The bytes are no table.
    #[error(transparent)]
    Sheet(#[from] SheetError),
    /// The columns are not clear.
    #[error(transparent)]
    Columns(#[from] NoColumns),
}

/// Reads a table.
pub fn import(bytes: &[u8], options: &Options) -> Result<Imported, TableError> {
    let sheets = sheet::candidates(bytes, options.sheet.as_deref())?;
    let others: Vec<String> = sheets.iter().filter_map(|sheet| sheet.title.clone()).collect();
    let titled = find(sheets, &options.map)?;
    let mut notes = Notes::default();
    let rows = rows(&titled, options, &mut notes);
    note_sheets(&titled, others, &mut notes);
    let mut gathered = Gathered::default();
    gathered.take_all(&rows, &mut notes);
    let Gathered { mut drafts, mut left_out, .. } = gathered;
    left_out += link(&mut drafts, rows.titled.title(Column::Scale), &mut notes);
    note_same_places(&drafts, &mut notes);
    let base = u16::from(rows.counting == Counting::FromOne);
    let head = Head {
        profile: options.profile.clone(),
        title: None,
        comments: comments(&titled, options),
        source: Some(options.file.clone()),
        base,
    };
    let (yaml, drafts, refused) = checked::profile(&head, drafts, &mut notes);
    Ok(Imported { points: drafts.len(), left_out: left_out + refused, yaml, notes: notes.sorted() })
}

fn comments(titled: &Titled, options: &Options) -> Vec<String> {
    let sheet =
        titled.sheet.title.as_ref().map_or(String::new(), |title| format!(" (sheet {})", shortened(title)));
    vec![format!(
        "From {}{sheet}, by taktbus import. Compare it with the manual and with the device before you rely on it.",
        options.file
    )]
}

fn note_sheets(titled: &Titled, mut sheets: Vec<String>, notes: &mut Notes) {
    sheets.retain(|title| Some(title) != titled.sheet.title.as_ref());
    if let (Some(title), false) = (&titled.sheet.title, sheets.is_empty()) {
        let others = sheets.iter().map(|title| shortened(title)).collect::<Vec<_>>().join(", ");
        let message = format!("only the sheet '{}' is read; there is also: {others}", shortened(title));
        notes.push(Note::warning(None, message).help("--sheet NAME reads another one"));
    }
}

/// What holds for all rows; what had to be assumed is noted.
fn rows<'t>(titled: &'t Titled, options: &Options, notes: &mut Notes) -> Rows<'t> {
    let is_zero_based = titled.has(Column::AddressZeroBased);
    let addresses = if is_zero_based { Column::AddressZeroBased } else { Column::Address };
    let cells: Vec<&str> = titled.rows().iter().map(|row| titled.cell(row, addresses)).collect();
    let says_hex = titled.says(addresses, "hex");
    let bare_hex = titled.rows().iter().find(|row| address::is_bare_hex(titled.cell(row, addresses)));
    if let Some(row) = bare_hex.filter(|_| !says_hex) {
        let message = format!(
            "all addresses are read as hexadecimal, as '{}' is",
            shortened(titled.cell(row, addresses))
        );
        notes.push(
            Note::warning(row.line, message)
                .column(titled.title(addresses))
                .help("write 0x in front of hexadecimal numbers"),
        );
    }
    let hex = says_hex || bare_hex.is_some();
    let numbers: Vec<address::Number> = cells
        .iter()
        .filter_map(|cell| match address::read(cell, hex) {
            Ok(AddressCell::Number(number)) => Some(number),
            _ => None,
        })
        .collect();
    let counting = match (is_zero_based, options.base) {
        (true, _) | (false, Some(0)) => Counting::FromZero,
        (false, Some(_)) => Counting::FromOne,
        (false, None) => counting(titled, &numbers, notes),
    };
    let says_table = titled.has(Column::Table) || titled.has(Column::Function) || counting == Counting::Paper;
    let has_nodes = numbers.is_empty() && !cells.is_empty();
    if !says_table && options.table.is_none() && !has_nodes {
        notes.push(
            Note::warning(None, "no column says which table: holding registers are assumed")
                .help("--table input, or --map table=TITLE"),
        );
    }
    if !titled.has(Column::Type) && !has_nodes {
        notes.push(
            Note::warning(None, "no column says the type: single registers are taken as uint16")
                .help("--map type=TITLE"),
        );
    }
    note_gain(titled, notes);
    if !titled.unused.is_empty() {
        let titles = titled.unused.join("', '");
        notes.push(
            Note::warning(None, format!("nothing is read from: '{titles}'"))
                .help("--map column=TITLE, where one of them matters"),
        );
    }
    Rows {
        titled,
        addresses,
        counting,
        hex,
        table: options.table.unwrap_or(Table::Holding),
        is_own: is_zero_based && titled.title(Column::AddressZeroBased) == Column::AddressZeroBased.word(),
    }
}

/// What the numbers of an address column count, when nobody says it.
fn counting(titled: &Titled, numbers: &[address::Number], notes: &mut Notes) -> Counting {
    let column = titled.title(Column::Address);
    let is_certain = |number: &address::Number| number.is_padded || number.value > 65_536;
    let is_paper = |number: &address::Number| number.is_padded || address::paper(number.value).is_some();
    let agrees = |row: &Row| {
        let said = table_of(titled.cell(row, Column::Table));
        let number = address::read(titled.cell(row, Column::Address), false);
        match (said, number) {
            (Some(said), Ok(AddressCell::Number(number))) => {
                address::paper(number.value).is_none_or(|(table, _)| table == said)
            }
            _ => true,
        }
    };
    let likely = || numbers.iter().any(is_certain) || titled.rows().iter().all(agrees);
    if !numbers.is_empty() && numbers.iter().all(is_paper) && likely() {
        let message = "these are read as paper references: 30001 is the first input register, 40001 the first holding register";
        notes.push(
            Note::warning(None, message).column(column).help("if they go on the wire as they are: --base 0"),
        );
        return Counting::Paper;
    }
    if numbers.iter().all(|number| number.value != 0) && !numbers.is_empty() {
        let message = "these are taken to go on the wire as they are (counted from 0)";
        notes.push(Note::warning(None, message).column(column).help("if the table counts from 1: --base 1"));
    }
    Counting::FromZero
}

/// Some vendors multiply with a gain, others divide by it.
fn note_gain(titled: &Titled, notes: &mut Notes) {
    if !titled.says(Column::Scale, "gain") {
        return;
    }
    let is_large = |row: &&Row| {
        let number = numbers::number(titled.cell(row, Column::Scale)).ok().flatten();
        number.is_some_and(|number| number > crate::model::decimal::Decimal::ONE)
    };
    if let Some(row) = titled.rows().iter().find(is_large) {
        let title = titled.title(Column::Scale);
        let message =
            format!("raw values are multiplied with the gain ({})", titled.cell(row, Column::Scale));
        let help = format!("if the vendor divides by it: --map divisor='{title}'");
        notes.push(Note::warning(row.line, message).column(title).help(help));
    }
}

/// The points so far.
#[derive(Default)]
struct Gathered {
    drafts: Vec<Draft>,
    left_out: usize,
    heading: Option<String>,
}

impl Gathered {
    fn take_all(&mut self, rows: &Rows<'_>, notes: &mut Notes) {
        for row in rows.titled.rows() {
            let address = rows.titled.cell(row, rows.addresses);
            if numbers::is_nothing(address)
                || row.filled().count() == 1 && address::read(address, rows.hex).is_err()
            {
                self.without_address(row, rows, notes);
            } else if self.is_second_register(row, rows) {
                self.left_out += 1;
                let message = "has neither name nor type: taken for a further register of the row above";
                notes.push(Note::warning(row.line, message));
            } else {
                self.take(row, rows, notes);
            }
        }
    }

    fn take(&mut self, row: &Row, rows: &Rows<'_>, notes: &mut Notes) {
        // Titles are repeated where a page of the manual began.
        if rows.titled.sheet.rows[rows.titled.head].cells == row.cells {
            return;
        }
        match rows.draft(row, notes) {
            Ok(mut draft) => {
                draft.heading = self.heading.take();
                self.drafts.push(draft);
            }
            Err(note) => {
                self.left_out += 1;
                notes.push(note);
            }
        }
    }

    /// A row with one text is a heading, and becomes a comment.
    fn without_address(&mut self, row: &Row, rows: &Rows<'_>, notes: &mut Notes) {
        let mut filled = row.filled();
        match (filled.next(), filled.next()) {
            (Some(heading), None) => self.heading = Some(shortened_heading(heading)),
            _ => {
                self.left_out += 1;
                let note = Note::error(row.line, "no address").column(rows.titled.title(rows.addresses));
                notes.push(note.help("a row with a single cell would be taken for a heading"));
            }
        }
    }

    /// Manuals print one line per register: the second one of a 32-bit value says nothing but its address.
    fn is_second_register(&self, row: &Row, rows: &Rows<'_>) -> bool {
        let says = |column| !rows.titled.cell(row, column).is_empty();
        let is_bare = ![Column::Name, Column::Description, Column::Type, Column::Unit, Column::Scale]
            .into_iter()
            .any(says);
        let has_names = rows.titled.has(Column::Name) || rows.titled.has(Column::Description);
        is_bare && has_names && !self.drafts.is_empty()
    }
}

/// Longest heading, in characters.
const MAX_HEADING: usize = 100;

fn shortened_heading(text: &str) -> String {
    text.chars().take(MAX_HEADING).collect()
}

/// Makes names unique, and scale factors the names of points. Points whose scale factor isn't there are left out; yields how
/// many.
fn link(drafts: &mut Vec<Draft>, scale: &str, notes: &mut Notes) -> usize {
    let mut taken = Taken::default();
    let mut first: HashMap<String, (String, usize)> = HashMap::new();
    for draft in drafts.iter_mut() {
        let unique = taken.unique(&draft.name);
        match first.get(&draft.name) {
            Some((_, line)) => {
                let message = format!("the name '{}' is taken by line {line}: called '{unique}'", draft.name);
                notes.push(Note::warning(draft.line, message));
            }
            None => {
                first.insert(draft.name.clone(), (unique.clone(), draft.line));
            }
        }
        draft.name = unique;
    }
    let before = drafts.len();
    drafts.retain_mut(|draft| {
        let Some(wanted) = draft.scale_from.take() else { return true };
        let factor = first.get(&wanted).or_else(|| first.get(&names::slug(&wanted)));
        draft.scale_from = factor.map(|(unique, _)| unique.clone());
        if factor.is_none() {
            let message = format!("'{}' is neither a number nor the name of a point", shortened(&wanted));
            notes.push(
                Note::error(draft.line, message)
                    .column(scale)
                    .help("such as 0.1, or sf:NAME for a scale factor"),
            );
        }
        factor.is_some()
    });
    before - drafts.len()
}

/// Two points may well read one place, but mostly one of them has a wrong address.
fn note_same_places(drafts: &[Draft], notes: &mut Notes) {
    let mut known: HashMap<_, &Draft> = HashMap::new();
    for draft in drafts {
        let Spot::Register(table, address) = draft.spot else { continue };
        let kind = draft.kind.as_ref();
        let is_high = kind.is_some_and(|kind| kind.byte == Some(crate::mapping::written::ByteWord::High));
        let place =
            (table, address, kind.and_then(|kind| kind.bit), kind.and_then(|kind| kind.mask), is_high);
        if let Some(first) = known.get(&place) {
            let message =
                format!("'{}' reads the same place as '{}' of line {}", draft.name, first.name, first.line);
            notes.push(Note::warning(draft.line, message));
        } else {
            known.insert(place, draft);
        }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
