//! Which token an acknowledgement belongs to, and when its absence means that the link is dead.
//!
//! The client library takes publishes in order and tells the packet id of each when it writes it, so a queue and a
//! table are enough. Pure: takes `now`.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::northbound::Token;

/// A link on which publishes wait and nothing is acknowledged for this long is dead. With the 5 s that connecting may
/// take, a half-open link under traffic is replaced within 15 s.
pub(super) const PUBACK_TIMEOUT: Duration = Duration::from_secs(10);
/// A publish that this many later ones have overtaken will not be acknowledged any more.
const OVERTAKEN_LIMIT: usize = 1 << 16;

/// The unacknowledged publishes of one connection.
#[derive(Debug)]
pub(super) struct Window {
    /// Given to the library, not yet written.
    handed: VecDeque<Token>,
    /// By packet id: the place in the order of writing.
    by_packet_id: Vec<Option<u64>>,
    /// In the order of writing, from `first` on; acknowledged ones are taken out of the middle.
    written: VecDeque<Option<Token>>,
    first: u64,
    /// When something was acknowledged last, or the first publish was handed over.
    progress: Instant,
    /// Since when the oldest publish has been overtaken by acknowledgements of later ones.
    overtaken: Option<Instant>,
}

impl Window {
    /// Room for packet ids 1 … `size`.
    pub fn new(size: u16, now: Instant) -> Self {
        Self {
            handed: VecDeque::new(),
            by_packet_id: vec![None; usize::from(size) + 1],
            written: VecDeque::new(),
            first: 0,
            progress: now,
            overtaken: None,
        }
    }

    /// A publish was given to the library.
    pub fn hand(&mut self, token: Token, now: Instant) {
        if self.is_empty() {
            self.progress = now;
        }
        self.handed.push_back(token);
    }

    /// The library has written the next publish. With quality of service 0 (packet id 0) that settles it.
    pub fn written(&mut self, packet_id: u16, now: Instant) -> Option<Token> {
        let token = self.handed.pop_front()?;
        if packet_id == 0 {
            self.progress = now;
            return Some(token);
        }
        if let Some(place) = self.by_packet_id.get_mut(usize::from(packet_id)) {
            *place = Some(self.first + self.written.len() as u64);
            self.written.push_back(Some(token));
        }
        None
    }

    /// A PUBACK has come.
    pub fn acked(&mut self, packet_id: u16, now: Instant) -> Option<Token> {
        let place = self.by_packet_id.get_mut(usize::from(packet_id))?.take()?;
        let at = usize::try_from(place.checked_sub(self.first)?).ok()?;
        let token = self.written.get_mut(at)?.take()?;
        self.progress = now;
        if at == 0 {
            self.overtaken = None;
            while let Some(None) = self.written.front() {
                self.written.pop_front();
                self.first += 1;
            }
        } else if self.overtaken.is_none() {
            self.overtaken = Some(now);
        }
        Some(token)
    }

    /// When the link is dead unless something is acknowledged before.
    pub fn deadline(&self) -> Option<Instant> {
        if self.is_empty() {
            return None;
        }
        if self.written.len() > OVERTAKEN_LIMIT {
            return Some(self.progress);
        }
        let since = self.overtaken.map_or(self.progress, |overtaken| overtaken.min(self.progress));
        Some(since + PUBACK_TIMEOUT)
    }

    /// Does more than one publish wait for its PUBACK?
    pub fn has_several(&self) -> bool {
        self.handed.len() + self.written.len() > 1
    }

    fn is_empty(&self) -> bool {
        self.handed.is_empty() && self.written.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_silent_broker_is_noticed_after_ten_seconds() {
        let (start, s) = (Instant::now(), Duration::from_secs);
        let mut window = Window::new(10, start);
        assert_eq!(window.deadline(), None);
        window.hand(1, start + s(100));
        window.hand(2, start + s(103));
        assert_eq!(window.deadline(), Some(start + s(110)));
        window.written(1, start + s(103));
        window.written(2, start + s(103));
        assert_eq!(window.acked(1, start + s(105)), Some(1));
        assert_eq!(window.deadline(), Some(start + s(115)), "progress counts, so that slow links stay up");
        assert_eq!(window.acked(2, start + s(106)), Some(2));
        assert_eq!(window.deadline(), None);
    }

    #[test]
    fn a_publish_that_others_overtake_for_ten_seconds_is_lost() {
        let (start, s) = (Instant::now(), Duration::from_secs);
        let mut window = Window::new(3, start);
        for token in 1..=3 {
            window.hand(token, start);
            window.written(token as u16, start);
        }
        assert_eq!(window.acked(2, start + s(2)), Some(2));
        assert_eq!(window.acked(3, start + s(9)), Some(3));
        assert_eq!(window.deadline(), Some(start + s(12)));
        assert_eq!(window.acked(1, start + s(11)), Some(1));
        assert_eq!(window.deadline(), None);
    }

    #[test]
    fn what_was_never_written_is_not_acknowledged() {
        let mut window = Window::new(3, Instant::now());
        window.hand(7, Instant::now());
        assert_eq!(window.acked(1, Instant::now()), None);
        assert_eq!(window.acked(9, Instant::now()), None);
        assert_eq!(window.written(1, Instant::now()), None);
        assert_eq!(window.acked(1, Instant::now()), Some(7));
        assert_eq!(window.acked(1, Instant::now()), None);
    }

    proptest! {
        #[test]
        fn each_token_is_acknowledged_once_in_any_order(picks in prop::collection::vec((any::<bool>(), 0usize..8), 0..200)) {
            let (size, now) = (8, Instant::now());
            let mut window = Window::new(size, now);
            let mut free: Vec<u16> = (1..=size).collect();
            let mut open: Vec<(u16, Token)> = Vec::new();
            for (token, (publish, which)) in (1..).zip(picks) {
                if publish && !free.is_empty() {
                    let packet_id = free.remove(which % free.len());
                    window.hand(token, now);
                    prop_assert_eq!(window.written(packet_id, now), None);
                    open.push((packet_id, token));
                } else if !open.is_empty() {
                    let (packet_id, token) = open.remove(which % open.len());
                    prop_assert_eq!(window.acked(packet_id, now), Some(token));
                    free.push(packet_id);
                }
                prop_assert_eq!(window.deadline().is_some(), !open.is_empty());
            }
        }
    }
}
