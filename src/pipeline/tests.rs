use super::*;
use crate::budget::{Budget, OnLate};
use crate::mapping::compiled::{
    Deadband, Decode, DeviceMap, Kind as Type, Order, Point, PointIx, Reading, ReadingIx, Source, Transform,
};
use crate::mapping::device::{self, Every, Limits, Read};
use crate::model::place::{Place, Table};
use crate::model::time::Stamp;
use crate::model::value::{Cause, Raw};

fn plan(deadband: Option<Deadband>) -> Arc<DevicePlan> {
    let place = Place::Run { table: Table::Holding, address: 0, count: 1 };
    let decode = Decode { kind: Type::Uint16, order: Order::Abcd, byte: None, chars: Default::default() };
    let point = Point {
        name: "level".into(),
        unit: None,
        source: Source::Reading(ReadingIx(0)),
        transform: Transform::default(),
        published: true,
        plausible: None,
        deadband,
        heartbeat: None,
        smooth: None,
        alone: false,
        rate: "default".into(),
    };
    let every = Every::Interval(Duration::from_secs(1));
    Arc::new(DevicePlan {
        device: device::Device {
            name: "tank".into(),
            unit: 1,
            profile: None,
            budget: Budget { within: Duration::from_millis(250), late: OnLate::Drop },
            map: Arc::new(DeviceMap {
                readings: vec![Reading { place, decode }],
                points: vec![point],
                writes: Vec::new(),
            }),
            groups: vec![],
            limits: Limits::default(),
            nodes: Default::default(),
        },
        reads: vec![Read {
            every,
            readings: vec![ReadingIx(0)],
            points: vec![PointIx(0)],
            publishes: vec![PointIx(0)],
        }],
        metrics: Arc::new(DeviceMetrics::new("tank")),
    })
}

fn batch(plan: &Arc<DevicePlan>, readings: Result<u64, Cause>) -> Event {
    let started = Instant::now();
    let readings = readings.map(|n| vec![Ok(Raw::Uint(n))]);
    let stamp = Stamp::now();
    Event::Batch(Batch {
        plan: plan.clone(),
        read: 0,
        started,
        received: started,
        stamp,
        readings,
        part: None,
        notes: Vec::new(),
    })
}

/// Sends the events through a pipeline and returns the payloads that came out.
async fn through(events: Vec<Event>) -> Vec<Message> {
    let (to, from) = mpsc::channel(100);
    let (messages, mut out) = mpsc::channel(100);
    for event in events {
        to.send(event).await.unwrap();
    }
    drop(to);
    let route = RouteInput {
        topic: "plant/{site}/{device}".into(),
        messages,
        site_topic: "status".into(),
        metrics: Arc::default(),
        passes: Default::default(),
    };
    run(Identity { site: "bakery".into(), epoch: 7 }, vec![route], from, mpsc::channel(1).1, Arc::default())
        .await;
    let mut all = Vec::new();
    while let Some(message) = out.recv().await {
        all.push(message);
    }
    all
}

fn values(messages: &[Message]) -> Vec<String> {
    let data = messages.iter().filter(|m| matches!(m.kind, Kind::Data(_)));
    data.map(|m| {
        let json: serde_json::Value = serde_json::from_slice(&m.payload).unwrap();
        format!("{} {} {}", json["seq"], json["values"], json["bad"])
    })
    .collect()
}

#[tokio::test]
async fn a_batch_becomes_one_message_with_the_deadline_of_its_request() {
    let plan = plan(None);
    let messages = through(vec![batch(&plan, Ok(5)), batch(&plan, Err(Cause::Timeout))]).await;
    assert_eq!(values(&messages), [r#"0 {"level":5} null"#, r#"1 {} {"level":"timeout"}"#]);
    assert_eq!(&*messages[0].topic, "plant/bakery/tank");
    let Kind::Data(sampled) = &messages[0].kind else { panic!("not data") };
    assert_eq!(sampled.deadline, sampled.started + Duration::from_millis(250));
    assert_eq!(sampled.late, OnLate::Drop);
    let Kind::Data(timeout) = &messages[1].kind else { panic!("not data") };
    assert_eq!(timeout.late, OnLate::Deliver, "a timeout that is dropped leaves the old value standing");
    assert_eq!((plan.metrics.sampled.get(), plan.metrics.bad_values.get()), (2, 1));
}

#[tokio::test]
async fn a_value_within_its_deadband_makes_no_message_and_takes_no_sequence_number() {
    let plan = plan(Some(Deadband::Absolute("2".parse().unwrap())));
    let readings = [Ok(10), Ok(11), Ok(12), Err(Cause::Timeout), Err(Cause::Timeout), Ok(12)];
    let messages = through(readings.into_iter().map(|r| batch(&plan, r)).collect()).await;
    let expected = [
        r#"0 {"level":10} null"#,
        r#"1 {"level":12} null"#,
        r#"2 {} {"level":"timeout"}"#,
        r#"3 {} {"level":"timeout"}"#,
        r#"4 {"level":12} null"#,
    ];
    assert_eq!(values(&messages), expected);
}

#[tokio::test]
async fn a_status_is_retained_and_told_once_per_change() {
    let plan = plan(None);
    let state = |state| Event::State { plan: plan.clone(), state };
    let offline = DeviceState::Offline(Cause::Timeout);
    let messages = through(vec![
        state(DeviceState::Online),
        state(DeviceState::Online),
        state(offline),
        batch(&plan, Ok(1)),
    ])
    .await;
    let statuses: Vec<_> = messages
        .iter()
        .filter(|m| matches!(m.kind, Kind::Status))
        .map(|m| {
            assert!(m.retain && &*m.topic == "plant/bakery/tank/status");
            let json: serde_json::Value = serde_json::from_slice(&m.payload).unwrap();
            format!("{} {}", json["state"], json["cause"])
        })
        .collect();
    assert_eq!(statuses, [r#""online" null"#, r#""offline" "timeout""#, r#""offline" "gateway stopped""#]);
}

#[tokio::test]
async fn after_a_loss_a_deadband_compares_with_nothing() {
    let plan = plan(Some(Deadband::Absolute("2".parse().unwrap())));
    let (to, from) = mpsc::channel(100);
    let (messages, mut out) = mpsc::channel(100);
    let route = RouteInput {
        topic: "{device}".into(),
        messages,
        site_topic: "status".into(),
        metrics: Arc::default(),
        passes: Default::default(),
    };
    let running = tokio::spawn(run(
        Identity { site: "bakery".into(), epoch: 7 },
        vec![route],
        from,
        mpsc::channel(1).1,
        Arc::default(),
    ));
    let mut seqs = Vec::new();
    for (reading, lost) in [(10, 0), (11, 1), (11, 0)] {
        plan.metrics.gap_accounted.add(lost);
        to.send(batch(&plan, Ok(reading))).await.unwrap();
        tokio::task::yield_now().await;
        seqs.push(out.try_recv().ok().map(|m| values(&[m]).remove(0)));
    }
    drop(to);
    running.await.unwrap();
    assert_eq!(seqs, [Some(r#"0 {"level":10} null"#.into()), Some(r#"1 {"level":11} null"#.into()), None]);
}

#[tokio::test]
async fn a_device_that_is_gone_is_offline_and_goes_on_counting_when_it_comes_back() {
    let before = plan(None);
    let metrics = Arc::new(DeviceMetrics::new(before.device.name.clone()));
    let after = Arc::new(DevicePlan { device: before.device.clone(), reads: before.reads.clone(), metrics });
    let (to, from) = mpsc::channel(100);
    let (reload, reloads) = mpsc::channel(1);
    let (messages, mut out) = mpsc::channel(100);
    let route = RouteInput {
        topic: "{device}".into(),
        messages,
        site_topic: "site".into(),
        metrics: Arc::default(),
        passes: Default::default(),
    };
    let identity = Identity { site: "bakery".into(), epoch: 7 };
    let running = tokio::spawn(run(identity, vec![route], from, reloads, Arc::default()));
    let name = before.device.name.clone();
    let reloaded = |devices: &[&Arc<str>]| Reloaded {
        devices: devices.iter().map(|name| Arc::clone(name)).collect(),
        passes: vec![Default::default()],
    };
    to.send(Event::State { plan: before.clone(), state: DeviceState::Online }).await.unwrap();
    to.send(batch(&before, Ok(10))).await.unwrap();
    tokio::task::yield_now().await;
    reload.send(reloaded(&[])).await.unwrap();
    tokio::task::yield_now().await;
    reload.send(reloaded(&[&name])).await.unwrap();
    tokio::task::yield_now().await;
    to.send(Event::State { plan: after.clone(), state: DeviceState::Online }).await.unwrap();
    to.send(batch(&after, Ok(11))).await.unwrap();
    drop((to, reload));
    running.await.unwrap();
    let mut told = Vec::new();
    while let Some(message) = out.recv().await {
        let json: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
        told.push(match &json["seq"] {
            serde_json::Value::Null => format!("{} {}", message.topic, json["state"]),
            seq => format!("{} {seq}", message.topic),
        });
    }
    let status = |state: &str| format!("{name}/status \"{state}\"");
    let value = |seq: u32| format!("{name} {seq}");
    let site = || "site \"online\"".to_string();
    assert_eq!(
        told,
        [
            status("online"),
            value(0),
            status("offline"),
            site(),
            site(),
            status("online"),
            value(1),
            status("offline")
        ]
    );
    assert_eq!((before.metrics.sampled.get(), after.metrics.sampled.get()), (1, 1));
}
