//! What a site file says about a Modbus connection, compiled.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A Modbus connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModbusConfig {
    /// What to open.
    pub link: Link,
    /// Response timeout of devices whose profile gives none. `None`: the driver's default.
    pub response_timeout: Option<Duration>,
    /// Rest between an answer and the next request, for all devices.
    pub delay_between_requests: Duration,
    /// Rest after the link came up.
    pub delay_after_connect: Duration,
}

/// How the bytes travel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Link {
    /// Modbus TCP (MODBUS Messaging on TCP/IP V1.0b).
    Tcp {
        /// Host name or address.
        host: String,
        /// Usually 502.
        port: u16,
    },
    /// RTU frames with CRC through a serial device server.
    RtuOverTcp {
        /// Host name or address.
        host: String,
        /// The server's port.
        port: u16,
        /// The line behind the server, if known: for the plan's bus times.
        line: Option<Line>,
    },
    /// RTU on a serial port (MODBUS over serial line V1.02).
    Serial {
        /// The device file; `/dev/serial/by-id/…` survives renumbering.
        path: PathBuf,
        /// How bytes are framed.
        line: Line,
    },
}

/// A serial line's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    /// Bits per second.
    pub baud: u32,
    /// 7 or 8.
    pub data_bits: u8,
    /// Parity.
    pub parity: Parity,
    /// 1 or 2.
    pub stop_bits: u8,
}

/// A serial line's parity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Parity {
    None,
    Even,
    Odd,
}

impl Line {
    /// Bits of one character on the line: start, data, parity, stop.
    pub fn bits_per_char(self) -> u32 {
        1 + u32::from(self.data_bits) + u32::from(self.parity != Parity::None) + u32::from(self.stop_bits)
    }
}

/// `19200 8E1`
impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parity = match self.parity {
            Parity::None => 'N',
            Parity::Even => 'E',
            Parity::Odd => 'O',
        };
        write!(f, "{} {}{}{}", self.baud, self.data_bits, parity, self.stop_bits)
    }
}

/// `tcp 10.0.0.1:502`, `rtu /dev/ttyUSB0 19200 8E1`
impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => write!(f, "tcp {host}:{port}"),
            Self::RtuOverTcp { host, port, .. } => write!(f, "rtu over tcp {host}:{port}"),
            Self::Serial { path, line } => write!(f, "rtu {} {line}", path.display()),
        }
    }
}
