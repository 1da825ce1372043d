//! A TCP stream that acknowledges what it receives at once.
//!
//! Brokers with Nagle's algorithm on (mosquitto's default) hold a second PUBACK back until the first one's segment is
//! acknowledged, and Linux delays that acknowledgement by up to 40 ms: a burst of publishes was seen settled 10 ms
//! later than it could be. `TCP_QUICKACK` (tcp(7)) ends the delay; the kernel forgets it, so it's set after each read
//! while several publishes wait for their PUBACKs. A single one waits for nobody, and spares the system call.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The stream.
#[derive(Debug)]
pub(super) struct Prompt {
    pub stream: TcpStream,
    /// Do several publishes wait?
    pub several: Arc<AtomicBool>,
}

impl AsyncRead for Prompt {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, several } = self.get_mut();
        let read = Pin::new(&mut *stream).poll_read(cx, buf);
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if matches!(read, Poll::Ready(Ok(()))) && several.load(Relaxed) {
            // A socket that refuses is only slower.
            let _ = stream.set_quickack(true);
        }
        read
    }
}

impl AsyncWrite for Prompt {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
