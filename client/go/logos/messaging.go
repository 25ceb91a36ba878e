package logos

import (
	"context"
	"errors"
	"iter"
	"maps"
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
	lost      *position // until the app has the event
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
