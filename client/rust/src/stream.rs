//! The client's end of an app's stream, without I/O: which events to keep, which were seen before, how much credit and
//! which ack are due (SPEC.md, §4.3).
//!
//! The queue is bounded by the credit given to the server: what was received and not yet handled, plus what the server
//! may still send, is at most the window, and one event, since one may overdraw.

use std::collections::VecDeque;

use crate::bytes::Id;
use crate::events::{Event, EventsDropped, Position};
use crate::wire::Incoming;

/// Most events of the client's own that wait while the app does not look: a server that flaps makes two a second.
const MAX_LOCAL_EVENTS: usize = 64;

/// What happened to events on their way in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamCounters {
    /// Queued for the app.
    pub received: u64,
    /// Seen before, and dropped.
    pub duplicates: u64,
    /// Frames that are no event of this stream.
    pub garbage: u64,
    /// Of kinds of later versions, and skipped.
    pub unknown: u64,
    /// Skipped by the server without a word; the app gets `EventsDropped`.
    pub missing: u64,
    /// `LinkLost` and `LinkRestored` that did not fit, since the app did not look.
    pub local_dropped: u64,
}

struct Queued {
    event: Event,
    cost: usize,
    position: Option<Position>,
}

struct Held {
    cost: usize,
    position: Option<Position>,
}

/// One app's stream, over any number of connections.
pub(crate) struct AppStream {
    pub counters: StreamCounters,
    pub last_seq: u64,
    stream_id: Option<Id>,
    window: u64,
    queue: VecDeque<Queued>,
    queued_bytes: u64,
    local: usize,
    in_hand: Option<Held>,
    received_cost: u64, // since the last hello
    granted: u64,       // since the last hello
    handled: Option<Position>,
    acked: Option<Position>,
}

impl AppStream {
    pub fn new(window: u64) -> Self {
        AppStream {
            counters: StreamCounters::default(),
            last_seq: 0,
            stream_id: None,
            window,
            queue: VecDeque::new(),
            queued_bytes: 0,
            local: 0,
            in_hand: None,
            received_cost: 0,
            granted: 0,
            handled: None,
            acked: None,
        }
    }

    /// What to grant in a hello: the window, less what still waits here.
    pub fn opening_credit(&self) -> u64 {
        self.window.saturating_sub(self.queued_bytes)
    }

    /// A hello that granted `credit` was accepted. Returns where the stream before ended when this is another one.
    pub fn greeted(&mut self, stream_id: Id, acked: u64, credit: u64) -> Option<Position> {
        self.received_cost = 0;
        self.granted = credit;
        let mut lost = None;
        if self.stream_id != Some(stream_id) {
            lost = self.stream_id.map(|gone| Position { stream_id: gone, seq: self.last_seq });
            self.stream_id = Some(stream_id);
            self.last_seq = acked;
        }
        self.last_seq = self.last_seq.max(acked);
        self.acked = Some(Position { stream_id, seq: acked });
        lost
    }

    /// Take what has come into the queue. False: there was nothing for the app in it.
    pub fn receive(&mut self, incoming: Incoming) -> bool {
        let (stream_id, seq, time_ns, cost, event) = match incoming {
            Incoming::Heartbeat => return false,
            Incoming::Unknown { stream_id, seq, time_ns, cost } => (stream_id, seq, time_ns, cost, None),
            Incoming::Event { event, cost } => match event.place() {
                Some((stream_id, seq)) => (stream_id, seq, 0, cost, Some(event)),
                None => {
                    self.put(event, 0, None); // taken over: it takes neither seq nor credit
                    return true;
                }
            },
        };
        self.received_cost += cost as u64;
        if self.stream_id != Some(stream_id) {
            self.counters.garbage += 1;
            return false;
        }
        if seq <= self.last_seq {
            self.counters.duplicates += 1; // delivery is at least once
            return false;
        }
        let reported = matches!(&event, Some(Event::EventsDropped(dropped)) if dropped.first <= self.last_seq + 1);
        if seq != self.last_seq + 1 && !reported {
            self.report_missing(stream_id, seq, time_ns);
        }
        self.last_seq = seq;
        let position = Position { stream_id, seq };
        match event {
            Some(event) => {
                self.counters.received += 1;
                self.put(event, cost, Some(position));
                true
            }
            None => {
                self.counters.unknown += 1;
                self.handled_with_the_last(position);
                false
            }
        }
    }

    /// An event that is not shown counts as handled together with the one before it.
    fn handled_with_the_last(&mut self, position: Position) {
        if let Some(last) = self.queue.back_mut() {
            last.position = Some(position);
        } else if let Some(held) = &mut self.in_hand {
            held.position = Some(position);
        } else {
            self.handled = Some(position);
        }
    }

    /// The server skipped events without saying so: the app must know all the same.
    fn report_missing(&mut self, stream_id: Id, seq: u64, time_ns: i64) {
        let (first, last) = (self.last_seq + 1, seq - 1);
        self.counters.missing += seq - first;
        let reason = "never received".to_owned();
        let gap = EventsDropped { stream_id, seq: last, time_ns, first, last, reason };
        self.put(Event::EventsDropped(gap), 0, None);
    }

    /// Queue an event of the client's own. When the app does not look for long, the oldest of them go.
    pub fn put_local(&mut self, event: Event) {
        if self.local >= MAX_LOCAL_EVENTS {
            if let Some(oldest) = self.queue.iter().position(|queued| is_local(&queued.event)) {
                self.queue.remove(oldest);
                self.local -= 1;
                self.counters.local_dropped += 1;
            }
        }
        self.local += 1;
        self.put(event, 0, None);
    }

    fn put(&mut self, event: Event, cost: usize, position: Option<Position>) {
        self.queued_bytes += cost as u64;
        self.queue.push_back(Queued { event, cost, position });
    }

    /// Bytes of events that wait here or are in the app's hands.
    pub fn queued_bytes(&self) -> u64 {
        self.queued_bytes
    }

    /// The next event, which is then in the app's hands; the one before it counts as handled.
    pub fn take(&mut self) -> Option<Event> {
        self.done();
        let queued = self.queue.pop_front()?;
        self.local -= usize::from(is_local(&queued.event));
        self.in_hand = Some(Held { cost: queued.cost, position: queued.position });
        Some(queued.event)
    }

    /// The app is done with the event in its hands: its bytes may be granted again.
    pub fn done(&mut self) {
        if let Some(held) = self.in_hand.take() {
            self.queued_bytes -= held.cost as u64;
            self.handled = held.position.or(self.handled);
        }
    }

    /// The last event that came.
    pub fn seen(&self) -> Option<Position> {
        let stream_id = self.stream_id.filter(|_| self.last_seq > 0)?;
        Some(Position { stream_id, seq: self.last_seq })
    }

    /// The last position handled.
    pub fn handled(&self) -> Option<Position> {
        self.handled
    }

    /// The new total to grant, once a quarter of the window can be given back.
    pub fn credit_due(&self) -> Option<u64> {
        let total = self.received_cost + self.window.saturating_sub(self.queued_bytes);
        (total.saturating_sub(self.granted) >= (self.window / 4).max(1)).then_some(total)
    }

    /// `credit_due` was sent.
    pub fn granted(&mut self, total: u64) {
        self.granted = total;
    }

    /// What was handled and is not acknowledged yet.
    pub fn ack_due(&self) -> Option<Position> {
        let handled = self.handled.filter(|handled| Some(handled.stream_id) == self.stream_id)?;
        match self.acked {
            Some(acked) if handled.seq <= acked.seq => None,
            _ => Some(handled),
        }
    }

    /// `position` was acknowledged.
    pub fn acked(&mut self, position: Position) {
        let further = self.acked.is_none_or(|acked| position.seq > acked.seq);
        if Some(position.stream_id) == self.stream_id && further {
            self.acked = Some(position);
        }
    }
}

fn is_local(event: &Event) -> bool {
    matches!(event, Event::LinkLost(_) | Event::LinkRestored(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{LinkLost, MessageCancelled};

    const ID: Id = crate::bytes::Bin([7; 16]);

    fn event(seq: u64, cost: usize) -> Incoming {
        let event = MessageCancelled { stream_id: ID, seq, time_ns: 0, request_id: ID };
        Incoming::Event { event: Event::MessageCancelled(event), cost }
    }

    fn stream(window: u64) -> AppStream {
        let mut stream = AppStream::new(window);
        stream.greeted(ID, 0, window);
        stream
    }

    fn taken(stream: &mut AppStream) -> Vec<u64> {
        std::iter::from_fn(|| stream.take()).filter_map(|event| event.position()).map(|position| position.seq).collect()
    }

    #[test]
    fn repeats_are_dropped_and_gaps_are_reported() {
        let mut stream = stream(1000);
        for seq in [1, 2, 1, 2, 5] {
            stream.receive(event(seq, 10));
        }
        assert_eq!(taken(&mut stream), [1, 2, 4, 5]); // 4: the end of the range that never came
        assert_eq!((stream.counters.duplicates, stream.counters.missing), (2, 2));
    }

    #[test]
    fn credit_comes_back_as_events_are_handled_and_never_exceeds_the_window() {
        let mut stream = stream(100);
        for seq in 1..=10 {
            stream.receive(event(seq, 10));
        }
        assert_eq!(stream.credit_due(), None);
        for _ in 0..3 {
            stream.take();
        }
        assert_eq!(stream.credit_due(), None); // two are handled: a fifth of the window
        stream.take();
        assert_eq!(stream.credit_due(), Some(130));
        stream.granted(130);
        assert_eq!(stream.credit_due(), None);
    }

    #[test]
    fn an_ack_is_due_for_what_was_handled_and_skipped_kinds_go_with_it() {
        let mut stream = stream(1000);
        stream.receive(event(1, 10));
        stream.receive(Incoming::Unknown { stream_id: ID, seq: 2, time_ns: 0, cost: 10 });
        stream.take();
        assert_eq!(stream.ack_due(), None);
        stream.done();
        assert_eq!(stream.ack_due().map(|due| due.seq), Some(2));
        stream.acked(Position { stream_id: ID, seq: 2 });
        assert_eq!(stream.ack_due(), None);
    }

    #[test]
    fn another_stream_is_reported_and_starts_where_its_hello_says() {
        let mut stream = stream(1000);
        stream.receive(event(1, 10));
        let other = crate::bytes::Bin([8; 16]);
        assert_eq!(stream.greeted(other, 4, 1000), Some(Position { stream_id: ID, seq: 1 }));
        assert_eq!(stream.last_seq, 4);
        assert!(!stream.receive(event(5, 10))); // of the stream that is gone
        assert_eq!(stream.counters.garbage, 1);
    }

    #[test]
    fn events_of_its_own_are_bounded() {
        let mut stream = stream(1000);
        for _ in 0..=MAX_LOCAL_EVENTS {
            stream.put_local(Event::LinkLost(LinkLost { reason: String::new() }));
        }
        assert_eq!(stream.counters.local_dropped, 1);
        assert_eq!(std::iter::from_fn(|| stream.take()).count(), MAX_LOCAL_EVENTS);
    }
}
