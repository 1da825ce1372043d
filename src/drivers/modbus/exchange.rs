//! One request and its answer on an open link.
//!
//! - The clock of an exchange starts right before its request is written.
//! - TCP: answers to earlier requests are recognised by their transaction id, dropped and counted; the link is kept.
//! - RTU has no transaction ids. After a timeout the line must fall quiet before anybody is asked, and the same unit is
//!   asked again only when its late answer has come or can't come any more ([`Wire::free_at`]).

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, timeout_at};

use super::framing::{Framing, LONGEST_FRAME, LONGEST_REQUEST, Request, Scan};
use crate::drivers::LinkLost;

/// How long a babbling line is drained beyond the silence that was due; after that the link is given up.
const MOST_BABBLE: Duration = Duration::from_secs(1);

/// After a timeout the whole line rests until this many halves of the response timeout have passed since the request:
/// healthy units wait half a timeout at most, and an answer up to 1.5 × the timeout late collides with no request.
pub const QUIET_HALVES: u32 = 3;

/// The unit that timed out is not asked again before this many response timeouts have passed since the request: the
/// field's slow devices answer up to three timeouts late (issue "a Modbus master that can be trusted").
const SUSPECT_TIMEOUTS: u32 = 3;

/// How an exchange ended on a link that is still good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The data was appended to the answer buffer.
    Data,
    /// The device, or a gateway for it, refused.
    Exception(u8),
    /// Nothing came in time.
    Timeout,
    /// Something came that was no answer to this request.
    Garbled,
}

/// An exchange that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchanged {
    /// How it ended.
    pub reply: Reply,
    /// Right before the request was written.
    pub started: Instant,
    /// When the answer's last byte was there, or the wait was over.
    pub received: Instant,
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// This exchange ends so long after its request left.
    pub timeout: Duration,
    /// The unit's full response timeout: what "late" is measured with.
    pub response_timeout: Duration,
}

/// An open link with its framing and what it remembers of earlier exchanges.
#[derive(Debug)]
pub struct Wire<S> {
    stream: S,
    framing: Framing,
    silence: Duration,
    transaction: u16,
    buffer: [u8; LONGEST_FRAME],
    filled: usize,
    /// RTU: no request leaves before.
    quiet_until: Instant,
    /// RTU: units whose late answer may still come, and until when. At most one entry per unit id.
    suspects: Vec<(Request, Instant)>,
    strays: u64,
    silent_timeouts: u32,
    silent_since: Option<Instant>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// A fresh link. `silence` is what separates RTU frames (t3.5).
    pub fn new(stream: S, framing: Framing, silence: Duration, now: Instant) -> Self {
        Self {
            stream,
            framing,
            silence,
            transaction: 0,
            buffer: [0; LONGEST_FRAME],
            filled: 0,
            quiet_until: now + silence,
            suspects: Vec::new(),
            strays: 0,
            silent_timeouts: 0,
            silent_since: None,
        }
    }

    /// When no answer to anything that was asked here can come any more.
    pub fn settled_at(&self) -> Instant {
        self.suspects.iter().map(|(_, until)| *until).fold(self.quiet_until, Instant::max)
    }

    /// Asks nobody before.
    pub fn rest_until(&mut self, until: Instant) {
        self.quiet_until = self.quiet_until.max(until);
    }

    /// When this unit may be asked again; `None`: at once.
    pub fn free_at(&self, unit: u8) -> Option<Instant> {
        self.suspects.iter().find(|(request, _)| request.unit == unit).map(|(_, until)| *until)
    }

    /// When the line is at rest again.
    pub fn quiet_until(&self) -> Instant {
        self.quiet_until
    }

    /// Timeouts in a row without a single byte from anybody, and when the first of these requests left.
    pub fn silence(&self) -> (u32, Option<Instant>) {
        (self.silent_timeouts, self.silent_since)
    }

    /// Takes the number of stray frames or bursts since the last call.
    pub fn take_strays(&mut self) -> u64 {
        std::mem::take(&mut self.strays)
    }

    /// Sends one request and waits for its answer, whose data is appended to `answer`.
    pub async fn exchange(
        &mut self,
        request: Request,
        patience: Patience,
        answer: &mut Vec<u8>,
    ) -> Result<Exchanged, LinkLost> {
        if self.framing == Framing::Rtu {
            self.rest(request.unit).await?;
        }
        self.transaction = self.transaction.wrapping_add(1);
        let mut frame = [0; LONGEST_REQUEST];
        let length = self.framing.encode(request, self.transaction, &mut frame);
        let started = Instant::now();
        let deadline = started + patience.timeout;
        // A request that can't leave within the timeout may be cut in two: the far side's framing is lost with it.
        timeout_at(deadline, self.stream.write_all(&frame[..length]))
            .await
            .map_err(|_| LinkLost("the request could not be sent in time".into()))?
            .map_err(lost)?;
        let reply = self.answer(request, deadline, answer).await?;
        let received = Instant::now();
        self.settle(request, patience, reply, started, received);
        Ok(Exchanged { reply, started, received })
    }

    /// Reads until the answer is there or the deadline passes.
    async fn answer(
        &mut self,
        request: Request,
        deadline: Instant,
        answer: &mut Vec<u8>,
    ) -> Result<Reply, LinkLost> {
        let mut heard = self.filled > 0;
        loop {
            match self.framing.scan(request, self.transaction, &self.buffer[..self.filled]) {
                Scan::Complete { data, used } => {
                    answer.extend_from_slice(&self.buffer[data]);
                    self.consume(used);
                    return Ok(Reply::Data);
                }
                Scan::Exception { code, used } => {
                    self.consume(used);
                    return Ok(Reply::Exception(code));
                }
                Scan::Misfit(used) => {
                    self.consume(used);
                    return Ok(Reply::Garbled);
                }
                Scan::Stray(used) => {
                    self.strays += 1;
                    self.consume(used);
                }
                Scan::Broken => return Err(LinkLost("the far side does not speak Modbus TCP".into())),
                Scan::More(_) => match timeout_at(deadline, self.fill()).await {
                    Ok(read) => {
                        read?;
                        heard = true;
                        self.broke_silence();
                    }
                    Err(_) => {
                        return Ok(if heard && self.framing == Framing::Rtu {
                            Reply::Garbled
                        } else {
                            Reply::Timeout
                        });
                    }
                },
            }
        }
    }

    /// Remembers what the next request must respect.
    fn settle(
        &mut self,
        request: Request,
        patience: Patience,
        reply: Reply,
        started: Instant,
        received: Instant,
    ) {
        if reply == Reply::Timeout {
            self.silent_timeouts = self.silent_timeouts.saturating_add(1);
            self.silent_since.get_or_insert(started);
        }
        if self.framing == Framing::Mbap {
            return;
        }
        self.quiet_until = received + self.silence;
        if matches!(reply, Reply::Timeout | Reply::Garbled) {
            self.filled = 0;
            let late = patience.response_timeout;
            self.quiet_until = self.quiet_until.max(started + late * QUIET_HALVES / 2 + self.silence);
            self.suspects.retain(|(other, until)| other.unit != request.unit && *until > received);
            self.suspects.push((request, started + late * SUSPECT_TIMEOUTS));
        }
    }

    /// RTU: waits, draining, until the line is quiet and this unit owes nothing.
    async fn rest(&mut self, unit: u8) -> Result<(), LinkLost> {
        self.drain_ready().await?;
        let give_up = Instant::now().max(self.target(unit)) + MOST_BABBLE;
        loop {
            let until = self.target(unit);
            let now = Instant::now();
            if until <= now {
                break;
            }
            if now >= give_up {
                return Err(LinkLost("the line never falls quiet".into()));
            }
            match timeout_at(until.min(give_up), self.fill()).await {
                Ok(read) => {
                    read?;
                    self.broke_silence();
                    self.heard_between();
                }
                Err(_) => continue,
            }
        }
        self.filled = 0;
        Ok(())
    }

    /// The moment that `rest` waits for.
    fn target(&self, unit: u8) -> Instant {
        self.free_at(unit).map_or(self.quiet_until, |free| free.max(self.quiet_until))
    }

    /// Bytes came while nobody was asked: noise, or the late answer that frees its unit and the line.
    fn heard_between(&mut self) {
        self.strays += 1;
        let now = Instant::now();
        let bytes = &self.buffer[..self.filled];
        let settled = self.suspects.iter().position(|(request, _)| holds_answer(*request, bytes));
        if let Some(suspect) = settled {
            self.suspects.swap_remove(suspect);
            self.filled = 0;
            self.quiet_until = now + self.silence;
        } else {
            self.quiet_until = self.quiet_until.max(now + self.silence);
            // Room for what follows; a frame that was cut here is only a late answer that is waited out.
            if self.filled == self.buffer.len() {
                self.filled = 0;
            }
        }
    }

    /// RTU: takes what has arrived since the last exchange, without waiting.
    async fn drain_ready(&mut self) -> Result<(), LinkLost> {
        self.filled = 0;
        // Bounded: a port that always has more is caught by `rest`, which then never finds it quiet.
        for _ in 0..8 {
            let Self { stream, buffer, .. } = self;
            let mut room = ReadBuf::new(&mut buffer[..]);
            let ready = poll_fn(|cx| match Pin::new(&mut *stream).poll_read(cx, &mut room) {
                Poll::Ready(read) => Poll::Ready(Some(read)),
                Poll::Pending => Poll::Ready(None),
            })
            .await;
            let Some(read) = ready else { break };
            read.map_err(lost)?;
            let count = room.filled().len();
            if count == 0 {
                return Err(closed());
            }
            self.filled = count;
            self.heard_between();
            self.filled = 0;
        }
        Ok(())
    }

    /// Reads at least one byte behind those that are there.
    async fn fill(&mut self) -> Result<(), LinkLost> {
        match self.stream.read(&mut self.buffer[self.filled..]).await.map_err(lost)? {
            0 => Err(closed()),
            count => {
                self.filled += count;
                Ok(())
            }
        }
    }

    fn broke_silence(&mut self) {
        (self.silent_timeouts, self.silent_since) = (0, None);
    }

    fn consume(&mut self, used: usize) {
        self.buffer.copy_within(used..self.filled, 0);
        self.filled -= used;
    }
}

/// Do these bytes end with the complete RTU answer to the request, whatever is in front of it?
fn holds_answer(request: Request, bytes: &[u8]) -> bool {
    let mut rest = bytes;
    loop {
        match Framing::Rtu.scan(request, 0, rest) {
            Scan::Stray(used) if used < rest.len() => rest = &rest[used..],
            Scan::Complete { .. } | Scan::Exception { .. } => return true,
            _ => return false,
        }
    }
}

fn lost(error: io::Error) -> LinkLost {
    LinkLost(error.to_string())
}

fn closed() -> LinkLost {
    LinkLost("closed by the far side".into())
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
