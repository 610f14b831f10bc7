package writer

import (
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
	credit  *credit
	merges  []*merge
	due     chan struct{} // holds a token when an ACK is worth sending
	quit    <-chan struct{}
}

// applied is called by a loader after each chunk: an ACK is due when nothing
// more is waiting, or when some device's window has moved by an eighth.
func (a *acker) applied(device int) {
	if _, idle := a.merges[device].status(); !idle && !a.credit.due() {
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
	a.credit.told() // before it is asked: what comes in between is told twice rather than not
	for _, mg := range a.merges {
		s, _ := mg.status()
		m.Devices = append(m.Devices, s)
	}
	return m
}
