//! A far side that does what an input says, at the times that it says.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{Input, spec};

/// What has gone over a link.
#[derive(Debug, Default)]
pub struct Log {
    /// What was sent, when, and how many bytes had been heard by then.
    pub sent: Vec<(Instant, Vec<u8>, usize)>,
    /// All bytes that were read.
    pub heard: Vec<u8>,
    /// Was the link closed?
    pub closed: bool,
}

/// The far side of a link.
pub struct Far<'i> {
    script: Input<'i>,
    is_rtu: bool,
    /// What is on its way, and since when it is there.
    pending: Option<(Vec<u8>, Pin<Box<Sleep>>)>,
    log: Rc<RefCell<Log>>,
}

impl<'i> Far<'i> {
    /// A far side with a script, which it tells into the log.
    pub fn new(script: &'i [u8], is_rtu: bool, log: Rc<RefCell<Log>>) -> Self {
        Self { script: Input::new(script), is_rtu, pending: None, log }
    }

    /// What comes next, and how long after the last; `None`: silence for ever.
    fn next(&mut self) -> Option<(Duration, Vec<u8>)> {
        if self.script.is_empty() {
            return None;
        }
        let what = self.script.byte();
        let last = self.log.borrow().sent.last().map(|(_, frame, _)| frame.clone()).unwrap_or_default();
        let last = last.as_slice();
        let mut bytes = match what % 8 {
            0 | 1 => self.answer(last),
            2 => last.to_vec(),
            3 => {
                let length = usize::from(self.script.byte() % 32);
                let body = self.script_bytes(length);
                self.framed(last, body)
            }
            4 => {
                let [unit, function] = body(last, self.is_rtu).first_chunk().copied().unwrap_or([1, 3]);
                let code = self.script.byte();
                self.framed(last, vec![unit, function | 0x80, code])
            }
            5 => {
                self.log.borrow_mut().closed |= self.script.byte() & 7 == 0;
                Vec::new()
            }
            _ => {
                let length = usize::from(self.script.byte());
                self.script_bytes(length)
            }
        };
        if what & 0x80 != 0 {
            let (place, change) = (usize::from(self.script.byte()), self.script.byte());
            bytes.get_mut(place).into_iter().for_each(|byte| *byte ^= change);
        }
        if what & 0x40 != 0 {
            bytes.truncate(usize::from(self.script.byte()));
        }
        // From at once to past every timeout; most of them short.
        let millis = match what >> 3 & 7 {
            0..4 => 0,
            4 => 1,
            5 => u64::from(self.script.byte()),
            6 => 10 * u64::from(self.script.byte()),
            _ => 3,
        };
        Some((Duration::from_millis(millis), bytes))
    }

    fn script_bytes(&mut self, length: usize) -> Vec<u8> {
        self.script.take(length).to_vec()
    }

    /// The answer that fits what was asked last.
    fn answer(&mut self, last: &[u8]) -> Vec<u8> {
        let fill = self.script.byte();
        let body = match *body(last, self.is_rtu) {
            [unit, function @ 1..=4, _, _, count_high, count_low] => {
                let count = usize::from(u16::from_be_bytes([count_high, count_low]));
                let length = if function <= 2 { count.div_ceil(8) } else { count * 2 };
                let data = (0..length).map(|n| fill.wrapping_add(n as u8));
                [unit, function, length as u8].into_iter().chain(data).collect()
            }
            // Two objects of an identification.
            [unit, 43, 14, level, object] => {
                let more = if fill & 1 == 0 { 0xFF } else { 0 };
                let length = fill % 16;
                let mut body = vec![unit, 43, 14, level, 1, more, object.wrapping_add(2), 2, object, length];
                body.extend(std::iter::repeat_n(fill, length.into()));
                body.extend([object.wrapping_add(1), 1, fill]);
                body
            }
            // The answer to a write begins like the request.
            [unit, 15 | 16, ..] => [&[unit], &body(last, self.is_rtu)[1..6]].concat(),
            ref other => other.to_vec(),
        };
        self.framed(last, body)
    }

    fn framed(&self, last: &[u8], body: Vec<u8>) -> Vec<u8> {
        let id = last.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
        if self.is_rtu { spec::rtu(&body) } else { spec::mbap(id, &body) }
    }
}

/// Unit id and PDU of a frame.
fn body(frame: &[u8], is_rtu: bool) -> &[u8] {
    let place = if is_rtu { 0..frame.len().saturating_sub(2) } else { 6..frame.len() };
    frame.get(place).unwrap_or_default()
}

impl AsyncRead for Far<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        assert!(room.remaining() > 0, "a read that can't yield anything looks like the end of the stream");
        loop {
            if let Some((bytes, sleep)) = &mut this.pending {
                ready!(sleep.as_mut().poll(cx));
                let count = bytes.len().min(room.remaining());
                room.put_slice(&bytes[..count]);
                this.log.borrow_mut().heard.extend(bytes.drain(..count));
                if bytes.is_empty() {
                    this.pending = None;
                }
                if count > 0 {
                    return Poll::Ready(Ok(()));
                }
            }
            if this.log.borrow().closed {
                return Poll::Ready(Ok(()));
            }
            let Some((after, bytes)) = this.next() else { return Poll::Pending };
            this.pending = Some((bytes, Box::pin(sleep_until(Instant::now() + after))));
        }
    }
}

impl AsyncWrite for Far<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut log = self.log.borrow_mut();
        let heard = log.heard.len();
        log.sent.push((Instant::now(), bytes.to_vec(), heard));
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
