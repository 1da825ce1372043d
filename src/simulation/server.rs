//! Units behind tokio-modbus' servers.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};
use tokio_modbus::prelude::{ExceptionCode, Response, SlaveRequest};
use tokio_modbus::server::{self, Service};
use tokio_serial::SerialStream;
use tokio_util::either::Either;

use super::line;
use super::unit::Unit;
use crate::drivers::modbus::config::Line;

/// The units behind one connection.
#[derive(Clone)]
pub struct Units {
    units: Arc<BTreeMap<u8, Option<Mutex<Unit>>>>,
    started: Instant,
    delay: Duration,
    /// What asks for a unit that is not there gets: nothing, or a gateway's exception.
    absent: Option<ExceptionCode>,
}

impl Units {
    /// Units of a line, by their ids; those that are `None` are mute. Each answer waits for `delay`.
    pub fn new(units: BTreeMap<u8, Option<Unit>>, delay: Duration) -> Self {
        let units = units.into_iter().map(|(id, unit)| (id, unit.map(Mutex::new))).collect();
        Self { units: Arc::new(units), started: Instant::now(), delay, absent: None }
    }

    /// A Modbus TCP server answers for units that are not there (Modbus Application Protocol V1.1b3, section 7).
    pub fn behind_a_gateway(self) -> Self {
        Self { absent: Some(ExceptionCode::GatewayTargetDevice), ..self }
    }

    fn answer(&self, request: SlaveRequest<'static>) -> Result<Option<Response>, ExceptionCode> {
        let Some(unit) = self.units.get(&request.slave) else { return self.absent.map_or(Ok(None), Err) };
        let Some(unit) = unit else { return Ok(None) };
        let mut unit = unit.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = unit.answer(&request.request, self.started.elapsed());
        tracing::debug!(unit = request.slave, request = ?request.request, ?answer, "asked");
        answer
    }
}

impl Service for Units {
    type Request = SlaveRequest<'static>;
    type Response = Option<Response>;
    type Exception = ExceptionCode;
    type Future = Pin<Box<dyn Future<Output = Result<Option<Response>, ExceptionCode>> + Send>>;

    fn call(&self, request: Self::Request) -> Self::Future {
        let units = self.clone();
        Box::pin(async move {
            if units.delay > Duration::ZERO {
                sleep(units.delay).await;
            }
            units.answer(request)
        })
    }
}

/// Serves Modbus TCP.
pub async fn tcp(listener: TcpListener, units: Units) {
    let connected = |stream: TcpStream, peer| {
        let units = units.clone();
        async move {
            stream.set_nodelay(true)?;
            server::tcp::accept_tcp_connection(stream, peer, move |_| Ok(Some(units.clone())))
        }
    };
    let ended = server::tcp::Server::new(listener).serve(&connected, client_left).await;
    report(ended);
}

/// Serves RTU frames over TCP, as a serial device server with this line does.
pub async fn rtu_over_tcp(listener: TcpListener, units: Units, line: Option<Line>) {
    let connected = |stream: TcpStream, _| {
        let units = units.clone();
        async move {
            stream.set_nodelay(true)?;
            Ok(Some((
                units,
                match line {
                    Some(line) => Either::Left(line::behind(stream, line)),
                    None => Either::Right(stream),
                },
            )))
        }
    };
    let ended = server::rtu_over_tcp::Server::new(listener).serve(&connected, client_left).await;
    report(ended);
}

/// Serves RTU frames on a serial line.
pub async fn rtu(far: SerialStream, units: Units) {
    report(server::rtu::Server::new(far).serve_forever(units).await);
}

fn client_left(cause: std::io::Error) {
    tracing::debug!(%cause, "a client has left");
}

fn report(ended: std::io::Result<()>) {
    if let Err(cause) = ended {
        tracing::warn!(%cause, "simulated devices have ended");
    }
}
