//! What may come in on the control socket.
//!
//! Laws: one line of JSON goes back, whatever comes; it is short where the question is not understood, and repeats no more of
//! it than may be asked.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use taktbus::budget::Budget;
use taktbus::fuzzing::control;
use taktbus::metrics::{ConnectionMetrics, DeviceMetrics, Metrics};
use taktbus::runtime::explain::{ExplainedConnection, ExplainedDevice, Explainer};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

/// A question of 512 bytes, each of which may take six in JSON (`\u0000`), and the sentence around it.
const LONGEST_REFUSAL: usize = 6 * 512 + 256;

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    static EXPLAINER: Explainer = explainer();
}

fuzz_target!(|bytes: &[u8]| {
    let answer = RUNTIME.with(|runtime| {
        EXPLAINER.with(|explainer| {
            let _inside = runtime.enter();
            runtime.block_on(control(bytes, explainer))
        })
    });
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = &line[..line.len().min(512)];
    let Ok(answer) = answer else {
        assert!(std::str::from_utf8(line).is_err(), "only what is no text goes unanswered");
        return;
    };
    let text = String::from_utf8(answer).expect("text");
    assert_eq!(text.matches('\n').count(), 1);
    assert!(text.ends_with('\n'));
    let json: Value = serde_json::from_str(&text).expect("JSON");
    let question = String::from_utf8_lossy(line);
    let is_known = matches!(question.trim_end(), "status" | "explain" | "explain meter" | "explain lan");
    assert_eq!(json["site"] == "bakery", is_known, "{question:?}");
    assert_eq!(json["error"].is_string(), !is_known, "{question:?}");
    if !is_known {
        assert!(text.len() < LONGEST_REFUSAL);
    }
});

fn explainer() -> Explainer {
    let metrics = Arc::new(DeviceMetrics::new("meter"));
    let devices = vec![ExplainedDevice {
        unit: 7,
        budget: Budget::default(),
        rhythm: None,
        map: Default::default(),
        metrics,
    }];
    let metrics = Arc::new(ConnectionMetrics { name: "lan".into(), ..ConnectionMetrics::default() });
    let connection =
        ExplainedConnection { link: "tcp 10.0.0.1:502".into(), planned_load: 0.1, metrics, devices };
    let metrics = Arc::new(Metrics::default());
    Explainer {
        site: "bakery".into(),
        started: Instant::now(),
        connections: vec![connection],
        metrics,
        recents: Default::default(),
        events: Default::default(),
    }
}
