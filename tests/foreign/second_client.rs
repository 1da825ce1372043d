//! mbpoll, a Modbus client that we did not write, and `taktbus read` read the same foreign server: they agree on every value.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tokio::time::Instant;

use crate::folder::Folder;
use crate::gateway::{output, taktbus};
use crate::json::{member, members};
use crate::peers::{Bridge, Device, Peer, SerialPair, needs};
use crate::process::Process;

/// The unit that everybody here is.
const UNIT: u8 = 1;

/// How long each client is asked again when a stalled machine made it miss an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// mbpoll's `-o`, in seconds, and our `response_timeout`: the most that mbpoll allows.
const TIMEOUT: &str = "10";

/// Values of one kind, read by both.
struct Kind {
    /// mbpoll's arguments.
    theirs: &'static [&'static str],
    /// The key of the table, and what else a point of ours says.
    table: &'static str,
    point: &'static str,
    /// Addresses from one value to the next.
    step: u16,
}

const fn kind(theirs: &'static [&'static str], table: &'static str, point: &'static str, step: u16) -> Kind {
    Kind { theirs, table, point, step }
}

impl Kind {
    fn is_float(&self) -> bool {
        self.point.contains("float")
    }
}

/// All tables and types that mbpoll knows; its 32 bits have the low word first unless it's told `-B`.
const KINDS: [Kind; 12] = [
    kind(&["-t", "0"], "coil", "", 1),
    kind(&["-t", "1"], "discrete", "", 1),
    kind(&["-t", "3"], "input", ", type: uint16", 1),
    kind(&["-t", "4"], "holding", ", type: uint16", 1),
    kind(&["-t", "3:hex"], "input", ", type: uint16", 1),
    kind(&["-t", "4:hex"], "holding", ", type: uint16", 1),
    kind(&["-t", "3:int"], "input", ", type: int32, order: CDAB", 2),
    kind(&["-t", "3:int", "-B"], "input", ", type: int32", 2),
    kind(&["-t", "4:int", "-B"], "holding", ", type: int32", 2),
    kind(&["-t", "3:float"], "input", ", type: float32, order: CDAB", 2),
    kind(&["-t", "4:float"], "holding", ", type: float32, order: CDAB", 2),
    kind(&["-t", "4:float", "-B"], "holding", ", type: float32", 2),
];

/// Nobody overrides these: each holds its own number.
const FIRST: u16 = 200;

/// Values of each kind.
const COUNT: u16 = 24;

#[test]
fn libmodbus_over_tcp_gives_both_the_same() {
    needs!(Libmodbus, Mbpoll);
    let device = Device::libmodbus();
    assert_both_agree("libmodbus-tcp", &tcp(&device), &over_tcp(&device));
}

#[test]
fn pymodbus_over_tcp_gives_both_the_same() {
    needs!(Pymodbus, Mbpoll);
    let device = Device::pymodbus("tcp");
    assert_both_agree("pymodbus-tcp", &tcp(&device), &over_tcp(&device));
}

#[test]
fn libmodbus_on_a_line_gives_both_the_same() {
    needs!(Libmodbus, Mbpoll, Socat);
    let folder = Folder::new("mbpoll-libmodbus-line");
    let line = SerialPair::new(&folder);
    let _device = Device::libmodbus_on(&line.theirs, 19200);
    assert_both_agree("libmodbus-line", &rtu(&line.ours), &on_line(&line.ours));
}

#[test]
fn pymodbus_on_a_line_gives_both_the_same() {
    needs!(Pymodbus, Mbpoll, Socat);
    let folder = Folder::new("mbpoll-pymodbus-line");
    let line = SerialPair::new(&folder);
    let _device = Device::pymodbus_on(&line.theirs, 19200);
    assert_both_agree("pymodbus-line", &rtu(&line.ours), &on_line(&line.ours));
}

/// mbpoll knows no RTU over TCP: it gets a line that leads there.
#[test]
fn pymodbus_rtu_over_tcp_gives_both_the_same() {
    needs!(Pymodbus, Mbpoll, Socat);
    let folder = Folder::new("mbpoll-pymodbus-rtu-over-tcp");
    let device = Device::pymodbus("rtu-over-tcp");
    let bridge = Bridge::line_to_port(&folder, &device.place);
    assert_both_agree(
        "pymodbus-rtu-over-tcp",
        &rtu_over_tcp(&device.place),
        &on_line(Path::new(&bridge.place)),
    );
}

/// The same line, once by its terminal and once by a socket.
#[test]
fn libmodbus_rtu_over_tcp_gives_both_the_same() {
    needs!(Libmodbus, Mbpoll, Socat);
    let folder = Folder::new("mbpoll-libmodbus-rtu-over-tcp");
    let line = SerialPair::new(&folder);
    let _device = Device::libmodbus_on(&line.theirs, 19200);
    let theirs = all_of_mbpoll(&on_line(&line.ours));
    let bridge = Bridge::port_to_line(&line.ours);
    assert_same(&all_of_taktbus("libmodbus-rtu-over-tcp", &rtu_over_tcp(&bridge.place)), &theirs);
}

/// `taktbus simulate` as the server: its tables, as a client sees them that knows nothing of us.
#[test]
fn a_simulated_device_over_tcp_gives_both_the_same() {
    needs!(Mbpoll);
    let folder = Folder::new("mbpoll-simulated-tcp");
    let (_simulated, address) = simulated(&folder, "tcp: 192.0.2.1:502");
    let (host, port) = address.split_once(':').unwrap();
    let place = ["-m", "tcp", "-p", port, host].map(str::to_owned);
    assert_both_agree("simulated-tcp", &format!("tcp: {address}"), &place);
}

#[test]
fn a_simulated_device_on_a_line_gives_both_the_same() {
    needs!(Mbpoll);
    let folder = Folder::new("mbpoll-simulated-line");
    let (_simulated, line) = simulated(&folder, "rtu: /dev/ttyS9, baud: 19200, format: 8N1");
    assert_both_agree("simulated-line", &rtu(Path::new(&line)), &on_line(Path::new(&line)));
}

/// A simulated device whose addresses all hold something else, and where it is.
fn simulated(folder: &Folder, connection: &str) -> (Process, String) {
    let cells = |factor: u32, most: u32| {
        let cells = (0..u32::from(COUNT) * 2).map(|at| (at * factor + at / 3) % (most + 1));
        cells.map(|cell| cell.to_string()).collect::<Vec<_>>().join(", ")
    };
    let tables = [("coil", 7, 1), ("discrete", 5, 1), ("input", 1361, 0xFFFF), ("holding", 977, 0xFFFF)];
    let tables =
        tables.map(|(table, factor, most)| format!("{table}: {{{FIRST}: [{}]}}", cells(factor, most)));
    let examples = format!("examples:\n  - registers: {{{}}}\n    expect: {{}}\n", tables.join(", "));
    let site = site(folder, connection, &examples);
    let mut process = Process::start("simulate", taktbus().arg("simulate").arg(site).arg("--still"));
    let address = process.line_where(Duration::from_secs(20), "the table of connections", |line| {
        line.strip_prefix("peer ")?.split_whitespace().next().map(str::to_owned)
    });
    (process, address)
}

fn tcp(device: &Device) -> String {
    format!("tcp: 127.0.0.1:{}", device.place)
}

fn rtu_over_tcp(port: &str) -> String {
    format!("tcp: 127.0.0.1:{port}, framing: rtu")
}

fn rtu(line: &Path) -> String {
    format!("rtu: {}, baud: 19200, format: 8N1", line.display())
}

fn over_tcp(device: &Device) -> Vec<String> {
    ["-m", "tcp", "-p", &device.place, "127.0.0.1"].map(str::to_owned).into()
}

fn on_line(line: &Path) -> Vec<String> {
    ["-m", "rtu", "-b", "19200", "-P", "none", &line.display().to_string()].map(str::to_owned).into()
}

/// Point → value, as both must see it.
type Values = BTreeMap<String, String>;

fn assert_both_agree(name: &str, connection: &str, place: &[String]) {
    let theirs = all_of_mbpoll(place);
    assert_same(&all_of_taktbus(name, connection), &theirs);
}

fn assert_same(ours: &Values, theirs: &Values) {
    assert_eq!(theirs.len(), KINDS.len() * usize::from(COUNT));
    let differ: Vec<_> = theirs.iter().map(|(point, value)| (point, ours.get(point), value)).collect();
    let differ: Vec<_> = differ.into_iter().filter(|(_, ours, theirs)| *ours != Some(theirs)).collect();
    assert!(differ.is_empty() && ours.len() == theirs.len(), "point, taktbus, mbpoll: {differ:?}");
}

/// The name of a value.
fn name(kind: usize, address: u16) -> String {
    format!("k{kind}_{address}")
}

fn all_of_mbpoll(place: &[String]) -> Values {
    let mut values = Values::new();
    for (ix, kind) in KINDS.iter().enumerate() {
        for (address, text) in mbpoll(place, kind) {
            values.insert(name(ix, address), of_mbpoll(kind, &text));
        }
    }
    values
}

/// Its lines are `[200]: <tab>34170 (-31366)`: address, value, and the signed one in brackets.
fn mbpoll(place: &[String], kind: &Kind) -> Vec<(u16, String)> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut command: Command = Peer::Mbpoll.command();
        command.args(["-1", "-0", "-a", &UNIT.to_string(), "-o", TIMEOUT]).args(kind.theirs);
        command.args(["-r", &FIRST.to_string(), "-c", &COUNT.to_string()]).args(place);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = |line: &str| {
            let (address, value) = line.strip_prefix('[')?.split_once("]:")?;
            Some((address.trim().parse().ok()?, value.split_whitespace().next()?.to_owned()))
        };
        let values: Vec<(u16, String)> = text.lines().filter_map(line).collect();
        if values.len() == usize::from(COUNT) {
            return values;
        }
        let problems = String::from_utf8_lossy(&output.stderr);
        assert!(Instant::now() < deadline, "mbpoll {:?}: {text}\n{problems}", kind.theirs);
    }
}

/// A site of one device with all kinds, and the examples of its profile, if any.
fn site(folder: &Folder, connection: &str, examples: &str) -> PathBuf {
    let mut points = String::new();
    for (ix, kind) in KINDS.iter().enumerate() {
        for at in (FIRST..).step_by(usize::from(kind.step)).take(usize::from(COUNT)) {
            writeln!(points, "  {}: {{{}: {at}{}}}", name(ix, at), kind.table, kind.point).unwrap();
        }
    }
    folder.write("mappings/test/both.yaml", &format!("profile: test/both\npoints:\n{points}{examples}"));
    let site = format!(
        "site: test\n\
         connections:\n  peer: {{{connection}, response_timeout: {TIMEOUT}s}}\n\
         devices:\n  both: {{via: peer, unit_id: {UNIT}, profile: test/both, every: 1m, budget: 1m}}\n\
         publish:\n  local: {{mqtt: mqtt://127.0.0.1:1}}\n"
    );
    folder.write("site.yaml", &site)
}

/// Reads all kinds with one device, again and again until no value is missing.
fn all_of_taktbus(test: &str, connection: &str) -> Values {
    let folder = Folder::new(&format!("second-client-{test}"));
    let site = site(&folder, connection, "");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let lines = output(&["read", "--json"], &site);
        let mut values = Values::new();
        for line in String::from_utf8(lines.stdout).unwrap().lines() {
            for (point, value) in member(line, "values").into_iter().flat_map(members) {
                let kind = point[1..].split('_').next().and_then(|ix| ix.parse::<usize>().ok()).unwrap();
                values.insert(point.to_owned(), of_taktbus(&KINDS[kind], value));
            }
        }
        if values.len() == KINDS.len() * usize::from(COUNT) {
            return values;
        }
        let problems = String::from_utf8_lossy(&lines.stderr);
        assert!(Instant::now() < deadline, "taktbus read: {} values\n{problems}", values.len());
    }
}

/// mbpoll's text of a value as ours: its hexadecimal numbers begin with 0x, its floats have six digits (C's `%g`).
fn of_mbpoll(kind: &Kind, text: &str) -> String {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).unwrap().to_string(),
        None if kind.is_float() => six_digits(text.parse().unwrap()),
        None => text.into(),
    }
}

/// Our text of a value as mbpoll's: its bits are 0 and 1, and it rounds what is exactly in a float, not its shortest text.
fn of_taktbus(kind: &Kind, text: &str) -> String {
    match text {
        "true" => "1".into(),
        "false" => "0".into(),
        float if kind.is_float() => six_digits(float.parse::<f32>().unwrap().into()),
        whole => whole.into(),
    }
}

fn six_digits(float: f64) -> String {
    assert!(float.is_finite());
    format!("{float:.5e}")
}
