//! The listener for monitoring, as Prometheus and a balancer see it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use tokio::time::Instant;

use crate::SOON;
use crate::broker::Broker;
use crate::folder::Folder;
use crate::gateway::Gateway;
use crate::peers::{Device, Peer, needs};

/// A gateway with a device that is read at this interval, and where its listener is.
fn start(folder: &Folder, device: &Device, broker: &Broker, every: &str) -> (Gateway, String) {
    let site = format!(
        "site: test\nlisten: {{http: '127.0.0.1:0'}}\nconnections:\n  peer: {{tcp: 127.0.0.1:{}}}\ndevices:\n  \
         d1: {{via: peer, unit_id: 1, every: {every}, points: {{speed: {{holding: 5, type: uint16}}}}}}\n\
         publish:\n  local: {{mqtt: mqtt://127.0.0.1:{}}}\n",
        device.place, broker.port
    );
    let mut gateway = Gateway::run(&folder.write("site.yaml", &site));
    let address = gateway.0.line_where(SOON, "the listener's address", |line| {
        let (_, rest) = line.split_once("HTTP listener up")?;
        let (_, address) = rest.split_once("127.0.0.1:")?;
        let port: String = address.chars().take_while(char::is_ascii_digit).collect();
        Some(format!("127.0.0.1:{port}"))
    });
    (gateway, address)
}

/// Status and body.
fn get(address: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().to_owned(), body.to_owned())
}

fn number(metrics: &str, line: &str) -> f64 {
    let found = metrics.lines().find_map(|other| other.strip_prefix(line)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {line} in\n{metrics}")).parse().unwrap()
}

/// Asks until the answer is what is wanted.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < SOON * 2, "{what} did not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn promtool_takes_the_metrics_and_readiness_follows_the_values() {
    needs!(Pymodbus, Mosquitto, Promtool);
    let folder = Folder::new("monitoring");
    let mut device = Device::pymodbus("tcp");
    let broker = Broker::open(&folder);
    let (gateway, address) = start(&folder, &device, &broker, "100ms");
    until("readiness", || get(&address, "/health/ready").0 == "200");
    until("a delivered message", || {
        let (status, text) = get(&address, "/metrics");
        assert_eq!(status, "200");
        number(&text, r#"taktbus_messages_delivered_total{route="local",device="d1"}"#) > 0.0
    });
    let (_, text) = get(&address, "/metrics");
    assert!(number(&text, r#"taktbus_polls_total{connection="peer",device="d1",outcome="answered"}"#) > 0.0);
    assert!(number(&text, "process_resident_memory_bytes") > 1e6);
    let mut promtool = Peer::Promtool
        .command()
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let verdict = promtool.wait_with_output().unwrap();
    let said = [verdict.stdout, verdict.stderr].concat();
    assert!(verdict.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));

    device.tell("stop");
    until("the loss of readiness", || {
        let (status, body) = get(&address, "/health/ready");
        status == "503" && body.contains("d1: its last values are")
    });
    assert_eq!(get(&address, "/health/live").0, "200");
    device.tell("start");
    until("readiness again", || get(&address, "/health/ready").0 == "200");
    gateway.end();
}

#[test]
fn a_thousand_slow_connections_move_no_poll() {
    needs!(Pymodbus, Mosquitto);
    let folder = Folder::new("slow-connections");
    let device = Device::pymodbus("tcp");
    let broker = Broker::open(&folder);
    // Long enough that a stall of the machine misses nothing.
    let (gateway, address) = start(&folder, &device, &broker, "3s");
    let answered =
        |text: &str| number(text, r#"taktbus_polls_total{connection="peer",device="d1",outcome="answered"}"#);
    until("the first poll", || answered(&get(&address, "/metrics").1) > 0.0);
    let before = answered(&get(&address, "/metrics").1);
    let mut slow = Vec::new();
    until("three polls", || {
        // The gateway closes what is too much; a few hundred at once are within the usual limit of open files.
        slow.truncate(200);
        for _ in 0..250 {
            let mut stream = TcpStream::connect(&address).unwrap();
            let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nx-slow: ");
            slow.push(stream);
        }
        answered(&get(&address, "/metrics").1) >= before + 3.0
    });
    let (_, text) = get(&address, "/metrics");
    assert_eq!(number(&text, r#"taktbus_missed_ticks_total{connection="peer",device="d1"}"#), 0.0);
    gateway.end();
}
