//! What an OpenTelemetry receiver gets that we did not write: opentelemetry-proto decodes it.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::SOON;
use crate::broker::Broker;
use crate::folder::Folder;
use crate::gateway::Gateway;
use crate::peers::{Device, Peer, needs};
use crate::process::Process;

const TOKEN: &str = "correct-horse";

fn receiver(port: u16) -> (Process, u16) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/otlp_receiver.py");
    let mut command = Peer::OpentelemetryProto.command();
    let mut process = Process::start("otlp_receiver", command.arg(script).args([&port.to_string(), TOKEN]));
    let port =
        process.line_where(SOON, "listening", |line| line.strip_prefix("listening ")?.parse::<u16>().ok());
    (process, port)
}

fn start(folder: &Folder, device: &Device, broker: &Broker, port: u16, token: &str) -> Gateway {
    let site = format!(
        "site: test\ntelemetry: {{otlp: 'http://127.0.0.1:{port}', every: 1s, bearer: {{file: {}}}, headers: {{X-Site: '{{site}}'}}}}\n\
         connections:\n  peer: {{tcp: 127.0.0.1:{}}}\ndevices:\n  \
         d1: {{via: peer, unit_id: 1, every: 100ms, points: {{speed: {{holding: 5, type: uint16}}}}}}\n\
         publish:\n  local: {{mqtt: mqtt://127.0.0.1:{}}}\n",
        folder.write("token", token).display(),
        device.place,
        broker.port
    );
    Gateway::run(&folder.write("site.yaml", &site))
}

/// A request in which messages have been delivered.
fn told(line: &str) -> Option<Value> {
    assert!(!line.starts_with("wrong: "), "{line}");
    let told: Value = serde_json::from_str(line).ok()?;
    let delivered = told["metrics"]["taktbus_messages_delivered_total"]["points"][0]["number"].as_f64()?;
    (delivered > 0.0).then_some(told)
}

#[test]
fn a_receiver_decodes_the_metrics_and_one_that_is_away_is_told_once() {
    needs!(Pymodbus, Mosquitto, OpentelemetryProto);
    let folder = Folder::new("telemetry");
    let device = Device::pymodbus("tcp");
    let broker = Broker::open(&folder);
    let (mut process, port) = receiver(0);
    let mut gateway = start(&folder, &device, &broker, port, TOKEN);
    let first = process.line_where(SOON, "a request", told);
    assert_eq!((&first["path"], &first["encoding"]), (&"/v1/metrics".into(), &"gzip".into()));
    assert_eq!(first["resource"]["service.instance.id"], "test");
    let metrics = &first["metrics"];
    let polls = &metrics["taktbus_polls_total"];
    assert_eq!(
        (&polls["kind"], &polls["monotonic"], &polls["temporality"]),
        (&"sum".into(), &true.into(), &2.into())
    );
    assert_eq!(
        polls["points"][0]["labels"],
        serde_json::json!({"connection": "peer", "device": "d1", "outcome": "answered"})
    );
    assert_eq!(metrics["taktbus_device_online"]["kind"], "gauge");
    let latency = &metrics["taktbus_latency_seconds"];
    assert_eq!((&latency["kind"], &latency["unit"]), (&"histogram".into(), &"s".into()));
    let point = &latency["points"][0];
    let buckets: Vec<u64> =
        point["buckets"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
    assert_eq!(buckets.len(), point["bounds"].as_array().unwrap().len() + 1);
    assert_eq!(Some(buckets.iter().sum()), point["count"].as_u64());
    assert_eq!(metrics["taktbus_stage_seconds"]["kind"], "summary");

    let next = process.line_where(SOON, "the next request", told);
    let of =
        |told: &Value, key: &str| told["metrics"]["taktbus_polls_total"]["points"][0][key].as_f64().unwrap();
    assert!(of(&next, "number") > of(&first, "number") && of(&next, "time") > of(&first, "time"));
    assert_eq!(of(&next, "start"), of(&first, "start"));

    process.signal("KILL");
    process.finish(SOON);
    gateway.0.line_where(SOON, "the loss", |line| line.contains("telemetry is not taken").then_some(()));
    // Long enough for more than one try.
    std::thread::sleep(Duration::from_millis(2_500));
    let (mut process, _) = receiver(port);
    let again = process.line_where(SOON, "a request after the return", told);
    // Nobody who reads has missed anything, and the device was read all the while.
    assert!(of(&again, "number") > of(&next, "number") + 10.0);
    gateway.0.line_where(SOON, "the return", |line| line.contains("telemetry is taken again").then_some(()));
    let story = gateway.end();
    assert_eq!(story.matches("telemetry is not taken").count(), 1, "{story}");
    assert!(!story.contains(TOKEN), "{story}");
}

#[test]
fn a_receiver_that_refuses_is_told_with_its_answer() {
    needs!(Pymodbus, Mosquitto, OpentelemetryProto);
    let folder = Folder::new("telemetry-refused");
    let device = Device::pymodbus("tcp");
    let broker = Broker::open(&folder);
    let (_process, port) = receiver(0);
    let mut gateway = start(&folder, &device, &broker, port, "wrong-horse");
    gateway.0.line_where(SOON, "the refusal", |line| {
        (line.contains("telemetry is not taken") && line.contains("HTTP 401")).then_some(())
    });
    gateway.end();
}
