//! Site files as written: where devices hang, how often they are read, how late a value may be, where it goes.
//! The only list of their keys.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::document::codes;
use crate::document::duration::{Duration, Interval, Rest};
use crate::document::fields::{choice, document};
use crate::document::read::{At, Read, Reader};
use crate::document::scalar::{Meaning, meaning, shortened};
use crate::document::schema::Schemas;
use crate::document::types::{Either, Flag, Int, List, Name, Names, Nullable, Number, Text};
use crate::document::yaml::{Kind as NodeKind, Node};
use crate::mapping::points::Points;
use crate::mapping::profile::{Limits, Point};
use crate::mapping::written::ProfileName;

/// An RS-485 delay: the kernel takes up to 100 ms (serial_core.c, RS485_MAX_RTS_DELAY).
pub type Delay = Duration<0, 100>;

/// A budget: 1 ms to 1 h.
pub type Within = Duration<1, 3_600_000>;

document! {
    /// A site: its connections, the devices behind them, and where their values go.
    pub struct Site ("a site file") {
        /// The site's name, part of topics and messages.
        /// Example: `bakery`
        required site: Name,
        /// Serial lines and network addresses, by name.
        required connections: Names<Connection>,
        /// The devices, by name.
        required devices: Names<Device>,
        /// Where the values go, by name.
        required publish: Names<Publish>,
        /// Points that may be written, by device; nothing else is ever written.
        optional allow_write: Names<List<Name>>,
        /// What messages on disk may take, where the gateway has a state directory.
        optional store: Store,
        /// Where the gateway is asked how it is, from this machine. Default: nowhere.
        optional listen: Listen,
        /// Where the gateway's own metrics are sent to, besides being asked for. Default: nowhere.
        optional telemetry: Telemetry,
        /// Bytes of memory for messages that wait, of all routes together; what is more goes into the stores, or is given up.
        /// Default 96MiB.
        /// Example: `96MiB`
        optional memory: Memory,
        /// Whether the machine's clock is believed before something says that it's synchronised. Default auto.
        optional clock: ClockWord,
    }
}

document! {
    /// The store of messages on disk; each route has one of its own.
    pub struct Store ("a store") {
        /// Bytes on disk per route; when they are used up, the oldest messages go, and gap records tell which. Default 256MiB.
        /// Example: `256MiB`
        optional size: StoreSize,
        /// How old a message may get before it's given up. Default: any age.
        /// Example: `72h`
        optional age: Duration<1_000, 31_536_000_000>,
        /// How long a message may be written and not yet synced to the disk: what a power cut costs. 0ms syncs after each
        /// write. Default 1s.
        /// Example: `1s`
        optional sync: Duration<0, 60_000>,
    }
}

document! {
    /// Where the gateway is asked how it is.
    pub struct Listen ("a listener") {
        /// IP:PORT that answers HTTP: /metrics, /health/live, /health/ready, /api/v1/status. Everybody who reaches it may read them.
        /// Example: `127.0.0.1:9464`
        required http: Address,
    }
}

document! {
    /// An OpenTelemetry receiver: the metrics of /metrics, by OTLP over HTTP in JSON.
    pub struct Telemetry ("telemetry") {
        /// The receiver: http://HOST[:PORT], or https://…; /v1/metrics is added.
        /// Example: `http://127.0.0.1:4318`
        required otlp: Text,
        /// How often. Default 30s.
        /// Example: `30s`
        optional every: Duration<1_000, 3_600_000>,
        /// A token for the header Authorization: {env: NAME}, {file: PATH}, or the text itself.
        optional bearer: Either<Text, SecretWords>,
        /// User name.
        /// Example: `bakery`
        optional user: Text,
        /// Password: {env: NAME}, {file: PATH}, or the text itself.
        optional password: Either<Text, SecretWords>,
        /// Further headers; {site} stands for the site's name.
        optional headers: Headers,
        /// How long to wait for an answer. Default 10s.
        optional timeout: Duration<100, 300_000>,
        /// PEM file of the certificate authorities to trust. Default: the system's.
        /// Example: `/etc/taktbus/ca.pem`
        optional ca: Text,
        /// PEM file of the client's certificate chain.
        /// Example: `/etc/taktbus/client.pem`
        optional cert: Text,
        /// PEM file of the client's private key.
        /// Example: `/etc/taktbus/secrets/client.key`
        optional key: Text,
    }
}

document! {
    /// A serial line, a Modbus TCP server, or an OPC UA server.
    pub struct Connection ("a connection") {
        /// HOST:PORT of a Modbus TCP server, or of a serial device server.
        /// Example: `192.168.1.50:502`
        optional tcp: Text,
        /// The device file of a serial line; /dev/serial/by-id/… survives renumbering.
        /// Example: `/dev/serial/by-id/usb-FTDI_FT232R_A50285BI-if00-port0`
        optional rtu: Text,
        /// What travels over tcp: Modbus TCP, or RTU frames of a serial device server. Default tcp.
        optional framing: Framing,
        /// Bits per second of a serial line. Default 19200.
        /// Example: `9600`
        optional baud: Int<110, 4_000_000>,
        /// Data bits, parity and stop bits of a serial line. Default 8E1.
        optional format: Format,
        /// How long to wait for an answer.
        optional response_timeout: Duration<1, 60_000>,
        /// Rest between an answer and the next request.
        optional delay_between_requests: Rest,
        /// Rest after the connection came up.
        optional delay_after_connect: Rest,
        /// RTU: how long after a request its answer may still come. Until then a unit that timed out is not asked again.
        /// Default three response timeouts.
        optional late_window: Duration<1, 600_000>,
        /// RTU: the silence between frames, where a device or adapter wants more than 3.5 characters.
        optional frame_gap: Duration<1, 1_000>,
        /// RTU: strip, where a two-wire adapter hears its own requests. Default none.
        optional echo: Echo,
        /// TCP: close the connection while nothing is due, where a server takes one client and others want it too. Default
        /// false.
        optional close_between_reads: Flag,
        /// TCP: how many requests may wait for their answers at once, where the device allows it. Default 1.
        /// Example: `4`
        optional max_in_flight: Int<1, 16>,
        /// Serial port: true, or how, where the kernel switches the RS-485 transceiver (TIOCSRS485). USB adapters switch by
        /// themselves. Default false.
        optional rs485: Either<Flag, Rs485>,
        /// The endpoint of an OPC UA server.
        /// Example: `opc.tcp://192.168.1.60:4840`
        optional opcua: Text,
        /// OPC UA: the security policy. Default: the best of the safe ones that the server offers.
        optional security: SecurityWord,
        /// OPC UA: are messages encrypted too, or only signed? Default SignAndEncrypt.
        optional security_mode: ModeWord,
        /// OPC UA: user name.
        /// Example: `gateway`
        optional user: Text,
        /// OPC UA: password: {env: NAME}, {file: PATH}, or the text itself.
        optional password: Either<Text, SecretWords>,
        /// OPC UA: file of the user's certificate, DER or PEM.
        /// Example: `/etc/taktbus/user.der`
        optional cert: Text,
        /// OPC UA: PEM file of the private key of the user's certificate.
        /// Example: `/etc/taktbus/secrets/user.key`
        optional key: Text,
    }
}

choice! {
    /// How OPC UA messages are protected (OPC UA Part 7, 6.6).
    pub enum SecurityWord ("a security policy") {
        /// Not at all: whoever is in the network can read and change values.
        None = "None",
        Aes256Sha256RsaPss = "Aes256_Sha256_RsaPss",
        Aes128Sha256RsaOaep = "Aes128_Sha256_RsaOaep",
        Basic256Sha256 = "Basic256Sha256",
        /// Deprecated: broken.
        Basic256 = "Basic256",
        /// Deprecated: broken.
        Basic128Rsa15 = "Basic128Rsa15",
    }
    instead_of: [
        ("none", "None"), ("off", "None"), ("basic256sha256", "Basic256Sha256"), ("aes128", "Aes128_Sha256_RsaOaep"),
        ("aes256", "Aes256_Sha256_RsaPss")
    ]
}

choice! {
    /// What OPC UA's security does with messages.
    pub enum ModeWord ("a security mode") {
        /// Nobody can change them.
        Sign = "Sign",
        /// Nobody can change or read them.
        SignAndEncrypt = "SignAndEncrypt",
    }
    instead_of: [("sign", "Sign"), ("encrypt", "SignAndEncrypt"), ("sign_and_encrypt", "SignAndEncrypt")]
}

document! {
    /// How the kernel switches an RS-485 transceiver.
    pub struct Rs485 ("RS-485 options") {
        /// The line RTS while sending; the opposite at all other times. Default true.
        optional rts_on_send: Flag,
        /// From the switch to the first byte, in whole milliseconds. Default 0ms.
        optional delay_before_send: Delay,
        /// From the last byte to the switch, in whole milliseconds. Default 0ms.
        optional delay_after_send: Delay,
        /// Receives while sending too: four wires. Default false.
        optional full_duplex: Flag,
    }
}

choice! {
    /// What an adapter makes of what it sends.
    pub enum Echo ("a way to treat echoes") {
        /// Only answers come back.
        None = "none",
        /// Every request comes back in front of its answer, and is dropped.
        Strip = "strip",
    }
}

document! {
    /// A device: one unit id behind a connection, or a set of nodes of an OPC UA server.
    pub struct Device ("a device") {
        /// The connection it hangs on.
        /// Example: `lan`
        required via: Name,
        /// Its unit id: 1 to 247 on a serial line, 0 to 255 on TCP. Default on TCP: 1.
        /// Example: `1`
        optional unit_id: Int<0, 255>,
        /// What it is.
        /// Example: `eastron/sdm630`
        optional profile: ProfileName,
        /// How often it is read: one interval, or one per rate (default for all others).
        optional every: Either<Interval, Names<Interval>>,
        /// OPC UA: values come when they change; the server looks at them this often. One interval, or one per rate; rates that
        /// `every` names are polled.
        optional subscribe: Either<Interval, Names<Interval>>,
        /// OPC UA: what of a node makes a notification. Default value.
        optional trigger: TriggerWord,
        /// OPC UA: how many values of a node the server keeps between two notifications. Default 1: the newest.
        /// Example: `10`
        optional queue: Int<1, 1_000>,
        /// OPC UA: publish when each value was, too, by the clock of its source or of the server. Default: neither.
        optional timestamps: TimesWord,
        /// OPC UA: the URI of the namespace of node ids and paths that name none. Default: the profile's.
        /// Example: `http://www.siemens.com/simatic-s7-opcua`
        optional namespace: Text,
        /// How late its values may be, from the request to the broker's acknowledgement. Default 1s.
        optional budget: Either<Within, BudgetWords>,
        /// Values of its profile's parameters.
        optional with: Names<Number>,
        /// Points of its own, changed keys of the profile's points, or null to drop one.
        optional points: Points<Nullable<Point>>,
        /// Publish only these points.
        /// Example: `["voltage_l1", "active_power"]`
        optional only: List<Name>,
        /// Publish all but these points.
        /// Example: `["serial_number"]`
        optional except: List<Name>,
        /// Other names for the profile's points.
        optional rename: Names<Name>,
        /// What requests must respect, where it differs from the profile.
        optional limits: Limits,
    }
}

choice! {
    /// Whose time stamps are published beside the values.
    pub enum TimesWord ("a source of time stamps") {
        /// Of what the value comes from.
        Source = "source",
        /// Of the server.
        Server = "server",
    }
}

choice! {
    /// What of a node makes a notification (OPC UA Part 4, 7.10).
    pub enum TriggerWord ("a trigger") {
        /// Its status.
        Status = "status",
        /// Its status or its value.
        Value = "value",
        /// Its status, its value or its source time stamp.
        Timestamp = "timestamp",
    }
}

document! {
    /// How late values may be, and what happens to those that are later.
    pub struct BudgetWords ("a budget") {
        /// From the request on the wire to the broker's acknowledgement.
        required within: Within,
        /// What happens to a value that misses it. Default deliver.
        optional late: Late,
    }
}

choice! {
    /// What happens to a value that misses its budget.
    pub enum Late ("a way to treat late values") {
        /// Sent, marked with late_ms.
        Deliver = "deliver",
        /// Never sent late; accounted for in a gap record.
        Drop = "drop",
        /// Joins the backlog, so that fresh data overtakes it.
        Store = "store",
    }
}

choice! {
    /// Whether the machine's clock is believed.
    pub enum ClockWord ("a trust") {
        /// Not while it's plainly wrong, nor while systemd-timesyncd is still to synchronise it.
        Auto = "auto",
        /// Always, as where another time service is known to have synchronised it before this program starts.
        Trusted = "trusted",
    }
}

choice! {
    /// Which messages a route puts into its store.
    pub enum DurabilityWord ("a durability") {
        /// All of them, as they come.
        Always = "always",
        /// Those that can't be delivered in their time.
        OnOutage = "on_outage",
        /// None: they wait in memory.
        Off = "off",
    }
}

choice! {
    /// What travels over a TCP connection.
    pub enum Framing ("a framing") {
        /// Modbus TCP.
        Tcp = "tcp",
        /// RTU frames with CRC.
        Rtu = "rtu",
    }
    unsupported: ["ascii"]
}

document! {
    /// A way north.
    pub struct Publish ("a route") {
        /// The broker: mqtt://HOST[:PORT], or mqtts://… with TLS.
        /// Example: `mqtts://broker.example:8883`
        optional mqtt: Text,
        /// Where messages are POSTed to: https://HOST[:PORT]/PATH, or http://….
        /// Example: `https://api.example/v1/measurements`
        optional http: Text,
        /// Only these devices, or single points of them: DEVICE or DEVICE.POINT.
        /// Example: `["main", "oven.temperature"]`
        optional only: List<Text>,
        /// All but these devices, or single points of them: DEVICE or DEVICE.POINT.
        /// Example: `["oven.serial_number"]`
        optional except: List<Text>,
        /// HTTP: a token for the header Authorization: {env: NAME}, {file: PATH}, or the text itself.
        optional bearer: Either<Text, SecretWords>,
        /// HTTP: further headers; {site} and {device} stand for the names.
        optional headers: Headers,
        /// HTTP: how many messages one request may carry; more than 1 make a JSON array. Default 1.
        /// Example: `100`
        optional max_batch: Int<1, 1_000>,
        /// HTTP: how long a request may wait for more messages, as far as budgets allow. Default 0ms.
        optional linger: Duration<0, 60_000>,
        /// HTTP: bodies that are larger are compressed (gzip). Default: none is.
        optional gzip: Threshold,
        /// HTTP: how long to wait for an answer. Default 10s.
        optional timeout: Duration<100, 300_000>,
        /// HTTP: send the statuses of devices and of the gateway too. Default false.
        optional statuses: Flag,
        /// The MQTT client identifier. Default taktbus-SITE.
        /// Example: `gateway-7`
        optional client_id: Text,
        /// User name.
        /// Example: `bakery`
        optional user: Text,
        /// Password: {env: NAME}, {file: PATH}, or the text itself.
        optional password: Either<Text, SecretWords>,
        /// Topic of a device's messages. Default taktbus/{site}/{device}.
        /// Example: `plant/{site}/{device}`
        optional topic: Text,
        /// Topic of the gateway's status. Default: the topic up to {device}, and status.
        /// Example: `plant/{site}/status`
        optional status_topic: Text,
        /// Quality of service. Default 1.
        /// Example: `1`
        optional qos: Int<0, 1>,
        /// Keep-alive interval. Default 10s.
        optional keep_alive: Duration<1_000, 65_535_000>,
        /// How many messages may wait for their acknowledgement. Default 100.
        /// Example: `100`
        optional window: Int<1, 65_535>,
        /// PEM file of the certificate authorities to trust. Default: the system's.
        /// Example: `/etc/taktbus/ca.pem`
        optional ca: Text,
        /// PEM file of the client's certificate chain.
        /// Example: `/etc/taktbus/client.pem`
        optional cert: Text,
        /// PEM file of the client's private key.
        /// Example: `/etc/taktbus/secrets/client.key`
        optional key: Text,
        /// Memory for messages that wait while the broker is away and are not in the store. Default: a share of the site's `memory`, 32MiB at most.
        optional backlog: Backlog,
        /// Which messages are put into the store, so that they survive an outage, a crash and a power cut. Default always.
        optional durability: DurabilityWord,
    }
}

document! {
    /// Where a secret is.
    pub struct SecretWords ("a secret") {
        /// The environment variable that holds it.
        /// Example: `MQTT_PASSWORD`
        optional env: Text,
        /// The file that holds it.
        /// Example: `/etc/taktbus/secrets/mqtt`
        optional file: Text,
    }
}

/// An IP address of this machine and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub SocketAddr);

impl Read for Address {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        let Text(text) = Text::read(node, to)?;
        let address = text.parse().ok();
        if address.is_none() {
            to.error(codes::BAD_HOST, node, format!("'{}' is no IP:PORT", shortened(&text))).help(
                "such as 127.0.0.1:9464 for this machine only, or [::]:9464 for whoever reaches this machine",
            );
        }
        address.map(Self)
    }

    fn schema(_: &mut Schemas) -> Value {
        json!({ "type": "string", "pattern": "^[0-9a-fA-F.:\\[\\]]+:[0-9]{1,5}$", "examples": ["127.0.0.1:9464"] })
    }
}

/// HTTP headers by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Headers(pub Vec<(At<String>, At<Text>)>);

/// Headers of one route.
const MOST_HEADERS: usize = 32;

impl Read for Headers {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        let entries = to.entries(node, "headers and their values")?;
        if entries.len() > MOST_HEADERS {
            to.error(codes::BAD_HEADER, node, format!("a route has at most {MOST_HEADERS} headers"));
            return None;
        }
        let mut all = Vec::new();
        for entry in &entries {
            let name = At { value: entry.key.to_string(), span: to.span(entry.at) };
            if let Some(value) = to.at::<Text>(entry.value) {
                all.push((name, value));
            }
        }
        Some(Self(all))
    }

    fn schema(_: &mut Schemas) -> Value {
        json!({
            "type": "object",
            "propertyNames": { "pattern": "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$" },
            "additionalProperties": { "type": "string" },
            "examples": [{ "X-Line": "{site}-{device}" }],
        })
    }
}

/// A serial line's data bits, parity and stop bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Data bits: RTU needs 8.
    pub data_bits: u8,
    /// `N`, `E` or `O`.
    pub parity: char,
    /// 1 or 2.
    pub stop_bits: u8,
}

impl Read for Format {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        // Bare 8E1 is a float to YAML (80): the text counts.
        let NodeKind::Scalar { text, .. } = &node.kind else {
            to.expected(node, "data bits, parity and stop bits").help("such as 8E1 or 8N1");
            return None;
        };
        match text.as_bytes() {
            [b'8', parity @ (b'N' | b'E' | b'O'), stop @ (b'1' | b'2')] => {
                return Some(Self { data_bits: 8, parity: char::from(*parity), stop_bits: stop - b'0' });
            }
            [b'7', ..] => {
                // MODBUS over serial line V1.02, 2.5.1: RTU characters have 8 data bits.
                to.error(codes::BAD_LINE, node, "RTU needs 8 data bits")
                    .help("such as 8E1; 7 is for Modbus ASCII");
            }
            _ => {
                to.error(
                    codes::BAD_LINE,
                    node,
                    format!("'{}' is no format of a serial line", shortened(text)),
                )
                .help("data bits, parity (N, E, O) and stop bits: 8E1, 8N1, 8O1, 8N2");
            }
        }
        None
    }

    fn schema(_: &mut Schemas) -> Value {
        // 80 and 800 are what bare 8E1 and 8E2 are to an editor.
        json!({ "enum": ["8E1", "8N1", "8O1", "8N2", "8E2", "8O2", 80, 800] })
    }
}

/// A number of bytes, between so many KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size<const MIN_KIB: u64, const MAX_KIB: u64>(pub u64);

/// A backlog: from a few messages to what a 32-bit gateway can address.
pub type Backlog = Size<64, { 1024 * 1024 }>;

/// A store: 32 segments of 256 KiB and up.
pub type StoreSize = Size<{ 8 * 1024 }, { 1024 * 1024 * 1024 }>;

/// Memory: from one route's needs to what a 32-bit gateway can address.
pub type Memory = Size<{ 16 * 1024 }, { 2 * 1024 * 1024 }>;

/// A body that is worth compressing.
pub type Threshold = Size<1, 1024>;

impl<const MIN_KIB: u64, const MAX_KIB: u64> Read for Size<MIN_KIB, MAX_KIB> {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        let shown = |kib: u64| match kib {
            kib if kib % (1024 * 1024) == 0 => format!("{}GiB", kib / 1024 / 1024),
            kib if kib % 1024 == 0 => format!("{}MiB", kib / 1024),
            kib => format!("{kib}KiB"),
        };
        let middle = if MIN_KIB >= 64 { "512KiB or 64MiB" } else { "1KiB or 16KiB" };
        let examples = format!("such as {middle}, from {} to {}", shown(MIN_KIB), shown(MAX_KIB));
        let text = match meaning(node) {
            Meaning::Bare(text) | Meaning::Quoted(text) => text,
            _ => {
                to.expected(node, "a size in bytes").help(examples);
                return None;
            }
        };
        let units = [("KiB", 1), ("MiB", 1024), ("GiB", 1024 * 1024)];
        let kib = units.iter().find_map(|(unit, kib)| {
            text.strip_suffix(unit)?.trim_end().parse::<u64>().ok()?.checked_mul(*kib)
        });
        match kib.filter(|kib| (MIN_KIB..=MAX_KIB).contains(kib)) {
            Some(kib) => Some(Self(kib * 1024)),
            None => {
                to.error(codes::BAD_SIZE, node, format!("'{}' is no size for this", shortened(text)))
                    .help(examples);
                None
            }
        }
    }

    fn schema(_: &mut Schemas) -> Value {
        let example = if MIN_KIB >= 64 { "64MiB" } else { "1KiB" };
        json!({ "type": "string", "pattern": "^[0-9]+ ?(KiB|MiB|GiB)$", "examples": [example] })
    }
}
