//! HTTP routes against a server that says what it's told to say: delivered, again later, never; nothing is lost, nothing blocks.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, VecDeque};
use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use taktbus::budget::OnLate;
use taktbus::metrics::{DeviceMetrics, RouteMetrics};
use taktbus::model::message::{Kind, Message, Sampled};
use taktbus::model::secret::Secret;
use taktbus::northbound::forwarder::{self, Durability, Settings, Summary};
use taktbus::northbound::http::HttpSink;
use taktbus::northbound::http::config::{Auth, HttpConfig};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

const SOON: Duration = Duration::from_secs(30);

/// What a server does with a request.
#[derive(Clone, Debug)]
enum Does {
    Answers(u16, &'static str),
    /// Takes the request and hangs up.
    HangsUp,
    /// Takes the request and says nothing.
    Freezes,
}

#[derive(Clone, Debug)]
struct Request {
    at: Instant,
    connection: u32,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Request {
    fn json(&self) -> Value {
        let plain = match self.headers.get("content-encoding").map(String::as_str) {
            Some("gzip") => {
                let mut plain = Vec::new();
                flate2::read::GzDecoder::new(&self.body[..]).read_to_end(&mut plain).unwrap();
                plain
            }
            _ => self.body.clone(),
        };
        serde_json::from_slice(&plain).unwrap()
    }
}

type Rule = dyn Fn(&Request) -> Does + Send + Sync;

/// An HTTP/1.1 server of a page: what it does is asked of a rule, after a script.
struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    script: Arc<Mutex<VecDeque<Does>>>,
    _serving: AbortOnDropHandle<()>,
}

impl Server {
    async fn start(rule: impl Fn(&Request) -> Does + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let script: Arc<Mutex<VecDeque<Does>>> = Arc::default();
        let rule: Arc<Rule> = Arc::new(rule);
        let (seen, next) = (requests.clone(), script.clone());
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            let mut count = 0;
            while let Ok((stream, _)) = listener.accept().await {
                count += 1;
                connections.spawn(serve(stream, count, seen.clone(), next.clone(), rule.clone()));
            }
        });
        Self { address, requests, script, _serving: AbortOnDropHandle::new(serving) }
    }

    fn then(&self, does: impl IntoIterator<Item = Does>) {
        self.script.lock().unwrap().extend(does);
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

async fn serve(
    stream: TcpStream,
    connection: u32,
    seen: Arc<Mutex<Vec<Request>>>,
    script: Arc<Mutex<VecDeque<Does>>>,
    rule: Arc<Rule>,
) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut headers = BTreeMap::new();
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        assert!(line.starts_with("POST /in HTTP/1.1"), "{line}");
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.insert(name.to_lowercase(), value.to_string());
        }
        let mut body = vec![0; headers["content-length"].parse().unwrap()];
        stream.read_exact(&mut body).await.unwrap();
        let request = Request { at: Instant::now(), connection, headers, body };
        seen.lock().unwrap().push(request.clone());
        let scripted = script.lock().unwrap().pop_front();
        match scripted.unwrap_or_else(|| rule(&request)) {
            Does::Answers(status, rest) => {
                let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n{rest}\r\n");
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            Does::HangsUp => return,
            Does::Freezes => return std::future::pending().await,
        }
    }
}

fn config(address: SocketAddr) -> HttpConfig {
    HttpConfig {
        url: format!("http://{address}/in"),
        host: address.ip().to_string(),
        tls: None,
        auth: Auth::None,
        headers: Vec::new(),
        max_batch: 1,
        linger: Duration::ZERO,
        gzip_above: None,
        timeout: Duration::from_secs(5),
        statuses: false,
        backlog_bytes: 1 << 20,
    }
}

/// A route whose messages come from here.
struct Route {
    messages: mpsc::Sender<Message>,
    device: Arc<DeviceMetrics>,
    metrics: Arc<RouteMetrics>,
    stop: CancellationToken,
    running: JoinHandle<Summary>,
    next: u64,
}

impl Route {
    fn start(config: HttpConfig) -> Self {
        Self::of_epoch(config, 7)
    }

    fn of_epoch(config: HttpConfig, epoch: u64) -> Self {
        let (messages, received) = mpsc::channel(1024);
        let settings = Settings {
            site: "hall".into(),
            epoch,
            backlog_bytes: config.backlog_bytes,
            durability: Durability::Off,
            opened: None,
            offline: None,
        };
        let (metrics, stop) = (Arc::new(RouteMetrics::default()), CancellationToken::new());
        let sink = HttpSink::new(config, "hall".into(), epoch);
        let running =
            tokio::spawn(forwarder::run(sink, received, None, settings, metrics.clone(), stop.clone()));
        Self { messages, device: Arc::new(DeviceMetrics::new("oven 1")), metrics, stop, running, next: 0 }
    }

    async fn send(&mut self, count: u64, budget: Duration) {
        for _ in 0..count {
            let now = Instant::now();
            let seq = self.next;
            self.next += 1;
            let sampled = Sampled {
                device: self.device.clone(),
                epoch: 7,
                seq,
                started: now,
                received: now,
                encoded: now,
                deadline: now + budget,
                doubted: None,
                late: OnLate::Deliver,
            };
            let payload =
                Bytes::from(json!({"device": "oven 1", "seq": seq, "values": {"t": 21.5}}).to_string());
            let message =
                Message { topic: "oven 1".into(), payload, retain: false, kind: Kind::Data(sampled) };
            self.messages.send(message).await.unwrap();
        }
    }

    async fn until(&self, what: &str, condition: impl Fn(&DeviceMetrics) -> bool) {
        let wait = async {
            while !condition(&self.device) {
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(SOON, wait).await.unwrap_or_else(|_| panic!("in vain: {what}"));
    }

    async fn stop(self) -> Summary {
        self.stop.cancel();
        self.running.await.unwrap()
    }
}

/// The sequence numbers of data in requests, in their order.
fn seqs(requests: &[Request]) -> Vec<u64> {
    let of = |value: Value| match value {
        Value::Array(all) => all,
        one => vec![one],
    };
    requests
        .iter()
        .flat_map(|request| of(request.json()))
        .filter_map(|message| message["seq"].as_u64())
        .collect()
}

#[tokio::test]
async fn each_message_is_one_post_over_one_connection_in_order() {
    let server = Server::start(|_| Does::Answers(204, "")).await;
    let headers = vec![("X-Line".into(), "{site}-{device}".into())];
    let auth = Auth::Bearer(Secret::Literal("t0ken".into()));
    let mut route = Route::start(HttpConfig { headers, auth, ..config(server.address) });
    route.send(50, SOON).await;
    route.until("50 delivered", |device| device.delivered.get() == 50).await;
    let requests = server.requests();
    assert_eq!(seqs(&requests), (0..50).collect::<Vec<_>>());
    assert!(requests.iter().all(|request| request.connection == 1), "one persistent connection");
    let headers = &requests[49].headers;
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["idempotency-key"], "hall/oven%201/7/49");
    assert_eq!(headers["authorization"], "Bearer t0ken");
    assert_eq!(headers["x-line"], "hall-oven%201");
    assert!(route.stop().await.is_settled());
}

#[tokio::test]
async fn what_fails_for_now_is_sent_again_byte_for_byte() {
    let server = Server::start(|_| Does::Answers(200, "")).await;
    server.then([Does::Answers(503, ""), Does::HangsUp, Does::Answers(408, ""), Does::Answers(500, "")]);
    let mut route = Route::start(config(server.address));
    route.send(3, SOON).await;
    route.until("3 delivered", |device| device.delivered.get() == 3).await;
    let requests = server.requests();
    assert_eq!(seqs(&requests), [0, 0, 0, 0, 0, 1, 2]);
    for again in &requests[1..5] {
        assert_eq!(again.body, requests[0].body);
        assert_eq!(again.headers["idempotency-key"], requests[0].headers["idempotency-key"]);
    }
    let connections: Vec<u32> = requests.iter().map(|request| request.connection).collect();
    assert_eq!(connections, [1, 1, 2, 2, 2, 2, 2], "an answer is no reason to connect anew");
    assert_eq!(route.device.gap_accounted.get(), 0);
    assert!(route.stop().await.is_settled());
}

#[tokio::test]
async fn a_batch_is_repeated_as_it_was_whatever_came_since() {
    let server = Server::start(|_| Does::Answers(200, "")).await;
    server.then([Does::Answers(200, ""), Does::Answers(503, ""), Does::HangsUp]);
    let linger = Duration::from_millis(200);
    let mut route = Route::start(HttpConfig { max_batch: 10, linger, ..config(server.address) });
    route.send(1, SOON).await;
    route.until("the first delivered", |device| device.delivered.get() == 1).await;
    route.send(3, SOON).await;
    let deadline = Instant::now() + SOON;
    while server.requests().len() < 2 {
        assert!(Instant::now() < deadline);
        sleep(Duration::from_millis(2)).await;
    }
    route.send(5, SOON).await;
    route.until("9 delivered", |device| device.delivered.get() == 9).await;
    let requests = server.requests();
    let batches: Vec<Vec<u64>> = requests.iter().map(|request| seqs(std::slice::from_ref(request))).collect();
    assert_eq!(batches[1..4], [vec![1, 2, 3], vec![1, 2, 3], vec![1, 2, 3]]);
    let key = |at: usize| &requests[at].headers["idempotency-key"];
    assert!(key(1) == key(2) && key(2) == key(3), "{requests:?}");
    assert!(key(1) != key(4) && key(4).starts_with("hall/7/"), "{requests:?}");
    assert_eq!(seqs(&requests[4..]), (4..9).collect::<Vec<_>>());
    assert!(route.stop().await.is_settled());
}

#[tokio::test]
async fn a_stop_waits_for_no_further_messages() {
    let server = Server::start(|_| Does::Answers(200, "")).await;
    let linger = Duration::from_secs(60);
    let mut route = Route::start(HttpConfig { max_batch: 100, linger, ..config(server.address) });
    route.send(1, 20 * SOON).await;
    route.until("the first delivered", |device| device.delivered.get() == 1).await;
    route.send(2, 20 * SOON).await;
    let start = Instant::now();
    assert!(route.stop().await.is_settled());
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(seqs(&server.requests()), [0, 1, 2]);
}

#[tokio::test]
async fn a_renewed_token_is_picked_up_and_nothing_is_given_up_for_the_old_one() {
    let path = std::env::temp_dir().join(format!("taktbus-http-token-{}", std::process::id()));
    std::fs::write(&path, "old\n").unwrap();
    let renews = path.clone();
    let server = Server::start(move |request| match &*request.headers["authorization"] {
        "Bearer new" => Does::Answers(200, ""),
        _ => {
            std::fs::write(&renews, "new\n").unwrap();
            Does::Answers(401, "")
        }
    })
    .await;
    let mut route =
        Route::start(HttpConfig { auth: Auth::Bearer(Secret::File(path.clone())), ..config(server.address) });
    route.send(2, SOON).await;
    route.until("2 delivered", |device| device.delivered.get() == 2).await;
    std::fs::remove_file(path).unwrap();
    assert_eq!(seqs(&server.requests()), [0, 0, 1]);
    assert_eq!(route.device.gap_accounted.get(), 0);
    assert!(route.stop().await.is_settled());
}

#[tokio::test]
async fn statuses_are_sent_where_they_are_wanted_and_two_runs_do_not_share_a_key() {
    let server = Server::start(|_| Does::Answers(200, "")).await;
    let status = |topic: &str| Message {
        topic: topic.into(),
        payload: Bytes::from_static(br#"{"state":"offline"}"#),
        retain: true,
        kind: Kind::Status,
    };
    for epoch in [7, 8] {
        for statuses in [false, true] {
            let headers = vec![("X-Device".into(), "{device}".into())];
            let config = HttpConfig { statuses, headers, ..config(server.address) };
            let route = Route::of_epoch(config, epoch);
            route.until("up", |_| route.metrics.up.get() == 1).await;
            route.messages.send(status("/status")).await.unwrap();
            route.messages.send(status("oven 1/status")).await.unwrap();
            assert!(route.stop().await.is_settled());
        }
    }
    let requests = server.requests();
    let devices: Vec<Option<&str>> =
        requests.iter().map(|request| request.headers.get("x-device").map(String::as_str)).collect();
    assert_eq!(devices, [None, Some("oven%201"), None, Some("oven%201")]);
    let key = |at: usize| &requests[at].headers["idempotency-key"];
    assert!(key(0).starts_with("hall/7/") && key(2).starts_with("hall/8/"), "{requests:?}");
}

#[tokio::test]
async fn a_server_that_asks_for_time_gets_it() {
    let server = Server::start(|_| Does::Answers(200, "")).await;
    server.then([Does::Answers(429, "Retry-After: 2\r\n")]);
    let mut route = Route::start(config(server.address));
    route.send(1, SOON).await;
    route.until("delivered", |device| device.delivered.get() == 1).await;
    let requests = server.requests();
    assert!(
        requests[1].at - requests[0].at >= Duration::from_secs(2),
        "{:?}",
        requests[1].at - requests[0].at
    );
    assert!(route.stop().await.is_settled());
}

#[tokio::test]
async fn a_refused_message_is_accounted_for_and_blocks_nothing() {
    let server = Server::start(|request| match request.json()["seq"].as_u64() {
        Some(3) => Does::Answers(422, ""),
        _ => Does::Answers(200, ""),
    })
    .await;
    let headers = vec![("X-Device".into(), "{device}".into())];
    let mut route = Route::start(HttpConfig { headers, ..config(server.address) });
    route.send(6, SOON).await;
    route.until("5 delivered", |device| device.delivered.get() == 5).await;
    let gaps = || {
        server.requests().iter().map(Request::json).filter(|json| json["gap"].is_object()).collect::<Vec<_>>()
    };
    let deadline = Instant::now() + SOON;
    while gaps().is_empty() && Instant::now() < deadline {
        sleep(Duration::from_millis(2)).await;
    }
    let gap = &gaps()[0];
    assert_eq!((&gap["gap"]["from"], &gap["gap"]["to"]), (&json!(3), &json!(3)));
    assert!(gap["gap"]["reason"].as_str().unwrap().contains("HTTP 422"), "{gap}");
    assert_eq!(route.device.gap_accounted.get(), 1);
    assert!(
        server.requests().iter().all(|request| request.headers["x-device"] == "oven%201"),
        "the gap's too"
    );
    assert!(route.stop().await.is_settled());
}

#[tokio::test]
async fn of_a_batch_only_the_message_that_is_wrong_is_refused() {
    let is_poisoned = |value: &Value| value.as_array().unwrap().iter().any(|message| message["seq"] == 7);
    let server = Server::start(move |request| match is_poisoned(&request.json()) {
        true => Does::Answers(400, ""),
        false => Does::Answers(200, ""),
    })
    .await;
    let linger = Duration::from_millis(50);
    let mut route = Route::start(HttpConfig { max_batch: 10, linger, ..config(server.address) });
    route.send(20, SOON).await;
    route.until("19 delivered", |device| device.delivered.get() == 19).await;
    assert_eq!(route.device.gap_accounted.get(), 1);
    let requests = server.requests();
    assert_eq!(requests[0].json().as_array().unwrap().len(), 10, "a full batch does not wait");
    assert!(requests.iter().all(|request| request.json().is_array()));
    assert!(route.stop().await.is_settled());
}

#[tokio::test]
async fn a_batch_waits_no_longer_than_its_budgets_allow_and_is_compressed() {
    let server = Server::start(|_| Does::Answers(200, "")).await;
    let (linger, gzip_above) = (Duration::from_secs(20), Some(100));
    let mut route = Route::start(HttpConfig { max_batch: 100, linger, gzip_above, ..config(server.address) });
    // How long the server takes is not known before its first answer.
    route.send(1, Duration::from_secs(2)).await;
    route.until("the first delivered", |device| device.delivered.get() == 1).await;
    let start = Instant::now();
    route.send(10, Duration::from_secs(2)).await;
    route.until("11 delivered", |device| device.delivered.get() == 11).await;
    assert!(start.elapsed() >= Duration::from_millis(500), "it did not wait: {:?}", start.elapsed());
    assert_eq!(route.device.violations_total(), 0, "it waited for too long: {:?}", start.elapsed());
    let requests = server.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[1].headers["content-encoding"], "gzip");
    assert_eq!(seqs(&requests), (0..11).collect::<Vec<_>>());
    assert!(route.stop().await.is_settled());
}

#[tokio::test]
async fn a_frozen_server_delays_nobody_else() {
    let frozen = Server::start(|_| Does::Freezes).await;
    let server = Server::start(|_| Does::Answers(200, "")).await;
    let timeout = Duration::from_secs(1);
    let mut stuck = Route::start(HttpConfig { timeout, ..config(frozen.address) });
    let mut route = Route::start(config(server.address));
    for _ in 0..200 {
        stuck.send(1, SOON).await;
        route.send(1, SOON).await;
    }
    route.until("200 delivered", |device| device.delivered.get() == 200).await;
    assert_eq!(stuck.device.delivered.get(), 0);
    // Frozen is noticed, and tried again on another connection.
    let deadline = Instant::now() + SOON;
    while frozen.requests().len() < 2 {
        assert!(Instant::now() < deadline);
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(frozen.requests()[1].body, frozen.requests()[0].body);
    assert!(stuck.metrics.connects.get() >= 2);
    assert!(route.stop().await.is_settled());
    assert!(!stuck.stop().await.is_settled());
}
