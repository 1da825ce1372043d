//! `taktbus export`: a profile becomes a register table.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::{Outcome, import, site};
use crate::config;
use crate::interchange::export;

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The profile
    #[arg(value_name = "PROFILE.yaml")]
    profile: PathBuf,
    /// Write here instead of to standard output
    #[arg(short, long, value_name = "OUT.csv")]
    output: Option<PathBuf>,
    /// Replace the output if it exists
    #[arg(long, requires = "output")]
    force: bool,
}

pub fn export(args: &ExportArgs) -> Result<Outcome> {
    let profile = config::load_profile(&args.profile);
    site::print(&profile.diagnostics);
    let Some(exported) = export::export(&profile) else { return Ok(Outcome::WrongConfiguration) };
    let shown = args.profile.display().to_string();
    for note in &exported.notes {
        errln!("{}", note.show(&shown));
    }
    let target = match &args.output {
        Some(path) => {
            import::write(path, &exported.csv, args.force)?;
            path.display().to_string()
        }
        None => {
            out!("{}", exported.csv);
            shown
        }
    };
    let points = site::plural(exported.points, "point");
    errln!("{target}: {points}, {} left out", exported.left_out);
    Ok(if exported.left_out == 0 { Outcome::Fine } else { Outcome::Failed })
}
