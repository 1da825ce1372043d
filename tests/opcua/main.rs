//! The OPC UA driver against a real server in this process (async-opcua's), through a wire that can be cut: what is read and watched, and
//! how it comes back.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod plant;
mod writes;

use std::sync::atomic::Ordering;
use std::time::Duration;

use opcua::types::{DataValue, DateTime, StatusCode};
use taktbus::drivers::opcua::security::Pki;
use tokio::time::{Instant, sleep};

use plant::*;

const WITH_TIMES: &str = "    namespace: urn:plant\n    every: {slow: 100ms}\n    subscribe: 50ms\n    timestamps: source\n    points:\n";

#[tokio::test]
async fn polled_and_watched_nodes_come_with_their_types_and_what_is_wrong_is_bad_alone() {
    let plant = Plant::start(0, &["urn:other", "urn:plant"], None).await;
    plant.add("urn:plant", "Speed", 1.5f64);
    plant.add("urn:plant", "Count", 7i32);
    plant.add("urn:plant", "Temps", vec![1.5f32, 2.5]);
    plant.add("urn:plant", "Name", "press 1");
    plant.add("urn:other", "Speed", 99.0f64);
    let points = "      speed: {node: s=Speed, scale: 10}\n      count: {node: s=Count, type: int32}\n      \
                  temps: {node: s=Temps}\n      second: {node: s=Temps, member: '[1]', rate: slow}\n      \
                  name: {node: s=Name, rate: slow}\n      path: {node: /Name, rate: slow}\n      \
                  foreign: {node: nsu=urn:other;s=Speed}\n      missing: {node: s=Nope}\n      \
                  wrong: {node: s=Speed, type: int16, rate: slow}\n      nowhere: {node: nsu=urn:nowhere;i=1}\n      \
                  sum: {sum: {speed: 1, count: 100}}\n      clock: {node: ns=0;i=2258, rate: slow}\n";
    let mut watch = Watch::start(&at(plant.address), &format!("{PRESS}{points}"), None);
    for (point, expected) in [
        ("speed", "15"),
        ("count", "7"),
        ("temps", "[1.5,2.5]"),
        ("second", "2.5"),
        ("name", "press 1"),
        ("path", "press 1"),
        ("foreign", "99"),
        ("missing", "bad: BadNodeIdUnknown"),
        ("wrong", "bad: wrong type"),
        ("nowhere", "bad: BadNodeIdUnknown"),
        ("sum", "715"),
    ] {
        watch.until(point, expected).await;
    }
    assert!(watch.online);
    assert!(watch.shown("clock").ends_with('Z'), "{}", watch.shown("clock"));

    plant.set("urn:plant", "Speed", 2.0f64);
    watch.until("sum", "720").await;
    let time = DateTime::now();
    plant.set_value(
        "urn:plant",
        "Count",
        DataValue::new_at_status(8i32, time, StatusCode::UncertainLastUsableValue),
    );
    watch.until("count", "8").await;
    assert_eq!(watch.uncertain["count"], "UncertainLastUsableValue");
    plant.set_value("urn:plant", "Count", DataValue::new_at_status(8i32, time, StatusCode::BadSensorFailure));
    watch.until("count", "bad: BadSensorFailure").await;
    assert_eq!(watch.shown("sum"), "bad: dependency");
    // Another type under the same name is no value.
    plant.set("urn:plant", "Count", 8.0f64);
    watch.until("count", "bad: wrong type").await;
    watch.stop().await;
}

#[tokio::test]
async fn time_stamps_come_on_request() {
    let plant = Plant::start(0, &["urn:plant"], None).await;
    plant.add("urn:plant", "Speed", 1i32);
    let time = DateTime::ymd_hms(2026, 1, 2, 3, 4, 5);
    plant.set_value("urn:plant", "Speed", DataValue::new_at(2i32, time));
    let points = "      speed: {node: s=Speed}\n      polled: {node: s=Speed, rate: slow}\n";
    let mut watch = Watch::start(&at(plant.address), &format!("{WITH_TIMES}{points}"), None);
    watch.until("speed", "2").await;
    watch.until("polled", "2").await;
    assert_eq!(watch.times["speed"], "2026-01-02T03:04:05.000Z");
    assert_eq!(watch.times["polled"], "2026-01-02T03:04:05.000Z");
    watch.stop().await;
}

#[tokio::test]
async fn a_node_that_comes_later_is_found() {
    let plant = Plant::start(0, &["urn:plant"], None).await;
    let points = "      late: {node: s=Late}\n      polled: {node: s=Late, rate: slow}\n";
    let mut watch = Watch::start(&at(plant.address), &format!("{PRESS}{points}"), None);
    watch.until("late", "bad: BadNodeIdUnknown").await;
    watch.until("polled", "bad: BadNodeIdUnknown").await;
    plant.add("urn:plant", "Late", 5i32);
    watch.until("polled", "5").await;
    watch.until("late", "5").await;
    watch.stop().await;
}

#[tokio::test]
async fn a_server_that_is_killed_comes_back_with_other_namespaces_and_the_right_values() {
    let plant = Plant::start(0, &["urn:plant", "urn:other"], None).await;
    plant.add("urn:plant", "Speed", 1i32);
    plant.add("urn:other", "Speed", -1i32);
    let device =
        format!("{PRESS}      speed: {{node: s=Speed}}\n      polled: {{node: s=Speed, rate: slow}}\n");
    let mut watch = Watch::start(&at(plant.address), &device, None);
    watch.until("speed", "1").await;
    let mut port = plant.kill().await;
    for (turn, namespaces) in [["urn:other", "urn:plant"], ["urn:plant", "urn:other"]].into_iter().enumerate()
    {
        watch.until("speed", "bad: offline").await;
        let again = Plant::start(port, &namespaces, None).await;
        let value = 10 + i32::try_from(turn).unwrap();
        again.add("urn:plant", "Speed", value);
        again.add("urn:other", "Speed", -1i32);
        let up = Instant::now();
        watch.until("speed", &value.to_string()).await;
        watch.until("polled", &value.to_string()).await;
        assert!(up.elapsed() < BACK_WITHIN, "{:?}", up.elapsed());
        assert!(watch.online);
        again.set("urn:plant", "Speed", 77i32);
        watch.until("speed", "77").await;
        port = again.kill().await;
    }
    watch.until("speed", "bad: offline").await;
}

#[tokio::test]
async fn a_cut_wire_and_a_black_hole_are_noticed_and_overcome() {
    let plant = Plant::start(0, &["urn:plant"], None).await;
    plant.add("urn:plant", "Speed", 1i32);
    let wire = Wire::to(plant.address).await;
    let device = format!("{PRESS}      speed: {{node: s=Speed}}\n");
    let mut watch = Watch::start(&at(wire.address), &device, None);
    watch.until("speed", "1").await;

    wire.cut.send_modify(|cuts| *cuts += 1);
    watch.until("speed", "bad: offline").await;
    plant.set("urn:plant", "Speed", 2i32);
    let cut = Instant::now();
    watch.until("speed", "2").await;
    assert!(cut.elapsed() < BACK_WITHIN, "{:?}", cut.elapsed());

    // No end, no bytes: only the missing keep-alives tell.
    wire.swallows.send_replace(true);
    watch.until("speed", "bad: offline").await;
    plant.set("urn:plant", "Speed", 3i32);
    wire.swallows.send_replace(false);
    let open = Instant::now();
    watch.until("speed", "3").await;
    assert!(open.elapsed() < BACK_WITHIN, "{:?}", open.elapsed());

    // Whoever accepts and hangs up is asked ever less often.
    wire.refuses.store(true, Ordering::Relaxed);
    wire.cut.send_modify(|cuts| *cuts += 1);
    watch.until("speed", "bad: offline").await;
    let before = wire.opened.load(Ordering::Relaxed);
    sleep(Duration::from_secs(3)).await;
    let tries = wire.opened.load(Ordering::Relaxed) - before;
    assert!((2..=8).contains(&tries), "{tries}");
    watch.stop().await;
}

/// Servers have limits for messages (this one 320 KiB), and do not send what is longer.
#[tokio::test]
async fn notifications_that_are_too_long_for_the_server_come_in_smaller_pieces() {
    let plant = Plant::start(0, &["urn:plant"], None).await;
    let mut points = String::new();
    for item in 0..400 {
        plant.add("urn:plant", &format!("Text{item}"), format!("{item} {}", "x".repeat(2_000)));
        points += &format!("      t{item}: {{node: s=Text{item}, type: string}}\n");
    }
    let mut watch = Watch::start(&at(plant.address), &format!("{PRESS}{points}"), None);
    for item in [0, 399] {
        watch.until(&format!("t{item}"), &format!("{item} {}", "x".repeat(2_000))).await;
    }
    assert!(watch.online);
    watch.stop().await;
}

#[tokio::test]
async fn a_stop_gives_the_session_back() {
    let plant = Plant::with_sessions(1, 0, &["urn:plant"], None).await;
    plant.add("urn:plant", "Speed", 1i32);
    let device = format!("{PRESS}      speed: {{node: s=Speed}}\n");
    for _ in 0..3 {
        let mut watch = Watch::start(&at(plant.address), &device, None);
        let start = Instant::now();
        watch.until("speed", "1").await;
        assert!(start.elapsed() < BACK_WITHIN, "the server has one session only");
        watch.stop().await;
    }
}

#[tokio::test]
async fn a_server_is_refused_until_its_certificate_is_trusted() {
    let folder = tempfile("trust");
    let plant = Plant::start(0, &["urn:plant"], Some(&folder.join("server"))).await;
    plant.add("urn:plant", "Speed", 1i32);
    let state = folder.join("state");
    let connection = format!("{{opcua: \"opc.tcp://{}\", response_timeout: 10s}}", plant.address);
    let device = format!("{PRESS}      speed: {{node: s=Speed}}\n");
    let mut watch = Watch::start(&connection, &device, Some(&state));
    watch.until("speed", "bad: offline").await;
    let pki = Pki::in_state(&state);
    let refused = loop {
        if let Some(known) = pki.rejected().unwrap().pop() {
            break known;
        }
        sleep(Duration::from_millis(50)).await;
    };
    assert!(pki.trust("0000").is_err());
    let trusted = pki.trust(&refused.fingerprint[..16]).unwrap();
    assert_eq!(trusted.fingerprint, refused.fingerprint);
    watch.until("speed", "1").await;
    assert_eq!(pki.trusted().unwrap().len(), 1, "one file for one certificate");
    watch.stop().await;
    // Its key is nobody else's business.
    let key = std::fs::metadata(state.join("pki/private/private.pem")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&key.permissions()) & 0o777, 0o600);
    pki.distrust(&refused.fingerprint[..16]).unwrap();
    assert!(pki.trusted().unwrap().is_empty());
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_heartbeat_tells_a_watched_value_that_stands_still() {
    let plant = Plant::start(0, &["urn:plant"], None).await;
    plant.add("urn:plant", "Level", 7i32);
    plant.add("urn:plant", "Speed", 1i32);
    let points =
        "      level: {node: s=Level, deadband: 2, heartbeat: 200ms}\n      speed: {node: s=Speed}\n";
    let device = format!("    namespace: urn:plant\n    subscribe: 50ms\n    points:\n{points}");
    let mut watch = Watch::start(&at(plant.address), &device, None);
    watch.until("level", "7").await;
    watch.until("speed", "1").await;
    // Within its deadband nothing is notified; what is read all the same shows where it is by now.
    plant.set("urn:plant", "Level", 8i32);
    watch.until("level", "8").await;
    let (before, start) = (watch.batches, Instant::now());
    while watch.batches < before + 5 {
        watch.next().await;
    }
    assert!(start.elapsed() > Duration::from_millis(500), "{:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    watch.stop().await;
}

#[tokio::test]
async fn a_server_that_is_not_as_the_map_says_is_told_once_per_connect() {
    let plant = Plant::start(0, &["urn:plant"], None).await;
    plant.add("urn:plant", "Speed", 1.5f64);
    plant.add("urn:plant", "Count", 7i32);
    plant.add("urn:plant", "Temps", vec![1.5f32, 2.5]);
    plant.add("urn:plant", "Secret", 1i32);
    plant.lock("urn:plant", "Secret");
    let points = "      speed: {node: s=Speed, type: float64}\n      count: {node: s=Count, type: float64}\n      \
                  temps: {node: s=Temps, type: float32}\n      second: {node: s=Temps, member: '[1]', type: float32}\n      \
                  secret: {node: s=Secret, type: int32}\n      gone: {node: s=Gone, type: int32}\n      \
                  lost: {node: /Lost, type: int32}\n      any: {node: s=Count}\n";
    let mut watch = Watch::start(&at(plant.address), &format!("{PRESS}{points}"), None);
    watch.until("speed", "1.5").await;
    let expected = [
        "count is int32 on the server, not float64",
        "temps is an array on the server, not a single value",
        "secret may not be read by this user",
        "gone is not there (BadNodeIdUnknown)",
        "lost is not there (BadNoMatch)",
    ];
    watch.drift_where(|drift| drift == expected).await;
    assert_eq!(watch.metrics.drift.changes(), 1);
    // What is there after the next connect is not told any more.
    let port = plant.kill().await;
    let again = Plant::start(port, &["urn:plant"], None).await;
    again.add("urn:plant", "Count", 7.0f64);
    again.add("urn:plant", "Gone", 1i32);
    watch.until("count", "7").await;
    watch
        .drift_where(|drift| drift.iter().all(|told| !told.starts_with("count") && !told.starts_with("gone")))
        .await;
    assert_eq!(watch.metrics.drift.changes(), 2);
    watch.stop().await;
}
