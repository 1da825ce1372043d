//! HTTP as a sink: each message, or a batch of them, is a POST; delivered means 2xx.
//!
//! - One request is under way at a time, over one persistent connection (HTTP/2 where the server speaks it), so that messages arrive
//!   in their order.
//! - What fails for now (no connection, no answer in time, 408, 429, 5xx) takes the route down: the forwarder has its messages again, and
//!   repeats them byte for byte and with the same `Idempotency-Key` after a back-off. What fails for ever is refused alone: a
//!   batch that is refused is sent again message by message.
//! - A batch waits for more messages as long as `linger` allows and as every one of its messages can afford.

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
use super::backoff::{Backoff, random};
use super::{Refused, Sink, SinkEvent, Token, tls};
use crate::model::message::{Kind, Message};
use crate::model::time::Stamp;

mod answer;
pub mod config;
mod request;

/// How long to wait for a connection at most.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of an answer that are looked at for a reason.
const MOST_ANSWER: usize = 4 << 10;

/// An idle connection is kept this long.
const IDLE: Duration = Duration::from_secs(90);

/// A route to an HTTP server.
pub struct HttpSink {
    config: Arc<HttpConfig>,
    site: Arc<str>,
    epoch: u64,
    state: State,
    /// Offered, and not sent.
    batch: Vec<Item>,
    /// When the batch must leave.
    send_by: Option<Instant>,
    /// Of a batch that was refused: to be sent one by one, before anything else.
    singly: VecDeque<Item>,
    /// The request that is under way.
    sending: JoinSet<(Vec<Item>, Outcome)>,
    ready: VecDeque<SinkEvent>,
    backoff: Backoff,
    /// How long the last request took.
    round_trip: Duration,
    /// The reason that was logged last, while down.
    told: Option<String>,
}

enum State {
    /// Until the next attempt.
    Waiting(Instant),
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

/// A message that the forwarder has offered.
#[derive(Clone)]
struct Item {
    token: Token,
    key: Option<String>,
    device: Arc<str>,
    payload: Bytes,
}

impl HttpSink {
    /// A sink that is up as soon as its events are waited for. `site` and `epoch` make its idempotency keys.
    pub fn new(config: HttpConfig, site: Arc<str>, epoch: u64) -> Self {
        Self {
            config: Arc::new(config),
            site,
            epoch,
            state: State::Waiting(Instant::now()),
            batch: Vec::new(),
            send_by: None,
            singly: VecDeque::new(),
            sending: JoinSet::new(),
            ready: VecDeque::new(),
            backoff: Backoff::new(),
            round_trip: Duration::ZERO,
            told: None,
        }
    }

    /// Secrets and certificates are read each time, so that renewed ones are picked up.
    fn prepare(&self) -> State {
        let config = self.config.clone();
        State::Preparing(tokio::task::spawn_blocking(move || client(&config)))
    }

    /// Sends what is to be sent next, if nothing is under way.
    fn post(&mut self, up: &Up) {
        let (items, as_array) = match self.singly.pop_front() {
            Some(item) => (vec![item], self.config.max_batch > 1),
            None => {
                self.send_by = None;
                (std::mem::take(&mut self.batch), self.config.max_batch > 1)
            }
        };
        if items.is_empty() {
            return;
        }
        let body = request::body(items.iter().map(|item| &item.payload), as_array);
        let key = match &*items {
            [Item { key: Some(key), .. }] => key.clone(),
            _ => request::body_key(&body),
        };
        let post = up.client.post(&self.config.url);
        let post = match &up.credentials {
            Credentials::None => post,
            Credentials::Bearer(token) => post.bearer_auth(token),
            Credentials::Basic(user, password) => post.basic_auth(user, Some(password)),
        };
        let mut post = post.header(CONTENT_TYPE, "application/json").header("idempotency-key", key);
        for (name, template) in &self.config.headers {
            let value = request::header(template, &self.site, &items[0].device);
            post = post.header(name, value);
        }
        let packed =
            self.config.gzip_above.filter(|above| body.len() > *above).and_then(|_| request::gzip(&body));
        let post = match packed {
            Some(packed) => post.header(CONTENT_ENCODING, "gzip").body(packed),
            None => post.body(body),
        };
        self.sending.spawn(async move { (items, send(post).await) });
    }

    fn done(&mut self, items: Vec<Item>, outcome: Outcome) {
        match outcome {
            Outcome::Delivered => {
                if self.told.take().is_some() {
                    tracing::info!(url = %self.config.url, "route up");
                }
                self.backoff.reset();
                self.ready.extend(items.into_iter().map(|item| SinkEvent::Acked(item.token)));
            }
            Outcome::Refused(reason) if items.len() == 1 => {
                tracing::warn!(url = %self.config.url, device = %items[0].device, reason, "a message is refused");
                self.ready
                    .extend(items.into_iter().map(|item| SinkEvent::Refused(item.token, reason.clone())));
            }
            Outcome::Refused(_) => self.singly.extend(items),
            Outcome::Retry { reason, after } => self.lost(reason, after),
        }
    }

    fn lost(&mut self, reason: String, after: Option<Duration>) {
        let wait = self.backoff.next(random()).max(after.unwrap_or_default());
        self.state = State::Waiting(Instant::now() + wait);
        self.batch.clear();
        self.singly.clear();
        self.send_by = None;
        // What else is under way is not listened to any more: it is the forwarder's again.
        self.sending = JoinSet::new();
        if self.told.as_ref() != Some(&reason) {
            tracing::warn!(url = %self.config.url, reason, "route down");
            self.told = Some(reason.clone());
        }
        self.ready.push_back(SinkEvent::Down(reason));
    }

    /// Until when a batch with this message may wait for others.
    fn patience(&self, deadline: Option<Instant>, now: Instant) -> Instant {
        let linger = now + self.config.linger;
        // Twice the last round trip: this one may take longer.
        let affordable = deadline.map(|deadline| deadline.checked_sub(2 * self.round_trip).unwrap_or(now));
        affordable.map_or(linger, |affordable| affordable.clamp(now, linger))
    }
}

impl Sink for HttpSink {
    async fn event(&mut self) -> SinkEvent {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return event;
            }
            match &mut self.state {
                State::Waiting(until) => {
                    sleep_until(*until).await;
                    self.state = self.prepare();
                }
                State::Preparing(reading) => {
                    let read = reading.await.unwrap_or_else(|error| Err(error.to_string()));
                    match read {
                        Ok(up) => {
                            self.state = State::Up(up);
                            return SinkEvent::Up;
                        }
                        Err(reason) => self.lost(reason, None),
                    }
                }
                State::Up(up) => {
                    let up = up.clone();
                    let is_full = self.batch.len() >= self.config.max_batch || !self.singly.is_empty();
                    let send_by = if is_full { Some(Instant::now()) } else { self.send_by };
                    let due = async {
                        match send_by {
                            Some(at) => sleep_until(at).await,
                            None => std::future::pending().await,
                        }
                    };
                    let idle = self.sending.is_empty();
                    let started = Instant::now();
                    tokio::select! {
                        Some(done) = self.sending.join_next() => match done {
                            Ok((items, outcome)) => self.done(items, outcome),
                            Err(error) => self.lost(error.to_string(), None),
                        },
                        () = due, if idle => self.post(&up),
                    }
                    if !idle {
                        self.round_trip = started.elapsed().max(self.round_trip / 2);
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
        let now = Instant::now();
        let (key, device, deadline): (_, Arc<str>, _) = match &message.kind {
            Kind::Status if !self.config.statuses => {
                self.ready.push_back(SinkEvent::Acked(token));
                return Ok(());
            }
            Kind::Status | Kind::Gap => (None, "".into(), None),
            Kind::Data(sampled) => {
                let key = request::message_key(&self.site, &sampled.device.name, self.epoch, sampled.seq);
                (Some(key), sampled.device.name.clone(), Some(sampled.deadline))
            }
        };
        let until = self.patience(deadline, now);
        self.send_by = Some(self.send_by.map_or(until, |other| other.min(until)));
        self.batch.push(Item { token, key, device, payload });
        Ok(())
    }

    fn window(&self) -> usize {
        // What comes while a batch is under way stays with the forwarder, which knows by then what is most urgent.
        self.config.max_batch
    }

    async fn close(&mut self) {
        self.sending.shutdown().await;
    }
}

/// A client with what the site file says of trust and credentials; blocks on the disk.
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
    let client = builder.tls_backend_preconfigured(tls).build().map_err(|error| reason(&error))?;
    Ok(Up { client, credentials })
}

/// Sends a request, and reads as much of the answer as is of use.
async fn send(post: reqwest::RequestBuilder) -> Outcome {
    let mut response = match post.send().await {
        Ok(response) => response,
        Err(error) => return Outcome::Retry { reason: reason(&error), after: None },
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
fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return if error.is_connect() { "no connection in time".into() } else { "no answer in time".into() };
    }
    let mut cause: &dyn std::error::Error = error;
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
