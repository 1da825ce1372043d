//! `taktbus run`: the gateway in the foreground.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::watch::Watch;
use super::{Outcome, RunArgs, SiteArgs, reload, site, summary};
use crate::runtime::events::Events;
use crate::runtime::gateway::Gateway;
use crate::runtime::last_good::{self, FAILED_STARTS, GOOD_AFTER};
use crate::runtime::limits::raise_open_files;
use crate::runtime::notify::Notifier;
use crate::runtime::reload::Reloader;
use crate::runtime::{control, state};

pub async fn run(args: RunArgs, events: Events) -> Result<Outcome> {
    // First: what changes while the site is read has changed.
    let watch = match args.watch {
        true => Some(Watch::new(args.site.clone()).await),
        false => None,
    };
    let state = args.state.or_else(state::default_directory);
    let chosen = match (args.or_last_good, &state) {
        (false, _) => site::gateway(&args.site),
        (true, Some(state)) => or_last_good(&args.site, state),
        (true, None) => {
            errln!("error: --or-last-good needs a directory to keep it in: --state DIR");
            Err(Outcome::WrongConfiguration)
        }
    };
    let gateway = match chosen {
        Ok(gateway) => gateway,
        Err(outcome) => return Ok(outcome),
    };
    let (gateway, reloader) = gateway.with_reloader(reload::load(args.site.clone()));
    let gateway = gateway
        .with_events(events)
        .with_notifier(Notifier::from_env())
        .with_control(args.control.or_else(control::default_path))
        .with_state(state);
    raise_open_files();
    let _reloads = AbortOnDropHandle::new(tokio::spawn(reload_by_itself(reloader, watch)?));
    let stop = stop_on_signals(args.lasting)?;
    let metrics = gateway.metrics();
    let started = Instant::now();
    let outcome = gateway.run(stop).await;
    err!("{}", summary::render(&metrics.get(), started.elapsed()));
    outcome?;
    Ok(Outcome::Fine)
}

/// The site, or what ran well last in its place.
fn or_last_good(args: &SiteArgs, state: &Path) -> Result<Gateway, Outcome> {
    let wanted = site::gateway(args);
    let reason = match &wanted {
        Ok(gateway) => {
            let failed = last_good::begin(state, gateway.files());
            if failed < FAILED_STARTS || last_good::is_saved(state, gateway.files()) {
                return wanted.map(|gateway| gateway.keeping_last_good(false));
            }
            format!("it has ended {failed} times within {} s of its start", GOOD_AFTER.as_secs())
        }
        Err(_) => "it has errors".to_owned(),
    };
    let copy = last_good::site(state);
    let Some(gateway) = site::stand_in(&copy, args) else {
        return wanted.map(|gateway| gateway.keeping_last_good(false));
    };
    tracing::error!(
        site = %args.site.display(),
        reason,
        runs = %copy.display(),
        "the site file is not what runs: what ran well last runs in its place; mend it, and `taktbus reload`"
    );
    Ok(gateway.keeping_last_good(true))
}

/// SIGHUP has the gateway go over to what its site file says now; so has a change of its files, where they are watched.
fn reload_by_itself(reloader: Reloader, watch: Option<Watch>) -> Result<impl Future<Output = ()>> {
    let mut hangup = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;
    Ok(async move {
        let hangups = async {
            while hangup.recv().await.is_some() {
                reload_and_tell(&reloader).await;
            }
        };
        let changes = async {
            let Some(mut watch) = watch else { return };
            loop {
                watch.changed().await;
                tracing::info!("a file of the site has changed");
                reload_and_tell(&reloader).await;
            }
        };
        tokio::join!(hangups, changes);
    })
}

async fn reload_and_tell(reloader: &Reloader) {
    if let Err(refused) = reloader.reload().await {
        refused.findings().iter().for_each(|finding| tracing::error!("{finding}"));
        tracing::error!(reason = %refused, "not reloaded");
    }
}

/// A token that is cancelled by SIGTERM, SIGINT, or after the given time.
pub fn stop_on_signals(lasting: Option<Duration>) -> Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let stop = CancellationToken::new();
    let cancel = stop.clone();
    tokio::spawn(async move {
        let lasting = async {
            match lasting {
                Some(lasting) => tokio::time::sleep(lasting).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = lasting => {}
        }
        cancel.cancel();
        // Whoever asks twice does not want to wait for the drain.
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::process::exit(130);
    });
    Ok(stop)
}
