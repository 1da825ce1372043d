//! A running site: one task per connection, one pipeline, one forwarder per route; started, watched and stopped here.
//!
//! Stopping goes with the stream: first the sessions, then the pipeline, then the forwarders, which drain.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::clock;
use super::control::{Answering, Control};
use super::counting::counted;
use super::events::Events;
use super::explain::{ExplainedConnection, ExplainedDevice, Explainer};
use super::forecast::{Forecast, forecast};
use super::notify::Notifier;
use super::reload::{self, Load, Reload, Reloader, Reloads};
use super::sessions::Sessions;
use super::stores::{self, OpenStore};
use super::supervisor::panic_text;
use super::{health, http, last_good, state, telemetry};
use crate::config::plan::{Files, SinkConfig, Site};
use crate::drivers::{self, Kept, Plan, Running};
use crate::mapping::batch::Event;
use crate::mapping::device::{Every, Read};
use crate::mapping::recent::Recents;
use crate::metrics::{ConnectionMetrics, Current, DeviceMetrics, Metrics};
use crate::model::message::{Kind, Message};
use crate::northbound::forwarder::{self, Durability, Settings, Summary};
use crate::northbound::http::{HttpSink, STATUS as HTTP_STATUS};
use crate::northbound::mqtt::{MqttSink, Will};
use crate::pipeline::{self, Identity, RouteInput, status};

/// Batches on their way to the pipeline. Full: sessions wait, and count the due times that they miss.
const EVENTS: usize = 1024;
/// Messages on their way to a forwarder. Full: the pipeline waits; a forwarder receives whatever its broker does.
const MESSAGES: usize = 1024;
/// The longest that the pipeline may take to empty itself.
const PIPELINE_STOP: Duration = Duration::from_millis(300);

/// The longest that what was found out last may take to be written.
const STATE_STOP: Duration = Duration::from_millis(200);

/// A site that can be run.
pub struct Gateway {
    identity: Identity,
    connections: Vec<Connection>,
    /// All but its connections.
    site: Site,
    metrics: Arc<Current<Metrics>>,
    control: Option<PathBuf>,
    state: Option<PathBuf>,
    events: Events,
    notifier: Option<Arc<Notifier>>,
    reloader: Option<(Reloader, Reloads)>,
    /// What runs, for whoever keeps what runs well.
    runs: watch::Sender<Arc<Files>>,
    keeps_last_good: bool,
}

/// A connection, planned, with what counts it.
pub struct Connection {
    /// What it runs.
    pub plan: Arc<Plan>,
    /// Its own numbers.
    pub metrics: Arc<ConnectionMetrics>,
    devices: Vec<Arc<DeviceMetrics>>,
    running: watch::Sender<Running>,
}

impl Connection {
    fn new(plan: Arc<Plan>, metrics: Arc<ConnectionMetrics>, devices: Vec<Arc<DeviceMetrics>>) -> Self {
        let (running, _) = watch::channel(Running { plan: plan.clone(), metrics: devices.clone() });
        Self { plan, metrics, devices, running }
    }

    /// The connection's life, until `stop`.
    pub fn session(
        &self,
        events: &mpsc::Sender<Event>,
        stop: &CancellationToken,
        kept: &Kept,
    ) -> impl Future<Output = ()> + Send + use<> {
        let running = self.running.subscribe();
        drivers::run(running, self.metrics.clone(), events.clone(), stop.clone(), kept.clone())
    }

    /// What it runs, and will run.
    pub(super) fn running(&self) -> watch::Receiver<Running> {
        self.running.subscribe()
    }

    /// Goes on with another plan.
    fn reload(&mut self, plan: Arc<Plan>, devices: Vec<Arc<DeviceMetrics>>) {
        self.running.send_replace(Running { plan: plan.clone(), metrics: devices.clone() });
        (self.plan, self.devices) = (plan, devices);
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
    pub fn new(mut site: Site) -> Result<Self, Vec<String>> {
        let connections = reload::plan(std::mem::take(&mut site.connections), &[])?;
        let (metrics, counted) = counted(&connections, &site.routes, &Metrics::default());
        let connection = |((_, plan), (metrics, devices))| Connection::new(plan, metrics, devices);
        // Known when it runs.
        let identity = Identity { site: site.name.as_str().into(), epoch: 0 };
        let (runs, _) = watch::channel(site.files.clone());
        Ok(Self {
            identity,
            connections: connections.into_iter().zip(counted).map(connection).collect(),
            site,
            metrics: Arc::new(Current::new(metrics)),
            control: None,
            state: None,
            events: Events::default(),
            notifier: None,
            reloader: None,
            runs,
            keeps_last_good: false,
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

    /// Keeps what runs well in the state directory, for a later start. `stands_in`: this is what was kept, in place of the site file.
    pub fn keeping_last_good(self, stands_in: bool) -> Self {
        self.metrics.get().stands_in.set(stands_in.into());
        Self { keeps_last_good: true, ..self }
    }

    /// What the site was read from.
    pub fn files(&self) -> &Files {
        &self.site.files
    }

    /// Tells these events to whoever asks; a layer of the log fills them.
    pub fn with_events(self, events: Events) -> Self {
        Self { events, ..self }
    }

    /// Tells the service manager how it is.
    pub fn with_notifier(self, notifier: Option<Notifier>) -> Self {
        Self { notifier: notifier.map(Arc::new), ..self }
    }

    /// Takes over what `load` makes of the site file, when the reloader is told to.
    pub fn with_reloader(mut self, load: Load) -> (Self, Reloader) {
        let plans = self.connections.iter().map(|one| (one.metrics.name.to_string(), one.plan.clone()));
        let (reloader, reloads) = reload::reloader(load, self.site.clone(), plans.collect());
        self.reloader = Some((reloader.clone(), reloads));
        (self, reloader)
    }

    /// Where everything is counted; a reload replaces it.
    pub fn metrics(&self) -> Arc<Current<Metrics>> {
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
            forecast(&self.identity.site, devices, route, &self.site.store)
        };
        self.site.routes.iter().map(forecast).collect()
    }

    /// Runs until `stop`, then drains and ends within 5 seconds.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Failed> {
        let metrics = self.metrics.get();
        let devices = metrics.devices.len();
        tracing::info!(site = %self.identity.site, devices, connections = self.connections.len(), routes = self.site.routes.len(), "starting");
        let explainer = Arc::new(Current::new(self.explainer(Instant::now(), Arc::default())));
        let recents = Arc::clone(&explainer.get().recents);
        let _beat = AbortOnDropHandle::new(tokio::spawn(health::beat(metrics.beat.clone())));
        let (reloader, mut reloads) = self.reloader.take().unzip();
        reloader.iter().for_each(|reloader| reloader.runs(&explainer));
        let _control = self.start_control(&explainer, reloader);
        let _http = self.site.listen.map(|address| http::start(address, explainer.clone()));
        let _telemetry = self.site.telemetry.take().map(|to| telemetry::start(to, explainer.clone()));
        let _last_good = self.keep_last_good();
        self.tell_forecasts();
        // The time of the start names a run: milliseconds, since two starts within a second happen. The stores know the last one,
        // should the clock have gone back since.
        self.identity.epoch = clock::begin(self.state.as_deref(), self.site.clock).await;
        let _clock = AbortOnDropHandle::new(tokio::spawn(clock::watch(self.state.clone(), self.site.clock)));
        let stores = self.open_stores().await?;
        let (mut forwarders, stop_forwarders, inputs) = self.start_forwarders(stores);
        let (bans, keeper) = state::keep(self.state.clone()).await;
        let kept = Kept { bans, state: self.state.clone() };
        let (events, received) = mpsc::channel(EVENTS);
        let (tell_pipeline, reloaded) = mpsc::channel(1);
        let identity = self.identity.clone();
        let mut pipeline = tokio::spawn(pipeline::run(identity, inputs, received, reloaded, recents));
        let notifier = self.notifier.clone();
        let mut sessions = Sessions::new(events, kept);
        self.connections.iter().for_each(|connection| sessions.start(connection));

        let told = notifier
            .clone()
            .map(|notifier| AbortOnDropHandle::new(tokio::spawn(notifier.run(self.metrics.clone()))));

        let failure = loop {
            tokio::select! {
                // First: a stop ends the sessions, and the pipeline with them.
                biased;
                () = stop.cancelled() => break None,
                ended = &mut pipeline => break Some(failed("the pipeline", ended)),
                Some(ended) = forwarders.join_next() => break Some(failed("a forwarder", ended)),
                Some(reload) = reload::next(&mut reloads) => {
                    notifier.iter().for_each(|notifier| notifier.reloading());
                    self.reload(&reload, &mut sessions, &tell_pipeline).await;
                    let before = explainer.get();
                    explainer.set(self.explainer(before.started, before.recents.clone()));
                    self.tell_forecasts();
                    notifier.iter().for_each(|notifier| notifier.ready());
                    reload.done();
                }
            }
        };
        tracing::info!("stopping");
        if let (true, None, Some(state)) = (self.keeps_last_good, &failure, &self.state)
            && self.metrics.get().stands_in.get() == 0
        {
            last_good::forget_starts(state);
        }
        drop(told);
        notifier.iter().for_each(|notifier| notifier.stopping());
        sessions.end().await;
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
    fn start_control(
        &self,
        explainer: &Arc<Current<Explainer>>,
        reloader: Option<Reloader>,
    ) -> Option<Answering> {
        let path = self.control.as_ref()?;
        Control::bind(path)
            .and_then(|control| control.start(Arc::clone(explainer), reloader))
            .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "`taktbus explain` can't ask this gateway"))
            .ok()
    }

    fn keep_last_good(&self) -> Option<AbortOnDropHandle<()>> {
        let state = self.state.clone().filter(|_| self.keeps_last_good)?;
        let stands_in = self.metrics.get().stands_in.get() == 1;
        Some(AbortOnDropHandle::new(tokio::spawn(last_good::keep(state, self.runs.subscribe(), stands_in))))
    }

    fn tell_forecasts(&self) {
        for (forecast, metrics) in self.forecasts().iter().zip(&self.metrics.get().routes) {
            metrics.store_fits_seconds.set(forecast.fits.map_or(0, |fits| fits.as_secs()));
        }
    }

    /// Goes over to another site: only connections of which something has changed hear of it.
    async fn reload(
        &mut self,
        next: &Reload,
        sessions: &mut Sessions,
        tell_pipeline: &mpsc::Sender<pipeline::Reloaded>,
    ) {
        let (metrics, counted) = counted(&next.connections, &next.site.routes, &self.metrics.get());
        let devices = metrics.devices.iter().map(|device| device.name.clone()).collect();
        self.metrics.set(metrics);
        let mut before: HashMap<Arc<str>, Connection> =
            self.connections.drain(..).map(|one| (one.metrics.name.clone(), one)).collect();
        for (name, _) in &next.connections {
            if let Some(one) = before.remove(name.as_str()) {
                self.connections.push(one);
            }
        }
        for name in before.keys() {
            sessions.stop(name).await;
        }
        let passes = next.site.routes.iter().map(|route| route.passes.clone()).collect();
        // A pipeline that is gone has been noticed.
        let _ = tell_pipeline.send(pipeline::Reloaded { devices, passes }).await;
        let mut stayed = std::mem::take(&mut self.connections).into_iter().peekable();
        for ((name, plan), (metrics, devices)) in next.connections.iter().zip(counted) {
            let connection = match stayed.next_if(|one| *one.metrics.name == **name) {
                Some(mut one) => {
                    if !Arc::ptr_eq(&one.plan, plan) {
                        one.reload(plan.clone(), devices);
                    }
                    one
                }
                None => {
                    let connection = Connection::new(plan.clone(), metrics, devices);
                    sessions.start(&connection);
                    connection
                }
            };
            self.connections.push(connection);
        }
        self.site = next.site.clone();
        self.metrics.get().stands_in.set(0);
        self.runs.send_replace(self.site.files.clone());
        tracing::info!(changes = next.changes, "reloaded");
    }

    fn explainer(&self, started: Instant, recents: Arc<Recents>) -> Explainer {
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
            started,
            connections: connections.collect(),
            metrics: self.metrics.get(),
            recents,
            events: self.events.clone(),
        }
    }

    /// Opens each route's store. The epoch is behind all that are in there.
    async fn open_stores(&mut self) -> Result<Vec<Option<OpenStore>>, Failed> {
        let mut stores = Vec::new();
        for (route, metrics) in self.site.routes.iter().zip(&self.metrics.get().routes) {
            let store = match &self.state {
                Some(state) if route.durability != Durability::Off => {
                    stores::open(state, &route.name, &self.site.store, metrics).await?
                }
                _ => None,
            };
            if let Some((_, opened)) = &store {
                self.identity.epoch = self.identity.epoch.max(opened.last_epoch.saturating_add(1));
            }
            stores.push(store);
        }
        if let Some(state) = &self.state {
            let routes = self.site.routes.iter().filter(|route| route.durability != Durability::Off);
            stores::tell_left_behind(state.clone(), routes.map(|route| route.name.clone()).collect());
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
        for ((route, metrics), store) in self.site.routes.iter().zip(&self.metrics.get().routes).zip(stores) {
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
            let birth =
                status(status::site(site, Some((self.identity.epoch, self.metrics.get().devices.len()))));
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
            let (site_topic, counts) = (status_topic.clone(), metrics.clone());
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
            let passes = route.passes.clone();
            inputs.push(RouteInput { topic, passes, messages, site_topic, metrics: counts });
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
