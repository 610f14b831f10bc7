// Package share divides what the devices of a migration have in common, the
// memory of either side and the lanes, in proportion to what each has still to
// send: so unequal devices finish together, and the last one to finish is the
// downtime.
//
// All of it is policy: it holds no memory and no lane, and knows no lock, clock
// or goroutine. What is still to be sent is an estimate, and estimates lie. A
// lie costs speed, and never more: shares never add up to more than there is,
// and no device that still sends is left below a floor.
package share

import (
	"math/bits"

	"github.com/migpipe/migpipe/internal/wire"
)

// Floor is the least that a device is given, in chunks: one can be on its way
// while the other is read or written.
const Floor = 2

// Need is what a device has still to send.
type Need struct {
	Bytes    uint64 // by the latest estimate
	Known    bool   // there is an estimate; without one a device is given an average share
	Priority uint8  // multiplies the share: 1 to wire.MaxPriority, 0 is 1
	Done     bool   // nothing comes any more: it is given nothing
}

// size is Bytes in KiB, so that no sum of weights overflows: that of
// wire.MaxDevices of them is below 1<<61. An estimate longer than any
// stream is none: a driver's negative error code, say.
func (n Need) size() (kib uint64, known bool) {
	if n.Done || !n.Known || n.Bytes > wire.MaxStream {
		return 0, false
	}
	return n.Bytes>>10 + 1, true
}

// average is the size, in KiB, of those of which it is known.
func average(needs []Need) uint64 {
	var sum, known uint64
	for _, n := range needs {
		if size, ok := n.size(); ok {
			sum, known = sum+size, known+1
		}
	}
	return max(1, sum/max(1, known))
}

// weight is in what proportion the device has a share; 0 if it is done.
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

// Divide shares out all of total, into shares, of which there is one for each of
// needs: in proportion to them, except that those who would get less than floor get
// floor, or an equal part where there is not even that for all.
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
	// Whoever gets the floor makes the rest smaller, so that others may need it.
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

// part is total*weight/sum, for a weight that is in sum.
func part(total, weight, sum uint64) uint64 {
	hi, lo := bits.Mul64(total, weight)
	p, _ := bits.Div64(hi, lo, sum)
	return p
}
