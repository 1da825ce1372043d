//! What an idle gateway takes, and how soon a large one begins: the program itself, a Modbus TCP device and an MQTT broker of this process.
//!
//! ```sh
//! cargo bench --bench footprint        # 20 s; or: cargo bench --bench footprint -- 60
//! ```

#![allow(clippy::expect_used)] // a bench that cannot start has nothing to say

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use taktbus::demo::broker::Broker;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Starts of the large site.
const STARTS: usize = 9;

fn main() {
    let seconds = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(20);
    let folder = std::env::temp_dir().join(format!("taktbus-footprint-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let (device, asked) = device();
    let broker = broker();

    write(&folder, &site(device, broker, 10));
    let gateway = Running::start(&folder);
    std::thread::sleep(Duration::from_secs(seconds));
    println!("idle     1 device, 10 points, 1 s, store on: {}", memory(gateway.0.id()));
    drop(gateway);

    write(&folder, &site(device, broker, 1000));
    let mut times: Vec<Duration> = (0..STARTS).map(|_| first_poll(&folder, &asked)).collect();
    times.sort_unstable();
    println!(
        "start    1,000 points: from the process to the first request on the wire {:?} (median of {STARTS}; {:?} to {:?})",
        times[STARTS / 2],
        times[0],
        times[STARTS - 1]
    );
    std::fs::remove_dir_all(&folder).expect("the bench's own folder");
}

fn first_poll(folder: &Path, asked: &Receiver<Instant>) -> Duration {
    let started = Instant::now();
    let _gateway = Running::start(folder);
    // What was asked by the one before may still be on its way.
    loop {
        let at = asked.recv_timeout(Duration::from_secs(30)).expect("a request");
        if at > started {
            return at - started;
        }
    }
}

fn site(device: u16, broker: u16, points: usize) -> String {
    let points: String = (0..points).map(|n| format!("p{n}: {{holding: {n}, type: uint16}}, ")).collect();
    format!(
        "site: bench\nconnections:\n  plant: {{tcp: 127.0.0.1:{device}}}\ndevices:\n  main: {{via: plant, unit_id: 1, every: 1s, points: {{{points}}}}}\n\
         publish:\n  local: {{mqtt: mqtt://127.0.0.1:{broker}}}\n"
    )
}

fn write(folder: &Path, site: &str) {
    std::fs::write(folder.join("site.yaml"), site).expect("a file");
}

/// A device that answers every read with its addresses, and says when it's asked.
fn device() -> (u16, Receiver<Instant>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let sender = sender.clone();
            std::thread::spawn(move || answer(client, &sender));
        }
    });
    (port, receiver)
}

fn answer(mut client: TcpStream, asked: &Sender<Instant>) {
    let mut request = [0; 12];
    while client.read_exact(&mut request).is_ok() {
        let _ = asked.send(Instant::now());
        let word = |at: usize| u16::from_be_bytes([request[at], request[at + 1]]);
        let data: Vec<u8> = (word(8)..).take(word(10).into()).flat_map(u16::to_be_bytes).collect();
        let length = data.len() as u8;
        let head = [&request[..4], &[0, length + 3, request[6], request[7], length]].concat();
        if client.write_all(&[head, data].concat()).is_err() {
            break;
        }
    }
}

fn broker() -> u16 {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let broker = Broker::bind(([127, 0, 0, 1], 0).into()).await.expect("a broker");
            let _ = sender.send(broker.local_addr().port());
            broker.run(CancellationToken::new()).await;
        });
    });
    receiver.recv().expect("a broker")
}

fn memory(pid: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let lines =
        status.lines().filter(|line| ["VmHWM", "VmRSS", "RssAnon"].iter().any(|name| line.starts_with(name)));
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(", ")
}

/// The gateway, with a state directory; it ends with the bench.
struct Running(Child);

impl Running {
    fn start(folder: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_taktbus"));
        command.arg("run").arg(folder.join("site.yaml")).arg("--state").arg(folder.join("state"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(child.expect("the gateway"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = (self.0.kill(), self.0.wait());
    }
}
