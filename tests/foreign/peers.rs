//! Where the foreign programs are, and how the Modbus ones are started and told what to do.

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::SOON;
use crate::folder::Folder;
use crate::process::Process;

/// A program that we did not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Pymodbus,
    Libmodbus,
    Mosquitto,
    MosquittoSub,
    MosquittoPasswd,
    Mbpoll,
    Socat,
    Openssl,
    CheckJsonschema,
    Asyncua,
    Hypercorn,
    OpentelemetryProto,
    NodeOpcua,
    Faketime,
    Promtool,
}

impl Peer {
    pub const ALL: [Self; 15] = [
        Self::Pymodbus,
        Self::Libmodbus,
        Self::Mosquitto,
        Self::MosquittoSub,
        Self::MosquittoPasswd,
        Self::Mbpoll,
        Self::Socat,
        Self::Openssl,
        Self::CheckJsonschema,
        Self::Asyncua,
        Self::Hypercorn,
        Self::OpentelemetryProto,
        Self::NodeOpcua,
        Self::Faketime,
        Self::Promtool,
    ];

    /// Its executable, where it is installed.
    pub fn path(self) -> Option<PathBuf> {
        match self {
            // The interpreter of the virtual environment is only there once pymodbus was installed into it.
            Self::Pymodbus => Some(folder().join("venv/bin/python")).filter(|path| path.exists()),
            Self::Asyncua => installed("asyncua"),
            Self::Hypercorn => installed("hypercorn"),
            Self::OpentelemetryProto => installed("opentelemetry"),
            Self::NodeOpcua => in_path("node").filter(|_| node().join("stamp").exists()),
            Self::Libmodbus => Some(folder().join("libmodbus_server")).filter(|path| path.exists()),
            Self::Mosquitto => in_path("mosquitto"),
            Self::MosquittoSub => in_path("mosquitto_sub"),
            Self::MosquittoPasswd => in_path("mosquitto_passwd"),
            Self::Mbpoll => in_path("mbpoll"),
            Self::Promtool => {
                Some(folder().join("promtool")).filter(|path| path.exists()).or_else(|| in_path("promtool"))
            }
            Self::Socat => in_path("socat"),
            Self::Openssl => in_path("openssl"),
            // A library, not a program: where Debian has it, by architecture.
            Self::Faketime => library("faketime/libfaketimeMT.so.1"),
            Self::CheckJsonschema => {
                Some(folder().join("venv/bin/check-jsonschema")).filter(|path| path.exists())
            }
        }
    }

    /// A command that runs it. Call only after [`needs!`] has found it.
    pub fn command(self) -> Command {
        let mut command = Command::new(self.path().unwrap_or_else(|| panic!("{self:?} is not installed")));
        if self == Self::NodeOpcua {
            command.env("NODE_PATH", node().join("node_modules"));
        }
        command
    }

    /// Why `tests/run` could not provide it, where that may be.
    pub fn excuse(self) -> Option<String> {
        let reason = (self == Self::NodeOpcua).then(|| node().join("skipped"))?;
        std::fs::read_to_string(reason).ok().map(|reason| reason.trim().to_owned())
    }
}

/// Leaves the test (saying so) when one of the peers is missing; fails it when `tests/run` promised them all.
macro_rules! needs {
    ($($peer:ident),+) => {
        $(if $crate::peers::Peer::$peer.path().is_none() {
            let excuse = $crate::peers::Peer::$peer.excuse();
            let reason = excuse.as_deref().unwrap_or("it is not installed");
            let line = format!("skipped: {} needs {}: {reason}", module_path!(), stringify!($peer));
            assert!(excuse.is_some() || !$crate::peers::required(), "{line}");
            $crate::peers::say(&line);
            return;
        })+
    };
}
pub(crate) use needs;

/// Did `tests/run` promise that every peer is there?
pub fn required() -> bool {
    env::var_os("TAKTBUS_PEERS").is_some()
}

/// To stderr past libtest's capture (which takes only the print macros), so that it is seen in a passing run.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A Modbus server and its control line.
pub struct Device {
    process: Process,
    /// Where it listens: a port, or the path of a serial line.
    pub place: String,
}

impl Device {
    /// pymodbus on a free port; `kind` is `tcp` or `rtu-over-tcp`.
    pub fn pymodbus(kind: &str) -> Self {
        Self::started("pymodbus", pymodbus().args([kind, "0"]))
    }

    /// pymodbus on a serial line.
    pub fn pymodbus_on(line: &Path, baud: u32) -> Self {
        Self::started("pymodbus", pymodbus().arg("rtu").arg(line).arg(baud.to_string()))
    }

    /// libmodbus over TCP on a free port. It answers every unit id with the numbers of unit 1.
    pub fn libmodbus() -> Self {
        Self::started("libmodbus", Peer::Libmodbus.command().arg("0"))
    }

    /// libmodbus on a serial line, as unit 1.
    pub fn libmodbus_on(line: &Path, baud: u32) -> Self {
        Self::started("libmodbus", Peer::Libmodbus.command().arg(line).arg(baud.to_string()))
    }

    /// Overrides registers or bits.
    pub fn set(&mut self, unit: u8, table: &str, address: u16, words: &[u16]) {
        let words = words.iter().map(|word| format!(" {word}")).collect::<String>();
        self.tell(&format!("set {unit} {table} {address}{words}"));
    }

    /// Sends a control command (see `tests/peers/`) and waits until it is carried out.
    pub fn tell(&mut self, command: &str) {
        self.process.write_line(command);
        let answer = self.process.line_where(SOON, command, |line| Some(line.to_owned()));
        assert!(answer == "ok" || answer.starts_with("listening "), "{command}: {answer}");
    }

    /// How often the register that counts its reads (`count ADDRESS`) was read.
    pub fn reads(&mut self, unit: u8) -> u64 {
        self.process.write_line(&format!("reads {unit}"));
        self.process.line_where(SOON, "reads", |line| line.strip_prefix("reads ")?.parse().ok())
    }

    fn started(name: &'static str, command: &mut Command) -> Self {
        let mut process = Process::start(name, command);
        let place =
            process.line_where(SOON, "listening", |line| line.strip_prefix("listening ").map(str::to_owned));
        Self { process, place }
    }
}

/// A pair of ptys joined by socat: what one side writes, the other reads.
pub struct SerialPair {
    _socat: Process,
    /// The gateway's end.
    pub ours: PathBuf,
    /// The device's end.
    pub theirs: PathBuf,
}

impl SerialPair {
    pub fn new(folder: &Folder) -> Self {
        let (ours, theirs) = (folder.path("line-gateway"), folder.path("line-device"));
        let end = |path: &Path| format!("pty,raw,echo=0,link={}", path.display());
        let mut socat =
            Process::start("socat", Peer::Socat.command().args(["-d", "-d", &end(&ours), &end(&theirs)]));
        socat.line_where(SOON, "ptys", |line| line.contains("starting data transfer loop").then_some(()));
        Self { _socat: socat, ours, theirs }
    }
}

/// A serial device server: a line on one side, a port on the other.
pub struct Bridge {
    _socat: Process,
    /// The end that a client takes: a port, or the path of a terminal.
    pub place: String,
}

impl Bridge {
    /// A terminal that leads to a port.
    pub fn line_to_port(folder: &Folder, port: &str) -> Self {
        let path = folder.path("bridge");
        let end = format!("pty,raw,echo=0,link={}", path.display());
        let mut socat = Self::socat(&[&end, &format!("tcp:127.0.0.1:{port}")]);
        socat.line_where(SOON, "bridge", |line| line.contains("starting data transfer loop").then_some(()));
        Self { _socat: socat, place: path.display().to_string() }
    }

    /// A port that leads to a terminal, for one client after the other.
    pub fn port_to_line(line: &Path) -> Self {
        let end = format!("{},raw,echo=0", line.display());
        let mut socat = Self::socat(&["tcp-listen:0,bind=127.0.0.1,fork", &end]);
        // `… listening on AF=2 127.0.0.1:34567`
        let port = |line: &str| line.split_once("listening on")?.1.rsplit(':').next().map(str::to_owned);
        let place = socat.line_where(SOON, "port", port);
        Self { _socat: socat, place }
    }

    fn socat(ends: &[&str]) -> Process {
        Process::start("socat", Peer::Socat.command().args(["-d", "-d"]).args(ends))
    }
}

fn pymodbus() -> Command {
    let mut command = Peer::Pymodbus.command();
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/pymodbus_server.py"));
    command
}

/// What `tests/run` filled: given by it, else beside the other build products.
fn folder() -> PathBuf {
    match env::var_os("TAKTBUS_PEERS") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_TARGET_TMPDIR")).join("../peers"),
    }
}

/// Where npm has put its packages.
fn node() -> PathBuf {
    folder().join("node")
}

/// The interpreter, where this was installed too: an older environment has it without.
fn installed(stamp: &str) -> Option<PathBuf> {
    let venv = folder().join("venv");
    Some(venv.join("bin/python")).filter(|path| path.exists() && venv.join(stamp).exists())
}

/// A library below the folders that Debian has one of for each architecture.
fn library(name: &str) -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok);
    folders.map(|folder| folder.path().join(name)).find(|file| file.is_file())
}

/// Debian keeps mosquitto in `/usr/sbin`, which is not on every user's path.
fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}
