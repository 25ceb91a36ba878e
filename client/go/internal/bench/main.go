// The program of the bench `clients` for Go; its command line is described in tests/bench/clients/driver.py.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/logos-mapi/logos-mapi/client/go/logos"
	zmq "github.com/pebbe/zmq4"
)

const (
	topic  = "/bench/1/clients/plain"
	window = 64
)

type stopwatch struct {
	start time.Time
	cpu   time.Duration
}

func cpu() time.Duration {
	var used syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func begin() stopwatch { return stopwatch{time.Now(), cpu()} }

func (w stopwatch) done(delays []time.Duration) {
	said := map[string]any{
		"event": "done", "seconds": time.Since(w.start).Seconds(), "cpu_us": (cpu() - w.cpu).Microseconds(),
	}
	if len(delays) > 0 {
		slices.Sort(delays)
		for _, share := range []int{50, 99} {
			said[fmt.Sprintf("p%d_us", share)] = float64(delays[len(delays)*share/100].Nanoseconds()) / 1000
		}
	}
	check(json.NewEncoder(os.Stdout).Encode(said))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func client(role, endpoint string, count, size int) {
	ctx := context.Background()
	app, err := logos.ConnectMessaging(ctx, endpoint, logos.MessagingOptions{})
	check(err)
	defer app.Close()
	payload := make([]byte, size)
	switch role {
	case "receive":
		_, err := app.Subscribe(ctx, fmt.Sprintf("/bench/1/%d/%d", count, size))
		check(err)
		_, err = app.Next(ctx)
		check(err)
		watch := begin()
		for seq := uint64(2); seq <= uint64(count); seq++ {
			event, err := app.Next(ctx)
			check(err)
			if got, ok := event.(*logos.MessageReceived); !ok || got.Seq != seq || len(got.Payload) != size {
				check(fmt.Errorf("%v instead of message %d", event, seq))
			}
		}
		watch.done(nil)
	case "send":
		var taken atomic.Int64
		var working sync.WaitGroup
		watch := begin()
		for range window {
			working.Add(1)
			go func() {
				defer working.Done()
				for taken.Add(1) <= int64(count) {
					_, err := app.Send(ctx, topic, payload)
					check(err)
				}
			}()
		}
		working.Wait()
		watch.done(nil)
	case "latency":
		delays := make([]time.Duration, count)
		watch := begin()
		for i := range delays {
			start := time.Now()
			_, err := app.Send(ctx, topic, payload)
			check(err)
			delays[i] = time.Since(start)
		}
		watch.done(delays)
	}
}

func bare(role, endpoint string, count, size int) {
	dealer, err := zmq.NewSocket(zmq.DEALER)
	check(err)
	check(dealer.SetLinger(0))
	check(dealer.Connect(endpoint))
	defer dealer.Close()
	receive := func() {
		_, err := dealer.RecvMessageBytes(0)
		check(err)
	}
	// A header and a body as the client makes them: what is in them does not matter here.
	header := []byte("\x94\xc4\x10################\xa4send\xcd\x27\x10\x00")
	body := append([]byte("\x82\xaarequest_id\xc4\x10################\xadcontent_topic\xb6"), topic...)
	request := [][]byte{[]byte("LD1"), header, body, make([]byte, size)}
	send := func() {
		_, err := dealer.SendMessage(request)
		check(err)
	}
	switch role {
	case "receive":
		_, err := dealer.SendMessage("flood", strconv.Itoa(count), strconv.Itoa(size))
		check(err)
		receive()
		watch := begin()
		for range count - 1 {
			receive()
		}
		watch.done(nil)
	case "send":
		watch := begin()
		for i := range count + window {
			if i >= window {
				receive()
			}
			if i < count {
				send()
			}
		}
		watch.done(nil)
	case "latency":
		delays := make([]time.Duration, count)
		watch := begin()
		for i := range delays {
			start := time.Now()
			send()
			receive()
			delays[i] = time.Since(start)
		}
		watch.done(delays)
	}
}

func main() {
	if len(os.Args) != 6 {
		check(fmt.Errorf("usage: %s ROLE SIDE ENDPOINT COUNT SIZE", os.Args[0]))
	}
	count, err := strconv.Atoi(os.Args[4])
	check(err)
	size, err := strconv.Atoi(os.Args[5])
	check(err)
	if os.Args[2] == "client" {
		client(os.Args[1], os.Args[3], count, size)
	} else {
		bare(os.Args[1], os.Args[3], count, size)
	}
}
