//! `taktbus generate` (hidden): the man pages and shell completions of the packages, made from the command line itself,
//! so that they are always true to it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, CommandFactory as _, ValueEnum};
use clap_complete::Shell;

use super::{Cli, Outcome};

#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// What to write
    #[arg(value_enum)]
    what: What,
    /// The directory to write to; it is made where it is missing
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    /// man pages: taktbus(1), and one per subcommand
    Man,
    /// completions for bash, zsh and fish
    Completions,
}

pub fn generate(args: &GenerateArgs) -> Result<Outcome> {
    let folder = &args.folder;
    let writing = || format!("cannot write to {}", folder.display());
    fs::create_dir_all(folder).with_context(writing)?;
    match args.what {
        What::Man => manual(folder),
        What::Completions => completions(folder),
    }
    .with_context(writing)?;
    Ok(Outcome::Fine)
}

fn manual(folder: &Path) -> std::io::Result<()> {
    clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), folder)
}

fn completions(folder: &Path) -> std::io::Result<()> {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut command = Cli::command();
        clap_complete::generate_to(shell, &mut command, "taktbus", folder)?;
    }
    Ok(())
}
