//! Laws of divided reads, against simulated memories with holes that are refused, and holes that shift.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::model::place::Table;

/// A device whose registers hold their own addresses, times a factor.
#[derive(Clone, Debug, Default)]
struct Memory {
    refused: BTreeSet<u16>,
    /// Left out of answers that begin before them.
    left_out: BTreeSet<u16>,
    most: Option<u16>,
    requests: usize,
    /// Every register whose address can be divided by three moves with every request.
    alive: bool,
}

impl Memory {
    fn value(&self, address: u16) -> u16 {
        let moved = if self.alive && address.is_multiple_of(3) { self.requests as u16 } else { 0 };
        (address + 1).wrapping_mul(257) ^ moved
    }

    fn read(&mut self, block: Block) -> Result<Vec<u8>, u8> {
        self.requests += 1;
        let addresses = block.address..block.address + block.count;
        if addresses.clone().any(|address| self.refused.contains(&address)) {
            return Err(2);
        }
        if self.most.is_some_and(|most| block.count > most) {
            return Err(3);
        }
        let there = (block.address..).filter(|address| !self.left_out.contains(address));
        Ok(there.take(block.count.into()).flat_map(|address| self.value(address).to_be_bytes()).collect())
    }
}

/// What a round yields for each atom.
type Yield = Vec<Result<Vec<u8>, Option<u8>>>;

struct Trial {
    atoms: Vec<Atom>,
    layout: Layout,
    memory: Memory,
    now: Instant,
}

fn hull(address: u16, count: u16) -> Block {
    Block { table: Table::Holding, address, count }
}

impl Trial {
    fn new(hulls: impl IntoIterator<Item = (u16, u16)>, max_gap: u16, memory: Memory) -> Self {
        let hulls: BTreeSet<_> = hulls.into_iter().collect();
        let atoms: Vec<_> = hulls
            .into_iter()
            .map(|(address, count)| Atom { hull: hull(address, count), cuts: vec![] })
            .collect();
        let layout = Layout::new(&atoms, max_gap, |_| false);
        Self { atoms, layout, memory, now: Instant::now() }
    }

    /// One due read.
    fn round(&mut self) -> Yield {
        let (mut data, before) = (Vec::new(), self.memory.requests);
        self.layout.begin(Duration::from_secs(1));
        while let Some(ask) = self.layout.next(self.now, Duration::ZERO) {
            match self.memory.read(ask.block) {
                Ok(answer) => {
                    self.layout.answered(ask, &answer, data.len(), self.now);
                    data.extend(answer);
                }
                Err(code) => self.layout.refused_with(ask, code, self.now),
            }
        }
        let mut yielded: Yield = (0..self.atoms.len()).map(|atom| Err(self.layout.exception(atom))).collect();
        for got in self.layout.got() {
            for (atom, yielded) in yielded.iter_mut().enumerate().take(got.to).skip(got.from) {
                let hull = self.atoms[atom].hull;
                let at = got.at + usize::from(hull.address - got.block.address) * 2;
                *yielded = Ok(data[at..at + hull.bytes()].to_vec());
            }
        }
        self.layout.end(self.now);
        assert!(self.memory.requests - before <= self.atoms.len() + MOST_EXTRA as usize);
        assert!(self.memory.requests > before, "a read that asks nothing tells nothing");
        self.now += Duration::from_secs(1);
        yielded
    }

    fn settle(&mut self) -> (usize, Yield) {
        for rounds in 1..1000 {
            let yielded = self.round();
            self.check(&yielded);
            if self.layout.is_settled() {
                return (rounds, self.round());
            }
        }
        panic!("never settles: {:?}", self.layout);
    }

    /// Never a wrong value.
    fn check(&self, yielded: &Yield) {
        if self.memory.alive {
            return;
        }
        for (atom, yielded) in self.atoms.iter().zip(yielded) {
            let Ok(data) = yielded else { continue };
            let addresses = atom.hull.address..atom.hull.address + atom.hull.count;
            let right: Vec<u8> = addresses.flat_map(|a| self.memory.value(a).to_be_bytes()).collect();
            assert_eq!(*data, right, "{:?}", atom.hull);
        }
    }

    fn is_refused(&self, atom: &Atom) -> bool {
        self.memory.refused.iter().any(|a| *a >= atom.hull.address && u32::from(*a) < atom.hull.end())
    }

    /// The requests of a round that has nothing to find out.
    fn requests(&self) -> Vec<(u16, u16)> {
        let ranges = self.layout.ranges.iter().map(|range| self.layout.hull(range.from, range.to));
        ranges.map(|block| (block.address, block.count)).collect()
    }
}

/// Values, and how far apart they are.
fn hulls() -> impl Strategy<Value = Vec<(u16, u16)>> {
    let step = (prop_oneof![3 => Just(0u16), 1 => 1u16..4], 1u16..5);
    prop::collection::vec(step, 1..40).prop_map(|steps| {
        let mut next = 100;
        let hulls = steps.into_iter().map(|(gap, count)| {
            let from = next + gap;
            next = from + count;
            (from, count)
        });
        hulls.collect()
    })
}

proptest! {
    #[test]
    fn every_readable_value_is_read_and_every_refused_one_is_bad(
        hulls in hulls(), refused in prop::collection::btree_set(100u16..200, 0..5), max_gap in 0u16..5,
        most in prop::option::of(8u16..60),
    ) {
        let memory = Memory { refused, most, ..Memory::default() };
        let mut trial = Trial::new(hulls, max_gap, memory);
        let (_, yielded) = trial.settle();
        trial.check(&yielded);
        for (atom, yielded) in trial.atoms.iter().zip(&yielded) {
            prop_assert_eq!(yielded.is_err(), trial.is_refused(atom), "{:?} {:?}", atom.hull, trial.layout);
            prop_assert!(!matches!(yielded, Err(None)), "a bad value has a cause");
        }
    }

    #[test]
    fn the_refused_are_found_with_few_requests(
        count in 2u16..125, refused in prop::collection::btree_set(0u16..125, 1..5),
    ) {
        let memory = Memory { refused: refused.clone(), ..Memory::default() };
        let mut trial = Trial::new((0..count).map(|address| (address, 1)), 0, memory);
        let (rounds, yielded) = trial.settle();
        let many = yielded.iter().filter(|value| value.is_err()).count();
        let stretches = trial.requests().len();
        let halvings = 16 - (count - 1).leading_zeros() as usize;
        // Two requests per halving and refused value; each round asks for the good values, too.
        let most = 1 + 2 * many * (halvings + 1) + (rounds + 2) * (stretches + many * halvings);
        prop_assert!(trial.memory.requests <= most, "{} of {}", trial.memory.requests, most);
        prop_assert!(stretches <= many + 1, "merged again: {:?}", trial.requests());
    }

    #[test]
    fn a_hole_that_shifts_never_yields_a_wrong_value(
        hulls in hulls(), left_out in prop::collection::btree_set(100u16..200, 0..6), max_gap in 0u16..5,
        refused in prop::collection::btree_set(100u16..200, 0..2),
    ) {
        let needed: BTreeSet<u16> = hulls.iter().flat_map(|(address, count)| *address..address + count).collect();
        let left_out = left_out.difference(&needed).copied().collect();
        let memory = Memory { left_out, refused, ..Memory::default() };
        let mut trial = Trial::new(hulls, max_gap, memory);
        let (_, yielded) = trial.settle();
        trial.check(&yielded);
        for (atom, yielded) in trial.atoms.iter().zip(&yielded) {
            prop_assert_eq!(yielded.is_err(), trial.is_refused(atom));
        }
    }

    #[test]
    fn a_hole_that_closes_gives_its_values_back(
        hulls in hulls(), refused in prop::collection::btree_set(100u16..200, 1..5),
    ) {
        let mut trial = Trial::new(hulls, 0, Memory { refused, ..Memory::default() });
        let healthy = trial.requests();
        trial.settle();
        trial.memory.refused.clear();
        trial.now += PROBE_EVERY;
        for _ in 0..600 {
            let yielded = trial.round();
            trial.check(&yielded);
        }
        prop_assert!(trial.round().iter().all(Result::is_ok), "{:?}", trial.layout);
        prop_assert_eq!(trial.requests(), healthy);
    }
}

#[test]
fn holes_answer_exception_2_and_the_rest_is_merged_again_in_the_same_read() {
    let memory = Memory { refused: [37].into(), ..Memory::default() };
    let mut trial = Trial::new((0..60).map(|address| (address, 1)), 0, memory);
    let mut yielded = trial.round();
    while trial.layout.has_suspects() {
        yielded = trial.round();
    }
    assert_eq!(yielded.iter().filter(|value| value.is_err()).count(), 1);
    assert_eq!(yielded[37], Err(Some(2)));
    assert_eq!(trial.requests(), [(0, 37), (38, 22)]);
    assert_eq!(trial.layout.take_news(), [News::Refused(hull(37, 1), 2)], "told once");
}

#[test]
fn quirk_08_multi_register_values_are_atomic() {
    let memory = Memory { refused: [13].into(), ..Memory::default() };
    let mut trial = Trial::new([(10, 2), (12, 4), (16, 2)], 0, memory);
    let (_, yielded) = trial.settle();
    assert_eq!(yielded.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(trial.requests(), [(10, 2), (16, 2)]);
}

#[test]
fn quirk_07_a_device_that_answers_less_than_it_says_is_asked_for_less() {
    let mut trial = Trial::new((0..100).map(|a| (a, 1)), 0, Memory { most: Some(60), ..Memory::default() });
    let (_, yielded) = trial.settle();
    assert!(yielded.iter().all(Result::is_ok));
    assert_eq!(trial.requests(), [(0, 50), (50, 50)]);
}

#[test]
fn a_hole_without_an_error_may_shift_what_is_behind_it() {
    let memory = Memory { left_out: [14, 15].into(), ..Memory::default() };
    let mut trial = Trial::new([(10, 4), (16, 4), (24, 2)], 4, memory.clone());
    let (_, yielded) = trial.settle();
    assert!(yielded.iter().all(Result::is_ok));
    assert_eq!(trial.requests(), [(10, 4), (16, 10)], "only the hole that shifts is not read over");
    let news = trial.layout.take_news();
    assert!(matches!(news[0], News::Shifts(hole, _) if hole == hull(14, 2)), "{news:?}");
    // What is remembered is not tried again.
    let again = Layout::new(&trial.atoms, 4, |hole| hole == hull(14, 2));
    assert_eq!(again.ranges.len(), 2);
    assert_eq!(again.ranges[0].to, 1);
}

#[test]
fn a_hole_is_proven_while_measurements_move() {
    let mut trial = Trial::new([(10, 4), (16, 4)], 4, Memory { alive: true, ..Memory::default() });
    let (rounds, _) = trial.settle();
    assert_eq!(rounds, 1, "around, over, around");
    assert!(trial.layout.is_whole());
    assert_eq!(trial.layout.take_news(), [News::Proven(hull(10, 10))]);
}

#[test]
fn what_is_all_zero_is_never_proven_and_rarely_compared() {
    let mut trial = Trial::new([(10, 1), (12, 1)], 4, Memory::default());
    let mut over = 0;
    for _ in 0..100 {
        trial.layout.begin(Duration::from_secs(1));
        while let Some(ask) = trial.layout.next(trial.now, Duration::ZERO) {
            over += u32::from(ask.block.count > 1);
            trial.layout.answered(ask, &vec![0; ask.block.bytes()], 0, trial.now);
        }
        trial.layout.end(trial.now);
        trial.now += Duration::from_secs(1);
    }
    assert_eq!(over, EAGER_PROOFS);
    assert_eq!(trial.requests().len(), 1);
    assert!(!trial.layout.is_settled());
}

#[test]
fn a_read_of_which_all_is_refused_asks_for_one_value_at_a_time() {
    let memory = Memory { refused: (0..10).collect(), ..Memory::default() };
    let mut trial = Trial::new((0..10).map(|address| (address, 1)), 0, memory);
    trial.settle();
    let before = trial.memory.requests;
    (0..50).for_each(|_| drop(trial.round()));
    assert_eq!(trial.memory.requests - before, 50);
}

#[test]
fn a_fresh_link_asks_for_what_was_refused_once() {
    let memory = Memory { refused: [3, 7].into(), ..Memory::default() };
    let mut trial = Trial::new((0..10).map(|address| (address, 1)), 0, memory);
    trial.settle();
    let before = trial.memory.requests;
    trial.layout.reconnected(trial.now);
    (0..10).for_each(|_| drop(trial.round()));
    assert_eq!(trial.memory.requests - before, 10 * 3 + 2);
}
