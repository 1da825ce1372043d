//! What ran well last, for when what is to run does not: a site file with errors after a power cut, or a configuration that ends the program again and
//! again.
//!
//! `STATE/last-good` has the site file and the profiles that it used, as they were read: a folder that can be looked at, compared and run like any other. It
//! is replaced as a whole when something else has run for [`GOOD_AFTER`]. `STATE/starts.json` counts the starts that did not get there.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::state;
use crate::config::plan::Files;
use crate::model::clock;

/// What has run so long runs well.
pub const GOOD_AFTER: Duration = Duration::from_secs(120);
/// After so many starts in a row that ended earlier, something else is to run.
pub const FAILED_STARTS: u32 = 5;

const FOLDER: &str = "last-good";
const SITE: &str = "site.yaml";
const STARTS: &str = "starts.json";

/// The site file of what ran well last; there may be none.
pub fn site(state: &Path) -> PathBuf {
    state.join(FOLDER).join(SITE)
}

/// Does what ran well last consist of these files?
pub fn is_saved(state: &Path, files: &Files) -> bool {
    let folder = state.join(FOLDER);
    named(files).all(|(name, text)| fs::read_to_string(folder.join(name)).is_ok_and(|saved| saved == text))
}

/// Counts a start. How many before it, with the same files and since the same boot, ended too early?
pub fn begin(state: &Path, files: &Files) -> u32 {
    let path = state.join(STARTS);
    let (id, boot) = (id(files), clock::boot());
    let known: Value =
        fs::read_to_string(&path).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let same = known["files"] == *id && known["boot"] == boot;
    let failed = if same { known["starts"].as_u64().unwrap_or(0) } else { 0 };
    let text = format!("{}\n", json!({"files": id, "boot": boot, "starts": failed.saturating_add(1)}));
    if let Err(error) = state::replace(&path, &text) {
        tracing::warn!(path = %path.display(), %error, "starts can't be counted");
    }
    u32::try_from(failed).unwrap_or(u32::MAX)
}

/// The starts so far count no more: it runs well, or was told to end.
pub fn forget_starts(state: &Path) {
    // There may be none.
    let _ = fs::remove_file(state.join(STARTS));
}

/// Keeps what runs, each time that it has run for [`GOOD_AFTER`]. The first that `running` has may be what is kept already, `stood_in`.
pub(super) async fn keep(state: PathBuf, mut running: watch::Receiver<Arc<Files>>, stood_in: bool) {
    if stood_in && running.changed().await.is_err() {
        return;
    }
    loop {
        let files = running.borrow_and_update().clone();
        tokio::select! {
            changed = running.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            () = sleep(GOOD_AFTER) => {}
        }
        let folder = state.clone();
        let kept = spawn_blocking(move || {
            forget_starts(&folder);
            if is_saved(&folder, &files) { Ok(()) } else { save(&folder, &files) }
        });
        if let Ok(Err(error)) = kept.await {
            tracing::warn!(%error, "what runs well can't be kept for the next start");
        }
        if running.changed().await.is_err() {
            return;
        }
    }
}

/// Replaces what ran well last: whatever happens, the old one or the new one is there. Blocks.
pub fn save(state: &Path, files: &Files) -> io::Result<()> {
    let (folder, beside) = (state.join(FOLDER), state.join("last-good.new"));
    remove(&beside)?;
    for (name, text) in named(files) {
        let path = beside.join(name);
        if let Some(parent) = path.parent() {
            // A site file may have passwords in it.
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
    }
    match renameat_with(CWD, &beside, CWD, &folder, RenameFlags::EXCHANGE) {
        Ok(()) => {}
        // The first one, or a file system that can't exchange.
        Err(_) => {
            remove(&folder)?;
            fs::rename(&beside, &folder)?;
        }
    }
    File::open(state)?.sync_all()?;
    remove(&beside)
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// The files' names in the folder, and what is in them.
fn named(files: &Files) -> impl Iterator<Item = (PathBuf, &str)> {
    let site = files.site.iter().map(|file| (PathBuf::from(SITE), file.text.as_str()));
    let profiles = files.profiles.iter();
    site.chain(profiles.map(|(name, file)| (format!("mappings/{name}.yaml").into(), file.text.as_str())))
}

fn id(files: &Files) -> String {
    let mut hash = Sha256::new();
    for (name, text) in named(files) {
        let name = name.as_os_str().as_encoded_bytes();
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::diagnostic::SourceFile;

    fn files(site: &str, profiles: &[(&str, &str)]) -> Arc<Files> {
        let file = |text: &str| Arc::new(SourceFile { path: "elsewhere".into(), text: text.into() });
        let profiles = profiles.iter().map(|(name, text)| (name.to_string(), file(text))).collect();
        Arc::new(Files { site: Some(file(site)), profiles })
    }

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("taktbus-last-good-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn starts_of_the_same_files_are_counted_until_one_is_good() {
        let state = directory("starts");
        let (one, other) = (files("one", &[("m/x", "1")]), files("one", &[("m/x", "2")]));
        assert_eq!([begin(&state, &one), begin(&state, &one), begin(&state, &one)], [0, 1, 2]);
        assert_eq!([begin(&state, &other), begin(&state, &one), begin(&state, &one)], [0, 0, 1]);
        forget_starts(&state);
        assert_eq!(begin(&state, &one), 0);
        fs::write(state.join(STARTS), "{").unwrap();
        assert_eq!([begin(&state, &one), begin(&state, &one)], [0, 1]);
        fs::remove_dir_all(state).unwrap();
    }

    #[test]
    fn what_is_saved_is_all_of_it_and_nothing_else() {
        let state = directory("save");
        let (one, other) = (files("one", &[("m/x", "1"), ("y", "2")]), files("two", &[("z", "3")]));
        assert!(!is_saved(&state, &one));
        save(&state, &one).unwrap();
        assert!(is_saved(&state, &one) && !is_saved(&state, &other));
        assert_eq!(fs::read_to_string(state.join("last-good/mappings/m/x.yaml")).unwrap(), "1");
        // What a crash has left is in nobody's way.
        fs::create_dir_all(state.join("last-good.new/mappings")).unwrap();
        save(&state, &other).unwrap();
        assert!(is_saved(&state, &other) && !is_saved(&state, &one));
        assert!(!state.join("last-good/mappings/y.yaml").exists() && !state.join("last-good.new").exists());
        let mode = std::os::unix::fs::MetadataExt::mode;
        assert_eq!(mode(&fs::metadata(state.join(FOLDER)).unwrap()) & 0o777, 0o700);
        assert_eq!(mode(&fs::metadata(site(&state)).unwrap()) & 0o777, 0o600);
        fs::remove_dir_all(state).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_run_long_enough_is_kept() {
        let state = directory("keep");
        let (one, other) = (files("one", &[]), files("two", &[]));
        begin(&state, &one);
        let (running, receiver) = watch::channel(one.clone());
        let keeper = tokio::spawn(keep(state.clone(), receiver, false));
        let saved = async |files: &Files| {
            // The clock stands still while a file is being written.
            for _ in 0..10_000 {
                if is_saved(&state, files) {
                    return true;
                }
                tokio::task::yield_now().await;
                std::thread::yield_now();
            }
            false
        };
        sleep(GOOD_AFTER / 2).await;
        running.send_replace(other.clone());
        sleep(GOOD_AFTER - Duration::from_secs(1)).await;
        assert!(!is_saved(&state, &one) && !is_saved(&state, &other) && state.join(STARTS).exists());
        sleep(Duration::from_secs(2)).await;
        assert!(saved(&other).await);
        assert_eq!(begin(&state, &other), 0, "the starts before are forgotten");
        running.send_replace(one.clone());
        sleep(GOOD_AFTER + Duration::from_secs(1)).await;
        assert!(saved(&one).await);
        drop(running);
        keeper.await.unwrap();

        // What stands in is no success of what was to run.
        begin(&state, &other);
        let (running, receiver) = watch::channel(one.clone());
        let keeper = tokio::spawn(keep(state.clone(), receiver, true));
        sleep(GOOD_AFTER * 3).await;
        assert!(state.join(STARTS).exists());
        running.send_replace(other.clone());
        sleep(GOOD_AFTER + Duration::from_secs(1)).await;
        assert!(saved(&other).await);
        drop(running);
        keeper.await.unwrap();
        fs::remove_dir_all(state).unwrap();
    }
}
