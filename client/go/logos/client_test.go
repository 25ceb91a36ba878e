package logos

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	zmq "github.com/pebbe/zmq4"
	"github.com/tinylib/msgp/msgp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A Messaging API that accepts everything, on a real socket; its own thread, as ZeroMQ wants it.
type server struct {
	endpoint string
	quit     chan struct{}
	done     chan struct{}
	mu       sync.Mutex
	methods  map[string]int
	stream   ID
	features []string
	// What a method is answered beside the body {}, and the events behind it.
	answers map[string]func(body []byte, blobs [][]byte) (answer map[string]any, more [][]byte, events [][][]byte)
}

func serve(t *testing.T, endpoint string) *server {
	router, err := zmq.NewSocket(zmq.ROUTER)
	if err != nil {
		t.Fatal(err)
	}
	must(t, router.SetLinger(0))
	must(t, router.SetRcvtimeo(20*time.Millisecond))
	must(t, router.Bind(endpoint))
	s := &server{endpoint: endpoint, quit: make(chan struct{}), done: make(chan struct{}), methods: map[string]int{}, stream: NewID()}
	instance := NewID()
	go func() {
		defer close(s.done)
		defer router.Close()
		for {
			select {
			case <-s.quit:
				return
			default:
			}
			frames, err := router.RecvMessageBytes(0)
			if err != nil {
				continue // the time is up
			}
			r := newReader(frames[2])
			id, method, _, flags := r.id(), r.text(), r.uint(), r.uint()
			s.mu.Lock()
			s.methods[method]++
			answer, features := s.answers[method], s.features
			s.mu.Unlock()
			body, blobs, events := map[string]any{}, [][]byte(nil), [][][]byte(nil)
			if answer != nil {
				body, blobs, events = answer(frames[3], frames[4:])
			}
			if method == "hello" {
				body = map[string]any{
					"protocol": 1, "instance": instance, "server": "logos-mapi/test", "app": "me", "durable": true, "features": features,
					"limits": map[string]any{
						"in_flight": 8, "body_bytes": 1 << 20, "blob_bytes": 200_000, "topics": 10, "max_payload": 100_000, "send_window_ms": 1,
					},
					"network": map[string]any{"cluster": 1, "shard_count": 8, "max_message_size": 150_000},
					"stream":  map[string]any{"id": s.stream, "acked": 0, "last": 0},
					"status":  map[string]any{"connection": "Connected", "topics": map[string]any{}},
				}
			}
			if flags&noReply == 0 {
				header := msgp.AppendBytes(msgp.AppendArrayHeader(nil, 3), id[:])
				header = msgp.AppendBytes(msgp.AppendUint64(header, 0), instance[:])
				_, _ = router.SendMessage(frames[0], magic, header, encodeBody(body), blobs)
			}
			for _, event := range events {
				_, _ = router.SendMessage(frames[0], event)
			}
		}
	}()
	t.Cleanup(s.stop)
	return s
}

func (s *server) stop() {
	select {
	case <-s.quit:
	default:
		close(s.quit)
	}
	<-s.done
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func endpointFor(t *testing.T) string { return "ipc://" + filepath.Join(t.TempDir(), "apps") }

func connectTo(t *testing.T, endpoint string) *MessagingClient {
	client, err := ConnectMessaging(t.Context(), endpoint, MessagingOptions{Name: "me"})
	must(t, err)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestManyGoroutinesSendThroughARestart(t *testing.T) {
	endpoint := endpointFor(t)
	first := serve(t, endpoint)
	client := connectTo(t, endpoint)
	var working sync.WaitGroup
	for range 50 {
		working.Add(1)
		go func() {
			defer working.Done()
			for range 20 {
				if _, err := client.Send(t.Context(), "/a/1/b/c", []byte("x")); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	first.stop()
	second := serve(t, endpoint)
	working.Wait()
	second.mu.Lock()
	defer second.mu.Unlock()
	if second.methods["hello"] != 1 {
		t.Errorf("%v", second.methods)
	}
}

func TestContexts(t *testing.T) {
	endpoint := endpointFor(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := ConnectMessaging(ctx, endpoint, MessagingOptions{})
	if !errors.Is(err, CodeNotReady) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without a server: %v", err)
	}
	serve(t, endpoint)
	client := connectTo(t, endpoint)
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := client.Next(ctx); !errors.Is(err, CodeDeadlineExceeded) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without an event: %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if _, err := client.Send(ctx, "/a/1/b/c", []byte("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	for _, err := range client.Events(ctx) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	}
}

func TestClosingEndsWhoWaits(t *testing.T) {
	endpoint := endpointFor(t)
	serve(t, endpoint)
	client := connectTo(t, endpoint)
	end := make(chan error)
	go func() {
		_, err := client.Next(context.Background())
		end <- err
	}()
	must(t, client.Close())
	if err := <-end; err != ErrClosed {
		t.Error(err)
	}
	if _, err := client.Send(t.Context(), "/a/1/b/c", []byte("x")); err != ErrClosed {
		t.Error(err)
	}
}

func TestArgumentsAreChecked(t *testing.T) {
	for _, where := range []string{"", "http://x", "ipc:///run/kernel/requests", "/" + string(make([]byte, 120))} {
		if _, err := ConnectMessaging(t.Context(), where, MessagingOptions{}); !errors.Is(err, CodeBadRequest) {
			t.Errorf("%q: %v", where, err)
		}
	}
	if _, err := ConnectMessaging(t.Context(), "run", MessagingOptions{Name: "Not a name"}); !errors.Is(err, CodeBadRequest) {
		t.Error(err)
	}
	if _, err := ConnectKernel(t.Context(), "ipc:///x", KernelOptions{}); !errors.Is(err, CodeBadRequest) {
		t.Error(err)
	}
	endpoint := endpointFor(t)
	serve(t, endpoint)
	client := connectTo(t, endpoint)
	if _, err := client.Send(t.Context(), "/a/1/b/c", make([]byte, 200_001)); !errors.Is(err, CodeTooLarge) {
		t.Error(err)
	}
}

func TestTheTurnstileLetsInAsManyAsThereAre(t *testing.T) {
	gate := turnstile{limit: 2}
	must(t, gate.enter(t.Context()))
	must(t, gate.enter(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if gate.enter(ctx) == nil {
		t.Error("a third one")
	}
	in := make(chan error)
	go func() { in <- gate.enter(t.Context()) }()
	gate.leave()
	must(t, <-in)
	gate.resize(3)
	must(t, gate.enter(t.Context()))
	if gate.inside != 3 || len(gate.waiting) != 0 {
		t.Errorf("%+v", &gate)
	}
}
