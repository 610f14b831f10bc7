// Package scale says what a migration could move on hosts and paths that are not at
// hand, and what would stop it from moving more: the least of some bounds, each made of
// figures that were measured where there are few cores and no distance.
package scale

import (
	"math"
	"time"
)

// Costs are what moving bytes takes, measured on one machine.
type Costs struct {
	Source      float64 // CPU-seconds for a GB (1e9 bytes) at the source, all of its goroutines
	Destination float64 // and at the destination
	Lane        float64 // of them, those of the busiest goroutine of a lane: it has one core at most
	Drain       float64 // seconds for a GB that the one thread takes which reads a device
	Socket      float64 // seconds for a GB that the one receiver of a UDP socket takes
}

// Setting is where a migration is to run.
type Setting struct {
	Cores   int           // of each host
	Devices int           // that move at once
	Lanes   int           // data lanes
	Sockets int           // of the destination
	Memory  float64       // bytes of chunks, of the side that has less
	Window  float64       // bytes that one lane can have on its way
	Link    float64       // bytes per second
	RTT     time.Duration // of the path
	Loss    float64       // share of the packets that the path loses
}

// Bound is one thing that limits a migration.
type Bound struct {
	What string
	Rate float64 // bytes per second, infinite where it does not limit
}

// packet is the payload of one QUIC packet, in bytes.
const packet = 1400

// Bounds are all of them. The first of those that are least is what binds.
func Bounds(c Costs, s Setting) []Bound {
	lanes, gb, rtt := float64(s.Lanes), 1e9, s.RTT.Seconds()
	return []Bound{
		{"the link", s.Link},
		{"the source's cores", over(float64(s.Cores)*gb, c.Source)},
		{"the destination's cores", over(float64(s.Cores)*gb, c.Destination)},
		{"one goroutine a lane", over(lanes*gb, c.Lane)},
		{"one reading thread a device", over(float64(s.Devices)*gb, c.Drain)},
		{"one receiver a socket", over(float64(s.Sockets)*gb, c.Socket)},
		{"the lanes' windows", over(lanes*s.Window, rtt)},
		{"the memory for chunks", over(s.Memory, rtt)},
		{"loss", over(lanes*packet*lossWindow(s.Loss), rtt)},
	}
}

// Binding is the bound that is least.
func Binding(bounds []Bound) Bound {
	least := bounds[0]
	for _, b := range bounds[1:] {
		if b.Rate < least.Rate {
			least = b
		}
	}
	return least
}

// lossWindow is how many packets a lane has on its way on average where this share of
// them is lost: what Mathis et al. (1997) found for Reno, which CUBIC is not below
// (RFC 9438, section 4.3).
func lossWindow(loss float64) float64 { return over(math.Sqrt(1.5), math.Sqrt(loss)) }

// over divides, where nothing is taken without limit.
func over(amount, by float64) float64 {
	if by <= 0 {
		return math.Inf(1)
	}
	return amount / by
}
