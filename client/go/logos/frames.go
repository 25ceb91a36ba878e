package logos

import (
	"crypto/rand"
	"encoding/hex"
	"math"
	"unicode/utf8"

	"github.com/tinylib/msgp/msgp"
)

// ID is 16 bytes: of a request, a stream or an instance.
type ID [16]byte

// NewID is a random one.
func NewID() (id ID) {
	_, _ = rand.Read(id[:]) // never fails
	return id
}

func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Hash is that of a message.
type Hash [32]byte

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Epoch is that of one of a kernel's streams.
type Epoch [8]byte

func (e Epoch) String() string { return hex.EncodeToString(e[:]) }

const (
	noReply     = 1
	maxBudgetMs = 3_600_000
)

var magic = []byte("LD1")

// The frames of a request (§2).
func encodeRequest(id ID, method string, budgetMs, flags uint64, body []byte, blobs ...[]byte) [][]byte {
	header := make([]byte, 0, 48)
	header = msgp.AppendArrayHeader(header, 4)
	header = msgp.AppendBytes(header, id[:])
	header = msgp.AppendString(header, method)
	header = msgp.AppendUint64(header, budgetMs)
	header = msgp.AppendUint64(header, flags)
	return append([][]byte{magic, header, body}, blobs...)
}

type reply struct {
	id, instance ID
	body         []byte
	blobs        [][]byte
	err          *Error
}

func decodeReply(frames [][]byte) (*reply, error) {
	if len(frames) > 0 && len(frames[0]) == 0 {
		frames = frames[1:] // the delimiter
	}
	if len(frames) < 3 || string(frames[0]) != string(magic) {
		return nil, badFrame("not the frames of a reply")
	}
	r := newReader(frames[1])
	found := &reply{id: r.id(), body: frames[2], blobs: frames[3:]}
	status := r.uint()
	found.instance = r.id()
	if err := r.end(); err != nil {
		return nil, err
	}
	switch status {
	case 0:
		rest, err := msgp.Skip(found.body)
		if err != nil || len(rest) > 0 || msgp.NextType(found.body) != msgp.MapType {
			return nil, badFrame("the body is not a map")
		}
		return found, nil
	case 1:
		var err error
		found.err, err = errorOf(found.body)
		return found, err
	}
	return nil, badFrame("a reply with status %d", status)
}

// Whether frames are an event of the app's stream (an integer leads its header) and no reply.
func isEvent(frames [][]byte) bool {
	if len(frames) < 2 {
		return false
	}
	_, rest, err := msgp.ReadArrayHeaderBytes(frames[1])
	kind := msgp.NextType(rest)
	return err == nil && (kind == msgp.IntType || kind == msgp.UintType)
}

// Event is something that an app gets from its stream, or from its client ([LinkLost], [LinkRestored]).
type Event interface {
	// Kind is its name in the contract.
	Kind() string
}

// Header is what all events of a stream begin with. StreamID and Seq together identify an event for ever.
type Header struct {
	StreamID ID     `json:"stream_id"`
	Seq      uint64 `json:"seq"`
	TimeNs   int64  `json:"time_ns"`
}

func (h *Header) header() *Header { return h }

type streamEvent interface {
	Event
	header() *Header
}

// Of an event: its header, and itself; nil for a heartbeat and for a kind of a later version.
func decodeEvent(frames [][]byte) (kind uint64, header Header, event Event, err error) {
	if len(frames) < 2 || string(frames[0]) != string(magic) {
		return 0, header, nil, badFrame("not the frames of an event")
	}
	r := newReader(frames[1])
	if leading := r.uint(); r.err == nil && leading != 1 {
		return 0, header, nil, badFrame("not the header of an event")
	}
	header.StreamID = r.id()
	header.Seq = r.uint()
	kind = r.uint()
	header.TimeNs = r.ns()
	var payload []byte
	if len(frames) > 2 {
		payload = frames[2]
	}
	if r.err == nil {
		event = readEvent(kind, header, r, payload)
	}
	return kind, header, event, r.end()
}

// Reads the elements of a header, an append-only array; the first fault stays in err.
type reader struct {
	b    []byte
	left uint32
	err  error
}

func newReader(frame []byte) *reader {
	left, rest, err := msgp.ReadArrayHeaderBytes(frame)
	return &reader{rest, left, err}
}

func take[T any](r *reader, read func([]byte) (T, []byte, error)) (value T) {
	if r.err == nil && r.left == 0 {
		r.err = badFrame("a header with too few elements")
	}
	if r.err != nil {
		return value
	}
	r.left--
	value, r.b, r.err = read(r.b)
	return value
}

func (r *reader) check(fine bool, what string) {
	if r.err == nil && !fine {
		r.err = badFrame("a header: %s", what)
	}
}

// What stands behind the known elements is skipped.
func (r *reader) end() error {
	for ; r.err == nil && r.left > 0; r.left-- {
		r.b, r.err = msgp.Skip(r.b)
	}
	r.check(len(r.b) == 0, "bytes behind it")
	if r.err == nil {
		return nil
	}
	if _, ours := r.err.(*Error); !ours {
		r.err = badFrame("a header: %v", r.err)
	}
	return r.err
}

func (r *reader) boolean() bool { return take(r, msgp.ReadBoolBytes) }
func (r *reader) ns() int64     { return take(r, msgp.ReadInt64Bytes) }

func (r *reader) uint() uint64 {
	n := take(r, msgp.ReadUint64Bytes)
	r.check(n <= math.MaxInt64, "an integer above 2^63 - 1")
	return n
}

func (r *reader) uint32() uint32 {
	n := r.uint()
	r.check(n <= math.MaxUint32, "an integer above 2^32 - 1")
	return uint32(n)
}

func (r *reader) text() string {
	text := take(r, msgp.ReadStringBytes)
	r.check(utf8.ValidString(text), "text that is not UTF-8")
	return text
}

func (r *reader) texts() []string {
	inner := newReader(r.b)
	take(r, func(b []byte) (nothing struct{}, rest []byte, err error) {
		rest, err = msgp.Skip(b)
		return nothing, rest, err
	})
	if inner.err != nil {
		r.check(false, "not an array of text")
		return nil
	}
	var texts []string
	for r.err == nil && inner.left > 0 {
		texts = append(texts, inner.text())
		if inner.err != nil {
			r.err = inner.err
		}
	}
	return texts
}

func (r *reader) bin() []byte { return take(r, msgp.ReadBytesZC) }

func (r *reader) id() (id ID) {
	raw := r.bin()
	r.check(len(raw) == len(id), "an id that has not 16 bytes")
	copy(id[:], raw)
	return id
}

func (r *reader) hash() (hash Hash) {
	raw := r.bin()
	r.check(len(raw) == len(hash), "a hash that has not 32 bytes")
	copy(hash[:], raw)
	return hash
}

func (r *reader) hashOrNil() *Hash {
	if r.err == nil && r.left > 0 && msgp.IsNil(r.b) {
		r.left--
		r.b = r.b[1:]
		return nil
	}
	hash := r.hash()
	return &hash
}

func (r *reader) atMost(size int) []byte {
	raw := r.bin()
	r.check(len(raw) <= size, "bytes that are too many")
	return append([]byte(nil), raw...) // the frame need not be kept for it
}

func (r *reader) meta() []byte     { return r.atMost(64) }
func (r *reader) shortBin() []byte { return r.atMost(32) }
