//! What a site file says about an MQTT route, compiled.

use std::time::Duration;

use crate::model::secret::Secret;
use crate::northbound::tls::TlsConfig;

/// An MQTT route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MqttConfig {
    /// Broker's host name or address.
    pub host: String,
    /// Broker's port.
    pub port: u16,
    /// `Some` for `mqtts://`.
    pub tls: Option<TlsConfig>,
    /// MQTT client identifier; unique at the broker.
    pub client_id: String,
    /// User name, if the broker wants one.
    pub user: Option<String>,
    /// Password that goes with it.
    pub password: Option<Secret>,
    /// Quality of service of data, gap and status messages: 0 or 1. With 0, "delivered" means handed to the socket.
    pub qos: u8,
    /// Keep-alive interval (whole seconds on the wire).
    pub keep_alive: Duration,
    /// How many publishes may be unacknowledged (1 … 65535).
    pub window: u16,
    /// Topic of a device's messages; `{site}` and `{device}` stand for the names.
    pub topic: String,
    /// Topic of the gateway's retained status (birth and last will); `{site}` stands for the name.
    pub status_topic: String,
    /// Bytes of messages that wait in memory while the broker is away; the oldest are shed first.
    pub backlog_bytes: usize,
}

impl MqttConfig {
    /// A route to a broker without TLS or users, and all else as by default.
    pub fn plain(broker: std::net::SocketAddr, client_id: String) -> Self {
        Self {
            host: broker.ip().to_string(),
            port: broker.port(),
            tls: None,
            client_id,
            user: None,
            password: None,
            qos: 1,
            keep_alive: Duration::from_secs(10),
            window: 100,
            topic: "taktbus/{site}/{device}".into(),
            status_topic: "taktbus/{site}/status".into(),
            backlog_bytes: 32 << 20,
        }
    }
}
