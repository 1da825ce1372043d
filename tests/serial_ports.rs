//! Serial ports that do not open, or never fall quiet: each is a state with its reason, and nothing else waits for it.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::task::LocalSet;
use tokio::time::timeout;
use tokio_serial::{SerialPort as _, SerialPortBuilderExt as _, SerialStream};

use sessions::adapters::Adapter;
use sessions::log::Log;
use sessions::{Session, devices};

mod sessions;

/// How long a test may take on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(90);

/// A folder of its own, gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("taktbus-ports-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A response timeout that no busy machine makes a false alarm of, where nothing is said against it.
fn session(port: &Path, more: &str) -> Session {
    let timeout = if more.contains("response_timeout") { "" } else { ", response_timeout: 10s" };
    let connection = format!("rtu: {}, baud: 115200, format: 8N1{timeout}{more}", port.display());
    Session::real(&connection, &devices(&[1], "50ms"))
}

/// Another program, with the port open as they all do it.
fn occupy(port: &Path) -> SerialStream {
    tokio_serial::new(port.to_string_lossy(), 9600).open_native_async().unwrap()
}

#[tokio::test]
async fn a_port_that_does_not_open_is_a_state_with_a_reason_and_the_others_are_read() {
    timeout(PATIENCE, LocalSet::new().run_until(ports_that_do_not_open())).await.unwrap();
}

async fn ports_that_do_not_open() {
    let log = Log::kept();
    let folder = Folder::new("none");
    let (missing, file) = (folder.0.join("missing"), folder.0.join("file"));
    std::fs::write(&file, "no port").unwrap();
    let (late, taken, plain, healthy) = (Adapter::new(1), Adapter::new(2), Adapter::new(3), Adapter::new(4));
    let other_program = occupy(&taken.path);

    let mut well = session(&healthy.path, "");
    well.until(4).await;
    let mut ill = [
        session(&missing, ""),
        session(&taken.path, ""),
        session(&folder.0, ""),
        session(&file, ""),
        session(Path::new("/dev/null"), ""),
        session(&plain.path, ", rs485: true"),
    ];
    for session in &mut ill {
        session.until_offline().await;
    }
    for _ in 0..20 {
        assert_eq!(well.value().await, Ok(4));
    }

    // What was wrong is mended: the next try finds it.
    late.link(&missing);
    ill[0].until(1).await;
    drop(other_program);
    ill[1].until(2).await;

    assert!(ill.iter().all(Session::is_alive));
    let reasons = [
        ("missing: no such device", 1),
        ("busy: another program has it open", 1),
        // The folder, the file, and /dev/null.
        ("this is no serial port", 3),
        ("its driver has no RS-485 mode", 1),
    ];
    for (reason, times) in reasons {
        assert_eq!(log.lines_with(reason), times, "{reason}, once for each:\n{}", log.text());
    }
    for session in ill {
        session.end().await;
    }
    well.end().await;
}

#[tokio::test]
async fn a_babbling_line_is_given_up_and_named_and_the_others_are_read() {
    timeout(PATIENCE, LocalSet::new().run_until(babbling())).await.unwrap();
}

async fn babbling() {
    let log = Log::kept();
    let (mut far, mut near) = SerialStream::pair().unwrap();
    let path = PathBuf::from(near.name().unwrap());
    near.set_exclusive(false).unwrap();
    let _keep = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    drop(near);
    let babbler = tokio::spawn(async move { while far.write_all(&[0x55; 64]).await.is_ok() {} });
    let healthy = Adapter::new(4);
    let mut well = session(&healthy.path, "");
    well.until(4).await;
    let mut ill = session(&path, ", frame_gap: 200ms, response_timeout: 500ms");
    // On a busy machine the babble has gaps: then it's a garbled answer, until it has none.
    while log.lines_with("the line never falls quiet") == 0 {
        let _ = timeout(Duration::from_millis(100), ill.events.recv()).await;
    }
    for _ in 0..20 {
        assert_eq!(well.value().await, Ok(4));
    }
    assert!(ill.is_alive());
    babbler.abort();
    ill.end().await;
    well.end().await;
}
