//! A far side for tests in simulated time: there at times, slow with its acknowledgements, and it remembers everything.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use crate::model::message::{Kind, Message};
use crate::northbound::{Refused, Sink, SinkEvent, Token};

/// Unacknowledged messages that it takes.
const WINDOW: usize = 8;

/// What arrived, or was acknowledged: the epoch of the run that sent it, when, and the payload; in order.
pub type Seen = Arc<Mutex<Vec<(u64, Instant, Bytes)>>>;

/// A far side during one run.
pub struct FarSide {
    run: u64,
    arrived: Seen,
    acked: Seen,
    /// When it comes and goes, in turn.
    turns: VecDeque<Instant>,
    up: bool,
    latency: Duration,
    open: VecDeque<(Instant, Token, Option<Bytes>)>,
}

impl FarSide {
    /// During the run of this epoch: away and there in turn for so many milliseconds each, away at first; each acknowledgement takes `latency`.
    /// In the last run it ends by being there. What arrives and what it acknowledges goes into `arrived` and `acked`, statuses not.
    pub fn new(run: u64, turns: &[u64], latency: u64, last: bool, (arrived, acked): (Seen, Seen)) -> Self {
        let mut at = Instant::now();
        let turns = turns.iter().map(|ms| {
            at += Duration::from_millis(*ms);
            at
        });
        let mut turns: VecDeque<Instant> = turns.collect();
        if last && turns.len().is_multiple_of(2) {
            turns.push_back(at + Duration::from_millis(50));
        }
        let latency = Duration::from_millis(latency);
        Self { run, arrived, acked, turns, up: false, latency, open: VecDeque::new() }
    }
}

impl Sink for FarSide {
    async fn event(&mut self) -> SinkEvent {
        let ack = self.open.front().map(|(at, ..)| *at);
        let next = [self.turns.front().copied(), ack].into_iter().flatten().min();
        let Some(next) = next else { return std::future::pending().await };
        sleep_until(next).await;
        if self.turns.front() == Some(&next) {
            self.turns.pop_front();
            self.up = !self.up;
            self.open.clear();
            return if self.up { SinkEvent::Up } else { SinkEvent::Down("gone".into()) };
        }
        match self.open.pop_front() {
            Some((_, token, payload)) => {
                self.acked.lock().unwrap().extend(payload.map(|payload| (self.run, Instant::now(), payload)));
                SinkEvent::Acked(token)
            }
            None => std::future::pending().await,
        }
    }

    fn offer(&mut self, token: Token, message: &Message, payload: Bytes) -> Result<(), Refused> {
        let payload = (!matches!(message.kind, Kind::Status)).then_some(payload);
        self.arrived
            .lock()
            .unwrap()
            .extend(payload.clone().map(|payload| (self.run, Instant::now(), payload)));
        self.open.push_back((Instant::now() + self.latency, token, payload));
        Ok(())
    }

    fn window(&self) -> usize {
        WINDOW
    }

    async fn close(&mut self) {}
}
