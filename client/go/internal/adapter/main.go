// The adapter of the Go client for the conformance kit: commands as lines of JSON on stdin, answers on stdout. See
// client/conformance/README.md.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/logos-mapi/logos-mapi/client/go/internal/plain"
	"github.com/logos-mapi/logos-mapi/client/go/logos"
)

type command struct {
	ID        int      `json:"id"`
	Cmd       string   `json:"cmd"`
	Endpoint  string   `json:"endpoint"`
	Name      string   `json:"name"`
	Takeover  bool     `json:"takeover"`
	Credit    int      `json:"credit"`
	Topic     string   `json:"topic"`
	Topics    []string `json:"topics"`
	Payload   string   `json:"payload"`
	RequestID string   `json:"request_id"`
	Channel   string   `json:"channel"`
	TimeoutMs int      `json:"timeout_ms"`
	// Of the commands of a kernel's client, which are for this repository's tests.
	Directory string `json:"directory"`
	Shards    []int  `json:"shards"`
	MaxBytes  int    `json:"max_bytes"`
}

// One client at a time, and the last event it gave.
type subject struct {
	mu     sync.Mutex
	client *logos.MessagingClient
	event  logos.Event
	kernel *logos.KernelClient
	feed   *logos.Feed
}

func (s *subject) run(ctx context.Context, c command) (any, error) {
	if c.Cmd == "connect" {
		options := logos.MessagingOptions{Name: c.Name, Takeover: c.Takeover, Credit: c.Credit}
		client, err := logos.ConnectMessaging(ctx, c.Endpoint, options)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.client = client
		return nil, err
	}
	if c.Cmd == "kernel_connect" {
		kernel, err := logos.ConnectKernel(ctx, c.Directory, logos.KernelOptions{Name: c.Name})
		s.mu.Lock()
		defer s.mu.Unlock()
		s.kernel = kernel
		return nil, err
	}
	if s.ofKernel() != nil {
		return s.runKernel(ctx, c)
	}
	s.mu.Lock()
	client, last := s.client, s.event
	s.mu.Unlock()
	switch c.Cmd {
	case "next":
		event, err := client.Next(ctx)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.event = event
		return plain.Event(event), nil
	case "ack":
		return nil, client.Ack(ctx, last)
	case "subscribe":
		return client.Subscribe(ctx, c.Topics...)
	case "unsubscribe":
		return client.Unsubscribe(ctx, c.Topics...)
	case "subscriptions":
		return client.Subscriptions(ctx)
	case "status":
		return client.Status(ctx)
	case "send":
		payload, err := hex.DecodeString(c.Payload)
		if err != nil {
			return nil, err
		}
		var options logos.SendOptions
		if _, err := hex.Decode(options.RequestID[:], []byte(c.RequestID)); err != nil {
			return nil, err
		}
		return client.Send(ctx, c.Topic, payload, options)
	case "find_send":
		var id logos.ID
		if _, err := hex.Decode(id[:], []byte(c.RequestID)); err != nil {
			return nil, err
		}
		if c.Channel != "" {
			found, err := client.FindChannelSend(ctx, c.Channel, id)
			if found == nil {
				return nil, err
			}
			return found.End, err
		}
		found, err := client.FindSend(ctx, id, "")
		if found == nil {
			return nil, err
		}
		return found.State, err
	case "channel_create":
		if err := client.SetChannelEncryption(c.Channel, seal, unseal); err != nil {
			return nil, err
		}
		_, err := client.CreateChannel(ctx, c.Channel, c.Topic, logos.ChannelOptions{Hooks: true})
		return nil, err
	case "channel_send":
		payload, err := hex.DecodeString(c.Payload)
		if err != nil {
			return nil, err
		}
		return client.SendToChannel(ctx, c.Channel, payload)
	case "close":
		client.Handled()
		return nil, client.Close()
	}
	return nil, fmt.Errorf("no command %s", c.Cmd)
}

func flipped(segment []byte) []byte {
	turned := bytes.Clone(segment)
	for i := range turned {
		turned[i] ^= 0x20
	}
	return turned
}

func seal(segment []byte) ([]byte, error) { return append([]byte("+"), flipped(segment)...), nil }

func unseal(segment []byte) ([]byte, error) {
	content, sealed := bytes.CutPrefix(segment, []byte("+"))
	if !sealed {
		return nil, errors.New("not sealed")
	}
	return flipped(content), nil
}

func (s *subject) ofKernel() *logos.KernelClient {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kernel
}

func (s *subject) runKernel(ctx context.Context, c command) (any, error) {
	kernel := s.ofKernel()
	switch c.Cmd {
	case "feed":
		feed, err := kernel.Feed(ctx, logos.FeedOptions{Shards: c.Shards, Health: true, Peers: true, MaxBytes: c.MaxBytes})
		s.mu.Lock()
		defer s.mu.Unlock()
		s.feed = feed
		return nil, err
	case "next":
		s.mu.Lock()
		feed := s.feed
		s.mu.Unlock()
		event, err := feed.Next(ctx)
		if err != nil {
			return nil, err
		}
		return plain.Event(event), nil
	case "publish":
		payload, err := hex.DecodeString(c.Payload)
		if err != nil {
			return nil, err
		}
		return kernel.Publish(ctx, logos.RelayPublishRequest{ContentTopic: c.Topic}, payload)
	case "query":
		info, err := kernel.NodeInfo(ctx, "MyPeerId")
		if err != nil {
			return nil, err
		}
		own, _ := info["MyPeerId"].(string)
		page, err := kernel.QueryStore(ctx, logos.StoreQueryRequest{ContentTopics: c.Topics, IncludeData: true, Peer: own})
		if err != nil {
			return nil, err
		}
		payloads := []string{}
		for _, message := range page.Messages {
			payloads = append(payloads, hex.EncodeToString(message.Payload))
		}
		return payloads, nil
	case "peers":
		return kernel.Peers(ctx)
	case "health":
		return kernel.Health(ctx)
	case "close":
		return nil, kernel.Close()
	}
	return nil, fmt.Errorf("no command %s", c.Cmd)
}

func (s *subject) answer(c command) map[string]any {
	if c.TimeoutMs == 0 {
		c.TimeoutMs = 10_000
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(c.TimeoutMs)*time.Millisecond)
	defer cancel()
	result, err := s.run(ctx, c)
	if err == nil {
		return map[string]any{"id": c.ID, "ok": true, "result": plain.Value(result)}
	}
	said := map[string]any{"code": "", "message": err.Error()}
	var e *logos.Error
	if errors.As(err, &e) {
		said = map[string]any{
			"code": e.Code, "retriable": e.Retriable, "message": e.Message, "retry_after_ms": e.RetryAfter.Milliseconds(),
		}
	}
	return map[string]any{"id": c.ID, "ok": false, "error": said}
}

func main() {
	var s subject
	var output sync.Mutex
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		go func() { // commands may overlap
			line, err := json.Marshal(s.answer(c))
			if err != nil {
				line = fmt.Appendf(nil, `{"id": %d, "ok": false, "error": {"message": %q}}`, c.ID, err)
			}
			output.Lock()
			defer output.Unlock()
			_, _ = os.Stdout.Write(append(line, '\n'))
		}()
	}
}
