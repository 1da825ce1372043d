//! A small MQTT 3.1.1 broker on loopback, for the demo and for tests.
//!
//! It takes and gives QoS 0 and 1, retained messages, last wills, both wildcards, keep-alive, and a second client of
//! the same name replaces the first. It keeps no sessions: a message for a subscriber that isn't there is gone, and
//! what a subscriber doesn't acknowledge isn't sent again. No passwords, no TLS, and no way in from other machines.
//! One task owns the subscriptions (`router`), one serves each client (`session`).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use router::Router;

mod router;
mod session;
#[cfg(test)]
mod tests;

/// Clients at the same time; one more is turned away by closing its connection.
const CLIENTS: usize = 64;
/// Commands from clients to the router; beyond it, clients wait.
const COMMANDS: usize = 1024;
/// After an accept that failed (out of descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A broker that listens.
#[derive(Debug)]
pub struct Broker {
    listener: TcpListener,
    address: SocketAddr,
    faults: Arc<Faults>,
}

/// What a broker can be told to do wrong, at any time, to try a client.
#[derive(Debug, Default)]
pub struct Faults {
    /// CONNECT is answered with "server unavailable".
    pub refuse: AtomicBool,
    /// PUBLISH is taken and never acknowledged.
    pub mute: AtomicBool,
    /// PUBACKs are held until there are this many (or the client pauses), and then sent in reverse; 0: at once.
    pub reverse: AtomicUsize,
    /// Each n-th PUBLISH closes the connection in place of its PUBACK; every other time the message is lost, and every
    /// other time it was taken. 0: never.
    pub cut_every: AtomicU64,
    /// Connections cut so far.
    pub cuts: AtomicU64,
    /// Publishes received so far.
    pub publishes: AtomicU64,
}

impl Broker {
    /// Listens on a loopback address; port 0 picks a free one.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        if !address.ip().is_loopback() {
            let text = format!("{address} is not a loopback address: this broker has no passwords");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, faults: Arc::default() })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What it's told to do wrong.
    pub fn faults(&self) -> Arc<Faults> {
        Arc::clone(&self.faults)
    }

    /// Does what another broker was told to do wrong: for one that comes back in its place.
    pub fn with_faults(self, faults: Arc<Faults>) -> Self {
        Self { faults, ..self }
    }

    /// Serves until it's told to stop; then all connections are closed.
    pub async fn run(self, stop: CancellationToken) {
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let mut sessions = JoinSet::new();
        let mut router = JoinSet::new();
        router.spawn(Router::default().run(inbox));
        for id in 0u64.. {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            while sessions.try_join_next().is_some() {}
            match accepted {
                Ok((socket, _)) if sessions.len() < CLIENTS => {
                    let _ = socket.set_nodelay(true);
                    sessions.spawn(session::serve(socket, id, commands.clone(), Arc::clone(&self.faults)));
                }
                Ok(_) => {}
                Err(_) => sleep(ACCEPT_PAUSE).await,
            }
        }
    }
}
