//! What a server sends, as long as each of its messages says to be no longer than agreed: the library's decoder keeps what it reads until a
//! message is complete, however long that says to be.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// Bytes of a message's header (OPC UA Part 6, 7.1.2.2): its type, and its size with the header.
const HEADER: usize = 8;

/// A reader that ends with an error at the first message whose size is out of bounds.
#[derive(Debug)]
pub struct Limited<R> {
    inner: R,
    most: u32,
    header: [u8; HEADER],
    /// Bytes of the present header that have come.
    come: usize,
    /// Bytes of the present message's body that have not.
    left: u32,
}

impl<R> Limited<R> {
    /// Messages have at most so many bytes.
    pub fn new(inner: R, most: u32) -> Self {
        Self { inner, most, header: [0; HEADER], come: 0, left: 0 }
    }

    /// Follows the messages in these bytes.
    fn follow(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let skipped = bytes.len().min(self.left as usize);
                self.left -= skipped as u32;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = bytes.len().min(HEADER - self.come);
            self.header[self.come..self.come + taken].copy_from_slice(&bytes[..taken]);
            self.come += taken;
            bytes = &bytes[taken..];
            if self.come == HEADER {
                let [.., a, b, c, d] = self.header;
                let size = u32::from_le_bytes([a, b, c, d]);
                let body = size.checked_sub(HEADER as u32).filter(|_| size <= self.most);
                let wrong =
                    || io::Error::new(io::ErrorKind::InvalidData, format!("a message of {size} bytes"));
                self.left = body.ok_or_else(wrong)?;
                self.come = 0;
            }
        }
        Ok(())
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Limited<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        Poll::Ready(self.follow(&buffer.filled()[before..]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(size: u32, bytes: usize) -> Vec<u8> {
        let mut message = b"MSGF".to_vec();
        message.extend(size.to_le_bytes());
        message.resize(bytes, 0x55);
        message
    }

    #[test]
    fn a_size_out_of_bounds_is_an_error_at_once() {
        for size in [0, 7, 101, u32::MAX] {
            assert!(Limited::new((), 100).follow(&message(size, 8)).is_err(), "{size}");
        }
        for size in [8, 100] {
            assert!(Limited::new((), 100).follow(&message(size, size as usize)).is_ok(), "{size}");
        }
    }

    proptest! {
        /// However the bytes come in pieces, the same message is the first that is too long.
        #[test]
        fn pieces_make_no_difference(
            sizes in prop::collection::vec(8u32..200, 1..20),
            cuts in prop::collection::vec(1usize..64, 1..50),
        ) {
            let stream: Vec<u8> = sizes.iter().flat_map(|size| message(*size, *size as usize)).collect();
            let whole = Limited::new((), 150).follow(&stream).is_ok();
            prop_assert_eq!(whole, sizes.iter().all(|size| *size <= 150));
            let mut limited = Limited::new((), 150);
            let (mut rest, mut cuts, mut fine) = (&stream[..], cuts.iter().cycle(), true);
            while !rest.is_empty() && fine {
                let (piece, after) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                fine = limited.follow(piece).is_ok();
                rest = after;
            }
            prop_assert_eq!(fine, whole);
        }
    }
}
