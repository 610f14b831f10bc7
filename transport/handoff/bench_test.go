package handoff

import (
	"testing"

	"github.com/migpipe/migpipe/internal/wire"
)

// BenchmarkHandOff is all that both machines decide in one migration that goes well. It
// stands in every stop, beside journals that take a millisecond.
func BenchmarkHandOff(b *testing.B) {
	digest := worldDigest
	for b.Loop() {
		s, d := NewSource(attempt(1), sourceJournal), NewDest(destJournal)
		s, _ = s.Step(Begin{})
		d, _ = d.Step(Offered{Attempt: attempt(1)})
		s, _ = s.Step(Received{&wire.Welcome{Attempt: attempt(1), Journal: destJournal}})
		s, _ = s.Step(Drained{digest})
		d, answer := d.Step(Loaded{digest})
		s, said := s.Step(sent(b, answer))
		d, _ = d.Step(sent(b, said))
		d, answer = d.Step(Started{1})
		s, said = s.Step(sent(b, answer))
		d, _ = d.Step(sent(b, said))
		if s.Phase != SourceEnded || d.Phase != DestEnded {
			b.Fatalf("source %v, destination %v", s.Phase, d.Phase)
		}
	}
}

// sent is the message among the actions.
func sent[A any](b *testing.B, actions []A) Received {
	for _, a := range actions {
		if s, ok := any(a).(Send); ok {
			return Received(s)
		}
	}
	b.Fatalf("%v: nothing is sent", actions)
	return Received{}
}
