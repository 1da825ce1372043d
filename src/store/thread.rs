//! The store's loop: does what it's told, in turn with the disk.

use tokio::time::{Instant, sleep_until};

use super::disk::Disk;
use super::{Ends, Log};

/// Ops that are taken at a time.
const BATCH: usize = 4096;

/// Runs a store until its forwarder is gone; then writes and syncs everything. It blocks: its thread is its own.
pub async fn serve<D: Disk>(mut log: Log<D>, epoch: u64, mut ends: Ends) {
    log.start(epoch, Instant::now());
    if !log.is_recovering() {
        log.nothing_to_recover();
    }
    let mut batch = Vec::new();
    let mut open = true;
    while open {
        let now = Instant::now();
        if log.is_recovering() && log.may_read(now) {
            log.recover_one(now);
            while let Ok(op) = ends.ops.try_recv() {
                batch.push(op);
            }
        } else {
            let due = async {
                match log.due() {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            log.metrics().store_work.end();
            tokio::select! {
                count = ends.ops.recv_many(&mut batch, BATCH) => open = count > 0,
                () = due => {}
            }
        }
        log.metrics().store_work.begin(Instant::now());
        batch.drain(..).for_each(|op| log.apply(op));
        let events = log.turn(Instant::now());
        ends.pending.fetch_sub(log.take_done(), std::sync::atomic::Ordering::Relaxed);
        for event in events {
            // A forwarder that is gone has closed the other channel too.
            let _ = ends.events.send(event);
        }
    }
    log.finish();
    log.metrics().store_work.end();
}
