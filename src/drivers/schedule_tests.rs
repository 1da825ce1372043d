//! Laws of the schedule.

use proptest::prelude::*;

use super::*;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn entry(unit: u8, every: u64, budget: u64) -> Entry {
    Entry { device: usize::from(unit), read: 0, unit, every: Every::Interval(ms(every)), budget: ms(budget) }
}

/// Runs the schedule on a bus where each exchange takes what `take` says; gives (time, entry, missed) of each run.
fn simulate(
    schedule: &mut Schedule,
    start: Instant,
    length: Duration,
    mut take: impl FnMut(Entry, Duration) -> (Duration, Outcome),
) -> Vec<(Duration, usize, u64)> {
    let mut now = start;
    let mut runs = Vec::new();
    while now < start + length {
        match schedule.next(now) {
            Next::Due { entry, missed } => {
                runs.push((now - start, entry, missed));
                let (took, outcome) = take(schedule.entry(entry), now - start);
                now += took;
                schedule.done(entry, now, outcome);
            }
            Next::At(at) => {
                assert!(at > now, "a wait must lead somewhere");
                now = at;
            }
            Next::Never => break,
        }
    }
    runs
}

fn answered(took: u64) -> (Duration, Outcome) {
    (ms(took), Outcome::Answered)
}

fn failed(took: u64) -> (Duration, Outcome) {
    (ms(took), Outcome::Failed { cost: ms(took) })
}

#[test]
fn a_thousand_intervals_take_a_thousand_intervals() {
    for interval in [10, 100, 333, 1000, 7000] {
        let start = Instant::now();
        let mut schedule = Schedule::new([entry(1, interval, 1000)], 1 << 63, start);
        let runs = simulate(&mut schedule, start, ms(interval * 1003), |_, _| answered(interval / 3));
        let ticks: Vec<_> = runs.iter().rev().take(1001).collect();
        assert_eq!(ticks[0].0 - ticks[1000].0, ms(interval * 1000));
        assert!(runs.iter().all(|run| run.2 == 0));
    }
}

#[test]
fn a_stall_is_followed_by_one_read_and_its_ticks_are_counted() {
    let start = Instant::now();
    let mut schedule = Schedule::new([entry(1, 100, 50)], 0, start);
    let mut stalled = false;
    let runs = simulate(&mut schedule, start, ms(3000), |_, at| {
        if at >= ms(1000) && !stalled {
            stalled = true;
            return answered(1050);
        }
        answered(10)
    });
    let after: Vec<_> =
        runs.iter().filter(|run| run.0 > ms(1000)).take(3).map(|run| (run.0, run.2)).collect();
    // Ticks 1100 … 2000 passed during the stall: one is served at once, nine are lost.
    assert_eq!(after, [(ms(2050), 9), (ms(2100), 0), (ms(2200), 0)]);
}

#[test]
fn the_earliest_deadline_goes_first_and_ties_go_by_order() {
    let start = Instant::now();
    let entries = [entry(1, 1000, 900), entry(2, 1000, 100), entry(3, 1000, 900), entry(4, 1000, 500)];
    let mut schedule = Schedule::new(entries, 0, start);
    // Everything became due while the bus was busy: deadlines decide, not due times.
    let now = start + ms(999);
    let mut order = Vec::new();
    while let Next::Due { entry, .. } = schedule.next(now) {
        let slot = &schedule.slots[entry];
        order.push((slot.due + slot.entry.budget, entry));
    }
    assert_eq!(order.len(), 4);
    assert!(order.is_sorted(), "{order:?}");
}

#[test]
fn a_once_is_tried_until_it_succeeds_and_again_after_a_reconnect() {
    let start = Instant::now();
    let once = Entry { every: Every::Once, ..entry(1, 0, 100) };
    let mut schedule = Schedule::new([once], 0, start);
    let mut tries = 0;
    let mut play = |schedule: &mut Schedule, start| {
        simulate(schedule, start, ms(60_000), |_, _| {
            tries += 1;
            (ms(1), if tries % 3 == 0 { Outcome::Answered } else { Outcome::Refused })
        })
        .len()
    };
    assert_eq!(play(&mut schedule, start), 3);
    assert_eq!(schedule.next(start + ms(100_000)), Next::Never);
    schedule.restart(start + ms(100_000));
    assert_eq!(play(&mut schedule, start + ms(100_000)), 3);
}

#[test]
fn a_sick_unit_is_suspended_probed_and_well_at_its_first_answer() {
    let start = Instant::now();
    let entries = [entry(1, 100, 100), Entry { read: 1, ..entry(1, 500, 100) }];
    let mut schedule = Schedule::new(entries, 0, start);
    let runs = simulate(&mut schedule, start, ms(60_000), |_, at| {
        if at > ms(1000) && at < ms(30_000) { failed(25) } else { answered(5) }
    });
    let away: Vec<_> = runs.iter().filter(|run| run.0 > ms(1000) && run.0 < ms(30_000)).collect();
    // Three failures, probes after 100, 200, … ms, then one every 200 × 25 ms.
    assert!((12..=14).contains(&away.len()), "{}", away.len());
    assert!(
        away[4..].iter().any(|run| run.1 == 0) && away[4..].iter().any(|run| run.1 == 1),
        "probes take turns"
    );
    let back = runs.iter().find(|run| run.0 >= ms(30_000)).unwrap();
    assert!(back.0 <= ms(35_100), "{back:?}");
    let both = runs.iter().filter(|run| run.0 > back.0 && run.0 <= back.0 + ms(10));
    assert_eq!(both.count(), 1, "the other read follows at once");
    assert!(runs.iter().all(|run| run.2 == 0), "ticks of a sick unit are not missed");
    assert!(
        runs.iter().all(|run| run.1 == 1 || run.0 <= back.0 + ms(10) || run.0.as_millis() % 100 == 0),
        "in phase again"
    );
}

#[test]
fn a_short_absence_costs_little_more_than_it_lasted() {
    let start = Instant::now();
    let mut schedule = Schedule::new([entry(1, 500, 300)], 0, start);
    let runs = simulate(&mut schedule, start, ms(30_000), |_, at| {
        if at > ms(10_000) && at < ms(12_500) { failed(300) } else { answered(5) }
    });
    let back = runs.iter().find(|run| run.0 >= ms(12_500)).unwrap();
    // What all probes together may take keeps the second one 3 s behind the first.
    assert!(back.0 < ms(15_600), "{back:?}");
}

#[test]
fn a_loose_contact_does_not_flap() {
    let start = Instant::now();
    let mut schedule = Schedule::new([entry(1, 1000, 1000)], 0, start);
    let (mut now, mut changes, mut random) = (start, 0, 1u64);
    while now < start + ms(3_600_000) {
        match schedule.next(now) {
            Next::Due { entry, .. } => {
                now += ms(20);
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let answers = (random >> 33) % 100 < 60;
                let outcome = if answers { Outcome::Answered } else { Outcome::Failed { cost: ms(300) } };
                changes += u32::from(schedule.done(entry, now, outcome).is_some());
            }
            Next::At(at) => now = at,
            Next::Never => unreachable!("an interval never ends"),
        }
    }
    // Six of ten requests are answered, for an hour; each change at the first answer would make some 200.
    assert!(changes < 40, "{changes}");
    // And once the contact holds, the unit is back within 30 s.
    let runs = simulate(&mut schedule, now, ms(60_000), |_, _| answered(20));
    assert!(runs.iter().filter(|run| run.0 > ms(30_000)).count() >= 29);
}

#[test]
fn a_busy_unit_is_left_alone_longer_each_time() {
    let start = Instant::now();
    let mut schedule = Schedule::new([entry(1, 100, 100), entry(2, 100, 100)], 0, start);
    let runs = simulate(&mut schedule, start, ms(60_000), |entry, at| {
        if entry.unit == 1 && at < ms(40_000) { (ms(5), Outcome::Busy) } else { answered(5) }
    });
    let asked: Vec<_> = runs.iter().filter(|run| run.1 == 0).map(|run| run.0).collect();
    let rests: Vec<_> = asked.windows(2).take(7).map(|pair| (pair[1] - pair[0]).as_millis() / 100).collect();
    assert_eq!(rests, [5, 10, 20, 40, 80, 160, 160]);
    let after = asked.iter().filter(|at| **at > ms(56_000)).count();
    assert!(after >= 39, "{after}");
    assert!(runs.iter().filter(|run| run.1 == 1).count() >= 599, "the other unit goes on");
}

#[test]
fn refusals_are_answers() {
    let start = Instant::now();
    let mut schedule = Schedule::new([entry(1, 100, 100)], 0, start);
    let runs = simulate(&mut schedule, start, ms(2000), |_, _| (ms(5), Outcome::Refused));
    assert_eq!(runs.len(), 20);
}

#[test]
fn a_held_unit_waits_while_the_others_go_on() {
    let start = Instant::now();
    let mut schedule = Schedule::new([entry(1, 100, 10), entry(2, 100, 100)], 0, start);
    schedule.hold(0, start + ms(450));
    let runs = simulate(&mut schedule, start, ms(600), |_, _| answered(1));
    assert!(runs.iter().filter(|run| run.1 == 0).all(|run| run.0 >= ms(450)));
    assert_eq!(runs.iter().filter(|run| run.1 == 1).count(), 6);
    // Ticks at 0, 100, 200, 300, 400: the last is served at 450.
    assert_eq!(runs.iter().find(|run| run.1 == 0).unwrap().2, 4);
}

#[test]
fn a_hundred_units_at_one_second_are_spread_over_it() {
    let start = Instant::now();
    let mut schedule = Schedule::new((0..100).map(|unit| entry(unit, 1000, 1000)), 77, start);
    let runs = simulate(&mut schedule, start, ms(5000), |_, _| (Duration::from_micros(1), Outcome::Answered));
    for window in 10..49 {
        let from = ms(window * 100);
        let burst = runs.iter().filter(|run| run.0 >= from && run.0 < from + ms(100)).count();
        assert!((7..=13).contains(&burst), "{burst} reads in 100 ms");
    }
}

#[test]
fn every_first_read_is_within_a_second() {
    let start = Instant::now();
    for seed in (0..32).map(|i| i << 59) {
        let entries = [entry(1, 60_000, 100), entry(2, 1000, 100), entry(3, 200, 100)];
        let mut schedule = Schedule::new(entries, seed, start);
        let runs = simulate(&mut schedule, start, ms(1000), |_, _| answered(1));
        for ix in 0..3 {
            assert!(runs.iter().any(|run| run.1 == ix), "entry {ix}, seed {seed:#x}");
        }
    }
}

proptest! {
    #[test]
    fn every_entry_runs_while_the_bus_is_not_full(
        intervals in prop::collection::vec(50u64..3000, 1..20), seed in any::<u64>(),
    ) {
        let start = Instant::now();
        let load: f64 = intervals.iter().map(|interval| 2.0 / *interval as f64).sum();
        prop_assume!(load < 0.9);
        let entries: Vec<_> = intervals.iter().enumerate().map(|(i, every)| entry(i as u8, *every, 100)).collect();
        let mut schedule = Schedule::new(entries, seed, start);
        let runs = simulate(&mut schedule, start, ms(30_000), |_, _| answered(2));
        for (ix, interval) in intervals.iter().enumerate() {
            let mine: Vec<_> = runs.iter().filter(|run| run.1 == ix).collect();
            let ran = mine.len() as u64 + mine.iter().map(|run| run.2).sum::<u64>();
            let wanted = 30_000 / interval;
            prop_assert!(ran >= wanted.saturating_sub(1) && ran <= wanted + 2, "{ran} of {wanted}");
        }
    }

    #[test]
    fn sick_units_take_a_bounded_share_and_leave_the_rest_alone(
        sick in 1usize..20, cost in 10u64..1500, seed in any::<u64>(),
    ) {
        let start = Instant::now();
        let entries = (0..=sick).map(|unit| entry(unit as u8, 1000, 1000));
        let mut schedule = Schedule::new(entries, seed, start);
        // All but the first are dead. The first three failures of each are before the measured time.
        let mut spent = Duration::ZERO;
        let settled = ms(cost) * 4 * sick as u32 + ms(60_000);
        let length = settled + ms(600_000);
        simulate(&mut schedule, start, length, |entry, at| {
            if entry.unit == 0 {
                return answered(1);
            }
            if at >= settled {
                spent += ms(cost);
            }
            failed(cost)
        });
        let share = spent.as_secs_f64() / 600.0;
        // What the longest rest allows for one unit, what all may take together, and one probe at the border.
        let one = (cost as f64 / 1000.0 / 20.0).max(0.02) * sick as f64;
        let bound = one.min(0.1) + 2.0 * cost as f64 / 600_000.0;
        prop_assert!(share <= bound, "{share} > {bound}");
    }
}

proptest! {
    /// Whatever comes and goes beside it, an entry that stays is run when it would have been.
    #[test]
    fn what_stays_keeps_its_phase_when_others_come_and_go(
        intervals in prop::collection::vec(5u64..400, 1..8),
        stays in prop::collection::vec(any::<bool>(), 8),
        added in prop::collection::vec(5u64..400, 0..4),
        at in 0u64..3000,
        is_sick in any::<bool>(),
    ) {
        let start = Instant::now();
        let of = |unit: usize, every| entry(unit as u8, every, 1000);
        let old: Vec<_> = intervals.iter().enumerate().map(|(unit, every)| of(unit, *every)).collect();
        let kept: Vec<usize> = (0..old.len()).filter(|unit| stays[*unit]).collect();
        // Nothing takes time, so that nobody is in anybody's way; unit 0 may be away.
        let take = |entry: Entry, _| if is_sick && entry.unit == 0 { failed(0) } else { answered(0) };
        let mut alone = Schedule::new(old.clone(), 7, start);
        let runs_of = |runs: Vec<(Duration, usize, u64)>| {
            runs.into_iter().map(|(at, entry, missed)| {
                prop_assert_eq!(missed, 0);
                Ok((at, entry))
            }).collect::<Result<Vec<_>, _>>()
        };
        let expected = runs_of(simulate(&mut alone, start, ms(6000), take))?;

        let mut before = Schedule::new(old.clone(), 7, start);
        let mut seen = runs_of(simulate(&mut before, start, ms(at), take))?;
        let new = added.iter().enumerate().map(|(i, every)| of(100 + i, *every));
        let mut after = Schedule::new(kept.iter().map(|unit| old[*unit]).chain(new), 7, start + ms(at));
        after.take_over(&before, |entry| kept.get(entry).copied(), start + ms(at));
        let rest = simulate(&mut after, start + ms(at), ms(6000 - at), take);
        seen.extend(
            runs_of(rest)?.into_iter().filter_map(|(when, entry)| Some((when + ms(at), *kept.get(entry)?))),
        );
        for unit in kept {
            let of_unit = |runs: &[(Duration, usize)]| -> Vec<Duration> {
                runs.iter().filter(|run| run.1 == unit).map(|run| run.0).collect()
            };
            prop_assert_eq!(of_unit(&seen), of_unit(&expected), "unit {}", unit);
        }
    }
}
