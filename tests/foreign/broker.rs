//! mosquitto and mosquitto_sub.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::SOON;
use crate::folder::Folder;
use crate::peers::Peer;
use crate::process::Process;

/// How often another free port is tried, when somebody took the one that was found before mosquitto had it.
const PORT_TRIES: u32 = 5;

/// A mosquitto with a configuration of its own.
pub struct Broker {
    process: Process,
    config: PathBuf,
    pub port: u16,
}

/// What a client needs to get in.
#[derive(Clone, Default)]
pub struct Access {
    pub ca: Option<PathBuf>,
    pub user: Option<(&'static str, &'static str)>,
}

impl Broker {
    /// Anybody may come in.
    pub fn open(folder: &Folder) -> Self {
        Self::with(folder, "allow_anonymous true\n")
    }

    /// With further lines of configuration for its one listener on loopback.
    pub fn with(folder: &Folder, settings: &str) -> Self {
        for _ in 0..PORT_TRIES {
            let port = free_port();
            // As root mosquitto would become its own user, who may not read the test's folder.
            let text =
                format!("user root\nlog_type all\nlog_dest stderr\nlistener {port} 127.0.0.1\n{settings}");
            let config = folder.write("mosquitto.conf", &text);
            let mut process = start(&config);
            if is_up(&mut process) {
                return Self { process, config, port };
            }
        }
        panic!("mosquitto found no free port in {PORT_TRIES} tries");
    }

    /// Ends it without a chance to say goodbye.
    pub fn kill(&mut self) {
        self.process.signal("KILL");
        self.process.finish(SOON);
    }

    /// Stops it in the middle of what it does; its connections stay open.
    pub fn freeze(&self) {
        self.process.signal("STOP");
    }

    /// After [`Self::kill`]: on the same port, with nothing remembered.
    pub fn restart(&mut self) {
        self.process = start(&self.config);
        assert!(is_up(&mut self.process), "mosquitto did not come back\n{}", self.process.story());
    }

    /// Waits for a line of its log.
    pub fn log_line(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        self.process.line_where(SOON, what, |line| wanted(line).then(|| line.to_owned()))
    }

    /// What it has logged so far.
    pub fn story(&mut self) -> String {
        self.process.story()
    }
}

/// A message as mosquitto_sub printed it.
#[derive(Debug)]
pub struct Arrived {
    pub retained: bool,
    pub topic: String,
    pub payload: String,
}

/// A mosquitto_sub on `taktbus/#`.
pub struct Subscriber(Process);

impl Subscriber {
    pub fn new(broker: &Broker, access: &Access) -> Self {
        let mut command = Peer::MosquittoSub.command();
        command.args(["-h", "127.0.0.1", "-p", &broker.port.to_string()]);
        command.args(["-q", "1", "-t", "taktbus/#", "-F", "%r %t %p"]);
        if let Some(ca) = &access.ca {
            command.arg("--cafile").arg(ca);
        }
        if let Some((user, password)) = access.user {
            command.args(["-u", user, "-P", password]);
        }
        Self(Process::start("mosquitto_sub", &mut command))
    }

    /// The next message that `wanted` accepts, and what it made of it.
    pub fn message_where<T>(&mut self, what: &str, wanted: impl Fn(&Arrived) -> Option<T>) -> T {
        self.message_within(SOON, what, wanted)
    }

    pub fn message_within<T>(
        &mut self,
        within: Duration,
        what: &str,
        wanted: impl Fn(&Arrived) -> Option<T>,
    ) -> T {
        self.0.line_where(within, what, |line| parse(line).and_then(|message| wanted(&message)))
    }
}

/// Makes an authority of its own and a certificate for 127.0.0.1: `NAME-ca.pem`, `NAME.pem`, `NAME.key`.
pub fn certificates(folder: &Folder, name: &str) {
    let file = |end: &str| folder.path(&format!("{name}{end}")).display().to_string();
    let (ca, ca_key, key) = (file("-ca.pem"), file("-ca.key"), file(".key"));
    let (request, certificate) = (file(".csr"), file(".pem"));
    let extensions = folder.write(&format!("{name}.ext"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n");
    let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    openssl(&[
        &[
            "req",
            "-x509",
            "-days",
            "2",
            "-subj",
            &format!("/CN={name} authority"),
            "-keyout",
            &ca_key,
            "-out",
            &ca,
        ],
        &["-addext", "keyUsage=critical,keyCertSign"],
        &new_key[..],
    ]);
    openssl(&[&["req", "-subj", "/CN=127.0.0.1", "-keyout", &key, "-out", &request], &new_key[..]]);
    let extensions = extensions.display().to_string();
    openssl(&[
        &["x509", "-req", "-days", "2", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"],
        &["-extfile", &extensions, "-out", &certificate],
    ]);
}

fn openssl(arguments: &[&[&str]]) {
    succeed(Peer::Openssl.command().args(arguments.concat()));
}

/// Writes a mosquitto password file with one user.
pub fn password_file(folder: &Folder, user: &str, password: &str) -> PathBuf {
    let path = folder.path("passwords");
    succeed(Peer::MosquittoPasswd.command().arg("-b").arg("-c").arg(&path).args([user, password]));
    path
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn start(config: &PathBuf) -> Process {
    Process::start("mosquitto", Peer::Mosquitto.command().arg("-c").arg(config))
}

/// Waits until it listens; `false` when its port was taken.
fn is_up(process: &mut Process) -> bool {
    process.line_where(SOON, "running broker", |line| match line {
        _ if line.ends_with(" running") => Some(true),
        _ if line.contains("Address already in use") => Some(false),
        _ => None,
    })
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn parse(line: &str) -> Option<Arrived> {
    let (retained, rest) = line.split_once(' ')?;
    let (topic, payload) = rest.split_once(' ')?;
    let retained = match retained {
        "0" => false,
        "1" => true,
        _ => return None,
    };
    Some(Arrived { retained, topic: topic.to_owned(), payload: payload.to_owned() })
}
