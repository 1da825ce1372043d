//! USB adapters that can be plugged in and pulled out: pseudo-terminals, with tokio-modbus' RTU server behind them.

#![allow(clippy::unwrap_used, dead_code)]

use std::fs::File;
use std::future::{Ready, ready};
use std::path::{Path, PathBuf};

use tokio::task::JoinHandle;
use tokio_modbus::prelude::{ExceptionCode, Request, Response, SlaveRequest};
use tokio_modbus::server::{Service, rtu};
use tokio_serial::{SerialPort as _, SerialStream};

/// The device file appears under its own name; links to it are the test's.
pub struct Adapter {
    pub path: PathBuf,
    device: JoinHandle<()>,
    /// Keeps the far end from hanging up before somebody has opened the port.
    _keep: File,
}

/// All registers of all units have one value.
struct Constant(u16);

impl Service for Constant {
    type Request = SlaveRequest<'static>;
    type Response = Response;
    type Exception = ExceptionCode;
    type Future = Ready<Result<Response, ExceptionCode>>;

    fn call(&self, request: Self::Request) -> Self::Future {
        ready(match request.request {
            Request::ReadHoldingRegisters(_, count) => {
                Ok(Response::ReadHoldingRegisters(vec![self.0; count.into()]))
            }
            _ => Err(ExceptionCode::IllegalFunction),
        })
    }
}

impl Adapter {
    /// An adapter whose line carries devices with this value.
    pub fn new(value: u16) -> Self {
        let (far, mut near) = SerialStream::pair().unwrap();
        let path = PathBuf::from(near.name().unwrap());
        near.set_exclusive(false).unwrap();
        let keep = File::options().read(true).write(true).open(&path).unwrap();
        drop(near);
        let device = tokio::spawn(async move {
            let _ = rtu::Server::new(far).serve_forever(Constant(value)).await;
        });
        Self { path, device, _keep: keep }
    }

    /// Puts the link to this adapter where udev would.
    pub fn link(&self, at: &Path) {
        std::os::unix::fs::symlink(&self.path, at).unwrap();
    }

    /// Whoever has the port open is hung up.
    pub async fn unplug(self) {
        self.device.abort();
        let _ = self.device.await;
    }
}
