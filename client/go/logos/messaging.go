package logos

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	protocolVersion = 1
	defaultCredit   = 2 << 20
	ackDelay        = 100 * time.Millisecond // one ack for all that was handled in this time: for a named app it is a write to the disk
	retryDelay      = 200 * time.Millisecond
	retryDelayMax   = 5 * time.Second
	leaveTimeout    = 2 * time.Second
)

// MessagingOptions are those of [ConnectMessaging]. All may be left out.
type MessagingOptions struct {
	// Name makes the app durable: its subscriptions, stream and position outlive this program. Without one the app ends
	// with its connection. 1 to 64 of a-z, 0-9, ".", "_" and "-".
	Name string
	// Takeover ends another live connection of that name.
	Takeover bool
	// Credit bounds the bytes of events that wait here or are on their way; 2 MiB if it is 0.
	Credit int
	// ManualAck leaves acknowledging to [MessagingClient.Ack]. Without it an event is acknowledged when the next one is
	// asked for.
	ManualAck bool
}

// LinkLost is an event of the client's own: the Messaging API is gone, and looked for.
type LinkLost struct {
	Reason string `json:"reason"`
}

// LinkRestored is an event of the client's own: the Messaging API is there again. Resumed: the stream goes on behind the
// last event. Else it ended at LastSeq of LostStream, and another one begins.
type LinkRestored struct {
	Resumed            bool              `json:"resumed"`
	LostStream         *ID               `json:"lost_stream"`
	LastSeq            uint64            `json:"last_seq"`
	SubscriptionErrors map[string]string `json:"subscription_errors"`
}

// Kind is "link_lost".
func (*LinkLost) Kind() string { return "link_lost" }

// Kind is "link_restored".
func (*LinkRestored) Kind() string { return "link_restored" }

// MessagingClient is an app's connection to a Messaging API. Made by [ConnectMessaging].
type MessagingClient struct {
	options    MessagingOptions
	connection *connection
	wake       chan struct{} // something was queued, or the end has come
	left       context.Context
	leave      context.CancelFunc
	working    sync.WaitGroup

	mu        sync.Mutex
	stream    appStream
	topics    map[string]bool
	hooks     map[string]hookPair
	opening   bool // the event in hand is a segment that is being given back, and not the app's
	hello     *MapiHello
	status    StatusReply
	offered   uint64
	lost      *position // until the app is told
	timer     *time.Timer
	isClosed  bool
	takenOver bool
}

// ConnectMessaging connects to a Messaging API; where is ipc://…, tcp://… or a node's run directory.
//
// It waits for the Messaging API until the context's deadline (10 s without one). Errors: CodeNotReady (none there in
// time), CodeConflict (the name is in use), CodeBadRequest, CodeUnsupportedVersion, CodeUnauthorised.
func ConnectMessaging(ctx context.Context, where string, options MessagingOptions) (*MessagingClient, error) {
	endpoint, err := endpointOf(where, "mapi/apps")
	if err = errors.Join(err, checkName(options.Name)); err != nil {
		return nil, err
	}
	if options.Credit <= 0 {
		options.Credit = defaultCredit
	}
	c := &MessagingClient{options: options, wake: make(chan struct{}, 1), topics: map[string]bool{}, hooks: map[string]hookPair{}}
	c.stream.window = uint64(options.Credit)
	c.left, c.leave = context.WithCancel(context.Background())
	c.connection, err = newConnection(endpoint, hooks{
		hello: c.helloBody, greeted: c.greeted, down: c.linkLost, event: c.receive, keepalive: "ping",
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	if err := c.connection.start(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	err = c.connection.whenReady(ctx)
	if err == nil {
		err = c.completeTopics(ctx)
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// Gets the rest of a first hello's list that went on (§4.2): a server that loses the app's subscriptions then gets all of
// them again.
func (c *MessagingClient) completeTopics(ctx context.Context) error {
	if !c.Hello().More {
		return nil
	}
	topics, err := c.Subscriptions(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, topic := range topics {
		c.topics[topic] = true
	}
	return err
}

// -- what is known ----------------------------------------------------------------------------------------------------

// Connected tells whether the Messaging API is there now (not whether its node has peers: see Status).
func (c *MessagingClient) Connected() bool { return c.connection.isReady() }

// Hello is the Messaging API's last answer to our hello: the app's name, the network, limits.
func (c *MessagingClient) Hello() MapiHello {
	c.mu.Lock()
	defer c.mu.Unlock()
	return *c.hello
}

// LastStatus is the node's status as far as it is known here, without a request: that of the hello, and what events have
// brought since.
func (c *MessagingClient) LastStatus() StatusReply {
	c.mu.Lock()
	defer c.mu.Unlock()
	status := c.status
	status.Topics = maps.Clone(status.Topics)
	return status
}

// Counters tell what became of events on their way in.
func (c *MessagingClient) Counters() Counters {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stream.counters
}

// BufferedBytes is the size of the events that wait for the app.
func (c *MessagingClient) BufferedBytes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return int(c.stream.queuedBytes)
}

// -- events -----------------------------------------------------------------------------------------------------------

// Next returns the next event; asking for it says that the one before it is handled. Without a deadline it waits as long
// as it takes. It is for one goroutine at a time. At the end: [ErrClosed], or CodeConflict behind a [*TakenOver].
func (c *MessagingClient) Next(ctx context.Context) (Event, error) {
	for {
		c.mu.Lock()
		event := c.stream.take()
		segment, decrypt := c.toOpen(event)
		c.settle()
		end := c.checkOpen()
		c.mu.Unlock()
		if segment != nil {
			if err := c.open(ctx, segment, decrypt); err != nil {
				return nil, err
			}
			continue
		}
		if event != nil {
			return event, nil
		}
		if end != nil {
			return nil, end
		}
		select {
		case <-c.wake:
		case <-c.left.Done():
		case <-ctx.Done():
			return nil, ended(ctx, "no event")
		}
	}
}

// Events iterates over what Next returns, until the client is closed or the context ends, which is the last error.
//
// A loop that is left keeps its last event in hand: it counts as handled when the next one is asked for, or by Handled.
func (c *MessagingClient) Events(ctx context.Context) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for {
			event, err := c.Next(ctx)
			if err == ErrClosed || !yield(event, err) || err != nil {
				return
			}
		}
	}
}

// Handled says that the last event that Next returned is handled, without asking for another one.
func (c *MessagingClient) Handled() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.opening {
		c.stream.handled()
		c.settle()
	}
}

// Ack acknowledges everything up to an event; of a named app it is on disk when this returns. Events of the client's own
// need none.
func (c *MessagingClient) Ack(ctx context.Context, event Event) error {
	of, ok := event.(streamEvent)
	if !ok || event.Kind() == "taken_over" {
		return nil
	}
	at := position{of.header().StreamID, of.header().Seq}
	if err := c.Call(ctx, "ack", AckRequest{Stream: at.stream, Seq: at.seq}, nil); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stream.acked(at)
	return nil
}

func (c *MessagingClient) signal() {
	select {
	case c.wake <- struct{}{}:
	default: // the waiting reader is woken already
	}
}

// -- the end ----------------------------------------------------------------------------------------------------------

// Close acknowledges what was handled and leaves, within two seconds; a named app goes on in the Messaging API. The last event that Next
// returned comes again unless Handled was called: the client cannot know what became of it.
func (c *MessagingClient) Close() error {
	c.mu.Lock()
	if c.isClosed {
		c.mu.Unlock()
		return nil
	}
	c.isClosed = true
	if c.timer != nil {
		c.timer.Stop()
	}
	at, due := c.stream.ackDue()
	takenOver := c.takenOver
	c.mu.Unlock()
	var err error
	if c.connection.isReady() && !takenOver {
		ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
		if due && !c.options.ManualAck {
			_, err = c.connection.request(ctx, "ack", AckRequest{Stream: at.stream, Seq: at.seq})
		}
		_, bye := c.connection.request(ctx, "goodbye", nil)
		err = errors.Join(err, bye)
		cancel()
	}
	c.leave()
	c.connection.close()
	c.working.Wait()
	return err
}

// With mu.
func (c *MessagingClient) checkOpen() error {
	if c.takenOver {
		return &Error{Code: CodeConflict, Message: "another connection has taken over this app's name"}
	}
	if c.isClosed {
		return ErrClosed
	}
	return nil
}

// -- the session ------------------------------------------------------------------------------------------------------

func (c *MessagingClient) helloBody() any {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offered = c.stream.openingCredit()
	var seen *SeenPosition // by which a server notices that an older state of it was put back
	if c.hello != nil && c.stream.lastSeq > 0 {
		seen = &SeenPosition{Stream: c.stream.id, Seq: c.stream.lastSeq, Instance: c.hello.Instance}
	}
	return HelloRequest{
		Kind: "app", Protocol: []int{protocolVersion, protocolVersion}, Name: c.options.Name, Credit: c.offered, Seen: seen,
		// For the first time only: two that both insist would take turns for ever.
		Takeover: c.options.Takeover && c.hello == nil,
	}
}

func (c *MessagingClient) greeted(body []byte) (inFlight uint64, err error) {
	var about struct {
		Server string `json:"server,omitempty"`
	}
	var hello MapiHello
	if err := decodeBody(body, &about); err != nil {
		return 0, err
	}
	if err := checkServer(about.Server, "logos-mapi"); err != nil {
		return 0, err
	}
	if err := errors.Join(decodeBody(body, &hello), checkProtocol(hello.Protocol)); err != nil {
		return 0, fmt.Errorf("hello: the reply is not that of a Messaging API: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	first := c.hello == nil
	c.hello, c.status = &hello, hello.Status
	c.status.Topics = maps.Clone(c.status.Topics)
	// The connection may be lost again before the app is told: what it has events of is the first stream.
	if lost := c.stream.greeted(hello.Stream.ID, hello.Stream.Acked, c.offered); c.lost == nil {
		c.lost = lost
	}
	if first {
		for _, topic := range hello.Subscriptions {
			c.topics[topic] = true
		}
		return hello.Limits.InFlight, nil
	}
	missing := maps.Clone(c.topics)
	for _, topic := range hello.Subscriptions {
		delete(missing, topic)
	}
	if known := hello.Subscriptions; hello.More && len(known) > 0 {
		// A list that goes on is sorted (§4.2): it says nothing about what lies behind its end.
		maps.DeleteFunc(missing, func(topic string, _ bool) bool { return topic > known[len(known)-1] })
	}
	if len(missing) == 0 {
		c.linkRestored(nil)
	} else {
		c.working.Add(1)
		go c.resubscribe(slices.Sorted(maps.Keys(missing)))
	}
	c.settleLater() // what was handled meanwhile
	return hello.Limits.InFlight, nil
}

// Asks again for what the Messaging API does not know of us any more.
func (c *MessagingClient) resubscribe(topics []string) {
	defer c.working.Done()
	refused := map[string]string{}
	for delay := retryDelay; ; delay = min(2*delay, retryDelayMax) {
		answer, err := c.connection.request(c.left, "subscribe", SubscribeRequest{Topics: topics})
		var body SubscribeReply
		if err == nil {
			err = decodeBody(answer.body, &body)
		}
		if err == nil {
			refused = body.Errors
			break
		}
		if errors.Is(err, CodePeerRestarted) || !c.connection.isReady() {
			return // the next hello does it
		}
		if e := (*Error)(nil); !errors.As(err, &e) || !e.Retriable {
			for _, topic := range topics {
				refused[topic] = err.Error()
			}
			break
		}
		select {
		case <-time.After(delay):
		case <-c.left.Done():
			return
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for topic := range refused {
		delete(c.topics, topic)
	}
	c.linkRestored(refused)
}

// With mu.
func (c *MessagingClient) linkRestored(refused map[string]string) {
	lost := c.lost
	c.lost = nil
	event := &LinkRestored{Resumed: lost == nil, LastSeq: c.stream.lastSeq, SubscriptionErrors: refused}
	if lost != nil {
		event.LostStream, event.LastSeq = &lost.stream, lost.seq
	}
	c.stream.putLocal(event)
	c.signal()
}

func (c *MessagingClient) linkLost(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.takenOver && !c.isClosed {
		c.stream.putLocal(&LinkLost{reason})
		c.signal()
	}
}

func (c *MessagingClient) receive(frames [][]byte) {
	kind, header, event, err := decodeEvent(frames)
	cost := len(frames[1])
	if len(frames) > 2 {
		cost += len(frames[2])
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.stream.counters.Garbage++
		return
	}
	if c.takenOver {
		return // it was the last one
	}
	if !c.stream.receive(kind, header, event, uint64(cost)) {
		c.settle() // what was dropped gives its credit back too
		return
	}
	switch e := event.(type) {
	case *TakenOver:
		c.takenOver = true
		// Not here: this is the connection's own goroutine.
		c.working.Add(1)
		go func() {
			defer c.working.Done()
			c.connection.close()
		}()
	case *ConnectionStatusChange:
		c.status.Connection, c.status.Reason = e.Status, e.Reason
	case *ContentTopicHealthChange:
		if c.status.Topics == nil {
			c.status.Topics = map[string]string{}
		}
		c.status.Topics[e.ContentTopic] = e.Health
	}
	c.signal()
}

// With mu. Gives credit back, and sees to it that an ack follows soon.
func (c *MessagingClient) settle() {
	if c.isClosed || c.takenOver {
		return
	}
	if total := c.stream.creditDue(); total > 0 {
		if c.connection.notify("credit", CreditRequest{Total: total}) {
			c.stream.granted = total
		} else {
			c.settleLater()
		}
	}
	if _, due := c.stream.ackDue(); due && !c.options.ManualAck {
		c.settleLater()
	}
}

// With mu.
func (c *MessagingClient) settleLater() {
	if c.timer != nil || c.isClosed {
		return
	}
	c.timer = time.AfterFunc(ackDelay, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.timer = nil
		if c.isClosed || c.takenOver {
			return
		}
		if at, due := c.stream.ackDue(); due && !c.options.ManualAck {
			if c.connection.notify("ack", AckRequest{Stream: at.stream, Seq: at.seq}) {
				c.stream.acked(at)
			}
		}
		c.settle()
	})
}
