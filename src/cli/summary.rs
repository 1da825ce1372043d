//! What is printed when a run ends: each device's account, and the time its messages took.

use std::sync::Arc;
use std::time::Duration;

use super::table::Table;
use crate::budget::Stage;
use crate::metrics::{DeviceMetrics, Histogram, Metrics};

/// The account of all devices as a table, with a line per route.
pub fn render(metrics: &Metrics, elapsed: Duration) -> String {
    let mut out = format!("\nran for {}\n{}", short(elapsed), table(&metrics.devices));
    if metrics.devices.iter().any(|device| device.replayed.get() > 0) {
        out.push_str(
            "Times are those of messages that were delivered live; what was replayed took longer.\n",
        );
    }
    for (index, route) in metrics.routes.iter().enumerate() {
        let settled = |device: &DeviceMetrics| device.delivered.get() + device.gap_accounted.get();
        let waiting = |device: &Arc<DeviceMetrics>| device.sampled.get().saturating_sub(settled(device));
        let waiting: u64 = route.devices.get().iter().map(waiting).sum();
        let (redelivered, connects) = (route.redelivered.get(), route.connects.get());
        out.push_str(&format!(
            "route {}: {waiting} undelivered, {redelivered} redelivered, {connects} connects\n",
            route.name
        ));
        // The first route's account is the table above.
        if index > 0 {
            out.push_str(&table(&route.devices.get()));
        }
    }
    out
}

fn table(devices: &[Arc<DeviceMetrics>]) -> String {
    let titles = ["device", ">sampled", ">delivered", ">replayed", ">gaps", ">missed", ">timeouts"];
    let times = [">p50", ">p99", ">max", ">bus p99", ">map p99", ">queue p99", ">broker p99"];
    let mut table = Table::new(&[&titles[..], &times[..], &["violations"]].concat());
    for device in devices {
        let counts = [
            &device.sampled,
            &device.delivered,
            &device.replayed,
            &device.gap_accounted,
            &device.missed_ticks,
            &device.timeouts,
        ];
        let quantile = |times: &Histogram, q| times.quantile(q).map_or("-".into(), short);
        let total = &device.total;
        let times = [quantile(total, 0.5), quantile(total, 0.99), quantile(total, 1.0)];
        let stages = device.stages.iter().map(|stage| quantile(stage, 0.99));
        table.row(
            std::iter::once(device.name.to_string())
                .chain(counts.iter().map(|count| count.get().to_string()))
                .chain(times)
                .chain(stages)
                .chain([violations(device)]),
        );
    }
    table.render()
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
