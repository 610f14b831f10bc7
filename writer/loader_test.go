package writer

import (
	"cmp"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/vfio"
)

// nullDevice is a device and its stream. It takes everything, unless it has an error.
type nullDevice struct {
	vfio.Device
	stop, write error
	at          vfio.State // until its first transition; 0 is RESUMING
	written     int
	states      []vfio.State
}

// State is RESUMING, until the loader stops the device.
func (n *nullDevice) State() (vfio.State, error) {
	if len(n.states) > 0 {
		return n.states[len(n.states)-1], nil
	}
	return cmp.Or(n.at, vfio.Resuming), nil
}

func (n *nullDevice) SetState(s vfio.State) (vfio.Stream, error) {
	n.states = append(n.states, s)
	return nil, n.stop
}
func (n *nullDevice) Read([]byte) (int, error) { panic("read from a destination") }
func (n *nullDevice) Pending() (vfio.Pending, error) {
	panic("poll of a destination")
}
func (n *nullDevice) Close() error { return nil }
func (n *nullDevice) Write(p []byte) (int, error) {
	if n.write != nil {
		return 0, n.write
	}
	n.written += len(p)
	return len(p), nil
}

// TestLoader checks the faults of a loader, for a stream of two chunks of 10 bytes. Only a complete
// stream may reach the device's own check.
func TestLoader(t *testing.T) {
	at := func(offset int64, err error) error {
		return &vfio.OpError{Op: "write", Device: "d", Offset: offset, Err: err}
	}
	for _, c := range []struct {
		name    string
		end     func(*wire.End)
		second  uint64 // where the second chunk begins
		dev     nullDevice
		code    transport.Code // 0: it ends well
		offset  uint64
		stopped bool
	}{
		{name: "whole", second: 10, stopped: true},
		{name: "bytes missing", second: 10, end: func(e *wire.End) { e.Bytes = 21 }, code: transport.CodeIncomplete, offset: 20},
		{name: "bytes too many", second: 10, end: func(e *wire.End) { e.Bytes = 19 }, code: transport.CodeIncomplete, offset: 20},
		{name: "chunks too many", second: 10, end: func(e *wire.End) { e.Chunks = 1 }, code: transport.CodeIncomplete, offset: 20},
		{name: "another digest", second: 10, end: func(e *wire.End) { e.Digest[0]++ }, code: transport.CodeCorrupt, offset: 20},
		{name: "reset meanwhile", second: 10, dev: nullDevice{at: vfio.Running}, code: transport.CodeDevice, offset: 20},
		{name: "gap", second: 11, code: transport.CodeProtocol, offset: 10},
		{name: "overlap", second: 9, code: transport.CodeProtocol, offset: 10},
		{name: "rejected on the way", second: 10, dev: nullDevice{write: at(3, fmt.Errorf("%w: %w", vfio.ErrRejected, syscall.EINVAL))}, code: transport.CodeIncompatible, offset: 3},
		{name: "write failed", second: 10, dev: nullDevice{write: at(7, syscall.EIO)}, code: transport.CodeDevice, offset: 7},
		{name: "rejected at the end", second: 10, dev: nullDevice{stop: fmt.Errorf("%w: %w", vfio.ErrRejected, syscall.EINVAL)}, code: transport.CodeValidation, offset: 20, stopped: true},
		{name: "stop failed", second: 10, dev: nullDevice{stop: syscall.EIO}, code: transport.CodeValidation, offset: 20, stopped: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			arena := testArena(t, 2)
			m := newMerge(alone(2), 0, 1<<20)
			want := wire.NewDigest()
			for seq, offset := range []uint64{0, c.second} {
				chunk := chunkOf(t, arena, uint64(seq), offset, make([]byte, 10))
				want.Add(chunk.ChunkHead)
				if _, err := m.claim(chunk.ChunkHead, nil); err != nil {
					t.Fatal(err)
				}
				m.deliver(chunk)
			}
			end := &wire.End{Bytes: 20, Chunks: 2, Digest: want.Sum()}
			if c.end != nil {
				c.end(end)
			}
			if _, err := m.setEnd(end); err != nil {
				t.Fatal(err)
			}
			var got loaderEnded
			dev := c.dev
			l := &loader{device: 1, name: "d", dev: &dev, stream: &dev, merge: m, digest: wire.NewDigest(),
				noteApplied: func() {}, post: func(ev event) { got = ev.(loaderEnded) }}
			done := make(chan struct{})
			go func() { defer close(done); l.run(t.Context()) }()
			<-done
			m.discardAll()
			if err := arena.Close(); err != nil {
				t.Error(err)
			}
			if got.device != 1 || (len(dev.states) == 1) != c.stopped {
				t.Errorf("%+v; states %v", got, dev.states)
			}
			if c.code == 0 {
				if got.fault != nil || got.digest != end.Digest {
					t.Errorf("fault %v", got.fault)
				}
				return
			}
			if f := got.fault; f == nil || f.Code != c.code || f.Offset != c.offset || f.Device != "d" {
				t.Errorf("fault %+v, want %v at %d", f, c.code, c.offset)
			}
		})
	}
}

// TestAcker checks that an ACK is due when no chunk waits, or when an eighth of the window was
// written, and never later than a heartbeat.
func TestAcker(t *testing.T) {
	m := newMerge(alone(16), 0, 1<<20)
	a := &acker{credit: m.credit, merges: []*merge{m}, due: make(chan struct{}, 1)}
	due := func() bool { return len(a.due) == 1 }
	arena := testArena(t, 16)
	for seq := range uint64(16) {
		c := chunkOf(t, arena, seq, seq*testChunk, make([]byte, testChunk))
		if _, err := m.claim(c.ChunkHead, nil); err != nil {
			t.Fatal(err)
		}
		m.deliver(c)
	}
	for i := range 16 {
		c, _ := m.tryTake()
		c.Release()
		m.markApplied(testChunk, 0)
		a.noteApplied(0)
		if want := i%2 == 1 || i == 15; due() != want {
			t.Fatalf("after chunk %d of 16: due %v, want %v", i, due(), want)
		}
		if due() {
			<-a.due
			ack := a.buildAck().Devices[0]
			if ack.Seq != uint64(i+1) || ack.Applied != uint64(i+1)*testChunk || ack.Window.Seq != uint64(i+17) {
				t.Fatalf("after chunk %d: %+v", i, ack)
			}
		}
	}
	if err := arena.Close(); err != nil {
		t.Error(err)
	}
}

// countingLane records the times and the sizes of messages.
type countingLane struct {
	transport.Lane
	times []time.Time
	sizes []int
}

func (c *countingLane) Write(p []byte) (int, error) {
	c.times, c.sizes = append(c.times, time.Now()), append(c.sizes, len(p))
	return len(p), nil
}
func (c *countingLane) SetDeadline(time.Time) error { return nil }

func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lane, quit := &countingLane{}, make(chan struct{})
		m := newMerge(alone(2), 0, 1)
		a := &acker{credit: m.credit, merges: []*merge{m},
			due: make(chan struct{}, 1), quit: quit}
		a.setControl(wire.NewControl(lane))
		go a.run()
		time.Sleep(10*time.Second + 1)
		close(quit)
		synctest.Wait()
		if len(lane.times) < 20 {
			t.Errorf("%d ACKs in 10 s, want 2 each second", len(lane.times))
		}
		for _, n := range lane.sizes {
			if n < 64 {
				t.Errorf("an ACK of %d bytes: too short for a stateless reset", n)
			}
		}
	})
}

// persistentDevice is a device that holds complete copies.
type persistentDevice struct {
	nullDevice
	note []byte
	err  error
}

func (h *persistentDevice) Complete(note []byte) error {
	if len(h.states) > 0 {
		panic("completed in " + h.states[0].String())
	}
	h.note = note
	return h.err
}

// TestLoaderCompletes checks that a copy which outlives the process is complete, with its note,
// before the device goes to STOP. If that fails, READY is not sent.
func TestLoaderCompletes(t *testing.T) {
	for _, broken := range []error{nil, syscall.EIO} {
		dev := &persistentDevice{err: broken}
		m := newMerge(alone(2), 0, 1<<20)
		end := &wire.End{Digest: wire.NewDigest().Sum()}
		if _, err := m.setEnd(end); err != nil {
			t.Fatal(err)
		}
		var got loaderEnded
		l := &loader{name: "d", dev: dev, stream: dev, merge: m, digest: wire.NewDigest(), note: &copyNote{Version: copyNoteVersion},
			noteApplied: func() {}, post: func(ev event) { got = ev.(loaderEnded) }}
		l.run(t.Context())
		n, err := parseCopyNote(dev.note)
		if err != nil || n.Digest != end.Digest {
			t.Errorf("the note is %+v, %v", n, err)
		}
		if stopped := len(dev.states) == 1; stopped != (broken == nil) {
			t.Errorf("after %v the device went to %v", broken, dev.states)
		}
		if (got.fault == nil) != (broken == nil) || broken != nil && (got.fault.Code != transport.CodeDevice || !errors.Is(got.fault, broken)) {
			t.Errorf("after %v: %v", broken, got.fault)
		}
	}
}
