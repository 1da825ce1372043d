//! The metrics as Prometheus reads them: text format 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats). Pure but for reading
//! metrics.
//!
//! - [`FAMILIES`] is the one list; `docs/metrics.md` is made from it.
//! - The number of lines follows from the site alone: no label has a value that comes from outside.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use super::explain::{ExplainedConnection, ExplainedDevice, Explainer, STRAYS};
use super::health::fresh_for;
use super::process;
use crate::budget::Stage;
use crate::metrics::{BusUse, DeviceMetrics, Histogram, RouteMetrics};

/// What a family of numbers is to Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until a restart.
    Counter,
    /// Moves both ways.
    Gauge,
    /// Counts per upper limit, their sum and number.
    Histogram,
    /// Sum and number.
    Summary,
}

impl Kind {
    /// As `# TYPE` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
        }
    }
}

/// Numbers of one name.
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What its lines are told apart by.
    pub labels: &'static [&'static str],
    /// What it means, in one line.
    pub help: &'static str,
    collect: fn(&Explainer, &mut dyn Sink),
}

impl Family {
    /// Writes its numbers.
    pub fn collect(&self, explainer: &Explainer, to: &mut dyn Sink) {
        (self.collect)(explainer, to);
    }
}

/// Where a family's numbers are written, each with the values of the family's labels.
pub trait Sink {
    /// A counter's or a gauge's number.
    fn number(&mut self, values: &[&str], number: f64);

    /// A histogram's or a summary's times.
    fn times(&mut self, values: &[&str], times: &Histogram);
}

/// The buckets of a histogram, as all who tell of it have them.
pub mod times {
    use std::time::Duration;

    use crate::metrics::Histogram;

    /// The first upper limit of a latency histogram is 2^FIRST_STEP µs, about 1 ms.
    const FIRST_STEP: u32 = 10;
    /// The last one: about 67 s.
    const LAST_STEP: u32 = 26;

    /// How many took up to each limit; and all of them.
    pub fn steps(times: &Histogram) -> (Vec<(Duration, u64)>, u64) {
        times.cumulative(FIRST_STEP, LAST_STEP)
    }
}

const DEVICE: &[&str] = &["connection", "device"];
const ROUTE: &[&str] = &["route"];
const ACCOUNT: &[&str] = &["route", "device"];

/// Declares families, a block each.
macro_rules! families {
    ($($name:literal $kind:ident $labels:tt $help:literal, $collect:expr;)*) => {
        /// Every family, in the order of the page.
        pub const FAMILIES: &[Family] = &[$(Family {
            name: $name,
            kind: Kind::$kind,
            labels: families!(@ $labels),
            help: $help,
            collect: $collect,
        }),*];
    };
    (@ [$($label:literal),*]) => { &[$($label),*] };
    (@ $labels:ident) => { $labels };
}

families! {
    "taktbus_build_info" Gauge ["version"] "1, with the program's version.",
        |_, to| to.number(&[env!("CARGO_PKG_VERSION")], 1.0);
    "taktbus_stands_in" Gauge [] "1 while the configuration that ran well last runs in place of the site file.",
        |explainer, to| to.number(&[], explainer.metrics.stands_in.get() as f64);
    "taktbus_uptime_seconds" Gauge [] "Time since the start.",
        |explainer, to| to.number(&[], explainer.started.elapsed().as_secs_f64());

    "taktbus_connection_up" Gauge ["connection"] "1 while the link is up.",
        |explainer, to| each_connection(explainer, |c| to.number(&[&c.metrics.name], c.metrics.up.get() as f64));
    "taktbus_connection_connects_total" Counter ["connection"] "Times that the link came up.",
        |explainer, to| each_connection(explainer, |c| to.number(&[&c.metrics.name], c.metrics.connects.get() as f64));
    "taktbus_connection_restarts_total" Counter ["connection"] "Times that the connection's task was restarted after a panic.",
        |explainer, to| each_connection(explainer, |c| to.number(&[&c.metrics.name], c.metrics.restarts.get() as f64));
    "taktbus_stray_frames_total" Counter ["connection", "kind"] "Frames that answered no open request: late, echo, foreign, misshapen, noise.",
        |explainer, to| each_connection(explainer, |c| {
            for (kind, count) in STRAYS.iter().zip(&c.metrics.strays) {
                to.number(&[&c.metrics.name, kind], count.get() as f64);
            }
        });
    "taktbus_bus_planned_ratio" Gauge ["connection"] "The share of the time that the bus was planned to be busy.",
        |explainer, to| each_connection(explainer, |c| to.number(&[&c.metrics.name], c.planned_load));
    "taktbus_bus_seconds_total" Counter ["connection", "device", "use"] "Time that a device kept its bus busy, by use: polls, retries, timeouts, probes.",
        |explainer, to| each_device(explainer, |c, device| {
            for what in BusUse::ALL {
                let micros = device.metrics.bus_micros[what as usize].get();
                to.number(&[&c.metrics.name, &device.metrics.name, what.name()], micros as f64 / 1e6);
            }
        });

    "taktbus_device_online" Gauge DEVICE "1 while the device answers, 0 while it does not or nobody knows.",
        |explainer, to| device_number(explainer, to, |device| f64::from(device.state.get() == 1));
    "taktbus_values_age_seconds" Gauge DEVICE "Time since the device gave values last; since the start or the reload that added it, if it never did.",
        |explainer, to| each_device(explainer, |c, device| {
            let known = device.metrics.values_at.get().or_else(|| device.metrics.added_at.get());
            let age = known.unwrap_or(explainer.started).elapsed();
            to.number(&[&c.metrics.name, &device.metrics.name], age.as_secs_f64());
        });
    "taktbus_values_age_limit_seconds" Gauge DEVICE "Up to which age its values count as fresh; absent where they come when they change.",
        |explainer, to| each_device(explainer, |c, device| {
            if let Some(limit) = fresh_for(device) {
                to.number(&[&c.metrics.name, &device.metrics.name], limit.as_secs_f64());
            }
        });
    "taktbus_polls_total" Counter ["connection", "device", "outcome"] "Reads by how they ended: answered, timeout, exception, garbled.",
        |explainer, to| each_device(explainer, |c, device| {
            let metrics = &device.metrics;
            let outcomes = [
                ("answered", &metrics.answered),
                ("timeout", &metrics.timeouts),
                ("exception", &metrics.exceptions),
                ("garbled", &metrics.garbled),
            ];
            for (outcome, count) in outcomes {
                to.number(&[&c.metrics.name, &metrics.name, outcome], count.get() as f64);
            }
        });
    "taktbus_retries_total" Counter DEVICE "Reads of which something was asked for again at once: a torn value, a damaged answer, a link that dropped.",
        |explainer, to| device_number(explainer, to, |device| device.retries.get() as f64);
    "taktbus_exceptions_total" Counter ["connection", "device", "code"] "Refused reads by Modbus exception code; other: codes without a name, and refusals by OPC UA servers.",
        |explainer, to| each_device(explainer, |c, device| {
            for (code, count) in device.metrics.exception_codes.iter().enumerate().filter(|(_, count)| count.get() > 0) {
                let code = if code == 0 { "other".to_string() } else { code.to_string() };
                to.number(&[&c.metrics.name, &device.metrics.name, &code], count.get() as f64);
            }
        });
    "taktbus_missed_ticks_total" Counter DEVICE "Due times that passed without a request, because the bus was busy.",
        |explainer, to| device_number(explainer, to, |device| device.missed_ticks.get() as f64);
    "taktbus_bad_values_total" Counter DEVICE "Values that were bad.",
        |explainer, to| device_number(explainer, to, |device| device.bad_values.get() as f64);
    "taktbus_refused_values" Gauge DEVICE "Values whose addresses the device refuses, while it gives others.",
        |explainer, to| device_number(explainer, to, |device| device.quarantined.get() as f64);
    "taktbus_lost_values_total" Counter DEVICE "OPC UA: notifications that never arrived, and values that the server has dropped from its queue; later values have followed.",
        |explainer, to| device_number(explainer, to, |device| device.lost_values.get() as f64);
    "taktbus_server_clock_offset_seconds" Gauge DEVICE "OPC UA: the server's clock minus ours, where it's known.",
        |explainer, to| each_device(explainer, |c, device| {
            if let Some(millis) = device.metrics.clock_offset_ms.get() {
                to.number(&[&c.metrics.name, &device.metrics.name], millis as f64 / 1e3);
            }
        });

    "taktbus_budget_seconds" Gauge DEVICE "The device's latency budget.",
        |explainer, to| each_device(explainer, |c, device| {
            to.number(&[&c.metrics.name, &device.metrics.name], device.budget.within.as_secs_f64());
        });
    "taktbus_latency_seconds" Histogram ACCOUNT "From the request to the acknowledgement (PUBACK, 2xx), of messages that were not replayed.",
        |explainer, to| each_account(explainer, |route, device| to.times(&[&route.name, &device.name], &device.total));
    "taktbus_stage_seconds" Summary ["route", "device", "stage"] "The same time by stage: bus, map, queue, broker.",
        |explainer, to| each_account(explainer, |route, device| {
            for (stage, times) in Stage::ALL.iter().zip(&device.stages) {
                to.times(&[&route.name, &device.name, stage.name()], times);
            }
        });
    "taktbus_violations_total" Counter ["route", "device", "stage"] "Messages that missed their budget, by the stage that spent the time.",
        |explainer, to| each_account(explainer, |route, device| {
            for (stage, count) in Stage::ALL.iter().zip(&device.violations) {
                to.number(&[&route.name, &device.name, stage.name()], count.get() as f64);
            }
        });
    "taktbus_messages_sampled_total" Counter ACCOUNT "Messages made: sequence numbers given.",
        |explainer, to| account_number(explainer, to, |device| device.sampled.get());
    "taktbus_messages_delivered_total" Counter ACCOUNT "Messages that were acknowledged.",
        |explainer, to| account_number(explainer, to, |device| device.delivered.get());
    "taktbus_messages_replayed_total" Counter ACCOUNT "Of these, messages out of the backlog.",
        |explainer, to| account_number(explainer, to, |device| device.replayed.get());
    "taktbus_messages_gap_accounted_total" Counter ACCOUNT "Sequence numbers that gap records account for.",
        |explainer, to| account_number(explainer, to, |device| device.gap_accounted.get());

    "taktbus_route_up" Gauge ROUTE "1 while the far side takes messages.",
        |explainer, to| route_number(explainer, to, |route| route.up.get());
    "taktbus_route_connects_total" Counter ROUTE "Times that the link came up.",
        |explainer, to| route_number(explainer, to, |route| route.connects.get());
    "taktbus_route_redelivered_total" Counter ROUTE "Messages that were sent again because a link dropped before their acknowledgement.",
        |explainer, to| route_number(explainer, to, |route| route.redelivered.get());
    "taktbus_route_refused_total" Counter ROUTE "Messages that the far side will never take.",
        |explainer, to| route_number(explainer, to, |route| route.refused.get());
    "taktbus_queue_messages" Gauge ROUTE "Messages in the live queue.",
        |explainer, to| route_number(explainer, to, |route| route.queued.get());
    "taktbus_in_flight_messages" Gauge ROUTE "Messages that were sent and not yet acknowledged.",
        |explainer, to| route_number(explainer, to, |route| route.in_flight.get());
    "taktbus_backlog_messages" Gauge ROUTE "Messages in the backlog in memory.",
        |explainer, to| route_number(explainer, to, |route| route.backlog.get());
    "taktbus_backlog_bytes" Gauge ROUTE "Bytes in the backlog in memory.",
        |explainer, to| route_number(explainer, to, |route| route.backlog_bytes.get());
    "taktbus_store_messages" Gauge ROUTE "Messages in the store that are not delivered.",
        |explainer, to| route_number(explainer, to, |route| route.stored.get());
    "taktbus_store_bytes" Gauge ROUTE "Bytes that the store's files take.",
        |explainer, to| route_number(explainer, to, |route| route.stored_bytes.get());
    "taktbus_store_age_seconds" Gauge ROUTE "For how long messages have waited in the store, to within a file: how old the newest message of the oldest file is. 0: none waits, or the clock doesn't tell.",
        |explainer, to| each_route(explainer, |route| to.number(&[&route.name], route.stored_age_ms.get() as f64 / 1e3));
    "taktbus_store_fits_seconds" Gauge ROUTE "How long an outage fits into the store, by the site file's intervals. 0: there is no store, or it can't be said.",
        |explainer, to| route_number(explainer, to, |route| route.store_fits_seconds.get());
    "taktbus_store_failing" Gauge ROUTE "1 while the store can't be written.",
        |explainer, to| route_number(explainer, to, |route| route.store_failing.get());
    "taktbus_store_written_bytes_total" Counter ROUTE "Bytes written to the store's files.",
        |explainer, to| route_number(explainer, to, |route| route.store_written_bytes.get());
    "taktbus_store_syncs_total" Counter ROUTE "Times that the store was synced to the disk.",
        |explainer, to| route_number(explainer, to, |route| route.store_syncs.get());

    "process_resident_memory_bytes" Gauge [] "Memory of the process that is resident.",
        |_, to| process::resident_bytes().into_iter().for_each(|bytes| to.number(&[], bytes as f64));
    "process_cpu_seconds_total" Counter [] "Processor time of the process.",
        |_, to| to.number(&[], process::cpu_time().as_secs_f64());
    "process_open_fds" Gauge [] "Open file descriptors of the process.",
        |_, to| process::open_files().into_iter().for_each(|count| to.number(&[], count as f64));
}

/// Everything, as a scrape gets it.
pub fn render(explainer: &Explainer) -> String {
    let mut text = String::new();
    for family in FAMILIES {
        let _ = writeln!(text, "# HELP {} {}", family.name, family.help);
        let _ = writeln!(text, "# TYPE {} {}", family.name, family.kind.name());
        family.collect(explainer, &mut Lines { text: &mut text, family });
    }
    text
}

/// The page that documents every family.
pub fn page() -> String {
    let mut page = String::from(
        "# Metrics\n\n<!-- Made from src/runtime/exposition.rs by `TAKTBUS_BLESS=1 cargo test --lib exposition`. -->\n\n\
         What `/metrics` says, in Prometheus' text format, where the site file has `listen: {http: 127.0.0.1:9464}`,\n\
         and what is sent where it has `telemetry` ([seeing into it](observing.md)). Counters start at 0 with the process.\n\n\
         | metric | kind | labels | meaning |\n| --- | --- | --- | --- |\n",
    );
    for Family { name, kind, labels, help, .. } in FAMILIES {
        let labels = labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        let _ = writeln!(page, "| `{name}` | {} | {labels} | {help} |", kind.name());
    }
    page
}

/// Where a family's lines are written.
struct Lines<'a> {
    text: &'a mut String,
    family: &'static Family,
}

impl Sink for Lines<'_> {
    fn number(&mut self, values: &[&str], number: f64) {
        self.line("", values, None, number);
    }

    fn times(&mut self, values: &[&str], times: &Histogram) {
        if self.family.kind == Kind::Summary {
            return self.sum_and_count(values, times.sum(), times.count());
        }
        let (steps, all) = times::steps(times);
        let sum = times.sum();
        for (limit, count) in steps {
            self.line("_bucket", values, Some(&limit.as_secs_f64().to_string()), count as f64);
        }
        self.line("_bucket", values, Some("+Inf"), all as f64);
        self.sum_and_count(values, sum, all);
    }
}

impl Lines<'_> {
    fn sum_and_count(&mut self, values: &[&str], sum: Duration, count: u64) {
        self.line("_sum", values, None, sum.as_secs_f64());
        self.line("_count", values, None, count as f64);
    }

    fn line(&mut self, suffix: &str, values: &[&str], limit: Option<&str>, number: f64) {
        let Self { text, family } = self;
        debug_assert_eq!(values.len(), family.labels.len(), "{}", family.name);
        text.push_str(family.name);
        text.push_str(suffix);
        let labels =
            family.labels.iter().copied().zip(values.iter().copied()).chain(limit.map(|limit| ("le", limit)));
        let mut before = '{';
        for (label, value) in labels {
            let _ = write!(text, "{before}{label}=\"{}\"", escaped(value));
            before = ',';
        }
        let end = if before == ',' { "} " } else { " " };
        let _ = writeln!(text, "{end}{number}");
    }
}

/// A label's value: backslash, quote and line feed are escaped. Names have none of them, yet.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn each_connection(explainer: &Explainer, act: impl FnMut(&ExplainedConnection)) {
    explainer.connections.iter().for_each(act);
}

fn each_device(explainer: &Explainer, mut act: impl FnMut(&ExplainedConnection, &ExplainedDevice)) {
    each_connection(explainer, |connection| {
        connection.devices.iter().for_each(|device| act(connection, device))
    });
}

fn device_number(explainer: &Explainer, to: &mut dyn Sink, number: fn(&DeviceMetrics) -> f64) {
    each_device(explainer, |c, device| {
        to.number(&[&c.metrics.name, &device.metrics.name], number(&device.metrics));
    });
}

fn each_route(explainer: &Explainer, mut act: impl FnMut(&RouteMetrics)) {
    explainer.metrics.routes.iter().for_each(|route| act(route));
}

fn route_number(explainer: &Explainer, to: &mut dyn Sink, number: fn(&RouteMetrics) -> u64) {
    each_route(explainer, |route| to.number(&[&route.name], number(route) as f64));
}

fn each_account(explainer: &Explainer, mut act: impl FnMut(&RouteMetrics, &Arc<DeviceMetrics>)) {
    each_route(explainer, |route| route.devices.get().iter().for_each(|device| act(route, device)));
}

fn account_number(explainer: &Explainer, to: &mut dyn Sink, number: fn(&DeviceMetrics) -> u64) {
    each_account(explainer, |route, device| to.number(&[&route.name, &device.name], number(device) as f64));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::metrics::{Current, Metrics};
    use crate::runtime::explain::tests::explainer;

    #[test]
    fn names_and_units_follow_the_conventions() {
        let mut names = BTreeSet::new();
        for Family { name, kind, help, .. } in FAMILIES {
            assert!(names.insert(name), "{name} is there twice");
            assert!(name.starts_with("taktbus_") || name.starts_with("process_"), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert!(help.ends_with('.') && !help.contains(['\n', '\\', '|']), "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_scrape_has_every_family_and_the_numbers_that_were_counted() {
        let mut explainer = explainer();
        let oven = explainer.connections[0].devices[0].metrics.clone();
        oven.refused_with(2);
        oven.refused_with(99);
        oven.total.record(Duration::from_millis(3));
        let route = RouteMetrics {
            name: "cloud".into(),
            devices: Current::new(vec![oven]),
            ..RouteMetrics::default()
        };
        route.stored_bytes.set(4096);
        explainer.metrics = Arc::new(Metrics { routes: vec![Arc::new(route)], ..Metrics::default() });
        let text = render(&explainer);
        for line in [
            r#"taktbus_exceptions_total{connection="line",device="oven",code="2"} 1"#,
            r#"taktbus_exceptions_total{connection="line",device="oven",code="other"} 1"#,
            r#"taktbus_polls_total{connection="line",device="oven",outcome="exception"} 2"#,
            r#"taktbus_bus_planned_ratio{connection="line"} 0.4"#,
            r#"taktbus_latency_seconds_bucket{route="cloud",device="oven",le="0.002048"} 0"#,
            r#"taktbus_latency_seconds_bucket{route="cloud",device="oven",le="0.004096"} 1"#,
            r#"taktbus_latency_seconds_bucket{route="cloud",device="oven",le="+Inf"} 1"#,
            r#"taktbus_latency_seconds_sum{route="cloud",device="oven"} 0.003"#,
            r#"taktbus_store_bytes{route="cloud"} 4096"#,
            "taktbus_uptime_seconds 0",
        ] {
            assert!(text.lines().any(|other| other == line), "no {line} in\n{text}");
        }
        for family in FAMILIES {
            assert!(text.contains(&format!("# TYPE {} {}\n", family.name, family.kind.name())));
        }
    }

    #[test]
    fn the_page_is_what_the_code_says() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
        if std::env::var_os("TAKTBUS_BLESS").is_some() {
            std::fs::write(&path, page()).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(written, page(), "TAKTBUS_BLESS=1 cargo test --lib exposition renews it");
    }

    #[test]
    fn the_dashboard_names_only_what_there_is() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/grafana/taktbus.json");
        let text = std::fs::read_to_string(path).unwrap();
        let _: serde_json::Value = serde_json::from_str(&text).unwrap();
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let words = text
            .split(|c: char| !is_word(c))
            .filter(|w| w.starts_with("taktbus_") || w.starts_with("process_"));
        let known = |word: &str| {
            FAMILIES.iter().any(|family| {
                let suffixes: &[&str] = match family.kind {
                    Kind::Histogram => &["_bucket", "_sum", "_count"],
                    Kind::Summary => &["_sum", "_count"],
                    Kind::Counter | Kind::Gauge => &[""],
                };
                suffixes.iter().any(|suffix| word.strip_suffix(suffix) == Some(family.name))
            })
        };
        let words: BTreeSet<_> = words.collect();
        assert!(words.len() > 10, "{words:?}");
        let unknown: Vec<_> = words.into_iter().filter(|word| !known(word)).collect();
        assert_eq!(unknown, [""; 0]);
    }
}
