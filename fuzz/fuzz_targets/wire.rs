//! Whole exchanges with a far side that says whatever an input makes it say, on a paused clock: reads, identifications,
//! writes, and several requests at once; on TCP, on RTU over TCP and on a serial line, with and without echoes.
//!
//! Laws: data and exceptions are only ever those of a frame that came for this request; an answer that has come is not missed; one
//! request leaves for each exchange, not before the line may be talked on; nothing waits longer than it may; a link is given up
//! for a reason.
#![no_main]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use taktbus::drivers::LinkLost;
use taktbus::drivers::modbus::exchange::{Exchanged, Manner, Patience, Query, Reply, Strays, Wire};
use taktbus::drivers::modbus::framing::{Framing, Request, Stray};
use taktbus::drivers::modbus::identify::{self, Level};
use taktbus::drivers::modbus::window::Window;
use taktbus::drivers::modbus::write::{self, Change, Write};
use taktbus::drivers::pause::Pause;
use taktbus_fuzz::far::{Far, Log};
use taktbus_fuzz::{Input, spec};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

/// Timers count whole milliseconds, and round up.
const TIMER: Duration = Duration::from_millis(2);
/// How long a line that never falls quiet is drained (`exchange.rs`).
const BABBLE: Duration = Duration::from_secs(1);
/// What separates RTU frames here.
const SILENCE: Duration = Duration::from_millis(4);
/// The paused clock of one runtime goes on from input to input: it must not come to the end of its timers.
const RUNS_PER_RUNTIME: u32 = 10_000;

thread_local! {
    static RUNTIME: RefCell<Option<Runtime>> = const { RefCell::new(None) };
    static RUNS: Cell<u32> = const { Cell::new(0) };
}

fuzz_target!(|bytes: &[u8]| {
    RUNTIME.with_borrow_mut(|runtime| {
        RUNS.set(RUNS.get() + 1);
        if RUNS.get().is_multiple_of(RUNS_PER_RUNTIME) {
            *runtime = None;
        }
        let paused =
            || Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        runtime.get_or_insert_with(paused).block_on(link(bytes));
    });
});

struct Link<'i> {
    wire: Wire<Far<'i>>,
    log: Rc<RefCell<Log>>,
    is_rtu: bool,
    is_serial: bool,
    echoes: bool,
    patience: Patience,
    transaction: u16,
}

async fn link(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (flags, count) = (input.byte(), 1 + input.byte() % 4);
    let is_rtu = flags & 1 != 0;
    let timeout = Duration::from_millis(u64::from(input.byte()) * 4 + 1);
    let response_timeout = timeout * if flags & 0x10 != 0 { 4 } else { 1 };
    let patience = Patience { timeout, response_timeout, line_rest: response_timeout * 3 / 2 };
    let late_window = (flags & 4 != 0).then(|| Duration::from_millis(u64::from(input.byte()) * 8));
    let kinds: Vec<(u8, Request)> = (0..count).map(|_| (input.byte(), input.request())).collect();
    let log = Rc::new(RefCell::new(Log::default()));
    let far = Far::new(input.rest(), is_rtu, log.clone());
    let manner = Manner {
        framing: if is_rtu { Framing::Rtu } else { Framing::Mbap },
        silence: if is_rtu { SILENCE } else { Duration::ZERO },
        late_window,
        is_serial: is_rtu && flags & 2 != 0,
        pause: Pause::coarse(),
        max_in_flight: 3,
    };
    let (is_serial, echoes) = (manner.is_serial, flags & 8 != 0);
    let wire = Wire::new(far, manner, Instant::now());
    let mut link = Link { wire, log, is_rtu, is_serial, echoes, patience, transaction: 0 };
    for (kind, request) in kinds {
        let going_on = match kind % 4 {
            0 | 1 => link.read(request).await,
            2 if !is_rtu => link.several(request).await,
            2 => link.identify(request.unit, kind).await,
            _ => link.write(request, kind).await,
        };
        if going_on.is_err() {
            break;
        }
    }
}

impl Link<'_> {
    async fn read(&mut self, request: Request) -> Result<(), LinkLost> {
        let before = self.before(request.unit);
        // What is there already stays.
        let mut answer = vec![0xEE; 3];
        let done = self.wire.exchange(request, self.patience, &mut answer).await;
        let asked = spec::asked(request);
        let (done, strays) = self.judge(before, &asked, done)?;
        assert_eq!(answer[..3], [0xEE; 3]);
        self.came(request.unit, asked[1], &done, &answer[3..], |data| spec::answered(request, data));
        if matches!(done.reply, Reply::Data) {
            assert_eq!(answer.len() - 3, spec::data_length(request));
        }
        let framed = [Stray::Late, Stray::Echo, Stray::Foreign, Stray::Misshapen];
        if self.is_rtu && framed.iter().all(|kind| strays[*kind as usize] == 0) {
            // Frames can overlap, and then only one of them is seen; among noise there is no such choice, unless it begins as
            // the answer does.
            let since = self.since();
            let missed = spec::holds_rtu_answer(request, &since)
                && !spec::holds_unfinished_answer(request, &since)
                && !is_answered(done.reply);
            assert!(!missed, "{:?}", done.reply);
        }
        Ok(())
    }

    async fn identify(&mut self, unit: u8, kind: u8) -> Result<(), LinkLost> {
        let pdu = identify::pdu(if kind & 4 == 0 { Level::Basic } else { Level::Regular }, kind >> 3);
        self.query(unit, &pdu, identify::length).await
    }

    async fn write(&mut self, request: Request, kind: u8) -> Result<(), LinkLost> {
        let (address, count) = (request.block.address, request.block.count);
        let change = match kind >> 2 & 7 {
            0 => Change::Coil(count & 1 == 0),
            1 => Change::Register(count.to_be_bytes()),
            2 => Change::Coils(count & 1 == 0),
            3 => Change::Registers(vec![kind; usize::from(count % 123 + 1) * 2].into()),
            4 => Change::Mask { and: count, or: address },
            _ => return self.identify(request.unit, kind).await,
        };
        let write = Write { unit: request.unit, address, change };
        self.query(request.unit, &write.pdu(), write::answer_length).await
    }

    async fn query(
        &mut self,
        unit: u8,
        pdu: &[u8],
        measure: fn(&[u8]) -> Option<usize>,
    ) -> Result<(), LinkLost> {
        let before = self.before(unit);
        let mut answer = Vec::new();
        let query = Query { unit, pdu, measure, echoes: self.echoes };
        let done = self.wire.query(query, self.patience, &mut answer).await;
        let (done, _) = self.judge(before, &[&[unit], pdu].concat(), done)?;
        self.came(unit, pdu[0], &done, &answer, |answer| [&[unit], answer].concat());
        if matches!(done.reply, Reply::Data) {
            assert_eq!((answer[0], measure(&answer)), (pdu[0], Some(answer.len())));
        }
        Ok(())
    }

    /// Up to three requests at once, on TCP.
    async fn several(&mut self, request: Request) -> Result<(), LinkLost> {
        let mut window = Window::new(3);
        let mut open = Vec::new();
        while window.has_room() {
            self.transaction += 1;
            let mut request = request;
            request.block.address = request.block.address.wrapping_add(self.transaction);
            window.post(&mut self.wire, request, self.patience, self.transaction);
            open.push((self.transaction, request));
        }
        while !window.is_empty() {
            let mut data = Vec::new();
            let done = window.next(&mut self.wire, None, &mut data).await;
            let Some((done, transaction)) = done.inspect_err(|lost| self.lost_for_a_reason(lost))? else {
                panic!("nothing is open")
            };
            let index = open.iter().position(|(id, _)| *id == transaction).expect("each is answered once");
            let (_, request) = open.swap_remove(index);
            assert!(done.received - done.started <= self.patience.timeout + TIMER);
            let function = spec::function(request.block.table);
            let frame = match done.reply {
                Reply::Data => spec::answered(request, &data),
                Reply::Exception(code) => vec![request.unit, function | 0x80, code],
                Reply::Timeout | Reply::Garbled => continue,
                Reply::Damaged => panic!("TCP carries no damage"),
            };
            assert!(frames(&self.log.borrow().heard).any(|heard| heard == spec::mbap(transaction, &frame)));
        }
        Ok(())
    }

    /// When an exchange begins, when its unit may be asked, and how many requests have left.
    fn before(&mut self, unit: u8) -> (Instant, Instant, usize) {
        self.transaction += 1;
        (Instant::now(), self.wire.line().may_ask_at(unit), self.log.borrow().sent.len())
    }

    /// What holds of every exchange.
    fn judge(
        &mut self,
        (began, may_ask, sent): (Instant, Instant, usize),
        asked: &[u8],
        done: Result<Exchanged, LinkLost>,
    ) -> Result<(Exchanged, Strays), LinkLost> {
        let strays = self.wire.take_strays();
        let done = done.inspect_err(|lost| self.lost_for_a_reason(lost))?;
        let log = self.log.borrow();
        let frame = if self.is_rtu { spec::rtu(asked) } else { spec::mbap(self.transaction, asked) };
        assert_eq!(log.sent.len(), sent + 1);
        assert_eq!((log.sent[sent].0, &log.sent[sent].1), (done.started, &frame));
        assert!(done.received - done.started <= self.patience.timeout + TIMER);
        if self.is_rtu {
            assert!(done.started <= began.max(may_ask) + SILENCE + BABBLE + TIMER);
            let late = strays[Stray::Late as usize] > 0;
            assert!(late || done.started >= may_ask, "asked before the line was free");
        }
        Ok((done, strays))
    }

    /// Did what the wire gives come over the link, in a frame of its own?
    fn came(&self, unit: u8, function: u8, done: &Exchanged, data: &[u8], body: impl Fn(&[u8]) -> Vec<u8>) {
        let body = match done.reply {
            Reply::Data => body(data),
            Reply::Exception(code) => vec![unit, function | 0x80, code],
            Reply::Damaged => {
                assert!(self.is_serial && self.since().len() >= 6);
                return;
            }
            Reply::Timeout | Reply::Garbled => return assert!(data.is_empty()),
        };
        assert!(data.is_empty() || done.reply == Reply::Data);
        if self.is_rtu {
            // What came before the request is no answer to it.
            assert!(spec::contains(&self.since(), &spec::rtu(&body)), "{body:?}");
        } else {
            let frame = spec::mbap(self.transaction, &body);
            assert!(frames(&self.log.borrow().heard).any(|heard| heard == frame), "{body:?}");
        }
    }

    /// What was heard since the last request left.
    fn since(&self) -> Vec<u8> {
        let log = self.log.borrow();
        let from = log.sent.last().map_or(0, |(_, _, heard)| *heard);
        log.heard[from..].to_vec()
    }

    fn lost_for_a_reason(&self, lost: &LinkLost) {
        let log = self.log.borrow();
        let is_broken = !self.is_rtu && {
            let whole: usize = frames(&log.heard).map(<[u8]>::len).sum();
            log.heard.get(whole + 2..whole + 7).is_some_and(|head| {
                let length = u16::from_be_bytes([head[2], head[3]]);
                head[..2] != [0, 0] || !(3..=254).contains(&length)
            })
        };
        let is_babble = self.is_rtu && lost.0.contains("never falls quiet");
        assert!(log.closed || is_broken || is_babble, "{lost}");
    }
}

fn is_answered(reply: Reply) -> bool {
    matches!(reply, Reply::Data | Reply::Exception(_))
}

/// The whole MBAP frames of a stream, up to the first header that is none.
fn frames(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = stream;
    std::iter::from_fn(move || {
        let head = rest.get(..6)?;
        let length = usize::from(u16::from_be_bytes([head[4], head[5]]));
        if head[2..4] != [0, 0] || !(3..=254).contains(&length) {
            return None;
        }
        let (frame, behind) = rest.split_at_checked(6 + length)?;
        rest = behind;
        Some(frame)
    })
}
