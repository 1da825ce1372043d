//! Which column of a table is what, by the row of its titles.

use super::sheet::{Row, Sheet};
use super::titles::Column;
use crate::document::scalar::shortened;

/// Rows at the top that may come before the titles: a vendor's name, a version, a note.
const MAX_PREAMBLE: usize = 60;

/// A table with its titles found.
#[derive(Clone, Debug)]
pub struct Titled {
    /// The table's sheet.
    pub sheet: Sheet,
    /// Index of the row of titles.
    pub head: usize,
    /// What is where.
    columns: Vec<(Column, usize)>,
    /// Titles that nothing is read from.
    pub unused: Vec<String>,
}

impl Titled {
    /// The rows behind the titles.
    pub fn rows(&self) -> &[Row] {
        self.sheet.rows.get(self.head + 1..).unwrap_or_default()
    }

    /// Is there such a column?
    pub fn has(&self, column: Column) -> bool {
        self.index(column).is_some()
    }

    /// The title of a column as it is written.
    pub fn title(&self, column: Column) -> &str {
        self.index(column).map_or("", |at| self.sheet.rows[self.head].cell(at))
    }

    /// Does the title of a column have this word?
    pub fn says(&self, column: Column, word: &str) -> bool {
        normal(self.title(column)).split(' ').any(|part| part == word)
    }

    /// A row's cell; empty where there is none.
    pub fn cell<'r>(&self, row: &'r Row, column: Column) -> &'r str {
        self.index(column).map_or("", |at| row.cell(at))
    }

    fn index(&self, column: Column) -> Option<usize> {
        self.columns.iter().find(|(known, _)| *known == column).map(|(_, at)| *at)
    }
}

/// Why the columns of a table are not clear.
#[derive(Debug, thiserror::Error)]
pub enum NoColumns {
    /// No row looks like titles.
    #[error("no row of titles is found{}", first.as_ref().map_or(String::new(), |first| format!("; the first row is: {first}")))]
    NoTitles {
        /// The first row's cells.
        first: Option<String>,
    },
    /// `--map` names a title that is in no row.
    #[error("no row among the first {MAX_PREAMBLE} has a cell '{0}'")]
    NoSuchTitle(String),
}

/// Finds the titles among several ways to read a file: the way and the row in which most titles are known.
pub fn find(sheets: Vec<Sheet>, map: &[(Column, String)]) -> Result<Titled, NoColumns> {
    let mut best: Option<(usize, Titled)> = None;
    let mut first = None;
    for sheet in sheets {
        let top = sheet.rows.iter().take(MAX_PREAMBLE);
        let rated = top.enumerate().filter_map(|(at, row)| Some((at, assign(row, map)?)));
        let rated = rated.map(|(at, columns)| (columns.len(), at, columns));
        let winner = rated.reduce(|best, next| if next.0 > best.0 { next } else { best });
        first = first.or_else(|| sheet.rows.first().map(|row| shortened(&row.cells.join(" | "))));
        let Some((score, head, columns)) = winner else { continue };
        if best.as_ref().is_none_or(|(known, _)| *known < score) {
            let unused = unused(&sheet.rows[head], &columns);
            best = Some((score, Titled { sheet, head, columns, unused }));
        }
    }
    if best.is_none()
        && let Some((_, title)) = map.first()
    {
        return Err(NoColumns::NoSuchTitle(shortened(title)));
    }
    best.map(|(_, titled)| titled).ok_or(NoColumns::NoTitles { first })
}

fn unused(row: &Row, columns: &[(Column, usize)]) -> Vec<String> {
    let is_used = |at: &usize| columns.iter().any(|(_, used)| used == at);
    let titles = row.cells.iter().enumerate().filter(|(at, title)| !is_used(at) && !title.is_empty());
    titles.map(|(_, title)| shortened(title)).collect()
}

/// The columns of a row of titles. `None`: it is none, since it names no address or nothing else, or lacks a mapped title.
fn assign(row: &Row, map: &[(Column, String)]) -> Option<Vec<(Column, usize)>> {
    let mut columns: Vec<(Column, usize)> = Vec::new();
    for (column, title) in map {
        let at = row.cells.iter().position(|cell| cell == title);
        let at = at.or_else(|| {
            row.cells.iter().position(|cell| !cell.is_empty() && normal(cell) == normal(title))
        })?;
        columns.push((*column, at));
    }
    let mut found: Vec<(Column, usize, usize)> = Vec::new();
    for (at, title) in row.cells.iter().enumerate() {
        if let Some((column, rank)) = column_of(title) {
            found.push((column, rank, at));
        }
    }
    // Of several candidates for one column the more usual title wins, then the one further left.
    found.sort_by_key(|(column, rank, at)| (*column, *rank, *at));
    for (column, _, at) in found {
        let is_free = columns.iter().all(|(known, used)| *known != column && *used != at);
        if is_free
            && !(column == Column::Address
                && columns.iter().any(|(known, _)| *known == Column::AddressZeroBased))
        {
            columns.push((column, at));
        }
    }
    let has = |wanted: Column| columns.iter().any(|(column, _)| *column == wanted);
    // A column of offsets without any address is that of the addresses.
    if !has(Column::Address) && !has(Column::AddressZeroBased) {
        let offset = columns.iter_mut().find(|(column, _)| *column == Column::Offset)?;
        offset.0 = Column::AddressZeroBased;
    }
    (columns.len() >= 2).then_some(columns)
}

/// The column that a title stands for, and how usual the title is (less is more usual).
fn column_of(title: &str) -> Option<(Column, usize)> {
    let mut normal = normal(title);
    // What is in brackets often explains only: `Scale (multiply)`, `Register (0-based)`.
    for attempt in 0..3 {
        let rank = |titles: &[&str]| titles.iter().position(|known| *known == normal);
        if let Some(found) =
            Column::TITLES.iter().find_map(|(column, _, titles)| Some((*column, rank(titles)?)))
        {
            return Some((found.0, found.1 + attempt * 100));
        }
        normal = match attempt {
            0 => self::normal(title.split(['(', '[', '/', '\n']).next().unwrap_or("")),
            _ => normal.trim_start_matches("modbus ").trim_end_matches('s').to_owned(),
        };
    }
    None
}

/// Lower case, words of letters and digits only, single blanks.
fn normal(title: &str) -> String {
    let lower = title.to_lowercase();
    let words = lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::sheet::{SEPARATORS, separated};
    use super::*;

    fn titled(text: &str, map: &[(Column, String)]) -> Result<Titled, NoColumns> {
        find(SEPARATORS.iter().map(|separator| separated(text, *separator).unwrap()).collect(), map)
    }

    #[test]
    fn titles_are_found_below_a_preamble_with_any_separator() {
        let text = "Meter X100;;\nVersion 3, of 2024;;\n\nReg.;Data type;Einheit\n1;INT;V\n";
        let table = titled(text, &[]).unwrap();
        assert_eq!((table.head, table.rows().len()), (2, 1));
        assert_eq!(table.cell(&table.rows()[0], Column::Unit), "V");
        assert_eq!(table.title(Column::Address), "Reg.");
        assert_eq!(
            titled("a\tRegister address (dec)\tR/W\nx\t1\tR\n", &[]).unwrap().title(Column::Access),
            "R/W"
        );
    }

    #[test]
    fn every_title_stands_for_one_column() {
        let mut known = std::collections::HashMap::new();
        for (column, _, titles) in Column::TITLES {
            for title in titles {
                assert_eq!(normal(title), *title);
                assert_eq!(known.insert(*title, column), None, "{title}");
            }
        }
    }

    #[test]
    fn a_mapped_title_comes_before_what_titles_usually_mean() {
        let map = [(Column::Divisor, "Gain".into())];
        let table = titled("Address,Gain,Name\n1,10,x\n", &map).unwrap();
        assert!(table.has(Column::Divisor) && !table.has(Column::Scale));
        assert!(titled("Address,Gain\n", &[(Column::Scale, "Faktor".into())]).is_err());
    }

    #[test]
    fn of_two_candidates_the_more_usual_one_is_used_and_the_other_is_named() {
        let table = titled("Hex address,Address,Name\n0x1,1,x\n", &[]).unwrap();
        assert_eq!(table.title(Column::Address), "Address");
        assert_eq!(table.unused, ["Hex address"]);
        let table = titled("Modbus address,Address (zero-based),Name\n1,0,x\n", &[]).unwrap();
        assert!(table.has(Column::AddressZeroBased) && !table.has(Column::Address));
    }

    #[test]
    fn a_table_without_addresses_is_none() {
        let error = titled("Name,Unit\nx,V\n", &[]).unwrap_err().to_string();
        assert!(error.contains("the first row is: Name | Unit"), "{error}");
        assert!(titled("", &[]).is_err());
        assert_eq!(titled("Offset,Name\n0,x\n", &[]).unwrap().title(Column::AddressZeroBased), "Offset");
    }
}
