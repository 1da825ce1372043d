//! What is packaged is what the program is: manual and completions, the installed site file, the unit; and the ways to build it agree.
//!
//! Built packages are judged by `packaging/check-deb` and tried by `packaging/test-deb`.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use taktbus::config::{self, LoadOptions};

/// Architectures by Debian's and by Rust's names.
const ARCHITECTURES: [(&str, &str); 3] = [
    ("amd64", "x86_64-unknown-linux-gnu"),
    ("arm64", "aarch64-unknown-linux-gnu"),
    ("armhf", "armv7-unknown-linux-gnueabihf"),
];

/// The oldest glibc that the packages promise to run with: Debian 11's.
const GLIBC: &str = "2.31";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A folder of this process and test, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("taktbus-packaging-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn taktbus(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_taktbus")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The subcommands that `--help` lists.
fn subcommands() -> Vec<String> {
    let help = text(&taktbus(&["--help"]).stdout);
    let listed = help.split_once("Commands:").unwrap().1.split_once("Options:").unwrap().0;
    let names =
        listed.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
    let names: Vec<_> = names.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    assert!(names.contains(&"run".to_owned()) && names.len() > 10, "{names:?}");
    names.into_iter().filter(|name| name != "help").collect()
}

/// The long options that `--help` of a subcommand lists.
fn options(subcommand: &str) -> Vec<String> {
    let help = text(&taktbus(&[subcommand, "--help"]).stdout);
    let lines = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let words =
        lines.flat_map(|line| line.split([' ', ',', '[']).take(4).map(str::to_owned).collect::<Vec<_>>());
    words.filter(|word| word.starts_with("--")).map(|word| word.trim_end_matches("...").to_owned()).collect()
}

#[test]
fn the_manual_has_a_page_for_each_subcommand_with_all_its_options() {
    let folder = Folder::new("man");
    let made = taktbus(&["generate", "man", folder.0.to_str().unwrap()]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let page = |name: &str| fs::read_to_string(folder.0.join(format!("{name}.1"))).unwrap_or_default();
    for name in subcommands() {
        let manual = page(&format!("taktbus-{name}"));
        assert!(page("taktbus").contains(&name.replace('-', "\\-")), "taktbus(1) names {name}");
        for option in options(&name) {
            assert!(manual.contains(&option.replace('-', "\\-")), "taktbus-{name}(1) has {option}");
        }
    }
    assert!(page("taktbus-generate").is_empty(), "what is hidden in the help is hidden in the manual");
}

#[test]
fn three_shells_complete_each_subcommand() {
    let folder = Folder::new("completions");
    let made = taktbus(&["generate", "completions", folder.0.to_str().unwrap()]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    for file in ["taktbus.bash", "_taktbus", "taktbus.fish"] {
        let completions = fs::read_to_string(folder.0.join(file)).unwrap();
        for name in subcommands() {
            assert!(completions.contains(&name), "{file} completes {name}");
        }
    }
    // What a shell makes of it, and not only what stands in it.
    let script = "source taktbus.bash; COMP_WORDS=(taktbus explain-); COMP_CWORD=1; COMP_TYPE=9; \
                  _taktbus taktbus explain- taktbus; echo ${COMPREPLY[@]}";
    let bash = Command::new("bash").args(["-c", script]).current_dir(&folder.0).output().unwrap();
    assert_eq!(text(&bash.stdout).trim(), "explain-code", "{}", text(&bash.stderr));
}

#[test]
fn the_installed_site_file_has_no_findings() {
    let path = root().join("packaging/etc/gateway.yaml");
    let options = LoadOptions {
        mapping_dirs: vec![root().join("mappings")],
        look_for_secrets: true,
        ..LoadOptions::default()
    };
    let loaded = config::load(&path, &options);
    let findings: Vec<String> = loaded.diagnostics.iter().map(ToString::to_string).collect();
    assert!(loaded.site.is_some() && findings.is_empty(), "{findings:#?}");
    // It runs before anyone has changed it, and must not talk to a stranger's network.
    let written = read("packaging/etc/gateway.yaml");
    let addresses: Vec<&str> = written
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter(|line| ["tcp:", "rtu:", "opcua:", "mqtt:", "http:"].iter().any(|key| line.contains(key)))
        .collect();
    assert_eq!(addresses.len(), 3, "{addresses:?}");
    assert!(
        addresses.iter().all(|line| line.contains("127.0.0.1") || line.contains("localhost")),
        "{addresses:?}"
    );
}

/// The commented lines of the installed site file are there to be uncommented, so they must be right too.
#[test]
fn its_commented_examples_are_right_too() {
    const KEYS: [&str; 6] = ["line", "bridge", "plc", "oven", "cloud", "api"];
    let mut uncommented = String::new();
    let mut in_example = false;
    for line in read("packaging/etc/gateway.yaml").lines() {
        // The comment sign of an example stands where its first space of indentation was.
        let starts = line
            .strip_prefix("# ")
            .and_then(|rest| rest.split_once(':'))
            .is_some_and(|(key, _)| KEYS.contains(&key));
        in_example = starts || (in_example && line.starts_with("#   "));
        uncommented.push_str(&if in_example { line.replacen('#', " ", 1) } else { line.to_owned() });
        uncommented.push('\n');
    }
    let found: Vec<&str> =
        uncommented.lines().filter_map(|line| line.strip_prefix("  ")?.split(':').next()).collect();
    assert!(KEYS.iter().all(|key| found.contains(key)), "{found:?}\n{uncommented}");
    let options = LoadOptions { mapping_dirs: vec![root().join("mappings")], ..LoadOptions::default() };
    let loaded = config::load_text("gateway.yaml", &uncommented, &options);
    let errors: Vec<String> = loaded
        .diagnostics
        .iter()
        // A connection without devices is worth a warning, which the reader of the example would get too.
        .filter(|finding| finding.severity == taktbus::model::diagnostic::Severity::Error)
        .map(ToString::to_string)
        .collect();
    assert!(loaded.site.is_some() && errors.is_empty(), "{errors:#?}\n{uncommented}");
}

#[test]
fn cross_builds_what_the_packages_are_built_of() {
    let script = read("packaging/build-deb");
    let cross = read("Cross.toml");
    let image = read("packaging/Dockerfile.cross");
    let crates = read("packaging/crates.py");
    let of_cross: BTreeSet<&str> = cross
        .lines()
        .filter_map(|line| line.strip_prefix("[target.")?.strip_suffix(".dockerfile]"))
        .collect();
    assert_eq!(of_cross, ARCHITECTURES.iter().map(|(_, target)| *target).collect());
    for (architecture, target) in ARCHITECTURES {
        assert!(
            script.contains(&format!("[{architecture}]={target}")),
            "packaging/build-deb builds {architecture}"
        );
        assert!(crates.contains(&format!("\"{target}\"")), "packaging/crates.py knows {target}");
        let linker = format!("CARGO_TARGET_{}_LINKER=target-cc", target.to_uppercase().replace('-', "_"));
        let compiler = format!("CC_{}=target-cc", target.replace('-', "_"));
        assert!(
            image.contains(&linker) && image.contains(&compiler),
            "the image of cross builds for {target}"
        );
    }
    let zigs: Vec<&str> = cross.lines().filter(|line| line.contains("ZIG = ")).collect();
    assert_eq!(zigs.len(), ARCHITECTURES.len());
    assert!(zigs.iter().all(|line| line.contains(&format!(".{GLIBC}"))), "{zigs:?}");
    assert!(script.contains(&format!("GLIBC={GLIBC} ")), "packaging/build-deb links against glibc {GLIBC}");
    assert!(read("packaging/check-deb").contains(&format!("GLIBC={GLIBC}\n")));
    assert!(depends().contains(&format!("libc6 (>= {GLIBC})")), "{}", depends());
    // The same tools in both, and the same program: there are no features to choose.
    let tools = read("packaging/tools");
    for (name, variable) in [("ziglang", "ZIGLANG="), ("cargo-zigbuild", "ZIGBUILD=")] {
        let version = tools.lines().find_map(|line| line.strip_prefix(variable)).unwrap();
        assert!(image.contains(&format!("{name}=={version}")), "the image of cross has {name} {version}");
    }
    for (what, text) in [("build-deb", &script), ("Cross.toml", &cross), ("Dockerfile.cross", &image)] {
        assert!(!text.contains("features"), "{what} chooses features");
    }
    assert!(!read("Cargo.toml").contains("\n[features]\n"), "packages have everything");
}

fn depends() -> String {
    let manifest = read("Cargo.toml");
    let depends = manifest.lines().find(|line| line.starts_with("depends = ")).unwrap();
    depends.to_owned()
}

#[test]
fn what_is_packaged_is_there_and_the_changelog_has_the_version() {
    let manifest = read("Cargo.toml");
    let assets = manifest.split_once("\nassets = [").unwrap().1.split_once("\n]").unwrap().0;
    let mut sources: Vec<&str> =
        assets.lines().filter_map(|line| line.trim().strip_prefix("[\"")?.split('"').next()).collect();
    assert!(sources.len() > 8, "{sources:?}");
    sources.retain(|source| !source.starts_with("target/"));
    for source in sources {
        let folder = source.split('*').next().unwrap();
        assert!(root().join(folder).exists(), "{source}");
    }
    let changelog = read("packaging/debian/changelog");
    let version = format!("taktbus ({}) ", env!("CARGO_PKG_VERSION"));
    assert!(changelog.starts_with(&version), "packaging/debian/changelog begins with {version}");
}

#[test]
fn the_service_runs_what_is_installed_and_is_hardly_exposed() {
    let path = root().join("packaging/debian/taktbus.service");
    let unit = fs::read_to_string(&path).unwrap();
    for line in [
        "ExecStart=/usr/bin/taktbus run --or-last-good /etc/taktbus/gateway.yaml",
        "User=taktbus",
        "SupplementaryGroups=dialout",
        "StateDirectory=taktbus",
        "RuntimeDirectory=taktbus",
        "CapabilityBoundingSet=",
        "RestartPreventExitStatus=2",
    ] {
        assert!(unit.lines().any(|has| has == line), "the unit has no line {line}");
    }
    let judged = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=13", "--no-pager"])
        .arg(&path)
        .output();
    match judged {
        Err(_) => eprintln!("skipped: no systemd-analyze here, so nobody judges the unit"),
        Ok(judged) if text(&judged.stderr).contains("--offline") => {
            eprintln!("skipped: this systemd-analyze can't judge a file")
        }
        Ok(judged) => assert!(judged.status.success(), "{}{}", text(&judged.stdout), text(&judged.stderr)),
    }
}

#[test]
fn an_armv6_is_refused_before_anything_is_installed() {
    let folder = Folder::new("uname");
    let fake = folder.0.join("uname");
    let path = format!("{}:{}", folder.0.display(), std::env::var("PATH").unwrap());
    let on = |machine: &str| {
        fs::write(&fake, format!("#!/bin/sh\necho {machine}\n")).unwrap();
        fs::set_permissions(&fake, fs::Permissions::from_mode(0o755)).unwrap();
        let script = root().join("packaging/debian/preinst");
        Command::new("sh").arg(script).arg("install").env("PATH", &path).output().unwrap()
    };
    for machine in ["armv7l", "armv8l", "aarch64", "x86_64"] {
        let done = on(machine);
        assert!(done.status.success(), "{machine}: {}", text(&done.stderr));
    }
    let refused = on("armv6l");
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("needs an ARMv7 processor"), "{}", text(&refused.stderr));
}
