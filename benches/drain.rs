//! How fast a backlog reaches a real broker, and what live messages notice of it: the program itself, mosquitto, QoS 1.
//!
//! ```sh
//! cargo bench --bench drain            # 1,000,000 messages; or: cargo bench --bench drain -- 300000
//! ```
//!
//! Ten simulated devices give 100 messages a second. `mosquitto_sub` tells how old each of them is when it arrives, while the backlog is
//! drained and after that.

#![allow(clippy::expect_used)] // a bench that cannot start has nothing to say

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use taktbus::budget::OnLate;
use taktbus::metrics::RouteMetrics;
use taktbus::store::disk::Folder;
use taktbus::store::{Log, Op, Settings, Stored};
use tokio::time::Instant;

/// How long live messages are watched without a backlog.
const AFTERWARDS: Duration = Duration::from_secs(10);
/// Live messages a second.
const LIVE: u64 = 100;

fn main() {
    let count = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(1_000_000);
    let folder = std::env::temp_dir().join(format!("taktbus-drain-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let [device, broker, http] = std::array::from_fn(|_| free_port());
    let site = write(&folder, "site.yaml", &site(device, broker, http));
    fill(&folder.join("state/store/local"), count);

    let config = write(
        &folder,
        "mosquitto.conf",
        &format!("user root\nlistener {broker} 127.0.0.1\nallow_anonymous true\n"),
    );
    let _broker = Running::start(Command::new("mosquitto").arg("-c").arg(config));
    until_open(broker);
    let program = env!("CARGO_BIN_EXE_taktbus");
    let _devices = Running::start(Command::new(program).arg("simulate").arg(&site));
    until_open(device);
    let topics = (1..=10).flat_map(|unit| ["-t".to_owned(), format!("taktbus/bench/live-{unit}")]);
    let mut subscriber = Running::start(
        Command::new("mosquitto_sub").args(["-p", &broker.to_string(), "-F", "%U %p"]).args(topics),
    );
    let live = ages(subscriber.0.stdout.take().expect("a pipe"));

    let gateway =
        Running::start(Command::new(program).arg("run").arg(&site).arg("--state").arg(folder.join("state")));
    until_open(http);
    let began = Instant::now();
    // The store is read through first, and what is in there counted.
    let mut full = (0, began);
    loop {
        let waiting = gauge(http, "taktbus_store_messages");
        if waiting >= full.0 {
            full = (waiting, Instant::now());
        }
        // Live ones are on their way too.
        if full.0 > count / 2 && waiting < LIVE {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{waiting} still wait");
        std::thread::sleep(Duration::from_millis(50));
    }
    let took = full.1.elapsed().as_secs_f64();
    let rate = full.0 as f64 / took;
    let during: Vec<u64> = live.try_iter().collect();
    std::thread::sleep(AFTERWARDS);
    let after: Vec<u64> = live.try_iter().collect();
    println!(
        "drain    {rate:>9.0} messages/s, {} in {:.1} s: {:.0} times the live rate",
        full.0,
        took,
        rate / LIVE as f64
    );
    println!(
        "live     {} during the drain: p50 {} ms, p99 {} ms",
        during.len(),
        percentile(&during, 50),
        percentile(&during, 99)
    );
    println!(
        "         {} afterwards:       p50 {} ms, p99 {} ms",
        after.len(),
        percentile(&after, 50),
        percentile(&after, 99)
    );
    println!("memory   {}", memory(gateway.0.id()));
    drop(gateway);
    std::fs::remove_dir_all(&folder).expect("the bench's own folder");
}

fn site(device: u16, broker: u16, http: u16) -> String {
    let devices = (1..=10).map(|unit| {
        format!(
            "  live-{unit}: {{via: plant, unit_id: {unit}, every: 100ms, budget: 1s, points: {{speed: {{holding: 5, type: uint16}}}}}}\n"
        )
    });
    format!(
        "site: bench\nlisten: {{http: 127.0.0.1:{http}}}\nstore: {{size: 2GiB}}\nconnections:\n  plant: {{tcp: 127.0.0.1:{device}}}\ndevices:\n{}\
         publish:\n  local: {{mqtt: mqtt://127.0.0.1:{broker}}}\n",
        devices.collect::<String>()
    )
}

/// A store with messages of 250 bytes of a device that is gone.
fn fill(path: &Path, count: u64) {
    let folder = Folder::lock(path).expect("a folder");
    let settings = Settings { size: 2 << 30, age: None, sync: Duration::from_secs(1) };
    let (mut log, _) =
        Log::open(folder, settings, Arc::new(RouteMetrics::default())).expect("an empty store");
    log.start(1, Instant::now());
    let (device, topic): (Arc<str>, Arc<str>) = ("old".into(), "taktbus/bench/old".into());
    for position in 0..count {
        let text = format!(
            r#"{{"site":"bench","device":"old","epoch":1,"seq":{position},"values":{{"fill":"{}"}}}}"#,
            "x".repeat(170)
        );
        let (device, topic, payload) = (device.clone(), topic.clone(), text.into());
        let late = OnLate::Deliver;
        log.apply(Op::Append(Stored {
            position,
            epoch: 1,
            seq: position,
            at: 0,
            doubted: None,
            late,
            device,
            topic,
            payload,
        }));
        if position % 64 == 63 {
            log.turn(Instant::now());
        }
    }
    log.finish();
}

/// Milliseconds from a message's time stamp to its arrival, as they come: `1700000000.123456789 {…"ts":"2026-…:07.123Z"…}`.
fn ages(lines: impl std::io::Read + Send + 'static) -> Receiver<u64> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(lines).lines().map_while(Result::ok) {
            let age = || {
                let (arrived, payload) = line.split_once(' ')?;
                let arrived = (arrived.parse::<f64>().ok()? * 1000.0) as u64 % 86_400_000;
                let clock = payload.split_once("\"ts\":\"")?.1.get(11..23)?;
                let number = |range: std::ops::Range<usize>| clock.get(range)?.parse::<u64>().ok();
                let stamped =
                    ((number(0..2)? * 60 + number(3..5)?) * 60 + number(6..8)?) * 1000 + number(9..12)?;
                Some(arrived.saturating_sub(stamped))
            };
            if let Some(age) = age()
                && sender.send(age).is_err()
            {
                break;
            }
        }
    });
    receiver
}

fn percentile(ages: &[u64], of: usize) -> u64 {
    let mut sorted = ages.to_vec();
    sorted.sort_unstable();
    sorted.get((sorted.len() * of / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
}

/// A number out of `/metrics`.
fn gauge(port: u16, name: &str) -> u64 {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the gateway's listener");
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .expect("a request");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let line = text.lines().find(|line| line.starts_with(name)).expect("the metric");
    line.rsplit(' ').next().and_then(|number| number.parse::<f64>().ok()).expect("a number") as u64
}

fn memory(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("unknown").to_owned()
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("a file");
    path
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

fn until_open(port: u16) {
    let began = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(began.elapsed() < Duration::from_secs(30), "nobody listens at {port}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A process that ends with the bench.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}
