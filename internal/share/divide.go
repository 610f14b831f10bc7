// Package share divides the memory of each side and the lanes among the devices of
// a migration, in proportion to the bytes that each device has still to send. So
// unequal devices finish together, which minimises the downtime.
//
// The package is pure policy: it holds no memory and no lane, and uses no lock,
// clock or goroutine. The bytes to send are estimates, which may be wrong. A wrong
// estimate costs only speed: the shares never exceed the total, and no device that
// still sends is below a floor.
package share

import (
	"math/bits"

	"github.com/migpipe/migpipe/internal/wire"
)

// Floor is the least number of chunks of a device: one chunk can be in transfer
// while the other is read or written.
const Floor = 2

// Need describes the data that a device has still to send.
type Need struct {
	Bytes    uint64 // the latest estimate
	Known    bool   // there is an estimate; without one the device gets an average share
	Priority uint8  // multiplies the share: 1 to wire.MaxPriority, 0 is 1
	Done     bool   // the device sends no more data, and gets no share
}

// size returns Bytes in KiB, so that no sum of weights overflows: the sum for
// wire.MaxDevices is below 1<<61. It ignores an estimate that exceeds the longest
// stream, as a driver's negative error code does.
func (n Need) size() (kib uint64, known bool) {
	if n.Done || !n.Known || n.Bytes > wire.MaxStream {
		return 0, false
	}
	return n.Bytes>>10 + 1, true
}

// average returns the average of the known sizes, in KiB.
func average(needs []Need) uint64 {
	var sum, known uint64
	for _, n := range needs {
		if size, ok := n.size(); ok {
			sum, known = sum+size, known+1
		}
	}
	return max(1, sum/max(1, known))
}

// weight returns the weight of the device's share, 0 if it is done.
func (n Need) weight(average uint64) uint64 {
	if n.Done {
		return 0
	}
	size, ok := n.size()
	if !ok {
		size = average
	}
	return size * uint64(min(max(1, n.Priority), wire.MaxPriority))
}

// Divide divides total by needs, and stores the parts in shares, which has the same
// length. Parts are in proportion to the needs, but at least floor. If total is too
// small for all floors, the least part is an equal one.
func Divide(shares []int, total, floor int, needs []Need) {
	left, sum, open, typical := uint64(total), uint64(0), 0, average(needs)
	for i, n := range needs {
		shares[i] = 0
		sum += n.weight(typical)
		if !n.Done {
			open++
		}
	}
	least := uint64(min(floor, total/max(1, open)))
	// A part that is raised to the floor makes the rest smaller, so that others may need it.
	for again := true; again; {
		again = false
		for i, n := range needs {
			if x := n.weight(typical); shares[i] == 0 && x > 0 && part(left, x, sum) < least {
				shares[i], again = int(least), true
				left, sum = left-least, sum-x
			}
		}
	}
	for i, n := range needs {
		if x := n.weight(typical); shares[i] == 0 && x > 0 {
			p := part(left, x, sum)
			shares[i] = int(p)
			left, sum = left-p, sum-x
		}
	}
}

// part returns total*weight/sum, for a weight that sum includes.
func part(total, weight, sum uint64) uint64 {
	hi, lo := bits.Mul64(total, weight)
	p, _ := bits.Div64(hi, lo, sum)
	return p
}
