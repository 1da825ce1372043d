//! The OPC UA driver against a real server in this process (async-opcua's), through a wire that can be cut: what is read and watched, and
//! how it comes back.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use opcua::crypto::SecurityPolicy;
use opcua::nodes::VariableBuilder;
use opcua::server::diagnostics::NamespaceMetadata;
use opcua::server::node_manager::memory::{SimpleNodeManager, simple_node_manager};
use opcua::server::{ANONYMOUS_USER_TOKEN_ID, ServerBuilder, ServerHandle};
use opcua::types::{DataValue, DateTime, MessageSecurityMode, NodeId, QualifiedName, StatusCode, Variant};
use taktbus::config::{self, LoadOptions};
use taktbus::drivers::Kept;
use taktbus::drivers::opcua::security::Pki;
use taktbus::mapping::batch::{Batch, DeviceState, Event};
use taktbus::mapping::transform::evaluate;
use taktbus::model::value::{Cause, Value};
use taktbus::runtime::gateway::Gateway;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Nothing here takes longer.
const SOON: Duration = Duration::from_secs(20);

/// The driver promises to be back so soon after a cause is gone.
const BACK_WITHIN: Duration = Duration::from_secs(5);

/// A server with nodes, for as long as it lives.
struct Plant {
    handle: ServerHandle,
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Plant {
    /// A server on this port (0: any), with these namespaces in this order.
    async fn start(port: u16, namespaces: &[&str], pki: Option<&Path>) -> Self {
        Self::with_sessions(20, port, namespaces, pki).await
    }

    /// The same with so many sessions at most.
    async fn with_sessions(sessions: usize, port: u16, namespaces: &[&str], pki: Option<&Path>) -> Self {
        let listener = loop {
            // The port of a server that was just killed.
            match TcpListener::bind(("127.0.0.1", port)).await {
                Ok(listener) => break listener,
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        };
        let address = listener.local_addr().unwrap();
        let mut builder = ServerBuilder::new_anonymous("plant")
            .application_uri("urn:plant:server")
            .host("127.0.0.1")
            .port(address.port())
            .max_sessions(sessions)
            .subscription_poll_interval_ms(10);
        let unused = tempfile(&format!("unused-{}", address.port()));
        builder = builder.pki_dir(pki.unwrap_or(&unused));
        if pki.is_some() {
            let users: &[&str] = &[ANONYMOUS_USER_TOKEN_ID];
            builder = builder.create_sample_keypair(true).trust_client_certs(true).add_endpoint(
                "safe",
                ("/", SecurityPolicy::Aes256Sha256RsaPss, MessageSecurityMode::SignAndEncrypt, users),
            );
        }
        let limits = &mut builder.limits_mut().subscriptions;
        (limits.min_sampling_interval_ms, limits.min_publishing_interval_ms) = (10.0, 10.0);
        limits.max_monitored_items_per_sub = 20_000;
        for uri in namespaces {
            let metadata = NamespaceMetadata { namespace_uri: (*uri).into(), ..NamespaceMetadata::default() };
            builder = builder.with_node_manager(simple_node_manager(metadata, uri));
        }
        let (server, handle) = builder.build().unwrap();
        let serving = tokio::spawn(async move {
            let _ = server.run_with(listener).await;
        });
        let plant = Self { handle, address, serving };
        // The address space is there once the server answers.
        while TcpStream::connect(address).await.is_err() || plant.manager(namespaces[0]).is_none() {
            sleep(Duration::from_millis(5)).await;
        }
        plant
    }

    fn manager(&self, namespace: &str) -> Option<Arc<SimpleNodeManager>> {
        self.handle.node_managers().get_by_name::<SimpleNodeManager>(namespace)
    }

    fn id(&self, namespace: &str, name: &str) -> NodeId {
        let index = self.manager(namespace).unwrap().namespaces().keys().next().copied().unwrap();
        NodeId::new(index, name)
    }

    fn add(&self, namespace: &str, name: &str, value: impl Into<Variant>) {
        let (manager, id) = (self.manager(namespace).unwrap(), self.id(namespace, name));
        let value = value.into();
        let data_type = value.data_type().unwrap().node_id;
        let browse_name = QualifiedName { namespace_index: id.namespace, name: name.into() };
        VariableBuilder::new(&id, browse_name, name)
            .data_type(data_type)
            .value(value)
            .organized_by(NodeId::objects_folder_id())
            .insert(&mut *manager.address_space().write());
    }

    fn set(&self, namespace: &str, name: &str, value: impl Into<Variant>) {
        self.set_value(namespace, name, DataValue::new_now(value));
    }

    fn set_value(&self, namespace: &str, name: &str, value: DataValue) {
        let (manager, id) = (self.manager(namespace).unwrap(), self.id(namespace, name));
        manager.set_value(self.handle.subscriptions(), &id, None, value).unwrap();
    }

    /// As `kill -9` does it: no goodbye.
    async fn kill(mut self) -> u16 {
        self.serving.abort();
        self.handle.cancel();
        let _ = (&mut self.serving).await;
        self.address.port()
    }
}

impl Drop for Plant {
    fn drop(&mut self) {
        self.handle.cancel();
    }
}

/// A wire that can be cut, or swallow everything.
struct Wire {
    address: SocketAddr,
    swallows: watch::Sender<bool>,
    cut: Arc<watch::Sender<u32>>,
    opened: Arc<AtomicU32>,
    refuses: Arc<AtomicBool>,
    _serving: AbortOnDropHandle<()>,
}

impl Wire {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (swallows, swallowed) = watch::channel(false);
        let cut = Arc::new(watch::channel(0).0);
        let (opened, refuses) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let (cuts, count, refusing) = (cut.clone(), opened.clone(), refuses.clone());
        let serving = tokio::spawn(async move {
            let mut wires = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                if refusing.load(Ordering::Relaxed) {
                    continue;
                }
                let (mut swallowed, mut cut) = (swallowed.clone(), cuts.subscribe());
                wires.spawn(async move {
                    // A connection that is made while everything is swallowed stays silent for ever.
                    if *swallowed.borrow() {
                        return std::future::pending().await;
                    }
                    let Ok(mut far) = TcpStream::connect(server).await else { return };
                    let silent = async {
                        let _ = swallowed.wait_for(|swallows| *swallows).await;
                    };
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => return,
                        _ = cut.changed() => return,
                        () = silent => {}
                    }
                    // Neither side hears anything, or of an end.
                    std::future::pending::<()>().await;
                    drop((near, far));
                });
            }
        });
        let _serving = AbortOnDropHandle::new(serving);
        Self { address, swallows, cut, opened, refuses, _serving }
    }
}

/// What the gateway makes of a site's only connection.
struct Watch {
    events: mpsc::Receiver<Event>,
    values: BTreeMap<String, Result<Value, Cause>>,
    uncertain: BTreeMap<String, String>,
    online: bool,
    batches: u32,
    stop: CancellationToken,
    session: Option<AbortOnDropHandle<()>>,
}

impl Watch {
    fn start(connection: &str, device: &str, state: Option<&Path>) -> Self {
        let site = format!(
            "site: hall\nconnections:\n  line: {connection}\ndevices:\n  press:\n    via: line\n{device}\n\
             publish: {{cloud: {{mqtt: \"mqtt://127.0.0.1\"}}}}\n"
        );
        let loaded = config::load_text("site.yaml", &site, &LoadOptions::default());
        let site = loaded.site.unwrap_or_else(|| panic!("{:#?}", loaded.diagnostics));
        let gateway = Gateway::new(site).unwrap_or_else(|errors| panic!("{errors:?}"));
        let (sender, events) = mpsc::channel(64);
        let stop = CancellationToken::new();
        let kept = Kept { state: state.map(Path::to_path_buf), ..Kept::default() };
        let session = tokio::spawn(gateway.connections()[0].session(&sender, &stop, &kept));
        let session = Some(AbortOnDropHandle::new(session));
        let (values, uncertain) = (BTreeMap::new(), BTreeMap::new());
        Self { events, values, uncertain, online: false, batches: 0, stop, session }
    }

    async fn next(&mut self) {
        match timeout(SOON, self.events.recv()).await.expect("nothing comes").expect("the session has ended")
        {
            Event::State { state, .. } => self.online = state == DeviceState::Online,
            Event::Batch(batch) => self.take(&batch),
        }
    }

    fn take(&mut self, batch: &Batch) {
        self.batches += 1;
        let (map, read) = (&batch.plan.device.map, batch.read());
        let name = |ix: &taktbus::mapping::compiled::PointIx| map.points[ix.0 as usize].name.to_string();
        match &batch.readings {
            Ok(readings) => {
                let mut samples = Vec::new();
                evaluate(map, read, readings, &mut Vec::new(), &mut samples);
                for (ix, value) in samples.into_iter().filter(|(ix, _)| read.publishes.contains(ix)) {
                    self.values.insert(name(&ix), value);
                }
            }
            Err(cause) => {
                for ix in &read.publishes {
                    self.values.insert(name(ix), Err(*cause));
                }
            }
        }
        for (ix, status) in batch.uncertain_points() {
            self.uncertain.insert(name(&ix), status.to_string());
        }
    }

    fn shown(&self, point: &str) -> String {
        match self.values.get(point) {
            Some(Ok(Value::Number(number))) => number.to_string(),
            Some(Ok(Value::Float32(float))) => float.to_string(),
            Some(Ok(Value::Float64(float))) => float.to_string(),
            Some(Ok(Value::Text(text) | Value::Json(text))) => text.to_string(),
            Some(Ok(Value::Bool(bit))) => bit.to_string(),
            Some(Ok(Value::Flags(word))) => word.to_string(),
            Some(Err(cause)) => format!("bad: {cause}"),
            None => "nothing".into(),
        }
    }

    /// Waits until a point is what it should be.
    async fn until(&mut self, point: &str, expected: &str) {
        let deadline = Instant::now() + SOON;
        while self.shown(point) != expected {
            assert!(Instant::now() < deadline, "{point} is {} and not {expected}", self.shown(point));
            self.next().await;
        }
    }

    async fn stop(mut self) {
        self.stop.cancel();
        let session = self.session.take().unwrap();
        // Whoever ends may still have something to say.
        let drained = async { while self.events.recv().await.is_some() {} };
        let (ended, ()) = tokio::join!(session, drained);
        ended.unwrap();
    }
}

fn at(address: SocketAddr) -> String {
    format!("{{opcua: \"opc.tcp://{address}\", security: None, response_timeout: 1s}}")
}

const PRESS: &str = "    namespace: urn:plant\n    every: {slow: 100ms}\n    subscribe: 50ms\n    points:\n";

#[tokio::test]
async fn polled_and_watched_nodes_come_with_their_types_and_what_is_wrong_is_bad_alone() {
    let plant = Plant::start(0, &["urn:other", "urn:plant"], None).await;
    plant.add("urn:plant", "Speed", 1.5f64);
    plant.add("urn:plant", "Count", 7i32);
    plant.add("urn:plant", "Temps", vec![1.5f32, 2.5]);
    plant.add("urn:plant", "Name", "press 1");
    plant.add("urn:other", "Speed", 99.0f64);
    let points = "      speed: {node: s=Speed, scale: 10}\n      count: {node: s=Count, type: int32}\n      \
                  temps: {node: s=Temps}\n      second: {node: s=Temps, member: '[1]', rate: slow}\n      \
                  name: {node: s=Name, rate: slow}\n      path: {node: /Name, rate: slow}\n      \
                  foreign: {node: nsu=urn:other;s=Speed}\n      missing: {node: s=Nope}\n      \
                  wrong: {node: s=Speed, type: int16, rate: slow}\n      nowhere: {node: nsu=urn:nowhere;i=1}\n      \
                  sum: {sum: {speed: 1, count: 100}}\n      clock: {node: ns=0;i=2258, rate: slow}\n";
    let mut watch = Watch::start(&at(plant.address), &format!("{PRESS}{points}"), None);
    for (point, expected) in [
        ("speed", "15"),
        ("count", "7"),
        ("temps", "[1.5,2.5]"),
        ("second", "2.5"),
        ("name", "press 1"),
        ("path", "press 1"),
        ("foreign", "99"),
        ("missing", "bad: BadNodeIdUnknown"),
        ("wrong", "bad: wrong type"),
        ("nowhere", "bad: BadNodeIdUnknown"),
        ("sum", "715"),
    ] {
        watch.until(point, expected).await;
    }
    assert!(watch.online);
    assert!(watch.shown("clock").ends_with('Z'), "{}", watch.shown("clock"));

    plant.set("urn:plant", "Speed", 2.0f64);
    watch.until("sum", "720").await;
    let time = DateTime::now();
    plant.set_value(
        "urn:plant",
        "Count",
        DataValue::new_at_status(8i32, time, StatusCode::UncertainLastUsableValue),
    );
    watch.until("count", "8").await;
    assert_eq!(watch.uncertain["count"], "UncertainLastUsableValue");
    plant.set_value("urn:plant", "Count", DataValue::new_at_status(8i32, time, StatusCode::BadSensorFailure));
    watch.until("count", "bad: BadSensorFailure").await;
    assert_eq!(watch.shown("sum"), "bad: dependency");
    // Another type under the same name is no value.
    plant.set("urn:plant", "Count", 8.0f64);
    watch.until("count", "bad: wrong type").await;
    watch.stop().await;
}

#[tokio::test]
async fn a_node_that_comes_later_is_found() {
    let plant = Plant::start(0, &["urn:plant"], None).await;
    let points = "      late: {node: s=Late}\n      polled: {node: s=Late, rate: slow}\n";
    let mut watch = Watch::start(&at(plant.address), &format!("{PRESS}{points}"), None);
    watch.until("late", "bad: BadNodeIdUnknown").await;
    watch.until("polled", "bad: BadNodeIdUnknown").await;
    plant.add("urn:plant", "Late", 5i32);
    watch.until("polled", "5").await;
    watch.until("late", "5").await;
    watch.stop().await;
}

#[tokio::test]
async fn a_server_that_is_killed_comes_back_with_other_namespaces_and_the_right_values() {
    let plant = Plant::start(0, &["urn:plant", "urn:other"], None).await;
    plant.add("urn:plant", "Speed", 1i32);
    plant.add("urn:other", "Speed", -1i32);
    let device =
        format!("{PRESS}      speed: {{node: s=Speed}}\n      polled: {{node: s=Speed, rate: slow}}\n");
    let mut watch = Watch::start(&at(plant.address), &device, None);
    watch.until("speed", "1").await;
    let mut port = plant.kill().await;
    for (turn, namespaces) in [["urn:other", "urn:plant"], ["urn:plant", "urn:other"]].into_iter().enumerate()
    {
        watch.until("speed", "bad: offline").await;
        let again = Plant::start(port, &namespaces, None).await;
        let value = 10 + i32::try_from(turn).unwrap();
        again.add("urn:plant", "Speed", value);
        again.add("urn:other", "Speed", -1i32);
        let up = Instant::now();
        watch.until("speed", &value.to_string()).await;
        watch.until("polled", &value.to_string()).await;
        assert!(up.elapsed() < BACK_WITHIN, "{:?}", up.elapsed());
        assert!(watch.online);
        again.set("urn:plant", "Speed", 77i32);
        watch.until("speed", "77").await;
        port = again.kill().await;
    }
    watch.until("speed", "bad: offline").await;
}

#[tokio::test]
async fn a_cut_wire_and_a_black_hole_are_noticed_and_overcome() {
    let plant = Plant::start(0, &["urn:plant"], None).await;
    plant.add("urn:plant", "Speed", 1i32);
    let wire = Wire::to(plant.address).await;
    let device = format!("{PRESS}      speed: {{node: s=Speed}}\n");
    let mut watch = Watch::start(&at(wire.address), &device, None);
    watch.until("speed", "1").await;

    wire.cut.send_modify(|cuts| *cuts += 1);
    watch.until("speed", "bad: offline").await;
    plant.set("urn:plant", "Speed", 2i32);
    let cut = Instant::now();
    watch.until("speed", "2").await;
    assert!(cut.elapsed() < BACK_WITHIN, "{:?}", cut.elapsed());

    // No end, no bytes: only the missing keep-alives tell.
    wire.swallows.send_replace(true);
    watch.until("speed", "bad: offline").await;
    plant.set("urn:plant", "Speed", 3i32);
    wire.swallows.send_replace(false);
    let open = Instant::now();
    watch.until("speed", "3").await;
    assert!(open.elapsed() < BACK_WITHIN, "{:?}", open.elapsed());

    // Whoever accepts and hangs up is asked ever less often.
    wire.refuses.store(true, Ordering::Relaxed);
    wire.cut.send_modify(|cuts| *cuts += 1);
    watch.until("speed", "bad: offline").await;
    let before = wire.opened.load(Ordering::Relaxed);
    sleep(Duration::from_secs(3)).await;
    let tries = wire.opened.load(Ordering::Relaxed) - before;
    assert!((2..=8).contains(&tries), "{tries}");
    watch.stop().await;
}

#[tokio::test]
async fn a_stop_gives_the_session_back() {
    let plant = Plant::with_sessions(1, 0, &["urn:plant"], None).await;
    plant.add("urn:plant", "Speed", 1i32);
    let device = format!("{PRESS}      speed: {{node: s=Speed}}\n");
    for _ in 0..3 {
        let mut watch = Watch::start(&at(plant.address), &device, None);
        let start = Instant::now();
        watch.until("speed", "1").await;
        assert!(start.elapsed() < BACK_WITHIN, "the server has one session only");
        watch.stop().await;
    }
}

#[tokio::test]
async fn a_server_is_refused_until_its_certificate_is_trusted() {
    let folder = tempfile("trust");
    let plant = Plant::start(0, &["urn:plant"], Some(&folder.join("server"))).await;
    plant.add("urn:plant", "Speed", 1i32);
    let state = folder.join("state");
    let connection = format!("{{opcua: \"opc.tcp://{}\", response_timeout: 10s}}", plant.address);
    let device = format!("{PRESS}      speed: {{node: s=Speed}}\n");
    let mut watch = Watch::start(&connection, &device, Some(&state));
    watch.until("speed", "bad: offline").await;
    let pki = Pki::in_state(&state);
    let refused = loop {
        if let Some(known) = pki.rejected().unwrap().pop() {
            break known;
        }
        sleep(Duration::from_millis(50)).await;
    };
    assert!(pki.trust("0000").is_err());
    let trusted = pki.trust(&refused.fingerprint[..16]).unwrap();
    assert_eq!(trusted.fingerprint, refused.fingerprint);
    watch.until("speed", "1").await;
    assert_eq!(pki.trusted().unwrap().len(), 1, "one file for one certificate");
    watch.stop().await;
    // Its key is nobody else's business.
    let key = std::fs::metadata(state.join("pki/private/private.pem")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&key.permissions()) & 0o777, 0o600);
    pki.distrust(&refused.fingerprint[..16]).unwrap();
    assert!(pki.trusted().unwrap().is_empty());
    std::fs::remove_dir_all(folder).unwrap();
}

fn tempfile(name: &str) -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("taktbus-opcua-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
