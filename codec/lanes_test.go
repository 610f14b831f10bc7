package codec

import "math/rand/v2"

// This file simulates a migration, without a clock, to test Auto: lanes encode and then
// write, on a number of cores, over one link; the destination decodes. Speeds and ratios
// were measured on one core (make bench).

// kind is a kind of chunk. For each codec it has the nanoseconds per byte to encode and to
// decode, and the ratio. probe is the ratio that a probe finds.
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

// source returns the kind of a chunk by its number.
type source func(chunk int) (device int, k kind)

func always(k kind) source { return func(int) (int, kind) { return 0, k } }

// alternate returns runs of chunks of each kind in turn.
func alternate(run int, kinds ...kind) source {
	return func(i int) (int, kind) { return 0, kinds[i/run%len(kinds)] }
}

// atRandom returns random kinds.
func atRandom(seed uint64, kinds ...kind) source {
	return func(i int) (int, kind) {
		return 0, kinds[rand.New(rand.NewPCG(seed, uint64(i))).IntN(len(kinds))]
	}
}

// perDevice gives each device its own kind.
func perDevice(kinds ...kind) source {
	return func(i int) (int, kind) { return i % len(kinds), kinds[i%len(kinds)] }
}

// host describes the hosts and the link of a migration.
type host struct {
	lanes, cores int
	wire         float64 // CPU time for a byte on the wire, in ns, on each side
	shared       bool    // both sides share the cores
	link         func(now float64) float64
	noise        float64 // largest error of a measured time, as a part of it
}

// perSecond returns the time of a byte in ns on a link with a rate in bits per second, 0 for no
// limit.
func perSecond(bits float64) func(float64) float64 {
	return func(float64) float64 {
		if bits == 0 {
			return 0
		}
		return 8e9 / bits
	}
}

const chunkSize = 1 << 20

// station is a stage of the transfer. It has the time at which each of its servers is free.
type station []float64

// pass occupies the first free server of the station for a time. It returns when that ends.
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

// lane is the state of a lane and its chunk.
type lane struct {
	at, begun, encoded float64
	stage              int
	choice             Choice
	kind               kind
	wire               float64
}

// simulation is the state of a simulated migration.
type simulation struct {
	host
	policy                                     Policy
	from                                       source
	sourceCores, destinationCores, linkStation station
	lanes                                      []lane
	taken, done                                int
	sent                                       func(chunk int, now float64)
	r                                          *rand.Rand
}

// run simulates the transfer of a number of chunks. It returns the time in seconds. Each lane has
// one pending event, and the earliest comes first.
func (h host) run(p Policy, chunks int, from source, sent func(chunk int, now float64)) (took float64) {
	w := &simulation{host: h, policy: p, from: from, lanes: make([]lane, h.lanes), sourceCores: make(station, h.cores), linkStation: make(station, 1), sent: sent,
		r: rand.New(rand.NewPCG(1, 2))}
	w.destinationCores = w.sourceCores
	if !h.shared {
		w.destinationCores = make(station, h.cores)
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

// step moves a lane's chunk through one station.
func (w *simulation) step(l *lane) {
	switch l.stage {
	case 0:
		w.takeChunk(l)
	case 1: // the source encrypts and sends packets
		l.encoded = l.at
		l.at = w.sourceCores.pass(l.at, l.wire*w.host.wire)
	case 2:
		l.at = w.linkStation.pass(l.at, l.wire*w.link(l.at))
	case 3: // the destination receives and decodes
		l.at = w.destinationCores.pass(l.at, l.wire*w.host.wire+chunkSize*l.kind.decode[max(contender(l.choice.Codec), 0)])
	case 4:
		w.finishChunk(l)
	}
	l.stage = (l.stage + 1) % 5
}

// digestTime is the time for the digest and the check for zeros, in ns per byte.
const digestTime = 0.08

func (w *simulation) takeChunk(l *lane) {
	device, k := w.from(w.taken)
	w.taken++
	l.begun, l.kind = l.at, k
	cost := digestTime * chunkSize
	if k.zero {
		l.choice, l.wire = Choice{Codec: Zero}, 0
	} else {
		l.choice = w.choose(device, k)
		i := contender(l.choice.Codec)
		l.wire = chunkSize * k.ratio[i]
		cost += chunkSize * k.encode[i]
	}
	l.at = w.sourceCores.pass(l.at, cost)
}

func (w *simulation) choose(device int, k kind) Choice {
	if a, ok := w.policy.(*auto); ok {
		return a.controller.Choose(device, 1000, int(1000*k.probe))
	}
	return w.policy.Choose(device, nil)
}

func (w *simulation) finishChunk(l *lane) {
	w.done++
	off := func(ns float64) float64 { return ns * (1 + w.noise*(2*w.r.Float64()-1)) }
	w.policy.Observe(Result{Choice: l.choice, Raw: chunkSize, Wire: int(l.wire), Lanes: len(w.lanes),
		Encode: nanoseconds(off(l.encoded - l.begun)), Write: nanoseconds(off(l.at - l.encoded))})
	if w.sent != nil {
		w.sent(w.done, l.at)
	}
}
