//! `taktbus import` and `taktbus export`, the binary itself: the page for users shows what really comes out, and so does a
//! transcript of further files. `TAKTBUS_BLESS=1 cargo test --test importing` rewrites both: read the difference.

#![allow(clippy::unwrap_used)] // also outside the test functions

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What a command of the transcripts says: standard output, standard error, and how it ends where that isn't well.
fn said(command: &str) -> String {
    let (program, arguments) = command.split_once(' ').unwrap();
    assert_eq!(program, "taktbus");
    let output = Command::new(env!("CARGO_BIN_EXE_taktbus"))
        .current_dir(root().join("tests/importing"))
        .args(arguments.split(' '))
        .output()
        .unwrap();
    let mut said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    if !output.status.success() {
        said += &format!("[{}]\n", output.status.code().unwrap());
    }
    said
}

fn compare_or_bless(file: &Path, text: &str) {
    if std::env::var_os("TAKTBUS_BLESS").is_some() {
        std::fs::write(file, text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(file).unwrap_or_default(), "{}", file.display());
}

#[test]
fn the_page_for_users_shows_what_comes_out() {
    let page = root().join("docs/importing.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let mut parts = text.split("```console\n$ ");
    let mut renewed = parts.next().unwrap().to_owned();
    let mut commands = 0;
    for part in parts {
        let (block, rest) = part.split_once("```").unwrap();
        let command = block.lines().next().unwrap();
        renewed += &format!("```console\n$ {command}\n{}```{rest}", said(command));
        commands += 1;
    }
    assert!(commands >= 6, "the page shows {commands} commands");
    compare_or_bless(&page, &renewed);
}

#[test]
fn further_files_come_out_as_expected() {
    let mut transcript = String::new();
    for line in [
        "import pzem-016.csv",
        "import sunspec.csv",
        "import s7-opcua.csv",
        "import inverter.xlsx --sheet Registers --base 1",
        "import inverter.xlsx --sheet Cover",
        "import inverter.xlsx --sheet Sheet1",
        "import meter.csv --map name=Titel",
        "import telegraf.conf",
        "import --from telegraf meter.csv",
        "import --from neuron meter.csv",
        "import none.csv",
        "export site.yaml",
    ] {
        transcript += &format!("$ taktbus {line}\n{}\n", said(&format!("taktbus {line}")));
    }
    compare_or_bless(&root().join("tests/importing/expected.txt"), &transcript);
}

#[test]
fn an_output_is_not_replaced_unless_that_is_wanted() {
    let folder = std::env::temp_dir().join(format!("taktbus-importing-{}", std::process::id()));
    let file = folder.join("mappings/pzem/pzem-016.yaml");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let run = |more: &str| said(&format!("taktbus import pzem-016.csv -o {}{more}", file.display()));
    assert!(run("").ends_with("pzem-016.yaml: 9 points, 0 left out\n"));
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("\nprofile: pzem/pzem-016\n"), "{text}");
    assert!(run("").contains("--force replaces a file"));
    assert!(run(" --force").ends_with("0 left out\n"));
    let checked = said(&format!("taktbus check {}", file.display()));
    assert!(checked.ends_with("fine, 9 points\n"), "{checked}");
    std::fs::remove_dir_all(folder).unwrap();
}

/// Every table that is imported in the tests, exported again and imported again, is the same.
#[test]
fn a_table_that_went_through_both_is_the_same() {
    let folder = std::env::temp_dir().join(format!("taktbus-both-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = |name: &str| -> PathBuf { folder.join(name) };
    for table in ["pzem-016.csv", "sunspec.csv"] {
        let (yaml, csv, again) = (path("a.yaml"), path("b.csv"), path("c.yaml"));
        said(&format!("taktbus import {table} --profile a/b --force -o {}", yaml.display()));
        said(&format!("taktbus export {} --force -o {}", yaml.display(), csv.display()));
        said(&format!("taktbus import {} --profile a/b --force -o {}", csv.display(), again.display()));
        let points = |file: &Path| {
            let text = std::fs::read_to_string(file).unwrap();
            text.split_once("points:\n").unwrap().1.to_owned()
        };
        assert_eq!(points(&yaml), points(&again), "{table}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}
