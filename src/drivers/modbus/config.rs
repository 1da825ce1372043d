//! What a site file says about a Modbus connection, compiled.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::timing;

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
    /// RTU: how long after a request its answer may still come, so that the same unit is not asked again. `None`: three
    /// response timeouts.
    pub late_window: Option<Duration>,
    /// RTU: the silence between frames where it's not 3.5 characters.
    pub frame_gap: Option<Duration>,
    /// RTU: does the adapter hear itself?
    pub echo: Echo,
    /// TCP: is the connection closed while nothing is due?
    pub close_between_reads: bool,
    /// TCP: how many requests may wait for their answers at once, at least 1.
    pub max_in_flight: u16,
    /// Serial port: the kernel switches the transceiver.
    pub rs485: Option<Rs485>,
}

impl ModbusConfig {
    /// A connection with the defaults.
    pub fn new(link: Link) -> Self {
        Self {
            link,
            response_timeout: None,
            delay_between_requests: Duration::ZERO,
            delay_after_connect: Duration::ZERO,
            late_window: None,
            frame_gap: None,
            echo: Echo::default(),
            close_between_reads: false,
            max_in_flight: 1,
            rs485: None,
        }
    }

    /// RTU: what separates two frames.
    pub fn silence(&self) -> Duration {
        let by_speed = || timing::line_of(&self.link).map(timing::silence);
        self.frame_gap.or_else(by_speed).unwrap_or_default()
    }
}

/// What a two-wire adapter makes of what it sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Echo {
    /// Nothing comes back but answers; an echo is dropped all the same, and reported once.
    #[default]
    None,
    /// Every request comes back in front of its answer, and is dropped.
    Strip,
}

/// How the kernel switches a two-wire transceiver by the line RTS (TIOCSRS485; Linux, "RS485 Serial Communications").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rs485 {
    /// RTS while sending; the opposite at all other times.
    pub rts_on_send: bool,
    /// From the switch to the first byte. The kernel counts whole milliseconds.
    pub delay_before_send: Duration,
    /// From the last byte to the switch.
    pub delay_after_send: Duration,
    /// Receives while sending too: four wires, or a transceiver that must hear itself.
    pub full_duplex: bool,
}

impl Default for Rs485 {
    fn default() -> Self {
        Self {
            rts_on_send: true,
            delay_before_send: Duration::ZERO,
            delay_after_send: Duration::ZERO,
            full_duplex: false,
        }
    }
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
