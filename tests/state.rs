//! `taktbus run --state DIR`, the binary itself: what was found out about a device outlives the process.

#![allow(clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

/// How long anything that must happen may take on a machine that is busy with something else.
const SOON: Duration = Duration::from_secs(60);

/// Registers that the device leaves out of an answer over them, without an error.
const HOLE: [u16; 2] = [14, 15];

/// What the device was asked for: address and count.
type Asked = Arc<Mutex<Vec<(u16, u16)>>>;

/// A device whose registers hold their own numbers.
fn serve(listener: TcpListener, asked: Asked) {
    for client in listener.incoming().flatten() {
        let asked = asked.clone();
        thread::spawn(move || answer_all(client, &asked));
    }
}

fn answer_all(mut client: TcpStream, asked: &Asked) -> std::io::Result<()> {
    loop {
        let mut request = [0; 12];
        client.read_exact(&mut request)?;
        let word = |at: usize| u16::from_be_bytes([request[at], request[at + 1]]);
        let (address, count) = (word(8), word(10));
        asked.lock().unwrap().push((address, count));
        let words = (address..).filter(|address| !HOLE.contains(address)).take(count.into());
        let data: Vec<u8> = words.flat_map(u16::to_be_bytes).collect();
        let length = data.len() as u8;
        let head = [&request[..4], &[0, length + 3, request[6], request[7], length]].concat();
        client.write_all(&[head, data].concat())?;
    }
}

/// A running gateway, killed when the test fails.
struct Gateway(Child);

impl Gateway {
    fn run(site: &Path, state: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_taktbus"));
        command.arg("run").arg(site).arg("--state").arg(state).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn end(mut self) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn folder() -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("state-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Is any of these requests over the hole, and not only part of it?
fn over_the_hole(asked: &[(u16, u16)]) -> bool {
    asked.iter().any(|(address, count)| *address < HOLE[0] && address + count > HOLE[1] + 1)
}

#[test]
fn a_hole_that_shifts_is_kept_in_the_state_directory_and_not_tried_after_a_restart() {
    let folder = folder();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Asked::default();
    let seen = asked.clone();
    thread::spawn(move || serve(listener, seen));
    let points: String =
        [10, 11, 12, 13, 16, 17].map(|at| format!("p{at}: {{holding: {at}, type: uint16}}, ")).concat();
    let site = folder.join("site.yaml");
    // Nothing needs to arrive: the broker's port is nobody's.
    let text = format!(
        "site: test\n\
         connections: {{lan: {{tcp: '127.0.0.1:{port}', response_timeout: 10s}}}}\n\
         devices: {{d: {{via: lan, every: 100ms, budget: 30s, limits: {{max_gap: 4}}, points: {{{points}}}}}}}\n\
         publish: {{local: {{mqtt: 'mqtt://127.0.0.1:1'}}}}\n"
    );
    std::fs::write(&site, text).unwrap();
    let state = folder.join("state/of/ours");
    let file = state.join("devices.json");

    let gateway = Gateway::run(&site, &state);
    // Written when it is found, not only at the end.
    until("a ban is written", || file.exists());
    gateway.end();
    let kept: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let link = format!("tcp 127.0.0.1:{port}");
    let ban = serde_json::json!({"link": link, "unit": 1, "table": "holding", "address": 14, "count": 2});
    assert_eq!(kept, serde_json::json!({"version": 1, "not_read_over": [ban]}));
    assert!(over_the_hole(&asked.lock().unwrap()), "it was tried");

    asked.lock().unwrap().clear();
    let gateway = Gateway::run(&site, &state);
    // More than it takes to compare, had it been forgotten.
    until("the device is read", || asked.lock().unwrap().len() >= 40);
    gateway.end();
    let asked = asked.lock().unwrap().clone();
    assert!(!over_the_hole(&asked), "{asked:?}");
    assert!(asked.contains(&(10, 4)) && asked.contains(&(16, 2)), "{asked:?}");

    // And without the file it is found out again.
    std::fs::remove_file(&file).unwrap();
    let gateway = Gateway::run(&site, &state);
    until("a ban is written again", || file.exists());
    gateway.end();
    std::fs::remove_dir_all(folder).unwrap();
}
