//! mosquitto behind TLS and a password.

use std::path::PathBuf;

use crate::broker::{Access, Broker, Subscriber, certificates, password_file};
use crate::folder::Folder;
use crate::gateway::Gateway;
use crate::peers::{Device, needs};
use crate::values;

const USER: &str = "bakery";
const PASSWORD: &str = "correct horse";

/// A broker with a certificate of authority `right` for 127.0.0.1, and with one user; there is also an authority `wrong`.
fn secured(folder: &Folder) -> Broker {
    certificates(folder, "right");
    certificates(folder, "wrong");
    let file = |name: &str| folder.path(name).display().to_string();
    Broker::with(
        folder,
        &format!(
            "certfile {}\nkeyfile {}\npassword_file {}\nallow_anonymous false\n",
            file("right.pem"),
            file("right.key"),
            password_file(folder, USER, PASSWORD).display()
        ),
    )
}

fn site(folder: &Folder, device: &Device, broker: &Broker, ca: &str, password: &str) -> PathBuf {
    let plain = values::site(folder, &format!("tcp: 127.0.0.1:{}", device.place), 1, "500ms", broker.port);
    let secret = folder.write("password", &format!("{password}\n"));
    let route = format!(
        "mqtt: mqtts://127.0.0.1:{}, ca: {}, user: {USER}, password: {{file: {}}}",
        broker.port,
        folder.path(ca).display(),
        secret.display()
    );
    let text = std::fs::read_to_string(plain).unwrap();
    folder.write("site.yaml", &text.replace(&format!("mqtt: mqtt://127.0.0.1:{}", broker.port), &route))
}

#[test]
fn the_right_authority_and_password_get_in() {
    needs!(Pymodbus, Mosquitto, MosquittoSub, MosquittoPasswd, Openssl);
    let folder = Folder::new("mqtts");
    let device = values::filled(Device::pymodbus("tcp"), 1);
    let broker = secured(&folder);
    let access = Access { ca: Some(folder.path("right-ca.pem")), user: Some((USER, PASSWORD)) };
    let mut subscriber = Subscriber::new(&broker, &access);
    let gateway = Gateway::run(&site(&folder, &device, &broker, "right-ca.pem", PASSWORD));
    values::assert_all_values(&mut subscriber, 1);
    assert!(!gateway.end().contains(PASSWORD), "the password is in the log");
}

#[test]
fn a_wrong_authority_is_refused_by_the_gateway() {
    needs!(Pymodbus, Mosquitto, MosquittoPasswd, Openssl);
    let folder = Folder::new("wrong-ca");
    let device = values::filled(Device::pymodbus("tcp"), 1);
    let mut broker = secured(&folder);
    let gateway = Gateway::run(&site(&folder, &device, &broker, "wrong-ca.pem", PASSWORD));
    broker.log_line("TLS alert", |line| line.contains("OpenSSL Error") && line.contains("alert"));
    let said = gateway.end();
    assert!(said.contains("certificate"), "the log does not say why: {said}");
    assert!(!broker.story().contains("New client connected"), "it connected all the same");
}

#[test]
fn a_wrong_password_is_refused_by_the_broker() {
    needs!(Pymodbus, Mosquitto, MosquittoPasswd, Openssl);
    let folder = Folder::new("wrong-password");
    let device = values::filled(Device::pymodbus("tcp"), 1);
    let mut broker = secured(&folder);
    let gateway = Gateway::run(&site(&folder, &device, &broker, "right-ca.pem", "wrong pony"));
    // CONNACK return code 5: not authorised (MQTT 3.1.1, 3.2.2.3).
    broker.log_line("refusal", |line| line.contains("Sending CONNACK") && line.contains("(0, 5)"));
    let said = gateway.end();
    assert!(!said.contains("wrong pony"), "the password is in the log: {said}");
}
