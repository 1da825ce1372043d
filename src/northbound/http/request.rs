//! What is sent: the body, its compression, and what tells a repetition from something new. Pure.

use std::fmt::Write as _;
use std::io::Write as _;

use bytes::{BufMut as _, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

/// One message alone, or an array of several.
pub fn body<'p>(payloads: impl Iterator<Item = &'p Bytes> + Clone, as_array: bool) -> Bytes {
    if !as_array {
        return payloads.into_iter().next().cloned().unwrap_or_default();
    }
    let mut out =
        BytesMut::with_capacity(payloads.clone().map(|payload| payload.len() + 1).sum::<usize>() + 2);
    out.put_u8(b'[');
    for (at, payload) in payloads.enumerate() {
        if at > 0 {
            out.put_u8(b',');
        }
        out.put_slice(payload);
    }
    out.put_u8(b']');
    out.freeze()
}

/// The body in gzip (RFC 1952). Level 1: a gateway has little time, and JSON shrinks to a fifth anyway.
pub fn gzip(body: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    // Writing to memory cannot fail; if it did, the body would go as it is.
    encoder.write_all(body).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

/// The `Idempotency-Key` of a message: `SITE/DEVICE/EPOCH/SEQ`, what is no plain letter in percent notation (RFC 3986, 2.1).
pub fn message_key(site: &str, device: &str, epoch: u64, seq: u64) -> String {
    format!("{}/{}/{epoch}/{seq}", plain(site), plain(device))
}

/// The `Idempotency-Key` of anything else: `SITE/EPOCH/DIGEST` of the body, the same when the same is sent again by the same run. (Of two
/// runs, both may say "offline" in the same words, and both mean it.)
pub fn body_key(site: &str, epoch: u64, body: &[u8]) -> String {
    let start = format!("{}/{epoch}/", plain(site));
    Sha256::digest(body).iter().take(16).fold(start, |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A header with names in it: what a header can't carry is in percent notation.
pub fn header(template: &str, site: &str, device: &str) -> String {
    template.replace("{site}", &plain(site)).replace("{device}", &plain(device))
}

fn plain(name: &str) -> String {
    name.bytes().fold(String::new(), |mut text, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                text.push(char::from(byte))
            }
            byte => {
                let _ = write!(text, "%{byte:02X}");
            }
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn one_message_is_an_object_and_several_are_an_array() {
        let payloads = [Bytes::from_static(b"{\"a\":1}"), Bytes::from_static(b"{\"a\":2}")];
        assert_eq!(body(payloads.iter(), true), "[{\"a\":1},{\"a\":2}]");
        assert_eq!(body(payloads[..1].iter(), true), "[{\"a\":1}]");
        assert_eq!(body(payloads[..1].iter(), false), "{\"a\":1}");
    }

    #[test]
    fn a_key_has_only_what_a_header_can_carry() {
        assert_eq!(message_key("bakery", "ofen 1/ä", 7, 42), "bakery/ofen%201%2F%C3%A4/7/42");
        assert_eq!(header("x-{site}-{device}", "a", "ö"), "x-a-%C3%B6");
    }

    #[test]
    fn a_body_has_one_key_in_one_run() {
        let key = body_key("hall 1", 7, b"x");
        assert!(key.starts_with("hall%201/7/") && key.len() == 11 + 32, "{key}");
        assert_eq!(key, body_key("hall 1", 7, b"x"));
        assert_ne!(key, body_key("hall 1", 7, b"y"));
        assert_ne!(key, body_key("hall 1", 8, b"x"));
    }

    #[test]
    fn what_is_compressed_is_the_same_again() {
        let text = "{\"value\":230.4}".repeat(100);
        let packed = gzip(text.as_bytes()).unwrap();
        assert!(packed.len() < text.len() / 5);
        let mut out = String::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut out).unwrap();
        assert_eq!(out, text);
    }
}
