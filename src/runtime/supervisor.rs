//! Keeps one task running: a panic in it restarts it and nothing else.

use std::any::Any;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::metrics::Counter;

/// Wait before the first restart; doubles with each panic, up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// A task that panics at once is restarted this seldom.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// A task that ran this long before its panic starts again with [`FIRST_WAIT`].
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// Runs what `make` makes until it ends by itself, or until `stop` while it waits for a restart.
pub async fn keep<F>(name: &str, restarts: &Counter, stop: &CancellationToken, mut make: impl FnMut() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut wait = FIRST_WAIT;
    loop {
        let started = Instant::now();
        // Whoever drops this future wants the task to end, and to let go of its channels.
        let Err(failure) = AbortOnDropHandle::new(tokio::spawn(make())).await else { return };
        let Ok(panic) = failure.try_into_panic() else { return };
        restarts.inc();
        if started.elapsed() >= HEALTHY_AFTER {
            wait = FIRST_WAIT;
        }
        tracing::error!(task = name, panic = panic_text(&*panic), restart_in = ?wait, "a task panicked and is restarted");
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(wait) => {}
        }
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// What a panic said, as far as it was text.
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no text)")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_panic_restarts_the_task_and_nothing_else() {
        let (runs, restarts) = (Arc::new(AtomicU32::new(0)), Counter::default());
        let task = || {
            let runs = runs.clone();
            async move {
                assert!(runs.fetch_add(1, Relaxed) == 2, "a driver's bug");
            }
        };
        keep("line", &restarts, &CancellationToken::new(), task).await;
        assert_eq!((runs.load(Relaxed), restarts.get()), (3, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn stopping_does_not_wait_for_a_restart() {
        let (stop, restarts) = (CancellationToken::new(), Counter::default());
        stop.cancel();
        keep("line", &restarts, &stop, || async { panic!("again") }).await;
        assert_eq!(restarts.get(), 1);
    }
}
