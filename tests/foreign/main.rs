//! The program against software that we did not write: pymodbus, libmodbus, mbpoll, asyncua, node-opcua, mosquitto, hypercorn, socat,
//! promtool, check-jsonschema, libfaketime, strace.
//!
//! `tests/run` installs the peers and sets `TAKTBUS_PEERS`, which turns a missing peer into a failure. Without it a test
//! whose peer is missing says so on stderr and passes; [`what_was_left_out_is_said`] lists them all.
//! Each test starts its own peers on free loopback ports or ptys and ends them by their process ids.
#![allow(clippy::unwrap_used, clippy::expect_used)] // also in what the tests share

mod broker;
mod clocks;
mod command_line;
mod crash;
mod folder;
mod gateway;
mod http;
mod json;
mod lines;
mod memory;
mod monitoring;
mod node_opcua;
mod opcua;
mod oracle;
mod outages;
mod peers;
mod plant;
mod power;
mod process;
mod schemas;
mod second_client;
mod security;
mod store;
mod tap;
mod telemetry;
mod values;

use std::time::Duration;

/// How long anything that must happen may take. Generous: the machines that run this are slow and shared.
const SOON: Duration = Duration::from_secs(30);

#[test]
fn what_was_left_out_is_said() {
    let missing = peers::Peer::ALL.into_iter().filter(|peer| peer.path().is_none()).collect::<Vec<_>>();
    let owed = missing.iter().filter(|peer| peer.excuse().is_none()).collect::<Vec<_>>();
    assert!(owed.is_empty() || !peers::required(), "tests/run did not provide {owed:?}");
    if !missing.is_empty() {
        peers::say(&format!(
            "foreign peers not found: {missing:?}; `tests/run` installs them and runs everything"
        ));
    }
}
