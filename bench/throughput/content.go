package main

import (
	"os"
	"sync"

	"github.com/migpipe/migpipe/codec/codectest"
)

// contentSize is longer than a chunk, and than the window of any codec.
const contentSize = 8 << 20

// memoryFile is the dump of a virtual machine's memory that the VM test makes.
const memoryFile = "bench/out/memory.bin"

// contents are what is moved: made from a seed when it is first asked for, but for
// memory, which is read each time, so that it is not in the memory of the other ways.
var contents = map[string]func() ([]byte, error){
	"random":      generated(codectest.Random),
	"zero":        generated(codectest.Zero),
	"mixed":       generated(codectest.Mixed),
	"code":        generated(codectest.Code),
	"memory":      func() ([]byte, error) { return os.ReadFile(memoryFile) },
	"alternating": generated(alternating),
}

func generated(fill func(dst []byte, seed uint64)) func() ([]byte, error) {
	return sync.OnceValues(func() ([]byte, error) {
		b := make([]byte, contentSize)
		fill(b, 1)
		return b, nil
	})
}

// lacksMemory says why there is no dump to move, "" if there is one.
func lacksMemory() string {
	if info, err := os.Stat(memoryFile); err != nil || info.Size() < contentSize {
		return "no " + memoryFile + ": make bench-memory"
	}
	return ""
}

// alternating has a chunk that no codec shrinks after each that all do.
func alternating(dst []byte, seed uint64) {
	for i := uint64(0); len(dst) > 0; i++ {
		n, fill := min(blockSize, len(dst)), codectest.Text
		if i%2 == 0 {
			fill = codectest.Random
		}
		fill(dst[:n], seed+i)
		dst = dst[n:]
	}
}
