//! OPC UA against asyncua: every policy and user, structures and enumerations, what is bad, a thousand watched nodes, and a server that is killed
//! and comes back with other namespaces.

use std::time::Duration;

use tokio::time::Instant;

use crate::broker::{Access, Broker, Subscriber};
use crate::folder::Folder;
use crate::gateway::{Gateway, output, taktbus};
use crate::json::member;
use crate::peers::needs;
use crate::plant::{BACK_WITHIN, Plant, Server, site};

const POINTS: &str = "      speed: {node: s=Speed, type: float64}\n      count: {node: s=Count}\n      \
    temps: {node: s=Temps}\n      second: {node: s=Temps, member: '[1]', rate: slow}\n      name: {node: /Line1/Name, rate: slow}\n      \
    running: {node: s=Running}\n      zone: {node: s=Zone}\n      zone_temp: {node: s=Zone, member: temperature}\n      \
    label: {node: s=Zones, member: '[1].label', rate: slow}\n      mode: {node: s=Mode}\n      missing: {node: s=Nope}\n      \
    wrong: {node: s=Count, type: int16, rate: slow}\n";

#[test]
fn every_policy_and_user_reads_the_same_values() {
    needs!(Asyncua, Openssl);
    let folder = Folder::new("opcua-policies");
    let plant = Plant::start(Server::Asyncua, &folder, 0);
    let state = folder.path("state");
    let state = state.to_str().unwrap();
    let read = |connection: &str| {
        let site = site(&folder, &plant, &format!("{connection}, response_timeout: 10s"), POINTS, 1883);
        output(&["read", "--json", "--state", state, "--timeout", "25s"], &site)
    };
    // Nobody is trusted before somebody has said so.
    let browse = || {
        taktbus()
            .args(["browse", &format!("opc.tcp://127.0.0.1:{}/plant?response_timeout=10s", plant.port)])
            .args(["--filter", "count", "--state", state])
            .output()
            .unwrap()
    };
    let said = String::from_utf8(browse().stderr).unwrap();
    let (_, command) = said.split_once("taktbus opcua trust ").unwrap_or_else(|| panic!("{said}"));
    let fingerprint = command.split_whitespace().next().unwrap();
    let trusted = taktbus().args(["opcua", "trust", fingerprint, "--state", state]).output().unwrap();
    assert!(trusted.status.success(), "{trusted:?}");
    let tree = String::from_utf8(browse().stdout).unwrap();
    assert!(tree.contains("Count") && tree.contains("nsu=urn:plant;s=Count"), "{tree}");

    for connection in [
        ", security: None",
        "",
        ", security: Basic256Sha256",
        ", security: Basic256Sha256, security_mode: Sign",
        ", security: Aes128_Sha256_RsaOaep",
        ", security: Aes256_Sha256_RsaPss, user: op, password: secret",
        ", security: None, user: op, password: secret",
    ] {
        let output = read(connection);
        let text = String::from_utf8(output.stdout).unwrap();
        for expected in [
            r#""speed":1.5"#,
            r#""count":7"#,
            r#""temps":[1.5,2.5,3.5]"#,
            r#""second":2.5"#,
            r#""name":"press 1""#,
            r#""running":true"#,
            r#""zone":{"label":"z1","setpoints":[1.0,2.0],"temperature":21.5}"#,
            r#""zone_temp":21.5"#,
            r#""label":"z1""#,
            r#""mode":"Running""#,
            r#""missing":"BadNodeIdUnknown""#,
            r#""wrong":"wrong type""#,
        ] {
            assert!(
                text.contains(expected),
                "{connection}: no {expected} in {text}{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
    let wrong = read(", user: op, password: nope");
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert!(!wrong.status.success() && said.contains("BadUserAccessDenied"), "{said}");
    assert!(!said.contains("nope"), "a password in the log: {said}");
}

#[test]
fn a_killed_server_is_back_within_five_seconds_whatever_its_namespaces_are() {
    needs!(Asyncua, Openssl, Mosquitto, MosquittoSub);
    let folder = Folder::new("opcua-restarts");
    let mut plant = Plant::start(Server::Asyncua, &folder, 0);
    let broker = Broker::open(&folder);
    let mut subscriber = Subscriber::new(&broker, &Access::default());
    let points = "      speed: {node: s=Speed, type: float64}\n      polled: {node: s=Speed, rate: slow}\n";
    let site = site(&folder, &plant, ", security: None", points, broker.port);
    let gateway = Gateway::run(&site);
    let value = |subscriber: &mut Subscriber, point: &str, expected: &str| {
        subscriber.message_where(&format!("{point} {expected}"), |arrived| {
            let values = member(&arrived.payload, "values")?;
            (member(values, point)? == expected).then_some(())
        });
    };
    value(&mut subscriber, "speed", "1.5");
    plant.tell("set Speed 2.25");
    value(&mut subscriber, "speed", "2.25");
    plant.tell("uncertain Speed 3.5");
    subscriber.message_where("uncertain", |arrived| {
        arrived.payload.contains(r#""uncertain":{"speed":"UncertainLastUsableValue"}"#).then_some(())
    });
    plant.tell("bad Speed");
    subscriber.message_where("bad", |arrived| {
        (member(member(&arrived.payload, "bad")?, "speed")? == r#""BadSensorFailure""#).then_some(())
    });
    for fillers in [3, 0] {
        plant.kill_and_restart(fillers);
        let up = Instant::now();
        value(&mut subscriber, "speed", "1.5");
        assert!(up.elapsed() < BACK_WITHIN, "{:?}", up.elapsed());
        value(&mut subscriber, "polled", "1.5");
        plant.tell("set Speed 9.75");
        value(&mut subscriber, "speed", "9.75");
    }
    gateway.end();
}

/// `TAKTBUS_LONG=1` has it a hundred times instead of three.
#[test]
fn a_value_is_at_the_subscriber_within_five_seconds_of_each_return() {
    needs!(Asyncua, Openssl, Mosquitto, MosquittoSub);
    let turns = if std::env::var_os("TAKTBUS_LONG").is_some() { 100 } else { 3 };
    let folder = Folder::new("opcua-recoveries");
    let mut plant = Plant::start(Server::Asyncua, &folder, 0);
    let broker = Broker::open(&folder);
    let mut subscriber = Subscriber::new(&broker, &Access::default());
    let points = "      speed: {node: s=Speed, type: float64}\n";
    let site = site(&folder, &plant, ", security: None", points, broker.port);
    let gateway = Gateway::run(&site);
    let good = |subscriber: &mut Subscriber| {
        subscriber.message_where("speed", |arrived| {
            (member(member(&arrived.payload, "values")?, "speed")? == "1.5").then_some(())
        });
    };
    good(&mut subscriber);
    let mut took = Vec::new();
    for turn in 0..turns {
        plant.kill();
        subscriber.message_where("offline", |arrived| {
            (member(member(&arrived.payload, "bad")?, "speed")? == r#""offline""#).then_some(())
        });
        // Each outage has another length, so that the tries come at all phases of the start.
        std::thread::sleep(Duration::from_millis(u64::from(turn * 370 % 2_500)));
        plant.restart(turn % 3);
        let up = Instant::now();
        good(&mut subscriber);
        took.push(up.elapsed());
    }
    took.sort_unstable();
    let (p50, max) = (took[took.len() / 2], took[took.len() - 1]);
    crate::peers::say(&format!("{turns} recoveries: p50 {p50:.2?}, max {max:.2?}"));
    assert!(max < BACK_WITHIN, "{took:?}");
    gateway.end();
}

#[test]
fn values_are_written_and_methods_called() {
    use taktbus::drivers::opcua::Identity;
    use taktbus::drivers::opcua::client::{Called, Client, Proof};
    use taktbus::drivers::opcua::config::{Endpoint, OpcuaConfig, Security, User};
    use taktbus::mapping::compiled::{Chars, Decode, Kind, Order, Reading, Transform};
    use taktbus::mapping::write::{Allowed, Function, Target};
    use taktbus::model::place::{NodePlace, Place};
    use taktbus::model::value::{Raw, Value};

    needs!(Asyncua, Openssl);
    let folder = Folder::new("opcua-writes");
    let plant = Plant::start(Server::Asyncua, &folder, 0);
    let config = OpcuaConfig {
        endpoint: Endpoint::of(&format!("opc.tcp://127.0.0.1:{}/plant", plant.port)).unwrap(),
        security: Security::None,
        user: User::Anonymous,
        timeout: Duration::from_secs(10),
    };
    let target = |address: &str, member: Option<&str>, kind, scale: &str| Target {
        name: "p".into(),
        unit: None,
        reading: Reading {
            place: Place::Node(std::sync::Arc::new(NodePlace {
                address: address.into(),
                member: member.map(Into::into),
            })),
            decode: Decode { kind, order: Order::default(), byte: None, chars: Chars::default() },
        },
        order: Order::default(),
        transform: Transform { scale: Some(scale.parse().unwrap()), ..Transform::default() },
        function: Function::Service,
        allowed: Allowed::default(),
        refresh: None,
        readable: true,
    };
    let number = |text: &str| Value::Number(text.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::open(&config, &Identity::of_this_machine(None)).await.unwrap();
        let write = async |target: &Target, value: &str| {
            let setting = target.setting(&number(value), None).unwrap();
            client.write(target, Some("urn:plant"), &setting).await.map_err(|error| error.to_string())
        };
        assert_eq!(write(&target("s=Setpoint", None, Kind::Int16, "0.1"), "23.5").await, Ok(Proof::Holds));
        // It ignores ranges, and would leave nothing but the element.
        assert_eq!(
            write(&target("s=Limits", Some("[1]"), Kind::Float32, "1"), "9.5").await,
            Err("the server can't write single elements of arrays".into())
        );
        let refused = write(&target("s=Count", None, Kind::Int32, "1"), "8").await;
        let Ok(Proof::Refused(status)) = refused else { panic!("{refused:?}") };
        assert_eq!(status.to_string(), "BadUserAccessDenied");
        assert_eq!(
            write(&target("s=Setpoint", None, Kind::Float64, "1"), "1.5").await,
            Err("the node's type is int16, not float64".into())
        );
        let call = async |count: &str| {
            let inputs = [number(count), number("1.5")];
            client.call("/Line1", "/Line1/Scaled", Some("urn:plant"), &inputs).await.unwrap()
        };
        assert_eq!(call("21").await, Called::Done(vec![Ok(Raw::Float64(31.5))]));
        let Called::Refused(status) = call("0").await else { panic!("it takes 0") };
        assert_eq!(status.to_string(), "BadOutOfRange");
        client.close().await;
    });
}

#[test]
fn a_thousand_watched_nodes_all_tell_their_changes() {
    needs!(Asyncua, Openssl, Mosquitto, MosquittoSub);
    const ITEMS: u32 = 1_000;
    let folder = Folder::new("opcua-thousand");
    let mut plant = Plant::start(Server::Asyncua, &folder, ITEMS);
    let broker = Broker::open(&folder);
    let mut subscriber = Subscriber::new(&broker, &Access::default());
    let points = "      i_{0..999}: {node: 's=Item.{}'}\n";
    let site = site(&folder, &plant, ", security: None", points, broker.port);
    let gateway = Gateway::run(&site);
    for value in ["0", "5", "7"] {
        if value != "0" {
            plant.tell(&format!("all Item.0 {value}"));
        }
        let mut seen = std::collections::BTreeSet::new();
        while seen.len() < ITEMS as usize {
            let more = subscriber.message_where("more of them", |arrived| {
                let values = member(&arrived.payload, "values")?;
                let all = crate::json::members(values).filter(|(_, found)| *found == value);
                Some(all.map(|(name, _)| name.to_string()).collect::<Vec<_>>()).filter(|all| !all.is_empty())
            });
            seen.extend(more);
        }
    }
    gateway.end();
}
