//! A wire tap between the gateway and its broker: the only witness of what was acknowledged.
//!
//! A broker that is killed forgets what it had, so no subscriber can tell a loss of the gateway from one of the broker.
//! The tap copies every byte both ways and notes PUBLISH and PUBACK (MQTT 3.1.1, sections 2.2, 3.3, 3.4): a message is
//! delivered when a PUBACK for its packet id passed on the connection that carried it.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

/// A PUBLISH that the gateway sent.
#[derive(Clone, Debug)]
pub struct Publish {
    pub topic: String,
    pub payload: Vec<u8>,
    pub acked: bool,
}

/// What went by.
#[derive(Default)]
pub struct Seen {
    /// In the order of sending.
    pub publishes: Vec<Publish>,
    /// Connections of the gateway that found no broker.
    pub refused: usize,
}

impl Seen {
    pub fn acked(&self) -> usize {
        self.publishes.iter().filter(|publish| publish.acked).count()
    }
}

/// The tap. Its threads end with the test's process.
pub struct Tap {
    pub port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Seen>,
    /// Connections below this number are half open: nothing passes any more, and nobody is told.
    swallowed: AtomicUsize,
    accepted: AtomicUsize,
}

impl Tap {
    /// Listens on a free port and passes everything on to `broker`.
    pub fn before(broker: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::<Shared>::default();
        let seen_by = Arc::clone(&shared);
        thread::spawn(move || {
            for (number, gateway) in listener.incoming().flatten().enumerate() {
                match TcpStream::connect((Ipv4Addr::LOCALHOST, broker)) {
                    Ok(broker) => join(gateway, broker, number, &seen_by),
                    Err(_) => seen_by.note(|seen| seen.refused += 1),
                }
            }
        });
        Self { port, shared }
    }

    /// Waits until what was seen satisfies `enough`. Nothing passes while that looks, so it looks for a fifth of the time at most.
    pub fn wait(&self, within: Duration, what: &str, enough: impl Fn(&Seen) -> bool) {
        let deadline = Instant::now() + within;
        loop {
            let began = Instant::now();
            if self.look(&enough) {
                return;
            }
            if began > deadline {
                let (sent, acked, refused) =
                    self.look(|seen| (seen.publishes.len(), seen.acked(), seen.refused));
                panic!("no {what} within {within:?}: {sent} sent, {acked} acked, {refused} refused");
            }
            thread::sleep((4 * began.elapsed()).max(Duration::from_millis(5)));
        }
    }

    /// What is connected by now becomes half open; connections that follow work.
    pub fn swallow(&self) {
        self.shared.swallowed.store(self.shared.accepted.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    pub fn look<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.shared.seen.lock().unwrap())
    }
}

impl Shared {
    fn note(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().unwrap());
    }
}

/// Copies both directions; a direction that ends takes the other with it.
fn join(gateway: TcpStream, broker: TcpStream, number: usize, shared: &Arc<Shared>) {
    shared.accepted.store(number + 1, Ordering::SeqCst);
    let in_flight = Arc::<Mutex<HashMap<u16, usize>>>::default();
    let _ = (gateway.set_nodelay(true), broker.set_nodelay(true));
    let ends = (gateway.try_clone().unwrap(), broker.try_clone().unwrap());
    let (up_shared, up_flight) = (Arc::clone(shared), Arc::clone(&in_flight));
    let swallowed = |shared: &Arc<Shared>| {
        let shared = Arc::clone(shared);
        move || number < shared.swallowed.load(Ordering::SeqCst)
    };
    let (up, down) = (swallowed(shared), swallowed(shared));
    thread::spawn(move || copy(ends.0, ends.1, up, |packet| note_publish(packet, &up_shared, &up_flight)));
    let down_shared = Arc::clone(shared);
    thread::spawn(move || {
        copy(broker, gateway, down, |packet| note_puback(packet, &down_shared, &in_flight))
    });
}

/// Passes whole packets on, each noted before it leaves, so that no acknowledgement can overtake its note.
fn copy(mut from: TcpStream, mut to: TcpStream, swallowed: impl Fn() -> bool, note: impl Fn(&[u8])) {
    let mut held = Vec::new();
    let mut chunk = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut chunk) {
        if swallowed() {
            continue;
        }
        held.extend_from_slice(&chunk[..length]);
        while let Some(length) = packet_length(&held) {
            note(&held[..length]);
            let sent: io::Result<()> = to.write_all(&held[..length]);
            held.drain(..length);
            if sent.is_err() {
                break;
            }
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

fn note_publish(packet: &[u8], shared: &Shared, in_flight: &Mutex<HashMap<u16, usize>>) {
    if packet[0] >> 4 != 3 {
        return;
    }
    let qos = packet[0] >> 1 & 3;
    let body = &packet[1 + length_bytes(packet)..];
    let (topic, mut rest) = body[2..].split_at(usize::from(u16::from_be_bytes([body[0], body[1]])));
    let id = u16::from_be_bytes([rest[0], rest[1]]);
    if qos > 0 {
        rest = &rest[2..];
    }
    shared.note(|seen| {
        if qos > 0 {
            in_flight.lock().unwrap().insert(id, seen.publishes.len());
        }
        let topic = String::from_utf8_lossy(topic).into_owned();
        seen.publishes.push(Publish { topic, payload: rest.to_vec(), acked: false });
    });
}

fn note_puback(packet: &[u8], shared: &Shared, in_flight: &Mutex<HashMap<u16, usize>>) {
    if packet[0] >> 4 != 4 {
        return;
    }
    let id = u16::from_be_bytes([packet[2], packet[3]]);
    shared.note(|seen| {
        if let Some(at) = in_flight.lock().unwrap().remove(&id) {
            seen.publishes[at].acked = true;
        }
    });
}

/// The length of the packet at the start, once all of it is there.
fn packet_length(held: &[u8]) -> Option<usize> {
    let mut remaining = 0;
    for (at, byte) in held.get(1..)?.iter().take(4).enumerate() {
        remaining |= usize::from(byte & 0x7F) << (7 * at);
        if byte & 0x80 == 0 {
            let whole = 2 + at + remaining;
            return (held.len() >= whole).then_some(whole);
        }
    }
    None
}

/// How many bytes the remaining length takes (section 2.2.3).
fn length_bytes(packet: &[u8]) -> usize {
    1 + packet[1..].iter().take_while(|byte| *byte & 0x80 != 0).count()
}

#[test]
fn a_publish_is_acked_by_the_puback_of_its_id() {
    let (shared, in_flight) = (Shared::default(), Mutex::default());
    let publish = [0x32, 9, 0, 1, b't', 0, 7, b'a', b'b', b'c', b'd'];
    assert_eq!(packet_length(&publish), Some(publish.len()));
    assert_eq!(packet_length(&publish[..10]), None);
    note_publish(&publish, &shared, &in_flight);
    note_puback(&[0x40, 2, 0, 8], &shared, &in_flight);
    assert_eq!(shared.seen.lock().unwrap().acked(), 0);
    note_puback(&[0x40, 2, 0, 7], &shared, &in_flight);
    let seen = shared.seen.lock().unwrap();
    assert_eq!((seen.acked(), seen.publishes[0].topic.as_str()), (1, "t"));
    assert_eq!(seen.publishes[0].payload, b"abcd");
}
