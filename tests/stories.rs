//! The stories of the codes: each example that is called wrong has its finding, and each that is called right has none.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use taktbus::config::{self, LoadOptions};
use taktbus::document::codes::TABLE;
use taktbus::model::diagnostic::{Diagnostic, Severity};

/// Codes without examples: of files that can't be shown, of names of files, and of what takes more than a few lines.
const TOLD_ONLY: [&str; 8] = ["E001", "E002", "E003", "E005", "E006", "E073", "E074", "W004"];

/// Longest line of a story, in characters: terminals and this repository's files are about as wide.
const WIDEST: usize = 135;

/// What an example leaves out of a site.
const REST: [(&str, &str); 4] = [
    ("site", "site: demo\n"),
    ("connections", "connections: {lan: {tcp: 192.168.1.50:502}}\n"),
    ("devices", "devices: {m1: {via: lan, every: 5s, points: {a: {holding: 0, type: uint16}}}}\n"),
    ("publish", "publish: {cloud: {mqtt: mqtt://localhost:1883}}\n"),
];

/// A folder of this process, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("taktbus-stories-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The text of an example's block.
fn example<'s>(story: &'s str, which: &str) -> Option<&'s str> {
    let (_, block) = story.split_once(&format!("```yaml {which}\n"))?;
    Some(block.split_once("```").unwrap().0)
}

/// What is found in an example, which is a part of a profile if it has points at its top, and else a part of a site.
fn found(example: &str, folder: &Path) -> Vec<Diagnostic> {
    let has = |key: &str| example.lines().any(|line| line.starts_with(&format!("{key}:")));
    if has("points") {
        let file = folder.join("m1.yaml");
        let name = if has("profile") { "" } else { "profile: example/m1\n" };
        std::fs::write(&file, format!("{name}{example}")).unwrap();
        return config::load_profile(&file).diagnostics;
    }
    let rest: String = REST.iter().filter(|(key, _)| !has(key)).map(|(_, text)| *text).collect();
    let options = LoadOptions { look_for_secrets: true, ..LoadOptions::default() };
    config::load_text("example.yaml", &format!("{rest}{example}"), &options).diagnostics
}

#[test]
fn wrong_examples_have_their_finding_and_right_ones_have_none() {
    let folder = Folder::new();
    let mut faults = Vec::new();
    for code in TABLE.iter().filter(|code| !TOLD_ONLY.contains(&code.code)) {
        let (Some(wrong), Some(right)) = (example(code.story, "wrong"), example(code.story, "right")) else {
            faults.push(format!("{} lacks an example", code.code));
            continue;
        };
        let severity = if code.code.starts_with('E') { Severity::Error } else { Severity::Warning };
        let all = found(wrong, &folder.0);
        if !all.iter().any(|finding| finding.code == code.code && finding.severity == severity) {
            faults.push(format!("{}: the wrong example finds {all:#?}", code.code));
        }
        let all = found(right, &folder.0);
        if all.iter().any(|finding| finding.code == code.code || finding.severity == Severity::Error) {
            faults.push(format!("{}: the right example finds {all:#?}", code.code));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_code_has_a_story() {
    for code in TABLE {
        assert!(code.story.len() > 80, "{} has no story", code.code);
        let widest = code.story.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(WIDEST), "{} has lines of {widest:?} characters", code.code);
    }
    for told in TOLD_ONLY {
        let code = TABLE.iter().find(|code| code.code == told).unwrap();
        assert_eq!(example(code.story, "wrong"), None, "{told} has examples, which are not tried");
    }
}
