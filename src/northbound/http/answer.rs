//! What an answer means for what was sent. Pure.
//!
//! | status | meaning |
//! | --- | --- |
//! | 2xx | delivered |
//! | 408, 425, 429, 5xx | again later, after `Retry-After` if that is longer than the back-off |
//! | 401, 407 | again later, with credentials that are read anew: they are wrong for every message, and lose none |
//! | 3xx | again later: a redirection is not followed, since it would carry credentials elsewhere |
//! | other 4xx | never: this message is refused, the others go on |

use std::time::Duration;

/// A server may not silence us for longer.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);

/// What becomes of what was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is the server's.
    Delivered,
    /// It is ours, and sent again later, not before `after`.
    Retry {
        /// Why.
        reason: String,
        /// What the server asks for.
        after: Option<Duration>,
        /// Over a new connection, with secrets and certificates as they are by then?
        anew: bool,
    },
    /// The server will never take it.
    Refused(String),
}

/// What a status means (RFC 9110, section 15). `text` is the beginning of the answer's body, `now` seconds since 1970.
pub fn outcome(status: u16, retry_after: Option<&str>, text: &str, now: i64) -> Outcome {
    let reason = match text.lines().next().map(str::trim).filter(|line| !line.is_empty()) {
        Some(line) => format!("HTTP {status}: {line}"),
        None => format!("HTTP {status}"),
    };
    match status {
        200..=299 => Outcome::Delivered,
        401 | 407 => again(format!("{reason} (are the credentials right?)"), None, true),
        300..=399 => again(format!("{reason} (redirections are not followed)"), None, false),
        408 | 425 | 429 | 500..=599 => {
            let after =
                retry_after.and_then(|text| wait(text, now)).map(|after| after.min(LONGEST_RETRY_AFTER));
            again(reason, after, false)
        }
        400..=499 => Outcome::Refused(reason),
        _ => again(format!("{reason} (no final answer)"), None, true),
    }
}

fn again(reason: String, after: Option<Duration>, anew: bool) -> Outcome {
    Outcome::Retry { reason, after, anew }
}

/// `Retry-After`: seconds, or a date (RFC 9110, 10.2.3).
fn wait(text: &str, now: i64) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(Duration::from_secs(u64::try_from(date.as_second() - now).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, retry_after: Option<&str>) -> Outcome {
        outcome(status, retry_after, "", 784_111_777)
    }

    fn after(status: u16, retry_after: &str) -> Option<Duration> {
        match of(status, Some(retry_after)) {
            Outcome::Retry { after, .. } => after,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn statuses_mean_what_the_table_says() {
        for status in [200, 201, 202, 204] {
            assert_eq!(of(status, None), Outcome::Delivered);
        }
        for status in [301, 308, 401, 407, 408, 425, 429, 500, 502, 503, 504] {
            assert!(matches!(of(status, None), Outcome::Retry { .. }), "{status}");
        }
        for status in [400, 403, 404, 409, 410, 413, 415, 422] {
            assert!(matches!(of(status, None), Outcome::Refused(_)), "{status}");
        }
    }

    #[test]
    fn an_answer_keeps_the_connection_unless_it_is_about_credentials() {
        let anew = |status| matches!(of(status, None), Outcome::Retry { anew: true, .. });
        assert!(anew(401) && anew(407));
        assert!(!anew(302) && !anew(429) && !anew(503));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_and_has_a_limit() {
        let seconds = Duration::from_secs;
        assert_eq!(after(429, "7"), Some(seconds(7)));
        assert_eq!(after(503, "Sun, 06 Nov 1994 08:49:47 GMT"), Some(seconds(10)));
        assert_eq!(after(503, "Sun, 06 Nov 1994 08:49:07 GMT"), Some(seconds(0)), "it is over");
        assert_eq!(after(503, "99999999"), Some(LONGEST_RETRY_AFTER));
        assert_eq!(after(503, "soon"), None);
        assert_eq!(after(503, "-5"), None);
    }

    #[test]
    fn the_first_line_of_the_answer_says_why() {
        let refused = outcome(422, None, "  value out of range \nmore", 0);
        assert_eq!(refused, Outcome::Refused("HTTP 422: value out of range".into()));
    }
}
