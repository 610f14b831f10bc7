package reader

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/share"
)

// filling is a queue and what was put there.
type filling struct {
	*queue
	cut   []uint64 // chunks, by device
	bytes []uint64
	taken []uint64
}

func newFilling(t testing.TB, chunks int, needs []share.Need) *filling {
	arena, err := transport.NewArena(0, 4096, chunks)
	if err != nil {
		t.Fatal(err)
	}
	n := len(needs)
	f := &filling{newQueue(arena, chunks, needs), make([]uint64, n), make([]uint64, n), make([]uint64, n)}
	t.Cleanup(func() {
		f.drop()
		if err := arena.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// cutOne gets, fills and puts the device's next chunk.
func (f *filling) cutOne(ctx context.Context, device int) error {
	c, err := f.get(ctx, device)
	if err != nil {
		return err
	}
	n, _ := c.Fill(strings.NewReader("0123456789"), 10)
	c.Seal(uint16(device), f.cut[device], f.bytes[device])
	f.cut[device], f.bytes[device] = f.cut[device]+1, f.bytes[device]+uint64(n)
	f.put(c)
	return nil
}

// all lets a device send whatever it has.
var all = transport.Window{Seq: 1 << 40, Offset: 1 << 40}

// TestQueueCredit: a chunk is read without credit, and leaves with it, in both
// measures, which never shrink.
func TestQueueCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilling(t, 8, alone(0))
		for range 8 {
			f.cutOne(t.Context(), 0)
		}
		left := 0
		go func() {
			for c := f.take(); c != nil; c = f.take() {
				if int(c.Seq) != left {
					t.Errorf("chunk %d left as number %d", c.Seq, left)
				}
				left++
				f.release(0, c)
			}
		}()
		for _, c := range []struct {
			seq, offset uint64
			want        int
		}{{0, 20, 0}, {2, 0, 2}, {1, 10, 2}, {4, 39, 3}, {4, 40, 4}, {8, 0, 8}} {
			if c.seq == 8 {
				f.grant(0, all)
			}
			f.grant(0, transport.Window{Seq: c.seq, Offset: c.offset})
			synctest.Wait()
			if left != c.want {
				t.Errorf("with credit for %d chunks up to byte %d, %d have left, want %d", c.seq, c.offset, left, c.want)
			}
		}
		f.close()
	})
}

// TestQueueShares: two lanes' worth of chunks leave in proportion to what the
// devices have to send, while all have credit.
func TestQueueShares(t *testing.T) {
	f := newFilling(t, 40, []share.Need{{Bytes: 1 << 20, Known: true}, {Bytes: 3 << 20, Known: true}})
	for i := range 2 {
		f.grant(i, all)
	}
	for range 10 {
		f.cutOne(t.Context(), 0)
	}
	for range 20 {
		f.cutOne(t.Context(), 1)
	}
	var left [2]int
	for range 16 {
		c := f.take()
		left[c.Device]++
		f.release(int(c.Device), c)
	}
	if left[0] != 4 {
		t.Errorf("of 16 chunks, %d have left, want 4 and 12", left)
	}
	f.divide([]share.Need{{Bytes: 3 << 20, Known: true}, {Bytes: 1 << 20, Known: true, Done: true}})
	left = [2]int{}
	for range 8 {
		c := f.take()
		left[c.Device]++
		f.release(int(c.Device), c)
	}
	if left[0] < 5 {
		t.Errorf("of 8 chunks, %d have left: the first has all there is to send", left)
	}
}

// TestQueueMemory: a device that nobody takes chunks of fills the memory, and
// others still find theirs.
func TestQueueMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilling(t, 20, make([]share.Need, 3))
		f.grant(1, all)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			for f.cutOne(ctx, 0) == nil {
			}
		}()
		synctest.Wait()
		if f.cut[0] != 16 {
			t.Errorf("%d chunks of 20 were read ahead, want 16", f.cut[0])
		}
		for i := range 100 {
			if err := f.cutOne(ctx, 1); err != nil {
				t.Fatal(i, err)
			}
			c := f.take()
			if c.Device != 1 {
				t.Fatal("a chunk left without credit")
			}
			f.release(1, c)
		}
		cancel()
		synctest.Wait()
	})
}

// TestQueueCancel: who gives up waiting for memory leaves what it was just given.
func TestQueueCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilling(t, 2, alone(0))
		f.cutOne(t.Context(), 0)
		f.cutOne(t.Context(), 0)
		f.grant(0, all)
		enough := errors.New("enough")
		for range 50 {
			ctx, cancel := context.WithCancelCause(t.Context())
			go func() {
				c, err := f.get(ctx, 0)
				if err == nil {
					f.release(0, c)
				} else if err != enough {
					t.Errorf("get: %v", err)
				}
			}()
			synctest.Wait()
			f.release(0, f.take())
			cancel(enough) // either may win
			synctest.Wait()
			if err := f.cutOne(t.Context(), 0); err != nil {
				t.Error(err)
			}
			if _, err := f.get(ctx, 0); err != enough {
				t.Errorf("get after the cancel: %v", err)
			}
		}
	})
}

// TestQueueDrop: what is queued is released, and so is what comes later.
func TestQueueDrop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFilling(t, 8, alone(0))
		f.cutOne(t.Context(), 0)
		late, _ := f.get(t.Context(), 0)
		late.Fill(strings.NewReader("x"), 1)
		late.Seal(0, 1, 10)
		ended := false
		go func() { ended = f.take() == nil }()
		synctest.Wait()
		f.drop()
		f.put(late)
		synctest.Wait()
		if n := f.arena.InUse(); n != 0 || !ended {
			t.Errorf("%d chunks are in use, the sender has ended: %v", n, ended)
		}
	})
}

// TestQueue: whatever happens in whatever order, each device's chunks leave in
// their order, all of them, and none without credit.
func TestQueue(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 4).Draw(rt, "devices")
		f := newFilling(t, rapid.IntRange(n, 20).Draw(rt, "chunks"), make([]share.Need, n))
		seqs, held := make([]uint64, n), map[*transport.Chunk]bool{}
		any := rapid.IntRange(0, n-1)
		take := func(t *rapid.T) {
			c := f.take()
			if i := c.Device; c.Seq != f.taken[i] || c.Seq >= seqs[i] {
				t.Fatalf("chunk %d of device %d left, the next is %d and %d have credit", c.Seq, i, f.taken[i], seqs[i])
			}
			f.taken[c.Device]++
			held[c] = true
		}
		ready := func() bool {
			for i := range n {
				if f.taken[i] < min(f.cut[i], seqs[i]) {
					return true
				}
			}
			return false
		}
		rt.Repeat(map[string]func(*rapid.T){
			"cut": func(rt *rapid.T) {
				i := any.Draw(rt, "device")
				f.want(i, true)
				if len(f.lines[i].given) == 0 {
					f.want(i, false)
					rt.Skip("it would wait")
				}
				<-f.lines[i].given
				f.giveBack(i)
				f.cutOne(t.Context(), i)
			},
			"grant": func(t *rapid.T) {
				i := any.Draw(t, "device")
				seqs[i] += rapid.Uint64Max(5).Draw(t, "chunks")
				f.grant(i, transport.Window{Seq: seqs[i], Offset: seqs[i] * 10})
			},
			"take": func(t *rapid.T) {
				if !ready() {
					t.Skip("it would wait")
				}
				take(t)
			},
			"release": func(*rapid.T) {
				for c := range held {
					delete(held, c)
					f.release(int(c.Device), c)
					return
				}
			},
			"divide": func(t *rapid.T) {
				needs := make([]share.Need, n)
				for i := range needs {
					needs[i] = share.Need{Bytes: rapid.Uint64().Draw(t, "bytes"), Known: rapid.Bool().Draw(t, "known"), Priority: rapid.Byte().Draw(t, "priority")}
				}
				f.divide(needs)
			},
		})
		for i := range n {
			seqs[i] = 1 << 40
			f.grant(i, all)
		}
		f.close()
		for ready() {
			take(rt)
		}
		if c := f.take(); c != nil {
			rt.Fatalf("chunk %+v came after all", c.ChunkHead)
		}
		for c := range held {
			f.release(int(c.Device), c)
		}
	})
}
