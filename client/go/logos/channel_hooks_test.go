package logos

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/tinylib/msgp/msgp"
)

func reversed(segment []byte) []byte {
	turned := slices.Clone(segment)
	slices.Reverse(turned)
	return turned
}

func sealed(segment []byte) ([]byte, error) {
	return append([]byte("sealed "), reversed(segment)...), nil
}

func unsealed(segment []byte) ([]byte, error) {
	content, ours := bytes.CutPrefix(segment, []byte("sealed "))
	if !ours {
		return nil, errors.New("not sealed")
	}
	return reversed(content), nil
}

func withHooks(t *testing.T) (*server, *MessagingClient) {
	s := serve(t, endpointFor(t))
	s.mu.Lock()
	s.features = []string{"channels", "channel_hooks"}
	s.answers = map[string]func([]byte, [][]byte) (map[string]any, [][]byte, [][][]byte){}
	s.mu.Unlock()
	return s, connectTo(t, s.endpoint)
}

func TestSegmentsAreEncryptedHere(t *testing.T) {
	s, client := withHooks(t)
	var sent ChannelSendRequest
	var data []byte
	s.mu.Lock()
	s.answers["channel.create"] = func(body []byte, _ [][]byte) (map[string]any, [][]byte, [][][]byte) {
		var created ChannelCreateRequest
		if err := decodeBody(body, &created); err != nil || !created.Hooks {
			t.Errorf("%+v, %v", created, err)
		}
		return map[string]any{"sender_id": "me", "existed": false}, nil, nil
	}
	s.answers["channel.split"] = func(_ []byte, blobs [][]byte) (map[string]any, [][]byte, [][][]byte) {
		return map[string]any{"sizes": []uint64{2, 3}, "needed": 2}, blobs, nil
	}
	s.answers["channel.send"] = func(body []byte, blobs [][]byte) (map[string]any, [][]byte, [][][]byte) {
		must(t, decodeBody(body, &sent))
		data = bytes.Join(blobs, nil)
		return map[string]any{"request_id": sent.RequestID, "repeated": false}, nil, nil
	}
	s.mu.Unlock()
	must(t, client.SetChannelEncryption("room", sealed, unsealed))
	_, err := client.CreateChannel(t.Context(), "room", "/a/1/b/c", ChannelOptions{Hooks: true})
	must(t, err)
	_, err = client.SendToChannel(t.Context(), "room", []byte("hello"))
	must(t, err)
	if string(data) != "sealed ehsealed oll" || !slices.Equal(sent.Sealed.Sizes, []uint64{9, 10}) ||
		sent.Sealed.Needed != 2 || sent.Sealed.Digest != sha256.Sum256([]byte("hello")) {
		t.Errorf("%q %+v", data, sent.Sealed)
	}
	fails := func([]byte) ([]byte, error) { return nil, errors.New("no key") }
	must(t, client.SetChannelEncryption("room", fails, unsealed))
	_, err = client.SendToChannel(t.Context(), "room", []byte("hello"))
	if !errors.Is(err, CodeBadRequest) || !strings.Contains(err.Error(), "encryption failed: no key") {
		t.Error(err)
	}
	must(t, client.ClearChannelEncryption("room"))
	if err := client.ClearChannelEncryption("room"); !errors.Is(err, CodeBadRequest) {
		t.Error(err)
	}
}

func (s *server) segment(seq uint64, id, payload string) [][]byte {
	header := msgp.AppendBytes(msgp.AppendUint64(msgp.AppendArrayHeader(nil, 8), 1), s.stream[:])
	header = msgp.AppendUint64(msgp.AppendUint64(msgp.AppendUint64(header, seq), 20), 1)
	for _, text := range []string{"room", "she", id} {
		header = msgp.AppendString(header, text)
	}
	return [][]byte{magic, header, []byte(payload)}
}

func TestSegmentsAreDecryptedHereAndGivenBackInTheirOrder(t *testing.T) {
	s, client := withHooks(t)
	type given struct{ id, failure, content string }
	opened := make(chan given, 4)
	s.mu.Lock()
	s.answers["channel.opened"] = func(body []byte, blobs [][]byte) (map[string]any, [][]byte, [][][]byte) {
		var found ChannelOpenedRequest
		must(t, decodeBody(body, &found))
		opened <- given{found.MessageID, found.Error, string(bytes.Join(blobs, nil))}
		return map[string]any{}, nil, nil
	}
	s.answers["ping"] = func([]byte, [][]byte) (map[string]any, [][]byte, [][][]byte) {
		one, _ := sealed([]byte("one"))
		return map[string]any{}, nil, [][][]byte{
			s.segment(1, "a", string(one)), s.segment(2, "b", "garbage"), s.segment(3, "c", "of another channel"),
		}
	}
	s.mu.Unlock()
	must(t, client.SetChannelEncryption("room", sealed, unsealed))
	ctx, cancel := context.WithCancel(t.Context())
	must(t, client.Call(ctx, "ping", nil, nil))
	next := make(chan error)
	go func() {
		_, err := client.Next(ctx)
		next <- err
	}()
	for _, wanted := range []given{{"a", "", "one"}, {"b", "not sealed", ""}, {"c", "not sealed", ""}} {
		if got := <-opened; got != wanted {
			t.Errorf("%+v", got)
		}
	}
	cancel()
	if err := <-next; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestASegmentThatWasNotGivenBackIsNotHandled(t *testing.T) {
	s, client := withHooks(t)
	ctx, cancel := context.WithCancel(t.Context())
	s.mu.Lock()
	s.answers["ping"] = func([]byte, [][]byte) (map[string]any, [][]byte, [][][]byte) {
		return map[string]any{}, nil, [][][]byte{s.segment(1, "a", "secret")}
	}
	s.mu.Unlock()
	decrypt := func(segment []byte) ([]byte, error) {
		cancel() // the app gives up in the middle
		return segment, nil
	}
	must(t, client.SetChannelEncryption("room", sealed, decrypt))
	must(t, client.Call(t.Context(), "ping", nil, nil))
	if _, err := client.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	must(t, client.ClearChannelEncryption("room"))
	event, err := client.Next(t.Context()) // without hooks it is the app's
	if segment, ok := event.(*ChannelSegmentReceived); err != nil || !ok || segment.MessageID != "a" {
		t.Errorf("%v, %v", event, err)
	}
}

func TestHooksNeedAMessagingAPIThatHasThem(t *testing.T) {
	client := connectTo(t, serve(t, endpointFor(t)).endpoint)
	if _, err := client.CreateChannel(t.Context(), "room", "/a/1/b/c", ChannelOptions{Hooks: true}); !errors.Is(err, CodeUnknownMethod) {
		t.Error(err)
	}
	if err := client.SetChannelEncryption("room", nil, unsealed); !errors.Is(err, CodeBadRequest) {
		t.Error(err)
	}
}
