//! The routes' stores: where they are, and the thread that each of them has.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::gateway::Failed;
use crate::metrics::RouteMetrics;
use crate::store::disk::Folder;
use crate::store::{self, Handle, Log, Opened, Settings, StoreError};

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

/// Gives a store its thread.
pub(super) fn start(log: Log<Folder>, route: &str, epoch: u64) -> Option<Handle> {
    let (handle, ends) = store::connected();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().ok()?;
    let thread = std::thread::Builder::new().name(format!("store-{route}"));
    let started = thread.spawn(move || runtime.block_on(store::serve(log, epoch, ends)));
    started.inspect_err(|error| tracing::error!(%error, "the store has no thread")).ok()?;
    Some(handle)
}
