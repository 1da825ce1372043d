//! The routes' stores: where they are, and the thread that each of them has.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::gateway::Failed;
use crate::metrics::RouteMetrics;
use crate::store::disk::Folder;
use crate::store::{self, Handle, Log, Opened, Settings, StoreError, inspect};

/// A store that is open, and what it knew at once.
pub(super) type OpenStore = (Log<Folder>, Opened);

/// Where the stores of all routes are.
pub fn folder(state: &Path) -> PathBuf {
    state.join("store")
}

/// Opens a route's store. Without one the gateway works from memory; it does not start where another one is at work.
pub(super) async fn open(
    state: &Path,
    route: &str,
    settings: &Settings,
    metrics: &Arc<RouteMetrics>,
) -> Result<Option<OpenStore>, Failed> {
    let path = folder(state).join(route);
    let (settings, metrics) = (settings.clone(), Arc::clone(metrics));
    let opening = path.clone();
    let opened = spawn_blocking(move || Log::open(Folder::lock(&opening)?, settings, metrics)).await;
    match opened {
        Ok(Ok(store)) => Ok(Some(store)),
        Ok(Err(error @ StoreError::InUse)) => {
            Err(Failed { part: format!("the store {}", path.display()), cause: error.to_string() })
        }
        Ok(Err(error)) => {
            tracing::error!(path = %path.display(), %error, "there is no store; messages are kept in memory only");
            Ok(None)
        }
        Err(error) => Err(Failed { part: "opening the store".into(), cause: error.to_string() }),
    }
}

/// How many messages wait in the stores of other routes, by name.
fn left_behind(state: &Path, routes: &[String]) -> Vec<(String, u64)> {
    let entries = std::fs::read_dir(folder(state)).into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())));
    let others = named.filter(|(name, _)| !routes.contains(name));
    let waiting = |path: PathBuf| {
        let contents = inspect::look(&path, |_, _| {}).ok()?;
        Some(contents.waiting.values().map(|waiting| waiting.messages).sum())
    };
    let mut left: Vec<_> = others.filter_map(|(name, path)| Some((name, waiting(path)?))).collect();
    left.retain(|(_, messages)| *messages > 0);
    left.sort();
    left
}

/// Says what waits for a route that has gone from the site file, or keeps no store any more: nobody sends it.
pub(super) fn tell_left_behind(state: PathBuf, routes: Vec<String>) {
    spawn_blocking(move || {
        for (route, messages) in left_behind(&state, &routes) {
            tracing::warn!(
                route,
                messages,
                "nobody sends what is in this store, its route is gone or keeps none: look with `taktbus store inspect --route {route}`, \
                 remove it with `taktbus store drop --route {route}`"
            );
        }
    });
}

/// Gives a store its thread.
pub(super) fn start(log: Log<Folder>, route: &str, epoch: u64) -> Option<Handle> {
    let (handle, ends) = store::connected();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().ok()?;
    let thread = std::thread::Builder::new().name(format!("store-{route}"));
    let started = thread.spawn(move || runtime.block_on(store::serve(log, epoch, ends)));
    started.inspect_err(|error| tracing::error!(%error, "the store has no thread")).ok()?;
    Some(handle)
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::budget::OnLate;
    use crate::store::{Op, Stored};

    #[test]
    fn messages_of_routes_that_are_no_more_are_found() {
        let state = std::env::temp_dir().join(format!("taktbus-left-behind-{}", std::process::id()));
        for (route, messages) in [("cloud", 1), ("old", 3), ("empty", 0)] {
            let settings = Settings { size: 1 << 20, age: None, sync: std::time::Duration::ZERO };
            let folder = Folder::lock(&folder(&state).join(route)).unwrap();
            let (mut log, _) = Log::open(folder, settings, Arc::default()).unwrap();
            log.start(1, Instant::now());
            for position in 0..messages {
                log.apply(Op::Append(Stored {
                    position,
                    epoch: 1,
                    seq: position,
                    at: 0,
                    doubted: None,
                    late: OnLate::Deliver,
                    device: "d".into(),
                    topic: "t".into(),
                    payload: "{}".into(),
                }));
            }
            log.finish();
        }
        std::fs::create_dir_all(folder(&state).join("notes")).unwrap();
        let found = left_behind(&state, &["cloud".into()]);
        std::fs::remove_dir_all(&state).unwrap();
        assert_eq!(found, [("old".to_owned(), 3)]);
    }
}
