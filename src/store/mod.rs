//! What has to survive an outage, a crash and a power cut: a route's messages on disk, until they are delivered.
//!
//! The forwarder owns the rules and gives every message its position; the store does as it's told, in the order that
//! it's told, on a thread of its own ([`serve`]), so that nobody ever waits for a disk.
//!
//! - `format` is the specification of the files;
//! - `disk` the few things that are asked of a file system, `segment` reads one file, `log` writes them;
//! - `ledger` (pure) knows what became of each position.
//!
//! Words: a message is *accepted* when write(2) has returned (it survives the process), *durable* when an fdatasync after
//! that has (it survives a power cut; at most [`Settings::sync`] later).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::budget::OnLate;
use crate::model::clock::Standing;
use crate::model::gaps::{Gap, GapId};

pub mod disk;
pub mod format;
pub mod inspect;
mod ledger;
mod log;
#[cfg(test)]
mod log_tests;
#[cfg(any(test, fuzzing))]
#[allow(clippy::unwrap_used)]
pub mod memory;
mod segment;
mod thread;

pub use log::{Log, Opened};
pub use thread::serve;

/// Bytes of messages that may wait for the disk. Beyond it messages are not stored but only kept in memory: the disk
/// stands still, or is slower than what comes in.
pub const PENDING_BYTES: usize = 4 << 20;
/// What a message costs while it waits for the disk, besides its payload.
const PENDING_OVERHEAD: usize = 256;

/// What a store is told by the site file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes on disk, all files together.
    pub size: u64,
    /// How old a message may get; none: as old as it may.
    pub age: Option<Duration>,
    /// How long a message may be accepted and not durable. Zero: each write is followed by its fdatasync.
    pub sync: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { size: 256 << 20, age: None, sync: Duration::from_secs(1) }
    }
}

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk says no.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Another process has it open.
    #[error("another gateway has it open")]
    InUse,
    /// A later program wrote it. It is left alone.
    #[error("{file} has format version {version}, this program knows {}", format::VERSION)]
    Version {
        /// The file.
        file: String,
        /// What it says.
        version: u32,
    },
}

/// A message as it's stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its place in the order of admission; ever higher, across restarts too.
    pub position: u64,
    /// The run that it was sampled in.
    pub epoch: u64,
    /// Its sequence number.
    pub seq: u64,
    /// When it was admitted: milliseconds since 1970-01-01T00:00:00Z by the clock of then.
    pub at: i64,
    /// Where that clock stood, if it may have been wrong.
    pub doubted: Option<Standing>,
    /// What becomes of it when it's late.
    pub late: OnLate,
    /// The device.
    pub device: Arc<str>,
    /// Where it goes.
    pub topic: Arc<str>,
    /// JSON, without marks.
    pub payload: Bytes,
}

/// How a message that is read back was sent before, or would be: a repetition has the same bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// With `"replayed":true`.
    pub replayed: bool,
    /// With `"late_ms"`.
    pub late_ms: Option<u64>,
    /// What became of a time stamp that may be wrong, once that's decided.
    pub stamp: Option<Restamp>,
}

/// What becomes of a time stamp that may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restamp {
    /// It's sent as it is, with `"clock":"unsynced"`.
    Unsynced,
    /// It's sent moved by so many milliseconds.
    Moved(i64),
}

/// What the forwarder tells its store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Keep this. Positions come in ascending order.
    Append(Stored),
    /// Delivered: positions `from..=to`.
    Settled(u64, u64),
    /// The forwarder has forgotten this one, and wants it back when it reads. It's to be marked as replayed.
    Released(u64),
    /// The forwarder sends this one with these marks out of its memory.
    Marked(u64, Marks),
    /// These numbers will never arrive: a gap record is owed for them. The position, if the message is stored.
    GivenUp(Option<u64>, Gap),
    /// The far side has acknowledged a gap record.
    GapPublished(GapId),
    /// Hand out what comes next of that which was released, or was found at the start: about so many bytes.
    Read(usize),
    /// Everything up to this position may be forgotten: the forwarder holds none of it. The answer to [`Event::Shed`].
    Shed(u64),
    /// A message that the far side will never take, for the dead letters, and why.
    DeadLetter(Stored, String),
}

/// What a store tells its forwarder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Everything that was to be appended below this position is accepted.
    Accepted(u64),
    /// The store has been read through: so many messages of earlier runs wait in it, and these gaps are owed.
    Recovered {
        /// Messages that can be read.
        messages: usize,
        /// Gaps whose records were not acknowledged.
        gaps: Vec<Gap>,
    },
    /// What [`Op::Read`] asked for, in order.
    Block {
        /// The messages, and how they are to be sent.
        messages: Vec<(Stored, Marks)>,
        /// What was to be read below this position has been handed out.
        end: u64,
    },
    /// The store had to give up messages that it alone had.
    GivenUp {
        /// Their sequence numbers.
        gaps: Vec<Gap>,
        /// How many of them would have been read.
        messages: usize,
    },
    /// The store is full, or its oldest messages are too old: the forwarder is to give up what it holds of them too.
    Shed {
        /// The highest position that has to go.
        upto: u64,
        /// Why, as gap records say it.
        reason: &'static str,
    },
}

/// The forwarder's end of a store.
#[derive(Debug)]
pub struct Handle {
    ops: mpsc::UnboundedSender<Op>,
    events: mpsc::UnboundedReceiver<Event>,
    pending: Arc<AtomicUsize>,
    gone: bool,
}

/// The store's end of it, for [`serve`].
#[derive(Debug)]
pub struct Ends {
    ops: mpsc::UnboundedReceiver<Op>,
    events: mpsc::UnboundedSender<Event>,
    pending: Arc<AtomicUsize>,
}

/// A forwarder and a store that are connected.
pub fn connected() -> (Handle, Ends) {
    // Bounded by `PENDING_BYTES` and by what the forwarder asks for.
    let (ops, to_store) = mpsc::unbounded_channel();
    let (from_store, events) = mpsc::unbounded_channel();
    let pending = Arc::new(AtomicUsize::new(0));
    let handle = Handle { ops, events, pending: Arc::clone(&pending), gone: false };
    (handle, Ends { ops: to_store, events: from_store, pending })
}

impl Handle {
    /// Does the disk keep up?
    pub fn has_room(&self) -> bool {
        !self.gone && self.pending.load(Relaxed) < PENDING_BYTES
    }

    /// Tells the store.
    pub fn tell(&self, op: Op) {
        self.pending.fetch_add(op.bytes(), Relaxed);
        // A store that has ended stores nothing; the forwarder learns of it by `event`.
        let _ = self.ops.send(op);
    }

    /// What the store says next. May be dropped at any moment.
    pub async fn event(&mut self) -> Event {
        if !self.gone {
            if let Some(event) = self.events.recv().await {
                return event;
            }
            tracing::error!("the store has ended; messages are kept in memory only");
            self.gone = true;
        }
        std::future::pending().await
    }

    /// Ends the store: returns when everything it was told is written and synced.
    pub async fn close(self) {
        let Self { ops, mut events, .. } = self;
        drop(ops);
        while events.recv().await.is_some() {}
    }
}

impl Op {
    /// What it costs while it waits.
    fn bytes(&self) -> usize {
        match self {
            Self::Append(stored) | Self::DeadLetter(stored, _) => stored.payload.len() + PENDING_OVERHEAD,
            _ => 0,
        }
    }
}
