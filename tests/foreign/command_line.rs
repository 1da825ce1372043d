//! Exit codes and outputs that scripts and service managers rely on. Needs no peer.

use crate::folder::Folder;
use crate::gateway::{Gateway, output, taktbus};
use crate::values;

/// Nothing listens there: port 1 of loopback (tcpmux) is refused at once.
const NOBODY: &str = "tcp: 127.0.0.1:1";

#[test]
fn a_wrong_file_is_refused_with_its_place_and_exit_code_2() {
    let folder = Folder::new("check-wrong");
    let site = values::site(&folder, NOBODY, 1, "500ms", 1);
    let profile = "profile: test/all\npoints:\n  speed: {holding: 5, type: flaot32}\n  torque: {holding: 70000, type: int16}\n";
    folder.write("mappings/test/all.yaml", profile);
    for command in ["check", "run", "plan"] {
        let output = output(&[command], &site);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{command}: {stderr}");
        // Columns as an editor counts them, from 1.
        assert!(stderr.contains("test/all.yaml:3:29: error"), "{command}: {stderr}");
        assert!(stderr.contains("did you mean 'float32'"), "{command}: {stderr}");
        assert!(stderr.contains("test/all.yaml:4:21: error"), "{command}: {stderr}");
    }
}

#[test]
fn a_right_file_is_accepted_silently_enough_for_a_script() {
    let folder = Folder::new("check-right");
    let site = values::site(&folder, NOBODY, 1, "500ms", 1);
    let output = output(&["check"], &site);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_missing_file_is_a_wrong_configuration() {
    let folder = Folder::new("check-missing");
    let output = output(&["check"], &folder.path("nowhere.yaml"));
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).contains("nowhere.yaml"));
}

#[test]
fn sigterm_ends_a_gateway_that_reaches_nobody() {
    let folder = Folder::new("nobody");
    let mut gateway = Gateway::run(&values::site(&folder, NOBODY, 1, "500ms", 1));
    gateway.0.line_where(crate::SOON, "first line of log", |line| (!line.is_empty()).then_some(()));
    gateway.end();
}

#[test]
fn a_run_for_a_second_ends_by_itself() {
    let folder = Folder::new("for-a-second");
    let output = output(&["run", "--for", "1s"], &values::site(&folder, NOBODY, 1, "500ms", 1));
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!output.stderr.is_empty(), "no summary");
}

#[test]
fn the_schemas_are_json() {
    for kind in ["site", "profile"] {
        let output = taktbus().args(["schema", kind]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(schema["$schema"].is_string() && schema["$defs"].is_object(), "{kind}");
    }
}
