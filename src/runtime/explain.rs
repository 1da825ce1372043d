//! Why is a value late, bad or missing? The account of a running gateway as JSON, with sentences for people. Pure but for
//! reading metrics.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::events::Events;
use super::health::{self, fresh_for};
use super::steps;
use crate::budget::{Budget, Stage};
use crate::mapping::compiled::{DeviceMap, PointIx};
use crate::mapping::recent::Recents;
use crate::metrics::{BusUse, ConnectionMetrics, Counter, DeviceMetrics, Histogram, Metrics};

/// The kinds of strays, in the order of [`ConnectionMetrics::strays`].
pub(super) const STRAYS: [&str; 5] = ["late", "echo", "foreign", "misshapen", "noise"];

/// A bus that is busier than this makes what is due wait.
const CROWDED: f64 = 0.9;

/// What is known of a running gateway besides its metrics.
pub struct Explainer {
    /// The site's name.
    pub site: Arc<str>,
    /// When it was started.
    pub started: Instant,
    /// Its connections, in the order of the site file.
    pub connections: Vec<ExplainedConnection>,
    /// Everything that is counted.
    pub metrics: Arc<Metrics>,
    /// What was read last.
    pub recents: Arc<Recents>,
    /// What the log said last.
    pub events: Events,
}

/// One connection.
pub struct ExplainedConnection {
    /// What it talks through, for people.
    pub link: String,
    /// The share of the time that its bus was planned to be busy.
    pub planned_load: f64,
    /// Its own numbers.
    pub metrics: Arc<ConnectionMetrics>,
    /// Its devices.
    pub devices: Vec<ExplainedDevice>,
}

/// One device.
pub struct ExplainedDevice {
    /// Unit id.
    pub unit: u8,
    /// How late its values may be.
    pub budget: Budget,
    /// How often it is read, at most; `None`: values come when they change, or once.
    pub rhythm: Option<Duration>,
    /// What it offers.
    pub map: Arc<DeviceMap>,
    /// Its numbers.
    pub metrics: Arc<DeviceMetrics>,
}

impl Explainer {
    /// The whole account, with the version, the verdicts of `/health`, and the last events beside it.
    pub fn status(&self) -> Value {
        let now = Instant::now();
        let mut status = self.explain(None).unwrap_or_default();
        status["version"] = env!("CARGO_PKG_VERSION").into();
        status["live"] = health::live(self, now).json;
        status["ready"] = health::ready(self, now).json;
        status["events"] = self.events.json();
        status
    }

    /// Explains everything, or what the device, connection or point (`DEVICE.POINT`) of this name is about. `Err`: there is none;
    /// the names that there are.
    pub fn explain(&self, name: Option<&str>) -> Result<Value, Vec<String>> {
        match name.and_then(|name| self.device_and_point(name)) {
            Some((device, point)) => self.explain_point(device, point),
            None => self.explain_names(name),
        }
    }

    fn explain_point(&self, device: &ExplainedDevice, point: &str) -> Result<Value, Vec<String>> {
        let name = &*device.metrics.name;
        let points = device.map.points.iter();
        let Some(ix) = points.clone().position(|known| &*known.name == point) else {
            return Err(points.map(|known| format!("{name}.{}", known.name)).collect());
        };
        let ix = PointIx(u32::try_from(ix).unwrap_or(u32::MAX));
        let mut told = self.explain_names(Some(name))?;
        let read = self.recents.with(name, |recent| {
            let same = recent.plan.device.map == device.map;
            same.then(|| steps::point(recent, &device.metrics, ix, Instant::now()))
        });
        let unread = || json!({"point": point, "bad": "nothing was read yet", "steps": [], "exchanges": []});
        told["point"] = read.flatten().unwrap_or_else(unread);
        Ok(told)
    }

    /// `DEVICE.POINT`, where no device or connection has the whole as its name; both may have dots in theirs.
    fn device_and_point<'n>(&self, name: &'n str) -> Option<(&ExplainedDevice, &'n str)> {
        let all = || self.connections.iter().flat_map(|connection| &connection.devices);
        let is_name = self.connections.iter().any(|connection| *connection.metrics.name == *name)
            || all().any(|device| *device.metrics.name == *name);
        let split = name.match_indices('.').map(|(at, _)| (&name[..at], &name[at + 1..]));
        let mut found = split
            .filter_map(|(device, point)| Some((all().find(|known| *known.metrics.name == *device)?, point)));
        found.next().filter(|_| !is_name)
    }

    fn explain_names(&self, name: Option<&str>) -> Result<Value, Vec<String>> {
        let up = self.started.elapsed();
        let wanted = |connection: &ExplainedConnection, device: &ExplainedDevice| {
            name.is_none_or(|name| *device.metrics.name == *name || *connection.metrics.name == *name)
        };
        let connections: Vec<Value> = self
            .connections
            .iter()
            .filter_map(|connection| {
                let devices = connection.devices.iter().filter(|device| wanted(connection, device));
                let devices: Vec<Value> = devices.map(|device| self.device(connection, device, up)).collect();
                (!devices.is_empty()).then(|| connection.json(up, devices))
            })
            .collect();
        if connections.is_empty() && name.is_some() {
            return Err(self
                .connections
                .iter()
                .flat_map(|connection| {
                    let devices = connection.devices.iter().map(|device| &*device.metrics.name);
                    std::iter::once(&*connection.metrics.name).chain(devices)
                })
                .map(str::to_owned)
                .collect());
        }
        let routes: Vec<Value> = self
            .metrics
            .routes
            .iter()
            .map(|route| {
                json!({
                    "route": &*route.name,
                    "up": route.up.get() == 1,
                    "queued": route.queued.get(),
                    "in_flight": route.in_flight.get(),
                    "backlog": route.backlog.get(),
                    "redelivered": route.redelivered.get(),
                    "stored": route.stored.get(),
                    "stored_bytes": route.stored_bytes.get(),
                    "stored_age_ms": route.stored_age_ms.get(),
                    "store_failing": route.store_failing.get() == 1,
                })
            })
            .collect();
        let site = &*self.site;
        Ok(json!({"site": site, "up_ms": millis(up), "connections": connections, "routes": routes}))
    }
}

impl Explainer {
    /// A device with what became of its messages, and its last failures.
    fn device(&self, connection: &ExplainedConnection, device: &ExplainedDevice, up: Duration) -> Value {
        let mut told = connection.device(device, up);
        let name = &*device.metrics.name;
        let failures = self.recents.with(name, |recent| {
            let told = |(at, cause): &(_, _)| json!({"at": format!("{at}"), "cause": format!("{cause}")});
            recent.failures.iter().map(told).collect::<Vec<_>>()
        });
        told["failures"] = failures.unwrap_or_default().into();
        let accounts = self.metrics.routes.iter().filter_map(|route| {
            let account = route.device(name)?;
            Some((route, account))
        });
        told["routes"] = accounts.map(|(route, account)| delivery(&route.name, &account)).collect();
        told
    }
}

/// What became of a device's messages on one route.
fn delivery(route: &str, account: &DeviceMetrics) -> Value {
    let sampled = account.sampled.get();
    let settled = account.delivered.get() + account.gap_accounted.get();
    let last = account.acked_at.get().map(|at| {
        let stages = Stage::ALL.iter().zip(&account.last_stage_micros);
        let stages: serde_json::Map<_, _> =
            stages.map(|(stage, micros)| (stage.to_string(), (micros.get() as f64 / 1e3).into())).collect();
        json!({"seq": account.acked_seq.get(), "age_ms": millis(at.elapsed()), "stages_ms": stages})
    });
    json!({
        "route": route,
        "sampled": sampled,
        "delivered": account.delivered.get(),
        "waiting": sampled.saturating_sub(settled),
        "last_acknowledged": last,
    })
}

impl ExplainedConnection {
    fn json(&self, up: Duration, devices: Vec<Value>) -> Value {
        let strays = STRAYS.iter().zip(&self.metrics.strays);
        let strays: serde_json::Map<_, _> =
            strays.map(|(kind, count)| (kind.to_string(), count.get().into())).collect();
        json!({
            "connection": &*self.metrics.name,
            "link": self.link,
            "up": self.metrics.up.get() == 1,
            "connects": self.metrics.connects.get(),
            "restarts": self.metrics.restarts.get(),
            "bus": self.bus(up),
            "planned_load": self.planned_load,
            "strays": strays,
            "devices": devices,
        })
    }

    /// The shares of the time that the bus was busy, by use.
    fn bus(&self, up: Duration) -> Value {
        let of = |what| self.devices.iter().map(|device| share(&device.metrics, what, up)).sum();
        uses(of)
    }

    fn busy(&self, up: Duration) -> f64 {
        let of = |device: &ExplainedDevice| {
            BusUse::ALL.map(|what| share(&device.metrics, what, up)).iter().sum::<f64>()
        };
        self.devices.iter().map(of).sum()
    }

    fn device(&self, device: &ExplainedDevice, up: Duration) -> Value {
        let metrics = &device.metrics;
        let violations: serde_json::Map<_, _> = Stage::ALL
            .iter()
            .zip(&metrics.violations)
            .map(|(stage, count)| (stage.to_string(), count.get().into()))
            .collect();
        let mut p99: serde_json::Map<_, _> = Stage::ALL
            .iter()
            .zip(&metrics.stages)
            .map(|(stage, times)| (stage.to_string(), quantile(times, 0.99)))
            .collect();
        p99.insert("total".into(), quantile(&metrics.total, 0.99));
        json!({
            "device": &*metrics.name,
            "unit_id": device.unit,
            "state": state(metrics),
            "why": self.why(device, up),
            "bus": uses(|what| share(metrics, what, up)),
            "exchange_ms": {"planned": mean(&metrics.planned_micros, metrics), "measured": mean(&metrics.bus_micros[BusUse::Poll as usize], metrics)},
            "answered": metrics.answered.get(),
            "timeouts": metrics.timeouts.get(),
            "exceptions": metrics.exceptions.get(),
            "quarantined": metrics.quarantined.get(),
            "garbled": metrics.garbled.get(),
            "missed": metrics.missed_ticks.get(),
            "bad_values": metrics.bad_values.get(),
            "drift": &*metrics.drift.get(),
            "lost_values": metrics.lost_values.get(),
            "values_age_ms": metrics.values_at.get().map(|at| millis(at.elapsed())),
            "fresh_for_ms": fresh_for(device).map(millis),
            "sampled": metrics.sampled.get(),
            "delivered": metrics.delivered.get(),
            "replayed": metrics.replayed.get(),
            "gap_accounted": metrics.gap_accounted.get(),
            "budget_ms": millis(device.budget.within),
            "violations": violations,
            "p99_ms": p99,
        })
    }

    /// What is wrong with a device, a sentence each, the gravest first.
    fn why(&self, device: &ExplainedDevice, up: Duration) -> Vec<String> {
        let metrics = &device.metrics;
        let mut why = Vec::new();
        match (self.metrics.up.get(), metrics.state.get()) {
            (0, _) => why.push(format!("the link is down: {}", self.link)),
            (_, 0) => why.push("it has not answered yet".into()),
            (_, 2) => why.push(format!(
                "it does not answer (so far {} timeouts, {} damaged answers); it's asked again at most every 20 s",
                metrics.timeouts.get(),
                metrics.garbled.get()
            )),
            _ => {}
        }
        why.extend(self.why_missed(device, up));
        why.extend(why_late(device));
        let (exceptions, bad) = (metrics.exceptions.get(), metrics.bad_values.get());
        if exceptions > 0 {
            why.push(format!("it refused {exceptions} reads with an exception; values bad so far: {bad}"));
        }
        let quarantined = metrics.quarantined.get();
        if quarantined > 0 {
            why.push(format!("it refuses the addresses of {quarantined} values, which are read around and asked for again from time to time"));
        }
        let lost = metrics.lost_values.get();
        if lost > 0 {
            why.push(format!("values that changed and never arrived: {lost}; the server's queue is short (`queue`), or the network loses what it sends"));
        }
        let drift = metrics.drift.get();
        if !drift.is_empty() {
            why.push(format!(
                "when it was connected, the server was not as the map says: {}",
                drift.join("; ")
            ));
        }
        why
    }

    fn why_missed(&self, device: &ExplainedDevice, up: Duration) -> Option<String> {
        let missed = device.metrics.missed_ticks.get();
        let busy = self.busy(up);
        if missed == 0 || busy < CROWDED / 2.0 {
            let waited = self.devices.iter().any(|device| device.metrics.timeouts.get() > 0);
            let why = if waited { "somebody who did not answer was waited for" } else { "others were read" };
            return (missed > 0).then(|| format!("{missed} due times passed while {why}"));
        }
        let wasted = |other: &&ExplainedDevice| {
            share(&other.metrics, BusUse::Timeout, up) + share(&other.metrics, BusUse::Probe, up)
        };
        let worst = self.devices.iter().max_by(|a, b| wasted(a).total_cmp(&wasted(b)));
        let blame = worst.filter(|worst| wasted(worst) > 0.02).map(|worst| {
            format!("; {} alone spent {:.0} % on timeouts", worst.metrics.name, wasted(&worst) * 100.0)
        });
        Some(format!(
            "{missed} due times passed because the bus was busy {:.0} % of the time (planned {:.0} %){}",
            busy * 100.0,
            self.planned_load * 100.0,
            blame.unwrap_or_default()
        ))
    }
}

fn why_late(device: &ExplainedDevice) -> Option<String> {
    let metrics = &device.metrics;
    let late = metrics.violations_total();
    let (stage, _) = Stage::ALL.iter().zip(&metrics.violations).max_by_key(|(_, count)| count.get())?;
    (late > 0).then(|| {
        let p99 = metrics.stages[*stage as usize].quantile(0.99);
        let p99 = p99.map_or(String::new(), |p99| format!(" (p99 {p99:.1?})"));
        format!(
            "{late} of {} messages missed the budget of {:?}, most of them because of the {stage}{p99}",
            metrics.sampled.get(),
            device.budget.within
        )
    })
}

fn state(metrics: &DeviceMetrics) -> &'static str {
    match metrics.state.get() {
        1 => "online",
        2 => "offline",
        _ => "unknown",
    }
}

fn share(metrics: &DeviceMetrics, what: BusUse, up: Duration) -> f64 {
    metrics.bus_micros[what as usize].get() as f64 / up.as_micros().max(1) as f64
}

fn uses(of: impl Fn(BusUse) -> f64) -> Value {
    BusUse::ALL
        .iter()
        .map(|what| (what.name().to_string(), of(*what).into()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Milliseconds per answered read.
fn mean(micros: &Counter, metrics: &DeviceMetrics) -> Option<f64> {
    let answered = metrics.answered.get();
    (answered > 0).then(|| micros.get() as f64 / answered as f64 / 1e3)
}

fn quantile(times: &Histogram, q: f64) -> Value {
    times.quantile(q).map(millis).into()
}

pub(super) fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::mapping::batch::Batch;
    use crate::mapping::compiled::{Decode, Kind, Order, Point, Reading, ReadingIx, Source, Transform};
    use crate::mapping::device::{Device, DevicePlan, Every, Limits, Read};
    use crate::model::decimal::Decimal;
    use crate::model::place::{Place, Table};
    use crate::model::time::Stamp;
    use crate::model::value::{Cause, Raw};

    pub fn explainer() -> Explainer {
        let device = |name: &str, unit| ExplainedDevice {
            unit,
            budget: Budget::default(),
            rhythm: Some(Duration::from_secs(1)),
            map: Arc::default(),
            metrics: Arc::new(DeviceMetrics::new(name)),
        };
        let connection = ExplainedConnection {
            link: "rtu /dev/ttyUSB0 9600 8N1".into(),
            planned_load: 0.4,
            metrics: Arc::new(ConnectionMetrics { name: "line".into(), ..ConnectionMetrics::default() }),
            devices: vec![device("oven", 1), device("pump", 2)],
        };
        connection.metrics.up.set(1);
        Explainer {
            site: "bakery".into(),
            started: Instant::now(),
            connections: vec![connection],
            metrics: Arc::default(),
            recents: Arc::default(),
            events: Events::default(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_spends_the_bus_is_named_where_others_miss_their_time() {
        let explainer = explainer();
        let [oven, pump] = [0, 1].map(|i| explainer.connections[0].devices[i].metrics.clone());
        tokio::time::advance(Duration::from_secs(100)).await;
        pump.spent_on_bus(BusUse::Timeout, Duration::from_secs(50));
        pump.state.set(2);
        oven.spent_on_bus(BusUse::Poll, Duration::from_secs(45));
        oven.state.set(1);
        oven.missed_ticks.add(7);
        let told = explainer.explain(Some("oven")).unwrap();
        let oven = &told["connections"][0]["devices"][0];
        assert_eq!(oven["device"], "oven");
        assert_eq!(oven["bus"]["polls"], 0.45);
        assert_eq!(
            oven["why"][0],
            "7 due times passed because the bus was busy 95 % of the time (planned 40 %); pump alone spent 50 % on timeouts"
        );
        assert_eq!(told["connections"][0]["devices"].as_array().unwrap().len(), 1);
        assert_eq!(
            explainer.explain(Some("line")).unwrap()["connections"][0]["devices"][1]["state"],
            "offline"
        );
        assert_eq!(explainer.explain(Some("fan")), Err(["line", "oven", "pump"].map(str::to_owned).to_vec()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_point_is_explained_from_the_words_on_the_wire_to_its_value() {
        let mut explainer = explainer();
        let place = Place::Run { table: Table::Input, address: 506, count: 2 };
        let decode = Decode { kind: Kind::Int32, order: Order::Cdab, byte: None, chars: Default::default() };
        let scale = Decimal::try_new(1, 1);
        let point = Point {
            name: "active.power".into(),
            unit: Some("W".into()),
            source: Source::Reading(ReadingIx(0)),
            transform: Transform { scale, ..Transform::default() },
            published: true,
            plausible: None,
            deadband: None,
            heartbeat: None,
            smooth: None,
            alone: false,
            rate: "default".into(),
        };
        let readings = vec![Reading { place, decode }];
        let map = Arc::new(DeviceMap { readings, points: vec![point], writes: Vec::new() });
        explainer.connections[0].devices[0].map = map.clone();
        let metrics = explainer.connections[0].devices[0].metrics.clone();
        let unread = explainer.explain(Some("oven.active.power")).unwrap();
        assert_eq!(unread["point"]["bad"], "nothing was read yet");
        assert_eq!(explainer.explain(Some("oven.power")), Err(vec!["oven.active.power".to_owned()]));

        let device = Device {
            name: "oven".into(),
            profile: None,
            unit: 1,
            budget: Budget::default(),
            map,
            groups: Vec::new(),
            limits: Limits::default(),
            nodes: Default::default(),
        };
        let (ix, publishes) = (vec![ReadingIx(0)], vec![PointIx(0)]);
        let read = Read { every: Every::Once, readings: ix, points: publishes.clone(), publishes };
        let plan = Arc::new(DevicePlan { device, reads: vec![read], metrics: metrics.clone() });
        let batch = |readings| Batch {
            plan: plan.clone(),
            read: 0,
            started: Instant::now(),
            received: Instant::now(),
            stamp: Stamp::from_unix_millis(0),
            readings,
            part: None,
            notes: Vec::new(),
        };
        metrics.wire.record(0, Instant::now(), Duration::ZERO, |wire| {
            wire.add(&[4, 1, 0xF9, 0, 3], [&[4, 6], &[0, 0, 0xCF, 0x27, 0xFF, 0xFF]]);
        });
        explainer.recents.note(batch(Ok(vec![Ok(Raw::Int(-12_505))])));
        tokio::time::advance(Duration::from_millis(40)).await;
        let told = explainer.explain(Some("oven.active.power")).unwrap();
        assert_eq!(
            told["point"],
            json!({
                "point": "active.power",
                "unit": "W",
                "value": "-1250.5 W",
                "steps": ["input 506..507: CF27 FFFF", "int32 CDAB: -12505", "× 0.1", "= -1250.5 W"],
                "exchanges": [{
                    "at": "1970-01-01T00:00:00.000Z", "age_ms": 40.0, "took_ms": 0.0,
                    "request": "0401F90003", "answer": "04060000CF27FFFF",
                }],
            })
        );
        for _ in 0..20 {
            explainer.recents.note(batch(Err(Cause::Exception(2))));
        }
        let told = explainer.explain(Some("oven.active.power")).unwrap();
        assert_eq!(told["point"]["bad"], "exception 2 (illegal data address)");
        let failures = &told["connections"][0]["devices"][0]["failures"];
        assert_eq!(failures.as_array().unwrap().len(), 8);
        assert_eq!(failures[0]["cause"], "exception 2 (illegal data address)");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_differs_from_the_map_is_named() {
        let explainer = explainer();
        let oven = explainer.connections[0].devices[0].metrics.clone();
        oven.state.set(1);
        oven.drift.set(vec!["speed is int32 on the server, not float64".into()]);
        let told = explainer.explain(Some("oven")).unwrap();
        let oven = &told["connections"][0]["devices"][0];
        assert_eq!(
            oven["why"],
            json!([
                "when it was connected, the server was not as the map says: speed is int32 on the server, not float64"
            ])
        );
        assert_eq!(oven["drift"], json!(["speed is int32 on the server, not float64"]));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_wrong_needs_no_words() {
        let explainer = explainer();
        explainer.connections[0].devices[0].metrics.state.set(1);
        let told = explainer.explain(None).unwrap();
        assert_eq!(told["connections"][0]["devices"][0]["why"], json!([]));
        assert_eq!(told["connections"][0]["devices"][1]["why"], json!(["it has not answered yet"]));
    }
}
