package writer

import (
	"sync"

	"github.com/migpipe/migpipe/transport"
)

// maxGuests bounds the conversations beside the migration at hand.
const maxGuests = 16

// guests are the peers that are being told something, each over one lane: whoever is slow
// keeps no other from its answer. The zero value has none.
type guests struct {
	mu   sync.Mutex
	busy map[transport.ID]bool
}

// enter reports whether there is a place for a peer.
func (g *guests) enter(peer transport.ID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.busy[peer] || len(g.busy) == maxGuests {
		return false
	}
	if g.busy == nil {
		g.busy = map[transport.ID]bool{}
	}
	g.busy[peer] = true
	return true
}

// has reports whether a peer is being told something.
func (g *guests) has(peer transport.ID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.busy[peer]
}

func (g *guests) leave(peer transport.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.busy, peer)
}

func (g *guests) any() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.busy) > 0
}
