//! Questions outside of any plan, for commands that look around on a connection: one at a time, on the same wire and
//! with the same checks as the driver's.
//!
//! A link that drops after it has answered is opened once more and the question repeated: many devices close after each
//! answer.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::config::{Link, ModbusConfig};
use super::exchange::{Manner, Patience, Reply, Wire};
use super::framing::{Framing, Request};
use super::line::QUIET_HALVES;
use super::plan::Block;
use super::timing;
use super::transport::{Open, Opener};
use crate::drivers::LinkLost;
use crate::drivers::pause::Pause;
use crate::mapping::device::Limits;

/// A connection that answers questions.
pub struct Client<O: Open = Opener> {
    config: ModbusConfig,
    opener: O,
    wire: Option<Wire<O::Stream>>,
    answered: bool,
    rest_until: Option<Instant>,
    settled_at: Option<Instant>,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// How it ended.
    pub reply: Reply,
    /// The registers' or bits' bytes.
    pub data: Vec<u8>,
    /// From the request to the answer's last byte, or to the end of the wait.
    pub took: Duration,
}

impl Client<Opener> {
    /// A client that opens real links.
    pub fn new(config: ModbusConfig) -> Self {
        Self::with_opener(config, Opener::default())
    }
}

impl<O: Open> Client<O> {
    /// A client that talks through what `opener` gives.
    pub fn with_opener(config: ModbusConfig, opener: O) -> Self {
        Self { config, opener, wire: None, answered: false, rest_until: None, settled_at: None }
    }

    /// The connection.
    pub fn config(&self) -> &ModbusConfig {
        &self.config
    }

    /// How long an answer to this block is waited for where nobody says otherwise.
    pub fn response_timeout(&self, block: Block) -> Duration {
        timing::response_timeout(&self.config, &Limits::default(), block)
    }

    /// Reads a block; the link is opened when there is none. `timeout`: the connection's unless given.
    pub async fn ask(
        &mut self,
        unit: u8,
        block: Block,
        timeout: Option<Duration>,
    ) -> Result<Answer, LinkLost> {
        let timeout = timeout.unwrap_or_else(|| self.response_timeout(block));
        let request = Request { unit, block };
        match self.ask_once(request, timeout).await {
            Err(_) if self.answered => self.ask_once(request, timeout).await,
            answer => answer,
        }
    }

    async fn ask_once(&mut self, request: Request, timeout: Duration) -> Result<Answer, LinkLost> {
        self.connect().await?;
        if let Some(until) = self.rest_until.take() {
            sleep_until(until).await;
        }
        let Some(wire) = &mut self.wire else { return Err(LinkLost("not connected".into())) };
        let line_rest = timeout * QUIET_HALVES / 2;
        let patience = Patience { timeout, response_timeout: timeout, line_rest };
        let mut data = Vec::new();
        match wire.exchange(request, patience, &mut data).await {
            Ok(done) => {
                let rest = self.config.delay_between_requests;
                self.rest_until = (!rest.is_zero()).then(|| done.received + rest);
                self.answered |= matches!(done.reply, Reply::Data | Reply::Exception(_));
                Ok(Answer { reply: done.reply, data, took: done.received - done.started })
            }
            Err(lost) => {
                self.close();
                Err(lost)
            }
        }
    }

    /// Opens the link when there is none.
    pub async fn connect(&mut self) -> Result<(), LinkLost> {
        if self.wire.is_some() {
            return Ok(());
        }
        let link = &self.config.link;
        let stream = self.opener.open(link).await.map_err(|error| LinkLost(error.to_string()))?;
        if !self.config.delay_after_connect.is_zero() {
            tokio::time::sleep(self.config.delay_after_connect).await;
        }
        let mut wire = Wire::new(stream, manner(&self.config, self.opener.pause(link)), Instant::now());
        if let Some(settled) = self.settled_at {
            wire.line().rest_until(settled);
        }
        self.wire = Some(wire);
        self.answered = false;
        Ok(())
    }

    /// Closes the link. The line remembers what it forgets.
    pub fn close(&mut self) {
        if let Some(mut wire) = self.wire.take()
            && !matches!(self.config.link, Link::Tcp { .. })
        {
            self.settled_at = self.settled_at.max(Some(wire.line().settled_at()));
        }
    }
}

/// How a connection's wire is talked on.
fn manner(config: &ModbusConfig, pause: Pause) -> Manner {
    let framing = match config.link {
        Link::Tcp { .. } => Framing::Mbap,
        Link::RtuOverTcp { .. } | Link::Serial { .. } => Framing::Rtu,
    };
    Manner {
        framing,
        silence: config.silence(),
        late_window: config.late_window,
        is_serial: matches!(config.link, Link::Serial { .. }),
        pause,
    }
}
