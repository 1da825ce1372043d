//! What is different between two sites: connections, devices, points and routes that came, went or changed. Pure.
//!
//! What was only written differently (another order of keys, a profile in place of the same points) is no difference.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::{Value, json};

use super::plan::{Connection, Protocol, Route, SinkConfig, Site};
use crate::drivers::modbus::config::ModbusConfig;
use crate::drivers::opcua::config::OpcuaConfig;
use crate::mapping::compiled::{DeviceMap, Point, PointIx, Source};
use crate::mapping::device::{Device, Every};
use crate::northbound::http::config::HttpConfig;
use crate::northbound::mqtt::config::MqttConfig;

mod text;

/// What is different, one line a part where it's displayed. Parts that are the same are not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Keys of the site itself.
    pub site: Vec<&'static str>,
    /// Connections, by name.
    pub connections: BTreeMap<String, Change>,
    /// Devices, by name.
    pub devices: BTreeMap<String, DeviceChange>,
    /// Routes, by name.
    pub routes: BTreeMap<String, Change>,
}

/// What became of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It came.
    Added,
    /// It went.
    Removed,
    /// These keys of it have other values.
    Changed(Vec<&'static str>),
}

/// What became of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceChange {
    /// The device itself; [`Change::Changed`] with no keys: its points only.
    pub change: Change,
    /// The connection that it hangs on; of one that went: hung.
    pub connection: String,
    /// How many points it has; of one that went: had.
    pub count: usize,
    /// Points of a changed device, by name.
    pub points: BTreeMap<String, Change>,
}

/// The names of those keys whose values differ.
macro_rules! keys {
    ($old:expr, $new:expr; $($key:literal: $($field:tt).+),+ $(,)?) => {{
        let mut keys: Vec<&'static str> = Vec::new();
        $(if $old.$($field).+ != $new.$($field).+ {
            keys.push($key);
        })+
        keys.dedup();
        keys
    }};
}

impl Difference {
    /// From one site to another.
    pub fn between(old: &Site, new: &Site) -> Self {
        let mut site = keys!(old, new; "site": name, "store": store, "clock": clock, "listen": listen, "telemetry": telemetry);
        let devices =
            between(&devices_of(old), &devices_of(new), |old, new| device(old, new).map(Change::Changed));
        let detailed = devices.into_iter().map(|(name, change)| {
            let change = DeviceChange::new(&name, change, old, new);
            (name, change)
        });
        let devices: BTreeMap<_, _> = detailed.collect();
        let writes = |site: &Site| site.allow_write.clone();
        if writes(old) != writes(new) {
            site.push("allow_write");
        }
        let by_name = |site: &Site| -> BTreeMap<String, Connection> {
            site.connections.iter().map(|one| (one.name.clone(), one.clone())).collect()
        };
        let routes = |site: &Site| -> BTreeMap<String, Route> {
            site.routes.iter().map(|one| (one.name.clone(), one.clone())).collect()
        };
        Self {
            site,
            connections: between(&by_name(old), &by_name(new), |old, new| {
                changed(connection(&old.protocol, &new.protocol))
            }),
            devices,
            routes: between(&routes(old), &routes(new), |old, new| changed(route(old, new))),
        }
    }

    /// Is everything the same?
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// For programs.
    pub fn as_json(&self) -> Value {
        let parts = |parts: &BTreeMap<String, Change>| -> Vec<Value> {
            parts.iter().map(|(name, change)| with_name(name, change.as_json())).collect()
        };
        let devices = self.devices.iter().map(|(name, device)| {
            let mut value = with_name(name, device.change.as_json());
            value["connection"] = json!(device.connection);
            value["point_count"] = json!(device.count);
            value["points"] = json!(parts(&device.points));
            value
        });
        json!({
            "same": self.is_none(),
            "site": self.site,
            "connections": parts(&self.connections),
            "devices": devices.collect::<Vec<_>>(),
            "routes": parts(&self.routes),
        })
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::as_text(self))
    }
}

impl Change {
    fn as_json(&self) -> Value {
        match self {
            Self::Added => json!({ "change": "added" }),
            Self::Removed => json!({ "change": "removed" }),
            Self::Changed(keys) => json!({ "change": "changed", "keys": keys }),
        }
    }
}

impl DeviceChange {
    fn new(name: &str, change: Change, old: &Site, new: &Site) -> Self {
        let (before, after) = (devices_of(old), devices_of(new));
        let points = match (before.get(name), after.get(name)) {
            (Some((_, old)), Some((_, new))) => points(old, new),
            _ => BTreeMap::new(),
        };
        let (connection, device) = match (before.get(name), after.get(name)) {
            (_, Some(found)) | (Some(found), None) => (found.0.to_owned(), found.1.map.points.len()),
            (None, None) => Default::default(),
        };
        Self { change, connection, count: device, points }
    }
}

fn with_name(name: &str, mut value: Value) -> Value {
    value["name"] = json!(name);
    value
}

/// What came, went and changed, by name. `change` says how two of the same name differ, if they do.
fn between<T>(
    old: &BTreeMap<String, T>,
    new: &BTreeMap<String, T>,
    change: impl Fn(&T, &T) -> Option<Change>,
) -> BTreeMap<String, Change> {
    let gone = old.keys().filter(|name| !new.contains_key(*name)).map(|name| (name.clone(), Change::Removed));
    let there = new.iter().filter_map(|(name, new)| {
        let change = match old.get(name) {
            None => Change::Added,
            Some(old) => change(old, new)?,
        };
        Some((name.clone(), change))
    });
    there.chain(gone).collect()
}

fn changed(keys: Vec<&'static str>) -> Option<Change> {
    (!keys.is_empty()).then_some(Change::Changed(keys))
}

/// Devices by name, with the connections that they hang on.
fn devices_of(site: &Site) -> BTreeMap<String, (&str, &Device)> {
    let of = |connection: &'_ Connection| -> Vec<_> {
        connection.devices.iter().map(|device| device.name.to_string()).collect()
    };
    let pairs = site.connections.iter().flat_map(|connection| {
        of(connection)
            .into_iter()
            .zip(connection.devices.iter().map(|device| (connection.name.as_str(), device)))
    });
    pairs.collect()
}

fn connection(old: &Protocol, new: &Protocol) -> Vec<&'static str> {
    match (old, new) {
        (Protocol::Modbus(old), Protocol::Modbus(new)) => modbus(old, new),
        (Protocol::Opcua(old), Protocol::Opcua(new)) => opcua(old, new),
        _ => vec!["protocol"],
    }
}

fn modbus(old: &ModbusConfig, new: &ModbusConfig) -> Vec<&'static str> {
    keys!(old, new;
        "address": link,
        "response_timeout": response_timeout,
        "delay_between_requests": delay_between_requests,
        "delay_after_connect": delay_after_connect,
        "late_window": late_window,
        "frame_gap": frame_gap,
        "echo": echo,
        "close_between_reads": close_between_reads,
        "max_in_flight": max_in_flight,
        "rs485": rs485,
    )
}

fn opcua(old: &OpcuaConfig, new: &OpcuaConfig) -> Vec<&'static str> {
    keys!(old, new; "address": endpoint, "security": security, "user": user, "response_timeout": timeout)
}

fn route(old: &Route, new: &Route) -> Vec<&'static str> {
    let mut keys = match (&old.sink, &new.sink) {
        (SinkConfig::Mqtt(old), SinkConfig::Mqtt(new)) => mqtt(old, new),
        (SinkConfig::Http(old), SinkConfig::Http(new)) => http(old, new),
        _ => vec!["protocol"],
    };
    keys.extend(keys!(old, new; "only, except": passes, "durability": durability));
    keys
}

fn mqtt(old: &MqttConfig, new: &MqttConfig) -> Vec<&'static str> {
    keys!(old, new;
        "address": host,
        "address": port,
        "tls": tls,
        "client_id": client_id,
        "user": user,
        "password": password,
        "qos": qos,
        "keep_alive": keep_alive,
        "window": window,
        "topic": topic,
        "status_topic": status_topic,
        "backlog": backlog_bytes,
    )
}

fn http(old: &HttpConfig, new: &HttpConfig) -> Vec<&'static str> {
    keys!(old, new;
        "address": url,
        "tls": tls,
        "user, password, token": auth,
        "headers": headers,
        "max_batch": max_batch,
        "linger": linger,
        "gzip": gzip_above,
        "timeout": timeout,
        "statuses": statuses,
        "backlog": backlog_bytes,
    )
}

/// The keys of the device itself; none, and yet something: its points only.
fn device((was_on, old): &(&str, &Device), (is_on, new): &(&str, &Device)) -> Option<Vec<&'static str>> {
    let mut keys = keys!(old, new;
        "unit_id": unit,
        "budget": budget.within,
        "on_late": budget.late,
        "namespace": nodes.namespace,
        "queue": nodes.queue,
        "trigger": nodes.trigger,
        "times": nodes.times,
        "limits": limits,
    );
    if was_on != is_on {
        keys.push("via");
    }
    (!keys.is_empty() || !points(old, new).is_empty()).then_some(keys)
}

fn points(old: &Device, new: &Device) -> BTreeMap<String, Change> {
    let by_name = |device: &Device| -> BTreeMap<String, Placed> {
        let rates = rates(device);
        let placed = |(index, point): (usize, &Point)| {
            let placed = Placed { map: device.map.clone(), index, every: rates.get(&index).copied() };
            (point.name.to_string(), placed)
        };
        device.map.points.iter().enumerate().map(placed).collect()
    };
    between(&by_name(old), &by_name(new), |old, new| changed(point(old, new)))
}

/// How often each point is read, by its index.
fn rates(device: &Device) -> BTreeMap<usize, Every> {
    let group = |group: &crate::mapping::device::Group| {
        let every = group.every;
        group.points.iter().map(move |ix| (ix.0 as usize, every)).collect::<Vec<_>>()
    };
    device.groups.iter().flat_map(group).collect()
}

/// A point in its map.
struct Placed {
    map: Arc<DeviceMap>,
    index: usize,
    every: Option<Every>,
}

impl Placed {
    fn point(&self) -> &Point {
        &self.map.points[self.index]
    }

    fn name_of(&self, ix: PointIx) -> Arc<str> {
        self.map.points[ix.0 as usize].name.clone()
    }
}

fn point(old: &Placed, new: &Placed) -> Vec<&'static str> {
    let mut keys = Vec::new();
    match (&old.point().source, &new.point().source) {
        (Source::Reading(before), Source::Reading(after)) => {
            let (before, after) = (&old.map.readings[before.0 as usize], &new.map.readings[after.0 as usize]);
            keys.extend(keys!(before, after; "address": place, "type, order": decode));
        }
        (Source::Sum(before), Source::Sum(after)) => {
            let named = |placed: &Placed, terms: &[(PointIx, _)]| -> Vec<_> {
                terms.iter().map(|(ix, factor)| (placed.name_of(*ix), *factor)).collect()
            };
            if named(old, before) != named(new, after) {
                keys.push("sum");
            }
        }
        _ => keys.push("address, sum"),
    }
    let scaled_by = |placed: &Placed| placed.point().transform.scale_from.map(|ix| placed.name_of(ix));
    if scaled_by(old) != scaled_by(new) {
        keys.push("scale_from");
    }
    if old.every != new.every {
        keys.push("every");
    }
    let (old, new) = (old.point(), new.point());
    keys.extend(keys!(old, new;
        "bit, bits, mask": transform.select,
        "invalid": transform.invalid,
        "scale": transform.scale,
        "offset": transform.offset,
        "enum": transform.labels,
        "unit": unit,
        "internal": published,
        "plausible": plausible,
        "deadband": deadband,
        "heartbeat": heartbeat,
        "smooth": smooth,
        "alone": alone,
    ));
    keys
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;
    use crate::config::{LoadOptions, load};

    const SITE: &str = "site: hall
connections:
  meters: {tcp: 127.0.0.1:502}
devices:
  a: {via: meters, unit_id: 1, every: 1s, points: {x: {holding: 1, type: uint16}, z: {holding: 2, type: uint16}}}
publish:
  cloud: {mqtt: mqtt://127.0.0.1:1883}
";

    fn site(text: &str) -> Site {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("taktbus-diff-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("site.yaml");
        std::fs::write(&path, text).unwrap();
        let loaded = load(Path::new(&path), &LoadOptions::default());
        std::fs::remove_dir_all(&folder).unwrap();
        loaded.site.unwrap_or_else(|| panic!("{:?}", loaded.diagnostics))
    }

    /// What replacing this by that in the site file makes different.
    fn when(this: &str, that: &str) -> Value {
        assert!(SITE.contains(this), "{this}");
        Difference::between(&site(SITE), &site(&SITE.replace(this, that))).as_json()
    }

    #[test]
    fn what_is_written_differently_is_the_same() {
        assert!(Difference::between(&site(SITE), &site(SITE)).is_none());
        let reordered = "x: {type: uint16, holding: 1}";
        assert_eq!(when("x: {holding: 1, type: uint16}", reordered)["same"], json!(true));
    }

    #[test]
    fn each_part_says_which_of_its_keys_differ() {
        let keys = |this, that, part: &str| when(this, that)[part][0]["keys"].clone();
        assert_eq!(
            keys("127.0.0.1:502", "127.0.0.1:503, response_timeout: 2s", "connections"),
            json!(["address", "response_timeout"])
        );
        assert_eq!(keys("unit_id: 1", "unit_id: 2, budget: 3s", "devices"), json!(["unit_id", "budget"]));
        assert_eq!(keys("127.0.0.1:1883", "127.0.0.1:1884, qos: 0", "routes"), json!(["address", "qos"]));
        assert_eq!(
            when("site: hall", "site: hall\nlisten: {http: 127.0.0.1:9464}")["site"],
            json!(["listen"])
        );
        let sent = "site: hall\ntelemetry: {otlp: http://127.0.0.1:4318}";
        assert_eq!(when("site: hall", sent)["site"], json!(["telemetry"]));
    }

    #[test]
    fn points_are_compared_by_what_they_mean_wherever_they_are() {
        let points = |this, that| {
            let value = when(this, that);
            assert_eq!(
                (&value["devices"][0]["change"], &value["devices"][0]["keys"]),
                (&json!("changed"), &json!([]))
            );
            value["devices"][0]["points"].clone()
        };
        // A point before another moves what is behind it.
        assert_eq!(
            points("{x:", "{w: {holding: 0, type: uint16}, x:"),
            json!([{"name": "w", "change": "added"}])
        );
        assert_eq!(
            points("x: {holding: 1, type: uint16}, ", ""),
            json!([{"name": "x", "change": "removed"}])
        );
        let changed =
            json!([{"name": "x", "change": "changed", "keys": ["address", "type, order", "scale"]}]);
        assert_eq!(
            points("x: {holding: 1, type: uint16}", "x: {holding: 9, type: int16, scale: 0.1}"),
            changed
        );
        let every = |name| json!({"name": name, "change": "changed", "keys": ["every"]});
        assert_eq!(points("every: 1s", "every: 2s"), json!([every("x"), every("z")]));
    }

    #[test]
    fn parts_come_and_go_and_a_renamed_one_does_both() {
        let value = when("  a: {via", "  b: {via");
        let changes: Vec<_> = value["devices"]
            .as_array()
            .unwrap()
            .iter()
            .map(|device| (&device["name"], &device["change"]))
            .collect();
        assert_eq!(changes, [(&json!("a"), &json!("removed")), (&json!("b"), &json!("added"))]);
        let more = "  other: {tcp: 127.0.0.2:502}\ndevices:\n  b: {via: other, unit_id: 1, every: 1s, points: {x: {holding: 1, type: uint16}}}\n";
        let value = when("devices:\n", more);
        assert_eq!(value["connections"], json!([{"name": "other", "change": "added"}]));
    }
}
