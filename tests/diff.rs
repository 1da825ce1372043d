//! `taktbus diff` as its user runs it: what is said, and the exit code.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

const OLD: &str = r#"site: hall
connections:
  meters: {tcp: 127.0.0.1:502}
devices:
  main: {via: meters, unit_id: 1, every: 1s, points: {"p_{0..9}": {holding: 1, type: uint16}}}
publish:
  cloud: {mqtt: mqtt://127.0.0.1:1883}
"#;

fn write(name: &str, text: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("diff-{}-{name}", std::process::id()));
    std::fs::write(&path, text).unwrap();
    path
}

/// What `diff` prints, and its exit code.
fn diff(old: &str, new: &str, further: &[&str]) -> (String, Option<i32>) {
    let (old, new) = (write("old.yaml", old), write("new.yaml", new));
    let mut command = Command::new(env!("CARGO_BIN_EXE_taktbus"));
    let output = command.arg("diff").args([&old, &new]).args(further).output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code())
}

/// One after the other: they share their files.
#[test]
fn differences_are_told_by_part_and_by_exit_code() {
    let reordered =
        OLD.replace("{via: meters, unit_id: 1, every: 1s,", "{every: 1s, unit_id: 1, via: meters,");
    assert_eq!(diff(OLD, &reordered, &[]), ("no difference\n".into(), Some(0)));

    let new = OLD
        .replace("every: 1s", "every: 2s, budget: 3s")
        .replace("uint16}}}", "uint16}, q: {holding: 90, type: int16}}}")
        .replace("1883}", "1883, qos: 0}");
    let (text, code) = diff(OLD, &new, &[]);
    let expected = "\
device      main                 changed: budget; 1 point added (q); 10 points changed: every (p_0, p_1, p_2, p_3, p_4, p_5, p_6, p_7 and 2 more)
route       cloud                changed: qos
";
    assert_eq!((text.as_str(), code), (expected, Some(1)));

    let (json, code) = diff(OLD, &new, &["--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["same"], &json["routes"][0]["keys"][0], code), (&false.into(), &"qos".into(), Some(1)));

    let (text, code) = diff(OLD, "site: hall\n", &[]);
    assert_eq!((text.as_str(), code), ("", Some(2)));
}
