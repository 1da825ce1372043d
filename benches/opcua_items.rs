//! `cargo bench --bench opcua_items [SECONDS]`: 10,000 monitored items that change once a second, watched by the gateway, and beside it by a bare
//! client of the same library that only counts notifications.
//!
//! Server, bare client and gateway are processes of their own; the broker is in this one, with a subscriber that counts the values which
//! arrive. CPU time and memory are those of each process, while values are counted.

#![allow(clippy::expect_used)] // a bench that cannot start has nothing to say

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use opcua::client::{ClientBuilder, DataChangeCallback, IdentityToken};
use opcua::types::{
    DataValue, EndpointDescription, MessageSecurityMode, MonitoredItemCreateRequest, MonitoringMode, NodeId,
    TimestampsToReturn, UserTokenPolicy,
};
use opcua_nodes::VariableBuilder;
use opcua_server::ServerBuilder;
use opcua_server::diagnostics::NamespaceMetadata;
use opcua_server::node_manager::memory::{SimpleNodeManager, simple_node_manager};
use taktbus::config::plan::SinkConfig;
use taktbus::config::{LoadOptions, load_text};
use taktbus::demo::broker::Broker;
use taktbus::demo::subscriber::Subscriber;
use taktbus::metrics::Histogram;
use taktbus::northbound::mqtt::config::MqttConfig;
use taktbus::runtime::gateway::Gateway;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

const ITEMS: u32 = 10_000;
const URI: &str = "urn:bench";

/// The library makes folders for certificates, which nobody needs here.
const NO_FOLDER: &str = "/dev/null/pki";

/// Of both, and in the gateway's site too: at the interval of the changes, the server would leave out those that come a moment too soon.
const SAMPLING: Duration = Duration::from_millis(500);

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match words[..] {
        ["server"] => runtime.block_on(server()),
        ["bare", address, seconds] => runtime.block_on(bare(address, number(seconds))),
        ["gateway", address, broker, seconds] => {
            runtime.block_on(gateway(address, broker.parse().expect("an address"), number(seconds)));
        }
        [seconds] => runtime.block_on(compare(number(seconds))),
        _ => runtime.block_on(compare(20)),
    }
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number of seconds")
}

async fn compare(seconds: u64) {
    let mut server = Running::start(&["server"]);
    let address = server.line().await;
    let broker = Broker::bind(([127, 0, 0, 1], 0).into()).await.expect("a broker");
    let at = broker.local_addr();
    tokio::spawn(broker.run(CancellationToken::new()));
    let arrived = Arc::new(AtomicU64::new(0));
    tokio::spawn(count_values(at, arrived.clone()));
    let seconds = seconds.to_string();

    let bare = measured(&["bare", &address, &seconds], None).await;
    let gateway = measured(&["gateway", &address, &at.to_string(), &seconds], Some(&arrived)).await;
    println!("ratio    {:.2}", gateway / bare);
    server.end();
}

/// Runs a client and prints what it took; its CPU time for a value. `arrived`: where its values are counted, if it doesn't do it itself.
async fn measured(arguments: &[&str], arrived: Option<&AtomicU64>) -> f64 {
    let mut client = Running::start(arguments);
    let arrived = || arrived.map_or(0, |arrived| arrived.load(Relaxed));
    assert_eq!(client.line().await, "begin");
    let before = arrived();
    let line = client.line().await;
    let counted = arrived() - before;
    let mut words = line.splitn(4, ' ');
    let mut word = || words.next().expect("a word");
    let (values, cpu, seconds) = (number(word()), number(word()), number(word()));
    let values = values + counted;
    let each = cpu as f64 * 1e3 / values as f64;
    let per_second = values / seconds;
    println!("{:8} {per_second} values/s, {each:.2} µs CPU per value, {}", arguments[0], word());
    client.end();
    each
}

/// A program's points are named `i0`, `i1`, …: each `"i` is a value.
async fn count_values(broker: SocketAddr, count: Arc<AtomicU64>) {
    let mut subscriber = Subscriber::new(broker);
    loop {
        let payload = subscriber.next().await;
        count.fetch_add(payload.windows(2).filter(|pair| pair == b"\"i").count() as u64, Relaxed);
    }
}

/// This program once more, as something else.
struct Running {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let program = std::env::current_exe().expect("this program's path");
        let mut child =
            Command::new(program).args(arguments).stdout(Stdio::piped()).spawn().expect("a process");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let (sender, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { child, lines }
    }

    async fn line(&mut self) -> String {
        self.lines.recv().await.expect("a line")
    }

    fn end(mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        self.child.wait().expect("it has ended");
    }
}

async fn server() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let metadata = NamespaceMetadata { namespace_uri: URI.into(), ..NamespaceMetadata::default() };
    let mut builder = ServerBuilder::new_anonymous("bench")
        .application_uri("urn:bench:server")
        .pki_dir(NO_FOLDER)
        .host("127.0.0.1")
        .port(address.port())
        .subscription_poll_interval_ms(10)
        .with_node_manager(taktbus::simulation::opcua_base())
        .with_node_manager(simple_node_manager(metadata, "bench"));
    let limits = &mut builder.limits_mut().subscriptions;
    (limits.min_sampling_interval_ms, limits.min_publishing_interval_ms) = (10.0, 10.0);
    limits.max_monitored_items_per_sub = 2 * ITEMS as usize;
    // By default a message has 320 KiB at most, which is not enough for all values (BadResponseTooLarge).
    let limits = builder.limits_mut();
    (limits.max_message_size, limits.max_chunk_count) = (8 << 20, 128);
    let (server, handle) = builder.build().expect("a server");
    let running = handle.clone();
    tokio::spawn(server.run_with(listener));
    let manager = loop {
        match running.node_managers().get_by_name::<SimpleNodeManager>("bench") {
            Some(manager) if !manager.namespaces().is_empty() => break manager,
            _ => sleep(Duration::from_millis(5)).await,
        }
    };
    let index = manager.namespaces().keys().next().copied().expect("a namespace");
    let ids: Vec<NodeId> = (0..ITEMS).map(|item| NodeId::new(index, item)).collect();
    for id in &ids {
        let name = id.to_string();
        VariableBuilder::new(id, name.as_str(), name.as_str())
            .data_type(opcua::types::DataTypeId::Double)
            .value(0.0)
            .organized_by(NodeId::objects_folder_id())
            .insert(&mut *manager.address_space().write());
    }
    println!("{address}");
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut value = 0.0;
    loop {
        second.tick().await;
        value += 0.25;
        let values = ids.iter().map(|id| (id, None, DataValue::new_now(value)));
        manager.set_values(handle.subscriptions(), values).expect("the nodes are there");
    }
}

/// The least that a client of this library can do: count.
async fn bare(address: &str, seconds: u64) {
    let mut client = ClientBuilder::new()
        .application_name("bare")
        .application_uri("urn:bare")
        .pki_dir(NO_FOLDER)
        .max_array_length(1 << 20)
        .max_message_size(8 << 20)
        .max_chunk_count(128)
        .client()
        .expect("a client");
    let url = format!("opc.tcp://{address}/");
    let anonymous = UserTokenPolicy::anonymous();
    let endpoint: EndpointDescription = (url.as_str(), "None", MessageSecurityMode::None, anonymous).into();
    let (session, events) =
        client.connect_to_endpoint_directly(endpoint, IdentityToken::Anonymous).expect("a session");
    let running = events.spawn();
    session.wait_for_connection().await;
    let count = Arc::new(AtomicU64::new(0));
    let counted = count.clone();
    let subscription = session
        .create_subscription(
            SAMPLING,
            120,
            6,
            0,
            0,
            true,
            DataChangeCallback::new(move |_, _| {
                counted.fetch_add(1, Relaxed);
            }),
        )
        .await
        .expect("a subscription");
    let items: Vec<u32> = (0..ITEMS).collect();
    for part in items.chunks(1_000) {
        let requests = part.iter().map(|item| {
            let mut request: MonitoredItemCreateRequest = NodeId::new(2, *item).into();
            request.monitoring_mode = MonitoringMode::Reporting;
            request.requested_parameters.sampling_interval = SAMPLING.as_secs_f64() * 1e3;
            request.requested_parameters.client_handle = *item;
            request.requested_parameters.queue_size = 1;
            request
        });
        let results = session
            .create_monitored_items(subscription, TimestampsToReturn::Both, requests.collect())
            .await
            .expect("items");
        assert!(results.iter().all(|result| result.result.status_code.is_good()), "an item is refused");
    }
    sleep(Duration::from_secs(2)).await;
    println!("begin");
    let (before, cpu) = (count.load(Relaxed), cpu_ms());
    sleep(Duration::from_secs(seconds)).await;
    println!("{} {} {seconds} RSS {} MiB", count.load(Relaxed) - before, cpu_ms() - cpu, rss_mib());
    running.abort();
}

async fn gateway(address: &str, broker: SocketAddr, seconds: u64) {
    // Ten devices of a thousand points: names are ranges of at most a thousand.
    let devices: String = (0..ITEMS / 1_000)
        .map(|device| {
            let points: String = (0..1_000)
                .map(|item| format!("      i{item}: {{node: 'i={}', type: float64}}\n", device * 1_000 + item))
                .collect();
            format!("  d{device}:\n    via: server\n    namespace: {URI}\n    subscribe: 500ms\n    points:\n{points}")
        })
        .collect();
    let text = format!(
        "site: bench\nconnections:\n  server: {{opcua: \"opc.tcp://{address}\", security: None}}\ndevices:\n{devices}publish:\n  \
         cloud: {{mqtt: mqtt://localhost}}\n"
    );
    let loaded = load_text("bench.yaml", &text, &LoadOptions::default());
    let mut site = loaded.site.unwrap_or_else(|| panic!("{:#?}", loaded.diagnostics));
    site.routes[0].sink = SinkConfig::Mqtt(MqttConfig::plain(broker, "bench".into()));
    let gateway = Gateway::new(site).expect("a plan");
    let metrics = gateway.metrics().get();
    let stop = CancellationToken::new();
    let running = tokio::spawn(gateway.run(stop.clone()));
    sleep(Duration::from_secs(3)).await;
    println!("begin");
    for device in &metrics.devices {
        device.total.clear();
        device.stages.iter().for_each(Histogram::clear);
    }
    let cpu = cpu_ms();
    sleep(Duration::from_secs(seconds)).await;
    let p99 = metrics.devices.iter().filter_map(|device| device.total.quantile(0.99)).max();
    let stages: Vec<_> = (0..4)
        .map(|stage| metrics.devices.iter().filter_map(|device| device.stages[stage].quantile(0.99)).max())
        .collect();
    let late: u64 = metrics.devices.iter().map(|device| device.violations_total()).sum();
    println!(
        "0 {} {seconds} RSS {} MiB, p99 notification to PUBACK {p99:?} (stages {stages:?}), {late} late",
        cpu_ms() - cpu,
        rss_mib()
    );
    stop.cancel();
    running.await.expect("it ends").expect("it ran");
}

/// User and system time of this process (proc(5): fields 14 and 15 of stat, in hundredths of a second).
fn cpu_ms() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields = stat.rsplit_once(')').expect("a name").1.split_whitespace();
    fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number") * 10).sum()
}

fn rss_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a size");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") / 1024
}
