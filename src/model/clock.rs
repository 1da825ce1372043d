//! How far the wall clock can be believed. A Raspberry Pi has none of its own: it starts in the past, and the network puts it right later.
//!
//! There is one wall clock in a process, so there is one state of it here; `runtime::clock` finds it out, and without that the
//! clock is believed. Nothing waits for this clock or measures with it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::time::Stamp;

/// Where the wall clock stood in a boot: with it, a stamp of then becomes right once it's known where it should have stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which boot of the machine; 0 if that can't be told.
    pub boot: u64,
    /// Milliseconds from the boot's beginning, if it had been in 1970, to the wall clock.
    pub ahead: i64,
}

impl Standing {
    /// By how many milliseconds stamps of then are behind what they should be, if `right` is of the same boot.
    pub fn behind(self, right: Self) -> Option<i64> {
        (self.boot == right.boot && self.boot != 0).then(|| right.ahead.saturating_sub(self.ahead))
    }

    fn now() -> Self {
        Self { boot: boot(), ahead: Stamp::now().unix_millis().saturating_sub(uptime_millis()) }
    }
}

static DOUBTED: AtomicBool = AtomicBool::new(false);
/// Where the clock stood when it began to be believed; `NOT_ASKED` before somebody wanted to know.
static AHEAD: AtomicI64 = AtomicI64::new(NOT_ASKED);
const NOT_ASKED: i64 = i64::MIN;
/// Milliseconds since 1970 before which it can't be.
static FLOOR: AtomicI64 = AtomicI64::new(i64::MIN);

/// Where the clock stands now, if it is not believed: what's stamped now has to be put right later.
pub fn doubted() -> Option<Standing> {
    DOUBTED.load(Relaxed).then(Standing::now)
}

/// Where the clock stood when it began to be believed, if it is.
pub fn believed() -> Option<Standing> {
    if DOUBTED.load(Relaxed) {
        return None;
    }
    let ahead = match AHEAD.load(Relaxed) {
        NOT_ASKED => {
            let ahead = Standing::now().ahead;
            AHEAD.compare_exchange(NOT_ASKED, ahead, Relaxed, Relaxed).map_or_else(|known| known, |_| ahead)
        }
        known => known,
    };
    Some(Standing { boot: boot(), ahead })
}

/// The clock is wrong, or may be; it's later than `floor`, in milliseconds since 1970.
pub fn doubt(floor: i64) {
    FLOOR.store(floor, Relaxed);
    DOUBTED.store(true, Relaxed);
}

/// The clock is right.
pub fn believe() {
    if DOUBTED.load(Relaxed) {
        AHEAD.store(Standing::now().ahead, Relaxed);
        FLOOR.store(i64::MIN, Relaxed);
        DOUBTED.store(false, Relaxed);
    }
}

/// Milliseconds since 1970 that nobody's setting of the clock moves, but for the moment when it becomes believed: for ages.
pub fn steady_millis() -> i64 {
    let standing = believed().unwrap_or_else(Standing::now);
    standing.ahead.saturating_add(uptime_millis())
}

/// The time by which certificates are judged: not before it can be.
pub fn since_epoch() -> Duration {
    let millis = Stamp::now().unix_millis().max(FLOOR.load(Relaxed));
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// Milliseconds since the boot.
pub fn uptime_millis() -> i64 {
    let up = clock_gettime(ClockId::Boottime);
    up.tv_sec * 1000 + up.tv_nsec / 1_000_000
}

/// This boot's number, made of the kernel's id of it (random(4)).
pub fn boot() -> u64 {
    static BOOT: OnceLock<u64> = OnceLock::new();
    *BOOT.get_or_init(|| {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let digits: String = id.chars().filter(char::is_ascii_hexdigit).take(16).collect();
        u64::from_str_radix(&digits, 16).unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_stamps_of_the_same_boot_can_be_put_right() {
        let then = Standing { boot: 7, ahead: 1_000 };
        assert_eq!(then.behind(Standing { boot: 7, ahead: 51_000 }), Some(50_000));
        assert_eq!(then.behind(Standing { boot: 7, ahead: -1_000 }), Some(-2_000));
        assert_eq!(then.behind(Standing { boot: 8, ahead: 51_000 }), None);
        assert_eq!(Standing { boot: 0, ahead: 0 }.behind(Standing { boot: 0, ahead: 5 }), None);
    }

    #[test]
    fn a_boot_has_a_number_and_a_time() {
        assert!(boot() != 0 && boot() == boot());
        assert!(uptime_millis() > 0);
    }
}
