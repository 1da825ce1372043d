//! Golden cases: each folder of `tests/diagnostics` is a site with its profiles, and `expected.txt` is all that is found.
//!
//! `TAKTBUS_BLESS=1 cargo test --test diagnostics` rewrites the expectations; read the difference before committing it.

#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use taktbus::config::{self, LoadOptions};

fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/diagnostics");
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders
}

/// What an integrator sees; paths are shown from the case's folder.
fn rendered(folder: &Path) -> String {
    // The others must not depend on what this machine has.
    let look_for_secrets = folder.ends_with("secrets");
    let options = LoadOptions { look_for_secrets, ..LoadOptions::default() };
    let loaded = config::load(&folder.join("site.yaml"), &options);
    let mut text = String::new();
    for diagnostic in &loaded.diagnostics {
        writeln!(text, "{diagnostic}").unwrap();
    }
    text += if loaded.site.is_some() { "accepted\n" } else { "refused\n" };
    text.replace(&format!("{}/", folder.display()), "")
}

#[test]
fn every_case_finds_exactly_what_is_expected() {
    let bless = std::env::var_os("TAKTBUS_BLESS").is_some();
    let folders = folders();
    assert!(folders.len() >= 70, "only {} cases", folders.len());
    let mut wrong = Vec::new();
    for folder in folders {
        let found = rendered(&folder);
        let expected = folder.join("expected.txt");
        if bless {
            std::fs::write(&expected, &found).unwrap();
        } else if std::fs::read_to_string(&expected).unwrap_or_default() != found {
            wrong.push(format!("{}:\n{found}", folder.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
