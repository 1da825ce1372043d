//! `plan --live`: what devices make of the plan, against a scripted far side on the paused clock.

#![allow(clippy::unwrap_used)]

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use taktbus::config::plan::Protocol;
use taktbus::config::{LoadOptions, load_text};
use taktbus::drivers::modbus::ModbusPlan;
use taktbus::drivers::modbus::config::Link;
use taktbus::drivers::modbus::plan::Block;
use taktbus::drivers::modbus::rehearse::rehearse;
use taktbus::drivers::modbus::transport::Open;
use taktbus::model::place::Table;
use taktbus::model::value::Cause;
use tokio::time::Instant;

/// Unit 1 refuses register 12; unit 2 never answers.
struct Devices;

impl Open for Devices {
    type Stream = DuplexStream;

    async fn open(&mut self, _: &Link) -> io::Result<DuplexStream> {
        let (near, mut far) = duplex(1024);
        tokio::spawn(async move {
            let mut frame = [0; 12];
            while far.read_exact(&mut frame).await.is_ok() {
                let [t0, t1, _, _, _, _, unit, function, a0, a1, _, count] = frame;
                let address = u16::from_be_bytes([a0, a1]);
                let refuses = (address..address + u16::from(count)).contains(&12);
                let answer = match (unit, refuses) {
                    (2, _) => continue,
                    (_, true) => vec![t0, t1, 0, 0, 0, 3, unit, function | 0x80, 2],
                    (_, false) => {
                        let mut answer = vec![t0, t1, 0, 0, 0, 3 + count * 2, unit, function, count * 2];
                        answer.extend((address..).take(count.into()).flat_map(u16::to_be_bytes));
                        answer
                    }
                };
                far.write_all(&answer).await.unwrap();
            }
        });
        Ok(near)
    }
}

#[tokio::test(start_paused = true)]
async fn a_rehearsal_tells_what_a_device_makes_of_the_plan() {
    let device = |unit: u8| {
        let points: String = (10..16).map(|a| format!("p{a}: {{holding: {a}, type: uint16}}, ")).collect();
        format!("  d{unit}: {{via: lan, unit_id: {unit}, every: 1h, points: {{{points}}}}}\n")
    };
    let text = format!(
        "site: s\nconnections: {{lan: {{tcp: 'h:502'}}}}\ndevices:\n{}{}publish: {{c: {{mqtt: mqtt://h}}}}\n",
        device(1),
        device(2)
    );
    let site = load_text("site.yaml", &text, &LoadOptions::default()).site.unwrap();
    let connection = site.connections.into_iter().next().unwrap();
    let Protocol::Modbus(config) = connection.protocol else { panic!("a Modbus connection") };
    let plan = ModbusPlan::compile(config, connection.devices).unwrap();
    let (reads, lost) = rehearse(plan, Devices, Instant::now() + Duration::from_secs(60)).await;
    assert!(lost.is_none());
    let block = |address, count| Block { table: Table::Holding, address, count };
    let told = &reads[0][0];
    assert!(told.standing.is_settled && told.told.is_some_and(|(_, result)| result.is_ok()));
    assert_eq!(told.standing.requests, [block(10, 2), block(13, 3)]);
    assert_eq!(told.standing.refused, [(block(12, 1), 2)]);
    let shown = told.to_string();
    let expected = "by 2 requests: holding 10–11, holding 13–15; refuses holding 12 (exception 2)";
    assert!(shown.starts_with("answered in ") && shown.ends_with(expected), "{shown}");
    assert_eq!(reads[1][0].told.map(|(_, result)| result), Some(Err(Cause::Timeout)));
}
