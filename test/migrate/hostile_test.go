package migrate

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/internal/must"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/file"
	"github.com/migpipe/migpipe/vfio/sim"
	"github.com/migpipe/migpipe/writer"
)

// hostile is a hostile source, written by hand.
type hostile struct {
	*testing.T
	dialer  transport.Dialer
	attempt migration.Attempt
	lane    transport.Lane // control
	control *wire.Control
	data    transport.Lane
	arena   *wire.Arena
	journal migration.JournalID // zero: each HELLO names a new one
	welcome *wire.Welcome
	got     wire.Message // the last one that is no ACK
	applied uint64       // by the last ACK
}

func (h *hostile) dial(kind wire.LaneKind) transport.Lane {
	lane, err := h.dialer.Dial(h.Context())
	if err == nil {
		err = wire.WritePreamble(lane, wire.Preamble{Kind: kind, Mig: h.attempt.Mig, Epoch: h.attempt.Epoch})
	}
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { lane.Close() })
	return lane
}

func (h *hostile) hello() *wire.Hello {
	m := &wire.Hello{
		Attempt: h.attempt, Versions: wire.Versions{Min: 1, Max: 1}, Journal: cmp.Or(h.journal, migration.NewJournalID()),
		ChunkSize: 4096, Lanes: 1, Codecs: []codec.ID{codec.IDRaw, codec.IDZero, codec.IDS2, codec.IDZstd},
	}
	for _, name := range []string{"d0", "d1"} {
		m.Devices = append(m.Devices, wire.DeviceOffer{Name: name, Flags: vfio.Features{PreCopy: true, P2P: true}.MigrationFlags()})
	}
	return m
}

// open makes the destination listen.
func (h *hostile) open() {
	h.greet()
	h.data = h.dial(wire.LaneData)
}

// greet sends HELLO and receives its answer.
func (h *hostile) greet() {
	h.lane = h.dial(wire.LaneControl)
	h.control = wire.NewControl(h.lane)
	h.send(h.hello())
	h.welcome = h.receive().(*wire.Welcome)
}

func (h *hostile) send(m wire.Message) { h.control.Send(m) }

// receive returns the next message but ACK, nil at the end.
func (h *hostile) receive() wire.Message {
	for {
		m, err := h.control.Receive()
		if err != nil {
			return nil
		}
		if m.Type() != wire.TypeAck {
			h.got = m
			return m
		}
	}
}

// chunk sends one chunk of 100 bytes after change has edited it.
func (h *hostile) chunk(device uint16, seq, offset uint64, change ...func(*wire.Chunk)) wire.ChunkHead {
	c, err := h.arena.TryGet()
	if err != nil {
		h.Fatal(err)
	}
	defer c.Release()
	c.ReadRaw(bytes.NewReader(make([]byte, 100)), 100)
	c.Seal(device, seq, offset)
	for _, f := range change {
		f(c)
	}
	c.WriteFrame(h.data)
	return c.ChunkHead
}

// padding sends frames of padding until the destination has enough.
func (h *hostile) padding(size, frames int) {
	arena, err := wire.NewArena(0, size, 1)
	if err != nil {
		h.Fatal(err)
	}
	c, err := arena.TryGet()
	if err != nil {
		h.Fatal(err)
	}
	for range frames {
		if c.WritePadding(h.data, size) != nil {
			break
		}
	}
	c.Release()
	if err := arena.Close(); err != nil {
		h.Error(err)
	}
}

func (h *hostile) end(device uint16, bytes, chunks uint64) {
	h.send(&wire.End{Attempt: h.attempt, Device: device, Bytes: bytes, Chunks: chunks})
}

// TestHostileSource: for every message of the source, the destination ends with the
// reason, resets the devices that it had touched, and has accepted no more than it promised.
func TestHostileSource(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(*hostile)
		code transport.Code
	}{
		{"chunk beyond the window", func(h *hostile) { h.chunk(0, h.welcome.Windows[0].Seq, 0) }, transport.CodeProtocol},
		{"offset beyond the window", func(h *hostile) { h.chunk(0, 0, h.welcome.Windows[0].Offset) }, transport.CodeProtocol},
		{"unknown device", func(h *hostile) { h.chunk(2, 0, 0) }, transport.CodeProtocol},
		{"sent again, larger than agreed", func(h *hostile) {
			h.chunk(0, 0, 0)
			time.Sleep(time.Second)
			h.chunk(0, 0, 0, func(c *wire.Chunk) { c.Codec, c.RawLen, c.WireLen = codec.IDZero, 4097, 0 })
		}, transport.CodeProtocol},
		{"gap", func(h *hostile) { h.chunk(0, 0, 0); h.chunk(0, 1, 101) }, transport.CodeProtocol},
		{"overlap", func(h *hostile) { h.chunk(0, 0, 0); h.chunk(0, 1, 99) }, transport.CodeProtocol},
		{"codec not agreed on", func(h *hostile) {
			h.chunk(0, 0, 0, func(c *wire.Chunk) { c.Codec, c.WireLen = 200, 50 })
		}, transport.CodeProtocol},
		{"spliced, not agreed on", func(h *hostile) {
			h.chunk(0, 0, 0, func(c *wire.Chunk) { c.Unchecked, c.Digest = true, 0 })
		}, transport.CodeProtocol},
		{"lying digest", func(h *hostile) { h.chunk(0, 0, 0, func(c *wire.Chunk) { c.Digest++ }) }, transport.CodeCorrupt},
		{"chunk of 4 GiB", func(h *hostile) { h.chunk(0, 0, 0, func(c *wire.Chunk) { c.RawLen = 1<<32 - 1 }) }, transport.CodeProtocol},
		{"chunk of nothing", func(h *hostile) { h.chunk(0, 0, 0, func(c *wire.Chunk) { c.RawLen, c.WireLen = 0, 0 }) }, transport.CodeProtocol},
		{"chunk larger than agreed", func(h *hostile) {
			h.chunk(0, 0, 0, func(c *wire.Chunk) { c.Codec, c.RawLen, c.WireLen = codec.IDZero, 4097, 0 })
		}, transport.CodeProtocol},
		{"offset of 2^63", func(h *hostile) { h.chunk(0, 0, 1<<63) }, transport.CodeProtocol},
		{"padding larger than agreed", func(h *hostile) { h.padding(8192, 1) }, transport.CodeProtocol},
		{"padding without end", func(h *hostile) { h.padding(4096, wire.MaxProbe/4096+1) }, transport.CodeProtocol},
		{"noise on a data lane", func(h *hostile) { h.data.Write(bytes.Repeat([]byte("noise"), 100)) }, transport.CodeCorrupt},
		{"END twice, and not the same", func(h *hostile) { h.end(0, 0, 9); h.end(0, 0, 8) }, transport.CodeProtocol},
		{"RESUME on a lane that stands", func(h *hostile) {
			h.send(&wire.Resume{Attempt: h.attempt, Peer: h.welcome.Journal})
		}, transport.CodeProtocol},
		{"END of an unknown device", func(h *hostile) { h.end(2, 0, 0) }, transport.CodeProtocol},
		{"END with fewer bytes", func(h *hostile) { h.chunk(0, 0, 0); h.end(0, 99, 1) }, transport.CodeIncomplete},
		{"END with fewer chunks", func(h *hostile) { h.chunk(0, 0, 0); time.Sleep(time.Second); h.end(0, 0, 0) }, transport.CodeIncomplete},
		{"END with another digest", func(h *hostile) { h.chunk(0, 0, 0); h.end(0, 100, 1) }, transport.CodeCorrupt},
		{"ENDs for chunks that never come", func(h *hostile) { h.end(0, 100, 1); h.end(1, 100, 1) }, transport.CodeTimeout},
		{"lanes that end before the last chunk", func(h *hostile) {
			h.chunk(0, 1, 100)
			h.data.CloseWrite()
			time.Sleep(time.Second) // it is noticed with the last END, before a device could judge its stream
			h.end(0, 200, 2)
			h.send(&wire.End{Attempt: h.attempt, Device: 1, Digest: wire.NewDigest().Sum()})
		}, transport.CodeIncomplete},
		{"HELLO twice", func(h *hostile) { h.send(h.hello()) }, transport.CodeProtocol},
		{"COMMIT before READY", func(h *hostile) { h.send(&wire.Commit{Attempt: h.attempt, Journal: h.welcome.Journal}) }, transport.CodeProtocol},
		{"what only a destination says", func(h *hostile) { h.send(&wire.Ready{Attempt: h.attempt}) }, transport.CodeProtocol},
		{"control message of 1 MiB", func(h *hostile) {
			var head [12]byte
			binary.BigEndian.PutUint32(head[:], 1<<20)
			h.lane.Write(head[:])
		}, transport.CodeProtocol},
		{"noise on the control lane", func(h *hostile) { h.lane.Write(make([]byte, 12)) }, transport.CodeCorrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { againstSource(t, c.do, c.code) })
		})
	}
}

// TestSentAgain: a source that does not know which chunks arrived sends them again. The
// destination uses each once.
func TestSentAgain(t *testing.T) {
	leavesNothing(t)
	path := filepath.Join(t.TempDir(), "state")
	sink, err := file.NewDestination(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	dialer, l := pipe(t)
	done := make(chan side)
	go func() {
		r, err := writer.Receive(t.Context(), l, []writer.Target{{Name: "d0", Device: sink}}, &writer.Options{Memory: 1 << 20, ChunkSize: 4096})
		done <- side{r, err}
	}()
	h := (&victim{dialer: dialer}).source(t)
	h.lane = h.dial(wire.LaneControl)
	h.control = wire.NewControl(h.lane)
	hello := h.hello()
	hello.Devices = hello.Devices[:1]
	h.send(hello)
	h.welcome = h.receive().(*wire.Welcome)
	h.data = h.dial(wire.LaneData)
	sum := wire.NewDigest()
	h.chunk(0, 1, 100) // in the wrong order
	h.chunk(0, 1, 100)
	sum.Add(h.chunk(0, 0, 0))
	for h.applied < 200 {
		h.receiveAck(t)
	}
	h.chunk(0, 0, 0)
	sum.Add(h.chunk(0, 1, 100))
	end := &wire.End{Attempt: h.attempt, Bytes: 200, Chunks: 2, Digest: sum.Sum()}
	h.send(end)
	h.send(end)
	ready, ok := h.receive().(*wire.Ready)
	if !ok {
		t.Fatalf("the answer is %+v", h.got)
	}
	h.send(&wire.Commit{Attempt: h.attempt, Journal: ready.Journal, Digest: ready.Digest})
	if _, ok := h.receive().(*wire.Running); !ok {
		t.Errorf("the answer to COMMIT is %+v", h.got)
	}
	h.send(&wire.Fin{Attempt: h.attempt})
	wire.HangUp(h.lane, func() { h.receive() })
	h.data.Close()
	if r := <-done; r.err != nil || r.report.Devices[0].Bytes != 200 {
		t.Errorf("%v, %+v", r.err, r.report.Devices)
	}
	if got, err := os.ReadFile(path); len(got) != 200 {
		t.Errorf("the file has %d bytes (%v)", len(got), err)
	}
}

// receiveAck receives the next message, which has to be ACK.
func (h *hostile) receiveAck(t *testing.T) {
	m, err := h.control.Receive()
	ack, ok := m.(*wire.Ack)
	if err != nil || !ok {
		t.Fatalf("%+v, %v is no ACK", m, err)
	}
	h.applied = ack.Devices[0].Applied
}

func againstSource(t *testing.T, do func(*hostile), code transport.Code) {
	d := newVictim(t)
	h := d.source(t)
	h.open()
	do(h)
	for m := h.receive(); m != nil; m = h.receive() {
	}
	h.lane.Close()
	h.data.Close()
	r := <-d.done
	if f := r.fault(t); f.Code != code || f.Remote || r.report.Outcome != migration.Aborted {
		t.Errorf("destination: %v, %v, want %v: %q", r.report.Outcome, f.Code, code, f)
	}
	if m, ok := h.got.(*wire.Declined); !ok || m.Code != code {
		t.Errorf("the source got %+v, want DECLINED(%v)", h.got, code)
	}
	d.unharmed(t)
}

// victim is a destination that waits for a hostile source.
type victim struct {
	dialer  transport.Dialer
	devices []*taker
	cancel  context.CancelFunc
	done    chan side // its end
}

func newVictim(t *testing.T) *victim {
	dialer, l := pipe(t)
	return newVictimAt(t, dialer, l)
}

// newVictimAt makes a victim that listens at l.
func newVictimAt(t *testing.T, dialer transport.Dialer, l transport.Listener) *victim {
	const memory = 1 << 20
	leavesNothing(t)
	staysWithin(t, memory)
	ctx, cancel := context.WithCancel(t.Context())
	v := &victim{dialer: dialer, cancel: cancel, done: make(chan side)}
	t.Cleanup(cancel)
	var sinks []writer.Target
	for _, name := range []string{"d0", "d1"} {
		dev := &taker{Device: open(t, "mtty")}
		v.devices = append(v.devices, dev)
		sinks = append(sinks, writer.Target{Name: name, Device: dev})
	}
	go func() {
		r, err := writer.Receive(ctx, l, sinks, &writer.Options{Memory: memory, ChunkSize: 4096, ReconnectFor: 5 * time.Second})
		v.done <- side{r, err}
	}()
	return v
}

// source dials a victim as a hostile source.
func (v *victim) source(t *testing.T) *hostile {
	arena, err := wire.NewArena(0, 4096, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := arena.Close(); err != nil {
			t.Error(err)
		}
	})
	return &hostile{T: t, dialer: v.dialer, attempt: migration.Attempt{Mig: migration.NewID(), Epoch: 1}, arena: arena}
}

// unharmed checks that the devices were reset and got almost no bytes, and that they load
// the state of the next source.
func (v *victim) unharmed(t *testing.T) {
	t.Helper()
	next := newPair(t, pipe)
	next.send.Memory, next.receive.Memory = 1<<20, 1<<20 // the test measures the victim's memory
	for i, dev := range v.devices {
		if log := dev.Log(); !log[len(log)-1].Reset {
			t.Errorf("device %d was not reset", i)
		}
		if dev.written > 200 {
			t.Errorf("device %d was given %d bytes", i, dev.written)
		}
		name, src := fmt.Sprintf("d%d", i), open(t, "mtty")
		next.src, next.dst = append(next.src, src), append(next.dst, dev.Device)
		next.sources = append(next.sources, reader.Source{Name: name, Device: src})
		next.sinks = append(next.sinks, writer.Target{Name: name, Device: dev.Device})
	}
	next.succeed(t)
}

// taker is a device that accepts any bytes, so that only the engine can refuse them.
type taker struct {
	*sim.Device
	written int
	resets  time.Duration // how long a reset takes
}

func (d *taker) Reset() error {
	time.Sleep(d.resets)
	return d.Device.Reset()
}

func (d *taker) Describe() vfio.Info { return vfio.Info{} }

func (d *taker) SetState(to vfio.State) (vfio.Stream, error) {
	s, err := d.Device.SetState(to)
	if s != nil {
		s = &taking{Stream: s, d: d}
	}
	return s, err
}

type taking struct {
	vfio.Stream
	d *taker
}

func (s *taking) Write(p []byte) (int, error) { s.d.written += len(p); return len(p), nil }

// TestSilentSources: a source that opens lanes and sends nothing, or no HELLO, delays the
// next source only for a moment.
func TestSilentSources(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(*hostile)
	}{
		{"nothing on a lane", func(h *hostile) { must.Get(h.dialer.Dial(h.Context())) }},
		{"noise on a lane", func(h *hostile) { must.Get(h.dialer.Dial(h.Context())).Write(make([]byte, 100)) }},
		{"a data lane first", func(h *hostile) { h.dial(wire.LaneData) }},
		{"no HELLO", func(h *hostile) { h.dial(wire.LaneControl) }},
		{"COMMIT for HELLO", func(h *hostile) {
			h.control = wire.NewControl(h.dial(wire.LaneControl))
			h.send(&wire.Commit{Attempt: h.attempt})
		}},
		{"READY for HELLO", func(h *hostile) {
			h.control = wire.NewControl(h.dial(wire.LaneControl))
			h.send(&wire.Ready{Attempt: h.attempt})
		}},
		{"HELLO of another attempt than the lane's", func(h *hostile) {
			h.control = wire.NewControl(h.dial(wire.LaneControl))
			h.attempt.Epoch++
			h.send(h.hello())
		}},
		{"HELLO of epoch 0", func(h *hostile) {
			h.attempt.Epoch = 0
			h.control = wire.NewControl(h.dial(wire.LaneControl))
			h.send(h.hello())
		}},
		{"questions without end", func(h *hostile) {
			lane := h.dial(wire.LaneControl)
			h.control = wire.NewControl(lane)
			go func() { // reads the answers
				for h.receive() != nil {
				}
			}()
			time.Sleep(transport.HandshakeTimeout - 2*time.Millisecond) // to write when the destination closes it
			go func() {
				for h.control.Send(&wire.Query{Attempt: h.attempt}) == nil {
					time.Sleep(time.Microsecond)
				}
			}()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, l := pipe(t)
				p := newPair(t, func(testing.TB) (transport.Dialer, transport.Listener) { return d, l })
				p.add(t, "d0", nic, nic)
				h := &hostile{T: t, dialer: d, attempt: migration.Attempt{Mig: migration.NewID(), Epoch: 1}}
				done := make(chan side)
				go func() {
					r, err := writer.Receive(p.receiveCtx, l, p.sinks, nil)
					done <- side{r, err}
				}()
				c.do(h)
				time.Sleep(transport.HandshakeTimeout + time.Second)
				r, err := p.sendTo(d)
				if err != nil {
					p.cancelReceive()
				}
				if got := <-done; err != nil || got.err != nil {
					t.Fatalf("send: %v\nreceive: %v", err, got.err)
				} else {
					p.committed(t, side{r, err}, got)
				}
			})
		})
	}
}
