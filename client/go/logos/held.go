package logos

// Live events that come while earlier ones are replayed: the newest run of them without a gap, within maxBytes; without I/O.
// Without them each replay would miss what comes before its answer, and a busy stream would be replayed on and on.
type heldEvents struct {
	maxBytes int
	bytes    int // approximately
	events   []heldEvent
}

type heldEvent struct {
	place StreamPlace
	event Event // nil: of a kind of a later version
}

// Holds an event of the stream, and returns how many are dropped for it.
func (h *heldEvents) add(place StreamPlace, event Event) (dropped int) {
	if count := len(h.events); count > 0 {
		last := h.events[count-1].place
		follows := last.Instance == place.Instance && last.Epoch == place.Epoch && last.Seq+1 == place.Seq
		if !follows || h.bytes >= h.maxBytes {
			dropped = h.clear()
		}
	}
	h.events = append(h.events, heldEvent{place, event})
	h.bytes += costOf(event)
	return dropped
}

// Returns those that follow last without a gap, and holds none any more. Empty: there are none.
func (h *heldEvents) take(instance ID, epoch Epoch, last uint64) []heldEvent {
	if len(h.events) == 0 {
		return nil
	}
	first := h.events[0].place
	known := last - min(last, first.Seq-1) // how many of them are not after last
	if first.Instance != instance || first.Epoch != epoch || first.Seq > last+1 || known >= uint64(len(h.events)) {
		return nil
	}
	taken := h.events[known:]
	h.clear()
	return taken
}

// Drops all of them, and returns how many.
func (h *heldEvents) clear() int {
	dropped := len(h.events)
	h.events, h.bytes = nil, 0
	return dropped
}
