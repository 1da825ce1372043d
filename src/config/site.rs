//! A site as written → a plan: every part is checked, whatever is wrong with the others.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::device::Wire;
use super::library::Library;
use super::passes::{Published, passes};
use super::plan::{Connection, Protocol, Route, SinkConfig, Site, Trust};
use super::{connection, device, http, memory, publish, telemetry, written};
use crate::document::codes;
use crate::document::read::At;
use crate::document::suggest::did_you_mean;
use crate::document::types::Name;
use crate::drivers::modbus::config::Link;
use crate::mapping::device::Device;
use crate::model::diagnostic::Diagnostics;
use crate::model::place::Place;
use crate::northbound::forwarder::Durability;
use crate::pipeline::passes::Pass;
use crate::store;

/// The points of each device that is known, by all names that they have.
type Writable = BTreeMap<String, Option<BTreeMap<String, device::Known>>>;

/// Compiles a site. `None` when something was reported.
pub fn compile(written: &written::Site, library: &mut Library, found: &mut Diagnostics) -> Option<Site> {
    let mut connections = connections(written, found);
    let writable = devices(written, library, &mut connections, found);
    let allow_write = allow_write(written, &writable, found);
    let routes = routes(written, &connections, found);
    let telemetry = written.telemetry.as_ref().and_then(|at| telemetry::compile(&at.value, found));
    let name = written.site.as_ref()?.value.0.clone();
    if found.has_errors() {
        return None;
    }
    let connections = connections
        .into_iter()
        .filter(|known| known.used)
        .map(|known| {
            Some(Connection {
                name: known.name.value.clone(),
                protocol: known.config?,
                devices: known.devices,
            })
        })
        .collect::<Option<Vec<_>>>()?;
    let store = store(written.store.as_ref().map(|at| &at.value));
    let clock = match written.clock.as_ref().map(|at| at.value) {
        Some(written::ClockWord::Trusted) => Trust::Always,
        Some(written::ClockWord::Auto) | None => Trust::WhenSynchronised,
    };
    let listen = written.listen.as_ref().and_then(|at| Some(at.value.http.as_ref()?.value.0));
    let files = Arc::default();
    Some(Site { name, connections, routes: routes?, allow_write, store, clock, listen, telemetry, files })
}

/// A connection of the file, and what hangs on it.
struct Known<'w> {
    name: &'w At<String>,
    config: Option<Protocol>,
    devices: Vec<Device>,
    used: bool,
}

fn connections<'w>(written: &'w written::Site, found: &mut Diagnostics) -> Vec<Known<'w>> {
    let Some(at) = &written.connections else { return Vec::new() };
    if at.value.0.is_empty() {
        found
            .error(codes::NOTHING_TO_DO, &at.span, "there are no connections")
            .help("such as lan: {tcp: 192.168.1.50:502}");
    }
    let all = at.value.0.iter();
    let known: Vec<Known<'_>> = all
        .map(|(name, connection)| {
            let config =
                connection.as_ref().and_then(|connection| connection::compile(name, connection, found));
            Known { name, config, devices: Vec::new(), used: false }
        })
        .collect();
    shared_links(&known, found);
    known
}

/// Each connection is a client of its own, and an endpoint has one for all its units: two on one serial line would take
/// each other's answers, and many network devices take one client only.
fn shared_links(connections: &[Known<'_>], found: &mut Diagnostics) {
    let mut first: HashMap<String, &At<String>> = HashMap::new();
    for known in connections {
        let Some(config) = &known.config else { continue };
        let Some(config) = config.modbus() else { continue };
        let end = match &config.link {
            // The same port under another name, as in /dev/serial/by-id, is the same port.
            Link::Serial { path, .. } => {
                std::fs::canonicalize(path).unwrap_or(path.clone()).display().to_string()
            }
            Link::Tcp { host, port } | Link::RtuOverTcp { host, port, .. } => format!("{host}:{port}"),
        };
        let Some(other) = first.get(&end) else {
            first.insert(end, known.name);
            continue;
        };
        let (name, other) = (&known.name.value, &other.value);
        let message = format!("connections '{other}' and '{name}' are both at {end}");
        let help = format!("put all devices behind '{other}': they share it by their unit ids");
        found.error(codes::SHARED_LINK, &known.name.span, message).help(match config.link {
            Link::Tcp { .. } => help + "; max_in_flight lets several requests wait at once",
            Link::Serial { .. } | Link::RtuOverTcp { .. } => help,
        });
    }
}

fn devices(
    written: &written::Site,
    library: &mut Library,
    connections: &mut [Known<'_>],
    found: &mut Diagnostics,
) -> Writable {
    let mut writable = Writable::new();
    let Some(at) = &written.devices else { return writable };
    if at.value.0.is_empty() {
        found
            .error(codes::NOTHING_TO_DO, &at.span, "there are no devices")
            .help("such as meter: {via: lan, profile: …, every: 5s}");
    }
    let positions: HashMap<&str, usize> =
        connections.iter().enumerate().map(|(at, known)| (known.name.value.as_str(), at)).collect();
    for (name, device) in &at.value.0 {
        let Some(device) = device else {
            writable.insert(name.value.clone(), None);
            continue;
        };
        let position = device.via.as_ref().and_then(|via| resolve(via, &positions, found));
        let wire = position.and_then(|at| connections[at].config.as_ref()).map(|protocol| match protocol {
            Protocol::Modbus(config) if matches!(config.link, Link::Tcp { .. }) => Wire::Network,
            Protocol::Modbus(_) => Wire::Serial,
            Protocol::Opcua(_) => Wire::Opcua,
        });
        let outcome = device::compile(name, device, wire, library, found);
        writable.insert(name.value.clone(), outcome.points);
        if let Some(at) = position {
            connections[at].used = true;
            connections[at].devices.extend(outcome.device);
        }
    }
    connections.iter().for_each(|known| same_units(known, &at.value.0, found));
    for known in connections.iter().filter(|known| !known.used) {
        let message = format!("no device uses connection '{}'", known.name.value);
        found.warning(codes::UNUSED_CONNECTION, &known.name.span, message);
    }
    writable
}

/// Two devices that are one unit to the wire may share it, say with a budget each; the same registers twice are a mistake.
fn same_units(known: &Known<'_>, written: &[(At<String>, Option<written::Device>)], found: &mut Diagnostics) {
    let mut first: HashMap<u8, Vec<&Device>> = HashMap::new();
    // Several devices of one OPC UA server are usual, and their nodes are told apart by the server.
    let devices =
        known.devices.iter().filter(|_| known.config.as_ref().is_some_and(|c| c.modbus().is_some()));
    for device in devices {
        let others = first.entry(device.unit).or_default();
        let shared = others.iter().find(|other| shares_a_place(other, device));
        let span = written.iter().find(|(name, _)| name.value == *device.name).map(|(name, _)| &name.span);
        if let (Some(other), Some(span)) = (shared, span) {
            let message = format!(
                "'{}' reads registers of unit {} that '{}' reads already",
                device.name, device.unit, other.name
            );
            found.warning(codes::SAME_UNIT, span, message).help("is its unit_id or its connection right?");
        }
        // Others like them are found by the first few of them.
        if others.len() < MOST_OF_ONE_UNIT {
            others.push(device);
        }
    }
}

/// Devices of one unit that later ones are compared with.
const MOST_OF_ONE_UNIT: usize = 8;

fn shares_a_place(a: &Device, b: &Device) -> bool {
    if Arc::ptr_eq(&a.map, &b.map) {
        return true;
    }
    let places: HashSet<&Place> = a.map.readings.iter().map(|reading| &reading.place).collect();
    b.map.readings.iter().any(|reading| places.contains(&reading.place))
}

/// The connection that a device names.
fn resolve(via: &At<Name>, positions: &HashMap<&str, usize>, found: &mut Diagnostics) -> Option<usize> {
    let name = via.value.0.as_str();
    let at = positions.get(name).copied();
    if at.is_none() {
        let mut known: Vec<&str> = positions.keys().copied().collect();
        known.sort_unstable();
        let near = did_you_mean(found, name, known);
        found.error(codes::UNKNOWN_CONNECTION, &via.span, format!("there is no connection '{name}'{near}"));
    }
    at
}

/// What the site allows, in published names.
fn allow_write(
    written: &written::Site,
    writable: &Writable,
    found: &mut Diagnostics,
) -> BTreeMap<String, BTreeSet<String>> {
    let mut allowed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (device, points) in written.allow_write.iter().flat_map(|at| &at.value.0) {
        let Some(known) = writable.get(&device.value) else {
            let near = did_you_mean(found, &device.value, writable.keys().map(String::as_str));
            found.error(
                codes::UNKNOWN_DEVICE,
                &device.span,
                format!("there is no device '{}'{near}", device.value),
            );
            continue;
        };
        let (Some(known), Some(points)) = (known, points) else { continue };
        for point in &points.0 {
            match known.get(&point.value.0) {
                Some(point) if point.writable => {
                    allowed.entry(device.value.clone()).or_default().insert(point.published.clone());
                }
                Some(_) => {
                    found
                        .error(
                            codes::READ_ONLY,
                            &point.span,
                            format!("point '{}' can only be read", point.value.0),
                        )
                        .help("its access is r, the default; a point to write has access: rw");
                }
                None => {
                    let near = did_you_mean(found, &point.value.0, known.keys().map(String::as_str));
                    let message = format!("device '{}' has no point '{}'{near}", device.value, point.value.0);
                    found.error(codes::UNKNOWN_POINT, &point.span, message);
                }
            }
        }
    }
    allowed
}

fn routes(written: &written::Site, connections: &[Known<'_>], found: &mut Diagnostics) -> Option<Vec<Route>> {
    let at = written.publish.as_ref()?;
    if at.value.0.is_empty() {
        found
            .error(codes::NOTHING_TO_DO, &at.span, "nothing is published")
            .help("such as cloud: {mqtt: mqtt://localhost:1883}");
    }
    let site = written.site.as_ref().map_or("", |site| &site.value.0);
    let names = written.devices.iter().flat_map(|at| &at.value.0).map(|(name, _)| name);
    let compiled =
        |name: &str| connections.iter().flat_map(|known| &known.devices).find(|device| &*device.name == name);
    let points = |device: &Device| {
        let published = device.map.points.iter().filter(|point| point.published);
        published.map(|point| point.name.to_string()).collect()
    };
    let published: Published =
        names.clone().map(|name| (name.value.clone(), compiled(&name.value).map(points))).collect();
    let mut clients: HashMap<(String, u16, String), &At<String>> = HashMap::new();
    let mut routes = Vec::new();
    let mut wished = Vec::new();
    for (name, route) in &at.value.0 {
        let Some(route) = route else { continue };
        let passes = passes(name, route, &published, found);
        let carried: Vec<&At<String>> =
            names.clone().filter(|name| passes.of(&name.value) != Pass::None).collect();
        let sink = match kind(name, route, found) {
            Some(Kind::Mqtt) => publish::compile(name, route, site, &carried, found).map(SinkConfig::Mqtt),
            Some(Kind::Http) => {
                let budgets = carried.iter().filter_map(|name| Some(compiled(&name.value)?.budget.within));
                http::compile(route, budgets.min(), found).map(SinkConfig::Http)
            }
            None => None,
        };
        let Some(sink) = sink else { continue };
        if let SinkConfig::Mqtt(config) = &sink {
            let client = (config.host.clone(), config.port, config.client_id.clone());
            if let Some(other) = clients.insert(client, name) {
                // MQTT 3.1.1, [MQTT-3.1.4-2]: the broker disconnects the first when the second comes.
                let message = format!(
                    "routes '{}' and '{}' are the same client to one broker",
                    other.value, name.value
                );
                found.error(codes::CLIENT_ID, &name.span, message).help("give one of them another client_id");
            }
        }
        let durability = match route.durability.as_ref().map(|at| at.value) {
            None | Some(written::DurabilityWord::Always) => Durability::Always,
            Some(written::DurabilityWord::OnOutage) => Durability::OnOutage,
            Some(written::DurabilityWord::Off) => Durability::Off,
        };
        routes.push(Route { name: name.value.clone(), sink, passes, durability });
        wished.push(route.backlog.as_ref().map(|at| at.value.0));
    }
    let memory = written.memory.as_ref().map_or_else(|| memory::usual(&wished), |at| at.value.0);
    let Some(backlogs) = memory::backlogs(memory, &wished) else {
        let (least, has) = (memory::least(&wished).div_ceil(1 << 20), memory >> 20);
        let span = written.memory.as_ref().map_or(&at.span, |at| &at.span);
        let message = format!("the routes need {least} MiB of memory, and {has} MiB are there");
        found
            .error(codes::TOO_LITTLE_MEMORY, span, message)
            .help(format!("memory: {least}MiB, or smaller backlogs"));
        return None;
    };
    for (route, bytes) in routes.iter_mut().zip(backlogs) {
        *route.sink.backlog_bytes() = bytes as usize;
    }
    Some(routes)
}

fn store(written: Option<&written::Store>) -> store::Settings {
    let usual = store::Settings::default();
    let Some(written) = written else { return usual };
    store::Settings {
        size: written.size.as_ref().map_or(usual.size, |at| at.0),
        age: written.age.as_ref().map(|at| at.0),
        sync: written.sync.as_ref().map_or(usual.sync, |at| at.0),
    }
}

/// The kinds of routes.
enum Kind {
    Mqtt,
    Http,
}

/// Keys of one kind of route.
const MQTT_KEYS: [&str; 6] = ["client_id", "topic", "status_topic", "qos", "keep_alive", "window"];
const HTTP_KEYS: [&str; 7] = ["bearer", "headers", "max_batch", "linger", "gzip", "timeout", "statuses"];

/// The kind of a route, if it is one and has no key of another.
fn kind(name: &At<String>, route: &written::Publish, found: &mut Diagnostics) -> Option<Kind> {
    let (kind, foreign, what) = match (&route.mqtt, &route.http) {
        (Some(_), None) => (Kind::Mqtt, &HTTP_KEYS[..], "HTTP"),
        (None, Some(_)) => (Kind::Http, &MQTT_KEYS[..], "MQTT"),
        (Some(_), Some(http)) => {
            let message = format!("route '{}' is both mqtt and http", name.value);
            found
                .error(codes::BAD_ROUTE, &http.span, message)
                .help("write two routes: each has its own queue");
            return None;
        }
        (None, None) if route.faulty => return None,
        (None, None) => {
            let message = format!("route '{}' says neither mqtt nor http", name.value);
            found
                .error(codes::MISSING_KEY, &name.span, message)
                .help("such as {mqtt: mqtt://localhost:1883} or {http: https://api.example/in}");
            return None;
        }
    };
    let before = found.errors();
    for key in foreign {
        if let Some(span) = route.given(key) {
            let message = format!("'{key}' is for {what}, and route '{}' is not", name.value);
            found.error(codes::BAD_ROUTE, span, message).help("remove it");
        }
    }
    (found.errors() == before).then_some(kind)
}
