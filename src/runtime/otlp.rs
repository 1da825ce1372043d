//! The metrics as OpenTelemetry receivers read them: an `ExportMetricsServiceRequest` in JSON (OTLP 1.x, section "OTLP/HTTP", "JSON Protobuf
//! Encoding"; opentelemetry-proto, metrics.proto). Pure but for reading metrics.
//!
//! - The families, names and labels of `/metrics`; counters are cumulative sums since the start.
//! - 64-bit whole numbers are texts in this encoding, as proto3's JSON mapping wants it.

use std::fmt::Write as _;

use super::explain::Explainer;
use super::exposition::{FAMILIES, Family, Kind, Sink, times};
use crate::metrics::Histogram;

/// `AGGREGATION_TEMPORALITY_CUMULATIVE`.
const CUMULATIVE: u8 = 2;

/// When the numbers are of, in nanoseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// The counters' start.
    pub start: u64,
    /// Now.
    pub now: u64,
}

/// All families as one request.
pub fn request(explainer: &Explainer, at: Times) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut text = String::from(r#"{"resourceMetrics":[{"resource":{"attributes":"#);
    attributes(
        &mut text,
        ["service.name", "service.version", "service.instance.id"].into_iter().zip([
            "taktbus",
            version,
            &*explainer.site,
        ]),
    );
    let _ = write!(
        text,
        r#"}},"scopeMetrics":[{{"scope":{{"name":"taktbus","version":"{version}"}},"metrics":["#
    );
    let mut between = "";
    for family in FAMILIES {
        let mut points = Points { text: String::new(), family, at };
        family.collect(explainer, &mut points);
        if points.text.is_empty() {
            continue;
        }
        let (kind, further) = match family.kind {
            Kind::Counter => ("sum", format!(r#","aggregationTemporality":{CUMULATIVE},"isMonotonic":true"#)),
            Kind::Gauge => ("gauge", String::new()),
            Kind::Histogram => ("histogram", format!(r#","aggregationTemporality":{CUMULATIVE}"#)),
            Kind::Summary => ("summary", String::new()),
        };
        let _ = write!(
            text,
            r#"{between}{{"name":{},"description":{},"unit":"{}","{kind}":{{"dataPoints":[{}]{further}}}}}"#,
            quoted(family.name),
            quoted(family.help),
            unit(family.name),
            points.text,
        );
        between = ",";
    }
    text.push_str("]}]}]}");
    text
}

/// The data points of one family.
struct Points {
    text: String,
    family: &'static Family,
    at: Times,
}

impl Points {
    /// One data point, but for its number.
    fn begin(&mut self, values: &[&str]) {
        let Self { text, family, at } = self;
        text.push_str(if text.is_empty() { r#"{"attributes":"# } else { r#",{"attributes":"# });
        attributes(text, family.labels.iter().copied().zip(values.iter().copied()));
        if family.kind != Kind::Gauge {
            let _ = write!(text, r#","startTimeUnixNano":"{}""#, at.start);
        }
        let _ = write!(text, r#","timeUnixNano":"{}""#, at.now);
    }
}

impl Sink for Points {
    fn number(&mut self, values: &[&str], number: f64) {
        self.begin(values);
        let _ = write!(self.text, r#","asDouble":{number}}}"#);
    }

    fn times(&mut self, values: &[&str], times: &Histogram) {
        self.begin(values);
        let (steps, all) = times::steps(times);
        let _ = write!(self.text, r#","count":"{all}","sum":{}"#, times.sum().as_secs_f64());
        if self.family.kind == Kind::Histogram {
            let bounds: Vec<String> =
                steps.iter().map(|(limit, _)| limit.as_secs_f64().to_string()).collect();
            // Each bucket alone, and one more for what is above the last limit.
            let ends = steps.iter().map(|(_, count)| *count).chain([all]);
            let begins = [0].into_iter().chain(steps.iter().map(|(_, count)| *count));
            let counts: Vec<String> =
                ends.zip(begins).map(|(end, begin)| format!(r#""{}""#, end.saturating_sub(begin))).collect();
            let _ = write!(
                self.text,
                r#","explicitBounds":[{}],"bucketCounts":[{}]"#,
                bounds.join(","),
                counts.join(",")
            );
        }
        self.text.push('}');
    }
}

fn attributes<'a>(text: &mut String, pairs: impl Iterator<Item = (&'a str, &'a str)>) {
    text.push('[');
    for (at, (key, value)) in pairs.enumerate() {
        let comma = if at == 0 { "" } else { "," };
        let (key, value) = (quoted(key), quoted(value));
        let _ = write!(text, r#"{comma}{{"key":{key},"value":{{"stringValue":{value}}}}}"#);
    }
    text.push(']');
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The unit by the name's end (UCUM, as OpenTelemetry's metrics have it).
fn unit(name: &str) -> &'static str {
    let name = name.trim_end_matches("_total");
    match name.rsplit('_').next() {
        Some("seconds") => "s",
        Some("bytes") => "By",
        _ => "1",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use serde_json::Value;

    use super::*;
    use crate::metrics::{Current, Metrics, RouteMetrics};
    use crate::runtime::explain::tests::explainer;

    fn metric<'a>(request: &'a Value, name: &str) -> &'a Value {
        let metrics = request["resourceMetrics"][0]["scopeMetrics"][0]["metrics"].as_array().unwrap();
        metrics
            .iter()
            .find(|metric| metric["name"] == name)
            .unwrap_or_else(|| panic!("no {name} in {request}"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_has_the_numbers_of_the_metrics() {
        let mut explainer = explainer();
        let oven = explainer.connections[0].devices[0].metrics.clone();
        oven.retries.add(7);
        for millis in [3, 3, 100_000] {
            oven.total.record(Duration::from_millis(millis));
        }
        let route = RouteMetrics {
            name: "a \"cloud\"".into(),
            devices: Current::new(vec![oven]),
            ..RouteMetrics::default()
        };
        explainer.metrics = Arc::new(Metrics { routes: vec![Arc::new(route)], ..Metrics::default() });
        let text = request(&explainer, Times { start: 5, now: 1_795_348_800_123_000_000 });
        let request: Value = serde_json::from_str(&text).unwrap();
        let resource = &request["resourceMetrics"][0]["resource"]["attributes"];
        assert_eq!(resource[2]["value"]["stringValue"], "bakery");
        let retries = metric(&request, "taktbus_retries_total");
        assert_eq!(
            (&retries["sum"]["isMonotonic"], &retries["sum"]["aggregationTemporality"]),
            (&true.into(), &2.into())
        );
        let point = &retries["sum"]["dataPoints"][0];
        assert_eq!((&point["asDouble"], &point["startTimeUnixNano"]), (&7.into(), &"5".into()));
        assert_eq!(point["timeUnixNano"], "1795348800123000000");
        assert_eq!(point["attributes"][1]["value"]["stringValue"], "oven");
        let latency = metric(&request, "taktbus_latency_seconds");
        assert_eq!(latency["unit"], "s");
        let point = &latency["histogram"]["dataPoints"][0];
        assert_eq!(point["attributes"][0]["value"]["stringValue"], "a \"cloud\"");
        let counts: Vec<u64> = point["bucketCounts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| n.as_str().unwrap().parse().unwrap())
            .collect();
        assert_eq!(counts.len(), point["explicitBounds"].as_array().unwrap().len() + 1);
        assert_eq!((point["count"].as_str(), counts.iter().sum::<u64>()), (Some("3"), 3));
        // 3 ms are in the bucket up to 4.096 ms, 100 s above the last limit.
        assert_eq!((counts[2], counts.last()), (2, Some(&1)));
        assert!(
            metric(&request, "taktbus_uptime_seconds")["gauge"]["dataPoints"][0]["startTimeUnixNano"]
                .is_null()
        );
    }

    #[test]
    fn units_follow_from_the_names() {
        assert_eq!(
            ["process_cpu_seconds_total", "taktbus_store_bytes", "taktbus_bus_planned_ratio"].map(unit),
            ["s", "By", "1"]
        );
    }
}
