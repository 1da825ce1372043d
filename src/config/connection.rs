//! Connections as written → Modbus connections.

use std::path::PathBuf;
use std::time::Duration;

use super::written::{self, Connection, Delay, Framing};
use crate::document::codes;
use crate::document::duration::Rest;
use crate::document::read::At;
use crate::document::scalar::shortened;
use crate::document::types::{Either, Flag};
use crate::drivers::modbus::config::{Echo, Line, Link, ModbusConfig, Parity, Rs485};
use crate::model::diagnostic::Diagnostics;

/// Bits per second where none are given (MODBUS over serial line V1.02, 2.2.1: the required default).
const DEFAULT_BAUD: u32 = 19_200;

/// Compiles a connection. `None` is reported.
pub fn compile(name: &At<String>, written: &Connection, found: &mut Diagnostics) -> Option<ModbusConfig> {
    if written.faulty {
        return None;
    }
    let rest = |at: &Option<Box<At<Rest>>>| at.as_ref().map_or(Duration::ZERO, |rest| rest.0);
    let link = link(name, written, found)?;
    rtu_only(written, &link, found)?;
    serial_only(written, &link, found)?;
    Some(ModbusConfig {
        response_timeout: written.response_timeout.as_ref().map(|timeout| timeout.0),
        delay_between_requests: rest(&written.delay_between_requests),
        delay_after_connect: rest(&written.delay_after_connect),
        late_window: written.late_window.as_ref().map(|window| window.0),
        frame_gap: written.frame_gap.as_ref().map(|gap| gap.0),
        echo: match written.echo.as_ref().map(|at| at.value) {
            Some(written::Echo::Strip) => Echo::Strip,
            Some(written::Echo::None) | None => Echo::None,
        },
        close_between_reads: written.close_between_reads.as_ref().is_some_and(|flag| flag.0),
        max_in_flight: written.max_in_flight.as_ref().map_or(1, |at| u16::try_from(at.0).unwrap_or(1)),
        rs485: written.rs485.as_ref().and_then(|at| rs485(&at.value)),
        ..ModbusConfig::new(link)
    })
}

/// Keys that mean something on one kind of link only.
fn rtu_only(written: &Connection, link: &Link, found: &mut Diagnostics) -> Option<()> {
    let is_tcp = matches!(link, Link::Tcp { .. });
    for key in ["late_window", "frame_gap", "echo"] {
        if let Some(span) = written.given(key).filter(|_| is_tcp) {
            found
                .error(
                    codes::BAD_LINE,
                    span,
                    format!("'{key}' is for RTU frames; Modbus TCP has transaction ids"),
                )
                .help("remove it; with a serial device server that carries RTU frames, add framing: rtu");
            return None;
        }
    }
    if let Some(span) = written.given("max_in_flight").filter(|_| !is_tcp) {
        found
            .error(codes::BAD_LINE, span, "RTU has no transaction ids: one request at a time")
            .help("remove max_in_flight");
        return None;
    }
    Some(())
}

/// RS-485 is the port's business; behind a socket it is the far side's.
fn serial_only(written: &Connection, link: &Link, found: &mut Diagnostics) -> Option<()> {
    if let Some(at) = &written.close_between_reads
        && matches!(link, Link::Serial { .. })
    {
        let message = "'close_between_reads' is for servers in the network";
        found.error(codes::BAD_LINE, &at.span, message).help("remove it; a serial port has one user");
        return None;
    }
    let Some(at) = &written.rs485 else { return Some(()) };
    if !matches!(link, Link::Serial { .. }) {
        found
            .error(codes::BAD_LINE, &at.span, "'rs485' is for serial ports of this machine")
            .help("remove it; a serial device server is set up at its own web page");
        return None;
    }
    let Either::Long(words) = &at.value else { return Some(()) };
    let delays = [&words.delay_before_send, &words.delay_after_send];
    match delays.into_iter().flatten().find(|delay| delay.0.subsec_micros() % 1000 != 0) {
        None => Some(()),
        Some(delay) => {
            found
                .error(codes::OUT_OF_RANGE, &delay.span, "the kernel counts whole milliseconds here")
                .help("such as 1ms");
            None
        }
    }
}

fn rs485(written: &Either<Flag, written::Rs485>) -> Option<Rs485> {
    let words = match written {
        Either::Short(Flag(switched)) => return switched.then(Rs485::default),
        Either::Long(words) => words,
    };
    let default = Rs485::default();
    let delay = |at: &Option<Box<At<Delay>>>| at.as_ref().map_or(Duration::ZERO, |delay| delay.0);
    Some(Rs485 {
        rts_on_send: words.rts_on_send.as_ref().map_or(default.rts_on_send, |flag| flag.0),
        delay_before_send: delay(&words.delay_before_send),
        delay_after_send: delay(&words.delay_after_send),
        full_duplex: words.full_duplex.as_ref().map_or(default.full_duplex, |flag| flag.0),
    })
}

fn link(name: &At<String>, written: &Connection, found: &mut Diagnostics) -> Option<Link> {
    match (&written.tcp, &written.rtu) {
        (Some(tcp), None) => {
            let target = host_port(&tcp.value.0);
            let Some((host, port)) = target else {
                let shown = shortened(&tcp.value.0);
                found
                    .error(codes::BAD_HOST, &tcp.span, format!("'{shown}' is no HOST:PORT"))
                    .help("such as 192.168.1.50:502; Modbus TCP's port is 502");
                return None;
            };
            if written.framing.as_ref().is_some_and(|framing| framing.value == Framing::Rtu) {
                let line = (written.baud.is_some() || written.format.is_some()).then(|| line(written));
                return Some(Link::RtuOverTcp { host, port, line });
            }
            for key in ["baud", "format"] {
                if let Some(span) = written.given(key) {
                    found
                        .error(codes::BAD_LINE, span, format!("'{key}' is for serial lines"))
                        .help("with a serial device server that carries RTU frames, add framing: rtu");
                    return None;
                }
            }
            Some(Link::Tcp { host, port })
        }
        (None, Some(rtu)) => {
            if let Some(framing) = written.framing.as_ref().filter(|framing| framing.value == Framing::Tcp) {
                found.error(codes::BAD_CONNECTION, &framing.span, "a serial line carries RTU frames only");
                return None;
            }
            if rtu.value.0.is_empty() {
                found
                    .error(codes::BAD_LINE, &rtu.span, "the device file has no name")
                    .help("such as /dev/serial/by-id/usb-FTDI_FT232R_A50285BI-if00-port0");
                return None;
            }
            Some(Link::Serial { path: PathBuf::from(&rtu.value.0), line: line(written) })
        }
        (Some(_), Some(rtu)) => {
            let message = format!("connection '{}' is both tcp and rtu", name.value);
            found
                .error(codes::BAD_CONNECTION, &rtu.span, message)
                .help("for RTU frames over TCP write {tcp: HOST:PORT, framing: rtu}");
            None
        }
        (None, None) => {
            let message = format!("connection '{}' says neither tcp nor rtu", name.value);
            found
                .error(codes::BAD_CONNECTION, &name.span, message)
                .help("such as {tcp: 192.168.1.50:502} or {rtu: /dev/ttyUSB0, baud: 9600, format: 8N1}");
            None
        }
    }
}

fn line(written: &Connection) -> Line {
    let baud = written.baud.as_ref().and_then(|baud| u32::try_from(baud.0).ok()).unwrap_or(DEFAULT_BAUD);
    match written.format.as_ref().map(|at| at.value) {
        None => Line { baud, data_bits: 8, parity: Parity::Even, stop_bits: 1 },
        Some(format) => {
            let parity = match format.parity {
                'E' => Parity::Even,
                'O' => Parity::Odd,
                _ => Parity::None,
            };
            Line { baud, data_bits: format.data_bits, parity, stop_bits: format.stop_bits }
        }
    }
}

/// `HOST:PORT` or `[IPV6]:PORT`.
pub fn host_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    Some((host_name(host)?, port_number(port)?))
}

/// A host's name or address, without the brackets of an IPv6 address.
pub fn host_name(host: &str) -> Option<String> {
    if let Some(inner) = host.strip_prefix('[') {
        let address = inner.strip_suffix(']')?;
        return address.parse::<std::net::Ipv6Addr>().ok().map(|_| address.to_string());
    }
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    // RFC 1035, 2.3.4: a name has at most 255 octets.
    (!host.is_empty() && host.len() <= 255 && host.chars().all(fits)).then(|| host.to_string())
}

/// 1 to 65535, digits only.
pub fn port_number(port: &str) -> Option<u16> {
    port.parse().ok().filter(|number| *number > 0 && port.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_told_apart() {
        assert_eq!(host_port("10.0.0.1:502"), Some(("10.0.0.1".into(), 502)));
        assert_eq!(host_port("[fe80::1]:502"), Some(("fe80::1".into(), 502)));
        assert_eq!(host_port("meter-1.local:1502"), Some(("meter-1.local".into(), 1502)));
        for text in
            ["10.0.0.1", ":502", "host:", "host:0", "host:70000", "host:+5", "fe80::1:502", "a b:1", "[x]:1"]
        {
            assert_eq!(host_port(text), None, "{text}");
        }
    }
}
