//! Requests over holes: compared with requests around them, before and after, until they are proven or barred.

use tokio::time::Instant;

use super::{
    Ask, EAGER_PROOFS, Joint, Layout, MOST_EXTRA, News, PROBE_EVERY, Stand, Stretch, WRONG_TO_BAR, Why,
};
use crate::drivers::modbus::proof::{self, Image, Mismatch, Verdict};

impl Layout {
    pub(super) fn over(&self, now: Instant) -> Option<Ask> {
        let range = self.ranges.iter().find(|range| {
            let Stand::Unproven(proof) = &range.stand else { return false };
            let rests = proof.rest_until.is_some_and(|until| now < until);
            let is_there = proof.around.as_ref().is_some_and(|(_, missing)| *missing == 0);
            !rests && !proof.is_done && is_there
        })?;
        Some(self.ask(range.from, range.to, Why::Over))
    }

    /// After a request over the holes: once more around them, if that much may be asked for in this round.
    pub(super) fn look_around_again(&mut self, from: usize, to: usize) {
        let pieces = self.pieces(from, to);
        let left = MOST_EXTRA.saturating_sub(self.round.extra) as usize;
        if pieces.len() > left {
            return;
        }
        let asks: Vec<Ask> = pieces.into_iter().map(|(from, to)| self.ask(from, to, Why::Around)).collect();
        if let Some(ix) = self.index(from)
            && let Stand::Unproven(proof) = &mut self.ranges[ix].stand
        {
            proof.around = None;
            self.round.queue.extend(asks);
        }
    }

    /// Notes a piece of an unproven range, and compares when all pieces are there.
    pub(super) fn note_around(&mut self, ask: Ask, data: &[u8], now: Instant) {
        let Some(ix) = self.index(ask.from) else { return };
        let Stretch { from, to, .. } = self.ranges[ix];
        let (hull, pieces) = (self.hull(from, to), self.pieces(from, to));
        let Stand::Unproven(proof) = &mut self.ranges[ix].stand else { return };
        let (image, missing) = proof.around.get_or_insert_with(|| (Image::new(hull), pieces.len()));
        image.note(ask.block, data);
        *missing = missing.saturating_sub(1);
        if *missing > 0 {
            return;
        }
        let after = image.clone();
        if let (Some(before), Some(merged)) = (proof.before.replace(after.clone()), proof.merged.take()) {
            let offset = |address: u32| (address - u32::from(hull.address)) as usize;
            let stretches: Vec<_> = pieces
                .iter()
                .map(|(from, to)| self.hull(*from, *to))
                .map(|piece| offset(piece.address.into())..offset(piece.end()))
                .collect();
            let verdicts = proof::compare(&before, &merged, &after, &stretches);
            self.judge(ix, &pieces, &verdicts, now);
        }
    }

    pub(super) fn judge(&mut self, ix: usize, pieces: &[(usize, usize)], verdicts: &[Verdict], now: Instant) {
        let Stretch { from, to, .. } = self.ranges[ix];
        let wrong = verdicts.iter().position(|verdict| matches!(verdict, Verdict::Wrong(_)));
        // What is right behind several holes proves all of them.
        let right = verdicts[..wrong.unwrap_or(verdicts.len())].iter().rposition(|v| *v == Verdict::Right);
        let proven = &pieces[1..=right.unwrap_or(0)];
        proven.iter().for_each(|piece| self.joints[piece.0] = Joint::Proven);
        self.is_torn_up |= !proven.is_empty();
        let Stand::Unproven(proof) = &mut self.ranges[ix].stand else { return };
        let found =
            wrong.and_then(|at| if let Verdict::Wrong(found) = verdicts[at] { Some(found) } else { None });
        let times = |found: Mismatch| match proof.wrong {
            Some((last, times)) if last.address == found.address => times + 1,
            _ => 1,
        };
        proof.wrong = found.map(|found| (found, times(found)));
        proof.undecided = proof.undecided.saturating_add(1);
        if proof.undecided >= EAGER_PROOFS {
            proof.rest_until = Some(now + PROBE_EVERY);
        }
        let wrong_so_far = proof.wrong;
        match wrong_so_far {
            Some((found, WRONG_TO_BAR..)) => {
                let at = pieces[wrong.unwrap_or(1).max(1)].0;
                let hole = self.hole(from, at).unwrap_or(self.hulls[at]);
                self.joints[at] = Joint::Barred;
                self.news.push(News::Shifts(hole, found));
                self.is_torn_up = true;
            }
            None if self.pieces(from, to).len() == 1 => self.news.push(News::Proven(self.hull(from, to))),
            _ => {}
        }
    }
}
