//! Addresses as manuals print them: `40001`, `0x9C40`, `9C40h`, `4x0001`, `%MW100`, `3000-3001`, `99.3`, OPC UA node ids.

use crate::document::scalar::shortened;
use crate::model::place::Table;

/// What an address cell says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressCell {
    /// A number, whose meaning depends on the whole column.
    Number(Number),
    /// A register whose table and address are certain (`4x0001`, `%MW100`).
    Register {
        /// The table.
        table: Table,
        /// On the wire.
        address: u16,
        /// What else there is.
        rest: Rest,
    },
    /// An OPC UA node id.
    Node(String),
}

/// A number of an address column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// The number.
    pub value: u32,
    /// It's written with five or six digits and a leading zero: `00001`.
    pub is_padded: bool,
    /// What else there is.
    pub rest: Rest,
}

/// What a cell may say besides the first register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rest {
    /// How many registers: `3000-3001` has 2.
    pub count: Option<u16>,
    /// One bit: `99.3`.
    pub bit: Option<u8>,
}

/// What the numbers of a column count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counting {
    /// They go on the wire.
    FromZero,
    /// One less goes on the wire.
    FromOne,
    /// Paper notation: 40001 is the first holding register.
    Paper,
}

/// The first digit is the table, the rest counts from 1 (Modicon PI-MBUS-300).
const PAPER: [(std::ops::RangeInclusive<u32>, Table, u32); 6] = [
    (10_001..=19_999, Table::Discrete, 10_001),
    (30_001..=39_999, Table::Input, 30_001),
    (40_001..=49_999, Table::Holding, 40_001),
    (100_001..=165_536, Table::Discrete, 100_001),
    (300_001..=365_536, Table::Input, 300_001),
    (400_001..=465_536, Table::Holding, 400_001),
];

/// The table and the address on the wire of a paper reference; not of coils, which look like any number.
pub fn paper(value: u32) -> Option<(Table, u16)> {
    let (_, table, first) = PAPER.iter().find(|(range, ..)| range.contains(&value))?;
    Some((*table, u16::try_from(value - first).ok()?))
}

/// Reads a cell. `hex`: digits without a mark are hexadecimal.
pub fn read(text: &str, hex: bool) -> Result<AddressCell, String> {
    let text = text.trim();
    if is_node(text) {
        return Ok(AddressCell::Node(text.to_owned()));
    }
    let fail = || format!("'{}' is no address", shortened(text));
    let (first, last) = range(text);
    let (first, bit) = bit(first).ok_or_else(fail)?;
    if let Some((table, address)) = register(first) {
        let count = match last {
            None => None,
            Some(last) => {
                let (_, last) = register(last).ok_or_else(fail)?;
                Some(count(u32::from(address), u32::from(last)).ok_or_else(fail)?)
            }
        };
        return Ok(AddressCell::Register { table, address, rest: Rest { count, bit } });
    }
    let value = number(first, hex).ok_or_else(fail)?;
    let count = match last {
        None => None,
        Some(last) => Some(count(value, number(last, hex).ok_or_else(fail)?).ok_or_else(fail)?),
    };
    let is_padded =
        first.starts_with('0') && matches!(first.len(), 5 | 6) && first.bytes().all(|b| b.is_ascii_digit());
    Ok(AddressCell::Number(Number { value, is_padded, rest: Rest { count, bit } }))
}

/// Would the digits of this cell be a hexadecimal number only? Then those of the whole column are.
pub fn is_bare_hex(text: &str) -> bool {
    let (first, _) = range(text.trim());
    let is_hex = |text: &str| (2..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    is_hex(first)
        && first.bytes().any(|b| b.is_ascii_alphabetic())
        && first.bytes().any(|b| b.is_ascii_digit())
}

/// OPC UA part 6, 5.3.1.10: the text form of a node id.
fn is_node(text: &str) -> bool {
    let (space, id) = match text.split_once(';') {
        Some((space, id)) => (space, id),
        None => ("ns=0", text),
    };
    let is_space = space.strip_prefix("ns=").is_some_and(|n| n.parse::<u16>().is_ok())
        || space.strip_prefix("nsu=").is_some_and(|uri| !uri.is_empty());
    let is_id = match id.split_once('=') {
        Some(("i", number)) => number.parse::<u32>().is_ok(),
        Some(("s" | "g" | "b", text)) => !text.is_empty(),
        _ => false,
    };
    is_space && is_id
}

/// `3000-3001`, `3000 … 3001`, `3000 to 3001`, `3000/3001`: first and last.
fn range(text: &str) -> (&str, Option<&str>) {
    for separator in ["...", "..", "…", "–", "—", " to ", " bis ", "-", "/", "~"] {
        if let Some((first, last)) = text.split_once(separator) {
            return (first.trim(), Some(last.trim()));
        }
    }
    (text, None)
}

/// `99.3` and `99:3` are a register and a bit.
fn bit(text: &str) -> Option<(&str, Option<u8>)> {
    let Some((register, bit)) =
        text.split_once(['.', ':']).filter(|(before, _)| !before.ends_with(['x', 'X']))
    else {
        return Some((text, None));
    };
    let is_short = matches!(bit.len(), 1 | 2) && bit.bytes().all(|b| b.is_ascii_digit());
    bit.parse().ok().filter(|bit| is_short && *bit < 64).map(|bit| (register.trim(), Some(bit)))
}

/// `4x0001` counts from 1; `%MW100` goes on the wire (Schneider); both name their table.
fn register(text: &str) -> Option<(Table, u16)> {
    let lower = text.to_ascii_lowercase();
    let digits = |text: &str| text.trim().parse::<u16>().ok();
    if let Some(rest) = lower.strip_prefix("%mw") {
        return Some((Table::Holding, digits(rest)?));
    }
    if let Some(rest) = lower.strip_prefix("%m") {
        return Some((Table::Coil, digits(rest)?));
    }
    let tables = [("0x", Table::Coil), ("1x", Table::Discrete), ("3x", Table::Input), ("4x", Table::Holding)];
    // 0x0001 is a hexadecimal number to everybody else.
    let (_, table) = tables[1..].iter().find(|(mark, _)| lower.starts_with(mark))?;
    Some((*table, digits(lower.get(2..)?.trim_start_matches([':', '.']))?.checked_sub(1)?))
}

fn number(text: &str, hex: bool) -> Option<u32> {
    let digits: String = text.chars().filter(|c| !matches!(c, ' ' | '\'' | '_')).collect();
    let lower = digits.to_ascii_lowercase();
    let marked = lower
        .strip_prefix("0x")
        .or_else(|| lower.strip_prefix("16#"))
        .or_else(|| lower.strip_prefix('$'))
        .or_else(|| lower.strip_suffix('h'));
    let radix =
        |digits: &str, radix| u32::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with('+'));
    match marked {
        Some(digits) => radix(digits, 16),
        None if hex => radix(&lower, 16),
        // Spreadsheets write 40001.0 now and then; that was cut as a bit, and 40001 stays.
        None => radix(&lower, 10),
    }
}

fn count(first: u32, last: u32) -> Option<u16> {
    // 3000/01 and 40001-2 name the last digits only.
    let last = if last < first { shortened_last(first, last)? } else { last };
    u16::try_from(last - first + 1).ok().filter(|count| *count <= 125)
}

fn shortened_last(first: u32, last: u32) -> Option<u32> {
    let size = 10u32.checked_pow(last.checked_ilog10().unwrap_or(0) + 1)?;
    let full = first - first % size + last;
    (full >= first).then_some(full)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(text: &str, hex: bool) -> (u32, Option<u16>, Option<u8>) {
        match read(text, hex) {
            Ok(AddressCell::Number(n)) => (n.value, n.rest.count, n.rest.bit),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn numbers_come_in_many_notations() {
        for text in ["40000", "0x9C40", "9C40h", "9c40H", "16#9C40", "$9C40", "40 000"] {
            assert_eq!(plain(text, false), (40_000, None, None), "{text}");
        }
        assert_eq!(plain("1000", true).0, 0x1000);
        for text in
            ["3000-3001", "3000 – 3001", "3000..3001", "3000/3001", "3000 to 3001", "3000/01", "3000-1"]
        {
            assert_eq!(plain(text, false), (3000, Some(2), None), "{text}");
        }
        assert_eq!(plain("0x100-0x103", false), (256, Some(4), None));
        assert_eq!(plain("99.3", false), (99, None, Some(3)));
        assert_eq!(plain("99:15", false), (99, None, Some(15)));
    }

    #[test]
    fn some_notations_name_their_table() {
        let at = |table, address| AddressCell::Register { table, address, rest: Rest::default() };
        assert_eq!(read("4x0001", false), Ok(at(Table::Holding, 0)));
        assert_eq!(read("3x00010", false), Ok(at(Table::Input, 9)));
        assert_eq!(read("%MW100", false), Ok(at(Table::Holding, 100)));
        assert_eq!(paper(40_001), Some((Table::Holding, 0)));
        assert_eq!(paper(365_536), Some((Table::Input, 65_535)));
        assert_eq!(paper(30_000), None);
    }

    #[test]
    fn node_ids_are_kept_as_they_are() {
        for text in [
            "i=2258",
            "ns=4;s=|var|PLC.Application.x",
            "nsu=http://a;s=\"Line1\".\"Speed\"",
            "ns=2;g=09087e75",
        ] {
            assert_eq!(read(text, false), Ok(AddressCell::Node(text.into())), "{text}");
        }
        for text in ["i=x", "ns=a;i=1", "nsu=;i=1", "s="] {
            assert!(read(text, false).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "abc", "-1", "99.999", "1.2.3", "3001-2999999", "0x", "4x0", "1,2", "3000-3999"] {
            assert!(read(text, false).is_err(), "{text}");
        }
        assert!(is_bare_hex("9C4A") && is_bare_hex("1F-20"));
        assert!(!is_bare_hex("1000") && !is_bare_hex("abc") && !is_bare_hex("0x9C"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>(), near in "[0-9a-fxhX.:/%$#MW-]{0,12}", hex in any::<bool>()) {
            let _ = (read(&text, hex), read(&near, hex), is_bare_hex(&near));
        }
    }
}
