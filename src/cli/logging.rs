//! Logs go to stderr: readable on a terminal, plain lines under journald (which stamps them), JSON otherwise.

use std::io::IsTerminal as _;

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::runtime::events::Events;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// text on a terminal and under journald, else json
    Auto,
    /// for people
    Text,
    /// one JSON object a line
    Json,
}

/// Starts logging; what was logged last is in what it returns. `TAKTBUS_LOG` (for instance `info,taktbus::drivers=debug`) overrides `level`.
pub fn start(format: LogFormat, level: LevelFilter) -> Events {
    // What libraries log is for their developers; our own state changes say what users need.
    let default = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("taktbus", level)
        .with_target("opcua", LevelFilter::OFF);
    let filter = std::env::var("TAKTBUS_LOG").ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let events = Events::default();
    let registry = tracing_subscriber::registry().with(filter).with(events.clone());
    let terminal = std::io::stderr().is_terminal();
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(terminal)
        .with_target(false)
        // A closed stderr must not end the gateway.
        .log_internal_errors(false);
    let text = format == LogFormat::Text || (format == LogFormat::Auto && (terminal || journal));
    // A second start (in tests) keeps the first one's settings.
    let _ = match (text, journal && !terminal) {
        (true, true) => registry.with(lines.without_time()).try_init(),
        (true, false) => registry.with(lines).try_init(),
        (false, _) => registry
            .with(
                fmt::layer()
                    .json()
                    .flatten_event(true)
                    .log_internal_errors(false)
                    .with_writer(std::io::stderr),
            )
            .try_init(),
    };
    events
}
