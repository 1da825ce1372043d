//! `taktbus explain`: what a running gateway says about its devices, for people.

use std::path::{Path, PathBuf};

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
    let path = socket(args.control);
    let is_one = args.name.is_some();
    let question = args.name.map_or("explain".into(), |name| format!("explain {name}"));
    let told = control::ask(&path, &question).await.with_context(|| nobody(&path))?;
    if let Some(error) = told["error"].as_str() {
        if told["unknown"] == true {
            errln!("error: {error}");
            return Ok(Outcome::WrongConfiguration);
        }
        bail!("{error}");
    }
    if args.json {
        outln!("{told}");
        return Ok(Outcome::Fine);
    }
    out!("{}", account(&told, is_one));
    Ok(Outcome::Fine)
}

/// Where to ask: the given socket, else that of this user's gateway, else the service's.
pub fn socket(given: Option<PathBuf>) -> PathBuf {
    given.unwrap_or_else(|| {
        control::default_path().filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from(SERVICE))
    })
}

/// What to say where nobody answers.
pub fn nobody(path: &Path) -> String {
    format!(
        "no gateway answers at {}; is `taktbus run` running, as this user, with the same --control?",
        path.display()
    )
}

/// An answer of the gateway as text; of one device (connection, point) with its past.
pub fn account(told: &Value, is_one: bool) -> String {
    let mut out = String::new();
    if told["point"].is_object() {
        out += &render_point(&told["point"]);
    }
    for connection in list(&told["connections"]) {
        out += &render(connection);
        if is_one {
            list(&connection["devices"]).iter().for_each(|device| out += &render_past(device));
        }
    }
    for route in list(&told["routes"]) {
        let state = if route["up"] == true { "up" } else { "down" };
        out += &format!(
            "route {}: {state}, {} queued, {} in flight, {} in the backlog, {} in the store, {} redelivered\n",
            text(&route["route"]),
            route["queued"],
            route["in_flight"],
            route["backlog"],
            route["stored"],
            route["redelivered"]
        );
    }
    out
}

/// How a point got its value.
fn render_point(point: &Value) -> String {
    let is = match (point["value"].as_str(), point["bad"].as_str()) {
        (Some(value), _) => value.to_owned(),
        (None, Some(cause)) => format!("bad: {cause}"),
        (None, None) => "-".into(),
    };
    let mut text = format!("{}: {is}\n", text(&point["point"]));
    for exchange in list(&point["exchanges"]) {
        let age = millis(&exchange["age_ms"]);
        text += &format!(
            "  {} ({age} ago, took {})\n",
            self::text(&exchange["at"]),
            millis(&exchange["took_ms"])
        );
        for (key, title) in [("node", "node"), ("request", "request PDU"), ("answer", "answer PDU")] {
            if let Some(told) = exchange[key].as_str() {
                text += &format!("  {title}: {}\n", if told.is_empty() { "none" } else { told });
            }
        }
    }
    list(&point["steps"]).iter().for_each(|step| text += &format!("    {}\n", self::text(step)));
    text + "\n"
}

/// What became of a device's messages, and its last failed reads.
fn render_past(device: &Value) -> String {
    let mut text = String::new();
    for route in list(&device["routes"]) {
        let last = &route["last_acknowledged"];
        let stages = last["stages_ms"].as_object().into_iter().flatten();
        let stages: Vec<_> = stages.map(|(stage, took)| format!("{stage} {}", millis(took))).collect();
        let last = match last.is_object() {
            true => {
                format!("last seq {}, {} ago ({})", last["seq"], millis(&last["age_ms"]), stages.join(", "))
            }
            false => "nothing acknowledged yet".into(),
        };
        let (device, name) = (self::text(&device["device"]), self::text(&route["route"]));
        text += &format!(
            "  {device} on {name}: {} delivered, {} waiting, {last}\n",
            route["delivered"], route["waiting"]
        );
    }
    for failure in list(&device["failures"]) {
        let device = self::text(&device["device"]);
        text += &format!("  {device} {}: {}\n", self::text(&failure["at"]), self::text(&failure["cause"]));
    }
    text
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
    value.as_f64().map_or("-".into(), |millis| match millis {
        // Ages, which may be long.
        10_000.0.. => format!("{:.1}s", millis / 1e3),
        _ => format!("{millis:.1}ms"),
    })
}

fn percent(value: &Value) -> String {
    value.as_f64().map_or("-".into(), |share| format!("{:.1} %", share * 100.0))
}
