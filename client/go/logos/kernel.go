package logos

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// KernelOptions are those of [ConnectKernel]. All may be left out.
type KernelOptions struct {
	// Name of the consumer: leases belong to it and are continued by its next connection. The kernel makes one up without.
	Name string
	// Kind is "tool" (without one), "app" or "mapi".
	Kind string
}

// KernelClient is a consumer of a kernel. Made by [ConnectKernel].
type KernelClient struct {
	options    KernelOptions
	connection *connection
	leases     leases
	replaying  sync.Mutex // the kernel takes one replay per consumer at a time

	mu       sync.Mutex
	hello    *KernelHello
	events   string // the endpoint of the event streams
	control  string // that of the control socket
	feeds    map[*Feed]bool
	isClosed bool
}

// ConnectKernel connects to the kernel of a node's run directory, within the context's deadline (10 s without one).
// Errors: CodeNotReady, CodeBadRequest, CodeUnsupportedVersion, CodeUnauthorised.
func ConnectKernel(ctx context.Context, directory string, options KernelOptions) (*KernelClient, error) {
	if schemeOf.MatchString(directory) {
		return nil, newError(CodeBadRequest, "%s: a kernel has several endpoints: name its run directory", directory)
	}
	requests, err := endpointOf(directory, "kernel/requests")
	events, err2 := endpointOf(directory, "kernel/events")
	control, err3 := endpointOf(directory, "kernel/control")
	if err = errors.Join(err, err2, err3, checkName(options.Name)); err != nil {
		return nil, err
	}
	if options.Kind == "" {
		options.Kind = "tool"
	}
	k := &KernelClient{options: options, events: events, control: control, feeds: map[*Feed]bool{}}
	k.connection, err = newConnection(requests, hooks{hello: k.helloBody, greeted: k.greeted, down: k.lost})
	if err != nil {
		return nil, err
	}
	k.leases.start(k.connection)
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	if err = k.connection.start(); err == nil {
		err = k.connection.whenReady(ctx)
	}
	if err != nil {
		_ = k.Close()
		return nil, err
	}
	return k, nil
}

// Connected tells whether the kernel is there now.
func (k *KernelClient) Connected() bool { return k.connection.isReady() }

// Hello is the kernel's last answer to our hello: the consumer's name, the network, limits.
func (k *KernelClient) Hello() KernelHello {
	k.mu.Lock()
	defer k.mu.Unlock()
	return *k.hello
}

// Close closes the feeds, gives the leases back and disconnects.
func (k *KernelClient) Close() error {
	k.mu.Lock()
	if k.isClosed {
		k.mu.Unlock()
		return nil
	}
	k.isClosed = true
	feeds := make([]*Feed, 0, len(k.feeds))
	for feed := range k.feeds {
		feeds = append(feeds, feed)
	}
	k.mu.Unlock()
	for _, feed := range feeds {
		_ = feed.Close()
	}
	err := k.leases.releaseAll()
	k.connection.close()
	return err
}

func (k *KernelClient) helloBody() any {
	return HelloRequest{Kind: k.options.Kind, Protocol: []int{protocolVersion, protocolVersion}, Name: k.options.Name}
}

func (k *KernelClient) greeted(body []byte) (inFlight uint64, err error) {
	var about struct {
		Server string `json:"server,omitempty"`
	}
	if err := errors.Join(decodeBody(body, &about), checkServer(about.Server, "logos-kernel")); err != nil {
		return 0, err
	}
	hello := new(KernelHello)
	if err := errors.Join(decodeBody(body, hello), checkProtocol(hello.Protocol)); err != nil {
		return 0, fmt.Errorf("hello: the reply is not that of a kernel: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	before := k.hello
	k.hello = hello
	if hello.Events != "" {
		k.events = hello.Events
	}
	k.leases.greeted(time.Duration(hello.Limits.LeaseRenewMs) * time.Millisecond)
	for feed := range k.feeds {
		feed.moved(k.events)
		if before != nil {
			feed.found(hello.Instance, hello.Instance != before.Instance)
		}
	}
	return hello.Limits.InFlight, nil
}

func (k *KernelClient) lost(reason string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for feed := range k.feeds {
		feed.lost(reason)
	}
}

// -- requests ---------------------------------------------------------------------------------------------------------

// Call makes any request of the contract; what it answers is read into the struct or map that into points to, if any. It
// returns the reply's blobs.
func (k *KernelClient) Call(ctx context.Context, method string, body, into any, blobs ...[]byte) ([][]byte, error) {
	answer, err := k.connection.request(ctx, method, body, blobs...)
	if err != nil {
		return nil, err
	}
	if into != nil {
		err = decodeBody(answer.body, into)
	}
	return answer.blobs, err
}

// Publish publishes a message: how many peers it went to, and its hash. Without pubsub topic and shard the content topic
// decides; without timestamp the kernel's clock. The same bytes again are not sent (Duplicate), unless Force.
//
// Errors: CodeNoPeers (Detail has message_hash and timestamp; local readers get the message all the same), CodeTooLarge,
// CodeBadRequest, CodePeerRestarted (publishing again with the same timestamp is safe).
func (k *KernelClient) Publish(ctx context.Context, message RelayPublishRequest, payload []byte) (*RelayPublishReply, error) {
	answer := new(RelayPublishReply)
	if err := k.checkSize(len(payload)); err != nil {
		return answer, err
	}
	_, err := k.Call(ctx, "relay.publish", message, answer, payload)
	return answer, err
}

// LightPush has another node publish a message.
func (k *KernelClient) LightPush(ctx context.Context, message LightpushPublishRequest, payload []byte) (*LightpushPublishReply, error) {
	answer := new(LightpushPublishReply)
	if err := k.checkSize(len(payload)); err != nil {
		return answer, err
	}
	_, err := k.Call(ctx, "lightpush.publish", message, answer, payload)
	return answer, err
}

func (k *KernelClient) checkSize(size int) error {
	hello := k.Hello()
	return checkSize(size, hello.Limits.BlobBytes, hello.Network)
}

// StoredMessage is a message of a store's answer.
type StoredMessage struct {
	MessageHash  Hash
	PubsubTopic  string
	ContentTopic string
	Timestamp    int64
	Meta         []byte
	Ephemeral    bool
	Version      uint32
	Proof        []byte
	Payload      []byte
}

// StorePage is a store's answer, oldest first whatever the direction. Messages is empty unless data was asked for; Cursor
// is nil when there is no more.
type StorePage struct {
	StoreQueryReply
	Messages []StoredMessage
}

// QueryStore asks a store for history; a message has to match all that is given. Errors: CodeNoPeers (none, or no usable
// answer), CodeBadRequest, CodeRateLimited.
func (k *KernelClient) QueryStore(ctx context.Context, query StoreQueryRequest) (*StorePage, error) {
	page := new(StorePage)
	blobs, err := k.Call(ctx, "store.query", query, &page.StoreQueryReply)
	if err != nil || !query.IncludeData {
		return page, err
	}
	if len(blobs) != 2*len(page.Hashes) {
		return nil, badFrame("store.query: %d messages need %d blobs, not %d", len(page.Hashes), 2*len(page.Hashes), len(blobs))
	}
	for i, hash := range page.Hashes {
		r := newReader(blobs[2*i])
		page.Messages = append(page.Messages, StoredMessage{
			MessageHash: hash, PubsubTopic: r.text(), ContentTopic: r.text(), Timestamp: r.ns(), Meta: r.meta(),
			Ephemeral: r.boolean(), Version: r.uint32(), Proof: r.bin(), Payload: blobs[2*i+1],
		})
		if err := r.end(); err != nil {
			return nil, err
		}
	}
	return page, nil
}

// Peers lists the connected peers.
func (k *KernelClient) Peers(ctx context.Context) ([]PeerRecord, error) {
	var answer PeersListReply
	_, err := k.Call(ctx, "peers.list", nil, &answer)
	return answer.Peers, err
}

// RelayPeers maps pubsub topics to the peers subscribed to them; of one topic if it is not empty.
func (k *KernelClient) RelayPeers(ctx context.Context, pubsubTopic string) (map[string][]string, error) {
	var answer RelayPeersReply
	_, err := k.Call(ctx, "relay.peers", RelayPeersRequest{PubsubTopic: pubsubTopic}, &answer)
	return answer.Topics, err
}

// Mesh maps pubsub topics to the peers in their meshes; of one topic if it is not empty.
func (k *KernelClient) Mesh(ctx context.Context, pubsubTopic string) (map[string][]string, error) {
	var answer RelayPeersReply
	_, err := k.Call(ctx, "relay.mesh", RelayPeersRequest{PubsubTopic: pubsubTopic}, &answer)
	return answer.Topics, err
}

// ConnectPeers dials multiaddresses, and returns what became of each.
func (k *KernelClient) ConnectPeers(ctx context.Context, addresses ...string) ([]ConnectResult, error) {
	var answer PeersConnectReply
	_, err := k.Call(ctx, "peers.connect", PeersConnectRequest{Addresses: addresses}, &answer)
	return answer.Results, err
}

// DisconnectPeer disconnects a peer; false: it was not connected.
func (k *KernelClient) DisconnectPeer(ctx context.Context, peer string) (bool, error) {
	var answer PeersDisconnectReply
	_, err := k.Call(ctx, "peers.disconnect", PeersDisconnectRequest{PeerID: peer}, &answer)
	return answer.Disconnected, err
}

// Health is the state of the node, of each protocol and shard, and of its event loop.
func (k *KernelClient) Health(ctx context.Context) (*NodeHealth, error) {
	answer := new(NodeHealth)
	_, err := k.Call(ctx, "node.health", nil, answer)
	return answer, err
}

// NodeInfo returns facts about the node (Version, Metrics, MyPeerId, …): those named, or all.
func (k *KernelClient) NodeInfo(ctx context.Context, ids ...string) (map[string]any, error) {
	var answer NodeInfoReply
	_, err := k.Call(ctx, "node.info", NodeInfoRequest{IDs: ids}, &answer)
	return answer.Info, err
}

// Lease makes the kernel join shards and record them, until Release or Close; it is renewed meanwhile.
func (k *KernelClient) Lease(ctx context.Context, shards ...int) ([]StreamState, error) {
	return k.leases.hold(ctx, shards)
}

// Release undoes Lease (as often as it was done).
func (k *KernelClient) Release(ctx context.Context, shards ...int) error {
	return k.leases.release(ctx, shards)
}
