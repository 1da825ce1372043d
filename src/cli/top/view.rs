//! What is shown of a gateway, and what keys do to that. Pure.

use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::snapshot::{Connection, Device, Snapshot};

/// Rows that one press of page up or down moves.
const PAGE: isize = 10;
/// Letters that one press of left or right scrolls.
const ASIDE: isize = 16;

/// What is on the screen besides the snapshot.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// The order of devices.
    pub sort: Sort,
    /// The row that is selected, by its device or connection; a device may be called like its connection.
    pub selected: Option<Key>,
    /// What covers the table.
    pub over: Over,
    /// For how long the gateway hasn't answered.
    pub silent: Option<Duration>,
}

/// What a row is known by: is it a device's, and its name.
pub type Key = (bool, String);

/// What covers the table of devices.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Over {
    /// Nothing.
    #[default]
    Nothing,
    /// The keys.
    Help,
    /// The account of one device or connection: its name, its text as soon as it's there, what is scrolled off.
    Account(String, Option<String>, Scrolled),
}

/// What of a text is off the screen, above and to the left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrolled {
    /// Lines.
    pub lines: usize,
    /// Letters of each.
    pub columns: usize,
}

/// The order of devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// As the site file has them, below their connections.
    #[default]
    Site,
    /// Those that are away or whose values are old, then by p99 in shares of the budget.
    Lateness,
    /// By their share of the bus.
    Bus,
    /// By name.
    Name,
}

impl Sort {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Site => "site",
            Self::Lateness => "lateness",
            Self::Bus => "bus",
            Self::Name => "name",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Site => Self::Lateness,
            Self::Lateness => Self::Bus,
            Self::Bus => Self::Name,
            Self::Name => Self::Site,
        }
    }
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Row<'a> {
    /// A connection, above its devices.
    Connection(&'a Connection),
    /// A device.
    Device(&'a Device),
}

impl Row<'_> {
    fn key(&self) -> Key {
        (matches!(self, Self::Device(_)), self.name().to_owned())
    }

    /// The name that it's explained by.
    pub fn name(&self) -> &str {
        match self {
            Self::Connection(connection) => &connection.name,
            Self::Device(device) => &device.name,
        }
    }
}

/// The rows in their order.
pub fn rows(snapshot: &Snapshot, sort: Sort) -> Vec<Row<'_>> {
    let connections = &snapshot.connections;
    if sort == Sort::Site {
        let with_devices = |connection| {
            std::iter::once(Row::Connection(connection)).chain(connection.devices.iter().map(Row::Device))
        };
        return connections.iter().flat_map(with_devices).collect();
    }
    let mut devices: Vec<&Device> = connections.iter().flat_map(|connection| &connection.devices).collect();
    let gravity = |device: &Device| (device.state != "online" || device.is_stale(), device.lateness());
    match sort {
        Sort::Site => {}
        Sort::Name => devices.sort_by(|a, b| a.name.cmp(&b.name)),
        Sort::Bus => devices.sort_by(|a, b| b.bus.total_cmp(&a.bus)),
        Sort::Lateness => devices.sort_by(|a, b| {
            let ((a_bad, a_late), (b_bad, b_late)) = (gravity(a), gravity(b));
            b_bad.cmp(&a_bad).then(b_late.total_cmp(&a_late))
        }),
    }
    devices.into_iter().map(Row::Device).collect()
}

/// What a key asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Nothing but another picture.
    Draw,
    /// A picture on a screen that something else has written on.
    DrawAnew,
    /// The end.
    Quit,
}

impl View {
    /// Where the selected row is; the first where none is selected, or the selected one has gone.
    pub fn position(&self, rows: &[Row<'_>]) -> usize {
        let selected = self.selected.as_ref();
        selected.and_then(|key| rows.iter().position(|row| row.key() == *key)).unwrap_or(0)
    }

    /// The name of what is to be explained now.
    pub fn asks_for(&self) -> Option<&str> {
        match &self.over {
            Over::Account(name, ..) => Some(name),
            _ => None,
        }
    }

    /// Takes the account of `name`, if that is still wanted.
    pub fn take_account(&mut self, name: &str, text: String) {
        if let Over::Account(wanted, account, _) = &mut self.over
            && *wanted == name
        {
            *account = Some(text);
        }
    }

    /// Does what a key means. Unknown keys do nothing.
    pub fn key(&mut self, key: KeyEvent, snapshot: &Snapshot) -> Act {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Act::Quit,
                KeyCode::Char('l') => Act::DrawAnew,
                _ => Act::Draw,
            };
        }
        match &mut self.over {
            Over::Nothing => return self.key_on_table(key.code, snapshot),
            Over::Account(_, text, scrolled) => {
                let lines = || text.iter().flat_map(|text| text.lines());
                let width = || lines().map(|line| line.chars().count()).max().unwrap_or(0);
                match (movement(key.code), key.code) {
                    (Some(steps), _) => scrolled.lines = moved(scrolled.lines, steps, lines().count()),
                    (None, KeyCode::Left) => scrolled.columns = moved(scrolled.columns, -ASIDE, width()),
                    (None, KeyCode::Right) => scrolled.columns = moved(scrolled.columns, ASIDE, width()),
                    (None, code) => self.leave(code),
                }
            }
            Over::Help => self.leave(key.code),
        }
        Act::Draw
    }

    fn leave(&mut self, key: KeyCode) {
        if matches!(key, KeyCode::Esc | KeyCode::Enter | KeyCode::Backspace | KeyCode::Char('q' | '?')) {
            self.over = Over::Nothing;
        }
    }

    fn key_on_table(&mut self, key: KeyCode, snapshot: &Snapshot) -> Act {
        let rows = rows(snapshot, self.sort);
        let position = self.position(&rows);
        match key {
            KeyCode::Char('q') | KeyCode::Esc => return Act::Quit,
            KeyCode::Char('?' | 'h') => self.over = Over::Help,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Enter => {
                if let Some(row) = rows.get(position) {
                    self.over = Over::Account(row.name().to_owned(), None, Scrolled::default());
                }
            }
            key => {
                if let Some(steps) = movement(key) {
                    let row = rows.get(moved(position, steps, rows.len()));
                    self.selected = row.map(Row::key);
                }
            }
        }
        Act::Draw
    }
}

/// How far a key moves.
fn movement(key: KeyCode) -> Option<isize> {
    match key {
        KeyCode::Up | KeyCode::Char('k') => Some(-1),
        KeyCode::Down | KeyCode::Char('j') => Some(1),
        KeyCode::PageUp => Some(-PAGE),
        KeyCode::PageDown => Some(PAGE),
        KeyCode::Home => Some(isize::MIN),
        KeyCode::End => Some(isize::MAX),
        _ => None,
    }
}

fn moved(from: usize, steps: isize, of: usize) -> usize {
    from.saturating_add_signed(steps).min(of.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, state: &str, p99: f64, bus: f64) -> Device {
        let (p99_ms, budget_ms) = (Some(p99), Some(100.0));
        Device { name: name.into(), state: state.into(), p99_ms, budget_ms, bus, ..Device::default() }
    }

    /// The second connection is called like its device.
    fn plant() -> Snapshot {
        let connection =
            |name: &str, devices| Connection { name: name.into(), devices, ..Connection::default() };
        let line = vec![device("pump", "online", 80.0, 0.1), device("fan", "offline", 1.0, 0.5)];
        let connections =
            vec![connection("line", line), connection("oven", vec![device("oven", "online", 90.0, 0.2)])];
        Snapshot { connections, ..Snapshot::default() }
    }

    fn press(view: &mut View, keys: &[KeyCode]) -> Act {
        let pressed = keys.iter().map(|key| view.key(KeyEvent::from(*key), &plant()));
        pressed.last().unwrap_or(Act::Draw)
    }

    fn order(sort: Sort) -> Vec<String> {
        rows(&plant(), sort).iter().map(|row| row.name().to_owned()).collect()
    }

    #[test]
    fn what_is_gravest_comes_first_where_that_is_asked_for() {
        assert_eq!(order(Sort::Site), ["line", "pump", "fan", "oven", "oven"]);
        assert_eq!(order(Sort::Lateness), ["fan", "oven", "pump"]);
        assert_eq!(order(Sort::Bus), ["fan", "oven", "pump"]);
        assert_eq!(order(Sort::Name), ["fan", "oven", "pump"]);
    }

    #[test]
    fn arrows_move_over_all_rows_and_stay_at_the_ends() {
        let mut view = View::default();
        let at = |view: &View| view.position(&rows(&plant(), view.sort));
        for expected in [1, 2, 3, 4, 4] {
            press(&mut view, &[KeyCode::Down]);
            assert_eq!(at(&view), expected);
        }
        press(&mut view, &[KeyCode::Home]);
        assert_eq!(at(&view), 0);
        press(&mut view, &[KeyCode::Up, KeyCode::PageDown, KeyCode::Char('k')]);
        assert_eq!(at(&view), 3);
        // The selection keeps to its device in any order; a connection has no row in those.
        press(&mut view, &[KeyCode::Up, KeyCode::Char('s')]);
        assert_eq!((view.sort, at(&view)), (Sort::Lateness, 0));
        press(&mut view, &[KeyCode::Char('s'); 3]);
        assert_eq!((view.sort, at(&view)), (Sort::Site, 2));
    }

    #[test]
    fn enter_explains_the_selected_row_until_it_is_left() {
        let mut view = View::default();
        press(&mut view, &[KeyCode::Down, KeyCode::Enter]);
        assert_eq!(view.asks_for(), Some("pump"));
        view.take_account("fan", "too late".into());
        view.take_account("pump", "one\ntwo\nthree".into());
        press(&mut view, &[KeyCode::PageDown, KeyCode::Up, KeyCode::Right, KeyCode::Right]);
        let scrolled = Scrolled { lines: 1, columns: 4 };
        assert_eq!(view.over, Over::Account("pump".into(), Some("one\ntwo\nthree".into()), scrolled));
        assert_eq!(press(&mut view, &[KeyCode::Char('q')]), Act::Draw);
        assert_eq!((view.asks_for(), &view.over), (None, &Over::Nothing));
        press(&mut view, &[KeyCode::Char('?')]);
        assert_eq!(view.over, Over::Help);
        press(&mut view, &[KeyCode::Down, KeyCode::Char('?')]);
        assert_eq!(view.over, Over::Nothing);
    }

    #[test]
    fn q_and_ctrl_c_end_it() {
        let mut view = View::default();
        assert_eq!(press(&mut view, &[KeyCode::Char('x')]), Act::Draw);
        assert_eq!(press(&mut view, &[KeyCode::Char('q')]), Act::Quit);
        view.over = Over::Help;
        let control = |letter| KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL);
        assert_eq!(view.key(control('c'), &plant()), Act::Quit);
        assert_eq!(view.key(control('l'), &plant()), Act::DrawAnew);
    }

    #[test]
    fn a_gateway_without_devices_has_nothing_to_select() {
        let mut view = View::default();
        for key in [KeyCode::Down, KeyCode::End, KeyCode::Enter] {
            view.key(KeyEvent::from(key), &Snapshot::default());
        }
        assert_eq!(view, View::default());
    }
}
