//! Loads a site for a command, printing what is wrong with it.

use std::path::Path;

use anyhow::Result;

use super::{Outcome, SiteArgs};
use crate::config::plan::Site;
use crate::config::{self, LoadOptions, Loaded, ports};
use crate::model::diagnostic::{Diagnostic, Severity};
use crate::runtime::gateway::Gateway;

/// Loads the site; nothing is printed.
pub fn read(args: &SiteArgs) -> Loaded {
    config::load(&args.site, &options(args))
}

fn options(args: &SiteArgs) -> LoadOptions {
    LoadOptions {
        mapping_dirs: args.mappings.clone(),
        port_links: Some(ports::BY_ID.into()),
        look_for_secrets: true,
        beside: None,
    }
}

/// What is to run in place of a site that can't: a copy of what ran earlier. Nothing is printed.
pub fn stand_in(copy: &Path, of: &SiteArgs) -> Option<Gateway> {
    let beside = of.site.parent().map(Path::to_owned);
    let loaded = config::load(copy, &LoadOptions { mapping_dirs: Vec::new(), beside, ..options(of) });
    let sound = loaded.is_sound();
    Gateway::new(loaded.site.filter(|_| sound)?).ok()
}

/// Loads the site; diagnostics go to stderr.
pub fn load(args: &SiteArgs) -> Loaded {
    let loaded = read(args);
    print(&loaded.diagnostics);
    loaded
}

/// The site, if it may be started, or the outcome that ends the command.
pub fn site(args: &SiteArgs) -> Result<Site, Outcome> {
    let loaded = load(args);
    let sound = loaded.is_sound();
    loaded.site.filter(|_| sound).ok_or(Outcome::WrongConfiguration)
}

/// The site, planned. What can't be planned goes to stderr.
pub fn gateway(args: &SiteArgs) -> Result<Gateway, Outcome> {
    site(args).and_then(planned)
}

/// Plans the reads of a site.
pub fn planned(site: Site) -> Result<Gateway, Outcome> {
    Gateway::new(site).map_err(|errors| {
        errors.iter().for_each(|error| errln!("error: {error}"));
        Outcome::WrongConfiguration
    })
}

/// Prints diagnostics and their count.
pub fn print(diagnostics: &[Diagnostic]) {
    for diagnostic in diagnostics {
        errln!("{diagnostic}");
    }
    let count = |severity| diagnostics.iter().filter(|d| d.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let worst = diagnostics.iter().min_by_key(|finding| finding.severity);
    if let Some(worst) = worst {
        errln!("{}, {}", plural(errors, "error"), plural(warnings, "warning"));
        errln!("`taktbus explain-code {}` tells more", worst.code);
    }
}

/// `1 device`, `2 devices`
pub fn plural(n: usize, word: &str) -> String {
    format!("{n} {word}{}", if n == 1 { "" } else { "s" })
}
