//! HTTP as a sink: each message, or a batch of them, is a POST; delivered means 2xx.
//!
//! - One request is under way at a time, over one persistent connection (HTTP/2 where the server speaks it), so that messages arrive
//!   in their order. What comes meanwhile stays with the forwarder, which knows by then what is most urgent.
//! - What fails for now (no connection, no answer in time, 408, 429, 5xx) takes the route down: the forwarder has its messages again, and
//!   repeats them byte for byte and with the same `Idempotency-Key` after a back-off. What fails for ever is refused alone: a
//!   batch that is refused is sent again message by message.
//! - `outbox` says what goes into one request, and how long that waits for more.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use reqwest::{Client, redirect};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

use self::answer::{Outcome, outcome};
use self::config::{Auth, HttpConfig};
use self::outbox::{Item, Outbox};
use super::backoff::{Backoff, random};
use super::{Refused, Sink, SinkEvent, Token, tls};
use crate::budget::OnLate;
use crate::model::message::{Kind, Message};
use crate::model::time::Stamp;

mod answer;
pub mod config;
mod outbox;
mod request;

/// How long to wait for a connection at most.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of an answer that are looked at for a reason.
const MOST_ANSWER: usize = 4 << 10;

/// An idle connection is kept this long.
const IDLE: Duration = Duration::from_secs(90);

/// HTTP has no topics: within the program a device's messages have its name in place of one, its status has this behind it, and the
/// gateway's status nothing before it.
pub const STATUS: &str = "/status";

/// Refusals are logged no more often: a server may refuse everything.
const REFUSALS_TOLD: Duration = Duration::from_secs(60);

/// A route to an HTTP server.
pub struct HttpSink {
    config: Arc<HttpConfig>,
    site: Arc<str>,
    epoch: u64,
    state: State,
    /// Offered, and not sent.
    outbox: Outbox,
    /// The request that is under way.
    sending: JoinSet<Sent>,
    ready: VecDeque<SinkEvent>,
    backoff: Backoff,
    /// The reason that was logged last, while down.
    told: Option<String>,
    /// When a refusal was logged last, and how many were not since.
    refusals: Option<(Instant, u64)>,
}

enum State {
    /// Until the next attempt; with what it is made, if that is still good.
    Waiting(Instant, Option<Up>),
    /// Secrets and certificates are being read.
    Preparing(JoinHandle<Result<Up, String>>),
    Up(Up),
}

/// What requests are made with.
#[derive(Clone)]
struct Up {
    client: Client,
    credentials: Credentials,
}

#[derive(Clone)]
enum Credentials {
    None,
    Bearer(String),
    Basic(String, String),
}

/// POSTs JSON to a server outside of any route: once each, without a queue.
pub struct Poster {
    config: Arc<HttpConfig>,
    site: Arc<str>,
    up: Option<Up>,
}

impl Poster {
    /// Nothing is opened or read before the first body.
    pub fn new(config: HttpConfig, site: Arc<str>) -> Self {
        Self { config: Arc::new(config), site, up: None }
    }

    /// Sends a body. `Err`: why the server hasn't taken it.
    pub async fn post(&mut self, body: Bytes) -> Result<(), String> {
        let up = match self.up.take() {
            Some(up) => up,
            None => {
                let config = self.config.clone();
                let prepared = tokio::task::spawn_blocking(move || client(&config)).await;
                prepared.map_err(|error| error.to_string())??
            }
        };
        let outcome = send(up.request(&self.config, &self.site, "", body)).await;
        // Secrets and certificates are read again where they may be why.
        let anew = matches!(&outcome, Outcome::Retry { anew: true, .. });
        self.up = Some(up).filter(|_| !anew);
        match outcome {
            Outcome::Delivered => Ok(()),
            Outcome::Retry { reason, .. } | Outcome::Refused(reason) => Err(reason),
        }
    }
}

impl Up {
    /// A POST with credentials and headers, its body compressed where that is wanted.
    fn request(&self, config: &HttpConfig, site: &str, device: &str, body: Bytes) -> reqwest::RequestBuilder {
        let post = self.client.post(&config.url);
        let post = match &self.credentials {
            Credentials::None => post,
            Credentials::Bearer(token) => post.bearer_auth(token),
            Credentials::Basic(user, password) => post.basic_auth(user, Some(password)),
        };
        let mut post = post.header(CONTENT_TYPE, "application/json");
        for (name, template) in &config.headers {
            let value = request::header(template, site, device);
            // What is about no device has no header that is only its name.
            if !value.is_empty() {
                post = post.header(name, value);
            }
        }
        let packed = config.gzip_above.filter(|above| body.len() > *above).and_then(|_| request::gzip(&body));
        match packed {
            Some(packed) => post.header(CONTENT_ENCODING, "gzip").body(packed),
            None => post.body(body),
        }
    }
}

/// A request that is over.
struct Sent {
    items: Vec<Item>,
    outcome: Outcome,
    took: Duration,
}

impl HttpSink {
    /// A sink that is up as soon as its events are waited for. `site` and `epoch` make its idempotency keys.
    pub fn new(config: HttpConfig, site: Arc<str>, epoch: u64) -> Self {
        Self {
            site,
            epoch,
            state: State::Waiting(Instant::now(), None),
            outbox: Outbox::new(config.max_batch, config.linger),
            config: Arc::new(config),
            sending: JoinSet::new(),
            ready: VecDeque::new(),
            backoff: Backoff::new(),
            told: None,
            refusals: None,
        }
    }

    fn prepare(&self) -> State {
        let config = self.config.clone();
        State::Preparing(tokio::task::spawn_blocking(move || client(&config)))
    }

    /// Sends what is to be sent next.
    fn post(&mut self, up: &Up) {
        let taken = self.outbox.take(Instant::now());
        self.ready
            .extend(taken.overdue.into_iter().map(|item| SinkEvent::Refused(item.token, "late".into())));
        let items = taken.request;
        let Some(first) = items.first() else { return };
        let body = request::body(items.iter().map(|item| &item.payload), self.config.max_batch > 1);
        let key = match &*items {
            [Item { key: Some(key), .. }] => key.clone(),
            _ => request::body_key(&self.site, self.epoch, &body),
        };
        let post = up.request(&self.config, &self.site, &first.device, body).header("idempotency-key", key);
        self.sending.spawn(async move {
            let started = Instant::now();
            let outcome = send(post).await;
            Sent { items, outcome, took: started.elapsed() }
        });
    }

    fn done(&mut self, up: Up, Sent { items, outcome, took }: Sent) {
        match outcome {
            Outcome::Delivered => {
                if self.told.take().is_some() {
                    tracing::info!(url = self.config.place(), "route up");
                }
                self.backoff.reset();
                self.outbox.answered(took);
                self.ready.extend(items.into_iter().map(|item| SinkEvent::Acked(item.token)));
            }
            Outcome::Refused(reason) => {
                self.backoff.reset();
                self.outbox.answered(took);
                match &*items {
                    [item] => self.refused(item, reason),
                    _ => self.outbox.one_by_one(items),
                }
            }
            Outcome::Retry { reason, after, anew } => {
                self.lost(&items, reason, after, Some(up).filter(|_| !anew));
            }
        }
    }

    fn refused(&mut self, item: &Item, reason: String) {
        let now = Instant::now();
        match &mut self.refusals {
            Some((told, silent)) if now - *told < REFUSALS_TOLD => *silent += 1,
            refusals => {
                let further = refusals.map_or(0, |(_, silent)| silent);
                *refusals = Some((now, 0));
                tracing::warn!(url = self.config.place(), device = %item.device, reason, further, "a message is refused");
            }
        }
        self.ready.push_back(SinkEvent::Refused(item.token, reason));
    }

    /// What was offered is the forwarder's again, and the next attempt is later: with `up`, or else with all read anew.
    fn lost(&mut self, items: &[Item], reason: String, after: Option<Duration>, up: Option<Up>) {
        let wait = self.backoff.next(random()).max(after.unwrap_or_default());
        self.state = State::Waiting(Instant::now() + wait, up);
        self.outbox.lost(items);
        if self.told.as_ref() != Some(&reason) {
            tracing::warn!(url = self.config.place(), reason, "route down");
            self.told = Some(reason.clone());
        }
        self.ready.push_back(SinkEvent::Down(reason));
    }
}

impl Sink for HttpSink {
    async fn event(&mut self) -> SinkEvent {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return event;
            }
            match &mut self.state {
                State::Waiting(until, up) => {
                    sleep_until(*until).await;
                    if let Some(up) = up.take() {
                        self.state = State::Up(up);
                        return SinkEvent::Up;
                    }
                    self.state = self.prepare();
                }
                State::Preparing(reading) => {
                    let read = reading.await.unwrap_or_else(|error| Err(error.to_string()));
                    match read {
                        Ok(up) => {
                            self.state = State::Up(up);
                            return SinkEvent::Up;
                        }
                        Err(reason) => self.lost(&[], reason, None, None),
                    }
                }
                State::Up(up) => {
                    let up = up.clone();
                    let due = self.outbox.due(Instant::now()).filter(|_| self.sending.is_empty());
                    tokio::select! {
                        Some(sent) = self.sending.join_next() => match sent {
                            Ok(sent) => self.done(up, sent),
                            Err(error) => self.lost(&[], error.to_string(), None, None),
                        },
                        () = reached(due) => self.post(&up),
                    }
                }
            }
        }
    }

    fn offer(&mut self, token: Token, message: &Message, payload: Bytes) -> Result<(), Refused> {
        if !matches!(self.state, State::Up(_)) {
            // The forwarder learns of the loss by the event that's due; the message is its own again then.
            return Ok(());
        }
        let item = match &message.kind {
            Kind::Status if !self.config.statuses => {
                self.ready.push_back(SinkEvent::Acked(token));
                return Ok(());
            }
            Kind::Status | Kind::Gap(_) => {
                let device = message.topic.strip_suffix(STATUS).unwrap_or(&message.topic).into();
                let returns = matches!(message.kind, Kind::Gap(_));
                Item { token, key: None, device, payload, deadline: None, drops: false, returns }
            }
            Kind::Data(sampled) => {
                let device = sampled.device.name.clone();
                Item {
                    token,
                    key: Some(request::message_key(&self.site, &device, sampled.epoch, sampled.seq)),
                    device,
                    payload,
                    deadline: Some(sampled.deadline),
                    drops: sampled.late == OnLate::Drop,
                    returns: true,
                }
            }
        };
        self.outbox.push(item, Instant::now());
        Ok(())
    }

    fn window(&self) -> usize {
        if self.sending.is_empty() { self.outbox.room() } else { 0 }
    }

    fn flush(&mut self) {
        self.outbox.hurry();
    }

    async fn close(&mut self) {
        self.sending.shutdown().await;
    }
}

async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// A client with what the site file says of trust and credentials, as they are now; blocks on the disk.
fn client(config: &HttpConfig) -> Result<Up, String> {
    let credentials = match &config.auth {
        Auth::None => Credentials::None,
        Auth::Bearer(secret) => Credentials::Bearer(secret.reveal().map_err(|error| error.to_string())?),
        Auth::Basic(user, secret) => {
            Credentials::Basic(user.clone(), secret.reveal().map_err(|error| error.to_string())?)
        }
    };
    let builder = Client::builder()
        .user_agent(concat!("taktbus/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT.min(config.timeout))
        .timeout(config.timeout)
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(1);
    let mut tls = match &config.tls {
        Some(tls) => (*tls::client_config(tls).map_err(|error| error.to_string())?).clone(),
        None => tls::trusts_nobody().map_err(|error| error.to_string())?,
    };
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let client = builder.tls_backend_preconfigured(tls).build().map_err(reason)?;
    Ok(Up { client, credentials })
}

/// Sends a request, and reads as much of the answer as is of use.
async fn send(post: reqwest::RequestBuilder) -> Outcome {
    let mut response = match post.send().await {
        Ok(response) => response,
        Err(error) => return Outcome::Retry { reason: reason(error), after: None, anew: true },
    };
    let status = response.status().as_u16();
    let retry_after =
        response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_string);
    let mut text = Vec::new();
    // An answer whose body breaks off is an answer.
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = MOST_ANSWER.saturating_sub(text.len());
        text.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if room == 0 {
            break;
        }
    }
    let text = String::from_utf8_lossy(&text);
    outcome(status, retry_after.as_deref(), &text, Stamp::now().unix_millis() / 1000)
}

/// The innermost cause, which says most: `Connection refused`, not `error sending request`.
fn reason(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return if error.is_connect() { "no connection in time".into() } else { "no answer in time".into() };
    }
    // The address may have a secret in its query.
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Is it a header that a site may add?
pub fn is_header(name: &str) -> bool {
    const OURS: [&str; 8] = [
        "authorization",
        "content-type",
        "content-encoding",
        "content-length",
        "host",
        "idempotency-key",
        "connection",
        "transfer-encoding",
    ];
    HeaderName::from_bytes(name.as_bytes()).is_ok_and(|name| !OURS.contains(&name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_the_protocol_are_not_the_sites() {
        assert!(is_header("X-Line"));
        for name in ["Authorization", "host", "a b", "", "ä"] {
            assert!(!is_header(name), "{name}");
        }
    }
}
