package logos

import (
	"context"
	"crypto/sha256"
	"errors"
	"strings"
	"time"
)

// Hook encrypts or decrypts one segment of a payload for a channel.
type Hook func(segment []byte) ([]byte, error)

type hookPair struct{ encrypt, decrypt Hook }

const maxHookError = 1000 // bytes of a hook's error that are passed on (§4.5)

// SetChannelEncryption makes functions of the app encrypt a channel that was created with Hooks, here, in its process. Each
// takes one segment of a payload, as the reference's hooks do. Set them before events are requested; whether the channel
// exists does not matter. When encrypt fails the send fails with CodeBadRequest ("encryption failed: …") and nothing is sent;
// a segment at which decrypt fails comes as [*ChannelMessageLost]. Without hooks the app gets [*ChannelSegmentReceived], and
// can neither send nor read.
func (c *MessagingClient) SetChannelEncryption(channel string, encrypt, decrypt Hook) error {
	if encrypt == nil || decrypt == nil {
		return newError(CodeBadRequest, "encrypt and decrypt are functions")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hooks[channel] = hookPair{encrypt, decrypt}
	return nil
}

// ClearChannelEncryption makes a channel's hooks be used no more. CodeBadRequest where there are none.
func (c *MessagingClient) ClearChannelEncryption(channel string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.hooks[channel]; !known {
		return newError(CodeBadRequest, "no encryption registered for channel: %s", channel)
	}
	delete(c.hooks, channel)
	return nil
}

func (c *MessagingClient) hooksOf(channel string) (hookPair, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pair, known := c.hooks[channel]
	return pair, known
}

// Has the payload split there, and encrypts its segments here.
func (c *MessagingClient) seal(ctx context.Context, channel string, encrypt Hook, payload []byte) ([]byte, *SealedSegments, error) {
	blobs, err := c.channelBlobs(payload)
	if err != nil {
		return nil, nil, err
	}
	answer, err := c.repeatWhole(ctx, "channel.split", ChannelRequest{ChannelID: channel}, blobs...)
	if err != nil {
		return nil, nil, err
	}
	var split ChannelSplitReply
	if err := decodeBody(answer.body, &split); err != nil {
		return nil, nil, err
	}
	var segments []byte
	for _, blob := range answer.blobs {
		segments = append(segments, blob...)
	}
	// The digest is of the plain payload: an encryption may differ each time.
	sealed := &SealedSegments{Needed: split.Needed, Digest: sha256.Sum256(payload)}
	var data []byte
	for _, size := range split.Sizes {
		if size > uint64(len(segments)) {
			return nil, nil, badFrame("channel.split: sizes beyond the blobs")
		}
		segment, err := encrypt(segments[:size:size])
		if err != nil {
			return nil, nil, newError(CodeBadRequest, "encryption failed: %v", err)
		}
		data, segments = append(data, segment...), segments[size:]
		sealed.Sizes = append(sealed.Sizes, uint64(len(segment)))
	}
	return data, sealed, nil
}

// With mu. The segment that an event is and its channel's hook, if the app has hooks there: the segment is not the app's then.
func (c *MessagingClient) toOpen(event Event) (*ChannelSegmentReceived, Hook) {
	segment, ok := event.(*ChannelSegmentReceived)
	if !ok {
		return nil, nil
	}
	pair, known := c.hooks[segment.ChannelID]
	if !known {
		return nil, nil
	}
	c.opening = true
	return segment, pair.decrypt
}

// Opens a segment, and puts it back where that fails: it must not be acknowledged with the next event.
func (c *MessagingClient) open(ctx context.Context, segment *ChannelSegmentReceived, decrypt Hook) error {
	err := c.openSegment(ctx, decrypt, segment)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.opening = false
	if err != nil {
		c.stream.putBack()
	}
	return err
}

// Decrypts a segment and gives it back. The event counts as handled, and so may be acknowledged, only when the Messaging API
// has the segment: until then it comes again. Given back twice, it does no harm.
func (c *MessagingClient) openSegment(ctx context.Context, decrypt Hook, segment *ChannelSegmentReceived) error {
	body := ChannelOpenedRequest{ChannelID: segment.ChannelID, MessageID: segment.MessageID}
	var blobs [][]byte
	if content, err := decrypt(segment.Payload); err == nil {
		blobs = append(blobs, content)
	} else if body.Error = strings.ToValidUTF8(err.Error()[:min(len(err.Error()), maxHookError)], ""); body.Error == "" {
		body.Error = "the hook failed"
	}
	for delay := retryDelay; ; delay = min(2*delay, retryDelayMax) {
		err := c.Call(ctx, "channel.opened", body, nil, blobs...)
		if err == nil {
			return nil
		}
		c.mu.Lock()
		end := c.checkOpen()
		c.mu.Unlock()
		if end != nil {
			return end
		}
		if e := (*Error)(nil); ctx.Err() == nil && errors.As(err, &e) && !e.Retriable {
			return nil // closed or forgotten: a channel that is opened again gives its segments again
		}
		select {
		case <-time.After(delay):
		case <-c.left.Done():
		case <-ctx.Done():
			return ended(ctx, "no event")
		}
	}
}
