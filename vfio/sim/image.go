package sim

import (
	"math/bits"
	"time"
)

const (
	minBlock = 4 << 10
	maxBlock = 1 << 20
	maxSize  = 1 << 40
)

// blockSize returns the block size that divides a state into about a thousand
// blocks, within bounds. Blocks are small enough for rounds of pre-copy to
// differ, and large enough for 400 KB to describe a state of 100 GB.
func blockSize(size int64) int64 {
	b := int64(1) << bits.Len64(uint64(size)>>10)
	return min(max(b, minBlock), maxBlock)
}

// image is a device's state. It stores only the generation of each block of
// content. While the guest runs, the generations grow.
type image struct {
	seed    uint64
	content Content
	size    int64 // bytes of content
	block   int64 // bytes of content per block, the last may be shorter
	gens    []uint32
	dirty   bitset // blocks changed since the saving session sent them

	rate    int64         // bytes per second that the guest dirties
	running bool          // the guest has been running since the time below
	since   time.Time     // the time up to which ran counts
	ran     time.Duration // how long the guest has run
	events  int64         // blocks dirtied in that time
}

func newImage(seed uint64, content Content, size, block int64) *image {
	im := &image{seed: seed, content: content, size: size, block: block}
	if size > 0 {
		im.gens = make([]uint32, (size+block-1)/block)
	}
	im.dirty = newBitset(len(im.gens))
	return im
}

// advance advances the image to now. running says whether the guest runs from
// then on.
func (im *image) advance(now time.Time, running bool) {
	if im.running {
		im.ran += now.Sub(im.since)
		im.dirtyUpTo(bytesIn(im.rate, im.ran))
	}
	im.since, im.running = now, running
}

// dirtyUpTo changes blocks, in an order that depends on the seed, until the guest
// has written n bytes in total.
func (im *image) dirtyUpTo(n int64) {
	if len(im.gens) == 0 {
		return
	}
	target := n / im.block
	// This many events dirty every block, so earlier events of a guest that has
	// run for hours can be skipped.
	im.events = max(im.events, target-16*int64(len(im.gens)))
	for ; im.events < target; im.events++ {
		i := int(mix(im.seed^uint64(im.events)) % uint64(len(im.gens)))
		im.gens[i]++
		im.dirty.set(i)
	}
}

// dirtyAll changes every block, as a guest that initialises the device again.
func (im *image) dirtyAll() {
	for i := range im.gens {
		im.gens[i]++
		im.dirty.set(i)
	}
}

func (im *image) blockLen(i int) int64 {
	return min(im.block, im.size-int64(i)*im.block)
}

// key returns the key of the content of a block's generation.
func (im *image) key(block int, gen uint32) uint64 {
	return mix(mix(im.seed+uint64(block))<<1 ^ mix(uint64(gen)))
}

// digest returns a hash of all generations. States of one seed are equal if their
// digests are.
func (im *image) digest() uint64 {
	h := im.seed ^ uint64(im.size)
	for _, g := range im.gens {
		h = mix(h ^ uint64(g))
	}
	return h
}

// bitset is a set of block numbers.
type bitset []uint64

func newBitset(n int) bitset { return make(bitset, (n+63)/64) }

func (b bitset) set(i int)      { b[i/64] |= 1 << (i % 64) }
func (b bitset) clear(i int)    { b[i/64] &^= 1 << (i % 64) }
func (b bitset) has(i int) bool { return b[i/64]>>(i%64)&1 == 1 }

// next returns the first member at or after i, or -1.
func (b bitset) next(i int) int {
	for w := i / 64; w < len(b); w++ {
		if word := b[w] >> (i % 64); word != 0 {
			return i + bits.TrailingZeros64(word)
		}
		i = (w + 1) * 64
	}
	return -1
}

func (b bitset) count() int {
	n := 0
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}
