//! Questions outside of any plan, for commands that look around on a connection: one at a time, on the same wire and
//! with the same checks as the driver's.
//!
//! A link that drops after it has answered is opened once more and the question repeated: many devices close after each
//! answer.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::config::{Echo, Link, ModbusConfig};
use super::exchange::{Manner, Patience, Query, Reply, Wire};
use super::framing::Request;
use super::identify::{self, Identity, Level};
use super::line::QUIET_HALVES;
use super::plan::Block;
use super::transport::{Open, Opener};
use super::write::{self, Write, WriteError, Written};
use super::{decode, timing};
use crate::drivers::LinkLost;
use crate::mapping::device::Limits;
use crate::mapping::write::{Setting, Target};
use crate::model::value::Raw;

/// So many parts of an identification are asked for: one for each object that is understood.
const MOST_PARTS: usize = 7;

/// A connection that answers questions.
pub struct Client<O: Open = Opener> {
    config: ModbusConfig,
    opener: O,
    wire: Option<Wire<O::Stream>>,
    answered: bool,
    rest_until: Option<Instant>,
    settled_at: Option<Instant>,
}

/// What is asked of a unit.
#[derive(Clone, Copy)]
enum Question<'q> {
    Read(Block),
    /// A PDU, and how the length of its answer is told.
    Other(&'q [u8], fn(&[u8]) -> Option<usize>),
}

/// What came of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteReply {
    /// The device says that it's done; whether it is, a read shows.
    Done,
    /// The device, or a gateway for it, refused.
    Exception(u8),
    /// No answer that fits: it may have been done.
    Unknown,
}

/// What a write has come to, as the device itself shows it.
#[derive(Clone, Debug, PartialEq)]
pub enum Proof {
    /// It holds what was written.
    Holds,
    /// It holds something else.
    Differs(Raw),
    /// The device, or a gateway for it, refused the write.
    Refused(u8),
    /// It can't be read back, or did not answer.
    None,
}

/// Why a write could not be tried, or not be followed to its end.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// No request writes it.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The link is gone.
    #[error(transparent)]
    Link(#[from] LinkLost),
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// How it ended.
    pub reply: Reply,
    /// The registers' or bits' bytes; of other questions the answer's PDU.
    pub data: Vec<u8>,
    /// From the request to the answer's last byte, or to the end of the wait.
    pub took: Duration,
}

impl Client<Opener> {
    /// A client that opens real links, as the gateway does.
    pub fn new(config: ModbusConfig) -> Self {
        let opener = Opener::with_rs485(config.rs485);
        Self::with_opener(config, opener)
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
        self.put_twice(unit, Question::Read(block), timeout).await
    }

    /// What the unit says that it is; `None` when it says nothing.
    pub async fn identify(&mut self, unit: u8, timeout: Duration) -> Result<Option<Identity>, LinkLost> {
        for level in [Level::Regular, Level::Basic] {
            let mut identity = Identity::default();
            let mut object = Some(0);
            for _ in 0..MOST_PARTS {
                let Some(from) = object else { break };
                let pdu = identify::pdu(level, from);
                let question = Question::Other(&pdu, identify::length);
                let answer = self.put_twice(unit, question, timeout).await?;
                object = match answer.reply {
                    Reply::Data => identity.take(&answer.data).ok().flatten().filter(|next| *next > from),
                    Reply::Exception(_) => None,
                    Reply::Timeout | Reply::Garbled | Reply::Damaged => return Ok(None),
                };
            }
            if !identity.is_empty() {
                return Ok(Some(identity));
            }
        }
        Ok(None)
    }

    /// Writes, once: a write whose answer is lost may have been done.
    pub async fn write(&mut self, write: &Write, timeout: Duration) -> Result<WriteReply, LinkLost> {
        let pdu = write.pdu();
        let answer = self.put(write.unit, Question::Other(&pdu, write::answer_length), timeout).await?;
        Ok(match answer.reply {
            Reply::Data => match write.check(&answer.data) {
                Written::Done => WriteReply::Done,
                Written::Exception(code) => WriteReply::Exception(code),
                Written::Misfit => WriteReply::Unknown,
            },
            Reply::Exception(code) => WriteReply::Exception(code),
            Reply::Timeout | Reply::Garbled | Reply::Damaged => WriteReply::Unknown,
        })
    }

    /// Writes a setting, and reads it back: what an answer says is not what a device has done.
    pub async fn write_and_prove(
        &mut self,
        unit: u8,
        target: &Target,
        setting: &Setting,
        timeout: Duration,
    ) -> Result<Proof, ProofError> {
        let write = Write::new(unit, target, setting)?;
        if let WriteReply::Exception(code) = self.write(&write, timeout).await? {
            return Ok(Proof::Refused(code));
        }
        let Some(block) = write::read_back(target) else { return Ok(Proof::None) };
        let answer = self.ask(unit, block, Some(timeout)).await?;
        let Reply::Data = answer.reply else { return Ok(Proof::None) };
        let decode = &target.reading.decode;
        let raw = match block.table.is_bits() {
            true => answer.data.first().map(|byte| Raw::Bool(byte & 1 == 1)),
            false => decode::registers(decode, &answer.data).ok(),
        };
        Ok(match raw {
            Some(raw) if write::holds(setting, &raw) => Proof::Holds,
            Some(raw) => Proof::Differs(raw),
            None => Proof::None,
        })
    }

    /// Asks once more when the link drops that has answered before; asking twice does no harm.
    async fn put_twice(
        &mut self,
        unit: u8,
        question: Question<'_>,
        timeout: Duration,
    ) -> Result<Answer, LinkLost> {
        match self.put(unit, question, timeout).await {
            Err(_) if self.answered => self.put(unit, question, timeout).await,
            answer => answer,
        }
    }

    async fn put(&mut self, unit: u8, question: Question<'_>, timeout: Duration) -> Result<Answer, LinkLost> {
        self.connect().await?;
        if let Some(until) = self.rest_until.take() {
            sleep_until(until).await;
        }
        let Some(wire) = &mut self.wire else { return Err(LinkLost("not connected".into())) };
        // As after a timeout of the driver's.
        let line_rest = timeout * QUIET_HALVES / 2;
        let patience = Patience { timeout, response_timeout: timeout, line_rest };
        let mut data = Vec::new();
        let done = match question {
            Question::Read(block) => wire.exchange(Request { unit, block }, patience, &mut data).await,
            Question::Other(pdu, measure) => {
                let echoes = self.config.echo == Echo::Strip;
                wire.query(Query { unit, pdu, measure, echoes }, patience, &mut data).await
            }
        };
        match done {
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
        let mut wire = Wire::new(stream, Manner::of(&self.config, self.opener.pause(link)), Instant::now());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::modbus::config::{Line, Parity, Rs485};
    use crate::model::place::Table;
    use tokio_serial::{SerialPort as _, SerialStream};

    #[tokio::test]
    async fn a_port_is_opened_with_the_rs485_settings_of_its_connection() {
        let (_far, near) = SerialStream::pair().unwrap();
        let path = near.name().unwrap().into();
        drop(near);
        let line = Line { baud: 19_200, data_bits: 8, parity: Parity::None, stop_bits: 1 };
        let config = ModbusConfig::new(Link::Serial { path, line });
        let block = Block { table: Table::Holding, address: 0, count: 1 };
        let ask = async |rs485| {
            let mut client = Client::new(ModbusConfig { rs485, ..config.clone() });
            client.ask(1, block, Some(Duration::from_millis(1))).await
        };
        // A pseudo-terminal has no transceiver to switch, and says so.
        let LinkLost(reason) = ask(Some(Rs485::default())).await.unwrap_err();
        assert!(reason.contains("rs485"), "{reason}");
        assert_eq!(ask(None).await.unwrap().reply, Reply::Timeout);
    }
}
