//! A connection written as one word, for commands that need no site file: `tcp://HOST[:PORT]`,
//! `rtu:///dev/ttyUSB0?baud=9600&format=8N1`, `rtu+tcp://HOST:PORT`.
//!
//! Behind the question mark stand the keys of a connection in a site file: what such a file says, can be said here, and
//! what is wrong with it is found by the same checks.

use std::sync::Arc;

use super::connection::{self, host_port};
use super::plan::Protocol;
use super::written::Connection;
use crate::document::read::{At, Read as _, Reader};
use crate::document::yaml;
use crate::model::diagnostic::{Diagnostics, Severity, SourceFile, Span};

/// Modbus TCP's port (MODBUS Messaging on TCP/IP V1.0b, 4.3.1).
const DEFAULT_PORT: u16 = 502;

/// Longest connection that is looked at, in bytes.
const MOST_BYTES: usize = 1_024;

/// What a connection looks like, for messages.
pub const EXAMPLES: &str =
    "such as tcp://192.168.1.50:502, rtu:///dev/ttyUSB0?baud=9600&format=8N1 or rtu+tcp://192.168.1.70:4196";

/// The connection of a word, or what is wrong with it.
pub fn connection_of(url: &str) -> Result<Protocol, String> {
    let text = as_yaml(url)?;
    let file = Arc::new(SourceFile { path: "connection".into(), text });
    let mut found = Diagnostics::default();
    let config = yaml::parse(&file, &mut found).and_then(|node| {
        let written = Connection::read(&node, &mut Reader::new(&file, &mut found))?;
        let span = Span { file: Arc::clone(&file), range: 0..0 };
        connection::compile(&At { value: url.into(), span }, &written, &mut found)
    });
    match (found.sorted().into_iter().find(|finding| finding.severity == Severity::Error), config) {
        (None, Some(config)) => Ok(config),
        (Some(finding), _) => {
            let help = finding.help.map(|help| format!(" ({help})")).unwrap_or_default();
            Err(format!("{}{help}", finding.message))
        }
        (None, None) => Err(format!("it is no connection, {EXAMPLES}")),
    }
}

/// The connection as a site file writes it.
fn as_yaml(url: &str) -> Result<String, String> {
    if url.len() > MOST_BYTES || url.chars().any(char::is_control) {
        return Err(format!("it is no connection, {EXAMPLES}"));
    }
    let (scheme, rest) = url.split_once("://").ok_or_else(|| format!("it has no scheme, {EXAMPLES}"))?;
    let (end, query) = rest.split_once('?').unwrap_or((rest, ""));
    let quoted = serde_json::Value::from;
    let mut yaml = match scheme {
        "tcp" if host_port(end).is_none() && host_port(&format!("{end}:{DEFAULT_PORT}")).is_some() => {
            format!("tcp: {}\n", quoted(format!("{end}:{DEFAULT_PORT}")))
        }
        "tcp" => format!("tcp: {}\n", quoted(end.to_owned())),
        "rtu+tcp" => format!("tcp: {}\nframing: rtu\n", quoted(end.to_owned())),
        "rtu" => format!("rtu: {}\n", quoted(end.to_owned())),
        "opc.tcp" => format!("opcua: {}\n", quoted(format!("opc.tcp://{end}"))),
        _ => return Err(format!("the scheme '{scheme}' is unknown, {EXAMPLES}")),
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let word = |text: &str| {
            !text.is_empty()
                && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
        };
        match pair.split_once('=').filter(|(key, value)| word(key) && word(value)) {
            Some((key, value)) => yaml += &format!("{key}: {value}\n"),
            None => return Err(format!("'{pair}' is no setting, such as baud=9600")),
        }
    }
    Ok(yaml)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::drivers::modbus::config::{Line, Link, Parity};

    #[test]
    fn a_connection_is_one_word() {
        let modbus = |url: &str| connection_of(url).unwrap().modbus().unwrap().clone();
        let link = |url: &str| modbus(url).link;
        let (host, port) = ("192.168.1.50".to_string(), 502);
        assert_eq!(link("tcp://192.168.1.50:502"), Link::Tcp { host: host.clone(), port });
        assert_eq!(link("tcp://192.168.1.50"), Link::Tcp { host: host.clone(), port });
        assert_eq!(link("rtu+tcp://192.168.1.50:4196"), Link::RtuOverTcp { host, port: 4196, line: None });
        assert_eq!(link("tcp://[fe80::1]"), Link::Tcp { host: "fe80::1".into(), port });
        let line = Line { baud: 9600, data_bits: 8, parity: Parity::None, stop_bits: 1 };
        let serial = Link::Serial { path: "/dev/ttyUSB0".into(), line };
        assert_eq!(link("rtu:///dev/ttyUSB0?baud=9600&format=8N1"), serial);
        let Ok(Protocol::Opcua(config)) = connection_of("opc.tcp://plc:4841/UA?security=None") else {
            panic!("an OPC UA connection")
        };
        assert_eq!(config.endpoint.to_string(), "opc.tcp://plc:4841/UA");
    }

    #[test]
    fn its_settings_are_those_of_a_site_file() {
        let Ok(Protocol::Modbus(config)) =
            connection_of("tcp://box?response_timeout=300ms&delay_after_connect=1s")
        else {
            panic!("a Modbus connection")
        };
        assert_eq!(config.response_timeout, Some(Duration::from_millis(300)));
        assert_eq!(config.delay_after_connect, Duration::from_secs(1));
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        for (url, expected) in [
            ("192.168.1.50:502", "it has no scheme, such as tcp://"),
            ("udp://192.168.1.50", "the scheme 'udp' is unknown"),
            ("tcp://", "'' is no HOST:PORT"),
            ("tcp://host:99999", "'host:99999' is no HOST:PORT"),
            ("rtu+tcp://host", "'host' is no HOST:PORT"),
            ("rtu://", "the device file has no name"),
            ("rtu:///dev/ttyS0?baud=96", "96 is out of range"),
            ("rtu:///dev/ttyS0?baud", "'baud' is no setting"),
            ("rtu:///dev/ttyS0?baud=9600&baud=19200", "is given twice"),
            ("rtu:///dev/ttyS0?format=7E1", "RTU needs 8 data bits"),
            ("rtu:///dev/ttyS0?boud=9600", "unknown key 'boud'"),
            ("rtu:///dev/ttyS0?a={b}", "is no setting"),
            ("tcp://h\"\n: x", "it is no connection"),
            ("tcp://a\", framing: \"rtu", "is no HOST:PORT"),
        ] {
            let message = connection_of(url).unwrap_err();
            assert!(message.contains(expected), "{url}: {message}");
            assert_eq!(message.lines().count(), 1);
        }
    }
}
