package writer

import (
	"math"
	"sync"

	"github.com/migpipe/migpipe/internal/share"
	"github.com/migpipe/migpipe/internal/wire"
)

// credit is the memory that is promised to all devices: so many chunks of so many bytes. A promise
// sets memory aside, so no lane waits for memory, and lanes that all devices share cannot block
// each other.
type credit struct {
	chunks    int
	chunkSize uint64

	mu     sync.Mutex
	ledger *share.Ledger
}

func newCredit(chunks, chunkSize int, needs []share.Need) *credit {
	return &credit{chunks: chunks, chunkSize: uint64(chunkSize), ledger: share.NewLedger(chunks, needs)}
}

// minChunks is how many chunks the arena needs: one for each lane to read encoded payloads into,
// and the floor of each device.
func minChunks(lanes, devices int) int { return lanes + share.Floor*devices }

// promised is how far a device may send: chunks with lower numbers.
func (c *credit) promised(device int) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ledger.Promised(device)
}

// returnChunk promises the memory of a chunk again, after it was freed.
func (c *credit) returnChunk(device int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ledger.Applied(device)
}

// endDevice promises memory again that the device will not use: its stream has so many chunks, and
// no chunk numbered used or higher has come.
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

// isDue reports whether the promises have moved enough for an ACK.
func (c *credit) isDue() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ledger.Due()
}

// noteSent says that the promises are being sent.
func (c *credit) noteSent() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ledger.MarkReported()
}

// estimateRemaining is how many bytes a device has still to send. In PRE_COPY that is the pending
// bytes. After PRE_COPY it is the larger of two: the dirty bytes at the pause, and the part of the
// STOP_COPY size that was not applied. Some drivers count that size from the first byte of the
// stream on.
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
