// The relay bench's reference in Go: go-libp2p-pubsub (GossipSub) as publisher or receiver.
// The commands and events are those of tests/bench/js/relay_node.mjs.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"os"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/sys/unix"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func now() int64 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return ts.Nano()
}

func cpuUs() float64 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts)
	return float64(ts.Nano()) / 1000
}

var out sync.Mutex

func emit(event string, values map[string]any) {
	if values == nil {
		values = map[string]any{}
	}
	values["event"] = event
	line := must(json.Marshal(values))
	out.Lock()
	defer out.Unlock()
	os.Stdout.Write(append(line, '\n'))
}

type command struct {
	Cmd      string `json:"cmd"`
	Round    int    `json:"round"`
	Messages int    `json:"messages"`
	AckEvery int    `json:"ackEvery"`
	Address  string `json:"address"`
	AckPort  int    `json:"ackPort"`
	Size     int    `json:"size"`
	Window   int    `json:"window"`
	Peers    int    `json:"peers"`
	Rate     int    `json:"rate"`
	Stamps   bool   `json:"stamps"`
}

func main() {
	role := flag.String("role", "", "receiver or publisher")
	var by wire
	flag.StringVar(&by.transport, "transport", "tcp", "tcp, ws or wss")
	flag.StringVar(&by.certificate, "tls-cert", "", "certificate chain in PEM, for wss")
	flag.StringVar(&by.key, "tls-key", "", "its key")
	flag.Parse()
	ctx := context.Background()
	r := &receiver{}
	n := startNode(ctx, by)
	go func() {
		for {
			m, err := n.sub.Next(ctx)
			if err != nil {
				return
			}
			if m.ReceivedFrom != n.id {
				r.take(m.ValidatorData.([]byte))
			}
		}
	}()
	port := 0
	if *role == "receiver" {
		port = r.listen()
	}
	emit("ready", map[string]any{"role": *role, "peerId": n.id.String(), "addresses": n.addrs, "ackPort": port})
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var c command
		if err := json.Unmarshal(in.Bytes(), &c); err != nil {
			panic(err)
		}
		switch c.Cmd {
		case "connect":
			info := must(peer.AddrInfoFromP2pAddr(must(ma.NewMultiaddr(c.Address))))
			if err := n.connect(ctx, *info); err != nil {
				panic(err)
			}
			n.readAcks(c.AckPort)
			for n.inMesh.Load() < 1 {
				time.Sleep(10 * time.Millisecond)
			}
			emit("connected", nil)
		case "attend":
			if c.AckPort != 0 {
				n.readAcks(c.AckPort)
			}
			for len(n.topic.ListPeers()) < c.Peers {
				time.Sleep(10 * time.Millisecond)
			}
			emit("attended", map[string]any{"peers": len(n.topic.ListPeers())})
		case "expect":
			r.expect(c)
		case "publish":
			n.publish(ctx, c)
		case "pace":
			n.pace(ctx, c)
		case "stop":
			return
		}
	}
}
