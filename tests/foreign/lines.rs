//! Modbus RTU on a serial line: pymodbus on one end of a pty pair, the gateway on the other.

use crate::broker::{Access, Broker, Subscriber};
use crate::folder::Folder;
use crate::gateway::Gateway;
use crate::json::member;
use crate::memory::word;
use crate::peers::{Bridge, Device, SerialPair, needs};
use crate::values;

#[test]
fn pymodbus_on_a_serial_line_to_mosquitto() {
    needs!(Pymodbus, Mosquitto, MosquittoSub, Socat);
    let folder = Folder::new("line");
    let line = SerialPair::new(&folder);
    let _device = values::filled(Device::pymodbus_on(&line.theirs, 19200), 7);
    let connection = format!("rtu: {}, baud: 19200, format: 8E1", line.ours.display());
    // All points need 0.65 s of the line at that speed, and the gateway refuses what can't fit.
    values::assert_values_arrive("serial-line", &connection, 7, "1s");
}

#[test]
fn libmodbus_on_a_serial_line_to_mosquitto() {
    needs!(Libmodbus, Mosquitto, MosquittoSub, Socat);
    let folder = Folder::new("libmodbus-line");
    let line = SerialPair::new(&folder);
    let _device = values::filled(Device::libmodbus_on(&line.theirs, 19200), 1);
    let connection = format!("rtu: {}, baud: 19200, format: 8N1", line.ours.display());
    values::assert_values_arrive("libmodbus-serial-line", &connection, 1, "1s");
}

#[test]
fn libmodbus_rtu_over_tcp_to_mosquitto() {
    needs!(Libmodbus, Mosquitto, MosquittoSub, Socat);
    let folder = Folder::new("libmodbus-behind-a-port");
    let line = SerialPair::new(&folder);
    let _device = values::filled(Device::libmodbus_on(&line.theirs, 19200), 1);
    let bridge = Bridge::port_to_line(&line.ours);
    let connection = format!("tcp: 127.0.0.1:{}, framing: rtu, baud: 19200, format: 8N1", bridge.place);
    values::assert_values_arrive("libmodbus-rtu-over-tcp", &connection, 1, "1s");
}

#[test]
fn a_mute_unit_is_offline_and_its_neighbour_is_not() {
    needs!(Pymodbus, Mosquitto, MosquittoSub, Socat);
    let folder = Folder::new("mute-unit");
    let line = SerialPair::new(&folder);
    let mut device = Device::pymodbus_on(&line.theirs, 19200);
    device.tell("mute 2");
    let broker = Broker::open(&folder);
    let mut subscriber = Subscriber::new(&broker, &Access::default());
    let site = format!(
        "site: test\n\
         connections:\n  bus: {{rtu: {}, baud: 19200, format: 8E1}}\n\
         devices:\n  \
           well: {{via: bus, unit_id: 1, every: 200ms, budget: 1s, points: {{speed: {{holding: 5, type: uint16}}}}}}\n  \
           mute: {{via: bus, unit_id: 2, every: 200ms, budget: 1s, points: {{speed: {{holding: 5, type: uint16}}}}}}\n\
         publish:\n  local: {{mqtt: mqtt://127.0.0.1:{}}}\n",
        line.ours.display(),
        broker.port
    );
    let gateway = Gateway::run(&folder.write("site.yaml", &site));

    subscriber.message_where("offline status of the mute unit", |arrived| {
        let offline = member(&arrived.payload, "state") == Some("\"offline\"");
        (arrived.topic == "taktbus/test/mute/status" && offline).then_some(())
    });
    // From here on every message of the neighbour is whole: the mute unit costs it no value.
    for _ in 0..20 {
        let payload = subscriber.message_where("value of the neighbour", |arrived| {
            (arrived.topic == "taktbus/test/well").then(|| arrived.payload.clone())
        });
        let speed = member(&payload, "values").and_then(|values| member(values, "speed")).map(str::to_owned);
        assert_eq!(speed, Some(word(3, 1, 5).to_string()), "{payload}");
    }
    device.tell("unmute 2");
    let speed = subscriber.message_where("value of the unit that speaks again", |arrived| {
        (arrived.topic == "taktbus/test/mute").then_some(())?;
        member(member(&arrived.payload, "values")?, "speed").map(str::to_owned)
    });
    assert_eq!(speed, word(3, 2, 5).to_string());
    gateway.end();
}
