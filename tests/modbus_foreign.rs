//! Our Modbus client against tokio-modbus' servers, which share no code with it: TCP, RTU on a pseudo-terminal, and RTU
//! over TCP (the pseudo-terminal behind a socket).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::future::{Ready, ready};
use std::sync::Arc;
use std::time::Duration;

use taktbus::budget::Budget;
use taktbus::drivers::modbus::config::{Line, Link, ModbusConfig, Parity};
use taktbus::drivers::modbus::{ModbusDriver, ModbusPlan};
use taktbus::drivers::session;
use taktbus::mapping::batch::{Batch, DeviceState, Event};
use taktbus::mapping::compiled::{
    Chars, Decode, DeviceMap, Kind, Order, Point, PointIx, Reading, ReadingIx, Source, Transform,
};
use taktbus::mapping::device::{Device, Every, Group, Limits};
use taktbus::metrics::{ConnectionMetrics, DeviceMetrics};
use taktbus::model::place::{Place, Table};
use taktbus::model::value::{Cause, Raw};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_modbus::prelude::{ExceptionCode, Request, Response, SlaveRequest};
use tokio_modbus::server::tcp::accept_tcp_connection;
use tokio_modbus::server::{Service, rtu, tcp};
use tokio_serial::{SerialPort, SerialStream};
use tokio_util::sync::CancellationToken;

/// The unit that never answers.
const DEAD: u8 = 9;

/// Longer than a busy machine keeps one of the two ends from running.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long everything together may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// Registers hold their own address (input registers with every bit flipped), odd bits are set, and from 1000 on there
/// is nothing.
struct Memory;

impl Service for Memory {
    type Request = SlaveRequest<'static>;
    type Response = Option<Response>;
    type Exception = ExceptionCode;
    type Future = Ready<Result<Option<Response>, ExceptionCode>>;

    fn call(&self, request: Self::Request) -> Self::Future {
        if request.slave == DEAD {
            return ready(Ok(None));
        }
        let exists = |address: u16, count: u16| address + count <= 1000;
        let bits = |address, count| (address..address + count).map(|a| a % 2 == 1).collect();
        ready(match request.request {
            Request::ReadCoils(a, n) if exists(a, n) => Ok(Some(Response::ReadCoils(bits(a, n)))),
            Request::ReadDiscreteInputs(a, n) if exists(a, n) => {
                Ok(Some(Response::ReadDiscreteInputs(bits(a, n))))
            }
            Request::ReadHoldingRegisters(a, n) if exists(a, n) => {
                Ok(Some(Response::ReadHoldingRegisters((a..a + n).collect())))
            }
            Request::ReadInputRegisters(a, n) if exists(a, n) => {
                Ok(Some(Response::ReadInputRegisters((a..a + n).map(|a| !a).collect())))
            }
            _ => Err(ExceptionCode::IllegalDataAddress),
        })
    }
}

/// What is read, and what must come.
fn wanted() -> Vec<(Place, Kind, Result<Raw, Cause>)> {
    let run = |table, address, count| Place::Run { table, address, count };
    vec![
        (run(Table::Coil, 17, 1), Kind::Bool, Ok(Raw::Bool(true))),
        (run(Table::Coil, 30, 1), Kind::Bool, Ok(Raw::Bool(false))),
        (run(Table::Discrete, 5, 1), Kind::Bool, Ok(Raw::Bool(true))),
        (run(Table::Holding, 100, 2), Kind::Uint32, Ok(Raw::Uint(100 << 16 | 101))),
        (run(Table::Holding, 300, 1), Kind::Int16, Ok(Raw::Int(300))),
        (run(Table::Input, 7, 1), Kind::Uint16, Ok(Raw::Uint(0xFFF8))),
        // Asked for together, and refused together: the other is there all the same.
        (run(Table::Input, 999, 1), Kind::Uint16, Ok(Raw::Uint(0xFC18))),
        (run(Table::Input, 1000, 1), Kind::Uint16, Err(Cause::Exception(2))),
    ]
}

fn device(unit: u8) -> Device {
    let decode = |kind| Decode { kind, order: Order::Abcd, byte: None, chars: Chars::Both };
    let wanted = wanted();
    let points = (0..wanted.len() as u32)
        .map(|ix| Point {
            name: format!("p{ix}").into(),
            unit: None,
            source: Source::Reading(ReadingIx(ix)),
            transform: Transform::default(),
            published: true,
            plausible: None,
            deadband: None,
            heartbeat: None,
            smooth: None,
            alone: false,
            rate: "default".into(),
        })
        .collect();
    let readings =
        wanted.into_iter().map(|(place, kind, _)| Reading { place, decode: decode(kind) }).collect();
    Device {
        name: format!("u{unit}").into(),
        unit,
        profile: None,
        budget: Budget::default(),
        map: Arc::new(DeviceMap { readings, points, writes: Vec::new() }),
        groups: vec![Group {
            every: Every::Interval(Duration::from_millis(50)),
            points: (0..8).map(PointIx).collect(),
        }],
        limits: Limits { max_gap: 20, response_timeout: Some(RESPONSE_TIMEOUT), ..Limits::default() },
        nodes: Default::default(),
    }
}

/// Runs a session until each living unit has given each value five times, and the dead one is known to be dead.
async fn every_value_arrives(link: Link) {
    let config = ModbusConfig::new(link);
    let units = [1, 2, DEAD];
    let plan = ModbusPlan::compile(config, units.map(device).into()).unwrap();
    let metrics = units.map(|_| Arc::new(DeviceMetrics::default())).to_vec();
    let connection = Arc::new(ConnectionMetrics::default());
    let driver = ModbusDriver::new("c", plan, metrics, connection.clone());
    let (send, mut events) = mpsc::channel(16);
    let stop = CancellationToken::new();
    let task = tokio::spawn(session::run(driver, send, stop.clone(), connection.clone()));
    let mut seen = [[0; 8]; 2];
    let mut dead_is_known = false;
    let all = async {
        while seen.iter().flatten().any(|times| *times < 5) || !dead_is_known {
            match events.recv().await.unwrap() {
                Event::State { plan, state: DeviceState::Offline(cause) } => {
                    assert_eq!((plan.device.unit, cause), (DEAD, Cause::Timeout));
                    dead_is_known = true;
                }
                Event::State { plan, .. } => assert_ne!(plan.device.unit, DEAD),
                Event::Batch(batch) => check(&batch, &mut seen),
            }
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("all values in time");
    assert_eq!(connection.connects.get(), 1);
    stop.cancel();
    task.await.unwrap();
}

fn check(batch: &Batch, seen: &mut [[u32; 8]; 2]) {
    let unit = batch.plan.device.unit;
    if unit == DEAD {
        assert_eq!(batch.readings, Err(Cause::Timeout));
        return;
    }
    let wanted = wanted();
    for (i, ReadingIx(ix)) in batch.plan.reads[batch.read].readings.iter().enumerate() {
        let got = batch.readings.as_ref().map_err(|cause| *cause).and_then(|readings| readings[i].clone());
        // A machine that stalls is no wrong value; but each must come in the end.
        if got == Err(Cause::Timeout) {
            continue;
        }
        // Nor is it time enough to find out which of two is refused.
        if got == Err(Cause::Exception(2)) && wanted[*ix as usize].2.is_ok() {
            continue;
        }
        assert_eq!(got, wanted[*ix as usize].2, "unit {unit}, reading {ix}");
        seen[usize::from(unit - 1)][*ix as usize] += 1;
    }
}

#[tokio::test]
async fn values_of_a_foreign_tcp_server_are_right() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let serve =
            |stream, address| async move { accept_tcp_connection(stream, address, |_| Ok(Some(Memory))) };
        tcp::Server::new(listener).serve(&serve, |error| panic!("{error}")).await
    });
    every_value_arrives(Link::Tcp { host: "127.0.0.1".into(), port }).await;
}

#[tokio::test]
async fn values_of_a_foreign_rtu_server_are_right() {
    let (far, mut near) = SerialStream::pair().unwrap();
    let path = near.name().unwrap();
    // Keeps the terminal alive between our end's closing and the driver's opening it by its path.
    near.set_exclusive(false).unwrap();
    let keep = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    drop(near);
    tokio::spawn(rtu::Server::new(far).serve_forever(Memory));
    let line = Line { baud: 115_200, data_bits: 8, parity: Parity::None, stop_bits: 1 };
    every_value_arrives(Link::Serial { path: path.into(), line }).await;
    drop(keep);
}

#[tokio::test]
async fn quirk_18_values_of_a_foreign_rtu_server_behind_a_socket_are_right() {
    let (far, mut near) = SerialStream::pair().unwrap();
    tokio::spawn(rtu::Server::new(far).serve_forever(Memory));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        tokio::io::copy_bidirectional(&mut socket, &mut near).await
    });
    every_value_arrives(Link::RtuOverTcp { host: "127.0.0.1".into(), port, line: None }).await;
}
