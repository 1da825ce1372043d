//! The wall clock as machines without one have it: set while the gateway runs, by seconds or years, and wrong at the start.
//!
//! libfaketime sets it for the gateway alone; what waits and measures goes by the monotonic clock, which it leaves as it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::SOON;
use crate::broker::{Access, Broker, Subscriber, certificates};
use crate::folder::Folder;
use crate::gateway::{Gateway, taktbus};
use crate::json::member;
use crate::peers::{Device, Peer, needs};
use crate::process::Process;
use crate::tap::{Seen, Tap};

/// A clock that is set by writing how far it's off: `+0`, `-56y`, `+1`.
struct Clock(PathBuf);

impl Clock {
    fn new(folder: &Folder, offset: &str) -> Self {
        Self(folder.write("time", &format!("{offset}\n")))
    }

    /// At once, never half written.
    fn set(&self, offset: &str) {
        let beside = self.0.with_extension("new");
        std::fs::write(&beside, format!("{offset}\n")).unwrap();
        std::fs::rename(beside, &self.0).unwrap();
    }

    fn start(&self, site: &Path, state: &Path) -> Gateway {
        let mut command = taktbus();
        command.arg("run").arg(site).arg("--state").arg(state);
        command.env("LD_PRELOAD", Peer::Faketime.path().unwrap());
        command.env("FAKETIME_TIMESTAMP_FILE", &self.0).env("FAKETIME_NO_CACHE", "1");
        command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        Gateway(Process::start("taktbus", &mut command))
    }
}

fn site(device: &str, route: &str) -> String {
    format!(
        "site: test\nconnections:\n  peer: {{tcp: 127.0.0.1:{device}}}\ndevices:\n  \
         d: {{via: peer, unit_id: 1, every: 20ms, budget: 1s, points: {{speed: {{holding: 5, type: uint16}}}}}}\n\
         publish:\n  local: {{{route}}}\n"
    )
}

/// The messages of the device: sequence number, time stamp, payload.
fn messages(seen: &Seen) -> Vec<(u64, String, String)> {
    let all = seen.publishes.iter().filter(|publish| publish.topic == "taktbus/test/d");
    let texts = all.map(|publish| String::from_utf8(publish.payload.clone()).unwrap());
    texts.map(|text| (seq(&text), member(&text, "ts").unwrap().trim_matches('"').to_owned(), text)).collect()
}

fn seq(text: &str) -> u64 {
    member(text, "seq").unwrap().parse().unwrap()
}

/// Ticks of processor time that a process has used: /proc/PID/stat, fields 14 and 15 (proc(5)).
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn steps_of_the_clock_cost_no_poll_no_connection_and_no_order() {
    needs!(Pymodbus, Mosquitto, Faketime);
    let folder = Folder::new("clock-steps");
    let device = Device::pymodbus("tcp");
    let mut broker = Broker::open(&folder);
    let tap = Tap::before(broker.port);
    let site =
        folder.write("site.yaml", &site(&device.place, &format!("mqtt: mqtt://127.0.0.1:{}", tap.port)));
    let clock = Clock::new(&folder, "+0");
    let gateway = clock.start(&site, &folder.path("state"));
    let mut awaited = 20;
    for step in ["+1", "-1", "+3600", "-3600", "+10y", "-10y", "+0"] {
        tap.wait(SOON, "messages", |seen| messages(seen).len() >= awaited);
        awaited = tap.look(|seen| messages(seen).len()) + 20;
        clock.set(step);
    }
    tap.wait(SOON, "messages after the last step", |seen| messages(seen).len() >= awaited);
    let used = Duration::from_millis(ticks(gateway.0.id()) * 10);
    let said = gateway.end();
    let all = tap.look(messages);
    let seqs: Vec<u64> = all.iter().map(|(seq, ..)| *seq).collect();
    assert_eq!(seqs, (0..seqs.len() as u64).collect::<Vec<_>>(), "in order, each once");
    for year in ["2036", "2016"] {
        assert!(all.iter().any(|(_, ts, _)| ts.starts_with(&year[..3])), "the clock was never set to {year}");
    }
    assert!(said.contains("the clock was set"), "{said}");
    let connects = broker.story().matches("New client connected").count();
    assert_eq!(connects, 1, "{}", broker.story());
    // 160 polls and messages in a debug build take a tenth of it; a loop that waits for nothing takes all it can get.
    assert!(used < Duration::from_millis(20 * seqs.len() as u64 / 2 + 1_000), "{used:?} of processor time");
}

#[test]
fn what_was_stamped_in_1970_gets_its_right_time_and_tls_works_all_the_while() {
    needs!(Pymodbus, Mosquitto, MosquittoSub, Openssl, Faketime);
    let folder = Folder::new("clock-1970");
    certificates(&folder, "right");
    let file = |name: &str| folder.path(name).display().to_string();
    let settings =
        format!("certfile {}\nkeyfile {}\nallow_anonymous true\n", file("right.pem"), file("right.key"));
    let mut broker = Broker::with(&folder, &settings);
    let device = Device::pymodbus("tcp");
    let route = format!("mqtt: mqtts://127.0.0.1:{}, ca: {}", broker.port, file("right-ca.pem"));
    let site = folder.write("site.yaml", &site(&device.place, &route));
    // The last time that an earlier run knew: certificates are judged by it.
    let state = folder.path("state");
    std::fs::create_dir_all(&state).unwrap();
    std::fs::write(state.join("clock"), format!("{}\n", date(0))).unwrap();

    let access = Access { ca: Some(folder.path("right-ca.pem")), user: None };
    let mut subscriber = Subscriber::new(&broker, &access);
    let clock = Clock::new(&folder, "-56y");
    let mut gateway = clock.start(&site, &state);
    gateway.0.line_where(SOON, "doubt", |line| line.contains("not synchronised").then_some(()));
    let data = |topic: &str| topic == "taktbus/test/d";
    let last = subscriber.message_where("a message of 1970", |message| {
        let text = &message.payload;
        let is_marked =
            data(&message.topic) && text.contains("\"ts\":\"197") && text.contains("\"clock\":\"unsynced\"");
        is_marked.then(|| seq(text))
    });

    broker.kill();
    gateway.0.line_where(SOON, "outage", |line| line.contains("broker link down").then_some(()));
    // Some seconds of messages that nobody has got.
    let mut away = BTreeMap::new();
    let from = date(-1);
    std::thread::sleep(Duration::from_secs(2));
    let to = date(3);
    clock.set("+0");
    gateway.0.line_where(SOON, "belief", |line| line.contains("the clock is synchronised").then_some(()));
    broker.restart();
    let mut subscriber = Subscriber::new(&broker, &access);
    let count = 80;
    while away.len() < count {
        let (seq, text) = subscriber.message_where("messages of the outage", |message| {
            (data(&message.topic) && message.payload.contains("\"replayed\":true"))
                .then(|| (seq(&message.payload), message.payload.clone()))
        });
        away.insert(seq, text);
    }
    gateway.end();
    // Those that were in flight when the broker went may have been sent before, and a repetition has the same bytes.
    let replayed: Vec<&String> = away.range(last + 50..).map(|(_, text)| text).collect();
    assert!(replayed.len() > 10, "{last} {:?}", away.keys());
    for text in replayed {
        let ts = member(text, "ts").unwrap().trim_matches('"').to_owned();
        assert!(from < ts && ts < to && !text.contains("unsynced"), "{text} is not between {from} and {to}");
    }
}

/// So many seconds from now, by date(1): `2026-11-22T12:00:00.000Z`.
fn date(seconds: i64) -> String {
    let when = format!("now {seconds:+} seconds");
    let date =
        std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S.000Z", "-d", &when]).output();
    String::from_utf8(date.unwrap().stdout).unwrap().trim().to_owned()
}
