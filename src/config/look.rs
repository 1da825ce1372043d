//! Secrets and certificates that a site names: are they there? Looked for, never read.

use std::path::Path;

use super::written::{self, Publish};
use crate::document::codes;
use crate::document::read::At;
use crate::document::types::{Either, Text};
use crate::model::diagnostic::Diagnostics;

/// Warns of environment variables that are not set, and of files that are missing. They may be there when the site runs:
/// a service has an environment of its own.
pub fn check(written: &written::Site, folder: &Path, found: &mut Diagnostics) {
    let routes = written.publish.iter().flat_map(|at| &at.value.0);
    for route in routes.filter_map(|(_, route)| route.as_ref()) {
        for at in files(route) {
            let path = folder.join(&at.value.0);
            if !path.is_file() {
                let message = format!("there is no file {}", path.display());
                found
                    .warning(codes::NOT_THERE, &at.span, message)
                    .help("`run` needs it; a relative path is looked for beside the site file");
            }
        }
        if let Some(env) = variable(route).filter(|env| std::env::var_os(&env.value.0).is_none()) {
            let message = format!("the environment variable {} is not set here", env.value.0);
            found
                .warning(codes::NOT_THERE, &env.span, message)
                .help("`run` needs it; a systemd service gets it by Environment= or EnvironmentFile=");
        }
    }
}

/// The files that a route names.
fn files(route: &Publish) -> impl Iterator<Item = &At<Text>> {
    let secrets = [&route.password, &route.bearer].map(|secret| match secret.as_ref().map(|at| &at.value) {
        Some(Either::Long(words)) => words.file.as_deref(),
        _ => None,
    });
    [route.ca.as_deref(), route.cert.as_deref(), route.key.as_deref()].into_iter().chain(secrets).flatten()
}

/// The environment variable that holds a route's password.
fn variable(route: &Publish) -> Option<&At<Text>> {
    match &route.password.as_ref().or(route.bearer.as_ref())?.value {
        Either::Long(words) => words.env.as_deref(),
        Either::Short(_) => None,
    }
}
