//! Quirks of real devices (`docs/quirks.md`) from a site file to the values, on the paused clock: scripted TCP servers.
//! Those that concern one part of the program are tested beside it, under names that begin with their number.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use taktbus::config::plan::Protocol;
use taktbus::config::{LoadOptions, load};
use taktbus::drivers::modbus::ModbusPlan;
use taktbus::drivers::modbus::config::Link;
use taktbus::drivers::modbus::transport::Open;
use taktbus::mapping::batch::{Batch, DeviceState, Event};
use taktbus::mapping::transform::evaluate;
use taktbus::model::value::{Cause, Value};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::LocalSet;
use tokio::time::{Instant, timeout_at};

use sessions::{Session, plan};

mod sessions;

/// A request as the device sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Asked {
    unit: u8,
    function: u8,
    address: u16,
    count: u16,
    /// Since the device was asked last, or has answered.
    rest: Duration,
}

enum Reply {
    Words(Vec<u16>),
    Exception(u8),
    Silence,
}

/// Each register holds its own number.
fn numbers(asked: &Asked) -> Reply {
    Reply::Words((asked.address..).take(asked.count.into()).collect())
}

/// A server whose units do what a function says.
#[derive(Clone)]
struct Plant {
    reply: Arc<dyn Fn(&Asked) -> Reply>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    asked: Vec<Asked>,
    connections: usize,
}

impl Plant {
    fn new(reply: impl Fn(&Asked) -> Reply + 'static) -> Self {
        Self { reply: Arc::new(reply), seen: Arc::default() }
    }

    fn asked(&self) -> Vec<Asked> {
        self.seen.lock().unwrap().asked.clone()
    }

    async fn serve(self, mut client: DuplexStream) -> io::Result<()> {
        let mut last = Instant::now();
        loop {
            let mut request = [0; 12];
            client.read_exact(&mut request).await?;
            let word = |at: usize| u16::from_be_bytes([request[at], request[at + 1]]);
            let (unit, function) = (request[6], request[7]);
            let asked = Asked { unit, function, address: word(8), count: word(10), rest: last.elapsed() };
            self.seen.lock().unwrap().asked.push(asked);
            last = Instant::now();
            let body = match (self.reply)(&asked) {
                Reply::Silence => continue,
                Reply::Exception(code) => vec![function | 0x80, code],
                Reply::Words(words) => {
                    let data: Vec<u8> = match function {
                        1 | 2 => words.chunks(8).map(packed).collect(),
                        _ => words.iter().flat_map(|word| word.to_be_bytes()).collect(),
                    };
                    [&[function, data.len() as u8], &data[..]].concat()
                }
            };
            let length = body.len() as u8 + 1;
            client.write_all(&[&request[..4], &[0, length, unit], &body[..]].concat()).await?;
        }
    }
}

/// The first bit is the least significant.
fn packed(bits: &[u16]) -> u8 {
    bits.iter().enumerate().fold(0, |byte, (at, bit)| byte | u8::from(bit % 2 == 1) << at)
}

impl Open for Plant {
    type Stream = DuplexStream;

    async fn open(&mut self, _: &Link) -> io::Result<DuplexStream> {
        self.seen.lock().unwrap().connections += 1;
        let (near, far) = duplex(1024);
        tokio::task::spawn_local(self.clone().serve(far));
        Ok(near)
    }
}

/// `device.point` → the value as text, or why there is none.
type Values = BTreeMap<String, Result<String, Cause>>;

/// What a batch publishes.
fn values(batch: &Batch) -> Values {
    let device = &batch.plan.device;
    let read = &batch.plan.reads[batch.read];
    let mut samples = Vec::new();
    match &batch.readings {
        Ok(readings) => evaluate(&device.map, read, readings, &mut Vec::new(), &mut samples),
        Err(cause) => samples.extend(read.publishes.iter().map(|ix| (*ix, Err(*cause)))),
    }
    let text = |value| match value {
        Value::Number(number) => number.to_string(),
        Value::Bool(bit) => bit.to_string(),
        other => format!("{other:?}"),
    };
    let name = |ix: usize| format!("{}.{}", device.name, device.map.points[ix].name);
    samples.into_iter().map(|(ix, value)| (name(ix.0 as usize), value.map(text))).collect()
}

/// All that a session tells in so long a time: each value that was ever seen, in order, and how often a device was away.
async fn told(plan: ModbusPlan, plant: &Plant, time: Duration) -> (Vec<Values>, usize) {
    let mut session = Session::with(plan, plant.clone());
    let end = Instant::now() + time;
    let (mut all, mut offline) = (Vec::new(), 0);
    while let Ok(event) = timeout_at(end, session.events.recv()).await {
        match event.unwrap() {
            Event::Batch(batch) => all.push(values(&batch)),
            Event::State { state: DeviceState::Offline(_), .. } => offline += 1,
            Event::State { .. } => {}
        }
    }
    session.end().await;
    (all, offline)
}

/// Is this all that was ever told, each of it often enough?
fn assert_always(told: &[Values], expected: &[(&str, &str)], times: usize) {
    let expected: BTreeMap<&str, &str> = expected.iter().copied().collect();
    let mut seen = BTreeMap::new();
    for (point, value) in told.iter().flatten() {
        assert_eq!(value.as_deref(), Ok(expected[point.as_str()]), "{point}");
        *seen.entry(point.as_str()).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), expected.len(), "{seen:?}");
    assert!(seen.values().all(|seen| *seen >= times), "{seen:?}");
}

const MINUTE: Duration = Duration::from_secs(60);

const TCP: &str = "tcp: '10.0.0.1:502'";

#[tokio::test(start_paused = true)]
async fn quirk_03_the_same_number_in_another_table_is_another_value() {
    let test = async {
        let plant = Plant::new(|asked| Reply::Words(vec![u16::from(asked.function); asked.count.into()]));
        let points = "coil: {coil: 13001}, discrete: {discrete: 13001}, holding: {holding: 13001, type: uint16}, \
                      input: {input: 13001, type: uint16}";
        let device = format!("  m: {{via: c, every: 1s, points: {{{points}}}}}\n");
        let (told, _) = told(plan(TCP, &device), &plant, MINUTE).await;
        let expected = [("m.coil", "true"), ("m.discrete", "false"), ("m.holding", "3"), ("m.input", "4")];
        assert_always(&told, &expected, 59);
        // Where both functions read the same, the one that the profile's table names is asked.
        let tables: Vec<u8> = plant.asked().iter().map(|asked| asked.function).collect();
        assert!([1, 2, 3, 4].iter().all(|function| tables.contains(function)), "{tables:?}");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn quirk_05_every_unit_id_of_an_endpoint_is_its_own_device_on_one_connection() {
    let test = async {
        let units = [0, 1, 3, 71, 200, 247, 255];
        let plant = Plant::new(|asked| Reply::Words(vec![1000 + u16::from(asked.unit); asked.count.into()]));
        let device = |unit| {
            format!(
                "  u{unit}: {{via: c, unit_id: {unit}, every: 1s, points: {{p: {{holding: 5, type: uint16}}}}}}\n"
            )
        };
        let devices: String = units.iter().map(device).collect();
        let (told, _) = told(plan(TCP, &devices), &plant, MINUTE).await;
        let expected = units.map(|unit| (format!("u{unit}.p"), (1000 + unit).to_string()));
        let expected: Vec<(&str, &str)> =
            expected.iter().map(|(point, value)| (point.as_str(), value.as_str())).collect();
        assert_always(&told, &expected, 59);
        assert_eq!(plant.seen.lock().unwrap().connections, 1);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn quirk_09_a_device_that_gives_whole_blocks_only_is_asked_for_whole_blocks() {
    let test = async {
        let blocks = [(3, 0, 4), (3, 4, 4), (3, 8, 1), (1, 0, 16)];
        let plant = Plant::new(move |asked| {
            let is_whole = blocks.contains(&(asked.function, asked.address, asked.count));
            if is_whole { numbers(asked) } else { Reply::Exception(2) }
        });
        let site = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/fixed_blocks/site.yaml");
        let connection = load(&site, &LoadOptions::default()).site.unwrap().connections.remove(0);
        let Protocol::Modbus(config) = connection.protocol else { panic!("a Modbus connection") };
        let plan = ModbusPlan::compile(config, connection.devices).unwrap();
        let (told, _) = told(plan, &plant, MINUTE).await;
        let expected = [
            ("m1.first", "1"),
            ("m1.second", "131075"),
            ("m1.third", "7"),
            ("m1.outside", "8"),
            ("m1.apart", "393216"),
            ("m1.lamp", "true"),
        ];
        assert_always(&told, &expected, 11);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn quirk_11_a_device_that_wants_a_pause_gets_it() {
    let test = async {
        let pause = Duration::from_millis(500);
        let plant =
            Plant::new(move |asked| if asked.rest < pause { Reply::Exception(11) } else { numbers(asked) });
        let points =
            "a: {holding: 5, type: uint16}, b: {holding: 90, type: uint16}, c: {input: 7, type: uint16}";
        let limits = "limits: {delay_after_connect: 1s, delay_between_requests: 500ms}";
        let device = format!("  m: {{via: c, every: 5s, budget: 3s, {limits}, points: {{{points}}}}}\n");
        let (told, offline) = told(plan(TCP, &device), &plant, MINUTE).await;
        assert_always(&told, &[("m.a", "5"), ("m.b", "90"), ("m.c", "7")], 11);
        assert_eq!(offline, 0);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn quirk_12_a_device_that_sleeps_through_the_first_request_is_asked_again_at_once() {
    let test = async {
        // It falls asleep when it isn't asked for 30 s, and the request that wakes it is lost.
        let asleep = Duration::from_secs(30);
        let plant =
            Plant::new(move |asked| if asked.rest > asleep { Reply::Silence } else { numbers(asked) });
        let device = "  m: {via: c, every: 1m, budget: 5s, points: {p: {holding: 5, type: uint16}}}\n";
        let (told, offline) = told(plan(TCP, device), &plant, 60 * MINUTE).await;
        let good = told.iter().filter(|values| values["m.p"] == Ok("5".into())).count();
        assert!(good >= 58, "{good} values in an hour");
        assert_eq!(offline, 0, "asleep is not away");
        // A value that did not come is told as such, and never as the last one.
        assert!(
            told.iter().flatten().all(|(_, value)| *value == Ok("5".into()) || *value == Err(Cause::Timeout))
        );
        // The second request of each pair goes soon after the first, and not more than these are asked.
        let rests: Vec<Duration> = plant.asked().iter().map(|asked| asked.rest).collect();
        assert!(rests.len() <= 2 * 62, "{} requests", rests.len());
        assert!(
            rests.iter().filter(|rest| **rest < asleep).all(|rest| *rest < Duration::from_secs(4)),
            "{rests:?}"
        );
    };
    LocalSet::new().run_until(test).await;
}
