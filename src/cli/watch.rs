//! `run --watch`: a reload when a file of the site has changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::SiteArgs;

/// How often it's looked. What has changed has to stay as it is for as long: an editor may write in several steps.
const EACH: Duration = Duration::from_secs(1);
/// Folders in folders, and files, that are looked at.
const DEEPEST: usize = 4;
const MOST_FILES: usize = 10_000;

/// What is known of a file without reading it.
type Seen = BTreeMap<PathBuf, (Option<SystemTime>, u64)>;

/// Watches the site file, and the profiles in the folders beside it and those that were given.
pub struct Watch {
    site: SiteArgs,
    /// As the gateway has them.
    told: Seen,
}

impl Watch {
    /// Begins with the files as they are.
    pub async fn new(site: SiteArgs) -> Self {
        Self { told: look(&site).await, site }
    }

    /// Returns when something has changed, and stays as it is. To be awaited to its end.
    pub async fn changed(&mut self) {
        let mut last = self.told.clone();
        loop {
            sleep(EACH).await;
            let seen = look(&self.site).await;
            // A file that is being replaced may be gone for a moment.
            if seen == last && seen != self.told && seen.contains_key(&self.site.site) {
                self.told = seen;
                return;
            }
            last = seen;
        }
    }
}

async fn look(args: &SiteArgs) -> Seen {
    let (site, given) = (args.site.clone(), args.mappings.clone());
    let looked = spawn_blocking(move || {
        let mut seen = Seen::new();
        note(&site, &mut seen);
        let beside = site.parent().unwrap_or(Path::new("")).join("mappings");
        given.iter().chain([&beside]).for_each(|folder| note_profiles(folder, DEEPEST, &mut seen));
        seen
    });
    looked.await.unwrap_or_default()
}

fn note(path: &Path, seen: &mut Seen) {
    if let Ok(found) = std::fs::metadata(path) {
        seen.insert(path.to_owned(), (found.modified().ok(), found.len()));
    }
}

fn note_profiles(folder: &Path, depth: usize, seen: &mut Seen) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "yaml") && seen.len() < MOST_FILES {
            note(&path, seen);
        } else if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            note_profiles(&path, depth - 1, seen);
        }
    }
}
