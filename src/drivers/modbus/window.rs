//! Several requests at once on Modbus TCP (`max_in_flight`), each known by its transaction id.
//!
//! - Requests are collected and leave together before anything is waited for.
//! - Answers may come in any order. One that comes after its request was given up is dropped and counted as late.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};

use super::exchange::{Exchanged, Patience, Reply, Wire, too_slow};
use super::framing::{self, Framing, Head, LONGEST_REQUEST, Request, Scan, Stray};
use crate::drivers::LinkLost;

/// So many requests, or half of the window, leave while answers are still being looked at: the far side is busy with
/// them meanwhile, and fewer at once are not worth a system call.
const EARLY_FLUSH: usize = 8;

/// Requests that wait for their answers, each with what it is asked for.
#[derive(Debug)]
pub struct Window<T> {
    most: usize,
    open: Vec<Open<T>>,
    outbox: Vec<u8>,
}

#[derive(Debug)]
struct Open<T> {
    transaction: u16,
    request: Request,
    started: Instant,
    deadline: Instant,
    what: T,
}

impl<T> Window<T> {
    /// Room for so many requests.
    pub fn new(most: u16) -> Self {
        Self { most: usize::from(most.max(1)), open: Vec::new(), outbox: Vec::new() }
    }

    /// Is there room for another request?
    pub fn has_room(&self) -> bool {
        self.open.len() < self.most
    }

    /// Does nobody wait?
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Takes all requests back, as when the link is lost.
    pub fn take(&mut self) -> Vec<(Request, T)> {
        self.outbox.clear();
        self.open.drain(..).map(|open| (open.request, open.what)).collect()
    }

    /// Adds a request; it leaves with [`Window::next`]. Its clock starts here.
    pub fn post<S>(&mut self, wire: &mut Wire<S>, request: Request, patience: Patience, what: T) {
        let mut frame = [0; LONGEST_REQUEST];
        let transaction = wire.next_transaction();
        let length = Framing::Mbap.encode(request, transaction, &mut frame);
        self.outbox.extend_from_slice(&frame[..length]);
        let started = Instant::now();
        let deadline = started + patience.timeout;
        self.open.push(Open { transaction, request, started, deadline, what });
    }

    /// Waits until one of the requests is answered or given up; `None` when `until` comes first. The answer's data is
    /// appended to `answer`.
    pub async fn next<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        wire: &mut Wire<S>,
        until: Option<Instant>,
        answer: &mut Vec<u8>,
    ) -> Result<Option<(Exchanged, T)>, LinkLost> {
        if self.outbox.len() >= EARLY_FLUSH.max(self.most / 2) * LONGEST_REQUEST {
            let deadline = self.open.iter().map(|open| open.deadline).min();
            self.flush(wire, deadline.unwrap_or_else(Instant::now)).await?;
        }
        loop {
            if let Some((index, reply)) = self.scan(wire, answer)? {
                return Ok(Some(self.close(index, reply)));
            }
            let Some(first) = (0..self.open.len()).min_by_key(|i| self.open[*i].deadline) else {
                return Ok(None);
            };
            let Open { deadline, started, .. } = self.open[first];
            self.flush(wire, deadline).await?;
            let wait = until.map_or(deadline, |until| until.min(deadline));
            match timeout_at(wait, wire.fill()).await {
                Ok(read) => read?,
                Err(_) if Instant::now() >= deadline => {
                    wire.timed_out(started);
                    return Ok(Some(self.close(first, Reply::Timeout)));
                }
                Err(_) => return Ok(None),
            }
        }
    }

    /// The first answer to one of the requests among the bytes that are there.
    fn scan<S>(&self, wire: &mut Wire<S>, answer: &mut Vec<u8>) -> Result<Option<(usize, Reply)>, LinkLost> {
        loop {
            let (transaction, used) = match framing::mbap_head(wire.bytes()) {
                Head::Frame { transaction, used } => (transaction, used),
                Head::More => return Ok(None),
                Head::Broken => return Err(framing::not_modbus()),
            };
            let Some(index) = self.open.iter().position(|open| open.transaction == transaction) else {
                wire.strayed(Stray::Late);
                wire.consume(used);
                continue;
            };
            let reply = match Framing::Mbap.scan(self.open[index].request, transaction, wire.bytes()) {
                Scan::Complete { data, .. } => {
                    answer.extend_from_slice(&wire.bytes()[data]);
                    Reply::Data
                }
                Scan::Exception { code, .. } => Reply::Exception(code),
                _ => {
                    wire.strayed(Stray::Misshapen);
                    Reply::Garbled
                }
            };
            wire.consume(used);
            return Ok(Some((index, reply)));
        }
    }

    fn close(&mut self, index: usize, reply: Reply) -> (Exchanged, T) {
        let Open { started, what, .. } = self.open.swap_remove(index);
        (Exchanged { reply, started, received: Instant::now() }, what)
    }

    async fn flush<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        wire: &mut Wire<S>,
        deadline: Instant,
    ) -> Result<(), LinkLost> {
        if !self.outbox.is_empty() {
            timeout_at(deadline, wire.send(&self.outbox)).await.map_err(|_| too_slow())??;
            self.outbox.clear();
        }
        Ok(())
    }
}
