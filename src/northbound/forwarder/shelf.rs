//! The forwarder's view of its store: what is in there, and what it is to be told. Pure.
//!
//! A message that is stored has a position. The forwarder holds it, or has released it; what is released comes back in blocks, by
//! position, and never from below the cursor: what is late there stays in memory.

use std::sync::Arc;

use super::Durability;
use super::entry::Entry;
use crate::budget::OnLate;
use crate::model::clock;
use crate::model::message::Message;
use crate::store::format::MOST_BODY;
use crate::store::{Marks, Op, Opened, Stored};

/// Bytes that are asked for at once, and how few of them are left when the next are.
const BLOCK: usize = 256 << 10;
/// What a record has besides a message's texts and payload, at most.
const RECORD_OVERHEAD: usize = 64;

/// What is known of the store.
#[derive(Debug)]
pub(super) struct Shelf {
    durability: Durability,
    /// The position that the next message gets.
    next: u64,
    /// Below it everything is accepted.
    accepted: u64,
    /// Below it nothing is handed out any more.
    cursor: u64,
    /// Messages that are to be handed out.
    waiting: usize,
    /// Of these, what was released since the store was asked last.
    since: usize,
    reading: bool,
    /// Is it known what was there from before?
    is_recovered: bool,
    /// Does the disk keep up?
    pub has_room: bool,
    /// What must be given up, and why.
    pub shed: Option<(u64, &'static str)>,
    /// Below it the store has given up everything.
    shed_below: u64,
    ops: Vec<Op>,
}

impl Shelf {
    /// A store that was opened, or none.
    pub fn new(durability: Durability, opened: Option<Opened>) -> Self {
        let next = opened.map_or(0, |opened| opened.next);
        let durability = if opened.is_some() { durability } else { Durability::Off };
        Self {
            durability,
            next,
            accepted: next,
            cursor: 0,
            waiting: 0,
            since: 0,
            reading: false,
            is_recovered: false,
            has_room: true,
            shed: None,
            shed_below: 0,
            ops: Vec::new(),
        }
    }

    /// What the store is to be told, in order.
    pub fn take_ops(&mut self) -> std::vec::Drain<'_, Op> {
        self.ops.drain(..)
    }

    /// Is there a store?
    pub fn is_there(&self) -> bool {
        self.durability != Durability::Off
    }

    /// Is a message stored as soon as it comes?
    pub fn stores_all(&self) -> bool {
        self.durability == Durability::Always
    }

    /// The position of the next message that is stored.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Has the store a message, whatever happens to this process?
    pub fn has(&self, entry: &Entry) -> bool {
        entry.position.is_some_and(|position| position < self.accepted)
    }

    /// Below this position nothing is handed out any more.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Messages that are to be handed out.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Stores a message. `None`: it can't be, now.
    pub fn append(&mut self, message: &Message) -> Option<u64> {
        let stored = stored(message, self.next)?;
        let bytes = stored.payload.len() + stored.device.len() + stored.topic.len() + RECORD_OVERHEAD;
        if !self.is_there() || !self.has_room || bytes > MOST_BODY {
            return None;
        }
        self.next += 1;
        let position = stored.position;
        self.ops.push(Op::Append(stored));
        Some(position)
    }

    /// The store has it and hands it out later: says whether the forwarder may forget it.
    pub fn release(&mut self, entry: &Entry) -> bool {
        let Some(position) = entry.position.filter(|position| *position >= self.cursor) else { return false };
        if position >= self.accepted {
            return false;
        }
        self.ops.push(Op::Released(position));
        self.waiting += 1;
        self.since += 1;
        true
    }

    /// Everything below is accepted. Says from where on that's news.
    pub fn accepted(&mut self, below: u64) -> u64 {
        let below = below.max(self.accepted);
        std::mem::replace(&mut self.accepted, below)
    }

    /// It's known what was there from before.
    pub fn recovered(&mut self, messages: usize) {
        self.waiting += messages;
        self.is_recovered = true;
    }

    /// A block came.
    pub fn came(&mut self, messages: usize, end: u64) {
        self.reading = false;
        self.cursor = self.cursor.max(end);
        self.waiting = self.waiting.saturating_sub(messages);
        if messages == 0 {
            // What else was believed to be there is not.
            self.waiting = self.waiting.min(self.since);
        }
    }

    /// The store has given up messages that it alone had.
    pub fn lost(&mut self, messages: usize) {
        self.waiting = self.waiting.saturating_sub(messages);
    }

    /// Asks for more when so little is left in memory.
    pub fn read_ahead(&mut self, bytes_left: usize) {
        if self.waiting > 0 && self.is_recovered && !self.reading && bytes_left < BLOCK {
            self.reading = true;
            self.since = 0;
            self.ops.push(Op::Read(BLOCK));
        }
    }

    /// Nothing is held any more up to here: the store gives up what it has of it.
    pub fn let_go(&mut self, upto: u64) {
        self.shed = None;
        self.shed_below = upto + 1;
        self.tell(Op::Shed(upto));
    }

    /// Below this position the store has given up everything.
    pub fn shed_below(&self) -> u64 {
        self.shed_below
    }

    /// Tells the store something, if there is one.
    pub fn tell(&mut self, op: Op) {
        if self.is_there() {
            self.ops.push(op);
        }
    }

    /// A stored message is settled.
    pub fn settled(&mut self, position: u64) {
        match self.ops.last_mut() {
            Some(Op::Settled(_, to)) if *to + 1 == position => *to = position,
            _ => self.ops.push(Op::Settled(position, position)),
        }
    }

    /// A stored message leaves memory for the far side with marks: should it have to be repeated after a crash, it has them again.
    pub fn marked(&mut self, position: u64, marks: Marks) {
        self.ops.push(Op::Marked(position, marks));
    }
}

/// What is kept of a data message.
pub(super) fn stored(message: &Message, position: u64) -> Option<Stored> {
    let crate::model::message::Kind::Data(sampled) = &message.kind else { return None };
    Some(Stored {
        position,
        epoch: sampled.epoch,
        seq: sampled.seq,
        at: clock::steady_millis(),
        doubted: sampled.doubted,
        late: sampled.late,
        device: Arc::clone(&sampled.device.name),
        topic: Arc::clone(&message.topic),
        payload: message.payload.clone(),
    })
}

/// Does it come back as something that must not be late? It's late by then.
pub(super) fn is_overdue(stored: &Stored) -> bool {
    stored.late == OnLate::Drop
}
