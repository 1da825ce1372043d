//! Read device identification: who made a unit, and what it is. Pure.
//!
//! Source: Modbus Application Protocol V1.1b3, 6.21 (function code 43, MEI type 14).

use std::collections::BTreeMap;

/// Encapsulated interface transport.
pub const FUNCTION: u8 = 43;

/// MEI type: read device identification.
const MEI: u8 = 14;

/// In front of the objects: function, MEI type, level, conformity, more follows, next object, number of objects.
const HEAD: usize = 7;

/// How much is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Vendor, product code, revision: what every device that has an identity must tell.
    Basic = 1,
    /// And vendor's address, product name, model name, application name.
    Regular = 2,
}

/// The objects of the standard, by their ids.
const NAMES: [(u8, &str); 7] = [
    (0, "vendor"),
    (1, "product_code"),
    (2, "revision"),
    (3, "vendor_url"),
    (4, "product_name"),
    (5, "model_name"),
    (6, "application"),
];

/// Longest text that is kept of an object, in characters.
const MOST_TEXT: usize = 60;

/// What a unit says that it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity(BTreeMap<u8, String>);

impl Identity {
    /// A text by its object id: 0 vendor, 1 product code, 2 revision, 4 product name, 5 model name.
    pub fn get(&self, id: u8) -> Option<&str> {
        self.0.get(&id).map(String::as_str).filter(|text| !text.is_empty())
    }

    /// All texts of the standard's objects, with their names.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &str)> {
        NAMES.iter().filter_map(|(id, name)| Some((*name, self.get(*id)?)))
    }

    /// Does it say nothing?
    pub fn is_empty(&self) -> bool {
        self.named().next().is_none()
    }

    /// Takes what an answer's PDU says. `Ok(Some(id))`: more follows, from that object on.
    pub fn take(&mut self, pdu: &[u8]) -> Result<Option<u8>, NoIdentity> {
        let &[FUNCTION, MEI, _, _, more, next, count, ..] = pdu else { return Err(NoIdentity) };
        let mut rest = &pdu[HEAD..];
        for _ in 0..count {
            let &[id, length, ..] = rest else { return Err(NoIdentity) };
            let text = rest.get(2..2 + usize::from(length)).ok_or(NoIdentity)?;
            if NAMES.iter().any(|(known, _)| *known == id) {
                self.0.insert(id, shown(text));
            }
            rest = &rest[2 + usize::from(length)..];
        }
        Ok((more == 0xFF).then_some(next))
    }
}

/// An answer that does not have the shape of an identification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no device identification")]
pub struct NoIdentity;

/// The PDU that asks, from an object on.
pub fn pdu(level: Level, object: u8) -> [u8; 4] {
    [FUNCTION, MEI, level as u8, object]
}

/// How long the PDU is whose first bytes these are: it tells itself, object by object. `None`: more bytes are needed
/// to know.
pub fn length(pdu: &[u8]) -> Option<usize> {
    let count = *pdu.get(HEAD - 1)?;
    let mut at = HEAD;
    for _ in 0..count {
        at += 2 + usize::from(*pdu.get(at + 1)?);
    }
    Some(at)
}

/// Text from outside: printable, without padding, of bounded length.
fn shown(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let text = text.trim_end_matches('\0').trim();
    text.chars().take(MOST_TEXT).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The standard's example: "Company identification", "Product code XX", "V2.11".
    fn example() -> Vec<u8> {
        let mut pdu = vec![0x2B, 0x0E, 0x01, 0x01, 0x00, 0x00, 0x03];
        for (id, text) in [(0, "Company identification"), (1, "Product code XX"), (2, "V2.11")] {
            pdu.extend([id, text.len() as u8]);
            pdu.extend(text.bytes());
        }
        pdu
    }

    #[test]
    fn the_standards_example_is_understood() {
        assert_eq!(pdu(Level::Basic, 0), [0x2B, 0x0E, 0x01, 0x00]);
        let mut identity = Identity::default();
        assert_eq!(identity.take(&example()), Ok(None));
        let texts: Vec<_> = identity.named().collect();
        let expected = [
            ("vendor", "Company identification"),
            ("product_code", "Product code XX"),
            ("revision", "V2.11"),
        ];
        assert_eq!(texts, expected);
    }

    #[test]
    fn an_answer_in_parts_is_put_together() {
        let mut identity = Identity::default();
        let first = [&[0x2B, 0x0E, 1, 1, 0xFF, 1, 1][..], &[0, 2], b"AB"].concat();
        assert_eq!(identity.take(&first), Ok(Some(1)));
        let second = [&[0x2B, 0x0E, 1, 1, 0, 0, 2][..], &[1, 1], b"C", &[0x80, 1], b"D"].concat();
        assert_eq!(identity.take(&second), Ok(None));
        assert_eq!((identity.get(0), identity.get(1), identity.get(0x80)), (Some("AB"), Some("C"), None));
    }

    proptest! {
        #[test]
        fn the_length_is_known_from_the_front(cut in 0usize..200, tail in prop::collection::vec(any::<u8>(), 0..9)) {
            let whole = example();
            let front = &whole[..cut.min(whole.len())];
            prop_assert!(length(front).is_none_or(|length| length == whole.len()));
            prop_assert_eq!(length(&[whole.as_slice(), &tail].concat()), Some(whole.len()));
        }

        #[test]
        fn any_bytes_are_taken_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let pdu = [&[FUNCTION, MEI][..], &bytes].concat();
            let mut identity = Identity::default();
            if identity.take(&pdu).is_ok() {
                prop_assert!(length(&pdu).is_some_and(|length| length <= pdu.len()));
            }
            let _ = Identity::default().take(&bytes);
            let _ = length(&bytes);
        }
    }
}
