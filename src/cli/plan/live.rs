//! `taktbus plan --live`: what the devices make of the plan.

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{millis, published, short};
use crate::cli::table::Table;
use crate::drivers::LinkLost;
use crate::drivers::modbus::rehearse::Rehearsed;
use crate::mapping::device::{Device, Read};
use crate::runtime::gateway::Connection;

/// Does all reads of all connections side by side and prints what came of them. Did every device answer?
pub async fn live(connections: &[Connection], within: Duration, as_json: bool) -> bool {
    let deadline = Instant::now() + within;
    let mut rehearsals = JoinSet::new();
    for (index, connection) in connections.iter().enumerate() {
        let plan = connection.plan.clone();
        rehearsals.spawn(async move { (index, plan.rehearse(deadline).await) });
    }
    let mut told = rehearsals.join_all().await;
    told.sort_by_key(|(index, _)| *index);
    let all = connections.iter().zip(told.into_iter().map(|(_, told)| told));
    let mut answered = true;
    let mut shown = Vec::new();
    for (connection, told) in all {
        // An OPC UA server has nothing to rehearse: it answers for each node by itself.
        let Some((reads, lost)) = told else { continue };
        let is_answered = |read: &Rehearsed| matches!(read.told, Some((_, Ok(()))));
        answered &= lost.is_none() && reads.iter().flatten().all(is_answered);
        if as_json {
            shown.push(connection_json(connection, &reads, lost.as_ref()));
        } else {
            out!("{}", connection_text(connection, &reads, lost.as_ref()));
        }
    }
    if as_json {
        outln!("{:#}", json!({ "connections": shown }));
    }
    answered
}

/// The reads of a connection with what they are planned to take.
fn planned<'c>(
    connection: &'c Connection,
    reads: &'c [Vec<Rehearsed>],
) -> impl Iterator<Item = (&'c Device, &'c Read, Duration, String, &'c Rehearsed)> {
    let plan = &connection.plan;
    let devices = plan.devices();
    plan.fit().reads.into_iter().map(move |fitted| {
        let demand = fitted.demand;
        let (device, of_device) = devices[demand.device];
        let request = plan.describe(demand.device, demand.read);
        let rehearsed = &reads[demand.device][demand.read];
        (device, &of_device[demand.read], demand.takes, request, rehearsed)
    })
}

fn connection_text(connection: &Connection, reads: &[Vec<Rehearsed>], lost: Option<&LinkLost>) -> String {
    let mut table = Table::new(&["device", ">points", ">planned", "request", "the device"]);
    for (device, read, takes, request, rehearsed) in planned(connection, reads) {
        let points = published(device, read).count().to_string();
        table.row([device.name.to_string(), points, short(takes), request, rehearsed.to_string()]);
    }
    let lost = lost.map_or(String::new(), |lost| format!(", link down: {lost}"));
    format!("{}: {}{lost}\n{}\n", connection.metrics.name, connection.plan.link(), table.render())
}

fn connection_json(
    connection: &Connection,
    reads: &[Vec<Rehearsed>],
    lost: Option<&LinkLost>,
) -> serde_json::Value {
    let reads: Vec<_> = planned(connection, reads)
        .map(|(device, read, takes, request, rehearsed)| {
            let result = match &rehearsed.told {
                None => "not reached".to_string(),
                Some((_, Ok(()))) => "answered".to_string(),
                Some((_, Err(cause))) => cause.to_string(),
            };
            json!({
                "device": &*device.name,
                "points": published(device, read).collect::<Vec<_>>(),
                "request": request,
                "planned_ms": millis(takes),
                "took_ms": rehearsed.told.as_ref().map(|(took, _)| millis(*took)),
                "result": result,
                "told": rehearsed.to_string(),
                "requests": rehearsed.standing.requests.len(),
                "settled": rehearsed.standing.is_settled,
            })
        })
        .collect();
    json!({
        "connection": &*connection.metrics.name,
        "link": connection.plan.link(),
        "link_down": lost.map(ToString::to_string),
        "reads": reads,
    })
}
