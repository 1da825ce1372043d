//! A profile's text: read, judged alone, and used by a site on which it is planned, read and told.
//!
//! Laws: those of `src/site.rs`; a profile that `check` accepts alone has a map.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taktbus::fuzzing::{profile, site};
use taktbus::model::diagnostic::Severity;
use taktbus_fuzz::site::{judge, judge_findings};

const SITE: &str = "site: s
connections: {lan: {tcp: 10.0.0.1}, line: {rtu: /dev/ttyS9, baud: 9600}}
devices:
  a: {via: lan, profile: fuzz/a, every: 1h}
  b: {via: line, unit_id: 9, profile: fuzz/a, every: 2h, limits: {max_gap: 9, max_registers: 20}}
publish: {cloud: {mqtt: mqtt://localhost}}
";

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let alone = profile(text);
    judge_findings(&alone.diagnostics);
    let has_errors = alone.diagnostics.iter().any(|finding| finding.severity == Severity::Error);
    assert_eq!(alone.map.is_none(), has_errors);
    judge(site(SITE, &[("fuzz/a".into(), text)]));
});
