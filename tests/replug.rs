//! A USB adapter that is unplugged and comes back a hundred times. Alone in its process: it counts file descriptors.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use taktbus::mapping::batch::{DeviceState, Event};
use tokio::task::LocalSet;
use tokio::time::{Instant, timeout};

use sessions::Session;
use sessions::adapters::Adapter;

mod sessions;

const TIMES: u16 = 100;

/// By issue and README: polling again so soon after the adapter's return.
const SOON: Duration = Duration::from_secs(5);

/// How long everything together may take on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(240);

/// The descriptors of this process.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn connection(port: &std::path::Path) -> String {
    format!("rtu: {}, baud: 115200, format: 8N1, response_timeout: 10s", port.display())
}

#[tokio::test]
async fn quirk_17_an_adapter_that_is_replugged_a_hundred_times_is_polled_again_and_leaks_nothing() {
    let all = LocalSet::new();
    timeout(PATIENCE, all.run_until(replug())).await.unwrap();
}

async fn replug() {
    let folder = std::env::temp_dir().join(format!("taktbus-replug-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let link = folder.join("usb-adapter");
    let other = Adapter::new(7);
    let mut neighbour = Session::real(&connection(&other.path), &sessions::devices(&[1], "50ms"));
    neighbour.until(7).await;
    let mut neighbour = tokio::task::spawn_local(async move {
        let mut good = 0;
        while let Some(event) = neighbour.events.recv().await {
            match event {
                Event::Batch(batch) => assert_eq!(sessions::value(&batch), Ok(7)),
                Event::State { state, .. } => assert_eq!(state, DeviceState::Online),
            }
            good += 1;
            if good > 10_000 {
                break;
            }
        }
    });

    let mut adapter = Adapter::new(1000);
    adapter.link(&link);
    let mut session = Session::real(&connection(&link), &sessions::devices(&[1], "50ms"));
    session.until(1000).await;
    let open = descriptors();
    for round in 1..=TIMES {
        let next = if round % 2 == 0 {
            // Back under another name at once, as a loose plug does it.
            let next = Adapter::new(1000 + round);
            assert_ne!(next.path, adapter.path);
            std::fs::remove_file(&link).unwrap();
            adapter.unplug().await;
            next
        } else {
            std::fs::remove_file(&link).unwrap();
            adapter.unplug().await;
            session.until_offline().await;
            Adapter::new(1000 + round)
        };
        next.link(&link);
        adapter = next;
        let returned = Instant::now();
        session.until(u64::from(1000 + round)).await;
        assert!(returned.elapsed() < SOON, "round {round}: {:?}", returned.elapsed());
        assert_eq!(descriptors(), open, "round {round}");
        assert!(!neighbour.is_finished(), "{:?}", (&mut neighbour).await);
    }
    assert!(session.is_alive());
    session.end().await;
    neighbour.abort();
    std::fs::remove_dir_all(&folder).unwrap();
}
