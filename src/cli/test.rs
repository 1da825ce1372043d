//! `taktbus test`: what the examples of profiles prove, as a table.

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::table::Table;
use super::{Outcome, SiteArgs, site};
use crate::config;
use crate::config::examples::{Proof, Proven};

#[derive(Debug, Args)]
pub(super) struct TestArgs {
    #[command(flatten)]
    site: SiteArgs,
    /// Only values that are not the expected ones
    #[arg(long)]
    failed: bool,
    /// Name the points that no example covers
    #[arg(long)]
    uncovered: bool,
    /// For programs
    #[arg(long, conflicts_with_all = ["failed", "uncovered"])]
    json: bool,
}

pub(super) fn test(args: &TestArgs) -> Result<Outcome> {
    let loaded = site::read(&args.site);
    let (proven, diagnostics) = match loaded.is_profile() {
        true => {
            let loaded = config::load_profile(&args.site.site);
            (vec![loaded.proven], loaded.diagnostics)
        }
        false => (loaded.proven, loaded.diagnostics),
    };
    if args.json {
        outln!("{}", Value::from_iter(proven.iter().map(json_of)));
    } else {
        proven.iter().for_each(|proven| show(proven, args));
    }
    let failed = proven.iter().flat_map(|proven| &proven.proofs).filter(|proof| !proof.holds).count();
    let errors = diagnostics.iter().any(|found| found.severity == crate::model::diagnostic::Severity::Error);
    // What a table can't show: a file that is wrong, an example that lacks registers.
    if failed == 0 || args.json {
        site::print(&diagnostics);
    }
    Ok(if failed > 0 || errors { Outcome::WrongConfiguration } else { Outcome::Fine })
}

fn show(proven: &Proven, args: &TestArgs) {
    let Proven { profile, proofs, uncovered, .. } = proven;
    let mut table = Table::new(&["point", "registers", "raw", ">decoded", ">expected", "verdict"]);
    let mut rows = 0;
    for proof in proofs.iter().filter(|proof| !args.failed || !proof.holds) {
        let Proof { point, registers, raw, decoded, expected, holds, .. } = proof;
        let verdict = if *holds { "ok" } else { "WRONG" };
        table.row([point, registers, raw, decoded, expected, verdict].map(|cell| cell.to_string()));
        rows += 1;
    }
    if rows > 0 {
        out!("{}", table.render());
    }
    let wrong = proofs.iter().filter(|proof| !proof.holds).count();
    let values = site::plural(proofs.len(), "value");
    let open = site::plural(uncovered.len(), "point");
    outln!("{profile}: {values} tested, {wrong} wrong; {open} without an example\n");
    if args.uncovered && !uncovered.is_empty() {
        outln!("  {}\n", uncovered.join(", "));
    }
}

fn json_of(proven: &Proven) -> Value {
    let proof = |proof: &Proof| {
        let Proof { title, point, registers, raw, decoded, expected, holds } = proof;
        json!({
            "example": title, "point": point, "registers": registers, "raw": raw,
            "decoded": decoded, "expected": expected, "holds": holds,
        })
    };
    json!({
        "profile": proven.profile,
        "values": proven.proofs.iter().map(proof).collect::<Vec<_>>(),
        "uncovered": proven.uncovered.iter().map(|name| &**name).collect::<Vec<_>>(),
    })
}
