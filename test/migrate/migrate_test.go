// Package migrate tests whole migrations inside one process: reader.Send and
// writer.Receive over the in-memory carrier and over QUIC.
package migrate

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/sim"
)

func TestEveryProfile(t *testing.T) {
	for _, profile := range []string{
		"mlx5?size=20MiB", "virtio?size=1MiB", "hisi_acc", "hisi_acc?size=40", "qat", "pds", "pds?size=64KiB", "xe?size=20MiB",
		"mtty", "mtty?ports=1", "vgpu?size=20MiB", "vgpu?size=1",
	} {
		t.Run(profile, func(t *testing.T) {
			eachCarrier(t, func(t *testing.T, c carrier) {
				p := newPair(t, c)
				p.add(t, "d0", profile, profile)
				s, r := p.succeed(t)
				p.figures(t, s, r)
			})
		})
	}
}

// sets are sets of devices of very unequal sizes, with and without PRE_COPY and P2P. Their
// guests dirty them during the reads.
var sets = map[string][]string{
	"precopy":         {"mlx5?size=12MiB&dirty=5MiB/s&seed=1", "vgpu?size=4MiB&dirty=2MiB/s&seed=2", "mtty?seed=3"},
	"stopcopy":        {"xe?size=12MiB&seed=1", "pds?seed=2"},
	"mixed":           {"mlx5?size=6MiB&dirty=5MiB/s&seed=1", "xe?size=4MiB&seed=2", "qat?seed=3", "mtty?seed=4", "pds?seed=5"},
	"one without P2P": {"mlx5?size=6MiB&dirty=5MiB/s&seed=1", "hisi_acc?seed=2&dirty=1MiB/s", "xe?size=4MiB&seed=3"},
	"many":            slices.Repeat([]string{"mtty"}, 64),
}

func TestSets(t *testing.T) {
	for name, set := range sets {
		t.Run(name, func(t *testing.T) {
			eachCarrier(t, func(t *testing.T, c carrier) {
				p := newPair(t, c)
				for i, url := range set {
					p.add(t, fmt.Sprint("d", i), url, url)
				}
				slices.Reverse(p.sinks) // names count, not positions
				p.send.WithoutP2P = name == "one without P2P"
				guest := p.guest()
				s, r := p.succeed(t)
				p.figures(t, s, r)
				p.inOrder(t)
				if got := strings.Join(guest.calls, " "); got != "pause" {
					t.Errorf("the guest got the calls %s", got)
				}
			})
		})
	}
}

// guest records its pauses and resumes.
type guest struct {
	calls  []string
	states []vfio.State // of the first source device, at each call
	err    error        // of pause
	wait   time.Duration
}

// guest gives the source a guest.
func (p *pair) guest() *guest {
	g := &guest{}
	p.send.PauseGuest = func(context.Context) error {
		time.Sleep(g.wait)
		g.note("pause", p.src[0])
		return g.err
	}
	p.send.ResumeGuest = func(context.Context) error {
		g.note("resume", p.src[0])
		return nil
	}
	return g
}

func (g *guest) note(call string, d *sim.Device) {
	state, _ := d.State()
	g.calls, g.states = append(g.calls, call), append(g.states, state)
}

// first and last are the Seq of the first and last transition to a state, over the devices
// that pass the filter.
func span(devices []*sim.Device, to vfio.State, which func(*sim.Device) bool) (first, last uint64) {
	for _, d := range devices {
		if !which(d) {
			continue
		}
		for _, e := range d.Log() {
			if e.To != to || e.Err != nil || e.Reset {
				continue
			}
			if first == 0 || e.Seq < first {
				first = e.Seq
			}
			last = max(last, e.Seq)
		}
	}
	return first, last
}

func all(*sim.Device) bool         { return true }
func hasP2P(d *sim.Device) bool    { return d.Features().P2P }
func lacksP2P(d *sim.Device) bool  { return !d.Features().P2P }
func quiesces(d *sim.Device) bool  { return d.Features().P2P && d.Features().PreCopy }
func quiescesB(d *sim.Device) bool { return d.Features().P2P && !d.Features().PreCopy }

// inOrder checks the barriers between the devices (contract, section 5).
func (p *pair) inOrder(t *testing.T) {
	t.Helper()
	before := func(what string, earlier, later uint64) {
		t.Helper()
		if earlier != 0 && later != 0 && earlier > later {
			t.Errorf("%s: event %d came after event %d", what, earlier, later)
		}
	}
	firstStop, lastStop := span(p.src, vfio.StopCopy, all)
	_, a := span(p.src, vfio.PreCopyP2P, quiesces)
	_, b := span(p.src, vfio.RunningP2P, quiescesB)
	before("all quiesced before any is stopped", max(a, b), firstStop)
	if firstStop == 0 || lastStop == 0 {
		t.Error("no device was stopped")
	}
	_, without := span(p.src, vfio.StopCopy, lacksP2P)
	with, _ := span(p.src, vfio.StopCopy, hasP2P)
	before("those without P2P are stopped first", without, with)

	_, answers := lastOf(p.dst, vfio.RunningP2P, hasP2P)
	firstRuns, lastRuns := lastOf(p.dst, vfio.Running, all)
	before("all answer DMA before any runs", answers, firstRuns)
	_, without = lastOf(p.dst, vfio.Running, lacksP2P)
	with, _ = lastOf(p.dst, vfio.Running, hasP2P)
	before("those without P2P run first", without, with)

	released, _ := lastOf(p.src, vfio.Stop, all)
	before("the source is released after the destination runs", lastRuns, released)
	for i, d := range p.src {
		if n := d.Stats().StreamsOpened; n != 1 {
			t.Errorf("source %d opened %d sessions: one is carried from PRE_COPY to STOP_COPY", i, n)
		}
	}
}

// lastOf is span over each device's last transition to a state.
func lastOf(devices []*sim.Device, to vfio.State, which func(*sim.Device) bool) (first, last uint64) {
	for _, d := range devices {
		_, seq := span([]*sim.Device{d}, to, which)
		if seq != 0 && (first == 0 || seq < first) {
			first = seq
		}
		last = max(last, seq)
	}
	return first, last
}

// figures checks both reports of a committed migration.
func (p *pair) figures(t *testing.T, s, r side) {
	t.Helper()
	var sum time.Duration
	foretold := s.report.Predicted.Stages()
	for i, stage := range s.report.Stages {
		if stage.Took < 0 || stage.Name != foretold[i].Name {
			t.Errorf("stage %s took %v; it was predicted as %s", stage.Name, stage.Took, foretold[i].Name)
		}
		sum += stage.Took
	}
	if len(s.report.Stages) != len(foretold) || sum != s.report.Downtime || sum == 0 {
		t.Errorf("stages %v come to %v, the downtime is %v", s.report.Stages, sum, s.report.Downtime)
	}
	if r.report.Downtime != s.report.Downtime || r.report.Total != s.report.Total {
		t.Errorf("destination reports %v in %v, source %v in %v", r.report.Downtime, r.report.Total, s.report.Downtime, s.report.Total)
	}
	for i, a := range s.report.Devices {
		if (a.PrecopyBytes > 0) != p.src[i].Features().PreCopy {
			t.Errorf("device %s: %d of %d bytes were read in PRE_COPY", a.Name, a.PrecopyBytes, a.Bytes)
		}
		if got := uint64(p.src[i].Stats().BytesRead); got != a.Bytes {
			t.Errorf("device %s yielded %d bytes, the report has %d", a.Name, got, a.Bytes)
		}
		if got := uint64(p.dst[i].Stats().BytesWritten); got != a.Bytes {
			t.Errorf("device %s got %d bytes, the source yielded %d", a.Name, got, a.Bytes)
		}
		if a.State != vfio.Stop.String() || r.report.Devices[i].State != vfio.Running.String() {
			t.Errorf("device %s ended in %s and %s", a.Name, a.State, r.report.Devices[i].State)
		}
	}
}

func TestWireBytes(t *testing.T) {
	for _, c := range []struct {
		content string
		less    bool
	}{{"text", true}, {"mixed", true}, {"random", false}} {
		t.Run(c.content, func(t *testing.T) {
			p := newPair(t, pipe)
			url := "xe?size=8MiB&content=" + c.content
			p.add(t, "d0", url, url)
			p.send.Codec = codec.Fixed(codec.S2) // over a pipe Auto encodes nothing
			s, _ := p.succeed(t)
			d := s.report.Devices[0]
			if (d.WireBytes < d.Bytes*9/10) != c.less || d.WireBytes > d.Bytes {
				t.Errorf("%d bytes took %d on the wire", d.Bytes, d.WireBytes)
			}
		})
	}
}

// TestEvents: both sides report their phases in order, and progress that grows.
func TestEvents(t *testing.T) {
	p := newPair(t, pipe)
	url := "vgpu?size=8MiB&save=20MiB/s"
	p.add(t, "d0", url, url)
	var send, receive []string
	var bytes uint64
	note := func(list *[]string) migration.Observer {
		return func(ev migration.Event) {
			if ev.Kind == migration.Phase {
				*list = append(*list, ev.Phase)
			}
			for _, d := range ev.Devices {
				if d.Applied > d.Bytes {
					t.Errorf("%d bytes applied of %d", d.Applied, d.Bytes)
				}
				if list == &send && d.Bytes < bytes {
					t.Errorf("progress went back from %d to %d bytes", bytes, d.Bytes)
				}
				if list == &send {
					bytes = d.Bytes
				}
			}
		}
	}
	p.send.Observe, p.receive.Observe = note(&send), note(&receive)
	p.succeed(t)
	if got := strings.Join(send, " "); got != "connect pre-copy stop stop-copy commit" && got != "connect pre-copy stop stop-copy commit running" {
		t.Errorf("source went through %s", got)
	}
	if got := strings.Join(receive, " "); !strings.HasSuffix(got, "stop-copy commit running") {
		t.Errorf("destination went through %s", got)
	}
	if bytes == 0 {
		t.Error("no progress was reported")
	}
}

// TestSmallMemory: the smallest allowed memory on both sides still moves a set.
func TestSmallMemory(t *testing.T) {
	p := newPair(t, pipe)
	for i, url := range sets["mixed"] {
		p.add(t, fmt.Sprint("d", i), url, url)
	}
	p.send.ChunkSize, p.send.Memory, p.send.Lanes = 4096, 4096, 16
	p.receive.ChunkSize, p.receive.Memory = 8192, 8192
	p.succeed(t)
}

// TestChunkSizes: the source sends chunks of the smaller of both sides' sizes.
func TestChunkSizes(t *testing.T) {
	for _, c := range []struct{ send, receive, chunks int }{
		{1 << 20, 4 << 10, 1024}, {4 << 10, 1 << 20, 1024}, {4 << 20, 4 << 20, 1},
	} {
		p := newPair(t, pipe)
		p.add(t, "d0", "xe?size=4000000", "xe?size=4000000")
		p.send.ChunkSize, p.send.Memory = c.send, 4<<20
		p.receive.ChunkSize = c.receive
		s, _ := p.succeed(t)
		if got := int(s.report.Devices[0].Chunks); got < c.chunks/2+1 || got > c.chunks {
			t.Errorf("chunks of %d and %d bytes: %d were sent", c.send, c.receive, got)
		}
	}
}
