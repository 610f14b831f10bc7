package migrate

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/writer"
)

// waitingPair is a pair whose source sends COMMIT late. alarms are the times at which the
// destination has reported a waiting copy.
func waitingPair(t *testing.T, decides time.Duration) (p *pair, alarms *[]time.Duration) {
	p = newPair(t, pipe)
	p.add(t, "d0", nic, nic)
	p.send.ResumeAfter = time.Hour
	p.send.Approve = func(ctx context.Context) error {
		select {
		case <-time.After(decides):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	began, alarms := time.Now(), new([]time.Duration)
	p.receive.Observe = func(ev migration.Event) {
		if ev.Kind == migration.Warning && strings.Contains(ev.Text, "a complete copy has waited for COMMIT") {
			*alarms = append(*alarms, time.Since(began))
		}
	}
	return p, alarms
}

// near reports whether an action came when it was due, or within the second of the loop's
// next tick.
func near(took, due time.Duration) bool { return took >= due && took < due+time.Second }

// TestReadyHeld: the destination holds a complete copy until its source is done, and
// reports that once.
func TestReadyHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, alarms := waitingPair(t, 10*time.Minute)
		p.sendCtx, p.receiveCtx = t.Context(), t.Context()
		p.succeed(t)
		if len(*alarms) != 1 || !near((*alarms)[0], time.Minute) {
			t.Errorf("alarms after %v, want one after a minute", *alarms)
		}
	})
}

// TestDiscardReadyAfter: with the option, the destination discards a copy if COMMIT does not
// arrive in time. The source's devices run again.
func TestDiscardReadyAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, alarms := waitingPair(t, 10*time.Minute)
		p.receive.WarnReadyAfter, p.receive.DiscardReadyAfter = 2*time.Second, 5*time.Second
		began := time.Now()
		s, r := p.run(t)
		if took := time.Since(began); !near(took, 5*time.Second) {
			t.Errorf("took %v, the lease is 5s", took)
		}
		if len(*alarms) != 1 || !near((*alarms)[0], 2*time.Second) {
			t.Errorf("alarms after %v, want one after 2s", *alarms)
		}
		if f := s.fault(t); f.Code != transport.CodeTimeout || !f.Remote || !strings.Contains(f.Error(), "no COMMIT within the discard limit of 5s") {
			t.Errorf("source: %v", f)
		}
		if f := r.fault(t); f.Code != transport.CodeTimeout || !errors.Is(f, writer.ErrReadyExpired) {
			t.Errorf("destination: %v", f)
		}
		p.wantAborted(t, s, r)
	})
}

// TestLoadStall: a destination whose device has all of its stream but writes nothing fails
// after its StalledAfter.
func TestLoadStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, pipe)
		p.add(t, "gpu0", "xe?size=4MiB", "xe?size=4MiB&fault=hang@4000000")
		p.send.ResumeAfter, p.receive.StalledAfter = time.Hour, 3*time.Second
		began := time.Now()
		s, r := p.run(t)
		if took := time.Since(began); !near(took, 3*time.Second) {
			t.Errorf("took %v, the limit is 3s", took)
		}
		if f := s.fault(t); f.Code != transport.CodeTimeout || !f.Remote {
			t.Errorf("source: %v", f)
		}
		if f := r.fault(t); !errors.Is(f, writer.ErrStalled) || !strings.Contains(f.Error(), "of 3s after the last END") {
			t.Errorf("destination: %v", f)
		}
		p.wantAborted(t, s, r)
	})
}

// lateDialer reaches no destination before a moment.
type lateDialer struct {
	transport.Dialer
	from time.Time
}

func (d *lateDialer) Dial(ctx context.Context) (transport.Lane, error) {
	if time.Now().Before(d.from) {
		return nil, transport.ErrUnreachable
	}
	return d.Dialer.Dial(ctx)
}

// TestConnectFor: the source does not wait for an absent destination, unless ConnectFor is set.
func TestConnectFor(t *testing.T) {
	for _, c := range []struct {
		name        string
		comes       time.Duration
		limit, took time.Duration
	}{
		{"not there, by default", time.Second, 0, 0},
		{"comes within the limit", 12 * time.Second, 20 * time.Second, -1},
		{"comes too late", 30 * time.Second, 20 * time.Second, 15 * time.Second}, // where the last try begins
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, l := pipe(t)
				p := newPair(t, func(testing.TB) (transport.Dialer, transport.Listener) {
					return &lateDialer{d, time.Now().Add(c.comes)}, l
				})
				p.add(t, "d0", nic, nic)
				p.send.ConnectFor = c.limit
				if c.took < 0 {
					p.succeed(t)
					return
				}
				p.lonely = true
				began := time.Now()
				s, r := p.run(t)
				if took := time.Since(began); !near(took, c.took) {
					t.Errorf("took %v, want %v", took, c.took)
				}
				if f := s.fault(t); !errors.Is(f, transport.ErrUnreachable) {
					t.Errorf("source: %v", f)
				}
				p.wantAborted(t, s, r)
			})
		})
	}
}

// TestWelcomeLimit: the source waits for WELCOME for ConnectFor.
func TestWelcomeLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, listener := pipe(t)
		l := &liar{T: t, listener: listener}
		src := open(t, nic)
		done := make(chan struct{})
		go func() { defer close(done); l.open(); l.listen() }()
		began := time.Now()
		r, err := reader.Send(t.Context(), d, []reader.Source{{Name: "d0", Device: src}}, &reader.Options{ConnectFor: 17 * time.Second})
		<-done
		if took := time.Since(began); !near(took, 17*time.Second) || !errors.Is(err, reader.ErrNoWelcome) || r.Outcome != migration.Aborted {
			t.Errorf("%v, %v after %v", r.Outcome, err, took)
		}
		wantState(t, src, vfio.Running)
	})
}

// TestAskBackAfter: the source asks for the devices once COMMIT was unanswered for that long.
func TestAskBackAfter(t *testing.T) {
	for _, after := range []time.Duration{0, 2 * time.Second, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			d, listener := pipe(t)
			l := &liar{T: t, listener: listener, journal: migration.NewJournalID()}
			src := open(t, "mlx5?size=40KiB")
			heard := make(chan time.Duration, 1)
			go func() {
				l.open()
				l.take()
				l.send(l.ready())
				var committed time.Time
				for {
					m, err := l.control.Receive()
					switch {
					case err != nil:
						t.Error(err)
						heard <- 0
						return
					case m.Type() == wire.TypeCommit:
						committed = time.Now()
						continue
					case m.Type() == wire.TypeQuery:
						l.send(&wire.Status{Attempt: l.hello.Attempt, Journal: l.journal, Record: handoff.Ready.String()})
						continue
					case m.Type() != wire.TypeCancel:
						continue
					}
					heard <- time.Since(committed)
					l.send(&wire.Declined{Attempt: l.hello.Attempt, Journal: l.journal, Code: transport.CodeCancelled})
					l.listen()
					return
				}
			}()
			r, err := reader.Send(t.Context(), d, []reader.Source{{Name: "d0", Device: src}}, &reader.Options{AskBackAfter: after})
			want := after
			if want == 0 {
				want = 5 * time.Second
			}
			if took := <-heard; !near(took, want) || r.Outcome != migration.Aborted {
				t.Errorf("%v, %v; CANCEL came %v after COMMIT, want %v", r.Outcome, err, took, want)
			}
			wantState(t, src, vfio.Running)
		})
	}
}
