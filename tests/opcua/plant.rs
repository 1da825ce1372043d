//! A server that can be started, changed and killed, a wire to it that can be cut, and what the gateway makes of it.

#![allow(dead_code)] // each test program uses a part of it

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use opcua::crypto::SecurityPolicy;
use opcua::types::{DataTypeId, DataValue, MessageSecurityMode, NodeId, QualifiedName, StatusCode, Variant};
use opcua_nodes::{AccessLevel, MethodBuilder, NodeType, VariableBuilder};
use opcua_server::diagnostics::NamespaceMetadata;
use opcua_server::node_manager::memory::{SimpleNodeManager, simple_node_manager};
use opcua_server::{ANONYMOUS_USER_TOKEN_ID, ServerBuilder, ServerHandle};
use taktbus::config::{self, LoadOptions};
use taktbus::drivers::Kept;
use taktbus::mapping::batch::{Batch, DeviceState, Event};
use taktbus::mapping::transform::evaluate;
use taktbus::metrics::DeviceMetrics;
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
pub const SOON: Duration = Duration::from_secs(20);

/// The driver promises to be back so soon after a cause is gone.
pub const BACK_WITHIN: Duration = Duration::from_secs(5);

/// A server with nodes, for as long as it lives.
pub struct Plant {
    handle: ServerHandle,
    pub address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Plant {
    /// A server on this port (0: any), with these namespaces in this order.
    pub async fn start(port: u16, namespaces: &[&str], pki: Option<&Path>) -> Self {
        Self::with_sessions(20, port, namespaces, pki).await
    }

    /// The same with so many sessions at most.
    pub async fn with_sessions(sessions: usize, port: u16, namespaces: &[&str], pki: Option<&Path>) -> Self {
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
            .subscription_poll_interval_ms(10)
            .with_node_manager(taktbus::simulation::opcua_base());
        // The library makes folders wherever it's told; here it can't.
        builder = builder.pki_dir(pki.unwrap_or(Path::new("/dev/null/pki")));
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

    pub fn manager(&self, namespace: &str) -> Option<Arc<SimpleNodeManager>> {
        self.handle.node_managers().get_by_name::<SimpleNodeManager>(namespace)
    }

    pub fn id(&self, namespace: &str, name: &str) -> NodeId {
        let index = self.manager(namespace).unwrap().namespaces().keys().next().copied().unwrap();
        NodeId::new(index, name)
    }

    pub fn add(&self, namespace: &str, name: &str, value: impl Into<Variant>) {
        let (manager, id) = (self.manager(namespace).unwrap(), self.id(namespace, name));
        let value = value.into();
        let data_type = value.data_type().unwrap().node_id;
        let rank = if matches!(value, Variant::Array(_)) { 1 } else { -1 };
        let browse_name = QualifiedName { namespace_index: id.namespace, name: name.into() };
        VariableBuilder::new(&id, browse_name, name)
            .data_type(data_type)
            .value_rank(rank)
            .value(value)
            .organized_by(NodeId::objects_folder_id())
            .insert(&mut *manager.address_space().write());
    }

    /// From now on nobody may read it.
    pub fn lock(&self, namespace: &str, name: &str) {
        self.access(namespace, name, AccessLevel::empty());
    }

    /// From now on everybody may write it.
    pub fn open(&self, namespace: &str, name: &str) {
        self.access(namespace, name, AccessLevel::CURRENT_READ | AccessLevel::CURRENT_WRITE);
    }

    fn access(&self, namespace: &str, name: &str, access: AccessLevel) {
        let (manager, id) = (self.manager(namespace).unwrap(), self.id(namespace, name));
        let mut space = manager.address_space().write();
        let NodeType::Variable(node) = space.find_mut(&id).unwrap() else { panic!("{name} is no variable") };
        node.set_access_level(access);
        node.set_user_access_level(access);
    }

    /// What the server says to writes, which change nothing.
    pub fn takes(
        &self,
        namespace: &str,
        name: &str,
        says: impl Fn(DataValue) -> StatusCode + Send + Sync + 'static,
    ) {
        let (manager, id) = (self.manager(namespace).unwrap(), self.id(namespace, name));
        manager.inner().add_write_callback(id, move |value, _| says(value));
    }

    /// A method of the Objects folder: an Int32 that must not be 0, times a Double.
    pub fn add_method(&self, namespace: &str, name: &str) {
        let (manager, id) = (self.manager(namespace).unwrap(), self.id(namespace, name));
        let inputs = [("count", DataTypeId::Int32).into(), ("factor", DataTypeId::Double).into()];
        let outputs = [("product", DataTypeId::Double).into()];
        let property = |of: &str| NodeId::new(id.namespace, format!("{name}.{of}"));
        let mut space = manager.address_space().write();
        let browse_name = QualifiedName { namespace_index: id.namespace, name: name.into() };
        MethodBuilder::new(&id, browse_name, name)
            .component_of(NodeId::objects_folder_id())
            .executable(true)
            .user_executable(true)
            .input_args(&mut *space, &property("in"), &inputs)
            .output_args(&mut *space, &property("out"), &outputs)
            .insert(&mut *space);
        drop(space);
        manager.inner().add_method_callback(id, |inputs| match inputs {
            [Variant::Int32(0), Variant::Double(_)] => Err(StatusCode::BadOutOfRange),
            [Variant::Int32(count), Variant::Double(factor)] => {
                Ok(vec![Variant::Double(f64::from(*count) * factor)])
            }
            _ => Err(StatusCode::BadInvalidArgument),
        });
    }

    pub fn set(&self, namespace: &str, name: &str, value: impl Into<Variant>) {
        self.set_value(namespace, name, DataValue::new_now(value));
    }

    pub fn set_value(&self, namespace: &str, name: &str, value: DataValue) {
        let (manager, id) = (self.manager(namespace).unwrap(), self.id(namespace, name));
        manager.set_value(self.handle.subscriptions(), &id, None, value).unwrap();
    }

    /// As `kill -9` does it: no goodbye.
    pub async fn kill(mut self) -> u16 {
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
pub struct Wire {
    pub address: SocketAddr,
    pub swallows: watch::Sender<bool>,
    pub cut: Arc<watch::Sender<u32>>,
    pub opened: Arc<AtomicU32>,
    pub refuses: Arc<AtomicBool>,
    _serving: AbortOnDropHandle<()>,
}

impl Wire {
    pub async fn to(server: SocketAddr) -> Self {
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
pub struct Watch {
    events: mpsc::Receiver<Event>,
    pub values: BTreeMap<String, Result<Value, Cause>>,
    pub uncertain: BTreeMap<String, String>,
    pub times: BTreeMap<String, String>,
    pub online: bool,
    pub batches: u32,
    pub metrics: Arc<DeviceMetrics>,
    stop: CancellationToken,
    session: Option<AbortOnDropHandle<()>>,
}

impl Watch {
    pub fn start(connection: &str, device: &str, state: Option<&Path>) -> Self {
        let site = format!(
            "site: hall\nconnections:\n  line: {connection}\ndevices:\n  press:\n    via: line\n{device}\n\
             publish: {{cloud: {{mqtt: \"mqtt://127.0.0.1\"}}}}\n"
        );
        let loaded = config::load_text("site.yaml", &site, &LoadOptions::default());
        let site = loaded.site.unwrap_or_else(|| panic!("{:#?}", loaded.diagnostics));
        let gateway = Gateway::new(site).unwrap_or_else(|errors| panic!("{errors:?}"));
        let metrics = gateway.metrics().get().devices[0].clone();
        let (sender, events) = mpsc::channel(64);
        let stop = CancellationToken::new();
        let kept = Kept { state: state.map(Path::to_path_buf), ..Kept::default() };
        let session = tokio::spawn(gateway.connections()[0].session(&sender, &stop, &kept));
        let session = Some(AbortOnDropHandle::new(session));
        let (values, uncertain, times) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { events, values, uncertain, times, online: false, batches: 0, metrics, stop, session }
    }

    pub async fn next(&mut self) {
        let event = timeout(SOON, self.events.recv()).await;
        let event = event.unwrap_or_else(|_| panic!("nothing comes; so far {:?}", self.values));
        match event.expect("the session has ended") {
            Event::State { state, .. } => self.online = state == DeviceState::Online,
            Event::Batch(batch) => self.take(&batch),
        }
    }

    pub fn take(&mut self, batch: &Batch) {
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
        for (ix, note) in batch.point_notes() {
            self.uncertain.extend(note.uncertain.map(|status| (name(&ix), status.to_string())));
            self.times.extend(note.time.map(|time| (name(&ix), time.to_string())));
        }
    }

    pub fn shown(&self, point: &str) -> String {
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
    pub async fn until(&mut self, point: &str, expected: &str) {
        let deadline = Instant::now() + SOON;
        while self.shown(point) != expected {
            assert!(Instant::now() < deadline, "{point} is {} and not {expected}", self.shown(point));
            self.next().await;
        }
    }

    /// Waits until the driver has found such differences between the map and the server.
    pub async fn drift_where(&mut self, is_expected: impl Fn(&[String]) -> bool) {
        let deadline = Instant::now() + SOON;
        while !is_expected(&self.metrics.drift.get()) {
            assert!(Instant::now() < deadline, "{:#?}", self.metrics.drift.get());
            // Whoever isn't listened to waits.
            let _ = timeout(Duration::from_millis(20), self.events.recv()).await;
        }
    }

    pub async fn stop(mut self) {
        self.stop.cancel();
        let session = self.session.take().unwrap();
        // Whoever ends may still have something to say.
        let drained = async { while self.events.recv().await.is_some() {} };
        let (ended, ()) = tokio::join!(session, drained);
        ended.unwrap();
    }
}

pub fn at(address: SocketAddr) -> String {
    format!("{{opcua: \"opc.tcp://{address}\", security: None, response_timeout: 1s}}")
}

pub const PRESS: &str =
    "    namespace: urn:plant\n    every: {slow: 100ms}\n    subscribe: 50ms\n    points:\n";

pub fn tempfile(name: &str) -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("taktbus-opcua-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
