package codec

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func nanoseconds(ns float64) time.Duration { return time.Duration(ns) }

var statics = []Policy{Fixed(Raw), Fixed(S2), Fixed(Zstd)}

var corpora = []struct {
	name string
	from source
}{
	{"zero", always(zeros)},
	{"random", always(random)},
	{"mixed", always(pages)},
	{"code", always(code)},
	{"memory", atRandom(1, zeros, zeros, zeros, sparse, pages, pages, code, logs, random)},
	{"alternating", alternate(1, random, logs)},
	{"alternating-mixed", alternate(1, random, pages)},
	{"runs", alternate(48, random, logs)},
	{"entropy", always(hex)},
	{"alike", alternate(1, hex, random)},
	{"devices", perDevice(code, pages, random)},
}

var links = []struct {
	name string
	bits float64
}{{"100M", 1e8}, {"1G", 1e9}, {"10G", 1e10}, {"unlimited", 0}}

// hosts have enough cores, few cores, or share their cores between both sides.
var hosts = []struct {
	name string
	host
}{
	{"2 lanes, 16 cores", host{lanes: 2, cores: 16, wire: 0.8}},
	{"8 lanes, 16 cores", host{lanes: 8, cores: 16, wire: 0.8}},
	{"2 lanes, 2 cores", host{lanes: 2, cores: 2, wire: 1.2}},
	{"2 lanes, 2 shared cores", host{lanes: 2, cores: 2, wire: 1.75, shared: true}},
	{"8 lanes, 2 shared cores", host{lanes: 8, cores: 2, wire: 1.75, shared: true}},
}

const chunks = 4096

// bound returns the part of the best throughput that Auto must reach. It is 0.95, but less for
// content without a pattern within a period, and for more lanes than cores.
func bound(h host, corpus string) float64 {
	switch {
	case h.shared && h.lanes > h.cores:
		return 0.88
	case corpus == "runs":
		return 0.92
	}
	return 0.95
}

// TestAutoIsNearTheBest compares Auto with the best fixed codec, over every content, link and
// host, with noise in the measured times.
func TestAutoIsNearTheBest(t *testing.T) {
	for _, noise := range []float64{0, 0.3} {
		for _, h := range hosts {
			var table strings.Builder
			fmt.Fprintf(&table, "%s, noise %.1f: MB/s of auto, and the part of the best, not informed and informed\n%-18s", h.name, noise, "")
			for _, l := range links {
				fmt.Fprintf(&table, "%23s", l.name)
			}
			for _, corpus := range corpora {
				fmt.Fprintf(&table, "\n%-18s", corpus.name)
				for _, l := range links {
					h.link, h.noise = perSecond(l.bits), noise
					best := slices.Min(each(h.host, corpus.from))
					took := h.run(Auto(), chunks, corpus.from, nil)
					informed := h.run(h.informed(), chunks, corpus.from, nil)
					fmt.Fprintf(&table, "%13.0f %.2f %.2f", chunks*chunkSize/took/1e6, best/took, best/informed)
					if part := best / max(took, informed); part < bound(h.host, corpus.name) {
						t.Errorf("%s, noise %.1f, %s over %s: %.3f of the best", h.name, noise, corpus.name, l.name, part)
					}
				}
			}
			t.Log(table.String())
		}
	}
}

// informed returns Auto, informed of the lanes' throughput without encoding.
func (h host) informed() Policy {
	const warming = 64
	p := Auto()
	p.(Informed).Inform(warming*chunkSize/h.run(Fixed(Raw), warming, always(random), nil), h.lanes)
	return p
}

// each returns the time with each codec.
func each(h host, from source) (took []float64) {
	for _, p := range statics {
		took = append(took, h.run(p, chunks, from, nil))
	}
	return took
}

// TestAutoFollowsTheLink changes the link in the middle. Each half must be about as fast as with
// its best codec.
func TestAutoFollowsTheLink(t *testing.T) {
	for _, bits := range [][2]float64{{1e8, 1e10}, {1e10, 1e8}, {1e9, 0}, {0, 1e9}} {
		for _, corpus := range corpora {
			h := hosts[2].host
			ends := func(p Policy) (first, second float64) {
				changed := math.Inf(1)
				h.link = func(now float64) float64 { // the time per byte, before and after half of the chunks
					if now < changed {
						return perSecond(bits[0])(now)
					}
					return perSecond(bits[1])(now)
				}
				took := h.run(p, chunks, corpus.from, func(chunk int, now float64) {
					if chunk == chunks/2 {
						changed = now
					}
				})
				return changed / 1e9, took - changed/1e9
			}
			best := [2]float64{math.Inf(1), math.Inf(1)}
			for _, p := range statics {
				a, b := ends(p)
				best[0], best[1] = min(best[0], a), min(best[1], b)
			}
			a, b := ends(Auto())
			if sum := best[0] + best[1]; a+b > sum/0.9 {
				t.Errorf("%s, %.0e then %.0e: %.1f and %.1f s, the best are %.1f and %.1f", corpus.name, bits[0], bits[1], a, b, best[0], best[1])
			}
		}
	}
}

// TestAutoConverges checks that Auto is about as fast from its 160th chunk on as later.
func TestAutoConverges(t *testing.T) {
	const soon, then = 160, 160
	for _, h := range hosts[:3] {
		for _, corpus := range corpora[:4] {
			for _, l := range links {
				h.link = perSecond(l.bits)
				pace := func(p Policy) float64 {
					var from, to float64
					h.run(p, soon+then, corpus.from, func(chunk int, now float64) {
						if chunk == soon {
							from = now
						}
						to = now
					})
					return to - from
				}
				best := min(pace(statics[0]), pace(statics[1]), pace(statics[2]))
				if part := best / pace(Auto()); part < 0.85 {
					t.Errorf("%s, %s over %s: %.2f of the best from chunk %d to %d", h.name, corpus.name, l.name, part, soon, soon+then)
				}
			}
		}
	}
}

// TestAutoIsInformed checks that a state of 32 chunks per lane, which is too short for trials, is
// nearly as fast as with the best codec if Auto was informed.
func TestAutoIsInformed(t *testing.T) {
	var table strings.Builder
	for _, h := range hosts[:4] {
		fmt.Fprintf(&table, "\n%s: informed, and not\n", h.name)
		few := 32 * h.lanes
		for _, corpus := range corpora[:6] {
			fmt.Fprintf(&table, "%-18s", corpus.name)
			for _, l := range links {
				h.link = perSecond(l.bits)
				best := min(h.run(statics[0], few, corpus.from, nil), h.run(statics[1], few, corpus.from, nil), h.run(statics[2], few, corpus.from, nil))
				part := best / h.run(h.informed(), few, corpus.from, nil)
				fmt.Fprintf(&table, "%8.2f %.2f", part, best/h.run(Auto(), few, corpus.from, nil))
				if part < 0.9 {
					t.Errorf("%s, %s over %s: %.2f of the best", h.name, corpus.name, l.name, part)
				}
			}
			table.WriteString("\n")
		}
	}
	t.Log(table.String())
}

// TestInform checks that the first price is the time of a byte on a lane, also for a rate that is
// measured a little too high, and that Inform ignores invalid rates and late calls.
func TestInform(t *testing.T) {
	for _, c := range []struct {
		perSecond float64
		lanes     int
		price     float64
	}{
		{125e6, 2, 16e-9}, {131e6, 2, 16e-9}, {150e6, 2, 8e-9}, {12.5e6, 2, 128e-9}, {600e6, 2, 2e-9}, {600e6, 8, 8e-9},
		{1e15, 1, 0}, {math.Inf(1), 1, 0}, {1, 16, 1024e-9},
		{0, 2, prices[firstPrice]}, {-1, 2, prices[firstPrice]}, {math.NaN(), 2, prices[firstPrice]}, {1e9, 0, prices[firstPrice]},
	} {
		controller := NewController()
		controller.Inform(c.perSecond, c.lanes)
		if got := prices[controller.price]; got != c.price {
			t.Errorf("%g bytes a second over %d lanes: %g, want %g", c.perSecond, c.lanes, got, c.price)
		}
	}
	late := NewController()
	choice := late.Choose(0, 100, 50)
	for range 4 {
		late.Observe(Result{Choice: choice, Raw: 1 << 20, Wire: 1 << 19, Encode: time.Millisecond, Write: time.Millisecond, Lanes: 1})
	}
	if late.Inform(1e9, 1); late.price != firstPrice {
		t.Errorf("a late Inform changed the price to %g", prices[late.price])
	}
}

// TestClassifyLarge checks lengths for which eight times the length overflows.
func TestClassifyLarge(t *testing.T) {
	for sampled := 8; sampled > 0; sampled *= 2 {
		if got := classify(sampled, sampled/2); got != classes/2 {
			t.Fatalf("a chunk that shrinks to half of %d bytes has class %d, want %d", sampled, got, classes/2)
		}
	}
}

// TestControllerRandomResults checks that the Controller chooses a codec of both sides after
// arbitrary Results.
func TestControllerRandomResults(t *testing.T) {
	ids := rapid.SampledFrom([]ID{IDRaw, IDZero, IDS2, IDZstd, 200})
	length := rapid.OneOf(rapid.Int(), rapid.IntRange(-1, 1<<20))
	took := rapid.Custom(func(t *rapid.T) time.Duration {
		return time.Duration(rapid.OneOf(rapid.Int64(), rapid.Int64Range(-1, 1e9)).Draw(t, "ns"))
	})
	rapid.Check(t, func(t *rapid.T) {
		both := rapid.SliceOfN(ids, 1, 4).Draw(t, "both")
		c := NewController(both...)
		for range rapid.IntRange(1, 300).Draw(t, "chunks") {
			choice := c.Choose(rapid.OneOf(rapid.Int(), rapid.IntRange(0, 3)).Draw(t, "device"), length.Draw(t, "sampled"), length.Draw(t, "shrunk"))
			if id := choice.Codec.ID(); id != IDRaw && !slices.Contains(both, id) {
				t.Fatalf("chose %v, want one of %v", id, both)
			}
			c.Observe(Result{Choice: choice, Raw: length.Draw(t, "raw"), Wire: length.Draw(t, "wire"), Lanes: length.Draw(t, "lanes"),
				Encode: took.Draw(t, "encode"), Write: took.Draw(t, "write"), Idle: took.Draw(t, "idle")})
		}
		c.Observe(Result{}) // without a Choice
	})
}

// BenchmarkController measures a Choice and its Result.
func BenchmarkController(b *testing.B) {
	c := NewController()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		choice := c.Choose(i%4, 1000, i%1001)
		c.Observe(Result{Choice: choice, Raw: chunkSize, Wire: chunkSize / 2, Encode: time.Millisecond, Write: time.Millisecond, Lanes: 2})
	}
}
