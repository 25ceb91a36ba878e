package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-libp2p/p2p/transport/websocket"
)

const (
	topicName  = "/waku/2/rs/42/0"
	maxMessage = 153_600
	protocolID = protocol.ID("/vac/waku/relay/2.0.0")
	// Above every window of the bench: no queue drops a message.
	queueLength = 16384
)

type node struct {
	ps      *pubsub.PubSub
	topic   *pubsub.Topic
	sub     *pubsub.Subscription
	id      peer.ID
	connect func(context.Context, peer.AddrInfo) error
	addrs   []string
	inMesh  atomic.Int64
	acked   atomic.Int64
	moved   chan struct{}
}

// wire is what carries the connections.
type wire struct{ transport, certificate, key string }

func (w wire) options() []libp2p.Option {
	switch w.transport {
	case "ws":
		return []libp2p.Option{libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0/ws"), libp2p.Transport(websocket.New)}
	case "wss":
		shown := must(tls.LoadX509KeyPair(w.certificate, w.key))
		config := &tls.Config{Certificates: []tls.Certificate{shown}}
		return []libp2p.Option{
			libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0/tls/ws"),
			libp2p.Transport(websocket.New, websocket.WithTLSConfig(config)),
		}
	}
	return []libp2p.Option{
		libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"),
		libp2p.Transport(tcp.NewTCPTransport, tcp.DisableReuseport()),
	}
}

// startNode sets gossipsub as Waku relay does: protocol id, StrictNoSign, sha256 ids, the scores and mesh sizes of nwaku.
func startNode(ctx context.Context, by wire) *node {
	n := &node{moved: make(chan struct{}, 1)}
	priv, _, err := crypto.GenerateSecp256k1Key(rand.Reader)
	if err != nil {
		panic(err)
	}
	h := must(libp2p.New(append(by.options(),
		libp2p.Identity(priv),
		libp2p.Security(noise.ID, noise.New),
		libp2p.Muxer(yamux.ID, yamux.DefaultTransport),
		libp2p.ResourceManager(&network.NullResourceManager{}),
		libp2p.DisableRelay(),
		libp2p.DisableMetrics(),
	)...))
	_, loop, _ := net.ParseCIDR("127.0.0.0/8")
	params := pubsub.DefaultGossipSubParams()
	params.D, params.Dlo, params.Dhi, params.Dscore, params.Dout, params.Dlazy = 6, 4, 8, 6, 2, 6
	params.HistoryLength, params.HistoryGossip = 6, 3
	n.ps = must(pubsub.NewGossipSub(ctx, h,
		pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign),
		pubsub.WithNoAuthor(),
		pubsub.WithMessageIdFn(func(m *pb.Message) string {
			s := sha256.Sum256(m.Data)
			return string(s[:])
		}),
		pubsub.WithGossipSubProtocols([]protocol.ID{protocolID}, func(f pubsub.GossipSubFeature, p protocol.ID) bool {
			return p == protocolID && (f == pubsub.GossipSubFeatureMesh || f == pubsub.GossipSubFeaturePX)
		}),
		pubsub.WithGossipSubParams(params),
		pubsub.WithFloodPublish(true),
		pubsub.WithMaxMessageSize(maxMessage+64*1024),
		pubsub.WithPeerOutboundQueueSize(queueLength),
		pubsub.WithValidateQueueSize(queueLength),
		pubsub.WithDefaultValidator(func(_ context.Context, _ peer.ID, m *pubsub.Message) bool {
			w, ok := decode(m.Data)
			m.ValidatorData = w.payload
			return ok
		}, pubsub.WithValidatorInline(true)),
		pubsub.WithPeerScore(&pubsub.PeerScoreParams{
			AppSpecificScore:            func(peer.ID) float64 { return 0 },
			IPColocationFactorWeight:    -50,
			IPColocationFactorThreshold: 5,
			IPColocationFactorWhitelist: []*net.IPNet{loop},
			BehaviourPenaltyWeight:      -10,
			BehaviourPenaltyDecay:       0.986,
			DecayInterval:               12 * time.Second,
			DecayToZero:                 0.01,
			RetainScore:                 10 * time.Minute,
			Topics: map[string]*pubsub.TopicScoreParams{topicName: {
				SkipAtomicValidation:           true,
				TopicWeight:                    1,
				TimeInMeshWeight:               0.01,
				TimeInMeshQuantum:              time.Second,
				TimeInMeshCap:                  10,
				FirstMessageDeliveriesWeight:   1,
				FirstMessageDeliveriesDecay:    0.5,
				FirstMessageDeliveriesCap:      10,
				InvalidMessageDeliveriesWeight: -100,
				InvalidMessageDeliveriesDecay:  0.5,
			}},
		}, &pubsub.PeerScoreThresholds{GossipThreshold: -100, PublishThreshold: -1000, GraylistThreshold: -10000}),
		pubsub.WithPeerScoreInspect(func(peers map[peer.ID]*pubsub.PeerScoreSnapshot) {
			count := int64(0)
			for _, p := range peers {
				if t := p.Topics[topicName]; t != nil && t.TimeInMesh > 0 {
					count++
				}
			}
			n.inMesh.Store(count)
		}, 250*time.Millisecond),
	))
	n.topic = must(n.ps.Join(topicName))
	n.sub = must(n.topic.Subscribe(pubsub.WithBufferSize(queueLength)))
	n.id = h.ID()
	n.connect = h.Connect
	for _, a := range h.Addrs() {
		n.addrs = append(n.addrs, fmt.Sprintf("%s/p2p/%s", a, h.ID()))
	}
	return n
}

func (n *node) readAcks(port int) {
	c := must(net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)))
	go func() {
		buf := make([]byte, 4096)
		rest := 0
		for {
			k, err := c.Read(buf[rest:])
			if err != nil {
				return
			}
			k += rest
			whole := k - k%4
			if whole > 0 {
				n.acked.Store(int64(binary.BigEndian.Uint32(buf[whole-4:])))
				select {
				case n.moved <- struct{}{}:
				default:
				}
			}
			rest = copy(buf, buf[whole:k])
		}
	}()
}

func (n *node) untilAcked(count int) {
	for int(n.acked.Load()) < count {
		<-n.moved
	}
}

func (n *node) publish(ctx context.Context, c command) {
	mk := messageMaker(c.Size)
	n.acked.Store(0)
	cpu, start := cpuUs(), now()
	for i := 0; i < c.Messages; i++ {
		if i-int(n.acked.Load()) >= c.Window {
			n.untilAcked(i - c.Window + 1)
		}
		if err := n.topic.Publish(ctx, mk(uint64(c.Round)<<32|uint64(i))); err != nil {
			panic(err)
		}
	}
	n.untilAcked(c.Messages)
	emit("published", map[string]any{"round": c.Round, "start_ns": start, "end_ns": now(), "cpu_us": cpuUs() - cpu})
}

func (n *node) pace(ctx context.Context, c command) {
	mk := messageMaker(c.Size)
	n.acked.Store(0)
	stamps := make([]int64, c.Messages)
	cpu, start := cpuUs(), now()
	step := int64(1_000_000_000 / c.Rate)
	for i := range stamps {
		if wait := start + int64(i)*step - now(); wait > 0 {
			time.Sleep(time.Duration(wait))
		}
		m := mk(uint64(c.Round)<<32 | uint64(i))
		stamps[i] = now()
		if err := n.topic.Publish(ctx, m); err != nil {
			panic(err)
		}
	}
	n.untilAcked(c.Messages)
	emit("paced", map[string]any{"round": c.Round, "stamps": stamps, "cpu_us": cpuUs() - cpu})
}
