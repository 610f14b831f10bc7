package transport

import (
	"sync"

	"github.com/quic-go/quic-go"
)

// windowBudget lets the receive windows of all lanes of a dialler or listener
// grow together by no more than [MaxWindowGrowth]. Every lane has its
// [InitialWindow]; the lanes that are consumed fast enough to need more get it
// while there is some, and give it back when they close.
type windowBudget struct {
	mu      sync.Mutex
	granted map[*quic.Conn]uint64
	total   uint64
}

// grant is called by quic-go each time it would like to enlarge a window.
func (b *windowBudget) grant(conn *quic.Conn, delta uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.total+delta > MaxWindowGrowth {
		return false
	}
	if b.granted == nil {
		b.granted = make(map[*quic.Conn]uint64)
	}
	b.granted[conn] += delta
	b.total += delta
	return true
}

// forget is for a connection whose run loop has ended, so no grant follows it.
func (b *windowBudget) forget(conn *quic.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.total -= b.granted[conn]
	delete(b.granted, conn)
}
