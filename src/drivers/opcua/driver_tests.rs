//! What the driver makes of first values that do not come, without a server.

use super::*;
use crate::drivers::opcua::config::{Endpoint, OpcuaConfig, Security, User};
use crate::mapping::compiled::{
    Chars, Decode, DeviceMap, Kind, Order, Point, PointIx, Reading, ReadingIx, Source, Transform,
};
use crate::mapping::device::{Device, Group, Limits};
use crate::model::place::{NodePlace, Place};

/// A device whose nodes `s=n0`, `s=n1`, … are watched; their points have this heartbeat.
fn driver(nodes: u32, heartbeat: Option<Duration>) -> OpcuaDriver {
    let reading = |at: u32| Reading {
        place: Place::Node(Arc::new(NodePlace { address: format!("s=n{at}").into(), member: None })),
        decode: Decode { kind: Kind::Int32, order: Order::default(), byte: None, chars: Chars::default() },
    };
    let point = |at: u32| Point {
        name: format!("p{at}").into(),
        unit: None,
        source: Source::Reading(ReadingIx(at)),
        transform: Transform::default(),
        published: true,
        plausible: None,
        deadband: None,
        heartbeat,
        smooth: None,
        alone: false,
        rate: "default".into(),
    };
    let map = DeviceMap {
        readings: (0..nodes).map(reading).collect(),
        points: (0..nodes).map(point).collect(),
        ..DeviceMap::default()
    };
    let every = Every::Changes(Duration::from_millis(250));
    let device = Device {
        name: "press".into(),
        unit: 0,
        profile: None,
        budget: Default::default(),
        map: Arc::new(map),
        groups: vec![Group { every, points: (0..nodes).map(PointIx).collect() }],
        limits: Limits::default(),
        nodes: Default::default(),
    };
    let config = OpcuaConfig {
        endpoint: Endpoint::of("opc.tcp://plc").unwrap(),
        security: Security::None,
        user: User::Anonymous,
        timeout: Duration::from_secs(2),
    };
    let identity = Identity { pki: None, uri: "urn:test".into(), host: "test".into() };
    let metrics = vec![Arc::new(DeviceMetrics::new("press"))];
    OpcuaDriver::new("line", OpcuaPlan::compile(config, vec![device]), metrics, identity)
}

fn told(driver: &mut OpcuaDriver) -> Vec<Vec<Result<crate::model::value::Raw, Cause>>> {
    driver.ready.drain(..).map(|batch| batch.readings.unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_first_value_that_is_late_is_told_once_and_not_asked_for_again() {
    let mut driver = driver(2, None);
    let soon = driver.subscriptions[0].awaits(Instant::now());
    let late = soon + Duration::from_secs(60);
    driver.set_state(0, ItemState::Awaited(soon));
    driver.set_state(1, ItemState::Awaited(late));
    driver.give_up_awaited(0, soon);
    assert_eq!(told(&mut driver), [[Err(Cause::Timeout)]]);
    assert_eq!(driver.items[0].state, ItemState::Slow, "what is bad is asked for again, this is not");
    // The other one has its own time.
    assert_eq!(driver.items[1].state, ItemState::Awaited(late));
    assert!(!driver.misses_first(0, soon));
    driver.give_up_awaited(0, late);
    assert_eq!(told(&mut driver), [[Err(Cause::Timeout)]]);
    driver.give_up_awaited(0, late + Duration::from_secs(60));
    assert!(told(&mut driver).is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_stays_bad_is_told_once_however_often_it_is_asked_for() {
    let mut driver = driver(1, None);
    let absent = Cause::Status(status(StatusCode::BadNodeIdUnknown));
    for _ in 0..3 {
        driver.is_bad(0, absent);
        driver.flush(Instant::now());
        // Asked for again, accepted, and bad by its first value: there are such servers.
        driver.set_state(0, ItemState::Awaited(Instant::now()));
    }
    assert_eq!(told(&mut driver), [[Err(absent)]]);
    driver.is_bad(0, Cause::Status(status(StatusCode::BadUserAccessDenied)));
    driver.flush(Instant::now());
    assert_eq!(told(&mut driver).len(), 1, "another reason is news");
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_of_what_is_watched_is_a_read() {
    let driver = driver(600, Some(Duration::from_secs(30)));
    let reads = &driver.devices[0].reads;
    let polled: Vec<_> = reads
        .iter()
        .filter(|read| read.every == Every::Interval(Duration::from_secs(30)))
        .map(|read| read.publishes.len())
        .collect();
    assert_eq!(polled, [500, 100]);
    assert_eq!(driver.items.len(), 600, "and it is watched once all the same");
}
