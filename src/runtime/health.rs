//! Is the gateway alive, and are its values fresh? Judged by what arrived, not by sockets. Pure but for reading metrics, and [`beat`].
//!
//! - *live*: the thread that polls and publishes was at work within [`BEAT_LIMIT`].
//! - *ready*: each device gave values within [`MISSED_ROUNDS`] of its interval and its budget (where values come when they change: it
//!   is online; one that a reload has added has that time for its first values), and no route has had messages waiting for [`ROUTE_PATIENCE`] and the largest budget without an acknowledgement.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::explain::{ExplainedConnection, ExplainedDevice, Explainer};
use crate::metrics::{Moment, RouteMetrics};

/// How often the thread that polls and publishes shows that it's at work.
const BEAT: Duration = Duration::from_secs(1);
/// The longest that it may not have shown so.
pub const BEAT_LIMIT: Duration = Duration::from_secs(10);
/// Values may be this many intervals old: one that a lost answer costs, and the one that is under way.
const MISSED_ROUNDS: u32 = 2;
/// How long a route may have messages waiting without an acknowledgement, besides the largest budget: a reconnect takes some seconds.
const ROUTE_PATIENCE: Duration = Duration::from_secs(10);

/// A verdict as JSON, and whether it's good.
pub struct Health {
    /// Nothing is wrong.
    pub is_good: bool,
    /// `{"status": "ok" | "failing", "reasons": [text …]}`.
    pub json: Value,
}

impl Health {
    fn of(reasons: Vec<String>) -> Self {
        let is_good = reasons.is_empty();
        let status = if is_good { "ok" } else { "failing" };
        Self { is_good, json: json!({"status": status, "reasons": reasons}) }
    }
}

/// Shows that the thread that runs this is at work. What polls and publishes runs there too.
pub async fn beat(seen: Arc<Moment>) {
    loop {
        seen.set(Instant::now());
        sleep(BEAT).await;
    }
}

/// Does it go on?
pub fn live(explainer: &Explainer, now: Instant) -> Health {
    let since = now.saturating_duration_since(explainer.metrics.beat.get().unwrap_or(explainer.started));
    let stuck = since > BEAT_LIMIT;
    Health::of(
        stuck
            .then(|| format!("nothing was polled or published for {:.0} s", since.as_secs_f64()))
            .into_iter()
            .collect(),
    )
}

/// Are all values fresh, here and at their destinations?
pub fn ready(explainer: &Explainer, now: Instant) -> Health {
    let mut reasons: Vec<String> = Vec::new();
    for connection in &explainer.connections {
        let stale = connection
            .devices
            .iter()
            .filter_map(|device| stale_device(connection, device, explainer.started, now));
        reasons.extend(stale);
    }
    let budgets = explainer.connections.iter().flat_map(|connection| &connection.devices);
    let patience = ROUTE_PATIENCE + budgets.map(|device| device.budget.within).max().unwrap_or_default();
    let routes = explainer.metrics.routes.iter();
    reasons.extend(routes.filter_map(|route| stale_route(route, explainer.started, patience, now)));
    Health::of(reasons)
}

/// What the age of a device's values may be.
pub fn fresh_for(device: &ExplainedDevice) -> Option<Duration> {
    Some(device.rhythm? * MISSED_ROUNDS + device.budget.within)
}

fn stale_device(
    connection: &ExplainedConnection,
    device: &ExplainedDevice,
    started: Instant,
    now: Instant,
) -> Option<String> {
    let metrics = &device.metrics;
    let name = &metrics.name;
    let Some(limit) = fresh_for(device) else {
        let is_online = connection.metrics.up.get() == 1 && metrics.state.get() == 1;
        return (!is_online).then(|| format!("{name}: it is not online"));
    };
    let added = metrics.added_at.get();
    match metrics.values_at.get() {
        None if added.is_some_and(|added| now.saturating_duration_since(added) <= limit) => None,
        None => Some(format!(
            "{name}: no values in the {:.1} s since {}",
            now.saturating_duration_since(added.unwrap_or(started)).as_secs_f64(),
            if added.is_some() { "it was added" } else { "the start" }
        )),
        Some(at) if now.saturating_duration_since(at) > limit => Some(format!(
            "{name}: its last values are {:.1} s old, with {:.1} s allowed",
            now.saturating_duration_since(at).as_secs_f64(),
            limit.as_secs_f64()
        )),
        Some(_) => None,
    }
}

fn stale_route(route: &RouteMetrics, started: Instant, patience: Duration, now: Instant) -> Option<String> {
    let waiting = route.queued.get() + route.in_flight.get() + route.backlog.get() + route.stored.get();
    let acked = route.devices.get().iter().filter_map(|device| device.acked_at.get()).max();
    let silence = now.saturating_duration_since(acked.unwrap_or(started));
    (waiting > 0 && silence > patience).then(|| {
        format!("{}: messages wait, and none was acknowledged for {:.0} s", route.name, silence.as_secs_f64())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::explain::tests::explainer;

    fn reasons(explainer: &Explainer) -> Vec<String> {
        let Health { is_good, json } = ready(explainer, Instant::now());
        let reasons: Vec<_> =
            json["reasons"].as_array().unwrap().iter().map(|r| r.as_str().unwrap().to_owned()).collect();
        assert_eq!(is_good, reasons.is_empty());
        reasons
    }

    #[tokio::test(start_paused = true)]
    async fn values_that_do_not_come_make_it_unready_while_the_link_is_up() {
        let explainer = explainer();
        let [oven, pump] = [0, 1].map(|i| explainer.connections[0].devices[i].metrics.clone());
        assert_eq!(reasons(&explainer).len(), 2);
        [&oven, &pump].iter().for_each(|device| device.values_at.set(Instant::now()));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(reasons(&explainer), [""; 0]);
        oven.values_at.set(Instant::now());
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(reasons(&explainer), ["pump: its last values are 3.5 s old, with 3.0 s allowed"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_that_a_reload_adds_has_its_time() {
        let mut explainer = explainer();
        explainer.connections[0].devices.truncate(1);
        tokio::time::advance(Duration::from_secs(60)).await;
        explainer.connections[0].devices[0].metrics.added_at.set(Instant::now());
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(reasons(&explainer), [""; 0]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(reasons(&explainer), ["oven: no values in the 4.0 s since it was added"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_subscribed_is_fresh_while_it_is_online() {
        let mut explainer = explainer();
        explainer.connections[0].devices.truncate(1);
        explainer.connections[0].devices[0].rhythm = None;
        assert_eq!(reasons(&explainer), ["oven: it is not online"]);
        explainer.connections[0].devices[0].metrics.state.set(1);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(reasons(&explainer), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_route_that_acknowledges_nothing_makes_it_unready_and_one_with_nothing_to_send_does_not() {
        let mut explainer = explainer();
        explainer.connections.clear();
        let route = Arc::new(RouteMetrics { name: "cloud".into(), ..RouteMetrics::default() });
        explainer.metrics =
            Arc::new(crate::metrics::Metrics { routes: vec![route.clone()], ..Default::default() });
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(reasons(&explainer), [""; 0]);
        route.stored.set(1);
        assert_eq!(reasons(&explainer), ["cloud: messages wait, and none was acknowledged for 60 s"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_stands_still_is_not_live() {
        let explainer = explainer();
        let beating = tokio::spawn(beat(explainer.metrics.beat.clone()));
        tokio::time::sleep(BEAT_LIMIT * 2).await;
        assert!(live(&explainer, Instant::now()).is_good);
        beating.abort();
        assert!(beating.await.is_err());
        explainer.metrics.beat.set(Instant::now());
        tokio::time::advance(BEAT_LIMIT + Duration::from_secs(1)).await;
        let health = live(&explainer, Instant::now());
        assert!(!health.is_good);
        assert_eq!(health.json["reasons"][0], "nothing was polled or published for 11 s");
    }
}
