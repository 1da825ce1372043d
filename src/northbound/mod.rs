//! Northbound: the seam between the forwarder, which owns the messages, and a protocol, which carries them.

use bytes::Bytes;

use crate::model::message::Message;

mod alarm;
mod backoff;
pub mod forwarder;
pub mod http;
pub mod mqtt;
pub mod tls;

/// Names a message between offer and acknowledgement. The forwarder gives them out.
pub type Token = u64;

/// What happened on the far side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkEvent {
    /// The link is up: offers are taken.
    Up,
    /// The far side has acknowledged this message (PUBACK, 2xx).
    Acked(Token),
    /// The far side will never take this message, and why. The others go on.
    Refused(Token, String),
    /// The link is down. What was offered and not acknowledged is the forwarder's again: the sink has forgotten it.
    Down(String),
}

/// The sink will never take this message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// One route's way north. It holds no messages but those in flight, and reconnects by itself.
pub trait Sink {
    /// Waits for the next event. May be dropped at any moment without losing one.
    fn event(&mut self) -> impl Future<Output = SinkEvent>;

    /// Sends a message; only while up, and with at most [`Sink::window`] of them unacknowledged.
    /// `payload` is what to send in place of the message's own (the same, plus marks).
    fn offer(&mut self, token: Token, message: &Message, payload: Bytes) -> Result<(), Refused>;

    /// How many unacknowledged messages the far side may have, at present.
    fn window(&self) -> usize;

    /// No more messages are to be waited for: what is held back for them leaves now.
    fn flush(&mut self) {}

    /// Says goodbye to the far side, in bounded time; the sink is not used afterwards.
    fn close(&mut self) -> impl Future<Output = ()>;
}
