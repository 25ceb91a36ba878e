package logos

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"time"

	zmq "github.com/pebbe/zmq4"
)

// How a connection comes and goes: what the socket's monitor says, reconnects, hello, silence.

func (c *connection) noticed(frames [][]byte) {
	c.dispatch.Lock()
	defer c.dispatch.Unlock()
	// A uint16 in the machine's order leads (zmq_socket_monitor(3)).
	switch zmq.Event(binary.NativeEndian.Uint16(frames[0])) {
	case zmq.EVENT_HANDSHAKE_SUCCEEDED:
		c.mu.Lock()
		if c.retrying { // it is about a connection that was given up
			c.mu.Unlock()
			return
		}
		c.shaken, c.strange, c.retryDelay = true, false, reconnect
		c.mu.Unlock()
		c.greet()
	case zmq.EVENT_DISCONNECTED:
		c.mu.Lock()
		c.shaken, c.strange = false, !c.shaken
		c.failure = nil
		c.mu.Unlock()
		c.lose("the connection was lost")
		c.reconnect()
	case zmq.EVENT_CONNECT_RETRIED: // libzmq would wait now
		c.mu.Lock()
		c.strange = c.strange && c.retrying // else nothing listens there
		c.mu.Unlock()
		c.lose("the connection was lost")
		c.reconnect()
	}
}

// Drops the connection, with all that is queued for its server, and makes another one soon.
func (c *connection) reconnect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.retrying || c.state == closed {
		return
	}
	c.retrying = true
	c.socket.disconnect(c.endpoint)
	longest := reconnectMax
	if c.strange {
		longest = strangeMax
	}
	delay := min(c.retryDelay, longest) + rand.N(reconnect)
	c.retryDelay = min(2*c.retryDelay, longest)
	c.work(func() {
		select {
		case <-time.After(delay):
		case <-c.life.Done():
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.retrying = false
		_ = c.socket.connect(c.endpoint) // it took this endpoint before
	})
}

// What was asked on this connection has no answer any more; nothing of it may reach a successor.
func (c *connection) lose(reason string) {
	c.mu.Lock()
	was := c.state
	c.setState(connecting)
	c.failPending(lost(reason))
	c.mu.Unlock()
	if was == ready {
		c.hooks.down(reason)
	}
}

func (c *connection) greet() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failPending(lost("the connection was lost"))
	if c.state == closed {
		return
	}
	c.setState(greeting)
	talk := c.talk
	c.work(func() { c.greetIn(talk) })
}

func (c *connection) greetIn(talk context.Context) {
	for delay := helloRetry; ; {
		ctx, cancel := context.WithTimeout(talk, helloTimeout)
		_, err := c.ask(ctx, greeting, "hello", encodeBody(c.hooks.hello()), nil)
		cancel()
		if err == nil || talk.Err() != nil {
			return // done, or lost: the next connection does it
		}
		var e *Error
		if !errors.As(err, &e) {
			e = newError(CodeInternal, "hello: %v", err)
		}
		if c.worthWaiting(e) {
			delay = min(delay*2, helloRetryMax)
		} else {
			c.refuse(talk, e)
			delay = refusedRetry
		}
		select {
		case <-time.After(max(delay, e.RetryAfter)):
		case <-talk.Done():
			return
		}
		c.mu.Lock()
		if talk.Err() == nil {
			c.setState(greeting)
		}
		c.mu.Unlock()
	}
}

func (c *connection) worthWaiting(e *Error) bool {
	if e.Code != CodeConflict {
		return e.Retriable
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conflictSince.IsZero() {
		c.conflictSince = time.Now()
	}
	return time.Since(c.conflictSince) < conflictGrace
}

func (c *connection) refuse(talk context.Context, e *Error) {
	c.dispatch.Lock()
	defer c.dispatch.Unlock()
	c.mu.Lock()
	if talk.Err() != nil {
		c.mu.Unlock()
		return
	}
	first := c.failure == nil && c.greetedOnce
	c.failure = e
	c.setState(refused)
	c.mu.Unlock()
	if first {
		c.hooks.down(e.Message)
	}
}

func (c *connection) keepAlive() {
	if c.hooks.keepalive == "" {
		return
	}
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-c.life.Done():
			return
		}
		c.mu.Lock()
		due := c.state == ready && !(time.Since(c.heard) < silence && time.Since(c.spoke) < idle)
		c.mu.Unlock()
		if due {
			// No answer: a hung server. Its return, or the loss of the connection, is noticed elsewhere.
			ctx, cancel := context.WithTimeout(c.life, silence)
			_, _ = c.ask(ctx, ready, c.hooks.keepalive, encodeBody(nil), nil)
			cancel()
		}
	}
}
