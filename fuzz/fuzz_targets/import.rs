//! Files that are to become YAML: register tables, and other gateways' configurations. The first byte says which.
//!
//! Laws: whatever comes in, what comes out passes `check`, or the import has said what does not.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taktbus::fuzzing::{profile, site};
use taktbus::interchange::table::{self, Imported, Options};
use taktbus::interchange::{home_assistant, neuron, telegraf};
use taktbus::model::diagnostic::Severity;

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let text = String::from_utf8_lossy(bytes);
    let options = || Options { profile: "fuzz/table".into(), file: "table.csv".into(), ..Options::default() };
    let imported: Option<Imported> = match kind % 4 {
        0 => table::import(bytes, &options()).ok(),
        1 => telegraf::import(&text, "fuzz", "telegraf.conf").ok(),
        2 => home_assistant::import(&text, "fuzz", "configuration.yaml").ok(),
        _ => neuron::import(bytes, "fuzz/tags", "tags.csv").ok(),
    };
    let Some(Imported { yaml, points, notes, .. }) = imported else { return };
    if points == 0 {
        return;
    }
    let is_site = yaml.lines().any(|line| line == "connections:");
    let findings = if is_site { site(&yaml, &[]).diagnostics } else { profile(&yaml).diagnostics };
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error);
    for error in errors {
        let is_said = notes
            .iter()
            .any(|note| note.severity == Severity::Error && note.message.contains(&error.message));
        assert!(is_said, "{error}\n{yaml}");
    }
});
