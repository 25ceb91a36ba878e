package logos

import (
	"errors"
	"fmt"
	"math"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	zmq "github.com/pebbe/zmq4"
)

// A ZeroMQ socket among goroutines.
//
// libzmq lets one thread at a time use a socket, if there is a full fence between two of them: a mutex is one. What to
// wait for is its descriptor, which Go's poller takes, so that no thread hangs in C. The descriptor is edge-triggered, and
// any call on the socket may swallow an edge (zmq_getsockopt(3), ZMQ_FD): a sender looks whether something has arrived,
// and wakes the receiver.
type socket struct {
	mu       sync.Mutex
	zs       *zmq.Socket
	file     *os.File
	raw      syscall.RawConn
	closed   bool
	room     chan struct{} // closed when there may be room again; nil: no caller waits
	received sync.WaitGroup
}

const (
	maxFrame     = 64 << 20
	batchSize    = 64
	never        = math.MaxInt32 * time.Millisecond
	handshakeIvl = 5 * time.Second
	// Not 0: libzmq 4.3.5 aborts the process (session_base.cpp, clean_pipes) if it learns in one go that a socket was
	// closed without linger and that its server died in the middle of a message to it.
	linger        = 100 * time.Millisecond
	subscriberHWM = 2_000
)

// A context of our own: an app that uses the package's default one may end that.
var zmqContext = sync.OnceValues(zmq.NewContext)

var monitors atomic.Uint64 // numbers of their endpoints

func newSocket(kind zmq.Type) (*socket, error) {
	ctx, err := zmqContext()
	if err != nil {
		return nil, err
	}
	zs, err := ctx.NewSocket(kind)
	if err != nil {
		return nil, err
	}
	s := &socket{zs: zs}
	if err := s.watch(); err != nil {
		_ = zs.Close()
		return nil, err
	}
	return s, nil
}

func (s *socket) watch() error {
	fd, err := s.zs.GetFd()
	if err != nil {
		return err
	}
	// Of our own, since Go closes it and libzmq the other; both mean one open file, which is non-blocking.
	fd, err = syscall.Dup(fd)
	if err != nil {
		return err
	}
	syscall.CloseOnExec(fd)
	s.file = os.NewFile(uintptr(fd), "zmq")
	s.raw, err = s.file.SyscallConn()
	return err
}

// A DEALER that libzmq does not reconnect: requests for a server that is gone would reach its successor. Its option against
// this, IMMEDIATE, ends the pipe of a lost connection at any read, also between two frames of a message, and aborts the process
// then (4.3.5: fq.cpp, `!_more`); and so does the -1 that it has for "never" (§1).
func dealer() (*socket, error) {
	s, err := newSocket(zmq.DEALER)
	if err != nil {
		return nil, err
	}
	return s.orClosed(errors.Join(s.common(), s.zs.SetReconnectIvl(never)))
}

// A DEALER for one question that any server may answer: so libzmq may connect it again.
func probe() (*socket, error) {
	s, err := newSocket(zmq.DEALER)
	if err != nil {
		return nil, err
	}
	return s.orClosed(errors.Join(s.common(), s.zs.SetReconnectIvl(reconnect)))
}

func subscriber(topics []string) (*socket, error) {
	s, err := newSocket(zmq.SUB)
	if err != nil {
		return nil, err
	}
	// SNDHWM 0: else it loses its own subscriptions on a reconnect (§1).
	err = errors.Join(s.common(), s.zs.SetReconnectIvl(reconnect), s.zs.SetReconnectIvlMax(reconnectMax), s.zs.SetSndhwm(0), s.zs.SetRcvhwm(subscriberHWM))
	for _, topic := range topics {
		err = errors.Join(err, s.zs.SetSubscribe(topic))
	}
	return s.orClosed(err)
}

// The socket, or none when an option was refused.
func (s *socket) orClosed(err error) (*socket, error) {
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *socket) common() error {
	return errors.Join(
		s.zs.SetLinger(linger),
		s.zs.SetMaxmsgsize(maxFrame),
		s.zs.SetHandshakeIvl(handshakeIvl),
	)
}

// A socket that reports when a connection of s has shaken hands, when it was lost, and when an attempt has failed.
func (s *socket) monitor() (*socket, error) {
	endpoint := fmt.Sprintf("inproc://logos-monitor-%d", monitors.Add(1))
	if err := s.zs.Monitor(endpoint, zmq.EVENT_HANDSHAKE_SUCCEEDED|zmq.EVENT_DISCONNECTED|zmq.EVENT_CONNECT_RETRIED); err != nil {
		return nil, err
	}
	m, err := newSocket(zmq.PAIR)
	if err != nil {
		return nil, err
	}
	return m.orClosed(errors.Join(m.zs.SetLinger(0), m.zs.Connect(endpoint)))
}

// Ends what monitor began. It comes before the monitor's socket is closed: else libzmq's I/O thread, and with it every
// socket of the context, hangs in the next event that it has for it.
func (s *socket) stopMonitor() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		_ = s.zs.Monitor("", 0)
	}
}

func (s *socket) connect(endpoint string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	return s.zs.Connect(endpoint)
}

// Drops what is queued for an endpoint, and what came from it and was not read.
func (s *socket) disconnect(endpoint string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		_ = s.zs.Disconnect(endpoint) // an error: it has none, as wanted
	}
}

// Sends a message, or returns what is closed when it is worth trying again.
func (s *socket) send(frames [][]byte) (full <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	for i, frame := range frames {
		flags := zmq.DONTWAIT
		if i < len(frames)-1 {
			flags |= zmq.SNDMORE
		}
		if _, err := s.zs.SendBytes(frame, flags); err != nil {
			// Only the first frame can find no room: libzmq takes a message whole.
			if zmq.AsErrno(err) == zmq.Errno(syscall.EAGAIN) {
				if s.room == nil {
					s.room = make(chan struct{})
				}
				full = s.room
				break
			}
			return nil, err
		}
	}
	if s.look()&zmq.POLLIN != 0 {
		_ = s.file.SetReadDeadline(time.Unix(1, 0)) // wakes the receiver
	}
	return full, nil
}

// With mu. What the socket is ready for. Wakes callers that wait for room to send.
func (s *socket) look() zmq.State {
	events, err := s.zs.GetEvents()
	if err != nil {
		return 0
	}
	if s.room != nil && events&zmq.POLLOUT != 0 {
		close(s.room)
		s.room = nil
	}
	return events
}

// Hands over each message until the socket is closed.
func (s *socket) receive(deliver func(frames [][]byte)) {
	s.received.Add(1)
	go func() {
		defer s.received.Done()
		batch := make([][][]byte, 0, batchSize)
		for {
			_ = s.file.SetReadDeadline(time.Time{})
			var open bool
			batch, open = s.take(batch[:0])
			for _, frames := range batch {
				deliver(frames)
			}
			if !open {
				return
			}
			if len(batch) < batchSize {
				// The descriptor may have reported it before: look first, then wait.
				_ = s.raw.Read(func(uintptr) bool { return s.ready() })
			}
		}
	}()
}

func (s *socket) take(batch [][][]byte) (_ [][][]byte, open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(batch) < batchSize && !s.closed {
		frame, err := s.zs.RecvBytes(zmq.DONTWAIT)
		if err != nil {
			break
		}
		frames := append(make([][]byte, 0, 4), frame)
		for {
			if more, err := s.zs.GetRcvmore(); err != nil || !more {
				break
			}
			if frame, err = s.zs.RecvBytes(0); err != nil {
				break
			}
			frames = append(frames, frame)
		}
		batch = append(batch, frames)
	}
	return batch, !s.closed
}

// Whether there is something to receive, or nothing any more.
func (s *socket) ready() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed || s.look()&zmq.POLLIN != 0
}

// Nothing is delivered after it; not to be called by what receive delivers to.
func (s *socket) close() {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		_ = s.zs.Close()
		if s.room != nil {
			close(s.room)
			s.room = nil
		}
	}
	s.mu.Unlock()
	_ = s.file.Close()
	s.received.Wait()
}
