package migrate

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/test/simnet"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/sim"
	"github.com/migpipe/migpipe/writer"
)

var (
	simnetSeed  = flag.Int64("seed", -1, "TestSimnet: run this seed alone")
	simnetCount = flag.Uint64("seeds", 0, "TestSimnet: run so many")
)

// resumes is true because both sides dial lost lanes again: a migration then has to commit
// if its cut ends in time.
const resumes = true

// TestSimnet migrates over real QUIC and a bad network, in virtual time: delay, loss,
// duplicates, reordering, a narrow path, and cuts at any moment. In every case both
// sides end with one running device, or the source reports that it is in doubt while the
// network is down.
func TestSimnet(t *testing.T) {
	sender, receiver := pinned(t)
	var mu sync.Mutex
	outcomes := map[string]int{}
	t.Run("seeds", func(t *testing.T) {
		for _, seed := range simnetSeeds() {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					v := newSimulation(t, seed, sender, receiver)
					v.run(t)
					v.judge(t)
					if t.Failed() {
						t.Logf("%v\nagain: go test ./test/migrate -run TestSimnet -v -seed=%d", v, seed)
					}
					mu.Lock()
					defer mu.Unlock()
					outcomes[v.outcome()]++
				})
			})
		}
	})
	for _, o := range slices.Sorted(maps.Keys(outcomes)) {
		t.Logf("simnet: %4d %s", outcomes[o], o)
	}
}

func simnetSeeds() (seeds []uint64) {
	n := uint64(300)
	switch {
	case *simnetSeed >= 0:
		return []uint64{uint64(*simnetSeed)}
	case *simnetCount > 0:
		n = *simnetCount
	case raceEnabled:
		n = 24
	case testing.Short():
		n = 60
	}
	for seed := range n {
		seeds = append(seeds, seed)
	}
	return seeds
}

// The two hosts.
var (
	sourceHost      = netip.MustParseAddr("10.0.0.1")
	destinationHost = netip.MustParseAddr("10.0.0.2")
	destinationPort = netip.AddrPortFrom(destinationHost, 7000)
)

// cut is a partition that begins after one side has reported a phase.
type cut struct {
	source bool   // the side
	phase  string // as in migration.Event
	after  time.Duration
	length time.Duration
	way    string

	set      bool
	from, to time.Time
}

// ways are the sets of packets that a cut may lose.
var ways = map[string]func(from, to netip.AddrPort) bool{
	"both":  simnet.All,
	"there": func(from, to netip.AddrPort) bool { return to == destinationPort },
	"back":  func(from, to netip.AddrPort) bool { return from == destinationPort },
}

// simulation is one migration over the simulated network.
type simulation struct {
	*pair
	path     simnet.Path
	net      *simnet.Network
	urls     []string
	cuts     []*cut
	dialer   transport.Dialer
	listener transport.Listener

	mu       sync.Mutex // guards the fields of both sides' observers
	welcomed time.Time  // when the source reported the first phase after WELCOME
	asked    time.Time  // when it was about to commit

	s, r  side
	ended time.Time // when the source had ended
	held  bool      // the destination would have waited for ever
}

// newSimulation draws everything from the seed.
func newSimulation(t *testing.T, seed uint64, sender, receiver transport.Pinned) *simulation {
	r := rand.New(rand.NewPCG(seed, 1))
	v := &simulation{pair: barePair(t, nil), path: randomPath(r), urls: randomState(r)}
	v.sendCtx, v.receiveCtx = context.WithoutCancel(v.sendCtx), nil // virtual minutes may pass
	v.receiveCtx, v.cancelReceive = context.WithCancel(v.sendCtx)
	for i, url := range v.urls {
		v.add(t, fmt.Sprint("d", i), url, url)
	}
	// Neither codec keeps anything that two bubbles would share.
	v.send.Codec = codec.Fixed([]codec.Codec{codec.Raw, codec.S2}[r.IntN(2)])
	v.send.ChunkSize, v.send.Memory, v.receive.Memory = 64<<10, 2<<20, 2<<20
	v.send.Lanes = 1 + r.IntN(3)
	v.send.OnLimit, v.send.WithoutP2P = reader.Force, true
	v.send.DowntimeTarget = 2 * time.Second
	v.send.ResumeAfter = []time.Duration{20 * time.Second, 90 * time.Second}[r.IntN(2)]
	v.send.StalledAfter = 90 * time.Second
	v.send.DoubtFor, v.receive.ReconnectFor, v.resends = 2*deserted, time.Minute, true
	for range []int{0, 1, 1, 1, 2}[r.IntN(5)] {
		v.cuts = append(v.cuts, randomCut(r, v.path))
	}
	v.send.Observe = func(ev migration.Event) { v.observe(true, ev) }
	v.receive.Observe = func(ev migration.Event) { v.observe(false, ev) }
	v.connect(t, seed, sender, receiver)
	return v
}

func randomPath(r *rand.Rand) simnet.Path {
	p := simnet.Path{
		Delay: time.Duration(100+r.IntN(50_000)) * time.Microsecond,
		Rate:  float64(1+r.IntN(40)) * (1 << 20),
		Queue: time.Duration(20+r.IntN(200)) * time.Millisecond,
	}
	if r.IntN(2) == 0 { // on a long path as well, no packet would arrive in time
		p.Loss, p.Delay = 0.05*r.Float64(), p.Delay/5
	}
	if r.IntN(2) == 0 {
		p.Jitter, p.Reorder, p.Duplicate = p.Delay/4, 0.05*r.Float64(), 0.02*r.Float64()
	}
	return p
}

// randomState is one or two devices of up to 1 MiB.
func randomState(r *rand.Rand) (urls []string) {
	for range 1 + r.IntN(2) {
		url := fmt.Sprintf("%s?seed=%d", []string{"mlx5", "vgpu", "virtio", "xe", "qat"}[r.IntN(5)], r.IntN(1000))
		if !strings.HasPrefix(url, "qat") {
			url += fmt.Sprintf("&size=%dKiB", 128+r.IntN(900))
		}
		if strings.HasPrefix(url, "mlx5") || strings.HasPrefix(url, "vgpu") {
			url += fmt.Sprintf("&dirty=%dKiB/s", r.IntN(512))
		}
		urls = append(urls, url)
	}
	return urls
}

// randomCut begins within a few round trips of a step, where the steps are close together,
// or during the transfer.
func randomCut(r *rand.Rand, p simnet.Path) *cut {
	c := &cut{
		source: r.IntN(2) == 0,
		phase:  []string{migration.Connect, migration.PreCopy, migration.Stop, migration.StopCopy, migration.Commit, migration.Running}[r.IntN(6)],
		after:  time.Duration(r.Float64() * 6 * float64(p.Delay)),
		length: time.Duration(500+r.IntN(29_500)) * time.Millisecond,
		way:    []string{"both", "both", "there", "back"}[r.IntN(4)],
	}
	if c.phase == migration.Connect || c.phase == migration.Stop {
		c.source = true // the destination reports neither
	}
	if r.IntN(2) == 0 {
		c.after = time.Duration(r.Float64() * (2 << 20) / p.Rate * float64(time.Second))
	}
	if r.IntN(3) == 0 {
		c.length = time.Duration(500+r.IntN(2500)) * time.Millisecond // at the edge of being noticed
	}
	return c
}

// connect gives both sides the network.
func (v *simulation) connect(t *testing.T, seed uint64, sender, receiver transport.Pinned) {
	v.net = simnet.New(seed, v.path)
	l, err := transport.ListenQUICOn(v.net.Socket(destinationPort), receiver, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var ports sync.Mutex
	port := uint16(1024)
	v.listener = l
	v.dialer = &transport.QUICDialer{Addr: destinationPort.String(), Credentials: sender, Socket: func() (net.PacketConn, error) {
		ports.Lock()
		defer ports.Unlock()
		port++
		return v.net.Socket(netip.AddrPortFrom(sourceHost, port)), nil
	}}
}

// observe starts the cuts of a side's phase.
func (v *simulation) observe(source bool, ev migration.Event) {
	if ev.Kind != migration.Phase {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case source && v.welcomed.IsZero() && ev.Phase != migration.Connect && ev.Phase != migration.Rollback:
		v.welcomed = time.Now()
	case source && ev.Phase == migration.Commit:
		v.asked = time.Now()
	}
	for _, c := range v.cuts {
		if c.source == source && c.phase == ev.Phase && !c.set {
			c.set = true
			time.AfterFunc(c.after, func() { v.cut(c) })
		}
	}
}

func (v *simulation) cut(c *cut) {
	v.mu.Lock()
	c.from, c.to = time.Now(), time.Now().Add(c.length)
	v.mu.Unlock()
	v.net.Cut(ways[c.way])
	time.AfterFunc(c.length, func() { v.net.Cut(nil) })
}

// deserted is far above the time that a destination waits for a source that has ended.
const deserted = 3 * time.Minute

// run runs both sides to their ends. It cancels a destination that waits for ever, as an
// operator would.
func (v *simulation) run(t *testing.T) {
	done := make(chan side, 1)
	go func() {
		r, err := writer.Receive(v.receiveCtx, v.listener, v.sinks, &v.receive)
		done <- side{r, err}
	}()
	v.s.report, v.s.err = reader.Send(v.sendCtx, v.dialer, v.sources, &v.send)
	v.ended = time.Now()
	select {
	case v.r = <-done:
	case <-time.After(deserted):
		v.held = true
		v.cancelReceive()
		v.r = <-done
	}
	v.cancelReceive()
}

// judge checks the promises of each outcome.
func (v *simulation) judge(t *testing.T) {
	v.oneRuns(t)
	switch v.s.report.Outcome {
	case migration.Committed:
		v.committed(t, v.s, v.r)
		if v.held {
			t.Error("the source had committed, and the destination would have waited for ever")
		}
	case migration.Aborted:
		if v.mustCommit() {
			t.Errorf("the source went back: %v", v.s.err)
		}
		v.left = v.held && v.r.report.Outcome == migration.InDoubt
		v.wantAborted(t, v.s, v.r)
	case migration.InDoubt:
		v.inDoubt(t)
	default:
		t.Errorf("outcomes %v (%v) and %v (%v)", v.s.report.Outcome, v.s.err, v.r.report.Outcome, v.r.err)
	}
}

// notice is how long after the end of a cut a lane may end because of it. A side that
// sent during the cut retransmits ever more rarely (RFC 9002, section 6.2.1). Meanwhile
// the other side may time out; the next packet reports that.
const notice = 2 * (transport.IdleTimeout + transport.KeepAlive)

func (v *simulation) inDoubt(t *testing.T) {
	down := slices.ContainsFunc(v.cuts, func(c *cut) bool {
		return !c.from.IsZero() && !v.ended.Before(c.from) && !v.ended.After(c.to.Add(notice))
	})
	if !down {
		t.Errorf("the source is in doubt with nothing in the way: %v", v.s.err)
	}
	for i, d := range v.src {
		if state, _ := d.State(); state != vfio.StopCopy && state != vfio.Stop {
			t.Errorf("source %d is in %v while in doubt", i, state)
		}
	}
	if v.r.report.Outcome == migration.Committed {
		for _, d := range v.dst {
			if err := d.Verify(); err != nil {
				t.Error(err)
			}
			wantState(t, d, vfio.Running)
		}
	} else if v.r.report.Outcome != migration.Aborted || !v.held && !errors.Is(v.r.err, transport.ErrPeerGone) {
		t.Errorf("the destination: %v, %v", v.r.report.Outcome, v.r.err)
	}
}

// mustCommit reports whether the case has no reason to fail.
func (v *simulation) mustCommit() bool {
	for _, c := range v.cuts {
		if c.from.IsZero() || c.from.After(v.ended) {
			continue
		}
		early := v.welcomed.IsZero() || c.from.Before(v.welcomed)
		long := c.length+15*time.Second > v.send.ResumeAfter
		asked := !v.asked.IsZero() && c.to.After(v.asked) // CANCEL may have reached it
		if !resumes || early || long || asked {
			return false
		}
	}
	return true
}

// oneRuns checks the devices' logs. Once a device has begun to run at the destination, no
// device runs at the source.
func (v *simulation) oneRuns(t *testing.T) {
	var there uint64
	for _, d := range v.dst {
		for _, e := range d.Log() {
			if ran(e) && (there == 0 || e.Seq < there) {
				there = e.Seq
			}
		}
	}
	if there == 0 {
		return
	}
	for i, d := range v.src {
		state := vfio.Running
		for _, e := range d.Log() {
			if e.Seq < there && e.Err == nil {
				state = e.To
			} else if ran(e) {
				t.Errorf("source %d ran after the destination did", i)
			}
		}
		if state != vfio.StopCopy && state != vfio.Stop {
			t.Errorf("source %d was in %v when the destination began to run", i, state)
		}
	}
}

// ran reports whether a transition has let a device run its state.
func ran(e sim.Event) bool { return e.To == vfio.Running && !e.Reset && e.Err == nil }

// outcome is the name under which the migration is counted.
func (v *simulation) outcome() string {
	struck := 0
	for _, c := range v.cuts {
		if !c.from.IsZero() && !c.from.After(v.ended) {
			struck++
		}
	}
	out := fmt.Sprintf("%d cuts: source %v, destination %v", struck, v.s.report.Outcome, v.r.report.Outcome)
	if f, ok := v.s.err.(*transport.Fault); ok {
		out += fmt.Sprintf(" (%v)", f.Code)
	}
	if v.held {
		out += ", which had to be told to end"
	}
	return out
}

func (v *simulation) String() string {
	cuts := ""
	for _, c := range v.cuts {
		cuts += fmt.Sprintf(" %+v", *c)
	}
	return fmt.Sprintf("%v\npath %+v\ndevices %v, %d lanes, at most %v of downtime\ncuts%s\nsource %v\ndestination %v",
		v.outcome(), v.path, v.urls, v.send.Lanes, v.send.ResumeAfter, cuts, v.s.err, v.r.err)
}
