//! Routes as written → MQTT routes: addresses, topics, secrets.

use std::path::PathBuf;
use std::time::Duration;

use super::connection::{host_name, port_number};
use super::secret;
use super::written::Publish;
use crate::document::codes;
use crate::document::read::At;
use crate::document::scalar::shortened;
use crate::document::suggest::did_you_mean;
use crate::document::types::Text;
use crate::model::diagnostic::{Diagnostics, Span};
use crate::model::secret::Secret;
use crate::northbound::mqtt::config::MqttConfig;
use crate::northbound::tls::TlsConfig;

const DEFAULT_TOPIC: &str = "taktbus/{site}/{device}";
const DEFAULT_KEEP_ALIVE: Duration = Duration::from_secs(10);
const DEFAULT_WINDOW: u16 = 100;

/// What a topic may contain in braces.
const PLACEHOLDERS: [&str; 2] = ["site", "device"];

/// Compiles a route. `devices` are the names of all devices. `None` is reported.
pub fn compile(
    name: &At<String>,
    written: &Publish,
    site: &str,
    devices: &[&At<String>],
    found: &mut Diagnostics,
) -> Option<MqttConfig> {
    let before = found.errors();
    let broker = written.mqtt.as_ref().and_then(|at| broker(at, found));
    let topic = written.topic.as_ref().map_or(DEFAULT_TOPIC, |at| &at.value.0);
    let topic_fine =
        written.topic.as_ref().is_none_or(|at| check_topic(&at.value.0, &at.span, &PLACEHOLDERS, found));
    let status_topic =
        written.status_topic.as_ref().map_or_else(|| status_beside(topic), |at| at.value.0.clone());
    let status_fine =
        written.status_topic.as_ref().is_none_or(|at| check_topic(&at.value.0, &at.span, &["site"], found));
    if topic_fine && status_fine {
        check_collisions(name, written, topic, &status_topic, site, devices, found);
    }
    let keep_alive = written.keep_alive.as_ref().map_or(DEFAULT_KEEP_ALIVE, |at| at.0);
    if let Some(at) = written.keep_alive.as_ref().filter(|at| at.0.subsec_nanos() != 0) {
        found.error(codes::BAD_DURATION, &at.span, "MQTT counts the keep-alive in whole seconds");
    }
    let password = password(written, found);
    let broker = broker?;
    let tls = tls(written, broker.tls, found);
    if let Some(at) = written.password.as_ref().filter(|_| !broker.tls && !is_loopback(&broker.host)) {
        found
            .warning(
                codes::CLEAR_PASSWORD,
                &at.span,
                format!("this password travels unencrypted to {}", broker.host),
            )
            .help("use mqtts://");
    }
    (found.errors() == before && !written.faulty).then(|| MqttConfig {
        host: broker.host,
        port: broker.port,
        tls,
        client_id: written
            .client_id
            .as_ref()
            .map_or_else(|| format!("taktbus-{site}"), |at| at.value.0.clone()),
        user: written.user.as_ref().map(|at| at.value.0.clone()),
        password,
        qos: written.qos.as_ref().map_or(1, |at| at.0 as u8),
        keep_alive,
        window: written.window.as_ref().map_or(DEFAULT_WINDOW, |at| at.0 as u16),
        topic: topic.to_string(),
        status_topic,
        // Dealt out when all routes are known.
        backlog_bytes: 0,
    })
}

struct Broker {
    tls: bool,
    host: String,
    port: u16,
}

fn broker(at: &At<Text>, found: &mut Diagnostics) -> Option<Broker> {
    const EXAMPLES: &str = "such as mqtt://localhost:1883 or mqtts://broker.example:8883";
    let url = &at.value.0;
    let mut refuse = |message: String, help: &str| {
        found.error(codes::BAD_URL, &at.span, message).help(help);
        None
    };
    let (tls, rest) = match url.split_once("://") {
        Some(("mqtt" | "tcp", rest)) => (false, rest),
        Some(("mqtts" | "ssl", rest)) => (true, rest),
        Some((scheme, _)) => {
            return refuse(format!("'{}' is no way to a broker", shortened(scheme)), EXAMPLES);
        }
        None => {
            return refuse(format!("'{}' does not begin with mqtt:// or mqtts://", shortened(url)), EXAMPLES);
        }
    };
    if rest.contains('@') {
        // Not shown: it may hold a password.
        return refuse(
            "user and password are no part of the address".into(),
            "use the keys user and password",
        );
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('/') {
        return refuse("a broker's address has no path".into(), "the topic has its own key: topic");
    }
    let default_port = if tls { 8883 } else { 1883 };
    let ends_in_host = rest.ends_with(']') || !rest.contains(':');
    let parts =
        if ends_in_host { Some((rest, None)) } else { rest.rsplit_once(':').map(|(h, p)| (h, Some(p))) };
    let target = parts
        .and_then(|(host, port)| Some((host_name(host)?, port.map_or(Some(default_port), port_number)?)));
    match target {
        Some((host, port)) => Some(Broker { tls, host, port }),
        None => refuse(format!("'{}' is no HOST:PORT", shortened(rest)), EXAMPLES),
    }
}

pub fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The status topic beside the devices' topics: the text up to `{device}`.
fn status_beside(topic: &str) -> String {
    match topic.split_once("{device}") {
        Some((before, _)) => format!("{before}status"),
        None => format!("{topic}/status"),
    }
}

/// Is it a topic that one can publish to (MQTT 3.1.1, 4.7)?
fn check_topic(topic: &str, span: &Span, placeholders: &[&str], found: &mut Diagnostics) -> bool {
    let before = found.errors();
    if topic.is_empty() {
        found.error(codes::TOPIC, span, "the topic is empty");
    }
    if let Some(c) = topic.chars().find(|c| matches!(c, '+' | '#' | '\0')) {
        found
            .error(codes::TOPIC, span, format!("'{}' in a topic to publish to", c.escape_default()))
            .help("+ and # are for subscriptions");
    }
    if topic.starts_with('$') {
        found.error(codes::TOPIC, span, "topics that begin with '$' are the broker's own");
    }
    let mut rest = topic;
    while let Some(at) = rest.find(['{', '}']) {
        let Some((name, after)) = rest[at..].strip_prefix('{').and_then(|inner| inner.split_once('}')) else {
            found
                .error(codes::TOPIC, span, "a brace without its partner")
                .help("placeholders are written {site}");
            break;
        };
        if !placeholders.contains(&name) {
            let near = did_you_mean(found, name, placeholders.iter().copied());
            let known: Vec<String> = placeholders.iter().map(|name| format!("{{{name}}}")).collect();
            found
                .error(codes::TOPIC, span, format!("unknown placeholder '{{{}}}'{near}", shortened(name)))
                .help(format!("known here: {}", known.join(", ")));
        }
        rest = after;
    }
    found.errors() == before
}

/// No two devices share a topic, and none has the gateway's.
fn check_collisions(
    name: &At<String>,
    written: &Publish,
    topic: &str,
    status_topic: &str,
    site: &str,
    devices: &[&At<String>],
    found: &mut Diagnostics,
) {
    if !topic.contains("{device}") && devices.len() > 1 {
        let span = written.topic.as_ref().map_or(&name.span, |at| &at.span);
        let message = format!("all {} devices would share one topic", devices.len());
        found.error(codes::TOPIC_COLLISION, span, message).help("add {device} to it");
        return;
    }
    let mut taken = std::collections::HashMap::new();
    taken.insert(status_topic.replace("{site}", site), "the gateway's status".to_string());
    for device in devices {
        let data = topic.replace("{site}", site).replace("{device}", &device.value);
        for (topic, what) in [(format!("{data}/status"), "status"), (data, "values")] {
            if let Some(other) = taken.insert(topic.clone(), format!("the {what} of '{}'", device.value)) {
                let message =
                    format!("the {what} of '{}' would have the topic of {other}: {topic}", device.value);
                found
                    .error(codes::TOPIC_COLLISION, &device.span, message)
                    .help("rename the device, or change topic or status_topic");
            }
        }
    }
}

fn password(written: &Publish, found: &mut Diagnostics) -> Option<Secret> {
    let Some(at) = &written.password else {
        if let Some(user) = written.user.as_ref().filter(|_| !written.faulty && written.key.is_none()) {
            found
                .warning(codes::NO_PASSWORD, &user.span, "a user without a password")
                .help("most brokers refuse it; add password: {env: NAME} or {file: PATH}");
        }
        return None;
    };
    if written.user.is_none() && !written.faulty {
        // MQTT 3.1.1, [MQTT-3.1.2-22]
        found.error(codes::MISSING_KEY, &at.span, "a password needs the key 'user'");
    }
    secret::secret(at, "password", found)
}

pub fn tls(written: &Publish, tls: bool, found: &mut Diagnostics) -> Option<TlsConfig> {
    let path = |at: &Option<Box<At<Text>>>| at.as_ref().map(|at| PathBuf::from(&at.value.0));
    let secure = if written.http.is_some() { "https://" } else { "mqtts://" };
    if !tls {
        for key in ["ca", "cert", "key"] {
            if let Some(span) = written.given(key) {
                found
                    .error(
                        codes::TLS_ONLY,
                        span,
                        format!("'{key}' is for TLS, and the address does not begin with {secure}"),
                    )
                    .help(format!("write {secure}"));
            }
        }
        return None;
    }
    let client = match (path(&written.cert), path(&written.key)) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (cert, _) => {
            let (has, needs) = if cert.is_some() { ("cert", "key") } else { ("key", "cert") };
            if let Some(span) = written.given(has) {
                found.error(codes::MISSING_KEY, span, format!("'{has}' needs the key '{needs}'"));
            }
            None
        }
    };
    Some(TlsConfig { ca: path(&written.ca), client })
}
