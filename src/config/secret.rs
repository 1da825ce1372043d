//! Secrets as written: where they are, so that nobody reads them in a site file.

use std::path::PathBuf;

use super::written::SecretWords;
use crate::document::codes;
use crate::document::read::At;
use crate::document::types::{Either, Text};
use crate::model::diagnostic::Diagnostics;
use crate::model::secret::Secret;

/// The secret that a key gives; `what` is what it is, in a word. `None` is reported.
pub fn secret(at: &At<Either<Text, SecretWords>>, what: &str, found: &mut Diagnostics) -> Option<Secret> {
    match &at.value {
        Either::Short(text) => {
            let message = format!("a {what} that everyone sees who sees this file");
            found.warning(codes::LITERAL_SECRET, &at.span, message).help("{env: NAME} or {file: PATH}");
            Some(Secret::Literal(text.0.clone()))
        }
        Either::Long(words) => match (&words.env, &words.file) {
            (Some(env), None) => Some(Secret::Env(env.value.0.clone())),
            (None, Some(file)) => Some(Secret::File(PathBuf::from(&file.value.0))),
            _ if words.faulty => None,
            _ => {
                let help = "{env: NAME} or {file: PATH}";
                found.error(codes::BAD_SECRET, &at.span, "a secret is in one place").help(help);
                None
            }
        },
    }
}
