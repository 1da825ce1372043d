//! One connection to a broker: a fresh client of the library, from its first packet to its loss.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use rumqttc::{
    AsyncClient, ClientError, ConnectReturnCode, ConnectionError, Event, LastWill, MqttOptions, Outgoing,
    Packet, PublishOptions, QoS, StateError, TlsConfiguration, Transport,
};
use rustls::ClientConfig;
use tokio::time::{Instant, timeout};
use tokio_stream::{Stream, StreamExt};

use super::Will;
use super::config::MqttConfig;
use super::prompt::Prompt;
use super::window::{PUBACK_TIMEOUT, Window};
use crate::model::message::Message;
use crate::northbound::alarm::Alarm;
use crate::northbound::{Refused, Token};

/// The largest packet that is sent, and taken: what brokers commonly allow at the least (AWS IoT Core and Azure IoT
/// Hub refuse larger ones than 128 and 256 KiB, mosquitto takes any). The library would drop the connection over it.
pub const MAX_PACKET: usize = 256 << 10;
/// Fixed header, topic length and packet id (MQTT 3.1.1, 2.2.3 and 3.3.2), at most.
const PUBLISH_OVERHEAD: usize = 9;
/// From the first SYN to the CONNACK.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Publishes that the library writes at once. More would delay reading PUBACKs.
const REQUEST_BATCH: usize = 128;
/// How long a DISCONNECT may take to leave.
const CLOSE_LIMIT: Duration = Duration::from_millis(300);

/// A connection that is being made, or stands.
pub(super) struct Link {
    client: AsyncClient,
    /// The library's event loop. A stream keeps its own place, so waiting for the next event may be dropped.
    events: Pin<Box<dyn Stream<Item = Result<Event, ConnectionError>> + Send>>,
    window: Window,
    alarm: Alarm,
    qos: QoS,
    overrun: bool,
    /// For the socket: see [`Prompt`].
    several: Arc<AtomicBool>,
}

/// What happens on a link.
pub(super) enum Step {
    /// The broker has accepted us.
    Connected,
    /// A publish is settled.
    Acked(Token),
    /// The link is dead, in words.
    Lost(String),
}

impl Link {
    /// Prepares a connection; it's made by waiting for [`Self::next`].
    pub fn new(config: &MqttConfig, will: &Will, tls: Option<Arc<ClientConfig>>) -> Result<Self, String> {
        let several = Arc::new(AtomicBool::new(false));
        let options = options(config, will, tls, Arc::clone(&several))?;
        let size = options.inflight();
        let built = AsyncClient::builder(options).capacity(usize::from(size)).try_build();
        let (client, mut events) = built.map_err(|error| error.to_string())?;
        events.network_options.set_tcp_nodelay(true);
        events.network_options.set_connection_timeout(CONNECT_TIMEOUT.as_secs());
        let events = Box::pin(events.into_stream());
        let window = Window::new(size, Instant::now());
        Ok(Self { client, events, window, alarm: Alarm::new(), qos: qos(config), overrun: false, several })
    }

    /// Waits for what happens next. May be dropped at any moment.
    pub async fn next(&mut self) -> Step {
        if self.overrun {
            return Step::Lost("the client's queue overran".into());
        }
        loop {
            let event = tokio::select! {
                biased;
                event = self.events.next() => event,
                () = self.alarm.reached(self.window.deadline()) => {
                    let seconds = PUBACK_TIMEOUT.as_secs();
                    return Step::Lost(format!("the broker acknowledged nothing for {seconds} s"));
                }
            };
            let acked = match event {
                Some(Ok(Event::Incoming(Packet::ConnAck(_)))) => return Step::Connected,
                Some(Ok(Event::Outgoing(Outgoing::Publish(id)))) => self.window.written(id, Instant::now()),
                Some(Ok(Event::Incoming(Packet::PubAck(ack)))) => self.window.acked(ack.pkid, Instant::now()),
                Some(Ok(_)) => None,
                Some(Err(error)) => return Step::Lost(words(&error)),
                None => return Step::Lost("the client has ended".into()),
            };
            if let Some(token) = acked {
                self.several.store(self.window.has_several(), Relaxed);
                return Step::Acked(token);
            }
        }
    }

    /// Hands a publish to the library.
    pub fn publish(&mut self, token: Token, message: &Message, payload: Bytes) -> Result<(), Refused> {
        let size = PUBLISH_OVERHEAD + message.topic.len() + payload.len();
        if size > MAX_PACKET {
            return Err(Refused(format!("too large: {size} of {MAX_PACKET} bytes")));
        }
        let options = PublishOptions::new(self.qos).retain(message.retain);
        match self.client.try_publish(&*message.topic, payload, options) {
            Ok(()) => {}
            Err(ClientError::InvalidRequest(_)) => return Err(Refused("invalid topic".into())),
            // The queue is as long as the window, so this can't be; if it is, a new link is the way out.
            Err(_) => self.overrun = true,
        }
        self.window.hand(token, Instant::now());
        self.several.store(self.window.has_several(), Relaxed);
        Ok(())
    }

    /// Sends DISCONNECT, if everything is settled. Otherwise the connection is dropped without, and the broker
    /// publishes our last will.
    pub async fn close(mut self) {
        if self.window.deadline().is_none() && self.client.try_disconnect_now().is_ok() {
            let _ = timeout(CLOSE_LIMIT, async { while let Some(Ok(_)) = self.events.next().await {} }).await;
        }
    }
}

fn qos(config: &MqttConfig) -> QoS {
    if config.qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce }
}

fn options(
    config: &MqttConfig,
    will: &Will,
    tls: Option<Arc<ClientConfig>>,
    several: Arc<AtomicBool>,
) -> Result<MqttOptions, String> {
    let mut options = MqttOptions::new(&config.client_id, (config.host.as_str(), config.port));
    // The library makes `host:port` of an IPv6 address without brackets.
    let address = match config.host.contains(':') {
        true => format!("[{}]:{}", config.host, config.port),
        false => format!("{}:{}", config.host, config.port),
    };
    options.set_socket_connector(move |_, network| {
        let connecting = rumqttc::default_socket_connect(address.clone(), network);
        let several = Arc::clone(&several);
        async move { Ok(Prompt { stream: connecting.await?, several }) }
    });
    if let Some(tls) = tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
    }
    options
        .set_keep_alive(u16::try_from(config.keep_alive.as_secs()).unwrap_or(u16::MAX))
        .set_clean_session(true)
        .set_max_packet_size(MAX_PACKET, MAX_PACKET)
        .set_inflight(config.window.max(1))
        .set_max_request_batch(REQUEST_BATCH)
        .set_last_will(LastWill {
            topic: will.topic.to_string(),
            message: will.payload.clone(),
            qos: qos(config),
            retain: true,
        });
    match (&config.user, &config.password) {
        (Some(user), Some(password)) => {
            let password = password.reveal().map_err(|error| error.to_string())?;
            options.set_credentials(user, password);
        }
        (Some(user), None) => {
            options.set_username(user);
        }
        (None, _) => {}
    }
    Ok(options)
}

/// A connection error as an integrator would put it.
fn words(error: &ConnectionError) -> String {
    match error {
        ConnectionError::Io(error) => error.to_string(),
        ConnectionError::Tls(rumqttc::TlsError::Io(error)) => format!("TLS: {error}"),
        ConnectionError::NetworkTimeout => format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()),
        ConnectionError::FlushTimeout => format!("nothing could be sent for {} s", CONNECT_TIMEOUT.as_secs()),
        ConnectionError::ConnectionRefused(code) => format!("the broker refuses: {}", refusal(*code)),
        ConnectionError::MqttState(StateError::ConnectionAborted) => {
            "the broker closed the connection".into()
        }
        ConnectionError::MqttState(StateError::AwaitPingResp) => "the broker did not answer a ping".into(),
        ConnectionError::MqttState(StateError::Io(error)) => error.to_string(),
        // A TLS alert comes this way: `received fatal alert: CertificateRequired`.
        ConnectionError::MqttState(StateError::Deserialization(rumqttc::mqttbytes::Error::Io(error))) => {
            error.to_string()
        }
        error => error.to_string(),
    }
}

/// MQTT 3.1.1, table 3.1.
fn refusal(code: ConnectReturnCode) -> &'static str {
    match code {
        ConnectReturnCode::Success => "accepted",
        ConnectReturnCode::RefusedProtocolVersion => "unacceptable protocol version",
        ConnectReturnCode::BadClientId => "client identifier rejected",
        ConnectReturnCode::ServiceUnavailable => "server unavailable",
        ConnectReturnCode::BadUserNamePassword => "bad user name or password",
        ConnectReturnCode::NotAuthorized => "not authorized",
    }
}
