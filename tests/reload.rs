//! `taktbus reload`: a running gateway goes over to another site file, and what has stayed does not notice.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use serde_json::Value;
use taktbus::demo::broker::Broker;
use taktbus::runtime::control;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

/// A machine may stall for seconds.
const SOON: Duration = Duration::from_secs(60);

/// A gateway with its site file, a device for every unit id behind two addresses, and a broker.
struct Bench {
    folder: PathBuf,
    plants: [SocketAddr; 2],
    broker: SocketAddr,
    gateway: Child,
    messages: EventLoop,
    _client: AsyncClient,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = (self.gateway.kill(), self.gateway.wait());
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A Modbus TCP server: each register holds its address.
async fn plant() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(units(listener));
    address
}

async fn units(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(answers(stream));
    }
}

async fn answers(mut stream: TcpStream) {
    let mut frame = [0; 12];
    while stream.read_exact(&mut frame).await.is_ok() {
        let [.., a, b, _, count] = frame;
        let words = (u16::from_be_bytes([a, b])..).take(count.into()).flat_map(u16::to_be_bytes);
        let head = [&frame[..4], &[0, 3 + 2 * count], &frame[6..8], &[2 * count]].concat();
        let answer: Vec<u8> = head.into_iter().chain(words).collect();
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

fn device(name: &str, via: &str, unit: u8, every: u64, address: u16) -> String {
    format!(
        "  {name}: {{via: {via}, unit_id: {unit}, every: {every}ms, points: {{x: {{holding: {address}, type: uint16}}}}}}\n"
    )
}

impl Bench {
    async fn start(name: &str, devices: &str) -> Self {
        Self::start_with(name, devices, &[]).await
    }

    async fn start_with(name: &str, devices: &str, options: &[&str]) -> Self {
        let folder = std::env::temp_dir().join(format!("taktbus-reload-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let plants = [plant().await, plant().await];
        let broker = Broker::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let at = broker.local_addr();
        tokio::spawn(broker.run(CancellationToken::new()));
        let mut reader = MqttOptions::new("reader", (at.ip().to_string(), at.port()));
        reader.set_keep_alive(5);
        let (client, mut messages) = AsyncClient::builder(reader).capacity(10).build();
        client.subscribe("taktbus/hall/#", QoS::AtLeastOnce).await.unwrap();
        while !matches!(messages.poll().await.unwrap(), Event::Incoming(Packet::SubAck(_))) {}
        let mut gateway = Command::new(env!("CARGO_BIN_EXE_taktbus"));
        gateway.args(["run", "site.yaml", "--state", "state", "--control", "control"]).args(options);
        gateway.current_dir(&folder).env_remove("NOTIFY_SOCKET");
        gateway.stdout(Stdio::null()).stderr(fs::File::create(folder.join("log")).unwrap());
        fs::write(folder.join("site.yaml"), site(plants, at, devices)).unwrap();
        let gateway = gateway.spawn().unwrap();
        let bench = Self { folder, plants, broker: at, gateway, messages, _client: client };
        let started = Instant::now();
        while !bench.control().exists() {
            assert!(started.elapsed() < SOON, "{}", bench.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bench
    }

    fn control(&self) -> PathBuf {
        self.folder.join("control")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap()
    }

    fn write(&self, devices: &str) {
        fs::write(self.folder.join("site.yaml"), site(self.plants, self.broker, devices)).unwrap();
    }

    /// The next message: its topic below the site, and what it says.
    async fn next(&mut self) -> (String, Value) {
        loop {
            let event = timeout(SOON, self.messages.poll()).await;
            if let Event::Incoming(Packet::Publish(publish)) =
                event.unwrap_or_else(|_| panic!("{}", self.log())).unwrap()
            {
                let topic = String::from_utf8_lossy(&publish.topic).replace("taktbus/hall/", "");
                return (topic, serde_json::from_slice(&publish.payload).unwrap());
            }
        }
    }

    /// The messages until one is as wanted.
    async fn until(&mut self, is_wanted: impl Fn(&str, &Value) -> bool) -> Vec<(String, Value)> {
        let mut all = Vec::new();
        loop {
            let (topic, message) = self.next().await;
            let found = is_wanted(&topic, &message);
            all.push((topic, message));
            if found {
                return all;
            }
        }
    }

    async fn taktbus(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_taktbus"));
        let output = command.args(args).arg("--control").arg(self.control()).output().await.unwrap();
        let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (output.status.code(), out, err)
    }

    async fn ask(&self, question: &str) -> Value {
        control::ask(&self.control(), question).await.unwrap()
    }
}

fn site([line, other]: [SocketAddr; 2], broker: SocketAddr, devices: &str) -> String {
    // Only a connection that has devices may be there.
    let more =
        if devices.contains("via: other") { format!("  other: {{tcp: {other}}}\n") } else { String::new() };
    format!(
        "site: hall\nconnections:\n  line: {{tcp: {line}}}\n{more}devices:\n{devices}\
         publish:\n  local: {{mqtt: mqtt://{broker}}}\n"
    )
}

fn has_values(topic: &str, device: &str, message: &Value) -> bool {
    topic == device && message["values"]["x"].is_u64()
}

/// The sequence numbers of a device's messages, each with its epoch.
fn seqs(messages: &[(String, Value)], device: &str) -> Vec<(u64, u64)> {
    let of = messages.iter().filter(|(topic, _)| topic == device);
    of.map(|(_, message)| (message["epoch"].as_u64().unwrap(), message["seq"].as_u64().unwrap())).collect()
}

#[tokio::test]
async fn devices_come_change_and_go_while_the_others_go_on() {
    let a = device("a", "line", 1, 20, 7);
    let mut bench = Bench::start("devices", &a).await;
    let mut all = bench.until(|topic, message| has_values(topic, "a", message)).await;

    bench.write(&(a.clone() + &device("b", "line", 2, 50, 9) + &device("c", "other", 3, 50, 11)));
    let (code, out, _) = bench.taktbus(&["reload", "--dry-run"]).await;
    assert_eq!(code, Some(0));
    assert!(out.contains("b ") && out.contains("added"), "{out}");
    assert_eq!(bench.ask("explain").await["connections"].as_array().unwrap().len(), 1, "only tried");
    assert_eq!(bench.taktbus(&["diff", "--running"]).await.0, Some(1));
    let (code, out, err) = bench.taktbus(&["reload"]).await;
    assert_eq!((code, &*err), (Some(0), ""), "{out}");
    assert_eq!(bench.taktbus(&["diff", "--running"]).await.0, Some(0));
    all.extend(bench.until(|topic, message| has_values(topic, "b", message)).await);
    all.extend(bench.until(|topic, message| has_values(topic, "c", message)).await);
    assert!(all.iter().any(|(topic, message)| topic == "status" && message["devices"] == 3), "{all:?}");
    let told = bench.ask("explain b").await;
    assert_eq!(told["connections"][0]["connects"], 1, "the same link: {told}");

    // Another register for b; c and its connection go.
    bench.write(&(a.clone() + &device("b", "line", 2, 50, 19)));
    assert_eq!(bench.taktbus(&["reload"]).await.0, Some(0));
    all.extend(bench.until(|topic, message| topic == "b" && message["values"]["x"] == 19).await);
    all.extend(bench.until(|topic, message| topic == "a" && message["values"]["x"] == 7).await);
    let offline = |(topic, message): &(String, Value)| topic == "c/status" && message["state"] == "offline";
    assert!(all.iter().any(offline), "{all:?}");
    assert_eq!(bench.ask("explain").await["connections"].as_array().unwrap().len(), 1);
    assert!(bench.ask("explain c").await["unknown"] == true);

    // c comes back, and counts on.
    bench.write(&(a + &device("c", "other", 3, 50, 11)));
    assert_eq!(bench.taktbus(&["reload"]).await.0, Some(0));
    let last = seqs(&all, "c").last().copied().unwrap();
    all.extend(bench.until(|topic, message| has_values(topic, "c", message)).await);
    assert!(*seqs(&all, "c").last().unwrap() > last);
    for device in ["a", "b", "c"] {
        let seqs = seqs(&all, device);
        let epoch = seqs[0].0;
        let expected: Vec<_> = (0..seqs.len() as u64).map(|seq| (epoch, seq)).collect();
        assert_eq!(seqs, expected, "{device}");
    }
}

#[tokio::test]
async fn what_is_wrong_or_needs_a_restart_changes_nothing() {
    let a = device("a", "line", 1, 20, 7);
    let mut bench = Bench::start("refused", &a).await;
    bench.until(|topic, message| has_values(topic, "a", message)).await;
    bench.write(&a.replace("uint16", "uint17"));
    let (code, _, err) = bench.taktbus(&["reload"]).await;
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("uint17") && err.contains("nothing was changed"), "{err}");

    // A file that is half written.
    let path = bench.folder.join("site.yaml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..text.len() / 2]).unwrap();
    assert_eq!(bench.taktbus(&["reload"]).await.0, Some(2));
    fs::remove_file(&path).unwrap();
    assert_eq!(bench.taktbus(&["reload"]).await.0, Some(2));

    // A route, and a device beside it: all or nothing.
    bench.write(&(a.clone() + &device("b", "line", 2, 50, 9)));
    let changed = fs::read_to_string(&path).unwrap().replace("mqtt: mqtt://", "qos: 0, mqtt: mqtt://");
    fs::write(&path, changed).unwrap();
    let (code, _, err) = bench.taktbus(&["reload"]).await;
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("a restart is needed for publish.local (qos)"), "{err}");
    assert!(bench.ask("explain b").await["unknown"] == true);

    // By the signal, too.
    let hang_up = |pid: u32| {
        assert!(Command::new("kill").args(["-HUP", &pid.to_string()]).status().unwrap().success());
    };
    hang_up(bench.gateway.id());
    let started = Instant::now();
    while !bench.log().contains("not reloaded") {
        assert!(started.elapsed() < SOON, "{}", bench.log());
        bench.next().await;
    }
    bench.write(&(a + &device("b", "line", 2, 50, 9)));
    hang_up(bench.gateway.id());
    bench.until(|topic, message| has_values(topic, "b", message)).await;
}

#[tokio::test]
async fn files_that_are_watched_are_reloaded_when_they_have_changed() {
    let a = device("a", "line", 1, 20, 7);
    let mut bench = Bench::start_with("watch", &a, &["--watch"]).await;
    bench.until(|topic, message| has_values(topic, "a", message)).await;
    bench.write("this: is no site\n");
    let started = Instant::now();
    while !bench.log().contains("not reloaded") {
        assert!(started.elapsed() < SOON, "{}", bench.log());
        bench.next().await;
    }
    bench.write(&(a + &device("b", "line", 2, 50, 9)));
    bench.until(|topic, message| has_values(topic, "b", message)).await;
    assert_eq!(bench.log().matches("a file of the site has changed").count(), 2, "{}", bench.log());
}

#[tokio::test]
async fn a_reload_that_nobody_confirms_is_undone() {
    let a = device("a", "line", 1, 20, 7);
    let mut bench = Bench::start("confirm", &a).await;
    bench.until(|topic, message| has_values(topic, "a", message)).await;
    bench.write(&(a.clone() + &device("b", "line", 2, 20, 9)));
    let (code, _, err) = bench.taktbus(&["reload", "--keep"]).await;
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("no reload waits to be confirmed"), "{err}");
    // Undone when its time is over.
    let (code, _, err) = bench.taktbus(&["reload", "--confirm", "1s"]).await;
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("taktbus reload --keep"), "{err}");
    bench.until(|topic, message| has_values(topic, "b", message)).await;
    bench.until(|topic, message| topic == "b/status" && message["state"] == "offline").await;
    assert!(bench.log().contains("nobody has confirmed it in time"), "{}", bench.log());
    // Undone by hand; another reload has to wait for that.
    assert_eq!(bench.taktbus(&["reload", "--confirm", "10m"]).await.0, Some(0));
    let (code, _, err) = bench.taktbus(&["reload"]).await;
    assert!(code == Some(1) && err.contains("waits to be confirmed"), "{err}");
    assert_eq!(bench.taktbus(&["reload", "--revert"]).await.0, Some(0));
    assert!(bench.ask("explain b").await["unknown"] == true);
    // Kept.
    assert_eq!(bench.taktbus(&["reload", "--confirm", "2s"]).await.0, Some(0));
    assert_eq!(bench.taktbus(&["reload", "--keep"]).await.0, Some(0));
    let (code, _, err) = bench.taktbus(&["reload", "--revert"]).await;
    assert!(code == Some(1) && err.contains("no reload waits"), "{err}");
    assert_eq!(bench.ask("explain b").await["connections"][0]["devices"][0]["device"], "b");
}

/// Descriptors, threads, and resident KiB of a process.
fn footprint(pid: u32) -> (usize, usize, usize) {
    let count = |what| fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    (count("fd"), count("task"), resident.trim().trim_end_matches(" kB").parse().unwrap())
}

#[tokio::test]
async fn a_thousand_reloads_leave_nothing_behind() {
    let a = device("a", "line", 1, 100, 7);
    let mut bench = Bench::start("thousand", &a).await;
    bench.until(|topic, message| has_values(topic, "a", message)).await;
    let more: String = (2..40).map(|unit| device(&format!("d{unit}"), "line", unit, 500, 9)).collect();
    let sites = [a.clone() + &more + &device("c", "other", 3, 50, 11), a];
    // Somebody reads along: a broker that nobody reads from stops.
    let (mut footprints, path) = (Vec::new(), bench.control());
    for round in 0..1000 {
        bench.write(&sites[round % 2]);
        let told = tokio::select! {
            told = control::ask(&path, control::RELOAD) => told.unwrap(),
            never = async { loop { let _ = bench.messages.poll().await; } } => never,
        };
        assert_eq!(told["difference"]["same"], false, "{told}");
        if round % 100 == 99 {
            footprints.push(footprint(bench.gateway.id()));
        }
    }
    let (first, last) = (footprints[1], footprints[9]);
    assert!(last.0 <= first.0 + 2 && last.1 <= first.1 + 2, "{footprints:?}");
    assert!(last.2 < first.2 + 2_048, "{footprints:?}");
    eprintln!("1000 reloads; descriptors, threads, KiB: {footprints:?}");
    let all = bench.until(|topic, message| has_values(topic, "a", message)).await;
    assert!(!seqs(&all, "a").is_empty());
}
