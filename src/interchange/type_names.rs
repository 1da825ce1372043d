//! What the words of a type mean, as vendors use them.

/// The families of types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Family {
    Integer,
    Float,
    Text,
    Bcd,
    Bool,
    Time,
}

/// What a name means: a family, a sign, and a size in bits. A size that the name itself has can't be changed by a count.
#[rustfmt::skip]
pub const NAMES: [(&str, Family, Option<bool>, Option<u32>); 73] = {
    use Family::{Bcd, Bool, Float, Integer, Text, Time};
    const SIGNED: Option<bool> = Some(true);
    const UNSIGNED: Option<bool> = Some(false);
    [
        // IEC 61131-3, table 10.
        ("sint", Integer, SIGNED, Some(8)),
        ("int", Integer, SIGNED, None),
        ("dint", Integer, SIGNED, Some(32)),
        ("lint", Integer, SIGNED, Some(64)),
        ("usint", Integer, UNSIGNED, Some(8)),
        ("uint", Integer, UNSIGNED, None),
        ("udint", Integer, UNSIGNED, Some(32)),
        ("ulint", Integer, UNSIGNED, Some(64)),
        ("byte", Integer, UNSIGNED, Some(8)),
        ("word", Integer, UNSIGNED, None),
        ("dword", Integer, UNSIGNED, Some(32)),
        ("lword", Integer, UNSIGNED, Some(64)),
        ("real", Float, None, None),
        ("lreal", Float, None, Some(64)),
        ("string", Text, None, None),
        ("wstring", Text, None, None),
        ("bool", Bool, None, None),
        // C, and what people make of it.
        ("char", Text, None, None),
        ("short", Integer, None, Some(16)),
        ("ushort", Integer, UNSIGNED, Some(16)),
        ("long", Integer, None, None),
        ("ulong", Integer, UNSIGNED, None),
        ("slong", Integer, SIGNED, None),
        ("longlong", Integer, None, Some(64)),
        ("integer", Integer, None, None),
        ("unsigned", Integer, UNSIGNED, None),
        ("uns", Integer, UNSIGNED, None),
        ("signed", Integer, SIGNED, None),
        ("float", Float, None, None),
        ("floating", Float, None, None),
        ("flt", Float, None, None),
        ("single", Float, None, Some(32)),
        ("double", Float, None, Some(64)),
        ("half", Float, None, Some(16)),
        ("ieee", Float, None, None),
        ("u", Integer, UNSIGNED, None),
        ("s", Integer, SIGNED, None),
        ("i", Integer, SIGNED, None),
        ("f", Float, None, None),
        ("boolean", Bool, None, None),
        ("bit", Bool, None, None),
        ("flag", Bool, None, None),
        ("coil", Bool, None, None),
        ("digital", Bool, None, None),
        ("str", Text, None, None),
        ("ascii", Text, None, None),
        ("text", Text, None, None),
        ("varchar", Text, None, None),
        ("utf", Text, None, None),
        ("visiblestring", Text, None, None),
        ("bcd", Bcd, None, None),
        ("datetime", Time, None, None),
        ("timestamp", Time, None, None),
        ("epoch", Time, None, None),
        ("unixtime", Time, None, None),
        // SunSpec, and other words for numbers that are codes.
        ("enum", Integer, UNSIGNED, None),
        ("enumeration", Integer, UNSIGNED, None),
        ("field", Integer, UNSIGNED, None),
        ("bitfield", Integer, UNSIGNED, None),
        ("bitmap", Integer, UNSIGNED, None),
        ("bitmask", Integer, UNSIGNED, None),
        ("bitstring", Integer, UNSIGNED, None),
        ("acc", Integer, UNSIGNED, None),
        ("count", Integer, UNSIGNED, Some(16)),
        ("sunssf", Integer, SIGNED, Some(16)),
        ("ipaddr", Integer, UNSIGNED, Some(32)),
        ("hex", Integer, UNSIGNED, None),
        ("raw", Integer, UNSIGNED, None),
        // German.
        ("ganzzahl", Integer, None, None),
        ("vorzeichenlos", Integer, UNSIGNED, None),
        ("gleitkomma", Float, None, None),
        ("zeichenkette", Text, None, None),
        ("wort", Integer, UNSIGNED, None),
    ]
};

/// Words that say nothing.
pub const FILLERS: [&str; 16] = [
    "t",
    "bits",
    "number",
    "value",
    "type",
    "format",
    "point",
    "precision",
    "no",
    "in",
    "standard",
    "decimal",
    "var",
    "register",
    "registers",
    "with",
];
