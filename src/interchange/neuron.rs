//! Neuron's tag tables (CSV or Excel: group, name, address, attribute, type, description, decimal, bias …) → a profile, or a
//! site when several stations are in it. Addresses are `STATION!ADDRESS[.BIT][#ENDIAN][.LENGTH[H|L|D|E]]` (documentation of its
//! Modbus drivers).

use std::collections::BTreeSet;
use std::time::Duration;

use super::address::paper;
use super::checked;
use super::draft::{Draft, Spot};
use super::names::{self, Taken};
use super::note::{Note, Notes};
use super::numbers;
use super::sheet::{self, Row, Sheet, SheetError};
use super::site::SiteDraft;
use super::table::Imported;
use super::types::{self, TypeCell};
use super::yaml::Head;
use crate::document::scalar::shortened;
use crate::mapping::compiled::Order;
use crate::mapping::written::{Access, CharsWord, TypeWord};
use crate::model::decimal::Decimal;
use crate::model::place::Table;

/// The interval of the devices of a site; Neuron keeps it with the group, outside of the table.
const INTERVAL: Duration = Duration::from_secs(1);

/// The titles that a table of tags has; the last ones may be missing.
const TITLES: [&str; 9] =
    ["group", "name", "address", "attribute", "type", "description", "decimal", "precision", "bias"];

/// How many of them must be there.
const REQUIRED: usize = 5;

/// Why a file is no table of tags.
#[derive(Debug, thiserror::Error)]
pub enum NoTags {
    /// The bytes are no table.
    #[error(transparent)]
    Sheet(#[from] SheetError),
    /// Some titles are missing.
    #[error("there is no row with the titles group, name, address, attribute, type")]
    Titles,
}

/// Reads a table of tags. `name`: that of the profile or site; `file`: that of the file.
pub fn import(bytes: &[u8], name: &str, file: &str) -> Result<Imported, NoTags> {
    let sheets = sheet::candidates(bytes, None)?;
    let (sheet, head) = sheets.iter().find_map(|sheet| Some((sheet, head(sheet)?))).ok_or(NoTags::Titles)?;
    let columns = TITLES.map(|title| sheet.rows[head].cells.iter().position(|cell| is_title(cell, title)));
    let mut notes = Notes::default();
    let mut left_out = 0;
    let mut tags = Vec::new();
    for row in &sheet.rows[head + 1..] {
        match (Tag { row, columns: &columns }).read(&mut notes) {
            Ok(tag) => tags.push(tag),
            Err(note) => {
                left_out += 1;
                notes.push(note);
            }
        }
    }
    let stations: BTreeSet<u8> = tags.iter().map(|(station, ..)| *station).collect();
    if stations.len() > 1 {
        return Ok(site(tags, name, file, left_out, notes));
    }
    let groups: BTreeSet<String> = tags.iter().map(|(_, group, _)| group.clone()).collect();
    if groups.len() > 1 {
        let message = "each group became a rate: the site gives it an interval, as in every: {GROUP: 5s}";
        notes.push(Note::warning(None, message));
        tags.iter_mut().for_each(|(_, group, draft)| draft.rate = Some(group.clone()));
    }
    Ok(profile(tags, name, file, left_out, notes))
}

/// The station, the group's name, and the point.
type Read = (u8, String, Draft);

/// One station is one device: a profile.
fn profile(tags: Vec<Read>, name: &str, file: &str, left_out: usize, mut notes: Notes) -> Imported {
    let mut taken = Taken::default();
    let drafts: Vec<Draft> =
        tags.into_iter().map(|(_, _, draft)| Draft { name: taken.unique(&draft.name), ..draft }).collect();
    let head = Head {
        profile: name.into(),
        comments: vec![format!(
            "From {file}, by taktbus import. Compare it with the manual and with the device before you rely on it."
        )],
        source: Some(file.into()),
        ..Head::default()
    };
    let (yaml, drafts, refused) = checked::profile(&head, drafts, &mut notes);
    Imported { yaml, points: drafts.len(), left_out: left_out + refused, notes: notes.sorted() }
}

/// Several stations are devices behind one connection, which the table does not name.
fn site(tags: Vec<Read>, name: &str, file: &str, mut left_out: usize, mut notes: Notes) -> Imported {
    notes.push(
        Note::warning(
            None,
            "the table has several stations and names no connection: tcp: 127.0.0.1:502 stands in for it",
        )
        .help("write the real one"),
    );
    notes.push(Note::warning(None, "groups are not carried over: everything is read every second"));
    let mut site = SiteDraft::default();
    let via = site.connection("neuron", vec![("tcp", "127.0.0.1:502".into())]);
    for (station, _, draft) in tags {
        match site.device(&format!("station_{station}"), &via, station, INTERVAL) {
            Some(device) => device.add(draft, INTERVAL),
            None => left_out += 1,
        }
    }
    site.finish(name.rsplit('/').next().unwrap_or(name), file, left_out, notes)
}

fn is_title(cell: &str, title: &str) -> bool {
    cell.trim().eq_ignore_ascii_case(title)
}

fn head(sheet: &Sheet) -> Option<usize> {
    let has_all =
        |row: &Row| TITLES[..REQUIRED].iter().all(|title| row.cells.iter().any(|cell| is_title(cell, title)));
    sheet.rows.iter().position(has_all)
}

/// A row of the table.
struct Tag<'r> {
    row: &'r Row,
    columns: &'r [Option<usize>; 9],
}

impl Tag<'_> {
    fn cell(&self, title: &str) -> &str {
        let at = TITLES.iter().position(|known| *known == title).and_then(|at| self.columns[at]);
        at.map_or("", |at| self.row.cell(at))
    }

    fn error(&self, title: &str, message: String) -> Note {
        Note::error(self.row.line, message).column(title)
    }

    /// The station, the group's name, and the point.
    fn read(&self, notes: &mut Notes) -> Result<Read, Note> {
        let text = self.cell("address");
        let address = Address::of(text).ok_or_else(|| {
            self.error("address", format!("'{}' is no address of Modbus", shortened(text)))
                .help("such as 1!400001 or 1!300004#BL")
        })?;
        let kind = self.kind(&address)?;
        let name = names::slug(self.cell("name"));
        let name =
            if name.is_empty() { format!("{}_{}", address.table.key(), address.register) } else { name };
        let mut draft =
            Draft::new(self.row.line, name, Spot::Register(address.table, address.register), kind);
        draft.order = self.order(&address, &draft, notes)?;
        let number = |title: &str| {
            numbers::number(self.cell(title)).map_err(|no| self.error(title, no.message).help(no.help))
        };
        if draft.is_number() {
            draft.scale = number("decimal")?.filter(|scale| *scale != Decimal::ONE && !scale.is_zero());
            draft.offset = number("bias")?.filter(|offset| !offset.is_zero());
        }
        if !numbers::is_nothing(self.cell("precision")) && self.cell("precision") != "0" {
            notes.push(
                Note::warning(self.row.line, "precision is not carried over: values are exact")
                    .column("precision"),
            );
        }
        draft.access = access(self.cell("attribute"), address.table);
        let desc = self.cell("description").split_whitespace().collect::<Vec<_>>().join(" ");
        draft.desc = (!desc.is_empty() && names::slug(&desc) != draft.name).then_some(desc);
        let group = names::slug(self.cell("group"));
        Ok((address.station, if group.is_empty() { "group".into() } else { group }, draft))
    }

    fn kind(&self, address: &Address<'_>) -> Result<Option<TypeCell>, Note> {
        let text = self.cell("type").to_lowercase();
        if address.table.is_bits() {
            return Ok(None);
        }
        if text == "bit" || text == "bool" {
            let bit = address.number.unwrap_or(0);
            return match u8::try_from(bit).ok().filter(|bit| *bit < 16) {
                Some(bit) => Ok(Some(TypeCell { bit: Some(bit), ..TypeCell::plain(TypeWord::Bool) })),
                None => Err(self.error("address", format!("a register has no bit {bit}"))),
            };
        }
        if text == "string" {
            let Some(bytes) = address.number.filter(|bytes| *bytes > 0) else {
                return Err(self
                    .error("address", "a string without a length".into())
                    .help("such as 1!400001.10H"));
            };
            let (length, chars) = match address.storage {
                Some('D') => (bytes, Some(CharsWord::Low)),
                Some('E') => (bytes, Some(CharsWord::High)),
                _ => (bytes.div_ceil(2), None),
            };
            return Ok(Some(TypeCell { length: Some(length), chars, ..TypeCell::plain(TypeWord::String) }));
        }
        types::kind(&text, None).map(Some).map_err(|no| self.error("type", no.message))
    }

    /// The order of the bytes: `#LL` is ABCD, and the default.
    fn order(&self, address: &Address<'_>, draft: &Draft, notes: &mut Notes) -> Result<Option<Order>, Note> {
        if !draft.has_order() {
            return Ok(None);
        }
        if draft.kind.as_ref().is_some_and(|kind| kind.kind == TypeWord::String) {
            // One byte per register has no order; the usual one is low byte first.
            return Ok(match address.storage {
                Some('H' | 'D' | 'E') => None,
                _ => Some(Order::Badc),
            });
        }
        let endian = match address.endian {
            "" | "L" | "LL" => return Ok(None),
            endian => endian,
        };
        if matches!(endian, "BL" | "BB") {
            let message =
                format!("#{endian} has changed its meaning between versions of Neuron: compare the value");
            notes.push(Note::warning(self.row.line, message).column("address"));
        }
        match endian {
            "B" | "LB" => Ok(Some(Order::Badc)),
            "BL" => Ok(Some(Order::Cdab)),
            "BB" => Ok(Some(Order::Dcba)),
            _ => Err(self.error("address", format!("the byte order '#{}' is not known", shortened(endian)))),
        }
    }
}

/// `Read`, `Read Write`, `Read Subscribe`; or the sum of 1 (read), 2 (write) and 4 (subscribe).
fn access(text: &str, table: Table) -> Access {
    let lower = text.to_lowercase();
    let bits = lower.parse::<u8>().unwrap_or(0);
    let (reads, writes) = (lower.contains("read") || bits & 5 != 0, lower.contains("write") || bits & 2 != 0);
    match (reads, writes && !matches!(table, Table::Input | Table::Discrete)) {
        (true, true) => Access::ReadWrite,
        (false, true) => Access::Write,
        _ => Access::Read,
    }
}

/// An address taken apart.
#[derive(Debug, PartialEq)]
struct Address<'t> {
    station: u8,
    table: Table,
    register: u16,
    /// The bit, or the length of a string in bytes.
    number: Option<u16>,
    endian: &'t str,
    /// How a string lies in its registers: H, L, D or E.
    storage: Option<char>,
}

impl<'t> Address<'t> {
    fn of(text: &'t str) -> Option<Self> {
        let (station, rest) = text.split_once('!')?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (digits, mut rest) = rest.split_at(end);
        let value: u32 = digits.parse().ok()?;
        let (table, register) = match paper(value) {
            Some(known) if !digits.starts_with('0') => known,
            _ if digits.starts_with('0') => (Table::Coil, u16::try_from(value.checked_sub(1)?).ok()?),
            _ => return None,
        };
        let (mut number, mut endian, mut storage) = (None, "", None);
        while let Some(mark) = rest.chars().next() {
            let tail = &rest[mark.len_utf8()..];
            let end = tail.find(['.', '#']).unwrap_or(tail.len());
            let part = &tail[..end];
            match mark {
                '#' => endian = part,
                '.' => {
                    let digits = part.trim_end_matches(['H', 'L', 'D', 'E']);
                    storage = part[digits.len()..].chars().next();
                    number = Some(digits.parse().ok()?);
                }
                _ => return None,
            }
            rest = &tail[end..];
        }
        Some(Self { station: station.trim().parse().ok()?, table, register, number, endian, storage })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LoadOptions, load_profile_text, load_text};
    use proptest::prelude::*;

    #[test]
    fn an_address_of_other_letters_is_no_address() {
        assert!(Address::of("1!40003Û³").is_none());
    }

    #[test]
    fn a_station_that_can_only_be_written_is_left_out_and_named() {
        let text =
            "group,name,address,attribute,type\ng,power,1!40003,Read,FLOAT\ng,lamp,2!00007,Write,BIT\n";
        let imported = import(text.as_bytes(), "tags", "tags.csv").unwrap();
        assert!(imported.yaml.contains("power") && !imported.yaml.contains("lamp"), "{}", imported.yaml);
        assert!(imported.notes.iter().any(|note| note.message.contains("can only be written")));
        assert_eq!((imported.points, imported.left_out), (1, 1));
    }

    #[test]
    fn one_station_becomes_a_profile() {
        let text = "group,name,address,attribute,type,description,decimal,precision,bias\n\
            g1,Voltage,1!300001,Read,UINT16,Phase 1,0.1,,\n\
            g1,Power,1!400003#LB,Read Write,FLOAT,,,2,\n\
            g1,flow,1!40010#BL,Read Subscribe,INT32,,,,-5\n\
            g1,run,1!400020.3,Read,BIT,,,,\n\
            g1,pump,1!000007,Read Write,BIT,,,,\n\
            g1,model,1!400030.10H,Read,STRING,,,,\n\
            g1,other,1!400040.10,Read,STRING,,,,\n\
            g1,wrong,1!500001,Read,INT16,,,,\n";
        let imported = import(text.as_bytes(), "neuron/tags", "tags.csv").unwrap();
        assert!(load_profile_text("t", &imported.yaml).map.is_some(), "{}", imported.yaml);
        let (_, points) = imported.yaml.split_once("points:\n").unwrap();
        let expected = "  voltage: {input: 0,    type: uint16, scale: 0.1, desc: Phase 1}
  power:   {holding: 2,  type: float32, order: BADC, access: rw}
  flow:    {holding: 9,  type: int32, order: CDAB, offset: -5}
  run:     {holding: 19, bit: 3}
  pump:    {coil: 6,     access: rw}
  model:   {holding: 29, type: string, length: 5}
  other:   {holding: 39, type: string, length: 5, order: BADC}
";
        assert_eq!(points, expected);
        assert_eq!((imported.points, imported.left_out), (7, 1));
        let notes: Vec<String> = imported.notes.iter().map(|note| note.show("t").to_string()).collect();
        assert_eq!(notes.len(), 3, "{notes:?}");
        assert!(notes[2].contains("t:9: error: column 'address': '1!500001' is no address"), "{notes:?}");
    }

    #[test]
    fn several_stations_become_a_site() {
        let text =
            "group,name,address,attribute,type\nfast,a,1!400001,Read,INT16\nslow,a,2!400001,Read,INT16\n";
        let imported = import(text.as_bytes(), "neuron/tags", "tags.csv").unwrap();
        let loaded = load_text("t", &imported.yaml, &LoadOptions::default());
        assert!(loaded.is_sound(), "{}\n{:?}", imported.yaml, loaded.diagnostics);
        assert!(
            imported.yaml.contains("  station_2:\n    via: neuron\n    unit_id: 2\n"),
            "{}",
            imported.yaml
        );
        assert!(import(b"a,b\n1,2\n", "n", "f").is_err());
    }

    #[test]
    fn groups_of_one_station_become_rates() {
        let text =
            "group,name,address,attribute,type\nfast,a,1!400001,Read,INT16\nslow,b,1!400002,Read,INT16\n";
        let imported = import(text.as_bytes(), "neuron/tags", "tags.csv").unwrap();
        assert!(imported.yaml.contains("b: {holding: 1, type: int16, rate: slow}"), "{}", imported.yaml);
    }

    proptest! {
        #[test]
        fn no_address_panics(text in any::<String>(), near in "[0-9]{1,3}![0-9]{1,6}([.#][0-9A-Z]{0,4}){0,3}") {
            let _ = (Address::of(&text), Address::of(&near));
        }
    }
}
