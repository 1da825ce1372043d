//! `taktbus check` and `taktbus schema`.

use anyhow::Result;

use super::report::{Format, Verdict};
use super::{CheckArgs, Outcome, SchemaKind, SiteArgs, site};
use crate::config;

pub fn check(args: &CheckArgs) -> Result<Outcome> {
    let verdict = verdict(&args.site);
    match args.format {
        Format::Text => {
            site::print(&verdict.diagnostics);
            if verdict.accepted {
                outln!("{}: fine, {}", args.site.site.display(), contents(&verdict));
            }
        }
        Format::Json => outln!("{:#}", verdict.json()),
        Format::Github => out!("{}", verdict.github()),
    }
    Ok(if verdict.accepted { Outcome::Fine } else { Outcome::WrongConfiguration })
}

/// What is to be said of a site, or of a profile that is given in its place.
fn verdict(args: &SiteArgs) -> Verdict {
    let loaded = site::read(args);
    if loaded.is_profile() {
        let profile = config::load_profile(&args.site);
        let points = profile.map.as_ref().map_or(0, |map| map.points.len());
        let accepted = profile.map.is_some();
        let proven = profile.proven.proofs.len();
        return Verdict { diagnostics: profile.diagnostics, accepted, devices: None, points, proven };
    }
    let sound = loaded.is_sound();
    let gateway = loaded.site.filter(|_| sound).and_then(|site| site::planned(site).ok());
    let accepted = gateway.is_some();
    let (mut devices, mut points) = (0, 0);
    for connection in gateway.iter().flat_map(|gateway| gateway.connections()) {
        for (device, _) in connection.plan.devices() {
            devices += 1;
            points += device.map.points.iter().filter(|point| point.published).count();
        }
    }
    Verdict { diagnostics: loaded.diagnostics, accepted, devices: Some(devices), points, proven: 0 }
}

/// `2 devices, 10 points`, `10 points, 3 values proven by examples`
fn contents(verdict: &Verdict) -> String {
    let points = site::plural(verdict.points, "point");
    match (verdict.devices, verdict.proven) {
        (Some(devices), _) => format!("{}, {points}", site::plural(devices, "device")),
        (None, 0) => points,
        (None, proven) => format!("{points}, {} proven by examples", site::plural(proven, "value")),
    }
}

pub fn schema(kind: SchemaKind) -> Result<Outcome> {
    let kind = match kind {
        SchemaKind::Site => config::DocumentKind::Site,
        SchemaKind::Profile => config::DocumentKind::Profile,
    };
    outln!("{:#}", config::schema(kind));
    Ok(Outcome::Fine)
}
