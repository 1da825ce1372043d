//! `taktbus check` and `taktbus schema`.

use anyhow::Result;

use super::{Outcome, SchemaKind, SiteArgs, site};
use crate::config;

pub fn check(args: &SiteArgs) -> Result<Outcome> {
    let loaded = site::read(args);
    if loaded.is_profile() {
        return Ok(check_profile(args));
    }
    site::print(&loaded.diagnostics);
    let sound = loaded.is_sound();
    let gateway =
        match loaded.site.filter(|_| sound).ok_or(Outcome::WrongConfiguration).and_then(site::planned) {
            Ok(gateway) => gateway,
            Err(outcome) => return Ok(outcome),
        };
    let devices = gateway.connections().iter().flat_map(|connection| connection.plan.devices());
    let (mut count, mut points) = (0, 0);
    for (device, _) in devices {
        count += 1;
        points += device.map.points.iter().filter(|point| point.published).count();
    }
    let (devices, points) = (site::plural(count, "device"), site::plural(points, "point"));
    outln!("{}: fine, {devices}, {points}", args.site.display());
    Ok(Outcome::Fine)
}

fn check_profile(args: &SiteArgs) -> Outcome {
    let loaded = config::load_profile(&args.site);
    site::print(&loaded.diagnostics);
    let Some(map) = loaded.map else { return Outcome::WrongConfiguration };
    let points = site::plural(map.points.len(), "point");
    let proven = match loaded.proven.proofs.len() {
        0 => String::new(),
        proofs => format!(", {} proven by examples", site::plural(proofs, "value")),
    };
    outln!("{}: fine, {points}{proven}", args.site.display());
    Outcome::Fine
}

pub fn schema(kind: SchemaKind) -> Result<Outcome> {
    let kind = match kind {
        SchemaKind::Site => config::DocumentKind::Site,
        SchemaKind::Profile => config::DocumentKind::Profile,
    };
    outln!("{:#}", config::schema(kind));
    Ok(Outcome::Fine)
}
