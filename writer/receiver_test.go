package writer

import (
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
)

// zeros is a stream that can be spliced.
type zeros struct{}

func (zeros) SpliceTo(pipe, n int) (int, error) { return unix.Write(pipe, make([]byte, n)) }

// TestDiscardedPayload checks that a lane whose payload was discarded does not count as ended by
// the source.
func TestDiscardedPayload(t *testing.T) {
	l, err := transport.ListenUnix(filepath.Join(t.TempDir(), "sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out, err := (&transport.UnixDialer{Path: l.Addr().String()}).Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, err := l.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	arena, err := wire.NewArena(0, testChunk, 2)
	if err != nil {
		t.Fatal(err)
	}
	sending := testArena(t, 1)
	defer sending.Close()
	scratch, err := arena.TryGet()
	if err != nil {
		t.Fatal(err)
	}
	m := newMerge(alone(1), 0, 1<<20)
	r := &receiver{lane: in, arena: arena, scratch: scratch, devices: []*device{{Target: Target{Name: "d"}, merge: m, splice: true}},
		quit: make(chan struct{}), read: new(atomic.Uint64)}
	r.codecs[codec.IDRaw] = true
	discarded := make(chan struct{})
	go func() { // a source, and then a loader that fails before it has taken the payload
		c, _ := sending.TryGet()
		c.Splice(zeros{}, testChunk)
		c.Seal(0, 0, 0)
		c.WriteFrame(out)
		c.Release()
		for {
			if c, _ := m.tryTake(); c != nil {
				c.Release()
				close(discarded)
				return
			}
		}
	}()
	if ended, fault := r.receiveAll(); ended || fault != nil {
		t.Errorf("ended %v, fault %v", ended, fault)
	}
	<-discarded
	if err := arena.Close(); err != nil {
		t.Error(err)
	}
}
