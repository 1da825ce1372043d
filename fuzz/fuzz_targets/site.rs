//! A site file's text, and behind lines `=====` those of the profiles fuzz/a to fuzz/d that it may name.
//!
//! Laws: those of `src/site.rs`; the same text gives the same findings.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taktbus::fuzzing::site;
use taktbus_fuzz::site::judge;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut texts = text.split("\n=====\n");
    let written = texts.next().unwrap_or_default();
    let profiles: Vec<(String, &str)> =
        ["a", "b", "c", "d"].iter().zip(texts).map(|(name, text)| (format!("fuzz/{name}"), text)).collect();
    let loaded = site(written, &profiles);
    // Not each time: it takes as long again.
    if bytes.len().is_multiple_of(8) {
        assert_eq!(site(written, &profiles).diagnostics, loaded.diagnostics);
    }
    judge(loaded);
});
