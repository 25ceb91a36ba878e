// Writes the parity vectors of ../leopard.json with an independent implementation of Leopard codes:
//
//	go run . > ../leopard.json
//
// Data shard i is sha256("i/0") sha256("i/1") … (decimal numbers), cut to the shard length.
package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"

	"github.com/klauspost/reedsolomon"
)

type vector struct {
	Data   int    `json:"data"`
	Parity int    `json:"parity"`
	Size   int    `json:"size"`
	Field  int    `json:"field"`
	First  string `json:"first"`
	Last   string `json:"last"`
	All    string `json:"sha256"`
}

func shard(index, size int) []byte {
	out := []byte{}
	for block := 0; len(out) < size; block++ {
		sum := sha256.Sum256([]byte(fmt.Sprintf("%d/%d", index, block)))
		out = append(out, sum[:]...)
	}
	return out[:size]
}

func makeVector(data, parity, size int) vector {
	m, n := 1, 1
	for m < parity {
		m *= 2
	}
	for n < m+data {
		n *= 2
	}
	// The C++ library decides by the padded number of positions; this one only by the number of shards.
	field, option := 8, reedsolomon.WithLeopardGF(true)
	if n > 256 {
		field, option = 16, reedsolomon.WithLeopardGF16(true)
	}
	code, err := reedsolomon.New(data, parity, option)
	if err != nil {
		panic(err)
	}
	shards := make([][]byte, data+parity)
	for i := range shards {
		if i < data {
			shards[i] = shard(i, size)
		} else {
			shards[i] = make([]byte, size)
		}
	}
	if err := code.Encode(shards); err != nil {
		panic(err)
	}
	hash := sha256.New()
	for _, p := range shards[data:] {
		hash.Write(p)
	}
	text := hex.EncodeToString
	return vector{data, parity, size, field, text(shards[data]), text(shards[data+parity-1]), text(hash.Sum(nil))}
}

func main() {
	cases := [][3]int{
		{1, 1, 64}, {2, 1, 64}, {2, 2, 64}, {3, 2, 64}, {5, 3, 128}, {8, 8, 64}, {10, 4, 192}, {33, 5, 64},
		{64, 33, 64}, {128, 128, 64}, {206, 26, 64}, {224, 32, 128}, {200, 50, 64}, {228, 28, 64}, {180, 76, 128},
		{300, 3, 64}, {1000, 200, 64},
	}
	vectors := []vector{}
	for _, c := range cases {
		vectors = append(vectors, makeVector(c[0], c[1], c[2]))
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", " ")
	if err := encoder.Encode(vectors); err != nil {
		panic(err)
	}
}
