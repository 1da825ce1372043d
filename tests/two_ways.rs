//! The shipped example with two ways north: a serial meter to MQTT each 500 ms and an OPC UA server to an HTTP API each second, at the
//! same time, within their budgets. The devices are simulated; broker and API are in this process.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::time::Duration;

use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use serde_json::Value;
use taktbus::config::plan::SinkConfig;
use taktbus::config::{self, LoadOptions};
use taktbus::demo::broker::Broker;
use taktbus::northbound::http::config::Auth;
use taktbus::northbound::mqtt::config::MqttConfig;
use taktbus::runtime::gateway::Gateway;
use taktbus::simulation::{self, Simulation};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(30);

/// Takes POSTs, and hands on the messages in them.
async fn api(listener: TcpListener, messages: mpsc::UnboundedSender<Value>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(requests(stream, messages.clone()));
    }
}

async fn requests(stream: TcpStream, messages: mpsc::UnboundedSender<Value>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
                return;
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        let Value::Array(all) = serde_json::from_slice(&body).unwrap() else { panic!("an array") };
        all.into_iter().for_each(|message| messages.send(message).unwrap());
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    }
}

#[tokio::test]
async fn modbus_to_mqtt_and_opc_ua_to_http_at_the_same_time() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/two-ways/gateway.yaml");
    let loaded = config::load(&path, &LoadOptions::default());
    assert!(loaded.diagnostics.is_empty(), "{:#?}", loaded.diagnostics);
    let mut site = loaded.site.unwrap();
    let plant = Simulation::start(&site, &loaded.proven, &simulation::Options::default()).await.unwrap();
    plant.redirect(&mut site);
    let broker = Broker::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let at = broker.local_addr();
    tokio::spawn(broker.run(CancellationToken::new()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (to, mut posted) = mpsc::unbounded_channel();
    tokio::spawn(api(listener, to));
    for route in &mut site.routes {
        match &mut route.sink {
            SinkConfig::Mqtt(config) => *config = MqttConfig::plain(at, "hall".into()),
            SinkConfig::Http(config) => {
                (config.url, config.tls, config.auth) = (format!("http://{address}/v1"), None, Auth::None);
                config.gzip_above = None;
            }
        }
    }
    let mut options = MqttOptions::new("reader", (at.ip().to_string(), at.port()));
    options.set_keep_alive(5);
    let (client, mut events) = AsyncClient::builder(options).capacity(10).build();
    client.subscribe("taktbus/hall/+", QoS::AtLeastOnce).await.unwrap();
    while !matches!(events.poll().await.unwrap(), Event::Incoming(Packet::SubAck(_))) {}

    let gateway = Gateway::new(site).unwrap_or_else(|errors| panic!("{errors:?}"));
    let metrics = gateway.metrics().get();
    let stop = CancellationToken::new();
    let running = tokio::spawn(gateway.run(stop.clone()));
    let (mut meter, mut press) = (Vec::new(), Vec::new());
    let both = async {
        while meter.len() < 6 || press.len() < 3 {
            tokio::select! {
                Some(message) = posted.recv() => press.push(message),
                event = events.poll() => if let Event::Incoming(Packet::Publish(publish)) = event.unwrap() {
                    let message: Value = serde_json::from_slice(&publish.payload).unwrap();
                    if message["values"].is_object() {
                        meter.push(message);
                    }
                },
            }
        }
    };
    timeout(SOON, both).await.expect("both ways work");
    for (at, message) in meter.iter().enumerate() {
        assert_eq!(
            (&message["device"], &message["seq"]),
            (&"meter".into(), &(at as u64).into()),
            "{message}"
        );
    }
    let numbers: Vec<u64> = press.iter().filter_map(|message| message["seq"].as_u64()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
    assert!(press.iter().all(|message| message["device"] == "press"));
    assert!(press[1]["values"]["speed"].is_number(), "{}", press[1]);
    stop.cancel();
    running.await.unwrap().unwrap();
    let late: u64 = metrics
        .routes
        .iter()
        .flat_map(|route| route.devices.get().to_vec())
        .map(|device| device.violations_total())
        .sum();
    assert_eq!(late, 0, "within their budgets");
}
