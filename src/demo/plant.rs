//! The simulated plant: a meter on Modbus TCP, and a serial line on a pseudo-terminal with three units, one of them dead.
//!
//! The devices answer through tokio-modbus' servers, so that the demo's two ends don't share code. The line carries
//! bytes no faster than its baud rate allows.

use std::collections::BTreeMap;
use std::f64::consts::TAU;
use std::future::{Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep_until};
use tokio_modbus::prelude::{ExceptionCode, Request, Response, SlaveRequest};
use tokio_modbus::server::{Service, rtu, tcp};
use tokio_serial::{SerialPort, SerialStream};

use crate::drivers::modbus::config::Line;

/// Largest number of bytes taken from one side of the line at once; a Modbus RTU frame has at most 256.
const LINE_BUFFER: usize = 256;

/// The running plant: where its devices can be reached. It runs until it's dropped.
pub struct Plant {
    /// The meter on the network.
    pub meter: SocketAddr,
    /// The serial port that the three units hang on.
    pub port: PathBuf,
    tasks: tokio::task::JoinSet<()>,
    // The far end of the line stays open, as a cable does when the gateway closes its port.
    _line_end: SerialStream,
}

impl Plant {
    /// Starts the devices. `line` is how the serial units talk.
    pub async fn start(line: Line) -> io::Result<Self> {
        let mut tasks = tokio::task::JoinSet::new();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let meter = listener.local_addr()?;
        let started = Instant::now();
        tasks.spawn(async move {
            let server = tcp::Server::new(listener);
            let units = Units { started, models: Arc::new([(1, Model::Pac2200)].into()) };
            let connected = |stream, peer| {
                let units = units.clone();
                async move { tcp::accept_tcp_connection(stream, peer, move |_| Ok(Some(units.clone()))) }
            };
            if let Err(cause) =
                server.serve(&connected, |cause| tracing::debug!(%cause, "plant: meter")).await
            {
                tracing::warn!(%cause, "plant: the network meter has ended");
            }
        });
        let (near, line_end) = SerialStream::pair()?;
        let port = line_end
            .name()
            .map(PathBuf::from)
            .ok_or_else(|| io::Error::other("a pseudo-terminal without a name"))?;
        let (far, server_end) = SerialStream::pair()?;
        // Unit 3 is wired and dead: no model, no answer.
        let models = [(1, Model::Sdm120), (2, Model::Em340)];
        let units = Units { started, models: Arc::new(models.into()) };
        tasks.spawn(async move {
            if let Err(cause) = rtu::Server::new(server_end).serve_forever(units).await {
                tracing::warn!(%cause, "plant: the serial units have ended");
            }
        });
        let (near_reader, near_writer) = tokio::io::split(near);
        let (far_reader, far_writer) = tokio::io::split(far);
        tasks.spawn(carry(near_reader, far_writer, char_time(line)));
        tasks.spawn(carry(far_reader, near_writer, char_time(line)));
        Ok(Self { meter, port, tasks, _line_end: line_end })
    }

    /// How many of the plant's parts run.
    pub fn parts(&self) -> usize {
        self.tasks.len()
    }
}

/// The time that one character takes on the line.
fn char_time(line: Line) -> Duration {
    Duration::from_secs(1) * line.bits_per_char() / line.baud
}

/// Carries bytes one way, each arriving when a UART would have received it.
async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, char_time: Duration) {
    let mut buffer = [0; LINE_BUFFER];
    // When the line is free for the next character.
    let mut free = Instant::now();
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        free = free.max(Instant::now());
        let mut sent = 0;
        while sent < count {
            sleep_until(free + char_time).await;
            // The timer is coarser than a character: send all those that have passed by now.
            let passed = (Instant::now() - free).as_nanos() / char_time.as_nanos().max(1);
            let chunk = usize::try_from(passed).unwrap_or(usize::MAX).clamp(1, count - sent);
            if to.write_all(&buffer[sent..sent + chunk]).await.is_err() {
                return;
            }
            sent += chunk;
            free += char_time * chunk as u32;
        }
    }
}

/// What a unit is.
#[derive(Clone, Copy)]
enum Model {
    /// A Siemens PAC2200: float32 holding registers.
    Pac2200,
    /// An Eastron SDM120: float32 input registers.
    Sdm120,
    /// A Carlo Gavazzi EM340: int32 input registers, low word first.
    Em340,
}

/// The units behind one connection.
#[derive(Clone)]
struct Units {
    started: Instant,
    models: Arc<BTreeMap<u8, Model>>,
}

impl Service for Units {
    type Request = SlaveRequest<'static>;
    type Response = Option<Response>;
    type Exception = ExceptionCode;
    type Future = Ready<Result<Option<Response>, ExceptionCode>>;

    fn call(&self, request: Self::Request) -> Self::Future {
        let Some(model) = self.models.get(&request.slave) else { return ready(Ok(None)) };
        let registers = model.registers(self.started.elapsed().as_secs_f64());
        let words = |input: bool, address: u16, count: u16| {
            let last = u32::from(address) + u32::from(count) - 1;
            let mapped = registers.keys().next_back().is_some_and(|end| last <= u32::from(*end));
            if input != model.has_input_registers() || !mapped {
                return Err(ExceptionCode::IllegalDataAddress);
            }
            Ok((address..=last as u16).map(|a| registers.get(&a).copied().unwrap_or(0)).collect())
        };
        ready(match request.request {
            Request::ReadInputRegisters(address, count) if count > 0 => {
                words(true, address, count).map(|words| Some(Response::ReadInputRegisters(words)))
            }
            Request::ReadHoldingRegisters(address, count) if count > 0 => {
                words(false, address, count).map(|words| Some(Response::ReadHoldingRegisters(words)))
            }
            _ => Err(ExceptionCode::IllegalFunction),
        })
    }
}

impl Model {
    fn has_input_registers(self) -> bool {
        !matches!(self, Self::Pac2200)
    }

    /// The unit's registers, `t` seconds after the start: a load that swings around its mean.
    fn registers(self, t: f64) -> BTreeMap<u16, u16> {
        let swing = |period: f64| (t / period * TAU).sin();
        let mut registers = BTreeMap::new();
        let mut float = |address: u16, value: f64| {
            let bits = (value as f32).to_bits();
            registers.extend([(address, (bits >> 16) as u16), (address + 1, bits as u16)]);
        };
        match self {
            Self::Pac2200 => {
                let (voltage, current, factor) = (231.0 + 1.5 * swing(17.0), 42.0 + 6.0 * swing(9.0), 0.93);
                float(1, rounded(voltage, 2));
                float(13, rounded(current, 3));
                float(55, rounded(50.0 + 0.02 * swing(30.0), 3));
                float(65, rounded(3.0 * voltage * current * factor, 1));
                float(69, factor);
            }
            Self::Sdm120 => {
                let (voltage, current) = (229.0 + 1.2 * swing(13.0), 11.0 + 4.0 * swing(21.0));
                float(0, rounded(voltage, 1));
                float(6, rounded(current, 2));
                float(12, rounded(voltage * current, 1));
                float(72, rounded(1834.2 + t * 0.001, 2));
                float(342, 0.0);
            }
            Self::Em340 => {
                let mut int = |address: u16, value: f64| {
                    let bits = value.round() as i32 as u32;
                    registers.extend([(address, bits as u16), (address + 1, (bits >> 16) as u16)]);
                };
                int(0, 2304.0 + 12.0 * swing(11.0));
                int(40, 74_310.0 + 5_200.0 * swing(15.0));
                int(52, 918_273.0 + t);
                int(100, 0.0);
                registers.insert(51, (500.0 + 0.4 * swing(30.0)).round() as u16);
            }
        }
        registers
    }
}

fn rounded(value: f64, decimals: i32) -> f64 {
    let power = 10f64.powi(decimals);
    (value * power).round() / power
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::modbus::config::Parity;

    #[tokio::test(start_paused = true)]
    async fn the_line_is_as_slow_as_its_baud_rate() {
        let line = Line { baud: 19200, data_bits: 8, parity: Parity::Even, stop_bits: 1 };
        let (mut gateway, near) = tokio::io::duplex(512);
        let (far, mut unit) = tokio::io::duplex(512);
        let started = Instant::now();
        let carrier = tokio::spawn(carry(near, far, char_time(line)));
        gateway.write_all(&[7; 100]).await.unwrap();
        let mut got = [0; 100];
        unit.read_exact(&mut got).await.unwrap();
        let took = started.elapsed().as_micros();
        // 100 characters of 11 bits at 19200 baud are 57.3 ms; the timer rounds up to a millisecond.
        assert!((57_291..59_300).contains(&took), "{took}");
        assert_eq!(got, [7; 100]);
        carrier.abort();
    }
}
