//! Telemetry as written → where the gateway's own metrics are sent.

use std::time::Duration;

use super::plan::Telemetry;
use super::{http, written};
use crate::document::codes;
use crate::document::read::At;
use crate::document::types::Text;
use crate::model::diagnostic::Diagnostics;

/// How often, unless the file says it.
const EVERY: Duration = Duration::from_secs(30);
/// Where metrics go below the receiver's address (OTLP 1.x, "OTLP/HTTP request").
const PATH: &str = "/v1/metrics";
/// Requests of more bytes are compressed: receivers must take gzip (OTLP 1.x, "OTLP/HTTP").
const GZIP_ABOVE: usize = 1024;

/// Compiles it. `None` is reported.
pub fn compile(written: &written::Telemetry, found: &mut Diagnostics) -> Option<Telemetry> {
    let address = written.otlp.as_deref()?;
    if address.value.0.contains('?') {
        let message = format!("{PATH} is added to the address of a receiver, and this one has a query");
        found
            .error(codes::BAD_URL, &address.span, message)
            .help("put what authorises into bearer or headers");
        return None;
    }
    for (_, value) in written.headers.iter().flat_map(|at| &at.value.0) {
        if value.value.0.contains("{device}") {
            found
                .error(codes::BAD_HEADER, &value.span, "metrics are of all devices, and this names one")
                .help("remove {device}");
        }
    }
    let mut http = http::compile(&as_route(written, address), None, found)?;
    http.url = format!("{}{PATH}", http.url.trim_end_matches('/'));
    http.gzip_above = Some(GZIP_ABOVE);
    Some(Telemetry { http, every: written.every.as_ref().map_or(EVERY, |at| at.0) })
}

/// What an HTTP route to the same server says: addresses, credentials, headers and TLS are those of routes.
fn as_route(written: &written::Telemetry, address: &At<Text>) -> written::Publish {
    let written = written.clone();
    written::Publish {
        http: Some(Box::new(address.clone())),
        bearer: written.bearer,
        user: written.user,
        password: written.password,
        headers: written.headers,
        timeout: written.timeout,
        ca: written.ca,
        cert: written.cert,
        key: written.key,
        faulty: written.faulty,
        ..written::Publish::default()
    }
}
