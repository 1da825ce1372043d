//! One session with one server: the endpoint chosen, the secure channel opened, the session activated; requests and answers.
//!
//! The library encodes, encrypts and cuts messages into chunks; the session is ours, since what becomes of it decides what is late,
//! bad or lost. A link lives once: whatever breaks it, the next one begins anew.

use std::sync::Arc;
use std::time::Duration;

use opcua::client::services::{ActivateSession, CreateSession};
use opcua::client::transport::{
    SecureChannelEventLoop, StreamConnection, StreamConnector, TransportConfiguration, TransportPollResult,
};
use opcua::client::{AsyncSecureChannel, IdentityToken, SessionRetryPolicy, UARequest};
use opcua::core::comms::tcp_codec::TcpCodec;
use opcua::core::{RequestMessage, ResponseMessage};
use opcua::crypto::{CertificateStore, PrivateKey, X509};
use opcua::sync::RwLock;
use opcua::types::{
    ApplicationDescription, ApplicationType, CloseSessionRequest, ContextOwned, DateTime, DecodingOptions,
    DiagnosticBits, EndpointDescription, Error, GetEndpointsRequest, MessageSecurityMode, NamespaceMap,
    NodeId, RequestHeader, StatusCode, UserTokenType,
};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::codec::FramedRead;
use tokio_util::task::AbortOnDropHandle;

use super::config::{Mode, OpcuaConfig, Policy, Security, User};
use super::limited::Limited;
use super::security::{Expiry, Pki, PkiError};
use crate::drivers::LinkLost;

/// Bytes of one chunk of a message, the default of OPC UA servers.
const CHUNK_BYTES: usize = 64 << 10;

/// Chunks of a message: with [`CHUNK_BYTES`] 8 MiB, which are 200,000 values.
const MOST_CHUNKS: usize = 128;

/// Bytes of a message.
const MESSAGE_BYTES: usize = MOST_CHUNKS * CHUNK_BYTES;

/// Elements of an array in a message, and bytes of a text in it.
const MOST_ELEMENTS: usize = 1 << 20;

/// A server keeps the session of a link that is gone for this long.
const SESSION_TIMEOUT: Duration = Duration::from_secs(30);

/// A token of the secure channel is used this long, and then renewed.
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

/// What we do not wait longer for when a link is closed.
const CLOSE_WITHIN: Duration = Duration::from_millis(500);

/// Why a request has no answer that could be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The server refused it; the session goes on.
    #[error("{0}")]
    Refused(StatusCode),
    /// No answer came in time.
    #[error("no answer in time")]
    Timeout,
    /// The session, the channel or the connection is gone.
    #[error("{0}")]
    Lost(StatusCode),
}

/// An activated session.
#[derive(Debug)]
pub struct Link {
    channel: Arc<Channel>,
    timeout: Duration,
    /// When the certificates of both sides expire.
    pub expiry: Expiry,
    /// Moves the bytes; ends with the connection.
    _pump: AbortOnDropHandle<()>,
}

/// The way to the server that requests take, which many may use at a time.
pub struct Channel {
    channel: AsyncSecureChannel,
    token: NodeId,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").finish_non_exhaustive()
    }
}

impl Channel {
    /// A request's header, with the token of the session (OPC UA Part 4, 7.33).
    pub fn header(&self, timeout: Duration) -> RequestHeader {
        RequestHeader {
            authentication_token: self.token.clone(),
            timestamp: DateTime::now(),
            request_handle: self.channel.request_handle(),
            return_diagnostics: DiagnosticBits::empty(),
            timeout_hint: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
            ..RequestHeader::default()
        }
    }

    /// Sends a request and waits for its answer.
    pub async fn request(
        &self,
        request: impl Into<RequestMessage>,
        limit: Duration,
    ) -> Result<ResponseMessage, Failure> {
        // The transport has the same limit, but notices it only while it's alive.
        let answer = timeout(limit + CLOSE_WITHIN, self.channel.send(request, limit)).await;
        let answer = answer.map_err(|_| Failure::Timeout)?.map_err(|error| failure(error.status()))?;
        let result = answer.response_header().service_result;
        if result.is_bad() { Err(failure(result)) } else { Ok(answer) }
    }

    /// What its messages are decoded with.
    pub fn decoding(&self) -> &RwLock<ContextOwned> {
        self.channel.encoding_context()
    }
}

/// Which status codes of a service are the end of a link (OPC UA Part 4, 7.39, and Part 6, 7.1.5).
fn failure(status: StatusCode) -> Failure {
    match status {
        StatusCode::BadTimeout | StatusCode::BadRequestTimeout => Failure::Timeout,
        StatusCode::BadConnectionClosed
        | StatusCode::BadNotConnected
        | StatusCode::BadCommunicationError
        | StatusCode::BadSecureChannelClosed
        | StatusCode::BadSecureChannelIdInvalid
        | StatusCode::BadSecureChannelTokenUnknown
        | StatusCode::BadSecurityChecksFailed
        | StatusCode::BadSessionIdInvalid
        | StatusCode::BadSessionClosed
        | StatusCode::BadSessionNotActivated
        | StatusCode::BadServerHalted
        | StatusCode::BadShutdown
        | StatusCode::BadDecodingError
        | StatusCode::BadEncodingLimitsExceeded
        | StatusCode::BadUnexpectedError => Failure::Lost(status),
        status => Failure::Refused(status),
    }
}

/// Who we are and where our certificates lie.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Certificates; `None`: there's no state directory, and so no security.
    pub pki: Option<Pki>,
    /// `urn:HOST:taktbus`
    pub uri: String,
    /// This machine's name.
    pub host: String,
}

impl Identity {
    /// This machine's identity.
    pub fn of_this_machine(state: Option<&std::path::Path>) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { pki: state.map(Pki::in_state), uri: format!("urn:{host}:taktbus"), host }
    }
}

impl Link {
    /// Connects and activates a session, within the configured time for each step.
    pub async fn open(config: &OpcuaConfig, identity: &Identity) -> Result<Self, LinkLost> {
        let endpoints = endpoints(config).await?;
        let endpoint = choose(&endpoints, config)?;
        let (store, own, expiry) = protect(config, identity, &endpoint).await?;
        let user = user(&config.user).await?;
        let (channel, pump) = connect(config, endpoint.clone(), store.clone()).await?;
        let lost = |what: &str| {
            let what = what.to_string();
            move |error: Error| LinkLost(format!("{what}: {}", explained(&error)))
        };
        let application = ApplicationDescription {
            application_uri: identity.uri.as_str().into(),
            application_name: "taktbus".into(),
            application_type: ApplicationType::Client,
            product_uri: "urn:taktbus".into(),
            ..ApplicationDescription::default()
        };
        let (certificate, key) = own.unzip();
        let mut create = CreateSession::new_manual(
            &store,
            &endpoint,
            1,
            config.timeout,
            NodeId::null(),
            channel.request_handle(),
        )
        .client_description(application)
        .endpoint_url(endpoint.endpoint_url.clone())
        .session_name(format!("taktbus {}", std::process::id()))
        .session_timeout(SESSION_TIMEOUT.as_millis() as f64);
        if let Some(certificate) = certificate {
            create = create.client_certificate(certificate);
        }
        let created = timed(config, "creating a session", create.send(&channel))
            .await?
            .map_err(lost("the server gives no session"))?;
        let token = created.authentication_token;
        let mut activate =
            ActivateSession::new_manual(endpoint, 1, config.timeout, token.clone(), channel.request_handle())
                .identity_token(user);
        if let Some(key) = key {
            activate = activate.private_key(key);
        }
        timed(config, "activating the session", activate.send(&channel))
            .await?
            .map_err(lost("the server refuses the user"))?;
        warn_of_weakness(config);
        Ok(Self {
            channel: Arc::new(Channel { channel, token }),
            timeout: config.timeout,
            expiry,
            _pump: pump,
        })
    }

    /// The way that requests take.
    pub fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }

    /// How long to wait for an answer.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Ends the session, so that the server can give it to somebody else; in bounded time.
    pub async fn close(self) {
        let request = CloseSessionRequest {
            request_header: self.channel.header(CLOSE_WITHIN),
            delete_subscriptions: true,
        };
        let _ = timeout(CLOSE_WITHIN, self.channel.request(request, CLOSE_WITHIN)).await;
        let _ = timeout(CLOSE_WITHIN, self.channel.channel.close_channel()).await;
        // The pump needs a moment to write it.
        tokio::task::yield_now().await;
    }
}

/// Says at each session what the site file has opted for.
fn warn_of_weakness(config: &OpcuaConfig) {
    match config.security {
        Security::None => tracing::warn!(
            server = %config.endpoint,
            "security: None: messages are neither signed nor encrypted, whoever is on the way can read and change them"
        ),
        Security::Policy(policy, _) if policy.is_deprecated() => tracing::warn!(
            server = %config.endpoint, policy = policy.name(),
            "the security policy has been broken, and is deprecated since OPC UA 1.04"
        ),
        Security::Policy(..) | Security::Best(_) => {}
    }
}

async fn timed<T>(config: &OpcuaConfig, what: &str, step: impl Future<Output = T>) -> Result<T, LinkLost> {
    timeout(config.timeout, step)
        .await
        .map_err(|_| LinkLost(format!("{what} takes longer than {:?}", config.timeout)))
}

/// A server's error in words.
fn explained(error: &Error) -> String {
    match error.status() {
        StatusCode::BadUserAccessDenied | StatusCode::BadIdentityTokenRejected => {
            format!("{} (is the user's name or password wrong?)", error.status())
        }
        StatusCode::BadSecurityChecksFailed | StatusCode::BadCertificateUntrusted => {
            format!(
                "{} (does the server trust our certificate, pki/own/cert.der of the state directory?)",
                error.status()
            )
        }
        StatusCode::BadCertificateUriInvalid => {
            format!(
                "{} (our certificate is of another name of this machine; without pki/own and pki/private of the state directory \
                 another one is made, which the server must be told to trust)",
                error.status()
            )
        }
        StatusCode::BadConnectionClosed => {
            "the server closes the connection at the first message: is it an OPC UA server?".into()
        }
        _ => error.to_string(),
    }
}

/// What the server offers, asked for without security, as OPC UA has it (Part 4, 5.5.4).
pub async fn endpoints(config: &OpcuaConfig) -> Result<Vec<EndpointDescription>, LinkLost> {
    let url = config.endpoint.to_string();
    let endpoint = EndpointDescription {
        endpoint_url: url.as_str().into(),
        security_mode: MessageSecurityMode::None,
        security_policy_uri: "http://opcfoundation.org/UA/SecurityPolicy#None".into(),
        ..EndpointDescription::default()
    };
    let (channel, _pump) = connect(config, endpoint, no_store()).await?;
    let channel = Channel { channel, token: NodeId::null() };
    let request = GetEndpointsRequest {
        request_header: channel.header(config.timeout),
        endpoint_url: url.as_str().into(),
        locale_ids: None,
        profile_uris: None,
    };
    let answer = channel.request(request, config.timeout).await;
    let _ = timeout(CLOSE_WITHIN, channel.channel.close_channel()).await;
    match answer {
        Ok(ResponseMessage::GetEndpoints(answer)) => Ok(answer.endpoints.unwrap_or_default()),
        Ok(_) => Err(LinkLost("the server answers something else than its endpoints".into())),
        Err(failure) => Err(LinkLost(format!("the server does not tell its endpoints: {failure}"))),
    }
}

fn no_store() -> Arc<RwLock<CertificateStore>> {
    Arc::new(RwLock::new(CertificateStore::new(std::path::Path::new(""))))
}

/// The endpoint that is as the site file wants it.
fn choose(endpoints: &[EndpointDescription], config: &OpcuaConfig) -> Result<EndpointDescription, LinkLost> {
    let token = match config.user {
        User::Anonymous => UserTokenType::Anonymous,
        User::Name(..) => UserTokenType::UserName,
        User::Certificate { .. } => UserTokenType::Certificate,
    };
    let mode = |mode: Mode| match mode {
        Mode::Sign => MessageSecurityMode::Sign,
        Mode::SignAndEncrypt => MessageSecurityMode::SignAndEncrypt,
    };
    let wanted: Vec<(&str, MessageSecurityMode)> = match config.security {
        Security::None => {
            vec![("http://opcfoundation.org/UA/SecurityPolicy#None", MessageSecurityMode::None)]
        }
        Security::Policy(policy, wanted) => vec![(policy.uri(), mode(wanted))],
        Security::Best(wanted) => {
            let safe = Policy::ALL.into_iter().filter(|policy| !policy.is_deprecated());
            safe.map(|policy| (policy.uri(), mode(wanted))).collect()
        }
    };
    let fits = |wanted: &(&str, MessageSecurityMode)| {
        endpoints.iter().find(|endpoint| {
            endpoint.security_policy_uri.as_ref() == wanted.0
                && endpoint.security_mode == wanted.1
                && endpoint.endpoint_url.as_ref().starts_with("opc.tcp:")
        })
    };
    let Some(found) = wanted.iter().find_map(fits) else {
        let offers: std::collections::BTreeSet<String> = endpoints
            .iter()
            .map(|endpoint| {
                let policy =
                    endpoint.security_policy_uri.as_ref().rsplit('#').next().unwrap_or_default().to_string();
                format!("{policy} {:?}", endpoint.security_mode)
            })
            .collect();
        let offers = Vec::from_iter(offers).join(", ");
        return Err(LinkLost(format!(
            "the server has no endpoint with the wanted security; it offers: {offers}"
        )));
    };
    let users = found.user_identity_tokens.as_deref().unwrap_or_default();
    if !users.is_empty() && !users.iter().any(|policy| policy.token_type == token) {
        return Err(LinkLost(format!("the server takes no user of this kind at this endpoint ({token:?})")));
    }
    // What the server calls itself may not be reachable from here: the site file knows the way.
    Ok(EndpointDescription { endpoint_url: config.endpoint.to_string().as_str().into(), ..found.clone() })
}

type Own = (X509, PrivateKey);

/// What is needed to talk with this endpoint: nothing, or our certificate and a server that is trusted.
async fn protect(
    config: &OpcuaConfig,
    identity: &Identity,
    endpoint: &EndpointDescription,
) -> Result<(Arc<RwLock<CertificateStore>>, Option<Own>, Expiry), LinkLost> {
    if config.security == Security::None {
        return Ok((no_store(), None, Expiry::default()));
    }
    let Some(pki) = identity.pki.clone() else {
        return Err(LinkLost("a secure connection needs a place for certificates: give --state DIR".into()));
    };
    let (uri, host) = (identity.uri.clone(), identity.host.clone());
    let der = endpoint.server_certificate.value.clone().unwrap_or_default();
    // Making a key takes seconds on a small machine.
    let work = tokio::task::spawn_blocking(move || -> Result<_, PkiError> {
        let own = pki.own(&uri, &host)?;
        pki.check(&der)?;
        let mut expiry = Expiry::default();
        expiry.watch("our own", &own.0);
        X509::from_der(&der).iter().for_each(|server| expiry.watch("the server's", server));
        Ok((Arc::new(RwLock::new(pki.store())), own, expiry))
    });
    let (store, own, expiry) = work
        .await
        .map_err(|error| LinkLost(error.to_string()))?
        .map_err(|error| LinkLost(error.to_string()))?;
    Ok((store, Some(own), expiry))
}

async fn user(user: &User) -> Result<IdentityToken, LinkLost> {
    let reveal = match user.clone() {
        User::Anonymous => return Ok(IdentityToken::Anonymous),
        user => tokio::task::spawn_blocking(move || match user {
            User::Anonymous => Ok(IdentityToken::Anonymous),
            User::Name(name, secret) => match secret.reveal() {
                Ok(password) => Ok(IdentityToken::new_user_name(name, password)),
                Err(error) => Err(error.to_string()),
            },
            User::Certificate { cert, key } => IdentityToken::new_x509_path(cert, key)
                .map_err(|error| format!("the user's certificate: {error}")),
        }),
    };
    reveal.await.map_err(|error| LinkLost(error.to_string()))?.map_err(LinkLost)
}

type Stream = StreamConnection<Limited<ReadHalf<TcpStream>>, WriteHalf<TcpStream>>;

/// Opens a secure channel, and starts what moves its bytes.
async fn connect(
    config: &OpcuaConfig,
    endpoint: EndpointDescription,
    store: Arc<RwLock<CertificateStore>>,
) -> Result<(AsyncSecureChannel, AbortOnDropHandle<()>), LinkLost> {
    let decoding = DecodingOptions {
        max_message_size: MESSAGE_BYTES,
        max_chunk_count: MOST_CHUNKS,
        max_string_length: MOST_ELEMENTS,
        max_byte_string_length: MOST_ELEMENTS,
        max_array_length: MOST_ELEMENTS,
        ..DecodingOptions::default()
    };
    let url = endpoint.endpoint_url.to_string();
    let channel = AsyncSecureChannel::new(
        store,
        endpoint.into(),
        SessionRetryPolicy::default(),
        false,
        Arc::default(),
        TransportConfiguration {
            send_buffer_size: CHUNK_BYTES,
            recv_buffer_size: CHUNK_BYTES,
            max_message_size: MESSAGE_BYTES,
            max_chunk_count: MOST_CHUNKS,
        },
        u32::try_from(TOKEN_LIFETIME.as_millis()).unwrap_or(u32::MAX),
        Arc::new(RwLock::new(ContextOwned::new_default(NamespaceMap::new(), decoding))),
    );
    let (host, port) = (config.endpoint.host.clone(), config.endpoint.port);
    let connector = StreamConnector::new(move |url, decoding| tcp(host.clone(), port, url, decoding), url);
    let opened = timed(config, "connecting", channel.connect_no_retry(&connector)).await?;
    let events = opened.map_err(|error| LinkLost(explained(&error)))?;
    Ok((channel, AbortOnDropHandle::new(tokio::spawn(pump(events)))))
}

async fn tcp(host: String, port: u16, url: String, decoding: DecodingOptions) -> Result<Stream, Error> {
    let lost = |error: std::io::Error| Error::new(StatusCode::BadNotConnected, error.to_string());
    let socket = TcpStream::connect((host.as_str(), port)).await.map_err(lost)?;
    // A publish request that waits for an acknowledgement would wait 40 ms.
    socket.set_nodelay(true).map_err(lost)?;
    let (reader, writer) = tokio::io::split(socket);
    let reader = Limited::new(reader, u32::try_from(CHUNK_BYTES).unwrap_or(u32::MAX));
    Ok(StreamConnection::new(FramedRead::new(reader, TcpCodec::new(decoding)), writer, url))
}

async fn pump<T: opcua::client::transport::Transport>(mut events: SecureChannelEventLoop<T>) {
    while !matches!(events.poll().await, TransportPollResult::Closed(_)) {}
}
