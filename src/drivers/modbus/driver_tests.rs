//! The driver, under its session, against scripted far sides on the paused clock.

use std::collections::HashMap;
use std::io;
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::budget::{Budget, OnLate};
use crate::drivers::modbus::framing::crc;
use crate::drivers::session;
use crate::mapping::batch::Event;
use crate::mapping::compiled::{
    Chars, Decode, DeviceMap, Kind, Order, Point, PointIx, Reading, ReadingIx, Source, Transform,
};
use crate::mapping::device::{Device, Every, Group, Limits};
use crate::metrics::BusUse;
use crate::model::place::{Place, Table};
use crate::model::value::{Cause, Raw};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What the far side does; shared with the test.
#[derive(Clone, Default)]
struct Plant(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    dead: Vec<u8>,
    refusing: HashMap<u8, u8>,
    all_silent: bool,
    /// Addresses that are answered with exception 2.
    holes: Vec<u16>,
    /// Addresses that are left out of an answer over them, without an error.
    left_out: Vec<u16>,
    closes_after_reply: bool,
    /// What was sent comes back first, as a two-wire adapter hears it.
    echoes: bool,
    unreachable: bool,
    opened: u32,
    open_now: u32,
    requests: Vec<(Duration, u8)>,
    /// Every answer counts the registers up by one: nothing is the same twice.
    moving: bool,
    moved: u16,
    start: Option<Instant>,
    /// Every so manieth answer on a line has a flipped bit; 0: none.
    damages: usize,
    /// TCP: all requests are worked on at once, and answers take so long, or a few times as long, by unit.
    delay: Option<Duration>,
    /// The most requests that were being worked on at once.
    at_once: usize,
    working: usize,
}

impl Plant {
    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap());
    }

    fn requests_to(&self, unit: u8) -> Vec<Duration> {
        self.0.lock().unwrap().requests.iter().filter(|r| r.1 == unit).map(|r| r.0).collect()
    }

    /// The answer to a frame without its envelope; each register holds its own address.
    fn answer(&self, pdu: &[u8]) -> Option<Vec<u8>> {
        let mut state = self.0.lock().unwrap();
        let start = *state.start.get_or_insert_with(Instant::now);
        state.requests.push((start.elapsed(), pdu[0]));
        if state.all_silent || state.dead.contains(&pdu[0]) {
            return None;
        }
        if let Some(code) = state.refusing.get(&pdu[0]) {
            return Some(vec![pdu[0], pdu[1] | 0x80, *code]);
        }
        let (address, count) = (u16::from_be_bytes([pdu[2], pdu[3]]), u16::from_be_bytes([pdu[4], pdu[5]]));
        if state.holes.iter().any(|hole| (address..address + count).contains(hole)) {
            return Some(vec![pdu[0], pdu[1] | 0x80, 2]);
        }
        state.moved += u16::from(state.moving);
        let mut body = vec![pdu[0], pdu[1], count as u8 * 2];
        let there = (address..).filter(|address| !state.left_out.contains(address)).take(count.into());
        there.for_each(|address| body.extend((address + state.moved).to_be_bytes()));
        Some(body)
    }

    /// Answers a TCP request later, while others come in.
    fn work_on(&self, frame: Vec<u8>, delay: Duration, answers: mpsc::UnboundedSender<Vec<u8>>) {
        let Some(body) = self.answer(&frame[6..]) else { return };
        self.set(|state| {
            state.working += 1;
            state.at_once = state.at_once.max(state.working);
        });
        let plant = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(delay * u32::from(body[0] % 5 + 1)).await;
            plant.set(|state| state.working -= 1);
            let _ = answers.send([&frame[..5], &[body.len() as u8], &body[..]].concat());
        });
    }

    async fn serve(self, far: DuplexStream, rtu: bool) {
        let (mut far, mut write) = tokio::io::split(far);
        let (answers, mut answered) = mpsc::unbounded_channel::<Vec<u8>>();
        loop {
            let mut frame = vec![0; if rtu { 8 } else { 12 }];
            tokio::select! {
                read = far.read_exact(&mut frame) => if read.is_err() { return },
                Some(bytes) = answered.recv() => {
                    if write.write_all(&bytes).await.is_err() {
                        return;
                    }
                    continue;
                }
            }
            let pdu = if rtu { &frame[..6] } else { &frame[6..] };
            if self.0.lock().unwrap().echoes && write.write_all(&frame).await.is_err() {
                return;
            }
            let delay = self.0.lock().unwrap().delay;
            if let Some(delay) = delay {
                self.work_on(frame, delay, answers.clone());
                continue;
            }
            let Some(mut body) = self.answer(pdu) else { continue };
            if rtu {
                body.extend(crc(&body).to_le_bytes());
                let state = self.0.lock().unwrap();
                if state.damages > 0 && state.requests.len().is_multiple_of(state.damages) {
                    body[4] ^= 4;
                }
            } else {
                body = [&frame[..5], &[body.len() as u8], &body[..]].concat();
            }
            if write.write_all(&body).await.is_err() || self.0.lock().unwrap().closes_after_reply {
                return;
            }
        }
    }
}

impl Open for Plant {
    type Stream = DuplexStream;

    async fn open(&mut self, link: &Link) -> io::Result<DuplexStream> {
        if self.0.lock().unwrap().unreachable {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (near, far) = duplex(1024);
        self.set(|state| {
            state.opened += 1;
            state.open_now += 1;
        });
        let (plant, is_rtu) = (self.clone(), !matches!(link, Link::Tcp { .. }));
        tokio::spawn(async move {
            plant.clone().serve(far, is_rtu).await;
            plant.set(|state| state.open_now -= 1);
        });
        Ok(near)
    }
}

/// A device with two registers, 10 and 20, in two reads of the same interval.
fn device(unit: u8, every: Duration) -> Device {
    let decode = Decode { kind: Kind::Uint16, order: Order::Abcd, byte: None, chars: Chars::Both };
    let place = |address| Place::Run { table: Table::Holding, address, count: 1 };
    let point = |reading| Point {
        name: format!("p{reading}").into(),
        unit: None,
        source: Source::Reading(ReadingIx(reading)),
        transform: Transform::default(),
        published: true,
        plausible: None,
        deadband: None,
        heartbeat: None,
        smooth: None,
        alone: false,
        rate: "default".into(),
    };
    let readings = [10, 20].map(|address| Reading { place: place(address), decode: decode.clone() }).into();
    Device {
        name: format!("u{unit}").into(),
        unit,
        profile: None,
        budget: Budget { within: Duration::from_secs(5), late: OnLate::Deliver },
        map: Arc::new(DeviceMap { readings, points: vec![point(0), point(1)], writes: Vec::new() }),
        groups: vec![Group { every: Every::Interval(every), points: vec![PointIx(0), PointIx(1)] }],
        limits: Limits::default(),
        nodes: Default::default(),
    }
}

fn tcp() -> ModbusConfig {
    ModbusConfig::new(Link::Tcp { host: "plant".into(), port: 502 })
}

fn line() -> ModbusConfig {
    let line = crate::drivers::modbus::config::Line {
        baud: 19_200,
        data_bits: 8,
        parity: crate::drivers::modbus::config::Parity::Even,
        stop_bits: 1,
    };
    ModbusConfig { link: Link::RtuOverTcp { host: "plant".into(), port: 4196, line: Some(line) }, ..tcp() }
}

struct Running {
    events: mpsc::Receiver<Event>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<session::Ended>,
    connection: Arc<ConnectionMetrics>,
    devices: Vec<Arc<DeviceMetrics>>,
}

fn start(plant: &Plant, config: ModbusConfig, devices: Vec<Device>) -> Running {
    let metrics: Vec<_> = devices.iter().map(|d| Arc::new(DeviceMetrics::new(d.name.clone()))).collect();
    let connection = Arc::new(ConnectionMetrics::default());
    let plan = ModbusPlan::compile(config, devices).unwrap();
    let driver = ModbusDriver::with_opener("c", plan, metrics.clone(), connection.clone(), plant.clone());
    let (send, events) = mpsc::channel(10_000);
    let stop = CancellationToken::new();
    plant.set(|state| state.start = Some(Instant::now()));
    let task = tokio::spawn(session::run(driver, send, stop.clone(), connection.clone()));
    Running { events, stop, task, connection, devices: metrics }
}

/// What was told, in short.
#[derive(Debug, PartialEq)]
enum Told {
    Online(u8),
    Offline(u8, Cause),
    Values(u8, usize),
    Bad(u8, usize, Cause),
    /// Some values are there, the others bad.
    Mixed(u8, Vec<Option<Cause>>),
}

impl Running {
    async fn after(&mut self, wait: Duration) -> Vec<Told> {
        tokio::time::sleep(wait).await;
        let mut told = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            told.push(match event {
                Event::State { plan, state: DeviceState::Online } => Told::Online(plan.device.unit),
                Event::State { plan, state: DeviceState::Offline(cause) } => {
                    Told::Offline(plan.device.unit, cause)
                }
                Event::Batch(Batch { plan, read, readings, started, received, .. }) => {
                    assert!(started <= received);
                    let unit = plan.device.unit;
                    match readings {
                        Ok(values) if values.iter().any(Result::is_err) => {
                            Told::Mixed(unit, values.into_iter().map(Result::err).collect())
                        }
                        Ok(values) => {
                            for (value, ix) in values.iter().zip(&plan.reads[read].readings) {
                                let Place::Run { address, .. } =
                                    plan.device.map.readings[ix.0 as usize].place
                                else {
                                    panic!()
                                };
                                assert_eq!(*value, Ok(Raw::Uint(address.into())));
                            }
                            Told::Values(unit, read)
                        }
                        Err(cause) => Told::Bad(unit, read, cause),
                    }
                }
            });
        }
        told
    }
}

fn values_of(told: &[Told], unit: u8) -> usize {
    told.iter().filter(|told| matches!(told, Told::Values(of, _) if *of == unit)).count()
}

#[tokio::test(start_paused = true)]
async fn values_come_in_their_interval_after_the_device_is_online() {
    for config in [tcp(), line()] {
        let plant = Plant::default();
        let mut running = start(&plant, config, vec![device(1, ms(100))]);
        let told = running.after(ms(10_050)).await;
        assert_eq!(told[..2], [Told::Online(1), Told::Values(1, 0)]);
        assert!((199..=203).contains(&values_of(&told, 1)), "{}", values_of(&told, 1));
        assert_eq!(running.devices[0].missed_ticks.get(), 0);
        assert_eq!((running.connection.up.get(), running.connection.connects.get()), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_unit_of_three_costs_the_others_little() {
    for config in [tcp(), line()] {
        let plant = Plant::default();
        plant.set(|state| state.dead = vec![2]);
        let mut running = start(&plant, config, (1..=3).map(|unit| device(unit, ms(1000))).collect());
        let told = running.after(ms(300_000)).await;
        assert_eq!(values_of(&told, 2), 0);
        let offline: Vec<_> = told.iter().filter(|told| matches!(told, Told::Offline(..))).collect();
        assert_eq!(offline, [&Told::Offline(2, Cause::Timeout)]);
        assert_eq!(running.connection.connects.get(), 1, "one dead unit is no dead link");
        for unit in [1, 3] {
            assert!(values_of(&told, unit) >= 590, "unit {unit}: {}", values_of(&told, unit));
            let times = plant.requests_to(unit);
            let held = times.windows(3).filter(|w| w[2] - w[0] <= ms(1010)).count();
            assert!(held * 100 >= times.len() * 90, "unit {unit}: {held} of {}", times.len());
        }
        assert!(plant.requests_to(2).len() <= 25, "{}", plant.requests_to(2).len());
        // Only while its first failures took longer than its interval.
        assert!(running.devices[1].missed_ticks.get() <= 3);
    }
}

/// How much later than their interval the healthy units of ten are read, in percent of it, at the 99th percentile.
async fn lateness(config: ModbusConfig, dead: Vec<u8>) -> u128 {
    let plant = Plant::default();
    plant.set(|state| state.dead = dead.clone());
    let running = start(&plant, config, (1..=10).map(|unit| device(unit, ms(1000))).collect());
    let Running { mut events, .. } = running;
    // All that happens while the dead are found out is before the measured time.
    let (from, until) = (Instant::now() + ms(60_000), Instant::now() + ms(1_060_000));
    let mut last: HashMap<(u8, usize), Instant> = HashMap::new();
    let mut late = Vec::new();
    while let Ok(Some(event)) = tokio::time::timeout_at(until, events.recv()).await {
        let Event::Batch(batch) = event else { continue };
        let unit = batch.plan.device.unit;
        if batch.started < from || dead.contains(&unit) {
            continue;
        }
        if let Some(before) = last.insert((unit, batch.read), batch.started) {
            late.push((batch.started - before).saturating_sub(ms(1000)).as_millis());
        }
    }
    late.sort_unstable();
    assert!(late.len() > 9_000);
    late[late.len() * 99 / 100] / 10
}

#[tokio::test(start_paused = true)]
async fn dead_units_of_ten_hardly_make_the_others_late() {
    // The bars of the issue "a Modbus master that can be trusted".
    assert!(lateness(line(), vec![4]).await <= 5);
    assert!(lateness(line(), vec![1, 3, 5, 7, 9]).await <= 10);
    assert!(lateness(tcp(), vec![4]).await <= 1);
}

#[tokio::test(start_paused = true)]
async fn a_unit_that_returns_is_seen_within_half_a_minute_and_told_once() {
    let plant = Plant::default();
    let mut running = start(&plant, line(), vec![device(1, ms(1000)), device(2, ms(1000))]);
    running.after(ms(10_000)).await;
    plant.set(|state| state.dead = vec![2]);
    let told = running.after(ms(60_000)).await;
    let about: Vec<_> =
        told.iter().filter(|told| matches!(told, Told::Bad(2, ..) | Told::Offline(2, _))).collect();
    // Three failures, the state, and the read that had not failed last.
    assert_eq!(about.len(), 5, "{about:?}");
    assert_eq!(about[3], &Told::Offline(2, Cause::Timeout));
    plant.set(|state| state.dead.clear());
    let told = running.after(ms(30_000)).await;
    assert_eq!(told.iter().filter(|told| matches!(told, Told::Online(2))).count(), 1);
    assert!(values_of(&told, 2) > 10);
}

#[tokio::test(start_paused = true)]
async fn quirk_13_gateway_exceptions_mean_that_the_device_is_away_and_others_that_it_is_there() {
    let plant = Plant::default();
    plant.set(|state| state.refusing = HashMap::from([(1, 0x0B), (2, 4), (3, 2)]));
    let mut running = start(&plant, tcp(), (1..=3).map(|unit| device(unit, ms(100))).collect());
    let told = running.after(ms(5000)).await;
    assert!(told.contains(&Told::Offline(1, Cause::Exception(0x0B))));
    assert!(!told.contains(&Told::Online(1)));
    for (unit, code) in [(2, 4), (3, 2)] {
        assert!(told.contains(&Told::Online(unit)));
        let bad = told.iter().filter(|told| **told == Told::Bad(unit, 0, Cause::Exception(code))).count();
        assert!(bad > 40, "{bad}");
    }
    assert_eq!(running.connection.connects.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn quirk_16_an_echo_is_dropped_and_costs_nothing() {
    let plant = Plant::default();
    plant.set(|state| state.echoes = true);
    let config = ModbusConfig { echo: Echo::Strip, ..line() };
    let mut running = start(&plant, config, vec![device(1, ms(100))]);
    let told = running.after(ms(10_000)).await;
    assert!((198..=202).contains(&values_of(&told, 1)));
    assert!(running.connection.strays[Stray::Echo as usize].get() >= 198);
}

#[tokio::test(start_paused = true)]
async fn requests_in_flight_are_answered_in_any_order_and_never_more_than_allowed() {
    let plant = Plant::default();
    plant.set(|state| state.delay = Some(ms(40)));
    let config = ModbusConfig { max_in_flight: 4, ..tcp() };
    let devices: Vec<_> = (1..=10).map(|unit| device(unit, ms(1000))).collect();
    let mut running = start(&plant, config, devices);
    let told = running.after(ms(60_000)).await;
    // One at a time the twenty reads of 40 to 200 ms take 2.4 s of each second.
    for unit in 1..=10 {
        assert!(values_of(&told, unit) >= 117, "{unit}: {}", values_of(&told, unit));
    }
    assert_eq!(plant.0.lock().unwrap().at_once, 4);
    assert_eq!(running.connection.connects.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dead_unit_in_flight_holds_up_nobody() {
    let plant = Plant::default();
    plant.set(|state| (state.delay, state.dead) = (Some(ms(5)), vec![3]));
    let config = ModbusConfig { max_in_flight: 2, ..tcp() };
    let devices: Vec<_> = (1..=4).map(|unit| device(unit, ms(200))).collect();
    let mut running = start(&plant, config, devices);
    let told = running.after(ms(60_000)).await;
    assert_eq!(told.iter().filter(|told| matches!(told, Told::Offline(3, Cause::Timeout))).count(), 1);
    for unit in [1, 2, 4] {
        // Until it's known to be dead, its two reads take both places for up to three timeouts.
        assert!(values_of(&told, unit) >= 570, "{unit}: {}", values_of(&told, unit));
    }
    plant.set(|state| state.dead.clear());
    assert!(values_of(&running.after(ms(40_000)).await, 3) > 90);
}

#[tokio::test(start_paused = true)]
async fn what_is_in_flight_when_a_link_drops_is_asked_again() {
    let plant = Plant::default();
    plant.set(|state| state.closes_after_reply = true);
    let config = ModbusConfig { max_in_flight: 4, ..tcp() };
    let mut running = start(&plant, config, (1..=4).map(|unit| device(unit, ms(500))).collect());
    let told = running.after(ms(30_000)).await;
    assert!(!told.iter().any(|told| matches!(told, Told::Bad(..) | Told::Offline(..))), "{told:?}");
    for unit in 1..=4 {
        assert!(values_of(&told, unit) >= 118, "{unit}: {}", values_of(&told, unit));
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_answer_on_a_serial_port_is_asked_for_once_more() {
    let plant = Plant::default();
    plant.set(|state| state.damages = 5);
    let ModbusConfig { link: Link::RtuOverTcp { line: Some(line), .. }, .. } = line() else { panic!() };
    let config = ModbusConfig::new(Link::Serial { path: "/dev/ttyS0".into(), line });
    let mut running = start(&plant, config, vec![device(1, ms(500))]);
    let told = running.after(ms(60_000)).await;
    assert!(values_of(&told, 1) >= 238, "{}", values_of(&told, 1));
    assert!(!told.iter().any(|told| matches!(told, Told::Bad(..))));
    let spent = |what: BusUse| running.devices[0].bus_micros[what as usize].get();
    // One of five is heard wrongly, and noticed when nothing follows it for 50 ms.
    assert!(spent(BusUse::Retry) > 2_000_000 && spent(BusUse::Timeout) == 0);
}

#[tokio::test(start_paused = true)]
async fn quirk_13_a_busy_unit_is_there_and_is_asked_less_often() {
    let plant = Plant::default();
    plant.set(|state| state.refusing = HashMap::from([(1, 6)]));
    let mut running = start(&plant, tcp(), (1..=2).map(|unit| device(unit, ms(100))).collect());
    let told = running.after(ms(10_000)).await;
    assert!(told.contains(&Told::Online(1)) && !told.contains(&Told::Offline(1, Cause::Exception(6))));
    let asked = plant.requests_to(1).len();
    assert!((4..=7).contains(&asked), "{asked}");
    plant.set(|state| state.refusing.clear());
    assert!(values_of(&running.after(ms(18_000)).await, 1) > 10);
}

#[tokio::test(start_paused = true)]
async fn a_half_open_link_is_opened_anew() {
    let plant = Plant::default();
    let devices = (1..=8).map(|unit| device(unit, ms(1000))).collect();
    let mut running = start(&plant, tcp(), devices);
    running.after(ms(3000)).await;
    plant.set(|state| state.all_silent = true);
    // Up to three timeouts of each of three units.
    let told = running.after(ms(8000)).await;
    assert_eq!(told.iter().filter(|told| matches!(told, Told::Offline(_, Cause::Offline))).count(), 8);
    assert!(plant.0.lock().unwrap().opened >= 2);
    plant.set(|state| state.all_silent = false);
    let told = running.after(ms(12_000)).await;
    assert_eq!(told.iter().filter(|told| matches!(told, Told::Online(_))).count(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_closed_after_each_reply_loses_nothing() {
    for config in [tcp(), line()] {
        let plant = Plant::default();
        plant.set(|state| state.closes_after_reply = true);
        let mut running = start(&plant, config, vec![device(1, ms(100))]);
        let told = running.after(ms(5000)).await;
        assert!(values_of(&told, 1) >= 98, "{}", values_of(&told, 1));
        assert!(!told.iter().any(|told| matches!(told, Told::Offline(..) | Told::Bad(..))));
    }
}

#[tokio::test(start_paused = true)]
async fn an_absent_far_side_is_a_state_that_is_told_once() {
    let plant = Plant::default();
    plant.set(|state| state.unreachable = true);
    let mut running = start(&plant, tcp(), vec![device(1, ms(100))]);
    let told = running.after(ms(60_000)).await;
    let expected =
        [Told::Offline(1, Cause::Offline), Told::Bad(1, 0, Cause::Offline), Told::Bad(1, 1, Cause::Offline)];
    assert_eq!(told, expected);
    plant.set(|state| state.unreachable = false);
    let told = running.after(ms(14_000)).await;
    assert_eq!(told[0], Told::Online(1));
    assert_eq!(running.devices[0].missed_ticks.get(), 0, "what is offline misses nothing");
}

#[tokio::test(start_paused = true)]
async fn a_stop_finishes_the_exchange_and_ends_soon() {
    let plant = Plant::default();
    plant.set(|state| state.dead = vec![1]);
    let mut running = start(&plant, tcp(), vec![device(1, ms(5000))]);
    running.after(ms(4_500)).await;
    running.stop.cancel();
    tokio::time::timeout(ms(2100), running.task).await.unwrap().unwrap();
    assert_eq!(running.connection.up.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_tight_budget_takes_no_thinking_device_for_a_dead_link() {
    let plant = Plant::default();
    let mut hasty = device(1, ms(100));
    hasty.budget.within = ms(20);
    let mut running = start(&plant, tcp(), vec![hasty]);
    running.after(ms(1000)).await;
    plant.set(|state| state.all_silent = true);
    running.after(ms(1500)).await;
    plant.set(|state| state.all_silent = false);
    running.after(ms(5000)).await;
    assert_eq!(running.connection.connects.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn no_request_outlives_its_budget() {
    let plant = Plant::default();
    plant.set(|state| state.dead = vec![1]);
    let mut dead = device(1, ms(1000));
    dead.budget.within = ms(50);
    let mut running = start(&plant, tcp(), vec![dead]);
    tokio::time::sleep(ms(5000)).await;
    while let Ok(event) = running.events.try_recv() {
        if let Event::Batch(batch) = event {
            assert!(batch.received - batch.started <= ms(52));
        }
    }
    assert!(running.devices[0].timeouts.get() >= 3);
}

#[tokio::test(start_paused = true)]
async fn rests_are_kept_for_the_device_and_for_the_connection() {
    let plant = Plant::default();
    let mut slow = device(1, ms(100));
    slow.limits.delay_between_requests = ms(40);
    let mut config = tcp();
    config.delay_between_requests = ms(10);
    config.delay_after_connect = ms(300);
    let mut running = start(&plant, config, vec![slow, device(2, ms(100))]);
    running.after(ms(3000)).await;
    assert!(plant.requests_to(1)[0] >= ms(300));
    assert!(plant.requests_to(1).windows(2).all(|w| w[1] - w[0] >= ms(40)));
    let all = plant.0.lock().unwrap().requests.clone();
    assert!(all.windows(2).all(|w| w[1].0 - w[0].0 >= ms(10)));
    assert!(plant.requests_to(2).len() >= 50);
}

#[tokio::test(start_paused = true)]
async fn quirk_10_a_split_value_that_moves_while_it_is_read_is_torn() {
    for moving in [false, true] {
        let plant = Plant::default();
        plant.set(|state| state.moving = moving);
        let mut split = device(1, ms(1000));
        let map = Arc::make_mut(&mut split.map);
        map.readings[0] = Reading {
            place: Place::Scattered { table: Table::Holding, addresses: [300, 20].into() },
            decode: Decode { kind: Kind::Uint32, ..map.readings[0].decode.clone() },
        };
        split.groups[0].points.truncate(1);
        let plan = ModbusPlan::compile(tcp(), vec![split]).unwrap();
        let metrics = Arc::new(DeviceMetrics::default());
        let mut driver = ModbusDriver::with_opener("c", plan, vec![metrics], Arc::default(), plant.clone());
        driver.connect().await.unwrap();
        let due = driver.due().await;
        let batch = driver.read(due).await.unwrap().unwrap();
        let expected = if moving { Err(Cause::Torn) } else { Ok(Raw::Uint(300 << 16 | 20)) };
        assert_eq!(batch.readings, Ok(vec![expected]));
        // High word, low word, high word again; twice when torn.
        assert_eq!(plant.requests_to(1).len(), if moving { 6 } else { 3 });
    }
}

#[test]
fn quirk_19_a_serial_line_has_no_unit_0() {
    let errors = ModbusPlan::compile(line(), vec![device(0, ms(100)), device(1, ms(100))]).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert!(matches!(errors[0].error, crate::drivers::modbus::DeviceError::Unit(0)));
    assert!(ModbusPlan::compile(tcp(), vec![device(0, ms(100))]).is_ok());
}

#[test]
fn a_line_that_is_asked_for_too_much_does_not_fit() {
    let fits = |every| {
        ModbusPlan::compile(line(), (1..=3).map(|unit| device(unit, ms(every))).collect()).unwrap().fit()
    };
    // 15 characters of 11 bits at 19200 baud, two silences of 2 ms and 5 ms of thinking: 17.6 ms, six reads.
    let fit = fits(1000);
    assert!((fit.load - 0.1056).abs() < 0.001 && fit.fits, "{}", fit.load);
    assert!(!fits(100).fits);
    assert!(fit.reads.iter().all(|read| read.worst_age.is_some_and(|age| age > ms(100) && age < ms(130))));
}

#[test]
fn ten_thousand_connections_stay_small() {
    let plan = ModbusPlan::compile(tcp(), vec![device(1, ms(100))]).unwrap();
    let connection = Arc::new(ConnectionMetrics::default());
    let driver = ModbusDriver::new("c", plan, vec![Arc::new(DeviceMetrics::default())], connection.clone());
    let (send, _events) = mpsc::channel(1);
    let session = session::run(driver, send.clone(), CancellationToken::new(), connection.clone());
    assert!(size_of_val(&session) < 8 * 1024, "{} bytes", size_of_val(&session));
    let plan = Arc::new(crate::drivers::Plan::Modbus(ModbusPlan::compile(tcp(), Vec::new()).unwrap()));
    let (_, running) = tokio::sync::watch::channel(crate::drivers::Running { plan, metrics: Vec::new() });
    let life = crate::drivers::run(running, connection, send, CancellationToken::new(), Default::default());
    assert!(size_of_val(&life) < 1024, "{} bytes", size_of_val(&life));
}

/// A device with one read of these registers.
fn merged(unit: u8, addresses: std::ops::Range<u16>, every: Duration) -> Device {
    spread(unit, &addresses.collect::<Vec<_>>(), every)
}

fn spread(unit: u8, addresses: &[u16], every: Duration) -> Device {
    let mut device = device(unit, every);
    let map = Arc::make_mut(&mut device.map);
    let (reading, point) = (map.readings[0].clone(), map.points[0].clone());
    let place = |address| Place::Run { table: Table::Holding, address, count: 1 };
    map.readings = addresses.iter().map(|at| Reading { place: place(*at), ..reading.clone() }).collect();
    let point = |ix: usize| Point { source: Source::Reading(ReadingIx(ix as u32)), ..point.clone() };
    map.points = (0..map.readings.len()).map(point).collect();
    device.groups[0].points = (0..map.points.len() as u32).map(PointIx).collect();
    device
}

fn piped() -> ModbusConfig {
    ModbusConfig { max_in_flight: 4, ..tcp() }
}

#[tokio::test(start_paused = true)]
async fn quirk_06_holes_answer_exception_2_and_only_their_values_are_bad() {
    for config in [tcp(), line(), piped()] {
        let plant = Plant::default();
        plant.set(|state| state.holes = vec![12, 17]);
        let mut running = start(&plant, config, vec![merged(1, 10..20, ms(1000)), device(2, ms(1000))]);
        let told = running.after(ms(20_000)).await;
        let first = told.iter().find(|told| matches!(told, Told::Mixed(..) | Told::Bad(1, ..)));
        assert!(matches!(first, Some(Told::Mixed(..))), "values in the very first read: {told:?}");
        assert!(!told.iter().any(|told| matches!(told, Told::Offline(..))));
        let mut wanted = vec![None; 10];
        (wanted[2], wanted[7]) = (Some(Cause::Exception(2)), Some(Cause::Exception(2)));
        let mixed: Vec<_> = told.iter().filter(|told| **told == Told::Mixed(1, wanted.clone())).collect();
        assert!(mixed.len() >= 18, "{}", mixed.len());
        assert_eq!(running.devices[0].quarantined.get(), 2);
        assert!(values_of(&told, 2) >= 38, "the others' interval is held");
        // Three requests for what is good; 10 to find the refused.
        let before = plant.requests_to(1).len();
        let more = running.after(ms(10_000)).await;
        assert!((28..=34).contains(&(plant.requests_to(1).len() - before)), "{before}");
        assert!(!more.contains(&Told::Online(1)));
        // They come back by themselves.
        plant.set(|state| state.holes.clear());
        running.after(ms(310_000)).await;
        let told = running.after(ms(5_000)).await;
        assert!(values_of(&told, 1) >= 4, "{told:?}");
        assert_eq!(running.devices[0].quarantined.get(), 0);
        running.stop.cancel();
        running.task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_merge_over_a_hole_that_shifts_is_never_published_and_remembered() {
    for config in [tcp(), line(), piped()] {
        let plant = Plant::default();
        plant.set(|state| state.left_out = vec![11, 12]);
        // The registers 10 and 20, over a hole of which the far side leaves two registers out.
        let limits = Limits { max_gap: 20, ..Limits::default() };
        let device = Device { limits, ..device(1, ms(100)) };
        let (found, mut bans) = mpsc::channel(8);
        let metrics = vec![Arc::new(DeviceMetrics::new("u1"))];
        let connection = Arc::new(ConnectionMetrics::default());
        let plan = ModbusPlan::compile(config, vec![device]).unwrap();
        let driver =
            ModbusDriver::with_opener("c", plan.clone(), metrics.clone(), connection.clone(), plant.clone())
                .with_bans(Bans::new(Vec::new(), Some(found)));
        let (send, events) = mpsc::channel(10_000);
        let stop = CancellationToken::new();
        let task = tokio::spawn(session::run(driver, send, stop.clone(), connection.clone()));
        let mut running =
            Running { events, stop, task, connection: connection.clone(), devices: metrics.clone() };
        // Every value is compared with its register's.
        assert!(values_of(&running.after(ms(5_000)).await, 1) >= 45);
        let ban = bans.try_recv().unwrap();
        assert_eq!((ban.unit, ban.address, ban.count), (1, 11, 9));
        assert!(bans.try_recv().is_err(), "told once");
        running.stop.cancel();
        running.task.await.unwrap();

        // After a restart it is not even tried.
        let before = plant.requests_to(1).len();
        let driver = ModbusDriver::with_opener("c", plan, metrics.clone(), connection.clone(), plant.clone())
            .with_bans(Bans::new(vec![ban], None));
        let (send, events) = mpsc::channel(10_000);
        let stop = CancellationToken::new();
        let task = tokio::spawn(session::run(driver, send, stop.clone(), connection.clone()));
        let mut running = Running { events, stop, task, connection, devices: metrics };
        let told = running.after(ms(5_000)).await;
        assert_eq!(plant.requests_to(1).len() - before, 2 * values_of(&told, 1));
        running.stop.cancel();
        running.task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_merge_over_a_hole_is_trusted_once_it_is_proven() {
    for config in [tcp(), line(), piped()] {
        let plant = Plant::default();
        let limits = Limits { max_gap: 20, ..Limits::default() };
        let mut running = start(&plant, config, vec![Device { limits, ..device(1, ms(100)) }]);
        let told = running.after(ms(5_000)).await;
        // Around, over, around; then one request each.
        assert!((plant.requests_to(1).len() - values_of(&told, 1)).abs_diff(4) <= 1);
        running.stop.cancel();
        running.task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn quirk_11_a_server_of_one_client_is_left_to_others_between_reads() {
    let rtu = ModbusConfig::new(Link::RtuOverTcp { host: "gateway".into(), port: 502, line: None });
    for config in [tcp(), piped(), rtu] {
        let config = ModbusConfig { close_between_reads: true, ..config };
        let plant = Plant::default();
        let mut running = start(&plant, config, vec![device(1, ms(1000)), device(2, ms(1000))]);
        let told = running.after(ms(10_100)).await;
        assert!((values_of(&told, 1), values_of(&told, 2)) >= (9, 9), "{told:?}");
        assert!(!told.iter().any(|told| matches!(told, Told::Bad(..) | Told::Offline(..))), "{told:?}");
        assert!(plant.0.lock().unwrap().opened >= 10, "once for each pause");
        let mut open = 0;
        for _ in 0..100 {
            running.after(ms(10)).await;
            open += plant.0.lock().unwrap().open_now;
        }
        assert!(open <= 20, "open for {open} of 100 looks");
        // It comes back to a server that was away meanwhile.
        plant.set(|state| state.unreachable = true);
        assert!(running.after(ms(5_000)).await.contains(&Told::Offline(1, Cause::Offline)));
        plant.set(|state| state.unreachable = false);
        assert!(values_of(&running.after(ms(40_000)).await, 1) > 5);
        running.stop.cancel();
        running.task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_parts_of_a_refused_request_wait_for_the_rest_that_the_device_wants() {
    let plant = Plant::default();
    plant.set(|state| state.holes = vec![14]);
    let limits = Limits { delay_between_requests: ms(300), ..Limits::default() };
    let device = Device { limits, ..merged(1, 10..20, ms(10_000)) };
    let mut running = start(&plant, tcp(), vec![device]);
    running.after(ms(30_000)).await;
    let requests = plant.requests_to(1);
    assert!(requests.len() > 6, "{}", requests.len());
    let gaps: Vec<_> = requests.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(gaps.iter().all(|gap| *gap >= ms(300)), "{gaps:?}");
    running.stop.cancel();
    running.task.await.unwrap();
}

/// A budget that is shorter than the rests between the requests around the holes: their values are late, and the merge is
/// proven all the same.
#[tokio::test(start_paused = true)]
async fn a_device_that_wants_long_rests_is_read_around_its_holes() {
    let plant = Plant::default();
    let limits = Limits { max_gap: 20, delay_between_requests: ms(850), ..Limits::default() };
    let budget = Budget { within: ms(1000), late: OnLate::Deliver };
    let mut running =
        start(&plant, tcp(), vec![Device { limits, budget, ..spread(1, &[10, 30, 50, 70], ms(10_000)) }]);
    let told = running.after(ms(60_000)).await;
    assert!(!told.iter().any(|told| matches!(told, Told::Bad(..) | Told::Offline(..))), "{told:?}");
    let before = plant.requests_to(1).len();
    let told = running.after(ms(60_000)).await;
    assert_eq!((plant.requests_to(1).len() - before, values_of(&told, 1)), (6, 6));
    running.stop.cancel();
    running.task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_value_that_is_read_once_is_not_over_before_the_refused_are_found() {
    let plant = Plant::default();
    plant.set(|state| state.holes = vec![20, 60, 90]);
    let mut device = merged(1, 10..110, ms(1000));
    device.groups[0].every = Every::Once;
    let mut running = start(&plant, tcp(), vec![device]);
    let told = running.after(ms(120_000)).await;
    let Some(Told::Mixed(_, causes)) = told.last() else { panic!("{told:?}") };
    assert_eq!(causes.iter().flatten().count(), 3);
    let asked = plant.requests_to(1).len();
    running.after(ms(60_000)).await;
    assert_eq!(plant.requests_to(1).len(), asked);
}

/// A session that can be told to go on with another plan.
fn start_replaceable(
    plant: &Plant,
    config: &ModbusConfig,
    devices: Vec<Device>,
) -> (Running, tokio::sync::watch::Sender<crate::drivers::Running>) {
    let metrics: Vec<_> = devices.iter().map(|d| Arc::new(DeviceMetrics::new(d.name.clone()))).collect();
    let connection = Arc::new(ConnectionMetrics::default());
    let plan = ModbusPlan::compile(config.clone(), devices).unwrap();
    let driver =
        ModbusDriver::with_opener("c", plan.clone(), metrics.clone(), connection.clone(), plant.clone());
    let (send, events) = mpsc::channel(10_000);
    let stop = CancellationToken::new();
    plant.set(|state| state.start = Some(Instant::now()));
    let plan = Arc::new(crate::drivers::Plan::Modbus(plan));
    let running = crate::drivers::Running { plan, metrics: metrics.clone() };
    let (replace, mut running) = tokio::sync::watch::channel(running);
    let (over, counts) = (stop.clone(), connection.clone());
    let task =
        tokio::spawn(async move { session::follow(driver, send, over, counts, Some(&mut running)).await });
    (Running { events, stop, task, connection, devices: metrics }, replace)
}

/// Another plan: these devices, of which those that were there are counted as before.
fn replace(
    running: &mut Running,
    sender: &tokio::sync::watch::Sender<crate::drivers::Running>,
    config: &ModbusConfig,
    devices: Vec<Device>,
) {
    let counted = |device: &Device| {
        let known = running.devices.iter().find(|known| known.name == device.name).cloned();
        known.unwrap_or_else(|| Arc::new(DeviceMetrics::new(device.name.clone())))
    };
    let metrics: Vec<_> = devices.iter().map(counted).collect();
    running.devices.clone_from(&metrics);
    let plan = Arc::new(crate::drivers::Plan::Modbus(ModbusPlan::compile(config.clone(), devices).unwrap()));
    sender.send_replace(crate::drivers::Running { plan, metrics });
}

#[tokio::test(start_paused = true)]
async fn devices_come_and_go_and_the_others_miss_no_poll() {
    let pipelined = ModbusConfig { max_in_flight: 4, ..tcp() };
    for config in [tcp(), line(), pipelined] {
        let plant = Plant::default();
        plant.set(|state| state.delay = (config.max_in_flight > 1).then(|| ms(3)));
        let stayed = || vec![device(1, ms(100)), device(2, ms(70))];
        let (mut running, sender) = start_replaceable(&plant, &config, stayed());
        let mut told = running.after(ms(2_033)).await;
        for round in 0..20 {
            let more = device(3 + round % 2, ms(50));
            let devices =
                if round % 3 == 0 { stayed() } else { stayed().into_iter().chain([more]).collect() };
            replace(&mut running, &sender, &config, devices);
            told.extend(running.after(ms(517)).await);
        }
        assert_eq!((plant.0.lock().unwrap().opened, running.connection.connects.get()), (1, 1));
        for (unit, every) in [(1, 100), (2, 70)] {
            let online = told.iter().filter(|told| matches!(told, Told::Online(of) if *of == unit)).count();
            assert_eq!(online, 1, "unit {unit} is not told again");
            let lost = running.devices[usize::from(unit) - 1].missed_ticks.get();
            assert_eq!(lost, 0, "unit {unit}");
            // Two reads in each interval.
            let all = values_of(&told, unit);
            let due = 2 * (2_033 + 20 * 517) / every;
            assert!((due - 2..=due + 4).contains(&all), "unit {unit}: {all} of {due}");
            let times = plant.requests_to(unit);
            let late = times.windows(3).find(|w| w[2] - w[0] > ms(every as u64 + 30));
            assert_eq!(late, None, "unit {unit}");
        }
        assert!(values_of(&told, 3) > 50 && values_of(&told, 4) > 50);
        assert!(told.contains(&Told::Online(3)) && told.contains(&Told::Online(4)));
        running.stop.cancel();
        running.task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_found_out_of_a_device_stays_when_another_one_comes() {
    let plant = Plant::default();
    plant.set(|state| state.holes = vec![20]);
    let merged = || {
        let mut device = device(1, ms(100));
        device.limits.max_gap = 16;
        device
    };
    let (mut running, sender) = start_replaceable(&plant, &tcp(), vec![merged()]);
    running.after(ms(5_000)).await;
    let refused = |running: &Running| running.devices[0].exceptions.get();
    let before = refused(&running);
    assert!(before > 0);
    replace(&mut running, &sender, &tcp(), vec![merged(), device(2, ms(1000))]);
    let told = running.after(ms(5_000)).await;
    assert!(values_of(&told, 2) > 0);
    let after = refused(&running);
    assert!(after <= before + 3, "the refused address is asked for again and again: {before} {after}");
}

/// A dead unit's new device is asked at once and told away once; one beside a device that has stayed is what that one is.
#[tokio::test(start_paused = true)]
async fn a_new_device_of_a_dead_unit_is_told_away_and_gives_no_bad_values_for_ever() {
    for is_shared in [false, true] {
        let plant = Plant::default();
        plant.set(|state| state.dead = vec![2]);
        let dead = |every| device(2, ms(every));
        let named = |name: &str| {
            let mut other = dead(300);
            other.name = name.into();
            other
        };
        let (mut running, sender) = start_replaceable(&plant, &tcp(), vec![device(1, ms(100)), dead(200)]);
        let told = running.after(ms(30_000)).await;
        assert!(told.contains(&Told::Offline(2, Cause::Timeout)));
        let stayed = is_shared.then(|| dead(200));
        let devices = [device(1, ms(100)), named("other")].into_iter().chain(stayed).collect();
        replace(&mut running, &sender, &tcp(), devices);
        let told = running.after(ms(60_000)).await;
        let count = |what: fn(&Told) -> bool| told.iter().filter(|told| what(told)).count();
        assert_eq!(count(|told| matches!(told, Told::Offline(2, _))), 1, "{is_shared}");
        let bad = count(|told| matches!(told, Told::Bad(2, ..)));
        assert!(bad <= 6, "{bad} {is_shared}");
        plant.set(|state| state.dead.clear());
        let told = running.after(ms(30_000)).await;
        let back = told.iter().filter(|told| matches!(told, Told::Online(2))).count();
        assert_eq!(back, 1 + usize::from(is_shared));
        assert!(values_of(&told, 2) > 50);
    }
}

#[tokio::test(start_paused = true)]
async fn another_link_gets_another_driver() {
    let plant = Plant::default();
    let (mut running, sender) = start_replaceable(&plant, &tcp(), vec![device(1, ms(100))]);
    running.after(ms(500)).await;
    let elsewhere = ModbusConfig::new(Link::Tcp { host: "other".into(), port: 502 });
    replace(&mut running, &sender, &elsewhere, vec![device(1, ms(100))]);
    running.task.await.unwrap();
    assert_eq!(running.connection.up.get(), 0);
}
