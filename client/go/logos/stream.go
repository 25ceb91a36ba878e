package logos

import "slices"

// The client's end of an app's stream, without I/O: what to keep, what was seen before, how much credit and which ack are
// due (§4.3).
//
// The queue is bounded by the credit given to the server: what was received and not yet handled, plus what the server may
// still send, is at most the window, and one event, since one may overdraw.
type appStream struct {
	counters    Counters
	window      uint64
	id          ID
	followed    bool   // id is that of a stream
	lastSeq     uint64 // the last one queued
	queuedBytes uint64 // of events that wait here or are in the app's hands
	queue       []queued
	head        int
	local       int
	inHand      *queued
	received    uint64 // bytes since the last hello
	granted     uint64 // credit since the last hello
	handledTo   position
	ackedTo     position
}

// Counters tell what became of events on their way in.
type Counters struct {
	Received, Duplicates, Garbage, Unknown, Missing, LocalDropped uint64
}

type position struct {
	stream ID
	seq    uint64
}

type queued struct {
	event    Event
	cost     uint64
	position position // zero: nothing to acknowledge
	local    bool
}

const (
	kindHeartbeat  = 0
	kindTakenOver  = 11
	maxLocalEvents = 64 // events the client itself makes, while the app does not look: a server that flaps
)

// What to grant in a hello: the window, less what still waits here.
func (s *appStream) openingCredit() uint64 {
	return s.window - min(s.window, s.queuedBytes)
}

// A hello that granted credit was accepted. Returns where the stream before it ended when this is another one.
func (s *appStream) greeted(id ID, acked, credit uint64) *position {
	s.received, s.granted = 0, credit
	var lost *position
	if !s.followed || s.id != id {
		if s.followed {
			lost = &position{s.id, s.lastSeq}
		}
		s.id, s.followed, s.lastSeq = id, true, acked
	}
	s.lastSeq = max(s.lastSeq, acked)
	s.ackedTo = position{id, acked}
	return lost
}

// Takes an event into the queue. False: there was nothing for the app in it.
func (s *appStream) receive(kind uint64, header Header, event Event, cost uint64) bool {
	switch kind {
	case kindHeartbeat:
		return false
	case kindTakenOver:
		s.put(queued{event: event})
		return true
	}
	s.received += cost
	if !s.followed || s.id != header.StreamID {
		s.counters.Garbage++
		return false
	}
	if header.Seq <= s.lastSeq {
		s.counters.Duplicates++ // at least once: a repeat
		return false
	}
	dropped, ok := event.(*EventsDropped)
	told := ok && dropped.First <= s.lastSeq+1
	if header.Seq != s.lastSeq+1 && !told {
		s.reportMissing(header)
	}
	s.lastSeq = header.Seq
	at := position{header.StreamID, header.Seq}
	if event == nil {
		s.counters.Unknown++
		s.handledWithTheLast(at)
		return false
	}
	s.counters.Received++
	s.put(queued{event: event, cost: cost, position: at})
	return true
}

// Nothing to show, but to be acknowledged in its turn: together with the event before it.
func (s *appStream) handledWithTheLast(at position) {
	switch {
	case s.waiting() > 0:
		s.queue[len(s.queue)-1].position = at
	case s.inHand != nil:
		s.inHand.position = at
	default:
		s.handledTo = at
	}
}

// The server skipped events without saying so: the app must know all the same.
func (s *appStream) reportMissing(behind Header) {
	first, last := s.lastSeq+1, behind.Seq-1
	s.counters.Missing += behind.Seq - first
	behind.Seq = last
	s.put(queued{event: &EventsDropped{Header: behind, First: first, Last: last, Reason: "never received"}})
}

// Queues an event of the client's own. When the app does not look for long, the oldest of them go.
func (s *appStream) putLocal(event Event) {
	if s.local >= maxLocalEvents {
		for i := s.head; i < len(s.queue); i++ {
			if s.queue[i].local {
				s.queue = append(s.queue[:i], s.queue[i+1:]...)
				break
			}
		}
		s.local--
		s.counters.LocalDropped++
	}
	s.local++
	s.put(queued{event: event, local: true})
}

func (s *appStream) put(one queued) {
	s.queue = append(s.queue, one)
	s.queuedBytes += one.cost
}

func (s *appStream) waiting() int { return len(s.queue) - s.head }

// The next event, which is then in the app's hands; the one before it counts as handled.
func (s *appStream) take() Event {
	s.handled()
	if s.waiting() == 0 {
		return nil
	}
	one := s.queue[s.head]
	s.queue[s.head] = queued{}
	s.head++
	if s.head == len(s.queue) {
		s.queue, s.head = s.queue[:0], 0
	} else if s.head > 1024 && s.head*2 > len(s.queue) {
		s.queue, s.head = append(s.queue[:0], s.queue[s.head:]...), 0
	}
	s.inHand = &one
	if one.local {
		s.local--
	}
	return one.event
}

// Gives back the event in hand: it was not handled.
func (s *appStream) putBack() {
	if s.inHand != nil {
		s.queue = slices.Insert(s.queue, s.head, *s.inHand)
		s.inHand = nil
	}
}

// The app is done with the event in its hands: its bytes may be granted again.
func (s *appStream) handled() {
	if s.inHand == nil {
		return
	}
	s.queuedBytes -= s.inHand.cost
	if s.inHand.position != (position{}) {
		s.handledTo = s.inHand.position
	}
	s.inHand = nil
}

// The new total to grant, once a quarter of the window can be given back; else 0.
func (s *appStream) creditDue() uint64 {
	total := s.received + s.openingCredit()
	if total < s.granted+max(1, s.window/4) {
		return 0
	}
	return total
}

// What was handled and is not acknowledged yet.
func (s *appStream) ackDue() (position, bool) {
	at := s.handledTo
	due := at != (position{}) && s.followed && at.stream == s.id && at.seq > s.ackedTo.seq
	return at, due
}

func (s *appStream) acked(at position) {
	if at.stream == s.id && at.seq > s.ackedTo.seq {
		s.ackedTo = at
	}
}
