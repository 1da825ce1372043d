//! Every type, order and scale arrives exact, from servers that we did not write, at a subscriber that we did not write.

use std::collections::BTreeMap;

use crate::SOON;
use crate::broker::{Access, Arrived, Broker, Subscriber};
use crate::folder::Folder;
use crate::gateway::{Gateway, output};
use crate::json::{member, members};
use crate::memory;
use crate::peers::{Device, needs};

#[test]
fn pymodbus_over_tcp_to_mosquitto() {
    needs!(Pymodbus, Mosquitto, MosquittoSub);
    let device = filled(Device::pymodbus("tcp"), 1);
    assert_values_arrive("pymodbus-tcp", &format!("tcp: 127.0.0.1:{}", device.place), 1, "500ms");
}

#[test]
fn libmodbus_over_tcp_to_mosquitto() {
    needs!(Libmodbus, Mosquitto, MosquittoSub);
    let device = filled(Device::libmodbus(), 1);
    assert_values_arrive("libmodbus-tcp", &format!("tcp: 127.0.0.1:{}", device.place), 1, "500ms");
}

#[test]
fn pymodbus_rtu_over_tcp_to_mosquitto() {
    needs!(Pymodbus, Mosquitto, MosquittoSub);
    let device = filled(Device::pymodbus("rtu-over-tcp"), 9);
    let connection = format!("tcp: 127.0.0.1:{}, framing: rtu", device.place);
    assert_values_arrive("rtu-over-tcp", &connection, 9, "500ms");
}

#[test]
fn read_prints_each_value_once() {
    needs!(Pymodbus);
    let folder = Folder::new("read");
    let device = filled(Device::pymodbus("tcp"), 1);
    let site = site(&folder, &format!("tcp: 127.0.0.1:{}", device.place), 1, "500ms", 1);
    let all = std::fs::read_to_string(&site).unwrap();
    let good = all.replace("profile: test/all,", "profile: test/all, except: [not_available],");
    let good = folder.write("good.yaml", &good);

    let lines = output(&["read", "--json"], &good);
    let stderr = String::from_utf8_lossy(&lines.stderr);
    assert!(lines.status.success(), "{stderr}");
    let mut values = BTreeMap::new();
    for line in String::from_utf8(lines.stdout).unwrap().lines() {
        collect(line, &mut values);
    }
    assert_eq!(values, memory::expected(1));

    let table = output(&["read"], &site);
    let table = String::from_utf8(table.stdout).unwrap();
    let row = table.lines().find(|line| line.contains(" tenths ")).unwrap_or_else(|| panic!("{table}"));
    assert!(row.contains("230.4") && row.contains('V') && row.contains("all"), "{row}");
    let row = table.lines().find(|line| line.contains("not_available")).unwrap_or_else(|| panic!("{table}"));
    assert!(row.contains("invalid"), "{row}");
}

/// Gives the device the words of all cases.
pub fn filled(mut device: Device, unit: u8) -> Device {
    memory::fill(&mut device, unit);
    device
}

/// Runs a gateway on `connection` until every point of the profile has arrived twice, each time exact.
pub fn assert_values_arrive(name: &str, connection: &str, unit: u8, every: &str) {
    let folder = Folder::new(name);
    let broker = Broker::open(&folder);
    let mut subscriber = Subscriber::new(&broker, &Access::default());
    let gateway = Gateway::run(&site(&folder, connection, unit, every, broker.port));
    for _ in 0..2 {
        assert_all_values(&mut subscriber, unit);
    }
    let not_available =
        |arrived: &Arrived| member(member(&arrived.payload, "bad")?, "not_available").map(str::to_owned);
    assert_eq!(subscriber.message_where("bad value", not_available), "\"invalid\"");
    gateway.end();
}

/// Takes messages until every point was seen; the first wrong one fails.
pub fn assert_all_values(subscriber: &mut Subscriber, unit: u8) {
    let expected = memory::expected(unit);
    let mut values = BTreeMap::new();
    while values.len() < expected.len() {
        let payload = subscriber.message_within(SOON, "message with values", |arrived| {
            (arrived.topic == "taktbus/test/all").then(|| arrived.payload.clone())
        });
        collect(&payload, &mut values);
        for (point, value) in &values {
            assert_eq!(Some(value), expected.get(point), "{point}");
        }
    }
}

/// The values of a message, by point.
pub fn collect(message: &str, values: &mut BTreeMap<String, String>) {
    if let Some(object) = member(message, "values") {
        values.extend(members(object).map(|(point, value)| (point.to_owned(), value.to_owned())));
    }
}

/// One device `all` with the profile of all cases.
pub fn site(folder: &Folder, connection: &str, unit: u8, every: &str, broker: u16) -> std::path::PathBuf {
    folder.write("mappings/test/all.yaml", &memory::profile());
    let text = format!(
        "site: test\n\
         connections:\n  peer: {{{connection}}}\n\
         devices:\n  all: {{via: peer, unit_id: {unit}, profile: test/all, every: {every}, budget: 2s}}\n\
         publish:\n  local: {{mqtt: mqtt://127.0.0.1:{broker}}}\n"
    );
    folder.write("site.yaml", &text)
}
