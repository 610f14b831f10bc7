// Package codectest generates data to test and measure codecs with. Device state
// differs from the usual corpora: it consists of zero pages, page tables and queues
// full of pointers, firmware images, and encrypted or packed buffers.
package codectest

import (
	"encoding/binary"
	"math/rand/v2"
)

// Corpus is one kind of data. Fill fills dst; the same seed and length give the
// same bytes.
type Corpus struct {
	Name string
	Fill func(dst []byte, seed uint64)
}

// Bytes returns n bytes of the corpus.
func (c Corpus) Bytes(n int, seed uint64) []byte {
	b := make([]byte, n)
	c.Fill(b, seed)
	return b
}

// Corpora returns every corpus.
func Corpora() []Corpus {
	return []Corpus{
		{"zero", Zero},
		{"random", Random},
		{"mixed", Mixed},
		{"code", Code},
		{"text", Text},
	}
}

// Zero fills dst with zeros.
func Zero(dst []byte, _ uint64) { clear(dst) }

// Random fills dst with bytes that no codec can shrink.
func Random(dst []byte, seed uint64) {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	rand.NewChaCha8(key).Read(dst)
}

// Pointers fills dst with 8-byte kernel addresses, some of them nil, as rings
// and tables of descriptors hold them.
func Pointers(dst []byte, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	at := uint64(0xffff_8880_0000_0000) | r.Uint64N(1<<34)&^63
	var word [8]byte
	for i := 0; i < len(dst); i += len(word) {
		at += 64 * r.Uint64N(64)
		binary.LittleEndian.PutUint64(word[:], at*min(r.Uint64N(4), 1))
		copy(dst[i:], word[:])
	}
}

// pageSize is the unit in which the data of a device changes its kind.
const pageSize = 4096

// Mixed fills dst page by page with one of the other kinds, zeros most often.
func Mixed(dst []byte, seed uint64) {
	kinds := []func([]byte, uint64){Zero, Zero, Zero, Text, Pointers, Pointers, Random}
	r := rand.New(rand.NewPCG(seed, 2))
	for len(dst) > 0 {
		n := min(pageSize, len(dst))
		kinds[r.IntN(len(kinds))](dst[:n], r.Uint64())
		dst = dst[n:]
	}
}

// words are common words of logs and configuration files.
var words = []string{
	"device", "state", "queue", "ring", "buffer", "page", "offset", "length",
	"enabled", "disabled", "running", "stopped", "error", "warning", "info",
	"0x0000", "0xffff", "index=", "count=", "flags=", "true", "false", "the",
	"of", "and", "to", "is", "in", "received", "sent", "packet", "interrupt",
	"vector", "function", "capability", "register", "firmware", "version",
}

// Text fills dst with lines of words and numbers.
func Text(dst []byte, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 3))
	for len(dst) > 0 {
		n := copy(dst, words[r.IntN(len(words))])
		n += copy(dst[n:], separator(r))
		dst = dst[n:]
	}
}

func separator(r *rand.Rand) string {
	switch r.IntN(10) {
	case 0:
		return "\n"
	case 1, 2:
		return string([]byte{' ', digit(r), digit(r), digit(r), ' '})
	}
	return " "
}

func digit(r *rand.Rand) byte { return byte('0' + r.IntN(10)) }
