package logos

import (
	"context"
	"errors"
	"time"
)

// With mu. Fills the gap before what a cursor has seen.
func (f *Feed) catchUp(c *cursor) {
	c.behind = true
	if !f.filling && !f.isClosed {
		f.filling = true
		f.working.Add(1)
		go f.fillAll()
	}
}

// Fills the gaps of all streams, one after another.
func (f *Feed) fillAll() {
	defer f.working.Done()
	for delay := retryDelay; ; {
		f.mu.Lock()
		var behind *cursor
		for _, c := range f.cursors {
			if c.behind {
				behind = c
			}
		}
		if behind == nil || f.isClosed {
			f.filling = false
			f.mu.Unlock()
			return
		}
		f.mu.Unlock()
		err := f.fill(behind)
		var e *Error
		if errors.As(err, &e) && e.Retriable {
			select {
			case <-time.After(delay):
			case <-f.life.Done():
			}
			delay = min(2*delay, retryDelayMax)
			continue
		}
		delay = retryDelay
		f.mu.Lock()
		if err != nil {
			behind.giveUp(behind.highest, err.Error())
			f.report(behind)
		}
		behind.behind = false
		f.counters.Skipped += uint64(behind.held.clear())
		f.mu.Unlock()
	}
}

func (f *Feed) fill(c *cursor) error {
	ctx := f.life
	switch c.stream {
	case healthStream:
		var health NodeHealth
		answer, err := f.kernel.connection.request(ctx, "node.health", nil)
		if err == nil {
			err = decodeBody(answer.body, &health)
		}
		if err != nil {
			return err
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		c.jump(c.highest)
		f.put(&HealthEvent{StreamPlace{answer.instance, c.epoch, c.last, 0}, health})
		return nil
	case peersStream:
		peers, err := f.kernel.Peers(ctx)
		if err != nil {
			return err
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		c.jump(c.highest)
		f.put(&PeersSnapshot{peers})
		return nil
	}
	for {
		f.mu.Lock()
		room := f.room
		f.mu.Unlock()
		if room != nil {
			select {
			case <-room:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if complete, err := f.replayPage(ctx, c); complete || err != nil {
			return err
		}
	}
}

// One page of a replay; true: it was the last one.
func (f *Feed) replayPage(ctx context.Context, c *cursor) (bool, error) {
	f.mu.Lock()
	wanted := StreamReplayRequest{Stream: c.stream, Epoch: c.epoch, After: c.last}
	f.counters.Replays++
	f.mu.Unlock()
	var page StreamReplayReply
	f.kernel.replaying.Lock()
	blobs, err := f.kernel.Call(ctx, "stream.replay", wanted, &page)
	f.kernel.replaying.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.report(c)
	if err != nil {
		return false, f.replayRefused(c, err)
	}
	if uint64(len(blobs)) != 2*uint64(page.Events) || page.Events == 0 && !page.Complete {
		return false, badFrame("stream.replay: %d events with %d blobs", page.Events, len(blobs))
	}
	for ; len(blobs) > 0; blobs = blobs[2:] {
		_, place, event, err := decodeKernelEvent(c.stream, blobs[0], blobs[1])
		if err != nil {
			return false, err
		}
		if c.replayed(place) == keep {
			f.show(event)
		}
	}
	held := c.held.take(c.instance, c.epoch, c.last)
	for _, one := range held {
		if c.replayed(one.place) == keep {
			f.show(one.event)
		}
	}
	return page.Complete || len(held) > 0, nil
}

// What is gone is reported as lost, and the replay continues behind it.
func (f *Feed) replayRefused(c *cursor, err error) error {
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code {
	case CodeTrimmed:
		if first, ok := asUint(e.Detail["first"]); ok && first > c.last+1 {
			c.giveUp(first-1, "no longer in the kernel's ring")
			return nil
		}
	case CodeEpochChanged:
		if epoch, ok := e.Detail["epoch"].([]byte); ok && len(epoch) == len(Epoch{}) {
			if Epoch(epoch) == c.epoch { // asking again at once would turn in circles
				return newError(CodeInternal, "%s: %s", c.stream, e.Message)
			}
			c.beginAgain(f.kernel.instance(), Epoch(epoch))
			return nil
		}
	}
	return err
}

func asUint(value any) (uint64, bool) {
	switch n := value.(type) {
	case int64:
		return uint64(n), n >= 0
	case uint64:
		return n, true
	}
	return 0, false
}

func (k *KernelClient) instance() ID {
	k.connection.mu.Lock()
	defer k.connection.mu.Unlock()
	return k.connection.instance
}
