//! Opening a serial port: what it is, who has it, its line, and RS-485 by the kernel. Blocks; for the blocking pool.

use std::io;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serial2::rs4xx::{Rs485Config, TransceiverMode};
use tokio_serial::{ClearBuffer, SerialPort as _, SerialPortBuilderExt as _, SerialStream};

use super::config::{Line, Parity, Rs485};

/// Why a port is not open. Each of these may be over at the next try.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// The device file is not there: unplugged, or another name.
    #[error("no such device")]
    Missing,
    /// Locked by TIOCEXCL or flock(2).
    #[error("busy: another program has it open")]
    Busy,
    /// The file belongs to somebody else; Debian gives serial ports to the group dialout.
    #[error("permission denied: the user that runs taktbus must be in the port's group, usually dialout")]
    Permission,
    /// A directory, a regular file, a device of another kind.
    #[error("this is no serial port")]
    NotAPort,
    /// TIOCSRS485 is not answered, as by most USB adapters, which switch by themselves.
    #[error("its driver has no RS-485 mode: remove `rs485` if the adapter switches by itself ({0})")]
    NoRs485(String),
    /// Anything else, in the system's words.
    #[error("{0}")]
    Other(String),
}

impl From<Errno> for PortError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::NOENT | Errno::NODEV | Errno::NXIO => Self::Missing,
            Errno::BUSY | Errno::AGAIN => Self::Busy,
            Errno::ACCESS | Errno::PERM => Self::Permission,
            Errno::ISDIR | Errno::NOTDIR | Errno::NOTTY => Self::NotAPort,
            other => Self::Other(io::Error::from(other).to_string()),
        }
    }
}

/// Opens a port, locks it, and sets its line. May hang for ever on a broken adapter.
pub fn open(path: &Path, line: Line, rs485: Option<Rs485>) -> Result<SerialStream, PortError> {
    // The second descriptor tells precisely what is wrong, and is the safe way to the kernel's RS-485 mode; it is closed
    // when the port is ready. Without NONBLOCK, opening waits for a carrier (open(2), tty_ioctl(4)).
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let second = rustix::fs::open(path, flags, Mode::empty())?;
    if !rustix::termios::isatty(&second) {
        return Err(PortError::NotAPort);
    }
    let port = settings(path, line).open_native_async().map_err(|error| match error.kind {
        // What both locks are reported as.
        tokio_serial::ErrorKind::NoDevice => PortError::Busy,
        tokio_serial::ErrorKind::Io(io::ErrorKind::NotFound) => PortError::Missing,
        _ => PortError::Other(error.to_string()),
    })?;
    if let Some(rs485) = rs485 {
        serial2::SerialPort::from(second)
            .set_rs4xx_mode(mode(rs485))
            .map_err(|error| PortError::NoRs485(error.to_string()))?;
    }
    // Bytes of an earlier user survive in the kernel's buffers.
    port.clear(ClearBuffer::All).map_err(|error| PortError::Other(error.to_string()))?;
    Ok(port)
}

fn settings(path: &Path, line: Line) -> tokio_serial::SerialPortBuilder {
    let data_bits =
        if line.data_bits == 7 { tokio_serial::DataBits::Seven } else { tokio_serial::DataBits::Eight };
    let stop_bits =
        if line.stop_bits == 2 { tokio_serial::StopBits::Two } else { tokio_serial::StopBits::One };
    let parity = match line.parity {
        Parity::None => tokio_serial::Parity::None,
        Parity::Even => tokio_serial::Parity::Even,
        Parity::Odd => tokio_serial::Parity::Odd,
    };
    tokio_serial::new(path.to_string_lossy(), line.baud)
        .data_bits(data_bits)
        .stop_bits(stop_bits)
        .parity(parity)
}

fn mode(rs485: Rs485) -> TransceiverMode {
    let mut mode = Rs485Config::new();
    mode.set_invert_rts(!rs485.rts_on_send);
    mode.set_full_duplex(rs485.full_duplex);
    mode.set_delay_before_send(rs485.delay_before_send);
    mode.set_delay_after_send(rs485.delay_after_send);
    TransceiverMode::Rs485(mode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use std::time::Duration;

    const LINE: Line = Line { baud: 19_200, data_bits: 8, parity: Parity::Even, stop_bits: 1 };

    /// A pseudo-terminal: the far end, which keeps it alive, and the path of ours.
    fn terminal() -> (SerialStream, PathBuf) {
        let (far, near) = SerialStream::pair().unwrap();
        let path = near.name().unwrap().into();
        (far, path)
    }

    fn refused(path: &Path, rs485: Option<Rs485>) -> PortError {
        open(path, LINE, rs485).map(|_| "open").unwrap_err()
    }

    #[tokio::test]
    async fn what_is_no_port_is_told_apart() {
        let none = None;
        assert_eq!(refused(Path::new("/dev/serial/by-id/usb-nobody"), none), PortError::Missing);
        assert_eq!(refused(Path::new("/dev"), none), PortError::NotAPort);
        assert_eq!(refused(Path::new("/dev/null"), none), PortError::NotAPort);
        assert_eq!(refused(Path::new(file!()), none), PortError::NotAPort);
        assert_eq!(PortError::from(Errno::ACCESS), PortError::Permission);
        assert_eq!(PortError::from(Errno::BUSY), PortError::Busy);
    }

    #[tokio::test]
    async fn a_port_that_another_program_has_is_busy_until_it_is_closed() {
        let (_far, path) = terminal();
        let other = open(&path, LINE, None).unwrap();
        assert_eq!(refused(&path, None), PortError::Busy);
        drop(other);
        assert!(open(&path, LINE, None).is_ok());
    }

    #[tokio::test]
    async fn a_port_without_rs485_is_an_error_that_says_so_and_leaves_it_unlocked() {
        let (_far, path) = terminal();
        let rs485 = Rs485 { delay_before_send: Duration::from_millis(1), ..Rs485::default() };
        let error = refused(&path, Some(rs485));
        assert!(matches!(error, PortError::NoRs485(_)), "{error}");
        assert!(open(&path, LINE, None).is_ok());
    }

    #[test]
    fn rs485_options_reach_the_kernel_as_they_are_written() {
        let rs485 = Rs485 {
            rts_on_send: false,
            full_duplex: true,
            delay_after_send: Duration::from_millis(3),
            ..Rs485::default()
        };
        let TransceiverMode::Rs485(mode) = mode(rs485) else { panic!("another mode") };
        assert!(mode.get_invert_rts() && mode.get_full_duplex() && !mode.get_bus_termination());
        assert_eq!(
            (mode.get_delay_before_send(), mode.get_delay_after_send().as_millis()),
            (Duration::ZERO, 3)
        );
    }
}
