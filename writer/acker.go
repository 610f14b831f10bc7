package writer

import (
	"sync/atomic"
	"time"

	"github.com/migpipe/migpipe/transport"
)

// ackPad makes an ACK longer than 42 bytes, so that a peer that has forgotten
// the connection may answer it with a stateless reset.
var ackPad = make([]byte, 32)

// acker tells the source how far each device is, and renews the promises. It
// is also the heartbeat.
type acker struct {
	attempt transport.Attempt
	journal transport.JournalID
	control *transport.Control
	merges  []*merge
	last    []atomic.Uint64 // bytes applied as of the last ACK, by device
	due     chan struct{}   // holds a token when an ACK is worth sending
	quit    <-chan struct{}
}

// applied is called by a loader after each chunk: an ACK is due when nothing
// more is waiting, or when an eighth of the window has been written.
func (a *acker) applied(device int) {
	m := a.merges[device]
	ack, idle := m.status()
	room := m.promise.chunks * m.promise.chunkSize
	if !idle && (ack.Applied-a.last[device].Load())*8 < room {
		return
	}
	select {
	case a.due <- struct{}{}:
	default:
	}
}

// run sends ACKs until quit is closed. A lane that fails is seen by its reader.
func (a *acker) run() {
	beat := time.NewTicker(transport.Heartbeat)
	defer beat.Stop()
	for {
		select {
		case <-a.due:
		case <-beat.C:
		case <-a.quit:
			return
		}
		if a.control.Send(a.ack()) != nil {
			return
		}
	}
}

func (a *acker) ack() *transport.Ack {
	m := &transport.Ack{Attempt: a.attempt, Journal: a.journal, Pad: ackPad}
	for i, mg := range a.merges {
		s, _ := mg.status()
		a.last[i].Store(s.Applied)
		m.Devices = append(m.Devices, s)
	}
	return m
}
