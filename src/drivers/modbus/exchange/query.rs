//! Requests that are no reads (writes, identification), on the same wire and under the same rules: a whole PDU each way.
//!
//! Their answers are recognised as strictly as those of reads: transaction and unit id, function code, length and CRC. What
//! an answer says is the caller's to judge.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};

use super::{Exchanged, Patience, Reply, Wire, too_slow};
use crate::drivers::LinkLost;
use crate::drivers::modbus::framing::{self, EXCEPTION, Framing, Head, Request, Stray, crc};
use crate::drivers::modbus::plan::Block;
use crate::model::place::Table;

/// Unit, function, code, CRC.
const RTU_EXCEPTION: usize = 5;

/// A request that is no read.
#[derive(Clone, Copy, Debug)]
pub struct Query<'q> {
    /// Whom it asks.
    pub unit: u8,
    /// Function code and data.
    pub pdu: &'q [u8],
    /// The length of the answer's PDU whose first bytes these are, function code included; `None`: more bytes are needed
    /// to tell. RTU frames carry no length of their own.
    pub measure: fn(&[u8]) -> Option<usize>,
    /// RTU: what is sent comes back in front of the answer. Some answers are the request again, so this must be known.
    pub echoes: bool,
}

/// What the bytes received so far hold.
enum Found {
    /// The answer's PDU, and the bytes up to its frame's end.
    Pdu(std::ops::Range<usize>, usize),
    Exception(u8, usize),
    /// A frame that answers something else, up to its end.
    Stray(Stray, usize),
    /// A frame with this request's transaction id that is no answer to it.
    Misfit(usize),
    More,
    Broken,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Sends one request and waits for its answer, whose PDU is appended to `answer`.
    pub async fn query(
        &mut self,
        query: Query<'_>,
        patience: Patience,
        answer: &mut Vec<u8>,
    ) -> Result<Exchanged, LinkLost> {
        let stand_in = stand_in(query.unit);
        if self.framing == Framing::Rtu {
            self.rest(stand_in).await?;
        }
        let transaction = self.next_transaction();
        let frame = framing::frame(self.framing, query.unit, transaction, query.pdu);
        let started = Instant::now();
        let deadline = started + patience.timeout;
        let echo = (query.echoes && self.framing == Framing::Rtu).then_some(frame.as_slice());
        let asked = async {
            timeout_at(deadline, self.send(&frame)).await.map_err(|_| too_slow())??;
            self.hear(query, transaction, echo, deadline, answer).await
        };
        let reply = asked.await.inspect_err(|_| self.broke(stand_in, patience, started))?;
        let received = Instant::now();
        self.settle(stand_in, patience, reply, started, received);
        Ok(Exchanged { reply, started, received })
    }

    /// Reads until the answer is there or the deadline passes.
    async fn hear(
        &mut self,
        query: Query<'_>,
        transaction: u16,
        mut echo: Option<&[u8]>,
        deadline: Instant,
        answer: &mut Vec<u8>,
    ) -> Result<Reply, LinkLost> {
        let mut garbled = false;
        loop {
            if let Some(sent) = echo
                && self.bytes().starts_with(sent)
            {
                self.strayed(Stray::Echo);
                self.consume(sent.len());
                echo = None;
            }
            let found = match self.framing {
                _ if echo.is_some() => Found::More,
                Framing::Mbap => find_mbap(query, transaction, self.bytes()),
                Framing::Rtu => find_rtu(query, self.bytes()),
            };
            match found {
                Found::Pdu(pdu, used) => {
                    answer.extend_from_slice(&self.bytes()[pdu]);
                    self.consume(used);
                    return Ok(Reply::Data);
                }
                Found::Exception(code, used) => {
                    self.consume(used);
                    return Ok(Reply::Exception(code));
                }
                Found::Misfit(used) => {
                    self.consume(used);
                    return Ok(Reply::Garbled);
                }
                Found::Stray(kind, used) => {
                    self.strayed(kind);
                    self.consume(used);
                }
                Found::Broken => return Err(framing::not_modbus()),
                Found::More => {
                    if self.inbox.is_full() {
                        self.strayed(Stray::Noise);
                        self.inbox.clear();
                        garbled = true;
                    }
                    match timeout_at(deadline, self.fill()).await {
                        Ok(read) => read?,
                        Err(_) if self.framing == Framing::Mbap => return Ok(Reply::Timeout),
                        Err(_) => {
                            garbled |= !self.bytes().is_empty();
                            return Ok(if garbled { Reply::Garbled } else { Reply::Timeout });
                        }
                    }
                }
            }
        }
    }
}

/// What the line remembers of a query: that this unit may answer late. No late answer looks like this one's, so it is
/// waited out.
fn stand_in(unit: u8) -> Request {
    Request { unit, block: Block { table: Table::Holding, address: 0, count: 1 } }
}

fn find_mbap(query: Query<'_>, transaction: u16, bytes: &[u8]) -> Found {
    let (answered, used) = match framing::mbap_head(bytes) {
        Head::Frame { transaction, used } => (transaction, used),
        Head::More => return Found::More,
        Head::Broken => return Found::Broken,
    };
    if answered != transaction {
        let late = transaction.wrapping_sub(answered) < 0x8000;
        return Found::Stray(if late { Stray::Late } else { Stray::Foreign }, used);
    }
    let function = query.pdu.first().copied().unwrap_or(0);
    match &bytes[6..used] {
        [unit, ..] if *unit != query.unit => Found::Misfit(used),
        [_, refused, code] if *refused == function | EXCEPTION => Found::Exception(*code, used),
        [_, pdu @ ..] if pdu.first() == Some(&function) && (query.measure)(pdu) == Some(pdu.len()) => {
            Found::Pdu(7..used, used)
        }
        _ => Found::Misfit(used),
    }
}

fn find_rtu(query: Query<'_>, bytes: &[u8]) -> Found {
    let function = query.pdu.first().copied().unwrap_or(0);
    for start in 0..bytes.len() {
        let frame = &bytes[start..];
        let length = match frame {
            [unit, answered, ..] if *unit == query.unit && *answered == function => {
                (query.measure)(&frame[1..]).map(|pdu| pdu + 3)
            }
            [unit, answered, ..] if *unit == query.unit && *answered == function | EXCEPTION => {
                Some(RTU_EXCEPTION)
            }
            _ => None,
        };
        let Some(whole) = length.and_then(|length| frame.get(..length)).filter(|whole| crc(whole) == 0)
        else {
            continue;
        };
        let end = start + whole.len();
        return match whole[1] == function {
            // What is in front of the answer goes with it.
            true => Found::Pdu(start + 1..end - 2, end),
            false => Found::Exception(whole[2], end),
        };
    }
    Found::More
}

#[cfg(test)]
#[path = "query_tests.rs"]
mod tests;
