//! `taktbus probe` and `taktbus scan`, the binary itself, against foreign servers: a tokio-modbus server on a socket and
//! on a pseudo-terminal.

#![allow(clippy::unwrap_used)] // also outside the test functions

use std::future::{Ready, ready};
use std::process::Output;
use std::time::Duration;

use serde_json::Value as Json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_modbus::prelude::{
    ConformityLevel, DeviceIdObject, ExceptionCode, ReadCode, ReadDeviceIdentificationResponse, Request,
    Response, SlaveRequest,
};
use tokio_modbus::server::tcp::accept_tcp_connection;
use tokio_modbus::server::{Service, rtu, tcp};
use tokio_serial::{SerialPort, SerialStream};

/// How long one command may take on a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(60);

/// Holding registers 98 to 111, of which 106 and 107 are a hole, and 110 and 111 can only be read together. Unit 2 has
/// input registers only, unit 3 nothing that could be read; whoever else is asked does not answer.
#[derive(Clone)]
struct Plant;

const HELD: [u16; 14] = [0, 0, 0x6666, 0x4366, 2304, 0, 0xFFFF, 0xFB2E, 0, 0, 0x4142, 0x4300, 1, 2];

impl Plant {
    fn holding(address: u16, count: u16) -> Result<Vec<u16>, ExceptionCode> {
        let end = address + count;
        let half = |edge: u16| edge == 111;
        let hole = address < 108 && end > 106;
        if address < 98 || end > 112 || hole || half(address) || half(end) {
            return Err(ExceptionCode::IllegalDataAddress);
        }
        Ok(HELD[usize::from(address - 98)..usize::from(end - 98)].to_vec())
    }
}

impl Plant {
    fn identity() -> ReadDeviceIdentificationResponse {
        let text = |id, value: &'static str| DeviceIdObject { id, value: value.as_bytes().into() };
        ReadDeviceIdentificationResponse {
            read_code: ReadCode::Basic,
            conformity_level: ConformityLevel::BasicIdentificationStreamOnly,
            more_follows: false,
            next_object_id: 0,
            device_id_objects: vec![text(0, "ACME"), text(1, "M-1"), text(2, "2.07")],
        }
    }
}

impl Service for Plant {
    type Request = SlaveRequest<'static>;
    type Response = Option<Response>;
    type Exception = ExceptionCode;
    type Future = Ready<Result<Option<Response>, ExceptionCode>>;

    fn call(&self, request: Self::Request) -> Self::Future {
        ready(match (request.slave, request.request) {
            (1, Request::ReadHoldingRegisters(a, n)) => {
                Self::holding(a, n).map(|words| Some(Response::ReadHoldingRegisters(words)))
            }
            (1, Request::ReadCoils(a, n)) if a + n <= 16 => {
                Ok(Some(Response::ReadCoils((a..a + n).map(|a| a % 3 == 0).collect())))
            }
            (1, Request::ReadCoils(..)) => Err(ExceptionCode::IllegalDataAddress),
            (2, Request::ReadInputRegisters(a, n)) => {
                Ok(Some(Response::ReadInputRegisters((a..a + n).collect())))
            }
            (2, Request::ReadHoldingRegisters(..)) => Ok(None),
            (1, Request::ReadDeviceIdentification(..)) => {
                Ok(Some(Response::ReadDeviceIdentification(Self::identity())))
            }
            (1..=3, _) => Err(ExceptionCode::IllegalFunction),
            _ => Ok(None),
        })
    }
}

async fn tcp_plant() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let serve =
            |stream, address| async move { accept_tcp_connection(stream, address, |_| Ok(Some(Plant))) };
        tcp::Server::new(listener).serve(&serve, |_| {}).await
    });
    format!("tcp://127.0.0.1:{port}")
}

/// The far side of a pseudo-terminal; the file keeps it alive between two openings.
fn line_plant() -> (String, std::fs::File) {
    let (far, mut near) = SerialStream::pair().unwrap();
    let path = near.name().unwrap();
    near.set_exclusive(false).unwrap();
    let keep = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    drop(near);
    tokio::spawn(rtu::Server::new(far).serve_forever(Plant));
    (format!("rtu://{path}?baud=115200&format=8N1"), keep)
}

async fn taktbus(arguments: &[&str]) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_taktbus"));
    command.args(arguments);
    let run = tokio::task::spawn_blocking(move || command.output().unwrap());
    tokio::time::timeout(PATIENCE, run).await.unwrap().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

async fn json(arguments: &[&str]) -> Json {
    let output = taktbus(&[arguments, &["--json"]].concat()).await;
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)))
}

/// The line to paste of the likeliest reading.
async fn best(connection: &str, address: &str, expect: &str) -> Json {
    // A busy machine may take longer than an answer is usually waited for.
    let more = ["--expect", expect, "--timeout", "10s"];
    json(&[&["probe", connection, "1", "holding", address][..], &more].concat()).await["likely"][0]["yaml"]
        .clone()
}

#[tokio::test]
async fn quirk_02_the_expected_value_is_found_with_its_type_order_scale_and_address() {
    let plant = tcp_plant().await;
    assert_eq!(
        best(&plant, "100", "230±10").await,
        "holding_100: {holding: 100, type: float32, order: CDAB}"
    );
    assert_eq!(best(&plant, "102", "230.4").await, "holding_102: {holding: 102, type: uint16, scale: 0.1}");
    assert_eq!(best(&plant, "104", "-123.4").await, "holding_104: {holding: 104, type: int32, scale: 0.1}");
}

#[tokio::test]
async fn a_hole_is_read_around_and_a_value_that_must_be_read_whole_is() {
    let plant = tcp_plant().await;
    let seen = json(&["probe", &plant, "1", "holding", "104", "7", "--timeout", "10s"]).await;
    let known: Vec<u64> =
        seen["registers"].as_array().unwrap().iter().map(|r| r["address"].as_u64().unwrap()).collect();
    assert_eq!(known, [102, 103, 104, 105, 108, 109, 110, 111]);
    let refused: Vec<u64> =
        seen["refused"].as_array().unwrap().iter().map(|r| r["address"].as_u64().unwrap()).collect();
    assert_eq!(refused, [106, 107, 112, 113, 114]);
    assert!(seen["requests"].as_u64().unwrap() < 30, "{seen}");
}

#[tokio::test]
async fn what_cannot_be_read_is_said_and_fails() {
    let plant = tcp_plant().await;
    for (arguments, code, expected) in [
        (
            ["3", "holding", "0"],
            1,
            "unit 3 does not have function code 3, which reads holding (exception 1); try input",
        ),
        (["7", "holding", "0"], 1, "unit 7 does not answer: taktbus scan finds units"),
        (["1", "holding", "70000"], 2, "an address is 0 to 65535"),
        (["1", "registers", "0"], 2, "invalid value 'registers'"),
    ] {
        let output = taktbus(&[&["probe", &plant][..], &arguments, &["--timeout", "300ms"]].concat()).await;
        assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
    }
    let alone = taktbus(&["probe", &plant, "1", "holding", "106", "2", "--timeout", "10s"]).await;
    assert_eq!(alone.status.code(), Some(1), "what was asked for is a hole");
    assert!(text(&alone.stdout).contains("exception 2 (illegal data address)"));
    for (connection, expected) in
        [("tcp://127.0.0.1:1", "Connection refused"), ("rtu:///dev/there-is-no-such-port", "no such device")]
    {
        let output = taktbus(&["probe", connection, "1", "holding", "0"]).await;
        assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
        assert_eq!(output.status.code(), Some(1));
    }
    for connection in ["192.168.1.50", "udp://x", "tcp://x:y", "rtu:///dev/ttyS0?speed=9600"] {
        let output = taktbus(&["probe", connection, "1", "holding", "0"]).await;
        assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    }
}

#[tokio::test]
async fn bits_are_shown_with_their_neighbours() {
    let plant = tcp_plant().await;
    let seen = json(&["probe", &plant, "1", "coil", "9", "--timeout", "10s"]).await;
    let bits: Vec<u64> =
        seen["registers"].as_array().unwrap().iter().map(|r| r["value"].as_u64().unwrap()).collect();
    assert_eq!(bits, [0, 0, 1, 0, 0, 1, 0], "7 to 13");
}

#[tokio::test]
async fn a_probe_prints_what_is_expected() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/looking_around.txt");
    let plant = tcp_plant().await;
    let mut transcript = String::new();
    for line in [
        "1 holding 100 --expect 230±10",
        "1 holding 102 --expect=230.4",
        "1 holding 104 3 --expect -123.4",
        "1 holding 0x64",
        "1 holding 100 --expect 5000..5001",
        "1 coil 0 4",
    ] {
        let arguments: Vec<&str> = line.split(' ').collect();
        let output = taktbus(&[&["probe", &plant][..], &arguments, &["--timeout", "10s"]].concat()).await;
        transcript += &format!("$ taktbus probe {line}\n{}\n", text(&output.stdout));
    }
    // Ports and times differ from run to run.
    let plain: Vec<&str> = transcript
        .lines()
        .map(|line| {
            if line.starts_with("tcp ") {
                &line[line.find(", unit").unwrap() + 2..line.rfind(", ").unwrap()]
            } else {
                line
            }
        })
        .collect();
    let transcript = plain.join("\n") + "\n";
    if std::env::var_os("TAKTBUS_BLESS").is_some() {
        std::fs::write(&file, &transcript).unwrap();
    }
    assert_eq!(transcript, std::fs::read_to_string(&file).unwrap_or_default());
}

/// The unit ids that a scan finds.
fn units(scan: &Json) -> Vec<u64> {
    scan["units"].as_array().unwrap().iter().map(|unit| unit["unit_id"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn a_scan_finds_who_answers_or_refuses() {
    let plant = tcp_plant().await;
    let scan = json(&["scan", &plant, "--units", "0..5,255", "--timeout", "1s"]).await;
    assert_eq!(units(&scan), [1, 2, 3]);
    assert_eq!(scan["units"][0]["exception"], 2);
    let identity = serde_json::json!({ "vendor": "ACME", "product_code": "M-1", "revision": "2.07" });
    assert_eq!(scan["units"][0]["identity"], identity);
    assert_eq!(scan["units"][2]["identity"], Json::Null);
    assert_eq!(scan["units"][1]["function"], 4, "silent to function code 3");
    assert_eq!(scan["units"][2]["exception"], 1);
    let none = taktbus(&["scan", &plant, "--units", "8,9", "--timeout", "100ms"]).await;
    assert_eq!((none.status.code(), text(&none.stdout)), (Some(1), "nobody answers\n"));
    assert!(text(&none.stderr).contains("nothing else may talk"));
}

#[tokio::test]
async fn a_line_is_scanned_and_probed_with_its_settings() {
    let (line, keep) = line_plant();
    let scan = json(&["scan", &line, "--units", "1..3", "--timeout", "1s", "--bauds", "57600,115200"]).await;
    // A pseudo-terminal has no speed: both find all.
    assert_eq!(units(&scan), [1, 1, 2, 2, 3, 3]);
    assert_eq!(scan["units"][0]["line"], "57600 8N1");
    assert_eq!(scan["units"][0]["identity"]["vendor"], "ACME");
    let fits = best(&line, "100", "230±10").await;
    assert_eq!(fits, "holding_100: {holding: 100, type: float32, order: CDAB}");
    let wrong = taktbus(&["scan", &line, "--units", "0..4"]).await;
    assert_eq!(wrong.status.code(), Some(2), "0 is the broadcast");
    drop(keep);
}

#[tokio::test]
async fn a_connection_can_be_named_by_its_site_file() {
    let plant = tcp_plant().await;
    let site = std::env::temp_dir().join(format!("taktbus-probe-{}.yaml", std::process::id()));
    let target = plant.trim_start_matches("tcp://");
    let text_of = format!(
        "site: s\nconnections: {{lan: {{tcp: {target:?}}}}}\ndevices: {{m: {{via: lan, every: 1s, points: {{a: {{coil: 0}}}}}}}}\n\
         publish: {{x: {{mqtt: \"mqtt://localhost:1883\"}}}}\n"
    );
    std::fs::write(&site, text_of).unwrap();
    let path = site.to_str().unwrap();
    let seen = json(&["probe", "--site", path, "lan", "1", "holding", "100", "--timeout", "10s"]).await;
    assert_eq!(seen["registers"][2]["value"], 0x6666);
    let unknown = taktbus(&["probe", "--site", path, "wan", "1", "holding", "100"]).await;
    assert!(text(&unknown.stderr).contains("no connection 'wan' in the site; it has: lan"));
    assert_eq!(unknown.status.code(), Some(2));
    std::fs::remove_file(site).unwrap();
}

/// A server that closes after each answer, and at once when it's asked for a unit that it does not have.
async fn closing_plant() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = [0; 12];
            if socket.read_exact(&mut request).await.is_ok() && request[6] == 5 && request[7] == 3 {
                let count = request[11];
                let mut answer = [&request[..4], &[0, 3 + 2 * count, 5, 3, 2 * count]].concat();
                answer.extend(std::iter::repeat_n([0x01, 0x02], usize::from(count)).flatten());
                let _ = socket.write_all(&answer).await;
            }
        }
    });
    format!("tcp://127.0.0.1:{port}")
}

#[tokio::test]
async fn a_server_that_closes_after_each_answer_is_probed_and_scanned() {
    let plant = closing_plant().await;
    let seen = json(&["probe", &plant, "5", "holding", "100", "--timeout", "10s"]).await;
    assert_eq!(seen["registers"][0]["value"], 0x0102);
    let scan = json(&["scan", &plant, "--units", "1..6", "--timeout", "10s", "--functions", "3"]).await;
    assert_eq!(units(&scan), [5]);
}

#[tokio::test]
async fn an_interrupted_scan_prints_what_was_found() {
    let plant = tcp_plant().await;
    let mut scan = std::process::Command::new(env!("CARGO_BIN_EXE_taktbus"))
        .args(["-v", "scan", &plant, "--units", "1,3,100..200", "--timeout", "30s", "--functions", "3"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let process = rustix::process::Pid::from_child(&scan);
    let ended = tokio::task::spawn_blocking(move || {
        // It says whom it found: units 1 and 3 have answered, and 100 never will.
        let mut log = std::io::BufReader::new(scan.stderr.take().unwrap());
        let mut answers = std::io::BufRead::lines(&mut log)
            .filter(|line| line.as_ref().unwrap().contains("somebody answers"));
        assert!(answers.next().is_some() && answers.next().is_some(), "it ended");
        rustix::process::kill_process(process, rustix::process::Signal::INT).unwrap();
        scan.wait_with_output().unwrap()
    });
    let output = tokio::time::timeout(PATIENCE, ended).await.unwrap().unwrap();
    assert!(text(&output.stdout).contains("2 of 103 unit ids"), "{}", text(&output.stdout));
    assert_eq!(output.status.code(), Some(0));
}
