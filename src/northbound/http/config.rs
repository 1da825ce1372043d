//! What a site file says about an HTTP route, compiled.

use std::time::Duration;

use crate::model::secret::Secret;
use crate::northbound::tls::TlsConfig;

/// An HTTP route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Where messages are POSTed to.
    pub url: String,
    /// Its host, for messages and comparisons.
    pub host: String,
    /// `Some` for `https://`.
    pub tls: Option<TlsConfig>,
    /// Who we are.
    pub auth: Auth,
    /// Further headers; `{site}` and `{device}` stand for the names.
    pub headers: Vec<(String, String)>,
    /// Messages of one request: 1 is a JSON object, more an array.
    pub max_batch: usize,
    /// How long a request may wait for more messages.
    pub linger: Duration,
    /// Bodies of more bytes are compressed.
    pub gzip_above: Option<usize>,
    /// How long to wait for an answer.
    pub timeout: Duration,
    /// Are the statuses of devices and of the gateway sent too?
    pub statuses: bool,
    /// Bytes of messages that wait in memory while the server is away; the oldest are shed first.
    pub backlog_bytes: usize,
}

impl HttpConfig {
    /// The address as logs show it: without the query, which may be a secret.
    pub fn place(&self) -> &str {
        self.url.split('?').next().unwrap_or_default()
    }
}

/// Who we are to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Nobody, or whoever the client's certificate says.
    None,
    /// RFC 6750.
    Bearer(Secret),
    /// RFC 7617.
    Basic(String, Secret),
}
