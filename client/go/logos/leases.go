package logos

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	leaseRenew     = 10 * time.Second // until the hello says when
	leaseRetry     = time.Second
	releaseTimeout = time.Second
)

// Leases of one consumer, counted by shard and kept renewed (§3.2).
type leases struct {
	connection *connection
	now        chan struct{} // renew at once
	mu         sync.Mutex
	every      time.Duration
	held       map[int]int
}

func (l *leases) start(c *connection) {
	l.connection, l.now, l.every, l.held = c, make(chan struct{}, 1), leaseRenew, map[int]int{}
	c.work(l.renew)
}

// A hello was accepted: the kernel may be another instance.
func (l *leases) greeted(every time.Duration) {
	l.mu.Lock()
	if every > 0 {
		l.every = every
	}
	l.mu.Unlock()
	select {
	case l.now <- struct{}{}:
	default:
	}
}

func (l *leases) hold(ctx context.Context, shards []int) ([]StreamState, error) {
	answer, err := l.connection.request(ctx, "lease.acquire", LeaseAcquireRequest{Shards: shards})
	if err != nil {
		return nil, err
	}
	var body LeaseAcquireReply
	if err := decodeBody(answer.body, &body); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, shard := range shards {
		l.held[shard]++
	}
	return body.Leases, nil
}

// What is not released by the kernel is not renewed either, and lapses.
func (l *leases) release(ctx context.Context, shards []int) error {
	l.mu.Lock()
	var unused []int
	for _, shard := range shards {
		if l.held[shard]--; l.held[shard] == 0 {
			unused = append(unused, shard)
		}
		if l.held[shard] <= 0 {
			delete(l.held, shard)
		}
	}
	l.mu.Unlock()
	if len(unused) == 0 || !l.connection.isReady() {
		return nil
	}
	_, err := l.connection.request(ctx, "lease.release", LeaseReleaseRequest{Shards: unused})
	return err
}

func (l *leases) releaseAll() error {
	l.mu.Lock()
	var all []int
	for shard, count := range l.held {
		all = append(all, slices.Repeat([]int{shard}, count)...)
	}
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), releaseTimeout)
	defer cancel()
	return l.release(ctx, all)
}

// On time, after each hello, and soon again after a failure.
func (l *leases) renew() {
	wait := leaseRenew
	for {
		select {
		case <-time.After(wait):
		case <-l.now:
		case <-l.connection.life.Done():
			return
		}
		l.mu.Lock()
		wait = l.every
		shards := slices.Sorted(maps.Keys(l.held))
		l.mu.Unlock()
		if len(shards) == 0 {
			continue
		}
		if _, err := l.connection.request(l.connection.life, "lease.acquire", LeaseAcquireRequest{Shards: shards}); err != nil {
			wait = min(wait, leaseRetry)
		}
	}
}
