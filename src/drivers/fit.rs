//! Will it fit? What a map asks of its bus, before anything is started. Pure.
//!
//! - Load: Σ exchange time ÷ interval over all reads. Above 1 the bus can't keep its intervals.
//! - Worst age of a read: from its due time until its answer is there, at worst. Whatever the order, a request never
//!   waits longer than the bus can be busy without a pause. That busy period is the smallest L with
//!   `L = longest exchange + Σ ⌈L ÷ interval⌉ × exchange` (one exchange may have just begun, since none is interrupted;
//!   the classical bound for non-preemptive scheduling, George/Rivierre/Spuri 1996). A read that is wanted once counts
//!   once.
//! - The bus runs the earliest deadline first, and a read's deadline is its due time + its budget. Where the processor
//!   demand criterion for that order holds (same source, theorem 4: for each deadline t up to L, all exchanges that must be
//!   over by t and the longest that need not fit into t), every read keeps its budget, which then bounds its age.
//! - With a dead unit: the slowest unit's reads are replaced by its probes ([`crate::drivers::schedule`]), each of them as
//!   long as a whole response timeout.

use std::time::Duration;

use super::schedule::{LONGEST_PROBE_REST, PROBE_REST, SHORTEST_INTERVAL};
use crate::mapping::device::Every;

/// The busy period is computed in steps; a load near 1 needs many, and is hopeless beyond this many.
const MOST_STEPS: u32 = 10_000;

/// What one read asks of the bus.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Demand {
    /// Index of the device on its connection.
    pub device: usize,
    /// Index of the read in its device's plan.
    pub read: usize,
    /// Unit id: what is dead is a unit.
    pub unit: u8,
    /// How often.
    pub every: Every,
    /// Bus time of the whole exchange, silences and turnaround included.
    pub takes: Duration,
    /// Bus time when nobody answers.
    pub fails: Duration,
    /// The device's budget.
    pub budget: Duration,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// Share of the time that the bus is busy; 1 is all of it.
    pub load: f64,
    /// The same with the slowest unit dead and only probed.
    pub load_with_a_dead_unit: f64,
    /// Does every read keep its interval?
    pub fits: bool,
    /// One per demand, in its order.
    pub reads: Vec<FitRead>,
}

/// What becomes of one read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FitRead {
    /// What it asked for.
    pub demand: Demand,
    /// From its due time to its answer, at worst; `None` when the bus is overloaded and there is no bound.
    pub worst_age: Option<Duration>,
    /// The same with the slowest unit dead; `None` also for the reads of that unit.
    pub worst_age_with_a_dead_unit: Option<Duration>,
}

impl FitRead {
    /// Is the answer within the budget even at worst?
    pub fn within_budget(&self) -> bool {
        self.worst_age.is_some_and(|age| age <= self.demand.budget)
    }
}

/// Computes what the demands of one connection amount to.
pub fn fit(demands: &[Demand]) -> Fit {
    let load = load(demands);
    let slowest = demands.iter().max_by_key(|demand| demand.fails).copied();
    let with_a_dead_unit = slowest.map_or_else(Vec::new, |slowest| with_a_dead_unit(demands, &slowest));
    let (bound, dead_bound) = (Bound::of(demands), Bound::of(&with_a_dead_unit));
    let read = |demand: &Demand| FitRead {
        demand: *demand,
        worst_age: bound.age(demand),
        worst_age_with_a_dead_unit: dead_bound
            .age(demand)
            .filter(|_| slowest.is_some_and(|slowest| slowest.unit != demand.unit)),
    };
    Fit {
        load,
        load_with_a_dead_unit: self::load(&with_a_dead_unit),
        fits: load <= 1.0,
        reads: demands.iter().map(read).collect(),
    }
}

/// The share of the time that demands keep their bus busy.
pub fn load(demands: &[Demand]) -> f64 {
    demands.iter().map(load_of).sum()
}

/// What bounds the ages of all reads of a connection.
struct Bound {
    busy_period: Option<Duration>,
    budgets_hold: bool,
}

impl Bound {
    fn of(demands: &[Demand]) -> Self {
        let busy_period = (load(demands) <= 1.0).then(|| busy_period(demands)).flatten();
        let budgets_hold = busy_period.is_some_and(|longest| budgets_hold(demands, longest));
        Self { busy_period, budgets_hold }
    }

    fn age(&self, demand: &Demand) -> Option<Duration> {
        let length = self.busy_period?;
        Some(if self.budgets_hold { length.min(demand.budget) } else { length })
    }
}

fn load_of(demand: &Demand) -> f64 {
    match demand.every {
        Every::Interval(interval) => {
            demand.takes.as_secs_f64() / interval.max(SHORTEST_INTERVAL).as_secs_f64()
        }
        Every::Once | Every::Changes(_) => 0.0,
    }
}

/// The longest time that the bus can be busy without a pause.
fn busy_period(demands: &[Demand]) -> Option<Duration> {
    let longest = demands.iter().map(|demand| demand.takes).max().unwrap_or_default();
    // A connection with a single read never waits for another one.
    let blocking = if demands.len() > 1 { longest } else { Duration::ZERO };
    let mut length = longest;
    for _ in 0..MOST_STEPS {
        let next = blocking + demands.iter().map(|demand| ahead_within(demand, length)).sum::<Duration>();
        if next <= length {
            return Some(length);
        }
        length = next;
    }
    None
}

/// Bus time of all runs of a read that may fall into so long a time.
fn ahead_within(demand: &Demand, length: Duration) -> Duration {
    let runs = match demand.every {
        Every::Interval(interval) => length.as_nanos().div_ceil(interval.max(SHORTEST_INTERVAL).as_nanos()),
        Every::Once | Every::Changes(_) => 1,
    };
    demand.takes.saturating_mul(u32::try_from(runs).unwrap_or(u32::MAX))
}

/// The processor demand criterion for earliest deadline first without interruption, up to the busy period.
fn budgets_hold(demands: &[Demand], busy_period: Duration) -> bool {
    let mut steps = 0;
    demands.iter().all(|demand| {
        let mut deadline = demand.budget;
        while deadline <= busy_period {
            steps += 1;
            if steps > MOST_STEPS || due_by(demands, deadline) > deadline {
                return false;
            }
            match demand.every {
                Every::Interval(interval) => deadline += interval.max(SHORTEST_INTERVAL),
                Every::Once | Every::Changes(_) => break,
            }
        }
        true
    })
}

/// Bus time of all that must be over by `deadline`, and of the longest exchange that need not.
fn due_by(demands: &[Demand], deadline: Duration) -> Duration {
    let mut due = Duration::ZERO;
    let mut blocking = Duration::ZERO;
    for demand in demands {
        match deadline.checked_sub(demand.budget) {
            None => blocking = blocking.max(demand.takes),
            Some(rest) => {
                due += demand.takes.saturating_mul(match demand.every {
                    Every::Once | Every::Changes(_) => 1,
                    Every::Interval(interval) => {
                        let runs = rest.as_nanos() / interval.max(SHORTEST_INTERVAL).as_nanos() + 1;
                        u32::try_from(runs).unwrap_or(u32::MAX)
                    }
                })
            }
        }
    }
    due + blocking
}

/// The demands with all reads of `dead`'s unit replaced by its probes.
fn with_a_dead_unit(demands: &[Demand], dead: &Demand) -> Vec<Demand> {
    let of_unit = |demand: &&Demand| demand.unit == dead.unit;
    let intervals = demands.iter().filter(of_unit).filter_map(|demand| match demand.every {
        Every::Interval(interval) => Some(interval),
        Every::Once | Every::Changes(_) => None,
    });
    let shortest = intervals.min().unwrap_or(LONGEST_PROBE_REST).min(LONGEST_PROBE_REST);
    let rest = dead.fails.saturating_mul(PROBE_REST).clamp(shortest, LONGEST_PROBE_REST);
    let probe = Demand { takes: dead.fails, every: Every::Interval(rest + dead.fails), ..*dead };
    let living = demands.iter().filter(|demand| demand.unit != dead.unit);
    living.copied().chain(std::iter::once(probe)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(unit: u8, takes: u64, every: u64) -> Demand {
        let ms = Duration::from_millis;
        let every = Every::Interval(ms(every));
        let device = usize::from(unit);
        Demand { device, read: 0, unit, every, takes: ms(takes), fails: ms(300), budget: ms(100) }
    }

    #[test]
    fn the_load_is_the_sum_of_shares() {
        let fit = fit(&[demand(1, 50, 1000), demand(2, 100, 500)]);
        assert!((fit.load - 0.25).abs() < 1e-9 && fit.fits);
        // Blocked by 100 ms, then one of each; two budgets of 100 ms can't hold both.
        assert_eq!(fit.reads[0].worst_age, Some(Duration::from_millis(250)));
        assert!(!fit.reads[0].within_budget());
    }

    #[test]
    fn a_short_interval_may_run_more_than_once_ahead() {
        let fit = fit(&[demand(1, 10, 50), demand(2, 100, 1000)]);
        // 100 + 100 + ⌈L ÷ 50⌉ × 10: L = 250.
        assert_eq!(fit.reads[1].worst_age, Some(Duration::from_millis(250)));
    }

    #[test]
    fn an_overloaded_bus_does_not_fit() {
        let fit = fit(&[demand(1, 600, 1000), demand(2, 500, 1000)]);
        assert!(!fit.fits && fit.load > 1.0);
        assert_eq!(fit.reads[0].worst_age, None);
    }

    #[test]
    fn the_earliest_deadline_keeps_a_tight_budget_beside_a_patient_crowd() {
        let ms = Duration::from_millis;
        let mut demands: Vec<Demand> = (2..12).map(|unit| demand(unit, 20, 1000)).collect();
        demands.iter_mut().for_each(|demand| demand.budget = ms(1000));
        demands.push(Demand { budget: ms(50), fails: ms(200), ..demand(1, 20, 1000) });
        let fit = fit(&demands);
        // Its own 20 ms and one exchange that had just begun, not all eleven.
        assert_eq!(fit.reads[10].worst_age, Some(ms(50)));
        assert!(fit.reads.iter().all(FitRead::within_budget));
        assert_eq!(fit.reads[0].worst_age, Some(ms(240)));
        // A probe of a dead unit of 300 ms breaks it.
        assert!(fit.reads[10].worst_age_with_a_dead_unit > Some(ms(300)));
    }

    #[test]
    fn a_dead_unit_costs_its_probes_only() {
        let fit = fit(&[demand(1, 50, 1000), demand(2, 50, 1000)]);
        assert!(
            (fit.load_with_a_dead_unit - 0.05 - 0.3 / 20.3).abs() < 1e-9,
            "{}",
            fit.load_with_a_dead_unit
        );
    }

    #[test]
    fn a_lone_read_waits_for_nobody_and_an_empty_bus_is_idle() {
        assert_eq!(fit(&[demand(1, 50, 1000)]).reads[0].worst_age, Some(Duration::from_millis(50)));
        assert!(fit(&[]).fits && fit(&[]).load == 0.0);
    }
}
