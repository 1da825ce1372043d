//! The units that were found, as a table and as JSON.

use serde_json::{Value as Json, json};

use super::Found;
use crate::cli::site::plural;
use crate::cli::summary::short;
use crate::cli::table::Table;
use crate::drivers::modbus::identify::Identity;
use crate::model::value::Cause;

/// So many unit ids that answer alike look like one device that ignores the unit id.
const LOOKS_IGNORED: usize = 16;

/// What a scan came to.
pub struct Shown<'a> {
    pub found: &'a [Found],
    /// How many unit ids were asked for.
    pub units: usize,
}

impl Shown<'_> {
    pub fn as_text(&self) -> String {
        if self.found.is_empty() {
            return "nobody answers\n".into();
        }
        let has_lines = self.found.iter().any(|found| found.line.is_some());
        let line = if has_lines { &["line"][..] } else { &[] };
        let mut table =
            Table::new(&[line, &[">unit", "answers", ">in", "vendor", "product", "version"]].concat());
        for found in self.found {
            let line = found.line.filter(|_| has_lines).map(|line| line.to_string());
            let [vendor, product, version] = found.identity.as_ref().map(columns).unwrap_or_default();
            let cells = [found.unit.to_string(), answer(found), short(found.took), vendor, product, version];
            table.row(line.into_iter().chain(cells));
        }
        let mut out = table.render();
        out += &format!("{} of {}\n", self.found.len(), plural(self.units, "unit id"));
        if self.ignores_unit_id() {
            out += "all answer alike: this looks like one device that ignores the unit id\n";
        }
        out
    }

    fn ignores_unit_id(&self) -> bool {
        let Some(first) = self.found.first() else { return false };
        self.found.len() >= LOOKS_IGNORED
            && self
                .found
                .iter()
                .all(|other| (&other.answer, &other.identity) == (&first.answer, &first.identity))
    }

    pub fn as_json(&self) -> Json {
        let units: Vec<Json> = self.found.iter().map(as_json).collect();
        json!({ "units": units, "asked": self.units, "ignores_unit_id": self.ignores_unit_id() })
    }
}

/// `FC3 register 0 = 230`, `FC3 exception 2 (illegal data address)`
fn answer(found: &Found) -> String {
    match found.answer {
        Ok(word) => format!("FC{} {word}", found.function),
        Err(code) => format!("FC{} {}", found.function, Cause::Exception(code)),
    }
}

fn columns(identity: &Identity) -> [String; 3] {
    let first = |ids: &[u8]| ids.iter().find_map(|id| identity.get(*id)).unwrap_or_default().to_string();
    [first(&[0]), first(&[4, 1, 5]), first(&[2])]
}

fn as_json(found: &Found) -> Json {
    let (value, exception) = (found.answer.ok(), found.answer.err());
    let identity = found.identity.as_ref().map(|identity| {
        identity
            .named()
            .map(|(name, text)| (name.to_string(), json!(text)))
            .collect::<serde_json::Map<_, _>>()
    });
    json!({
        "unit_id": found.unit,
        "line": found.line.map(|line| line.to_string()),
        "function": found.function,
        "value": value,
        "exception": exception,
        "ms": found.took.as_micros() as f64 / 1e3,
        "identity": identity,
    })
}
