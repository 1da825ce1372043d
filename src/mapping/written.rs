//! The words of the mapping language that are neither plain numbers nor plain texts.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::compiled::{Byte, Chars, Clock, ClockFormat, Deadband, Kind, Order};
use super::write::Function;
use crate::document::codes;
use crate::document::fields::choice;
use crate::document::read::{At, Read, Reader};
use crate::document::scalar::{Meaning, meaning, shortened};
use crate::document::schema::Schemas;
use crate::document::types::{MAX_NAME, Number, Text};
use crate::document::yaml::{Kind as NodeKind, Node};
use crate::model::decimal::Decimal;
use crate::model::diagnostic::Span;

choice! {
    /// What the registers hold.
    pub enum TypeWord ("a type") {
        Bool = "bool",
        Int8 = "int8",
        Int16 = "int16",
        Int32 = "int32",
        Int64 = "int64",
        Uint8 = "uint8",
        Uint16 = "uint16",
        Uint32 = "uint32",
        Uint64 = "uint64",
        Float16 = "float16",
        Float32 = "float32",
        Float64 = "float64",
        String = "string",
        Bcd16 = "bcd16",
        Bcd32 = "bcd32",
        Mod10k = "mod10k",
        Datetime = "datetime",
    }
    instead_of: [
        ("boolean", "bool"), ("float", "float32"), ("real", "float32"), ("single", "float32"), ("double", "float64"),
        ("lreal", "float64"), ("f32", "float32"), ("f64", "float64"), ("half", "float16"),
        ("u8", "uint8"), ("u16", "uint16"), ("u32", "uint32"), ("u64", "uint64"), ("word", "uint16"),
        ("dword", "uint32"), ("lword", "uint64"), ("byte", "uint8"), ("uint", "uint16"), ("unsigned", "uint16"),
        ("i8", "int8"), ("s8", "int8"), ("i16", "int16"), ("s16", "int16"), ("i32", "int32"), ("s32", "int32"),
        ("i64", "int64"), ("s64", "int64"), ("int", "int16"), ("dint", "int32"), ("lint", "int64"),
        ("signed", "int16"), ("bcd4", "bcd16"), ("date", "datetime"), ("timestamp", "datetime"), ("time", "datetime"), ("text", "string"), ("str", "string"), ("ascii", "string"), ("bcd", "bcd16")
    ]
}

impl TypeWord {
    /// The compiled type; of a datetime, the one of Unix seconds.
    pub fn kind(self) -> Kind {
        match self {
            Self::Bool => Kind::Bool,
            Self::Int8 => Kind::Int8,
            Self::Int16 => Kind::Int16,
            Self::Int32 => Kind::Int32,
            Self::Int64 => Kind::Int64,
            Self::Uint8 => Kind::Uint8,
            Self::Uint16 => Kind::Uint16,
            Self::Uint32 => Kind::Uint32,
            Self::Uint64 => Kind::Uint64,
            Self::Float16 => Kind::Float16,
            Self::Float32 => Kind::Float32,
            Self::Float64 => Kind::Float64,
            Self::String => Kind::String,
            Self::Bcd16 => Kind::Bcd16,
            Self::Bcd32 => Kind::Bcd32,
            Self::Mod10k => Kind::Mod10k,
            Self::Datetime => Kind::Datetime(Clock { format: ClockFormat::Unix, utc: true }),
        }
    }

    /// How many registers a datetime of this layout takes.
    pub fn datetime_registers(layout: Option<ClockWord>) -> u16 {
        let format = layout.map_or(ClockFormat::Unix, ClockWord::format);
        Clock { format, utc: true }.registers()
    }

    /// Bits of an integer type; `None` for all others.
    pub fn integer_bits(self) -> Option<u32> {
        match self {
            Self::Int8 | Self::Uint8 => Some(8),
            Self::Int16 | Self::Uint16 => Some(16),
            Self::Int32 | Self::Uint32 => Some(32),
            Self::Int64 | Self::Uint64 => Some(64),
            _ => None,
        }
    }
}

choice! {
    /// The bytes as they come on the wire, A the most significant. The rule of the four letters holds for 64 bits too; the
    /// two letters are for 16 bits.
    pub enum OrderWord ("an order") {
        Abcd = "ABCD",
        Cdab = "CDAB",
        Badc = "BADC",
        Dcba = "DCBA",
        Abcdefgh = "ABCDEFGH",
        Ghefcdab = "GHEFCDAB",
        Badcfehg = "BADCFEHG",
        Hgfedcba = "HGFEDCBA",
        Ab = "AB",
        Ba = "BA",
    }
    instead_of: [
        ("big", "ABCD"), ("big-endian", "ABCD"), ("big_endian", "ABCD"), ("be", "ABCD"), ("little", "DCBA"),
        ("little-endian", "DCBA"), ("little_endian", "DCBA"), ("le", "DCBA"), ("swap", "CDAB"), ("swapped", "CDAB"),
        ("word-swap", "CDAB"), ("word_swap", "CDAB"), ("byte-swap", "BADC"), ("byte_swap", "BADC"),
        ("cdabghef", "GHEFCDAB")
    ]
}

impl OrderWord {
    /// The compiled order.
    pub fn order(self) -> Order {
        match self {
            Self::Abcd | Self::Abcdefgh | Self::Ab => Order::Abcd,
            Self::Cdab | Self::Ghefcdab => Order::Cdab,
            Self::Badc | Self::Badcfehg | Self::Ba => Order::Badc,
            Self::Dcba | Self::Hgfedcba => Order::Dcba,
        }
    }

    /// How many letters: the two-letter words are for one register, the eight-letter ones for four.
    pub fn letters(self) -> usize {
        self.word().len()
    }
}

choice! {
    /// How a device writes a date and a time.
    pub enum ClockWord ("a date format") {
        /// Seconds since 1970: two registers.
        Unix = "unix",
        /// Milliseconds since 1970: four registers.
        UnixMs = "unix_ms",
        /// IEC 60870-5-4: four registers (Schneider PM5xxx).
        Iec870 = "iec870",
        /// Year since 2000 and month, day and hour, minute and second: a byte each, three registers (Deye).
        Packed = "packed",
        /// Year, month, day, hour, minute, second: six registers.
        Fields = "fields",
    }
    instead_of: [
        ("epoch", "unix"), ("utc", "unix"), ("sma", "unix"), ("seconds", "unix"), ("millis", "unix_ms"), ("pm5xxx", "iec870"),
        ("schneider", "iec870"), ("iec60870", "iec870"), ("deye", "packed")
    ]
}

impl ClockWord {
    /// The compiled layout.
    pub fn format(self) -> ClockFormat {
        match self {
            Self::Unix => ClockFormat::Unix,
            Self::UnixMs => ClockFormat::UnixMs,
            Self::Iec870 => ClockFormat::Iec870,
            Self::Packed => ClockFormat::Packed,
            Self::Fields => ClockFormat::Fields,
        }
    }
}

choice! {
    /// Where a device's clock is.
    pub enum ZoneWord ("a zone") {
        /// Its values end in Z.
        Utc = "utc",
        /// Local time, published without an offset.
        Local = "local",
    }
    instead_of: [("gmt", "utc"), ("z", "utc")]
}

choice! {
    /// Which half of a register holds the value.
    pub enum ByteWord ("a byte") {
        High = "high",
        Low = "low",
    }
}

impl ByteWord {
    /// The compiled half.
    pub fn byte(self) -> Byte {
        match self {
            Self::High => Byte::High,
            Self::Low => Byte::Low,
        }
    }
}

choice! {
    /// Which bytes of each register carry text.
    pub enum CharsWord ("a choice of characters") {
        Both = "both",
        High = "high",
        Low = "low",
    }
}

impl CharsWord {
    /// The compiled choice.
    pub fn chars(self) -> Chars {
        match self {
            Self::Both => Chars::Both,
            Self::High => Chars::High,
            Self::Low => Chars::Low,
        }
    }
}

choice! {
    /// May it be read, written, or both?
    pub enum Access ("an access") {
        Read = "r",
        ReadWrite = "rw",
        Write = "w",
    }
    instead_of: [("ro", "r"), ("read", "r"), ("wo", "w"), ("write", "w"), ("readwrite", "rw")]
}

/// A function code that writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionWord(pub Function);

impl Read for FunctionWord {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        let number = crate::document::types::whole_number(node, to)?;
        let function = u8::try_from(number).ok().and_then(Function::of);
        if function.is_none() {
            let codes = Function::ALL.map(|function| format!("{} ({function})", function.code())).join(", ");
            to.error(codes::WRITE_FUNCTION, node, format!("function code {number} writes nothing"))
                .help(format!("one of: {codes}"));
        }
        function.map(Self)
    }

    fn schema(_: &mut Schemas) -> Value {
        json!({ "enum": Function::ALL.map(Function::code) })
    }
}

/// The smallest and the largest value: `6..16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeWord(pub Decimal, pub Decimal);

impl Read for RangeWord {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        const EXAMPLES: &str = "such as 6..16 or -20..55.5";
        let (Meaning::Bare(text) | Meaning::Quoted(text)) = meaning(node) else {
            to.expected(node, "a range").help(EXAMPLES);
            return None;
        };
        let number = |text: &str| text.trim().parse::<Decimal>().ok();
        let ends = text.split_once("..").and_then(|(low, high)| Some((number(low)?, number(high)?)));
        match ends {
            Some((low, high)) if low <= high => return Some(Self(low, high)),
            Some((low, high)) => to
                .error(codes::WRITE_RANGE, node, format!("the range from {low} to {high} is empty"))
                .help(format!("write the smaller number first: {high}..{low}")),
            None => to
                .error(codes::WRITE_RANGE, node, format!("'{}' is no range", shortened(text)))
                .help(EXAMPLES),
        };
        None
    }

    fn schema(_: &mut Schemas) -> Value {
        let pattern = r"^ *[-+]?[0-9]*\.?[0-9]+ *\.\. *[-+]?[0-9]*\.?[0-9]+ *$";
        json!({ "type": "string", "pattern": pattern, "examples": ["6..16", "-20..55.5"] })
    }
}

/// A raw value as it is written: a bit pattern, or a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawNumber {
    /// Hexadecimal: a bit pattern.
    Pattern(u64),
    /// Decimal: the number itself.
    Number(Decimal),
}

impl Read for RawNumber {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        if let Meaning::Integer(text) = meaning(node)
            && let Some(hex) = text.strip_prefix("0x")
            && let Ok(pattern) = u64::from_str_radix(hex, 16)
        {
            return Some(Self::Pattern(pattern));
        }
        Number::read(node, to).map(|number| Self::Number(number.0))
    }

    fn schema(_: &mut Schemas) -> Value {
        json!({ "type": "number" })
    }
}

/// Raw values that mean "not available". Empty: none do (`none`).
#[derive(Clone, Debug, PartialEq)]
pub struct InvalidWords(pub Vec<At<RawNumber>>);

impl Read for InvalidWords {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        match (&node.kind, meaning(node)) {
            (NodeKind::Sequence(items), _) => {
                Some(Self(items.iter().filter_map(|item| to.at(item)).collect()))
            }
            (_, Meaning::Bare("none")) => Some(Self(Vec::new())),
            (_, Meaning::Bare(text)) => {
                to.expected(node, "a raw number, a list of them, or none")
                    .help(format!("'{}' is none of them; a bit pattern is written 0x7FFF", shortened(text)));
                None
            }
            _ => to.at(node).map(|one| Self(vec![one])),
        }
    }

    fn schema(schemas: &mut Schemas) -> Value {
        let number = RawNumber::schema(schemas);
        json!({ "anyOf": [number, { "type": "array", "items": number }, { "const": "none" }] })
    }
}

/// Texts for numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Labels(pub BTreeMap<i64, String>);

/// Longest label, in characters.
const MAX_LABEL: usize = 4 * MAX_NAME;

impl Read for Labels {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        let entries = to.entries(node, "numbers and their texts")?;
        let mut labels = BTreeMap::new();
        for entry in entries {
            let label = label(entry.value, to);
            let Some(number) = parse_key(entry.key) else {
                to.error(codes::BAD_KEY, entry.at, format!("'{}' is no whole number", shortened(entry.key)))
                    .help("write the raw number in front: {1: 'off', 2: sleeping}");
                continue;
            };
            if let Some(Text(label)) = label
                && labels.insert(number, label).is_some()
            {
                to.error(codes::DUPLICATE_VALUE, entry.at, format!("the number {number} has a text already"));
            }
        }
        Some(Self(labels))
    }

    fn schema(_: &mut Schemas) -> Value {
        json!({
            "type": "object",
            "propertyNames": { "pattern": "^(-?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+)$" },
            "additionalProperties": { "type": "string" },
            "examples": [{ "1": "off", "2": "sleeping" }],
        })
    }
}

fn label(node: &Node, to: &mut Reader<'_>) -> Option<Text> {
    let text = Text::read(node, to)?;
    if text.0.chars().count() > MAX_LABEL {
        to.error(codes::BAD_TEXT, node, format!("a label has at most {MAX_LABEL} characters"));
        return None;
    }
    Some(text)
}

/// A number as the key of a map.
pub(super) fn parse_key(text: &str) -> Option<i64> {
    if let Some(hex) = text.strip_prefix("0x") {
        return i64::from_str_radix(hex, 16).ok();
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    let leading =
        digits.len() > 1 && digits.starts_with('0') || !digits.starts_with(|c: char| c.is_ascii_digit());
    text.parse().ok().filter(|_| !leading)
}

/// How far a value must move.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DeadbandWord(pub Deadband);

impl Read for DeadbandWord {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        let deadband = match meaning(node) {
            Meaning::Bare(text) | Meaning::Quoted(text) if text.ends_with('%') => {
                match text.trim_end_matches('%').trim_end().parse() {
                    Ok(percent) => Deadband::Percent(percent),
                    Err(_) => {
                        to.error(
                            codes::BAD_DEADBAND,
                            node,
                            format!("'{}' is no percentage", shortened(text)),
                        )
                        .help("such as 0.5 or 1%");
                        return None;
                    }
                }
            }
            _ => Deadband::Absolute(Number::read(node, to)?.0),
        };
        let (Deadband::Absolute(size) | Deadband::Percent(size)) = deadband;
        if size < Decimal::ZERO {
            to.error(codes::BAD_DEADBAND, node, format!("a deadband is a distance: {size} is negative"));
            return None;
        }
        if matches!(deadband, Deadband::Percent(percent) if percent > Decimal::from(100i64)) {
            to.error(codes::BAD_DEADBAND, node, format!("{size}% of a value is more than all of it"))
                .help("such as 1%, at most 100%");
            return None;
        }
        Some(Self(deadband))
    }

    fn schema(_: &mut Schemas) -> Value {
        json!({
            "anyOf": [{ "type": "number", "minimum": 0 }, { "type": "string", "pattern": r"^(100|[0-9]{1,2}(\.[0-9]+)?) ?%$" }],
            "examples": [0.5, "1%"],
        })
    }
}

/// The bits of a mask, not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mask(pub u64);

impl Read for Mask {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        let number = crate::document::types::whole_number(node, to)?;
        match u64::try_from(number) {
            Ok(mask @ 1..) => Some(Self(mask)),
            _ => {
                to.error(codes::BIT_RANGE, node, format!("{number} is no mask: it selects no bits"));
                None
            }
        }
    }

    fn schema(_: &mut Schemas) -> Value {
        json!({ "type": "integer", "minimum": 1 })
    }
}

/// A profile's name: `eastron/sdm630`, also its place below `mappings/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProfileName(pub String);

/// As a name's pattern, in parts that do not begin with a dot.
const PATTERN: &str =
    r"^[^\s!-,./:-@\[-^`{-~][^\s!-,/:-@\[-^`{-~]*(/[^\s!-,./:-@\[-^`{-~][^\s!-,/:-@\[-^`{-~]*)*$";

/// Longest profile name, in characters.
const MAX_PROFILE_NAME: usize = 2 * MAX_NAME;

impl Read for ProfileName {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        let Text(text) = Text::read(node, to)?;
        let fits = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
        let good = |part: &str| !part.is_empty() && !part.starts_with('.') && part.chars().all(fits);
        if text.chars().count() <= MAX_PROFILE_NAME && text.split('/').all(good) {
            return Some(Self(text));
        }
        to.error(codes::BAD_NAME, node, format!("'{}' is no profile name", shortened(&text)))
            .help("such as eastron/sdm630: letters, digits, '_', '-', '.', parts separated by '/'");
        None
    }

    fn schema(_: &mut Schemas) -> Value {
        json!({ "type": "string", "pattern": PATTERN })
    }
}

/// Raw values by type, each with the place of its type.
#[derive(Clone, Debug, PartialEq)]
pub struct InvalidByType(pub Vec<(TypeWord, Span, InvalidWords)>);

impl Read for InvalidByType {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        let mut all = Vec::new();
        for entry in to.entries(node, "types and their raw values")? {
            let kind = TypeWord::read(entry.at, to);
            let words = InvalidWords::read(entry.value, to);
            if let (Some(kind), Some(words)) = (kind, words) {
                all.push((kind, to.span(entry.at), words));
            }
        }
        Some(Self(all))
    }

    fn schema(schemas: &mut Schemas) -> Value {
        let words = InvalidWords::schema(schemas);
        json!({ "type": "object", "propertyNames": TypeWord::schema(schemas), "additionalProperties": words })
    }
}
