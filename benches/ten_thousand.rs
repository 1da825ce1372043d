//! `cargo bench --bench ten_thousand [SECONDS]`: 10,000 Modbus TCP devices in one gateway, one point each every 10 s.
//!
//! The simulator is a second process of this program, so that each needs little more than 10,000 file descriptors
//! (`ulimit -n 20000`). The embedded broker runs beside the gateway; the memory shown is that of both.

#![allow(clippy::expect_used)] // a bench that cannot start has nothing to say

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use taktbus::budget::Budget;
use taktbus::config::plan::{Connection, Protocol, Route, SinkConfig, Site};
use taktbus::demo::broker::Broker;
use taktbus::drivers::modbus::config::{Link, ModbusConfig};
use taktbus::mapping::compiled::{
    Chars, Decode, DeviceMap, Kind, Order, Point, PointIx, Reading, ReadingIx, Source, Transform,
};
use taktbus::mapping::device::{Device, Every, Group, Limits};
use taktbus::metrics::Metrics;
use taktbus::model::place::{Place, Table};
use taktbus::northbound::mqtt::config::MqttConfig;
use taktbus::runtime::gateway::Gateway;
use taktbus::runtime::limits::raise_open_files;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::{Instant, interval, sleep};
use tokio_util::sync::CancellationToken;

const DEVICES: usize = 10_000;
const EVERY: Duration = Duration::from_secs(10);

fn main() {
    if std::env::args().any(|arg| arg == SIMULATOR) {
        raise_open_files();
        return simulate();
    }
    let seconds = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(45);
    let files = raise_open_files();
    println!("open files: {files:?}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (mut child, simulator) = simulator();
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let broker = Broker::bind(([127, 0, 0, 1], 0).into()).await.expect("a broker");
        let gateway = Gateway::new(site(simulator, broker.local_addr())).expect("a plan");
        let metrics = gateway.metrics().get();
        tokio::spawn(broker.run(stop.clone()));
        let started = Instant::now();
        let watched = tokio::spawn(watch(metrics.clone(), started));
        let ended = stop.clone();
        tokio::spawn(async move {
            sleep(Duration::from_secs(seconds)).await;
            ended.cancel();
        });
        gateway.run(stop).await.expect("the gateway runs");
        watched.abort();
        let sum = |of: fn(&taktbus::metrics::DeviceMetrics) -> u64| -> u64 {
            metrics.devices.iter().map(|d| of(d)).sum()
        };
        println!(
            "answered {}, delivered {}, missed {}, timeouts {}, violations {}, RSS {} MB",
            sum(|d| d.answered.get()),
            sum(|d| d.delivered.get()),
            sum(|d| d.missed_ticks.get()),
            sum(|d| d.timeouts.get()),
            sum(|d| d.violations_total()),
            rss_mb()
        );
    });
    child.kill().expect("the simulator ends");
    child.wait().expect("the simulator has ended");
}

/// Says when the last connection came up.
async fn watch(metrics: Arc<Metrics>, started: Instant) {
    let mut tick = interval(Duration::from_millis(50));
    loop {
        tick.tick().await;
        let up = metrics.connections.iter().filter(|c| c.up.get() == 1).count();
        if up == DEVICES {
            println!("{up} connections up after {:.2?}", started.elapsed());
            return;
        }
    }
}

/// The argument that makes this program the simulator.
const SIMULATOR: &str = "simulate";

/// Starts the simulator; it says its address on the first line of its output.
fn simulator() -> (Child, SocketAddr) {
    let program = std::env::current_exe().expect("this program's path");
    let mut child =
        Command::new(program).arg(SIMULATOR).stdout(Stdio::piped()).spawn().expect("a second process");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("its address");
    (child, line.trim().parse().expect("an address"))
}

/// Answers every read with one register.
fn simulate() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        let listener: TcpListener = socket.listen(4096).expect("listening");
        println!("{}", listener.local_addr().expect("an address"));
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            tokio::spawn(async move {
                let mut request = [0; 12];
                while stream.read_exact(&mut request).await.is_ok() {
                    let [t0, t1, _, _, _, _, unit, function, ..] = request;
                    let reply = [t0, t1, 0, 0, 0, 5, unit, function, 2, 0x12, 0x34];
                    if stream.write_all(&reply).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
}

fn site(simulator: SocketAddr, broker: SocketAddr) -> Site {
    let reading = Reading {
        place: Place::Run { table: Table::Holding, address: 0, count: 1 },
        decode: Decode { kind: Kind::Uint16, order: Order::Abcd, byte: None, chars: Chars::Both },
    };
    let point = Point {
        name: "value".into(),
        unit: None,
        source: Source::Reading(ReadingIx(0)),
        transform: Transform::default(),
        published: true,
        plausible: None,
        deadband: None,
        heartbeat: None,
        smooth: None,
        alone: false,
        rate: "default".into(),
    };
    let map = Arc::new(DeviceMap { readings: vec![reading], points: vec![point], writes: Vec::new() });
    let connection = |i: usize| Connection {
        name: format!("c{i}"),
        protocol: Protocol::Modbus(ModbusConfig::new(Link::Tcp {
            host: simulator.ip().to_string(),
            port: simulator.port(),
        })),
        devices: vec![Device {
            name: format!("d{i}").into(),
            unit: 1,
            profile: None,
            budget: Budget::default(),
            map: map.clone(),
            groups: vec![Group { every: Every::Interval(EVERY), points: vec![PointIx(0)] }],
            limits: Limits::default(),
            nodes: Default::default(),
        }],
    };
    let mqtt = MqttConfig {
        host: broker.ip().to_string(),
        port: broker.port(),
        tls: None,
        client_id: "taktbus-bench".into(),
        user: None,
        password: None,
        qos: 1,
        keep_alive: Duration::from_secs(10),
        window: 100,
        topic: "taktbus/{site}/{device}".into(),
        status_topic: "taktbus/{site}/status".into(),
        backlog_bytes: 32 << 20,
    };
    Site {
        listen: None,
        telemetry: None,
        files: Default::default(),
        clock: taktbus::config::plan::Trust::default(),
        allow_write: Default::default(),
        name: "bench".into(),
        connections: (0..DEVICES).map(connection).collect(),
        routes: vec![Route {
            name: "local".into(),
            sink: SinkConfig::Mqtt(mqtt),
            passes: Default::default(),
            durability: Default::default(),
        }],
        store: Default::default(),
    }
}

fn rss_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}
