//! Types as vendors name them: `UDINT`, `S32`, `INT16U`, `unsigned long`, `STRING(10)`, `Float32 (CDAB)`.

use crate::document::scalar::shortened;
use crate::document::suggest::nearest;
use crate::mapping::compiled::Order;
use crate::mapping::written::{ByteWord, CharsWord, ClockWord, TypeWord, ZoneWord};

use super::orders::order_word;
use super::type_names::{FILLERS, Family, NAMES};

/// What a cell says about a type.
#[derive(Clone, Debug, PartialEq)]
pub struct TypeCell {
    /// The type.
    pub kind: TypeWord,
    /// Registers of a string or a mod10k.
    pub length: Option<u16>,
    /// The byte order, where the cell says it.
    pub order: Option<Order>,
    /// One bit.
    pub bit: Option<u8>,
    /// Some bits.
    pub mask: Option<u64>,
    /// Half of a register.
    pub byte: Option<ByteWord>,
    /// Which bytes carry text.
    pub chars: Option<CharsWord>,
    /// Layout of a datetime.
    pub format: Option<ClockWord>,
    /// Zone of a datetime.
    pub zone: Option<ZoneWord>,
}

impl TypeCell {
    /// Nothing but a type.
    pub fn plain(kind: TypeWord) -> Self {
        Self {
            kind,
            length: None,
            order: None,
            bit: None,
            mask: None,
            byte: None,
            chars: None,
            format: None,
            zone: None,
        }
    }

    /// How many registers it takes; `None` for a string without a length.
    pub fn registers(&self) -> Option<u16> {
        match (self.kind, self.format) {
            (TypeWord::String | TypeWord::Mod10k, _) => self.length,
            (TypeWord::Datetime, Some(ClockWord::UnixMs | ClockWord::Iec870)) => Some(4),
            (TypeWord::Datetime, Some(ClockWord::Packed)) => Some(3),
            (TypeWord::Datetime, Some(ClockWord::Fields)) => Some(6),
            _ => self.kind.kind().registers(),
        }
    }
}

/// Why a text is no type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoType {
    /// What is wrong with it.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

/// The type of an OPC UA node, by the name of its built-in type (OPC UA part 6, 5.1.2) or as any other.
pub fn of_node(text: &str) -> Option<TypeWord> {
    Some(match text.to_ascii_lowercase().as_str() {
        "boolean" | "bool" => TypeWord::Bool,
        "sbyte" => TypeWord::Int8,
        "byte" => TypeWord::Uint8,
        "float" => TypeWord::Float32,
        "double" => TypeWord::Float64,
        "string" | "localizedtext" => TypeWord::String,
        "datetime" | "utctime" => TypeWord::Datetime,
        _ => kind(text, None).ok()?.kind,
    })
}

/// Reads a type. `count`: the registers that it takes, where the row says so; a name without a size takes it from there.
pub fn kind(text: &str, count: Option<u16>) -> Result<TypeCell, NoType> {
    let mut cell = match own(text) {
        Some(cell) => cell,
        None => foreign(text, count)?,
    };
    if matches!(cell.kind, TypeWord::String | TypeWord::Mod10k) {
        cell.length = count.or(cell.length);
        if cell.length.is_none() {
            return Err(NoType {
                message: format!("a {} without a length", cell.kind.word()),
                help: Some("a column with the number of registers, or a type such as string(16)".into()),
            });
        }
    }
    match (cell.registers(), count) {
        (Some(needs), Some(count)) if needs != count => Err(NoType {
            message: format!("{} takes {needs} registers, and the row has {count}", cell.kind.word()),
            help: Some("correct the type or the count".into()),
        }),
        _ => Ok(cell),
    }
}

/// A type as [`super::export`] writes it: a word of the mapping language, and what else belongs to the type.
fn own(text: &str) -> Option<TypeCell> {
    let mut words = text.split_ascii_whitespace();
    let first = words.next()?;
    let mut cell = TypeCell::plain(word_of(first, TypeWord::WORDS)?);
    while let Some(word) = words.next() {
        match word {
            "bit" => cell.bit = Some(words.next()?.parse().ok().filter(|bit| *bit < 64)?),
            "mask" => {
                cell.mask = Some(
                    u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16)
                        .ok()
                        .filter(|mask| *mask > 0)?,
                );
            }
            _ if cell.kind == TypeWord::String => cell.chars = Some(word_of(word, CharsWord::WORDS)?),
            _ if cell.kind == TypeWord::Datetime => match word_of(word, ZoneWord::WORDS) {
                Some(zone) => cell.zone = Some(zone),
                None => cell.format = Some(word_of(word, ClockWord::WORDS)?),
            },
            _ => cell.byte = Some(word_of(word, ByteWord::WORDS)?),
        }
    }
    Some(cell)
}

fn word_of<T: Copy>(text: &str, words: &[(&str, T)]) -> Option<T> {
    words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value)
}

/// What was understood of a foreign name so far.
#[derive(Clone, Copy, Debug, Default)]
struct Gathered {
    family: Option<Family>,
    signed: Option<bool>,
    bits: Option<u32>,
    /// Characters of a text: a number that is no size.
    number: Option<u32>,
    order: Option<Order>,
}

fn foreign(text: &str, count: Option<u16>) -> Result<TypeCell, NoType> {
    let lower = text.to_lowercase();
    let tokens = tokens(&lower);
    let mut all = Gathered::default();
    for (at, token) in tokens.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|at| tokens.get(at)).copied().unwrap_or("");
        all.take(token, before).ok_or_else(|| unknown(text, token))?;
    }
    let kind = all.kind(count).ok_or_else(|| unknown(text, ""))?;
    let length = match (kind, all.number.or(all.bits)) {
        // STRING(10) has 10 characters, two in a register.
        (TypeWord::String, Some(characters)) => u16::try_from(characters.div_ceil(2)).ok(),
        _ => None,
    };
    Ok(TypeCell { length, order: all.order, ..TypeCell::plain(kind) })
}

/// Runs of letters and runs of digits.
pub fn tokens(text: &str) -> Vec<&str> {
    text.split(|c: char| !c.is_alphanumeric())
        .flat_map(|word| {
            let mut parts = Vec::new();
            let mut rest = word;
            while let Some(first) = rest.chars().next() {
                let end =
                    rest.find(|c: char| c.is_ascii_digit() != first.is_ascii_digit()).unwrap_or(rest.len());
                parts.push(&rest[..end]);
                rest = &rest[end..];
            }
            parts
        })
        .collect()
}

impl Gathered {
    /// Takes a word in. `None`: it isn't known.
    fn take(&mut self, token: &str, before: &str) -> Option<()> {
        let after_number = before.parse::<u32>().ok();
        match (token, after_number) {
            ("bit" | "bits", Some(bits)) => return self.size(bits),
            ("byte" | "bytes", Some(bytes)) => return self.size(bytes.checked_mul(8)?),
            ("word" | "words" | "register" | "registers" | "reg", Some(words)) => {
                return self.size(words.checked_mul(16)?);
            }
            _ => {}
        }
        if let Some(order) = order_word(token) {
            self.order = Some(order);
            return Some(());
        }
        if let Ok(number) = token.parse::<u32>() {
            return match (number, before) {
                (754, "ieee") => Some(()),
                (8 | 16 | 32 | 64, _) => self.size(number),
                _ => self.number.replace(number).is_none().then_some(()),
            };
        }
        if FILLERS.contains(&token) || token == "bytes" {
            return Some(());
        }
        let (_, family, signed, bits) = NAMES.iter().find(|(name, ..)| *name == token)?;
        // `unsigned int`, `bit field`, `32-bit float`: the more special family wins.
        if self.family.is_none_or(|known| matches!(known, Family::Integer | Family::Bool)) {
            self.family = Some(*family);
        }
        self.signed = match (self.signed, *signed) {
            (Some(false), _) => Some(false),
            (known, said) => said.or(known),
        };
        match (self.bits, bits) {
            (None, Some(_)) => self.bits = *bits,
            // `long long`
            (Some(32), None) if token == "long" && before == "long" => self.bits = Some(64),
            _ => {}
        }
        if token == "long" && self.bits.is_none() && before == "long" {
            self.bits = Some(64);
        }
        Some(())
    }

    /// A size in bits; a second number must say the same.
    fn size(&mut self, bits: u32) -> Option<()> {
        let known =
            self.number.take_if(|number| *number == bits || *number * 8 == bits || *number * 16 == bits);
        self.bits = match (self.bits, known) {
            (None, _) => Some(bits),
            (Some(earlier), _) if earlier == bits || earlier * 8 == bits || earlier * 16 == bits => {
                Some(bits)
            }
            _ => return None,
        };
        Some(())
    }

    fn kind(self, count: Option<u16>) -> Option<TypeWord> {
        // A size alone (`16 bit`) is a number without a sign.
        let family = self.family.or(self.bits.map(|_| Family::Integer))?;
        let counted = count.map(|count| u32::from(count) * 16);
        let bits = self.bits.or(counted);
        if self.number.is_some() && family != Family::Text {
            return None;
        }
        match family {
            Family::Integer => {
                let signed = self.signed.unwrap_or(self.family.is_some());
                Some(match (signed, bits.unwrap_or(16)) {
                    (true, 8) => TypeWord::Int8,
                    (true, 16) => TypeWord::Int16,
                    (true, 32) => TypeWord::Int32,
                    (true, 64) => TypeWord::Int64,
                    (false, 8) => TypeWord::Uint8,
                    (false, 16) => TypeWord::Uint16,
                    (false, 32) => TypeWord::Uint32,
                    (false, 64) => TypeWord::Uint64,
                    _ => return None,
                })
            }
            Family::Float => match bits.unwrap_or(32) {
                16 => Some(TypeWord::Float16),
                32 => Some(TypeWord::Float32),
                64 => Some(TypeWord::Float64),
                _ => None,
            },
            Family::Bcd => match bits.unwrap_or(16) {
                16 => Some(TypeWord::Bcd16),
                32 => Some(TypeWord::Bcd32),
                _ => None,
            },
            Family::Text => Some(TypeWord::String),
            Family::Bool => Some(TypeWord::Bool),
            // Seconds since 1970 take two registers; other layouts must be named.
            Family::Time => (bits.unwrap_or(32) == 32).then_some(TypeWord::Datetime),
        }
    }
}

fn unknown(text: &str, token: &str) -> NoType {
    let known = NAMES.iter().map(|(name, ..)| *name).chain(TypeWord::WORDS.iter().map(|(word, _)| *word));
    let near = nearest(if token.is_empty() { text } else { token }, known);
    NoType {
        message: format!(
            "unknown type '{}'{}",
            shortened(text),
            near.map_or(String::new(), |near| format!(": did you mean '{near}'?"))
        ),
        help: Some(format!(
            "one of: {}",
            TypeWord::WORDS.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn word(text: &str, count: Option<u16>) -> &'static str {
        kind(text, count).unwrap_or_else(|error| panic!("{text}: {error:?}")).kind.word()
    }

    #[test]
    fn vendors_names_are_known() {
        let names = [
            ("INT", "int16"),
            ("DINT", "int32"),
            ("REAL", "float32"),
            ("UDINT", "uint32"),
            ("UINT", "uint16"),
            ("WORD", "uint16"),
            ("DWORD", "uint32"),
            ("LREAL", "float64"),
            ("FLOAT", "float32"),
            ("Float32", "float32"),
            ("U32", "uint32"),
            ("S16", "int16"),
            ("s32", "int32"),
            ("I64", "int64"),
            ("INT16U", "uint16"),
            ("INT32U", "uint32"),
            ("INT64", "int64"),
            ("unsigned long", "uint32"),
            ("unsigned short", "uint16"),
            ("unsigned int", "uint16"),
            ("uint16_t", "uint16"),
            ("32 bit signed", "int32"),
            ("32-bit signed", "int32"),
            ("16 bit unsigned integer", "uint16"),
            ("signed 64-bit", "int64"),
            ("Unsigned32", "uint32"),
            ("BOOL", "bool"),
            ("IEEE754", "float32"),
            ("IEEE 754 float", "float32"),
            ("64-bit float", "float64"),
            ("double", "float64"),
            ("double precision", "float64"),
            ("long long", "int64"),
            ("unsigned long long", "uint64"),
            ("4 bytes unsigned", "uint32"),
            ("UInt(32)", "uint32"),
            ("acc32", "uint32"),
            ("enum16", "uint16"),
            ("bitfield32", "uint32"),
            ("sunssf", "int16"),
            ("BCD", "bcd16"),
            ("16 bit", "uint16"),
            ("USINT", "uint8"),
            ("Timestamp", "datetime"),
            ("2 words float", "float32"),
            ("short", "int16"),
            ("bit field 16", "uint16"),
            ("floating point", "float32"),
            ("16 Bit Ganzzahl", "int16"),
        ]; // as found in manuals
        for (text, expected) in names {
            let count = match expected {
                "int32" | "uint32" | "float32" | "datetime" => Some(2),
                "int64" | "uint64" | "float64" => Some(4),
                "bool" => None,
                _ => Some(1),
            };
            assert_eq!(word(text, count), expected, "{text}");
        }
    }

    #[test]
    fn a_name_without_a_size_takes_it_from_the_count_and_others_do_not() {
        assert_eq!(word("INT", Some(2)), "int32");
        assert_eq!(word("unsigned", Some(4)), "uint64");
        assert_eq!(word("long", None), "int16", "a count or a size must make it long");
        assert!(kind("UDINT", Some(1)).unwrap_err().message.contains("takes 2 registers, and the row has 1"));
        assert!(kind("int16", Some(2)).is_err());
        assert!(kind("float", Some(3)).is_err());
    }

    #[test]
    fn texts_have_a_length_in_registers() {
        assert_eq!(kind("STRING(10)", None).unwrap().length, Some(5));
        assert_eq!(kind("STR32", None).unwrap().length, Some(16));
        assert_eq!(kind("ASCII", Some(8)).unwrap().length, Some(8));
        assert_eq!(kind("char[7]", Some(4)).unwrap().length, Some(4));
        assert!(kind("string", None).is_err());
    }

    #[test]
    fn a_type_may_say_its_order() {
        assert_eq!(kind("Float32 (CDAB)", None).unwrap().order, Some(Order::Cdab));
    }

    #[test]
    fn what_is_unknown_is_named_with_what_is_near() {
        assert_eq!(kind("flaot", None).unwrap_err().message, "unknown type 'flaot': did you mean 'float'?");
        for text in ["", "?", "int17", "U16.2", "uint128", "float 8", "int high", "99999999999"] {
            assert!(kind(text, None).is_err(), "{text}");
        }
    }

    #[test]
    fn our_own_words_say_all_that_belongs_to_a_type() {
        let cell = kind("datetime iec870 utc", Some(4)).unwrap();
        assert_eq!((cell.format, cell.zone), (Some(ClockWord::Iec870), Some(ZoneWord::Utc)));
        assert_eq!(kind("uint32 mask 0xF0", Some(2)).unwrap().mask, Some(0xF0));
        assert_eq!(kind("int8 high", Some(1)).unwrap().byte, Some(ByteWord::High));
        assert_eq!(kind("string low", Some(3)).unwrap().chars, Some(CharsWord::Low));
        assert_eq!(kind("uint16 bit 3", None).unwrap().bit, Some(3));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>(), near in "[a-zA-Z0-9 ()-]{0,16}", count in any::<Option<u16>>()) {
            let _ = (kind(&text, count), kind(&near, count));
        }
    }
}
