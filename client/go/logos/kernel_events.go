package logos

import "github.com/tinylib/msgp/msgp"

// Of where a [KernelMessage] came from.
const (
	SourceRelay  = 0
	SourceFilter = 1
	SourceSelf   = 2
)

// StreamPlace is where an event stands in one of a kernel's streams. Instance changes with each start of the kernel, Epoch
// with each activation of the stream; Seq has no gaps.
type StreamPlace struct {
	Instance ID     `json:"instance"`
	Epoch    Epoch  `json:"epoch"`
	Seq      uint64 `json:"seq"`
	TimeNs   int64  `json:"time_ns"`
}

// KernelMessage is a message on a shard; Stream is m/<cluster>/<shard>.
type KernelMessage struct {
	StreamPlace
	Stream       string `json:"stream"`
	ContentTopic string `json:"content_topic"`
	Payload      []byte `json:"payload"`
	MessageHash  Hash   `json:"message_hash"`
	Timestamp    int64  `json:"timestamp"`
	Meta         []byte `json:"meta"`
	Ephemeral    bool   `json:"ephemeral"`
	Version      uint32 `json:"version"`
	Proof        []byte `json:"proof"`
	Source       uint32 `json:"source"`
}

// HealthEvent says that the node's health changed; it is complete.
type HealthEvent struct {
	StreamPlace
	Health NodeHealth `json:"health"`
}

// PeerEvent says that a peer joined, left or changed.
type PeerEvent struct {
	StreamPlace
	Change string     `json:"change"`
	Peer   PeerRecord `json:"peer"`
}

// PeersSnapshot has all peers: asked for because peer events were lost.
type PeersSnapshot struct {
	Peers []PeerRecord `json:"peers"`
}

// StreamLoss says that events First to Last of a stream are lost; Last 0: the stream restarted, and how many is unknown.
type StreamLoss struct {
	Stream string `json:"stream"`
	First  uint64 `json:"first"`
	Last   uint64 `json:"last"`
	Reason string `json:"reason"`
}

// KernelLost is an event of the client's own: the kernel is gone, and looked for.
type KernelLost struct {
	Reason string `json:"reason"`
}

// KernelFound is an event of the client's own: the kernel is there again. Restarted: as another instance, so that its
// streams begin at seq 1.
type KernelFound struct {
	Instance  ID   `json:"instance"`
	Restarted bool `json:"restarted"`
}

// Kind is "message".
func (*KernelMessage) Kind() string { return "message" }

// Kind is "health".
func (*HealthEvent) Kind() string { return "health" }

// Kind is "peer".
func (*PeerEvent) Kind() string { return "peer" }

// Kind is "peers_snapshot".
func (*PeersSnapshot) Kind() string { return "peers_snapshot" }

// Kind is "stream_loss".
func (*StreamLoss) Kind() string { return "stream_loss" }

// Kind is "kernel_lost".
func (*KernelLost) Kind() string { return "kernel_lost" }

// Kind is "kernel_found".
func (*KernelFound) Kind() string { return "kernel_found" }

const kindKernelMessage, kindHealth, kindPeer = 1, 2, 3

// The version of an event's header that is of another one than ours; 0 for all other bytes. Nothing behind it can be read.
func otherVersion(frame []byte) uint64 {
	r := newReader(frame)
	if version := r.uint(); r.err == nil && version != 1 {
		return version
	}
	return 0
}

// The header of one of the kernel's events (§3.1), and the event: nil for a heartbeat and for a kind of a later version.
func decodeKernelEvent(stream string, frame, payload []byte) (kind uint64, place StreamPlace, event Event, err error) {
	r := newReader(frame)
	if version := r.uint(); r.err == nil && version != 1 {
		return 0, place, nil, badFrame("an event header of version %d", version)
	}
	kind = r.uint()
	place.Instance = r.id()
	place.Epoch = r.epoch()
	place.Seq = r.uint()
	place.TimeNs = r.ns()
	switch {
	case r.err != nil:
	case kind == kindHeartbeat:
		r.boolean() // covered
	case kind == kindKernelMessage:
		event = &KernelMessage{
			StreamPlace: place, Stream: stream, Payload: payload,
			ContentTopic: r.text(), MessageHash: r.hash(), Timestamp: r.ns(), Meta: r.meta(), Ephemeral: r.boolean(),
			Version: r.uint32(), Proof: r.bin(), Source: r.uint32(),
		}
	case kind == kindHealth:
		e := &HealthEvent{StreamPlace: place}
		r.body(&e.Health)
		event = e
	case kind == kindPeer:
		e := &PeerEvent{StreamPlace: place, Change: r.text()}
		r.body(&e.Peer)
		event = e
	}
	return kind, place, event, r.end()
}

func (r *reader) epoch() (epoch Epoch) {
	raw := r.bin()
	r.check(len(raw) == len(epoch), "an epoch that has not 8 bytes")
	copy(epoch[:], raw)
	return epoch
}

func (r *reader) body(into any) {
	from := r.b
	rest := take(r, func(b []byte) ([]byte, []byte, error) {
		rest, err := msgp.Skip(b)
		return rest, rest, err
	})
	if r.err == nil {
		r.err = decodeBody(from[:len(from)-len(rest)], into)
	}
}
