//! One request and its answer on an open link.
//!
//! - The clock of an exchange starts right before its request is written.
//! - TCP: answers to earlier requests are recognised by their transaction id, dropped and counted; the link is kept.
//! - RTU has no transaction ids: [`Line`] tells when the line is at rest and when a unit owes no answer any more.

mod query;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, timeout_at};

use super::config::{Link, ModbusConfig};
use super::framing::{self, Framing, LONGEST_FRAME, LONGEST_REQUEST, Request, Scan, Stray};
use super::inbox::Inbox;
use super::line::Line;
use crate::drivers::LinkLost;
use crate::drivers::pause::Pause;

pub use query::Query;

/// How long a babbling line is drained beyond the silence that was due; after that the link is given up.
const MOST_BABBLE: Duration = Duration::from_secs(1);

/// On a serial port, a damaged answer is over when nothing has followed it for this long: USB adapters hand bytes on
/// every 16 ms (FTDI AN232B-04, latency timer), and the kernel may be busy.
const FRAME_END: Duration = Duration::from_millis(50);

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
    /// On a serial port: the answer came, with a wrong CRC. The unit owes nothing more.
    Damaged,
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
    /// RTU: when nobody answers, the line rests until so long after the request.
    pub line_rest: Duration,
}

/// How a link is talked on.
#[derive(Debug)]
pub struct Manner {
    /// How frames are delimited.
    pub framing: Framing,
    /// RTU: what separates frames (t3.5).
    pub silence: Duration,
    /// RTU: how long after a request its answer may still come; `None`: by the response timeout.
    pub late_window: Option<Duration>,
    /// RTU: bytes come as the line carries them, not in a network's time.
    pub is_serial: bool,
    /// How the line's silences are waited out.
    pub pause: Pause,
    /// Answers that may be on their way at once.
    pub max_in_flight: u16,
}

impl Manner {
    /// That of a connection.
    pub fn of(config: &ModbusConfig, pause: Pause) -> Self {
        let framing = match config.link {
            Link::Tcp { .. } => Framing::Mbap,
            Link::RtuOverTcp { .. } | Link::Serial { .. } => Framing::Rtu,
        };
        Self {
            framing,
            silence: config.silence(),
            late_window: config.late_window,
            is_serial: matches!(config.link, Link::Serial { .. }),
            pause,
            max_in_flight: config.max_in_flight,
        }
    }
}

/// An open link with its framing and what it remembers of earlier exchanges.
#[derive(Debug)]
pub struct Wire<S> {
    stream: S,
    framing: Framing,
    line: Line,
    is_serial: bool,
    pause: Pause,
    transaction: u16,
    last_asked: Option<u8>,
    inbox: Inbox,
    strays: Strays,
    silent_timeouts: u32,
    silent_since: Option<Instant>,
}

/// How many stray frames or bursts came, by [`Stray`].
pub type Strays = [u32; 5];

impl<S> Wire<S> {
    /// A fresh link.
    pub fn new(stream: S, manner: Manner, now: Instant) -> Self {
        Self {
            stream,
            framing: manner.framing,
            line: Line::new(manner.silence, manner.late_window, now),
            is_serial: manner.is_serial,
            pause: manner.pause,
            transaction: 0,
            last_asked: None,
            inbox: Inbox::new(LONGEST_FRAME * usize::from(manner.max_in_flight.max(1))),
            strays: Strays::default(),
            silent_timeouts: 0,
            silent_since: None,
        }
    }

    /// RTU: when the line may be talked on, and who may be asked when.
    pub fn line(&mut self) -> &mut Line {
        &mut self.line
    }

    /// Timeouts in a row without a single byte from anybody, and when the first of these requests left.
    pub fn silence(&self) -> (u32, Option<Instant>) {
        (self.silent_timeouts, self.silent_since)
    }

    /// Takes what has strayed in since the last call.
    pub fn take_strays(&mut self) -> Strays {
        std::mem::take(&mut self.strays)
    }

    /// The bytes that have arrived and are not understood yet.
    pub(super) fn bytes(&self) -> &[u8] {
        self.inbox.bytes()
    }

    pub(super) fn consume(&mut self, used: usize) {
        self.inbox.consume(used);
    }

    pub(super) fn strayed(&mut self, kind: Stray) {
        self.strays[kind as usize] += 1;
    }

    pub(super) fn next_transaction(&mut self) -> u16 {
        self.transaction = self.transaction.wrapping_add(1);
        self.transaction
    }

    /// A request that left at `started` was not answered.
    pub(super) fn timed_out(&mut self, started: Instant) {
        self.silent_timeouts = self.silent_timeouts.saturating_add(1);
        self.silent_since.get_or_insert(started);
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Sends one request and waits for its answer, whose data is appended to `answer`.
    pub async fn exchange(
        &mut self,
        request: Request,
        patience: Patience,
        answer: &mut Vec<u8>,
    ) -> Result<Exchanged, LinkLost> {
        if self.framing == Framing::Rtu {
            self.rest(request).await?;
        }
        self.last_asked = Some(request.unit);
        let mut frame = [0; LONGEST_REQUEST];
        let transaction = self.next_transaction();
        let length = self.framing.encode(request, transaction, &mut frame);
        let started = Instant::now();
        let deadline = started + patience.timeout;
        let asked = async {
            timeout_at(deadline, self.send(&frame[..length])).await.map_err(|_| too_slow())??;
            self.answer(request, deadline, answer).await
        };
        let reply = asked.await.inspect_err(|_| self.broke(request, patience, started))?;
        let received = Instant::now();
        self.settle(request, patience, reply, started, received);
        Ok(Exchanged { reply, started, received })
    }

    /// The link was lost while an answer was waited for. The link forgets what was asked; the unit behind it answers all
    /// the same, on the link that comes next.
    pub(super) fn broke(&mut self, request: Request, patience: Patience, started: Instant) {
        let Patience { response_timeout, line_rest, .. } = patience;
        self.line.unanswered(request, started, Instant::now(), response_timeout, line_rest);
    }

    pub(super) async fn send(&mut self, frames: &[u8]) -> Result<(), LinkLost> {
        self.stream.write_all(frames).await.map_err(lost)
    }

    /// Reads until the answer is there or the deadline passes.
    async fn answer(
        &mut self,
        request: Request,
        deadline: Instant,
        answer: &mut Vec<u8>,
    ) -> Result<Reply, LinkLost> {
        let mut garbled = false;
        loop {
            match self.framing.scan(request, self.transaction, self.inbox.bytes()) {
                Scan::Complete { data, used } => {
                    answer.extend_from_slice(&self.inbox.bytes()[data]);
                    self.consume(used);
                    return Ok(Reply::Data);
                }
                Scan::Exception { code, used } => {
                    self.consume(used);
                    return Ok(Reply::Exception(code));
                }
                Scan::Misfit(used) => {
                    self.strayed(Stray::Misshapen);
                    self.consume(used);
                    return Ok(Reply::Garbled);
                }
                Scan::Stray { kind, used } => {
                    self.strayed(kind);
                    self.consume(used);
                    garbled |=
                        self.framing == Framing::Rtu && matches!(kind, Stray::Misshapen | Stray::Noise);
                }
                Scan::Broken => return Err(framing::not_modbus()),
                Scan::More => {
                    if self.inbox.is_full() {
                        garbled = true;
                        self.make_room(request);
                    }
                    let damaged = self.is_serial && framing::is_damaged_answer(request, self.inbox.bytes());
                    let until = if damaged { deadline.min(Instant::now() + FRAME_END) } else { deadline };
                    match timeout_at(until, self.fill()).await {
                        Ok(read) => read?,
                        Err(_) if damaged => return Ok(Reply::Damaged),
                        Err(_) if self.framing == Framing::Mbap => return Ok(Reply::Timeout),
                        Err(_) => {
                            garbled |= !self.inbox.bytes().is_empty();
                            let reply = if garbled { Reply::Garbled } else { Reply::Timeout };
                            return Ok(reply);
                        }
                    }
                }
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
            self.timed_out(started);
        }
        if self.framing == Framing::Mbap {
            return;
        }
        if matches!(reply, Reply::Damaged | Reply::Timeout | Reply::Garbled) {
            self.forget(request);
        }
        match reply {
            // A damaged answer is an answer: none will follow.
            Reply::Damaged | Reply::Data | Reply::Exception(_) => self.line.frame_ended(received),
            Reply::Timeout | Reply::Garbled => {
                let Patience { response_timeout, line_rest, .. } = patience;
                self.line.unanswered(request, started, received, response_timeout, line_rest);
            }
        }
    }

    /// RTU: waits, draining, until the line is quiet and the unit owes nothing.
    async fn rest(&mut self, request: Request) -> Result<(), LinkLost> {
        self.drain_ready(request).await?;
        let give_up = Instant::now().max(self.line.may_ask_at(request.unit)) + MOST_BABBLE;
        loop {
            let until = self.line.may_ask_at(request.unit);
            let now = Instant::now();
            if until <= now {
                break;
            }
            if now >= give_up {
                return Err(babble(self.last_asked));
            }
            let Self { stream, inbox, pause, .. } = self;
            tokio::select! {
                biased;
                read = fill(stream, inbox) => {
                    read?;
                    self.heard_between(request);
                }
                () = pause.until(until.min(give_up)) => {}
            }
        }
        self.forget(request);
        Ok(())
    }

    /// Bytes came while nobody was asked: the late answer that frees its unit and the line, or something else.
    fn heard_between(&mut self, request: Request) {
        self.broke_silence();
        if self.line.heard(self.inbox.bytes(), Instant::now()) {
            self.strayed(Stray::Late);
            self.inbox.clear();
        } else if self.inbox.is_full() {
            // Room for what follows; a frame that is cut here is only a late answer that is waited out.
            self.forget(request);
        }
    }

    /// RTU: takes what has arrived since the last exchange, without waiting.
    async fn drain_ready(&mut self, request: Request) -> Result<(), LinkLost> {
        // Bounded: a port that always has more is caught by `rest`, which then never finds it quiet.
        for _ in 0..8 {
            let Self { stream, inbox, .. } = self;
            let mut room = ReadBuf::new(inbox.vacant());
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
            self.inbox.filled(count);
            self.heard_between(request);
        }
        Ok(())
    }

    /// Reads at least one byte behind those that are there.
    pub(super) async fn fill(&mut self) -> Result<(), LinkLost> {
        fill(&mut self.stream, &mut self.inbox).await?;
        self.broke_silence();
        Ok(())
    }

    /// RTU: drops the bytes that are there, and counts what they were.
    fn forget(&mut self, request: Request) {
        while !self.inbox.bytes().is_empty() {
            let (kind, used) = framing::stray(request, self.inbox.bytes());
            self.strayed(kind);
            self.inbox.consume(used);
        }
    }

    /// RTU: drops what is in front of the answer, in a buffer that is full of something else.
    fn make_room(&mut self, request: Request) {
        let used = framing::before_answer(request, self.inbox.bytes());
        self.strayed(Stray::Noise);
        self.inbox.consume(used);
    }

    fn broke_silence(&mut self) {
        (self.silent_timeouts, self.silent_since) = (0, None);
    }
}

async fn fill<S: AsyncRead + Unpin>(stream: &mut S, inbox: &mut Inbox) -> Result<(), LinkLost> {
    match stream.read(inbox.vacant()).await.map_err(lost)? {
        0 => Err(closed()),
        count => {
            inbox.filled(count);
            Ok(())
        }
    }
}

/// A request that can't leave within its timeout may be cut in two: the far side's framing is lost with it.
pub(super) fn too_slow() -> LinkLost {
    LinkLost("the request could not be sent in time".into())
}

/// One reason in one text, however the kernel comes to know it: texts that alternate would fill the log.
fn lost(error: io::Error) -> LinkLost {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    match error.kind() {
        BrokenPipe | ConnectionAborted | ConnectionReset => closed(),
        _ => LinkLost(error.to_string()),
    }
}

/// The unit that was asked last is the one to look at first.
fn babble(last_asked: Option<u8>) -> LinkLost {
    LinkLost(match last_asked {
        Some(unit) => format!("the line never falls quiet; unit {unit} was asked last"),
        None => "the line never falls quiet".into(),
    })
}

fn closed() -> LinkLost {
    LinkLost("closed by the far side".into())
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
