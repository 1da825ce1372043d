//! Bytes of a file → rows of cells, whatever encoding and separator they have.

use super::spreadsheet::{self, SpreadsheetError};

/// Most rows of a sheet: as many as Modbus has addresses in one table.
pub const MAX_ROWS: usize = 65_536;

/// Most columns of a sheet.
pub const MAX_COLUMNS: usize = 256;

/// Longest cell, in bytes: that of a text of a profile.
pub const MAX_CELL: usize = 4_096;

/// What a cell says that a spreadsheet has made a date of: 3-4 and 1/10 are gone then.
pub const DATE: &str = "#DATE";

/// What separates the cells of a text.
pub const SEPARATORS: [u8; 4] = [b',', b';', b'\t', b'|'];

/// One row; empty cells at its end may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The line of a text that it begins on, or its number in the sheet; counted from 1.
    pub line: usize,
    /// The texts of its cells, without blanks around them.
    pub cells: Vec<String>,
}

impl Row {
    /// The text of a cell; empty where there is none.
    pub fn cell(&self, column: usize) -> &str {
        self.cells.get(column).map_or("", String::as_str)
    }

    /// The cells that hold something.
    pub fn filled(&self) -> impl Iterator<Item = &str> {
        self.cells.iter().map(String::as_str).filter(|cell| !cell.is_empty())
    }
}

/// The rows of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sheet {
    /// Its name in a spreadsheet.
    pub title: Option<String>,
    /// Rows that hold something, in order.
    pub rows: Vec<Row>,
}

/// Why a file is no table.
#[derive(Debug, thiserror::Error)]
pub enum SheetError {
    /// One limit is exceeded.
    #[error("more than {limit} {what}{}", line.map_or(String::new(), |line| format!(", on line {line}")))]
    TooMuch {
        /// The limit.
        limit: usize,
        /// Of what.
        what: &'static str,
        /// Where.
        line: Option<usize>,
    },
    /// A text in quotes does not end.
    #[error("a cell that begins on line {line} has more than {MAX_CELL} bytes: is a quotation mark missing?")]
    LongCell {
        /// The line of its row.
        line: usize,
    },
    /// The spreadsheet is damaged, too large, or has no such sheet.
    #[error(transparent)]
    Spreadsheet(#[from] SpreadsheetError),
    /// A file of the old Excel, or of OpenOffice.
    #[error("this is {0}; save it as .xlsx or .csv")]
    OtherFormat(&'static str),
}

/// The ways to read a file: one per sheet of a spreadsheet, one per separator of a text.
pub fn candidates(bytes: &[u8], sheet: Option<&str>) -> Result<Vec<Sheet>, SheetError> {
    if bytes.starts_with(b"PK\x03\x04") {
        return Ok(spreadsheet::read(bytes, sheet)?);
    }
    if bytes.starts_with(b"\xD0\xCF\x11\xE0") {
        return Err(SheetError::OtherFormat("an old Excel file (.xls)"));
    }
    if bytes.starts_with(b"%PDF") {
        return Err(SheetError::OtherFormat("a PDF"));
    }
    if let Some(title) = sheet {
        return Err(SpreadsheetError::NoSuchSheet { title: title.into(), others: String::new() }.into());
    }
    let text = text(bytes);
    let mut sheets = Vec::new();
    for separator in SEPARATORS {
        // A wrong separator may make one huge cell of a fine file; the right one then reads it.
        match separated(&text, separator) {
            Ok(sheet) => sheets.push(sheet),
            Err(error) if separator == SEPARATORS[SEPARATORS.len() - 1] && sheets.is_empty() => {
                return Err(error);
            }
            Err(_) => {}
        }
    }
    Ok(sheets)
}

/// A text: UTF-8, UTF-16 with a byte order mark (what Excel calls Unicode text), or else Windows-1252, which holds
/// Latin-1.
pub fn text(bytes: &[u8]) -> String {
    let utf16 = |decode: fn([u8; 2]) -> u16| {
        let units = bytes[2..].chunks_exact(2).map(|pair| decode([pair[0], pair[1]]));
        char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
    };
    match bytes {
        [0xFF, 0xFE, ..] => utf16(u16::from_le_bytes),
        [0xFE, 0xFF, ..] => utf16(u16::from_be_bytes),
        _ => {
            let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
            match std::str::from_utf8(bytes) {
                Ok(text) => text.to_owned(),
                Err(_) => bytes.iter().map(|byte| windows_1252(*byte)).collect(),
            }
        }
    }
}

/// The characters of 0x80 to 0x9F differ from Latin-1 (the WHATWG encoding standard's index windows-1252).
fn windows_1252(byte: u8) -> char {
    const HIGH: [char; 32] = [
        '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8D}', 'Ž', '\u{8F}',
        '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9D}', 'ž', 'Ÿ',
    ];
    match byte {
        0x80..=0x9F => HIGH[usize::from(byte - 0x80)],
        _ => char::from(byte),
    }
}

/// The rows of a text with this separator.
pub fn separated(text: &str, separator: u8) -> Result<Sheet, SheetError> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(separator)
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let mut sheet = Sheet::default();
    let mut record = csv::StringRecord::new();
    // Reading from memory what is UTF-8 fails at nothing.
    while reader.read_record(&mut record).unwrap_or(false) {
        let line = record.position().map_or(0, |position| line_of(text, position));
        if record.len() > MAX_COLUMNS {
            return Err(SheetError::TooMuch { limit: MAX_COLUMNS, what: "columns", line: Some(line) });
        }
        if record.iter().any(|cell| cell.len() > MAX_CELL) {
            return Err(SheetError::LongCell { line });
        }
        let cells: Vec<String> = record.iter().map(clean).collect();
        if cells.iter().all(String::is_empty) {
            continue;
        }
        if sheet.rows.len() == MAX_ROWS {
            return Err(SheetError::TooMuch { limit: MAX_ROWS, what: "rows", line: None });
        }
        sheet.rows.push(Row { line, cells });
    }
    Ok(sheet)
}

/// The line that a record begins on: its position is that of the empty lines before it.
fn line_of(text: &str, position: &csv::Position) -> usize {
    let rest =
        usize::try_from(position.byte()).ok().and_then(|at| text.as_bytes().get(at..)).unwrap_or_default();
    let empty =
        rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).filter(|byte| **byte == b'\n').count();
    position.line() as usize + empty
}

/// A cell without what no text of a profile may have: control characters become blanks, but for line ends.
pub fn clean(cell: &str) -> String {
    let cell = cell.replace("\r\n", "\n");
    let visible = |c: char| match c {
        '\n' => '\n',
        '\u{A0}' | '\u{202F}' | '\u{2007}' => ' ',
        c if c.is_control() => ' ',
        c => c,
    };
    let cell: String = cell.chars().filter(|c| !matches!(c, '\u{FEFF}' | '\u{200B}')).map(visible).collect();
    cell.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(text: &str, separator: u8) -> Vec<Vec<String>> {
        separated(text, separator).unwrap().rows.into_iter().map(|row| row.cells).collect()
    }

    #[test]
    fn texts_are_read_in_the_encodings_that_tools_write() {
        assert_eq!(text("°C".as_bytes()), "°C");
        assert_eq!(text(b"\xEF\xBB\xBF\xC2\xB0C"), "°C");
        assert_eq!(text(b"\xB0C \x80"), "°C €");
        assert_eq!(text(b"\xFF\xFE\xB0\x00C\x00"), "°C");
        assert_eq!(text(b"\xFE\xFF\x00\xB0\x00C"), "°C");
    }

    #[test]
    fn quoted_line_ends_stay_in_their_cell_and_lines_are_counted() {
        let sheet = separated("a;b\r\n\"one\r\ntwo\";\" x\"\"y \"\r\n\r\n;\r\nc;d", b';').unwrap();
        assert_eq!(sheet.rows[1], Row { line: 2, cells: vec!["one\ntwo".into(), "x\"y".into()] });
        assert_eq!(sheet.rows[2].line, 6);
        assert_eq!(cells("a\tb c", b'\t'), [["a", "b c"]]);
    }

    #[test]
    fn a_missing_quotation_mark_is_no_endless_cell() {
        let text = format!("a,b\n\"x,y\n{}", "1,2\n".repeat(2_000));
        assert!(matches!(separated(&text, b','), Err(SheetError::LongCell { line: 2 })));
    }

    #[test]
    fn what_is_no_table_is_named() {
        assert!(candidates(b"%PDF-1.7", None).unwrap_err().to_string().contains("a PDF"));
        assert!(candidates(b"PK\x03\x04junk", None).is_err());
        assert!(separated(&",".repeat(MAX_COLUMNS), b',').is_err());
        assert!(separated(&"1\n".repeat(MAX_ROWS + 1), b',').is_err());
    }
}
