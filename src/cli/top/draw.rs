//! From a snapshot and a view to a screen. Pure; works at any size, and says in words what it says in colours.

use std::time::Duration;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};

use super::snapshot::{Device, Event, Route, Snapshot};
use super::view::{Over, Row, Scrolled, View, rows};
use crate::cli::summary::short;

/// Routes on a screen at most, where the table needs the room.
const MOST_ROUTES: usize = 4;
/// Events on a screen at most.
const MOST_EVENTS: usize = 6;
/// Rows of the table that events and then routes make room for.
const LEAST_TABLE: usize = 5;

/// The columns right of the name: title and width.
const COLUMNS: [(&str, u16); 6] =
    [("STATE", 8), ("AGE", 7), ("P99", 8), ("BUDGET", 8), ("LATE", 7), ("BUS", 6)];

/// The width of a route's state.
const STATE: u16 = 6;
/// What a route's columns take, but for its name.
const ROUTE_COLUMNS: u16 = STATE + 8 + 7 + 9 + 9 + 11;

const HELP: &str = "\
up, down     select a device or a connection; also page up, page down, home, end
enter        explain what is selected: why, its last failures and deliveries
s            sort: as in the site file, by lateness, by bus, by name
ctrl-l       draw everything anew
q, esc       back, or the end; also ctrl-c

AGE     since the device gave values last
P99     99 of 100 messages took at most this, from request to acknowledgement
BUDGET  what they may take
LATE    messages that took longer, since the gateway's start
BUS     the share of the last seconds that the device kept its bus busy
stale   it answers, and its values are older than two intervals and its budget
SENT    messages that wait for their acknowledgement";

const PLAIN: Style = Style::new();
const TITLE: Style = Style::new().add_modifier(Modifier::BOLD);
const BAD: Style = Style::new().fg(Color::Red);
const WARN: Style = Style::new().fg(Color::Yellow);
const GOOD: Style = Style::new().fg(Color::Green);

/// A part of a screen, written line by line; what doesn't fit is cut.
struct Sheet<'a> {
    buffer: &'a mut Buffer,
    area: Rect,
}

impl Sheet<'_> {
    /// Writes within `width` from a column on.
    fn put(&mut self, x: u16, y: u16, width: u16, text: &str, style: Style) {
        if y < self.area.height && x < self.area.width {
            let width = width.min(self.area.width - x);
            self.buffer.set_stringn(self.area.x + x, self.area.y + y, text, width.into(), style);
        }
    }

    /// The same, at the right end of the width.
    fn put_right(&mut self, x: u16, y: u16, width: u16, text: &str, style: Style) {
        let length = u16::try_from(text.chars().count()).unwrap_or(u16::MAX);
        self.put(x + width.saturating_sub(length), y, length, text, style);
    }

    fn line(&mut self, y: u16, text: &str, style: Style) {
        self.put(0, y, u16::MAX, text, style);
    }

    fn style(&mut self, y: u16, style: Style) {
        if y < self.area.height {
            self.buffer.set_style(Rect { y: self.area.y + y, height: 1, ..self.area }, style);
        }
    }

    /// The lines from `y` on, `height` at most.
    fn part(&mut self, y: u16, height: u16) -> Sheet<'_> {
        let y = y.min(self.area.height);
        let area = Rect { y: self.area.y + y, height: height.min(self.area.height - y), ..self.area };
        Sheet { buffer: self.buffer, area }
    }
}

/// How many lines everything needs.
pub fn height(snapshot: &Snapshot, view: &View) -> u16 {
    let table = rows(snapshot, view.sort).len() + 2;
    let events = snapshot.events.len().min(MOST_EVENTS);
    u16::try_from(table + snapshot.routes.len() + events + 5).unwrap_or(u16::MAX)
}

/// Draws a screen.
pub fn draw(snapshot: &Snapshot, view: &View, area: Rect, buffer: &mut Buffer) {
    let mut sheet = Sheet { buffer, area };
    header(snapshot, view, &mut sheet);
    let Some(inner) = area.height.checked_sub(2) else { return };
    let mut body = sheet.part(1, inner);
    match &view.over {
        Over::Nothing => overview(snapshot, view, &mut body),
        Over::Help => lines(HELP, Scrolled::default(), &mut body),
        Over::Account(_, text, scrolled) => {
            lines(text.as_deref().unwrap_or("asking …"), *scrolled, &mut body);
        }
    }
    let keys = match &view.over {
        Over::Nothing => {
            format!("q quit   up, down select   s sort: {}   enter explain   ? help", view.sort.name())
        }
        Over::Help => "q back".into(),
        Over::Account(name, ..) => format!("q back   arrows scroll   {name}"),
    };
    sheet.line(area.height - 1, &keys, TITLE);
}

fn header(snapshot: &Snapshot, view: &View, sheet: &mut Sheet<'_>) {
    let up = span(snapshot.up_ms);
    let mut text = format!("{}   taktbus {}   up {up}   ", snapshot.site, snapshot.version);
    let style = match (&view.silent, &snapshot.unready[..]) {
        (Some(time), _) => {
            text += &format!("NO ANSWER for {}, asking again", span(millis(*time)));
            BAD
        }
        (None, []) => {
            text += "ready";
            GOOD
        }
        (None, [reason]) => {
            text += &format!("NOT READY: {reason}");
            WARN
        }
        (None, reasons @ [reason, ..]) => {
            text += &format!("NOT READY ({}): {reason}", reasons.len());
            WARN
        }
    };
    sheet.line(0, &text, style.add_modifier(Modifier::BOLD));
}

fn overview(snapshot: &Snapshot, view: &View, sheet: &mut Sheet<'_>) {
    let rows = rows(snapshot, view.sort);
    let height = usize::from(sheet.area.height);
    // Title, rows, and a line about the selected one.
    let least = rows.len().min(LEAST_TABLE) + 2;
    let all = rows.len() + 2;
    let mut routes = snapshot.routes.len() + 1;
    let mut events = snapshot.events.len().min(MOST_EVENTS) + 1;
    if all + routes + events > height {
        routes = routes.min(MOST_ROUTES + 1);
    }
    events = events.min(height.saturating_sub(least + routes));
    routes = routes.min(height.saturating_sub(least));
    // A title alone says nothing.
    if events == 1 {
        events = 0;
    }
    let table = height - routes - events;
    let [table, routes, events] =
        [table, routes, events].map(|lines| u16::try_from(lines).unwrap_or(u16::MAX));
    devices(&rows, view, &mut sheet.part(0, table));
    self::routes(&snapshot.routes, &mut sheet.part(table, routes));
    self::events(&snapshot.events, &mut sheet.part(table + routes, events));
}

/// The table, scrolled so that the selected row is seen, and below it what is wrong with that.
fn devices(rows: &[Row<'_>], view: &View, sheet: &mut Sheet<'_>) {
    let columns: u16 = COLUMNS.iter().map(|(_, width)| width + 1).sum();
    let name = sheet.area.width.saturating_sub(columns);
    sheet.put(2, 0, name, "DEVICE", TITLE);
    let mut x = name;
    for (at, (title, width)) in COLUMNS.iter().enumerate() {
        if at == 0 {
            sheet.put(x + 1, 0, *width, title, TITLE);
        } else {
            sheet.put_right(x + 1, 0, *width, title, TITLE);
        }
        x += width + 1;
    }
    let shown = usize::from(sheet.area.height.saturating_sub(2));
    let position = view.position(rows);
    let first = (position + 1).saturating_sub(shown);
    for (y, (at, row)) in (1u16..).zip(rows.iter().enumerate().skip(first).take(shown)) {
        if at == position {
            sheet.put(0, y, 1, ">", TITLE);
        }
        match row {
            Row::Connection(connection) => {
                let state = if connection.up { "up" } else { "DOWN" };
                let planned =
                    connection.planned.map_or(String::new(), |share| format!(", planned {}", percent(share)));
                let text = format!("{}: {state}, {}", connection.name, connection.link);
                let style = if connection.up { PLAIN } else { BAD };
                let busy = format!("bus {}{planned}", percent(connection.bus()));
                let width = u16::try_from(busy.len()).unwrap_or(u16::MAX);
                sheet.put(1, y, sheet.area.width.saturating_sub(width + 2), &text, style);
                sheet.put_right(0, y, sheet.area.width, &busy, PLAIN);
            }
            Row::Device(device) => row_of(device, name, y, sheet),
        }
        if at == position {
            sheet.style(y, Style::new().add_modifier(Modifier::REVERSED));
        }
    }
    let hidden = rows.len().saturating_sub(first + shown);
    let last = sheet.area.height.saturating_sub(1);
    let about = match rows.get(position) {
        Some(Row::Device(device)) => device.why.first().map(|why| format!("{}: {why}", device.name)),
        _ => None,
    };
    let more = if hidden > 0 { format!("… {hidden} more below. ") } else { String::new() };
    sheet.line(last, &format!("{more}{}", about.unwrap_or_default()), WARN);
}

fn row_of(device: &Device, name: u16, y: u16, sheet: &mut Sheet<'_>) {
    let is_stale = device.is_stale();
    let (state, state_style) = match &*device.state {
        "online" if is_stale => ("stale", WARN),
        "online" => ("online", GOOD),
        other => (other, BAD),
    };
    let time = |millis: Option<f64>| {
        millis.map_or("-".into(), |millis| short(Duration::from_secs_f64(millis.max(0.0) / 1e3)))
    };
    let worse = |is_bad: bool, style| if is_bad { style } else { PLAIN };
    let cells = [
        (device.age_ms.map_or("-".into(), span), worse(is_stale, WARN)),
        (time(device.p99_ms), worse(device.lateness() > 1.0, BAD)),
        (time(device.budget_ms), PLAIN),
        (device.late.to_string(), worse(device.late > 0, WARN)),
        (percent(device.bus), PLAIN),
    ];
    sheet.put(2, y, name.saturating_sub(2), &device.name, PLAIN);
    sheet.put(name + 1, y, COLUMNS[0].1, state, state_style);
    let mut x = name + COLUMNS[0].1 + 1;
    for ((text, style), (_, width)) in cells.iter().zip(&COLUMNS[1..]) {
        sheet.put_right(x + 1, y, *width, text, *style);
        x += width + 1;
    }
}

fn routes(routes: &[Route], sheet: &mut Sheet<'_>) {
    let name = sheet.area.width.saturating_sub(ROUTE_COLUMNS);
    let titles = [("QUEUE", 8), ("SENT", 7), ("BACKLOG", 9), ("STORED", 9), ("DISK", 11)];
    sheet.put(2, 0, name.saturating_sub(3), "ROUTE", TITLE);
    sheet.put(name, 0, STATE, "STATE", TITLE);
    let mut x = name + STATE;
    for (title, width) in titles {
        sheet.put_right(x, 0, width, title, TITLE);
        x += width;
    }
    let shown = usize::from(sheet.area.height.saturating_sub(1));
    for (y, route) in (1u16..).zip(routes.iter().take(shown)) {
        let (state, style) = if route.up { ("up", GOOD) } else { ("DOWN", BAD) };
        sheet.put(2, y, name.saturating_sub(3), &route.name, PLAIN);
        sheet.put(name, y, STATE, state, style);
        let disk = if route.store_failing { "FAILING".into() } else { bytes(route.stored_bytes) };
        let cells = [
            route.queued.to_string(),
            route.in_flight.to_string(),
            route.backlog.to_string(),
            route.stored.to_string(),
            disk,
        ];
        let mut x = name + STATE;
        for (text, (_, width)) in cells.iter().zip(titles) {
            sheet.put_right(x, y, width, text, if *text == "FAILING" { BAD } else { PLAIN });
            x += width;
        }
    }
}

/// The newest first: what is cut off is the oldest.
fn events(events: &[Event], sheet: &mut Sheet<'_>) {
    sheet.put(2, 0, u16::MAX, "EVENTS (UTC, the newest first)", TITLE);
    let shown = usize::from(sheet.area.height.saturating_sub(1));
    for (y, event) in (1u16..).zip(events.iter().rev().take(shown)) {
        let (mark, style) = match &*event.level {
            "error" => ("!!", BAD),
            "warn" => ("! ", WARN),
            _ => ("  ", PLAIN),
        };
        let clock = event.at.get(11..19).unwrap_or("-");
        sheet.put(2, y, u16::MAX, &format!("{clock} {mark} {}", event.text), style);
    }
}

/// A text from the line and the letter on that it's scrolled to. Sentences are wrapped, unless it's scrolled aside; rows of tables are not.
fn lines(text: &str, scrolled: Scrolled, sheet: &mut Sheet<'_>) {
    let width = usize::from(sheet.area.width);
    let wrapped = text.lines().skip(scrolled.lines).flat_map(|line| {
        let is_sentence = line.starts_with(' ') || line.contains(": ");
        match scrolled.columns {
            0 if is_sentence => wrapped(line, width),
            columns => vec![line.chars().skip(columns).collect()],
        }
    });
    for (y, line) in (0..sheet.area.height).zip(wrapped) {
        sheet.line(y, &line, PLAIN);
    }
}

/// A line in pieces of at most `width` letters, cut at blanks; all but the first are indented. A word that is longer stays whole.
fn wrapped(line: &str, width: usize) -> Vec<String> {
    const INDENT: &str = "      ";
    if line.chars().count() <= width {
        return vec![line.to_owned()];
    }
    let blanks = line.len() - line.trim_start().len();
    let mut pieces = vec![" ".repeat(blanks)];
    let mut is_first = true;
    for word in line.split_whitespace() {
        let Some(piece) = pieces.last_mut() else { break };
        let room = width.saturating_sub(piece.chars().count() + usize::from(!is_first));
        if is_first || word.chars().count() <= room {
            piece.push_str(if is_first { "" } else { " " });
            piece.push_str(word);
        } else {
            pieces.push(format!("{INDENT}{word}"));
        }
        is_first = false;
    }
    pieces
}

/// A share of the time.
fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// A time of any length, in one unit: `0.4s`, `12m`, `5h`, `9d`.
fn span(millis: f64) -> String {
    let seconds = millis.max(0.0) / 1e3;
    match seconds {
        ..10.0 => format!("{seconds:.1}s"),
        ..120.0 => format!("{seconds:.0}s"),
        ..7_200.0 => format!("{:.0}m", (seconds / 60.0).floor()),
        ..172_800.0 => format!("{:.0}h", (seconds / 3_600.0).floor()),
        _ => format!("{:.0}d", (seconds / 86_400.0).floor()),
    }
}

fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let (mut size, mut unit) = (bytes as f64, 0);
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{size:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
