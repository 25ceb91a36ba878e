// A go-libp2p host, driven over JSON lines by the tests of reachability: it serves AutoNAT and relays circuits.
//
//	reach --listen /ip4/20.1.0.1/tcp/4001
//
// Commands: dialback {address} -> {} (AutoNAT at that peer), dial {address} -> {}, reserve {address} -> {}, peers {} -> [{peerId, address}], stop {} -> {}.
// Event: ready {peerId, addresses}.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/host/autonat"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-msgio"
	ma "github.com/multiformats/go-multiaddr"
)

const metadata = "/vac/waku/metadata/1.0.0"

type command struct {
	ID      int    `json:"id"`
	Cmd     string `json:"cmd"`
	Address string `json:"address"`
}

type connection struct {
	PeerID  string `json:"peerId"`
	Address string `json:"address"`
}

func emit(value map[string]any) {
	line, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(line))
}

// A Waku node leaves a peer that does not answer this; the request sent back says that we are of its network.
func answerMetadata(s network.Stream) {
	defer s.Close()
	request, err := msgio.NewVarintReaderSize(s, 16384).ReadMsg()
	if err == nil {
		_ = msgio.NewVarintWriter(s).WriteMsg(request)
	}
}

func do(h host.Host, c command) (any, error) {
	ctx, cancel := context.WithTimeout(network.WithAllowLimitedConn(context.Background(), "test"), 25*time.Second)
	defer cancel()
	if c.Cmd == "peers" {
		found := []connection{}
		for _, one := range h.Network().Conns() {
			found = append(found, connection{one.RemotePeer().String(), one.RemoteMultiaddr().String()})
		}
		return found, nil
	}
	address, err := ma.NewMultiaddr(c.Address)
	if err != nil {
		return nil, err
	}
	info, err := peer.AddrInfoFromP2pAddr(address)
	if err != nil {
		return nil, err
	}
	switch c.Cmd {
	case "dialback":
		return nil, autonat.NewAutoNATClient(h, h.Addrs, nil).DialBack(ctx, info.ID)
	case "dial":
		return nil, h.Connect(ctx, *info)
	case "reserve":
		_, err := client.Reserve(ctx, h, *info)
		return nil, err
	}
	return nil, fmt.Errorf("no such command: %s", c.Cmd)
}

func main() {
	listen := flag.String("listen", "", "multiaddr")
	flag.Parse()
	h, err := libp2p.New(
		libp2p.ListenAddrStrings(*listen),
		libp2p.ForceReachabilityPublic(),
		libp2p.EnableNATService(),
		libp2p.EnableRelayService(),
		libp2p.DisableMetrics(),
	)
	if err != nil {
		panic(err)
	}
	h.SetStreamHandler(metadata, answerMetadata)
	addresses := []string{}
	for _, one := range h.Addrs() {
		addresses = append(addresses, fmt.Sprintf("%s/p2p/%s", one, h.ID()))
	}
	emit(map[string]any{"event": "ready", "peerId": h.ID().String(), "addresses": addresses})
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var c command
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			panic(err)
		}
		if c.Cmd == "stop" {
			emit(map[string]any{"id": c.ID, "ok": true, "result": nil})
			return
		}
		if result, err := do(h, c); err != nil {
			emit(map[string]any{"id": c.ID, "ok": false, "error": err.Error()})
		} else {
			emit(map[string]any{"id": c.ID, "ok": true, "result": result})
		}
	}
}
