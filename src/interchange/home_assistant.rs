//! Home Assistant's `modbus:` (YAML) → a site: sensors, binary sensors and switches (documentation of its integration
//! "Modbus", and homeassistant/components/modbus).

use std::time::Duration;

use super::draft::{Draft, Spot};
use super::names;
use super::note::{Note, Notes};
use super::site::{SiteDraft, place};
use super::table::Imported;
use super::tree::{NoTree, Tree};
use super::types::{self, TypeCell};
use super::words;
use crate::document::duration::show_duration;
use crate::document::scalar::shortened;
use crate::mapping::compiled::Order;
use crate::mapping::written::{Access, TypeWord};
use crate::model::decimal::Decimal;
use crate::model::place::Table;

/// The integration's default of `scan_interval`.
const INTERVAL: Duration = Duration::from_secs(15);

/// Longest interval: that of a site file.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// What is read of a hub; the last three tell how the integration itself goes about it.
const HUB: [&str; 17] = [
    "name",
    "type",
    "host",
    "port",
    "baudrate",
    "bytesize",
    "method",
    "parity",
    "stopbits",
    "timeout",
    "message_wait_milliseconds",
    "sensors",
    "binary_sensors",
    "switches",
    "delay",
    "close_comm_on_error",
    "retries",
];

/// What is read of an entity; the second half is for its display.
const ENTITY: [&str; 24] = [
    "name",
    "address",
    "slave",
    "device_address",
    "scan_interval",
    "input_type",
    "data_type",
    "count",
    "scale",
    "offset",
    "swap",
    "unit_of_measurement",
    "nan_value",
    "write_type",
    "command_on",
    "command_off",
    "verify",
    "unique_id",
    "device_class",
    "state_class",
    "precision",
    "lazy_error_count",
    "icon",
    "structure",
];

/// Reads a configuration, or what stands below its `modbus:`. `site`: the name of the site; `file`: that of the file.
pub fn import(text: &str, site: &str, file: &str) -> Result<Imported, NoTree> {
    let tree = Tree::of_yaml(text)?;
    let mut import = Import::default();
    let hubs = tree.get("modbus").unwrap_or(&tree).items();
    let hubs: Vec<&Tree> = hubs.iter().filter(|hub| hub.get("type").is_some()).collect();
    if hubs.is_empty() {
        import.notes.push(
            Note::error(None, "there is no modbus: with a type")
                .help("such as modbus: [{name: hub1, type: tcp, …}]"),
        );
    }
    for hub in hubs {
        import.hub(hub);
    }
    Ok(import.site.finish(site, file, import.left_out, import.notes))
}

#[derive(Default)]
struct Import {
    site: SiteDraft,
    notes: Notes,
    left_out: usize,
}

/// The kinds of entities that become points.
#[derive(Clone, Copy, PartialEq)]
enum Entity {
    Sensor,
    BinarySensor,
    Switch,
}

impl Import {
    fn hub(&mut self, hub: &Tree) {
        let others = ["climates", "covers", "fans", "lights"];
        for key in others {
            for entity in hub.list(key) {
                self.leave_out(Note::error(
                    entity.line,
                    format!("{key} are not carried over: '{}'", shortened(entity.text("name"))),
                ));
            }
        }
        hub.note_others(&[&HUB[..], &others[..]].concat(), &mut self.notes);
        let via = match self.connection(hub) {
            Ok(via) => via,
            Err(note) => {
                self.left_out += ["sensors", "binary_sensors", "switches"]
                    .iter()
                    .map(|key| hub.list(key).len())
                    .sum::<usize>();
                return self.notes.push(note);
            }
        };
        for (key, kind) in [
            ("sensors", Entity::Sensor),
            ("binary_sensors", Entity::BinarySensor),
            ("switches", Entity::Switch),
        ] {
            for entity in hub.list(key) {
                self.entity(entity, kind, hub.text("name"), &via);
            }
        }
    }

    fn leave_out(&mut self, note: Note) {
        self.left_out += 1;
        self.notes.push(note);
    }

    fn connection(&mut self, hub: &Tree) -> Result<String, Note> {
        let mut keys = Vec::new();
        let port = hub.text("port");
        match hub.text("type") {
            kind @ ("tcp" | "rtuovertcp") => {
                let port = if port.is_empty() { "502" } else { port };
                keys.push(("tcp", place(&format!("{}:{port}", hub.text("host")))));
                if kind == "rtuovertcp" {
                    keys.push(("framing", "rtu".into()));
                }
            }
            "serial" if hub.text("method") != "ascii" => {
                keys.push(("rtu", place(port)));
                keys.push(("baud", hub.number::<u32>("baudrate")?.unwrap_or(19_200).to_string()));
                let (data, stop) = (hub.number::<u8>("bytesize")?, hub.number::<u8>("stopbits")?);
                let parity = hub.text("parity").chars().next().unwrap_or('E');
                keys.push(("format", format!("{}{parity}{}", data.unwrap_or(8), stop.unwrap_or(1))));
            }
            other => {
                let message =
                    format!("a connection of the type '{}' is not supported: left out", shortened(other));
                return Err(Note::error(hub.line, message).help("one of: tcp, rtuovertcp, serial (RTU)"));
            }
        }
        if let Some(timeout) = hub.number::<u64>("timeout")?.filter(|seconds| (1..=60).contains(seconds)) {
            keys.push(("response_timeout", format!("{timeout}s")));
        }
        if let Some(wait) = hub.number::<u64>("message_wait_milliseconds")?.filter(|ms| *ms > 0) {
            keys.push(("delay_between_requests", show_duration(Duration::from_millis(wait))));
        }
        Ok(self.site.connection(hub.text("name"), keys))
    }

    fn entity(&mut self, entity: &Tree, kind: Entity, hub: &str, via: &str) {
        entity.note_others(&ENTITY, &mut self.notes);
        match self.draft(entity, kind) {
            Ok((draft, unit_id, every)) => {
                let name = format!("{}_{unit_id}", names::slug(hub));
                match self.site.device(name.trim_start_matches('_'), via, unit_id, every) {
                    Some(device) => device.add(draft, every),
                    None => self.leave_out(Note::error(entity.line, "more devices than a site is made with")),
                }
            }
            Err(note) => self.leave_out(note),
        }
    }

    fn draft(&mut self, entity: &Tree, kind: Entity) -> Result<(Draft, u8, Duration), Note> {
        let unit_id = self.unit_id(entity)?;
        let seconds = entity.number::<u64>("scan_interval")?.map(Duration::from_secs);
        let every = seconds.filter(|every| !every.is_zero() && *every <= LONGEST);
        if seconds.is_some() && every.is_none() {
            let message =
                format!("scan_interval {}: read every 15s", shortened(entity.text("scan_interval")));
            self.notes.push(Note::warning(entity.line, message));
        }
        let Some(address) = entity.number::<u16>("address")? else {
            return Err(Note::error(entity.line, "no address"));
        };
        let table = table(entity, kind)?;
        let name = names::slug(entity.text("name"));
        let name = if name.is_empty() { format!("{}_{address}", table.key()) } else { name };
        let spot = Spot::Register(table, address);
        let draft = match kind {
            _ if table.is_bits() => Draft::new(entity.line, name, spot, None),
            // The integration looks at the lowest bit.
            Entity::BinarySensor => {
                let kind = TypeCell { bit: Some(0), ..TypeCell::plain(TypeWord::Bool) };
                Draft::new(entity.line, name, spot, Some(kind))
            }
            Entity::Switch => Draft::new(entity.line, name, spot, Some(TypeCell::plain(TypeWord::Uint16))),
            Entity::Sensor => sensor(entity, name, spot)?,
        };
        let draft = if kind == Entity::Switch { self.switch(entity, draft)? } else { draft };
        Ok((draft, unit_id, every.unwrap_or(INTERVAL)))
    }

    fn unit_id(&mut self, entity: &Tree) -> Result<u8, Note> {
        let given = entity.number::<u8>("slave")?.or(entity.number::<u8>("device_address")?);
        match given.filter(|unit_id| *unit_id > 0) {
            Some(unit_id) => Ok(unit_id),
            None => {
                let message =
                    format!("'{}' names no slave: unit id 1 is taken", shortened(entity.text("name")));
                self.notes.push(Note::warning(entity.line, message));
                Ok(1)
            }
        }
    }

    /// A switch is a coil or a register, read back and written.
    fn switch(&mut self, entity: &Tree, draft: Draft) -> Result<Draft, Note> {
        let own = |tree: &Tree| tree.get("address").is_some() || tree.get("input_type").is_some();
        if entity.get("verify").is_some_and(own) {
            let message =
                "verify at another place is not carried over: the switch is read where it is written";
            self.notes.push(Note::warning(entity.line, message));
        }
        let mut draft = Draft { access: Access::ReadWrite, ..draft };
        if draft.kind.is_some() {
            let on = entity.number::<u16>("command_on")?.unwrap_or(1);
            let off = entity.number::<u16>("command_off")?.unwrap_or(0);
            draft.labels = vec![(off.into(), "off".into()), (on.into(), "on".into())];
        }
        Ok(draft)
    }
}

/// The table of an entity; the default differs by its kind.
fn table(entity: &Tree, kind: Entity) -> Result<Table, Note> {
    let (key, default) = match kind {
        Entity::Sensor => ("input_type", Table::Holding),
        Entity::BinarySensor => ("input_type", Table::Coil),
        Entity::Switch => ("write_type", Table::Holding),
    };
    match entity.text(key) {
        "" => Ok(default),
        "holding" | "holdings" => Ok(Table::Holding),
        "input" => Ok(Table::Input),
        "coil" | "coils" => Ok(Table::Coil),
        "discrete_input" => Ok(Table::Discrete),
        other => Err(Note::error(entity.line, format!("{key} '{}' is not known", shortened(other)))),
    }
}

fn sensor(entity: &Tree, name: String, spot: Spot) -> Result<Draft, Note> {
    let count = entity.number::<u16>("count")?;
    let text = match entity.text("data_type") {
        "" => "int16",
        "custom" => {
            let message = format!(
                "data_type custom (structure '{}') is not carried over",
                shortened(entity.text("structure"))
            );
            return Err(
                Note::error(entity.line, message).help("write a point for each value of the structure")
            );
        }
        text => text,
    };
    let kind = types::kind(text, count)
        .map_err(|no| Note::error(entity.line, format!("data_type: {}", no.message)))?;
    for key in ["slave_count", "virtual_count"] {
        if entity.number::<u16>(key)?.is_some_and(|count| count > 0) {
            return Err(Note::error(
                entity.line,
                format!("{key}: several values in one sensor are not carried over"),
            ));
        }
    }
    let mut draft = Draft::new(entity.line, name, spot, Some(kind));
    draft.order = match entity.text("swap") {
        "" | "none" => None,
        "byte" => Some(Order::Badc),
        "word" => Some(Order::Cdab),
        "word_byte" => Some(Order::Dcba),
        other => return Err(Note::error(entity.line, format!("swap '{}' is not known", shortened(other)))),
    };
    if draft.is_number() {
        draft.scale = entity.decimal("scale")?.filter(|scale| *scale != Decimal::ONE);
        draft.offset = entity.decimal("offset")?.filter(|offset| !offset.is_zero());
        let nan = entity.text("nan_value");
        draft.invalid = words::raws(nan).unwrap_or_default();
    }
    let unit = entity.text("unit_of_measurement");
    draft.unit = (!unit.is_empty()).then(|| words::unit(unit));
    Ok(draft)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LoadOptions, load_text};
    use proptest::prelude::*;

    const CONFIGURATION: &str = "
default_config:
modbus:
  - name: Heat pump
    type: tcp
    host: 192.168.1.7
    port: 1502
    timeout: 5
    sensors:
      - name: Flow temperature
        slave: 3
        address: 10
        input_type: input
        data_type: int16
        scale: 0.1
        unit_of_measurement: \"°C\"
        nan_value: 0x8000
        device_class: temperature
      - {name: Energy, slave: 3, address: 20, data_type: uint32, swap: word, scan_interval: 60, min_value: 0}
      - {name: Model, slave: 3, address: 30, data_type: string, count: 8}
      - {name: Odd, slave: 3, address: 40, data_type: custom, structure: '>ll', count: 4}
    binary_sensors:
      - {name: Alarm, slave: 3, address: 5, input_type: discrete_input}
      - {name: Running, slave: 3, address: 6, input_type: holding}
    switches:
      - {name: Pump, slave: 3, address: 7, write_type: coil}
      - {name: Mode, address: 8, command_on: 2, verify: {}}
    climates:
      - {name: Room, address: 1}
  - {name: old, type: udp, host: a, port: 1, sensors: [{name: x, address: 1}]}
";

    #[test]
    fn sensors_binary_sensors_and_switches_become_points() {
        let imported = import(CONFIGURATION, "home", "configuration.yaml").unwrap();
        let loaded = load_text("t", &imported.yaml, &LoadOptions::default());
        assert!(loaded.is_sound(), "{}\n{:?}", imported.yaml, loaded.diagnostics);
        let (_, devices) = imported.yaml.split_once("connections:\n").unwrap();
        let expected = "  heat_pump: {tcp: 192.168.1.7:1502, response_timeout: 5s}
devices:
  heat_pump_3:
    via: heat_pump
    unit_id: 3
    every: {default: 15s, every_1m: 1m}
    points:
      flow_temperature: {input: 10,   type: int16, scale: 0.1, unit: °C, invalid: 0x8000}
      energy:           {holding: 20, type: uint32, order: CDAB, rate: every_1m}
      model:            {holding: 30, type: string, length: 8}
      alarm:            {discrete: 5}
      running:          {holding: 6,  bit: 0}
      pump:             {coil: 7,     access: rw}
  heat_pump_1:
    via: heat_pump
    unit_id: 1
    every: 15s
    points:
      mode: {holding: 8, type: uint16, enum: {0: 'off', 2: 'on'}, access: rw}
";
        assert!(devices.starts_with(expected), "{devices}");
        assert_eq!((imported.points, imported.left_out), (7, 3));
        let notes: Vec<String> = imported.notes.iter().map(|note| note.show("t").to_string()).collect();
        let says = |text: &str| assert!(notes.iter().any(|note| note.contains(text)), "{text}: {notes:?}");
        says("data_type custom (structure '>ll') is not carried over");
        says("climates are not carried over: 'Room'");
        says("type 'udp' is not supported");
        says("not carried over: min_value");
        says("'Mode' names no slave: unit id 1 is taken");
    }

    #[test]
    fn the_part_below_modbus_is_enough_and_what_is_none_is_said() {
        let part = "- {name: h, type: serial, port: /dev/ttyS0, baudrate: 9600, parity: N, sensors: [{name: a, slave: 2, address: 1}]}\n";
        let imported = import(part, "home", "f").unwrap();
        assert!(imported.yaml.contains("h: {rtu: /dev/ttyS0, baud: 9600, format: 8N1}"), "{}", imported.yaml);
        assert!(imported.yaml.contains("a: {holding: 1, type: int16}"));
        assert_eq!(import("light: []\n", "home", "f").unwrap().points, 0);
        assert!(import("modbus: !include modbus.yaml\n", "home", "f").is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_imported_passes_check_and_is_accounted_for(
            entities in prop::collection::vec(("[a-c]", "[0-9]{1,5}|x", "[0-9]{1,3}", "u?int(16|32|64)|float32|string|custom|y", "none|word|byte|word_byte|z", "[0-9]{0,3}|-1"), 0..8),
            kind in "sensors|binary_sensors|switches",
            hub in "tcp|rtuovertcp|serial|udp",
        ) {
            let entities: String = entities.iter().map(|(name, address, slave, kind, swap, number)| format!(
                "      - {{name: {name}, address: {address}, slave: {slave}, data_type: {kind}, swap: {swap}, count: {number}, scan_interval: {number}, scale: {number}, write_type: coil}}\n"
            )).collect();
            let text = format!("modbus:\n  - name: h\n    type: {hub}\n    host: a.example\n    port: /dev/ttyS0\n    {kind}:\n{entities}");
            let text = if hub == "serial" { text } else { text.replace("/dev/ttyS0", "502") };
            if let Ok(imported) = import(&text, "a", "f")
                && imported.points > 0
            {
                let loaded = load_text("t", &imported.yaml, &LoadOptions::default());
                let told = imported.notes.iter().any(|note| note.message.starts_with("check says"));
                prop_assert!(loaded.is_sound() || told, "{}\n{:?}", imported.yaml, loaded.diagnostics);
            }
        }
    }
}
