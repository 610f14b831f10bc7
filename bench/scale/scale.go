// Package scale estimates how much a migration could move on other hosts and paths, and what
// would limit it. The result is the least of some bounds. Each is computed from figures that
// were measured with few cores and without distance.
package scale

import (
	"math"
	"time"
)

// Costs are the costs of moving bytes, measured on one machine.
type Costs struct {
	Source      float64 // CPU-seconds for a GB (1e9 bytes) at the source, all of its goroutines
	Destination float64 // and at the destination
	Lane        float64 // of them, the busiest goroutine of a lane: it has at most one core
	Drain       float64 // seconds for a GB of the one thread that reads a device
	Socket      float64 // seconds for a GB of the one receiver of a UDP socket
}

// Setting describes the hosts and the path of a migration.
type Setting struct {
	Cores   int           // of each host
	Devices int           // that migrate at once
	Lanes   int           // data lanes
	Sockets int           // of the destination
	Memory  float64       // bytes for chunks, on the side that has less
	Window  float64       // bytes that one lane can have in flight
	Link    float64       // bytes per second
	RTT     time.Duration // of the path
	Loss    float64       // share of the packets that the path loses
}

// Bound is one limit of a migration.
type Bound struct {
	What string
	Rate float64 // bytes per second, infinite for no limit
}

// packet is the payload of one QUIC packet, in bytes.
const packet = 1400

// Bounds returns all bounds. The first of the least ones is the binding one.
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

// Binding returns the least bound.
func Binding(bounds []Bound) Bound {
	least := bounds[0]
	for _, b := range bounds[1:] {
		if b.Rate < least.Rate {
			least = b
		}
	}
	return least
}

// lossWindow is the average number of packets that a lane has in flight at this share of loss:
// the result of Mathis et al. (1997) for Reno. CUBIC is not below it (RFC 9438, section 4.3).
func lossWindow(loss float64) float64 { return over(math.Sqrt(1.5), math.Sqrt(loss)) }

// over divides; a division by zero is infinite: no limit.
func over(amount, by float64) float64 {
	if by <= 0 {
		return math.Inf(1)
	}
	return amount / by
}
