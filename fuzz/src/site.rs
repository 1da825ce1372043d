//! What holds of everything that YAML may become: findings that can be shown, and plans that can be run.

use serde_json::Value;
use taktbus::config::Loaded;
use taktbus::config::plan::{Protocol, Site};
use taktbus::document::codes;
use taktbus::drivers::Plan;
use taktbus::drivers::modbus::ModbusPlan;
use taktbus::drivers::modbus::compile::PlannedDevice;
use taktbus::drivers::modbus::decode::cut;
use taktbus::drivers::opcua::OpcuaPlan;
use taktbus::mapping::transform::evaluate;
use taktbus::model::diagnostic::{Diagnostic, MAX_FINDINGS, Severity};
use taktbus::model::time::Stamp;
use taktbus::pipeline::encode;

/// The longest that one finding may be on the screen, in bytes: its message, an excerpt and a help.
const LONGEST_FINDING: usize = 4 << 10;

/// Judges findings, one by one.
pub fn judge_findings(found: &[Diagnostic]) {
    assert!(found.len() <= MAX_FINDINGS + 1);
    for finding in found {
        assert!(codes::TABLE.iter().any(|code| code.code == finding.code), "{}", finding.code);
        if let Some(span) = &finding.span {
            let (text, range) = (&span.file.text, &span.range);
            assert!(
                range.start <= range.end && range.end <= text.len(),
                "{range:?} of {}: {finding}",
                text.len()
            );
            assert!(text.is_char_boundary(range.start), "{finding}");
            let (line, column) = span.line_column();
            assert!(line <= text.lines().count().max(1) + 1 && column <= text.len() + 1, "{finding}");
        }
        let shown = finding.to_string();
        assert!(
            !finding.message.is_empty() && shown.len() <= LONGEST_FINDING,
            "{} bytes: {shown}",
            shown.len()
        );
        let controls: Vec<char> = shown.chars().filter(|c| c.is_control() && *c != '\n').collect();
        assert!(controls.is_empty(), "{controls:?} reach the terminal: {shown:?}");
    }
}

/// Judges a site with its findings: there is one, or an error that says why there is none.
pub fn judge(loaded: Loaded) {
    judge_findings(&loaded.diagnostics);
    let has_errors = loaded.diagnostics.iter().any(|finding| finding.severity == Severity::Error);
    assert!(loaded.site.is_some() || has_errors, "nothing says why there is no plan");
    let is_sound = loaded.is_sound();
    if let Some(site) = loaded.site {
        judge_plans(site, is_sound);
    }
}

/// Plans a site that passed `check`: no plan may be refused that `check` has let pass.
fn judge_plans(site: Site, is_sound: bool) {
    for connection in site.connections {
        let config = match connection.protocol {
            Protocol::Modbus(config) => config,
            Protocol::Opcua(config) => {
                judge_nodes(OpcuaPlan::compile(config, connection.devices));
                continue;
            }
        };
        let plan = ModbusPlan::compile(config, connection.devices);
        let plan = plan.unwrap_or_else(|errors| panic!("`check` has let it pass: {errors:?}"));
        let fit = plan.fit();
        assert!(fit.load >= 0.0 && (fit.fits || !is_sound));
        for device in &plan.devices {
            judge_device(&site.name, device);
        }
        let plan = Plan::Modbus(plan);
        assert!(!plan.link().is_empty());
        for read in &fit.reads {
            assert!(!plan.describe(read.demand.device, read.demand.read).is_empty());
        }
    }
}

/// Each published point of OPC UA devices is in one read, which has all that it needs.
fn judge_nodes(plan: OpcuaPlan) {
    for (at, planned) in plan.devices.iter().enumerate() {
        let published = planned.device.map.points.iter().filter(|point| point.published).count();
        let mut reads = planned.reads.iter();
        assert_eq!(reads.clone().map(|read| read.publishes.len()).sum::<usize>(), published);
        assert!(reads.all(|read| read.publishes.iter().all(|ix| read.points.contains(ix))));
        (0..planned.reads.len()).for_each(|read| assert!(!plan.describe(at, read).is_empty()));
    }
    assert!(!Plan::Opcua(plan).link().is_empty());
}

/// Its requests are within what the device allows, and what comes back can be told in a message.
fn judge_device(site: &str, planned: &PlannedDevice) {
    let device = &planned.device;
    assert_eq!(planned.reads.len(), planned.exchanges.len());
    for (read, exchange) in planned.reads.iter().zip(&planned.exchanges) {
        for block in &exchange.blocks {
            assert!((1..=device.limits.max_count(block.table)).contains(&block.count), "{block:?}");
            assert!(block.end() <= 0x1_0000, "{block:?}");
        }
        assert_eq!(exchange.cuts.len(), read.readings.len());
        assert!(read.publishes.iter().all(|ix| read.points.contains(ix)));
        let again = exchange.repeat_first.then(|| exchange.blocks[0]);
        let length: usize = exchange.blocks.iter().chain(&again).map(|block| block.bytes()).sum();
        for fill in [0x00, 0xFF, 0x80, 0x7F, 0x01] {
            let data: Vec<u8> = (0..length).map(|at| if at % 2 == 0 { fill } else { !fill | fill }).collect();
            let readings: Vec<_> = exchange.cuts.iter().map(|place| cut(place, &data)).collect();
            let mut samples = Vec::new();
            evaluate(&device.map, read, &readings, &mut Vec::new(), &mut samples);
            assert_eq!(samples.len(), read.points.len());
            samples.retain(|(ix, _)| read.publishes.contains(ix));
            let prefix = encode::prefix(site, &device.name);
            let stamp = Stamp::from_unix_micros(0).expect("1970");
            let mut message = Vec::new();
            let heading = encode::Heading { prefix: &prefix, stamp, epoch: 1, seq: 1 };
            encode::data(&heading, &device.map.points, samples.iter(), &[], &mut message);
            let json: Value = serde_json::from_slice(&message).expect("a message is JSON");
            let count = |key| json[key].as_object().map_or(0, serde_json::Map::len);
            assert_eq!(count("values") + count("bad"), samples.len(), "{json}");
        }
    }
}
