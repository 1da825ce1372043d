//! A store's segments as a disk may give them back: any bytes, and records whose checksums are right but which no program wrote.
//!
//! Laws: a store is opened whatever is in it, but for one of a later version; what is read from it comes in order, and at most once;
//! what is appended behind all that is there after a kill.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use taktbus::budget::OnLate;
use taktbus::metrics::RouteMetrics;
use taktbus::store::disk::{Disk as _, DiskFile as _};
use taktbus::store::format::{self, BLOCK, FRAME, HEADER, Header};
use taktbus::store::memory::Memory;
use taktbus::store::{Event, Log, Op, Opened, Settings, StoreError, Stored};
use taktbus_fuzz::Input;
use tokio::time::Instant;

const DEVICE: &str = "fuzz";

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let mut disk = Memory::default();
    for number in 1..=1 + u64::from(input.byte() % 3) {
        let bytes = segment(number, &mut input);
        let mut file = disk.create(&format::name(number), bytes.len() as u64).expect("a file");
        file.write_at(&bytes, 0).expect("bytes");
    }
    let (mut log, opened) = match open(&disk) {
        Ok(opened) => opened,
        Err(StoreError::Version { version, .. }) => return assert!(version > format::VERSION),
        Err(error) => panic!("{error}"),
    };
    let found = read(&mut log, opened.last_epoch.saturating_add(1));
    assert!(found.is_sorted_by(|a, b| a.position < b.position), "in order, and once");
    assert!(found.iter().all(|message| message.position < opened.next));
    if opened.next >= format::MOST_POSITION {
        return;
    }
    let new = Stored {
        position: opened.next,
        epoch: 1,
        seq: 1,
        at: 1,
        doubted: None,
        late: OnLate::Deliver,
        device: DEVICE.into(),
        topic: "t".into(),
        payload: "{}".into(),
    };
    log.apply(Op::Append(new.clone()));
    log.turn(Instant::now());
    let (mut log, later) = open(&disk.killed()).expect("it was opened before");
    assert!(later.next == new.position + 1, "{} behind {}", later.next, new.position);
    let again = read(&mut log, later.last_epoch.saturating_add(1));
    assert_eq!(again.last(), Some(&new), "what was appended is there");
});

/// A segment: its bytes as they come, or records whose frames are made right, each with a byte of length.
fn segment(number: u64, input: &mut Input) -> Vec<u8> {
    let mode = input.byte();
    if mode & 1 == 0 {
        let count = usize::from(input.word());
        return input.take(count).to_vec();
    }
    let first = if mode & 2 == 0 { u64::from(input.byte()) } else { u64_of(input) };
    let epoch = u64::from(input.byte());
    let mut bytes = Header { number, first, epoch, at: 1 }.encode().to_vec();
    // Some way into a block, so that its end is met.
    if mode & 4 != 0 {
        bytes.resize(BLOCK - 64, 0);
    }
    for _ in 0..input.byte() % 16 {
        let length = usize::from(input.byte());
        let body = input.take(length);
        if body.is_empty() {
            break;
        }
        let at = format::place((bytes.len().max(HEADER)) as u64, body.len());
        bytes.resize(at as usize, 0);
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&format::checksum(number, at, body).to_le_bytes());
        bytes.extend_from_slice(body);
        assert_eq!(bytes.len() as u64, at + (FRAME + body.len()) as u64);
    }
    bytes
}

fn u64_of(input: &mut Input) -> u64 {
    input.take(8).iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn open(disk: &Memory) -> Result<(Log<Memory>, Opened), StoreError> {
    let settings = Settings { size: 4 << 20, age: None, sync: Duration::from_secs(1) };
    Log::open(disk.clone(), settings, Arc::new(RouteMetrics::default()))
}

/// Starts a run and reads all that there is.
fn read(log: &mut Log<Memory>, epoch: u64) -> Vec<Stored> {
    let now = Instant::now();
    log.start(epoch, now);
    while log.is_recovering() {
        log.recover_one(Instant::now());
    }
    log.turn(now);
    let mut found = Vec::new();
    loop {
        log.apply(Op::Read(64 << 10));
        let events = log.turn(now);
        let before = found.len();
        for event in events {
            if let Event::Block { messages, .. } = event {
                found.extend(messages.into_iter().map(|(message, _)| message));
            }
        }
        if found.len() == before {
            return found;
        }
    }
}
