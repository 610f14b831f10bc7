package reader

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"

	"github.com/migpipe/migpipe/internal/share"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
)

// testQueue is a queue, with a count of the chunks that were put.
type testQueue struct {
	*queue
	cut   []uint64 // chunks, by device
	bytes []uint64
	taken []uint64
}

func newTestQueue(t testing.TB, chunks int, needs []share.Need) *testQueue {
	arena, err := wire.NewArena(0, 4096, chunks)
	if err != nil {
		t.Fatal(err)
	}
	n := len(needs)
	f := &testQueue{newQueue(arena, chunks, needs), make([]uint64, n), make([]uint64, n), make([]uint64, n)}
	t.Cleanup(func() {
		f.discardAll()
		if err := arena.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// putOne gets the device's next chunk, reads into it and puts it.
func (f *testQueue) putOne(ctx context.Context, device int) error {
	c, err := f.get(ctx, device)
	if err != nil {
		return err
	}
	n, _ := c.ReadRaw(strings.NewReader("0123456789"), 10)
	c.Seal(uint16(device), f.cut[device], f.bytes[device])
	f.cut[device], f.bytes[device] = f.cut[device]+1, f.bytes[device]+uint64(n)
	f.put(c)
	return nil
}

// takeOne takes a chunk for lane 0.
func (f *testQueue) takeOne() *wire.Chunk {
	c, err := f.take(0)
	if err != nil {
		panic(err)
	}
	return c
}

// apply lets the destination apply a chunk that was taken, and all before it.
func (f *testQueue) apply(c *wire.Chunk) {
	device, seq := int(c.Device), c.Seq
	f.finishSend(c)
	if err := f.ack(device, seq+1); err != nil {
		panic(err)
	}
}

// all lets a device send everything.
var all = wire.Window{Seq: 1 << 40, Offset: 1 << 40}

// TestQueueCredit checks that a chunk is put without credit and leaves with it, in both measures of
// a window, which never shrink.
func TestQueueCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newTestQueue(t, 8, alone(0))
		for range 8 {
			f.putOne(t.Context(), 0)
		}
		left := 0
		go func() {
			for c := f.takeOne(); c != nil; c = f.takeOne() {
				if int(c.Seq) != left {
					t.Errorf("chunk %d left as number %d", c.Seq, left)
				}
				left++
				f.apply(c)
			}
		}()
		for _, c := range []struct {
			seq, offset uint64
			want        int
		}{{0, 20, 0}, {2, 0, 2}, {1, 10, 2}, {4, 39, 3}, {4, 40, 4}, {8, 0, 8}} {
			if c.seq == 8 {
				f.grant(0, all)
			}
			f.grant(0, wire.Window{Seq: c.seq, Offset: c.offset})
			synctest.Wait()
			if left != c.want {
				t.Errorf("with credit for %d chunks up to byte %d, %d have left, want %d", c.seq, c.offset, left, c.want)
			}
		}
		f.close()
	})
}

// TestQueueShares checks that chunks leave in proportion to the needs of the devices while all have
// credit.
func TestQueueShares(t *testing.T) {
	f := newTestQueue(t, 40, []share.Need{{Bytes: 1 << 20, Known: true}, {Bytes: 3 << 20, Known: true}})
	for i := range 2 {
		f.grant(i, all)
	}
	for range 10 {
		f.putOne(t.Context(), 0)
	}
	for range 20 {
		f.putOne(t.Context(), 1)
	}
	var left [2]int
	for range 16 {
		c := f.takeOne()
		left[c.Device]++
		f.apply(c)
	}
	if left[0] != 4 {
		t.Errorf("of 16 chunks, %d have left, want 4 and 12", left)
	}
	f.divide([]share.Need{{Bytes: 3 << 20, Known: true}, {Bytes: 1 << 20, Known: true, Done: true}})
	left = [2]int{}
	for range 8 {
		c := f.takeOne()
		left[c.Device]++
		f.apply(c)
	}
	if left[0] < 5 {
		t.Errorf("of 8 chunks, %d have left: only the first device has more to send", left)
	}
}

// TestQueueMemory checks that a device whose chunks no lane takes fills its memory, and the others
// still get theirs.
func TestQueueMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newTestQueue(t, 20, make([]share.Need, 3))
		f.grant(1, all)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			for f.putOne(ctx, 0) == nil {
			}
		}()
		synctest.Wait()
		if f.cut[0] != 16 {
			t.Errorf("%d chunks of 20 were read ahead, want 16", f.cut[0])
		}
		for i := range 100 {
			if err := f.putOne(ctx, 1); err != nil {
				t.Fatal(i, err)
			}
			c := f.takeOne()
			if c.Device != 1 {
				t.Fatal("a chunk left without credit")
			}
			f.apply(c)
		}
		cancel()
		synctest.Wait()
	})
}

// TestQueueCancel checks that a cancelled get returns memory that was granted at the same time.
func TestQueueCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newTestQueue(t, 2, alone(0))
		f.putOne(t.Context(), 0)
		f.putOne(t.Context(), 0)
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
			f.apply(f.takeOne())
			cancel(enough) // either may win
			synctest.Wait()
			if err := f.putOne(t.Context(), 0); err != nil {
				t.Error(err)
			}
			if _, err := f.get(ctx, 0); err != enough {
				t.Errorf("get after the cancel: %v", err)
			}
		}
	})
}

// TestQueueDrop checks that queued chunks are freed, and so are chunks that are put later.
func TestQueueDrop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newTestQueue(t, 8, alone(0))
		f.putOne(t.Context(), 0)
		late, _ := f.get(t.Context(), 0)
		late.ReadRaw(strings.NewReader("x"), 1)
		late.Seal(0, 1, 10)
		ended := false
		go func() { ended = f.takeOne() == nil }()
		synctest.Wait()
		f.discardAll()
		f.put(late)
		synctest.Wait()
		if n := f.arena.InUse(); n != 0 || !ended {
			t.Errorf("%d chunks are in use, the sender has ended: %v", n, ended)
		}
	})
}

// TestQueueLoss checks that the chunks of a lost lane are sent again, before all later ones, except
// those that the destination acknowledges. It cannot acknowledge a chunk that was never sent.
func TestQueueLoss(t *testing.T) {
	f := newTestQueue(t, 8, alone(0))
	f.grant(0, all)
	for range 8 {
		f.putOne(t.Context(), 0)
	}
	var sent []*wire.Chunk
	for i := range 6 {
		c, _ := f.take(i % 2)
		sent = append(sent, c)
	}
	for _, c := range sent[:5] {
		f.finishSend(c)
	}
	gone := errors.New("gone")
	f.failLane(1, gone)
	if c, err := f.take(1); c != nil || err != gone {
		t.Errorf("a lost lane gets %v, %v", c, err)
	}
	if err := f.ack(0, 2); err != nil {
		t.Error(err)
	}
	if err := f.ack(0, 7); !errors.Is(err, transport.ErrProtocol) {
		t.Errorf("7 chunks are acknowledged, 6 were sent: %v", err)
	}
	f.finishSend(sent[5]) // its write has failed
	f.requeue(1)
	for _, want := range []uint64{3, 5, 6, 7} {
		c := f.takeOne()
		if c.Seq != want {
			t.Errorf("chunk %d is sent, want %d", c.Seq, want)
		}
		f.finishSend(c)
	}
	f.close()
	if err := f.ack(0, 8); err != nil {
		t.Error(err)
	}
	if c := f.takeOne(); c != nil || f.arena.InUse() != 0 {
		t.Errorf("all is applied, and %v is sent; %d chunks are in use", c, f.arena.InUse())
	}
}

// lossyQueue is a queue with lanes that are lost, and a model of each chunk's stage.
type lossyQueue struct {
	*testQueue
	credit  []uint64
	waiting []map[uint64]bool           // by device: numbers
	held    map[*wire.Chunk]int         // by a sender, for its lane
	sent    [3]map[*wire.Chunk]struct{} // by lane: not known to be applied
	acked   []uint64
}

func (h *lossyQueue) cutSome(t *rapid.T, ctx context.Context) {
	i := rapid.IntRange(0, len(h.lines)-1).Draw(t, "device")
	h.setWant(i, true)
	if len(h.lines[i].granted) == 0 {
		h.setWant(i, false)
		t.Skip("it would wait")
	}
	<-h.lines[i].granted
	h.returnMemory(i)
	h.waiting[i][h.cut[i]] = true
	h.putOne(ctx, i)
}

func (h *lossyQueue) grantSome(t *rapid.T) {
	i := rapid.IntRange(0, len(h.lines)-1).Draw(t, "device")
	h.credit[i] += rapid.Uint64Max(5).Draw(t, "chunks")
	h.grant(i, wire.Window{Seq: h.credit[i], Offset: h.credit[i] * 10})
}

// lowest is the next chunk of a device to be sent.
func (h *lossyQueue) lowest(device int) (seq uint64, ok bool) {
	for n := range h.waiting[device] {
		if !ok || n < seq {
			seq, ok = n, true
		}
	}
	return seq, ok && seq < h.credit[device]
}

func (h *lossyQueue) ready() bool {
	for i := range h.lines {
		if _, ok := h.lowest(i); ok {
			return true
		}
	}
	return false
}

func (h *lossyQueue) takeSome(t *rapid.T) {
	if !h.ready() {
		t.Skip("it would wait")
	}
	lane := rapid.IntRange(0, len(h.sent)-1).Draw(t, "lane")
	c, err := h.take(lane)
	if err != nil {
		t.Fatal(err)
	}
	i := int(c.Device)
	if want, ok := h.lowest(i); !ok || c.Seq != want {
		t.Fatalf("chunk %d of device %d is sent, the next is %d (%v)", c.Seq, i, want, ok)
	}
	delete(h.waiting[i], c.Seq)
	h.held[c] = lane
}

func (h *lossyQueue) finishSome(t *rapid.T) {
	for c, lane := range h.held {
		h.finish(c, lane)
		return
	}
	t.Skip("no lane has a chunk")
}

func (h *lossyQueue) finish(c *wire.Chunk, lane int) {
	delete(h.held, c)
	if c.Seq >= h.acked[c.Device] {
		h.sent[lane][c] = struct{}{}
	}
	h.finishSend(c)
}

// ack acknowledges chunks that were taken before, without a gap.
func (h *lossyQueue) ack(t *rapid.T) {
	i := rapid.IntRange(0, len(h.lines)-1).Draw(t, "device")
	seq := rapid.Uint64Range(h.acked[i], h.lines[i].sent).Draw(t, "chunks")
	h.ackTo(t, i, seq)
}

func (h *lossyQueue) ackTo(t *rapid.T, device int, seq uint64) {
	h.acked[device] = seq
	for _, sent := range h.sent {
		for c := range sent {
			if int(c.Device) == device && c.Seq < seq {
				delete(sent, c)
			}
		}
	}
	for n := range h.waiting[device] {
		if n < seq {
			delete(h.waiting[device], n)
		}
	}
	if err := h.queue.ack(device, seq); err != nil {
		t.Fatal(err)
	}
}

// loseOne loses a lane, whose sender has ended.
func (h *lossyQueue) loseOne(t *rapid.T) {
	lane := rapid.IntRange(0, len(h.sent)-1).Draw(t, "lane")
	h.failLane(lane, errors.New("lost"))
	for c, l := range h.held {
		if l == lane {
			h.finish(c, lane)
		}
	}
	for c := range h.sent[lane] {
		h.waiting[c.Device][c.Seq] = true
	}
	h.sent[lane] = map[*wire.Chunk]struct{}{}
	h.requeue(lane)
}

// TestQueue checks every order of events, with lanes that are lost. The chunks of each device leave
// in order, all that are not acknowledged leave, and none leaves without credit.
func TestQueue(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, 4).Draw(rt, "devices")
		h := &lossyQueue{testQueue: newTestQueue(t, rapid.IntRange(n, 20).Draw(rt, "chunks"), make([]share.Need, n)),
			credit: make([]uint64, n), waiting: make([]map[uint64]bool, n), held: map[*wire.Chunk]int{}, acked: make([]uint64, n)}
		for i := range h.waiting {
			h.waiting[i] = map[uint64]bool{}
		}
		for i := range h.sent {
			h.sent[i] = map[*wire.Chunk]struct{}{}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"":    func(rt *rapid.T) { h.checkLevels(rt) },
			"cut": func(rt *rapid.T) { h.cutSome(rt, t.Context()) }, "grant": h.grantSome,
			"take": h.takeSome, "took": h.finishSome, "ack": h.ack, "lose": h.loseOne,
			"divide": func(t *rapid.T) {
				needs := make([]share.Need, n)
				for i := range needs {
					needs[i] = share.Need{Bytes: rapid.Uint64().Draw(t, "bytes"), Known: rapid.Bool().Draw(t, "known"), Priority: rapid.Byte().Draw(t, "priority")}
				}
				h.divide(needs)
			},
		})
		for i := range n {
			h.credit[i] = 1 << 40
			h.grant(i, all)
		}
		h.close()
		for h.ready() {
			h.takeSome(rt)
		}
		for c, lane := range h.held {
			h.finish(c, lane)
		}
		for i := range n {
			h.ackTo(rt, i, h.cut[i])
		}
		if c, err := h.take(0); c != nil || err != nil || h.arena.InUse() > 0 {
			rt.Fatalf("all is applied, and %v, %v comes; %d chunks are in use", c, err, h.arena.InUse())
		}
	})
}

// TestQueueAcknowledgedLess checks that a destination which acknowledges less than before is
// refused: it has lost chunks that the source has freed.
func TestQueueAcknowledgedLess(t *testing.T) {
	f := newTestQueue(t, 8, alone(0))
	for range 8 {
		f.putOne(t.Context(), 0)
	}
	f.grant(0, wire.Window{Seq: 8, Offset: 80})
	for range 6 {
		f.finishSend(f.takeOne())
	}
	if err := f.ack(0, 2); err != nil {
		t.Fatal(err)
	}
	if err := f.ack(0, 1); !errors.Is(err, transport.ErrProtocol) {
		t.Errorf("less was acknowledged than before: %v", err)
	}
}

// TestQueueSlowLane checks a lane that still sends a chunk after the destination has applied it and
// the ring has gone round. The lane takes no other chunk's place.
func TestQueueSlowLane(t *testing.T) {
	f := newTestQueue(t, 4, alone(0))
	f.grant(0, all)
	for range 4 {
		f.putOne(t.Context(), 0)
	}
	slow := f.takeOne()
	for range 3 {
		f.apply(f.takeOne())
	}
	for range 3 {
		f.putOne(t.Context(), 0)
	}
	second := f.takeOne()
	if second.Seq != 4 {
		t.Fatalf("chunk %d is sent, want 4", second.Seq)
	}
	f.finishSend(slow)
	f.finishSend(second)
	f.requeue(0)
	if c := f.takeOne(); c != second {
		t.Errorf("chunk %d is sent again, want 4", c.Seq)
	} else {
		f.finishSend(c)
	}
	if n := f.arena.InUse(); n != 3 {
		t.Errorf("%d chunks are in use, want 3", n)
	}
}

// BenchmarkQueue is the whole way of a chunk through the queue, without its bytes: get, put, take,
// finishSend, ack. A chunk of 1 MiB takes some 100 µs to read, digest and send. The queue is empty,
// or so many chunks wait for a lane.
func BenchmarkQueue(b *testing.B) {
	for _, waiting := range []uint64{0, 32} {
		b.Run(fmt.Sprint(waiting), func(b *testing.B) {
			f := newTestQueue(b, 64, alone(0))
			f.grant(0, all)
			b.ReportAllocs()
			for i := range uint64(b.N) + waiting {
				c, err := f.get(b.Context(), 0)
				if err != nil {
					b.Fatal(err)
				}
				c.ChunkHead = wire.ChunkHead{Seq: i, Offset: i * 10, RawLen: 10}
				f.put(c)
				if i >= waiting {
					f.apply(f.takeOne())
				}
			}
		})
	}
}
