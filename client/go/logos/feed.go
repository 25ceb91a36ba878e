package logos

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	defaultFeedBytes = 8 << 20
	eventOverhead    = 512 // about the memory of an event besides its payload, so that many small ones count too
	subscribeTimeout = 5 * time.Second
	healthStream     = "p"
	peersStream      = "n"
)

// FeedOptions say what a [Feed] brings; at least one of Shards, Health and Peers is needed.
type FeedOptions struct {
	Shards []int
	Health bool
	Peers  bool
	// NoLease leaves leasing the shards to other consumers. Then there is no replay.
	NoLease bool
	// MaxBytes bounds the events that wait here; 8 MiB if it is 0.
	MaxBytes int
}

// FeedCounters tell what became of events. Skipped: live ones left to a replay; Replays: requests for one.
type FeedCounters struct {
	Received, Skipped, Replays, Garbage uint64
}

// Feed has the events of some of a kernel's streams, each stream in order. Made by [KernelClient.Feed].
//
// A gap in a message stream is filled by a replay, or reported as a [*StreamLoss]. Events above MaxBytes stay in the kernel's
// ring, and are replayed once there is room.
type Feed struct {
	kernel  *KernelClient
	options FeedOptions
	socket  *socket
	life    context.Context
	end     context.CancelFunc
	wake    chan struct{} // an event was queued
	working sync.WaitGroup

	mu       sync.Mutex
	counters FeedCounters
	cursors  map[string]*cursor // by topic
	endpoint string
	queue    []Event
	queued   int           // bytes
	room     chan struct{} // closed when there is some again; nil: there is
	heard    chan struct{} // closed when all streams that beat have been heard; then nil
	filling  bool
	isClosed bool
	isEnded  bool      // by an event that we cannot read
	lastWord time.Time // when something came
	isDown   bool      // the kernel, as its silence showed
}

// Feed subscribes to streams, and returns when the subscriptions are in force.
func (k *KernelClient) Feed(ctx context.Context, options FeedOptions) (*Feed, error) {
	if options.MaxBytes <= 0 {
		options.MaxBytes = defaultFeedBytes
	}
	f := &Feed{
		kernel: k, options: options, wake: make(chan struct{}, 1), cursors: map[string]*cursor{}, heard: make(chan struct{}),
	}
	f.life, f.end = context.WithCancel(context.Background())
	streams := []string{}
	for _, shard := range options.Shards {
		streams = append(streams, fmt.Sprintf("m/%d/%d", k.Hello().Network.Cluster, shard))
	}
	if options.Health {
		streams = append(streams, healthStream)
	}
	if options.Peers {
		streams = append(streams, peersStream)
	}
	if len(streams) == 0 {
		return nil, newError(CodeBadRequest, "a feed of no stream: name shards, health or peers")
	}
	var topics []string
	for _, stream := range streams {
		topics = append(topics, stream+"\x00")
		f.cursors[stream+"\x00"] = &cursor{stream: stream, held: heldEvents{maxBytes: options.MaxBytes / (2 * len(streams))}}
	}
	if err := f.open(ctx, topics); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func (f *Feed) open(ctx context.Context, topics []string) (err error) {
	if len(f.options.Shards) > 0 && !f.options.NoLease {
		states, err := f.kernel.Lease(ctx, f.options.Shards...)
		if err != nil {
			f.options.NoLease = true // there is none to give back
			return err
		}
		for _, state := range states {
			if c := f.cursors[state.Stream+"\x00"]; c != nil {
				c.begin(f.kernel.Hello().Instance, state.Epoch, state.Last)
			}
		}
	}
	if f.socket, err = subscriber(topics); err != nil {
		return err
	}
	heard, beats := f.heard, slices.ContainsFunc(slices.Collect(maps.Values(f.cursors)), f.beats)
	f.socket.receive(f.receive)
	f.kernel.mu.Lock()
	isClosed, endpoint := f.kernel.isClosed, f.kernel.events
	if !isClosed {
		f.kernel.feeds[f] = true
	}
	f.kernel.mu.Unlock()
	if isClosed {
		return ErrClosed
	}
	f.moved(endpoint)
	if !beats {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, subscribeTimeout)
	defer cancel()
	select {
	case <-heard:
		f.watch()
		return nil
	case <-ctx.Done():
		f.mu.Lock()
		defer f.mu.Unlock()
		return newError(CodeNotReady, "no heartbeat on %s", strings.Join(f.silent(), ", "))
	}
}

// With mu. The streams without a heartbeat yet.
func (f *Feed) silent() (streams []string) {
	for _, c := range f.cursors {
		if !c.heard && f.beats(c) {
			streams = append(streams, c.stream)
		}
	}
	slices.Sort(streams)
	return streams
}

// Whether a stream has heartbeats: a shard that we do not lease may stay silent.
func (f *Feed) beats(c *cursor) bool {
	return !f.options.NoLease || !c.isMessages()
}

// The kernel's events are at this endpoint now.
func (f *Feed) moved(endpoint string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.socket == nil || f.isClosed || f.isEnded || f.endpoint == endpoint {
		return
	}
	if f.endpoint != "" {
		f.socket.disconnect(f.endpoint)
	}
	if f.socket.connect(endpoint) == nil {
		f.endpoint = endpoint
	}
}

// Close unsubscribes and gives the leases back.
func (f *Feed) Close() error {
	f.mu.Lock()
	if f.isClosed {
		f.mu.Unlock()
		return nil
	}
	f.isClosed = true
	f.mu.Unlock()
	f.end()
	f.kernel.mu.Lock()
	delete(f.kernel.feeds, f)
	f.kernel.mu.Unlock()
	if f.socket != nil {
		f.socket.close()
	}
	f.working.Wait()
	if f.options.NoLease || len(f.options.Shards) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), releaseTimeout)
	defer cancel()
	return f.kernel.Release(ctx, f.options.Shards...)
}

// -- events out -------------------------------------------------------------------------------------------------------

// Next returns the next event. Without a deadline it waits as long as it takes. At the end: [ErrClosed].
func (f *Feed) Next(ctx context.Context) (Event, error) {
	for {
		f.mu.Lock()
		if len(f.queue) > 0 {
			event := f.queue[0]
			f.queue[0] = nil
			f.queue = f.queue[1:]
			f.queued -= costOf(event)
			if f.room != nil && f.queued <= f.options.MaxBytes/2 {
				close(f.room)
				f.room = nil
			}
			f.mu.Unlock()
			return event, nil
		}
		f.mu.Unlock()
		select {
		case <-f.wake:
		case <-f.life.Done():
			return nil, ErrClosed
		case <-ctx.Done():
			return nil, ended(ctx, "no event")
		}
	}
}

// Events iterates over what Next returns, until the feed is closed or the context ends, which is the last error.
func (f *Feed) Events(ctx context.Context) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for {
			event, err := f.Next(ctx)
			if err == ErrClosed || !yield(event, err) || err != nil {
				return
			}
		}
	}
}

// Counters tell what became of events.
func (f *Feed) Counters() FeedCounters {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counters
}

func costOf(event Event) int {
	if message, is := event.(*KernelMessage); is {
		return eventOverhead + len(message.Payload)
	}
	return eventOverhead
}

// With mu.
func (f *Feed) put(event Event) {
	f.queue = append(f.queue, event)
	f.queued += costOf(event)
	if f.room == nil && f.queued >= f.options.MaxBytes {
		f.room = make(chan struct{})
	}
	select {
	case f.wake <- struct{}{}:
	default: // the waiting reader is woken already
	}
}

// With mu. An event of the client's own; a kernel that flaps while the app does not look fills no memory.
func (f *Feed) putLocal(event Event) {
	if !f.isClosed && !f.isEnded && f.queued <= 2*f.options.MaxBytes {
		f.put(event)
	}
}

// -- events in --------------------------------------------------------------------------------------------------------

func (f *Feed) receive(frames [][]byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.cursors[string(frames[0])]
	if c == nil || len(frames) != 3 || f.isEnded {
		f.counters.Garbage++
		return
	}
	kind, place, event, err := decodeKernelEvent(c.stream, frames[1], frames[2])
	if err != nil {
		f.counters.Garbage++
		if version := otherVersion(frames[1]); version != 0 {
			f.putLocal(&KernelLost{fmt.Sprintf("the kernel sends events of version %d", version)})
			f.isEnded = true
			go func() { _ = f.Close() }() // the socket's own receiver must not close it
		}
		return
	}
	f.lastWord = time.Now()
	var what verdict
	switch {
	case kind == kindHeartbeat:
		what = c.heartbeat(place)
		if f.heard != nil && len(f.silent()) == 0 {
			close(f.heard)
			f.heard = nil
		}
	case f.room != nil && !c.behind:
		what = catchUp // full: the kernel's ring keeps it, and a replay brings it
	default:
		if what = c.event(place); what != keep {
			f.hold(c, what, place, event)
		}
	}
	f.report(c)
	switch what {
	case keep:
		f.show(event)
	case catchUp:
		f.catchUp(c)
	}
}

// With mu. What is behind a gap is kept for the end of the replay.
func (f *Feed) hold(c *cursor, what verdict, place StreamPlace, event Event) {
	gap := c.behind || what == catchUp
	if gap && f.room == nil && c.isMessages() {
		f.counters.Skipped += uint64(c.held.add(place, event))
	} else {
		f.counters.Skipped += 1 + uint64(c.held.clear())
	}
}

// With mu. Kinds of later versions are not shown.
func (f *Feed) show(event Event) {
	if event != nil {
		f.counters.Received++
		f.put(event)
	}
}

// With mu. For health and peers the whole list replaces what is lost.
func (f *Feed) report(c *cursor) {
	losses := c.losses
	c.losses = nil
	if len(losses) > 0 && !c.isMessages() {
		f.catchUp(c)
		return
	}
	for _, loss := range losses {
		f.put(loss)
	}
}
