//! Who gets what: subscriptions, retained messages, wills.

use std::collections::BTreeMap;

use rumqttc::{LastWill, Publish, QoS, matches};
use tokio::sync::mpsc;

/// Messages that wait for one subscriber; one that falls further behind is disconnected.
pub(super) const SUBSCRIBER_QUEUE: usize = 4096;
/// Topics with a retained message; messages of further topics are delivered and not retained.
const RETAINED_TOPICS: usize = 16_384;
/// Filters of one client; further ones are ignored.
const FILTERS: usize = 256;

/// What a client's session tells the router.
#[derive(Debug)]
pub(super) enum Command {
    /// A client has connected.
    Connect {
        id: u64,
        name: String,
        will: Option<LastWill>,
        /// Closed by the router to end the session.
        queue: mpsc::Sender<Publish>,
    },
    /// It wants messages of this filter.
    Subscribe { id: u64, filter: String, qos: QoS },
    /// It doesn't any more.
    Unsubscribe { id: u64, filter: String },
    /// It publishes.
    Publish(Publish),
    /// It has gone: with DISCONNECT, or without, and then its will is published.
    Gone { id: u64, farewell: bool },
}

/// Owns all that clients share.
#[derive(Debug, Default)]
pub(super) struct Router {
    clients: BTreeMap<u64, Client>,
    retained: BTreeMap<String, Publish>,
}

#[derive(Debug)]
struct Client {
    name: String,
    will: Option<LastWill>,
    queue: mpsc::Sender<Publish>,
    filters: Vec<(String, QoS)>,
}

impl Router {
    /// Obeys commands until all clients and the listener have gone.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(command) = commands.recv().await {
            self.obey(command);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Connect { id, name, will, queue } => {
                let before = self.clients.iter().find(|(_, client)| client.name == name).map(|(id, _)| *id);
                if let Some(before) = before {
                    self.gone(before, false);
                }
                self.clients.insert(id, Client { name, will, queue, filters: Vec::new() });
            }
            Command::Subscribe { id, filter, qos } => self.subscribe(id, filter, qos),
            Command::Unsubscribe { id, filter } => {
                if let Some(client) = self.clients.get_mut(&id) {
                    client.filters.retain(|(f, _)| *f != filter);
                }
            }
            Command::Publish(publish) => self.publish(publish),
            Command::Gone { id, farewell } => self.gone(id, farewell),
        }
    }

    fn subscribe(&mut self, id: u64, filter: String, qos: QoS) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.filters.retain(|(f, _)| *f != filter);
        if client.filters.len() >= FILTERS {
            return;
        }
        for (topic, publish) in &self.retained {
            if matches(topic, &filter) {
                let mut publish = publish.clone();
                publish.qos = lower(publish.qos, qos);
                // A client that can't take the retained ones will not take the next one either, and is dropped then.
                let _ = client.queue.try_send(publish);
            }
        }
        client.filters.push((filter, qos));
    }

    fn publish(&mut self, mut publish: Publish) {
        let Ok(topic) = String::from_utf8(publish.topic.to_vec()) else { return };
        publish.dup = false;
        if publish.retain {
            self.retain(topic.clone(), &publish);
        }
        // Retain tells a new subscriber that the message is an old one (MQTT 3.1.1, 3.3.1.3).
        publish.retain = false;
        let mut behind = Vec::new();
        for (id, client) in &self.clients {
            let wanted = client.filters.iter().filter(|(filter, _)| matches(&topic, filter));
            let Some(qos) = wanted.map(|(_, qos)| *qos).max_by_key(|qos| *qos as u8) else { continue };
            let mut publish = publish.clone();
            publish.qos = lower(publish.qos, qos);
            if client.queue.try_send(publish).is_err() {
                behind.push(*id);
            }
        }
        for id in behind {
            self.gone(id, false);
        }
    }

    fn retain(&mut self, topic: String, publish: &Publish) {
        if publish.payload.is_empty() {
            self.retained.remove(&topic);
        } else if self.retained.len() < RETAINED_TOPICS || self.retained.contains_key(&topic) {
            self.retained.insert(topic, publish.clone());
        }
    }

    fn gone(&mut self, id: u64, farewell: bool) {
        let Some(client) = self.clients.remove(&id) else { return };
        if let Some(will) = client.will.filter(|_| !farewell) {
            let mut publish = Publish::from_bytes(will.topic, will.qos, will.message);
            publish.retain = will.retain;
            self.publish(publish);
        }
    }
}

fn lower(a: QoS, b: QoS) -> QoS {
    if (a as u8) < (b as u8) { a } else { b }
}
