//! From a site that runs to another one: what is loaded, compared and planned before anything is touched.
//!
//! All of it or nothing: what can't be taken over while running (routes, the store, the site's own keys) refuses the whole.
//! Loading and planning happen on a thread of their own; the gateway gets what is ready to run.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::explain::Explainer;
use crate::config::difference::{Change, Difference};
use crate::config::plan::{Connection, Protocol, Site};
use crate::drivers::Plan;
use crate::drivers::modbus::ModbusPlan;
use crate::drivers::opcua::OpcuaPlan;
use crate::metrics::Current;
use trial::Judge;

mod trial;

/// Makes a site of the site file: or says what is wrong, one finding each.
pub type Load = Arc<dyn Fn() -> Result<Site, Vec<String>> + Send + Sync>;

/// Connections by name, in the order of the site file.
pub type Plans = Vec<(String, Arc<Plan>)>;

/// What runs: a site without its connections, and these.
struct Standing {
    site: Site,
    connections: Plans,
}

/// Asks a gateway to reload. Clones ask the same one.
#[derive(Clone)]
pub struct Reloader {
    load: Load,
    standing: Arc<Current<Standing>>,
    wanted: mpsc::Sender<Reload>,
    /// One after the other. What ran before a reload that nobody has confirmed yet.
    turn: Arc<Mutex<Option<Trial>>>,
    /// What is known of the gateway, once it runs.
    explainer: Arc<OnceLock<Arc<Current<Explainer>>>>,
}

/// A reload that is undone unless somebody confirms it.
struct Trial {
    before: Arc<Standing>,
    /// Cancelled when it's decided.
    decided: CancellationToken,
}

/// The gateway's end.
pub type Reloads = mpsc::Receiver<Reload>;

/// What a gateway is to run from now on.
pub struct Reload {
    /// The site without its connections.
    pub site: Site,
    /// These. One that has stayed as it was is the same.
    pub connections: Plans,
    /// What is different, for people.
    pub changes: String,
    done: oneshot::Sender<()>,
}

impl Reload {
    /// It runs.
    pub fn done(self) {
        // Whoever asked may be gone.
        let _ = self.done.send(());
    }
}

/// Why nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The site file has errors.
    #[error("the site file has errors: nothing was changed")]
    Unsound(Vec<String>),
    /// These parts can't change while it runs.
    #[error("nothing was changed: a restart is needed for {}", .0.join(", "))]
    NeedsRestart(Vec<String>),
    /// The last one is not confirmed yet.
    #[error("the last reload waits to be confirmed: `taktbus reload --keep` or `taktbus reload --revert`")]
    OnTrial,
    /// No reload waits to be confirmed.
    #[error(
        "no reload waits to be confirmed; one that waited was undone when its time was over, or when it made things worse"
    )]
    NoTrial,
    /// It stops.
    #[error("the gateway stops")]
    Stopping,
}

impl Refused {
    /// For programs.
    pub fn as_json(&self) -> Value {
        let mut json = json!({"error": self.to_string()});
        match self {
            Self::Unsound(findings) => json["findings"] = json!(findings),
            Self::NeedsRestart(parts) => json["restart"] = json!(parts),
            Self::OnTrial | Self::NoTrial | Self::Stopping => {}
        }
        json
    }

    /// What is wrong with the site file.
    pub fn findings(&self) -> &[String] {
        match self {
            Self::Unsound(findings) => findings,
            Self::NeedsRestart(_) | Self::OnTrial | Self::NoTrial | Self::Stopping => &[],
        }
    }
}

/// A gateway that runs this, and who asks it to reload.
pub fn reloader(load: Load, site: Site, connections: Plans) -> (Reloader, Reloads) {
    let (wanted, reloads) = mpsc::channel(1);
    let standing = Arc::new(Current::new(Standing { site, connections }));
    let (turn, explainer) = Default::default();
    (Reloader { load, standing, wanted, turn, explainer }, reloads)
}

/// The next reload; never, where nobody can ask for one.
pub async fn next(reloads: &mut Option<Reloads>) -> Option<Reload> {
    match reloads {
        Some(reloads) => reloads.recv().await,
        None => None,
    }
}

impl Reloader {
    /// The gateway runs, and this is what is known of it.
    pub fn runs(&self, explainer: &Arc<Current<Explainer>>) {
        let _ = self.explainer.set(Arc::clone(explainer));
    }

    /// What a reload would change.
    pub async fn try_out(&self) -> Result<Difference, Refused> {
        let _turn = self.turn.lock().await;
        Ok(self.prepared().await?.0)
    }

    /// Has the gateway go over to what the site file says now.
    pub async fn reload(&self) -> Result<Difference, Refused> {
        let this = self.clone();
        to_its_end(async move { this.reload_now().await }).await
    }

    async fn reload_now(&self) -> Result<Difference, Refused> {
        let trial = self.turn.lock().await;
        if trial.is_some() {
            return Err(Refused::OnTrial);
        }
        let (difference, next) = self.prepared().await?;
        self.go_over(&difference, Arc::new(next)).await?;
        Ok(difference)
    }

    /// The same, and undoes it when nobody has confirmed it within so long, or when values get older or later than they were before.
    pub async fn reload_on_trial(&self, within: Duration) -> Result<Difference, Refused> {
        let this = self.clone();
        to_its_end(async move { this.try_for(within).await }).await
    }

    async fn try_for(&self, within: Duration) -> Result<Difference, Refused> {
        let mut trial = self.turn.lock().await;
        if trial.is_some() {
            return Err(Refused::OnTrial);
        }
        let (difference, next) = self.prepared().await?;
        if difference.is_none() {
            return Ok(difference);
        }
        let judge = self.explainer.get().map(|explainer| Judge::new(Arc::clone(explainer)));
        let (before, decided) = (self.standing.get(), CancellationToken::new());
        self.go_over(&difference, Arc::new(next)).await?;
        *trial = Some(Trial { before, decided: decided.clone() });
        tracing::info!(?within, "the reload is undone unless it's confirmed: `taktbus reload --keep`");
        let (reloader, judged) = (self.clone(), async move {
            tokio::select! {
                () = tokio::time::sleep(within) => "nobody has confirmed it in time".to_owned(),
                reason = trial::worse(judge) => reason,
            }
        });
        tokio::spawn(async move {
            tokio::select! {
                () = decided.cancelled() => {}
                reason = judged => {
                    if let Err(refused) = reloader.revert(&reason).await {
                        tracing::error!(reason = %refused, "the reload can't be undone");
                    }
                }
            }
        });
        Ok(difference)
    }

    /// Confirms a reload that is on trial.
    pub async fn keep(&self) -> Result<(), Refused> {
        let trial = self.turn.lock().await.take().ok_or(Refused::NoTrial)?;
        trial.decided.cancel();
        tracing::info!("the reload is confirmed");
        Ok(())
    }

    /// Undoes a reload that is on trial. Says what that has changed.
    pub async fn revert(&self, reason: &str) -> Result<Difference, Refused> {
        let (this, reason) = (self.clone(), reason.to_owned());
        to_its_end(async move { this.revert_now(&reason).await }).await
    }

    async fn revert_now(&self, reason: &str) -> Result<Difference, Refused> {
        let mut turn = self.turn.lock().await;
        let Trial { before, decided } = turn.take().ok_or(Refused::NoTrial)?;
        tracing::warn!(reason, "the reload is undone; the site file still has it");
        let difference = Difference::between(&self.standing.get().as_site(), &before.as_site());
        self.go_over(&difference, before).await?;
        // Last: who waits for it may be who called.
        decided.cancel();
        Ok(difference)
    }

    async fn prepared(&self) -> Result<(Difference, Standing), Refused> {
        let (load, standing) = (self.load.clone(), self.standing.get());
        let prepared = tokio::task::spawn_blocking(move || prepare(&load, &standing));
        prepared.await.map_err(|_| Refused::Stopping)?
    }

    /// Returns when the gateway runs it.
    async fn go_over(&self, difference: &Difference, next: Arc<Standing>) -> Result<(), Refused> {
        // What stands in for the site file has other files, even where it's the same.
        if difference.is_none() && self.standing.get().site.files == next.site.files {
            return Ok(());
        }
        let (done, is_done) = oneshot::channel();
        let changes = difference.to_string();
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let changes = changes.lines().map(words).collect::<Vec<_>>().join("; ");
        let (site, connections) = (next.site.clone(), next.connections.clone());
        let reload = Reload { site, connections, changes, done };
        self.wanted.send(reload).await.map_err(|_| Refused::Stopping)?;
        is_done.await.map_err(|_| Refused::Stopping)?;
        self.standing.set(next);
        Ok(())
    }
}

/// Whoever asked may go away: what has been begun is done nevertheless, else nobody would know what runs.
async fn to_its_end(
    work: impl Future<Output = Result<Difference, Refused>> + Send + 'static,
) -> Result<Difference, Refused> {
    tokio::spawn(work).await.unwrap_or(Err(Refused::Stopping))
}

fn prepare(load: &Load, standing: &Standing) -> Result<(Difference, Standing), Refused> {
    let mut site = load().map_err(Refused::Unsound)?;
    let difference = Difference::between(&standing.as_site(), &site);
    let fixed = needs_restart(&difference);
    if !fixed.is_empty() {
        return Err(Refused::NeedsRestart(fixed));
    }
    let connections =
        plan(std::mem::take(&mut site.connections), &standing.connections).map_err(Refused::Unsound)?;
    Ok((difference, Standing { site, connections }))
}

/// What of a difference can't be taken over by a running gateway.
fn needs_restart(difference: &Difference) -> Vec<String> {
    // Who may write is asked where something is written: not here.
    let site = difference.site.iter().filter(|key| **key != "allow_write").map(ToString::to_string);
    let routes = difference.routes.iter().filter_map(|(name, change)| match change {
        Change::Added => Some(format!("publish.{name} (new)")),
        Change::Removed => Some(format!("publish.{name} (removed)")),
        Change::Changed(keys) => {
            let fixed: Vec<_> = keys.iter().filter(|key| **key != "only, except").copied().collect();
            (!fixed.is_empty()).then(|| format!("publish.{name} ({})", fixed.join(", ")))
        }
    });
    site.chain(routes).collect()
}

/// Plans connections; one that comes out as it was is the very same. Fails with one sentence per device that can't be planned.
pub fn plan(connections: Vec<Connection>, before: &[(String, Arc<Plan>)]) -> Result<Plans, Vec<String>> {
    let (mut planned, mut errors) = (Vec::new(), Vec::new());
    for Connection { name, protocol, devices } in connections {
        let plan = match protocol {
            Protocol::Modbus(config) => ModbusPlan::compile(config, devices).map(Plan::Modbus),
            Protocol::Opcua(config) => Ok(Plan::Opcua(OpcuaPlan::compile(config, devices))),
        };
        match plan {
            Ok(plan) => {
                let same = before.iter().find(|(known, same)| *known == name && **same == plan);
                let plan = same.map_or_else(|| Arc::new(plan), |(_, same)| Arc::clone(same));
                planned.push((name, plan));
            }
            Err(found) => errors.extend(found.iter().map(ToString::to_string)),
        }
    }
    if errors.is_empty() { Ok(planned) } else { Err(errors) }
}

impl Standing {
    /// The site as it was loaded.
    fn as_site(&self) -> Site {
        let connection = |(name, plan): &(String, Arc<Plan>)| {
            let protocol = match &**plan {
                Plan::Modbus(plan) => Protocol::Modbus(plan.config.clone()),
                Plan::Opcua(plan) => Protocol::Opcua(plan.config.clone()),
            };
            let devices = plan.devices().into_iter().map(|(device, _)| device.clone()).collect();
            Connection { name: name.clone(), protocol, devices }
        };
        Site { connections: self.connections.iter().map(connection).collect(), ..self.site.clone() }
    }
}
