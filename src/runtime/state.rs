//! What a gateway remembers across restarts: a small JSON file that people can read, and delete.
//!
//! - Written whole to a file beside it and renamed: after a loss of power it's the old one or the new one.
//! - A damaged file is reported, and written over when there is something to write. One of a later version is reported and
//!   left alone. Neither is fatal.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::drivers::bans::{BANS, Ban, Bans};
use crate::model::place::Table;

/// The file's name in the state directory.
const FILE: &str = "devices.json";

/// The file's version: one with another is not this program's.
const VERSION: u64 = 1;

/// Bans that are kept. Beyond that, a ban holds until the process ends.
const MOST_BANS: usize = 10_000;

/// Bytes of a file that is read at all: the most bans with room to spare.
const MOST_BYTES: u64 = 4 << 20;

/// Where a service's state belongs, as systemd gives it (`StateDirectory=`); the first one, should there be several.
pub fn default_directory() -> Option<PathBuf> {
    let given = std::env::var_os("STATE_DIRECTORY")?;
    std::env::split_paths(&given).find(|path| !path.as_os_str().is_empty())
}

/// Why a state file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The system says no.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It's no JSON, or says something else.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// A later program wrote it.
    #[error("it has version {0}, this program knows {VERSION}")]
    Version(u64),
}

/// Reads what is known, and starts the task that keeps what is found. It ends when nobody can find anything any more.
pub(super) async fn keep(directory: Option<PathBuf>) -> (Bans, Option<JoinHandle<()>>) {
    let Some(directory) = directory else { return (Bans::default(), None) };
    let path = directory.join(FILE);
    let made = spawn_blocking(move || std::fs::create_dir_all(directory)).await;
    if let Ok(Err(error)) = made {
        tracing::warn!(path = %path.display(), %error, "what is found out about devices can't be remembered");
    }
    let reading = path.clone();
    let known = match spawn_blocking(move || load(&reading)).await {
        Ok(Ok(known)) => known,
        // Whoever goes back to the later program finds its file as it was.
        Ok(Err(error @ StateError::Version(_))) => {
            tracing::warn!(path = %path.display(), %error, "what is found out about devices is not remembered");
            return (Bans::default(), None);
        }
        Ok(Err(error)) => {
            tracing::warn!(path = %path.display(), %error, "what was known of devices can't be used; it is found out again");
            BTreeSet::new()
        }
        Err(_) => BTreeSet::new(),
    };
    let (found, receive) = mpsc::channel(BANS);
    let bans = Bans::new(known.iter().cloned().collect(), Some(found));
    (bans, Some(tokio::spawn(keep_found(path, known, receive))))
}

async fn keep_found(path: PathBuf, mut known: BTreeSet<Ban>, mut found: mpsc::Receiver<Ban>) {
    while let Some(ban) = found.recv().await {
        known.extend(std::iter::once(ban).chain(std::iter::from_fn(|| found.try_recv().ok())));
        while known.len() > MOST_BANS {
            known.pop_last();
        }
        let (path, text) = (path.clone(), render(&known));
        let shown = path.display().to_string();
        if let Ok(Err(error)) = spawn_blocking(move || replace(&path, &text)).await {
            tracing::warn!(path = shown, %error, "what was found out about devices can't be remembered");
        }
    }
}

/// What the file holds; nothing when there is none.
fn load(path: &Path) -> Result<BTreeSet<Ban>, StateError> {
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        file => file?,
    };
    let mut text = String::new();
    file.take(MOST_BYTES).read_to_string(&mut text)?;
    parse(&text)
}

pub(crate) fn parse(text: &str) -> Result<BTreeSet<Ban>, StateError> {
    let document: Value =
        serde_json::from_str(text).map_err(|error| StateError::Damaged(error.to_string()))?;
    let missing = |what: &str| StateError::Damaged(format!("no {what}"));
    match document["version"].as_u64() {
        Some(VERSION) => {}
        Some(other) => return Err(StateError::Version(other)),
        None => return Err(missing("version")),
    }
    let bans = document["not_read_over"].as_array().ok_or_else(|| missing("not_read_over"))?;
    bans.iter().take(MOST_BANS).map(|ban| ban_of(ban).ok_or_else(|| missing("hole in an entry"))).collect()
}

fn ban_of(json: &Value) -> Option<Ban> {
    let table = json["table"].as_str()?;
    Some(Ban {
        link: json["link"].as_str()?.into(),
        unit: json["unit"].as_u64()?.try_into().ok()?,
        table: [Table::Coil, Table::Discrete, Table::Input, Table::Holding]
            .into_iter()
            .find(|known| known.key() == table)?,
        address: json["address"].as_u64()?.try_into().ok()?,
        count: json["count"].as_u64()?.try_into().ok()?,
    })
}

pub(crate) fn render(bans: &BTreeSet<Ban>) -> String {
    let entry = |ban: &Ban| {
        let Ban { link, unit, table, address, count } = ban;
        json!({ "link": link, "unit": unit, "table": table.key(), "address": address, "count": count })
    };
    let all: Vec<Value> = bans.iter().map(entry).collect();
    format!("{:#}\n", json!({ "version": VERSION, "not_read_over": all }))
}

/// Replaces a file: whatever happens, the old one or the new one is there. Blocks.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ban(unit: u8) -> Ban {
        Ban { link: "tcp 10.0.0.1:502".into(), unit, table: Table::Input, address: 14, count: 2 }
    }

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("taktbus-state-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        path
    }

    #[tokio::test]
    async fn what_is_found_is_known_after_a_restart_and_only_for_its_unit() {
        let path = directory("restart");
        let (mut bans, keeper) = keep(Some(path.clone())).await;
        assert!(!bans.has(&ban(1)));
        assert!(bans.add(ban(1)));
        drop(bans);
        keeper.unwrap().await.unwrap();
        let (bans, _) = keep(Some(path.clone())).await;
        assert!(bans.has(&ban(1)) && !bans.has(&ban(2)));
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 1, "nothing is left beside it");
        std::fs::remove_dir_all(path).unwrap();
    }

    #[tokio::test]
    async fn a_damaged_file_is_ignored_and_written_over_when_something_is_found() {
        for (name, text) in [("damaged", "{\"version\": 1, \"not_read"), ("odd", "[]")] {
            let path = directory(name);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join(FILE), text).unwrap();
            let (mut bans, keeper) = keep(Some(path.clone())).await;
            assert_eq!(std::fs::read_to_string(path.join(FILE)).unwrap(), text, "left alone");
            assert!(bans.add(ban(1)));
            drop(bans);
            keeper.unwrap().await.unwrap();
            assert_eq!(load(&path.join(FILE)).unwrap(), BTreeSet::from([ban(1)]));
            std::fs::remove_dir_all(path).unwrap();
        }
    }

    #[tokio::test]
    async fn a_file_of_a_later_version_is_left_alone() {
        let path = directory("newer");
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join(FILE), "{\"version\": 2}").unwrap();
        let (mut bans, keeper) = keep(Some(path.clone())).await;
        assert!(keeper.is_none() && !bans.add(ban(1)));
        assert_eq!(std::fs::read_to_string(path.join(FILE)).unwrap(), "{\"version\": 2}");
        std::fs::remove_dir_all(path).unwrap();
    }

    #[tokio::test]
    async fn without_a_directory_nothing_is_remembered_beyond_the_process() {
        let (mut bans, keeper) = keep(None).await;
        assert!(keeper.is_none() && !bans.add(ban(1)));
        assert!(bans.has(&ban(1)));
    }
}
