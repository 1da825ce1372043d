//! The only reader of the wall clock. It stamps; it never waits or measures (that's `tokio::time::Instant`).

use std::fmt;

/// A point in wall-clock time, microseconds precise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(jiff::Timestamp);

impl Stamp {
    /// The wall clock, now.
    #[allow(clippy::disallowed_methods)]
    pub fn now() -> Self {
        Self(jiff::Timestamp::now())
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub fn unix_millis(self) -> i64 {
        self.0.as_millisecond()
    }

    /// From milliseconds since 1970-01-01T00:00:00Z; the nearest that there is outside the years -9999 … 9999.
    pub fn from_unix_millis(millis: i64) -> Self {
        let edge = if millis < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
        Self(jiff::Timestamp::from_millisecond(millis).unwrap_or(edge))
    }

    /// Reads what `Display` writes.
    pub fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }

    /// From microseconds since 1970-01-01T00:00:00Z; `None` outside the years -9999 … 9999.
    pub fn from_unix_micros(micros: i64) -> Option<Self> {
        jiff::Timestamp::from_microsecond(micros).ok().map(Self)
    }
}

/// RFC 3339, UTC, milliseconds: `2026-11-22T12:00:00.123Z`.
impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_prints_as_rfc_3339_with_milliseconds() {
        let stamp = Stamp::from_unix_micros(1_763_812_800_123_456).unwrap();
        assert_eq!(stamp.to_string(), "2025-11-22T12:00:00.123Z");
        assert_eq!(Stamp::parse("2025-11-22T12:00:00.123Z").unwrap().unix_millis(), stamp.unix_millis());
        assert_eq!(Stamp::from_unix_millis(1_763_812_800_123).to_string(), stamp.to_string());
        assert_eq!(
            (Stamp::parse("yesterday"), Stamp::from_unix_millis(i64::MAX).to_string().len()),
            (None, 24)
        );
        assert_eq!(Stamp::from_unix_micros(0).unwrap().to_string(), "1970-01-01T00:00:00.000Z");
    }
}
