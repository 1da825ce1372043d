//! `taktbus read`: every read of the chosen devices once, as a table or as messages.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::Result;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::table::Table;
use super::{Outcome, ReadArgs, site};
use crate::drivers::Kept;
use crate::mapping::batch::{Batch, Event};
use crate::mapping::compiled::Point;
use crate::mapping::device::Every;
use crate::mapping::transform::{Sample, evaluate};
use crate::model::value::Value;
use crate::pipeline::encode;
use crate::runtime::state;

/// Characters of a value in a table.
const WIDEST_VALUE: usize = 60;

/// Batches waiting to be printed.
const EVENTS: usize = 64;

pub async fn read(args: ReadArgs) -> Result<Outcome> {
    let mut site = match site::site(&args.site) {
        Ok(site) => site,
        Err(outcome) => return Ok(outcome),
    };
    if !args.devices.is_empty() {
        let known: Vec<_> =
            site.connections.iter().flat_map(|c| &c.devices).map(|device| device.name.to_string()).collect();
        if let Some(unknown) = args.devices.iter().find(|name| !known.contains(name)) {
            errln!("error: no device '{unknown}' in the site; it has: {}", known.join(", "));
            return Ok(Outcome::WrongConfiguration);
        }
        for connection in &mut site.connections {
            connection.devices.retain(|device| args.devices.iter().any(|name| **name == *device.name));
        }
        site.connections.retain(|connection| !connection.devices.is_empty());
    }
    // What is watched is read once too: here nobody waits for a change.
    let devices = site.connections.iter_mut().flat_map(|connection| &mut connection.devices);
    for group in devices.flat_map(|device| &mut device.groups) {
        if let Every::Changes(_) = group.every {
            group.every = Every::Once;
        }
    }
    let name = site.name.clone();
    let gateway = match site::planned(site) {
        Ok(gateway) => gateway,
        Err(outcome) => return Ok(outcome),
    };
    let mut printer = Printer::new(name, args.json);
    let mut wanted: HashSet<(Arc<str>, usize)> = gateway
        .connections()
        .iter()
        .flat_map(|connection| connection.plan.devices())
        .flat_map(|(device, reads)| (0..reads.len()).map(|read| (device.name.clone(), read)))
        .collect();
    let (events, mut received) = mpsc::channel(EVENTS);
    let kept = Kept { state: args.state.clone().or_else(state::default_directory), ..Kept::default() };
    let stop = CancellationToken::new();
    let mut sessions = JoinSet::new();
    for connection in gateway.connections() {
        sessions.spawn(connection.session(&events, &stop, &kept));
    }
    drop(events);
    let reading = async {
        while !wanted.is_empty() {
            let Some(event) = received.recv().await else { break };
            let Event::Batch(batch) = event else { continue };
            if wanted.remove(&(batch.plan.device.name.clone(), batch.read)) {
                printer.batch(&batch);
            }
        }
    };
    let in_time = timeout(args.timeout, reading).await.is_ok();
    stop.cancel();
    sessions.shutdown().await;
    printer.finish();
    if !in_time {
        let missing: HashSet<_> = wanted.iter().map(|(device, _)| device.to_string()).collect();
        let missing = Vec::from_iter(missing).join(", ");
        errln!("error: not everything was read within {:?}: {missing}", args.timeout);
        return Ok(Outcome::Failed);
    }
    Ok(if printer.unanswered == 0 { Outcome::Fine } else { Outcome::Failed })
}

struct Printer {
    site: String,
    json: bool,
    rows: Vec<[String; 5]>,
    seq: u64,
    /// Reads that the device did not answer, or refused.
    unanswered: usize,
}

impl Printer {
    fn new(site: String, json: bool) -> Self {
        Self { site, json, rows: Vec::new(), seq: 0, unanswered: 0 }
    }

    fn batch(&mut self, batch: &Batch) {
        let device = &batch.plan.device;
        let read = batch.read();
        let mut samples: Vec<Sample> = Vec::new();
        match &batch.readings {
            Ok(readings) => evaluate(&device.map, read, readings, &mut Vec::new(), &mut samples),
            Err(cause) => {
                self.unanswered += 1;
                samples.extend(read.publishes.iter().map(|ix| (*ix, Err(*cause))));
            }
        }
        let points = &device.map.points;
        samples.retain(|(ix, _)| read.publishes.contains(ix));
        if self.json {
            let mut out = Vec::new();
            let prefix = encode::prefix(&self.site, &device.name);
            let heading = encode::Heading { prefix: &prefix, stamp: batch.stamp, epoch: 0, seq: self.seq };
            encode::data(&heading, points, samples.iter(), &batch.point_notes(), &mut out);
            self.seq += 1;
            outln!("{}", String::from_utf8_lossy(&out));
            return;
        }
        let notes = batch.point_notes();
        for (ix, value) in &samples {
            let point = &points[ix.0 as usize];
            let (value, quality) = match value {
                Ok(value) => {
                    let note = notes.iter().find(|(at, _)| at == ix);
                    let uncertain =
                        note.and_then(|(_, note)| note.uncertain).map(|status| status.to_string());
                    (shown(value, point), uncertain.unwrap_or_else(|| "good".to_string()))
                }
                Err(cause) => ("-".to_string(), cause.to_string()),
            };
            let unit = point.unit.as_deref().unwrap_or("");
            self.rows.push([
                device.name.to_string(),
                point.name.to_string(),
                value,
                unit.to_string(),
                quality,
            ]);
        }
    }

    fn finish(&mut self) {
        if self.rows.is_empty() {
            return;
        }
        let mut table = Table::new(&["device", "point", ">value", "unit", "quality"]);
        // Reads end in any order; devices keep the order of their first answer.
        self.rows.sort_by(|a, b| a[0].cmp(&b[0]));
        self.rows.drain(..).for_each(|row| table.row(row));
        out!("{}", table.render());
    }
}

/// A value for people: texts without quotes.
fn shown(value: &Value, point: &Point) -> String {
    if let Value::Text(text) = value {
        return text.to_string();
    }
    let mut out = Vec::new();
    encode::write_value(value, point, &mut out);
    let text = String::from_utf8_lossy(&out);
    // Arrays and structures may have any length; --json shows all of them.
    match text.char_indices().nth(WIDEST_VALUE) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.into_owned(),
    }
}
