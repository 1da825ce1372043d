//! OPC UA against node-opcua: every type watched and polled, security, nodes that come and go, first values that do not come, ten thousand watched
//! nodes, and a server that is killed and comes back with other namespaces.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use tokio::time::Instant;

use crate::broker::{Access, Broker, Subscriber};
use crate::folder::Folder;
use crate::gateway::{Gateway, output, taktbus};
use crate::json::{member, members};
use crate::peers::needs;
use crate::plant::{BACK_WITHIN, Plant, Server, site};

/// Nodes, what the map says beside them, and what is published of them.
const VALUES: [(&str, &str, &str); 29] = [
    ("s=Speed", "type: float64", "1.5"),
    ("s=Count", "", "7"),
    ("/Line1/Name", "", r#""press 1""#),
    ("s=Running", "type: bool", "true"),
    ("s=SByte", "type: int8", "-128"),
    ("s=Byte", "type: uint8", "255"),
    ("s=Int16", "type: int16", "-32768"),
    ("s=UInt16", "type: uint16", "65535"),
    ("s=UInt32", "type: uint32", "4294967295"),
    ("s=Int64", "type: int64", "-9223372036854775808"),
    ("s=UInt64", "type: uint64", "18446744073709551615"),
    ("s=Float", "type: float32", "0.1"),
    ("s=Time", "type: datetime", r#""2026-01-02T03:04:05.678Z""#),
    ("s=Guid", "", r#""72962b91-fa75-4ae6-8d28-b404dc7daf63""#),
    ("s=Bytes", "", r#""AQL/""#),
    ("s=Xml", "", r#""<a>1</a>""#),
    ("s=Node", "", r#""i=2258""#),
    ("s=Status", "", r#""BadSensorFailure""#),
    ("s=Qualified", "", r#""q""#),
    ("s=Localized", "", r#""läuft""#),
    ("s=Temps", "", "[1.5,2.5,3.5]"),
    ("s=Temps", "member: '[1]'", "2.5"),
    ("s=Nothing", "", "[]"),
    ("s=Matrix", "", "[[0,1,2],[3,4,5]]"),
    ("s=Matrix", "member: '[1][2]'", "5"),
    ("s=Zone", "", r#"{"label":"z1","setpoints":[1.0,2.0],"temperature":21.5}"#),
    ("s=Zone", "member: temperature", "21.5"),
    ("s=Zones", "member: '[1].label'", r#""z1""#),
    ("s=Mode", "", r#""Running""#),
];

/// What is wrong with these is said, and nothing else is.
const BAD: [(&str, &str, &str); 4] = [
    ("s=Nope", "", r#""BadNodeIdUnknown""#),
    ("nsu=urn:nowhere;i=1", "", r#""BadNodeIdUnknown""#),
    ("s=Count", "type: int16", r#""wrong type""#),
    ("s=Temps", "member: '[3]'", r#""wrong type""#),
];

/// Each of them as a point that is watched, `w_0`, and as one that is polled, `p_0`.
fn twice(nodes: &[(&str, &str, &str)], from: usize) -> String {
    nodes.iter().enumerate().fold(String::new(), |mut points, (at, (node, rest, _))| {
        let at = at + from;
        let rest = if rest.is_empty() { String::new() } else { format!(", {rest}") };
        writeln!(points, "      w_{at}: {{node: {node}{rest}}}").unwrap();
        writeln!(points, "      p_{at}: {{node: {node}{rest}, rate: slow}}").unwrap();
        points
    })
}

#[test]
fn every_type_is_watched_and_polled_with_and_without_security() {
    needs!(NodeOpcua, Openssl);
    let folder = Folder::new("node-opcua-types");
    let plant = Plant::start(Server::NodeOpcua, &folder, 0);
    let state = folder.path("state");
    let state = state.to_str().unwrap();
    let points = twice(&VALUES, 0) + &twice(&BAD, VALUES.len());
    // Unlike asyncua, node-opcua compares the application URI of our certificate with that of the session.
    let read = |connection: &str| {
        let site = site(&folder, &plant, &format!("{connection}, response_timeout: 10s"), &points, 1883);
        output(&["read", "--json", "--state", state, "--timeout", "25s"], &site)
    };
    let safe = ", security: Basic256Sha256, security_mode: SignAndEncrypt";
    let refused = String::from_utf8(read(safe).stderr).unwrap();
    let (_, command) = refused.split_once("taktbus opcua trust ").unwrap_or_else(|| panic!("{refused}"));
    let fingerprint = command.split_whitespace().next().unwrap();
    let trusted = taktbus().args(["opcua", "trust", fingerprint, "--state", state]).output().unwrap();
    assert!(trusted.status.success(), "{trusted:?}");

    for connection in [
        ", security: None",
        &format!("{safe}, user: op, password: secret"),
        ", security: Aes256_Sha256_RsaPss",
        ", security: Aes128_Sha256_RsaOaep, security_mode: Sign",
    ] {
        let output = read(connection);
        let messages = String::from_utf8(output.stdout).unwrap();
        let found: BTreeSet<(&str, &str)> = messages
            .lines()
            .flat_map(|message| [member(message, "values"), member(message, "bad")])
            .flatten()
            .flat_map(members)
            .collect();
        for (at, (node, rest, expected)) in VALUES.iter().chain(&BAD).enumerate() {
            for name in [format!("w_{at}"), format!("p_{at}")] {
                assert!(
                    found.contains(&(&*name, *expected)),
                    "{connection}: {name} ({node} {rest}) is not {expected}: {messages}{}",
                    String::from_utf8_lossy(&output.stderr)
                );
            }
        }
    }
    let wrong = read(&format!("{safe}, user: op, password: nope"));
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert!(!wrong.status.success() && said.contains("BadUserAccessDenied"), "{said}");
    assert!(!said.contains("nope"), "a password in the log: {said}");
}

/// A subscriber's view of one device.
struct Watched {
    subscriber: Subscriber,
}

impl Watched {
    /// A message that has this under `values` or `bad`.
    fn until(&mut self, part: &str, point: &str, expected: &str) {
        self.subscriber.message_where(&format!("{point} {expected}"), |arrived| {
            (member(member(&arrived.payload, part)?, point)? == expected).then_some(())
        });
    }
}

#[test]
fn quality_lost_nodes_and_moved_namespaces_are_told_and_overcome() {
    needs!(NodeOpcua, Openssl, Mosquitto, MosquittoSub);
    let folder = Folder::new("node-opcua-restarts");
    let mut plant = Plant::start(Server::NodeOpcua, &folder, 0);
    let broker = Broker::open(&folder);
    let mut watched = Watched { subscriber: Subscriber::new(&broker, &Access::default()) };
    let points = "      speed: {node: s=Speed, type: float64}\n      polled: {node: s=Speed, rate: slow}\n      \
                  late: {node: s=Late}\n";
    let site = site(&folder, &plant, ", security: None", points, broker.port);
    let gateway = Gateway::run(&site);
    watched.until("values", "speed", "1.5");
    plant.tell("set Speed 2.25");
    watched.until("values", "speed", "2.25");
    plant.tell("uncertain Speed 3.5");
    watched.until("uncertain", "speed", r#""UncertainLastUsableValue""#);
    plant.tell("bad Speed");
    watched.until("bad", "speed", r#""BadSensorFailure""#);
    // What is not there yet is found when it is.
    plant.tell("add Late 5");
    watched.until("values", "late", "5");
    plant.tell("delete Speed");
    watched.until("bad", "polled", r#""BadNodeIdUnknown""#);
    for fillers in [2, 0] {
        plant.kill_and_restart(fillers);
        let up = Instant::now();
        watched.until("values", "speed", "1.5");
        assert!(up.elapsed() < BACK_WITHIN, "{:?}", up.elapsed());
        watched.until("values", "polled", "1.5");
        plant.tell("set Speed 9.75");
        watched.until("values", "speed", "9.75");
    }
    gateway.end();
}

#[test]
fn a_first_value_that_does_not_come_is_a_timeout_once_and_a_value_when_it_comes() {
    needs!(NodeOpcua, Openssl, Mosquitto, MosquittoSub);
    let folder = Folder::new("node-opcua-slow");
    let mut plant = Plant::start(Server::NodeOpcua, &folder, 0);
    let broker = Broker::open(&folder);
    let mut watched = Watched { subscriber: Subscriber::new(&broker, &Access::default()) };
    let points = "      speed: {node: s=Speed}\n      slow: {node: s=Slow}\n";
    let site = site(&folder, &plant, ", security: None", points, broker.port);
    let gateway = Gateway::run(&site);
    watched.until("values", "speed", "1.5");
    watched.until("bad", "slow", r#""timeout""#);
    // What else is watched is not made anew for it: a change is all that comes.
    plant.tell("set Speed 2.5");
    watched.subscriber.message_where("what comes next", |arrived| {
        let values = member(&arrived.payload, "values")?;
        assert_eq!((member(values, "speed"), member(&arrived.payload, "bad")), (Some("2.5"), None));
        Some(())
    });
    plant.tell("release Slow 7.5");
    watched.subscriber.message_where("the late value", |arrived| {
        let values = member(&arrived.payload, "values")?;
        assert_eq!((member(values, "slow"), member(&arrived.payload, "bad")), (Some("7.5"), None));
        Some(())
    });
    gateway.end();
}

#[test]
fn ten_thousand_watched_nodes_all_tell_their_changes() {
    needs!(NodeOpcua, Openssl, Mosquitto, MosquittoSub);
    const ITEMS: u32 = 10_000;
    let folder = Folder::new("node-opcua-ten-thousand");
    let mut plant = Plant::start(Server::NodeOpcua, &folder, ITEMS);
    let broker = Broker::open(&folder);
    let mut subscriber = Subscriber::new(&broker, &Access::default());
    // A range of names is of a thousand at most.
    let points: String = (0..ITEMS / 1_000)
        .map(|thousand| {
            let first = thousand * 1_000;
            format!("      i_{{{first}..{}}}: {{node: 's=Item.{{}}'}}\n", first + 999)
        })
        .collect();
    let site = site(&folder, &plant, ", security: None, response_timeout: 10s", &points, broker.port);
    let gateway = Gateway::run(&site);
    for value in ["0", "5"] {
        if value != "0" {
            plant.tell(&format!("all Item.0 {value}"));
        }
        let mut seen = BTreeSet::new();
        while seen.len() < ITEMS as usize {
            let more = subscriber.message_where("more of them", |arrived| {
                let values = member(&arrived.payload, "values")?;
                let all = members(values).filter(|(_, found)| *found == value);
                Some(all.map(|(name, _)| name.to_string()).collect::<Vec<_>>()).filter(|all| !all.is_empty())
            });
            seen.extend(more);
        }
    }
    gateway.end();
}
