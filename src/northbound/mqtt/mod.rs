//! MQTT 3.1.1 (OASIS standard, 29 October 2014) as a sink.
//!
//! The library (rumqttc) encodes, decodes, pings and writes in batches. Its reconnecting, its pending queue and its
//! session are never used: each connection gets a fresh client with a clean session, and what was unacknowledged is
//! the forwarder's to send again. The library would keep messages that it could not send, but forget them when the
//! broker has no session (a broker that restarted), send them one timer tick apart, and retry a packet that's too
//! large for ever; and it would decide their order, while the forwarder knows what is most urgent.
//!
//! An outage is noticed by the socket's end, by a ping without answer, and by [`PUBACK_TIMEOUT`] without an
//! acknowledgement while publishes wait.
//!
//! [`PUBACK_TIMEOUT`]: window::PUBACK_TIMEOUT

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::ClientConfig;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use self::config::MqttConfig;
use self::link::{Link, Step};
use super::backoff::{Backoff, random};
use super::tls::{self, TlsError};
use super::{Refused, Sink, SinkEvent, Token};
use crate::model::message::Message;

pub use self::link::MAX_PACKET;

pub mod config;
mod link;
mod prompt;
mod window;

/// A link that held this long has proven itself: the next failure is a first one.
const PROVEN: Duration = Duration::from_secs(10);

/// So has one over which so many publishes were acknowledged. Fewer prove nothing: another client with the same id gets
/// as far before the two take each other's place again.
const PROVEN_PUBACKS: u32 = 100;

/// So many accepted links in a row that did not hold are a riddle worth a hint.
const SHORT_LIVED_LINKS: u32 = 3;

/// What the broker publishes, retained, when we vanish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// The gateway's status topic, complete.
    pub topic: Arc<str>,
    /// The offline status.
    pub payload: Bytes,
}

/// A route to an MQTT broker.
pub struct MqttSink {
    config: MqttConfig,
    will: Will,
    state: State,
    backoff: Backoff,
    /// Publishes that were acknowledged on the present link.
    pubacks: u32,
    /// Accepted links in a row that did not hold.
    short_lived: u32,
    /// The system's authorities, kept: reading them takes tens of milliseconds.
    system: Option<Arc<ClientConfig>>,
    /// The reason that was logged last, while down.
    told: Option<String>,
}

enum State {
    /// Until the next attempt.
    Waiting(Instant),
    /// Certificates are being read.
    Preparing(JoinHandle<Result<Arc<ClientConfig>, TlsError>>),
    Connecting(Link),
    Up(Link, Instant),
}

impl MqttSink {
    /// A sink that connects as soon as its events are waited for.
    pub fn new(config: MqttConfig, will: Will) -> Self {
        let state = State::Waiting(Instant::now());
        Self {
            config,
            will,
            state,
            backoff: Backoff::new(),
            pubacks: 0,
            short_lived: 0,
            system: None,
            told: None,
        }
    }

    /// Begins an attempt.
    fn begin(&mut self) -> Result<State, String> {
        match (&self.config.tls, &self.system) {
            (Some(tls), None) => {
                let tls = tls.clone();
                Ok(State::Preparing(tokio::task::spawn_blocking(move || tls::client_config(&tls))))
            }
            (_, system) => self.dial(system.clone()),
        }
    }

    fn dial(&self, tls: Option<Arc<ClientConfig>>) -> Result<State, String> {
        Ok(State::Connecting(Link::new(&self.config, &self.will, tls)?))
    }

    /// Certificates are read: keeps what doesn't change.
    fn prepared(&mut self, tls: Arc<ClientConfig>) -> Result<State, String> {
        if self.config.tls.as_ref().is_some_and(|tls| tls.ca.is_none() && tls.client.is_none()) {
            self.system = Some(Arc::clone(&tls));
        }
        self.dial(Some(tls))
    }

    fn lost(&mut self, reason: String) -> SinkEvent {
        if let State::Up(_, since) = &self.state {
            if since.elapsed() >= PROVEN || self.pubacks >= PROVEN_PUBACKS {
                self.backoff.reset();
                self.short_lived = 0;
            } else {
                self.short_lived = self.short_lived.saturating_add(1);
            }
        }
        self.state = State::Waiting(Instant::now() + self.backoff.next(random()));
        if self.told.as_ref() != Some(&reason) {
            warn!(broker = %self.broker(), reason, "broker link down");
            self.told = Some(reason.clone());
        }
        if self.short_lived == SHORT_LIVED_LINKS {
            // Once, until a link holds. MQTT 3.1.1, 3.1.4: the broker disconnects the client that had the id before.
            self.short_lived += 1;
            warn!(broker = %self.broker(), client_id = %self.config.client_id, "the broker accepts this client and drops it again and again: does another one use the same client_id?");
        }
        SinkEvent::Down(reason)
    }

    fn broker(&self) -> String {
        format!("{}:{}", self.config.host, self.config.port)
    }
}

impl Sink for MqttSink {
    async fn event(&mut self) -> SinkEvent {
        loop {
            let next = match &mut self.state {
                State::Waiting(until) => {
                    sleep_until(*until).await;
                    self.begin()
                }
                State::Preparing(reading) => match reading.await {
                    Ok(Ok(tls)) => self.prepared(tls),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(error) => Err(format!("reading certificates failed: {error}")),
                },
                State::Connecting(link) => match link.next().await {
                    Step::Connected => break,
                    Step::Lost(reason) => Err(reason),
                    Step::Acked(_) => continue,
                },
                State::Up(link, _) => match link.next().await {
                    Step::Acked(token) => {
                        self.pubacks = self.pubacks.saturating_add(1);
                        return SinkEvent::Acked(token);
                    }
                    Step::Lost(reason) => Err(reason),
                    Step::Connected => continue,
                },
            };
            match next {
                Ok(state) => self.state = state,
                Err(reason) => return self.lost(reason),
            }
        }
        let waiting = State::Waiting(Instant::now());
        if let State::Connecting(link) = std::mem::replace(&mut self.state, waiting) {
            self.state = State::Up(link, Instant::now());
        }
        self.pubacks = 0;
        self.told = None;
        info!(broker = %self.broker(), "broker link up");
        SinkEvent::Up
    }

    fn offer(&mut self, token: Token, message: &Message, payload: Bytes) -> Result<(), Refused> {
        match &mut self.state {
            State::Up(link, _) => link.publish(token, message, payload),
            // The forwarder learns of the loss by the event that's due; the message is its own again then.
            _ => Ok(()),
        }
    }

    fn window(&self) -> usize {
        usize::from(self.config.window.max(1))
    }

    async fn close(&mut self) {
        let over = State::Waiting(Instant::now());
        if let State::Up(link, _) = std::mem::replace(&mut self.state, over) {
            link.close().await;
        }
    }
}
