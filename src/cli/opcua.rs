//! `taktbus opcua`: the certificates of OPC UA connections.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};

use super::Outcome;
use super::table::Table;
use crate::drivers::opcua::Identity;
use crate::drivers::opcua::security::{Known, Pki};
use crate::runtime::state;

#[derive(Debug, Args)]
pub struct OpcuaArgs {
    #[command(subcommand)]
    command: OpcuaCommand,
    /// The state directory of the gateway [default: $STATE_DIRECTORY]
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum OpcuaCommand {
    /// List our own certificate, the servers that are trusted, and those that have been refused
    List,
    /// Trust a server that has been refused, by the beginning of its fingerprint; or the certificate in a file
    Trust {
        /// At least 8 digits of the SHA-256 fingerprint, or a DER or PEM file
        #[arg(value_name = "FINGERPRINT|FILE")]
        what: String,
    },
    /// Trust a server no longer
    Distrust {
        /// At least 8 digits of the SHA-256 fingerprint
        #[arg(value_name = "FINGERPRINT")]
        what: String,
    },
    /// Make our own certificate, if there is none, and say where it is, so that servers can be told to trust it
    Own,
}

pub fn opcua(args: OpcuaArgs) -> Result<Outcome> {
    let Some(state) = args.state.or_else(state::default_directory) else {
        errln!("error: where are the certificates? Give the state directory of the gateway: --state DIR");
        return Ok(Outcome::WrongConfiguration);
    };
    let pki = Pki::in_state(&state);
    match args.command {
        OpcuaCommand::List => list(&pki)?,
        OpcuaCommand::Trust { what } => {
            let known = match pki.trust(&what) {
                Ok(known) => known,
                Err(error) => {
                    errln!("error: {error}");
                    return Ok(Outcome::Failed);
                }
            };
            outln!("trusted from now on: {} {}", &known.fingerprint, known.subject);
            outln!("a running gateway sees it at its next try");
        }
        OpcuaCommand::Distrust { what } => match pki.distrust(&what) {
            Ok(known) => outln!("trusted no longer: {} {}", known.fingerprint, known.subject),
            Err(error) => {
                errln!("error: {error}");
                return Ok(Outcome::Failed);
            }
        },
        OpcuaCommand::Own => {
            let identity = Identity::of_this_machine(Some(&state));
            pki.own(&identity.uri, &identity.host).context("cannot make a certificate")?;
            outln!("{}", pki.own_path().display());
        }
    }
    Ok(Outcome::Fine)
}

fn list(pki: &Pki) -> Result<()> {
    let mut table = Table::new(&["certificate", "fingerprint (SHA-256)", ">days left", "subject"]);
    let mut row = |what: &str, known: &Known| {
        let days = known.days_left.map_or_else(String::new, |days| days.to_string());
        table.row([what.to_string(), known.fingerprint.clone(), days, known.subject.clone()]);
    };
    if let Some(own) = pki.ours() {
        row("our own", &own);
    }
    pki.trusted()?.iter().for_each(|known| row("trusted", known));
    pki.rejected()?.iter().for_each(|known| row("refused", known));
    out!("{}", table.render());
    Ok(())
}
