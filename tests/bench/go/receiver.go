package main

import (
	"encoding/binary"
	"net"
	"sync"
	"time"
)

type expected struct {
	command
	seen                 []bool
	stamps               []int64
	received, duplicates int
	first, last          int64
	cpu                  float64
}

// receiver counts the messages of a round and acknowledges them, over a TCP connection of its own.
type receiver struct {
	mu   sync.Mutex
	exp  *expected
	acks net.Conn
}

func (r *receiver) expect(c command) {
	e := &expected{command: c, seen: make([]bool, c.Messages), cpu: cpuUs()}
	if c.Stamps {
		e.stamps = make([]int64, c.Messages)
	}
	r.mu.Lock()
	r.exp = e
	r.mu.Unlock()
	emit("expecting", map[string]any{"round": c.Round})
	go func() { // nothing new for 10 s: say what there is
		last := -1
		for {
			time.Sleep(10 * time.Second)
			r.mu.Lock()
			if r.exp != e {
				r.mu.Unlock()
				return
			}
			if e.received == last {
				r.finish(e, cpuUs())
				r.mu.Unlock()
				return
			}
			last = e.received
			r.mu.Unlock()
		}
	}()
}

func (r *receiver) finish(e *expected, cpu float64) {
	r.exp = nil
	values := map[string]any{
		"round": e.Round, "received": e.received, "duplicates": e.duplicates, "lost": e.Messages - e.received,
		"first_ns": e.first, "last_ns": e.last, "cpu_us": cpu - e.cpu,
	}
	if e.Stamps {
		values["stamps"] = e.stamps
	}
	emit("received", values)
}

func (r *receiver) take(payload []byte) {
	number := binary.BigEndian.Uint64(payload)
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.exp
	if e == nil || int(number>>32) != e.Round {
		return
	}
	index := int(uint32(number))
	if e.seen[index] {
		e.duplicates++
		return
	}
	e.seen[index] = true
	e.received++
	if e.stamps != nil {
		e.stamps[index] = now()
	}
	if e.received == 1 {
		e.first = now()
	}
	if e.received == e.Messages {
		e.last = now()
		cpu := cpuUs()
		r.ack(e.received)
		r.finish(e, cpu)
	} else if e.received%e.AckEvery == 0 {
		r.ack(e.received)
	}
}

func (r *receiver) ack(count int) {
	if r.acks != nil {
		r.acks.Write(binary.BigEndian.AppendUint32(nil, uint32(count)))
	}
}

func (r *receiver) listen() int {
	l := must(net.Listen("tcp", "127.0.0.1:0"))
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.mu.Lock()
			r.acks = c // no delay is Go's default
			r.mu.Unlock()
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}
