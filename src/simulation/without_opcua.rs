//! In place of `opcua.rs` in a program that is built without the feature `opcua-server`: there are no such devices.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::mapping::device::Device;

/// There is none.
pub enum Simulated {}

impl Simulated {
    /// Never comes to it.
    pub async fn serve(self, _: TcpListener) {
        match self {}
    }
}

/// Says why there is none.
pub fn server(_: &[Device], _: bool, _: SocketAddr) -> Result<Simulated, String> {
    Err("this program was built without simulated OPC UA devices (cargo feature opcua-server)".into())
}
