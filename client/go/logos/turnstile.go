package logos

import (
	"context"
	"sync"
)

// Lets as many requests in at once as the server takes (§2, `limits.in_flight`); the others wait in order.
type turnstile struct {
	mu      sync.Mutex
	limit   int
	inside  int
	waiting []chan struct{}
}

func (t *turnstile) enter(ctx context.Context) error {
	t.mu.Lock()
	if t.inside < t.limit && len(t.waiting) == 0 {
		t.inside++
		t.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	t.waiting = append(t.waiting, turn)
	t.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, one := range t.waiting {
		if one == turn {
			t.waiting = append(t.waiting[:i], t.waiting[i+1:]...)
			return ctx.Err()
		}
	}
	t.inside-- // it was our turn meanwhile
	t.admit()
	return ctx.Err()
}

func (t *turnstile) leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.inside--
	t.admit()
}

func (t *turnstile) resize(limit int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.limit = limit
	t.admit()
}

func (t *turnstile) admit() {
	for len(t.waiting) > 0 && t.inside < t.limit {
		close(t.waiting[0])
		t.waiting = t.waiting[1:]
		t.inside++
	}
}
