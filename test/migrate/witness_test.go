package migrate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/handoff/witness"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// register is a witness in memory, for one attempt. Any other attempt is a probe, which it
// answers at once.
type register struct {
	name    string
	of      migration.Attempt
	delay   map[handoff.Side]time.Duration // before it reads a side's question
	refuses atomic.Int32                   // how many questions of the destination it does not answer

	mu     sync.Mutex
	winner handoff.Side
	asked  []handoff.Side
}

func (r *register) Name() string { return r.name }

func (r *register) Decide(ctx context.Context, a migration.Attempt, me handoff.Side) (handoff.Side, error) {
	if a != r.of {
		return me, nil
	}
	select {
	case <-time.After(r.delay[me]):
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, me)
	if me == handoff.DestSide && r.refuses.Add(-1) >= 0 {
		return 0, errors.New("no quorum")
	}
	if r.winner == 0 {
		r.winner = me
	}
	return r.winner, nil
}

func (p *pair) witnessed(w witness.Witness) { p.send.Witness, p.receive.Witness = w, w }

func newRegister() *register {
	return &register{name: "memory", delay: map[handoff.Side]time.Duration{}}
}

// deafDialer discards the source's messages from a moment on.
type deafDialer struct {
	transport.Dialer
	deaf *atomic.Bool
}

func (d deafDialer) Dial(ctx context.Context) (transport.Lane, error) {
	lane, err := d.Dialer.Dial(ctx)
	if err != nil {
		return nil, err
	}
	return deafLane{lane, d.deaf}, nil
}

type deafLane struct {
	transport.Lane
	deaf *atomic.Bool
}

func (l deafLane) Write(b []byte) (int, error) {
	if l.deaf.Load() {
		return len(b), nil
	}
	return l.Lane.Write(b)
}

// TestWitnessDir: a migration whose register is a file. The destination has the register at
// the end, as it must before it accepts.
func TestWitnessDir(t *testing.T) {
	eachCarrier(t, func(t *testing.T, c carrier) {
		w, err := witness.OpenDir(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		p := newPair(t, c)
		p.add(t, "d0", nic, nic)
		p.witnessed(w)
		s, _ := p.succeed(t)
		if winner, err := w.Decide(t.Context(), s.report.Attempt, handoff.SourceSide); err != nil || winner != handoff.DestSide {
			t.Errorf("%v has the register, %v", winner, err)
		}
	})
}

// TestWitnessDiffers: both sides have the same witness, or none, or the migration does not
// begin.
func TestWitnessDiffers(t *testing.T) {
	for name, c := range map[string]struct{ source, dest witness.Witness }{
		"at the source only":      {newRegister(), nil},
		"at the destination only": {nil, newRegister()},
		"another at each":         {newRegister(), &register{name: "other"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, pipe)
			p.add(t, "d0", nic, nic)
			p.send.Witness, p.receive.Witness = c.source, c.dest
			s, r := p.run(t)
			f := s.fault(t)
			want := fmt.Sprintf("the source has the witness %s, the destination %s", cmp.Or(witness.NameOf(c.source), "none"), cmp.Or(witness.NameOf(c.dest), "none"))
			if f.Code != transport.CodeWitness || !f.Remote || !strings.Contains(f.Error(), want) {
				t.Errorf("%v", f)
			}
			if log := p.src[0].Log(); len(log) > 0 {
				t.Errorf("the source's device was touched: %v", log)
			}
			p.wantAborted(t, s, r)
		})
	}
}

// TestWitness: the side that wins the register proceeds, and the side that loses it does not.
func TestWitness(t *testing.T) {
	for name, c := range map[string]struct {
		set      func(p *pair, r *register)
		lost     bool // COMMIT is lost
		outcome  migration.Outcome
		winner   handoff.Side
		says     string
		question int // how often the destination asked
	}{
		"COMMIT is lost: the source takes its devices back": {
			lost: true, outcome: migration.Aborted, winner: handoff.SourceSide, says: "the witness gave the devices back"},
		"COMMIT is late: the destination has lost": {
			set:     func(_ *pair, r *register) { r.delay[handoff.DestSide] = 4 * time.Second },
			outcome: migration.Aborted, winner: handoff.SourceSide, says: "the witness gave the devices back", question: -1},
		"the start is slow: the source has lost, and waits": {
			set:     func(p *pair, _ *register) { p.receive.OnAccept = slowly(4 * time.Second) },
			outcome: migration.Committed, winner: handoff.DestSide, question: 1},
		"the witness does not answer at first": {
			set:     func(_ *pair, r *register) { r.refuses.Store(1) },
			outcome: migration.Committed, winner: handoff.DestSide, question: 2},
	} {
		t.Run(name, func(t *testing.T) {
			timed(t, false, func(t *testing.T, carry carrier) {
				w, deaf := newRegister(), new(atomic.Bool)
				p := newPair(t, func(t testing.TB) (transport.Dialer, transport.Listener) {
					d, l := carry(t)
					return deafDialer{d, deaf}, l
				})
				p.add(t, "d0", nic, nic)
				p.witnessed(w)
				w.of = migration.Attempt{Mig: migration.NewID(), Epoch: 1}
				p.send.Attempt = w.of
				if c.set != nil {
					c.set(p, w)
				}
				p.lonely = c.lost // the destination holds its copy until the test cancels it
				if c.lost {
					p.send.Journal = gate{handoff.NewMemory(), handoff.Commit, func() { deaf.Store(true) }}
				}
				s, r := p.run(t)
				if w.winner != c.winner {
					t.Errorf("%v has the register", w.winner)
				}
				asked := len(slices.DeleteFunc(w.asked, func(s handoff.Side) bool { return s != handoff.DestSide }))
				if c.question >= 0 && asked != c.question {
					t.Errorf("the destination asked %d times", asked)
				}
				if c.outcome == migration.Committed {
					p.committed(t, s, r)
					return
				}
				if !strings.Contains(fmt.Sprint(s.err), c.says) {
					t.Errorf("source: %v", s.err)
				}
				p.left = c.lost
				p.wantAborted(t, s, r)
			})
		})
	}
}

func slowly(d time.Duration) handoff.Hook {
	return func(context.Context, migration.Attempt) error { time.Sleep(d); return nil }
}

// TestHooks: each hook gets the attempt, in order, and its failure has the documented cost.
func TestHooks(t *testing.T) {
	for name, c := range map[string]struct {
		fails    string
		told     string
		outcome  migration.Outcome
		warnings string
	}{
		"all is well":      {"", "on-commit on-accept", migration.Committed, "[]"},
		"on-commit fails":  {"on-commit", "on-commit on-accept", migration.Committed, "[on-commit: no]"},
		"on-accept fails":  {"on-accept", "on-commit on-accept on-revert", migration.Aborted, "[]"},
		"the last as well": {"on-accept on-revert", "on-commit on-accept on-revert", migration.Aborted, "[on-revert: no]"},
	} {
		t.Run(name, func(t *testing.T) {
			timed(t, false, func(t *testing.T, carry carrier) {
				var mu sync.Mutex
				var told []string
				hook := func(name string, after time.Duration) handoff.Hook {
					return func(_ context.Context, a migration.Attempt) error {
						time.Sleep(after)
						mu.Lock()
						defer mu.Unlock()
						told = append(told, name)
						if a.Mig == (migration.ID{}) || a.Epoch != 1 {
							t.Errorf("%s got %v", name, a)
						}
						if slices.Contains(strings.Fields(c.fails), name) {
							return errors.New("no")
						}
						return nil
					}
				}
				p := newPair(t, carry)
				p.add(t, "d0", nic, nic)
				p.send.OnCommit, p.send.OnRevert = hook("on-commit", 0), hook("on-revert", 0)
				p.receive.OnAccept = hook("on-accept", time.Millisecond)
				s, r := p.run(t)
				if got := strings.Join(told, " "); got != c.told {
					t.Errorf("the hooks got %s", got)
				}
				if got := fmt.Sprint(s.report.Warnings); got != c.warnings {
					t.Errorf("the source warns of %s", got)
				}
				if c.outcome == migration.Committed {
					p.committed(t, s, r)
					return
				}
				if f := s.fault(t); f.Code != transport.CodeStart || !strings.Contains(f.Error(), "on-accept: no") {
					t.Errorf("source: %v", f)
				}
				p.wantAborted(t, s, r)
			})
		})
	}
}

// TestOverruled: a person at the destination has decided the attempt of a source in doubt.
// The source runs nothing, and shows both records.
func TestOverruled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leavesNothing(t)
		d, listener := pipe(t)
		l := &liar{T: t, listener: listener, journal: migration.NewJournalID()}
		src := open(t, "mlx5?size=40KiB")
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.open()
			l.take()
			l.send(l.ready())
			for {
				if m, err := l.control.Receive(); err != nil || m.Type() == wire.TypeCommit {
					break
				}
			}
			l.send(&wire.Status{Attempt: l.hello.Attempt, Journal: l.journal, Record: handoff.Forced.String(), MaxEpoch: 2, Text: "root: rack 7 burned down"})
			l.listen()
		}()
		report, err := reader.Send(t.Context(), d, []reader.Source{{Name: "d0", Device: src}}, nil)
		<-done
		if report.Outcome != migration.InDoubt || err == nil {
			t.Fatalf("outcome %v (%v)", report.Outcome, err)
		}
		for _, says := range []string{"FORCED of attempt 2", "root: rack 7 burned down", "this side's is COMMIT of attempt 1"} {
			if !strings.Contains(err.Error(), says) {
				t.Errorf("%v lacks %q", err, says)
			}
		}
		wantState(t, src, vfio.StopCopy)
	})
}
