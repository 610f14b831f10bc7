package writer

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/transport"
)

// safe is a stream that remembers how much of it is durable.
type safe struct {
	null
	synced []int // what was written at each Sync
	err    error
}

func (s *safe) Sync(note []byte) error {
	if s.err != nil {
		return s.err
	}
	n, err := parseNote(note)
	if err == nil && n.digest.Bytes() != uint64(s.written) {
		err = errors.New("the note is of another offset")
	}
	s.synced = append(s.synced, s.written)
	return err
}

// keeping loads a stream into a device that keeps it.
type keptLoad struct {
	*loader
	dev   *safe
	arena *transport.Arena
	acked []uint64 // DeviceAck.Seq, whenever the source was to be told of more
	ended *loaderEnded
	sent  uint64
}

func newKeptLoad(t *testing.T, chunks int) *keptLoad {
	k := &keptLoad{dev: &safe{}, arena: testArena(t, chunks)}
	m := newMerge(alone(chunks), 0, 1<<20)
	m.keeps()
	k.loader = &loader{name: "d", dev: k.dev, stream: k.dev, merge: m, digest: transport.NewDigest(), applied: func() {},
		post: func(ev any) { e := ev.(loaderEnded); k.ended = &e }}
	k.keep = newKeeper(k.dev, note{noteHead{Version: noteVersion}, k.digest}, chunks*testChunk, func() {
		ack, _ := m.status()
		k.acked = append(k.acked, ack.Seq)
	})
	return k
}

// arrive delivers the next n chunks.
func (k *keptLoad) arrive(t *testing.T, n int) {
	t.Helper()
	for range n {
		c := chunkOf(t, k.arena, k.sent, k.sent*testChunk, make([]byte, testChunk))
		if _, err := k.merge.claim(c.ChunkHead, nil); err != nil {
			t.Fatal(err)
		}
		k.merge.deliver(c)
		k.sent++
	}
}

// TestAcknowledgedWhenDurable: the source may forget what is durable, and no more;
// credit is for memory, and comes with what is applied. What has come is durable soon,
// whether more comes or not: a source that has no more memory sends nothing until then.
func TestAcknowledgedWhenDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeptLoad(t, 16) // a sync is due after four
		ctx, stop := context.WithCancel(t.Context())
		go k.run(ctx)
		k.arrive(t, 3)
		synctest.Wait()
		if ack, _ := k.merge.status(); ack.Seq != 0 || ack.Applied != 0 || ack.Window.Seq != 19 {
			t.Errorf("three are written, none is durable: %+v", ack)
		}
		k.arrive(t, 2)
		synctest.Wait()
		if ack, _ := k.merge.status(); ack.Seq != 4 || ack.Applied != 4*testChunk || ack.Window.Seq != 21 {
			t.Errorf("five are written, four are durable: %+v", ack)
		}
		time.Sleep(syncIdle)
		synctest.Wait()
		if ack, _ := k.merge.status(); ack.Seq != 5 {
			t.Errorf("nothing has come for %v: %+v", syncIdle, ack)
		}
		time.Sleep(time.Minute)
		k.arrive(t, 1)
		if _, err := k.merge.finish(&transport.End{Bytes: 6 * testChunk, Chunks: 6, Digest: digestOf(6)}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if k.ended == nil || k.ended.fault != nil || !slices.Equal(k.acked, []uint64{4, 5, 6}) || !slices.Equal(k.dev.synced, []int{4 * testChunk, 5 * testChunk, 6 * testChunk}) {
			t.Errorf("ended %+v; told of %v; synced %v", k.ended, k.acked, k.dev.synced)
		}
		stop()
		if err := k.arena.Close(); err != nil {
			t.Error(err)
		}
	})
}

// digestOf is that of n whole chunks of zeros.
func digestOf(n uint64) transport.StreamDigest {
	arena, err := transport.NewArena(0, testChunk, 1)
	if err != nil {
		panic(err)
	}
	defer arena.Close()
	d := transport.NewDigest()
	for seq := range n {
		c := chunkOf(panics{}, arena, seq, seq*testChunk, make([]byte, testChunk))
		d.Add(c.ChunkHead)
		c.Release()
	}
	return d.Sum()
}

type panics struct{}

func (panics) Fatal(args ...any) { panic(args) }

// TestSyncFails: what cannot be made durable is not acknowledged, and ends the attempt.
func TestSyncFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeptLoad(t, 16)
		k.dev.err = syscall.EIO
		go k.run(t.Context())
		k.arrive(t, 4)
		synctest.Wait()
		if k.ended == nil || k.ended.fault == nil || k.ended.fault.Code != transport.CodeDevice || !errors.Is(k.ended.fault, syscall.EIO) {
			t.Errorf("ended %+v", k.ended)
		}
		if ack, _ := k.merge.status(); ack.Seq != 0 || len(k.acked) > 0 {
			t.Errorf("told of %v", ack)
		}
		k.merge.drop()
		if err := k.arena.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestMergeGoesOn: behind what a process before has written, with the whole of the
// memory; and what was sent by that one's promise ends a lane, and not the attempt.
func TestMergeGoesOn(t *testing.T) {
	c := alone(4)
	m := newMerge(c, 0, 1<<20)
	m.goOn(100, 5000)
	if ack, _ := m.status(); ack.Seq != 100 || ack.Applied != 5000 || ack.Window.Seq != 104 || ack.Window.Offset != 5000+4*testChunk {
		t.Errorf("%+v", ack)
	}
	for seq, want := range map[uint64]error{0: errAgain, 99: errAgain, 100: nil, 103: nil, 104: errStale, 1000: errStale} {
		if _, err := m.claim(transport.ChunkHead{Seq: seq, Offset: 5000 + seq, RawLen: 10}, nil); err != want {
			t.Errorf("chunk %d: %v, want %v", seq, err, want)
		}
	}
	m.unclaim(100)
	m.unclaim(103)
	if _, err := m.finish(&transport.End{Chunks: 3}); err != nil { // which is wrong, and found by the loader
		t.Error(err)
	}
	if ack, _ := m.status(); ack.Window.Seq != 104 {
		t.Errorf("%+v", ack)
	}
}
