package writer

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

// ackPad makes an ACK longer than 42 bytes, so that a peer that has forgotten
// the connection may answer it with a stateless reset.
var ackPad = make([]byte, 32)

// acker tells the source how far each device is, and renews the promises. It
// is also the heartbeat.
type acker struct {
	attempt migration.Attempt
	journal migration.JournalID
	control atomic.Pointer[wire.Control] // nil while it is lost
	credit  *credit
	merges  []*merge
	due     chan struct{} // holds a token when an ACK is worth sending
	quit    <-chan struct{}

	padding atomic.Uint64   // bytes that have come
	read    []atomic.Uint64 // bytes that the receiver of each lane has read, by number

	mu     sync.Mutex
	echo   int64 // the Stamp of the last ESTIMATE
	echoAt time.Time

	next wire.Ack // run's, made anew for each
}

// stamp takes in an ESTIMATE's, for the source to measure the round trip with.
func (a *acker) noteEstimate(ns int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.echo, a.echoAt = ns, time.Now()
	a.requestAck()
}

// want has an ACK sent soon.
func (a *acker) requestAck() {
	select {
	case a.due <- struct{}{}:
	default:
	}
}

func (a *acker) latestEcho() (echo, held int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.echo == 0 {
		return 0, 0
	}
	return a.echo, time.Since(a.echoAt).Nanoseconds()
}

// applied is called by a loader after each chunk: an ACK is due when nothing
// more is waiting, or when some device's window has moved by an eighth.
func (a *acker) noteApplied(device int) {
	if _, idle := a.merges[device].status(); !idle && !a.credit.isDue() {
		return
	}
	a.requestAck()
}

// padded takes in that so much padding has come: an ACK is due, for the source to
// see how fast.
func (a *acker) notePadding(n int) error {
	if all := a.padding.Add(uint64(n)); all > wire.MaxProbe {
		return fmt.Errorf("%w: %d bytes of padding, limit %d", transport.ErrProtocol, all, wire.MaxProbe)
	}
	a.requestAck()
	return nil
}

// use has ACKs go over another control lane from now on, nil for none.
func (a *acker) setControl(c *wire.Control) {
	a.control.Store(c)
	a.requestAck()
}

// run sends ACKs until quit is closed. A lane that fails is seen by its reader.
func (a *acker) run() {
	beat := time.NewTicker(wire.Heartbeat)
	defer beat.Stop()
	for {
		select {
		case <-a.due:
		case <-beat.C:
		case <-a.quit:
			return
		}
		if c := a.control.Load(); c != nil {
			c.Send(a.buildAck())
		}
	}
}

func (a *acker) buildAck() *wire.Ack {
	m := &a.next
	*m = wire.Ack{Attempt: a.attempt, Journal: a.journal, Pad: ackPad, Devices: m.Devices[:0], Read: m.Read[:0]}
	m.Echo, m.HeldNS = a.latestEcho()
	m.Padding = a.padding.Load()
	for i := range a.read {
		m.Read = append(m.Read, a.read[i].Load())
	}
	a.credit.noteSent() // before it is asked: what comes in between is told twice rather than not
	for _, mg := range a.merges {
		s, _ := mg.status()
		m.Devices = append(m.Devices, s)
	}
	return m
}
