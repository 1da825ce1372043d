//! A running site: one task per connection, one pipeline, one forwarder per route; started, watched and stopped here.
//!
//! Stopping goes with the stream: first the sessions, then the pipeline, then the forwarders, which drain.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::clock;
use super::control::{Answering, Control};
use super::events::Events;
use super::explain::{ExplainedConnection, ExplainedDevice, Explainer};
use super::forecast::{Forecast, forecast};
use super::notify::Notifier;
use super::stores::{self, OpenStore};
use super::supervisor::{keep, panic_text};
use super::{health, http, state, telemetry};
use crate::config::plan::{self as config, Protocol, Route, SinkConfig, Site, Trust};
use crate::drivers::modbus::ModbusPlan;
use crate::drivers::opcua::OpcuaPlan;
use crate::drivers::{Kept, Plan};
use crate::mapping::batch::Event;
use crate::mapping::device::{Every, Read};
use crate::metrics::{ConnectionMetrics, DeviceMetrics, Metrics, RouteMetrics};
use crate::model::message::{Kind, Message};
use crate::northbound::forwarder::{self, Durability, Settings, Summary};
use crate::northbound::http::{HttpSink, STATUS as HTTP_STATUS};
use crate::northbound::mqtt::{MqttSink, Will};
use crate::pipeline::{self, Identity, RouteInput, status};
use crate::store;

/// Batches on their way to the pipeline. Full: sessions wait, and count the due times that they miss.
const EVENTS: usize = 1024;
/// Messages on their way to a forwarder. Full: the pipeline waits; a forwarder receives whatever its broker does.
const MESSAGES: usize = 1024;
/// The longest that sessions may take to end after a stop; a little more than [`STOP_WITHIN`](crate::drivers::session::STOP_WITHIN). With the
/// pipeline's and the forwarders' limits it makes less than 5 s.
const SESSIONS_STOP: Duration = Duration::from_millis(1_000);
/// The longest that the pipeline may take to empty itself.
const PIPELINE_STOP: Duration = Duration::from_millis(300);

/// The longest that what was found out last may take to be written.
const STATE_STOP: Duration = Duration::from_millis(200);

/// A site that can be run.
pub struct Gateway {
    identity: Identity,
    connections: Vec<Connection>,
    routes: Vec<Route>,
    store: store::Settings,
    trust: Trust,
    metrics: Arc<Metrics>,
    control: Option<PathBuf>,
    listen: Option<SocketAddr>,
    telemetry: Option<config::Telemetry>,
    state: Option<PathBuf>,
    events: Events,
    notifier: Option<Arc<Notifier>>,
}

/// A connection, planned, with what counts it.
pub struct Connection {
    /// What it runs.
    pub plan: Plan,
    /// Its own numbers.
    pub metrics: Arc<ConnectionMetrics>,
    devices: Vec<Arc<DeviceMetrics>>,
}

impl Connection {
    /// The connection's life, until `stop`.
    pub fn session(
        &self,
        events: &mpsc::Sender<Event>,
        stop: &CancellationToken,
        kept: &Kept,
    ) -> impl Future<Output = ()> + Send + use<> {
        let plan = self.plan.clone();
        plan.run(self.devices.clone(), self.metrics.clone(), events.clone(), stop.clone(), kept.clone())
    }
}

/// The gateway could not go on: a part that has no restart has ended.
#[derive(Debug, thiserror::Error)]
#[error("{part} has failed: {cause}")]
pub struct Failed {
    /// Which part.
    pub part: String,
    /// What it said.
    pub cause: String,
}

impl Gateway {
    /// Plans the reads of all devices. Fails with one sentence per device that can't be planned.
    pub fn new(site: Site) -> Result<Self, Vec<String>> {
        let mut metrics = Metrics::default();
        let (mut connections, mut errors) = (Vec::new(), Vec::new());
        for config::Connection { name, protocol, devices } in site.connections {
            let counted: Vec<_> =
                devices.iter().map(|device| Arc::new(DeviceMetrics::new(device.name.clone()))).collect();
            metrics.devices.extend(counted.iter().cloned());
            let counts = Arc::new(ConnectionMetrics { name: name.into(), ..ConnectionMetrics::default() });
            metrics.connections.push(counts.clone());
            let plan = match protocol {
                Protocol::Modbus(config) => ModbusPlan::compile(config, devices).map(Plan::Modbus),
                Protocol::Opcua(config) => Ok(Plan::Opcua(OpcuaPlan::compile(config, devices))),
            };
            match plan {
                Ok(plan) => connections.push(Connection { plan, metrics: counts, devices: counted }),
                Err(found) => errors.extend(found.iter().map(ToString::to_string)),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        for (index, route) in site.routes.iter().enumerate() {
            let own = |device: &Arc<DeviceMetrics>| Arc::new(DeviceMetrics::new(device.name.clone()));
            let devices = match index {
                0 => metrics.devices.clone(),
                _ => metrics.devices.iter().map(own).collect(),
            };
            let name = route.name.as_str().into();
            metrics.routes.push(Arc::new(RouteMetrics { name, devices, ..RouteMetrics::default() }));
        }
        // Known when it runs.
        let identity = Identity { site: site.name.into(), epoch: 0 };
        Ok(Self {
            identity,
            connections,
            routes: site.routes,
            store: site.store,
            trust: site.clock,
            listen: site.listen,
            telemetry: site.telemetry,
            metrics: Arc::new(metrics),
            control: None,
            state: None,
            events: Events::default(),
            notifier: None,
        })
    }

    /// Answers questions on a local socket at this path while it runs.
    pub fn with_control(self, path: Option<PathBuf>) -> Self {
        Self { control: path, ..self }
    }

    /// Remembers in this directory what it finds out about devices, and keeps there what is not delivered.
    pub fn with_state(self, directory: Option<PathBuf>) -> Self {
        Self { state: directory, ..self }
    }

    /// Tells these events to whoever asks; a layer of the log fills them.
    pub fn with_events(self, events: Events) -> Self {
        Self { events, ..self }
    }

    /// Tells the service manager how it is.
    pub fn with_notifier(self, notifier: Option<Notifier>) -> Self {
        Self { notifier: notifier.map(Arc::new), ..self }
    }

    /// Where everything is counted.
    pub fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }

    /// The connections, in the order of the site file.
    pub fn connections(&self) -> &[Connection] {
        &self.connections
    }

    /// What each route's store will have to take.
    pub fn forecasts(&self) -> Vec<Forecast> {
        let forecast = |route| {
            let devices = self.connections.iter().flat_map(|connection| connection.plan.devices());
            forecast(&self.identity.site, devices, route, &self.store)
        };
        self.routes.iter().map(forecast).collect()
    }

    /// Runs until `stop`, then drains and ends within 5 seconds.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Failed> {
        let devices = self.metrics.devices.len();
        tracing::info!(site = %self.identity.site, devices, connections = self.connections.len(), routes = self.routes.len(), "starting");
        let explainer = Arc::new(self.explainer());
        let recents = Arc::clone(&explainer.recents);
        let _beat = AbortOnDropHandle::new(tokio::spawn(health::beat(self.metrics.clone())));
        let _control = self.start_control(&explainer);
        let _http = self.listen.map(|address| http::start(address, explainer.clone()));
        let _telemetry = self.telemetry.take().map(|to| telemetry::start(to, explainer));
        for (forecast, metrics) in self.forecasts().iter().zip(&self.metrics.routes) {
            metrics.store_fits_seconds.set(forecast.fits.map_or(0, |fits| fits.as_secs()));
        }
        // The time of the start names a run: milliseconds, since two starts within a second happen. The stores know the last one,
        // should the clock have gone back since.
        self.identity.epoch = clock::begin(self.state.as_deref(), self.trust).await;
        let _clock = AbortOnDropHandle::new(tokio::spawn(clock::watch(self.state.clone(), self.trust)));
        let stores = self.open_stores().await?;
        let (mut forwarders, stop_forwarders, inputs) = self.start_forwarders(stores);
        let (bans, keeper) = state::keep(self.state.clone()).await;
        let kept = Kept { bans, state: self.state.clone() };
        let (events, received) = mpsc::channel(EVENTS);
        let mut pipeline = tokio::spawn(pipeline::run(self.identity.clone(), inputs, received, recents));
        let stop_sessions = stop.child_token();
        let (notifier, metrics) = (self.notifier.clone(), self.metrics.clone());
        let mut sessions = self.start_sessions(events, &stop_sessions, kept);

        let told =
            notifier.clone().map(|notifier| AbortOnDropHandle::new(tokio::spawn(notifier.run(metrics))));

        let failure = tokio::select! {
            // First: a stop ends the sessions, and the pipeline with them.
            biased;
            () = stop.cancelled() => None,
            ended = &mut pipeline => Some(failed("the pipeline", ended)),
            Some(ended) = forwarders.join_next() => Some(failed("a forwarder", ended)),
        };
        tracing::info!("stopping");
        drop(told);
        notifier.iter().for_each(|notifier| notifier.stopping());
        stop_sessions.cancel();
        let ended = async { while sessions.join_next().await.is_some() {} };
        if timeout(SESSIONS_STOP, ended).await.is_err() {
            tracing::warn!("a connection did not end in time and is cut off");
            sessions.shutdown().await;
        }
        if failure.is_none() && timeout(PIPELINE_STOP, &mut pipeline).await.is_err() {
            tracing::warn!("the pipeline did not empty in time");
        }
        pipeline.abort();
        // The sessions are gone, and with them who could find out more.
        if let Some(keeper) = keeper {
            let _ = timeout(STATE_STOP, keeper).await;
        }
        stop_forwarders.cancel();
        while let Some(ended) = forwarders.join_next().await {
            match ended {
                Ok(left) if !left.is_settled() => {
                    tracing::warn!(
                        queued = left.queued,
                        in_flight = left.in_flight,
                        backlog = left.backlog,
                        gap_records = left.gap_records,
                        stored = left.stored,
                        "a route ended with messages that are lost"
                    )
                }
                Ok(left) if left.stored > 0 => {
                    tracing::info!(
                        messages = left.stored,
                        "undelivered messages are in the store, for the next start"
                    );
                }
                _ => {}
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// The gateway works without its socket: it's for those who ask.
    fn start_control(&self, explainer: &Arc<Explainer>) -> Option<Answering> {
        let path = self.control.as_ref()?;
        Control::bind(path)
            .and_then(|control| control.start(Arc::clone(explainer)))
            .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "`taktbus explain` can't ask this gateway"))
            .ok()
    }

    fn explainer(&self) -> Explainer {
        let connections = self.connections.iter().map(|connection| {
            let devices = connection.plan.devices().into_iter().zip(&connection.devices);
            ExplainedConnection {
                link: connection.plan.link(),
                planned_load: connection.plan.fit().load,
                metrics: connection.metrics.clone(),
                devices: devices
                    .map(|((device, reads), metrics)| ExplainedDevice {
                        unit: device.unit,
                        budget: device.budget,
                        rhythm: rhythm(reads),
                        map: device.map.clone(),
                        metrics: metrics.clone(),
                    })
                    .collect(),
            }
        });
        Explainer {
            site: self.identity.site.clone(),
            started: Instant::now(),
            connections: connections.collect(),
            metrics: self.metrics.clone(),
            recents: Arc::default(),
            events: self.events.clone(),
        }
    }

    fn start_sessions(
        self,
        events: mpsc::Sender<Event>,
        stop: &CancellationToken,
        kept: Kept,
    ) -> JoinSet<()> {
        let mut sessions = JoinSet::new();
        for connection in self.connections {
            let (events, stop, kept) = (events.clone(), stop.clone(), kept.clone());
            sessions.spawn(async move {
                let Connection { metrics, .. } = &connection;
                keep(&metrics.name, &metrics.restarts, &stop, || connection.session(&events, &stop, &kept))
                    .await;
            });
        }
        sessions
    }

    /// Opens each route's store. The epoch is behind all that are in there.
    async fn open_stores(&mut self) -> Result<Vec<Option<OpenStore>>, Failed> {
        let mut stores = Vec::new();
        for (route, metrics) in self.routes.iter().zip(&self.metrics.routes) {
            let store = match &self.state {
                Some(state) if route.durability != Durability::Off => {
                    stores::open(state, &route.name, &self.store, metrics).await?
                }
                _ => None,
            };
            if let Some((_, opened)) = &store {
                self.identity.epoch = self.identity.epoch.max(opened.last_epoch.saturating_add(1));
            }
            stores.push(store);
        }
        Ok(stores)
    }

    fn start_forwarders(
        &self,
        stores: Vec<Option<OpenStore>>,
    ) -> (JoinSet<Summary>, CancellationToken, Vec<RouteInput>) {
        let stop = CancellationToken::new();
        let mut forwarders = JoinSet::new();
        let mut inputs = Vec::new();
        for ((route, metrics), store) in self.routes.iter().zip(&self.metrics.routes).zip(stores) {
            let (messages, received) = mpsc::channel(MESSAGES);
            let site = &self.identity.site;
            let (topic, status_topic, backlog_bytes) = match &route.sink {
                SinkConfig::Mqtt(config) => {
                    (config.topic.clone(), &*config.status_topic, config.backlog_bytes)
                }
                SinkConfig::Http(config) => ("{device}".to_string(), HTTP_STATUS, config.backlog_bytes),
            };
            let status_topic: Arc<str> = status_topic.replace("{site}", site).into();
            let status = |payload: Vec<u8>| Message {
                topic: status_topic.clone(),
                payload: payload.into(),
                retain: true,
                kind: Kind::Status,
            };
            let birth = status(status::site(site, Some((self.identity.epoch, self.metrics.devices.len()))));
            let offline = status(status::site(site, None));
            let settings = Settings {
                site: site.clone(),
                epoch: self.identity.epoch,
                backlog_bytes,
                durability: route.durability,
                opened: store.as_ref().map(|(_, opened)| *opened),
                offline: Some(offline.clone()),
            };
            let store = store.and_then(|(log, _)| stores::start(log, &route.name, self.identity.epoch));
            // The channel is empty and has room. The forwarder repeats its statuses at every connect.
            let _ = messages.try_send(birth);
            let (metrics, over) = (metrics.clone(), stop.clone());
            let accounts =
                metrics.devices.iter().map(|device| (device.name.clone(), device.clone())).collect();
            match &route.sink {
                SinkConfig::Mqtt(config) => {
                    let will = Will { topic: status_topic, payload: offline.payload };
                    let sink = MqttSink::new(config.clone(), will);
                    forwarders.spawn(forwarder::run(sink, received, store, settings, metrics, over));
                }
                SinkConfig::Http(config) => {
                    let sink = HttpSink::new(config.clone(), site.clone(), self.identity.epoch);
                    forwarders.spawn(forwarder::run(sink, received, store, settings, metrics, over));
                }
            }
            inputs.push(RouteInput { topic, passes: route.passes.clone(), messages, accounts });
        }
        (forwarders, stop, inputs)
    }
}

/// The shortest interval of a device's reads.
fn rhythm(reads: &[Read]) -> Option<Duration> {
    let interval = |read: &Read| match read.every {
        Every::Interval(interval) => Some(interval),
        Every::Once | Every::Changes(_) => None,
    };
    reads.iter().filter_map(interval).min()
}

fn failed<T>(part: &str, ended: Result<T, JoinError>) -> Failed {
    let cause = match ended.map_err(|error| error.try_into_panic()) {
        Ok(_) => "it ended".to_string(),
        Err(Ok(panic)) => panic_text(&*panic).to_string(),
        Err(Err(error)) => error.to_string(),
    };
    tracing::error!(part, cause, "a part that everything needs has failed");
    Failed { part: part.into(), cause }
}
