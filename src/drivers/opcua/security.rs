//! Our own certificate, and the certificates of servers that somebody has said to trust.
//!
//! - In `pki/` of the state directory: `own/cert.der`, `private/private.pem` (mode 0600), `trusted/*.der`, `rejected/*.der`.
//! - A server is trusted when its very certificate lies in `trusted`. One that doesn't is kept in `rejected`, and refused with its
//!   fingerprint and the command that trusts it.
//! - Our certificate is made at the first need and lasts [`OWN_DAYS`]; it's made anew [`RENEW_DAYS`] before its end. Servers that
//!   trust certificates one by one must be told of the new one, which is why that is announced.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use opcua::crypto::{CertificateStore, PrivateKey, X509, X509Data};
use opcua::types::ByteString;
use sha2::{Digest as _, Sha256};

use crate::model::clock;

/// Our own certificate is valid for ten years: nobody is near a gateway to renew it.
const OWN_DAYS: u32 = 3650;

/// Days before the end at which an expiry is announced.
const ANNOUNCED_DAYS: [i64; 3] = [30, 7, 1];

/// Our own certificate is made anew so many days before its end.
const RENEW_DAYS: i64 = 7;

/// Bits of our own key (OPC UA Part 7, 6.6: 2048 to 4096).
const KEY_BITS: u32 = 2048;

/// Certificates of servers that are kept in `rejected`, at most: whoever answers on the port can send one.
const MOST_REJECTED: usize = 100;

/// Bytes of a certificate that is looked at.
const MOST_BYTES: usize = 64 << 10;

/// The certificates of one gateway.
#[derive(Clone, Debug)]
pub struct Pki {
    directory: PathBuf,
}

/// Why there's no certificate, or no trust.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The directory can't be read or written.
    #[error("{}: {cause}", path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// It can't be made or understood.
    #[error("{0}")]
    Certificate(String),
    /// Nobody has said to trust this one.
    #[error(
        "the server's certificate is not trusted: SHA-256 {fingerprint}; compare it with the server's own, then: taktbus opcua trust {short}{state}"
    )]
    Untrusted {
        /// All of it, in pairs of digits.
        fingerprint: String,
        /// As much of it as the command needs.
        short: String,
        /// ` --state DIR`.
        state: String,
    },
}

/// A certificate of a server, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// SHA-256 of its DER encoding, in hexadecimal digits.
    pub fingerprint: String,
    /// Its subject.
    pub subject: String,
    /// Days until it expires.
    pub days_left: Option<i64>,
    /// Where it lies.
    pub path: PathBuf,
}

impl Pki {
    /// The certificates in a state directory.
    pub fn in_state(state: &Path) -> Self {
        Self { directory: state.join("pki") }
    }

    /// Where the library finds them.
    pub fn store(&self) -> CertificateStore {
        let mut store = CertificateStore::new(&self.directory);
        // The very certificate is compared by `check`, before anything is sent to its owner: names and dates of a certificate that
        // somebody has trusted by its fingerprint prove nothing more.
        store.set_skip_verify_certs(true);
        store.set_trust_unknown_certs(true);
        store
    }

    /// Our own certificate and key, made if there are none, or if they expire soon. `uri`: our application URI.
    pub fn own(&self, uri: &str, host: &str) -> Result<(X509, PrivateKey), PkiError> {
        let (cert_path, key_path) = (self.own_path(), self.directory.join("private/private.pem"));
        if cert_path.exists() || key_path.exists() {
            let certificate = CertificateStore::read_cert(&cert_path).map_err(PkiError::Certificate)?;
            let key = CertificateStore::read_pkey(&key_path).map_err(PkiError::Certificate)?;
            match days_left(&certificate) {
                Some(days) if days < RENEW_DAYS => {
                    tracing::warn!(
                        days,
                        "our own OPC UA certificate expires: a new one is made, which servers must be told to trust"
                    );
                }
                _ => return Ok((certificate, key)),
            }
        }
        let wanted = X509Data {
            key_size: KEY_BITS,
            common_name: "taktbus".into(),
            organization: "taktbus".into(),
            organizational_unit: String::new(),
            country: String::new(),
            state: String::new(),
            // The URI as a URI: servers compare it with what the session says (OPC UA Part 6, 6.2.2). Without localhost, and
            // without what the machine is called by its resolver.
            alt_host_names: X509Data::alt_host_names(uri, Some(vec![host.to_string()]), false, false, false),
            certificate_duration_days: OWN_DAYS,
        };
        let (certificate, key) = X509::cert_and_pkey(&wanted).map_err(PkiError::Certificate)?;
        let der = certificate
            .to_der()
            .map_err(|_| PkiError::Certificate("our own certificate can't be written".into()))?;
        let pem = pem(&key).ok_or_else(|| PkiError::Certificate("our own key can't be written".into()))?;
        for folder in ["own", "private", "trusted", "rejected"] {
            self.make(folder)?;
        }
        // The key first: a certificate without its key would be taken for ours at the next start.
        write_private(&key_path, pem.as_bytes()).map_err(|cause| PkiError::Io { path: key_path, cause })?;
        write_private(&cert_path, &der).map_err(|cause| PkiError::Io { path: cert_path.clone(), cause })?;
        tracing::info!(path = %cert_path.display(), fingerprint = %fingerprint(&der), "made our own OPC UA certificate");
        Ok((certificate, key))
    }

    /// Is this server trusted? One that isn't is kept for `taktbus opcua trust`.
    pub fn check(&self, der: &[u8]) -> Result<(), PkiError> {
        let fingerprint = fingerprint(der);
        if self.trusted()?.iter().any(|known| known.fingerprint == fingerprint) {
            return Ok(());
        }
        if der.len() <= MOST_BYTES && self.listed("rejected")?.len() < MOST_REJECTED {
            let path = self.make("rejected")?.join(format!("{fingerprint}.der"));
            write_private(&path, der).map_err(|cause| PkiError::Io { path, cause })?;
        }
        let state =
            self.directory.parent().map_or_else(String::new, |state| format!(" --state {}", state.display()));
        Err(PkiError::Untrusted {
            fingerprint: pairs(&fingerprint),
            short: fingerprint[..16].to_string(),
            state,
        })
    }

    /// The servers that are trusted.
    pub fn trusted(&self) -> Result<Vec<Known>, PkiError> {
        self.listed("trusted")
    }

    /// The servers that have been refused.
    pub fn rejected(&self) -> Result<Vec<Known>, PkiError> {
        self.listed("rejected")
    }

    /// Trusts a certificate that has been refused, by the beginning of its fingerprint; or that of a file.
    pub fn trust(&self, what: &str) -> Result<Known, PkiError> {
        let beginning = what.replace([':', ' '], "").to_lowercase();
        let refused = self.rejected()?;
        let mut fitting = refused.iter().filter(|known| known.fingerprint.starts_with(&beginning));
        let (der, old) = match (fitting.next(), fitting.next()) {
            (Some(known), None) if beginning.len() >= 8 => (read(&known.path)?, Some(known.path.clone())),
            (Some(_), _) => {
                return Err(PkiError::Certificate(format!(
                    "'{what}' is the beginning of several fingerprints, or too short"
                )));
            }
            (None, _) if Path::new(what).is_file() => {
                let certificate =
                    CertificateStore::read_cert(Path::new(what)).map_err(PkiError::Certificate)?;
                let der = certificate
                    .to_der()
                    .map_err(|_| PkiError::Certificate(format!("{what} is no certificate")))?;
                (der, None)
            }
            (None, _) => {
                return Err(PkiError::Certificate(format!(
                    "no server with the fingerprint '{what}' has been refused"
                )));
            }
        };
        let certificate =
            X509::from_der(&der).map_err(|_| PkiError::Certificate(format!("{what} is no certificate")))?;
        // The name that the library looks for, so that there is one file of each.
        let path = self.make("trusted")?.join(CertificateStore::cert_file_name(&certificate));
        write_private(&path, &der).map_err(|cause| PkiError::Io { path: path.clone(), cause })?;
        if let Some(old) = old {
            let _ = fs::remove_file(old);
        }
        known(path)
    }

    /// Trusts a certificate no longer, which is named by the beginning of its fingerprint.
    pub fn distrust(&self, what: &str) -> Result<Known, PkiError> {
        let beginning = what.replace([':', ' '], "").to_lowercase();
        let trusted = self.trusted()?;
        let fitting: Vec<_> =
            trusted.into_iter().filter(|known| known.fingerprint.starts_with(&beginning)).collect();
        // Somebody may have put the same certificate there under another name.
        let is_one = fitting.windows(2).all(|pair| pair[0].fingerprint == pair[1].fingerprint);
        let Some(known) = fitting.first().filter(|_| is_one && beginning.len() >= 8) else {
            let message = format!("'{what}' is not the beginning of one trusted fingerprint");
            return Err(PkiError::Certificate(message));
        };
        for Known { path, .. } in &fitting {
            fs::remove_file(path).map_err(|cause| PkiError::Io { path: path.clone(), cause })?;
        }
        Ok(known.clone())
    }

    /// Where our own certificate lies.
    pub fn own_path(&self) -> PathBuf {
        self.directory.join("own/cert.der")
    }

    /// Our own certificate, if there is one.
    pub fn ours(&self) -> Option<Known> {
        known(self.own_path()).ok()
    }

    fn listed(&self, folder: &str) -> Result<Vec<Known>, PkiError> {
        let path = self.directory.join(folder);
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(cause) => return Err(PkiError::Io { path, cause }),
        };
        let files = entries.filter_map(Result::ok).map(|entry| entry.path());
        // A file that is no certificate trusts nobody.
        Ok(files
            .filter(|path| path.extension().is_some_and(|e| e == "der"))
            .filter_map(|path| known(path).ok())
            .collect())
    }

    fn make(&self, folder: &str) -> Result<PathBuf, PkiError> {
        let path = self.directory.join(folder);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|cause| PkiError::Io { path: path.clone(), cause })?;
        Ok(path)
    }
}

/// When the certificates that a session lives by expire, and how often that was announced.
#[derive(Debug, Default)]
pub struct Expiry(Vec<Expiring>);

#[derive(Debug)]
struct Expiring {
    whose: &'static str,
    /// Seconds since 1970.
    end: i64,
    announced: usize,
}

impl Expiry {
    /// Watches a certificate too.
    pub fn watch(&mut self, whose: &'static str, certificate: &X509) {
        let end = certificate.not_after().ok().map(|end| end.timestamp());
        self.0.extend(end.map(|end| Expiring { whose, end, announced: 0 }));
    }

    /// Whose certificate is to be announced at `now` (since 1970), and its days: 30, 7 and 1 before its end, each once.
    pub fn due(&mut self, now: Duration) -> Vec<(&'static str, i64)> {
        let announce = |one: &mut Expiring| {
            let days = days_until(one.end, now);
            let reached = ANNOUNCED_DAYS.iter().filter(|limit| days <= **limit).count();
            let is_news = reached > one.announced;
            one.announced = one.announced.max(reached);
            is_news.then_some((one.whose, days))
        };
        self.0.iter_mut().filter_map(announce).collect()
    }
}

/// Days until a certificate expires.
fn days_left(certificate: &X509) -> Option<i64> {
    Some(days_until(certificate.not_after().ok()?.timestamp(), clock::since_epoch()))
}

/// Whole days from `now` to `end`, which is in seconds since 1970.
fn days_until(end: i64, now: Duration) -> i64 {
    end.saturating_sub_unsigned(now.as_secs()) / 86_400
}

fn known(path: PathBuf) -> Result<Known, PkiError> {
    let der = read(&path)?;
    let certificate = X509::from_der(&der).ok();
    Ok(Known {
        fingerprint: fingerprint(&der),
        subject: certificate.as_ref().map_or_else(String::new, X509::subject_name),
        days_left: certificate.as_ref().and_then(days_left),
        path,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, PkiError> {
    fs::read(path).map_err(|cause| PkiError::Io { path: path.to_path_buf(), cause })
}

/// SHA-256 in hexadecimal digits.
pub fn fingerprint(der: &[u8]) -> String {
    Sha256::digest(der).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A private key as PKCS#8 in PEM (RFC 7468, section 10).
fn pem(key: &PrivateKey) -> Option<String> {
    let der = key.to_der().ok()?;
    let base64 = ByteString::from(der.as_bytes().to_vec()).as_base64();
    let mut text = String::from("-----BEGIN PRIVATE KEY-----\n");
    let mut rest = base64.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END PRIVATE KEY-----\n");
    Some(text)
}

/// `AB:CD:…`, as other tools show it.
fn pairs(fingerprint: &str) -> String {
    let upper = fingerprint.to_uppercase();
    let pairs: Vec<&str> = (0..upper.len() / 2).map(|at| &upper[2 * at..2 * at + 2]).collect();
    pairs.join(":")
}

/// Writes a file that only its owner may read, whole or not at all.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_announced_30_7_and_1_days_before_each_once() {
        const DAY: u64 = 86_400;
        let end = 100 * DAY as i64;
        let mut expiry = Expiry(vec![Expiring { whose: "our own", end, announced: 0 }]);
        let mut said = Vec::new();
        for hour in 0..120 * 24 {
            said.extend(expiry.due(Duration::from_secs(hour * 3600)).into_iter().map(|(_, days)| days));
        }
        assert_eq!(said, [30, 7, 1]);
        // A session that begins later says what is left once.
        let mut expiry = Expiry(vec![Expiring { whose: "our own", end, announced: 0 }]);
        let now = Duration::from_secs(95 * DAY);
        assert_eq!((expiry.due(now), expiry.due(now)), (vec![("our own", 5)], vec![]));
    }

    #[test]
    fn our_certificate_has_the_application_uri_as_a_uri_and_is_kept() {
        let state = std::env::temp_dir().join(format!("taktbus-own-certificate-{}", std::process::id()));
        let pki = Pki::in_state(&state);
        let (made, _) = pki.own("urn:gateway-7:taktbus", "gateway-7").unwrap();
        let der = made.to_der().unwrap();
        // GeneralName: [6] uniformResourceIdentifier, [2] dNSName (RFC 5280, 4.2.1.6).
        let names = [(0x86, "urn:gateway-7:taktbus"), (0x82, "gateway-7")].map(|(tag, name)| {
            let bytes = [&[tag, name.len() as u8], name.as_bytes()].concat();
            der.windows(bytes.len()).position(|window| window == bytes)
        });
        assert!(names[0].is_some() && names[0] < names[1], "{names:?}");
        let (again, _) = pki.own("urn:gateway-7:taktbus", "gateway-7").unwrap();
        assert_eq!(again.to_der().unwrap(), der);
        fs::remove_dir_all(state).unwrap();
    }
}
