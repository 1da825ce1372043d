//! `taktbus diff`: what is different between two site files, in what they mean.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::{Outcome, SiteArgs, reload, site};
use crate::config::difference::Difference;
use crate::config::plan::Site;
use crate::model::diagnostic::Severity;

#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    /// The site file as it was
    #[arg(value_name = "OLD.yaml", required_unless_present = "running")]
    old: Option<PathBuf>,
    /// The site file as it is to be
    #[arg(value_name = "NEW.yaml", required_unless_present = "running")]
    new: Option<PathBuf>,
    /// What a reload of the running gateway would change: what runs, and its site file as it is now
    #[arg(long, conflicts_with_all = ["old", "new", "mappings"])]
    running: bool,
    /// The running gateway's control socket [default: as `taktbus explain` has it]
    #[arg(long, value_name = "PATH", requires = "running")]
    control: Option<PathBuf>,
    /// Look for profiles here too, after the mappings folders beside the site files
    #[arg(long = "mappings", value_name = "DIR")]
    mappings: Vec<PathBuf>,
    /// For programs
    #[arg(long)]
    json: bool,
}

pub(super) fn diff(args: &DiffArgs) -> Result<Outcome> {
    let (Some(old), Some(new)) = (&args.old, &args.new) else {
        return super::block_on(reload::diff_running(args.control.clone(), args.json));
    };
    let (Some(old), Some(new)) = (read(old, args), read(new, args)) else {
        return Ok(Outcome::WrongConfiguration);
    };
    let difference = Difference::between(&old, &new);
    match args.json {
        true => outln!("{:#}", difference.as_json()),
        false => out!("{}", difference),
    }
    Ok(if difference.is_none() { Outcome::Fine } else { Outcome::Failed })
}

/// Warnings are for `check`.
fn read(path: &std::path::Path, args: &DiffArgs) -> Option<Site> {
    let mut loaded = site::read(&SiteArgs { site: path.into(), mappings: args.mappings.clone() });
    let is_sound = loaded.is_sound();
    loaded.diagnostics.retain(|finding| finding.severity == Severity::Error);
    site::print(&loaded.diagnostics);
    loaded.site.filter(|_| is_sound)
}
