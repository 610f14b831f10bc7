package codec

import (
	"sync"
	"time"

	"github.com/klauspost/compress/s2"
)

// minGain is the reciprocal of the part of a chunk that an encoding must save.
// Below that the receiver's work costs more than the wire gains.
const minGain = 8

// Policy chooses the codec of each chunk of one migration, from any goroutine.
type Policy interface {
	// Choose chooses how to encode a chunk of the device. It may read the chunk but
	// not retain it. EncodeChunk does not call Choose for a chunk of zeros. A Policy
	// must not choose Zero, which counts as Raw.
	Choose(device int, src []byte) Choice
	// Observe receives the Result of a Choice when the chunk was sent.
	Observe(Result)
}

// Informed is a Policy that can use a measurement of the lanes before the first chunk.
type Informed interface {
	Policy
	// Inform reports the throughput of all lanes together when nothing was encoded, in
	// bytes per second.
	Inform(perSecond float64, lanes int)
}

// Choice is the codec that a Policy has chosen for a chunk.
type Choice struct {
	Codec  Codec
	Device int

	class class // the class and the price by which Auto has chosen
	price uint8
}

// Result is the measured cost of a Choice.
type Result struct {
	Choice
	Raw, Wire int // bytes of the chunk and of its payload on the wire
	// Encode is the time to choose and to encode, Write the time until the lane had
	// written everything, and Idle the time that the lane had waited for the chunk.
	Encode, Write, Idle time.Duration
	Lanes               int // the number of lanes
}

// Fixed returns a Policy that always chooses c.
func Fixed(c Codec) Policy { return fixed{c} }

type fixed struct{ codec Codec }

func (f fixed) Choose(device int, _ []byte) Choice { return Choice{Codec: f.codec, Device: device} }
func (fixed) Observe(Result)                       {}

// EncodeChunk encodes src, a chunk of a device, as p chooses. It returns the choice
// and the bytes to send:
//   - for zeros, without p: IDZero and nil. The check for zeros is nearly free, and
//     a marker is faster on both sides than any codec;
//   - for an encoding that saves enough: its ID and the encoding, in dst's memory;
//   - otherwise: IDRaw and src itself, not copied.
//
// dst must not overlap src and needs a capacity of MaxEncodedLen(len(src)).
func EncodeChunk(p Policy, device int, dst, src []byte) (Choice, ID, []byte) {
	if isZero(src) {
		return Choice{Codec: Zero, Device: device}, IDZero, nil
	}
	choice := p.Choose(device, src)
	id := choice.Codec.ID()
	if id == IDRaw || id == IDZero {
		return choice, IDRaw, src
	}
	enc := choice.Codec.Encode(dst, src)
	if !worthwhile(len(enc), len(src)) {
		return choice, IDRaw, src
	}
	return choice, id, enc
}

// worthwhile reports whether an encoding of that length saves enough.
func worthwhile(encoded, raw int) bool { return encoded <= raw-raw/minGain-1 }

const (
	probePages = 8
	probeSize  = 4096
)

// probe estimates by how much S2 shrinks src, from a few pages spread over it. It
// returns their length and their estimated encoded length. It uses the whole of a
// short src.
func probe(src []byte) (sampled, shrunk int) {
	if len(src) <= probePages*probeSize {
		return len(src), estimateBlock(src)
	}
	stride := len(src) / probePages
	for at := 0; at+stride <= len(src); at += stride {
		shrunk += estimateBlock(src[at : at+probeSize])
	}
	return probePages * probeSize, shrunk
}

func estimateBlock(src []byte) int {
	if n := s2.EstimateBlockSize(src); n >= 0 {
		return n
	}
	return len(src)
}

// Auto returns a Policy for one migration that chooses by measurements (see
// Controller). It chooses among the codecs that both sides have; without
// arguments, among all.
func Auto(both ...ID) Policy { return &auto{controller: NewController(both...)} }

// auto shares a Controller among the lanes. Each call holds its lock for nanoseconds.
type auto struct {
	mu         sync.Mutex
	controller *Controller
}

func (a *auto) Choose(device int, src []byte) Choice {
	seen := classify(probe(src)) // without the lock, since it reads pages
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.controller.choose(device, seen)
}

func (a *auto) Observe(r Result) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.controller.Observe(r)
}

// Inform implements [Informed].
func (a *auto) Inform(perSecond float64, lanes int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.controller.Inform(perSecond, lanes)
}

// class is how well a chunk compresses, by its probe: chunks of class n shrink to at
// least n eighths. The last class is for chunks that S2 does not shrink.
type class uint8

const classes = 8

func classify(sampled, shrunk int) class {
	if sampled <= 0 || !worthwhile(shrunk, sampled) {
		return classes - 1
	}
	return class(float64(max(0, shrunk)) / float64(sampled) * classes) // as integers, the product may overflow
}
