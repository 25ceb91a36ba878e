//! Live events that come while earlier ones are replayed (SPEC.md, §3.2). No I/O.

use std::collections::VecDeque;

use crate::kernel_events::{Header, Place};

/// What an event takes besides its payload, roughly: many small ones count too.
pub(crate) const OVERHEAD: usize = 512;

/// The newest run of events without a gap, within `max_bytes`: beyond it, it begins again.
///
/// Without them each replay would miss what comes before its answer, and a busy stream would be replayed on and on.
pub(crate) struct HeldEvents {
    max_bytes: usize,
    bytes: usize,
    events: VecDeque<(Header, Vec<u8>)>,
}

impl HeldEvents {
    pub fn new(max_bytes: usize) -> Self {
        HeldEvents { max_bytes, bytes: 0, events: VecDeque::new() }
    }

    /// Hold an event of the stream. Returns how many are dropped for it.
    pub fn add(&mut self, header: Header, payload: Vec<u8>) -> u64 {
        let next = self.events.back().map(|(last, _)| Place { seq: last.place.seq + 1, ..last.place });
        let follows = next == Some(header.place) && self.bytes < self.max_bytes;
        let dropped = if follows { 0 } else { self.clear() };
        self.bytes += OVERHEAD + payload.len();
        self.events.push_back((header, payload));
        dropped
    }

    /// Those that follow a place without a gap, none of which is held any more. Empty: there are none.
    pub fn take(&mut self, at: Place) -> VecDeque<(Header, Vec<u8>)> {
        let Some((first, _)) = self.events.front() else { return VecDeque::new() };
        let same_stream = (first.place.instance, first.place.epoch) == (at.instance, at.epoch);
        if !same_stream || first.place.seq > at.seq + 1 {
            return VecDeque::new();
        }
        let known = self.events.iter().take_while(|(header, _)| header.place.seq <= at.seq).count();
        if known == self.events.len() {
            return VecDeque::new();
        }
        let found = self.events.split_off(known);
        self.clear();
        found
    }

    /// Drop all of them. Returns how many.
    pub fn clear(&mut self) -> u64 {
        self.bytes = 0;
        std::mem::take(&mut self.events).len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::Bin;
    use crate::kernel_events::Content;

    fn place(epoch: u8, seq: u64) -> Place {
        Place { instance: Bin([1; 16]), epoch: Bin([epoch; 8]), seq }
    }

    fn add(events: &mut HeldEvents, place: Place) -> u64 {
        events.add(Header { place, time_ns: 7, content: Content::Unknown }, Vec::new())
    }

    fn held(seqs: impl IntoIterator<Item = u64>, max_bytes: usize) -> HeldEvents {
        let mut events = HeldEvents::new(max_bytes);
        for seq in seqs {
            add(&mut events, place(1, seq));
        }
        events
    }

    fn taken(events: &mut HeldEvents, last: u64) -> Vec<u64> {
        events.take(place(1, last)).iter().map(|(header, _)| header.place.seq).collect()
    }

    #[test]
    fn a_replay_that_reaches_them_gives_way_to_them() {
        let mut events = held(5..=7, 1 << 20);
        assert!(taken(&mut events, 3).is_empty());
        assert_eq!(taken(&mut events, 4), [5, 6, 7]);
        assert!(taken(&mut events, 4).is_empty());
        assert_eq!(events.bytes, 0);
        assert_eq!(taken(&mut held(5..=7, 1 << 20), 6), [7], "the replay went on into them");
        assert!(taken(&mut held(5..=7, 1 << 20), 7).is_empty());
    }

    #[test]
    fn a_gap_begins_a_new_run() {
        let mut events = held(5..=6, 1 << 20);
        assert_eq!(add(&mut events, place(1, 8)), 2);
        assert!(taken(&mut events, 4).is_empty());
        assert_eq!(taken(&mut events, 7), [8]);
    }

    #[test]
    fn memory_is_bounded_and_another_epoch_is_not_mixed_in() {
        let mut events = held(1..=99, 10 * OVERHEAD);
        assert!(events.bytes <= 11 * OVERHEAD);
        assert_eq!(taken(&mut events, 98), [99]);
        add(&mut events, place(2, 1));
        assert!(taken(&mut events, 0).is_empty());
    }
}
