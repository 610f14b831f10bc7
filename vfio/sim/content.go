package sim

import (
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
)

// Content is the kind of content of a device's state, as a compressor sees it.
type Content uint32

// The kinds of content.
const (
	Random Content = iota // incompressible
	Zero                  // zeros only
	Mixed                 // pages as of a busy machine: some zero, some text, some random
	Text                  // records of words and hexadecimal numbers
)

var contentNames = [...]string{"random", "zero", "mixed", "text"}

// String returns the name that device URLs use.
func (c Content) String() string {
	if int(c) < len(contentNames) {
		return contentNames[c]
	}
	return fmt.Sprintf("Content(%d)", uint32(c))
}

func parseContent(s string) (Content, error) {
	for i, name := range contentNames {
		if s == name {
			return Content(i), nil
		}
	}
	return 0, fmt.Errorf("%q is not one of %s", s, strings.Join(contentNames[:], ", "))
}

const (
	pageSize = 4096
	lineSize = 32
	tableLen = 1 << 16 // each table is small enough for the second-level cache
)

// tables hold the bytes that pages are copied from. They are longer than tableLen
// by a page, so that a page may begin at any of the first tableLen bytes.
type tables struct{ a, b, words, hex []byte }

var material = sync.OnceValue(func() *tables {
	t := &tables{words: make([]byte, 0, tableLen+pageSize), hex: make([]byte, tableLen+pageSize)}
	t.a, t.b = noise(1, tableLen+pageSize), noise(2, tableLen+pageSize)
	for i, c := range t.a {
		t.hex[i] = "0123456789abcdef"[c&15]
	}
	vocabulary := strings.Fields("queue ring flow context state table entry doorbell head tail index key vport counter page buffer enabled")
	for i := uint64(0); len(t.words) < tableLen; i++ {
		t.words = append(append(t.words, vocabulary[mix(i)%uint64(len(vocabulary))]...), ' ')
	}
	t.words = append(t.words, t.words[:pageSize]...)
	return t
})

func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], mix(seed<<32+uint64(i)))
	}
	return b
}

// mix scatters x over 64 bits (the finalizer of splitmix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// fill writes the bytes at offset off of the content with a key. The bytes do not
// depend on how calls divide the content.
func (c Content) fill(dst []byte, key uint64, off int64) {
	t := material()
	for len(dst) > 0 {
		at := int(off % pageSize)
		n := min(pageSize-at, len(dst))
		c.page(t, dst[:n], mix(key+uint64(off/pageSize)), at)
		dst, off = dst[n:], off+int64(n)
	}
}

func (c Content) page(t *tables, dst []byte, key uint64, at int) {
	if c == Mixed {
		c = [...]Content{Zero, Zero, Zero, Text, Text, Random, Random, Random}[key>>61]
	}
	switch c {
	case Zero:
		clear(dst)
	case Text:
		textPage(t, dst, key, at)
	default:
		randomPage(t, dst, key, at)
	}
}

// randomPage combines two runs of noise at positions that depend on the key. One
// pass with vector instructions is several times faster than a generator that
// works word by word, and 2^32 pairs of positions make repeated pages rare.
func randomPage(t *tables, dst []byte, key uint64, at int) {
	a, b := int(key%tableLen)+at, int(key>>32%tableLen)+at
	subtle.XORBytes(dst, t.a[a:a+len(dst)], t.b[b:b+len(dst)])
}

// textPage writes lines of 32 bytes: words, then a number that few other lines
// have.
func textPage(t *tables, dst []byte, key uint64, at int) {
	for len(dst) > 0 {
		if skip := at % lineSize; skip > 0 || len(dst) < lineSize {
			var line [lineSize]byte
			textLine(t, &line, key+uint64(at/lineSize))
			n := copy(dst, line[skip:])
			dst, at = dst[n:], at+n
			continue
		}
		textLine(t, (*[lineSize]byte)(dst), key+uint64(at/lineSize))
		dst, at = dst[lineSize:], at+lineSize
	}
}

func textLine(t *tables, line *[lineSize]byte, key uint64) {
	k := mix(key)
	w, x := k%tableLen, k>>32%tableLen
	*(*[24]byte)(line[:]) = [24]byte(t.words[w : w+24])
	*(*[8]byte)(line[24:]) = [8]byte(t.hex[x : x+8])
}
