package logos

import (
	"encoding/binary"
	"testing"
	"time"

	zmq "github.com/pebbe/zmq4"
)

func notice(event zmq.Event) [][]byte {
	return [][]byte{binary.NativeEndian.AppendUint16(nil, uint16(event)), nil}
}

// libzmq says when it is to wait for its next attempt; a handshake of the one before may be reported after that.
func TestAHandshakeOfAConnectionThatWasGivenUpIsNotTakenForTheNextOne(t *testing.T) {
	c, err := newConnection("ipc://"+t.TempDir()+"/s", hooks{hello: func() any { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	c.retryDelay = time.Hour
	c.noticed(notice(zmq.EVENT_CONNECT_RETRIED))
	c.noticed(notice(zmq.EVENT_HANDSHAKE_SUCCEEDED))
	if c.state != connecting || !c.retrying {
		t.Errorf("it is %s, although it has no connection", c.state)
	}
}

// Without lingering, libzmq aborts a process that closes one while its server dies in the middle of a request; that cannot
// be brought about at will.
func TestDealersLinger(t *testing.T) {
	for name, open := range map[string]func() (*socket, error){"dealer": dealer, "probe": probe} {
		s, err := open()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.zs.GetLinger(); err != nil || got != linger || got == 0 {
			t.Errorf("%s: %v %v", name, got, err)
		}
		s.close()
	}
}
