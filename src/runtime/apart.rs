//! Work that has a thread and a runtime of its own: whatever it takes, the thread that polls doesn't wait for it.

use tokio_util::sync::{CancellationToken, DropGuard};

/// Work under way; it is cut off when this is dropped.
pub struct Apart {
    _stop: DropGuard,
}

/// Starts what `work` makes, on a thread of this name. Where there is no thread to be had, that is logged, and the work is not done.
pub fn apart<F: Future>(name: &'static str, work: impl FnOnce() -> F + Send + 'static) -> Apart {
    let stop = CancellationToken::new();
    let over = stop.clone();
    let thread = move || match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            runtime.block_on(async { over.run_until_cancelled(work()).await });
            // Resolving a name may hang, and nobody waits for that.
            runtime.shutdown_background();
        }
        Err(error) => tracing::error!(name, %error, "no runtime for it"),
    };
    if let Err(error) = std::thread::Builder::new().name(name.into()).spawn(thread) {
        tracing::error!(name, %error, "no thread for it");
    }
    Apart { _stop: stop.drop_guard() }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn work_goes_on_until_it_is_dropped() {
        const SOON: Duration = Duration::from_secs(60);
        let (tell, told) = mpsc::channel();
        let work = apart("work", move || async move {
            loop {
                let name = std::thread::current().name().map(str::to_owned);
                if tell.send(name).is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        for _ in 0..3 {
            assert_eq!(told.recv_timeout(SOON).unwrap().as_deref(), Some("work"));
        }
        drop(work);
        // The sender goes with the work.
        while told.recv_timeout(SOON).is_ok() {}
        assert_eq!(told.recv_timeout(SOON), Err(mpsc::RecvTimeoutError::Disconnected));
    }
}
