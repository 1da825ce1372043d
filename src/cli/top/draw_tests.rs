//! Screens as text, against those in `screens.txt` (`TAKTBUS_BLESS=1 cargo test --lib top` renews it).

use std::path::Path;

use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::cli::top::snapshot::Connection;
use crate::cli::top::view::Sort;

const ACCOUNT: &str = "\
line: rtu /dev/ttyUSB0 9600 8N1, up, 13.1 % busy
device  unit  state   answered  missed      p99   budget
oven       1  online        26       0  150.1ms  400.0ms
  oven: 10 of 26 messages missed the budget of 400ms";

fn screen(snapshot: &Snapshot, view: &View, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(snapshot, view, frame.area(), frame.buffer_mut())).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..height).map(|y| format!("{}\n", line(y).trim_end())).collect()
}

fn device(name: &str, p99_ms: f64) -> Device {
    Device {
        name: name.into(),
        state: "online".into(),
        age_ms: Some(412.0),
        fresh_ms: Some(2_500.0),
        p99_ms: Some(p99_ms),
        budget_ms: Some(500.0),
        bus: 0.12,
        ..Device::default()
    }
}

fn plant() -> Snapshot {
    let oven = Device {
        late: 17,
        why: vec!["17 of 900 messages missed the budget".into()],
        ..device("oven", 731.0)
    };
    let pump = Device {
        state: "offline".into(),
        age_ms: None,
        p99_ms: None,
        why: vec!["it does not answer".into()],
        bus: 0.41,
        ..device("Pumpe Kühlkreis", 0.0)
    };
    let dryer = Device { age_ms: Some(95_000.0), ..device("dryer", 2.25) };
    let line = Connection {
        name: "line".into(),
        link: "rtu /dev/ttyUSB0 9600 8N1".into(),
        up: true,
        planned: Some(0.4),
        devices: vec![oven, pump],
    };
    let lan = Connection {
        name: "lan".into(),
        link: "tcp 192.168.1.60:502".into(),
        up: false,
        planned: Some(0.0125),
        devices: vec![dryer],
    };
    let local = Route {
        name: "local".into(),
        up: true,
        queued: 3,
        in_flight: 12,
        stored: 1,
        stored_bytes: 3_400_000,
        ..Route::default()
    };
    let cloud = Route {
        name: "cloud".into(),
        stored: 250_000,
        stored_bytes: 700,
        store_failing: true,
        ..Route::default()
    };
    let event =
        |at: &str, level: &str, text: &str| Event { at: at.into(), level: level.into(), text: text.into() };
    Snapshot {
        site: "bakery".into(),
        version: "0.1.0".into(),
        up_ms: 263_000_000.0,
        unready: vec![
            "Pumpe Kühlkreis: no values in the 73.1 s since the start".into(),
            "cloud: messages wait".into(),
        ],
        connections: vec![line, lan],
        routes: vec![local, cloud],
        events: vec![
            event("2026-11-22T12:00:00.123Z", "info", "link up connection=line"),
            event("2026-11-22T12:00:05.000Z", "warn", "device offline device=Pumpe Kühlkreis cause=timeout"),
        ],
    }
}

#[test]
fn screens_are_as_they_were_agreed() {
    let plant = plant();
    let seen = View { selected: Some((true, "Pumpe Kühlkreis".into())), ..View::default() };
    let many = Snapshot {
        connections: vec![Connection {
            name: "lan".into(),
            devices: (0..40).map(|n| device(&format!("meter{n}"), f64::from(n))).collect(),
            ..plant.connections[1].clone()
        }],
        ..plant.clone()
    };
    let deep = View { selected: Some((true, "meter20".into())), ..View::default() };
    let late = View { sort: Sort::Lateness, silent: Some(Duration::from_secs(75)), ..View::default() };
    let account = |text: Option<&str>, scrolled| View {
        over: Over::Account(
            "oven".into(),
            text.map(str::to_owned),
            Scrolled { lines: scrolled, columns: scrolled },
        ),
        ..View::default()
    };
    let help = View { over: Over::Help, ..View::default() };
    let screens = [
        ("80 x 24", screen(&plant, &seen, 80, 24)),
        ("sorted by lateness, no answer", screen(&plant, &late, 80, 24)),
        ("more devices than lines", screen(&many, &deep, 80, 24)),
        ("a low terminal", screen(&plant, &seen, 80, 9)),
        ("a wide one", screen(&plant, &View::default(), 120, 16)),
        (
            "an account, scrolled by one line and one letter",
            screen(&plant, &account(Some("one\ntwo\nthree"), 1), 40, 5),
        ),
        ("an account with a table and sentences", screen(&plant, &account(Some(ACCOUNT), 0), 40, 9)),
        ("an account that is asked for", screen(&plant, &account(None, 0), 40, 4)),
        ("help", screen(&plant, &help, 80, 24)),
        ("nothing known", screen(&Snapshot::default(), &View::default(), 80, 6)),
    ];
    let text: String = screens.iter().map(|(name, screen)| format!("== {name}\n{screen}")).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/top/screens.txt");
    if std::env::var_os("TAKTBUS_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), text);
}

#[test]
fn sentences_are_wrapped_at_blanks() {
    let line = "  oven: the link is down: rtu /dev/serial/by-id/usb-FTDI";
    let pieces = ["  oven: the link", "      is down: rtu", "      /dev/serial/by-id/usb-FTDI"];
    assert_eq!(wrapped(line, 18), pieces);
    assert_eq!((wrapped(line, 100), wrapped("", 5)), (vec![line.to_owned()], vec![String::new()]));
}

#[test]
fn everything_fits_on_a_page_of_its_height() {
    let (plant, view) = (plant(), View::default());
    let page = screen(&plant, &view, 100, height(&plant, &view));
    for name in ["oven", "Pumpe Kühlkreis", "dryer", "local", "cloud", "12:00:00", "12:00:05"] {
        assert!(page.contains(name), "no {name} in\n{page}");
    }
}

proptest! {
    #[test]
    fn no_size_is_too_small(width in 0u16..130, height in 0u16..40, over in 0..3, scrolled in 0usize..9, devices in 0usize..30) {
        let mut snapshot = plant();
        snapshot.connections[0].devices = (0..devices).map(|n| device(&format!("d{n}"), 1.0)).collect();
        let over = match over {
            0 => Over::Nothing,
            1 => Over::Help,
            _ => Over::Account("oven".into(), Some("one\ntwo".into()), Scrolled { lines: scrolled, columns: scrolled }),
        };
        let view = View { over, selected: Some((true, format!("d{scrolled}"))), ..View::default() };
        let area = Rect::new(0, 0, width, height);
        draw(&snapshot, &view, area, &mut Buffer::empty(area));
    }
}
