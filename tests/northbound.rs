//! Forwarder and MQTT sink against a broker that misbehaves: nothing is lost, nothing is reordered.

#![allow(clippy::unwrap_used, clippy::expect_used)] // the allowance of clippy.toml ends at functions without #[test]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use taktbus::budget::OnLate;
use taktbus::demo::broker::{Broker, Faults};
use taktbus::metrics::{DeviceMetrics, RouteMetrics};
use taktbus::model::message::{Kind, Message, Sampled};
use taktbus::northbound::forwarder::{self, Durability, Settings, Summary};
use taktbus::northbound::mqtt::config::MqttConfig;
use taktbus::northbound::mqtt::{MAX_PACKET, MqttSink, Will};
use taktbus::northbound::{Sink, SinkEvent};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(600);

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(SOON, wait).await.unwrap_or_else(|_| panic!("in vain: {what}"));
}

/// A broker that can go away and come back at the same place.
struct House {
    address: SocketAddr,
    faults: Arc<Faults>,
    running: Option<(CancellationToken, JoinHandle<()>)>,
}

impl House {
    async fn open() -> Self {
        let broker = Broker::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let mut house = Self { address: broker.local_addr(), faults: broker.faults(), running: None };
        house.serve(broker);
        house
    }

    fn serve(&mut self, broker: Broker) {
        let stop = CancellationToken::new();
        self.running = Some((stop.clone(), tokio::spawn(broker.run(stop))));
    }

    async fn close(&mut self) {
        let (stop, served) = self.running.take().unwrap();
        stop.cancel();
        served.await.unwrap();
    }

    async fn reopen(&mut self) {
        let broker = Broker::bind(self.address).await.unwrap().with_faults(Arc::clone(&self.faults));
        self.serve(broker);
    }

    fn config(&self) -> MqttConfig {
        MqttConfig {
            host: self.address.ip().to_string(),
            port: self.address.port(),
            tls: None,
            client_id: "gateway".into(),
            user: None,
            password: None,
            qos: 1,
            keep_alive: Duration::from_secs(30),
            window: 100,
            topic: "t/{device}".into(),
            status_topic: "t/status".into(),
            backlog_bytes: 1 << 20,
        }
    }
}

/// A way to the broker that can be shut while the broker and its subscribers stay.
struct Door {
    house: SocketAddr,
    address: SocketAddr,
    tasks: JoinSet<()>,
}

impl Door {
    async fn to(house: SocketAddr) -> Self {
        let mut door = Self { house, address: "127.0.0.1:0".parse().unwrap(), tasks: JoinSet::new() };
        door.open().await;
        door
    }

    async fn open(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let house = self.house;
        self.tasks.spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let mut far = TcpStream::connect(house).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            }
        });
    }

    async fn shut(&mut self) {
        self.tasks.shutdown().await;
    }
}

fn will() -> Will {
    Will { topic: "t/status".into(), payload: Bytes::from_static(b"offline by will") }
}

fn status(payload: &'static str) -> Message {
    let payload = Bytes::from_static(payload.as_bytes());
    Message { topic: "t/status".into(), payload, retain: true, kind: Kind::Status }
}

/// A forwarder with its sink.
struct Route {
    sender: mpsc::Sender<Message>,
    metrics: Arc<RouteMetrics>,
    stop: CancellationToken,
    task: JoinHandle<Summary>,
}

impl Route {
    fn open(config: MqttConfig) -> Self {
        let (sender, receiver) = mpsc::channel(1024);
        let (metrics, stop) = (Arc::new(RouteMetrics::default()), CancellationToken::new());
        let settings = Settings {
            site: "test".into(),
            epoch: 3,
            backlog_bytes: config.backlog_bytes,
            durability: Durability::Off,
            opened: None,
            offline: Some(status("offline")),
        };
        let sink = MqttSink::new(config, will());
        let task =
            tokio::spawn(forwarder::run(sink, receiver, None, settings, Arc::clone(&metrics), stop.clone()));
        Self { sender, metrics, stop, task }
    }

    async fn connected(&self) {
        eventually("connected", || self.metrics.up.get() == 1).await;
    }

    async fn close(self) -> Summary {
        self.stop.cancel();
        timeout(Duration::from_secs(5), self.task).await.expect("it drains in time").unwrap()
    }
}

struct Source {
    device: Arc<DeviceMetrics>,
    topic: Arc<str>,
    within: Duration,
}

impl Source {
    fn new(name: &str, within: Duration) -> Self {
        Self { device: Arc::new(DeviceMetrics::new(name)), topic: format!("t/{name}").into(), within }
    }

    fn sample(&self) -> Message {
        self.sized(64)
    }

    fn sized(&self, size: usize) -> Message {
        let (seq, now) = (self.device.sampled.get(), Instant::now());
        self.device.sampled.inc();
        let payload = format!(r#"{{"seq":{seq},"fill":"{}"}}"#, "x".repeat(size));
        let sampled = Sampled {
            device: Arc::clone(&self.device),
            epoch: 3,
            seq,
            started: now,
            received: now,
            encoded: now,
            deadline: now + self.within,
            doubted: None,
            late: OnLate::Deliver,
        };
        let kind = Kind::Data(sampled);
        Message { topic: Arc::clone(&self.topic), payload: payload.into(), retain: false, kind }
    }
}

/// What arrives, by topic, in order.
struct Subscriber {
    arrived: mpsc::UnboundedReceiver<(String, Bytes)>,
    all: BTreeMap<String, Vec<Bytes>>,
}

impl Subscriber {
    async fn of(address: SocketAddr) -> Self {
        let mut options = MqttOptions::new("subscriber", (address.ip().to_string(), address.port()));
        options.set_max_packet_size(1 << 20, 1 << 20);
        let (client, mut events) = AsyncClient::builder(options).capacity(10).build();
        client.subscribe("t/#", QoS::AtLeastOnce).await.unwrap();
        let (sender, arrived) = mpsc::unbounded_channel();
        let (ready, subscribed) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let (_client, mut ready) = (client, Some(ready));
            while let Ok(event) = events.poll().await {
                match event {
                    Event::Incoming(Packet::SubAck(_)) => drop(ready.take().map(|ready| ready.send(()))),
                    Event::Incoming(Packet::Publish(p)) => {
                        let _ = sender.send((String::from_utf8(p.topic.to_vec()).unwrap(), p.payload));
                    }
                    _ => {}
                }
            }
        });
        subscribed.await.unwrap();
        Self { arrived, all: BTreeMap::new() }
    }

    /// Reads until this many different payloads have come on a topic.
    async fn until(&mut self, topic: &str, count: usize) -> Vec<Bytes> {
        let mut distinct = std::collections::HashSet::new();
        distinct.extend(self.all.entry(topic.into()).or_default().iter().cloned());
        while distinct.len() < count {
            let next = timeout(SOON, self.arrived.recv()).await;
            let (on, payload) = next.unwrap_or_else(|_| panic!("{} of {count}", distinct.len())).unwrap();
            if on == topic {
                distinct.insert(payload.clone());
            }
            self.all.entry(on).or_default().push(payload);
        }
        self.all[topic].clone()
    }
}

fn seq(payload: &Bytes) -> u64 {
    serde_json::from_slice::<serde_json::Value>(payload).unwrap()["seq"].as_u64().unwrap()
}

/// First arrivals are in order and without holes; further arrivals are byte-identical. Returns how many of those.
fn complete_and_in_order(arrived: &[Bytes], count: u64) -> usize {
    let mut first: Vec<&Bytes> = Vec::new();
    for payload in arrived {
        match first.get(seq(payload) as usize) {
            Some(before) => assert_eq!(*before, payload, "a duplicate is byte-identical"),
            None => {
                assert_eq!(seq(payload), first.len() as u64, "in order, without holes");
                first.push(payload);
            }
        }
    }
    assert_eq!(first.len() as u64, count);
    arrived.len() - first.len()
}

#[tokio::test]
async fn connections_cut_before_the_puback_lose_nothing() {
    let house = House::open().await;
    let mut subscriber = Subscriber::of(house.address).await;
    house.faults.cut_every.store(211, Relaxed);
    let route = Route::open(house.config());
    let sources = [Source::new("a", LONG), Source::new("b", LONG)];
    for i in 0..5000 {
        route.sender.send(sources[i % 2].sample()).await.unwrap();
    }
    for source in &sources {
        let arrived = subscriber.until(&source.topic, 2500).await;
        complete_and_in_order(&arrived, 2500);
        eventually("all are acknowledged", || source.device.delivered.get() == 2500).await;
        assert_eq!(source.device.violations_total(), 0);
    }
    assert!(house.faults.cuts.load(Relaxed) >= 20);
    assert!(route.metrics.redelivered.get() > 20);
    assert!(route.close().await.is_settled());
}

#[tokio::test]
async fn pubacks_out_of_order_settle_the_right_messages() {
    let house = House::open().await;
    let mut subscriber = Subscriber::of(house.address).await;
    house.faults.reverse.store(7, Relaxed);
    let route = Route::open(house.config());
    let source = Source::new("a", LONG);
    for _ in 0..2000 {
        route.sender.send(source.sample()).await.unwrap();
    }
    eventually("all are acknowledged", || source.device.delivered.get() == 2000).await;
    let arrived = subscriber.until("t/a", 2000).await;
    assert_eq!(complete_and_in_order(&arrived, 2000), 0);
    assert_eq!(route.metrics.redelivered.get(), 0);
    assert!(route.close().await.is_settled());
}

#[tokio::test]
async fn while_the_broker_is_away_messages_wait_and_live_ones_go_first() {
    let house = House::open().await;
    let mut door = Door::to(house.address).await;
    let mut subscriber = Subscriber::of(house.address).await;
    let route = Route::open(MqttConfig { port: door.address.port(), ..house.config() });
    route.connected().await;
    let (patient, urgent) = (Source::new("patient", LONG), Source::new("urgent", Duration::from_millis(20)));
    door.shut().await;
    eventually("the outage is noticed", || route.metrics.up.get() == 0).await;
    for _ in 0..300 {
        route.sender.send(urgent.sample()).await.unwrap();
    }
    eventually("they join the backlog", || route.metrics.backlog.get() == 300).await;
    assert_eq!(urgent.device.violations_total(), 300);
    for _ in 0..10 {
        route.sender.send(patient.sample()).await.unwrap();
    }
    door.open().await;
    let replayed = subscriber.until("t/urgent", 300).await;
    assert!(replayed.iter().all(|payload| payload.ends_with(b",\"replayed\":true}")));
    assert_eq!(complete_and_in_order(&replayed, 300), 0);
    assert_eq!(subscriber.all["t/patient"].len(), 10, "live ones came before the last replayed one");
    eventually("all are acknowledged", || urgent.device.replayed.get() == 300).await;
    assert_eq!(urgent.device.violations_total(), 300, "replays are no violations");
    assert_eq!(patient.device.delivered.get(), 10);
    assert!(route.close().await.is_settled());
}

#[tokio::test]
async fn a_broker_that_refuses_is_a_reason_in_words() {
    let house = House::open().await;
    house.faults.refuse.store(true, Relaxed);
    let mut sink = MqttSink::new(house.config(), will());
    assert_eq!(sink.event().await, SinkEvent::Down("the broker refuses: server unavailable".into()));
    house.faults.refuse.store(false, Relaxed);
    assert_eq!(sink.event().await, SinkEvent::Up);
}

#[tokio::test]
async fn a_missing_password_or_ca_is_a_reason_in_words() {
    let house = House::open().await;
    let mut config = house.config();
    config.user = Some("x".into());
    config.password = Some(taktbus::model::secret::Secret::File("/nowhere/password".into()));
    let mut sink = MqttSink::new(config.clone(), will());
    let SinkEvent::Down(reason) = sink.event().await else { panic!() };
    assert!(reason.starts_with("secret file /nowhere/password: No such file"), "{reason}");
    config.tls =
        Some(taktbus::northbound::tls::TlsConfig { ca: Some("/nowhere/ca.pem".into()), client: None });
    let mut sink = MqttSink::new(config, will());
    let SinkEvent::Down(reason) = sink.event().await else { panic!() };
    assert!(reason.starts_with("certificate file /nowhere/ca.pem: No such file"), "{reason}");
}

#[tokio::test]
async fn a_message_that_is_too_large_poisons_nothing() {
    let house = House::open().await;
    let mut subscriber = Subscriber::of(house.address).await;
    let route = Route::open(house.config());
    let source = Source::new("a", LONG);
    for size in [10, MAX_PACKET, 20] {
        route.sender.send(source.sized(size)).await.unwrap();
    }
    let arrived = subscriber.until("t/a", 3).await;
    let gap =
        arrived.iter().find(|payload| payload.windows(5).any(|w| w == b"\"gap\"")).expect("a gap record");
    let gap: serde_json::Value = serde_json::from_slice(gap).unwrap();
    assert_eq!((&gap["gap"]["from"], &gap["gap"]["to"], &gap["epoch"]), (&1.into(), &1.into(), &3.into()));
    assert!(gap["gap"]["reason"].as_str().unwrap().starts_with("refused: too large"), "{gap}");
    assert_eq!((source.device.delivered.get(), source.device.gap_accounted.get()), (2, 1));
    assert_eq!((route.metrics.refused.get(), route.metrics.connects.get()), (1, 1));
    assert!(route.close().await.is_settled());
}

#[tokio::test]
async fn a_broker_that_acknowledges_nothing_is_left_and_nothing_is_lost() {
    let house = House::open().await;
    let mut subscriber = Subscriber::of(house.address).await;
    house.faults.mute.store(true, Relaxed);
    let route = Route::open(house.config());
    let source = Source::new("a", LONG);
    for _ in 0..5 {
        route.sender.send(source.sample()).await.unwrap();
    }
    subscriber.until("t/a", 5).await;
    eventually("the silence is noticed", || route.metrics.up.get() == 0).await;
    assert_eq!(source.device.delivered.get(), 0);
    house.faults.mute.store(false, Relaxed);
    eventually("all are acknowledged", || source.device.delivered.get() == 5).await;
    assert_eq!(route.metrics.redelivered.get(), 5);
    assert_eq!(complete_and_in_order(&subscriber.until("t/a", 5).await, 5), 0);
}

#[tokio::test]
async fn statuses_are_told_again_at_each_connection_and_the_last_is_offline() {
    let mut house = House::open().await;
    let route = Route::open(house.config());
    route.sender.send(status("starting")).await.unwrap();
    route.sender.send(status("online")).await.unwrap();
    route.connected().await;
    house.close().await;
    house.reopen().await;
    eventually("connected again", || route.metrics.connects.get() == 2).await;
    let mut subscriber = Subscriber::of(house.address).await;
    assert_eq!(subscriber.until("t/status", 1).await, ["online"]);
    assert!(route.close().await.is_settled());
    assert_eq!(subscriber.until("t/status", 2).await.last().unwrap(), "offline");
    let silence = timeout(Duration::from_millis(100), subscriber.arrived.recv()).await;
    assert!(silence.is_err(), "after DISCONNECT there is no will: {silence:?}");
}

#[tokio::test]
async fn a_gateway_that_dies_leaves_its_will() {
    let house = House::open().await;
    let route = Route::open(house.config());
    route.connected().await;
    let mut subscriber = Subscriber::of(house.address).await;
    route.task.abort();
    assert_eq!(subscriber.until("t/status", 1).await, ["offline by will"]);
}

#[tokio::test]
async fn quality_of_service_0_is_delivered_when_it_is_written() {
    let house = House::open().await;
    let mut subscriber = Subscriber::of(house.address).await;
    house.faults.mute.store(true, Relaxed);
    let route = Route::open(MqttConfig { qos: 0, ..house.config() });
    let source = Source::new("a", LONG);
    for _ in 0..500 {
        route.sender.send(source.sample()).await.unwrap();
    }
    eventually("all are written", || source.device.delivered.get() == 500).await;
    assert_eq!(complete_and_in_order(&subscriber.until("t/a", 500).await, 500), 0);
    assert!(route.close().await.is_settled());
}
