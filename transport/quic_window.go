package transport

import (
	"context"
	"errors"
	"sync"

	"github.com/quic-go/quic-go"
)

// windowBudget lets the receive windows of all lanes of a dialler or listener
// grow together by no more than [MaxWindowGrowth]. Every lane has its
// [InitialWindow]; the lanes that are consumed fast enough to need more get it
// while there is some, and give it back when they end.
//
// quic-go gives a connection up whose stream has more than 1,000 gaps. Those come
// where a slow start fills a queue on the way: every second packet is lost, of a
// window of several megabytes. In an InitialWindow there are not so many packets. So
// no window grows any more after that, and a lane in place of the lost one lasts.
type windowBudget struct {
	mu      sync.Mutex
	granted map[*quic.Conn]uint64
	total   uint64
	narrow  bool // no window grows any more
}

// watch gives back what a connection was granted, when its run loop has ended, so
// that no grant follows.
func (b *windowBudget) watch(conn *quic.Conn) {
	ctx := conn.Context()
	context.AfterFunc(ctx, func() { b.forget(conn, context.Cause(ctx)) })
}

// grant is called by quic-go each time it would like to enlarge a window.
func (b *windowBudget) grant(conn *quic.Conn, delta uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.narrow || b.total+delta > MaxWindowGrowth {
		return false
	}
	if b.granted == nil {
		b.granted = make(map[*quic.Conn]uint64)
	}
	b.granted[conn] += delta
	b.total += delta
	return true
}

func (b *windowBudget) forget(conn *quic.Conn, cause error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if gaps, ok := errors.AsType[*quic.TransportError](cause); ok && !gaps.Remote && gaps.ErrorCode == quic.InternalError {
		b.narrow = true
	}
	b.total -= b.granted[conn]
	delete(b.granted, conn)
}
