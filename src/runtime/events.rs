//! What the log said last, for whoever asks the running gateway: the log has state changes only, so these are its events.
//!
//! - At most [`KEPT`], the oldest goes; each of at most [`LONGEST`] letters, what is longer is cut.
//! - Nothing below `INFO`, and nothing that the log's own filter leaves out.

use std::collections::VecDeque;
use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tracing::field::{Field, Visit};
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::model::time::Stamp;

/// Events that are remembered.
const KEPT: usize = 64;
/// Letters of an event's text.
const LONGEST: usize = 240;

/// The last events; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Events(Arc<Mutex<VecDeque<Event>>>);

#[derive(Debug)]
struct Event {
    at: Stamp,
    level: Level,
    text: String,
}

impl Events {
    /// `[{at, level: "info" | "warn" | "error", text}]`, the newest last.
    pub fn json(&self) -> Value {
        let told = |Event { at, level, text }: &Event| json!({"at": at.to_string(), "level": level.as_str().to_lowercase(), "text": text});
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(told).collect()
    }

    fn add(&self, event: Event) {
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if events.len() >= KEPT {
            events.pop_front();
        }
        events.push_back(event);
    }
}

impl<S: Subscriber> Layer<S> for Events {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let level = *event.metadata().level();
        if level > Level::INFO {
            return;
        }
        let mut words = Words::default();
        event.record(&mut words);
        let mut text = words.message + &words.fields;
        if let Some((end, _)) = text.char_indices().nth(LONGEST) {
            text.truncate(end);
            text.push('…');
        }
        self.add(Event { at: Stamp::now(), level, text });
    }
}

/// An event as the log writes it: the message, then the fields.
#[derive(Default)]
struct Words {
    message: String,
    fields: String,
}

impl Visit for Words {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt as _;

    #[test]
    fn what_was_logged_last_is_told_and_not_more() {
        let events = Events::default();
        let subscriber = tracing_subscriber::registry().with(events.clone());
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..KEPT {
                tracing::info!(number, "link up");
            }
            tracing::debug!("chatter");
            tracing::warn!(device = %"oven", reason = "ä".repeat(LONGEST), "device offline");
        });
        let told = events.json();
        let told = told.as_array().unwrap();
        assert_eq!(told.len(), KEPT);
        assert_eq!((&told[0]["text"], &told[0]["level"]), (&json!("link up number=1"), &json!("info")));
        let last = told[KEPT - 1]["text"].as_str().unwrap();
        assert!(last.starts_with("device offline device=oven reason=ää") && last.ends_with("ä…"), "{last}");
        assert_eq!(last.chars().count(), LONGEST + 1);
    }
}
