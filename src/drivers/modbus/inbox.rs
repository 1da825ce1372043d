//! Bytes that have arrived and are not understood yet. Pure; never grows.

/// A bounded buffer that is filled behind and emptied in front.
#[derive(Debug)]
pub struct Inbox {
    room: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Inbox {
    /// An empty inbox for so many bytes.
    pub fn new(most: usize) -> Self {
        Self { room: vec![0; most].into(), start: 0, end: 0 }
    }

    /// What is there.
    pub fn bytes(&self) -> &[u8] {
        &self.room[self.start..self.end]
    }

    /// Has nothing more room?
    pub fn is_full(&self) -> bool {
        self.end - self.start == self.room.len()
    }

    /// Where what arrives goes; never empty unless the inbox is full. Tell [`Inbox::filled`] how much it was.
    pub fn vacant(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.clear();
        } else if self.start > 0 {
            self.room.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut self.room[self.end..]
    }

    /// So many bytes have arrived.
    pub fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.room.len());
    }

    /// Drops so many bytes in front.
    pub fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_come_out_as_they_went_in(steps in prop::collection::vec((0usize..20, 0usize..20), 0..100)) {
            let (mut inbox, mut expected, mut next) = (Inbox::new(32), std::collections::VecDeque::new(), 0u8);
            for (arrive, leave) in steps {
                let vacant = inbox.vacant();
                let arrive = arrive.min(vacant.len());
                for byte in &mut vacant[..arrive] {
                    next = next.wrapping_add(1);
                    *byte = next;
                    expected.push_back(next);
                }
                inbox.filled(arrive);
                inbox.consume(leave);
                (0..leave).for_each(|_| _ = expected.pop_front());
                prop_assert!(inbox.bytes().iter().eq(expected.iter()));
                prop_assert_eq!(inbox.is_full(), expected.len() == 32);
            }
        }
    }
}
