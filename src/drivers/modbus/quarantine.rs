//! How the values of one read are fetched when one request does not do: divided, around refused addresses, or around
//! holes over which nothing has been proven. Pure: it says what to ask next, and is told what the answers were.
//!
//! - An atom is never divided; requests begin and end at the edges of atoms, and are parts of the planned one.
//! - What is refused is halved until the refused atoms are found. An atom is refused only if it was refused alone. Two
//!   halves that are both answered, though the whole was refused, are never asked for together again.
//! - A request over a hole yields no value before [`super::proof`] has found it right; a wrong one is barred.
//! - A round is one due read: every value that can be had is asked for once, then a few requests more find out what is not
//!   known. What they cost beyond that waits for the next rounds.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::plan::{Atom, Block};
use super::proof::{Image, Mismatch};

mod divide;
mod holes;

/// Illegal data address and illegal data value (Modbus Application Protocol V1.1b3, section 7): the device does not like
/// what is asked for; it may like a part of it.
pub const SPLIT_EXCEPTIONS: [u8; 2] = [0x02, 0x03];

/// Requests of one round that find something out.
const MOST_EXTRA: u32 = 8;

/// All refused atoms of a read are asked for again within this time, one by one…
const PROBE_EVERY: Duration = Duration::from_secs(300);

/// …but no two of them closer than this, so that many of them don't fill the bus.
const PROBE_SPACING: Duration = Duration::from_secs(10);

/// After an extra request that nobody answered.
const EXTRA_REST: Duration = Duration::from_secs(30);

/// Comparisons in a row that are undecided before they get rare.
const EAGER_PROOFS: u32 = 10;

/// Comparisons in a row that found the same address wrong bar the hole: one may have met a value that moved and returned.
const WRONG_TO_BAR: u32 = 3;

/// How one read is fetched at present.
#[derive(Debug)]
pub struct Layout {
    hulls: Box<[Block]>,
    /// The exception that each atom is refused with.
    refused: Box<[Option<u8>]>,
    /// What is known of asking for an atom together with the one before it.
    joints: Box<[Joint]>,
    max_gap: u16,
    /// What is asked for together: in order, without the refused atoms.
    ranges: Vec<Stretch>,
    /// Ranges may be merged again.
    is_torn_up: bool,
    /// The next refused atom to ask for, and when.
    probe: (usize, Option<Instant>),
    /// Suspects from this atom on are asked for first.
    turn: usize,
    /// Refused atoms that are asked for without a rest.
    eager: usize,
    /// Extra requests rest until then.
    rest_until: Option<Instant>,
    round: Round,
    news: Vec<News>,
}

/// Atoms `from..to`, asked for together.
#[derive(Debug)]
struct Stretch {
    from: usize,
    to: usize,
    stand: Stand,
    half: Option<Half>,
}

#[derive(Debug)]
enum Stand {
    /// Answered, or never refused.
    Trusted,
    /// Part of something that was refused with this exception.
    Suspect(u8),
    /// Over a hole: asked for around it until it is proven.
    Unproven(Proof),
}

/// Half of a stretch that was refused.
#[derive(Clone, Copy, Debug)]
struct Half {
    /// The atom that the second half begins with.
    at: usize,
    /// The other half was answered.
    other_answered: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Joint {
    Unknown,
    /// A hole here is answered rightly.
    Proven,
    /// Never together.
    Barred,
}

#[derive(Debug, Default)]
struct Proof {
    before: Option<Image>,
    merged: Option<Image>,
    /// Under way: its image, and how many pieces are not there yet.
    around: Option<(Image, usize)>,
    undecided: u32,
    wrong: Option<(Mismatch, u32)>,
    rest_until: Option<Instant>,
    /// It has had its comparison, or its request, in this round.
    is_done: bool,
}

#[derive(Debug, Default)]
struct Round {
    /// What is asked for next, before anything extra.
    queue: VecDeque<Ask>,
    asked: u32,
    extra: u32,
    most_spent: Duration,
    got: Vec<Got>,
    has_probed: bool,
    refusals: u64,
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// What to ask for.
    pub block: Block,
    /// The read's own values don't depend on it.
    pub is_extra: bool,
    from: usize,
    to: usize,
    why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Value,
    Suspect,
    /// Over the holes.
    Over,
    /// Around the holes, once more.
    Around,
    Probe,
}

/// Atoms whose values have been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Got {
    /// What was asked for.
    pub block: Block,
    /// The first atom.
    pub from: usize,
    /// The atom after the last one.
    pub to: usize,
    /// Where the answer's data begins, in what was appended during the round.
    pub at: usize,
}

/// What was found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The device refuses this, all of it and alone.
    Refused(Block, u8),
    /// It answers this again.
    Answers(Block),
    /// These addresses are left out of an answer over them, or garbled: the values behind them were wrong.
    Shifts(Block, Mismatch),
    /// The device answers what is before this address and what begins at it, but not both at once.
    Apart(u16),
    /// A request over all its holes is right.
    Proven(Block),
}

impl Layout {
    /// The layout of a read that is planned as one request for these atoms. `is_banned` knows the holes that were found
    /// to shift earlier.
    pub fn new(atoms: &[Atom], max_gap: u16, is_banned: impl Fn(Block) -> bool) -> Self {
        let count = atoms.len();
        let mut layout = Self {
            hulls: atoms.iter().map(|atom| atom.hull).collect(),
            refused: vec![None; count].into(),
            joints: vec![Joint::Unknown; count].into(),
            max_gap,
            ranges: Vec::new(),
            is_torn_up: true,
            probe: (0, None),
            turn: 0,
            eager: 0,
            rest_until: None,
            round: Round::default(),
            news: Vec::new(),
        };
        for at in 1..count {
            if layout.hole(0, at).is_some_and(&is_banned) {
                layout.joints[at] = Joint::Barred;
            }
        }
        layout.merge();
        layout
    }

    /// Does one trusted request do?
    pub fn is_whole(&self) -> bool {
        matches!(&self.ranges[..], [Stretch { from: 0, to, stand: Stand::Trusted, .. }] if *to == self.hulls.len())
    }

    /// Nothing is left to find out but whether what is refused comes back.
    pub fn is_settled(&self) -> bool {
        self.ranges.iter().all(|range| matches!(range.stand, Stand::Trusted))
    }

    /// Is something suspected that has not been asked for alone?
    pub fn has_suspects(&self) -> bool {
        self.ranges.iter().any(|range| matches!(range.stand, Stand::Suspect(_)))
    }

    /// How many atoms are refused.
    pub fn refused(&self) -> usize {
        self.refused.iter().flatten().count()
    }

    /// The exception for which an atom has no value: its own, or that of something it's part of.
    pub fn exception(&self, atom: usize) -> Option<u8> {
        self.refused[atom].or_else(|| {
            let range = self.ranges.iter().find(|range| range.from <= atom && atom < range.to)?;
            if let Stand::Suspect(code) = range.stand { Some(code) } else { None }
        })
    }

    /// The requests that yield values at present.
    pub fn requests(&self) -> Vec<Block> {
        let yielding = self.ranges.iter().filter(|range| !matches!(range.stand, Stand::Suspect(_)));
        let pieces = yielding.flat_map(|range| self.pieces(range.from, range.to));
        pieces.map(|(from, to)| self.hull(from, to)).collect()
    }

    /// What is refused, with the exception code.
    pub fn refusals_known(&self) -> Vec<(Block, u8)> {
        self.refused.iter().zip(&self.hulls).filter_map(|(code, hull)| Some((*hull, (*code)?))).collect()
    }

    /// The holes that are never read over.
    pub fn barred(&self) -> Vec<Block> {
        let barred = (1..self.hulls.len()).filter(|at| self.joints[*at] == Joint::Barred);
        barred.filter_map(|at| self.hole(0, at)).collect()
    }

    /// What the present round has got.
    pub fn got(&self) -> &[Got] {
        &self.round.got
    }

    /// Requests that were refused in the present round.
    pub fn refusals(&self) -> u64 {
        self.round.refusals
    }

    /// Takes what was found out.
    pub fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// The whole request was refused: the round goes on with its parts.
    pub fn whole_refused(&mut self, code: u8, most_spent: Duration) {
        self.round = Round { most_spent, asked: 1, refusals: 1, ..Round::default() };
        self.divide(0, self.hulls.len(), code);
    }

    /// The link is a fresh one: what was refused may be there.
    pub fn reconnected(&mut self, now: Instant) {
        self.eager = self.refused();
        self.probe.1 = (self.eager > 0).then_some(now);
        self.rest_until = None;
    }

    /// Begins a round; its extra requests leave no later than `most_spent` after its first one.
    pub fn begin(&mut self, most_spent: Duration) {
        let mut round = Round { most_spent, ..Round::default() };
        for range in &mut self.ranges {
            if let Stand::Unproven(proof) = &mut range.stand {
                (proof.around, proof.is_done) = (None, false);
            }
        }
        for range in &self.ranges {
            if !matches!(range.stand, Stand::Suspect(_)) {
                let pieces = self.pieces(range.from, range.to);
                round.queue.extend(pieces.into_iter().map(|(from, to)| self.ask(from, to, Why::Value)));
            }
        }
        self.round = round;
    }

    /// What to ask for next; `None`: the round is over. `spent` is the time since its first request left.
    pub fn next(&mut self, now: Instant, spent: Duration) -> Option<Ask> {
        let ask = match self.round.queue.pop_front() {
            Some(ask) => ask,
            None => self.extra(now, spent)?,
        };
        self.round.asked += 1;
        self.round.extra += u32::from(ask.is_extra);
        Some(ask)
    }

    /// Tells the answer to what was asked for; `at` is where it begins in what was appended during the round.
    pub fn answered(&mut self, ask: Ask, data: &[u8], at: usize, now: Instant) {
        let Ask { block, from, to, why, .. } = ask;
        let got = Got { block, from, to, at };
        match why {
            Why::Value => {
                self.round.got.push(got);
                self.note_around(ask, data, now);
            }
            Why::Around => self.note_around(ask, data, now),
            Why::Suspect => {
                self.round.got.push(got);
                if let Some(ix) = self.index(from) {
                    self.ranges[ix].stand = Stand::Trusted;
                    self.half_answered(ix);
                }
                self.is_torn_up = true;
            }
            Why::Over => {
                let Some(ix) = self.index(from) else { return };
                if let Stand::Unproven(proof) = &mut self.ranges[ix].stand {
                    let mut image = Image::new(block);
                    image.note(block, data);
                    (proof.merged, proof.is_done) = (Some(image), true);
                }
                self.half_answered(ix);
                self.look_around_again(from, to);
            }
            Why::Probe => {
                self.round.got.push(got);
                self.refused[from] = None;
                self.news.push(News::Answers(block));
                let stretch = Stretch { from, to, stand: Stand::Trusted, half: None };
                let ix = self.ranges.partition_point(|range| range.from < from);
                self.ranges.insert(ix, stretch);
                self.is_torn_up = true;
                // Where one returns, others may.
                self.eager = self.eager.saturating_sub(1).max(usize::from(self.refused() > 0));
                self.probe.1 = Some(now);
            }
        }
    }

    /// Tells that what was asked for was refused with one of [`SPLIT_EXCEPTIONS`].
    pub fn refused_with(&mut self, ask: Ask, code: u8, now: Instant) {
        self.round.refusals += 1;
        let Ask { from, to, why, .. } = ask;
        match why {
            Why::Value | Why::Around => {
                self.round.queue.retain(|ask| ask.why != Why::Around);
                self.round.got.retain(|got| got.from != from);
                self.dissolve(from);
                self.divide(from, to, code);
            }
            Why::Suspect => self.divide(from, to, code),
            Why::Over => self.divide_unproven(from),
            Why::Probe => {
                self.refused[from] = Some(code);
                self.eager = self.eager.saturating_sub(1);
                let many = u32::try_from(self.refused()).unwrap_or(u32::MAX).max(1);
                let rest = (PROBE_EVERY / many).max(PROBE_SPACING);
                self.probe.1 = Some(if self.eager > 0 { now } else { now + rest });
            }
        }
    }

    /// Tells that nobody answered an extra request, or something else than it asked for.
    pub fn failed(&mut self, ask: Ask, now: Instant) {
        self.rest_until = Some(now + EXTRA_REST);
        // The others take their turns first.
        if ask.why == Why::Suspect {
            self.turn = ask.to;
        }
    }

    /// Ends a round: what has been found out is put together.
    pub fn end(&mut self, now: Instant) {
        self.round.queue.clear();
        let is_dividing = self.ranges.iter().any(|range| range.half.is_some());
        if self.is_torn_up && !is_dividing && !self.has_suspects() {
            self.merge();
        }
        if self.refused() > 0 {
            self.probe.1.get_or_insert(now + PROBE_EVERY);
        }
    }
}

impl Layout {
    fn extra(&mut self, now: Instant, spent: Duration) -> Option<Ask> {
        let Round { asked, extra, most_spent, has_probed, .. } = self.round;
        if asked == 0 {
            // Nothing can be had: one request tells whether the device is there.
            return self.suspect().or_else(|| self.probe());
        }
        let most = if extra == 0 { most_spent * 2 } else { most_spent };
        if extra >= MOST_EXTRA || spent > most || self.rest_until.is_some_and(|until| now < until) {
            return None;
        }
        let is_due = !has_probed && self.probe.1.is_some_and(|at| at <= now);
        self.suspect().or_else(|| self.over(now)).or_else(|| if is_due { self.probe() } else { None })
    }

    fn suspect(&self) -> Option<Ask> {
        let suspects = || self.ranges.iter().filter(|range| matches!(range.stand, Stand::Suspect(_)));
        let range = suspects().find(|range| range.from >= self.turn).or_else(|| suspects().next())?;
        Some(self.ask(range.from, range.to, Why::Suspect))
    }

    fn probe(&mut self) -> Option<Ask> {
        let count = self.refused.len();
        let atom =
            (0..count).map(|i| (self.probe.0 + i) % count).find(|atom| self.refused[*atom].is_some())?;
        self.probe.0 = atom + 1;
        self.round.has_probed = true;
        Some(self.ask(atom, atom + 1, Why::Probe))
    }

    fn ask(&self, from: usize, to: usize, why: Why) -> Ask {
        Ask { block: self.hull(from, to), is_extra: why != Why::Value, from, to, why }
    }

    /// The request around atoms.
    fn hull(&self, from: usize, to: usize) -> Block {
        let first = self.hulls[from];
        let end = self.hulls[from..to].iter().map(|hull| hull.end()).max().unwrap_or(first.end());
        Block { count: (end - u32::from(first.address)) as u16, ..first }
    }

    /// The addresses that no atom needs between one and those before it, back to `from`.
    fn hole(&self, from: usize, at: usize) -> Option<Block> {
        let before = self.hull(from, at);
        let count = u32::from(self.hulls[at].address).checked_sub(before.end()).filter(|count| *count > 0)?;
        Some(Block { address: before.end() as u16, count: count as u16, ..before })
    }

    /// Atoms, divided at the holes that are not proven.
    fn pieces(&self, from: usize, to: usize) -> Vec<(usize, usize)> {
        let mut pieces = vec![(from, from + 1)];
        let mut end = self.hulls[from].end();
        for at in from + 1..to {
            let hull = self.hulls[at];
            match pieces.last_mut() {
                Some(piece) if u32::from(hull.address) <= end || self.joints[at] == Joint::Proven => {
                    piece.1 = at + 1;
                }
                _ => pieces.push((at, at + 1)),
            }
            end = end.max(hull.end());
        }
        pieces
    }

    fn index(&self, atom: usize) -> Option<usize> {
        self.ranges.iter().position(|range| range.from <= atom && atom < range.to)
    }
}

#[cfg(test)]
#[path = "quarantine_tests.rs"]
mod tests;
