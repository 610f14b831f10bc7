package migrate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// vmm owns the VM on both sides, and decides both halves of the switchover.
type vmm struct {
	*pair
	t *testing.T
	g *guest

	mu       sync.Mutex
	ready    []migration.Event
	accepted []migration.Event
	warned   []string
	calls    []string
}

// newVMM answers approve to the source and start to the destination.
func newVMM(t *testing.T, c carrier, approve, start func(context.Context) error) *vmm {
	p := newPair(t, c)
	p.add(t, "d0", nic, nic)
	p.add(t, "d1", "xe?size=256KiB", "xe?size=256KiB")
	v := &vmm{pair: p, t: t, g: p.guest()}
	p.send.Journal, p.receive.Journals = shared(), always(shared())
	p.send.Observe, p.receive.Observe = v.observe(migration.Ready, &v.ready), v.observe(migration.Accepted, &v.accepted)
	p.send.Approve, p.receive.StartGuest = v.call("approve", approve), v.call("start", start)
	return v
}

func (v *vmm) observe(kind migration.Kind, into *[]migration.Event) migration.Observer {
	return func(ev migration.Event) {
		v.mu.Lock()
		defer v.mu.Unlock()
		if ev.Kind == kind {
			*into = append(*into, ev)
		}
		if ev.Kind == migration.Warning {
			v.warned = append(v.warned, ev.Text)
		}
	}
}

func (v *vmm) call(name string, do func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		v.note(name)
		if do == nil {
			return nil
		}
		return do(ctx)
	}
}

func (v *vmm) note(call string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.calls = append(v.calls, call)
}

func (v *vmm) wantCalls(want string) {
	v.t.Helper()
	if got := strings.Join(v.calls, " "); got != want {
		v.t.Errorf("the VMM was called to %q, want %q", got, want)
	}
}

// wantAborted checks that the guest was resumed too, after the VMM was asked once.
func (v *vmm) wantAborted(s, r side) {
	v.t.Helper()
	v.wantCalls("approve")
	if got := fmt.Sprint(v.g.calls); got != "[pause resume]" {
		v.t.Errorf("the guest got the calls %s", got)
	}
	v.pair.wantAborted(v.t, s, r)
}

// sharedJournal is a journal that the VMM may read too.
type sharedJournal struct {
	*handoff.Memory
	mu *sync.Mutex
}

func shared() sharedJournal { return sharedJournal{handoff.NewMemory(), new(sync.Mutex)} }

func (j sharedJournal) Append(e handoff.Entry) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.Memory.Append(e)
}

func (j sharedJournal) Last() handoff.Entry {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.Memory.Last()
}

// records are the newest records of both journals.
func (v *vmm) records() string {
	j, _ := v.receive.Journals(migration.ID{}, true)
	return fmt.Sprint(v.send.Journal.Last().Record, " ", j.Last().Record)
}

// TestExternal: the VMM owns both halves of the switchover. The source asks it before it
// records COMMIT, and before it frees its devices.
func TestExternal(t *testing.T) {
	timed(t, true, func(t *testing.T, c carrier) {
		const slow = 200 * time.Millisecond
		var v *vmm
		v = newVMM(t, c, func(context.Context) error {
			if got := v.records(); got != "OPEN READY" {
				t.Errorf("approved with %s", got)
			}
			time.Sleep(slow)
			wantState(t, v.src[0], vfio.StopCopy)
			wantState(t, v.dst[0], vfio.Stop)
			return nil
		}, func(ctx context.Context) error {
			wantState(t, v.dst[0], vfio.Running)
			wantState(t, v.dst[1], vfio.Running)
			time.Sleep(slow)
			if got := v.records(); got != "COMMIT ACCEPT" || ctx.Err() != nil {
				t.Errorf("the guest starts with %s (%v)", got, ctx.Err())
			}
			wantState(t, v.src[0], vfio.StopCopy)
			return nil
		})
		s, _ := v.succeed(t)
		v.wantCalls("approve start")
		if len(v.ready) != 1 || v.ready[0].Attempt != s.report.Attempt || v.ready[0].Downtime > s.report.Downtime-2*slow {
			t.Errorf("reported before COMMIT: %+v; the downtime was %v", v.ready, s.report.Downtime)
		}
		if len(v.accepted) != 1 || v.accepted[0].Attempt != s.report.Attempt {
			t.Errorf("reported before the guest's start: %+v", v.accepted)
		}
		took := map[string]time.Duration{}
		var sum time.Duration
		for _, stage := range s.report.Stages {
			took[stage.Name] = stage.Took
			sum += stage.Took
		}
		if took[migration.StageDecide] < slow || took[migration.StageStart] < slow || sum != s.report.Downtime {
			t.Errorf("stages %v of %v", s.report.Stages, s.report.Downtime)
		}
	})
}

// TestNotApproved: until the VMM has approved, every reason to end an attempt ends it.
func TestNotApproved(t *testing.T) {
	never := func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }
	no := errors.New("the disks are not there")
	for name, c := range map[string]struct {
		approve func(v *vmm) func(context.Context) error
		set     func(v *vmm)
		code    transport.Code
		remote  bool
		says    string
	}{
		"no": {
			approve: func(*vmm) func(context.Context) error { return func(context.Context) error { return no } },
			code:    transport.CodeCancelled, says: "the switchover was not approved: the disks are not there"},
		"the user cancels": {
			approve: func(v *vmm) func(context.Context) error {
				return func(ctx context.Context) error { v.cancelSend(); return never(ctx) }
			},
			code: transport.CodeCancelled, says: "context canceled"},
		"the user cancels, and yes comes too late": {
			approve: func(v *vmm) func(context.Context) error {
				return func(ctx context.Context) error { v.cancelSend(); never(ctx); return nil }
			},
			code: transport.CodeCancelled, says: "context canceled"},
		"the destination declines": {
			approve: func(v *vmm) func(context.Context) error {
				return func(ctx context.Context) error { v.cancelReceive(); return never(ctx) }
			},
			code: transport.CodeCancelled, remote: true, says: "cancelled by the destination"},
		"ResumeAfter passes": { // and the absence of progress is no stall
			approve: func(*vmm) func(context.Context) error { return never },
			set: func(v *vmm) {
				v.send.DowntimeTarget, v.send.ResumeAfter, v.send.StalledAfter = 4*time.Second, 5*time.Second, 2*time.Second
			},
			code: transport.CodeTimeout, says: "the switchover was not approved: the guest was paused for too long (5s)"},
	} {
		t.Run(name, func(t *testing.T) {
			timed(t, true, func(t *testing.T, carry carrier) {
				var v *vmm
				v = newVMM(t, carry, func(ctx context.Context) error { return c.approve(v)(ctx) }, nil)
				if c.set != nil {
					c.set(v)
				}
				s, r := v.run(t)
				if f := s.fault(t); f.Code != c.code || f.Remote != c.remote || !strings.Contains(f.Error(), c.says) {
					t.Errorf("source: %v, remote %v: %v", f.Code, f.Remote, f)
				}
				late := strings.Contains(fmt.Sprint(v.warned), "the approval of the switchover has taken")
				if timeout := c.code == transport.CodeTimeout; timeout != late || timeout != errors.Is(s.err, reader.ErrDowntime) {
					t.Errorf("source: %v; it warned of %q", s.err, v.warned)
				}
				if got := v.records(); got != "OWNER ABORTED" {
					t.Errorf("records %s", got)
				}
				v.wantAborted(s, r)
			})
		})
	}
}

// cutDialer reaches no destination from a given moment on.
type cutDialer struct {
	transport.Dialer
	gone  atomic.Bool
	mu    sync.Mutex
	lanes []transport.Lane
}

func (d *cutDialer) Dial(ctx context.Context) (transport.Lane, error) {
	if d.gone.Load() {
		return nil, transport.ErrUnreachable
	}
	lane, err := d.Dialer.Dial(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lanes = append(d.lanes, lane)
	return lane, err
}

// cut loses the connection for good.
func (d *cutDialer) cut() {
	d.gone.Store(true)
	d.mu.Lock()
	defer d.mu.Unlock()
	closeAll(d.lanes)
}

func closeAll(lanes []transport.Lane) {
	for _, l := range lanes {
		l.Close()
	}
}

// TestLostWhileDeciding: a source that has not sent COMMIT runs on, with or without a
// destination.
func TestLostWhileDeciding(t *testing.T) {
	timed(t, true, func(t *testing.T, carry carrier) {
		var d *cutDialer
		v := newVMM(t, func(t testing.TB) (transport.Dialer, transport.Listener) {
			dialer, l := carry(t)
			d = &cutDialer{Dialer: dialer}
			return d, l
		}, func(ctx context.Context) error { d.cut(); <-ctx.Done(); return context.Cause(ctx) }, nil)
		v.lonely, v.left = true, true // the destination holds its copy until the test cancels it
		v.send.DowntimeTarget, v.send.ResumeAfter = 5*time.Second, 5*time.Second
		s, r := v.run(t)
		if s.report.Outcome != migration.Aborted || s.err == nil {
			t.Errorf("source: %v (%v)", s.report.Outcome, s.err)
		}
		v.wantAborted(s, r)
	})
}

// TestGuestNotStarted: a guest whose start failed may have run. Neither side runs
// anything until a person has decided.
func TestGuestNotStarted(t *testing.T) {
	timed(t, true, func(t *testing.T, c carrier) {
		v := newVMM(t, c, nil, func(context.Context) error { return errors.New("no answer from the vCPUs") })
		s, r := v.run(t)
		v.wantCalls("approve start")
		if s.report.Outcome != migration.InDoubt || r.report.Outcome != migration.NeedsReset {
			t.Errorf("outcomes %v (%v) and %v (%v)", s.report.Outcome, s.err, r.report.Outcome, r.err)
		}
		if f := r.fault(t); f.Code != transport.CodeStart || !strings.Contains(f.Error(), "start the guest, which may run nevertheless: no answer from the vCPUs") {
			t.Errorf("destination: %v", f)
		}
		if got := v.records(); got != "COMMIT ACCEPT" {
			t.Errorf("records %s", got)
		}
		for i := range v.src {
			wantState(t, v.src[i], vfio.StopCopy)
			wantState(t, v.dst[i], vfio.Running)
		}
		if got := fmt.Sprint(v.g.calls); got != "[pause]" {
			t.Errorf("the guest got the calls %s", got)
		}
	})
}

// TestCancelWhileGuestStarts: after ACCEPT nothing is cancelled, on either side.
func TestCancelWhileGuestStarts(t *testing.T) {
	timed(t, true, func(t *testing.T, c carrier) {
		var v *vmm
		v = newVMM(t, c, nil, func(ctx context.Context) error {
			v.cancelReceive()
			v.cancelSend()
			time.Sleep(200 * time.Millisecond)
			return ctx.Err()
		})
		s, r := v.run(t)
		if s.err != nil || r.err != nil {
			t.Fatalf("send: %v\nreceive: %v", s.err, r.err)
		}
		v.committed(t, s, r)
	})
}
