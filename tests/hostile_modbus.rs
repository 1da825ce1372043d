//! No wrong value under a right name: the Modbus driver against a far side that answers late, twice, cut, echoed, for others,
//! in another shape, with flipped bits, between noise, with exceptions, not at all, or hangs up.
//!
//! - Every register of every unit holds a number that no other has, so a value tells where it was read.
//! - All reads of all units have the same length: nothing but what the protocol offers tells their answers apart.
//! - What nobody could tell apart is left out: on TCP a wrong value under the transaction id of the very request; on RTU
//!   the same unit's answer to an earlier request that comes later than the late window, or twice and far apart.
//! - The clock is paused and the dice are seeded: a run is repeatable, and takes the time of its computing.
//!
//! `TAKTBUS_HOSTILE_EXCHANGES=1000000 cargo test --release --test hostile_modbus` is the long run; `.ci/run` does half of it in
//! the debug build.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use taktbus::config::{LoadOptions, load_text};
use taktbus::drivers::modbus::config::{Line, Link, ModbusConfig, Parity};
use taktbus::drivers::modbus::framing::crc;
use taktbus::drivers::modbus::transport::Open;
use taktbus::drivers::modbus::{ModbusDriver, ModbusPlan};
use taktbus::drivers::session;
use taktbus::mapping::batch::{Batch, Event};
use taktbus::metrics::{ConnectionMetrics, DeviceMetrics};
use taktbus::model::place::{Place, Table};
use taktbus::model::value::Raw;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Exchanges per test where the environment names no number: some seconds in a debug build.
const EXCHANGES: u64 = 40_000;

const UNITS: u8 = 5;

const TIMEOUT: Duration = Duration::from_secs(1);

/// An answer is late by 1.1 to 3 timeouts; the last milliseconds are left for the frame itself to end.
const LATE_MS: (u64, u64) = (1100, 2980);

/// The register's own number: 3 bits of unit, one of table, 12 of address.
fn word(unit: u8, is_input: bool, address: u16) -> u16 {
    assert!(unit <= UNITS && address < 1 << 12);
    u16::from(unit) << 13 | u16::from(is_input) << 12 | address
}

/// What the far side does with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Trick {
    Honest,
    Late,
    LateAndCut,
    Twice,
    Cut,
    Echo,
    ForeignInFront,
    ForeignInstead,
    EarlierAgain,
    OtherFunction,
    OtherLength,
    Flipped,
    NoiseInFront,
    NoiseBehind,
    Exception,
    LateException,
    Silence,
    HangUp,
    HangUpAndLate,
}

const TRICKS: [Trick; 18] = [
    Trick::Late,
    Trick::LateAndCut,
    Trick::Twice,
    Trick::Cut,
    Trick::Echo,
    Trick::ForeignInFront,
    Trick::ForeignInstead,
    Trick::EarlierAgain,
    Trick::OtherFunction,
    Trick::OtherLength,
    Trick::Flipped,
    Trick::NoiseInFront,
    Trick::NoiseBehind,
    Trick::Exception,
    Trick::LateException,
    Trick::Silence,
    Trick::HangUp,
    Trick::HangUpAndLate,
];

/// One request as it was read from the wire.
#[derive(Clone, Copy, Debug)]
struct Asked {
    transaction: u16,
    unit: u8,
    function: u8,
    address: u16,
    count: u16,
}

impl Asked {
    fn data(&self) -> Vec<u8> {
        let is_input = self.function == 4;
        let words = (0..self.count).map(|i| word(self.unit, is_input, self.address + i));
        words.flat_map(u16::to_be_bytes).collect()
    }

    /// Unit and PDU of the right answer.
    fn body(&self) -> Vec<u8> {
        let data = self.data();
        [&[self.unit, self.function, data.len() as u8], &data[..]].concat()
    }
}

/// What goes to the driver.
enum Out {
    /// In pieces with a millisecond between: less than the line's silence.
    Bytes(Vec<Vec<u8>>),
    /// The right answer in time, and nothing else.
    Honest(Vec<Vec<u8>>),
    HangUp,
}

#[derive(Clone)]
struct Plant(Arc<Mutex<State>>);

struct State {
    is_rtu: bool,
    dice: u64,
    requests: u64,
    honest: u64,
    /// The link that is open: a line that answers late does so on whichever link there is.
    link: Option<mpsc::UnboundedSender<Out>>,
    /// The last answers, to be told again.
    earlier: Vec<Asked>,
    played: HashSet<Trick>,
    opened: u64,
}

impl State {
    /// SplitMix64.
    fn roll(&mut self, sides: u64) -> u64 {
        self.dice = self.dice.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.dice;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ mixed >> 31) % sides
    }

    fn frame(&self, transaction: u16, body: &[u8]) -> Vec<u8> {
        match self.is_rtu {
            true => [body, &crc(body).to_le_bytes()].concat(),
            false => {
                let length = (body.len() as u16).to_be_bytes();
                [&transaction.to_be_bytes(), &[0, 0], &length, body].concat()
            }
        }
    }

    fn noise(&mut self) -> Vec<u8> {
        let length = self.roll(12) + 1;
        (0..length).map(|_| self.roll(256) as u8).collect()
    }

    /// A good answer of a unit that is not on the line, in the shape that was asked for; on TCP with the transaction id of
    /// the request, or one that is far away.
    fn foreign(&mut self, asked: Asked) -> Vec<u8> {
        let mut body = asked.body();
        body[0] = 100;
        let transaction = match self.roll(2) {
            0 => asked.transaction,
            _ => asked.transaction.wrapping_add(0x2000 + self.roll(0xC000) as u16),
        };
        self.frame(transaction, &body)
    }

    /// Up to three bits, which CRC-16 always tells; on TCP, where nothing guards the data, of the header behind the
    /// transaction id.
    fn flip(&mut self, frame: &mut [u8]) {
        let (from, to) = if self.is_rtu { (0, frame.len() as u64) } else { (2, 9) };
        let bits: HashSet<u64> = (0..=self.roll(3)).map(|_| from * 8 + self.roll((to - from) * 8)).collect();
        bits.into_iter().for_each(|bit| frame[bit as usize / 8] ^= 1 << (bit % 8));
    }

    /// The answer of an earlier request that was answered in time: on TCP of anybody, under its old transaction id; on RTU
    /// of another unit.
    fn earlier(&mut self, asked: Asked) -> Option<Vec<u8>> {
        let pick = self.roll(self.earlier.len().max(1) as u64) as usize;
        let again = *self.earlier.get(pick)?;
        (!self.is_rtu || again.unit != asked.unit).then(|| self.frame(again.transaction, &again.body()))
    }

    fn pieces(&mut self, bytes: Vec<u8>) -> Vec<Vec<u8>> {
        if self.roll(4) > 0 {
            return vec![bytes];
        }
        let size = self.roll(bytes.len() as u64) as usize + 1;
        // Few enough for an answer in time to stay in time.
        bytes.chunks(size.max(bytes.len() / 8 + 1)).map(<[u8]>::to_vec).collect()
    }

    /// What is answered, and when.
    fn play(&mut self, asked: Asked) -> Vec<(Duration, Out)> {
        self.requests += 1;
        let trick = match self.roll(100) {
            0..36 => TRICKS[self.roll(TRICKS.len() as u64) as usize],
            _ => Trick::Honest,
        };
        // Hanging up stops everybody's answers: rarer.
        let hangs_up = matches!(trick, Trick::HangUp | Trick::HangUpAndLate);
        let trick = if hangs_up && self.roll(5) > 0 { Trick::Honest } else { trick };
        self.played.insert(trick);
        let soon = Duration::from_millis(1 + self.roll(40));
        let late = Duration::from_millis(LATE_MS.0 + self.roll(LATE_MS.1 - LATE_MS.0));
        let right = self.frame(asked.transaction, &asked.body());
        let exception = {
            let code = [1, 4, 5, 6, 10, 11][self.roll(6) as usize];
            self.frame(asked.transaction, &[asked.unit, asked.function | 0x80, code])
        };
        let half = 1 + self.roll(right.len() as u64 - 1) as usize;
        let (when, bytes) = match trick {
            Trick::Honest => {
                self.remember(asked);
                (soon, right)
            }
            Trick::Late => (late, right),
            Trick::LateAndCut if self.is_rtu => (late, right[..half].to_vec()),
            Trick::Twice if self.is_rtu => (soon, right.repeat(2)),
            Trick::Twice => {
                let pieces = vec![right.clone()];
                return vec![(soon, Out::Bytes(vec![right])), (late, Out::Bytes(pieces))];
            }
            Trick::Cut if self.is_rtu => (soon, right[..half].to_vec()),
            // A byte stream is cut by its end only.
            Trick::Cut | Trick::LateAndCut => {
                let when = if trick == Trick::Cut { soon } else { late };
                return vec![(when, Out::Bytes(vec![right[..half].to_vec()])), (when, Out::HangUp)];
            }
            Trick::Echo => {
                let [a, b] = asked.address.to_be_bytes();
                let [c, d] = asked.count.to_be_bytes();
                let echo = self.frame(asked.transaction, &[asked.unit, asked.function, a, b, c, d]);
                (soon, [echo, right].concat())
            }
            Trick::ForeignInFront => (soon, [self.foreign(asked), right].concat()),
            Trick::ForeignInstead => (soon, self.foreign(asked)),
            Trick::EarlierAgain => (soon, [self.earlier(asked).unwrap_or_default(), right].concat()),
            Trick::OtherFunction => {
                let mut body = asked.body();
                body[1] ^= 7; // 3 and 4, the registers' other table
                (soon, self.frame(asked.transaction, &body))
            }
            Trick::OtherLength => {
                let other = Asked { count: asked.count + 1 - 2 * self.roll(2) as u16, ..asked };
                (soon, self.frame(asked.transaction, &other.body()))
            }
            Trick::Flipped => {
                let mut flipped = right;
                self.flip(&mut flipped);
                (soon, flipped)
            }
            Trick::NoiseInFront => (soon, [self.noise(), right].concat()),
            Trick::NoiseBehind => (soon, [right, self.noise()].concat()),
            Trick::Exception => (soon, exception),
            Trick::LateException => (late, exception),
            Trick::Silence => return Vec::new(),
            Trick::HangUp => return vec![(soon, Out::HangUp)],
            Trick::HangUpAndLate => {
                return vec![(soon, Out::HangUp), (late, Out::Bytes(vec![right]))];
            }
        };
        let pieces = self.pieces(bytes);
        vec![(when, if trick == Trick::Honest { Out::Honest(pieces) } else { Out::Bytes(pieces) })]
    }

    fn remember(&mut self, asked: Asked) {
        if self.earlier.len() == 16 {
            self.earlier.remove(0);
        }
        self.earlier.push(asked);
    }
}

impl Plant {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.lock().unwrap())
    }

    /// One link: requests in, and what others schedule for it out.
    async fn serve(
        self,
        mut far: DuplexStream,
        link: mpsc::UnboundedSender<Out>,
        mut outs: mpsc::UnboundedReceiver<Out>,
    ) {
        let is_rtu = self.with(|state| state.is_rtu);
        let envelope = if is_rtu { 0 } else { 6 };
        let length = if is_rtu { 8 } else { 12 };
        let (mut buffer, mut filled) = (vec![0; 4096], 0);
        loop {
            tokio::select! {
                biased;
                out = outs.recv() => match out {
                    Some(Out::Bytes(pieces) | Out::Honest(pieces)) => for (i, piece) in pieces.into_iter().enumerate() {
                        if i > 0 {
                            sleep(Duration::from_millis(1)).await;
                        }
                        if far.write_all(&piece).await.is_err() {
                            return;
                        }
                    },
                    Some(Out::HangUp) | None => return,
                },
                read = far.read(&mut buffer[filled..]) => match read {
                    Ok(count @ 1..) => {
                        filled += count;
                        let whole = filled / length * length;
                        for frame in buffer[..whole].chunks(length) {
                            self.asked(&link, frame, &frame[envelope..]);
                        }
                        buffer.copy_within(whole..filled, 0);
                        filled -= whole;
                    }
                    _ => return,
                },
            }
        }
    }

    fn asked(&self, link: &mpsc::UnboundedSender<Out>, frame: &[u8], body: &[u8]) {
        let pair = |bytes: &[u8]| u16::from_be_bytes([bytes[0], bytes[1]]);
        let asked = Asked {
            transaction: pair(frame),
            unit: body[0],
            function: body[1],
            address: pair(&body[2..]),
            count: pair(&body[4..]),
        };
        let is_rtu = self.with(|state| state.is_rtu);
        let is_open = self.with(|state| state.link.as_ref().is_some_and(|open| open.same_channel(link)));
        // A TCP server answers on the connection that asked, or not at all; what hangs on a line does not know of links.
        if !is_rtu && !is_open {
            return;
        }
        let outs = self.with(|state| state.play(asked));
        for (when, out) in outs {
            let (plant, link) = (self.clone(), link.clone());
            tokio::spawn(async move {
                sleep(when).await;
                let is_answer = !matches!(out, Out::HangUp);
                let is_honest = matches!(out, Out::Honest(_));
                let to =
                    if is_rtu && is_answer { plant.with(|state| state.link.clone().unwrap()) } else { link };
                // What a hang-up swallows counts for nothing.
                let is_sent = to.send(out).is_ok();
                plant.with(|state| state.honest += u64::from(is_honest && is_sent));
            });
        }
    }
}

impl Open for Plant {
    type Stream = DuplexStream;

    async fn open(&mut self, _: &Link) -> io::Result<DuplexStream> {
        let (near, far) = duplex(64 * 1024);
        let (link, outs) = mpsc::unbounded_channel();
        self.with(|state| {
            state.link = Some(link.clone());
            state.opened += 1;
            // A fresh connection counts its transactions from the start again.
            state.earlier.clear();
        });
        tokio::spawn(self.clone().serve(far, link, outs));
        Ok(near)
    }
}

/// Units with the same map: 64-bit values in two tables and one value whose halves lie apart, each a read of its own.
fn plan(config: ModbusConfig) -> (ModbusPlan, Vec<Arc<DeviceMetrics>>) {
    let points: String = [100, 500, 900, 1300, 1700]
        .iter()
        .flat_map(|a| ["holding", "input"].map(|table| (a, table)))
        .map(|(a, table)| format!("      {table}{a}: {{{table}: {a}, type: uint64}}\n"))
        .chain(["      apart: {holding: [2900, 2500], type: uint32}\n".to_owned()])
        .collect();
    let devices: String = (1..=UNITS)
        .map(|unit| {
            format!("  u{unit}:\n    via: wire\n    unit_id: {unit}\n    every: 500ms\n    budget: 20s\n    points:\n{points}")
        })
        .collect();
    let text = format!(
        "site: hostile\nconnections:\n  wire: {{tcp: plant:502}}\ndevices:\n{devices}publish:\n  cloud: {{mqtt: mqtt://localhost}}\n"
    );
    let loaded = load_text("hostile.yaml", &text, &LoadOptions::default());
    let devices = loaded.site.expect("a site").connections.remove(0).devices;
    let metrics = devices.iter().map(|device| Arc::new(DeviceMetrics::new(device.name.clone()))).collect();
    (ModbusPlan::compile(config, devices).unwrap(), metrics)
}

fn expected(unit: u8, place: &Place) -> u64 {
    let join = |words: Vec<u16>| words.into_iter().fold(0, |value, word| value << 16 | u64::from(word));
    match place {
        Place::Run { table, address, count } => {
            join((0..*count).map(|i| word(unit, *table == Table::Input, address + i)).collect())
        }
        Place::Scattered { table, addresses } => {
            join(addresses.iter().map(|address| word(unit, *table == Table::Input, *address)).collect())
        }
        Place::Node(_) => panic!("no nodes are read"),
    }
}

/// The readings of a batch that arrived as good; panics at the first that belongs elsewhere.
fn check(batch: &Batch) -> u64 {
    let Ok(readings) = &batch.readings else { return 0 };
    let device = &batch.plan.device;
    let mut good = 0;
    for (reading, ix) in readings.iter().zip(&batch.plan.reads[batch.read].readings) {
        let place = &device.map.readings[ix.0 as usize].place;
        if let Ok(raw) = reading {
            let wanted = expected(device.unit, place);
            assert_eq!(*raw, Raw::Uint(wanted), "{} {place:?}: {raw:x?} instead of {wanted:x}", device.name);
            good += 1;
        }
    }
    u64::from(good > 0)
}

fn wanted_exchanges() -> u64 {
    let given = std::env::var("TAKTBUS_HOSTILE_EXCHANGES").ok();
    given.map_or(EXCHANGES, |given| given.parse().expect("a number of exchanges"))
}

async fn survive(config: ModbusConfig, seed: u64) {
    let is_rtu = !matches!(config.link, Link::Tcp { .. });
    let plant = Plant(Arc::new(Mutex::new(State {
        is_rtu,
        dice: seed,
        requests: 0,
        honest: 0,
        link: None,
        earlier: Vec::new(),
        played: HashSet::new(),
        opened: 0,
    })));
    let (plan, metrics) = plan(config);
    let counts = Arc::new(ConnectionMetrics::default());
    let driver = ModbusDriver::with_opener("wire", plan, metrics, counts.clone(), plant.clone());
    let (send, mut events) = mpsc::channel(1024);
    let stop = CancellationToken::new();
    let session = tokio::spawn(session::run(driver, send, stop.clone(), counts.clone()));
    let (wanted, mut good, mut seen) = (wanted_exchanges(), 0, HashSet::new());
    while plant.with(|state| state.requests) < wanted {
        let event = events.recv().await.expect("the session goes on");
        if let Event::Batch(batch) = event
            && check(&batch) > 0
        {
            good += 1;
            seen.insert((batch.plan.device.unit, batch.read));
        }
    }
    stop.cancel();
    while events.recv().await.is_some() {}
    session.await.unwrap();
    let (requests, honest, opened, played) =
        plant.with(|state| (state.requests, state.honest, state.opened, state.played.clone()));
    let strays: Vec<u64> = counts.strays.iter().map(|counter| counter.get()).collect();
    println!("{requests} exchanges, {honest} honest, {good} good reads, {opened} links, strays {strays:?}");
    assert_eq!(played.len(), TRICKS.len() + 1, "every trick was played");
    // A driver that drops everything would prove nothing: what was answered well has arrived, from everybody.
    assert_eq!(seen.len(), usize::from(UNITS) * 11, "every read of every unit gave values");
    assert!(good * 100 >= honest * 85, "{good} good reads of {honest} honest answers");
}

fn line() -> Line {
    Line { baud: 19_200, data_bits: 8, parity: Parity::Even, stop_bits: 1 }
}

fn config(link: Link) -> ModbusConfig {
    ModbusConfig { response_timeout: Some(TIMEOUT), ..ModbusConfig::new(link) }
}

fn tcp() -> Link {
    Link::Tcp { host: "plant".into(), port: 502 }
}

#[tokio::test(start_paused = true)]
async fn no_value_lands_under_a_wrong_name_on_tcp() {
    survive(config(tcp()), 1).await;
}

#[tokio::test(start_paused = true)]
async fn no_value_lands_under_a_wrong_name_with_several_requests_in_flight() {
    survive(ModbusConfig { max_in_flight: 8, ..config(tcp()) }, 2).await;
}

#[tokio::test(start_paused = true)]
async fn no_value_lands_under_a_wrong_name_on_a_serial_line() {
    survive(config(Link::Serial { path: "/dev/null".into(), line: line() }), 3).await;
}

#[tokio::test(start_paused = true)]
async fn no_value_lands_under_a_wrong_name_on_rtu_over_tcp() {
    survive(config(Link::RtuOverTcp { host: "plant".into(), port: 4196, line: Some(line()) }), 4).await;
}
