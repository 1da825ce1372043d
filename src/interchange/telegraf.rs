//! Telegraf's `inputs.modbus` (TOML) → a site: the styles `register`, `request` and `metric` of its plugin (README of
//! plugins/inputs/modbus).

use std::time::Duration;

use super::draft::{Draft, Spot};
use super::names;
use super::note::{Note, Notes};
use super::orders;
use super::site::{SiteDraft, place};
use super::table::Imported;
use super::tree::{NoTree, Tree};
use super::types::{self, TypeCell};
use crate::document::duration::parse_duration;
use crate::document::scalar::shortened;
use crate::mapping::compiled::Order;
use crate::mapping::written::{ByteWord, TypeWord};
use crate::model::decimal::Decimal;
use crate::model::place::Table;

/// Telegraf's own default interval.
const INTERVAL: Duration = Duration::from_secs(10);

/// What is read of a plugin's section.
const KNOWN: [&str; 20] = [
    "name",
    "slave_id",
    "timeout",
    "controller",
    "baud_rate",
    "data_bits",
    "parity",
    "stop_bits",
    "transmission_mode",
    "configuration_type",
    "discrete_inputs",
    "coils",
    "holding_registers",
    "input_registers",
    "request",
    "metric",
    "interval",
    "workarounds",
    "debug_connection",
    "name_override",
]; // the last two change no value

/// Reads a configuration. `site`: the name of the site; `file`: that of the file.
pub fn import(text: &str, site: &str, file: &str) -> Result<Imported, NoTree> {
    let tree = Tree::of_toml(text)?;
    let mut import = Import::default();
    let plugins = tree.get("inputs").map_or(&[][..], |inputs| inputs.list("modbus"));
    if plugins.is_empty() {
        import.notes.push(Note::error(None, "there is no [[inputs.modbus]]"));
    }
    let agent = tree.get("agent");
    agent.inspect(|agent| agent.note_others(&["interval"], &mut import.notes));
    let interval = agent.map_or("", |agent| agent.text("interval"));
    let interval = parse_duration(interval).unwrap_or(INTERVAL);
    for plugin in plugins {
        import.plugin(plugin, interval);
    }
    let others: Vec<String> = tree
        .entries()
        .iter()
        .map(|(key, _)| shortened(key))
        .filter(|key| !["agent", "inputs"].contains(&key.as_str()))
        .collect();
    if !others.is_empty() {
        import.notes.push(Note::warning(None, format!("not carried over: [{}]", others.join("], ["))));
    }
    Ok(import.site.finish(site, file, import.left_out, import.notes))
}

#[derive(Default)]
struct Import {
    site: SiteDraft,
    notes: Notes,
    left_out: usize,
}

/// What holds for the fields of a request.
#[derive(Clone, Copy)]
struct Request<'t> {
    via: &'t str,
    device: &'t str,
    every: Duration,
    unit_id: u8,
    table: Table,
    order: Order,
    /// The style whose types mean fixed-point numbers.
    is_register_style: bool,
}

impl Import {
    fn plugin(&mut self, plugin: &Tree, interval: Duration) {
        plugin.note_others(&KNOWN, &mut self.notes);
        let via = match self.connection(plugin) {
            Ok(via) => via,
            Err(note) => {
                self.left_out += fields(plugin);
                return self.notes.push(note);
            }
        };
        let own = plugin.text("interval");
        let every = match parse_duration(own) {
            None if !own.is_empty() => {
                self.notes.push(Note::warning(
                    plugin.line,
                    format!("interval '{}' is read as 10s", shortened(own)),
                ));
                interval
            }
            own => own.unwrap_or(interval),
        };
        let device = plugin.text("name");
        let request = Request {
            via: &via,
            device,
            every,
            unit_id: 1,
            table: Table::Holding,
            order: Order::Abcd,
            is_register_style: false,
        };
        match plugin.text("configuration_type") {
            "request" => plugin.list("request").iter().for_each(|tree| self.request(tree, request)),
            "metric" => plugin.list("metric").iter().for_each(|tree| self.request(tree, request)),
            _ => self.registers(plugin, request),
        }
    }

    fn connection(&mut self, plugin: &Tree) -> Result<String, Note> {
        let controller = plugin.text("controller");
        let mode = plugin.text("transmission_mode").to_lowercase();
        if mode.starts_with("ascii") {
            return Err(Note::error(plugin.line, "Modbus ASCII is not supported: left out"));
        }
        let mut keys = Vec::new();
        if let Some(address) = controller.strip_prefix("tcp://") {
            keys.push(("tcp", place(address)));
            if mode == "rtuovertcp" {
                keys.push(("framing", "rtu".into()));
            }
        } else if let Some(port) = controller.strip_prefix("file://") {
            keys.push(("rtu", place(port)));
            keys.push(("baud", plugin.number::<u32>("baud_rate")?.unwrap_or(9_600).to_string()));
            let parity = plugin.text("parity").chars().next().unwrap_or('N').to_ascii_uppercase();
            let (data, stop) = (plugin.number::<u8>("data_bits")?, plugin.number::<u8>("stop_bits")?);
            keys.push(("format", format!("{}{parity}{}", data.unwrap_or(8), stop.unwrap_or(1))));
        } else {
            let message =
                format!("the controller '{}' is neither tcp:// nor file://: left out", shortened(controller));
            return Err(Note::error(plugin.line, message));
        }
        let none = Tree { line: 0, kind: super::tree::TreeKind::Map(Vec::new()) };
        let workarounds = plugin.get("workarounds").unwrap_or(&none);
        for (tree, key, ours) in [
            (plugin, "timeout", "response_timeout"),
            (workarounds, "pause_after_connect", "delay_after_connect"),
            (workarounds, "pause_between_requests", "delay_between_requests"),
        ] {
            if let Some(duration) = parse_duration(tree.text(key)) {
                keys.push((ours, crate::document::duration::show_duration(duration)));
            }
        }
        workarounds.note_others(&["pause_after_connect", "pause_between_requests"], &mut self.notes);
        let last = controller.rsplit('/').next().unwrap_or("");
        Ok(self.site.connection(last.split(':').next().unwrap_or(""), keys))
    }

    /// The style with one list per table.
    fn registers(&mut self, plugin: &Tree, request: Request<'_>) {
        let unit_id = match plugin.number::<u8>("slave_id") {
            Ok(unit_id) => unit_id.unwrap_or(1),
            Err(note) => {
                self.left_out += fields(plugin);
                return self.notes.push(note);
            }
        };
        for (key, table) in [
            ("coils", Table::Coil),
            ("discrete_inputs", Table::Discrete),
            ("input_registers", Table::Input),
            ("holding_registers", Table::Holding),
        ] {
            let request = Request { unit_id, table, is_register_style: true, ..request };
            plugin.list(key).iter().for_each(|field| self.field(field, request));
        }
    }

    /// A request of the style `request`, or a metric of the style `metric`.
    fn request(&mut self, tree: &Tree, request: Request<'_>) {
        const KNOWN: [&str; 8] = [
            "slave_id",
            "byte_order",
            "register",
            "fields",
            "measurement",
            "optimization",
            "optimization_max_register_fill",
            "tags",
        ];
        tree.note_others(&KNOWN, &mut self.notes);
        if tree.get("tags").is_some() {
            self.notes.push(Note::warning(tree.line, "not carried over: tags"));
        }
        let unit_id = match tree.number::<u8>("slave_id") {
            Ok(unit_id) => unit_id.unwrap_or(1),
            Err(note) => {
                self.left_out += tree.list("fields").len();
                return self.notes.push(note);
            }
        };
        let order = orders::order(tree.text("byte_order")).unwrap_or_default();
        let request = Request { unit_id, order, table: table(tree.text("register")), ..request };
        for field in tree.list("fields") {
            let table = field.get("register").and_then(Tree::as_text).map_or(request.table, table);
            self.field(field, Request { table, ..request });
        }
    }

    fn field(&mut self, field: &Tree, request: Request<'_>) {
        // It fills a gap of a request; the planner finds those itself.
        if field.flag("omit") {
            return;
        }
        const KNOWN: [&str; 11] = [
            "name",
            "address",
            "byte_order",
            "data_type",
            "type",
            "scale",
            "omit",
            "register",
            "bit",
            "length",
            "output",
        ];
        field.note_others(&KNOWN, &mut self.notes);
        match draft(field, request) {
            Ok(draft) => {
                match self.site.device(request.device, request.via, request.unit_id, request.every) {
                    Some(device) => device.add(draft, request.every),
                    None => self.left_out += 1,
                }
            }
            Err(note) => {
                self.left_out += 1;
                self.notes.push(note);
            }
        }
    }
}

fn draft(field: &Tree, request: Request<'_>) -> Result<Draft, Note> {
    let addresses = field.list("address");
    let registers: Option<Vec<u16>> = addresses.iter().map(|one| one.as_text()?.parse().ok()).collect();
    let registers = registers.filter(|registers| !registers.is_empty());
    let Some(registers) = registers else {
        return Err(Note::error(field.line, "no address from 0 to 65535"));
    };
    if registers.windows(2).any(|pair| u32::from(pair[0]) + 1 != u32::from(pair[1])) {
        let help = "write the point by hand: holding: [690, 625], the high word first";
        return Err(Note::error(field.line, "registers that are not next to each other").help(help));
    }
    let name = names::slug(field.text("name"));
    let name = if name.is_empty() { format!("{}_{}", request.table.key(), registers[0]) } else { name };
    let spot = Spot::Register(request.table, registers[0]);
    if request.table.is_bits() {
        return Ok(Draft::new(field.line, name, spot, None));
    }
    let count = (addresses.len() > 1 || request.is_register_style).then_some(registers.len() as u16);
    let mut draft = Draft::new(field.line, name, spot, Some(kind(field, count, request)?));
    draft.order =
        match field.text("byte_order") {
            "" => Some(request.order),
            text => Some(orders::order(text).ok_or_else(|| {
                Note::error(field.line, format!("unknown byte_order '{}'", shortened(text)))
            })?),
        };
    let scale = field.decimal("scale")?.filter(|scale| *scale != Decimal::ONE && draft.is_number());
    // Telegraf takes a scale of 0 for none.
    draft.scale = scale.filter(|scale| !scale.is_zero());
    Ok(draft)
}

/// The type of a field.
fn kind(field: &Tree, count: Option<u16>, request: Request<'_>) -> Result<TypeCell, Note> {
    let key = if request.is_register_style { "data_type" } else { "type" };
    let text = field.text(key).to_uppercase();
    let integer = |signed: bool| match (count, signed) {
        (Some(4), true) => Some(TypeWord::Int64),
        (Some(2), true) => Some(TypeWord::Int32),
        (Some(1), true) => Some(TypeWord::Int16),
        (Some(4), false) => Some(TypeWord::Uint64),
        (Some(2), false) => Some(TypeWord::Uint32),
        (Some(1), false) => Some(TypeWord::Uint16),
        _ => None,
    };
    let fixed = match text.as_str() {
        "FIXED" => integer(true),
        // Deprecated, and no float: an unsigned number with a scale.
        "UFIXED" | "FLOAT32" if request.is_register_style => integer(false),
        _ => None,
    };
    if let Some(kind) = fixed {
        return Ok(TypeCell::plain(kind));
    }
    let halves = [
        ("INT8L", TypeWord::Int8, ByteWord::Low),
        ("INT8H", TypeWord::Int8, ByteWord::High),
        ("UINT8L", TypeWord::Uint8, ByteWord::Low),
        ("UINT8H", TypeWord::Uint8, ByteWord::High),
    ];
    if let Some((_, kind, byte)) = halves.into_iter().find(|(word, ..)| *word == text) {
        return Ok(TypeCell { byte: Some(byte), ..TypeCell::plain(kind) });
    }
    if text == "BIT" {
        let bit = field.number::<u8>("bit")?.unwrap_or(0);
        return Ok(TypeCell { bit: Some(bit), ..TypeCell::plain(TypeWord::Bool) });
    }
    let count = if text == "STRING" { field.number::<u16>("length")?.or(count) } else { count };
    types::kind(&text.replace("-IEEE", ""), count)
        .map_err(|no| Note::error(field.line, format!("{key}: {}", no.message)))
}

/// The table of a request; holding registers where none is said.
fn table(text: &str) -> Table {
    match text {
        "coil" => Table::Coil,
        "discrete" => Table::Discrete,
        "input" => Table::Input,
        _ => Table::Holding,
    }
}

/// How many fields a plugin has.
fn fields(plugin: &Tree) -> usize {
    let lists = ["coils", "discrete_inputs", "input_registers", "holding_registers"];
    let own: usize = lists.iter().map(|key| plugin.list(key).len()).sum();
    let requests = plugin.list("request").iter().chain(plugin.list("metric"));
    own + requests.map(|request| request.list("fields").len()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LoadOptions, load_text};
    use proptest::prelude::*;

    pub fn checked(imported: &Imported) {
        let loaded = load_text("t", &imported.yaml, &LoadOptions::default());
        assert!(loaded.is_sound(), "{}\n{:?}", imported.yaml, loaded.diagnostics);
    }

    #[test]
    fn both_styles_become_devices_of_a_site() {
        let text = r#"
[agent]
  interval = "5s"
[[inputs.modbus]]
  name = "Boiler room"
  slave_id = 7
  timeout = "1s"
  controller = "tcp://10.0.0.5:502"
  configuration_type = "register"
  coils = [ { name = "pump", address = [3]} ]
  holding_registers = [
    { name = "Voltage", byte_order = "AB", data_type = "UFIXED", scale=0.1, address = [0]},
    { name = "energy", byte_order = "CDAB", data_type = "FLOAT32", scale=0.01, address = [5,6]},
    { name = "power", byte_order = "ABCD", data_type = "FLOAT32-IEEE", scale=1.0, address = [8,9]},
    { name = "split", byte_order = "ABCD", data_type = "INT32", address = [20,12]},
  ]
[[inputs.modbus]]
  name = "line"
  interval = "30s"
  controller = "file:///dev/ttyS0"
  baud_rate = 19200
  parity = "E"
  configuration_type = "request"
  [[inputs.modbus.request]]
    slave_id = 1
    byte_order = "DCBA"
    register = "input"
    fields = [
      { address=0, name="rpm", type="INT16" },
      { address=1, name="gap", type="INT16", omit=true },
      { address=2, name="force", type="FLOAT32", scale=0.5, measurement="x" },
      { address=4, name="bad", type="FLOAT31" },
    ]
  [[inputs.modbus.request]]
    slave_id = 2
    register = "coil"
    fields = [ { address=9, name="run" } ]
[[outputs.influxdb]]
  urls = ["http://localhost"]
"#;
        let imported = import(text, "plant", "telegraf.conf").unwrap();
        checked(&imported);
        let expected = "\
# From telegraf.conf, by taktbus import. Compare it with the manuals and with the devices before you rely on it.
site: plant
connections:
  lan_10_0_0_5: {tcp: 10.0.0.5:502, response_timeout: 1s}
  ttys0: {rtu: /dev/ttyS0, baud: 19200, format: 8E1}
devices:
  boiler_room:
    via: lan_10_0_0_5
    unit_id: 7
    every: 5s
    points:
      pump:    {coil: 3}
      voltage: {holding: 0, type: uint16, scale: 0.1}
      energy:  {holding: 5, type: uint32, order: CDAB, scale: 0.01}
      power:   {holding: 8, type: float32}
  line:
    via: ttys0
    unit_id: 1
    every: 30s
    points:
      rpm:   {input: 0, type: int16, order: DCBA}
      force: {input: 2, type: float32, order: DCBA, scale: 0.5}
  line_2:
    via: ttys0
    unit_id: 2
    every: 30s
    points:
      run: {coil: 9}
publish:
  cloud: {mqtt: mqtt://localhost:1883}   # the way north is not carried over: name your broker
";
        assert_eq!(imported.yaml, expected);
        assert_eq!((imported.points, imported.left_out), (7, 2));
        let notes: Vec<String> = imported.notes.iter().map(|note| note.show("t").to_string()).collect();
        assert!(notes[0].contains("not carried over: [outputs]"), "{notes:?}");
        assert!(notes[1].starts_with("t:15: error: registers that are not next to each other"), "{notes:?}");
        assert!(notes.iter().any(|note| note.contains("not carried over: measurement")), "{notes:?}");
        assert!(notes.iter().any(|note| note.contains("unknown type 'FLOAT31'")), "{notes:?}");
    }

    #[test]
    fn what_is_no_modbus_is_said() {
        assert_eq!(import("[agent]\n", "a", "f").unwrap().notes[0].message, "there is no [[inputs.modbus]]");
        assert!(import("a = \n", "a", "f").is_err());
        let ascii = "[[inputs.modbus]]\ncontroller='tcp://a:1'\ntransmission_mode='ASCIIoverTCP'\ncoils=[{name='a',address=[1]}]\n";
        let imported = import(ascii, "a", "f").unwrap();
        assert_eq!((imported.points, imported.left_out), (0, 1));
    }

    proptest! {
        #[test]
        fn whatever_is_imported_passes_check_and_is_accounted_for(
            fields in prop::collection::vec(("[a-c]|\\PC{0,4}", "[0-9]{1,5}|\\[[0-9],[0-9]\\]|'x'", "(U?INT|FLOAT)(16|32|64)|INT8L|BIT|FIXED|\\PC{0,4}", "ABCD|BA|[A-D]{4}|x", "-?[0-9]\\.[0-9]|0|'y'"), 0..8),
            style in "request|metric|register",
            controller in "tcp://10\\.0\\.0\\.1:502|file:///dev/ttyS0|COM1|\\PC{0,5}",
            unit_id in 0u16..300,
        ) {
            let quoted = |text: &str| format!("{text:?}").replace("\\u{", "_").replace('}', "_").replace("\\'", "'");
            let fields: Vec<String> = fields.iter().map(|(name, address, kind, order, scale)| format!(
                "{{ name = {}, address = {address}, type = {}, data_type = {}, byte_order = {order:?}, scale = {scale} }}",
                quoted(name), quoted(kind), quoted(kind),
            )).collect();
            let fields = fields.join(", ");
            let text = format!(
                "[[inputs.modbus]]\ncontroller = {}\nslave_id = {unit_id}\nconfiguration_type = {style:?}\nholding_registers = [{fields}]\n[[inputs.modbus.{style}]]\nslave_id = {unit_id}\nfields = [{fields}]\n",
                quoted(&controller)
            );
            if let Ok(imported) = import(&text, "a", "f") {
                prop_assert!(imported.left_out <= imported.notes.len() * 16);
                if imported.points > 0 {
                    let loaded = load_text("t", &imported.yaml, &LoadOptions::default());
                    let told = imported.notes.iter().any(|note| note.message.starts_with("check says"));
                    prop_assert!(loaded.is_sound() || told, "{}\n{:?}", imported.yaml, loaded.diagnostics);
                }
            }
        }
    }
}
