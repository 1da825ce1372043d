//! Servers that mean no good, or have lost their mind: whatever they send, it ends in an error and another try, it costs bounded memory, and
//! nobody else notices.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../opcua/plant.rs"]
mod plant;

use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use plant::{PRESS, Plant, Watch, at};

/// The memory that is measured is that of the whole program: one test at a time.
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// More than a hostile server may cost.
const MOST_MIB: u64 = 16;

/// A well-formed Acknowledge (OPC UA Part 6, 7.1.2.4): version 0, buffers of 64 KiB, no limits.
fn acknowledge() -> Vec<u8> {
    let mut bytes = b"ACKF".to_vec();
    for word in [28u32, 0, 65_536, 65_536, 0, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes
}

/// A chunk of an answer that says to be so long, to request 1.
fn chunk(kind: &[u8; 4], size: u32, sequence: u32) -> Vec<u8> {
    let mut bytes = kind.to_vec();
    for word in [size, 1, 1, sequence, 1] {
        bytes.extend(word.to_le_bytes());
    }
    bytes
}

/// What a server sends, again and again; the number of the turn comes along.
type Script = fn(u32) -> Vec<u8>;

const SCRIPTS: [(&str, Script); 8] = [
    ("zeros without an end", |_| vec![0; 4096]),
    (
        "an acknowledge of 4 GiB",
        |turn| if turn == 0 { b"ACKF\xF0\xFF\xFF\xFF".to_vec() } else { vec![0; 65_536] },
    ),
    ("an acknowledge that is too short", |_| b"ACKF\x08\0\0\0".to_vec()),
    ("an error with a text of 2 GiB", |_| b"ERRF\x10\0\0\0\0\0\x05\x80\xFF\xFF\xFF\x7F".to_vec()),
    ("a chunk of 4 GiB", |turn| match turn {
        0 => acknowledge(),
        1 => chunk(b"OPNF", u32::MAX, 1),
        _ => vec![0x41; 65_536],
    }),
    ("chunks without a last one", |turn| match turn {
        0 => acknowledge(),
        _ => {
            let mut bytes = chunk(b"MSGC", 65_536, turn);
            bytes.resize(65_536, 0);
            bytes
        }
    }),
    ("a byte now and then", |turn| match turn {
        0 => acknowledge(),
        turn => vec![turn as u8],
    }),
    ("another protocol", |_| b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
];

async fn recite(listener: TcpListener, script: Script) {
    let mut clients = JoinSet::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        clients.spawn(async move {
            let mut heard = [0; 256];
            let _ = stream.read(&mut heard).await;
            for turn in 0.. {
                if stream.write_all(&script(turn)).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        });
    }
}

fn rss_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[test]
fn a_hostile_server_costs_little_and_harms_nobody() {
    let _alone = ALONE.lock();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(hostile_servers());
}

async fn hostile_servers() {
    let plant = Plant::start(0, &["urn:plant"], None).await;
    plant.add("urn:plant", "Speed", 0i32);
    let device = format!("{PRESS}      speed: {{node: s=Speed}}\n");
    let mut healthy = Watch::start(&at(plant.address), &device, None);
    healthy.until("speed", "0").await;
    let mut number = 0;
    for (name, script) in SCRIPTS {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let before = rss_mib();
        let reciting = AbortOnDropHandle::new(tokio::spawn(recite(listener, script)));
        let mut victim = Watch::start(&at(address), &device, None);
        victim.until("speed", "bad: offline").await;
        let until = Instant::now() + Duration::from_millis(1_500);
        while Instant::now() < until {
            number += 1;
            plant.set("urn:plant", "Speed", number);
            healthy.until("speed", &number.to_string()).await;
            assert!(healthy.online, "{name}");
            let grown = rss_mib().saturating_sub(before);
            assert!(grown <= MOST_MIB, "{name}: {grown} MiB");
            sleep(Duration::from_millis(20)).await;
        }
        drop(reciting);
        victim.stop().await;
    }
    healthy.stop().await;
}

/// What is done to the bytes of an honest server.
#[derive(Clone, Debug)]
enum Harm {
    Flips(u8),
    Becomes([u8; 4]),
    Cuts,
    Repeats,
}

fn harms() -> impl Strategy<Value = Vec<(usize, Harm)>> {
    let harm = prop_oneof![
        any::<u8>().prop_map(Harm::Flips),
        any::<[u8; 4]>().prop_map(Harm::Becomes),
        Just(Harm::Becomes([0xFF; 4])),
        Just(Harm::Becomes([0xFF, 0xFF, 0xFF, 0x7F])),
        Just(Harm::Cuts),
        Just(Harm::Repeats),
    ];
    prop::collection::vec((8usize..6_000, harm), 1..4)
}

/// Between client and server: from the server's side, some bytes are harmed, by their place in what it sends.
async fn meddle(listener: TcpListener, server: std::net::SocketAddr, harms: Vec<(usize, Harm)>) {
    let mut clients = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        let harms = harms.clone();
        clients.spawn(async move {
            let Ok(far) = TcpStream::connect(server).await else { return };
            let ((mut from_near, mut to_near), (mut from_far, mut to_far)) =
                (near.into_split(), far.into_split());
            let up = async {
                let _ = tokio::io::copy(&mut from_near, &mut to_far).await;
            };
            let down = async {
                let (mut sent, mut buffer) = (0, vec![0; 16_384]);
                while let Ok(count @ 1..) = from_far.read(&mut buffer).await {
                    let mut bytes = buffer[..count].to_vec();
                    for (place, harm) in &harms {
                        let Some(at) = place.checked_sub(sent).filter(|at| *at < count) else { continue };
                        match harm {
                            Harm::Flips(bits) => bytes[at] ^= bits,
                            Harm::Becomes(word) => {
                                for (byte, new) in bytes[at..].iter_mut().zip(word) {
                                    *byte = *new;
                                }
                            }
                            Harm::Cuts => return,
                            Harm::Repeats => bytes.extend_from_slice(&buffer[..count]),
                        }
                    }
                    sent += count;
                    if to_near.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = up => {}
                () = down => {}
            }
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 25, max_shrink_iters: 0, ..ProptestConfig::default() })]

    /// A session over a meddler does not panic, does not hang when it's told to stop, and stays within its memory.
    #[test]
    fn no_harm_to_an_honest_servers_bytes_harms_the_gateway(harms in harms()) {
        let _alone = ALONE.lock();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let plant = Plant::start(0, &["urn:plant"], None).await;
            plant.add("urn:plant", "Speed", 1i32);
            plant.add("urn:plant", "Temps", vec![1.5f32; 50]);
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let _meddling = AbortOnDropHandle::new(tokio::spawn(meddle(listener, plant.address, harms)));
            let points = "      speed: {node: s=Speed}\n      temps: {node: s=Temps}\n      slow: {node: s=Temps, rate: slow}\n";
            let mut watch = Watch::start(&at(address), &format!("{PRESS}{points}"), None);
            let until = Instant::now() + Duration::from_millis(400);
            while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                let _ = timeout(left, watch.next()).await;
            }
            timeout(Duration::from_secs(10), watch.stop()).await.expect("it ends when it's told to");
        });
    }
}
