package writer

import (
	"time"

	"github.com/migpipe/migpipe/transport"
)

// maxTurned is how many further sources are told why they are not served; the
// rest are told nothing.
const maxTurned = 8

// turnAway tells a source that this destination serves another.
func turnAway(ev admitted, text string) {
	reply(transport.NewControl(ev.lane), &transport.Declined{
		Attempt: transport.Attempt{Mig: ev.pre.Mig, Epoch: ev.pre.Epoch}, Code: transport.CodeLimit, Text: text})
}

// reply tells a source that is not served one thing, and hangs up. Nobody else may be
// reading its lane.
func reply(control *transport.Control, m transport.Message) {
	lane := control.Lane()
	lane.SetDeadline(time.Now().Add(time.Second))
	control.Send(m)
	transport.HangUp(lane, func() {
		for {
			if _, err := control.Receive(); err != nil {
				return
			}
		}
	})
}

// forget closes lanes that were admitted too late for the loop to see.
func (e *engine) forget() {
	for {
		select {
		case ev := <-e.events:
			if a, ok := ev.(admitted); ok {
				a.lane.Close()
			}
		default:
			return
		}
	}
}

// from names the peer of a lane, where it has a name.
func from(l transport.Lane) string {
	if id := transport.PeerOf(l); id != (transport.ID{}) {
		return " (" + id.String() + ")"
	}
	return ""
}
