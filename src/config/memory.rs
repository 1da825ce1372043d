//! The memory of messages that wait, dealt out to the routes. Pure.

use crate::northbound::forwarder::LIVE_BYTES;
use crate::store::PENDING_BYTES;

/// Bytes for the messages of all routes, unless the site says otherwise.
const USUAL: u64 = 96 << 20;
/// Bytes of a route's backlog in memory, where there is enough for all.
const BACKLOG: u64 = 32 << 20;
/// Bytes of a backlog at least: below it nothing is worth keeping.
const LEAST: u64 = 1 << 20;

/// Bytes for the messages of all routes where the site does not say: more than usual only for backlogs that it names, or a dozen routes.
pub fn usual(wished: &[Option<u64>]) -> u64 {
    least(wished).max(USUAL)
}

/// Bytes of each route's backlog; `None` when they don't fit. `wished` has what the site file says of each.
pub fn backlogs(memory: u64, wished: &[Option<u64>]) -> Option<Vec<u64>> {
    // Each route has besides what is before its deadline, and what is on its way to the disk.
    let own = (LIVE_BYTES + PENDING_BYTES) as u64 * wished.len() as u64;
    let fixed: u64 = wished.iter().flatten().sum();
    let rest = memory.checked_sub(own.checked_add(fixed)?)?;
    let others = wished.iter().filter(|wish| wish.is_none()).count() as u64;
    let share = rest.checked_div(others).unwrap_or(BACKLOG).min(BACKLOG);
    (share >= LEAST).then(|| wished.iter().map(|wish| wish.unwrap_or(share)).collect())
}

/// The least memory that these routes can work with.
pub fn least(wished: &[Option<u64>]) -> u64 {
    let backlogs: u64 = wished.iter().map(|wish| wish.unwrap_or(LEAST)).sum();
    (LIVE_BYTES + PENDING_BYTES) as u64 * wished.len() as u64 + backlogs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_dealt_out_fits_and_wishes_are_granted(
            memory in 0u64..1 << 30,
            wished in prop::collection::vec(prop::option::of(1u64 << 16..64 << 20), 1..8),
        ) {
            let Some(dealt) = backlogs(memory, &wished) else {
                prop_assert!(memory < least(&wished));
                return Ok(());
            };
            prop_assert!(memory >= least(&wished));
            let own = (LIVE_BYTES + PENDING_BYTES) as u64 * wished.len() as u64;
            prop_assert!(dealt.iter().sum::<u64>() + own <= memory);
            prop_assert!(dealt.iter().zip(&wished).all(|(dealt, wish)| wish.is_none_or(|wish| wish == *dealt)));
        }
    }
}
