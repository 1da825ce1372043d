//! What a gateway tells of itself (`/api/v1/status`), as far as it's shown. Pure.
//!
//! What is missing, as from a gateway of another version, is shown as unknown, and ends nothing.

use std::collections::HashMap;

use serde_json::Value;

/// A gateway at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The site's name.
    pub site: String,
    /// The program's version.
    pub version: String,
    /// Milliseconds since the start.
    pub up_ms: f64,
    /// What makes it unready, a sentence each.
    pub unready: Vec<String>,
    /// Its connections, in the order of the site file.
    pub connections: Vec<Connection>,
    /// Its routes.
    pub routes: Vec<Route>,
    /// What happened last, the newest last.
    pub events: Vec<Event>,
}

/// One connection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Connection {
    /// Its name.
    pub name: String,
    /// What it talks through.
    pub link: String,
    /// Is the link up?
    pub up: bool,
    /// The share of the time that its bus was planned to be busy.
    pub planned: Option<f64>,
    /// Its devices.
    pub devices: Vec<Device>,
}

/// One device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// `online`, `offline`, `unknown`.
    pub state: String,
    /// What is wrong, the gravest first.
    pub why: Vec<String>,
    /// How old its values are, in milliseconds.
    pub age_ms: Option<f64>,
    /// How old they may be.
    pub fresh_ms: Option<f64>,
    /// 99 of 100 messages took at most this, from the request to the acknowledgement.
    pub p99_ms: Option<f64>,
    /// How long they may take.
    pub budget_ms: Option<f64>,
    /// Messages that took longer.
    pub late: u64,
    /// The share of the time that it kept its bus busy.
    pub bus: f64,
}

/// One route.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// Does the far side take messages?
    pub up: bool,
    /// Messages in the live queue.
    pub queued: u64,
    /// Messages sent and not acknowledged.
    pub in_flight: u64,
    /// Messages in the backlog.
    pub backlog: u64,
    /// Messages in the store.
    pub stored: u64,
    /// Bytes of the store's files.
    pub stored_bytes: u64,
    /// Can the store not be written?
    pub store_failing: bool,
}

/// One event.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    /// When, in UTC: `2026-11-22T12:00:00.123Z`.
    pub at: String,
    /// `info`, `warn`, `error`.
    pub level: String,
    /// What.
    pub text: String,
}

impl Snapshot {
    /// Reads a gateway's answer.
    pub fn read(told: &Value) -> Self {
        Self {
            site: text(&told["site"]),
            version: text(&told["version"]),
            up_ms: told["up_ms"].as_f64().unwrap_or(0.0),
            unready: list(&told["ready"]["reasons"], text),
            connections: list(&told["connections"], connection),
            routes: list(&told["routes"], route),
            events: list(&told["events"], event),
        }
    }

    /// With the buses' shares of the time since `before`, in place of those since the gateway's start. A restart in between leaves them.
    pub fn since(mut self, before: &Self) -> Self {
        let passed = self.up_ms - before.up_ms;
        if passed <= 0.0 {
            return self;
        }
        let (up, up_before) = (self.up_ms, before.up_ms);
        let known = before.connections.iter().flat_map(|connection| &connection.devices);
        let known: HashMap<_, _> = known.map(|device| (device.name.clone(), device.bus)).collect();
        for device in self.connections.iter_mut().flat_map(|connection| &mut connection.devices) {
            if let Some(bus) = known.get(&device.name) {
                device.bus = ((device.bus * up - bus * up_before) / passed).max(0.0);
            }
        }
        self
    }
}

impl Connection {
    /// The share of the time that its bus is busy.
    pub fn bus(&self) -> f64 {
        self.devices.iter().map(|device| device.bus).sum()
    }
}

impl Device {
    /// The share of its budget that 99 of 100 messages kept to; over 1 is late.
    pub fn lateness(&self) -> f64 {
        match (self.p99_ms, self.budget_ms) {
            (Some(p99), Some(budget)) if budget > 0.0 => p99 / budget,
            _ => 0.0,
        }
    }

    /// Are its values older than they may be?
    pub fn is_stale(&self) -> bool {
        self.fresh_ms.is_some_and(|limit| self.age_ms.is_none_or(|age| age > limit))
    }
}

fn connection(told: &Value) -> Connection {
    Connection {
        name: text(&told["connection"]),
        link: text(&told["link"]),
        up: told["up"] == true,
        planned: told["planned_load"].as_f64(),
        devices: list(&told["devices"], device),
    }
}

fn device(told: &Value) -> Device {
    let sum = |of: &Value| of.as_object().into_iter().flatten().filter_map(|(_, part)| part.as_f64()).sum();
    let late: f64 = sum(&told["violations"]);
    Device {
        name: text(&told["device"]),
        state: text(&told["state"]),
        why: list(&told["why"], text),
        age_ms: told["values_age_ms"].as_f64(),
        fresh_ms: told["fresh_for_ms"].as_f64(),
        p99_ms: told["p99_ms"]["total"].as_f64(),
        budget_ms: told["budget_ms"].as_f64(),
        late: late as u64,
        bus: sum(&told["bus"]),
    }
}

fn route(told: &Value) -> Route {
    let count = |key: &str| told[key].as_u64().unwrap_or(0);
    Route {
        name: text(&told["route"]),
        up: told["up"] == true,
        queued: count("queued"),
        in_flight: count("in_flight"),
        backlog: count("backlog"),
        stored: count("stored"),
        stored_bytes: count("stored_bytes"),
        store_failing: told["store_failing"] == true,
    }
}

fn event(told: &Value) -> Event {
    Event { at: text(&told["at"]), level: text(&told["level"]), text: text(&told["text"]) }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

fn list<T>(value: &Value, read: impl Fn(&Value) -> T) -> Vec<T> {
    value.as_array().into_iter().flatten().map(read).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(up_ms: u64, polls: f64) -> Value {
        let device = json!({
            "device": "oven", "state": "online", "why": ["late"], "budget_ms": 500, "p99_ms": {"bus": 1, "total": 250.0},
            "violations": {"bus": 2, "map": 0, "broker": 1}, "bus": {"polls": polls, "retries": 0.0},
            "values_age_ms": 3100.0, "fresh_for_ms": 2500.0,
        });
        json!({"site": "bakery", "up_ms": up_ms, "connections": [{"connection": "line", "up": true, "devices": [device]}]})
    }

    #[test]
    fn an_answer_is_read_and_what_is_missing_is_unknown() {
        let read = Snapshot::read(&told(1_000, 0.25));
        let oven = &read.connections[0].devices[0];
        assert_eq!((oven.late, oven.lateness(), oven.bus, oven.is_stale()), (3, 0.5, 0.25, true));
        assert_eq!((&*read.version, &*read.connections[0].link, read.routes.len()), ("-", "-", 0));
        assert_eq!(Snapshot::read(&json!(["nonsense"])).connections, []);
    }

    #[test]
    fn the_share_of_the_bus_is_that_of_the_last_moment() {
        // 10 of 100 s, then 11 of 102 s: half of the last two seconds.
        let [before, after] =
            [(100_000, 0.1), (102_000, 11.0 / 102.0)].map(|(up, bus)| Snapshot::read(&told(up, bus)));
        assert!((after.clone().since(&before).connections[0].bus() - 0.5).abs() < 1e-9);
        // After a restart, the time since then.
        assert_eq!(before.clone().since(&after), before);
    }
}
