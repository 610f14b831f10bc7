package reader

import (
	"math"
	"runtime"
	"time"

	"github.com/migpipe/migpipe/transport"
)

// fastest is the rate that a path is taken to have where no limit is known, in bytes a
// second: 100 Gbit/s.
const fastest = 12.5e9

// near is a round trip that is the hosts' and not the path's: that of a handshake has
// keys agreed on and signed in it, on processors that may be busy.
const near = 5 * time.Millisecond

// lanesLeast is the number of lanes that a short path gets: one sends while the other
// one encodes. Each is one goroutine that seals packets and one that opens them, so that
// a host with many cores needs more to use half of them, on either side.
func lanesLeast(cores int) int { return min(max(2, cores/2), transport.MaxLanes) }

// lanesFor is how many lanes carry what a path can have on its way: no more than memory,
// which keeps it until it is acknowledged, nor than what perSecond, a limit or 0, sends in
// one round trip.
func lanesFor(c transport.Carrier, memory int, perSecond uint64, cores int) int {
	rate := fastest
	if perSecond > 0 {
		rate = min(rate, float64(perSecond))
	}
	least := lanesLeast(cores)
	if c.Window <= 0 || c.RTT < near {
		return least
	}
	onTheWay := min(rate*c.RTT.Seconds(), float64(memory))
	return min(max(least, int(math.Ceil(onTheWay/float64(c.Window)))), transport.MaxLanes)
}

// lanes is how many to offer over a control lane's carrier.
func (o *Options) lanes(c transport.Carrier) uint16 {
	if o.Lanes > 0 {
		return uint16(o.Lanes)
	}
	return uint16(lanesFor(c, o.Memory, o.Tuning.MaxBandwidth(), runtime.GOMAXPROCS(0)))
}
