package writer

import (
	"math"
	"sync"

	"github.com/migpipe/migpipe/internal/share"
	"github.com/migpipe/migpipe/internal/wire"
)

// credit is the memory that was promised to all devices: so many chunks of so
// many bytes. A promise is of memory, so a lane never waits for any, and lanes
// that all devices share cannot block each other.
type credit struct {
	chunks    int
	chunkSize uint64

	mu     sync.Mutex
	ledger *share.Ledger
}

func newCredit(chunks, chunkSize int, needs []share.Need) *credit {
	return &credit{chunks: chunks, chunkSize: uint64(chunkSize), ledger: share.NewLedger(chunks, needs)}
}

// least is how many chunks the arena needs: one for each lane to read encoded
// payloads into, and the floors.
func minChunks(lanes, devices int) int { return lanes + share.Floor*devices }

// promised is how far a device may send: chunks numbered below.
func (c *credit) promised(device int) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ledger.Promised(device)
}

// applied promises the memory of a chunk anew, which was given back before.
func (c *credit) returnChunk(device int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ledger.Applied(device)
}

// end promises anew what the device will not use: its stream has so many
// chunks, and those numbered below used have come.
func (c *credit) endDevice(device int, chunks, used uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ledger.End(device, chunks, used)
}

func (c *credit) divide(needs []share.Need) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ledger.Divide(needs)
}

// due reports whether promises are worth telling.
func (c *credit) isDue() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ledger.Due()
}

func (c *credit) noteSent() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ledger.Told()
}

// left is what a device has still to send: in PRE_COPY what is pending, else
// the larger of what is missing from STOP_COPY, which some drivers count from
// the first byte of the stream on, and of what was dirty at the stop.
func estimateRemaining(d wire.DeviceEstimate, stopped bool, applied, sinceStop uint64) uint64 {
	pending := d.Initial + d.Dirty
	if pending < d.Initial {
		pending = math.MaxUint64
	}
	if !stopped && pending > 0 {
		return pending
	}
	return max(d.StopCopy-min(d.StopCopy, applied), d.Dirty-min(d.Dirty, sinceStop))
}
