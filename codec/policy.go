package codec

import (
	"sync"
	"time"

	"github.com/klauspost/compress/s2"
)

// minGain is the part of a chunk, one in so many bytes, that an encoding has to
// save. Below it the receiver's work costs more than the wire gains.
const minGain = 8

// Policy chooses the codec of each chunk of one migration, from any goroutine.
type Policy interface {
	// Choose says how a chunk of the device is to be encoded, which it may read but
	// not keep. It never sees a chunk of zeros: EncodeChunk has marked that already.
	// Zero, which a Policy has no business to choose, counts as Raw.
	Choose(device int, src []byte) Choice
	// Observe is told what became of it, when the chunk has been sent.
	Observe(Result)
}

// Informed is a Policy that can use what is known of the lanes before the first chunk.
type Informed interface {
	Policy
	// Inform says what so many lanes carried together, in bytes a second, when there was
	// nothing to encode.
	Inform(perSecond float64, lanes int)
}

// Choice is what a Policy has chosen for a chunk.
type Choice struct {
	Codec  Codec
	Device int

	class class // by which Auto has chosen
	price uint8
}

// Result is what became of a Choice.
type Result struct {
	Choice
	Raw, Wire int // bytes of the chunk, and of what was sent for it
	// Encode is how long it took to choose and to encode, Write how long until the
	// lane had taken everything, Idle how long the lane had waited for the chunk.
	Encode, Write, Idle time.Duration
	Lanes               int // that do the same beside each other
}

// Fixed always chooses c.
func Fixed(c Codec) Policy { return fixed{c} }

type fixed struct{ codec Codec }

func (f fixed) Choose(device int, _ []byte) Choice { return Choice{Codec: f.codec, Device: device} }
func (fixed) Observe(Result)                       {}

// EncodeChunk encodes src, of a device, as p chooses and returns what was chosen,
// and what to send:
//   - zeros, whatever p would say: IDZero and nil. Looking for them is nearly
//     free, and a marker is faster on both sides than any codec;
//   - a codec's choice that pays: its ID and the encoding, in dst's memory;
//   - anything else: IDRaw and src itself, not copied.
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
	probes    = 8
	probeSize = 4096
)

// probe estimates what S2 makes of src from a few pages spread over it: their
// length, and their length encoded. A short src is estimated as a whole.
func probe(src []byte) (sampled, shrunk int) {
	if len(src) <= probes*probeSize {
		return len(src), estimate(src)
	}
	stride := len(src) / probes
	for at := 0; at+stride <= len(src); at += stride {
		shrunk += estimate(src[at : at+probeSize])
	}
	return probes * probeSize, shrunk
}

func estimate(src []byte) int {
	if n := s2.EstimateBlockSize(src); n >= 0 {
		return n
	}
	return len(src)
}

// Auto chooses by what it has seen: see Controller. It is for one migration, and
// chooses among the codecs that both sides have; with none given, among all.
func Auto(both ...ID) Policy { return &auto{controller: NewController(both...)} }

// auto shares a Controller among the lanes. Its lock is held for nanoseconds.
type auto struct {
	mu         sync.Mutex
	controller *Controller
}

func (a *auto) Choose(device int, src []byte) Choice {
	seen := classify(probe(src)) // not under the lock: it reads pages
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

// class is how well a chunk compresses, by its probe: class n shrinks to n eighths
// and something. What S2 can do nothing for is in the last.
type class uint8

const classes = 8

func classify(sampled, shrunk int) class {
	if sampled <= 0 || !worthwhile(shrunk, sampled) {
		return classes - 1
	}
	return class(float64(max(0, shrunk)) / float64(sampled) * classes) // as integers, the product may overflow
}
