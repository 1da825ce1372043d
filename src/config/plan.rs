//! A whole site, compiled: what the runtime starts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::drivers::modbus::config::ModbusConfig;
use crate::drivers::opcua::config::OpcuaConfig;
use crate::mapping::device::Device;
use crate::model::diagnostic::SourceFile;
use crate::northbound::forwarder::Durability;
use crate::northbound::http::config::HttpConfig;
use crate::northbound::mqtt::config::MqttConfig;
use crate::pipeline::passes::Passes;
use crate::store;

/// What a site was read from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// The site file.
    pub site: Option<Arc<SourceFile>>,
    /// The profiles that are files, by their names.
    pub profiles: BTreeMap<String, Arc<SourceFile>>,
}

/// A site that passed every check.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// The site's name.
    pub name: String,
    /// The connections, in the order of the file.
    pub connections: Vec<Connection>,
    /// The northbound routes, in the order of the file.
    pub routes: Vec<Route>,
    /// The points that may be written, by device, under the names that they are published by; nothing else ever is.
    pub allow_write: BTreeMap<String, BTreeSet<String>>,
    /// What each route's store may take.
    pub store: store::Settings,
    /// When the machine's clock is believed.
    pub clock: Trust,
    /// Where it answers questions by HTTP.
    pub listen: Option<SocketAddr>,
    /// Where its own metrics are sent.
    pub telemetry: Option<Telemetry>,
    /// What it was read from.
    pub files: Arc<Files>,
}

/// An OpenTelemetry receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// Where requests are POSTed to, and as whom.
    pub http: HttpConfig,
    /// How often.
    pub every: Duration,
}

/// When the machine's clock is believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// When nothing speaks against it.
    #[default]
    WhenSynchronised,
    /// Always.
    Always,
}

/// One connection and the devices behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct Connection {
    /// Its name in the file.
    pub name: String,
    /// Its protocol and settings.
    pub protocol: Protocol,
    /// Its devices, in the order of the file.
    pub devices: Vec<Device>,
}

/// The closed set of southbound protocols.
#[derive(Clone, Debug, PartialEq)]
pub enum Protocol {
    /// Modbus TCP, RTU, RTU over TCP.
    Modbus(ModbusConfig),
    /// OPC UA.
    Opcua(OpcuaConfig),
}

impl Protocol {
    /// The Modbus connection, if it is one.
    pub fn modbus(&self) -> Option<&ModbusConfig> {
        match self {
            Self::Modbus(config) => Some(config),
            Self::Opcua(_) => None,
        }
    }
}

/// One northbound route.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Its name in the file.
    pub name: String,
    /// Its protocol and settings.
    pub sink: SinkConfig,
    /// What it carries.
    pub passes: Passes,
    /// Which of its messages are stored.
    pub durability: Durability,
}

/// The closed set of northbound protocols.
#[derive(Clone, Debug, PartialEq)]
pub enum SinkConfig {
    /// MQTT 3.1.1.
    Mqtt(MqttConfig),
    /// HTTP/1.1 and HTTP/2.
    Http(HttpConfig),
}

impl SinkConfig {
    pub(super) fn backlog_bytes(&mut self) -> &mut usize {
        match self {
            Self::Mqtt(config) => &mut config.backlog_bytes,
            Self::Http(config) => &mut config.backlog_bytes,
        }
    }
}
