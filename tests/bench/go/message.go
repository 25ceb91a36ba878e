package main

import (
	"bytes"
	"encoding/binary"

	"google.golang.org/protobuf/encoding/protowire"
)

// The messages of the bench: WakuMessages (14/WAKU2-MESSAGE), byte for byte those of tests/bench/js/messages.mjs.

const (
	contentTopic = "/bench/1/relay/proto"
	timestampNs  = 1_700_000_000_000_000_000
)

func filler(n int) []byte {
	b := make([]byte, n)
	state := uint32(0x9E3779B9)
	for i := range b {
		state ^= state << 13
		state ^= state >> 17
		state ^= state << 5
		b[i] = byte(state)
	}
	return b
}

// messageMaker returns a function (number) -> encoded message with a payload of size bytes.
func messageMaker(size int) func(uint64) []byte {
	head := append([]byte{0x0a}, protowire.AppendVarint(nil, uint64(size))...)
	t := append(append([]byte{}, head...), make([]byte, 8)...)
	t = append(t, filler(size-8)...)
	t = append(t, 0x12)
	t = protowire.AppendVarint(t, uint64(len(contentTopic)))
	t = append(t, contentTopic...)
	t = append(t, 0x18, 0x00, 0x50)
	t = protowire.AppendVarint(t, uint64(timestampNs)<<1)
	t = append(t, 0x5a, 0x00, 0xaa, 0x01, 0x00, 0xf8, 0x01, 0x00)
	return func(n uint64) []byte {
		m := bytes.Clone(t)
		binary.BigEndian.PutUint64(m[len(head):], n)
		return m
	}
}

type wakuMessage struct {
	payload      []byte
	contentTopic string
	version      uint32
	timestamp    int64
	meta, proof  []byte
	ephemeral    bool
}

// decode reads a WakuMessage (14/WAKU2-MESSAGE); payload, meta and proof stay views of the data.
func decode(b []byte) (m wakuMessage, ok bool) {
	var hasPayload, hasTopic bool
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return m, false
		}
		b = b[n:]
		switch typ {
		case protowire.BytesType:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return m, false
			}
			b = b[n:]
			switch num {
			case 1:
				m.payload, hasPayload = v, true
			case 2:
				m.contentTopic, hasTopic = string(v), true
			case 11:
				m.meta = v
			case 21:
				m.proof = v
			}
		case protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return m, false
			}
			b = b[n:]
			switch num {
			case 3:
				m.version = uint32(v)
			case 10:
				m.timestamp = protowire.DecodeZigZag(v)
			case 31:
				m.ephemeral = v != 0
			}
		default:
			n := protowire.ConsumeFieldValue(num, typ, b)
			if n < 0 {
				return m, false
			}
			b = b[n:]
		}
	}
	return m, hasPayload && hasTopic && len(m.meta) <= 64
}
