//! The store alone, on the disk that holds the temporary folder: how many messages of 250 bytes are accepted and made durable per second, how
//! many bytes that writes, how long a start takes, and how fast they are read back.
//!
//! ```sh
//! cargo bench --bench store            # 200,000 messages; or: cargo bench --bench store -- 4000000
//! ```

#![allow(clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use taktbus::budget::OnLate;
use taktbus::metrics::RouteMetrics;
use taktbus::store::disk::Folder;
use taktbus::store::{Event, Log, Op, Settings, Stored};
use tokio::time::Instant;

fn main() {
    let count = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(200_000);
    let path = std::env::temp_dir().join(format!("taktbus-store-bench-{}", std::process::id()));
    let settings = Settings { size: 4 << 30, age: None, sync: Duration::from_secs(1) };
    append(&path, &settings, count);
    read(&path, &settings, count);
    std::fs::remove_dir_all(&path).expect("the bench's own folder");
}

fn append(path: &std::path::Path, settings: &Settings, count: u64) {
    let metrics = Arc::new(RouteMetrics::default());
    let folder = Folder::lock(path).expect("a folder");
    let (mut log, _) = Log::open(folder, settings.clone(), metrics.clone()).expect("an empty store");
    log.start(1, Instant::now());
    let (device, topic): (Arc<str>, Arc<str>) = ("main".into(), "taktbus/bakery/main".into());
    let payload = bytes::Bytes::from(format!("{{\"fill\":\"{}\"}}", "x".repeat(239)));
    let started = Instant::now();
    for position in 0..count {
        let (device, topic, payload) = (device.clone(), topic.clone(), payload.clone());
        let late = OnLate::Deliver;
        log.apply(Op::Append(Stored {
            position,
            epoch: 1,
            seq: position,
            at: 0,
            doubted: None,
            late,
            device,
            topic,
            payload,
        }));
        // As many as a busy gateway's thread finds at each turn.
        if position % 64 == 63 {
            log.turn(Instant::now());
        }
    }
    log.finish();
    let took = started.elapsed().as_secs_f64();
    let written = metrics.store_written_bytes.get() as f64;
    println!(
        "append   {:>9.0} messages/s, {count} in {took:.2} s, {} fdatasyncs",
        count as f64 / took,
        metrics.store_syncs.get()
    );
    println!("         {:.2} bytes in the files per byte of payload", written / (count as f64 * 250.0));
}

fn read(path: &std::path::Path, settings: &Settings, count: u64) {
    let started = Instant::now();
    let folder = Folder::lock(path).expect("a folder");
    let (mut log, opened) = Log::open(folder, settings.clone(), Arc::default()).expect("the store");
    assert_eq!(opened.next, count);
    println!("open     {:>9.1} ms: from here on the gateway polls", started.elapsed().as_secs_f64() * 1e3);
    log.start(2, Instant::now());
    while log.is_recovering() {
        log.recover_one(Instant::now());
    }
    println!("recover  {:>9.1} ms", started.elapsed().as_secs_f64() * 1e3);
    let started = Instant::now();
    let mut handed = 0;
    while handed < count {
        log.apply(Op::Read(256 << 10));
        for event in log.turn(Instant::now()) {
            if let Event::Block { messages, .. } = event {
                handed += messages.len() as u64;
            }
        }
    }
    println!("read     {:>9.0} messages/s", count as f64 / started.elapsed().as_secs_f64());
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    println!("memory   {peak}");
}
