//! What systemd is told (sd_notify(3)): that the gateway runs, how it is, that it stops; and its watchdog is fed while every part makes progress.
//!
//! - Whoever feeds it runs on the thread of the poll loops, the pipeline and the forwarders: when one of these blocks, nobody feeds.
//! - A poll loop whose connect or read does not end, and a store's thread that does not come back from the disk, are told by their
//!   [`Work`](crate::metrics::Work). Waiting for something to do is progress.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::metrics::{Current, Metrics};

/// How often a change is told, and the parts are looked at, at least.
const EVERY: Duration = Duration::from_secs(5);
/// The longest that a connect or a read may take, its retries included.
const LONGEST_READ: Duration = Duration::from_secs(300);
/// The longest that the disk may keep a store's thread. Until then messages wait in memory.
const LONGEST_WRITE: Duration = Duration::from_secs(60);
/// [`DeviceMetrics::state`](crate::metrics::DeviceMetrics::state) of a device that does not answer.
const OFFLINE: u64 = 2;

/// The way to the service manager.
#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
    /// How often the watchdog is fed; `None`: there is none.
    feed: Option<Duration>,
}

impl Notifier {
    /// As the environment says; `None`: nobody wants to know.
    pub fn from_env() -> Option<Self> {
        let path = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty())?;
        let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
        // sd_watchdog_enabled(3): another process's watchdog is not ours.
        let is_ours = std::env::var_os("WATCHDOG_PID").is_none()
            || number("WATCHDOG_PID") == Some(u64::from(std::process::id()));
        let watchdog =
            number("WATCHDOG_USEC").filter(|micros| *micros > 0 && is_ours).map(Duration::from_micros);
        Self::at(path.as_bytes(), watchdog)
            .inspect_err(|error| tracing::warn!(%error, "the service manager can't be told anything"))
            .ok()
    }

    /// A socket by its path; by its abstract name where that begins with `@` (unix(7)).
    fn at(path: &[u8], watchdog: Option<Duration>) -> std::io::Result<Self> {
        let address = match path.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        // Whoever does not listen holds nobody up.
        socket.set_nonblocking(true)?;
        // Two may be lost (sd_watchdog_enabled(3) advises half of the time).
        Ok(Self { socket, feed: watchdog.map(|time| time / 3) })
    }

    fn tell(&self, state: &str) {
        if let Err(error) = self.socket.send(state.as_bytes()) {
            tracing::debug!(%error, state, "the service manager did not hear");
        }
    }

    /// It takes over another configuration (sd_notify(3): the time lets systemd tell which reload it is).
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// It runs again.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// It stops.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=stopping");
    }

    /// It runs; for as long as it does, tells how it is and feeds the watchdog.
    pub async fn run(self: Arc<Self>, metrics: Arc<Current<Metrics>>) {
        let mut told = status(&metrics.get());
        self.tell(&format!("READY=1\nSTATUS={told}"));
        let mut stuck: Option<String> = None;
        loop {
            let metrics = metrics.get();
            let found = standing_still(&metrics, Instant::now());
            if found != stuck {
                match &found {
                    Some(part) => tracing::error!(
                        part,
                        "it does not come back from what it does: the watchdog is not fed"
                    ),
                    None => tracing::info!("every part goes on: the watchdog is fed"),
                }
                stuck = found;
            }
            if self.feed.is_some() && stuck.is_none() {
                self.tell("WATCHDOG=1");
            }
            let now = status(&metrics);
            if now != told {
                self.tell(&format!("STATUS={now}"));
                told = now;
            }
            sleep(self.feed.map_or(EVERY, |feed| feed.min(EVERY))).await;
        }
    }
}

/// `12 devices, 2 offline, store 3 MiB`
fn status(metrics: &Metrics) -> String {
    let count = metrics.devices.len();
    let stands_in =
        if metrics.stands_in.get() == 1 { "not the site file, but what ran well last: " } else { "" };
    let mut text = format!("{stands_in}{count} device{}", if count == 1 { "" } else { "s" });
    let offline = metrics.devices.iter().filter(|device| device.state.get() == OFFLINE).count();
    if offline > 0 {
        text += &format!(", {offline} offline");
    }
    let down = metrics.routes.iter().filter(|route| route.up.get() == 0).count();
    if down > 0 {
        text += &format!(", {down} of {} routes down", metrics.routes.len());
    }
    let waiting: u64 = metrics.routes.iter().map(|route| route.stored.get()).sum();
    if waiting > 0 {
        let bytes: u64 = metrics.routes.iter().map(|route| route.stored_bytes.get()).sum();
        text += &format!(", store {} MiB", bytes >> 20);
    }
    text
}

/// A part that has been at one thing for too long.
fn standing_still(metrics: &Metrics, now: Instant) -> Option<String> {
    let connections =
        metrics.connections.iter().map(|one| (&one.work, LONGEST_READ, "connection", &one.name));
    let stores = metrics.routes.iter().map(|one| (&one.store_work, LONGEST_WRITE, "store", &one.name));
    let mut parts = connections.chain(stores);
    let (_, _, kind, name) = parts.find(|(work, longest, ..)| work.lasts(now) > *longest)?;
    Some(format!("{kind} {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{ConnectionMetrics, DeviceMetrics, RouteMetrics};

    fn metrics() -> Arc<Metrics> {
        let devices: Vec<_> = ["a", "b", "c"].map(|name| Arc::new(DeviceMetrics::new(name))).into();
        let connections =
            vec![Arc::new(ConnectionMetrics { name: "line".into(), ..ConnectionMetrics::default() })];
        let routes = vec![Arc::new(RouteMetrics { name: "cloud".into(), ..RouteMetrics::default() })];
        Arc::new(Metrics { devices, connections, routes, ..Metrics::default() })
    }

    /// A service manager, and what it hears.
    fn manager(watchdog: Option<Duration>) -> (UnixDatagram, Arc<Notifier>) {
        use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("taktbus-notify-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        manager.set_nonblocking(true).unwrap();
        (manager, Arc::new(Notifier::at(format!("@{name}").as_bytes(), watchdog).unwrap()))
    }

    fn heard(manager: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 512];
        let next = || {
            manager
                .recv(&mut buffer)
                .ok()
                .map(|length| String::from_utf8_lossy(&buffer[..length]).into_owned())
        };
        std::iter::from_fn(next).collect()
    }

    /// How often the watchdog is fed in so many seconds. A datagram socket keeps ten at most.
    async fn fed_in(manager: &UnixDatagram, seconds: u64) -> usize {
        let mut count = 0;
        for _ in 0..seconds / 5 {
            sleep(Duration::from_secs(5)).await;
            count += heard(manager).iter().filter(|state| *state == "WATCHDOG=1").count();
        }
        count
    }

    #[test]
    fn the_status_says_what_is_not_well() {
        let metrics = metrics();
        metrics.routes[0].up.set(1);
        metrics.devices[0].state.set(1);
        assert_eq!(status(&metrics), "3 devices");
        metrics.devices[1].state.set(OFFLINE);
        metrics.routes[0].up.set(0);
        metrics.routes[0].stored.set(7);
        metrics.routes[0].stored_bytes.set(3 << 20);
        assert_eq!(status(&metrics), "3 devices, 1 offline, 1 of 1 routes down, store 3 MiB");
        metrics.stands_in.set(1);
        assert!(status(&metrics).starts_with("not the site file, but what ran well last: 3 devices, "));
    }

    #[tokio::test(start_paused = true)]
    async fn the_watchdog_is_fed_while_every_part_comes_back() {
        let (manager, notifier) = manager(Some(Duration::from_secs(60)));
        let metrics = metrics();
        let running = tokio::spawn(Arc::clone(&notifier).run(Arc::new(Current::new(metrics.clone()))));
        sleep(Duration::from_millis(1)).await;
        assert_eq!(heard(&manager), ["READY=1\nSTATUS=3 devices, 1 of 1 routes down", "WATCHDOG=1"]);
        assert_eq!(fed_in(&manager, 100).await, 20);

        // A slow disk is no reason to be ended.
        metrics.routes[0].store_work.begin(Instant::now());
        assert_eq!(fed_in(&manager, 60).await, 12);
        assert!(fed_in(&manager, 60).await <= 1);
        metrics.routes[0].store_work.end();
        metrics.connections[0].work.begin(Instant::now());
        assert_eq!(fed_in(&manager, 200).await, 40);
        assert!(fed_in(&manager, 200).await <= 21);

        running.abort();
        notifier.stopping();
        assert_eq!(heard(&manager), ["STOPPING=1\nSTATUS=stopping"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_told_and_without_a_watchdog_nothing_else() {
        let (manager, notifier) = manager(None);
        let metrics = metrics();
        metrics.routes[0].up.set(1);
        let _running = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(
            notifier.run(Arc::new(Current::new(metrics.clone()))),
        ));
        sleep(Duration::from_secs(30)).await;
        assert_eq!(heard(&manager), ["READY=1\nSTATUS=3 devices"]);
        metrics.devices[2].state.set(OFFLINE);
        sleep(Duration::from_secs(30)).await;
        assert_eq!(heard(&manager), ["STATUS=3 devices, 1 offline"]);
    }
}
