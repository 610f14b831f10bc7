package migrate

import (
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/sim"
	"github.com/migpipe/migpipe/writer"
)

// liar is a hostile destination, written by hand.
type liar struct {
	*testing.T
	listener transport.Listener
	control  *wire.Control
	hello    *wire.Hello
	journal  migration.JournalID
	ends     []migration.StreamDigest
	chunks   atomic.Uint64 // received, over the one lane
	aborted  *wire.Abort
}

// accept accepts the next lane.
func (l *liar) accept() transport.Lane {
	lane, err := l.listener.Accept(l.Context())
	if err == nil {
		_, err = wire.ReadPreamble(lane)
	}
	if err != nil {
		l.Error(err)
	}
	return lane
}

// open receives HELLO.
func (l *liar) open() {
	l.control = wire.NewControl(l.accept())
	m, err := l.control.Receive()
	if err != nil {
		l.Error(err)
	}
	l.hello = m.(*wire.Hello)
}

func (l *liar) send(m wire.Message) { l.control.Send(m) }

func (l *liar) welcome() *wire.Welcome {
	return &wire.Welcome{
		Attempt: l.hello.Attempt, Version: 1, Journal: l.journal, ChunkSize: 4096, Lanes: 1,
		Codecs: []codec.ID{codec.IDRaw, codec.IDZero}, Windows: []wire.Window{{Seq: 1 << 30, Offset: 1 << 40}},
	}
}

// take welcomes the source and reads all that it sends, until END.
func (l *liar) take() {
	l.send(l.welcome())
	lane := l.accept()
	go func() {
		defer lane.Close()
		var room wire.HeadRoom
		for {
			head, err := wire.ReadChunkHead(lane, &room)
			if err == nil {
				_, err = io.CopyN(io.Discard, lane, int64(head.WireLen))
			}
			if err != nil {
				return
			}
			l.chunks.Add(1)
		}
	}()
	for len(l.ends) == 0 {
		m, err := l.control.Receive()
		if err != nil {
			return
		}
		switch m := m.(type) {
		case *wire.End:
			l.ends = append(l.ends, m.Digest)
		case *wire.Estimate: // count all that was sent as written
			l.send(&wire.Ack{Attempt: l.hello.Attempt, Journal: l.journal, Echo: m.Stamp, Devices: []wire.DeviceAck{
				{Seq: l.chunks.Load(), Applied: 1 << 30, Window: wire.Window{Seq: 1 << 30, Offset: 1 << 40}}}})
		}
	}
}

func (l *liar) ready() *wire.Ready {
	return &wire.Ready{Attempt: l.hello.Attempt, Journal: l.journal, Digest: wire.SetDigest(l.ends)}
}

// listen reads the source's messages until it ends.
func (l *liar) listen() {
	for {
		m, err := l.control.Receive()
		if err != nil {
			break
		}
		if a, ok := m.(*wire.Abort); ok {
			l.aborted = a
		}
	}
	l.control.Lane().Close()
}

// TestHostileDestination: for every message of the destination, the source runs on unless
// it has recorded COMMIT, and never runs a second copy.
func TestHostileDestination(t *testing.T) {
	change := func(f func(*wire.Welcome)) func(*liar) {
		return func(l *liar) {
			w := l.welcome()
			f(w)
			l.send(w)
		}
	}
	frame := func(kind, flags byte, n int) func(*liar) {
		return func(l *liar) { l.control.Lane().Write(controlFrame(kind, flags, make([]byte, n))) }
	}
	for _, c := range []struct {
		name string
		do   func(*liar)
		code transport.Code
		took time.Duration // until the source has ended, at most
	}{
		{"16 KiB + 1", frame(unknownType, 1, wire.MaxControl+1), transport.CodeProtocol, 0},
		{"unknown, not to be skipped", frame(unknownType, 0, 0), transport.CodeProtocol, 0},
		{"unknown and skipped, of 16 KiB", func(l *liar) {
			frame(unknownType, 1, wire.MaxControl)(l)
			l.send(l.hello)
		}, transport.CodeProtocol, 0},
		{"windows without end, and nothing is taken", func(l *liar) {
			w := l.welcome()
			w.Windows[0] = wire.Window{Seq: 1<<64 - 1, Offset: 1<<64 - 1}
			l.send(w)
			l.accept()
		}, transport.CodeNetwork, 2 * time.Minute},
		{"lanes read in crumbs", func(l *liar) {
			l.send(l.welcome())
			lane := l.accept()
			for crumb := make([]byte, 1); ; time.Sleep(time.Second) {
				if _, err := lane.Read(crumb); err != nil {
					return
				}
			}
		}, transport.CodeNetwork, 2 * time.Minute},
		{"ACKs of what was never sent, without end", func(l *liar) {
			l.send(l.welcome())
			for range flood {
				l.send(&wire.Ack{Attempt: l.hello.Attempt, Journal: l.journal, Echo: 1 << 62, HeldNS: -1 << 62, Padding: 1 << 63, Devices: []wire.DeviceAck{
					{Seq: 1<<64 - 1, Applied: 1<<64 - 1, LoadNS: -1 << 62, Window: wire.Window{Seq: 1<<64 - 1, Offset: 1<<64 - 1}}}})
			}
			l.send(l.hello)
		}, transport.CodeProtocol, time.Minute},
		{"STATUS without end", func(l *liar) {
			l.send(l.welcome())
			for range flood {
				l.send(&wire.Status{Attempt: l.hello.Attempt})
			}
			l.send(l.hello)
		}, transport.CodeProtocol, time.Minute},
		{"windows that shrink", func(l *liar) {
			l.send(l.welcome())
			l.send(&wire.Ack{Attempt: l.hello.Attempt, Journal: l.journal, Devices: []wire.DeviceAck{{}}})
			l.send(l.hello)
		}, transport.CodeProtocol, time.Minute},
		{"silence", func(*liar) {}, transport.CodeTimeout, 5 * time.Second},
		{"WELCOME of another attempt", change(func(w *wire.Welcome) { w.Epoch++ }), transport.CodeTimeout, 5 * time.Second},
		{"version that was not offered", change(func(w *wire.Welcome) { w.Version = 2 }), transport.CodeProtocol, 0},
		{"larger chunks than offered", change(func(w *wire.Welcome) { w.ChunkSize = 4 << 20 }), transport.CodeProtocol, 0},
		{"more lanes than offered", change(func(w *wire.Welcome) { w.Lanes = 3 }), transport.CodeProtocol, 0},
		{"windows for other devices", change(func(w *wire.Welcome) { w.Windows = nil }), transport.CodeProtocol, 0},
		{"splicing that was not offered", change(func(w *wire.Welcome) { w.Splice = []bool{true} }), transport.CodeProtocol, 0},
		{"DECLINED", func(l *liar) {
			l.send(&wire.Declined{Attempt: l.hello.Attempt, Code: transport.CodeBusy, Text: "no\x1b[2J"})
		}, transport.CodeBusy, 0},
		{"READY for HELLO", func(l *liar) { l.send(&wire.Ready{Attempt: l.hello.Attempt}) }, transport.CodeProtocol, 0},
		{"READY before END", func(l *liar) { l.send(l.welcome()); l.send(l.ready()) }, transport.CodeProtocol, 0},
		{"READY with another digest", func(l *liar) { l.take(); l.ends[0][0]++; l.send(l.ready()) }, transport.CodeCorrupt, time.Minute},
		{"READY of another journal", func(l *liar) { l.take(); l.journal[0]++; l.send(l.ready()) }, transport.CodeProtocol, time.Minute},
		{"what only a source says", func(l *liar) { l.send(l.hello) }, transport.CodeProtocol, 0},
		{"noise", func(l *liar) { l.control.Lane().Write(make([]byte, 100)) }, transport.CodeCorrupt, 0},
		{"hanging up", func(l *liar) { l.control.Lane().Close() }, transport.CodeNetwork, 5 * time.Second},
		{"lanes that are not accepted", func(l *liar) { l.listener.Close(); l.send(l.welcome()) }, transport.CodeNetwork, 5 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const memory = 1 << 20
				leavesNothing(t)
				staysWithin(t, memory)
				d, listener := pipe(t)
				l := &liar{T: t, listener: listener, journal: migration.NewJournalID()}
				src := open(t, "mlx5?size=1MiB")
				done := make(chan struct{})
				go func() {
					defer close(done)
					l.open()
					c.do(l)
					l.listen()
				}()
				began := time.Now()
				report, err := reader.Send(t.Context(), d, []reader.Source{{Name: "d0", Device: src}}, &reader.Options{Memory: memory, ChunkSize: 4096, Lanes: 2})
				took := time.Since(began)
				listener.Close()
				<-done
				f := side{report, err}.fault(t)
				if f.Code != c.code || report.Outcome != migration.Aborted || strings.ContainsRune(f.Error(), '\x1b') {
					t.Errorf("%v, %v, want %v: %q", report.Outcome, f.Code, c.code, f)
				}
				if took > c.took+1100*time.Millisecond { // hanging up takes a second at most
					t.Errorf("took %v, may take %v", took, c.took)
				}
				if !f.Remote && c.code != transport.CodeNetwork && (l.aborted == nil || l.aborted.Code != c.code) {
					t.Errorf("the destination got %+v", l.aborted)
				}
				wantState(t, src, vfio.Running)
				next := newPair(t, pipe)
				next.send.Memory, next.receive.Memory = memory, memory
				dst := open(t, "mlx5?size=1MiB")
				next.src, next.sources = []*sim.Device{src}, []reader.Source{{Name: "d0", Device: src}}
				next.dst, next.sinks = []*sim.Device{dst}, []writer.Target{{Name: "d0", Device: dst}}
				next.succeed(t)
			})
		})
	}
}

// TestDoubt: after COMMIT only the destination's own answer counts.
func TestDoubt(t *testing.T) {
	commit := func(l *liar) {
		l.take()
		l.send(l.ready())
		for {
			if m, err := l.control.Receive(); err != nil || m.Type() == wire.TypeCommit {
				return
			}
		}
	}
	for _, c := range []struct {
		name    string
		answer  func(*liar)
		outcome migration.Outcome
		state   vfio.State
	}{
		{"RUNNING", func(l *liar) { l.send(&wire.Running{Attempt: l.hello.Attempt, Journal: l.journal}) }, migration.Committed, vfio.Stop},
		{"RUNNING of another journal", func(l *liar) {
			l.send(&wire.Running{Attempt: l.hello.Attempt})
			l.control.Lane().Close()
		}, migration.InDoubt, vfio.StopCopy},
		{"DECLINED", func(l *liar) {
			l.send(&wire.Declined{Attempt: l.hello.Attempt, Journal: l.journal, Code: transport.CodeStart})
		}, migration.Aborted, vfio.Running},
		{"DECLINED of another journal", func(l *liar) {
			l.send(&wire.Declined{Attempt: l.hello.Attempt})
			l.control.Lane().Close()
		}, migration.InDoubt, vfio.StopCopy},
		{"nothing", func(l *liar) { l.control.Lane().Close() }, migration.InDoubt, vfio.StopCopy},
		{"noise", func(l *liar) { l.control.Lane().Write(make([]byte, 100)) }, migration.InDoubt, vfio.StopCopy},
		{"NOT_STARTED, and DECLINED after CANCEL", func(l *liar) {
			l.send(&wire.NotStarted{Attempt: l.hello.Attempt, Journal: l.journal})
			for {
				if m, err := l.control.Receive(); err != nil || m.Type() == wire.TypeCancel {
					break
				}
			}
			l.send(&wire.Declined{Attempt: l.hello.Attempt, Journal: l.journal, Code: transport.CodeStart})
		}, migration.Aborted, vfio.Running},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				leavesNothing(t)
				d, listener := pipe(t)
				l := &liar{T: t, listener: listener, journal: migration.NewJournalID()}
				src := open(t, "mlx5?size=40KiB")
				done := make(chan struct{})
				go func() {
					defer close(done)
					l.open()
					commit(l)
					c.answer(l)
					l.listen()
				}()
				report, err := reader.Send(t.Context(), d, []reader.Source{{Name: "d0", Device: src}}, &reader.Options{DoubtFor: 8 * time.Second})
				<-done
				if report.Outcome != c.outcome || (err == nil) != (c.outcome == migration.Committed) {
					t.Errorf("outcome %v (%v), want %v", report.Outcome, err, c.outcome)
				}
				wantState(t, src, c.state)
			})
		})
	}
}
