//! `taktbus explain`: what a running gateway says about its devices, for people.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::table::Table;
use super::{ExplainArgs, Outcome};
use crate::runtime::control;

/// Where the packaged service has its socket.
const SERVICE: &str = "/run/taktbus/control";

/// The uses of bus time, in the order of the table's columns.
const USES: [&str; 4] = ["polls", "retries", "timeouts", "probes"];

pub async fn explain(args: ExplainArgs) -> Result<Outcome> {
    let path = args.control.unwrap_or_else(|| {
        control::default_path().filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from(SERVICE))
    });
    let question = args.name.map_or("explain".into(), |name| format!("explain {name}"));
    let told = control::ask(&path, &question).await.with_context(|| {
        format!(
            "no gateway answers at {}; is `taktbus run` running, as this user, with the same --control?",
            path.display()
        )
    })?;
    if let Some(error) = told["error"].as_str() {
        bail!("{error}");
    }
    if args.json {
        outln!("{told}");
        return Ok(Outcome::Fine);
    }
    for connection in list(&told["connections"]) {
        out!("{}", render(connection));
    }
    for route in list(&told["routes"]) {
        let state = if route["up"] == true { "up" } else { "down" };
        outln!(
            "route {}: {state}, {} queued, {} in flight, {} in the backlog, {} redelivered",
            text(&route["route"]),
            route["queued"],
            route["in_flight"],
            route["backlog"],
            route["redelivered"]
        );
    }
    Ok(Outcome::Fine)
}

fn render(connection: &Value) -> String {
    let titles =
        ["device", ">unit", "state", ">answered", ">missed", ">p99", ">budget", ">planned", ">takes"];
    let uses = [">polls", ">retries", ">timeouts", ">probes"];
    let mut table = Table::new(&[&titles[..], &uses[..]].concat());
    let mut sentences = String::new();
    for device in list(&connection["devices"]) {
        let counts = ["answered", "missed"].map(|key| device[key].to_string());
        let times = [
            &device["p99_ms"]["total"],
            &device["budget_ms"],
            &device["exchange_ms"]["planned"],
            &device["exchange_ms"]["measured"],
        ];
        table.row(
            [text(&device["device"]), device["unit_id"].to_string(), text(&device["state"])]
                .into_iter()
                .chain(counts)
                .chain(times.map(millis))
                .chain(USES.map(|what| percent(&device["bus"][what]))),
        );
        for why in list(&device["why"]) {
            sentences.push_str(&format!("  {}: {}\n", text(&device["device"]), text(why)));
        }
    }
    let busy: f64 = USES.iter().filter_map(|what| connection["bus"][*what].as_f64()).sum();
    let spent = USES.map(|what| format!("{what} {}", percent(&connection["bus"][what]))).join(", ");
    let strays = connection["strays"].as_object().into_iter().flatten();
    let strays: Vec<_> =
        strays.filter(|(_, count)| **count != 0).map(|(kind, count)| format!("{count} {kind}")).collect();
    let strays = if strays.is_empty() { String::new() } else { format!("; strays: {}", strays.join(", ")) };
    format!(
        "{}: {}, {}, {} busy (planned {}): {spent}{strays}\n{}{sentences}\n",
        text(&connection["connection"]),
        text(&connection["link"]),
        if connection["up"] == true { "up" } else { "down" },
        percent(&busy.into()),
        percent(&connection["planned_load"]),
        table.render(),
    )
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_string()
}

fn millis(value: &Value) -> String {
    value.as_f64().map_or("-".into(), |millis| format!("{millis:.1}ms"))
}

fn percent(value: &Value) -> String {
    value.as_f64().map_or("-".into(), |share| format!("{:.1} %", share * 100.0))
}
