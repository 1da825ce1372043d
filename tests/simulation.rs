//! `taktbus simulate`: what the devices of a site hold and how they behave, read through the gateway's own command line, and
//! the whole shipped library through it.

#![allow(clippy::unwrap_used)] // also outside the test functions

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use taktbus::config::{self, LoadOptions};
use taktbus::mapping::compiled::Kind;

/// `taktbus simulate`, until it's dropped.
struct Simulated {
    process: Child,
    /// The site with the simulated addresses.
    site: PathBuf,
}

impl Simulated {
    fn start(folder: &Path, site: &str, arguments: &[&str]) -> Self {
        let original = folder.join("site.yaml");
        std::fs::write(&original, site).unwrap();
        let simulated = folder.join("simulated.yaml");
        let mut process = Command::new(env!("CARGO_BIN_EXE_taktbus"))
            .arg("simulate")
            .args([&original, Path::new("--site"), &simulated, Path::new("--mappings"), &mappings()])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("serving until Ctrl-C")), "it ended");
        // What it prints later has nowhere to go, and nothing is printed later.
        Self { process, site: simulated }
    }

    fn read(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_taktbus"))
            .args([Path::new("read"), &self.site, Path::new("--mappings"), &mappings()])
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Values and causes of what is bad, by `device.point`.
    fn values(&self) -> (BTreeMap<String, Value>, BTreeMap<String, Value>) {
        let output = self.read(&["--json", "--timeout", "60s"]);
        let (mut good, mut bad) = (BTreeMap::new(), BTreeMap::new());
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            let message: Value = serde_json::from_str(line).unwrap();
            let device = message["device"].as_str().unwrap();
            for (key, all) in [("values", &mut good), ("bad", &mut bad)] {
                for (point, value) in message[key].as_object().into_iter().flatten() {
                    all.insert(format!("{device}.{point}"), value.clone());
                }
            }
        }
        (good, bad)
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn mappings() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("mappings")
}

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("simulation-{name}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

const PUBLISH: &str = "publish: {local: {mqtt: mqtt://127.0.0.1:1}}\n";

/// A device of each profile with registers, each on a connection of its own.
fn every_profile() -> (String, Vec<(String, config::LoadedProfile)>) {
    let (mut connections, mut devices, mut profiles) = (String::new(), String::new(), Vec::new());
    let names: BTreeSet<&str> = config::built_in_profiles().collect();
    for name in names {
        let loaded = config::load_profile(&mappings().join(format!("{name}.yaml")));
        let map = loaded.map.as_ref().unwrap();
        if map.readings.iter().any(|reading| reading.place.table().is_none()) {
            continue;
        }
        let device = name.replace('/', "_");
        let at = profiles.len();
        writeln!(connections, "  c{at}: {{tcp: 'device{at}:502'}}").unwrap();
        writeln!(devices, "  {device}: {{via: c{at}, profile: {name}, every: 1h}}").unwrap();
        profiles.push((device, loaded));
    }
    assert!(profiles.len() > 30, "only {} profiles", profiles.len());
    (format!("site: all\nconnections:\n{connections}devices:\n{devices}{PUBLISH}"), profiles)
}

/// From the examples' registers, over the wire, through decoding and mapping: what the examples expect.
#[test]
fn every_shipped_profile_reads_from_its_simulated_device_what_its_examples_expect() {
    let (site, profiles) = every_profile();
    let simulated = Simulated::start(&folder("library"), &site, &["--still"]);
    let (good, bad) = simulated.values();
    let (mut faults, mut agreed) = (Vec::new(), 0);
    for (device, profile) in &profiles {
        let mut seen = BTreeSet::new();
        // Where several examples have one register, the device holds what the first one says.
        let first = profile.proven.proofs.iter().filter(|proof| seen.insert(&proof.point));
        for proof in first.filter(|proof| proof.title == profile.proven.proofs[0].title) {
            let name = format!("{device}.{}", proof.point);
            match (good.get(&name), bad.get(&name)) {
                (Some(value), None) if shown(value) == proof.decoded => agreed += 1,
                (None, Some(_)) if proof.expected == "no good value" => agreed += 1,
                read => faults.push(format!("{name}: {read:?}, and the example has {}", proof.decoded)),
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(agreed > 150, "only {agreed} values");
}

/// As `taktbus test` shows a value.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("'{text}'"),
        other => other.to_string(),
    }
}

/// What no example says is plausible: a number that is one, a label that there is.
#[test]
fn what_no_example_says_is_a_good_value_too() {
    let (site, profiles) = every_profile();
    let simulated = Simulated::start(&folder("plausible"), &site, &[]);
    let (good, bad) = simulated.values();
    let mut faults = Vec::new();
    for (device, profile) in &profiles {
        let map = profile.map.as_ref().unwrap();
        let proven: BTreeSet<&str> = profile.proven.proofs.iter().map(|proof| proof.point.as_str()).collect();
        let clocks = map.readings.iter().any(|reading| matches!(reading.decode.kind, Kind::Datetime(_)));
        for point in map.points.iter().filter(|point| point.published && !proven.contains(&*point.name)) {
            let name = format!("{device}.{}", point.name);
            if !good.contains_key(&name) && !clocks {
                faults.push(format!("{name}: {:?}", bad.get(&name)));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

const LINE: &str = "\
site: s
connections:
  line: {rtu: /dev/ttyS7, baud: 115200}
  lan: {tcp: 10.0.0.1:502, response_timeout: 200ms}
devices:
  oven: {via: line, unit_id: 4, every: 1s, points: {temperature: {input: 7, type: int16, scale: 0.1, unit: °C}}}
  pump: {via: lan, every: 1s, points: {pressure: {holding: 0, type: float32, unit: bar}}}
  fan:  {via: lan, unit_id: 2, every: 1s, points: {speed: {holding: 0, type: uint16, unit: rpm}}}
";

#[test]
fn a_line_and_a_dead_device() {
    let simulated = Simulated::start(&folder("line"), &format!("{LINE}{PUBLISH}"), &["--mute", "pump"]);
    let output = simulated.read(&[]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("timeout"), "{text}");
    let (good, _) = simulated.values();
    assert_eq!(good.keys().collect::<Vec<_>>(), ["fan.speed", "oven.temperature"]);
    let temperature = good["oven.temperature"].as_f64().unwrap();
    assert!((20.0..22.0).contains(&temperature), "{temperature}");
}

#[test]
fn an_unknown_device_cannot_be_mute() {
    let site = folder("unknown").join("site.yaml");
    std::fs::write(&site, format!("{LINE}{PUBLISH}")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_taktbus"))
        .args([Path::new("simulate"), &site, Path::new("--mute"), Path::new("pmup")])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text, "error: no device 'pmup' in the site; it has: oven, pump, fan\n");
}

#[test]
fn the_site_itself_is_never_overwritten() {
    let site = folder("itself").join("site.yaml");
    let text = format!("{LINE}{PUBLISH}");
    std::fs::write(&site, &text).unwrap();
    let again = site.with_file_name("..").join("simulation-itself/site.yaml");
    let output = Command::new(env!("CARGO_BIN_EXE_taktbus"))
        .args([
            Path::new("simulate"),
            &site,
            Path::new("--site"),
            &again,
            Path::new("--for"),
            Path::new("1s"),
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(std::fs::read_to_string(&site).unwrap(), text);
}

/// The demo with a site: its devices are simulated, and its broker is left alone.
#[test]
fn the_demo_runs_a_site_without_its_devices_and_without_its_broker() {
    let folder = folder("demo");
    let site = folder.join("site.yaml");
    let broker = "publish: {cloud: {mqtt: 'mqtts://broker.example', user: u, password: {file: nowhere}}}\n";
    std::fs::write(&site, format!("{LINE}{broker}")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_taktbus"))
        .args([Path::new("demo"), &site, Path::new("--for"), Path::new("2s")])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    for expected in [r#""values":{"temperature":"#, r#""values":{"pressure":"#, r#""values":{"speed":"#] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(config::load(&site, &LoadOptions::default()).is_sound());
}

/// OPC UA libraries like to make folders for certificates wherever they are.
#[test]
fn nothing_is_left_in_the_current_directory_nor_among_temporary_files() {
    let folder = folder("leavings");
    let here = folder.join("here");
    std::fs::create_dir(&here).unwrap();
    let (site, simulated) = (folder.join("site.yaml"), folder.join("simulated.yaml"));
    let plant = "site: s\nconnections: {plc: {opcua: 'opc.tcp://plc', security: None}}\ndevices:\n  press: {via: plc, \
                 namespace: 'urn:plant', subscribe: 100ms, points: {speed: {node: s=Speed, type: float64}}}\n";
    std::fs::write(&site, format!("{plant}{PUBLISH}")).unwrap();
    let taktbus = |arguments: &[&Path]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_taktbus"));
        command.args(arguments).current_dir(&here).env("TMPDIR", &here).env_remove("STATE_DIRECTORY");
        command
    };
    let path = Path::new;
    let mut simulating = taktbus(&[path("simulate"), &site, path("--site"), &simulated]);
    let mut simulating = simulating.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(simulating.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("serving until Ctrl-C")), "it ended");
    let read = taktbus(&[path("read"), &simulated, path("--json"), path("--timeout"), path("60s")]).output();
    simulating.kill().unwrap();
    simulating.wait().unwrap();
    let read = read.unwrap();
    assert!(String::from_utf8_lossy(&read.stdout).contains(r#""values":{"speed":"#), "{read:?}");
    let demo = taktbus(&[path("demo"), path("--for"), path("2s")]).output().unwrap();
    assert!(demo.status.success(), "{demo:?}");
    let left: Vec<_> = std::fs::read_dir(&here).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}
