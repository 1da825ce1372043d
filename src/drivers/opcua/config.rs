//! What a site file says about an OPC UA connection, compiled.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::secret::Secret;

/// How long to wait for an answer where the site says nothing.
pub const TIMEOUT: Duration = Duration::from_secs(2);

/// The port of OPC UA servers (IANA).
pub const PORT: u16 = 4840;

/// Longest endpoint, in bytes (OPC UA Part 6, 7.1.2.3: the endpoint URL of a Hello).
const MOST_BYTES: usize = 4096;

/// An OPC UA connection: one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpcuaConfig {
    /// Where the server is.
    pub endpoint: Endpoint,
    /// How messages are protected.
    pub security: Security,
    /// As whom the session is activated.
    pub user: User,
    /// How long to wait for an answer, and for a connection.
    pub timeout: Duration,
}

/// Where a server is: `opc.tcp://HOST:PORT/PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Name or address; an IPv6 address without its brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// With its slash, or empty.
    pub path: String,
}

/// How messages are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// By the best policy that the server offers and that is not deprecated.
    Best(Mode),
    /// By this policy.
    Policy(Policy, Mode),
    /// Not at all.
    None,
}

/// What happens to messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Mode {
    Sign,
    SignAndEncrypt,
}

/// A security policy (OPC UA Part 7, 6.6), the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Policy {
    Aes256Sha256RsaPss,
    Aes128Sha256RsaOaep,
    Basic256Sha256,
    Basic256,
    Basic128Rsa15,
}

impl Policy {
    /// All of them, the best first.
    pub const ALL: [Self; 5] = [
        Self::Aes256Sha256RsaPss,
        Self::Aes128Sha256RsaOaep,
        Self::Basic256Sha256,
        Self::Basic256,
        Self::Basic128Rsa15,
    ];

    /// Its URI.
    pub fn uri(self) -> &'static str {
        match self {
            Self::Aes256Sha256RsaPss => "http://opcfoundation.org/UA/SecurityPolicy#Aes256_Sha256_RsaPss",
            Self::Aes128Sha256RsaOaep => "http://opcfoundation.org/UA/SecurityPolicy#Aes128_Sha256_RsaOaep",
            Self::Basic256Sha256 => "http://opcfoundation.org/UA/SecurityPolicy#Basic256Sha256",
            Self::Basic256 => "http://opcfoundation.org/UA/SecurityPolicy#Basic256",
            Self::Basic128Rsa15 => "http://opcfoundation.org/UA/SecurityPolicy#Basic128Rsa15",
        }
    }

    /// The part of its URI that people call it by.
    pub fn name(self) -> &'static str {
        self.uri().rsplit('#').next().unwrap_or_default()
    }

    /// Does OPC UA 1.04 call it deprecated? It signs with SHA-1.
    pub fn is_deprecated(self) -> bool {
        matches!(self, Self::Basic256 | Self::Basic128Rsa15)
    }
}

/// Who the user of the session is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// Nobody.
    Anonymous,
    /// A name and a password.
    Name(String, Secret),
    /// An X.509 certificate.
    Certificate {
        /// DER or PEM.
        cert: PathBuf,
        /// PEM.
        key: PathBuf,
    },
}

impl Endpoint {
    /// Reads `opc.tcp://HOST[:PORT][/PATH]`.
    pub fn of(url: &str) -> Option<Self> {
        let rest = url.strip_prefix("opc.tcp://").filter(|_| url.len() <= MOST_BYTES)?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = match authority.strip_prefix('[') {
            Some(bracketed) => {
                let (host, after) = bracketed.split_once(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                (host, if after.is_empty() { None } else { Some(after.strip_prefix(':')?) })
            }
            None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            None => PORT,
            Some(text) => {
                text.parse().ok().filter(|port| *port > 0 && text.bytes().all(|b| b.is_ascii_digit()))?
            }
        };
        let fits = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        let plain = !host.is_empty() && host.chars().all(fits) && !path.chars().any(char::is_control);
        plain.then(|| Self { host: host.to_string(), port, path: path.to_string() })
    }
}

/// `opc.tcp://192.168.1.60:4840/path`
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, path } = self;
        if host.contains(':') {
            write!(f, "opc.tcp://[{host}]:{port}{path}")
        } else {
            write!(f, "opc.tcp://{host}:{port}{path}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_and_shown() {
        for (url, shown) in [
            ("opc.tcp://10.0.0.1", "opc.tcp://10.0.0.1:4840"),
            ("opc.tcp://plc-1.local:4841/UA/Server", "opc.tcp://plc-1.local:4841/UA/Server"),
            ("opc.tcp://[fe80::1]:4840", "opc.tcp://[fe80::1]:4840"),
        ] {
            assert_eq!(Endpoint::of(url).map(|endpoint| endpoint.to_string()).as_deref(), Some(shown));
        }
        for bad in [
            "http://10.0.0.1",
            "opc.tcp://",
            "opc.tcp://:4840",
            "opc.tcp://h:0",
            "opc.tcp://h:70000",
            "opc.tcp://u@h",
            "opc.tcp://[x]",
        ] {
            assert_eq!(Endpoint::of(bad), None, "{bad}");
        }
    }
}
