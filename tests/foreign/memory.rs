//! What the foreign devices hold, and what the gateway must make of it: the one table that every protocol is tried with.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::peers::Device;

/// The number that a register holds unless it was overridden. 31153 is odd, so within one table of one unit
/// all 65536 numbers differ: a value from the wrong address is a wrong value.
/// `tests/peers/` computes the same formula.
pub fn word(function: u32, unit: u8, address: u16) -> u16 {
    (u32::from(address) * 31153 + function * 8191 + u32::from(unit) * 257 + 4660) as u16
}

/// One point of the map: how it is written, which words the device holds, and the exact JSON text that must arrive.
pub struct Case {
    pub name: &'static str,
    map: &'static str,
    words: &'static [(&'static str, u16, &'static [u16])],
    /// JSON text of the value; `None`: the point is read but never published.
    json: Option<&'static str>,
}

const fn case(
    name: &'static str,
    map: &'static str,
    words: &'static [(&'static str, u16, &'static [u16])],
    json: &'static str,
) -> Case {
    Case { name, map, words, json: Some(json) }
}

/// Every type, every order, every selector and every scale. Numbers were worked out by hand (two's complement,
/// IEEE 754), not by the code under test.
pub const CASES: &[Case] = &[
    case("uint16", "holding: 0, type: uint16", &[("holding", 0, &[0xFFFF])], "65535"),
    case("int16", "holding: 1, type: int16", &[("holding", 1, &[0x8000])], "-32768"),
    case("tenths", "holding: 2, type: int16, scale: 0.1, unit: V", &[("holding", 2, &[2304])], "230.4"),
    case(
        "celsius",
        "holding: 3, type: int16, scale: 0.1, offset: -40, unit: °C",
        &[("holding", 3, &[255])],
        "-14.5",
    ),
    case("uint16_badc", "holding: 4, type: uint16, order: BADC", &[("holding", 4, &[0x3412])], "4660"),
    case("uint16_cdab", "holding: 5, type: uint16, order: CDAB", &[("holding", 5, &[0x1234])], "4660"),
    case("int32_abcd", "holding: 10, type: int32", &[("holding", 10, &[0xFFFE, 0x1DC0])], "-123456"),
    case(
        "int32_cdab",
        "holding: 12, type: int32, order: CDAB",
        &[("holding", 12, &[0x1DC0, 0xFFFE])],
        "-123456",
    ),
    case(
        "int32_badc",
        "holding: 14, type: int32, order: BADC",
        &[("holding", 14, &[0xFEFF, 0xC01D])],
        "-123456",
    ),
    case(
        "int32_dcba",
        "holding: 16, type: int32, order: DCBA",
        &[("holding", 16, &[0xC01D, 0xFEFF])],
        "-123456",
    ),
    case(
        "uint32_thousandths",
        "holding: 18, type: uint32, scale: 0.001",
        &[("holding", 18, &[0xFFFF, 0xFFFF])],
        "4294967.295",
    ),
    case("float32_abcd", "holding: 20, type: float32", &[("holding", 20, &[0x4366, 0x6666])], "230.4"),
    case(
        "float32_cdab",
        "holding: 22, type: float32, order: CDAB",
        &[("holding", 22, &[0x6666, 0x4366])],
        "230.4",
    ),
    case(
        "float32_badc",
        "holding: 24, type: float32, order: BADC",
        &[("holding", 24, &[0x6643, 0x6666])],
        "230.4",
    ),
    case(
        "float32_dcba",
        "holding: 26, type: float32, order: DCBA",
        &[("holding", 26, &[0x6666, 0x6643])],
        "230.4",
    ),
    case(
        "uint64_hundredths",
        "holding: 30, type: uint64, scale: 0.01",
        &[("holding", 30, &[0xFFFF; 4])],
        "184467440737095516.15",
    ),
    case(
        "uint64_whole",
        "holding: 34, type: uint64",
        &[("holding", 34, &[0x0020, 0, 0, 1])],
        "9007199254740993",
    ),
    case(
        "int64_abcd",
        "holding: 38, type: int64",
        &[("holding", 38, &[0x8000, 0, 0, 0])],
        "-9223372036854775808",
    ),
    case(
        "int64_cdab",
        "holding: 42, type: int64, order: CDAB",
        &[("holding", 42, &[0x0708, 0x0506, 0x0304, 0x0102])],
        "72623859790382856",
    ),
    case(
        "int64_badc",
        "holding: 46, type: int64, order: BADC",
        &[("holding", 46, &[0x0201, 0x0403, 0x0605, 0x0807])],
        "72623859790382856",
    ),
    case(
        "int64_dcba",
        "holding: 50, type: int64, order: DCBA",
        &[("holding", 50, &[0x0807, 0x0605, 0x0403, 0x0201])],
        "72623859790382856",
    ),
    case("float64", "holding: 54, type: float64", &[("holding", 54, &[0x4093, 0x4A00, 0, 0])], "1234.5"),
    case(
        "float64_dcba",
        "holding: 58, type: float64, order: DCBA",
        &[("holding", 58, &[0, 0, 0x004A, 0x9340])],
        "1234.5",
    ),
    case("float16", "holding: 62, type: float16", &[("holding", 62, &[0xBE00])], "-1.5"),
    case("int8_high", "holding: 63, type: int8, byte: high", &[("holding", 63, &[0x80FF])], "-128"),
    case("uint8_low", "holding: 63, type: uint8, byte: low", &[], "255"),
    case("bit_set", "holding: 64, bit: 3", &[("holding", 64, &[0x0008])], "true"),
    case("bit_clear", "holding: 64, bit: 4", &[], "false"),
    case("masked", "holding: 65, type: uint16, mask: 0x00F0", &[("holding", 65, &[0x1234])], "3"),
    case(
        "label",
        "holding: 66, type: uint16, enum: {1: 'off', 4: producing}",
        &[("holding", 66, &[4])],
        "\"producing\"",
    ),
    case(
        "no_label",
        "holding: 67, type: uint16, enum: {1: 'off', 4: producing}",
        &[("holding", 67, &[9])],
        "9",
    ),
    case(
        "text",
        "holding: 68, type: string, length: 4",
        &[("holding", 68, &[0x4142, 0x2D31, 0x3200, 0])],
        "\"AB-12\"",
    ),
    case("bcd16", "holding: 72, type: bcd16", &[("holding", 72, &[0x1234])], "1234"),
    case("bcd32", "holding: 73, type: bcd32", &[("holding", 73, &[0x0012, 0x3456])], "123456"),
    case(
        "apart",
        "holding: [82, 76], type: int32",
        &[("holding", 82, &[1]), ("holding", 76, &[0x86A0])],
        "100000",
    ),
    case(
        "sunspec",
        "holding: 84, type: int16, scale_from: sunspec_sf",
        &[("holding", 84, &[12345])],
        "123.45",
    ),
    Case {
        name: "sunspec_sf",
        map: "holding: 85, type: int16, internal: true",
        words: &[("holding", 85, &[0xFFFE])],
        json: None,
    },
    case("kwh", "holding: 86, type: uint16", &[("holding", 86, &[250])], "250"),
    case("mwh", "holding: 87, type: uint16", &[("holding", 87, &[3])], "3"),
    case("energy", "sum: {kwh: 1, mwh: 1000}, unit: kWh", &[], "3250"),
    case("paper", "ref: 40101, type: int16", &[("holding", 100, &[42])], "42"),
    case("input_min", "input: 0, type: uint16", &[("input", 0, &[0])], "0"),
    case(
        "input_far",
        "input: 65534, type: int32, order: CDAB",
        &[("input", 65534, &[0x1DC0, 0xFFFE])],
        "-123456",
    ),
    case("coil_on", "coil: 11", &[("coil", 11, &[1])], "true"),
    case("coil_off", "coil: 12", &[("coil", 12, &[0])], "false"),
    case("discrete_on", "discrete: 65535", &[("discrete", 65535, &[1])], "true"),
];

/// Registers that nobody overrides: `plain_N` is the formula's number. Far from the cases above.
const PLAIN: std::ops::Range<u16> = 1000..1160;

/// The profile that has all of the above.
pub fn profile() -> String {
    let mut text = "profile: test/all\nlimits: {max_gap: 8}\npoints:\n".to_owned();
    for case in CASES {
        writeln!(text, "  {}: {{{}}}", case.name, case.map).unwrap();
    }
    for at in PLAIN {
        let table = if at.is_multiple_of(2) { "holding" } else { "input" };
        writeln!(text, "  plain_{at}: {{{table}: {at}, type: uint16}}").unwrap();
    }
    writeln!(text, "  not_available: {{holding: 110, type: int16, invalid: 0x8000}}").unwrap();
    text
}

/// Point → JSON text, for a device of that unit id.
pub fn expected(unit: u8) -> BTreeMap<String, String> {
    let cases = CASES.iter().filter_map(|case| Some((case.name.to_owned(), case.json?.to_owned())));
    let plain = PLAIN.map(|at| {
        let function = if at.is_multiple_of(2) { 3 } else { 4 };
        (format!("plain_{at}"), word(function, unit, at).to_string())
    });
    cases.chain(plain).collect()
}

/// Gives a device the words of all cases.
pub fn fill(device: &mut Device, unit: u8) {
    for (table, address, words) in CASES.iter().flat_map(|case| case.words) {
        device.set(unit, table, *address, words);
    }
    device.set(unit, "holding", 110, &[0x8000]);
}
