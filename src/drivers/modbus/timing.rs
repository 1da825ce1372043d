//! How long things take on the wire: characters, silences, frames, and how long an answer is waited for. Pure.
//!
//! Source: MODBUS over serial line V1.02, section 2.5.1.1 (characters, t3.5), and MODBUS Messaging on TCP/IP V1.0b.

use std::time::Duration;

use super::config::{Line, Link, ModbusConfig};
use super::line::QUIET_HALVES;
use super::plan::{Block, Exchange};
use crate::mapping::device::Limits;

/// Response timeout on TCP where nobody gives one.
pub const DEFAULT_TCP_TIMEOUT: Duration = Duration::from_secs(1);

/// Response timeout on a serial line where nobody gives one; the frames' own time comes on top.
pub const DEFAULT_LINE_TIMEOUT: Duration = Duration::from_millis(300);

/// The fixed silence between frames above 19200 baud (2.5.1.1: computing it would load the processor for nothing).
const FAST_SILENCE: Duration = Duration::from_micros(1750);

/// Bytes of a read request as an RTU frame: unit, function, address, count, CRC.
pub const RTU_REQUEST_BYTES: usize = 8;

/// Bytes of an RTU answer around its data: unit, function, byte count, CRC.
pub const RTU_REPLY_OVERHEAD: usize = 5;

/// How long a device on a line is taken to think. Meters take 2 to 20 ms; most are near the low end.
pub const ASSUMED_TURNAROUND: Duration = Duration::from_millis(5);

/// How long a device on a network is taken to need for the way there, an answer, and the way back.
pub const ASSUMED_ROUND_TRIP: Duration = Duration::from_millis(1);

/// The network's speed: 10 Mbit/s, the slowest Ethernet that devices have.
pub const ASSUMED_BYTES_PER_SECOND: u64 = 1_250_000;

/// Bytes of a request (12) and of an answer around its data (9) on TCP, each with Ethernet, IP and TCP headers (58).
const MBAP_OVERHEAD: u64 = 12 + 9 + 2 * 58;

/// The time of so many characters on the line.
pub fn chars(line: Line, count: usize) -> Duration {
    let bits = count as u64 * u64::from(line.bits_per_char());
    Duration::from_nanos(bits * 1_000_000_000 / u64::from(line.baud.max(1)))
}

/// The silence that separates two frames: 3.5 characters, 1.75 ms above 19200 baud.
pub fn silence(line: Line) -> Duration {
    if line.baud > 19_200 { FAST_SILENCE } else { chars(line, 7) / 2 }
}

/// Request and answer of one block as they occupy the line, without silences and turnaround.
pub fn frames(line: Line, block: Block) -> Duration {
    chars(line, RTU_REQUEST_BYTES + RTU_REPLY_OVERHEAD + block.bytes())
}

/// The serial line's settings, where there is one and it's known.
pub fn line_of(link: &Link) -> Option<Line> {
    match link {
        Link::Tcp { .. } => None,
        Link::RtuOverTcp { line, .. } => *line,
        Link::Serial { line, .. } => Some(*line),
    }
}

/// How long an answer is waited for, from the moment the request leaves: the device's own timeout, else the
/// connection's, else 1 s on a network and 300 ms plus the frames' time on a line of known speed.
pub fn response_timeout(config: &ModbusConfig, limits: &Limits, block: Block) -> Duration {
    let given = limits.response_timeout.or(config.response_timeout);
    given.unwrap_or_else(|| match line_of(&config.link) {
        Some(line) => DEFAULT_LINE_TIMEOUT + frames(line, block),
        None => DEFAULT_TCP_TIMEOUT,
    })
}

/// What an exchange is taken to cost: for each block
/// - on a line: the characters of request and answer × bits per character ÷ baud, two silences (before the request and
///   before the answer), and [`ASSUMED_TURNAROUND`];
/// - on a network: [`ASSUMED_ROUND_TRIP`] and both frames at [`ASSUMED_BYTES_PER_SECOND`];
///
/// and the rest between requests that the connection or the device wants.
pub fn exchange_time(config: &ModbusConfig, limits: &Limits, exchange: &Exchange) -> Duration {
    requests(exchange)
        .map(|block| match line_of(&config.link) {
            Some(line) => frames(line, block) + config.silence() * 2 + ASSUMED_TURNAROUND,
            None => {
                let bytes = MBAP_OVERHEAD + block.bytes() as u64;
                ASSUMED_ROUND_TRIP + Duration::from_nanos(bytes * 1_000_000_000 / ASSUMED_BYTES_PER_SECOND)
            }
        })
        .map(|wire| wire + config.delay_between_requests.max(limits.delay_between_requests))
        .sum()
}

/// What an exchange costs when nobody answers: the first request's timeout, as far as the budget leaves one, and on
/// RTU the quiet time after it.
pub fn failure_time(
    config: &ModbusConfig,
    limits: &Limits,
    exchange: &Exchange,
    budget: Duration,
) -> Duration {
    let Some(first) = exchange.blocks.first() else { return Duration::ZERO };
    let timeout = response_timeout(config, limits, *first);
    match config.link {
        Link::Tcp { .. } => timeout.min(budget),
        Link::RtuOverTcp { .. } | Link::Serial { .. } => timeout * QUIET_HALVES / 2,
    }
}

fn requests(exchange: &Exchange) -> impl Iterator<Item = Block> {
    let again = exchange.repeat_first.then(|| exchange.blocks.first()).flatten();
    exchange.blocks.iter().chain(again).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::modbus::config::Parity;

    fn line(baud: u32) -> Line {
        Line { baud, data_bits: 8, parity: Parity::Even, stop_bits: 1 }
    }

    #[test]
    fn quirk_15_the_silence_is_three_and_a_half_characters_and_fixed_above_19200_baud() {
        assert_eq!(silence(line(9600)), Duration::from_nanos(8_020_833 / 2));
        assert_eq!(silence(line(19_200)), Duration::from_nanos(4_010_416 / 2));
        assert_eq!(silence(line(38_400)), Duration::from_micros(1750));
    }
}
