//! Writing nodes and calling methods: exact values by the mapping backwards, typed as the node is, and what the server makes of them.

use opcua::types::StatusCode;
use taktbus::drivers::opcua::Identity;
use taktbus::drivers::opcua::client::{Called, Client, Proof};
use taktbus::drivers::opcua::config::{Endpoint, OpcuaConfig, Security, User};
use taktbus::mapping::compiled::{Chars, Decode, Kind, Order, Reading, Transform};
use taktbus::mapping::inverse::parse;
use taktbus::mapping::write::{Allowed, Function, Target};
use taktbus::model::place::{NodePlace, Place};
use taktbus::model::value::{Raw, Value};

use crate::plant::*;

fn target(address: &str, member: Option<&str>, kind: Kind, transform: Transform) -> Target {
    let place = NodePlace { address: address.into(), member: member.map(Into::into) };
    Target {
        name: "p".into(),
        unit: None,
        reading: Reading {
            place: Place::Node(std::sync::Arc::new(place)),
            decode: Decode { kind, order: Order::default(), byte: None, chars: Chars::default() },
        },
        order: Order::default(),
        transform,
        function: Function::Service,
        allowed: Allowed::default(),
        refresh: None,
        readable: true,
    }
}

/// Writes what a person would write, and says what came of it.
async fn written(client: &Client, target: &Target, text: &str) -> String {
    let value = match parse(text, target) {
        Ok(value) => value,
        Err(refusal) => return refusal.to_string(),
    };
    let setting = match target.setting(&value, None) {
        Ok(setting) => setting,
        Err(refusal) => return refusal.to_string(),
    };
    match client.write(target, Some("urn:plant"), &setting).await {
        Ok(Proof::Holds) => "holds".into(),
        Ok(Proof::Differs(other)) => format!("differs: {other:?}"),
        Ok(Proof::Refused(status)) => format!("refused: {status}"),
        Ok(other) => format!("{other:?}"),
        Err(error) => error.to_string(),
    }
}

async fn client(plant: &Plant) -> Client {
    let config = OpcuaConfig {
        endpoint: Endpoint::of(&format!("opc.tcp://{}", plant.address)).unwrap(),
        security: Security::None,
        user: User::Anonymous,
        timeout: SOON,
    };
    Client::open(&config, &Identity::of_this_machine(None)).await.unwrap()
}

#[tokio::test]
async fn a_value_is_written_exactly_with_the_nodes_type_or_refused() {
    let plant = Plant::start(0, &["urn:other", "urn:plant"], None).await;
    plant.add("urn:plant", "Setpoint", 1i16);
    plant.add("urn:plant", "Ratio", 1.0f32);
    plant.add("urn:plant", "Name", "a");
    plant.add("urn:plant", "On", false);
    plant.add("urn:plant", "Temps", vec![1.5f32, 2.5, 3.5]);
    plant.add("urn:plant", "Fixed", 1i32);
    for name in ["Setpoint", "Ratio", "Name", "On", "Temps"] {
        plant.open("urn:plant", name);
    }
    let client = client(&plant).await;
    let plain = Transform::default;
    let tenths = Transform { scale: Some("0.1".parse().unwrap()), ..plain() };
    let setpoint = target("s=Setpoint", None, Kind::Int16, tenths);
    for (target, text, expected) in [
        (&setpoint, "23.5", "holds"),
        (&setpoint, "23.55", "23.55 lies between two values that it can have: 23.5 and 23.6"),
        (&setpoint, "4000", "4000 is out of range: the type holds -3276.8 to 3276.7"),
        (&target("s=Ratio", None, Kind::Float32, plain()), "0.1", "holds"),
        (&target("/Name", None, Kind::String, plain()), "press 1 ", "holds"),
        (&target("s=On", None, Kind::Bool, plain()), "on", "holds"),
        (&target("s=Temps", Some("[1]"), Kind::Float32, plain()), "9.5", "holds"),
        (&target("s=Temps", Some("[7]"), Kind::Float32, plain()), "9.5", "refused: BadIndexRangeNoData"),
        // A type that the node does not have: this server would take it.
        (&target("s=Setpoint", None, Kind::Float64, plain()), "1.5", "the node's type is int16, not float64"),
        (&target("s=Fixed", None, Kind::Int32, plain()), "2", "refused: BadUserAccessDenied"),
        (&target("s=Nope", None, Kind::Int32, plain()), "2", "refused: BadNodeIdUnknown"),
        (
            &target("nsu=urn:nowhere;s=a", None, Kind::Int32, plain()),
            "2",
            "the server has no namespace urn:nowhere",
        ),
        (
            &target("s=Temps", Some("zone.a"), Kind::Float32, plain()),
            "1",
            "a member of a structure can't be written by itself",
        ),
    ] {
        assert_eq!(written(&client, target, text).await, expected, "{text} to {:?}", target.reading.place);
    }
    client.close().await;
    let points =
        "      setpoint: {node: s=Setpoint}\n      temps: {node: s=Temps}\n      name: {node: s=Name}\n";
    let mut watch = Watch::start(&at(plant.address), &format!("{PRESS}{points}"), None);
    watch.until("setpoint", "235").await;
    watch.until("temps", "[1.5,9.5,3.5]").await;
    watch.until("name", "press 1 ").await;
    watch.stop().await;
}

#[tokio::test]
async fn what_the_server_makes_of_a_value_is_seen_in_what_is_read_back() {
    let plant = Plant::start(0, &["urn:plant"], None).await;
    plant.add("urn:plant", "Clamped", 1i32);
    plant.open("urn:plant", "Clamped");
    plant.takes("urn:plant", "Clamped", |_| StatusCode::GoodClamped);
    let client = client(&plant).await;
    let clamped = target("s=Clamped", None, Kind::Int32, Transform::default());
    assert_eq!(written(&client, &clamped, "500").await, "differs: Ok(Int(1))");
    let unread = Target { readable: false, ..clamped };
    assert_eq!(written(&client, &unread, "500").await, "Unread");
    client.close().await;
}

#[tokio::test]
async fn a_method_is_called_with_the_types_of_its_arguments() {
    let plant = Plant::start(0, &["urn:plant"], None).await;
    plant.add_method("urn:plant", "Scaled");
    let client = client(&plant).await;
    let number = |text: &str| Value::Number(text.parse().unwrap());
    let call = async |inputs: &[Value]| {
        client.call("i=85", "nsu=urn:plant;s=Scaled", None, inputs).await.map_err(|error| error.to_string())
    };
    let done = call(&[number("21"), number("1.5")]).await;
    assert_eq!(done, Ok(Called::Done(vec![Ok(Raw::Float64(31.5))])));
    let refused = call(&[number("0"), number("1.5")]).await;
    assert!(
        matches!(&refused, Ok(Called::Refused(status)) if status.to_string() == "BadOutOfRange"),
        "{refused:?}"
    );
    assert_eq!(call(&[number("21")]).await, Err("the method takes 2 inputs, and 1 are given".into()));
    assert_eq!(
        call(&[number("0.5"), number("1")]).await,
        Err("input 'count': 0.5 lies between two values that it can have: 0 and 1".into())
    );
    client.close().await;
}
