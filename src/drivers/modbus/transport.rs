//! Opening what a connection talks through: a TCP socket or a serial port.
//!
//! A serial port's `flush` is never called: it waits in `tcdrain(2)`, which blocks the thread of the whole runtime.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_serial::SerialStream;

use super::config::{Link, Rs485};
use super::port;
use crate::drivers::pause::Pause;

/// How long opening may take, name lookup included: several retransmissions of a lost SYN (1 s, 2 s).
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// Opens links. What the driver talks through is a type parameter, so that tests can stand in for the far side.
pub trait Open {
    /// Both directions of the open link.
    type Stream: AsyncRead + AsyncWrite + Unpin;

    /// Opens the link. Bounded in time; may be dropped at any moment.
    fn open(&mut self, link: &Link) -> impl Future<Output = io::Result<Self::Stream>>;

    /// How the silences of the link are waited out.
    fn pause(&self, _: &Link) -> Pause {
        Pause::coarse()
    }
}

/// What is said of a port that neither opens nor fails.
const HANGS: &str = "the port hangs while it is opened: a broken adapter or driver; replugging it may help";

/// Opens real sockets and ports.
#[derive(Debug, Default)]
pub struct Opener {
    rs485: Option<Rs485>,
    /// A port that is still being opened: `open(2)` may hang for ever on a broken USB adapter, and a thread that hangs
    /// is waited for again instead of being joined by the next one.
    pending: Option<JoinHandle<io::Result<SerialStream>>>,
    /// A name that is still being looked up: with a dead resolver that takes longer than [`CONNECT_TIMEOUT`], and each
    /// attempt would leave one more lookup behind.
    looking_up: Option<JoinHandle<io::Result<Vec<SocketAddr>>>>,
}

impl Open for Opener {
    type Stream = Stream;

    async fn open(&mut self, link: &Link) -> io::Result<Stream> {
        let opened = match link {
            Link::Tcp { host, port } | Link::RtuOverTcp { host, port, .. } => {
                let connecting = async { connect(&self.addresses(host, *port).await?).await };
                timeout(CONNECT_TIMEOUT, connecting).await.map(|socket| socket.map(Stream::Tcp))
            }
            Link::Serial { path, line } => {
                let opening = self.pending.get_or_insert_with(|| {
                    let (path, line, rs485) = (path.clone(), *line, self.rs485);
                    tokio::task::spawn_blocking(move || {
                        port::open(&path, line, rs485)
                            .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
                    })
                });
                let Ok(joined) = timeout(CONNECT_TIMEOUT, opening).await else {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, HANGS));
                };
                self.pending = None;
                Ok(joined.map_err(io::Error::other).flatten().map(Stream::Serial))
            }
        };
        opened.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "not open in time")))
    }

    fn pause(&self, link: &Link) -> Pause {
        match link {
            Link::Tcp { .. } => Pause::coarse(),
            Link::RtuOverTcp { .. } | Link::Serial { .. } => Pause::fine(),
        }
    }
}

impl Opener {
    /// An opener that has the kernel switch the transceiver of a serial port.
    pub fn with_rs485(rs485: Option<Rs485>) -> Self {
        Self { rs485, ..Self::default() }
    }

    /// The host's addresses; at most one lookup at a time.
    async fn addresses(&mut self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let lookup = self.looking_up.get_or_insert_with(|| {
            let host = host.to_owned();
            // What tokio's own lookup does, with a handle that survives a timeout.
            tokio::task::spawn_blocking(move || Ok((host.as_str(), port).to_socket_addrs()?.collect()))
        });
        let addresses = lookup.await;
        self.looking_up = None;
        addresses.map_err(io::Error::other)?
    }
}

/// An open link.
#[derive(Debug)]
pub enum Stream {
    /// A socket.
    Tcp(TcpStream),
    /// A serial port, already cleared of what its buffers held.
    Serial(SerialStream),
}

/// Tries one address after the other; none may use up the time of those behind it.
async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    let share = CONNECT_TIMEOUT / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    for address in addresses {
        match timeout(share, connect_to(*address)).await {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, "not open in time"),
        }
    }
    Err(last)
}

async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Requests are small and each waits for its answer: Nagle's algorithm would only delay them.
    socket.set_nodelay(true)?;
    socket.set_keepalive(true)?;
    socket.connect(address).await
}

/// What a port yields when its device is gone: the end of the stream after a hang-up, or EIO.
fn unplugged() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the port is gone: unplugged?")
}

/// The system's words for it say nothing to anybody.
fn gone(error: io::Error) -> io::Error {
    let codes = [Errno::IO, Errno::NODEV, Errno::NXIO].map(Errno::raw_os_error);
    if error.raw_os_error().is_some_and(|code| codes.contains(&code)) { unplugged() } else { error }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Serial(port) => {
                let before = buf.filled().len();
                match ready!(Pin::new(port).poll_read(cx, buf)) {
                    Ok(()) if buf.filled().len() == before && buf.remaining() > 0 => {
                        Poll::Ready(Err(unplugged()))
                    }
                    read => Poll::Ready(read.map_err(gone)),
                }
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Serial(port) => Pin::new(port).poll_write(cx, buf).map_err(gone),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            // A port has no direction to shut; tokio-serial's shutdown would flush.
            Self::Serial(_) => Poll::Ready(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::modbus::config::{Line, Parity};
    use tokio::sync::oneshot;
    use tokio_serial::SerialPort as _;

    #[tokio::test]
    async fn a_port_that_is_pulled_out_says_so_whether_it_is_read_or_written() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        for writes in [false, true] {
            let (far, near) = SerialStream::pair().unwrap();
            let mut port = Stream::Serial(near);
            drop(far);
            let error = if writes {
                port.write_all(&[0]).await.unwrap_err()
            } else {
                port.read(&mut [0; 8]).await.unwrap_err()
            };
            assert_eq!(error.to_string(), unplugged().to_string());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_hangs_is_waited_for_again_and_not_joined_by_a_second_try() {
        let line = Line { baud: 19_200, data_bits: 8, parity: Parity::Even, stop_bits: 1 };
        let link = Link::Serial { path: "/dev/ttyS0".into(), line };
        let (answer, hanging) = oneshot::channel();
        let hanging = tokio::spawn(async move { hanging.await.map_err(io::Error::other)? });
        let mut opener = Opener { pending: Some(hanging), ..Opener::default() };
        for _ in 0..3 {
            let start = tokio::time::Instant::now();
            let error = opener.open(&link).await.unwrap_err();
            assert_eq!((error.kind(), error.to_string()), (io::ErrorKind::TimedOut, HANGS.into()));
            assert_eq!(start.elapsed(), CONNECT_TIMEOUT);
        }
        let (_far, near) = SerialStream::pair().unwrap();
        let name = near.name();
        answer.send(Ok(near)).unwrap();
        let Ok(Stream::Serial(port)) = opener.open(&link).await else { panic!("not open") };
        assert_eq!(port.name(), name);
        assert!(opener.pending.is_none());
    }
}
