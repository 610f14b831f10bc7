package codec

import "math/rand/v2"

// The model of a migration that Auto is held to, without a clock: lanes that encode
// and then write, on so many cores, over one link; the destination decodes. Speeds and
// ratios are measured ones, of one core (make bench).

// kind is what the codecs make of a chunk: nanoseconds a byte to encode and to decode,
// and what is left of it; and what a probe says.
type kind struct {
	encode, decode, ratio [len(contenders)]float64
	probe                 float64
	zero                  bool
}

var (
	zeros  = kind{zero: true}
	random = kind{encode: [3]float64{0, 0.03, 0.1}, ratio: [3]float64{1, 1, 1}, probe: 1}
	pages  = kind{encode: [3]float64{0, 0.82, 2.63}, decode: [3]float64{0, 0.47, 0.63}, ratio: [3]float64{1, 0.375, 0.307}, probe: 0.4}
	code   = kind{encode: [3]float64{0, 1.86, 4.75}, decode: [3]float64{0, 0.64, 1.06}, ratio: [3]float64{1, 0.656, 0.519}, probe: 0.7}
	logs   = kind{encode: [3]float64{0, 2.03, 4.43}, decode: [3]float64{0, 0.75, 0.93}, ratio: [3]float64{1, 0.383, 0.29}, probe: 0.5}
	sparse = kind{encode: [3]float64{0, 0.2, 0.6}, decode: [3]float64{0, 0.3, 0.3}, ratio: [3]float64{1, 0.06, 0.04}, probe: 0.08}
	hex    = kind{encode: [3]float64{0, 0.1, 3.5}, decode: [3]float64{0, 0, 1.5}, ratio: [3]float64{1, 1, 0.6}, probe: 1} // only entropy coding helps
)

// source yields the chunks of a migration, one after the other.
type source func(chunk int) (device int, k kind)

func all(k kind) source { return func(int) (int, kind) { return 0, k } }

// turns yields the kinds in turn, so many chunks of each.
func turns(run int, kinds ...kind) source {
	return func(i int) (int, kind) { return 0, kinds[i/run%len(kinds)] }
}

// drawn yields kinds at random.
func drawn(seed uint64, kinds ...kind) source {
	return func(i int) (int, kind) {
		return 0, kinds[rand.New(rand.NewPCG(seed, uint64(i))).IntN(len(kinds))]
	}
}

// apart gives each device its own kind.
func apart(kinds ...kind) source {
	return func(i int) (int, kind) { return i % len(kinds), kinds[i%len(kinds)] }
}

// host is what a migration runs on.
type host struct {
	lanes, cores int
	wire         float64 // CPU ns a byte on the wire, on each side
	shared       bool    // both sides have the same cores
	link         func(now float64) float64
	noise        float64 // how far a measured time may be off, as a part of it
}

// perSecond is a link of so many bits a second, 0 for one without a limit: ns a byte.
func perSecond(bits float64) func(float64) float64 {
	return func(float64) float64 {
		if bits == 0 {
			return 0
		}
		return 8e9 / bits
	}
}

const chunkSize = 1 << 20

// stations are where a chunk has to pass: each has servers that are free from a time on.
type station []float64

// pass goes through the station's next free server.
func (s station) pass(at, took float64) float64 {
	first := 0
	for i := range s {
		if s[i] < s[first] {
			first = i
		}
	}
	s[first] = max(s[first], at) + took
	return s[first]
}

// lane is where a lane is with its chunk.
type lane struct {
	at, begun, encoded float64
	stage              int
	choice             Choice
	kind               kind
	wire               float64
}

// world is a migration under way.
type world struct {
	host
	policy          Policy
	from            source
	near, far, cord station
	lanes           []lane
	taken, done     int
	sent            func(chunk int, now float64)
	r               *rand.Rand
}

// run moves so many chunks, and says how many seconds that takes. At most as many
// events are in the way as there are lanes: the earliest goes first.
func (h host) run(p Policy, chunks int, from source, sent func(chunk int, now float64)) (took float64) {
	w := &world{host: h, policy: p, from: from, lanes: make([]lane, h.lanes), near: make(station, h.cores), cord: make(station, 1), sent: sent,
		r: rand.New(rand.NewPCG(1, 2))}
	w.far = w.near
	if !h.shared {
		w.far = make(station, h.cores)
	}
	for w.done < chunks {
		next := &w.lanes[0]
		for i := range w.lanes {
			if w.lanes[i].at < next.at {
				next = &w.lanes[i]
			}
		}
		took = max(took, next.at)
		w.step(next)
	}
	return took / 1e9
}

// step takes a lane's chunk through one station.
func (w *world) step(l *lane) {
	switch l.stage {
	case 0:
		w.take(l)
	case 1: // packets are made
		l.encoded = l.at
		l.at = w.near.pass(l.at, l.wire*w.host.wire)
	case 2:
		l.at = w.cord.pass(l.at, l.wire*w.link(l.at))
	case 3: // the destination has to keep up
		l.at = w.far.pass(l.at, l.wire*w.host.wire+chunkSize*l.kind.decode[max(contender(l.choice.Codec), 0)])
	case 4:
		w.finish(l)
	}
	l.stage = (l.stage + 1) % 5
}

// digesting is what any chunk costs, in ns a byte: the digest and the look for zeros.
const digesting = 0.08

func (w *world) take(l *lane) {
	device, k := w.from(w.taken)
	w.taken++
	l.begun, l.kind = l.at, k
	cost := digesting * chunkSize
	if k.zero {
		l.choice, l.wire = Choice{Codec: Zero}, 0
	} else {
		l.choice = w.choose(device, k)
		i := contender(l.choice.Codec)
		l.wire = chunkSize * k.ratio[i]
		cost += chunkSize * k.encode[i]
	}
	l.at = w.near.pass(l.at, cost)
}

func (w *world) choose(device int, k kind) Choice {
	if a, ok := w.policy.(*auto); ok {
		return a.controller.Choose(device, 1000, int(1000*k.probe))
	}
	return w.policy.Choose(device, nil)
}

func (w *world) finish(l *lane) {
	w.done++
	off := func(ns float64) float64 { return ns * (1 + w.noise*(2*w.r.Float64()-1)) }
	w.policy.Observe(Result{Choice: l.choice, Raw: chunkSize, Wire: int(l.wire), Lanes: len(w.lanes),
		Encode: nanoseconds(off(l.encoded - l.begun)), Write: nanoseconds(off(l.at - l.encoded))})
	if w.sent != nil {
		w.sent(w.done, l.at)
	}
}
