//! HTTP routes to servers that we did not write: Python's http.server over HTTP/1.1, hypercorn over TLS with HTTP/2.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::SOON;
use crate::broker::certificates;
use crate::folder::Folder;
use crate::gateway::Gateway;
use crate::memory;
use crate::peers::{Device, Peer, needs};
use crate::process::Process;
use crate::store::start;
use crate::values;

const USER: &str = "bakery";
const PASSWORD: &str = "correct horse";

struct Server {
    process: Process,
    port: u16,
    arguments: Vec<String>,
}

/// A request as the server saw it.
#[derive(Clone, Debug)]
struct Request {
    version: String,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Server {
    /// HTTP/1.1 for one user.
    fn plain() -> Self {
        Self::start("plain", &[USER.into(), PASSWORD.into()])
    }

    /// TLS with a certificate of the authority `right`; with `clients`, only for those who have one too.
    fn tls(folder: &Folder, clients: bool) -> Self {
        let file = |name: &str| folder.path(name).display().to_string();
        let mut arguments = vec![file("right.pem"), file("right.key")];
        arguments.extend(clients.then(|| file("right-ca.pem")));
        Self::start("tls", &arguments)
    }

    fn start(kind: &str, arguments: &[String]) -> Self {
        let arguments: Vec<String> =
            [kind.into(), "0".into()].into_iter().chain(arguments.iter().cloned()).collect();
        let (process, port) = serve(&arguments);
        Self { process, port, arguments }
    }

    fn kill(&mut self) {
        self.process.signal("KILL");
        self.process.finish(SOON);
    }

    /// After [`Self::kill`], at the same place.
    fn restart(&mut self) {
        self.arguments[1] = self.port.to_string();
        (self.process, _) = serve(&self.arguments);
    }

    /// The next `count` requests get this answer.
    fn answers(&mut self, status: u16, count: u32) {
        self.process.write_line(&format!("answer {status} {count}"));
    }

    /// The next request that arrives.
    fn request(&mut self) -> Request {
        self.process.line_where(SOON, "request", Request::told)
    }

    /// All that has arrived, of a server that has ended.
    fn requests(&self) -> Vec<Request> {
        self.process.seen.iter().filter_map(|line| Request::told(line)).collect()
    }
}

impl Request {
    fn told(line: &str) -> Option<Self> {
        let line: Value = serde_json::from_str(line).ok().filter(Value::is_object)?;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let headers = line["headers"].as_object().unwrap();
        Some(Self {
            version: text(&line["version"]),
            headers: headers.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
            body: text(&line["body"]),
        })
    }

    /// The sequence numbers of the messages in it, which is one or a list.
    fn seqs(&self) -> Vec<u64> {
        let all = match serde_json::from_str(&self.body).unwrap() {
            Value::Array(all) => all,
            one => vec![one],
        };
        all.iter().filter_map(|message| message["seq"].as_u64()).collect()
    }
}

fn serve(arguments: &[String]) -> (Process, u16) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/http_server.py");
    let mut process = Process::start("http_server", Peer::Hypercorn.command().arg(script).args(arguments));
    let port =
        process.line_where(SOON, "listening", |line| line.strip_prefix("listening ")?.parse::<u16>().ok());
    (process, port)
}

/// A site with every kind of value and a route to the server.
fn site(folder: &Folder, device: &Device, every: &str, route: &str) -> PathBuf {
    let plain = values::site(folder, &format!("tcp: 127.0.0.1:{}", device.place), 1, every, 1);
    let text = std::fs::read_to_string(plain).unwrap();
    let text = text.replace("mqtt: mqtt://127.0.0.1:1", route);
    assert!(text.contains(route), "{text}");
    folder.write("site.yaml", &text)
}

fn tls_route(folder: &Folder, server: &Server, ca: &str, further: &str) -> String {
    format!("http: https://127.0.0.1:{}/in, ca: {}{further}", server.port, folder.path(ca).display())
}

fn with_certificate(folder: &Folder) -> String {
    format!(", cert: {}, key: {}", folder.path("right.pem").display(), folder.path("right.key").display())
}

/// What has arrived, by its key: what arrives again must be the same.
#[derive(Default)]
struct Arrived {
    requests: BTreeMap<String, Request>,
    seqs: BTreeSet<u64>,
}

impl Arrived {
    fn add(&mut self, request: Request) {
        self.seqs.extend(request.seqs());
        let key = request.headers["idempotency-key"].clone();
        if let Some(earlier) = self.requests.insert(key, request.clone()) {
            assert_eq!(earlier.body, request.body, "not the same again");
        }
    }

    /// Takes requests until all numbers up to `count` beyond those of now have arrived.
    fn more(&mut self, count: u64, server: &mut Server) {
        let until = self.seqs.last().map_or(0, |last| last + 1) + count;
        while !(0..until).all(|seq| self.seqs.contains(&seq)) {
            self.add(server.request());
        }
    }
}

#[test]
fn every_value_arrives_over_http_1_with_a_password_and_compressed() {
    needs!(Pymodbus, Hypercorn);
    let folder = Folder::new("http-1");
    let device = values::filled(Device::pymodbus("tcp"), 1);
    let mut server = Server::plain();
    let secret = folder.write("password", &format!("{PASSWORD}\n"));
    let route = format!(
        "http: http://127.0.0.1:{}/in, user: {USER}, password: {{file: {}}}, gzip: 1KiB, headers: {{X-Line: \"{{site}}-{{device}}\"}}",
        server.port,
        secret.display()
    );
    let gateway = Gateway::run(&site(&folder, &device, "500ms", &route));
    let mut values = BTreeMap::new();
    while values.len() < memory::expected(1).len() {
        let request = server.request();
        let is_long = request.body.len() > 1024;
        assert_eq!(request.headers.get("content-encoding").map(String::as_str), is_long.then_some("gzip"));
        assert_eq!((&*request.version, &*request.headers["x-line"]), ("1.1", "test-all"));
        assert!(request.headers["idempotency-key"].starts_with("test/all/"), "{request:?}");
        values::collect(&request.body, &mut values);
    }
    assert_eq!(values, memory::expected(1));
    assert!(!gateway.end().contains(PASSWORD), "the password is in the log");
}

#[test]
fn http_2_with_certificates_on_both_sides() {
    needs!(Pymodbus, Hypercorn, Openssl);
    let folder = Folder::new("http-2");
    certificates(&folder, "right");
    let device = values::filled(Device::pymodbus("tcp"), 1);
    let mut server = Server::tls(&folder, true);
    let further = format!("{}, max_batch: 20, linger: 100ms", with_certificate(&folder));
    let gateway =
        Gateway::run(&site(&folder, &device, "50ms", &tls_route(&folder, &server, "right-ca.pem", &further)));
    let mut next = 0;
    let mut largest = 0;
    while next < 40 {
        let request = server.request();
        assert_eq!(request.version, "2");
        let seqs = request.seqs();
        assert_eq!(seqs, (next..next + seqs.len() as u64).collect::<Vec<_>>(), "in order, without holes");
        (next, largest) = (next + seqs.len() as u64, largest.max(seqs.len()));
    }
    assert!(largest > 1, "no request waited for more");
    gateway.end();
}

#[test]
fn telemetry_goes_by_http_2_with_certificates_on_both_sides_and_to_nobody_else() {
    needs!(Pymodbus, Hypercorn, Openssl);
    let folder = Folder::new("https-telemetry");
    certificates(&folder, "right");
    certificates(&folder, "wrong");
    let device = values::filled(Device::pymodbus("tcp"), 1);
    let mut server = Server::tls(&folder, true);
    let run = |server: &Server, ca: &str| {
        let path = values::site(&folder, &format!("tcp: 127.0.0.1:{}", device.place), 1, "500ms", 1);
        let mut text = std::fs::read_to_string(path).unwrap();
        text += &format!(
            "telemetry: {{otlp: 'https://127.0.0.1:{}/in/', every: 1s, ca: {}{}, headers: {{X-Site: 'a {{site}}'}}}}\n",
            server.port,
            folder.path(ca).display(),
            with_certificate(&folder)
        );
        Gateway::run(&folder.write("site.yaml", &text))
    };
    let gateway = run(&server, "right-ca.pem");
    let request = server.request();
    assert_eq!((&*request.version, &*request.headers["x-site"]), ("2", "a test"));
    assert!(request.body.contains("taktbus_polls_total"), "{}", request.body);
    gateway.end();

    let mut stranger = Server::tls(&folder, false);
    let mut gateway = run(&stranger, "wrong-ca.pem");
    gateway.0.line_where(SOON, "reason", |line| {
        (line.contains("telemetry is not taken") && line.to_lowercase().contains("certificate")).then_some(())
    });
    gateway.end();
    let story = stranger.process.story();
    assert!(!story.contains("resourceMetrics"), "it got something: {story}");
}

#[test]
fn nobody_gets_anything_over_tls_without_the_right_certificates() {
    needs!(Pymodbus, Hypercorn, Openssl);
    let folder = Folder::new("https-wrong");
    certificates(&folder, "right");
    certificates(&folder, "wrong");
    let device = values::filled(Device::pymodbus("tcp"), 1);
    let stranger = Server::tls(&folder, false);
    let strict = Server::tls(&folder, true);
    // Who wants a certificate of ours may close the connection before its alert is read (TLS 1.3).
    for (server, ca, reason) in
        [(stranger, "wrong-ca.pem", "certificate"), (strict, "right-ca.pem", "reason")]
    {
        let mut server = server;
        let mut gateway =
            Gateway::run(&site(&folder, &device, "500ms", &tls_route(&folder, &server, ca, "")));
        gateway.0.line_where(SOON, "reason", |line| {
            (line.contains("route down") && line.to_lowercase().contains(reason)).then_some(())
        });
        gateway.end();
        let story = server.process.story();
        assert!(!story.contains("idempotency-key"), "it got something: {story}");
    }
}

#[test]
fn refusals_for_now_freezes_and_kills_lose_nothing() {
    needs!(Pymodbus, Hypercorn, Openssl);
    let folder = Folder::new("https-outages");
    certificates(&folder, "right");
    let device = values::filled(Device::pymodbus("tcp"), 1);
    let mut server = Server::tls(&folder, false);
    let route = tls_route(&folder, &server, "right-ca.pem", ", timeout: 500ms");
    let mut gateway = Gateway::run(&site(&folder, &device, "500ms", &route));
    let mut arrived = Arrived::default();
    arrived.more(10, &mut server);

    server.answers(503, 3);
    arrived.more(20, &mut server);

    server.process.signal("STOP");
    gateway.0.line_where(SOON, "timeout", |line| line.contains("no answer in time").then_some(()));
    server.process.signal("CONT");
    arrived.more(40, &mut server);

    server.kill();
    server.requests().into_iter().for_each(|request| arrived.add(request));
    gateway.0.line_where(SOON, "outage", |line| line.contains("Connection refused").then_some(()));
    server.restart();
    arrived.more(40, &mut server);
    gateway.end();
}

#[test]
fn what_is_refused_for_ever_is_kept_with_its_reason_and_blocks_nothing() {
    needs!(Pymodbus, Hypercorn);
    let folder = Folder::new("dead-letters");
    let device = values::filled(Device::pymodbus("tcp"), 1);
    let mut server = Server::plain();
    let secret = folder.write("password", &format!("{PASSWORD}\n"));
    let route = format!(
        "http: http://127.0.0.1:{}/in, user: {USER}, password: {{file: {}}}",
        server.port,
        secret.display()
    );
    let path = site(&folder, &device, "100ms", &route);
    let state = folder.path("state");
    let gateway = start(&path, &state);
    (0..5).for_each(|_| drop(server.request()));
    server.answers(422, 1);
    // Its gap record comes as any other message.
    let gap = std::iter::repeat_with(|| server.request()).take(200).find_map(|request| {
        let json: Value = serde_json::from_str(&request.body).unwrap();
        json.get("gap").map(|gap| (json["epoch"].clone(), gap.clone()))
    });
    let (epoch, gap) = gap.expect("a gap record");
    assert_eq!(gap["from"], gap["to"], "{gap}");
    assert!(gap["reason"].as_str().unwrap().contains("422"), "{gap}");

    // The store's name is the route's.
    let store = std::fs::read_dir(state.join("store")).unwrap().next().unwrap().unwrap().path();
    let letters = std::fs::read_to_string(store.join("dead-letters.jsonl")).unwrap();
    let letter: Value = serde_json::from_str(letters.trim()).expect("one line");
    assert_eq!((&letter["epoch"], &letter["seq"]), (&epoch, &gap["from"]));
    assert!(letter["refused"].as_str().unwrap().contains("422"), "{letter}");
    let payload: Value = serde_json::from_str(letter["payload"].as_str().unwrap()).unwrap();
    assert_eq!(payload["seq"], letter["seq"]);

    // Nor does it come after a crash.
    (0..20).for_each(|_| drop(server.request()));
    gateway.signal("KILL");
    drop(gateway);
    let gateway = Gateway(start(&path, &state));
    for _ in 0..40 {
        let request: Value = serde_json::from_str(&server.request().body).unwrap();
        assert!((&request["epoch"], &request["seq"]) != (&epoch, &gap["from"]), "{request}");
    }
    gateway.end();
}
