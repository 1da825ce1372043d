//! The local socket through which a running gateway is asked: one line in, one JSON line out.
//!
//! - Only the user that runs the gateway (and root) may connect: the socket's mode is 0600.
//! - A question has at most [`LONGEST_QUESTION`] bytes and [`PATIENCE`]; at most [`AT_ONCE`] are answered at once, the
//!   others wait in the kernel's queue.
//! - It's answered on a thread of its own: of thousands of devices an answer takes tens of milliseconds, and polls don't wait for it.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::apart::{Apart, apart};
use super::explain::Explainer;
use super::reload::Reloader;
use crate::document::suggest::nearest;
use crate::metrics::Current;

/// The longest question in bytes; a longer one is cut, and then not understood.
const LONGEST_QUESTION: u64 = 512;
/// How long asking and answering may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a reload may take: it reads and plans the whole site.
const RELOAD_PATIENCE: Duration = Duration::from_secs(60);
/// How many questions are answered at once.
const AT_ONCE: usize = 4;

/// The question that has the gateway go over to what its site file says now. Behind it may be `--dry-run`, `--confirm SECONDS`,
/// `--keep`, `--revert`.
pub const RELOAD: &str = "reload";

/// Names that a refusal lists at most.
const MOST_NAMES: usize = 20;

/// The file's name below a runtime directory.
const NAME: &str = "control";

/// Where the socket is when nobody says: below what systemd gives a service (`RuntimeDirectory=`), or below the user's
/// own runtime directory (XDG Base Directory Specification).
pub fn default_path() -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let own = || folder("XDG_RUNTIME_DIR").map(|user| user.join("taktbus"));
    folder("RUNTIME_DIRECTORY").or_else(own).map(|folder| folder.join(NAME))
}

/// A socket that is listened on. Its file goes when it's dropped.
pub struct Control {
    listener: std::os::unix::net::UnixListener,
    path: PathBuf,
}

impl Control {
    /// Listens. What a killed gateway has left is replaced; the socket of a living one is not (`AddrInUse`), nor is
    /// any other kind of file.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        if let Ok(found) = std::fs::symlink_metadata(path) {
            let is_left_over = found.file_type().is_socket()
                && std::os::unix::net::UnixStream::connect(path)
                    .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
            if !is_left_over {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            std::fs::remove_file(path)?;
        }
        let listener = std::os::unix::net::UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Answers until it's dropped. Without a reloader it refuses to reload.
    pub fn start(
        self,
        explainer: Arc<Current<Explainer>>,
        reloader: Option<Reloader>,
    ) -> io::Result<Answering> {
        let listener = self.listener.try_clone()?;
        let serving = apart("control", move || async move {
            if let Err(error) = serve(listener, explainer, reloader).await {
                tracing::error!(%error, "the control socket has failed");
            }
        });
        Ok(Answering { _serving: serving, _control: self })
    }
}

/// A socket that is answered on. Its file goes, and the answers end, when it's dropped.
pub struct Answering {
    _serving: Apart,
    _control: Control,
}

async fn serve(
    listener: std::os::unix::net::UnixListener,
    explainer: Arc<Current<Explainer>>,
    reloader: Option<Reloader>,
) -> io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let mut answering = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if answering.len() < AT_ONCE => match accepted {
                Ok((stream, _)) => {
                    let (explainer, reloader) = (explainer.get(), reloader.clone());
                    answering.spawn(async move {
                        let (read, write) = stream.into_split();
                        timeout(RELOAD_PATIENCE, answer(read, write, &explainer, reloader.as_ref())).await
                    });
                }
                // Out of descriptors, for instance: not at full speed.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
            Some(_) = answering.join_next() => {}
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

pub(crate) async fn answer(
    read: impl AsyncRead + Unpin,
    mut write: impl AsyncWrite + Unpin,
    explainer: &Explainer,
    reloader: Option<&Reloader>,
) -> io::Result<()> {
    let mut question = String::new();
    let mut read = BufReader::new(read.take(LONGEST_QUESTION));
    timeout(PATIENCE, read.read_line(&mut question)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let question = question.trim_end();
    let reply = match (question.strip_prefix(RELOAD), reloader) {
        (Some(how), Some(reloader)) => reload(reloader, how.trim_start()).await,
        (Some(_), None) => json!({"error": "this gateway has no site file to reload"}),
        (None, _) => reply(question, explainer),
    };
    let mut text = reply.to_string();
    text.push('\n');
    timeout(PATIENCE, write.write_all(text.as_bytes())).await.map_err(|_| io::ErrorKind::TimedOut)?
}

async fn reload(reloader: &Reloader, how: &str) -> Value {
    let done = match how.split_once(' ').unwrap_or((how, "")) {
        ("", "") => reloader.reload().await.map(Some),
        ("--dry-run", "") => reloader.try_out().await.map(Some),
        ("--keep", "") => reloader.keep().await.map(|()| None),
        ("--revert", "") => reloader.revert("somebody wants it so").await.map(Some),
        ("--confirm", seconds) => match seconds.parse() {
            Ok(seconds) => reloader.reload_on_trial(Duration::from_secs(seconds)).await.map(Some),
            Err(_) => return not_understood(),
        },
        _ => return not_understood(),
    };
    match done {
        Ok(Some(difference)) => {
            json!({"difference": difference.as_json(), "text": difference.to_string()})
        }
        Ok(None) => json!({"done": true}),
        Err(refused) => refused.as_json(),
    }
}

fn not_understood() -> Value {
    json!({"error": "the question is not understood; this is taktbus' control socket"})
}

fn reply(question: &str, explainer: &Explainer) -> Value {
    let name = match question.split_once(' ') {
        Some(("explain", name)) => Some(name),
        None if question == "explain" => None,
        None if question == "status" => return explainer.status(),
        _ => return not_understood(),
    };
    explainer.explain(name).unwrap_or_else(|known| {
        let name = name.unwrap_or_default();
        let near = nearest(name, known.iter().map(String::as_str));
        let near = near.map_or(String::new(), |near| format!(": did you mean '{near}'?"));
        let more = if known.len() > MOST_NAMES { ", …" } else { "" };
        let known = known.get(..MOST_NAMES).unwrap_or(&known).join(", ");
        let error = format!("no device, connection or point '{name}'{near}; there are: {known}{more}");
        json!({"error": error, "unknown": true})
    })
}

/// Asks a running gateway; its JSON line.
pub async fn ask(path: &Path, question: &str) -> io::Result<Value> {
    let asking = async {
        let mut stream = UnixStream::connect(path).await?;
        stream.write_all(format!("{question}\n").as_bytes()).await?;
        let mut text = String::new();
        BufReader::new(stream).read_line(&mut text).await?;
        serde_json::from_str(&text).map_err(io::Error::other)
    };
    let patience = if question.starts_with(RELOAD) { RELOAD_PATIENCE } else { PATIENCE };
    timeout(patience, asking).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::events::Events;
    use tokio::time::Instant;

    fn explainer() -> Arc<Current<Explainer>> {
        let (connections, metrics, recents) = (Vec::new(), Arc::default(), Arc::default());
        let (site, started, events) = ("bakery".into(), Instant::now(), Events::default());
        Arc::new(Current::new(Explainer { site, started, connections, metrics, recents, events }))
    }

    #[tokio::test]
    async fn a_refusal_repeats_the_question_once() {
        // The longest question there is, of what JSON makes six letters of each.
        let question = [b"explain ".as_slice(), &[0; 600]].concat();
        let mut answered = Vec::new();
        answer(&question[..], &mut answered, &explainer().get(), None).await.unwrap();
        assert!(answered.len() < 6 * 512 + 256, "{}", answered.len());
        assert_eq!(serde_json::from_slice::<Value>(&answered).unwrap()["unknown"], true);
    }

    #[tokio::test]
    async fn a_question_is_answered_and_the_socket_is_private() {
        let folder = std::env::temp_dir().join(format!("taktbus-control-{}", std::process::id()));
        let path = folder.join("run").join("control");
        let control = Control::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(Control::bind(&path).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse));
        let serving = control.start(explainer(), None).unwrap();
        assert_eq!(ask(&path, "explain").await.unwrap()["site"], "bakery");
        assert_eq!(ask(&path, "status").await.unwrap()["ready"]["status"], "ok");
        assert!(ask(&path, "explain fan").await.unwrap()["error"].as_str().unwrap().contains("fan"));
        assert!(ask(&path, RELOAD).await.unwrap()["error"].is_string());
        assert!(ask(&path, "shutdown").await.unwrap()["error"].is_string());
        drop(serving);
        assert!(!path.exists());
        // What a killed gateway leaves is replaced.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        drop(Control::bind(&path).unwrap());
        // Another kind of file is not.
        std::fs::write(&path, "precious").unwrap();
        assert!(Control::bind(&path).is_err());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
