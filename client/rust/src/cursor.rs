//! A reader's position in one of the kernel's streams, and what to do with each event (SPEC.md, §3.1). No I/O.

use crate::feed::{HEALTH, PEERS};
use crate::held::HeldEvents;
use crate::kernel_events::{KernelEvent, Place};

/// What an event means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Keep,
    Skip,
    /// Skip it: something before it is missing, and a replay brings both.
    CatchUp,
}

/// Follows one stream. Losses gather in `losses` until they are taken.
pub(crate) struct Cursor {
    pub stream: String,
    pub losses: Vec<KernelEvent>,
    /// A replay is under way: live events are held, or left to it.
    pub behind: bool,
    pub held: HeldEvents,
    /// A heartbeat has come: the subscription is in force.
    pub heard: bool,
    /// (instance, epoch, last seq seen); none before the first event.
    at: Option<Place>,
    /// The highest seq of this epoch that is known to exist.
    highest: u64,
}

impl Cursor {
    pub fn new(stream: String, held_bytes: usize) -> Self {
        let held = HeldEvents::new(held_bytes);
        Cursor { stream, losses: Vec::new(), behind: false, held, heard: false, at: None, highest: 0 }
    }

    /// Of health and peers the whole state is requested instead of a replay.
    pub fn is_messages(&self) -> bool {
        self.stream != HEALTH && self.stream != PEERS
    }

    /// Where it stands; none before the first event.
    pub fn at(&self) -> Option<Place> {
        self.at
    }

    pub fn highest(&self) -> u64 {
        self.highest
    }

    /// Start behind a place, unless the stream is followed already.
    pub fn start(&mut self, place: Place) {
        if self.at.is_none() {
            self.at = Some(place);
            self.highest = place.seq;
        }
    }

    /// Take a live event.
    pub fn event(&mut self, place: Place) -> Verdict {
        self.start(Place { seq: place.seq.saturating_sub(1), ..place });
        if self.behind {
            return Verdict::Skip;
        }
        self.judge(place, false)
    }

    /// Take a heartbeat: events up to its seq exist, and those that we lack are missing.
    pub fn heartbeat(&mut self, place: Place) -> Verdict {
        self.heard = true;
        self.start(place);
        if self.behind {
            return Verdict::Skip;
        }
        match self.judge(place, true) {
            Verdict::CatchUp => Verdict::CatchUp,
            _ => Verdict::Skip,
        }
    }

    /// Take an event of a replay.
    pub fn replayed(&mut self, place: Place) -> Verdict {
        self.judge(place, false)
    }

    fn judge(&mut self, place: Place, heartbeat: bool) -> Verdict {
        let at = self.at.expect("started");
        if (at.instance, at.epoch) != (place.instance, place.epoch) {
            self.begin_again(place, "the kernel restarted this stream");
        }
        let at = self.at.as_mut().expect("started");
        if place.seq <= at.seq {
            return Verdict::Skip;
        }
        self.highest = self.highest.max(place.seq);
        if heartbeat || place.seq > at.seq + 1 {
            return Verdict::CatchUp;
        }
        at.seq = place.seq;
        Verdict::Keep
    }

    /// Follow another epoch from its first event. How much of the old one is lost is not known.
    pub fn begin_again(&mut self, place: Place, reason: &str) {
        let first = self.at.map_or(1, |at| at.seq + 1);
        self.losses.push(self.loss(first, None, reason));
        self.at = Some(Place { seq: 0, ..place });
        self.highest = 0;
    }

    /// Events up to `last` are lost.
    pub fn give_up(&mut self, last: u64, reason: &str) {
        let Some(at) = self.at.filter(|at| last > at.seq) else { return };
        self.losses.push(self.loss(at.seq + 1, Some(last), reason));
        self.jump(last);
    }

    /// Skip events up to `last`: a snapshot takes their place.
    pub fn jump(&mut self, last: u64) {
        if let Some(at) = &mut self.at {
            at.seq = at.seq.max(last);
            self.highest = self.highest.max(last);
        }
    }

    fn loss(&self, first: u64, last: Option<u64>, reason: &str) -> KernelEvent {
        KernelEvent::StreamLoss { stream: self.stream.clone(), first, last, reason: reason.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::Bin;

    fn place(epoch: u8, seq: u64) -> Place {
        Place { instance: Bin([1; 16]), epoch: Bin([epoch; 8]), seq }
    }

    fn cursor() -> Cursor {
        Cursor::new("m/1/0".to_owned(), 0)
    }

    #[test]
    fn it_begins_with_what_comes_first_and_drops_repeats() {
        let mut cursor = cursor();
        assert_eq!(cursor.event(place(1, 7)), Verdict::Keep);
        assert_eq!(cursor.event(place(1, 7)), Verdict::Skip);
        assert_eq!(cursor.event(place(1, 8)), Verdict::Keep);
    }

    #[test]
    fn a_gap_or_a_heartbeat_ahead_wants_a_replay_which_brings_the_event_too() {
        let mut cursor = cursor();
        cursor.heartbeat(place(1, 3));
        assert!(cursor.heard);
        assert_eq!(cursor.event(place(1, 6)), Verdict::CatchUp);
        cursor.behind = true;
        assert_eq!(cursor.event(place(1, 7)), Verdict::Skip); // the replay brings it
        assert_eq!((4..=7).map(|seq| cursor.replayed(place(1, seq))).filter(|v| *v == Verdict::Keep).count(), 4);
        cursor.behind = false;
        assert_eq!(cursor.heartbeat(place(1, 9)), Verdict::CatchUp);
        cursor.give_up(9, "gone");
        assert_eq!(cursor.losses, [cursor.loss(8, Some(9), "gone")]);
        assert_eq!(cursor.event(place(1, 10)), Verdict::Keep);
    }

    #[test]
    fn another_epoch_is_a_loss_and_is_followed_from_its_first_event() {
        let mut cursor = cursor();
        cursor.event(place(1, 5));
        assert_eq!(cursor.event(place(2, 1)), Verdict::Keep);
        assert_eq!(cursor.losses, [cursor.loss(6, None, "the kernel restarted this stream")]);
        assert_eq!(cursor.event(place(3, 2)), Verdict::CatchUp); // the first one is missing
    }
}
