package logos

// A reader's position in one of the kernel's streams, and what to do with each event; without I/O (§3.1).
type cursor struct {
	stream   string
	losses   []*StreamLoss // until they are taken
	behind   bool          // a replay is under way: live events are held, or left to it
	held     heldEvents
	heard    bool // a heartbeat has come: the subscription is in force
	begun    bool
	instance ID
	epoch    Epoch
	last     uint64 // the last seq kept
	highest  uint64 // the highest one known to exist
}

func (c *cursor) isMessages() bool {
	return c.stream != healthStream && c.stream != peersStream
}

type verdict int

const (
	skip    verdict = iota
	keep            // the next event
	catchUp         // something before it is missing
)

// Begins behind last, unless it has begun.
func (c *cursor) begin(instance ID, epoch Epoch, last uint64) {
	if !c.begun {
		c.begun = true
		c.follow(instance, epoch, last)
	}
}

func (c *cursor) follow(instance ID, epoch Epoch, last uint64) {
	c.instance, c.epoch, c.last, c.highest = instance, epoch, last, last
}

func (c *cursor) event(place StreamPlace) verdict {
	c.begin(place.Instance, place.Epoch, place.Seq-min(1, place.Seq))
	if c.behind {
		return skip
	}
	return c.replayed(place)
}

func (c *cursor) replayed(place StreamPlace) verdict {
	c.meet(place)
	switch {
	case place.Seq <= c.last:
		return skip
	case place.Seq > c.last+1:
		c.highest = max(c.highest, place.Seq)
		return catchUp
	}
	c.last = place.Seq
	c.highest = max(c.highest, place.Seq)
	return keep
}

// Events up to a heartbeat's seq exist, and those that we lack are missing.
func (c *cursor) heartbeat(place StreamPlace) verdict {
	c.heard = true
	c.begin(place.Instance, place.Epoch, place.Seq)
	if c.behind {
		return skip
	}
	c.meet(place)
	if place.Seq <= c.last {
		return skip
	}
	c.highest = max(c.highest, place.Seq)
	return catchUp
}

func (c *cursor) meet(place StreamPlace) {
	if place.Instance != c.instance || place.Epoch != c.epoch {
		c.beginAgain(place.Instance, place.Epoch)
	}
}

// Follows another epoch from its first event. How much of the old one is lost is unknown.
func (c *cursor) beginAgain(instance ID, epoch Epoch) {
	c.losses = append(c.losses, &StreamLoss{Stream: c.stream, First: c.last + 1, Reason: "the kernel restarted this stream"})
	c.follow(instance, epoch, 0)
}

// Events up to last are lost.
func (c *cursor) giveUp(last uint64, reason string) {
	if last > c.last {
		c.losses = append(c.losses, &StreamLoss{c.stream, c.last + 1, last, reason})
		c.jump(last)
	}
}

// A snapshot replaces events up to last.
func (c *cursor) jump(last uint64) {
	c.last = max(c.last, last)
	c.highest = max(c.highest, last)
}
