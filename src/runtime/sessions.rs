//! The tasks of the connections: each is started, restarted after a panic, and ended by itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::gateway::Connection;
use super::supervisor::keep;
use crate::drivers::{self, Kept};
use crate::mapping::batch::Event;

/// The longest that sessions may take to end after a stop; a little more than [`STOP_WITHIN`](crate::drivers::session::STOP_WITHIN). With the
/// pipeline's and the forwarders' limits it makes less than 5 s.
const SESSIONS_STOP: Duration = Duration::from_millis(1_000);

/// The tasks of the connections.
pub struct Sessions {
    events: mpsc::Sender<Event>,
    kept: Kept,
    stop: CancellationToken,
    tasks: HashMap<Arc<str>, (CancellationToken, AbortOnDropHandle<()>)>,
}

impl Sessions {
    /// None yet.
    pub fn new(events: mpsc::Sender<Event>, kept: Kept) -> Self {
        Self { events, kept, stop: CancellationToken::new(), tasks: HashMap::new() }
    }

    /// Starts a connection's life.
    pub fn start(&mut self, connection: &Connection) {
        let (events, stop, kept) = (self.events.clone(), self.stop.child_token(), self.kept.clone());
        let (running, metrics) = (connection.running(), connection.metrics.clone());
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let life =
                || drivers::run(running.clone(), metrics.clone(), events.clone(), stop.clone(), kept.clone());
            keep(&metrics.name, &metrics.restarts, &stop, life).await;
        });
        self.tasks.insert(connection.metrics.name.clone(), (stopped, AbortOnDropHandle::new(task)));
    }

    /// Returns when a connection has let go of its link.
    pub async fn stop(&mut self, name: &str) {
        let Some((stop, task)) = self.tasks.remove(name) else { return };
        stop.cancel();
        cut_off(name, task, Instant::now() + SESSIONS_STOP).await;
    }

    /// Ends them all, and lets go of the pipeline.
    pub async fn end(self) {
        self.stop.cancel();
        let until = Instant::now() + SESSIONS_STOP;
        for (name, (_, task)) in self.tasks {
            cut_off(&name, task, until).await;
        }
    }
}

/// A session's task ends by itself when it's stopped, or is ended.
async fn cut_off(name: &str, task: AbortOnDropHandle<()>, until: Instant) {
    if timeout_at(until, task).await.is_err() {
        tracing::warn!(connection = name, "a connection did not end in time and is cut off");
    }
}
