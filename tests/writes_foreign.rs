//! Writes to a foreign server (tokio-modbus), over TCP and RTU: what a site file makes writable is written with the function
//! code that it says, read back, and nothing else has changed.

#![allow(clippy::unwrap_used)] // also outside the test functions

use std::future::{Ready, ready};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use taktbus::config::{LoadOptions, load};
use taktbus::drivers::modbus::client::{Client, Proof};
use taktbus::drivers::modbus::config::{Line, Link, ModbusConfig, Parity};
use taktbus::mapping::inverse::parse;
use taktbus::mapping::write::Target;
use taktbus::model::value::Raw;
use tokio::net::TcpListener;
use tokio_modbus::prelude::{ExceptionCode, Request, Response, SlaveRequest};
use tokio_modbus::server::tcp::accept_tcp_connection;
use tokio_modbus::server::{Service, rtu, tcp};
use tokio_serial::{SerialPort, SerialStream};

/// Longer than a busy machine keeps one of the two ends from running.
const TIMEOUT: Duration = Duration::from_secs(10);

const REGISTERS: usize = 300;

#[derive(Clone)]
struct Memory(Arc<Mutex<Cells>>);

struct Cells {
    registers: Vec<u16>,
    coils: Vec<bool>,
    /// The function codes that have written.
    functions: Vec<u8>,
}

impl Memory {
    fn new() -> Self {
        // Every bit of a register that is only partly written must be seen to stay.
        Self(Arc::new(Mutex::new(Cells {
            registers: vec![0xA5A5; REGISTERS],
            coils: vec![false; 16],
            functions: Vec::new(),
        })))
    }

    fn registers(&self) -> Vec<u16> {
        self.0.lock().unwrap().registers.clone()
    }

    fn functions(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap().functions)
    }
}

impl Service for Memory {
    type Request = SlaveRequest<'static>;
    type Response = Option<Response>;
    type Exception = ExceptionCode;
    type Future = Ready<Result<Option<Response>, ExceptionCode>>;

    fn call(&self, request: Self::Request) -> Self::Future {
        let Cells { registers, coils, functions } = &mut *self.0.lock().unwrap();
        let span = |a: u16, n: u16| usize::from(a)..usize::from(a + n);
        let mut wrote = |code| functions.push(code);
        ready(Ok(Some(match request.request {
            Request::ReadCoils(a, n) => Response::ReadCoils(coils[span(a, n)].to_vec()),
            Request::ReadHoldingRegisters(a, n) => {
                Response::ReadHoldingRegisters(registers[span(a, n)].to_vec())
            }
            Request::WriteSingleCoil(a, set) => {
                wrote(5);
                coils[usize::from(a)] = set;
                Response::WriteSingleCoil(a, set)
            }
            // 60 takes nothing at all; 262 says that it's done, and keeps its value.
            Request::WriteSingleRegister(60, _) => return ready(Err(ExceptionCode::IllegalDataValue)),
            Request::WriteMultipleRegisters(60, _) => return ready(Err(ExceptionCode::IllegalDataValue)),
            Request::WriteSingleRegister(262, word) => Response::WriteSingleRegister(262, word),
            Request::WriteSingleRegister(a, word) => {
                wrote(6);
                registers[usize::from(a)] = word;
                Response::WriteSingleRegister(a, word)
            }
            Request::WriteMultipleRegisters(a, words) => {
                wrote(16);
                let count = words.len() as u16;
                registers[span(a, count)].copy_from_slice(&words);
                Response::WriteMultipleRegisters(a, count)
            }
            Request::MaskWriteRegister(a, and, or) => {
                wrote(22);
                let word = &mut registers[usize::from(a)];
                *word = (*word & and) | (or & !and);
                Response::MaskWriteRegister(a, and, or)
            }
            _ => return ready(Err(ExceptionCode::IllegalFunction)),
        })))
    }
}

/// A target of the site in `tests/writing`.
fn target(device: &str, point: &str) -> Target {
    let site = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/writing/site.yaml");
    let site = load(&site, &LoadOptions::default()).site.unwrap();
    let mut devices = site.connections.iter().flat_map(|connection| &connection.devices);
    let device = devices.find(|known| *known.name == *device).unwrap();
    device.map.writes.iter().find(|target| *target.name == *point).unwrap().clone()
}

async fn write(client: &mut Client, device: &str, point: &str, value: &str) -> Proof {
    let target = target(device, point);
    let setting = target.setting(&parse(value, &target).unwrap(), Some(0)).unwrap();
    client.write_and_prove(2, &target, &setting, TIMEOUT).await.unwrap()
}

async fn everything_is_written_as_it_says(link: Link, memory: Memory) {
    let mut client = Client::new(ModbusConfig::new(link));
    let before = memory.registers();
    for (device, point, value, function) in [
        ("box1", "max_current", "16", 6),
        ("boiler", "mode", "eco", 16),
        ("boiler", "pump", "on", 5),
        ("boiler", "night", "true", 22),
        ("boiler", "half", "200", 22),
        ("boiler", "name", "Ofen", 16),
    ] {
        assert_eq!(write(&mut client, device, point, value).await, Proof::Holds, "{point}");
        assert_eq!(memory.functions(), [function], "{point}");
    }
    let mut expected = before;
    (expected[261], expected[10], expected[30], expected[31]) = (160, 1, 0xA5AD, 0xC8A5);
    expected[40..44].copy_from_slice(&[0x4F66, 0x656E, 0, 0]);
    assert_eq!(memory.registers(), expected);
    assert!(memory.0.lock().unwrap().coils[7]);

    assert_eq!(write(&mut client, "boiler", "reset", "1").await, Proof::None, "it can't be read");
    assert_eq!(write(&mut client, "boiler", "power_limit", "5").await, Proof::Refused(3));
    assert_eq!(write(&mut client, "box1", "locked", "1").await, Proof::Differs(Raw::Uint(0xA5A5)));
    // Written ABCD, read CDAB: this memory does not turn the words around, as the profile says that it does.
    assert_eq!(write(&mut client, "boiler", "setpoint", "1").await, Proof::Differs(Raw::Int(100 << 16)));
}

#[tokio::test]
async fn writes_to_a_foreign_tcp_server_are_done_and_proven() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let memory = Memory::new();
    let served = memory.clone();
    tokio::spawn(async move {
        let serve = |stream, address| {
            let memory = served.clone();
            async move { accept_tcp_connection(stream, address, move |_| Ok(Some(memory.clone()))) }
        };
        tcp::Server::new(listener).serve(&serve, |error| panic!("{error}")).await
    });
    everything_is_written_as_it_says(Link::Tcp { host: "127.0.0.1".into(), port }, memory).await;
}

#[tokio::test]
async fn writes_to_a_foreign_rtu_server_are_done_and_proven() {
    let (far, mut near) = SerialStream::pair().unwrap();
    let path = near.name().unwrap();
    // Keeps the terminal alive between our end's closing and the client's opening it by its path.
    near.set_exclusive(false).unwrap();
    let keep = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    drop(near);
    let memory = Memory::new();
    tokio::spawn(rtu::Server::new(far).serve_forever(memory.clone()));
    let line = Line { baud: 115_200, data_bits: 8, parity: Parity::None, stop_bits: 1 };
    everything_is_written_as_it_says(Link::Serial { path: path.into(), line }, memory).await;
    drop(keep);
}
