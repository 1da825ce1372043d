//! The forwarder: owns a route's messages from the pipeline to the acknowledgement.
//!
//! It takes messages at once, whatever the far side does, so that polling never waits for the north; it sends the most
//! urgent first, settles what is late, remembers what is owed while the link is down, and accounts for what it has to
//! give up. `core` has the rules, this shell the waiting.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::core::Core;
use super::alarm::Alarm;
use super::{Sink, SinkEvent};
use crate::metrics::RouteMetrics;
use crate::model::clock;
use crate::model::message::Message;
use crate::store::{self, Handle, Opened};

mod account;
mod backlog;
mod core;
mod entry;
#[cfg(test)]
pub mod far_side;
#[cfg(test)]
mod law_tests;
mod live;
mod pace;
mod shelf;
mod status;
#[cfg(test)]
mod store_tests;

pub use live::LIVE_BYTES;

/// How long the forwarder keeps sending after it was told to stop (the whole program has 5 s to end).
pub const DRAIN_LIMIT: Duration = Duration::from_secs(3);
/// How long it waits after that for the PUBACK of the last status.
const FAREWELL_LIMIT: Duration = Duration::from_millis(500);
/// How long the store may take to write what it was told last.
const STORE_LIMIT: Duration = Duration::from_millis(500);
/// Messages taken from the pipeline at a time; between two of these, the far side gets its turn.
const ADMIT_BATCH: usize = 256;

/// What the forwarder of a route needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The site's name, for gap records.
    pub site: Arc<str>,
    /// The run that sequence numbers belong to, for gap records.
    pub epoch: u64,
    /// Bytes of messages that wait in memory while the broker is away; beyond it the oldest are shed and accounted for. What is
    /// in flight (at most the window) and what is before its deadline (at most 8 MiB) is not counted.
    pub backlog_bytes: usize,
    /// What is stored.
    pub durability: Durability,
    /// The store as it was opened, if there is one.
    pub opened: Option<Opened>,
    /// The last status to publish: the gateway is offline.
    pub offline: Option<Message>,
}

/// Which messages a route stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// All of them, as they come.
    #[default]
    Always,
    /// Those that miss their time, or are too many for memory.
    OnOutage,
    /// None.
    Off,
}

/// What remained unsettled when the forwarder stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Data messages that waited to be sent, and are not in the store.
    pub queued: usize,
    /// Data messages that were sent and not acknowledged, and are not in the store.
    pub in_flight: usize,
    /// Data messages in the backlog in memory alone.
    pub backlog: usize,
    /// Gap records that were not published or not acknowledged, and are not in the store.
    pub gap_records: usize,
    /// Data messages that the store has for the next run.
    pub stored: usize,
}

impl Summary {
    /// Was everything delivered, stored or accounted for?
    pub fn is_settled(&self) -> bool {
        *self == Self { stored: self.stored, ..Self::default() }
    }
}

/// Forwards messages until it's told to stop or their channel is closed; then drains for at most [`DRAIN_LIMIT`],
/// publishes the offline status, and says what remained.
pub async fn run<S: Sink>(
    mut sink: S,
    mut messages: mpsc::Receiver<Message>,
    mut store: Option<Handle>,
    settings: Settings,
    metrics: Arc<RouteMetrics>,
    stop: CancellationToken,
) -> Summary {
    let mut offline = settings.offline.clone();
    let mut core = Core::new(settings, metrics, Instant::now());
    let mut alarm = Alarm::new();
    let mut inbox = Vec::with_capacity(ADMIT_BATCH);
    let mut phase = Phase::Running;
    let mut open = true;
    loop {
        let now = Instant::now();
        core.believed = clock::believed();
        send(&mut core, &mut sink, now);
        if !phase.is_running() {
            sink.flush();
        }
        if let Some(store) = &store {
            core.shelf.take_ops().for_each(|op| store.tell(op));
            core.shelf.has_room = store.has_room();
        }
        core.show();
        if let Some(next) = phase.next(&core, open && !messages.is_empty(), now) {
            phase = next;
            match phase {
                Phase::Over => break,
                _ => offline.take().into_iter().for_each(|status| core.admit(status, now)),
            }
            continue;
        }
        let wake = [core.next_deadline(), phase.until()].into_iter().flatten().min();
        tokio::select! {
            count = messages.recv_many(&mut inbox, ADMIT_BATCH), if open => {
                open = count > 0;
                let now = Instant::now();
                inbox.drain(..).for_each(|message| core.admit(message, now));
                if !open {
                    phase.stop(&mut core, now);
                }
            }
            event = sink.event() => match event {
                SinkEvent::Acked(token) => core.acked(token, sink.window(), Instant::now()),
                SinkEvent::Refused(token, reason) => core.refused(token, &reason, Instant::now()),
                SinkEvent::Up => core.up(Instant::now()),
                SinkEvent::Down(_) => core.down(Instant::now()),
            },
            event = told(&mut store) => core.stored(event, Instant::now()),
            () = alarm.reached(wake) => core.expire(Instant::now()),
            () = stop.cancelled(), if phase.is_running() => phase.stop(&mut core, Instant::now()),
        }
    }
    sink.close().await;
    if let Some(store) = store {
        core.shelf.take_ops().for_each(|op| store.tell(op));
        if timeout(STORE_LIMIT, store.close()).await.is_err() {
            tracing::error!("the disk did not take the last messages in time");
        }
    }
    core.summary()
}

/// What the store says next.
async fn told(store: &mut Option<Handle>) -> store::Event {
    match store {
        Some(store) => store.event().await,
        None => std::future::pending().await,
    }
}

/// Offers what the window has room for.
fn send<S: Sink>(core: &mut Core, sink: &mut S, now: Instant) {
    while core.in_flight() < sink.window() {
        let Some(offer) = core.next(sink.window(), now) else { break };
        let token = offer.token;
        if let Err(refused) = sink.offer(token, offer.message, offer.payload) {
            core.refused(token, &refused.0, now);
        }
    }
}

/// How far the end has come.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Running,
    /// Sends what is owed.
    Draining(Instant),
    /// Waits for the PUBACK of the last status.
    Farewell(Instant),
    Over,
}

impl Phase {
    fn is_running(self) -> bool {
        matches!(self, Self::Running)
    }

    fn stop(&mut self, core: &mut Core, now: Instant) {
        if self.is_running() {
            core.end();
            *self = Self::Draining(now + DRAIN_LIMIT);
        }
    }

    fn until(self) -> Option<Instant> {
        match self {
            Self::Running | Self::Over => None,
            Self::Draining(until) | Self::Farewell(until) => Some(until),
        }
    }

    /// The phase that follows, once this one has ended.
    fn next(self, core: &Core, more: bool, now: Instant) -> Option<Self> {
        match self {
            Self::Draining(until) if now >= until || (!more && core.is_drained()) => {
                Some(if core.is_up() { Self::Farewell(now + FAREWELL_LIMIT) } else { Self::Over })
            }
            Self::Farewell(until) => {
                let said = core.in_flight() == 0 && !core.owes_statuses();
                (said || now >= until || !core.is_up()).then_some(Self::Over)
            }
            _ => None,
        }
    }
}
