package reader

import (
	"context"
	"sync"

	"github.com/migpipe/migpipe/transport"
)

// credit is what the destination has promised to take of one device.
type credit struct {
	mu     sync.Mutex
	window transport.Window
	grown  chan struct{} // holds a token after the window grew
}

func newCredit() *credit { return &credit{grown: make(chan struct{}, 1)} }

// grant takes in a promise. A promise is memory set aside: it never shrinks.
func (c *credit) grant(w transport.Window) {
	c.mu.Lock()
	c.window.Seq = max(c.window.Seq, w.Seq)
	c.window.Offset = max(c.window.Offset, w.Offset)
	c.mu.Unlock()
	select {
	case c.grown <- struct{}{}:
	default:
	}
}

// wait returns how many bytes chunk number seq may have when it starts at
// offset, waiting until that is more than none.
func (c *credit) wait(ctx context.Context, seq, offset uint64) (uint64, error) {
	for {
		if room := c.room(seq, offset); room > 0 {
			return room, nil
		}
		select {
		case <-c.grown:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

func (c *credit) room(seq, offset uint64) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if seq >= c.window.Seq || offset >= c.window.Offset {
		return 0
	}
	return c.window.Offset - offset
}
