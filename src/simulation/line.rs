//! Serial lines: pseudo-terminals whose bytes take the time that a UART would.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_serial::{SerialPort as _, SerialStream};

use crate::drivers::modbus::config::Line;

/// Largest number of bytes taken from one side of the line at once; a Modbus RTU frame has at most 256.
const LINE_BUFFER: usize = 256;

/// A line: its far end, for the units; its near end, to be kept open; and the near end's device file, for the gateway.
pub fn open(line: Line, tasks: &mut JoinSet<()>) -> io::Result<(SerialStream, SerialStream, PathBuf)> {
    let (near, line_end) = SerialStream::pair()?;
    let nameless = || io::Error::other("a pseudo-terminal without a name");
    let path = line_end.name().map(PathBuf::from).ok_or_else(nameless)?;
    let (far, server_end) = SerialStream::pair()?;
    let (near_reader, near_writer) = tokio::io::split(near);
    let (far_reader, far_writer) = tokio::io::split(far);
    tasks.spawn(carry(near_reader, far_writer, char_time(line)));
    tasks.spawn(carry(far_reader, near_writer, char_time(line)));
    Ok((server_end, line_end, path))
}

/// The same behind a socket.
pub fn behind(stream: tokio::net::TcpStream, line: Line) -> DuplexStream {
    let (near, far) = tokio::io::duplex(LINE_BUFFER);
    let (reader, writer) = stream.into_split();
    let (near_reader, near_writer) = tokio::io::split(near);
    tokio::spawn(carry(reader, near_writer, char_time(line)));
    tokio::spawn(carry(near_reader, writer, char_time(line)));
    far
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
