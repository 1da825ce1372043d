//! Sessions of connections that are written as in a site file, and what they tell.

#![allow(clippy::unwrap_used, dead_code)] // each test file uses its part

use std::sync::Arc;
use std::time::Duration;

use taktbus::config::plan::Protocol;
use taktbus::config::{self, LoadOptions};
use taktbus::drivers::modbus::transport::{Open, Opener};
use taktbus::drivers::modbus::{ModbusDriver, ModbusPlan};
use taktbus::drivers::session;
use taktbus::mapping::batch::{Batch, DeviceState, Event};
use taktbus::metrics::{ConnectionMetrics, DeviceMetrics};
use taktbus::model::value::{Cause, Raw};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

pub mod adapters;
pub mod log;

/// A session that runs.
pub struct Session {
    pub events: mpsc::Receiver<Event>,
    pub metrics: Arc<ConnectionMetrics>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<session::Ended>,
}

/// Devices, one per unit, with holding register 5 read in an interval.
pub fn devices(units: &[u8], every: &str) -> String {
    let device = |unit| {
        format!(
            "  u{unit}: {{via: c, unit_id: {unit}, every: {every}, budget: 30s, \
             points: {{p: {{holding: 5, type: uint16}}}}}}\n"
        )
    };
    units.iter().map(device).collect()
}

/// The plan of a site with one connection.
pub fn plan(connection: &str, devices: &str) -> ModbusPlan {
    let text = format!(
        "site: s\nconnections:\n  c: {{{connection}}}\ndevices:\n{devices}publish: {{p: {{mqtt: 'mqtt://localhost'}}}}\n"
    );
    let loaded = config::load_text("site.yaml", &text, &LoadOptions::default());
    let site = loaded.site.unwrap_or_else(|| panic!("{:?}", loaded.diagnostics));
    let connection = site.connections.into_iter().next().unwrap();
    let Protocol::Modbus(config) = connection.protocol else { panic!("a Modbus connection") };
    ModbusPlan::compile(config, connection.devices).unwrap()
}

impl Session {
    /// Talks through real sockets and ports.
    pub fn real(connection: &str, devices: &str) -> Self {
        let plan = plan(connection, devices);
        let opener = Opener::with_rs485(plan.config.rs485);
        Self::with(plan, opener)
    }

    /// Talks through what `opener` gives.
    pub fn with<O: Open + 'static>(plan: ModbusPlan, opener: O) -> Self {
        let metrics = plan.devices.iter().map(|_| Arc::new(DeviceMetrics::default())).collect();
        let connection = Arc::new(ConnectionMetrics::default());
        let driver = ModbusDriver::with_opener("c", plan, metrics, connection.clone(), opener);
        let (send, events) = mpsc::channel(16);
        let stop = CancellationToken::new();
        // Sessions need not be `Send`: the gateway has one thread.
        let task = tokio::task::spawn_local(session::run(driver, send, stop.clone(), connection.clone()));
        Self { events, metrics: connection, stop, task }
    }

    /// The next batch's value, or why there is none.
    pub async fn value(&mut self) -> Result<u64, Cause> {
        loop {
            if let Event::Batch(batch) = self.events.recv().await.unwrap() {
                return value(&batch);
            }
        }
    }

    /// Waits for a batch with this value.
    pub async fn until(&mut self, wanted: u64) {
        while self.value().await != Ok(wanted) {}
    }

    /// All values of so long a time.
    pub async fn values_for(&mut self, time: Duration) -> Vec<Result<u64, Cause>> {
        let end = Instant::now() + time;
        let mut values = Vec::new();
        while let Ok(value) = timeout_at(end, self.value()).await {
            values.push(value);
        }
        values
    }

    /// Waits until a device is told to be away.
    pub async fn until_offline(&mut self) {
        while !matches!(
            self.events.recv().await.unwrap(),
            Event::State { state: DeviceState::Offline(_), .. }
        ) {}
    }

    /// Is it still at work?
    pub fn is_alive(&self) -> bool {
        !self.task.is_finished()
    }

    /// Stops it in order.
    pub async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

/// What a batch says of the point.
pub fn value(batch: &Batch) -> Result<u64, Cause> {
    match batch.readings.as_ref().map_err(|cause| *cause)?[0].clone()? {
        Raw::Uint(value) => Ok(value),
        other => panic!("{other:?}"),
    }
}
