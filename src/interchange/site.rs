//! Connections and devices on their way into a site file, and its text, which the checker reads before it's handed out.

use std::fmt::Write as _;
use std::time::Duration;

use super::checked;
use super::draft::Draft;
use super::names::{self, Taken};
use super::note::{Note, Notes};
use super::table::Imported;
use super::yaml::{self, Shared, Written, scalar};
use crate::config::{LoadOptions, load_text};
use crate::document::duration::show_duration;
use crate::document::scalar::shortened;
use crate::mapping::written::Access;
use crate::model::diagnostic::Severity;

/// Most devices of an import.
const MAX_DEVICES: usize = 1_000;

/// How often the site is written anew, as points are left out.
const MAX_PASSES: usize = 16;

/// A connection: keys and values as they are written.
#[derive(Clone, Debug)]
struct Connection {
    name: String,
    keys: Vec<(&'static str, String)>,
}

/// A device and its points.
#[derive(Clone, Debug)]
pub struct Device {
    name: String,
    via: String,
    unit_id: u8,
    /// How often what has no rate of its own is read.
    every: Duration,
    drafts: Vec<Draft>,
}

impl Device {
    /// Adds a point that is read every so often.
    pub fn add(&mut self, draft: Draft, every: Duration) {
        let rate = (every != self.every).then(|| rate_of(every));
        self.drafts.push(Draft { rate, ..draft });
    }
}

/// The name of a rate that is not the device's usual one.
fn rate_of(every: Duration) -> String {
    format!("every_{}", show_duration(every))
}

/// A site.
#[derive(Clone, Debug, Default)]
pub struct SiteDraft {
    connections: Vec<Connection>,
    devices: Vec<Device>,
    connection_names: Taken,
    device_names: Taken,
}

impl SiteDraft {
    /// The connection with these keys, of which the first says where it is; a port or address that is there already is not
    /// opened twice.
    pub fn connection(&mut self, name: &str, keys: Vec<(&'static str, String)>) -> String {
        if let Some(known) = self.connections.iter().find(|known| known.keys.first() == keys.first()) {
            return known.name.clone();
        }
        let mut name = or(names::slug(&name.to_lowercase()), "line");
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            name.insert_str(0, "lan_");
        }
        let name = self.connection_names.unique(&name);
        self.connections.push(Connection { name: name.clone(), keys });
        name
    }

    /// The device behind a unit id; made when it's not there. `None`: there are too many.
    pub fn device(&mut self, name: &str, via: &str, unit_id: u8, every: Duration) -> Option<&mut Device> {
        let known = self.devices.iter().position(|known| known.via == via && known.unit_id == unit_id);
        if known.is_none() {
            if self.devices.len() >= MAX_DEVICES {
                return None;
            }
            let name = self.device_names.unique(&or(names::slug(name), "device"));
            let drafts = Vec::new();
            self.devices.push(Device { name, via: via.into(), unit_id, every, drafts });
        }
        let last = self.devices.len() - 1;
        self.devices.get_mut(known.unwrap_or(last))
    }

    /// The text, checked. `left_out`: what was left out so far.
    pub fn finish(mut self, name: &str, file: &str, left_out: usize, mut notes: Notes) -> Imported {
        let total = |devices: &[Device]| devices.iter().map(|device| device.drafts.len()).sum::<usize>();
        let before = total(&self.devices);
        for device in &mut self.devices {
            let mut taken = Taken::default();
            device.drafts.iter_mut().for_each(|draft| draft.name = taken.unique(&draft.name));
            device.drafts.retain(|draft| checked::alone(draft, &mut notes));
        }
        let mut text = String::new();
        for pass in 0..MAX_PASSES {
            self.devices.retain(|device| has_something_to_read(device, &mut notes));
            let used =
                |connection: &Connection| self.devices.iter().any(|device| device.via == connection.name);
            self.connections.retain(used);
            if self.devices.is_empty() {
                text.clear();
                break;
            }
            let written = self.written(name, file);
            text = written.text.clone();
            if self.leave_out(&written, pass + 1 == MAX_PASSES, &mut notes) == 0 {
                break;
            }
        }
        let points = if text.is_empty() { 0 } else { total(&self.devices) };
        Imported { yaml: text, points, left_out: left_out + before - points, notes: notes.sorted() }
    }

    /// Leaves out the points that the checker refuses; yields how many. What else it finds is noted once.
    fn leave_out(&mut self, written: &Written, is_last: bool, notes: &mut Notes) -> usize {
        let findings = load_text("imported", &written.text, &LoadOptions::default()).diagnostics;
        let errors: Vec<_> = findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
        let refused = checked::refused(written, errors.iter().copied());
        if refused.is_empty() || is_last {
            for finding in findings {
                let note = if finding.severity == Severity::Error { Note::error } else { Note::warning };
                notes.push(note(None, format!("check says of the site: {}", finding.message)));
            }
            return 0;
        }
        let drafts = self.devices.iter_mut().flat_map(|device| &mut device.drafts);
        for (index, draft) in drafts.enumerate() {
            if let Some((_, finding)) = refused.iter().find(|(refused, _)| *refused == index) {
                notes.push(checked::note(draft, finding));
                // An empty name is no name: the mark for the next line.
                draft.name.clear();
            }
        }
        self.devices.iter_mut().for_each(|device| device.drafts.retain(|draft| !draft.name.is_empty()));
        refused.len()
    }

    fn written(&self, name: &str, file: &str) -> Written {
        let mut text = format!(
            "# From {}, by taktbus import. Compare it with the manuals and with the devices before you rely on it.\n",
            shortened(file)
        );
        let _ = writeln!(text, "site: {}\nconnections:", scalar(name));
        for connection in &self.connections {
            let keys: Vec<String> =
                connection.keys.iter().map(|(key, value)| format!("{key}: {value}")).collect();
            let _ = writeln!(text, "  {}: {{{}}}", scalar(&connection.name), keys.join(", "));
        }
        text.push_str("devices:\n");
        let mut lines = Vec::new();
        for device in &self.devices {
            let _ = writeln!(text, "  {}:\n    via: {}", scalar(&device.name), scalar(&device.via));
            let _ =
                writeln!(text, "    unit_id: {}\n    every: {}\n    points:", device.unit_id, every(device));
            let first = lines.len();
            let own = yaml::points(&mut text, &device.drafts, &Shared::default(), 0, 6);
            lines.extend(own.into_iter().map(|(line, index)| (line, first + index)));
        }
        text.push_str("publish:\n  cloud: {mqtt: mqtt://localhost:1883}   # the way north is not carried over: name your broker\n");
        Written { text, lines }
    }
}

/// What can only be written makes no device. It's said.
fn has_something_to_read(device: &Device, notes: &mut Notes) -> bool {
    let reads = device.drafts.iter().any(|draft| draft.access != Access::Write);
    if !reads {
        for draft in &device.drafts {
            let name = &device.name;
            notes.push(Note::error(
                draft.line,
                format!("'{name}' has points that can only be written, and nothing to read"),
            ));
        }
    }
    reads
}

/// One interval, or one per rate.
fn every(device: &Device) -> String {
    let mut rates: Vec<&str> = device.drafts.iter().filter_map(|draft| draft.rate.as_deref()).collect();
    rates.sort_unstable();
    rates.dedup();
    let default = show_duration(device.every);
    if rates.is_empty() {
        return default;
    }
    let has_default = device.drafts.iter().any(|draft| draft.rate.is_none());
    let default = has_default.then(|| format!("default: {default}"));
    // A rate is called by its interval.
    let others = rates.iter().map(|rate| format!("{rate}: {}", rate.trim_start_matches("every_")));
    format!("{{{}}}", default.into_iter().chain(others).collect::<Vec<_>>().join(", "))
}

/// A host and port, or a device file, as people write it: without quotes where nobody can take it for something else.
pub fn place(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '/' | ':');
    let is_word = text.starts_with('/')
        || text.matches('.').count() == 3
        || text.starts_with(|c: char| c.is_ascii_alphabetic());
    let is_bare = is_word && text.chars().all(is_plain) && !text.ends_with(':') && text.contains([':', '/']);
    if is_bare { text.to_owned() } else { scalar(text) }
}

fn or(name: String, other: &str) -> String {
    if name.is_empty() { other.into() } else { name }
}
