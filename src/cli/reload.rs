//! `taktbus reload`: a running gateway goes over to what its site file says now.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::Value;

use super::explain::{nobody, socket};
use super::{Outcome, SiteArgs, site};
use crate::model::diagnostic::Severity;
use crate::runtime::control::{self, RELOAD};
use crate::runtime::reload::Load;

#[derive(Debug, Args)]
pub(super) struct ReloadArgs {
    /// Only say what would change
    #[arg(long)]
    dry_run: bool,
    /// Undo it unless it's confirmed with --keep within this time (60s, 10m), or as soon as values get older or later than before
    #[arg(long, value_name = "TIME", value_parser = super::duration, conflicts_with = "dry_run")]
    confirm: Option<Duration>,
    /// Confirm the last reload
    #[arg(long, conflicts_with_all = ["dry_run", "confirm"])]
    keep: bool,
    /// Undo the last reload, if it's not confirmed
    #[arg(long, conflicts_with_all = ["dry_run", "confirm", "keep"])]
    revert: bool,
    /// The running gateway's control socket [default: as `taktbus explain` has it]
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// For programs
    #[arg(long)]
    json: bool,
}

pub(super) async fn reload(args: ReloadArgs) -> Result<Outcome> {
    let how = match (&args.confirm, args.dry_run, args.keep, args.revert) {
        (Some(within), ..) => format!(" --confirm {}", within.as_secs().max(1)),
        (_, true, ..) => " --dry-run".into(),
        (_, _, true, _) => " --keep".into(),
        (.., true) => " --revert".into(),
        _ => String::new(),
    };
    let told = ask(args.control, &format!("{RELOAD}{how}")).await?;
    if told["done"] == true {
        return Ok(Outcome::Fine);
    }
    Ok(match (show(&told, args.json), args.confirm) {
        (Some(false), Some(within)) => {
            errln!("undone in {within:?} unless you confirm it: taktbus reload --keep");
            Outcome::Fine
        }
        (Some(_), _) => Outcome::Fine,
        (None, _) => refusal(&told),
    })
}

/// The same as `diff` says of two files: no difference is [`Outcome::Fine`].
pub(super) async fn diff_running(control: Option<PathBuf>, as_json: bool) -> Result<Outcome> {
    let told = ask(control, &format!("{RELOAD} --dry-run")).await?;
    Ok(match show(&told, as_json) {
        Some(true) => Outcome::Fine,
        Some(false) => Outcome::Failed,
        None => refusal(&told),
    })
}

async fn ask(control: Option<PathBuf>, question: &str) -> Result<Value> {
    let path = socket(control);
    control::ask(&path, question).await.with_context(|| nobody(&path))
}

/// Prints what came back. Is everything the same? `None`: it was refused.
fn show(told: &Value, as_json: bool) -> Option<bool> {
    let difference = told.get("difference");
    if as_json {
        outln!("{:#}", difference.unwrap_or(told));
    } else if difference.is_some() {
        out!("{}", told["text"].as_str().unwrap_or_default());
    } else {
        let findings = told["findings"].as_array().map_or(&[][..], Vec::as_slice);
        findings.iter().filter_map(Value::as_str).for_each(|finding| errln!("{finding}"));
        errln!("error: {}", told["error"].as_str().unwrap_or("the answer is not understood"));
    }
    difference.map(|difference| difference["same"] == true)
}

fn refusal(told: &Value) -> Outcome {
    if told["findings"].is_array() { Outcome::WrongConfiguration } else { Outcome::Failed }
}

/// Loads the site file again, as `run` has loaded it.
pub(super) fn load(args: SiteArgs) -> Load {
    Arc::new(move || {
        let loaded = site::read(&args);
        if loaded.is_sound()
            && let Some(site) = loaded.site
        {
            return Ok(site);
        }
        let errors = loaded.diagnostics.iter().filter(|finding| finding.severity == Severity::Error);
        Err(errors.map(ToString::to_string).collect())
    })
}
