package logos

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// The session of an app: its hellos, what it resumes, and the credit and acks of its stream.

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
	// The connection may be lost again before the app learns of it: what it has events of is the first stream.
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
