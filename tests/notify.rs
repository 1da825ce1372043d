//! What systemd hears of `taktbus run`: that it runs, that it lives, that it stops.
#![allow(clippy::unwrap_used)]

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The longest that anything may take on a machine that stalls.
const SOON: Duration = Duration::from_secs(30);

struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}

#[test]
fn it_says_when_it_runs_that_it_lives_and_when_it_stops() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("notify-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    // Relative, since a socket's path has 108 bytes at most.
    let manager = {
        std::env::set_current_dir(&folder).unwrap();
        UnixDatagram::bind("manager").unwrap()
    };
    manager.set_read_timeout(Some(SOON)).unwrap();
    // Nobody is there, neither south nor north: it runs all the same.
    let site = "site: hall\nconnections:\n  meters: {tcp: 127.0.0.1:9}\ndevices:\n  main: {via: meters, unit_id: 1, every: 1s, points: \
                {x: {holding: 1, type: uint16}}}\npublish:\n  cloud: {mqtt: mqtt://127.0.0.1:9}\n";
    std::fs::write("site.yaml", site).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_taktbus"));
    command.args(["run", "site.yaml", "--state", "state"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.env("NOTIFY_SOCKET", "manager").env("WATCHDOG_USEC", "300000").env_remove("WATCHDOG_PID");
    let mut gateway = Gateway(command.spawn().unwrap());
    let mut heard = Vec::new();
    let mut until = |wanted: &str| {
        let mut buffer = [0; 1024];
        while !heard.iter().any(|state: &String| state.contains(wanted)) {
            let length =
                manager.recv(&mut buffer).unwrap_or_else(|error| panic!("no {wanted}: {error}; {heard:?}"));
            heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        heard.clone()
    };
    let first = until("READY=1");
    assert!(first[0].starts_with("READY=1\nSTATUS=1 device"), "{first:?}");
    until("WATCHDOG=1");
    until("STATUS=1 device, 1 offline, 1 of 1 routes down");
    let pid = gateway.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    until("STOPPING=1");
    assert!(gateway.0.wait().unwrap().success());
    std::env::set_current_dir("/").unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
}
