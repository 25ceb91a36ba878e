package logos

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"
)

// Call makes any request of the contract; what it answers is read into the struct or map that into points to, if any.
func (c *MessagingClient) Call(ctx context.Context, method string, body, into any, blobs ...[]byte) error {
	answer, err := c.ask(ctx, method, body, blobs...)
	if err != nil || into == nil {
		return err
	}
	return decodeBody(answer.body, into)
}

func (c *MessagingClient) ask(ctx context.Context, method string, body any, blobs ...[]byte) (*reply, error) {
	c.mu.Lock()
	err := c.checkOpen()
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return c.connection.request(ctx, method, body, blobs...)
}

// An idempotent request: it does not give up when a connection is lost.
func (c *MessagingClient) repeat(ctx context.Context, method string, body, into any, blobs ...[]byte) error {
	answer, err := c.repeatWhole(ctx, method, body, blobs...)
	if err != nil || into == nil {
		return err
	}
	return decodeBody(answer.body, into)
}

// As repeat, with the blobs of the reply.
func (c *MessagingClient) repeatWhole(ctx context.Context, method string, body any, blobs ...[]byte) (*reply, error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	for {
		answer, err := c.ask(ctx, method, body, blobs...)
		if !errors.Is(err, CodePeerRestarted) || ctx.Err() != nil {
			return answer, err
		}
	}
}

// History says which earlier messages a subscription brings; their source is "history".
type History struct {
	// SinceLast: what came since this app unsubscribed from the topic.
	SinceLast bool
	// Last: what came in this time.
	Last time.Duration
}

// Subscribe subscribes to content topics. Returns why topics were refused; the others took effect.
func (c *MessagingClient) Subscribe(ctx context.Context, topics ...string) (map[string]string, error) {
	return c.SubscribeWithHistory(ctx, History{}, topics...)
}

// SubscribeWithHistory is Subscribe with earlier messages, once a store can be queried.
func (c *MessagingClient) SubscribeWithHistory(ctx context.Context, history History, topics ...string) (map[string]string, error) {
	var answer SubscribeReply
	wanted := SubscribeRequest{Topics: topics, SinceLast: history.SinceLast, HistoryMs: uint64(history.Last.Milliseconds())}
	if err := c.repeat(ctx, "subscribe", wanted, &answer); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, topic := range topics {
		if _, refused := answer.Errors[topic]; !refused {
			c.topics[topic] = true
		}
	}
	return answer.Errors, nil
}

// Unsubscribe unsubscribes from content topics. Returns why topics were refused.
func (c *MessagingClient) Unsubscribe(ctx context.Context, topics ...string) (map[string]string, error) {
	var answer SubscribeReply
	if err := c.Call(ctx, "unsubscribe", UnsubscribeRequest{Topics: topics}, &answer); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, topic := range topics {
		delete(c.topics, topic)
	}
	return answer.Errors, nil
}

// Subscriptions lists the app's content topics.
func (c *MessagingClient) Subscriptions(ctx context.Context) ([]string, error) {
	all := []string{}
	for after := ""; ; after = all[len(all)-1] {
		var part SubscriptionsReply
		if err := c.repeat(ctx, "subscriptions", SubscriptionsRequest{After: after}, &part); err != nil {
			return nil, err
		}
		all = append(all, part.Topics...)
		if !part.More || len(part.Topics) == 0 {
			return all, nil
		}
	}
}

// SendOptions are those of [MessagingClient.Send]. All may be left out.
type SendOptions struct {
	// RequestID is the idempotency key: the same send again with it happens once. A new one if it is zero.
	RequestID ID
	Ephemeral bool
	Meta      []byte // at most 64 bytes
}

// Send hands a message over, and returns its request id once it is accepted. Its outcome follows as events with this id.
// Across reconnects it is repeated under the id until the context's deadline (10 s without one).
func (c *MessagingClient) Send(ctx context.Context, topic string, payload []byte, options ...SendOptions) (ID, error) {
	o := first(options)
	if err := c.checkSize(len(payload)); err != nil {
		return ID{}, err
	}
	body := SendRequest{RequestID: o.RequestID, ContentTopic: topic, Meta: o.Meta, Ephemeral: o.Ephemeral}
	return o.RequestID, c.repeat(ctx, "send", body, nil, payload)
}

// A request id of our own where there is none.
func first(options []SendOptions) SendOptions {
	var o SendOptions
	if len(options) > 0 {
		o = options[0]
	}
	if o.RequestID == (ID{}) {
		o.RequestID = NewID()
	}
	return o
}

func (c *MessagingClient) checkSize(size int) error {
	c.mu.Lock()
	limit, network := c.hello.Limits.BlobBytes, c.hello.Network
	c.mu.Unlock()
	return checkSize(size, limit, network)
}

// A frame above the server's limit would cost us the connection: its socket refuses it unread.
func checkSize(size int, limit uint64, network NetworkInfo) error {
	if limit > 0 && uint64(size) > limit {
		most := network.MaxMessageSize
		return newError(CodeTooLarge, "Message size exceeded maximum of %d bytes: the payload alone has %d", most, size)
	}
	return nil
}

// Pending lists the sends that have no outcome yet, oldest first, at most 1,000; of another named app of the same user if
// name is not empty.
func (c *MessagingClient) Pending(ctx context.Context, name string) (*PendingReply, error) {
	answer := new(PendingReply)
	return answer, c.repeat(ctx, "pending", PendingRequest{Name: name}, answer)
}

// FindSend finds a send by its request id, also when it is final: State is then sent, unconfirmed, failed or cancelled. Nil:
// it was not accepted, or a day ago, after which ids are forgotten. Name as in Pending.
func (c *MessagingClient) FindSend(ctx context.Context, id ID, name string) (*PendingSend, error) {
	var answer FindSendReply
	err := c.repeat(ctx, "find_send", FindSendRequest{RequestID: id, Name: name}, &answer)
	return answer.Send, err
}

// Cancel cancels a send that was not attempted yet; false: too late, or there is no such send. Name as in Pending.
func (c *MessagingClient) Cancel(ctx context.Context, id ID, name string) (bool, error) {
	var answer CancelReply
	err := c.Call(ctx, "cancel", CancelRequest{RequestID: id, Name: name}, &answer)
	return answer.Cancelled, err
}

// Status is the node's connection status, and the health of each subscribed content topic.
func (c *MessagingClient) Status(ctx context.Context) (*StatusReply, error) {
	var whole *StatusReply
	for after := ""; ; {
		part := new(StatusReply)
		if err := c.repeat(ctx, "status", StatusRequest{After: after}, part); err != nil {
			return nil, err
		}
		last := ""
		for topic, health := range part.Topics {
			last = max(last, topic)
			if whole != nil {
				whole.Topics[topic] = health
			}
		}
		if whole == nil {
			whole = part
		}
		if !part.More || last <= after {
			whole.More = false
			return whole, nil
		}
		after = last
	}
}

// NodeInfo returns facts about the node (Version, Metrics, MyPeerId, …): those named, or all.
func (c *MessagingClient) NodeInfo(ctx context.Context, ids ...string) (map[string]any, error) {
	var answer NodeInfoReply
	err := c.repeat(ctx, "node.info", NodeInfoRequest{IDs: ids}, &answer)
	return answer.Info, err
}

// Forget deletes a named app of the same user: its stream, its subscriptions, its position.
func (c *MessagingClient) Forget(ctx context.Context, name string) error {
	return c.Call(ctx, "forget", ForgetRequest{Name: name}, nil)
}

// -- reliable channels ------------------------------------------------------------------------------------------------

const (
	channelBlob      = 1 << 20 // of a payload, which travels in several; less if the server takes less
	mostChannelBlobs = 64
)

// ChannelOptions are those of [MessagingClient.CreateChannel]. All may be left out.
type ChannelOptions struct {
	SenderID string   // made up and kept without one
	Profile  string   // the form written: "reference" (without one), "raw" or "js"
	Keys     [][]byte // of 32 bytes, for the built-in cipher; the first one encrypts
	KeepKeys bool     // stores the keys, so that the channel opens by itself after a restart
	Parity   float64  // parity segments per data segment, 0 to 1
	Hooks    bool     // instead of keys, the functions of SetChannelEncryption encrypt; only with profile "reference"
}

// CreateChannel creates a reliable channel, or opens one that was closed or is locked. Returns our sender id in it.
func (c *MessagingClient) CreateChannel(ctx context.Context, channel, topic string, options ChannelOptions) (string, error) {
	if options.Hooks && !slices.Contains(c.Hello().Features, "channel_hooks") {
		return "", newError(CodeUnknownMethod, "this Messaging API has no channels with hooks") // it would ignore the key
	}
	wanted := ChannelCreateRequest{
		ChannelID: channel, ContentTopic: topic, SenderID: options.SenderID, Profile: options.Profile,
		KeepKeys: options.KeepKeys, ParityPpm: int(math.Round(options.Parity * 1e6)), Hooks: options.Hooks,
	}
	for _, key := range options.Keys {
		if len(key) != len(Hash{}) {
			return "", newError(CodeBadRequest, "a key has 32 bytes, not %d", len(key))
		}
		wanted.Keys = append(wanted.Keys, Hash(key))
	}
	var answer ChannelCreateReply
	err := c.Call(ctx, "channel.create", wanted, &answer)
	return answer.SenderID, err
}

// ChannelExists tells whether the app has an open channel of that name.
func (c *MessagingClient) ChannelExists(ctx context.Context, channel string) (bool, error) {
	var answer ChannelExistsReply
	err := c.repeat(ctx, "channel.exists", ChannelRequest{ChannelID: channel}, &answer)
	return answer.Exists, err
}

// Channels lists the app's channels, closed ones too.
func (c *MessagingClient) Channels(ctx context.Context) ([]ChannelInfo, error) {
	var answer ChannelListReply
	err := c.repeat(ctx, "channel.list", nil, &answer)
	return answer.Channels, err
}

// ChannelStatus tells what an open channel waits for, and how much it holds.
func (c *MessagingClient) ChannelStatus(ctx context.Context, channel string) (*ChannelStatusReply, error) {
	answer := new(ChannelStatusReply)
	return answer, c.repeat(ctx, "channel.status", ChannelRequest{ChannelID: channel}, answer)
}

// FindChannelSend finds a send of a channel by its request id, also when it is final: End is then delivered, failed or
// undelivered. Nil: it was not accepted, or ended a day ago, after which ids are forgotten.
func (c *MessagingClient) FindChannelSend(ctx context.Context, channel string, id ID) (*PendingChannelSend, error) {
	var answer ChannelFindSendReply
	err := c.repeat(ctx, "channel.find_send", ChannelFindSendRequest{ChannelID: channel, RequestID: id}, &answer)
	return answer.Send, err
}

// CloseChannel stops receiving and sending; a named app's stored state stays.
func (c *MessagingClient) CloseChannel(ctx context.Context, channel string) error {
	return c.repeat(ctx, "channel.close", ChannelRequest{ChannelID: channel}, nil)
}

// ForgetChannel closes a channel and deletes all that is stored of it.
func (c *MessagingClient) ForgetChannel(ctx context.Context, channel string) error {
	return c.Call(ctx, "channel.forget", ChannelRequest{ChannelID: channel}, nil)
}

// SendToChannel sends a payload, and returns its request id once it is accepted. channel_message_sent follows, and one of
// channel_message_delivered, channel_message_error and channel_delivery_error is its end.
func (c *MessagingClient) SendToChannel(ctx context.Context, channel string, payload []byte, options ...SendOptions) (ID, error) {
	o := first(options)
	if len(o.Meta) > 0 {
		return ID{}, newError(CodeBadRequest, "a payload for a channel has no meta")
	}
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	body := ChannelSendRequest{ChannelID: channel, RequestID: o.RequestID, Ephemeral: o.Ephemeral}
	if pair, known := c.hooksOf(channel); known {
		var err error
		if payload, body.Sealed, err = c.seal(ctx, channel, pair.encrypt, payload); err != nil {
			return ID{}, err
		}
	}
	blobs, err := c.channelBlobs(payload)
	if err != nil {
		return ID{}, err
	}
	return o.RequestID, c.repeat(ctx, "channel.send", body, nil, blobs...)
}

// Data for a channel, in blobs that the Messaging API takes.
func (c *MessagingClient) channelBlobs(data []byte) (blobs [][]byte, err error) {
	most := channelBlob
	if limit := c.Hello().Limits.BlobBytes; limit > 0 && limit < channelBlob {
		most = int(limit)
	}
	if len(data) > mostChannelBlobs*most {
		return nil, newError(CodeTooLarge, "%d bytes, at most %d", len(data), mostChannelBlobs*most)
	}
	return slices.Collect(slices.Chunk(data, most)), nil
}
