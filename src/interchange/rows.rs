//! Rows of a table → drafts of points. Each row that can't be carried over yields an error with its place.

use super::address::{self, AddressCell, Counting, Rest};
use super::columns::Titled;
use super::draft::{Draft, Spot};
use super::names;
use super::note::{Note, Notes};
use super::numbers::{self, NoNumber};
use super::orders;
use super::sheet::{DATE, Row};
use super::titles::Column;
use super::types::{self, TypeCell};
use super::words::{access_of, enumeration, function_access, function_codes, raws, table_of, unit};
use crate::document::scalar::shortened;
use crate::mapping::compiled::Order;
use crate::mapping::written::{Access, TypeWord};
use crate::model::decimal::Decimal;
use crate::model::place::Table;

/// What holds for all rows of a table.
pub struct Rows<'t> {
    /// The table.
    pub titled: &'t Titled,
    /// The column that addresses are read from.
    pub addresses: Column,
    /// What its numbers count.
    pub counting: Counting,
    /// Its digits are hexadecimal.
    pub hex: bool,
    /// The table of rows that name none.
    pub table: Table,
    /// The table was written by an export: names and descriptions stay as they are.
    pub is_own: bool,
}

impl Rows<'_> {
    /// The point of a row, without a unique name. Errors are what the row is left out for; smaller things go to `notes`.
    pub fn draft(&self, row: &Row, notes: &mut Notes) -> Result<Draft, Note> {
        if let Some((column, ..)) = Column::TITLES.iter().find(|(column, ..)| self.cell(row, *column) == DATE)
        {
            let message = "the spreadsheet has made a date of this cell, and what was typed is lost";
            return Err(self
                .error(row, *column, message)
                .help("format the column as text, and type it again"));
        }
        let (spot, rest) = self.spot(row)?;
        let Spot::Register(table, _) = spot else { return self.node(row, spot, notes) };
        let kind = match table.is_bits() {
            true => self.check_bit_type(row, notes),
            false => Some(self.kind(row, rest, notes)?),
        };
        let mut draft = Draft::new(row.line, self.name(row, &spot), spot, kind);
        draft.order = self.order(row)?.or(draft.order);
        self.arithmetic(row, &mut draft, notes)?;
        self.labels(row, &mut draft, notes);
        self.texts(row, &mut draft);
        draft.access = self.access(row, table, notes);
        Ok(draft)
    }

    fn cell<'r>(&self, row: &'r Row, column: Column) -> &'r str {
        self.titled.cell(row, column)
    }

    fn error(&self, row: &Row, column: Column, message: impl Into<String>) -> Note {
        let note = Note::error(row.line, message);
        match self.titled.has(column) {
            true => note.column(self.titled.title(column)),
            false => note,
        }
    }

    fn warning(&self, row: &Row, column: Column, message: impl Into<String>) -> Note {
        Note { severity: super::note::Severity::Warning, ..self.error(row, column, message) }
    }

    /// Where the value is.
    fn spot(&self, row: &Row) -> Result<(Spot, Rest), Note> {
        let text = self.cell(row, self.addresses);
        let read = address::read(text, self.hex).map_err(|message| {
            let note = self.error(row, self.addresses, message);
            note.help("such as 100, 0x0064, 40101, 100-101, or 100.3 for one bit")
        })?;
        let said = self.said_table(row)?;
        let (table, address, rest) = match read {
            AddressCell::Node(node) => return Ok((Spot::Node(node), Rest::default())),
            AddressCell::Register { table, address, rest } => (table, Some(address), rest),
            AddressCell::Number(number) => {
                // 400001 is beyond what goes on the wire, whatever the column counts.
                let paper = address::paper(number.value)
                    .filter(|_| self.counting == Counting::Paper || number.value > 65_536);
                let first = u32::from(self.counting != Counting::FromZero);
                let plain = number.value.checked_sub(first).and_then(|address| u16::try_from(address).ok());
                match paper {
                    Some((table, address)) => (table, Some(address), number.rest),
                    // A column of paper references that has others too: those are coils.
                    None if self.counting == Counting::Paper => {
                        (said.unwrap_or(Table::Coil), plain, number.rest)
                    }
                    None => (said.unwrap_or(self.table), plain, number.rest),
                }
            }
        };
        let Some(address) = address else {
            let (first, last) = if self.counting == Counting::FromZero { (0, 65_535) } else { (1, 65_536) };
            let message =
                format!("address {} is out of range: {first} to {last} is allowed", shortened(text));
            return Err(self.error(row, self.addresses, message));
        };
        match said.filter(|said| *said != table) {
            Some(said) => {
                let message = format!(
                    "{} is the address of a {table}, and the row says {said}",
                    shortened(text),
                    table = table.key(),
                    said = said.key()
                );
                Err(self
                    .error(row, self.addresses, message)
                    .help("correct one of them; --base 0 or --base 1 takes the numbers as they are"))
            }
            None => Ok((Spot::Register(table, address), rest)),
        }
    }

    /// The table that a row names, by name or by function code.
    fn said_table(&self, row: &Row) -> Result<Option<Table>, Note> {
        let text = self.cell(row, Column::Table);
        if !numbers::is_nothing(text) && !text.eq_ignore_ascii_case("opcua") {
            let known = table_of(text);
            return known.map(Some).ok_or_else(|| {
                self.error(row, Column::Table, format!("'{}' is no table", shortened(text)))
                    .help("one of: coil, discrete, input, holding")
            });
        }
        let text = self.cell(row, Column::Function);
        if numbers::is_nothing(text) {
            return Ok(None);
        }
        let codes = function_codes(text);
        let table = codes.iter().find_map(|code| match code {
            1 | 5 | 15 => Some(Table::Coil),
            2 => Some(Table::Discrete),
            3 | 6 | 16 | 22 | 23 => Some(Table::Holding),
            4 => Some(Table::Input),
            _ => None,
        });
        table.map(Some).ok_or_else(|| {
            self.error(
                row,
                Column::Function,
                format!("'{}' has no function code that reads a table", shortened(text)),
            )
            .help("1: coils, 2: discrete inputs, 3: holding registers, 4: input registers")
        })
    }

    /// How many registers the row says that it has.
    fn count(&self, row: &Row, rest: Rest) -> Result<Option<u16>, Note> {
        let text = self.cell(row, Column::Count);
        if numbers::is_nothing(text) {
            return Ok(rest.count);
        }
        let digits = text.split(' ').next().unwrap_or("").trim_end_matches(".0");
        let number = digits.parse::<u16>().ok().filter(|count| *count > 0);
        let in_bytes = self.titled.says(Column::Count, "bytes") || text.to_lowercase().contains("byte");
        let count = number.map(|count| if in_bytes { count.div_ceil(2) } else { count });
        match count {
            Some(count) => Ok(Some(count)),
            None => Err(self.error(
                row,
                Column::Count,
                format!("'{}' is no number of registers", shortened(text)),
            )),
        }
    }

    /// The type of a register.
    fn kind(&self, row: &Row, rest: Rest, notes: &mut Notes) -> Result<TypeCell, Note> {
        let text = self.cell(row, Column::Type);
        let bit = self.bit(row)?.or(rest.bit);
        let count = self.count(row, rest)?;
        let mut cell = match text {
            _ if numbers::is_nothing(text) && bit.is_some() => TypeCell::plain(TypeWord::Bool),
            _ if numbers::is_nothing(text) && !self.titled.has(Column::Type) && count.unwrap_or(1) == 1 => {
                TypeCell::plain(TypeWord::Uint16)
            }
            _ if numbers::is_nothing(text) => {
                return Err(self
                    .error(row, Column::Type, "no type")
                    .help("such as uint16, int32 or float32"));
            }
            // One bit of a 16-bit word is what such a row means, whatever it calls it.
            _ => types::kind(text, count.filter(|_| bit.is_none() || text.to_lowercase() != "bool"))
                .map_err(|no| {
                    let note = self.error(row, Column::Type, no.message);
                    match no.help {
                        Some(help) => note.help(help),
                        None => note,
                    }
                })?,
        };
        cell.bit = bit.or(cell.bit);
        if cell.kind == TypeWord::Bool && cell.bit.is_none() {
            notes.push(
                self.warning(
                    row,
                    Column::Type,
                    "a register has 16 bits, and the row names none: carried over as uint16",
                )
                .help("name the bit, as in 100.3 or in a column 'bit'"),
            );
            cell.kind = TypeWord::Uint16;
        }
        Ok(cell)
    }

    fn bit(&self, row: &Row) -> Result<Option<u8>, Note> {
        let text = self.cell(row, Column::Bit);
        if numbers::is_nothing(text) {
            return Ok(None);
        }
        let digits = text.trim_start_matches(|c: char| c.is_alphabetic() || c == ' ');
        match digits.parse() {
            Ok(bit) if bit < 64 => Ok(Some(bit)),
            _ => Err(self
                .error(row, Column::Bit, format!("'{}' is no bit", shortened(text)))
                .help("0 is the least significant")),
        }
    }

    /// A coil or discrete input is a bool; what else its row says is not carried over.
    fn check_bit_type(&self, row: &Row, notes: &mut Notes) -> Option<TypeCell> {
        let text = self.cell(row, Column::Type);
        let is_bool = numbers::is_nothing(text)
            || types::kind(text, None).is_ok_and(|cell| cell.kind == TypeWord::Bool);
        if !is_bool {
            notes.push(self.warning(
                row,
                Column::Type,
                format!("a coil or discrete input is one bit: '{}' is not carried over", shortened(text)),
            ));
        }
        None
    }

    fn order(&self, row: &Row) -> Result<Option<Order>, Note> {
        let text = self.cell(row, Column::WordOrder);
        if numbers::is_nothing(text) {
            return Ok(None);
        }
        orders::order(text).map(Some).ok_or_else(|| {
            self.error(row, Column::WordOrder, format!("unknown order '{}'", shortened(text)))
                .help("the bytes as they come on the wire, A the most significant: ABCD, CDAB, BADC or DCBA")
        })
    }

    fn number(&self, row: &Row, column: Column) -> Result<Option<Decimal>, Note> {
        numbers::number(self.cell(row, column))
            .map_err(|NoNumber { message, help }| self.error(row, column, message).help(help))
    }

    /// Scale, offset and scale factor.
    fn arithmetic(&self, row: &Row, draft: &mut Draft, notes: &mut Notes) -> Result<(), Note> {
        let (number, from) = self.scale(row)?;
        let divisor = self.number(row, Column::Divisor)?;
        let quotient = match divisor.map(|divisor| (divisor, numbers::inverse(divisor))) {
            Some((divisor, None)) => {
                let message = format!("1 divided by {divisor} has no end in decimals");
                return Err(self.error(row, Column::Divisor, message).help("write a decimal scale instead"));
            }
            Some((_, inverse)) => inverse,
            None => None,
        };
        let scale = match (number, quotient) {
            (Some(a), Some(b)) => a.checked_mul(b),
            (a, b) => a.or(b),
        };
        if scale.is_some_and(Decimal::is_zero) {
            let column = if number.is_some() { Column::Scale } else { Column::Divisor };
            return Err(self.error(row, column, "a scale of 0 makes every value 0"));
        }
        let scale = scale.filter(|scale| *scale != Decimal::ONE);
        let offset = self.number(row, Column::Offset)?.filter(|offset| !offset.is_zero());
        if !draft.is_number() && (scale.is_some() || offset.is_some() || from.is_some()) {
            notes.push(self.warning(
                row,
                Column::Scale,
                "what is no number can't be scaled: scale and offset are not carried over",
            ));
            return Ok(());
        }
        (draft.scale, draft.offset, draft.scale_from) = (scale, offset, from);
        Ok(())
    }

    /// A number, the name of a point with the exponent (`sf:NAME`, or NAME alone), or both.
    fn scale(&self, row: &Row) -> Result<(Option<Decimal>, Option<String>), Note> {
        let text = self.cell(row, Column::Scale);
        let parse = |text| {
            numbers::number(text).map_err(|no| self.error(row, Column::Scale, no.message).help(no.help))
        };
        if let Some((number, name)) = text.split_once("sf:") {
            return Ok((parse(number)?, Some(name.trim().to_owned())));
        }
        match parse(text) {
            Err(_) if names::is_name(text) && text.starts_with(char::is_alphabetic) => {
                Ok((None, Some(text.to_owned())))
            }
            number => Ok((number?, None)),
        }
    }

    /// Raw values that mean "not available", and texts for numbers.
    fn labels(&self, row: &Row, draft: &mut Draft, notes: &mut Notes) {
        let text = self.cell(row, Column::Invalid);
        let has_none =
            |kind: &TypeCell| matches!(kind.kind, TypeWord::String | TypeWord::Mod10k | TypeWord::Datetime);
        if !numbers::is_nothing(text) && draft.kind.as_ref().is_some_and(|kind| !has_none(kind)) {
            match raws(text) {
                Some(raws) => draft.invalid = raws,
                None => notes.push(
                    self.warning(
                        row,
                        Column::Invalid,
                        format!("'{}' is no raw value: not carried over", shortened(text)),
                    )
                    .help("a number, or a bit pattern such as 0x7FFF; several with blanks between them"),
                ),
            }
        }
        let text = self.cell(row, Column::Enum);
        if !numbers::is_nothing(text) {
            match enumeration(text) {
                Some(labels) if draft.is_number() => draft.labels = labels,
                _ => notes.push(
                    self.warning(row, Column::Enum, format!("'{}' is not carried over", shortened(text)))
                        .help("numbers and their texts: 0=off; 1=on"),
                ),
            }
        }
    }

    /// Unit, description and rate.
    fn texts(&self, row: &Row, draft: &mut Draft) {
        let unit_text = self.cell(row, Column::Unit);
        draft.unit =
            (!numbers::is_nothing(unit_text)).then(|| unit(unit_text)).filter(|unit| !unit.is_empty());
        let desc = self.cell(row, Column::Description);
        let says_more = names::slug(desc) != names::slug(&draft.name) && !numbers::is_nothing(desc);
        let desc =
            if self.is_own { desc.to_owned() } else { desc.split_whitespace().collect::<Vec<_>>().join(" ") };
        draft.desc = (says_more && !desc.is_empty()).then_some(desc);
        let rate = self.cell(row, Column::Rate);
        draft.rate = names::is_name(rate).then(|| rate.to_owned());
    }

    fn access(&self, row: &Row, table: Table, notes: &mut Notes) -> Access {
        let text = self.cell(row, Column::Access);
        let known = match numbers::is_nothing(text) {
            true => function_access(&function_codes(self.cell(row, Column::Function))),
            false => access_of(text).unwrap_or_else(|| {
                let message = format!("'{}' is no access: the point can only be read", shortened(text));
                notes.push(self.warning(row, Column::Access, message).help("one of: r, rw, w"));
                Access::Read
            }),
        };
        if known != Access::Read && matches!(table, Table::Input | Table::Discrete) {
            let what = if table == Table::Input { "an input register" } else { "a discrete input" };
            let message = format!("{what} can only be read: access r");
            notes.push(self.warning(row, Column::Access, message));
            return Access::Read;
        }
        known
    }

    /// An OPC UA node.
    fn node(&self, row: &Row, spot: Spot, notes: &mut Notes) -> Result<Draft, Note> {
        let text = self.cell(row, Column::Type);
        let Some(kind) = types::of_node(text) else {
            let message = match text.ends_with("[]") {
                true => format!("{} is an array, and a point is one value", shortened(text)),
                false => format!("'{}' is no type of an OPC UA node", shortened(text)),
            };
            return Err(self
                .error(row, Column::Type, message)
                .help("such as Float, Int32, Boolean, String, DateTime"));
        };
        let mut draft = Draft::new(row.line, self.name(row, &spot), spot, Some(TypeCell::plain(kind)));
        self.texts(row, &mut draft);
        self.labels(row, &mut draft, notes);
        if access_of(self.cell(row, Column::Access)).is_some_and(|access| access != Access::Read) {
            notes.push(self.warning(row, Column::Access, "nodes are read only by this version: access r"));
        }
        for column in [Column::Scale, Column::Offset] {
            let number = numbers::number(self.cell(row, column)).ok().flatten();
            let number = number.filter(|number| !number.is_zero() && *number != Decimal::ONE);
            *(if column == Column::Scale { &mut draft.scale } else { &mut draft.offset }) = number;
        }
        Ok(draft)
    }

    /// The name that the row gives; not unique. A row without one is called by its place.
    fn name(&self, row: &Row, spot: &Spot) -> String {
        let (name, desc) = (self.cell(row, Column::Name), self.cell(row, Column::Description));
        if self.is_own && names::is_name(name) {
            return name.to_owned();
        }
        let given = [name, desc].map(names::slug).into_iter().find(|slug| !slug.is_empty());
        given.unwrap_or_else(|| match spot {
            Spot::Register(table, address) => format!("{}_{address}", table.key()),
            Spot::Node(node) => names::slug(node),
        })
    }
}
