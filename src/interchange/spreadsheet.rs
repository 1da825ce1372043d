//! Spreadsheets (.xlsx) → rows of cells: the only file that meets calamine and zip.
//!
//! What the archive unpacks to is measured first, so that a small file can't fill the memory; cells are then taken one by
//! one, so that a cell far off makes no large table.

use std::io::{Cursor, Read};

use calamine::{Data, DataRef, Reader as _, SheetType, SheetVisible, Xlsx, XlsxError};
use zip::ZipArchive;

use super::sheet::{DATE, MAX_CELL, MAX_COLUMNS, MAX_ROWS, Row, Sheet, clean};
use crate::document::scalar::shortened;

/// Most bytes that a spreadsheet may unpack to. A register list of 10,000 rows has about 6 MB.
const MAX_UNPACKED: u64 = 32 * 1024 * 1024;

/// Most files in the archive; a workbook of 100 sheets has about 300.
const MAX_PARTS: usize = 1_000;

/// Sheets beyond these are not looked at, unless one is named.
const MAX_SHEETS: usize = 32;

/// Why a spreadsheet can't be read.
#[derive(Debug, thiserror::Error)]
pub enum SpreadsheetError {
    /// No archive, or not that of a workbook.
    #[error("the spreadsheet is damaged: {0}")]
    Damaged(String),
    /// A bomb, or far more than a register list.
    #[error(
        "the spreadsheet unpacks to more than {MAX_UNPACKED} bytes or {MAX_PARTS} parts: save the one sheet as .csv"
    )]
    TooLarge,
    /// A sheet that isn't there.
    #[error("there is no sheet '{title}'{others}")]
    NoSuchSheet {
        /// What was asked for.
        title: String,
        /// What there is.
        others: String,
    },
}

impl From<XlsxError> for SpreadsheetError {
    fn from(error: XlsxError) -> Self {
        Self::Damaged(shortened(&error.to_string()))
    }
}

/// The sheets of a workbook that are visible, or the one that is named.
pub fn read(bytes: &[u8], title: Option<&str>) -> Result<Vec<Sheet>, SpreadsheetError> {
    measure(bytes)?;
    let mut workbook: Xlsx<_> = Xlsx::new(Cursor::new(bytes))?;
    let titles: Vec<String> = workbook
        .sheets_metadata()
        .iter()
        .filter(|sheet| sheet.typ == SheetType::WorkSheet)
        .filter(|sheet| title.map_or(sheet.visible == SheetVisible::Visible, |title| sheet.name == title))
        .map(|sheet| sheet.name.clone())
        .take(MAX_SHEETS)
        .collect();
    if let Some(title) = title.filter(|_| titles.is_empty()) {
        let all: Vec<String> =
            workbook.sheet_names().iter().take(MAX_SHEETS).map(|name| shortened(name)).collect();
        let others = format!("; there is {}", all.join(", "));
        return Err(SpreadsheetError::NoSuchSheet { title: shortened(title), others });
    }
    titles.into_iter().map(|title| sheet(&mut workbook, title)).collect()
}

/// Unpacks everything into nothing.
fn measure(bytes: &[u8]) -> Result<(), SpreadsheetError> {
    let damaged = |error: &dyn std::fmt::Display| SpreadsheetError::Damaged(shortened(&error.to_string()));
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|error| damaged(&error))?;
    if archive.len() > MAX_PARTS {
        return Err(SpreadsheetError::TooLarge);
    }
    let mut left = MAX_UNPACKED;
    for part in 0..archive.len() {
        let part = archive.by_index(part).map_err(|error| damaged(&error))?;
        let size =
            std::io::copy(&mut part.take(left + 1), &mut std::io::sink()).map_err(|error| damaged(&error))?;
        left = left.checked_sub(size).ok_or(SpreadsheetError::TooLarge)?;
    }
    Ok(())
}

fn sheet(workbook: &mut Xlsx<Cursor<&[u8]>>, title: String) -> Result<Sheet, SpreadsheetError> {
    let mut sheet = Sheet { title: Some(title.clone()), rows: Vec::new() };
    let mut reader = workbook.worksheet_cells_reader(&title)?;
    while let Some(cell) = reader.next_cell()? {
        let ((row, column), text) = (cell.get_position(), text(cell.get_value()));
        let (line, column) = (row as usize + 1, column as usize);
        if text.is_empty() {
            continue;
        }
        if column >= MAX_COLUMNS || sheet.rows.len() > MAX_ROWS || text.len() > MAX_CELL {
            return Err(SpreadsheetError::Damaged(format!(
                "row {line} is beyond the limits of {MAX_ROWS} rows, {MAX_COLUMNS} columns and {MAX_CELL} bytes a cell"
            )));
        }
        // A damaged sheet may come in any order.
        if sheet.rows.last().is_none_or(|last| last.line < line) {
            sheet.rows.push(Row { line, cells: Vec::new() });
        }
        let Some(last) = sheet.rows.last_mut().filter(|last| last.line == line) else {
            return Err(SpreadsheetError::Damaged(format!("row {line} comes too late")));
        };
        if last.cells.len() <= column {
            last.cells.resize(column + 1, String::new());
        }
        last.cells[column] = text;
    }
    Ok(sheet)
}

/// A cell's text. A number is written as short as it can be: 0.1 and not 0.1000000000000000055.
fn text(value: &DataRef<'_>) -> String {
    match value {
        DataRef::Int(number) => number.to_string(),
        DataRef::Float(number) => number.to_string(),
        DataRef::String(text) => clean(text),
        DataRef::SharedString(text) => clean(text),
        DataRef::Bool(flag) => flag.to_string(),
        DataRef::DateTime(_) | DataRef::DateTimeIso(_) | DataRef::DurationIso(_) => DATE.into(),
        DataRef::Error(error) => Data::Error(error.clone()).to_string(),
        DataRef::Empty => String::new(),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;
    use zip::write::SimpleFileOptions;

    const HEAD: &str = r#"<?xml version="1.0" encoding="UTF-8"?>"#;

    /// A workbook with one sheet, whose cells are given as the XML inside `sheetData`.
    pub fn workbook(sheet_data: &str) -> Vec<u8> {
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        let mut part = |name: &str, text: String| {
            zip.start_file(name, SimpleFileOptions::default()).unwrap();
            zip.write_all(text.as_bytes()).unwrap();
        };
        let types = "http://schemas.openxmlformats.org/package/2006";
        let office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships";
        let main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main";
        part("[Content_Types].xml", format!(r#"{HEAD}<Types xmlns="{types}/content-types"/>"#));
        part(
            "_rels/.rels",
            format!(
                r#"{HEAD}<Relationships xmlns="{types}/relationships"><Relationship Id="r1" Type="{office}/officeDocument" Target="xl/workbook.xml"/></Relationships>"#
            ),
        );
        part(
            "xl/workbook.xml",
            format!(
                r#"{HEAD}<workbook xmlns="{main}" xmlns:r="{office}"><sheets><sheet name="Registers" sheetId="1" r:id="r1"/></sheets></workbook>"#
            ),
        );
        part(
            "xl/_rels/workbook.xml.rels",
            format!(
                r#"{HEAD}<Relationships xmlns="{types}/relationships"><Relationship Id="r1" Type="{office}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>"#
            ),
        );
        part(
            "xl/worksheets/sheet1.xml",
            format!(r#"{HEAD}<worksheet xmlns="{main}"><sheetData>{sheet_data}</sheetData></worksheet>"#),
        );
        zip.finish().unwrap().into_inner()
    }

    /// A row of the XML; what is no number becomes an inline text.
    pub fn row(number: usize, cells: &[&str]) -> String {
        let cells: String = cells
            .iter()
            .enumerate()
            .map(|(at, cell)| {
                let place = format!("{}{number}", char::from(b'A' + at as u8));
                match cell.parse::<f64>() {
                    Ok(_) => format!(r#"<c r="{place}"><v>{cell}</v></c>"#),
                    Err(_) => format!(r#"<c r="{place}" t="inlineStr"><is><t>{cell}</t></is></c>"#),
                }
            })
            .collect();
        format!(r#"<row r="{number}">{cells}</row>"#)
    }

    #[test]
    fn cells_come_as_they_are_shown() {
        let data = row(1, &["Register", "Faktor"]) + &row(3, &["40001", "0.1"]);
        let sheets = read(&workbook(&data), None).unwrap();
        assert_eq!(sheets[0].title.as_deref(), Some("Registers"));
        let rows = &sheets[0].rows;
        assert_eq!(rows[0], Row { line: 1, cells: vec!["Register".into(), "Faktor".into()] });
        assert_eq!(rows[1], Row { line: 3, cells: vec!["40001".into(), "0.1".into()] });
        let error = read(&workbook(&data), Some("Reg")).unwrap_err();
        assert_eq!(error.to_string(), "there is no sheet 'Reg'; there is Registers");
    }

    #[test]
    fn a_cell_far_off_makes_no_large_table() {
        let data = row(1, &["a"]) + r#"<row r="1048576"><c r="A1048576"><v>1</v></c></row>"#;
        assert_eq!(read(&workbook(&data), None).unwrap()[0].rows.len(), 2);
        let wide = r#"<row r="1"><c r="XFD1"><v>1</v></c></row>"#;
        assert!(read(&workbook(wide), None).is_err());
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_unpacked() {
        let bomb = workbook(&" ".repeat(MAX_UNPACKED as usize));
        assert!(bomb.len() < 1_000_000, "{}", bomb.len());
        assert!(matches!(read(&bomb, None), Err(SpreadsheetError::TooLarge)));
    }

    proptest! {
        #[test]
        fn a_damaged_workbook_never_panics(at in any::<prop::sample::Index>(), bytes in prop::collection::vec(any::<u8>(), 1..8)) {
            let mut workbook = workbook(&row(1, &["Register", "1"]));
            let at = at.index(workbook.len());
            for (to, byte) in workbook[at..].iter_mut().zip(bytes) {
                *to = byte;
            }
            let _ = read(&workbook, None);
        }

        #[test]
        fn a_damaged_sheet_never_panics(data in "(<row r=\"[0-9A-Z]{0,4}\">|<c r=\"[A-Z0-9]{0,5}\"( t=\"[a-zA-Z]{0,9}\")?>|<v>|-?[0-9.e]{0,6}|</v>|</c>|</row>|<is>|<t>|&[a-z]{0,3};){0,12}") {
            let _ = read(&workbook(&data), None);
        }
    }
}
