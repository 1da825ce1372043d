//! Shows what arrives at a broker: a live table on a terminal, else one JSON line per message.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::summary::{short, violations};
use super::table::Table;
use crate::demo::subscriber::Subscriber;
use crate::metrics::Metrics;
use crate::runtime::gateway::Gateway;

/// How often the table is drawn.
const REDRAW: Duration = Duration::from_millis(250);

/// What the table shows of devices beside their messages: units, budgets.
pub struct Devices(BTreeMap<String, Facts>);

struct Facts {
    budget: Duration,
    units: BTreeMap<Arc<str>, Arc<str>>,
}

impl Devices {
    /// The devices of a gateway.
    pub fn of(gateway: &Gateway) -> Self {
        let devices = gateway.connections().iter().flat_map(|connection| connection.plan.devices());
        let facts = devices.map(|(device, _)| {
            let units =
                device.map.points.iter().filter_map(|p| Some((p.name.clone(), p.unit.clone()?))).collect();
            (device.name.to_string(), Facts { budget: device.budget.within, units })
        });
        Self(facts.collect())
    }
}

/// What was last heard of a device.
#[derive(Default)]
struct Heard {
    at: Option<Instant>,
    values: BTreeMap<String, String>,
    bad: BTreeMap<String, String>,
    state: String,
}

/// Subscribes to everything and shows it, until it is aborted or nobody reads it any more.
pub async fn show(broker: SocketAddr, devices: Devices, metrics: Arc<Metrics>, table: bool) {
    let mut subscriber = Subscriber::new(broker);
    let mut heard: BTreeMap<String, Heard> = BTreeMap::new();
    let mut redraw = interval(REDRAW);
    redraw.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let started = Instant::now();
    if table {
        // Clear once; each drawing goes over the last one.
        out!("\x1b[2J");
    }
    loop {
        tokio::select! {
            payload = subscriber.next() => if table {
                take(&mut heard, &payload);
            } else {
                let mut line = payload.to_vec();
                line.push(b'\n');
                // Whoever reads has gone: nothing is left to show.
                if std::io::stdout().write_all(&line).and_then(|()| std::io::stdout().flush()).is_err() {
                    return;
                }
            },
            _ = redraw.tick(), if table => {
                out!("{}", draw(&heard, &devices, &metrics, started));
                let _ = std::io::stdout().flush();
            }
        }
    }
}

/// Notes what a message says of its device.
fn take(heard: &mut BTreeMap<String, Heard>, payload: &[u8]) {
    let Ok(message) = serde_json::from_slice::<Json>(payload) else { return };
    let Some(device) = message["device"].as_str() else { return };
    let device = heard.entry(device.to_string()).or_default();
    if let Some(state) = message["state"].as_str() {
        let cause = message["cause"].as_str().map(|cause| format!(" ({cause})")).unwrap_or_default();
        device.state = format!("{state}{cause}");
    }
    let objects = (message["values"].as_object(), message["bad"].as_object());
    if objects.0.is_some() {
        device.at = Some(Instant::now());
    }
    for (name, value) in objects.0.into_iter().flatten() {
        device.bad.remove(name);
        device.values.insert(name.clone(), value.as_str().map_or(value.to_string(), str::to_string));
    }
    for (name, cause) in objects.1.into_iter().flatten() {
        device.values.remove(name);
        device.bad.insert(name.clone(), cause.as_str().unwrap_or("bad").to_string());
    }
}

fn draw(heard: &BTreeMap<String, Heard>, devices: &Devices, metrics: &Metrics, started: Instant) -> String {
    let mut table = Table::new(&[
        "device",
        "point",
        ">value",
        "unit",
        "quality",
        ">age",
        ">latency p99",
        ">budget",
        "violations",
    ]);
    for metric in &metrics.devices {
        let Some(facts) = devices.0.get(&*metric.name) else { continue };
        let empty = Heard::default();
        let device = heard.get(&*metric.name).unwrap_or(&empty);
        let age = device.at.map_or("-".into(), |at| format!("{:.1}s", at.elapsed().as_secs_f64()));
        let p99 = metric.total.quantile(0.99).map_or("-".into(), short);
        let mut shared = Some([age, p99, short(facts.budget), violations(metric)]);
        let values = device.values.iter().map(|(name, value)| (name, value.as_str(), "good"));
        let bad = device.bad.iter().map(|(name, cause)| (name, "-", cause.as_str()));
        for (name, value, quality) in values.chain(bad) {
            let unit = facts.units.get(name.as_str()).map_or("", |unit| unit);
            let first = if shared.is_some() { &*metric.name } else { "" };
            let cells = [first, name, value, unit, quality].map(str::to_string);
            table.row(cells.into_iter().chain(shared.take().into_iter().flatten()));
        }
        if let Some(shared) = shared {
            let state = if device.state.is_empty() { "waiting" } else { &device.state };
            let cells = [&*metric.name, "-", "-", "", state].map(str::to_string);
            table.row(cells.into_iter().chain(shared));
        }
    }
    // Home, then each line cleared to its end, then everything below.
    let mut screen = String::from("\x1b[H");
    let _ = writeln!(screen, "taktbus demo   {:>4.0}s   Ctrl-C ends\x1b[K", started.elapsed().as_secs_f64());
    screen.push_str("\x1b[K\n");
    for line in table.render().lines() {
        let _ = writeln!(screen, "{line}\x1b[K");
    }
    screen.push_str("\x1b[J");
    screen
}
