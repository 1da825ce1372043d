//! `taktbus test`, as a transcript. `TAKTBUS_BLESS=1 cargo test --test proving` rewrites it: read the difference.

#![allow(clippy::unwrap_used)] // also outside the test functions

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

#[test]
fn examples_are_shown_value_by_value() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/proving");
    let mut transcript = String::new();
    for line in [
        "mappings/acme/good.yaml",
        "mappings/acme/good.yaml --uncovered",
        "site.yaml --failed",
        "site.yaml --json",
        "mappings/acme/absent.yaml",
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_taktbus"))
            .current_dir(&folder)
            .arg("test")
            .args(line.split(' '))
            .output()
            .unwrap();
        let _ = writeln!(transcript, "$ taktbus test {line}");
        transcript += &String::from_utf8(output.stdout).unwrap();
        transcript += &String::from_utf8(output.stderr).unwrap();
        let _ = writeln!(transcript, "[{}]\n", output.status.code().unwrap());
    }
    let file = folder.join("expected.txt");
    if std::env::var_os("TAKTBUS_BLESS").is_some() {
        std::fs::write(&file, &transcript).unwrap();
    }
    assert_eq!(transcript, std::fs::read_to_string(&file).unwrap_or_default());
}
