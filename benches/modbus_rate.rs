//! `cargo bench --bench modbus_rate [-- line | tcp [HOST:PORT]]`: how much of what the wire allows the Modbus driver reaches.
//!
//! - line: a simulated RTU device on a pseudo-terminal whose bytes travel at the baud rate and which thinks for a fixed time
//!   before each answer. The theoretical rate is 1 ÷ (request + turnaround + answer + t3.5), with the frames' characters at
//!   11 bits each; t3.5 as MODBUS over serial line V1.02, 2.5.1.1 has it. What the device itself is late with its last
//!   byte, because this machine woke its thread late, belongs to its turnaround.
//! - tcp: requests per second, with one and with several in flight, beside a bare socket loop that does the same exchanges
//!   without looking at them, by turns. The simulator is a second process of this program, or what listens at HOST:PORT.

#![allow(clippy::expect_used)] // a bench that cannot start has nothing to say

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use taktbus::config::{LoadOptions, load_text};
use taktbus::drivers::modbus::config::{Line, Link, ModbusConfig, Parity};
use taktbus::drivers::modbus::framing::crc;
use taktbus::drivers::modbus::{ModbusDriver, ModbusPlan, timing};
use taktbus::drivers::pause::Pause;
use taktbus::drivers::session;
use taktbus::mapping::batch::Event;
use taktbus::metrics::{ConnectionMetrics, DeviceMetrics};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_serial::{SerialPort, SerialStream};
use tokio_util::sync::CancellationToken;

/// Registers per read.
const REGISTERS: u16 = 20;

/// How long each measurement lasts.
const LASTING: Duration = Duration::from_secs(4);

/// The argument that makes this program the simulator.
const SIMULATOR: &str = "simulate";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match args.first().map(String::as_str) {
        Some(SIMULATOR) => runtime.block_on(simulate_tcp()),
        what => {
            if what != Some("tcp") {
                runtime.block_on(line());
            }
            if what != Some("line") {
                runtime.block_on(tcp(args.get(1).map(|at| at.parse().expect("HOST:PORT"))));
            }
        }
    }
}

async fn line() {
    println!(
        "{:>7} {:>11} {:>9} {:>12} {:>12} {:>7}",
        "baud", "turnaround", "late", "possible /s", "reached /s", "share"
    );
    for baud in [9_600, 19_200, 115_200] {
        for turnaround in [Duration::from_millis(2), Duration::from_millis(10)] {
            let settings = Line { baud, data_bits: 8, parity: Parity::Even, stop_bits: 1 };
            let lateness = Arc::new(Lateness::default());
            let path = device(settings, turnaround, lateness.clone());
            let answer = timing::RTU_REPLY_OVERHEAD + 2 * usize::from(REGISTERS);
            let takes = timing::chars(settings, timing::RTU_REQUEST_BYTES + answer)
                + turnaround
                + timing::silence(settings);
            let reached = reads_per_second(ModbusConfig::new(Link::Serial { path, line: settings }), 1).await;
            let late = lateness.mean();
            let possible = 1.0 / (takes + late).as_secs_f64();
            let share = reached / possible * 100.0;
            let late = late.as_micros();
            println!(
                "{baud:>7} {turnaround:>11?} {late:>6} µs {possible:>12.1} {reached:>12.1} {share:>6.1} %"
            );
        }
    }
}

/// What a simulated device was late with its answers' last bytes.
#[derive(Debug, Default)]
struct Lateness {
    micros: AtomicU64,
    answers: AtomicU64,
}

impl Lateness {
    fn note(&self, late: Duration) {
        self.micros.fetch_add(u64::try_from(late.as_micros()).expect("not for years"), Ordering::Relaxed);
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    fn mean(&self) -> Duration {
        let answers = self.answers.load(Ordering::Relaxed).max(1);
        Duration::from_micros(self.micros.load(Ordering::Relaxed) / answers)
    }
}

/// Starts a device in a thread of its own, since a real one does not share the gateway's; the port that it hangs on.
fn device(line: Line, turnaround: Duration, lateness: Arc<Lateness>) -> PathBuf {
    let (send, path) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let (far, mut near) = SerialStream::pair().expect("a pseudo-terminal");
            near.set_exclusive(false).expect("shared with the driver");
            let path = PathBuf::from(near.name().expect("its name"));
            // Keeps the terminal alive when nobody else has it open.
            let keep = std::fs::File::options().read(true).write(true).open(&path).expect("the terminal");
            drop(near);
            send.send(path).expect("somebody asks");
            simulate_line(far, line, turnaround, &lateness).await;
            drop(keep);
        });
    });
    path.recv().expect("a port")
}

/// A device whose bytes travel at the line's speed: its answer begins a turnaround after the request's last character.
async fn simulate_line(mut far: SerialStream, line: Line, turnaround: Duration, lateness: &Lateness) {
    let mut pause = Pause::fine();
    let mut request = [0; 8];
    while far.read_exact(&mut request).await.is_ok() {
        // The pseudo-terminal hands the whole request over at once; on a line it would take its time.
        let heard = Instant::now() + timing::chars(line, request.len());
        let mut answer = vec![request[0], request[1], request[5] * 2];
        answer.extend((0..u16::from(request[5])).flat_map(u16::to_be_bytes));
        answer.extend(crc(&answer).to_le_bytes());
        let begins = heard + turnaround;
        // In pieces of a few characters, as a UART's interrupt hands them on.
        for (piece, bytes) in answer.chunks(8).enumerate() {
            pause.until(begins + timing::chars(line, piece * 8 + bytes.len())).await;
            if far.write_all(bytes).await.is_err() {
                return;
            }
        }
        lateness.note((begins + timing::chars(line, answer.len())).elapsed());
    }
}

async fn tcp(at: Option<SocketAddr>) {
    let (child, simulator) = match at {
        Some(at) => (None, at),
        None => {
            let (child, at) = simulator();
            (Some(child), at)
        }
    };
    println!("{:>9} {:>12} {:>12} {:>7}", "in flight", "bare loop /s", "driver /s", "share");
    for in_flight in [1, 4, 16] {
        let (mut bare, mut driver) = (0.0, 0.0);
        for _ in 0..3 {
            bare += bare_loop(simulator, in_flight).await / 3.0;
            let link = Link::Tcp { host: simulator.ip().to_string(), port: simulator.port() };
            let config = ModbusConfig { max_in_flight: in_flight, ..ModbusConfig::new(link) };
            driver += reads_per_second(config, 150 * usize::from(in_flight.min(3))).await / 3.0;
        }
        println!("{in_flight:>9} {bare:>12.0} {driver:>12.0} {:>6.1} %", driver / bare * 100.0);
    }
    if let Some(mut child) = child {
        child.kill().expect("the simulator ends");
        child.wait().expect("the simulator has ended");
    }
}

/// Writes requests and reads as many bytes as their answers have.
async fn bare_loop(simulator: SocketAddr, in_flight: u16) -> f64 {
    let mut stream = TcpStream::connect(simulator).await.expect("a connection");
    stream.set_nodelay(true).expect("no delay");
    let request = |id: u16| {
        let [high, low] = id.to_be_bytes();
        [high, low, 0, 0, 0, 6, 1, 3, 0, 0, 0, REGISTERS as u8]
    };
    let length = 9 + 2 * usize::from(REGISTERS);
    let mut buffer = vec![0; 260 * usize::from(in_flight)];
    let (mut filled, mut done, mut id) = (0, 0u64, 0);
    let started = Instant::now();
    for _ in 0..in_flight {
        stream.write_all(&request(id)).await.expect("written");
        id += 1;
    }
    while started.elapsed() < LASTING {
        filled += stream.read(&mut buffer[filled..]).await.expect("read");
        let answers = filled / length;
        buffer.copy_within(answers * length..filled, 0);
        filled -= answers * length;
        done += answers as u64;
        let mut out = Vec::with_capacity(answers * 12);
        for _ in 0..answers {
            out.extend(request(id));
            id = id.wrapping_add(1);
        }
        stream.write_all(&out).await.expect("written");
    }
    done as f64 / started.elapsed().as_secs_f64()
}

/// Reads that the driver hands on in a second, when more is due than it can do: each device is due a thousand times.
async fn reads_per_second(config: ModbusConfig, devices: usize) -> f64 {
    let points: String =
        (0..REGISTERS).map(|a| format!("      p{a}: {{holding: {a}, type: uint16}}\n")).collect();
    let devices: String = (0..devices)
        .map(|i| format!("  d{i}:\n    via: wire\n    unit_id: 1\n    every: 1ms\n    budget: 10s\n    points:\n{points}"))
        .collect();
    let text = format!(
        "site: rate\nconnections:\n  wire: {{tcp: 127.0.0.1:502}}\ndevices:\n{devices}publish:\n  cloud: {{mqtt: mqtt://localhost}}\n"
    );
    let loaded = load_text("rate.yaml", &text, &LoadOptions::default());
    let connection = loaded.site.expect("a site").connections.remove(0);
    let metrics: Vec<_> =
        connection.devices.iter().map(|device| Arc::new(DeviceMetrics::new(device.name.clone()))).collect();
    let plan = ModbusPlan::compile(config, connection.devices).expect("a plan");
    let counts = Arc::new(ConnectionMetrics::default());
    let driver = ModbusDriver::new("wire", plan, metrics, counts.clone());
    let (send, mut events) = mpsc::channel(1024);
    let stop = CancellationToken::new();
    let session = tokio::spawn(session::run(driver, send, stop.clone(), counts));
    let mut read = async |until: Instant| {
        let mut reads = 0u64;
        while let Ok(Some(event)) = timeout_at(until, events.recv()).await {
            if let Event::Batch(batch) = event {
                assert!(batch.readings.is_ok(), "{:?}", batch.readings);
                reads += 1;
            }
        }
        reads
    };
    // First answers, phases, caches.
    read(Instant::now() + LASTING / 4).await;
    let started = Instant::now();
    let reads = read(started + LASTING).await;
    let took = started.elapsed();
    stop.cancel();
    session.await.expect("the session ends");
    reads as f64 / took.as_secs_f64()
}

/// Starts the simulator; it says its address on the first line of its output.
fn simulator() -> (Child, SocketAddr) {
    let program = std::env::current_exe().expect("this program's path");
    let mut child =
        Command::new(program).arg(SIMULATOR).stdout(Stdio::piped()).spawn().expect("a second process");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("its address");
    (child, line.trim().parse().expect("an address"))
}

/// Answers every read of registers at once.
async fn simulate_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("{}", listener.local_addr().expect("an address"));
    loop {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        tokio::spawn(async move {
            let mut buffer = vec![0; 12 * 64];
            let mut filled = 0;
            while let Ok(count @ 1..) = stream.read(&mut buffer[filled..]).await {
                filled += count;
                let whole = filled / 12 * 12;
                let mut out = Vec::with_capacity(whole / 12 * 260);
                for request in buffer[..whole].chunks(12) {
                    let bytes = request[11] * 2;
                    out.extend([request[0], request[1], 0, 0, 0, bytes + 3, request[6], request[7], bytes]);
                    out.extend((0..request[11]).flat_map(|i| [0x12, i]));
                }
                buffer.copy_within(whole..filled, 0);
                filled -= whole;
                if stream.write_all(&out).await.is_err() {
                    return;
                }
            }
        });
    }
}
