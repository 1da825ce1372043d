//! The codes of all findings, with one line and a story on each: the only place where a code is written.
//!
//! The story of `E017` is `codes/E017.md`: what the finding means and why, and mostly one example that has it and one that
//! doesn't (blocks marked `yaml wrong` and `yaml right`; `tests/stories.rs` runs them).

/// A kind of finding.
#[derive(Clone, Copy, Debug)]
pub struct Code {
    /// `E017` is an error, `W002` a warning. A code keeps its meaning for ever.
    pub code: &'static str,
    /// What it is, in one line.
    pub title: &'static str,
    /// The name of its constant.
    pub name: &'static str,
    /// What it means, in Markdown.
    pub story: &'static str,
}

/// Declares the codes as constants and as a table.
macro_rules! codes {
    ($($name:ident = $code:literal, $title:literal;)*) => {
        $(#[doc = $title] pub const $name: &str = $code;)*

        /// Every code.
        pub const TABLE: &[Code] = &[$(Code {
            code: $code,
            title: $title,
            name: stringify!($name),
            story: include_str!(concat!("codes/", $code, ".md")),
        }),*];
    };
}

codes! {
    FILE_UNREADABLE = "E001", "A file cannot be read.";
    FILE_TOO_LARGE = "E002", "A file is larger than a configuration may be.";
    NOT_UTF8 = "E003", "A file is not UTF-8 text.";
    YAML_SYNTAX = "E004", "The text is not YAML.";
    YAML_DEPTH = "E005", "Lists and maps are nested too deep.";
    YAML_SIZE = "E006", "The document is too big, perhaps through its aliases.";
    YAML_TAG = "E007", "A YAML tag; types follow from the keys.";
    YAML_ANCHOR = "E008", "An alias that resolves to nothing.";
    YAML_DOCUMENTS = "E009", "More than one document in a file.";
    UNKNOWN_KEY = "E010", "A key that this map does not have.";
    DUPLICATE_KEY = "E011", "A key that is given twice.";
    MISSING_KEY = "E012", "A required key is missing.";
    WRONG_TYPE = "E013", "A value of another type is expected.";
    OUT_OF_RANGE = "E014", "A number is outside its range.";
    LEADING_ZERO = "E015", "A number with leading zeros, which some tools take for octal.";
    BARE_WORD = "E016", "A bare boolean, null or number where text is expected.";
    SEXAGESIMAL = "E017", "Digits, a colon and digits: neither a number nor a key.";
    MERGE_KEY = "E018", "The merge key <<, which YAML 1.2 does not have.";
    BAD_KEY = "E019", "A key that is no word.";
    UNKNOWN_WORD = "E020", "A word that is not among those allowed.";
    BAD_NAME = "E021", "A name with characters that topics and logs cannot carry.";
    BAD_DURATION = "E022", "Not a duration.";
    BAD_NUMBER = "E023", "Not a number as it is written here.";
    BAD_SIZE = "E024", "Not a size in bytes.";
    UNSUPPORTED = "E025", "Something that this version does not do.";
    BAD_TEXT = "E026", "A text that is too long or has control characters.";
    NO_LOCATION = "E030", "A point that does not say where its value is.";
    TWO_LOCATIONS = "E031", "A point that says twice where its value is.";
    ADDRESS = "E032", "An address that Modbus does not have.";
    PAPER_REFERENCE = "E033", "A reference that is in none of the four tables.";
    NO_TYPE = "E034", "A register without a type.";
    TYPE_MISMATCH = "E035", "A key that does not go with the point's type or table.";
    REGISTER_COUNT = "E036", "A list of registers whose length is not that of the type.";
    STRING_LENGTH = "E037", "A string without a length, or with one that is too long.";
    BIT_RANGE = "E038", "A bit or mask outside the value.";
    INVALID_VALUE = "E039", "An `invalid` value that the type cannot hold.";
    ZERO_SCALE = "E040", "A scale that makes every value 0.";
    UNKNOWN_POINT = "E041", "A point that does not exist.";
    CYCLE = "E042", "Points that are computed from each other.";
    BAD_DEADBAND = "E043", "A deadband that is no distance.";
    DUPLICATE_VALUE = "E044", "A number, bit or register that is listed twice.";
    FUNCTION_NOT_ALLOWED = "E045", "A point in a table that the device has no function code for.";
    VALUE_TOO_WIDE = "E046", "A value that needs more registers than one request may have.";
    WRITE_ONLY = "E047", "A point that cannot be read is needed.";
    NO_POINTS = "E048", "A device or profile without points.";
    FIXED_BLOCK = "E049", "A block that no request can read as a whole, or a point across the edge of one.";
    UNKNOWN_PROFILE = "E050", "A profile that is nowhere.";
    UNKNOWN_CONNECTION = "E051", "A device behind a connection that does not exist.";
    UNKNOWN_DEVICE = "E052", "A device that does not exist.";
    NO_UNIT_ID = "E053", "A device on a serial line without a unit id.";
    UNIT_ID = "E054", "A unit id that no device on a serial line may have.";
    NO_INTERVAL = "E055", "Points whose rate has no interval.";
    NOTHING_TO_DO = "E056", "A site without devices, connections or routes.";
    BAD_CONNECTION = "E057", "A connection that is not of exactly one kind.";
    BAD_LINE = "E058", "A serial line's settings that make no sense.";
    BAD_HOST = "E059", "Not a HOST:PORT.";
    BAD_URL = "E060", "Not an address of a broker.";
    TOPIC = "E061", "A topic that MQTT does not allow, or an unknown placeholder.";
    TOPIC_COLLISION = "E062", "Two topics that would be the same.";
    NAME_COLLISION = "E063", "Two points that would have the same name.";
    TLS_ONLY = "E064", "A TLS setting without TLS.";
    NO_DEVICE_POINTS = "E065", "A device with nothing to read.";
    BAD_SECRET = "E066", "A secret that says not exactly one place.";
    BUILT_IN_RATE = "E067", "An interval for the built-in rate `once`.";
    PATCH_WITHOUT_PROFILE = "E068", "A change to a profile's points without a profile.";
    CLIENT_ID = "E069", "Two routes with the same client id at one broker.";
    READ_ONLY = "E070", "A point to write that can only be read.";
    SHARED_LINK = "E071", "Two connections to one port or address.";
    OVERLOADED_BUS = "E072", "A bus that cannot carry its devices' intervals.";
    CANNOT_BE_PLANNED = "E073", "A device whose points no request can carry.";
    A_PROFILE = "E074", "A profile where a site file is expected.";
    NOT_WRITABLE = "E080", "A point to write in a place that no request can write.";
    WRITE_FUNCTION = "E081", "A function code that does not write the point, or that the device does not have.";
    WRITE_RANGE = "E082", "A range that is none, or values to write that the point cannot have.";
    REFUSED_ADDRESS = "E083", "A point at addresses that the device refuses.";
    EXAMPLE_FAILS = "E090", "An example whose registers give another value than is expected.";
    EXAMPLE_LACKS = "E091", "An example that does not give all registers of a point.";
    PARAMETER = "E093", "A parameter that the profile does not have, or that has no value.";
    FORMULA = "E094", "Not a product of numbers and parameters.";
    INCLUDE = "E095", "Profiles that include each other in a circle, too deep, or that do not agree.";
    NODE_ID = "E098", "A node id that OPC UA does not have.";
    NAME_RANGE = "E092", "A range in a point's name that is none, that is too long, or whose addresses are not known.";
    BAD_ROUTE = "E120", "A route that is none, or two at once, or a setting of another kind of route.";
    BAD_HEADER = "E121", "A header that a route cannot send.";
    BAD_FILTER = "E122", "A filter of a route that names what is not there.";
    TOO_LITTLE_MEMORY = "E123", "Routes that need more memory than they get.";
    LONG_LINGER = "W031", "A request that waits longer for more messages than a budget allows.";
    WRONG_PROTOCOL = "E110", "A device whose points its connection cannot read.";
    READ_TWICE = "E111", "An interval and a subscription for the same points.";
    UNUSED_CONNECTION = "W001", "A connection that no device uses.";
    CLEAR_PASSWORD = "W002", "A password that travels unencrypted.";
    UNUSED_RATE = "W003", "An interval for a rate that no point has.";
    PROFILE_NAME = "W004", "A profile whose name is not that of its file.";
    BUSY_BUS = "W006", "A bus with little room for slow or lost answers.";
    OLD_VALUES = "W007", "Values that may be older than their budget.";
    PORT_NUMBER = "W010", "A serial port by a number that changes when it's plugged in again.";
    SAME_VALUE = "W011", "Two points that read the same place in the same way.";
    OVERLAP = "W012", "Registers that belong to two values of different types.";
    LONE_PARITY = "W013", "An odd address among even ones, or an even one among odd ones.";
    INEXACT_SCALE = "W014", "A scale that loses the register's last digits.";
    FASTER_THAN_DEVICE = "W015", "An interval that is shorter than the device's own.";
    LITERAL_SECRET = "W016", "A password that is written in the file.";
    NO_PASSWORD = "W017", "A user without a password.";
    NOT_THERE = "W018", "A secret or certificate that is not there.";
    WEAK_SECURITY = "W030", "A connection that is protected badly, or not at all.";
    SAME_UNIT = "W019", "Two devices that read the same registers of one unit.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn sources(folder: &Path, all: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, all);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("document/codes.rs") {
                all.push_str(&std::fs::read_to_string(&path).unwrap());
            }
        }
    }

    #[test]
    fn every_code_is_listed_once_and_used() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut text = String::new();
        for folder in ["document", "mapping", "config"] {
            sources(&root.join(folder), &mut text);
        }
        let mut known = std::collections::BTreeSet::new();
        for Code { code, title, name, .. } in TABLE {
            assert!(known.insert(code), "{code} is listed twice");
            assert!(title.ends_with('.'), "{code}");
            assert!(text.contains(&format!("codes::{name}")), "{name} is used nowhere");
        }
        assert_eq!(text.find("\"E0"), None, "a code is written as text");
    }
}
