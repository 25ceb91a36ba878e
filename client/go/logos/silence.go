package logos

import (
	"context"
	"time"
)

const (
	missedBeats    = 3 // until the kernel is asked whether it is there
	controlTimeout = time.Second
)

// The connection for requests is lost.
func (f *Feed) lost(reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.isDown {
		f.putLocal(&KernelLost{reason})
	}
	f.isDown = false
}

// The kernel is there again.
func (f *Feed) found(instance ID, restarted bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.isDown = false
	f.lastWord = time.Now()
	f.putLocal(&KernelFound{instance, restarted})
}

// Asks the control socket when three heartbeats are missing (§3.1). A kernel that hangs keeps its connections, so nothing
// else shows it. One that answers may have sent events that did not come either.
func (f *Feed) watch() {
	every := time.Duration(f.kernel.Hello().HeartbeatMs) * time.Millisecond
	if every <= 0 {
		every = time.Second
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.isClosed {
		return
	}
	f.working.Add(1)
	go func() {
		defer f.working.Done()
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
			case <-f.life.Done():
				return
			}
			f.mu.Lock()
			silent := f.isDown || time.Since(f.lastWord) > missedBeats*every
			f.mu.Unlock()
			if silent && f.kernel.Connected() {
				f.lookAfter(f.kernel.answers(f.life))
			}
		}
	}()
}

func (f *Feed) lookAfter(answers bool) {
	if !f.kernel.Connected() || f.life.Err() != nil {
		return
	}
	if answers {
		f.mu.Lock()
		wasDown := f.isDown
		f.mu.Unlock()
		if wasDown {
			f.found(f.kernel.instance(), false)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !answers {
		if !f.isDown {
			f.putLocal(&KernelLost{"no heartbeat, and no answer from its control socket"})
		}
		f.isDown = true
		return
	}
	f.lastWord = time.Now()
	for _, c := range f.cursors {
		if f.beats(c) {
			f.catchUp(c)
		}
	}
}

// Whether the control socket answers.
func (k *KernelClient) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, controlTimeout)
	defer cancel()
	s, err := probe()
	if err != nil {
		return false
	}
	defer s.close()
	answered := make(chan struct{}, 1)
	s.receive(func(frames [][]byte) {
		if _, err := decodeReply(frames); err == nil {
			select {
			case answered <- struct{}{}:
			default:
			}
		}
	})
	if s.connect(k.control) != nil {
		return false
	}
	request := encodeRequest(NewID(), "health", uint64(controlTimeout.Milliseconds()), 0, encodeBody(nil))
	for {
		full, err := s.send(request)
		if err != nil {
			return false
		}
		select {
		case <-full: // nil, and so never, once it is sent
		case <-answered:
			return true
		case <-ctx.Done():
			return false
		}
	}
}
