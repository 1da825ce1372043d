//! The broker, met by a client that isn't ours.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, LastWill, MqttOptions, Packet, Publish, PublishOptions,
    QoS,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;

const SOON: Duration = Duration::from_secs(10);

async fn start() -> (SocketAddr, Arc<Faults>, DropGuard) {
    let broker = Broker::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (address, faults, stop) = (broker.local_addr(), broker.faults(), CancellationToken::new());
    tokio::spawn(broker.run(stop.clone()));
    (address, faults, stop.drop_guard())
}

struct Peer {
    client: AsyncClient,
    events: EventLoop,
}

impl Peer {
    fn new(address: SocketAddr, name: &str, will: Option<LastWill>) -> Self {
        let mut options = MqttOptions::new(name, (address.ip().to_string(), address.port()));
        if let Some(will) = will {
            options.set_last_will(will);
        }
        let (client, events) = AsyncClient::builder(options).capacity(10_000).build();
        Self { client, events }
    }

    async fn connected(address: SocketAddr, name: &str, will: Option<LastWill>) -> Self {
        let mut peer = Self::new(address, name, will);
        peer.until(|packet| matches!(packet, Packet::ConnAck(_))).await;
        peer
    }

    async fn until(&mut self, wanted: impl Fn(&Packet) -> bool) -> Packet {
        let found = async {
            loop {
                if let Event::Incoming(packet) = self.events.poll().await.expect("the connection holds")
                    && wanted(&packet)
                {
                    return packet;
                }
            }
        };
        timeout(SOON, found).await.expect("in time")
    }

    async fn subscribe(&mut self, filter: &str, qos: QoS) {
        self.client.subscribe(filter, qos).await.unwrap();
        self.until(|packet| matches!(packet, Packet::SubAck(_))).await;
    }

    async fn publish(&mut self, topic: &str, payload: &str, qos: QoS, retain: bool) {
        let options = PublishOptions::new(qos).retain(retain);
        self.client.publish(topic, payload, options).await.unwrap();
        if qos == QoS::AtMostOnce {
            // The ping's answer comes after what was sent before it was taken.
            return self.flush().await;
        }
        self.until(|packet| matches!(packet, Packet::PubAck(_))).await;
    }

    async fn flush(&mut self) {
        self.subscribe("flush", QoS::AtMostOnce).await;
    }

    async fn message(&mut self) -> Publish {
        match self.until(|packet| matches!(packet, Packet::Publish(_))).await {
            Packet::Publish(publish) => publish,
            _ => unreachable!(),
        }
    }

    async fn text(&mut self) -> (String, String) {
        let publish = self.message().await;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&publish.topic), text(&publish.payload))
    }
}

#[tokio::test]
async fn other_machines_are_not_served() {
    let error = Broker::bind("0.0.0.0:0".parse().unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[tokio::test]
async fn subscribers_get_what_their_filters_match() {
    let (address, _, _stop) = start().await;
    let mut publisher = Peer::connected(address, "p", None).await;
    let mut plus = Peer::connected(address, "s1", None).await;
    let mut hash = Peer::connected(address, "s2", None).await;
    plus.subscribe("a/+/c", QoS::AtLeastOnce).await;
    hash.subscribe("a/#", QoS::AtMostOnce).await;
    publisher.publish("a/b", "1", QoS::AtLeastOnce, false).await;
    publisher.publish("x/b/c", "2", QoS::AtLeastOnce, false).await;
    publisher.publish("a/b/c", "3", QoS::AtMostOnce, false).await;
    publisher.publish("a/b/c", "4", QoS::AtLeastOnce, false).await;
    assert_eq!(plus.text().await, ("a/b/c".into(), "3".into()));
    assert_eq!(plus.message().await.qos, QoS::AtLeastOnce);
    for (topic, payload) in [("a/b", "1"), ("a/b/c", "3"), ("a/b/c", "4")] {
        let got = hash.message().await;
        assert_eq!((&got.topic[..], &got.payload[..]), (topic.as_bytes(), payload.as_bytes()));
        assert_eq!(got.qos, QoS::AtMostOnce, "the lower of both");
    }
}

#[tokio::test]
async fn retained_messages_greet_new_subscribers() {
    let (address, _, _stop) = start().await;
    let mut publisher = Peer::connected(address, "p", None).await;
    for (topic, payload) in [("a", "old"), ("a", "new"), ("b", "gone"), ("b", "")] {
        publisher.publish(topic, payload, QoS::AtLeastOnce, true).await;
    }
    let mut subscriber = Peer::connected(address, "s", None).await;
    subscriber.client.subscribe("#", QoS::AtLeastOnce).await.unwrap();
    let first = subscriber.message().await;
    assert_eq!((&first.payload[..], first.retain), (&b"new"[..], true));
    publisher.publish("b", "live", QoS::AtLeastOnce, true).await;
    let second = subscriber.message().await;
    assert_eq!((&second.payload[..], second.retain), (&b"live"[..], false));
}

#[tokio::test]
async fn the_will_of_a_client_that_vanishes_is_published() {
    let (address, _, _stop) = start().await;
    let mut watcher = Peer::connected(address, "w", None).await;
    watcher.subscribe("will/#", QoS::AtLeastOnce).await;
    let will = |name: &str| Some(LastWill::new(format!("will/{name}"), "offline", QoS::AtLeastOnce, true));
    let mut polite = Peer::connected(address, "polite", will("polite")).await;
    polite.client.disconnect().await.unwrap();
    while polite.events.poll().await.is_ok() {}
    drop(Peer::connected(address, "rude", will("rude")).await);
    assert_eq!(watcher.text().await, ("will/rude".into(), "offline".into()));
}

#[tokio::test]
async fn a_second_client_of_the_same_name_replaces_the_first() {
    let (address, _, _stop) = start().await;
    let mut first = Peer::connected(address, "twin", None).await;
    let _second = Peer::connected(address, "twin", None).await;
    let ended = timeout(SOON, async { while first.events.poll().await.is_ok() {} }).await;
    assert!(ended.is_ok());
}

#[tokio::test]
async fn a_silent_client_is_left_after_its_keep_alive() {
    let (address, _, _stop) = start().await;
    let mut socket = TcpStream::connect(address).await.unwrap();
    // CONNECT, protocol MQTT level 4, clean session, keep-alive 1 s, client identifier "x".
    socket.write_all(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x01\x00\x01x").await.unwrap();
    let mut all = Vec::new();
    let end = timeout(SOON, socket.read_to_end(&mut all)).await;
    assert!(end.is_ok());
    assert_eq!(all, [0x20, 2, 0, 0]);
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_is_disconnected() {
    let (address, _, _stop) = start().await;
    let mut publisher = Peer::connected(address, "p", None).await;
    let mut slow = Peer::connected(address, "slow", None).await;
    slow.subscribe("t", QoS::AtMostOnce).await;
    // More than its queue and the sockets' buffers hold.
    let payload = "x".repeat(8 << 10);
    for _ in 0..2 * router::SUBSCRIBER_QUEUE / 64 {
        for _ in 0..64 {
            let options = PublishOptions::at_least_once();
            publisher.client.publish("t", payload.as_str(), options).await.unwrap();
        }
        for _ in 0..64 {
            publisher.until(|packet| matches!(packet, Packet::PubAck(_))).await;
        }
    }
    let ended = timeout(SOON, async { while slow.events.poll().await.is_ok() {} }).await;
    assert!(ended.is_ok());
}

#[tokio::test]
async fn a_refused_client_is_told_why() {
    let (address, faults, _stop) = start().await;
    faults.refuse.store(true, Relaxed);
    let mut peer = Peer::new(address, "p", None);
    let error = timeout(SOON, peer.events.poll()).await.unwrap().unwrap_err();
    let ConnectionError::ConnectionRefused(code) = error else { panic!("{error}") };
    assert_eq!(code, rumqttc::ConnectReturnCode::ServiceUnavailable);
}
