package logos

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"
)

type state string

const (
	connecting state = "connecting" // no server, or a lost one
	greeting   state = "greeting"   // hello is on its way
	ready      state = "ready"
	refused    state = "refused" // a server that is there and does not take our hello; tried again slowly
	closed     state = "closed"
)

const (
	defaultTimeout = 10 * time.Second
	helloTimeout   = 3 * time.Second
	helloRetry     = 100 * time.Millisecond
	helloRetryMax  = 2 * time.Second
	refusedRetry   = 5 * time.Second
	conflictGrace  = 3 * time.Second  // a server may take our own dead predecessor for alive until its next heartbeat
	silence        = 4 * time.Second  // without a word from the server: ask whether it still knows us
	idle           = 10 * time.Second // without a word from us: the server gives us up after 30 s
	tick           = time.Second
	// Until the next attempt to connect, which double; up to the first more at random. A server lets in a few dozen clients
	// at a time, and after a restart all come at once (§1).
	reconnect       = 50 * time.Millisecond
	reconnectMax    = 250 * time.Millisecond
	strangeMax      = 3200 * time.Millisecond // where connections end before their handshake: a moment does not change what listens there
	defaultInFlight = 64                      // until the hello says how many
	helloFirst      = "hello first"
)

// What a connection needs from its user. All but hello are called one at a time, in the order of what happened.
type hooks struct {
	hello     func() any                                     // the hello's body, made each time
	greeted   func(body []byte) (inFlight uint64, err error) // accepted; an error counts as a refusal
	down      func(reason string)                            // what was ready is lost, or refused
	event     func(frames [][]byte)                          // of the app's stream
	keepalive string                                         // the method; empty: none
}

type call struct {
	done  chan result // of one
	hello bool
}

type result struct {
	reply *reply
	err   error
}

// One DEALER to a server of the contract: hello, concurrent requests, reconnect (§2).
type connection struct {
	endpoint string
	hooks    hooks
	socket   *socket
	monitor  *socket
	slots    turnstile
	life     context.Context
	end      context.CancelFunc
	working  sync.WaitGroup

	// Held while hooks run. Order of locks: dispatch, a client's own, mu, the socket's.
	dispatch sync.Mutex

	mu            sync.Mutex
	state         state
	changed       chan struct{} // closed at each change of state
	pending       map[ID]*call
	talk          context.Context // of the connection that there is: nothing meant for one may reach the next
	endTalk       context.CancelFunc
	instance      ID
	failure       *Error
	conflictSince time.Time
	greetedOnce   bool
	heard, spoke  time.Time
	shaken        bool // the server's socket is of the right kind
	strange       bool // it is not
	retrying      bool // the socket has no connection until the next attempt
	retryDelay    time.Duration
}

func newConnection(endpoint string, h hooks) (*connection, error) {
	c := &connection{
		endpoint: endpoint, hooks: h, state: connecting,
		changed: make(chan struct{}), pending: map[ID]*call{}, slots: turnstile{limit: defaultInFlight},
		retryDelay: reconnect,
	}
	c.life, c.end = context.WithCancel(context.Background())
	c.talk, c.endTalk = context.WithCancel(c.life)
	var err error
	if c.socket, err = dealer(); err != nil {
		return nil, err
	}
	if c.monitor, err = c.socket.monitor(); err != nil {
		c.socket.close()
		return nil, err
	}
	return c, nil
}

// Begins; hooks may be called from now on.
func (c *connection) start() error {
	c.monitor.receive(c.noticed)
	c.socket.receive(c.received)
	if err := c.socket.connect(c.endpoint); err != nil {
		return newError(CodeBadRequest, "%s is not an endpoint: %v", c.endpoint, err)
	}
	c.work(c.keepAlive)
	return nil
}

func (c *connection) work(do func()) {
	c.working.Add(1)
	go func() {
		defer c.working.Done()
		do()
	}()
}

// Not to be called by a hook.
func (c *connection) close() {
	c.mu.Lock()
	c.setState(closed)
	c.failPending(ErrClosed)
	c.mu.Unlock()
	c.end()
	c.socket.stopMonitor()
	c.monitor.close()
	c.socket.close()
	c.working.Wait()
}

// -- requests ---------------------------------------------------------------------------------------------------------

func withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, has := ctx.Deadline(); has {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, defaultTimeout)
}

// The reply to a request. Waits for the server and for a place among the requests in flight.
func (c *connection) request(ctx context.Context, method string, body any, blobs ...[]byte) (*reply, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	if err := c.slots.enter(ctx); err != nil {
		return nil, ended(ctx, method+": not sent")
	}
	defer c.slots.leave()
	packed := encodeBody(body)
	for {
		if err := c.whenReady(ctx); err != nil {
			return nil, err
		}
		answer, err := c.ask(ctx, ready, method, packed, blobs)
		// The server does not know this connection, so it did nothing: the request may go out again.
		if !errors.Is(err, errNotSent) && !wantsHello(err) {
			return answer, err
		}
	}
}

var errNotSent = errors.New("the connection was lost before")

func wantsHello(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == CodeNotReady && strings.HasSuffix(e.Message, helloFirst)
}

func (c *connection) whenReady(ctx context.Context) error {
	for {
		c.mu.Lock()
		now, failure, strange, changed := c.state, c.failure, c.strange, c.changed
		c.mu.Unlock()
		switch {
		case now == ready:
			return nil
		case now == closed:
			return ErrClosed
		case failure != nil:
			return failure
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			hint := " (" + string(now) + ")"
			if path, ipc := strings.CutPrefix(c.endpoint, "ipc://"); ipc {
				if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
					hint = " (" + string(now) + "; there is no such socket)"
				}
			}
			if strange {
				hint = ": what listens there takes no requests (an events socket, or no server of this contract), is full, " +
					"or turns this user away (allowed-uid)"
			}
			late := newError(CodeNotReady, "no answer from %s in time%s", c.endpoint, hint)
			late.cause = context.DeadlineExceeded
			return late
		}
	}
}

// The reply to a request that goes out in the state wanted, or not at all.
func (c *connection) ask(ctx context.Context, in state, method string, body []byte, blobs [][]byte) (*reply, error) {
	deadline, _ := ctx.Deadline()
	budget := min(time.Until(deadline).Milliseconds(), maxBudgetMs)
	if budget < 1 || ctx.Err() != nil {
		return nil, ended(ctx, method+": no answer")
	}
	id, waiting := NewID(), &call{make(chan result, 1), in == greeting}
	c.mu.Lock()
	if c.state != in {
		c.mu.Unlock()
		return nil, errNotSent
	}
	c.pending[id] = waiting
	c.spoke = time.Now()
	talk := c.talk
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.pending, id)
		c.mu.Unlock()
	}()
	frames := encodeRequest(id, method, uint64(budget), 0, body, blobs...)
	for {
		full, err := c.socket.send(frames)
		if err != nil {
			return nil, err
		}
		select {
		case <-full: // nil, and so never, once it is sent
			if talk.Err() == nil {
				continue
			}
			return nil, lost("the connection was lost")
		case done := <-waiting.done:
			return done.reply, done.err
		case <-ctx.Done():
			return nil, ended(ctx, method+": no answer")
		}
	}
}

// A request whose success is not waited for; lost with the connection. False: it cannot be sent now.
func (c *connection) notify(method string, body any) bool {
	c.mu.Lock()
	now := c.state
	c.spoke = time.Now()
	c.mu.Unlock()
	if now != ready {
		return false
	}
	full, err := c.socket.send(encodeRequest(NewID(), method, 0, noReply, encodeBody(body)))
	return full == nil && err == nil
}

// -- what arrives -----------------------------------------------------------------------------------------------------

func (c *connection) received(frames [][]byte) {
	c.dispatch.Lock()
	defer c.dispatch.Unlock()
	if isEvent(frames) {
		c.mu.Lock()
		c.heard = time.Now()
		c.mu.Unlock()
		if c.hooks.event != nil {
			c.hooks.event(frames)
		}
		return
	}
	answer, err := decodeReply(frames)
	if err != nil {
		return // garbage: its request gets no answer in time
	}
	c.mu.Lock()
	c.heard = time.Now()
	waiting := c.pending[answer.id]
	delete(c.pending, answer.id)
	restarted := c.instance != ID{} && c.instance != answer.instance
	c.instance = answer.instance
	now := c.state
	c.mu.Unlock()
	done := result{answer, nil}
	if answer.err != nil {
		done = result{nil, answer.err}
	}
	// The state first, then the reply: the caller that waits for it may make another request at once.
	switch {
	case waiting != nil && waiting.hello && done.err == nil:
		done.err = c.accept(answer)
	case now == ready && restarted:
		c.lose("the server was restarted")
		c.greet()
	case now == ready && wantsHello(done.err):
		c.lose("the server does not know this connection any more")
		c.greet()
	}
	if waiting != nil {
		waiting.done <- done
	}
}

// Our hello was accepted; events may stand right behind it.
func (c *connection) accept(answer *reply) error {
	inFlight, err := c.hooks.greeted(answer.body)
	if err != nil {
		return err
	}
	if inFlight == 0 {
		inFlight = defaultInFlight
	}
	c.slots.resize(int(inFlight))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failure, c.conflictSince, c.greetedOnce = nil, time.Time{}, true
	c.setState(ready)
	return nil
}

// -- state ------------------------------------------------------------------------------------------------------------

func (c *connection) isReady() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state == ready
}

// With mu.
func (c *connection) setState(to state) {
	if c.state == closed {
		return
	}
	c.state = to
	close(c.changed)
	c.changed = make(chan struct{})
}

// With mu. Ends the talk, and begins another.
func (c *connection) failPending(err error) {
	c.endTalk()
	c.talk, c.endTalk = context.WithCancel(c.life)
	for id, waiting := range c.pending {
		delete(c.pending, id)
		waiting.done <- result{nil, err}
	}
}
