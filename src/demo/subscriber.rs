//! Hears everything that is published at a broker, as any subscriber would.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};
use tokio::time::sleep;

/// Requests waiting for the link: one subscription per connect.
const REQUESTS: usize = 10;
/// Rest before the broker is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// A subscriber to all topics. It connects when it's first waited for, and again when the link drops.
pub struct Subscriber {
    client: AsyncClient,
    link: EventLoop,
}

impl Subscriber {
    /// A subscriber at this broker.
    pub fn new(broker: SocketAddr) -> Self {
        let options = MqttOptions::new("taktbus-viewer", (broker.ip().to_string(), broker.port()));
        let (client, link) = AsyncClient::builder(options).capacity(REQUESTS).build();
        Self { client, link }
    }

    /// The next message's payload.
    pub async fn next(&mut self) -> Bytes {
        loop {
            match self.link.poll().await {
                Ok(Event::Incoming(Packet::Publish(publish))) => return publish.payload,
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    // Fails only when the queue is full of subscriptions that wait already.
                    let _ = self.client.try_subscribe("#", QoS::AtMostOnce);
                }
                Ok(_) => {}
                Err(_) => sleep(RETRY).await,
            }
        }
    }
}
