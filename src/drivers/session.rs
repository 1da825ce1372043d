//! One connection's life: connect, wait for what is due, read, tell, back off, stop.
//!
//! - Nothing that fails ends it: an absent device or port is a state. It ends when it's told to, or when nobody listens.
//! - A read is never dropped half way; a stop waits for it, but not longer than [`STOP_WITHIN`].
//! - A state is told when it changes, never twice. A device that goes away leaves one bad batch for each of its reads, so
//!   that no old value passes for a fresh one.

use std::any::Any;
use std::convert::Infallible;
use std::future::poll_fn;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::backoff::Backoff;
use super::{Driver, LinkLost, Replan, Running};
use crate::mapping::batch::{Batch, DeviceState, Event};
use crate::mapping::device::DevicePlan;
use crate::metrics::ConnectionMetrics;
use crate::model::time::Stamp;
use crate::model::value::Cause;

/// What is left of an exchange and of its events when a stop comes must be done by then; the whole gateway has 5 s.
pub const STOP_WITHIN: Duration = Duration::from_millis(800);

/// Runs a connection until `stop`, or until the receiver of `events` is gone.
pub fn run<D: Driver>(
    driver: D,
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
    metrics: Arc<ConnectionMetrics>,
) -> impl Future<Output = Ended> {
    follow(driver, events, stop, metrics, None)
}

/// The same, going on with what is in `running` when that is replaced, or until it's something that this driver can't run.
pub async fn follow<D: Driver>(
    driver: D,
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
    metrics: Arc<ConnectionMetrics>,
    running: Option<&mut watch::Receiver<Running>>,
) -> Ended {
    let known = vec![None; driver.devices().len()];
    let backoff = Backoff::up_to(driver.longest_wait());
    let mut session =
        Session { driver, events, metrics, known, backoff, reported: None, running, replanning: false };
    let stopped = async {
        stop.cancelled().await;
        sleep(STOP_WITHIN).await;
    };
    let lived = tokio::select! {
        lived = caught(session.live(&stop)) => lived,
        () = stopped => Ok(ControlFlow::Break(Ended::Over)),
    };
    session.driver.disconnect();
    session.metrics.up.set(0);
    session.metrics.work.end();
    match lived {
        Ok(ControlFlow::Break(ended)) => ended,
        Ok(ControlFlow::Continue(never)) => match never {},
        Err(panic) => {
            // Until somebody restarts this task, no old value may pass for a fresh one.
            let _ = session.all_offline().await;
            resume_unwind(panic);
        }
    }
}

/// Runs a future, and gives its panic back as an error.
async fn caught<T>(work: impl Future<Output = T>) -> Result<T, Box<dyn Any + Send>> {
    let mut work = pin!(work);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

/// Returns when there is something else to run.
async fn changed(running: &mut Option<&mut watch::Receiver<Running>>) {
    // Nobody is left who could replace it.
    let never = match running {
        Some(running) => running.changed().await.is_err(),
        None => true,
    };
    if never {
        std::future::pending().await
    }
}

/// Why a session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was stopped, or nobody listens.
    Over,
    /// Another driver is to run what is to run now.
    Replaced,
}

struct Session<'r, D> {
    driver: D,
    events: mpsc::Sender<Event>,
    metrics: Arc<ConnectionMetrics>,
    /// What was told last of each device.
    known: Vec<Option<DeviceState>>,
    backoff: Backoff,
    /// Why the link is down, as logged last; `None` while it's up. Once it was down, only an answer makes it up: a far
    /// side that accepts and says nothing would fill the log.
    reported: Option<String>,
    /// What it's to run.
    running: Option<&'r mut watch::Receiver<Running>>,
    /// The driver has not gone over to it yet.
    replanning: bool,
}

impl<D: Driver> Session<'_, D> {
    async fn live(&mut self, stop: &CancellationToken) -> ControlFlow<Ended, Infallible> {
        loop {
            self.replan()?;
            self.metrics.work.begin(Instant::now());
            let lost = tokio::select! {
                biased;
                () = stop.cancelled() => return ControlFlow::Break(Ended::Over),
                () = changed(&mut self.running) => {
                    self.replanning = true;
                    continue;
                }
                connected = self.driver.connect() => connected.err(),
            };
            let lost = match lost {
                Some(lost) => lost,
                None => {
                    self.link_up();
                    self.read_until_lost(stop).await?
                }
            };
            self.link_down(&lost).await?;
            self.metrics.work.end();
            let wait = self.backoff.next(RandomState::new().build_hasher().finish());
            tokio::select! {
                () = stop.cancelled() => return ControlFlow::Break(Ended::Over),
                () = changed(&mut self.running) => self.replanning = true,
                () = sleep(wait) => {}
            }
        }
    }

    /// The driver goes over to what is to run now, if that has changed and it has nothing under way.
    fn replan(&mut self) -> ControlFlow<Ended> {
        let (true, Some(running)) = (self.replanning, &mut self.running) else {
            return ControlFlow::Continue(());
        };
        let running = running.borrow_and_update().clone();
        let before = self.driver.devices().to_vec();
        match self.driver.replan(&running) {
            Replan::Later => return ControlFlow::Continue(()),
            Replan::Anew => return ControlFlow::Break(Ended::Replaced),
            Replan::Done => {}
        }
        self.replanning = false;
        // Who has another map is as present as before; who has another unit id is somebody else.
        let same = |was: &DevicePlan, is: &DevicePlan| {
            (&was.device.name, was.device.unit) == (&is.device.name, is.device.unit)
        };
        let known = |is: &Arc<DevicePlan>| before.iter().position(|was| same(was, is));
        let kept = |is| known(is).and_then(|index| self.known[index]);
        self.known = self.driver.devices().iter().map(kept).collect();
        ControlFlow::Continue(())
    }

    async fn read_until_lost(&mut self, stop: &CancellationToken) -> ControlFlow<Ended, LinkLost> {
        loop {
            if stop.is_cancelled() {
                return ControlFlow::Break(Ended::Over);
            }
            self.replan()?;
            self.metrics.work.end();
            // What is due at once needs no place in the queue of those who wait for a stop.
            let due = tokio::select! {
                biased;
                due = self.driver.due() => due,
                () = stop.cancelled() => return ControlFlow::Break(Ended::Over),
                () = changed(&mut self.running) => {
                    self.replanning = true;
                    continue;
                }
            };
            self.metrics.work.begin(Instant::now());
            match self.driver.read(due).await {
                Ok(batch) => self.tell(batch).await?,
                Err(lost) => return ControlFlow::Continue(lost),
            }
        }
    }

    /// Tells a read's batch between the states that it changed: a device is online before its first values, and goes
    /// after its last ones.
    async fn tell(&mut self, batch: Option<Batch>) -> ControlFlow<Ended> {
        let mut gone = None;
        let mut also_gone = Vec::new();
        while let Some((device, state)) = self.driver.state_change() {
            match state {
                DeviceState::Online => {
                    // For the back-off, too, only an answer proves a link.
                    self.backoff.reset();
                    if self.reported.take().is_some() {
                        tracing::info!(connection = %self.metrics.name, "link up");
                    }
                    self.state(device, state).await?;
                }
                DeviceState::Offline(cause) if gone.is_none() => gone = Some((device, cause)),
                DeviceState::Offline(cause) => also_gone.push((device, cause)),
            }
        }
        let told = batch.as_ref().map(|batch| (batch.plan.clone(), batch.read));
        if let Some(batch) = batch {
            self.send(Event::Batch(batch)).await?;
        }
        for (device, cause) in gone.into_iter().chain(also_gone) {
            if self.state(device, DeviceState::Offline(cause)).await? {
                self.blank(device, cause, told.as_ref()).await?;
            }
        }
        ControlFlow::Continue(())
    }

    fn link_up(&mut self) {
        self.metrics.up.set(1);
        self.metrics.connects.inc();
        if self.reported.is_none() {
            tracing::info!(connection = %self.metrics.name, "link up");
        }
    }

    async fn link_down(&mut self, lost: &LinkLost) -> ControlFlow<Ended> {
        self.driver.disconnect();
        self.metrics.up.set(0);
        if self.reported.as_ref() != Some(&lost.0) {
            let devices = self.known.len();
            tracing::warn!(connection = %self.metrics.name, reason = %lost.0, devices, "link down");
            self.reported = Some(lost.0.clone());
        }
        self.all_offline().await
    }

    async fn all_offline(&mut self) -> ControlFlow<Ended> {
        for device in 0..self.known.len() {
            if self.state(device, DeviceState::Offline(Cause::Offline)).await? {
                self.blank(device, Cause::Offline, None).await?;
            }
        }
        ControlFlow::Continue(())
    }

    /// Tells a state if it's news. One reason for being offline after another is none.
    async fn state(&mut self, device: usize, state: DeviceState) -> ControlFlow<Ended, bool> {
        let is_same = |known: DeviceState| (known == DeviceState::Online) == (state == DeviceState::Online);
        if self.known[device].is_some_and(is_same) {
            return ControlFlow::Continue(false);
        }
        self.known[device] = Some(state);
        let plan = self.driver.devices()[device].clone();
        plan.metrics.state.set(if state == DeviceState::Online { 1 } else { 2 });
        match state {
            DeviceState::Online => tracing::info!(device = %plan.device.name, "device online"),
            // That the link is down is logged once, not for each of its devices.
            DeviceState::Offline(Cause::Offline) => {
                tracing::debug!(device = %plan.device.name, "device offline")
            }
            DeviceState::Offline(cause) => {
                tracing::warn!(device = %plan.device.name, %cause, "device offline")
            }
        }
        self.send(Event::State { plan, state }).await?;
        ControlFlow::Continue(true)
    }

    /// One bad batch for each read of a device, but not for one that was told just before.
    async fn blank(
        &mut self,
        device: usize,
        cause: Cause,
        told: Option<&(Arc<DevicePlan>, usize)>,
    ) -> ControlFlow<Ended> {
        let plan = self.driver.devices()[device].clone();
        for read in 0..plan.reads.len() {
            if told.is_some_and(|(other, told)| Arc::ptr_eq(other, &plan) && *told == read) {
                continue;
            }
            let now = Instant::now();
            let batch = Batch {
                plan: plan.clone(),
                read,
                started: now,
                received: now,
                stamp: Stamp::now(),
                readings: Err(cause),
                part: None,
                notes: Vec::new(),
            };
            self.send(Event::Batch(batch)).await?;
        }
        ControlFlow::Continue(())
    }

    async fn send(&mut self, event: Event) -> ControlFlow<Ended> {
        match self.events.send(event).await {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(Ended::Over),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::compiled::{DeviceMap, PointIx};
    use crate::mapping::device::{Device, Every, Limits, Read};
    use crate::metrics::DeviceMetrics;

    /// Online at once, and a bug in its first read.
    struct Buggy(Vec<Arc<DevicePlan>>, Option<(usize, DeviceState)>);

    impl Driver for Buggy {
        type Due = bool;

        fn devices(&self) -> &[Arc<DevicePlan>] {
            &self.0
        }

        async fn connect(&mut self) -> Result<(), LinkLost> {
            Ok(())
        }

        async fn due(&mut self) -> bool {
            self.1.is_some()
        }

        async fn read(&mut self, first: bool) -> Result<Option<Batch>, LinkLost> {
            assert!(first, "a driver's bug");
            Ok(None)
        }

        fn state_change(&mut self) -> Option<(usize, DeviceState)> {
            self.1.take()
        }

        fn disconnect(&mut self) {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_leaves_no_device_online_and_no_old_value_standing() {
        let device = Device {
            name: "pump".into(),
            unit: 1,
            profile: None,
            budget: Default::default(),
            map: Arc::new(DeviceMap::default()),
            groups: Vec::new(),
            limits: Limits::default(),
            nodes: Default::default(),
        };
        let (points, publishes) = (vec![PointIx(0)], vec![PointIx(0)]);
        let reads = vec![Read { every: Every::Once, readings: Vec::new(), points, publishes }];
        let plan = Arc::new(DevicePlan { device, reads, metrics: Arc::new(DeviceMetrics::new("pump")) });
        let (events, mut told) = mpsc::channel(8);
        let driver = Buggy(vec![plan], Some((0, DeviceState::Online)));
        let metrics = Arc::new(ConnectionMetrics::default());
        let ended = tokio::spawn(run(driver, events, CancellationToken::new(), metrics.clone())).await;
        assert!(ended.unwrap_err().is_panic());
        assert_eq!(metrics.up.get(), 0);
        let state = |event| if let Some(Event::State { state, .. }) = event { Some(state) } else { None };
        assert_eq!(state(told.recv().await), Some(DeviceState::Online));
        assert_eq!(state(told.recv().await), Some(DeviceState::Offline(Cause::Offline)));
        let Some(Event::Batch(batch)) = told.recv().await else { panic!("no bad batch") };
        assert_eq!(batch.readings, Err(Cause::Offline));
        assert!(told.recv().await.is_none());
    }
}
