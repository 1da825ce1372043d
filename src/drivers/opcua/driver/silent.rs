//! Subscriptions from which nothing comes.

use super::*;

impl OpcuaDriver {
    /// Looks at the subscriptions whose silence may have lasted too long.
    pub(super) async fn watch(&mut self) -> Result<(), LinkLost> {
        let now = Instant::now();
        for at in 0..self.subscriptions.len() {
            let Some(silence) = self.subscriptions[at].silence(now) else { continue };
            match silence {
                Silence::Dead => return Err(LinkLost("the server sends no keep-alives any more".into())),
                // Where others come, or the clock does, the subscription lives.
                Silence::NoFirstValues if self.lives(at) || !self.misses_first(at, now) => {
                    self.give_up_awaited(at, now);
                }
                Silence::NoValues | Silence::NoFirstValues if self.subscriptions[at].is_second => {
                    return Err(LinkLost("the server sends keep-alives, and no values".into()));
                }
                Silence::NoValues | Silence::NoFirstValues => {
                    tracing::warn!("a subscription sends keep-alives and no values: it is made anew");
                    self.resubscribe(at).await?;
                    self.subscriptions[at].is_second = true;
                }
            }
        }
        Ok(())
    }

    /// Has any value come in this subscription?
    pub(super) fn lives(&self, at: usize) -> bool {
        let subscription = &self.subscriptions[at];
        let mut states = subscription.items.iter().map(|ix| self.items[*ix].state);
        subscription.has_pulsed() || states.any(|state| state == ItemState::Watched)
    }

    pub(super) fn misses_first(&self, at: usize, now: Instant) -> bool {
        let mut states = self.subscriptions[at].items.iter().map(|ix| self.items[*ix].state);
        states.any(|state| matches!(state, ItemState::Awaited(by) if by <= now))
    }

    /// Nodes that the server has promised to watch and says nothing of, while others come: bad, until it does.
    pub(super) fn give_up_awaited(&mut self, at: usize, now: Instant) {
        let mut next: Option<Instant> = None;
        for ix in self.subscriptions[at].items.clone() {
            match self.items[ix].state {
                ItemState::Awaited(by) if by <= now => {
                    self.set_state(ix, ItemState::Slow);
                    self.tell_bad(ix, Cause::Timeout);
                }
                ItemState::Awaited(by) => next = Some(next.map_or(by, |next| next.min(by))),
                _ => {}
            }
        }
        self.subscriptions[at].awaits_until(next);
        self.flush(now);
    }
}
