//! Power cuts on real file systems: the shutdown ioctl drops what was not synced (ext4 and XFS on loop devices); and how much is written to such a disk.
//!
//! Needs root, and a kernel that permits loop mounts; elsewhere the tests say that they were left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::SOON;
use crate::broker::Broker;
use crate::folder::Folder;
use crate::gateway::{Gateway, taktbus};
use crate::peers::{Device, needs, say};
use crate::store::{Chance, Key, delivered, is_long, judge, site, start, waiting_if_any};
use crate::tap::{Seen, Tap};
use taktbus::model::time::Stamp;

/// How long a message may be accepted and not durable, in the site file; milliseconds.
const SYNC: i64 = 200;
/// What a power cut may cost: that, the fdatasync itself and the moment until it's begun, and the wait for the cut. Twenty milliseconds
/// pass from one poll to the next.
const USUAL: i64 = SYNC + 200 + 20;
/// What it may cost at a moment when the machine stands still.
const STALLED: i64 = 5_000;

/// A disk that can lose its power.
struct Disk {
    image: PathBuf,
    mount: PathBuf,
    device: String,
}

impl Disk {
    /// `None`, and says why: it can't be had here.
    fn new(folder: &Folder, kind: &str) -> Option<Self> {
        let (image, mount) = (folder.path("disk.img"), folder.path("disk"));
        std::fs::File::create(&image).unwrap().set_len(320 << 20).unwrap();
        std::fs::create_dir_all(&mount).unwrap();
        let made = run(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image));
        let device = made.and_then(|_| run(Command::new("losetup").args(["-f", "--show"]).arg(&image)));
        let disk = device.map(|device| Self { image, mount, device: device.trim().to_owned() });
        disk.and_then(|disk| disk.mount().map(|()| disk))
            .inspect_err(|error| say(&format!("LEFT OUT: power cuts on {kind}: {error}")))
            .ok()
    }

    fn mount(&self) -> Result<(), String> {
        run(Command::new("mount").arg(&self.device).arg(&self.mount)).map(|_| ())
    }

    /// Everything that was not synced is gone, and the file system answers EIO (the same ioctl for both: XFS_IOC_GOINGDOWN). Says when:
    /// milliseconds since 1970.
    fn cut(&self) -> i64 {
        let script = "import fcntl, os, struct, sys, time\n\
                      folder = os.open(sys.argv[1], os.O_RDONLY)\n\
                      print(int(time.time() * 1000))\n\
                      fcntl.ioctl(folder, 0x8004587d, struct.pack('I', 2))";
        let cut = run(Command::new("python3").args(["-c", script]).arg(&self.mount));
        cut.unwrap_or_else(|error| panic!("the shutdown ioctl: {error}")).trim().parse().unwrap()
    }

    /// Bytes written to the device so far, with what the kernel still held back.
    fn written(&self) -> u64 {
        run(Command::new("sync").arg("-f").arg(&self.mount)).unwrap();
        let name = self.device.trim_start_matches("/dev/");
        let stat = std::fs::read_to_string(format!("/sys/block/{name}/stat")).unwrap();
        // Documentation/block/stat.rst: the seventh field, in sectors of 512 bytes whatever the device's are.
        stat.split_whitespace().nth(6).unwrap().parse::<u64>().unwrap() * 512
    }

    /// The power is back.
    fn restore(&self) {
        run(Command::new("umount").arg(&self.mount)).unwrap();
        self.mount().unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg("-l").arg(&self.mount));
        let _ = run(Command::new("losetup").arg("-d").arg(&self.device));
        let _ = std::fs::remove_file(&self.image);
    }
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
    }
}

#[test]
fn power_cuts_on_ext4_lose_nothing_that_was_durable() {
    power_cuts("ext4", if is_long() { 1500 } else { 75 });
}

#[test]
fn power_cuts_on_xfs_lose_nothing_that_was_durable() {
    power_cuts("xfs", if is_long() { 500 } else { 25 });
}

fn power_cuts(kind: &str, cuts: usize) {
    needs!(Pymodbus, Mosquitto);
    let seed = u64::from(std::process::id()) << 20 | 1;
    let mut chance = Chance(seed);
    let folder = Folder::new(&format!("power-{kind}"));
    let Some(disk) = Disk::new(&folder, kind) else { return };
    let device = Device::pymodbus("tcp");
    let mut broker = Broker::open(&folder);
    let tap = Tap::before(broker.port);
    let text = format!("{}store: {{size: 64MiB, sync: {}ms}}\n", site(&device.place, tap.port), SYNC);
    let path = folder.write("site.yaml", &text);
    broker.kill();
    let state = disk.mount.join("state");
    let mut durable = BTreeMap::new();
    let mut costs = Vec::new();
    for _ in 0..cuts {
        let mut gateway = start(&path, &state);
        std::thread::sleep(Duration::from_millis(chance.below(1_000)));
        let cut = disk.cut();
        std::thread::sleep(Duration::from_millis(chance.below(100)));
        gateway.signal("KILL");
        gateway.finish(SOON);
        disk.restore();
        let survivors = survivors(&state);
        let lost: Vec<_> = durable.keys().filter(|key| !survivors.contains_key(key)).collect();
        assert!(lost.is_empty(), "{lost:?} had survived a power cut before (seed {seed})");
        whole(survivors.keys(), seed);
        // Sampled without a pause, so what is missing is what came after the last.
        let of_this_run = survivors.iter().filter(|(key, _)| !durable.contains_key(key));
        costs.extend(of_this_run.map(|(_, at)| *at).max().map(|last| cut - last));
        durable = survivors;
    }
    costs.sort_unstable();
    assert!(costs.len() > cuts / 4, "{} of {cuts} runs left something durable (seed {seed})", costs.len());
    let (usual, worst) = (costs[costs.len() * 9 / 10], costs[costs.len() - 1]);
    say(&format!("{cuts} power cuts on {kind}: 90 % cost at most the last {usual} ms, the worst {worst} ms"));
    assert!(usual <= USUAL && worst <= STALLED, "{usual}, {worst} ms (seed {seed})");

    broker.restart();
    // Live messages go first, and on a machine that is busy with other tests nothing would be left for the others.
    let path = folder.write("drain.yaml", &text.replace("every: 20ms", "every: 1s"));
    let gateway = Gateway(start(&path, &state));
    let durable: BTreeSet<Key> = durable.into_keys().collect();
    tap.wait(Duration::from_secs(120), "everything durable", |seen| {
        let delivered = delivered(seen);
        durable.iter().all(|key| delivered.contains(key))
    });
    gateway.end();
    let (left, gaps) = waiting_if_any(&state);
    assert!(gaps.is_empty(), "{gaps:?}");
    assert!(durable.len() > 50, "{} messages were durable", durable.len());
    tap.look(|seen| judge(seen, &durable, &left, seed));
}

/// What is in the store, and when it was sampled, in milliseconds since 1970.
fn survivors(state: &Path) -> BTreeMap<Key, i64> {
    if !state.join("store/local").exists() {
        return BTreeMap::new();
    }
    let output = taktbus().args(["store", "export", "--state"]).arg(state).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let survivor = |line: &str| {
        let json: serde_json::Value = serde_json::from_str(line).unwrap();
        let number = |name: &str| json[name].as_u64().unwrap();
        let key = (json["device"].as_str().unwrap().to_owned(), number("epoch"), number("seq"));
        let ts = json["payload"]["ts"].as_str().unwrap();
        (key, Stamp::parse(ts).unwrap().unix_millis())
    };
    lines.lines().map(survivor).collect()
}

/// What has survived of a device and epoch begins at 0 and has no hole.
fn whole<'k>(survivors: impl Iterator<Item = &'k Key>, seed: u64) {
    let mut next = BTreeMap::<(&str, u64), u64>::new();
    for (device, epoch, seq) in survivors {
        let expected = next.entry((device, *epoch)).or_default();
        assert_eq!(seq, expected, "{device} {epoch} has a hole (seed {seed})");
        *expected += 1;
    }
}

/// A file system that takes nothing, until this is dropped.
struct Frozen<'d>(&'d Disk);

impl<'d> Frozen<'d> {
    fn new(disk: &'d Disk) -> Self {
        run(Command::new("fsfreeze").arg("-f").arg(&disk.mount)).unwrap();
        Self(disk)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let _ = run(Command::new("fsfreeze").arg("-u").arg(&self.0.mount));
    }
}

#[test]
fn a_disk_that_stands_still_for_five_seconds_holds_up_nobody() {
    needs!(Pymodbus, Mosquitto);
    let folder = Folder::new("still");
    let Some(disk) = Disk::new(&folder, "ext4") else { return };
    let device = Device::pymodbus("tcp");
    let mut broker = Broker::open(&folder);
    let tap = Tap::before(broker.port);
    let path = folder.write("site.yaml", &site(&device.place, tap.port));
    let state = disk.mount.join("state");
    let gateway = Gateway(start(&path, &state));
    tap.wait(SOON, "the first messages", |seen| seen.acked() >= 100);
    let in_five_seconds = || {
        let before = tap.look(Seen::acked);
        std::thread::sleep(Duration::from_secs(5));
        tap.look(Seen::acked) - before
    };
    let usual = in_five_seconds();
    let frozen = Frozen::new(&disk);
    let during = in_five_seconds();
    drop(frozen);
    say(&format!("in five seconds: {usual} messages, and {during} while the disk stood still"));
    assert!(during * 10 >= usual * 7, "{usual} and {during}");
    // It takes messages again.
    broker.kill();
    let known = waiting_if_any(&state).0;
    let deadline = tokio::time::Instant::now() + SOON;
    while waiting_if_any(&state).0.difference(&known).count() < 100 {
        assert!(tokio::time::Instant::now() < deadline, "the store takes nothing");
        std::thread::sleep(Duration::from_millis(100));
    }
    gateway.end();
}

/// How long the wear is measured.
const WEAR: Duration = Duration::from_secs(15);

/// Ten devices, ten messages a second each, of about 250 bytes.
fn hundred_a_second(device: &str, broker: u16) -> String {
    let points: String =
        (1..=5).map(|n| format!("temperature_of_zone_{n}: {{holding: {n}, type: uint16}}, ")).collect();
    let devices = (1..=10).map(|unit| {
        format!("  d{unit}: {{via: peer, unit_id: {unit}, every: 100ms, budget: 1s, points: {{{points}}}}}\n")
    });
    format!(
        "site: test\nconnections:\n  peer: {{tcp: 127.0.0.1:{device}}}\ndevices:\n{}\
         publish:\n  local: {{mqtt: mqtt://127.0.0.1:{broker}}}\n",
        devices.collect::<String>()
    )
}

#[test]
fn what_is_written_to_the_disk_is_at_most_three_times_the_payload() {
    needs!(Pymodbus, Mosquitto);
    let folder = Folder::new("wear");
    let Some(disk) = Disk::new(&folder, "ext4") else { return };
    let device = Device::pymodbus("tcp");
    let broker = Broker::open(&folder);
    let tap = Tap::before(broker.port);
    let path = folder.write("site.yaml", &hundred_a_second(&device.place, tap.port));
    let gateway = Gateway(start(&path, &disk.mount.join("state")));
    let payload = |seen: &Seen| {
        (seen.publishes.len(), seen.publishes.iter().map(|publish| publish.payload.len()).sum::<usize>())
    };
    // The segments are there by then.
    tap.wait(SOON, "the first two seconds", |seen| seen.acked() >= 200);
    let before = (disk.written(), tap.look(payload));
    std::thread::sleep(WEAR);
    let after = (disk.written(), tap.look(payload));
    gateway.end();
    let (written, messages, bytes) = (after.0 - before.0, after.1.0 - before.1.0, after.1.1 - before.1.1);
    let (each, factor) = (bytes / messages, written as f64 / bytes as f64);
    say(&format!(
        "wear: {messages} messages of {each} bytes: {factor:.2} bytes written to the disk per byte of payload"
    ));
    assert!((200..300).contains(&each), "{each}");
    // A machine that stalls has fewer messages per fdatasync.
    let rate = messages as f64 / WEAR.as_secs_f64();
    assert!(factor <= 3.0 || rate < 90.0, "{factor} at {rate} messages a second");
}
