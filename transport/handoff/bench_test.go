package handoff

import (
	"testing"

	"github.com/migpipe/migpipe/transport"
)

// BenchmarkHandOff is all that both machines decide in one migration that goes well. It
// stands in every stop, beside journals that take a millisecond.
func BenchmarkHandOff(b *testing.B) {
	digest := worldDigest
	for b.Loop() {
		s, d := NewSource(attempt(1), sourceJournal), NewDest(destJournal)
		s, _ = s.Step(Begin{})
		d, _ = d.Step(Offered{Attempt: attempt(1)})
		s, _ = s.Step(&transport.Welcome{Attempt: attempt(1), Journal: destJournal})
		s, _ = s.Step(Drained{digest})
		d, actions := d.Step(Loaded{digest})
		s, actions = s.Step(sent(b, actions))
		d, _ = d.Step(sent(b, actions))
		d, actions = d.Step(Started{1})
		s, actions = s.Step(sent(b, actions))
		d, _ = d.Step(sent(b, actions))
		if s.Phase != SourceEnded || d.Phase != DestEnded {
			b.Fatalf("source %v, destination %v", s.Phase, d.Phase)
		}
	}
}

// sent is the message among the actions.
func sent(b *testing.B, actions []Action) transport.Message {
	for _, a := range actions {
		if s, ok := a.(Send); ok {
			return s.Message
		}
	}
	b.Fatalf("%v: nothing is sent", actions)
	return nil
}
