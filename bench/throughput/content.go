package main

import (
	"sync"

	"github.com/migpipe/migpipe/codec/codectest"
)

// contentSize is longer than a chunk, and than the window of any codec.
const contentSize = 8 << 20

// contents are what is moved, made from a seed when it is first asked for.
var contents = map[string]func() []byte{
	"random": generated(codectest.Random),
	"zero":   generated(codectest.Zero),
	"mixed":  generated(codectest.Mixed),
	"code":   generated(codectest.Code),
}

func generated(fill func(dst []byte, seed uint64)) func() []byte {
	return sync.OnceValue(func() []byte {
		b := make([]byte, contentSize)
		fill(b, 1)
		return b
	})
}
