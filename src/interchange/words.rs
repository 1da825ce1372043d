//! Words of tables that are neither numbers nor types: tables, function codes, access, units, raw values, texts.

use crate::mapping::written::Access;
use crate::model::decimal::Decimal;
use crate::model::place::Table;

/// Names of tables. Digits alone are none: 3 is the function code of holding registers, and 3x the input registers.
pub fn table_of(text: &str) -> Option<Table> {
    let lower = text.to_lowercase();
    let words: Vec<&str> =
        lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let has = |options: &[&str]| words.iter().any(|word| options.contains(word));
    match () {
        () if has(&["holding", "hr", "4x", "4xxxx", "4xxxxx", "hold", "halteregister", "fc03", "fc3"]) => {
            Some(Table::Holding)
        }
        () if has(&["discrete", "di", "1x", "1xxxx", "contact", "contacts", "fc02", "fc2"]) => {
            Some(Table::Discrete)
        }
        () if has(&["coil", "coils", "do", "0x", "0xxxx", "fc01", "fc1"]) => Some(Table::Coil),
        () if has(&["input", "ir", "3x", "3xxxx", "3xxxxx", "inputs", "eingangsregister", "fc04", "fc4"]) => {
            Some(if has(&["bit", "bits", "status"]) { Table::Discrete } else { Table::Input })
        }
        () => None,
    }
}

/// `03`, `FC03`, `0x03`, `3/6/16`, `03h 10h` → the codes.
pub fn function_codes(text: &str) -> Vec<u8> {
    let lower = text.to_lowercase();
    lower
        .split(|c: char| !c.is_alphanumeric())
        .filter_map(|word| {
            let word = word.trim_start_matches("fc").trim_start_matches(['f', 'r', 'w']);
            match word.strip_prefix("0x").or_else(|| word.strip_suffix('h')) {
                Some(hex) => u8::from_str_radix(hex, 16).ok(),
                None => word.parse().ok(),
            }
        })
        .collect()
}

pub fn function_access(codes: &[u8]) -> Access {
    let has = |wanted: &[u8]| codes.iter().any(|code| wanted.contains(code));
    match (has(&[1, 2, 3, 4]), has(&[5, 6, 15, 16, 22])) {
        (true, true) => Access::ReadWrite,
        (false, true) => Access::Write,
        _ => Access::Read,
    }
}

/// Access as tables write it; `None` when unknown.
pub fn access_of(text: &str) -> Option<Access> {
    let letters: String = text.to_lowercase().chars().filter(|c| c.is_alphabetic()).collect();
    match letters.as_str() {
        "" | "r" | "ro" | "read" | "readonly" | "lesen" | "l" | "nurlesen" | "input" => Some(Access::Read),
        "rw" | "wr" | "readwrite" | "rwread" | "lesenschreiben" | "ls" | "writeread" | "readandwrite"
        | "rorw" => Some(Access::ReadWrite),
        "w" | "wo" | "write" | "writeonly" | "schreiben" | "s" | "nurschreiben" => Some(Access::Write),
        _ => None,
    }
}

/// A unit as the mapping language and the shipped profiles write it.
pub fn unit(text: &str) -> String {
    let bare = text.trim_matches(|c: char| matches!(c, '[' | ']' | '(' | ')' | ' '));
    match bare {
        "%" | "percent" | "Percent" | "pct" | "%RH" | "% RH" => "percent".into(),
        "C" | "°C" | "degC" | "deg C" | "DegC" | "℃" | "ºC" | "Celsius" | "deg. C" | "° C" => {
            "°C".into()
        }
        "F" | "degF" | "deg F" | "ºF" | "℉" => "°F".into(),
        "Volt" | "Volts" | "volts" | "volt" => "V".into(),
        "Amp" | "Amps" | "amps" | "Ampere" | "Amperes" => "A".into(),
        "Watt" | "Watts" | "watts" => "W".into(),
        "Hertz" | "hertz" => "Hz".into(),
        "KWh" | "KWH" | "kwh" => "kWh".into(),
        "Var" | "VAr" | "VAR" => "var".into(),
        "kVAr" | "kVAR" | "kVar" | "KVAR" => "kvar".into(),
        "kVArh" | "kVARh" | "kVarh" => "kvarh".into(),
        "VArh" | "VARh" | "Varh" => "varh".into(),
        "HZ" | "hz" => "Hz".into(),
        _ => bare.split_whitespace().collect::<Vec<_>>().join(" "),
    }
}

/// `0x7FFF`, `-1, 0x8000`: raw values as a profile writes them.
pub fn raws(text: &str) -> Option<Vec<String>> {
    let words = text.split([' ', ',', ';', '/', '\n']).filter(|word| !word.is_empty() && *word != "or");
    let raws: Option<Vec<String>> = words
        .map(|word| {
            let lower = word.to_ascii_lowercase();
            match lower.strip_prefix("0x").or_else(|| lower.strip_suffix('h')) {
                Some(hex) => Some(format!("0x{:X}", u64::from_str_radix(hex, 16).ok()?)),
                None => Some(word.parse::<Decimal>().ok()?.to_string()),
            }
        })
        .collect();
    raws.filter(|raws| !raws.is_empty())
}

/// `0=off; 1=on`, one pair per line, or `0: off, 1: on`.
pub fn enumeration(text: &str) -> Option<Vec<(i64, String)>> {
    let separator = if text.contains(['\n', ';']) { &['\n', ';'][..] } else { &[','] };
    let mut labels: Vec<(i64, String)> = Vec::new();
    for pair in text.split(separator).map(str::trim).filter(|pair| !pair.is_empty()) {
        let (number, label) = pair.split_once(['=', ':'])?;
        let (number, label) = (number.trim().parse().ok()?, label.trim().to_owned());
        if label.is_empty() || labels.iter().any(|(known, _)| *known == number) {
            return None;
        }
        labels.push((number, label));
    }
    (!labels.is_empty()).then_some(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_access_are_known_by_many_names() {
        for (text, table) in [
            ("Holding Register", Table::Holding),
            ("4x", Table::Holding),
            ("Input registers", Table::Input),
            ("input status", Table::Discrete),
            ("Discrete Input", Table::Discrete),
            ("COIL", Table::Coil),
            ("HR", Table::Holding),
        ] {
            assert_eq!(table_of(text), Some(table), "{text}");
        }
        assert_eq!(table_of("3"), None);
        for (text, access) in [
            ("R/W", Access::ReadWrite),
            ("RO", Access::Read),
            ("Read only", Access::Read),
            ("WO", Access::Write),
        ] {
            assert_eq!(access_of(text), Some(access), "{text}");
        }
        assert_eq!(access_of("sometimes"), None);
    }

    #[test]
    fn function_codes_tell_the_table_and_what_may_be_written() {
        assert_eq!(function_codes("FC03 / 0x06, 10h"), [3, 6, 16]);
        assert_eq!(function_access(&[3, 6]), Access::ReadWrite);
        assert_eq!(function_access(&[4]), Access::Read);
    }

    #[test]
    fn lists_in_cells_are_read() {
        assert_eq!(enumeration("0=off; 1 = on"), Some(vec![(0, "off".into()), (1, "on".into())]));
        assert_eq!(enumeration("0: off, 1: on").map(|l| l.len()), Some(2));
        assert_eq!(enumeration("see manual"), None);
        assert_eq!(raws("0x7fff, -1 8000h"), Some(vec!["0x7FFF".into(), "-1".into(), "0x8000".into()]));
        assert_eq!(raws("NaN"), None);
        assert_eq!(unit("[°C]"), "°C");
    }
}
