package migrate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"runtime/debug"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/sim"
	"github.com/migpipe/migpipe/writer"
)

func TestMain(m *testing.M) {
	// Package codec keeps its coders in channels, which must not belong to the virtual
	// time of the first test that uses them.
	small := codec.Zstd.Encode(nil, make([]byte, 64))
	if err := codec.Zstd.Decode(make([]byte, 64), small); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// patience is far above the duration of any migration here.
const patience = 30 * time.Second

// side is the result of one side of a migration.
type side struct {
	report migration.Report
	err    error
}

// carrier connects the two sides.
type carrier func(testing.TB) (transport.Dialer, transport.Listener)

// pair is the two sides of a migration before it runs.
type pair struct {
	sources  []reader.Source
	sinks    []writer.Target
	src, dst []*sim.Device
	send     reader.Options
	receive  writer.Options
	carrier  carrier
	resends  bool // lanes are lost, and their chunks are sent again
	lonely   bool // the destination waits for a source that has ended, until the test cancels it
	left     bool // it leaves a complete copy then

	sendCtx, receiveCtx       context.Context
	cancelSend, cancelReceive context.CancelFunc
}

func newPair(t testing.TB, c carrier) *pair {
	leavesNothing(t)
	return barePair(t, c)
}

// barePair does not check for leaks: it may run beside others.
func barePair(t testing.TB, c carrier) *pair {
	p := &pair{carrier: c}
	p.send.DowntimeTarget = patience // the speed of this machine is not under test
	p.send.DoubtFor, p.receive.ReconnectFor = 8*time.Second, 3*time.Second
	p.sendCtx, p.cancelSend = context.WithTimeout(context.Background(), patience)
	p.receiveCtx, p.cancelReceive = context.WithTimeout(context.Background(), patience)
	t.Cleanup(p.cancelSend)
	t.Cleanup(p.cancelReceive)
	return p
}

func pipe(t testing.TB) (transport.Dialer, transport.Listener) {
	d, l := transport.Pipe()
	t.Cleanup(func() { l.Close() })
	return d, l
}

func overQUIC(t testing.TB) (transport.Dialer, transport.Listener) {
	sender, receiver := pinned(t)
	l, err := transport.ListenQUIC("127.0.0.1:0", receiver, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &transport.QUICDialer{Addr: l.Addr().String(), Credentials: sender}, l
}

func overTLS(t testing.TB) (transport.Dialer, transport.Listener) {
	sender, receiver := pinned(t)
	l, err := transport.ListenTLS("127.0.0.1:0", receiver, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &transport.TLSDialer{Addr: l.Addr().String(), Credentials: sender}, l
}

// pinned are the identities of two peers that trust each other.
func pinned(t testing.TB) (sender, receiver transport.Pinned) {
	a, err := transport.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	b, err := transport.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return transport.Pinned{Identity: a, Peers: []transport.PeerID{b.ID()}}, transport.Pinned{Identity: b, Peers: []transport.PeerID{a.ID()}}
}

// eachCarrier runs a test over memory and over the network.
func eachCarrier(t *testing.T, f func(*testing.T, carrier)) {
	t.Run("pipe", func(t *testing.T) { f(t, pipe) })
	t.Run("quic", func(t *testing.T) { f(t, overQUIC) })
	t.Run("tls", func(t *testing.T) { f(t, overTLS) })
}

// timed runs a slow test over memory, where virtual time costs nothing, and over the
// network if quic is set.
func timed(t *testing.T, quic bool, f func(*testing.T, carrier)) {
	t.Run("pipe", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { f(t, pipe) })
	})
	if quic {
		t.Run("quic", func(t *testing.T) { f(t, overQUIC) })
	}
}

// leavesNothing checks, after all cleanups of the test, that no goroutine and no file
// descriptor is left. The engines count their chunks themselves.
func leavesNothing(t testing.TB) {
	goroutines, fds := goleak.IgnoreCurrent(), openFiles(t)
	t.Cleanup(func() {
		goleak.VerifyNone(t, goroutines)
		if left := openFiles(t); left > fds {
			t.Errorf("%d file descriptors are open, %d were", left, fds)
		}
	})
}

func openFiles(t testing.TB) int {
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(names)
}

// add adds a simulated device on both sides.
func (p *pair) add(t testing.TB, name, source, sink string) (src, dst *sim.Device) {
	t.Helper()
	src, dst = open(t, source), open(t, sink)
	p.src, p.dst = append(p.src, src), append(p.dst, dst)
	p.sources = append(p.sources, reader.Source{Name: name, Device: src})
	p.sinks = append(p.sinks, writer.Target{Name: name, Device: dst})
	return src, dst
}

func open(t testing.TB, url string) *sim.Device {
	t.Helper()
	d, err := sim.OpenURL(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// with adds a fault to a device URL, if there is one.
func with(device, fault string) string {
	if fault == "" {
		return device
	}
	sep := "?"
	if strings.Contains(device, "?") {
		sep = "&"
	}
	return device + sep + "fault=" + url.QueryEscape(fault)
}

// run runs both sides to their ends. It cancels a destination that refuses the source and
// waits for the next: the reason for the refusal is its side's error.
func (p *pair) run(t testing.TB) (send, receive side) {
	t.Helper()
	dialer, listener := p.carrier(t)
	done := make(chan side)
	var refused error
	o := p.receive
	o.Observe = func(ev migration.Event) {
		if ev.Kind == migration.Refused {
			refused = ev.Err
			p.cancelReceive()
		}
		if p.receive.Observe != nil {
			p.receive.Observe(ev)
		}
	}
	go func() {
		r, err := writer.Receive(p.receiveCtx, listener, p.sinks, &o)
		if refused != nil {
			err = refused
		}
		done <- side{r, err}
	}()
	r, err := reader.Send(p.sendCtx, dialer, p.sources, &p.send)
	if p.lonely {
		p.cancelReceive()
	}
	return side{r, err}, <-done
}

// succeed runs a migration that must commit.
func (p *pair) succeed(t testing.TB) (send, receive side) {
	t.Helper()
	s, r := p.run(t)
	if s.err != nil || r.err != nil {
		t.Fatalf("send: %v\nreceive: %v", s.err, r.err)
	}
	p.committed(t, s, r)
	return s, r
}

// committed checks that the destination has the source's state.
func (p *pair) committed(t testing.TB, s, r side) {
	t.Helper()
	if s.report.Outcome != migration.Committed || r.report.Outcome != migration.Committed {
		t.Fatalf("outcomes %v and %v", s.report.Outcome, r.report.Outcome)
	}
	for i := range p.src {
		a, b := s.report.Devices[i], r.report.Devices[i]
		wire := a.WireBytes == b.WireBytes || p.resends && a.WireBytes > b.WireBytes
		if a.Name != b.Name || a.Digest != b.Digest || a.Bytes != b.Bytes || a.Chunks != b.Chunks || !wire || a.Bytes == 0 {
			t.Errorf("source      %+v\ndestination %+v", a, b)
		}
		if err := p.dst[i].Verify(); err != nil {
			t.Error(err)
		}
		wantState(t, p.src[i], vfio.Stop)
		wantState(t, p.dst[i], vfio.Running)
	}
}

// wantAborted checks that the source runs, that the destination holds nothing,
// and that the same devices migrate at the next attempt.
func (p *pair) wantAborted(t testing.TB, s, r side) {
	t.Helper()
	there := migration.Aborted
	if p.left {
		there = migration.InDoubt
		p.endCopy(t, r)
	}
	if s.report.Outcome != migration.Aborted || r.report.Outcome != there {
		t.Errorf("outcomes %v (%v) and %v (%v)", s.report.Outcome, s.err, r.report.Outcome, r.err)
	}
	p.atHome(t)
	p.again(t)
}

// endCopy checks that the destination holds a complete copy, and resets it, as a person
// would.
func (p *pair) endCopy(t testing.TB, r side) {
	t.Helper()
	if !errors.Is(r.err, writer.ErrCopyHeld) {
		t.Errorf("no copy was left: %v", r.err)
	}
	for _, d := range p.dst {
		wantState(t, d, vfio.Stop)
		if err := d.Reset(); err != nil {
			t.Error(err)
		}
	}
}

// atHome checks that the source's devices run, and that the destination's have
// been reset if they were ever touched.
func (p *pair) atHome(t testing.TB) {
	t.Helper()
	for i := range p.src {
		wantState(t, p.src[i], vfio.Running)
		wantState(t, p.dst[i], vfio.Running)
		if p.dst[i].Verify() == nil {
			t.Errorf("destination %d still holds the source's state", i)
		}
		log := p.dst[i].Log()
		if len(log) > 0 && !log[len(log)-1].Reset {
			t.Errorf("destination %d went from %v to %v without a reset", i, log[len(log)-1].From, log[len(log)-1].To)
		}
	}
}

// again migrates the same devices once more, without the earlier obstacle.
func (p *pair) again(t testing.TB) {
	t.Helper()
	next := barePair(t, pipe)
	next.sources, next.sinks, next.src, next.dst = p.sources, p.sinks, p.src, p.dst
	next.succeed(t)
}

func wantState(t testing.TB, d vfio.Device, want vfio.State) {
	t.Helper()
	if got, err := d.State(); err != nil || got != want {
		t.Errorf("device is in %v (%v), want %v", got, err, want)
	}
}

// fault returns the error as a transport.Fault, which it has to be.
func (s side) fault(t testing.TB) *transport.Fault {
	t.Helper()
	f, ok := s.err.(*transport.Fault)
	if !ok {
		t.Fatalf("error %v is no fault", s.err)
	}
	return f
}

// sendTo runs the source's side alone.
func (p *pair) sendTo(d transport.Dialer) (migration.Report, error) {
	return reader.Send(p.sendCtx, d, p.sources, &p.send)
}

// always returns the same journal for every migration.
func always(j handoff.Journal) handoff.Journals {
	return func(migration.ID, bool) (handoff.Journal, error) { return j, nil }
}

// room is the memory that an engine may use beside Options.Memory, in bytes.
const room = 64 << 20

// staysWithin checks, when the test ends, that the process has never had more than memory
// and room in RAM beyond its present size. The collector frees garbage late if it gets no
// processor, so a test that floods an engine makes no garbage for each message.
func staysWithin(t testing.TB, memory int) {
	t.Helper()
	debug.FreeOSMemory()
	// "5": reset the peak resident set size (proc_pid_clear_refs(5)).
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		t.Skip("the peak of the memory cannot be measured: ", err)
	}
	before := kilobytes(t, "VmRSS:")
	t.Cleanup(func() {
		if grown := (kilobytes(t, "VmHWM:") - before) << 10; grown > memory+room {
			t.Errorf("the process grew by %d MiB, may by %d", grown>>20, (memory+room)>>20)
		}
	})
}

// kilobytes reads a row of /proc/self/status.
func kilobytes(t testing.TB, row string) (n int) {
	t.Helper()
	f, err := os.Open("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if text, ok := strings.CutPrefix(s.Text(), row); ok {
			if _, err := fmt.Sscan(text, &n); err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("/proc/self/status has no row %s", row)
	return 0
}
