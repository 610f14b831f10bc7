package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// halfOpen is the table of the connections of a listener that are not lanes yet. All carriers of
// the listener share it. It has room for MaxHalfOpen connections.
//
// A full table gives the place of a silent connection to the next one: a peer that means to
// migrate sends its next packet within a round trip, and a connection that is only held open
// sends none. An address that has authenticated lately gets a place in any case, so that
// strangers do not keep out a source that the destination knows.
type halfOpen struct {
	mu     sync.Mutex
	places []*place             // the oldest first
	known  map[caller]time.Time // when the address last authenticated
	closed bool                 // by shut
}

// place is the place of one connection in the table.
type place struct {
	from  caller
	known bool // the address has authenticated lately, and is the connection's own

	// evict ends the context of the connection, since the place is another connection's now, or
	// the listener is closed.
	evict context.CancelCauseFunc

	// silence is how long the peer has sent nothing. It is nil while the connection cannot be
	// closed, and once the peer has authenticated.
	silence func() time.Duration
}

var errEvicted = errors.New("another connection has the place of this one")

// enter gives a connection a place until leave. ok is false if there is none. The address is
// proven if its host has answered from there. The connection uses the context while it has the
// place: the context ends with the eviction, or with ctx.
func (t *halfOpen) enter(ctx context.Context, from net.Addr, proven bool) (context.Context, *place, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := &place{from: callerOf(from)}
	p.known = proven && t.knows(p.from)
	if victim := t.victim(p.known); len(t.places) >= MaxHalfOpen {
		if victim == nil {
			return nil, nil, fmt.Errorf("transport: %d connections are half open, and none of them is silent: there is no place for one from %v", MaxHalfOpen, from)
		}
		t.remove(victim)
		victim.evict(errEvicted)
	}
	ctx, p.evict = context.WithCancelCause(ctx)
	if t.closed {
		p.evict(net.ErrClosed)
	}
	t.places = append(t.places, p)
	return ctx, p, nil
}

// shut ends the contexts of all half-open connections. That of a later one ends at once.
func (t *halfOpen) shut() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.places {
		p.evict(net.ErrClosed)
	}
	t.places, t.closed = nil, true
}

// victim is the connection that loses its place: the oldest silent one, of a stranger first. For a
// known address, the oldest of a stranger loses its place even if it is not silent. victim looks
// at every connection, so that each notes the beginning of its silence.
func (t *halfOpen) victim(forKnown bool) *place {
	var silent, silentKnown, stranger *place
	for _, p := range t.places {
		switch {
		case p.silence == nil:
		case p.silence() < SilentTime:
			if !p.known && stranger == nil {
				stranger = p
			}
		case !p.known && silent == nil:
			silent = p
		case p.known && silentKnown == nil:
			silentKnown = p
		}
	}
	switch {
	case silent != nil:
		return silent
	case silentKnown != nil:
		return silentKnown
	case forKnown:
		return stranger
	}
	return nil
}

// mayEvict sets how long the peer of a connection has been silent: the connection may lose its
// place from then on, and has to end with its context.
func (t *halfOpen) mayEvict(p *place, silence func() time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p.silence = silence
}

// authenticated secures the place of a connection whose peer the credentials know, and records
// its address.
func (t *halfOpen) authenticated(p *place) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p.silence = nil
	if _, again := t.known[p.from]; !again && len(t.known) >= KnownAddresses {
		t.forgetOldest()
	}
	if t.known == nil {
		t.known = make(map[caller]time.Time)
	}
	t.known[p.from] = time.Now()
}

// settle ends the eviction of a connection whose lane is about to be returned: the context is the
// lane's from now on.
func (t *halfOpen) settle(p *place) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p.evict = func(error) {}
}

// knows reports whether an address has authenticated within KnownTime.
func (t *halfOpen) knows(from caller) bool {
	at, ok := t.known[from]
	return ok && time.Since(at) < KnownTime
}

func (t *halfOpen) forgetOldest() {
	var oldest caller
	for from, at := range t.known {
		if before, ok := t.known[oldest]; !ok || at.Before(before) {
			oldest = from
		}
	}
	delete(t.known, oldest)
}

// leave frees the place. The context of the connection stays valid. A second call does nothing.
func (t *halfOpen) leave(p *place) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.remove(p)
}

func (t *halfOpen) remove(p *place) {
	if i := slices.Index(t.places, p); i >= 0 {
		t.places = slices.Delete(t.places, i, i+1)
	}
}

// count is how many connections have a place.
func (t *halfOpen) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.places)
}

// silenceOf makes a silence of what counts the packets that have come. The count is looked at
// whenever a connection enters the table.
func silenceOf(count func() uint64) func() time.Duration {
	seen, at := count(), time.Now()
	return func() time.Duration {
		if now := count(); now != seen {
			seen, at = now, time.Now()
		}
		return time.Since(at)
	}
}
