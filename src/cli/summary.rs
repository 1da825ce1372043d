//! What is printed when a run ends: each device's account, and the time its messages took.

use std::time::Duration;

use super::table::Table;
use crate::budget::Stage;
use crate::metrics::{DeviceMetrics, Metrics};

/// The account of all devices as a table, with a line per route.
pub fn render(metrics: &Metrics, elapsed: Duration) -> String {
    let mut table = Table::new(&[
        "device",
        ">sampled",
        ">delivered",
        ">replayed",
        ">gaps",
        ">missed",
        ">timeouts",
        ">p50",
        ">p99",
        ">max",
        "violations",
    ]);
    for device in &metrics.devices {
        let time = |q| device.total.quantile(q).map_or("-".into(), short);
        let max = if device.total.count() > 0 { short(device.total.max()) } else { "-".into() };
        table.row([
            device.name.to_string(),
            device.sampled.get().to_string(),
            device.delivered.get().to_string(),
            device.replayed.get().to_string(),
            device.gap_accounted.get().to_string(),
            device.missed_ticks.get().to_string(),
            device.timeouts.get().to_string(),
            time(0.5),
            time(0.99),
            max,
            violations(device),
        ]);
    }
    let mut out = format!("\nran for {}\n{}", short(elapsed), table.render());
    for route in &metrics.routes {
        let (waiting, redelivered) =
            (route.queued.get() + route.in_flight.get() + route.backlog.get(), route.redelivered.get());
        out.push_str(&format!(
            "route {}: {waiting} undelivered, {redelivered} redelivered, {} connects\n",
            route.name,
            route.connects.get()
        ));
    }
    out
}

/// `3 (2 bus, 1 broker)`
pub fn violations(device: &DeviceMetrics) -> String {
    let total = device.violations_total();
    let stages = Stage::ALL.iter().zip(&device.violations).filter(|(_, count)| count.get() > 0);
    let parts: Vec<_> = stages.map(|(stage, count)| format!("{} {stage}", count.get())).collect();
    if total == 0 { "0".into() } else { format!("{total} ({})", parts.join(", ")) }
}

/// A duration with three digits or so: `850µs`, `12.3ms`, `4.56s`.
pub fn short(duration: Duration) -> String {
    let micros = duration.as_micros();
    match micros {
        0..1_000 => format!("{micros}µs"),
        1_000..1_000_000 => format!("{:.1}ms", micros as f64 / 1e3),
        _ => format!("{:.2}s", duration.as_secs_f64()),
    }
}
