//! `taktbus write --dry-run`, as a transcript: every kind of write, and every reason to refuse one.
//! `TAKTBUS_BLESS=1 cargo test --test write_dry_run` rewrites it: read the difference.

#![allow(clippy::unwrap_used)] // also outside the test functions

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/writing");
    Command::new(env!("CARGO_BIN_EXE_taktbus"))
        .current_dir(folder)
        .arg("write")
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn every_write_is_shown_or_refused_as_expected() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/writing/expected.txt");
    let mut transcript = String::new();
    for line in [
        "--dry-run site.yaml box1 max_current 16",
        "--dry-run site.yaml box1 max_current 16 --json",
        "--dry-run site.yaml box1 max_current 0",
        "--dry-run site.yaml box1 max_current 16.05",
        "--dry-run site.yaml box1 max_current 17",
        "--dry-run site.yaml box1 max_current full",
        "--dry-run site.yaml boiler mode eco",
        "--dry-run site.yaml boiler mode 2",
        "--dry-run site.yaml boiler mode boost",
        "--dry-run site.yaml boiler mode 9",
        "--dry-run site.yaml boiler setpoint -5.5",
        "--dry-run site.yaml boiler pump on",
        "--dry-run site.yaml boiler pump 2",
        "--dry-run site.yaml boiler night true",
        "--dry-run site.yaml boiler half 200",
        "--dry-run site.yaml boiler name Ofen",
        "--dry-run site.yaml boiler name Backofen2",
        "--dry-run site.yaml boiler reset 1",
        "--dry-run site.yaml boiler power_limit 51.2",
        "--dry-run site.yaml boiler power_limit 51.2 --scale-factor -1",
        "--dry-run site.yaml box1 locked 1",
        "--dry-run site.yaml box1 power 1",
        "--dry-run site.yaml box1 powr 1",
        "--dry-run site.yaml box2 power 1",
        "site.yaml box1 max_current 16",
    ] {
        let output = run(&line.split(' ').collect::<Vec<_>>());
        let _ = writeln!(transcript, "$ taktbus write {line}");
        transcript += &String::from_utf8(output.stdout).unwrap();
        transcript += &String::from_utf8(output.stderr).unwrap();
        let _ = writeln!(transcript, "[{}]\n", output.status.code().unwrap());
    }
    if std::env::var_os("TAKTBUS_BLESS").is_some() {
        std::fs::write(&file, &transcript).unwrap();
    }
    assert_eq!(transcript, std::fs::read_to_string(&file).unwrap_or_default());
}
