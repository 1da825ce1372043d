//! Retained statuses: only the newest of a topic matters, and the broker is told all of them each time the link comes
//! up, since the last will has overwritten one and a broker without persistence has forgotten the others.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::model::message::Message;

/// Topics with a status: one per device and one of the gateway. A message of one topic more is refused.
const STATUS_TOPICS: usize = 1 << 16;

/// The newest status of each topic.
#[derive(Debug, Default)]
pub(super) struct Statuses {
    newest: BTreeMap<Arc<str>, (Message, bool)>,
    waiting: VecDeque<Arc<str>>,
}

impl Statuses {
    /// Takes a status in place of the topic's last one; says `false` when there are too many topics.
    pub fn put(&mut self, message: Message) -> bool {
        let topic = Arc::clone(&message.topic);
        if let Some((newest, waits)) = self.newest.get_mut(&topic) {
            *newest = message;
            if !std::mem::replace(waits, true) {
                self.waiting.push_back(topic);
            }
            return true;
        }
        if self.newest.len() >= STATUS_TOPICS {
            return false;
        }
        self.newest.insert(Arc::clone(&topic), (message, true));
        self.waiting.push_back(topic);
        true
    }

    /// The link came up: everything is to be sent again.
    pub fn restart(&mut self) {
        self.waiting = self.newest.keys().map(Arc::clone).collect();
        self.newest.values_mut().for_each(|(_, waits)| *waits = true);
    }

    /// The next one to send.
    pub fn pop(&mut self) -> Option<Message> {
        let topic = self.waiting.pop_front()?;
        let (message, waits) = self.newest.get_mut(&topic)?;
        *waits = false;
        Some(message.clone())
    }

    /// How many wait to be sent.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::message::Kind;

    fn status(topic: &str, payload: &'static str) -> Message {
        Message {
            topic: topic.into(),
            payload: Bytes::from_static(payload.as_bytes()),
            retain: true,
            kind: Kind::Status,
        }
    }

    fn sent(statuses: &mut Statuses) -> Vec<String> {
        std::iter::from_fn(|| statuses.pop())
            .map(|m| format!("{} {}", m.topic, String::from_utf8_lossy(&m.payload)))
            .collect()
    }

    #[test]
    fn only_the_newest_of_a_topic_is_sent() {
        let mut statuses = Statuses::default();
        for (topic, payload) in [("a", "1"), ("b", "1"), ("a", "2")] {
            assert!(statuses.put(status(topic, payload)));
        }
        assert_eq!(sent(&mut statuses), ["a 2", "b 1"]);
        assert!(statuses.put(status("b", "2")));
        assert_eq!(sent(&mut statuses), ["b 2"]);
    }

    #[test]
    fn all_are_sent_again_when_the_link_comes_up() {
        let mut statuses = Statuses::default();
        assert!(statuses.put(status("b", "1")));
        assert!(statuses.put(status("a", "1")));
        assert_eq!(sent(&mut statuses), ["b 1", "a 1"]);
        assert!(statuses.put(status("b", "2")));
        statuses.restart();
        assert_eq!(sent(&mut statuses), ["a 1", "b 2"]);
    }
}
