//! A site file with other addresses of its connections; everything else stays as it is written.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::written;
use crate::document::read::{Read as _, Reader};
use crate::document::types::Either;
use crate::document::yaml;
use crate::model::diagnostic::{Diagnostics, SourceFile};

/// The text of a site file in which each of these connections is at its new address (`HOST:PORT`, or a device file), those to OPC UA
/// servers without security.
/// `None` when the text is no site file.
pub fn readdress(text: &str, addresses: &BTreeMap<String, String>) -> Option<String> {
    let file = Arc::new(SourceFile { path: String::new(), text: text.into() });
    let mut found = Diagnostics::default();
    let node = yaml::parse(&file, &mut found)?;
    let written = written::Site::read(&node, &mut Reader::new(&file, &mut found))?;
    let mut changes: Vec<(Range<usize>, String)> = Vec::new();
    for (name, connection) in written.connections.iter().flat_map(|at| &at.value.0) {
        let (Some(connection), Some(address)) = (connection, addresses.get(&name.value)) else { continue };
        if let Some(at) = connection.tcp.as_ref().or(connection.rtu.as_ref()) {
            // JSON's texts are YAML's.
            changes.push((at.span.range.clone(), serde_json::Value::from(address.as_str()).to_string()));
        }
        if let Some(at) = &connection.opcua {
            let address = serde_json::Value::from(format!("opc.tcp://{address}")).to_string();
            let range = at.span.range.clone();
            // The simulated server has no security.
            match &connection.security {
                Some(security) => {
                    changes.push((range, address));
                    changes.push((security.span.range.clone(), "None".into()));
                }
                None => {
                    let before = text.get(..range.start)?.rsplit('\n').next()?;
                    let indent = &before[..before.len() - before.trim_start().len()];
                    let security = if before.contains('{') { ", ".into() } else { format!("\n{indent}") };
                    changes.push((range, format!("{address}{security}security: None")));
                }
            }
        }
        // The kernel has no transceiver to switch at a pseudo-terminal.
        if let Some(at) = connection.rs485.as_ref().filter(|at| matches!(at.value, Either::Short(_))) {
            changes.push((at.span.range.clone(), "false".into()));
        }
    }
    changes.sort_by_key(|(range, _)| range.start);
    let mut text = text.to_string();
    for (range, new) in changes.into_iter().rev() {
        text.get(range.clone())?;
        text.replace_range(range, &new);
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_addresses_change() {
        let text = "\
site: a # of 10.0.0.1:502
connections:
  lan: {tcp: 10.0.0.1:502, response_timeout: 1s}   # the hall
  far: {tcp: '10.0.0.2:502'}
  line:
    rtu: /dev/ttyUSB0 # the adapter
    rs485: true
  plc: {opcua: opc.tcp://10.0.0.3}
  safe:
    opcua: opc.tcp://10.0.0.4
    security: Basic256Sha256
devices:
  m: {via: lan, every: 1s, profile: x/y}
";
        let new = [
            ("lan", "127.0.0.1:4001"),
            ("line", "/dev/pts/3"),
            ("plc", "127.0.0.1:1"),
            ("safe", "127.0.0.1:2"),
        ];
        let new = new.map(|(name, address)| (name.to_string(), address.to_string())).into();
        let expected = text
            .replace("tcp: 10.0.0.1:502", "tcp: \"127.0.0.1:4001\"")
            .replace("/dev/ttyUSB0", "\"/dev/pts/3\"")
            .replace("true", "false")
            .replace("opc.tcp://10.0.0.3", "\"opc.tcp://127.0.0.1:1\", security: None")
            .replace("opc.tcp://10.0.0.4", "\"opc.tcp://127.0.0.1:2\"")
            .replace("Basic256Sha256", "None");
        assert_eq!(readdress(text, &new), Some(expected));
        assert_eq!(readdress("- a\n", &new), None);
    }
}
