//! A password or key: where it is, never what it is.

use std::fmt;
use std::path::PathBuf;

/// Where a secret comes from. It is read at each connect, so a rotated one is picked up; `Debug` never shows it.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// An environment variable.
    Env(String),
    /// A file; one trailing line end is ignored.
    File(PathBuf),
    /// Written in the site file itself.
    Literal(String),
}

/// The secret isn't where the configuration says.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The environment variable is not set, or is not UTF-8.
    #[error("environment variable {0} is not set")]
    Env(String),
    /// The file can't be read.
    #[error("secret file {}: {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
}

impl Secret {
    /// Reads it.
    pub fn reveal(&self) -> Result<String, SecretError> {
        match self {
            Self::Env(name) => std::env::var(name).map_err(|_| SecretError::Env(name.clone())),
            Self::File(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|cause| SecretError::File { path: path.clone(), cause })?;
                Ok(text
                    .strip_suffix('\n')
                    .map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t))
                    .to_string())
            }
            Self::Literal(text) => Ok(text.clone()),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "Env({name})"),
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Literal(_) => f.write_str("Literal(…)"),
        }
    }
}
