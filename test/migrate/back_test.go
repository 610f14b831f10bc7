package migrate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/sim"
	"github.com/migpipe/migpipe/writer"
)

// Two devices whose way back can fail before any of them runs.
const (
	xe      = "xe?size=256KiB"
	noStart = "set@STOP-RUNNING_P2P:EIO"
)

// stuckNIC and stuckXE do not leave STOP.
var stuckNIC, stuckXE = times(6, nic, noStart), times(6, xe, noStart)

// times adds the same fault several times to a device.
func times(n int, device, fault string) string {
	for range n {
		device = with(device, fault)
	}
	return device
}

// refused is an owner who refuses once everything is loaded at the destination.
func refused(context.Context) error { return errors.New("the disks are not there") }

// back is a migration whose owner refuses it when everything is loaded at the destination.
// Its source devices have these faults.
func back(t *testing.T, faults ...string) *vmm {
	v := newVMM(t, pipe, refused, nil)
	for i, url := range faults {
		v.src[i] = open(t, url)
		v.sources[i].Device = v.src[i]
	}
	v.sendCtx, v.receiveCtx = t.Context(), t.Context()
	v.receive.DiscardReadyAfter = 2 * time.Minute // or the destination would hold its copy for ever
	return v
}

func (p *pair) receiveFrom(l transport.Listener) side {
	r, err := writer.Receive(p.receiveCtx, l, p.sinks, &p.receive)
	return side{r, err}
}

// source runs the source alone against a running destination. It also returns the last
// record of the destination.
func (v *vmm) source(t *testing.T) (migration.Report, handoff.Record, error) {
	dialer, listener := v.carrier(t)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		v.receiveFrom(listener)
	}()
	began := time.Now()
	r, err := reader.Send(v.sendCtx, dialer, v.sources, &v.send)
	if took := time.Since(began); took > 45*time.Second {
		t.Errorf("the source took %v", took)
	}
	time.Sleep(5 * time.Second) // all messages have arrived
	synctest.Wait()
	j, _ := v.receive.Journals(migration.ID{}, true)
	was := j.Last().Record
	<-ended
	return r, was, err
}

// TestHeldThere: once the last END is sent, the destination holds its copy until all
// devices of the source, and its guest, run again. The outcome names what a person may do
// with the copy.
func TestHeldThere(t *testing.T) {
	for _, c := range []struct {
		name    string
		sources []string
		resume  func(context.Context) error
		outcome migration.Outcome
		record  string // of the source, from OPEN on
		there   handoff.Record
		held    *migration.CopyThere
		states  [2]vfio.State
		warns   string
	}{
		{name: "all goes back", sources: []string{nic, xe}, outcome: migration.Aborted, record: "OPEN OWNER! OWNER", there: handoff.Aborted, states: [2]vfio.State{vfio.Running, vfio.Running}},
		{name: "a device works at the second try", sources: []string{nic, times(1, xe, "set@STOP_COPY-STOP:EIO")}, outcome: migration.Aborted,
			record: "OPEN OWNER! OWNER", there: handoff.Aborted, states: [2]vfio.State{vfio.Running, vfio.Running}, warns: "device d1 needed a second try"},
		{name: "a device runs at the second try", sources: []string{times(1, nic, "set@RUNNING_P2P-RUNNING:EIO"), xe}, outcome: migration.Aborted,
			record: "OPEN OWNER! OWNER", there: handoff.Aborted, states: [2]vfio.State{vfio.Running, vfio.Running}, warns: "device d0 needed a second try"},
		{name: "a device cannot leave STOP_COPY", sources: []string{nic, times(6, xe, "set@STOP_COPY-STOP:EIO")}, outcome: migration.NeedsReset,
			record: "OPEN RESUME_FAILED!", there: handoff.Ready, held: &migration.CopyThere{Ready: true, Rescue: true}, states: [2]vfio.State{vfio.Stop, vfio.StopCopy}, warns: "resume the devices"},
		{name: "no device runs again", sources: []string{stuckNIC, stuckXE}, outcome: migration.NeedsReset,
			record: "OPEN OWNER! RESUME_FAILED!", there: handoff.Ready, held: &migration.CopyThere{Ready: true, Rescue: true}, states: [2]vfio.State{vfio.Stop, vfio.Stop}, warns: "resume the devices"},
		{name: "one device runs again, and one does not", sources: []string{nic, stuckXE}, outcome: migration.NeedsReset,
			record: "OPEN OWNER!", there: handoff.Ready, held: &migration.CopyThere{Ready: true}, states: [2]vfio.State{vfio.Running, vfio.Stop}, warns: "resume the devices"},
		{name: "the guest does not say that it runs", sources: []string{nic, xe}, resume: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, outcome: migration.Aborted,
			record: "OPEN OWNER!", there: handoff.Ready, held: &migration.CopyThere{Ready: true}, states: [2]vfio.State{vfio.Running, vfio.Running}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := back(t, c.sources...)
				if c.resume != nil {
					v.send.ResumeGuest = c.resume
				}
				r, there, err := v.source(t)
				if f, ok := errors.AsType[*transport.Fault](err); !ok || f.Code != transport.CodeCancelled {
					t.Errorf("the cause is %v", err)
				}
				if r.Outcome != c.outcome || there != c.there {
					t.Errorf("the source reports %v, the destination's record is %v; want %v, %v", r.Outcome, there, c.outcome, c.there)
				}
				if got := records(v.send.Journal.(sharedJournal).Memory); got != c.record {
					t.Errorf("recorded is %s, want %s", got, c.record)
				}
				if fmt.Sprint(r.CopyThere) != fmt.Sprint(c.held) {
					t.Errorf("held is %+v, want %+v", r.CopyThere, c.held)
				}
				if r.GuestUnheard != (c.resume != nil) {
					t.Errorf("the guest is unheard: %v", r.GuestUnheard)
				}
				for i, want := range c.states {
					wantState(t, v.src[i], want)
				}
				if got := strings.Join(r.Warnings, "\n"); !strings.Contains(got, c.warns) {
					t.Errorf("warnings %q, want %s", got, c.warns)
				}
			})
		})
	}
}

// records lists the records of a journal, with ! for Sole.
func records(j *handoff.Memory) string {
	var list []string
	for _, e := range j.Entries() {
		text := e.Record.String()
		if e.Sole {
			text += "!"
		}
		list = append(list, text)
	}
	return strings.Join(list, " ")
}

// lazy is a device that leaves a state slowly.
type lazy struct {
	*sim.Device
	from  vfio.State
	takes time.Duration
}

func (d *lazy) SetState(to vfio.State) (vfio.Stream, error) {
	if now, _ := d.State(); now == d.from && to != vfio.Resuming {
		time.Sleep(d.takes)
	}
	return d.Device.SetState(to)
}

// TestBackTooLong: a way back fails after 30 s, and the destination retains its copy. A
// device that returns to RUNNING later changes nothing.
func TestBackTooLong(t *testing.T) {
	for _, c := range []struct {
		from   vfio.State
		record string
		rescue bool
		then   vfio.State
	}{
		{vfio.StopCopy, "OPEN RESUME_FAILED!", true, vfio.Stop},
		{vfio.Stop, "OPEN OWNER!", false, vfio.Running},
	} {
		t.Run(c.from.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := back(t)
				v.sources[0].Device = &lazy{v.src[0], c.from, time.Minute}
				r, there, _ := v.source(t)
				if got := records(v.send.Journal.(sharedJournal).Memory); got != c.record || there != handoff.Ready {
					t.Errorf("recorded are %s and %v, want %s", got, there, c.record)
				}
				if r.Outcome != migration.NeedsReset || r.CopyThere == nil || r.CopyThere.Rescue != c.rescue {
					t.Errorf("%v, held %+v", r.Outcome, r.CopyThere)
				}
				if got := strings.Join(r.Warnings, "\n"); !strings.Contains(got, "do not run again after 30s") {
					t.Errorf("warnings %q", got)
				}
				time.Sleep(5 * time.Minute) // the driver call returns
				wantState(t, v.src[0], c.then)
			})
		})
	}
}

// TestNoStartEndsTheCopy: after a failed way back, no process of the source ends the
// destination's copy until the devices run again, or a person decides.
func TestNoStartEndsTheCopy(t *testing.T) {
	for _, c := range []struct {
		name  string
		urls  []string
		reset bool // the devices before the next start
		away  bool // the destination, at first
		named bool
		want  error
		then  string
	}{
		{name: "the devices were reset", urls: []string{stuckNIC, stuckXE}, reset: true, want: reader.ErrUndecidedCopy, then: "OPEN OWNER! RESUME_FAILED!"},
		{name: "they were reset, and the migration is named", urls: []string{stuckNIC, stuckXE}, reset: true, named: true, want: reader.ErrUndecidedCopy, then: "OPEN OWNER! RESUME_FAILED!"},
		{name: "they were reset, and the destination is out of reach", urls: []string{stuckNIC, stuckXE}, reset: true, away: true, want: transport.ErrUnreachable, then: "OPEN OWNER! RESUME_FAILED!"},
		{name: "they fail again", urls: []string{stuckNIC, stuckXE}, then: "OPEN OWNER! RESUME_FAILED! OWNER! RESUME_FAILED!"},
		{name: "one had run, and they were reset", urls: []string{times(6, nic, "set@RUNNING_P2P-RUNNING:EIO"), xe}, reset: true, named: true, want: reader.ErrUndecidedCopy, then: "OPEN OWNER!"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := back(t, c.urls...)
				dialer, listener := v.carrier(t)
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					v.receiveFrom(listener)
				}()
				if r, err := reader.Send(v.sendCtx, dialer, v.sources, &v.send); r.CopyThere == nil {
					t.Fatalf("%v, %v", r.Outcome, err)
				}
				if c.reset {
					for _, d := range v.src {
						if err := d.Reset(); err != nil {
							t.Fatal(err)
						}
					}
				}
				v.send.Attempt = v.send.Journal.Last().Attempt
				v.send.Attempt.Epoch++
				v.send.StartOver = c.named
				if c.away {
					dialer = &slowDialer{Dialer: dialer}
				}
				r, err := reader.Send(v.sendCtx, dialer, v.sources, &v.send)
				if c.want != nil && !errors.Is(err, c.want) || err == nil {
					t.Errorf("the next start: %v (%v)", err, r.Outcome)
				}
				if c.want == nil && (r.CopyThere == nil || r.Outcome != migration.NeedsReset) {
					t.Errorf("the next start: %v, held %+v", r.Outcome, r.CopyThere)
				}
				if got := records(v.send.Journal.(sharedJournal).Memory); got != c.then {
					t.Errorf("recorded is %s, want %s", got, c.then)
				}
				time.Sleep(5 * time.Second)
				j, _ := v.receive.Journals(migration.ID{}, true)
				if got := j.Last(); got.Record != handoff.Ready || got.Attempt.Epoch != 1 {
					t.Errorf("the destination's record is %v of attempt %d", got.Record, got.Attempt.Epoch)
				}
				<-ended
			})
		})
	}
}

// slowDialer reaches no destination the first time, after a long wait.
type slowDialer struct {
	transport.Dialer
	tried bool
}

func (d *slowDialer) Dial(ctx context.Context) (transport.Lane, error) {
	if d.tried {
		return d.Dialer.Dial(ctx)
	}
	d.tried = true
	select {
	case <-time.After(1500 * time.Millisecond):
	case <-ctx.Done():
	}
	return nil, transport.ErrUnreachable
}

// TestCommitThere: the next start reports a person's decision to the destination, whether
// or not the source knew its journal. The destination never asks for it.
func TestCommitThere(t *testing.T) {
	for _, known := range []bool{true, false} {
		t.Run(fmt.Sprint("the destination's journal is known: ", known), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := back(t, stuckNIC, stuckXE)
				dialer, listener := v.carrier(t)
				received := make(chan side)
				go func() { received <- v.receiveFrom(listener) }()
				if r, err := reader.Send(v.sendCtx, dialer, v.sources, &v.send); r.CopyThere == nil || !r.CopyThere.Rescue {
					t.Fatalf("%v, %v", r.Outcome, err)
				}
				decided, ok := handoff.CommitThere(v.send.Journal.Last(), "root: the devices are stuck")
				if !ok {
					t.Fatal("it cannot be decided")
				}
				if !known {
					decided.PeerJournal, decided.Digest = migration.JournalID{}, migration.StreamDigest{}
				}
				v.send.Journal.Append(decided)
				r, err := reader.Send(v.sendCtx, dialer, v.sources, &v.send)
				got := <-received
				if err != nil || got.err != nil || r.Outcome != migration.Committed || got.report.Outcome != migration.Committed {
					t.Errorf("%v (%v) and %v (%v)", r.Outcome, err, got.report.Outcome, got.err)
				}
				for i, d := range v.dst {
					wantState(t, d, vfio.Running)
					if err := d.Verify(); err != nil {
						t.Error(err)
					}
					wantState(t, v.src[i], vfio.Stop)
				}
				if got := v.records(); got != "DONE DONE" {
					t.Errorf("records %s", got)
				}
			})
		})
	}
}

// TestCommitThereIsNotAskedBack: the source's devices are no copy any more. So the source
// does not ask for them, however long COMMIT stays unanswered.
func TestCommitThereIsNotAskedBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := back(t, stuckNIC, stuckXE)
		reached, listener := v.carrier(t)
		dialer := &cutDialer{Dialer: reached}
		received := make(chan side)
		go func() { received <- v.receiveFrom(listener) }()
		reader.Send(v.sendCtx, dialer, v.sources, &v.send)
		decided, _ := handoff.CommitThere(v.send.Journal.Last(), "")
		v.send.Journal.Append(decided)
		v.send.AskBackAfter, v.send.DoubtFor = time.Second, time.Minute
		dialer.gone.Store(true)
		time.AfterFunc(10*time.Second, func() { dialer.gone.Store(false) })
		if r, err := reader.Send(v.sendCtx, dialer, v.sources, &v.send); r.Outcome != migration.Committed {
			t.Errorf("%v, %v", r.Outcome, err)
		}
		if r := <-received; r.report.Outcome != migration.Committed {
			t.Errorf("the destination: %v, %v", r.report.Outcome, r.err)
		}
	})
}

// TestResumeIsAsked: an earlier process may have paused the guest. A process that returns
// the devices to RUNNING has it resumed, once OWNER is recorded. It waits for a bounded time.
func TestResumeIsAsked(t *testing.T) {
	for _, silent := range []bool{false, true} {
		t.Run(fmt.Sprint("silent ", silent), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := newVMM(t, pipe, nil, nil)
				v.lonely = silent
				if _, err := v.src[1].SetState(vfio.StopCopy); err != nil {
					t.Fatal(err)
				}
				a := migration.Attempt{Mig: migration.NewID(), Epoch: 2}
				v.send.Journal.Append(handoff.Entry{Record: handoff.Open, Attempt: migration.Attempt{Mig: a.Mig, Epoch: 1}, Journal: v.send.Journal.ID()})
				v.send.Attempt = a
				var asked []string
				v.send.ResumeGuest = func(ctx context.Context) error {
					asked = append(asked, v.send.Journal.Last().Record.String())
					wantState(t, v.src[1], vfio.Running)
					if silent {
						<-ctx.Done()
					}
					return ctx.Err()
				}
				began := time.Now()
				s, _ := v.run(t)
				if fmt.Sprint(asked) != "[OWNER]" {
					t.Errorf("asked at %v", asked)
				}
				if took := time.Since(began); silent && (took < 10*time.Second || took > 12*time.Second) {
					t.Errorf("it took %v", took)
				}
				if silent != s.report.GuestUnheard || silent && s.report.Outcome != migration.Aborted || !silent && s.err != nil {
					t.Errorf("%v (%v), unheard %v", s.report.Outcome, s.err, s.report.GuestUnheard)
				}
			})
		})
	}
}

// TestNotPaused: the source waits for the pause of a guest within ResumeAfter. It resumes
// the guest all the same: the pause may still come.
func TestNotPaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, pipe)
		p.add(t, "d0", nic, nic)
		var resumed bool
		p.send.DowntimeTarget, p.send.ResumeAfter = time.Second, 3*time.Second
		p.send.PauseGuest = func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }
		p.send.ResumeGuest = func(context.Context) error { resumed = true; return nil }
		s, r := p.run(t)
		if f := s.fault(t); !errors.Is(f, reader.ErrNotPaused) || f.Code != transport.CodeTimeout || f.Device != "" || !resumed {
			t.Errorf("%v (device %q), resumed %v", f, f.Device, resumed)
		}
		if d := s.report.Downtime; d < 3*time.Second || d > 3200*time.Millisecond {
			t.Errorf("it took %v", d)
		}
		p.wantAborted(t, s, r)
	})
}
