//! The way of a 100-register reply through the gateway, as the benches walk it.

#![allow(clippy::expect_used)] // a bench that cannot start has nothing to say

use std::sync::Arc;
use std::time::Duration;

use taktbus::budget::{Budget, DeadlineQueue, OnLate};
use taktbus::drivers::modbus::decode::cut;
use taktbus::drivers::modbus::plan::{Exchange, plan};
use taktbus::mapping::batch::{Batch, Event};
use taktbus::mapping::compiled::{
    Chars, Decode, DeviceMap, Kind, Order, Point, PointIx, Reading, ReadingIx, Source, Transform,
};
use taktbus::mapping::device::{Device, DevicePlan, Every, Group, Limits};
use taktbus::mapping::transform::{Sample, evaluate};
use taktbus::metrics::DeviceMetrics;
use taktbus::model::message::{Kind as MessageKind, Message};
use taktbus::model::place::{Place, Table};
use taktbus::model::time::Stamp;
use taktbus::model::value::{Cause, Raw};
use taktbus::pipeline::{self, Identity, RouteInput, encode};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Points of the device; each is one uint16 register with a scale and an invalid value.
pub const POINTS: u16 = 100;

/// A device, its plan, and the data of its reply.
pub struct Path {
    pub plan: Arc<DevicePlan>,
    pub exchange: Exchange,
    pub reply: Vec<u8>,
    runtime: Runtime,
    events: mpsc::Sender<Event>,
    messages: mpsc::Receiver<Message>,
    queue: DeadlineQueue<Message>,
}

impl Path {
    pub fn new() -> Self {
        let place = |address| Place::Run { table: Table::Holding, address, count: 1 };
        let decode = Decode { kind: Kind::Uint16, order: Order::Abcd, byte: None, chars: Chars::Both };
        let transform =
            Transform { invalid: vec![Raw::Uint(0xFFFF)], scale: "0.1".parse().ok(), ..Transform::default() };
        let map = DeviceMap {
            writes: Vec::new(),
            readings: (0..POINTS).map(|a| Reading { place: place(a), decode: decode.clone() }).collect(),
            points: (0..POINTS)
                .map(|a| Point {
                    name: format!("point_{a}").into(),
                    unit: None,
                    source: Source::Reading(ReadingIx(a.into())),
                    transform: transform.clone(),
                    published: true,
                    plausible: None,
                    deadband: None,
                    heartbeat: None,
                    smooth: None,
                    alone: false,
                    rate: "default".into(),
                })
                .collect(),
        };
        let every = Every::Interval(Duration::from_secs(1));
        let device = Device {
            name: "main".into(),
            unit: 1,
            profile: None,
            budget: Budget { within: Duration::from_secs(1), late: OnLate::Deliver },
            map: Arc::new(map),
            groups: vec![Group { every, points: (0..u32::from(POINTS)).map(PointIx).collect() }],
            limits: Limits::default(),
            nodes: Default::default(),
        };
        let (read, exchange) = plan(&device).expect("a plan").remove(0);
        let metrics = Arc::new(DeviceMetrics::new("main"));
        let plan = Arc::new(DevicePlan { device, reads: vec![read], metrics });
        let reply = (0..POINTS).flat_map(|n| (2000 + 7 * n).to_be_bytes()).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (events, received) = mpsc::channel(16);
        let (sent, messages) = mpsc::channel(16);
        let route = RouteInput {
            topic: "taktbus/{site}/{device}".into(),
            messages: sent,
            site_topic: "status".into(),
            metrics: Arc::default(),
            passes: Default::default(),
        };
        let identity = Identity { site: "bakery".into(), epoch: 7 };
        runtime.spawn(pipeline::run(identity, vec![route], received, mpsc::channel(1).1, Arc::default()));
        Self { plan, exchange, reply, runtime, events, messages, queue: DeadlineQueue::default() }
    }

    pub fn decode(&self) -> Vec<Result<Raw, Cause>> {
        self.exchange.cuts.iter().map(|c| cut(c, &self.reply)).collect()
    }

    #[allow(dead_code)]
    pub fn map(&self, readings: &[Result<Raw, Cause>], slots: &mut Vec<u32>, samples: &mut Vec<Sample>) {
        samples.clear();
        evaluate(&self.plan.device.map, &self.plan.reads[0], readings, slots, samples);
    }

    #[allow(dead_code)]
    pub fn encode(&self, samples: &[Sample], out: &mut Vec<u8>) {
        out.clear();
        let prefix = encode::prefix("bakery", "main");
        let heading = encode::Heading { prefix: &prefix, stamp: Stamp::now(), epoch: 7, seq: 4711 };
        encode::data(&heading, &self.plan.device.map.points, samples.iter(), &[], out);
    }

    /// From the last byte of the reply to the message in the deadline queue, channels between the tasks included.
    pub fn whole(&mut self) {
        let now = Instant::now();
        let readings = Ok(self.decode());
        let batch = Batch {
            plan: self.plan.clone(),
            read: 0,
            started: now,
            received: now,
            stamp: Stamp::now(),
            readings,
            part: None,
            notes: Vec::new(),
        };
        let (events, messages) = (&self.events, &mut self.messages);
        let message = self.runtime.block_on(async {
            events.send(Event::Batch(batch)).await.expect("the pipeline runs");
            messages.recv().await.expect("a message")
        });
        let MessageKind::Data(sampled) = &message.kind else { unreachable!("batches make data") };
        self.queue.push(sampled.deadline, message);
        self.queue.pop();
    }
}
