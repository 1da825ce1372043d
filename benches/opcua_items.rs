//! `cargo bench --bench opcua_items [SECONDS]`: 10,000 monitored items that change once a second, watched by the gateway, and beside it by a bare
//! client of the same library that only counts notifications.
//!
//! Server, bare client and gateway are processes of their own; the broker is in this one. CPU time and memory are those of each process.

#![allow(clippy::expect_used)] // a bench that cannot start has nothing to say

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use opcua::client::{ClientBuilder, DataChangeCallback, IdentityToken};
use opcua::nodes::VariableBuilder;
use opcua::server::ServerBuilder;
use opcua::server::diagnostics::NamespaceMetadata;
use opcua::server::node_manager::memory::{SimpleNodeManager, simple_node_manager};
use opcua::types::{
    DataValue, EndpointDescription, MessageSecurityMode, MonitoredItemCreateRequest, MonitoringMode, NodeId,
    TimestampsToReturn, UserTokenPolicy,
};
use taktbus::config::plan::SinkConfig;
use taktbus::config::{LoadOptions, load_text};
use taktbus::demo::broker::Broker;
use taktbus::northbound::mqtt::config::MqttConfig;
use taktbus::runtime::gateway::Gateway;
use tokio::net::TcpListener;
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
    let (mut server, address) = child(&["server"]);
    let broker = Broker::bind(([127, 0, 0, 1], 0).into()).await.expect("a broker");
    let at = broker.local_addr().to_string();
    tokio::spawn(broker.run(CancellationToken::new()));
    let seconds = seconds.to_string();
    for arguments in [vec!["bare", &address, &seconds], vec!["gateway", &address, &at, &seconds]] {
        let name = arguments[0].to_string();
        let arguments: Vec<String> = arguments.into_iter().map(str::to_string).collect();
        let told = tokio::task::spawn_blocking(move || {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let (mut child, line) = child(&arguments);
            child.wait().expect("it ends");
            line
        });
        println!("{name:8} {}", told.await.expect("it ends"));
    }
    server.kill().expect("the server ends");
    server.wait().expect("the server has ended");
}

/// Starts this program once more; its first line says what there is to say.
fn child(arguments: &[&str]) -> (Child, String) {
    let program = std::env::current_exe().expect("this program's path");
    let mut child = Command::new(program).args(arguments).stdout(Stdio::piped()).spawn().expect("a process");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
    (child, line.trim().to_string())
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
        .with_node_manager(simple_node_manager(metadata, "bench"));
    let limits = &mut builder.limits_mut().subscriptions;
    (limits.min_sampling_interval_ms, limits.min_publishing_interval_ms) = (10.0, 10.0);
    limits.max_monitored_items_per_sub = 2 * ITEMS as usize;
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
            // Ten thousand values are more than the server sends to this client at once (BadResponseTooLarge).
            1_000,
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
    let (before, cpu) = (count.load(Relaxed), cpu_ms());
    sleep(Duration::from_secs(seconds)).await;
    told(count.load(Relaxed) - before, cpu_ms() - cpu, seconds, "");
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
    let metrics = gateway.metrics();
    let stop = CancellationToken::new();
    let running = tokio::spawn(gateway.run(stop.clone()));
    sleep(Duration::from_secs(3)).await;
    let delivered = || metrics.devices.iter().map(|device| device.delivered.get()).sum::<u64>();
    let (before, cpu) = (delivered(), cpu_ms());
    sleep(Duration::from_secs(seconds)).await;
    let messages = delivered() - before;
    let p99 = metrics.devices.iter().filter_map(|device| device.total.quantile(0.99)).max();
    // Each message has one read's points, and every point changes each second.
    let rest = format!(", {messages} messages, p99 notification to PUBACK {p99:?}");
    told(messages * 500, cpu_ms() - cpu, seconds, &rest);
    stop.cancel();
    running.await.expect("it ends").expect("it ran");
}

fn told(values: u64, cpu: u64, seconds: u64, rest: &str) {
    let per_second = values / seconds;
    println!("{per_second} values/s, {} ms CPU per second, RSS {} MiB{rest}", cpu / seconds, rss_mib());
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
