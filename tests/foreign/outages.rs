//! What goes away comes back, and nothing is lost in between.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::SOON;
use crate::broker::{Access, Arrived, Broker, Subscriber};
use crate::folder::Folder;
use crate::gateway::Gateway;
use crate::json::member;
use crate::memory::word;
use crate::peers::{Device, needs, say};
use crate::tap::{Seen, Tap};

/// How long a broker may be silent while messages wait for it.
const NOTICED: Duration = Duration::from_secs(20);

/// Three devices behind one server, twenty times a second each.
fn site(device: &str, broker: u16) -> String {
    let devices = (1..=3).map(|unit| {
        format!(
            "  d{unit}: {{via: peer, unit_id: {unit}, every: 50ms, budget: 500ms, \
             points: {{speed: {{holding: 5, type: uint16}}}}}}\n"
        )
    });
    format!(
        "site: test\nconnections:\n  peer: {{tcp: 127.0.0.1:{device}}}\ndevices:\n{}\
         publish:\n  local: {{mqtt: mqtt://127.0.0.1:{broker}}}\n",
        devices.collect::<String>()
    )
}

#[test]
fn a_broker_that_is_killed_and_restarted_costs_no_message() {
    needs!(Pymodbus, Mosquitto, MosquittoSub);
    let folder = Folder::new("broker-killed");
    let device = Device::pymodbus("tcp");
    let mut broker = Broker::open(&folder);
    let tap = Tap::before(broker.port);
    let gateway = Gateway::run(&folder.write("site.yaml", &site(&device.place, tap.port)));
    tap.wait(SOON, "first messages", |seen| seen.acked() >= 60);

    broker.kill();
    tap.wait(SOON, "third try to reconnect", |seen| seen.refused >= 3);
    let before = tap.look(Seen::acked);
    broker.restart();
    tap.wait(SOON, "messages after the restart", |seen| seen.acked() >= before + 120);

    // Frozen first, so that PUBLISH packets which nobody will ever acknowledge are on the wire when it dies.
    broker.freeze();
    let refused = tap.look(|seen| seen.refused);
    // The window may have been full already: then nothing more is sent.
    tap.wait(SOON, "unacknowledged messages", |seen| {
        let last = seen.publishes.iter().rev().take(20);
        last.filter(|publish| !publish.acked).count() == 20
    });
    broker.kill();
    tap.wait(SOON, "third try to reconnect", |seen| seen.refused >= refused + 3);
    let before = tap.look(Seen::acked);
    broker.restart();
    let mut subscriber = Subscriber::new(&broker, &Access::default());
    tap.wait(SOON, "messages after the second restart", |seen| seen.acked() >= before + 120);
    subscriber.message_where("value at the subscriber", |arrived| value_of(arrived, 1));

    gateway.end();
    for device in ["d1", "d2", "d3"] {
        assert_eq!(tap.look(|seen| unaccounted(seen, device)), [0; 0], "lost of {device}");
    }
}

#[test]
fn a_link_that_is_half_open_is_noticed_under_traffic_and_costs_no_message() {
    needs!(Pymodbus, Mosquitto);
    let folder = Folder::new("half-open");
    let device = Device::pymodbus("tcp");
    let broker = Broker::open(&folder);
    let tap = Tap::before(broker.port);
    let gateway = Gateway::run(&folder.write("site.yaml", &site(&device.place, tap.port)));
    tap.wait(SOON, "first messages", |seen| seen.acked() >= 60);

    tap.swallow();
    let (began, before) = (Instant::now(), tap.look(Seen::acked));
    tap.wait(2 * SOON, "messages over another connection", |seen| seen.acked() >= before + 60);
    let took = began.elapsed();
    assert!(took < NOTICED, "{took:?}");
    say(&format!("a half-open link was replaced, and what waited delivered, within {took:.1?}"));

    tap.wait(SOON, "all of the backlog", |seen| {
        (1..=3).all(|device| unaccounted(seen, &format!("d{device}")).is_empty())
    });
    gateway.end();
    for device in ["d1", "d2", "d3"] {
        assert_eq!(tap.look(|seen| unaccounted(seen, device)), [0; 0], "lost of {device}");
    }
}

#[test]
fn a_device_that_vanishes_and_returns_is_offline_and_online() {
    needs!(Pymodbus, Mosquitto, MosquittoSub);
    let folder = Folder::new("device-vanishes");
    let mut device = Device::pymodbus("tcp");
    let broker = Broker::open(&folder);
    let mut subscriber = Subscriber::new(&broker, &Access::default());
    let gateway = Gateway::run(&folder.write("site.yaml", &site(&device.place, broker.port)));
    subscriber.message_where("online status", |arrived| status(arrived, "online"));
    assert_eq!(subscriber.message_where("value", |arrived| value_of(arrived, 2)), word(3, 2, 5).to_string());

    device.tell("stop");
    subscriber.message_where("offline status", |arrived| status(arrived, "offline"));

    device.set(2, "holding", 5, &[4711]);
    device.tell("start");
    subscriber.message_where("online status", |arrived| status(arrived, "online"));
    assert_eq!(subscriber.message_where("value", |arrived| value_of(arrived, 2)), "4711");

    // The status is retained: who comes later knows it too.
    let mut late = Subscriber::new(&broker, &Access::default());
    late.message_where("retained status", |arrived| status(arrived, "online").filter(|()| arrived.retained));
    gateway.end();
    subscriber.message_where("offline status of the site", |arrived| {
        let offline = member(&arrived.payload, "state") == Some("\"offline\"");
        (arrived.topic == "taktbus/test/status" && offline).then_some(())
    });
}

/// The law: every sequence number up to the last one was acknowledged by a broker or is covered by a gap record that
/// was. Gives those that break it. Panics when something that was sent twice is not the same to the byte.
fn unaccounted(seen: &Seen, device: &str) -> Vec<u64> {
    let topic = format!("taktbus/test/{device}");
    let mut delivered = BTreeMap::<u64, bool>::new();
    let mut payloads = BTreeMap::<u64, &[u8]>::new();
    let (mut gaps, mut epochs) = (Vec::new(), Vec::new());
    for publish in seen.publishes.iter().filter(|publish| publish.topic == topic) {
        let text = std::str::from_utf8(&publish.payload).unwrap();
        let number = |object: &str, name: &str| member(object, name).and_then(|n| n.parse::<u64>().ok());
        epochs.push(member(text, "epoch").unwrap().to_owned());
        if let Some(gap) = member(text, "gap") {
            if publish.acked {
                gaps.push(number(gap, "from").unwrap()..=number(gap, "to").unwrap());
            }
            continue;
        }
        let seq = number(text, "seq").unwrap();
        *delivered.entry(seq).or_default() |= publish.acked;
        let first = payloads.entry(seq).or_insert(&publish.payload);
        assert_eq!(*first, publish.payload, "{device} {seq}: a duplicate differs");
    }
    epochs.dedup();
    assert_eq!(epochs.len(), 1, "{device}: one process, one epoch");
    let (first, last) = (*delivered.keys().next().unwrap(), *delivered.keys().next_back().unwrap());
    assert!(first <= 1, "{device}: the first sequence number is {first}");
    (first..=last)
        .filter(|seq| !delivered.get(seq).is_some_and(|acked| *acked))
        .filter(|seq| !gaps.iter().any(|gap| gap.contains(seq)))
        .collect()
}

#[test]
fn what_was_never_acknowledged_and_in_no_gap_record_is_lost() {
    let sent = |payload: &str, acked| crate::tap::Publish {
        topic: "taktbus/test/d1".to_owned(),
        payload: payload.into(),
        acked,
    };
    let data = |seq: u64, acked| sent(&format!(r#"{{"epoch":7,"seq":{seq}}}"#), acked);
    let gap = |acked| sent(r#"{"epoch":7,"gap":{"from":3,"to":4,"reason":"late"}}"#, acked);
    let publishes =
        vec![data(0, true), data(1, false), data(1, true), data(2, false), data(6, true), gap(true)];
    assert_eq!(unaccounted(&Seen { publishes, refused: 0 }, "d1"), [2, 5]);
    let publishes = vec![data(1, true), gap(false), data(5, true)];
    assert_eq!(unaccounted(&Seen { publishes, refused: 0 }, "d1"), [2, 3, 4]);
}

fn value_of(arrived: &Arrived, unit: u8) -> Option<String> {
    (arrived.topic == format!("taktbus/test/d{unit}")).then_some(())?;
    member(member(&arrived.payload, "values")?, "speed").map(str::to_owned)
}

/// Is it the second device's status, with that state?
fn status(arrived: &Arrived, state: &str) -> Option<()> {
    let is_it = member(&arrived.payload, "state")? == format!("\"{state}\"");
    (arrived.topic == "taktbus/test/d2/status" && is_it).then_some(())
}
