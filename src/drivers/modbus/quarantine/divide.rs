//! Which atoms are asked for together: merged, halved where something was refused, and merged again.

use super::{Half, Joint, Layout, News, Proof, Stand, Stretch};

impl Layout {
    /// As few ranges as possible of what is not refused.
    pub(super) fn merge(&mut self) {
        let mut old = std::mem::take(&mut self.ranges);
        let mut from = None;
        let mut end = 0;
        for at in 0..=self.hulls.len() {
            let hull = self.hulls.get(at).filter(|_| self.refused[at].is_none());
            let goes_on = hull.is_some_and(|hull| {
                let gap = u32::from(hull.address).saturating_sub(end);
                self.joints[at] != Joint::Barred && gap <= u32::from(self.max_gap)
            });
            if let Some(first) = from.filter(|_| !goes_on) {
                let known = old.iter().position(|range| range.from == first && range.to == at);
                let stand = match (self.pieces(first, at).len(), known.map(|ix| old.swap_remove(ix).stand)) {
                    (1, _) => Stand::Trusted,
                    (_, Some(Stand::Unproven(proof))) => Stand::Unproven(proof),
                    _ => Stand::Unproven(Proof::default()),
                };
                self.ranges.push(Stretch { from: first, to: at, stand, half: None });
                from = None;
            }
            if let Some(hull) = hull {
                end = if from.is_some() { end.max(hull.end()) } else { hull.end() };
                from = from.or(Some(at));
            }
        }
        self.is_torn_up = false;
    }

    /// A range that was refused: its atom is refused, or its halves are suspected.
    pub(super) fn divide(&mut self, from: usize, to: usize, code: u8) {
        let Some(ix) = self.ranges.iter().position(|range| range.from == from && range.to == to) else {
            return;
        };
        let half = self.ranges.remove(ix).half;
        self.explained(half);
        self.is_torn_up = true;
        if to - from == 1 {
            self.refused[from] = Some(code);
            self.news.push(News::Refused(self.hulls[from], code));
            return;
        }
        let middle = from + (to - from) / 2;
        let half = Some(Half { at: middle, other_answered: false });
        let halves = [(from, middle), (middle, to)].map(|(from, to)| self.pieces(from, to));
        let half = half.filter(|_| halves.iter().all(|pieces| pieces.len() == 1));
        let suspects = halves.into_iter().flatten();
        let suspects: Vec<Stretch> =
            suspects.map(|(from, to)| Stretch { from, to, stand: Stand::Suspect(code), half }).collect();
        self.ranges.splice(ix..ix, suspects);
    }

    /// A request over holes was refused, though all around them is answered.
    pub(super) fn divide_unproven(&mut self, from: usize) {
        let Some(ix) = self.index(from) else { return };
        let Stretch { from, to, half, .. } = self.ranges.remove(ix);
        self.explained(half);
        self.is_torn_up = true;
        let pieces = self.pieces(from, to);
        let middle = pieces[pieces.len() / 2].0;
        let (left, right) = pieces.split_at(pieces.len() / 2);
        if pieces.len() == 2 {
            self.bar(middle);
        }
        let halves = [(from, middle, left, right), (middle, to, right, left)];
        let stretches = halves.map(|(from, to, own, other)| {
            let half = Half { at: middle, other_answered: other.len() == 1 };
            match own.len() {
                1 => Stretch { from, to, stand: Stand::Trusted, half: None },
                _ => Stretch { from, to, stand: Stand::Unproven(Proof::default()), half: Some(half) },
            }
        });
        self.ranges.splice(ix..ix, stretches);
    }

    /// Divides an unproven range at its holes.
    pub(super) fn dissolve(&mut self, atom: usize) {
        let Some(ix) = self.index(atom) else { return };
        let Stretch { from, to, half, .. } = self.ranges[ix];
        self.explained(half);
        let pieces = self.pieces(from, to).into_iter();
        let stretches: Vec<Stretch> =
            pieces.map(|(from, to)| Stretch { from, to, stand: Stand::Trusted, half: None }).collect();
        self.ranges.splice(ix..=ix, stretches);
        self.is_torn_up = true;
    }

    /// One half was refused: that is why the whole was.
    pub(super) fn explained(&mut self, half: Option<Half>) {
        let Some(half) = half else { return };
        let siblings =
            self.ranges.iter_mut().filter(|range| range.half.is_some_and(|other| other.at == half.at));
        siblings.for_each(|range| range.half = None);
    }

    /// One half was answered. If both are, it's the whole that the device refuses.
    pub(super) fn half_answered(&mut self, ix: usize) {
        let Some(half) = self.ranges[ix].half.take() else { return };
        if half.other_answered {
            return self.bar(half.at);
        }
        let other = self.ranges.iter_mut().filter_map(|range| range.half.as_mut());
        other.filter(|other| other.at == half.at).for_each(|other| other.other_answered = true);
    }

    pub(super) fn bar(&mut self, at: usize) {
        self.joints[at] = Joint::Barred;
        self.news.push(News::Apart(self.hulls[at].address));
        self.is_torn_up = true;
    }
}
