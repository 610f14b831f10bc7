package migrate

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
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

// failure is one fault, in the second of two devices.
type failure struct {
	source, sink string // faults
	device       string // URL of both; "nic" where empty
	code         transport.Code
	atSource     bool   // where it happened
	offset       uint64 // where in the stream
	says         string // part of the text of both reports
	quic         bool   // over the network too
	neverStopped bool   // the source never left PRE_COPY and RUNNING
}

const nic = "mlx5?size=2MiB&dirty=1MiB/s"

var failures = map[string]failure{
	"read at 0":                {source: "read@0:EIO", code: transport.CodeDevice, atSource: true, says: "input/output error", neverStopped: true},
	"read at 1000001":          {quic: true, source: "read@1000001:ENODEV", code: transport.CodeDevice, atSource: true, offset: 1000001, says: "no such device", neverStopped: true},
	"read in STOP_COPY":        {device: "xe?size=2MiB", source: "read@1MiB:ETIME", code: transport.CodeDevice, atSource: true, offset: 1 << 20, says: "timer expired"},
	"reset of the source":      {source: "reset@1MiB", code: transport.CodeDevice, atSource: true, offset: 1 << 20, says: "session lost", neverStopped: true},
	"reset in STOP_COPY":       {device: "xe?size=2MiB", source: "reset@1MiB", code: transport.CodeDevice, atSource: true, offset: 1 << 20, says: "session lost"},
	"SET PRE_COPY":             {source: "set@PRE_COPY:ENOMEM", code: transport.CodeDevice, atSource: true, says: "RUNNING -> PRE_COPY", neverStopped: true},
	"SET PRE_COPY_P2P":         {source: "set@PRE_COPY_P2P:EIO", code: transport.CodeDevice, atSource: true, offset: any64, says: "PRE_COPY -> PRE_COPY_P2P", neverStopped: true},
	"SET STOP_COPY":            {quic: true, source: "set@STOP_COPY:EINVAL", code: transport.CodeDevice, atSource: true, offset: any64, says: "PRE_COPY_P2P -> STOP_COPY"},
	"SET RUNNING_P2P, source":  {device: "xe?size=1MiB", source: "set@RUNNING_P2P:EIO", code: transport.CodeDevice, atSource: true, says: "RUNNING -> RUNNING_P2P", neverStopped: true},
	"SET RESUMING":             {sink: "set@RESUMING:ENOMEM", code: transport.CodeDevice, says: "RESUMING", neverStopped: true},
	"write at 0":               {sink: "write@0:EIO", code: transport.CodeDevice, says: "input/output error"},
	"write at 1000001":         {quic: true, sink: "write@1000001:EREMOTEIO", code: transport.CodeDevice, offset: 1000001, says: "remote I/O error"},
	"short write":              {sink: "short@1000001", code: transport.CodeDevice, offset: 1000001, says: "accepted no more bytes"},
	"reset of the destination": {sink: "reset@1MiB", code: transport.CodeDevice, offset: 1 << 20, says: "session lost"},
	"ERROR at the destination": {sink: "error@1MiB", code: transport.CodeDevice, offset: 1 << 20, says: "session lost"},
	"validation":               {quic: true, sink: "set@RESUMING-STOP:EINVAL", code: transport.CodeValidation, offset: any64, says: "RESUMING -> STOP"},
	"start, P2P":               {quic: true, sink: "set@STOP-RUNNING_P2P:EIO", code: transport.CodeStart, says: "STOP -> RUNNING_P2P"},
}

// any64 stands for an offset that depends on time.
const any64 = 1 << 63

func TestFailures(t *testing.T) {
	for name, f := range failures {
		t.Run(name, func(t *testing.T) {
			t.Run("pipe", func(t *testing.T) { f.run(t, pipe) })
			if f.quic {
				t.Run("quic", func(t *testing.T) { f.run(t, overQUIC) })
			}
		})
	}
}

func (f failure) run(t *testing.T, c carrier) {
	url := f.device
	if url == "" {
		url = nic
	}
	p := newPair(t, c)
	p.add(t, "well", url, url)
	p.add(t, "ill", with(url, f.source), with(url, f.sink))
	g := p.guest()
	s, r := p.run(t)
	f.check(t, s, !f.atSource)
	if !f.atSource {
		f.check(t, r, false)
	} else if got := r.fault(t); !got.Remote || !strings.Contains(got.Error(), "ill") {
		t.Errorf("the destination reports %q", got)
	}
	if got := strings.Join(g.calls, " "); got != "" && got != "pause resume" {
		t.Errorf("the guest got the calls %s", got)
	}
	if stopped, _ := span(p.src, vfio.Stop, all); f.neverStopped && stopped != 0 {
		t.Error("a source device was stopped")
	}
	if stopped, _ := span(p.src, vfio.StopCopy, all); f.neverStopped && stopped != 0 {
		t.Error("a source device was stopped")
	}
	p.wantAborted(t, s, r)
}

func (f failure) check(t *testing.T, got side, remote bool) {
	t.Helper()
	fault := got.fault(t)
	if fault.Code != f.code || fault.Remote != remote || fault.Device != "ill" || !strings.Contains(fault.Error(), f.says) {
		t.Errorf("the report has %v, remote %v: %q; want %v: %q", fault.Code, fault.Remote, fault, f.code, f.says)
	}
	if fault.Offset != f.offset && f.offset != any64 {
		t.Errorf("reported is offset %d, want %d", fault.Offset, f.offset)
	}
}

// TestRefusals: an impossible migration is refused while the source still runs.
func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name, source, sink string
		code               transport.Code
		says               []string
	}{
		{"another driver", "mlx5?size=1MiB", "vgpu?size=1MiB", transport.CodeIncompatible, []string{"mlx5", "vgpu"}},
		{"another set of states", "mlx5?size=1MiB", "hisi_acc", transport.CodeIncompatible, []string{"mlx5", "hisi_acc"}},
		{"newer state", "mlx5?size=1MiB&version=2", "mlx5?size=1MiB&version=1", transport.CodeIncompatible, []string{"rejected"}},
		{"newer small state", "mtty?version=2", "mtty?version=1", transport.CodeIncompatible, []string{"rejected"}},
		{"two ports into one", "mtty?ports=2", "mtty?ports=1", transport.CodeIncompatible, []string{"rejected"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPair(t, pipe)
			p.add(t, "d0", c.source, c.sink)
			s, r := p.run(t)
			for _, got := range []side{s, r} {
				f := got.fault(t)
				if f.Code != c.code || f.Device != "d0" {
					t.Errorf("%+v, want %v", f, c.code)
				}
				for _, word := range c.says {
					if !strings.Contains(f.Error(), word) {
						t.Errorf("%q does not say %q", f, word)
					}
				}
			}
			p.atHome(t)
			if c.name == "another driver" || c.name == "another set of states" {
				if len(p.src[0].Log()) != 0 {
					t.Errorf("the source was touched: %+v", p.src[0].Log())
				}
			}
			p.replaceSinks(t, c.source)
			p.again(t)
		})
	}
}

// replaceSinks gives the destination matching devices.
func (p *pair) replaceSinks(t *testing.T, url string) {
	p.sinks, p.dst = nil, nil
	for _, s := range p.sources {
		d := open(t, url)
		p.dst = append(p.dst, d)
		p.sinks = append(p.sinks, writer.Target{Name: s.Name, Device: d})
	}
}

func TestNames(t *testing.T) {
	for _, c := range []struct{ source, sink string }{
		{"a b", "a"}, {"a", "a b"}, {"a b", "a c"}, {"a", "A"},
	} {
		t.Run(c.source+" to "+c.sink, func(t *testing.T) {
			p := newPair(t, pipe)
			for n := range strings.FieldsSeq(c.source) {
				d := open(t, "mtty")
				p.src, p.sources = append(p.src, d), append(p.sources, reader.Source{Name: n, Device: d})
			}
			for n := range strings.FieldsSeq(c.sink) {
				d := open(t, "mtty")
				p.dst, p.sinks = append(p.dst, d), append(p.sinks, writer.Target{Name: n, Device: d})
			}
			s, r := p.run(t)
			for _, got := range []side{s, r} {
				f := got.fault(t)
				if f.Code != transport.CodeDevices || !strings.Contains(f.Error(), "["+c.source+"]") || !strings.Contains(f.Error(), "["+c.sink+"]") {
					t.Errorf("%v: %q", f.Code, f)
				}
			}
			for _, d := range append(p.src, p.dst...) {
				if len(d.Log()) != 0 {
					t.Errorf("a device was touched: %+v", d.Log())
				}
			}
		})
	}
}

// TestNeedsReset: the reports name the devices that need a reset, and only those.
func TestNeedsReset(t *testing.T) {
	for _, c := range []struct{ name, source, sink, again string }{
		{"source in ERROR", "error@1MiB", "", ""},
		{"source cannot leave STOP_COPY", "set@STOP_COPY-STOP:EIO", "set@RESUMING-STOP:EINVAL", ""},
		{"source cannot run", "set@RUNNING_P2P-RUNNING:EIO", "set@RESUMING-STOP:EINVAL", "set@RUNNING_P2P-RUNNING:EIO"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPair(t, pipe)
			p.add(t, "well", nic, nic)
			p.add(t, "ill", with(with(nic, c.source), c.again), with(nic, c.sink))
			s, r := p.run(t)
			if c.name == "source cannot leave STOP_COPY" { // the second try succeeds: each fault strikes once
				if s.report.Outcome != migration.Aborted {
					t.Errorf("outcome %v", s.report.Outcome)
				}
			} else if s.report.Outcome != migration.NeedsReset {
				t.Errorf("outcome %v (%v)", s.report.Outcome, s.err)
			}
			if r.report.Outcome != migration.Aborted || len(s.report.Warnings) == 0 {
				t.Errorf("destination %v; warnings %q", r.report.Outcome, s.report.Warnings)
			}
			wantState(t, p.src[0], vfio.Running)
			if err := p.src[1].Reset(); err != nil {
				t.Fatal(err)
			}
			p.atHome(t)
			p.again(t)
		})
	}
}

// TestStartRan: when one of two devices has run at the destination, the source's copy
// must not count as the only one.
func TestStartRan(t *testing.T) {
	p := newPair(t, pipe)
	p.add(t, "well", nic, nic)
	p.add(t, "ill", nic, with(nic, "set@RUNNING_P2P-RUNNING:EIO"))
	s, r := p.run(t)
	if s.report.Outcome == migration.Aborted || s.report.Outcome == migration.Committed {
		t.Errorf("source: %v (%v)", s.report.Outcome, s.err)
	}
	if r.report.Outcome != migration.NeedsReset {
		t.Errorf("destination: %v (%v)", r.report.Outcome, r.err)
	}
	for _, d := range p.src {
		wantState(t, d, vfio.StopCopy)
	}
}

// TestRelease: a source that cannot be released does not undo the migration.
func TestRelease(t *testing.T) {
	p := newPair(t, pipe)
	p.add(t, "d0", with(nic, "set@STOP_COPY-STOP:EIO"), nic)
	s, r := p.run(t)
	if s.err != nil || r.err != nil || s.report.Outcome != migration.Committed || len(s.report.Warnings) != 1 {
		t.Errorf("%v, %v: %v, warnings %q", s.err, r.err, s.report.Outcome, s.report.Warnings)
	}
}

// TestGuest: a guest that cannot be paused is not migrated.
func TestGuest(t *testing.T) {
	p := newPair(t, pipe)
	p.add(t, "d0", nic, nic)
	g := p.guest()
	g.err = errors.New("the monitor is gone")
	s, r := p.run(t)
	if f := s.fault(t); !errors.Is(f, g.err) {
		t.Errorf("reported is %q", f)
	}
	if fmt.Sprint(g.calls, g.states) != "[pause resume] [PRE_COPY RUNNING]" {
		t.Errorf("the guest got the calls %v while its device was in %v", g.calls, g.states)
	}
	p.wantAborted(t, s, r)
}

// refusing is a journal that fails to take one record.
type refusing struct {
	*handoff.Memory
	refuse handoff.Record
}

func (j refusing) Append(e handoff.Entry) error {
	if e.Record == j.refuse {
		return syscall.ENOSPC
	}
	return j.Memory.Append(e)
}

func TestJournal(t *testing.T) {
	for _, c := range []struct {
		source  bool
		refuse  handoff.Record
		outcome string // of source and destination
	}{
		{true, handoff.Open, "aborted aborted"},
		{true, handoff.Commit, "aborted aborted"},
		{false, handoff.Open, "aborted aborted"},
		{false, handoff.Ready, "aborted aborted"},
		{false, handoff.Accept, "in-doubt in-doubt"},
		{true, handoff.Done, "committed committed"},
	} {
		t.Run(fmt.Sprint(c.refuse, " at the source ", c.source), func(t *testing.T) {
			p := newPair(t, pipe)
			p.add(t, "d0", nic, nic)
			p.lonely = c.source && c.refuse == handoff.Open
			j := refusing{handoff.NewMemory(), c.refuse}
			if c.source {
				p.send.Journal = j
			} else {
				p.receive.Journals = always(j)
			}
			s, r := p.run(t)
			if got := fmt.Sprint(s.report.Outcome, " ", r.report.Outcome); got != c.outcome {
				t.Errorf("outcomes %s (%v, %v), want %s", got, s.err, r.err, c.outcome)
			}
			if c.outcome == "aborted aborted" {
				p.send.Journal, p.receive.Journals = nil, nil
				p.wantAborted(t, s, r)
			}
		})
	}
}

// lateToSay is a device whose driver reports STOP_COPY a while after it has reached it. Its
// reader may have read the whole stream by then.
type lateToSay struct{ *sim.Device }

func (d lateToSay) SetState(to vfio.State) (vfio.Stream, error) {
	s, err := d.Device.SetState(to)
	if to == vfio.StopCopy {
		time.Sleep(100 * time.Millisecond)
	}
	return s, err
}

// TestEndBeforeStop: the source sends END for a whole stream only once it waits for the
// destination's answer.
func TestEndBeforeStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, pipe)
		src, _ := p.add(t, "d0", "mlx5?size=1MiB", "mlx5?size=1MiB")
		p.sources[0].Device = lateToSay{src}
		s, r := p.succeed(t)
		p.figures(t, s, r)
	})
}
