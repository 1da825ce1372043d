//! Connections as written → Modbus and OPC UA connections.

use std::path::PathBuf;
use std::time::Duration;

use super::plan::Protocol;
use super::secret;
use super::written::{self, Connection, Delay, Framing, ModeWord, SecurityWord};
use crate::document::codes;
use crate::document::duration::Rest;
use crate::document::fields::Document;
use crate::document::read::At;
use crate::document::scalar::shortened;
use crate::document::types::{Either, Flag, Text};
use crate::drivers::modbus::config::{Echo, Line, Link, ModbusConfig, Parity, Rs485};
use crate::drivers::opcua::{
    self,
    config::{Endpoint, Mode, OpcuaConfig, Policy, Security, User},
};
use crate::model::diagnostic::Diagnostics;

/// Bits per second where none are given (MODBUS over serial line V1.02, 2.2.1: the required default).
const DEFAULT_BAUD: u32 = 19_200;

/// Keys of an OPC UA connection that a Modbus connection doesn't have.
const OPCUA_ONLY: [&str; 6] = ["security", "security_mode", "user", "password", "cert", "key"];

/// Compiles a connection. `None` is reported.
pub fn compile(name: &At<String>, written: &Connection, found: &mut Diagnostics) -> Option<Protocol> {
    if written.faulty {
        return None;
    }
    if written.opcua.is_some() {
        return opcua(name, written, found).map(Protocol::Opcua);
    }
    for key in OPCUA_ONLY {
        if let Some(span) = written.given(key) {
            found.error(
                codes::BAD_CONNECTION,
                span,
                format!("'{key}' is for OPC UA: Modbus has no such thing"),
            );
            return None;
        }
    }
    modbus(name, written, found).map(Protocol::Modbus)
}

/// Compiles an OPC UA connection.
fn opcua(name: &At<String>, written: &Connection, found: &mut Diagnostics) -> Option<OpcuaConfig> {
    const OURS: [&str; 7] =
        ["opcua", "response_timeout", "security", "security_mode", "user", "password", "cert"];
    let before = found.errors();
    for field in <Connection as Document>::FIELDS {
        let key = field.key;
        if let Some(span) = written.given(key).filter(|_| !OURS.contains(&key) && key != "key") {
            let message = match key {
                "tcp" | "rtu" => format!("connection '{}' is both opcua and {key}", name.value),
                _ => format!("'{key}' is for Modbus, and connection '{}' is OPC UA", name.value),
            };
            found.error(codes::BAD_CONNECTION, span, message).help("remove it");
        }
    }
    let at = written.opcua.as_ref()?;
    let Some(endpoint) = Endpoint::of(&at.value.0) else {
        // One with a user in it is not shown: it may hold a password.
        let message = match at.value.0.contains('@') {
            true => "user and password are no part of the endpoint".to_string(),
            false => format!("'{}' is no OPC UA endpoint", shortened(&at.value.0)),
        };
        found
            .error(codes::BAD_HOST, &at.span, message)
            .help("such as opc.tcp://192.168.1.60:4840; user and password have keys of their own");
        return None;
    };
    let mode = written.security_mode.as_ref().map(|at| at.value);
    let security = security(written, mode, found);
    let user = user(written, security, found);
    let config = OpcuaConfig {
        endpoint,
        security,
        user: user?,
        timeout: written.response_timeout.as_ref().map_or(opcua::config::TIMEOUT, |timeout| timeout.0),
    };
    (found.errors() == before).then_some(config)
}

fn security(written: &Connection, mode: Option<ModeWord>, found: &mut Diagnostics) -> Security {
    let mode_span = written.given("security_mode");
    let mode = match mode {
        Some(ModeWord::Sign) => Mode::Sign,
        Some(ModeWord::SignAndEncrypt) | None => Mode::SignAndEncrypt,
    };
    let Some(at) = &written.security else { return Security::Best(mode) };
    let policy = match at.value {
        SecurityWord::None => {
            if let Some(span) = mode_span {
                found
                    .error(codes::BAD_CONNECTION, span, "a security mode, and no security")
                    .help("remove it");
            }
            return Security::None;
        }
        SecurityWord::Aes256Sha256RsaPss => Policy::Aes256Sha256RsaPss,
        SecurityWord::Aes128Sha256RsaOaep => Policy::Aes128Sha256RsaOaep,
        SecurityWord::Basic256Sha256 => Policy::Basic256Sha256,
        SecurityWord::Basic256 => Policy::Basic256,
        SecurityWord::Basic128Rsa15 => Policy::Basic128Rsa15,
    };
    if policy.is_deprecated() {
        let message = format!("{} has been broken, and is deprecated since OPC UA 1.04", at.word());
        found
            .warning(codes::WEAK_SECURITY, &at.span, message)
            .help("use another policy if the server has one");
    }
    Security::Policy(policy, mode)
}

fn user(written: &Connection, security: Security, found: &mut Diagnostics) -> Option<User> {
    let path = |at: &Option<Box<At<Text>>>| at.as_ref().map(|at| PathBuf::from(&at.value.0));
    let missing = |has: &str, needs: &str, found: &mut Diagnostics| {
        if let Some(span) = written.given(has) {
            found.error(codes::MISSING_KEY, span, format!("'{has}' needs the key '{needs}'"));
        }
    };
    match (path(&written.cert), path(&written.key)) {
        (Some(_), Some(_)) if written.user.is_some() || written.password.is_some() => {
            let span = written.given("cert")?;
            found
                .error(codes::BAD_CONNECTION, span, "a user by certificate, and one by name")
                .help("keep cert and key, or user and password");
            return None;
        }
        (Some(cert), Some(key)) => return Some(User::Certificate { cert, key }),
        (Some(_), None) => missing("cert", "key", found),
        (None, Some(_)) => missing("key", "cert", found),
        (None, None) => {}
    }
    match (&written.user, &written.password) {
        (None, None) => Some(User::Anonymous),
        (Some(_), None) => {
            missing("user", "password", found);
            None
        }
        (None, Some(_)) => {
            missing("password", "user", found);
            None
        }
        (Some(user), Some(password)) => {
            if security == Security::None {
                found
                    .warning(
                        codes::CLEAR_PASSWORD,
                        &password.span,
                        "a password over a connection without security",
                    )
                    .help("servers may take it in clear text; use a security policy");
            }
            Some(User::Name(user.value.0.clone(), secret::secret(password, "password", found)?))
        }
    }
}

/// Compiles a Modbus connection.
fn modbus(name: &At<String>, written: &Connection, found: &mut Diagnostics) -> Option<ModbusConfig> {
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
            let message = format!("connection '{}' says neither tcp nor rtu nor opcua", name.value);
            found
                .error(codes::BAD_CONNECTION, &name.span, message)
                .help("such as {tcp: 192.168.1.50:502}, {rtu: /dev/ttyUSB0, baud: 9600, format: 8N1} or {opcua: opc.tcp://192.168.1.60:4840}");
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
