//! `taktbus run --or-last-good`: a gateway that can't run its site file runs what ran well last.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use taktbus::config::{LoadOptions, load};
use taktbus::runtime::last_good::{FAILED_STARTS, save};
use tokio::time::Instant;

/// A machine may stall for seconds.
const SOON: Duration = Duration::from_secs(60);

struct Bench {
    folder: PathBuf,
    port: u16,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A gateway that runs; it ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

impl Bench {
    /// A state directory in which a site with the device `before` and a profile ran well last.
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("taktbus-last-good-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("mappings")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let bench = Self { folder, port };
        bench.write("mappings/own.yaml", "profile: own\npoints: {x: {holding: 1, type: uint16}}\n");
        bench.site("before");
        let loaded = load(&bench.path("site.yaml"), &LoadOptions::default());
        fs::create_dir_all(bench.path("state")).unwrap();
        save(&bench.path("state"), &loaded.site.unwrap().files).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// A sound site with this device. Nobody answers it, and its broker is not there.
    fn site(&self, device: &str) {
        let text = format!(
            "site: test\nlisten: {{http: '127.0.0.1:{}'}}\nconnections:\n  bus: {{tcp: '127.0.0.1:1'}}\ndevices:\n  \
             {device}: {{via: bus, unit_id: 1, profile: own, every: 1s}}\n\
             publish:\n  local: {{mqtt: 'mqtt://127.0.0.1:1', user: u, password: {{file: secret}}}}\n",
            self.port
        );
        self.write("site.yaml", &text);
        self.write("secret", "s3cret");
    }

    fn start(&self) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_taktbus"));
        command.arg("run").arg(self.path("site.yaml")).arg("--or-last-good");
        command.arg("--state").arg(self.path("state")).arg("--control").arg(self.path("control"));
        let log = fs::File::create(self.path("log")).unwrap();
        Running(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    /// Waits until `/metrics` has this line.
    fn until(&self, gateway: &mut Running, line: &str) {
        let deadline = Instant::now() + SOON;
        while !metrics(self.port).is_some_and(|text| text.lines().any(|found| found == line)) {
            let log = || fs::read_to_string(self.path("log")).unwrap();
            assert!(gateway.0.try_wait().unwrap().is_none(), "it ended\n{}", log());
            assert!(Instant::now() < deadline, "{line}: not in time\n{}", log());
            std::thread::yield_now();
        }
    }
}

fn metrics(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

fn has_device(name: &str) -> String {
    format!("taktbus_device_online{{connection=\"bus\",device=\"{name}\"}} 0")
}

fn reload(control: &Path) -> bool {
    let told =
        Command::new(env!("CARGO_BIN_EXE_taktbus")).arg("reload").arg("--control").arg(control).output();
    told.unwrap().status.success()
}

#[test]
fn a_broken_site_file_does_not_stop_a_gateway_that_ran() {
    let bench = Bench::new("broken");
    bench.write("site.yaml", "site: test\nconnections: [");
    // The copy has the profile too, in whatever state the one beside the site file is.
    bench.write("mappings/own.yaml", "points: 7");
    let mut gateway = bench.start();
    bench.until(&mut gateway, "taktbus_stands_in 1");
    bench.until(&mut gateway, &has_device("before"));
    let log = fs::read_to_string(bench.path("log")).unwrap();
    assert!(log.contains("what ran well last runs in its place"), "{log}");
    assert!(!log.contains("s3cret") && !log.contains("secret can't"), "{log}");

    assert!(!reload(&bench.path("control")), "the file is still broken");
    bench.write("mappings/own.yaml", "profile: own\npoints: {x: {holding: 1, type: uint16}}\n");
    bench.site("after");
    assert!(reload(&bench.path("control")));
    bench.until(&mut gateway, "taktbus_stands_in 0");
    bench.until(&mut gateway, &has_device("after"));
}

#[test]
fn without_anything_that_ran_a_broken_site_file_ends_the_start() {
    let bench = Bench::new("first");
    fs::remove_dir_all(bench.path("state")).unwrap();
    bench.write("site.yaml", "site: test\nconnections: [");
    let mut gateway = bench.start();
    assert_eq!(gateway.0.wait().unwrap().code(), Some(2));
}

#[test]
fn a_configuration_that_ends_the_gateway_again_and_again_is_replaced_by_the_last_good_one() {
    let bench = Bench::new("loop");
    bench.site("bad");
    for _ in 0..FAILED_STARTS {
        let mut gateway = bench.start();
        bench.until(&mut gateway, &has_device("bad"));
        drop(gateway);
    }
    let mut gateway = bench.start();
    bench.until(&mut gateway, "taktbus_stands_in 1");
    bench.until(&mut gateway, &has_device("before"));
    drop(gateway);
    // Something else is tried again.
    bench.site("better");
    let mut gateway = bench.start();
    bench.until(&mut gateway, &has_device("better"));
    bench.until(&mut gateway, "taktbus_stands_in 0");
}
