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

// ackPad makes an ACK longer than 42 bytes, so that a peer that has lost the connection's state may
// answer it with a stateless reset.
var ackPad = make([]byte, 32)

// acker sends ACKs: the progress of each device, and the windows. An ACK is also the heartbeat.
type acker struct {
	attempt migration.Attempt
	journal migration.JournalID
	control atomic.Pointer[wire.Control] // nil while it is lost
	credit  *credit
	merges  []*merge
	due     chan struct{} // holds a token when an ACK is worth sending
	quit    <-chan struct{}

	padding atomic.Uint64   // bytes of padding that have come
	read    []atomic.Uint64 // bytes that the receiver of each lane has read, by number

	mu     sync.Mutex
	echo   int64     // the Stamp of the last ESTIMATE
	echoAt time.Time // when it came

	next wire.Ack // run's: scratch for each ACK
}

// noteEstimate takes the stamp of an ESTIMATE, with which the source measures the round trip.
func (a *acker) noteEstimate(ns int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.echo, a.echoAt = ns, time.Now()
	a.requestAck()
}

// requestAck requests an ACK soon.
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

// noteApplied is called by a loader after each chunk: an ACK is due when no chunk waits, or when
// some device's window has moved by an eighth.
func (a *acker) noteApplied(device int) {
	if _, idle := a.merges[device].status(); !idle && !a.credit.isDue() {
		return
	}
	a.requestAck()
}

// notePadding takes n bytes of padding: an ACK is due, for the source to measure the rate.
func (a *acker) notePadding(n int) error {
	if all := a.padding.Add(uint64(n)); all > wire.MaxProbe {
		return fmt.Errorf("%w: %d bytes of padding, limit %d", transport.ErrProtocol, all, wire.MaxProbe)
	}
	a.requestAck()
	return nil
}

// setControl sends ACKs over another control lane from now on, nil for none.
func (a *acker) setControl(c *wire.Control) {
	a.control.Store(c)
	a.requestAck()
}

// run sends ACKs until quit is closed. The reader of a lane notices that it fails.
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
	a.credit.noteSent() // before the status is read: a change in between is sent twice rather than not
	for _, mg := range a.merges {
		s, _ := mg.status()
		m.Devices = append(m.Devices, s)
	}
	return m
}
