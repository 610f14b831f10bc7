package migrate

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/internal/must"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/writer"
)

// bombSize is the raw length that the bombs below claim in their chunk's header.
const bombSize = 4096

// zstdFrame is a frame of run-length blocks, 128 KiB each: 4 bytes encode 131072
// (RFC 8878, section 3.1.1). head follows the magic number.
func zstdFrame(blocks int, head ...byte) []byte {
	frame := append([]byte{0x28, 0xb5, 0x2f, 0xfd}, head...)
	for i := range blocks {
		const runLength = 1 << 1
		block := uint32(128<<10<<3 | runLength)
		if i == blocks-1 {
			block |= 1 // the last
		}
		frame = append(frame, byte(block), byte(block>>8), byte(block>>16), 'x')
	}
	return frame
}

// Heads of zstd frames: flags, window, content size.
var (
	zstdHonest = []byte{1 << 6, 12 << 3, (bombSize - 256) & 0xff, (bombSize - 256) >> 8} // 4 MiB window, 4096 bytes
	zstdLarge  = []byte{3 << 6, 12 << 3, 0, 0, 0, 0, 1, 0, 0, 0}                         // 4 GiB
	zstdSilent = []byte{0, 12 << 3}                                                      // names no size
	zstdWide   = []byte{1 << 6, 31 << 3, zstdHonest[2], zstdHonest[3]}                   // a window of 2 TiB
	zstdWhole  = []byte{3<<6 | 1<<5, 0, 0, 0, 0, 1, 0, 0, 0}                             // one segment of 4 GiB
)

// s2Block claims a length and then copies the previous byte, 64 times per 3 bytes
// (the Snappy format, which S2 extends).
func s2Block(claimed uint64, copies int) []byte {
	block := append(binary.AppendUvarint(nil, claimed), 0, 'x')
	return append(block, bytes.Repeat([]byte{63<<2 | 2, 1, 0}, copies)...)
}

// TestDecompressionBombs: a short payload with long content costs only what the chunk's
// header claims, within its limit.
func TestDecompressionBombs(t *testing.T) {
	const many = 1000 // blocks: 125 MiB in 4 KB
	for _, c := range []struct {
		name    string
		id      codec.ID
		payload []byte
	}{
		{"zstd, longer than it says", codec.IDZstd, zstdFrame(many, zstdHonest...)},
		{"zstd, 4 GiB as it says", codec.IDZstd, zstdFrame(many, zstdLarge...)},
		{"zstd, one segment of 4 GiB", codec.IDZstd, zstdFrame(many, zstdWhole...)},
		{"zstd, of no size", codec.IDZstd, zstdFrame(many, zstdSilent...)},
		{"zstd, window of 2 TiB", codec.IDZstd, zstdFrame(many, zstdWide...)},
		{"zstd, frame after frame", codec.IDZstd, bytes.Repeat(zstdFrame(1, zstdHonest...), 300)},
		{"zstd, shorter than it says", codec.IDZstd, zstdFrame(0, zstdHonest...)},
		{"s2, longer than it says", codec.IDS2, s2Block(bombSize, 1300)},
		{"s2, 4 GiB as it says", codec.IDS2, s2Block(1<<32-1, 1300)},
		{"s2, 2^63 as it says", codec.IDS2, s2Block(1<<63, 1300)},
		{"s2, shorter than it says", codec.IDS2, s2Block(bombSize, 1)},
		{"s2, literal of 4 GiB", codec.IDS2, append(binary.AppendUvarint(nil, bombSize), 63<<2, 0xff, 0xff, 0xff, 0xff)},
		{"s2, copy of what is not there", codec.IDS2, append(binary.AppendUvarint(nil, bombSize), 63<<2|2, 0xff, 0xff)},
	} {
		t.Run(c.name, func(t *testing.T) { // in no bubble: the whole process shares the zstd decoders
			againstSource(t, func(h *hostile) { h.payload(c.id, bombSize, c.payload) }, transport.CodeCorrupt)
		})
	}
}

// payload sends a chunk whose payload is no valid encoding.
func (h *hostile) payload(id codec.ID, raw uint32, payload []byte) {
	c, err := h.arena.TryGet()
	if err != nil {
		h.Fatal(err)
	}
	defer c.Release()
	c.ReadRaw(bytes.NewReader(payload), len(payload))
	c.Seal(0, 0, 0)
	c.Codec, c.RawLen = id, raw
	c.WriteFrame(h.data)
}

// frame sends a control message that no encoder makes.
func (h *hostile) frame(kind, flags byte, body []byte) { h.lane.Write(controlFrame(kind, flags, body)) }

func controlFrame(kind, flags byte, body []byte) []byte {
	head := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	head = append(head, kind, flags, 0, 0)
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Update(crc32.Checksum(head, table), table, body)
	return append(binary.BigEndian.AppendUint32(head, sum), body...)
}

// deaf reads and discards the control lane's answers until the lane ends.
func (h *hostile) deaf() {
	go func() {
		for h.receive() != nil {
		}
	}()
}

// unknownType is a number without a message.
const unknownType = 200

// flood is the number of messages in a flood: retained, they would need more than room.
// With the race detector the flood is shorter, because only the code path counts.
var flood = map[bool]int{false: 400_000, true: 20_000}[raceEnabled]

// TestHostileControl: a source's control messages cost the memory of only the one message
// that the destination reads.
func TestHostileControl(t *testing.T) {
	wrong := func(h *hostile) { h.send(&wire.Commit{Attempt: h.attempt, Journal: h.welcome.Journal}) }
	for _, c := range []struct {
		name string
		do   func(*hostile)
		code transport.Code
	}{
		{"16 KiB + 1", func(h *hostile) { h.frame(unknownType, 1, make([]byte, wire.MaxControl+1)) }, transport.CodeProtocol},
		{"unknown, not to be skipped", func(h *hostile) { h.frame(unknownType, 0, nil) }, transport.CodeProtocol},
		{"unknown and skipped, of 16 KiB", func(h *hostile) { h.frame(unknownType, 1, make([]byte, wire.MaxControl)); h.end(2, 0, 0) }, transport.CodeProtocol},
		{"reserved bits", func(h *hostile) { h.frame(unknownType, 2, nil) }, transport.CodeProtocol},
		{"no map", func(h *hostile) { h.frame(byte(wire.TypeEstimate), 0, []byte{0xf6}) }, transport.CodeProtocol},
		{"array of 2^32 devices", func(h *hostile) {
			h.frame(byte(wire.TypeEstimate), 0, []byte{0xa1, 0x04, 0x9a, 0xff, 0xff, 0xff, 0xff})
		}, transport.CodeProtocol},
		{"arrays within arrays", func(h *hostile) {
			h.frame(byte(wire.TypeEstimate), 0, append([]byte{0xa1, 0x04}, bytes.Repeat([]byte{0x81}, 16000)...))
		}, transport.CodeProtocol},
		{"ESTIMATEs without end", func(h *hostile) {
			for range flood {
				h.send(&wire.Estimate{Attempt: h.attempt, Stamp: 1, Devices: []wire.DeviceEstimate{{Dirty: 1 << 63, Known: true}, {Initial: 1<<64 - 1}}})
			}
			wrong(h)
		}, transport.CodeProtocol},
		{"questions without end", func(h *hostile) {
			h.deaf()
			for range flood {
				h.send(&wire.Query{Attempt: h.attempt})
			}
			wrong(h)
			time.Sleep(5 * time.Second)
		}, transport.CodeProtocol},
		{"what may be skipped without end", func(h *hostile) {
			frame := controlFrame(unknownType, 1, make([]byte, wire.MaxControl))
			for range flood / 20 {
				h.lane.Write(frame)
			}
			wrong(h)
		}, transport.CodeProtocol},
		{"ENDs of another attempt without end", func(h *hostile) {
			other := *h
			other.attempt.Epoch++
			for range flood {
				other.end(0, 0, 0)
			}
			wrong(h)
		}, transport.CodeProtocol},
		{"half a message, then ENDs never come", func(h *hostile) {
			h.end(0, 100, 1)
			h.end(1, 100, 1)
			h.lane.Write(make([]byte, 11))
		}, transport.CodeTimeout},
		{"half a chunk", func(h *hostile) {
			h.end(0, 100, 1)
			h.end(1, 100, 1)
			h.data.Write(h.headOf(100))
		}, transport.CodeTimeout},
		{"a chunk in crumbs", func(h *hostile) {
			h.end(0, 100, 1)
			h.end(1, 100, 1)
			h.data.Write(h.headOf(100))
			for range 50 {
				h.data.Write([]byte{0})
				time.Sleep(time.Second)
			}
		}, transport.CodeTimeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { againstSource(t, c.do, c.code) })
		})
	}
}

// headOf is the header of a chunk without its payload.
func (h *hostile) headOf(raw int) []byte {
	c, err := h.arena.TryGet()
	if err != nil {
		h.Fatal(err)
	}
	defer c.Release()
	c.ReadRaw(bytes.NewReader(make([]byte, raw)), raw)
	c.Seal(0, 0, 0)
	var frame bytes.Buffer
	c.WriteFrame(&frame)
	return frame.Bytes()[:frame.Len()-raw]
}

// TestStubbornSources: a silent source counts as lost. A source that only sends
// heartbeats may be waiting for its guest, so only the destination's user can judge it.
// It cannot prevent that, and leaves nothing behind.
func TestStubbornSources(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(*hostile)
		code transport.Code
	}{
		{"it says that it is there", func(h *hostile) {
			for h.control.Send(&wire.Estimate{Attempt: h.attempt, Devices: make([]wire.DeviceEstimate, 2)}) == nil {
				time.Sleep(wire.Heartbeat)
			}
		}, transport.CodeCancelled},
		{"silence", func(*hostile) {}, transport.CodeNetwork},
		{"half a chunk", func(h *hostile) { h.data.Write(h.headOf(100)) }, transport.CodeNetwork},
		{"half a message", func(h *hostile) { h.lane.Write(make([]byte, 11)) }, transport.CodeNetwork},
		{"a chunk in crumbs", func(h *hostile) {
			h.data.Write(h.headOf(100))
			for range 50 {
				h.data.Write([]byte{0})
				time.Sleep(time.Second)
			}
		}, transport.CodeNetwork},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { untilEnded(t, time.Minute, c.do, c.code) })
		})
	}
}

// TestUnansweredSource: a source that asks without end and reads no answer counts as
// lost, like an absent one. The test uses no bubble, because a goroutine that waits for a
// mutex there stops the virtual time.
func TestUnansweredSource(t *testing.T) {
	untilEnded(t, patience, func(h *hostile) {
		for h.control.Send(&wire.Query{Attempt: h.attempt}) == nil {
		}
	}, transport.CodeNetwork)
}

// untilEnded has the destination's user cancel after a while.
func untilEnded(t *testing.T, cancelled time.Duration, do func(*hostile), code transport.Code) {
	d := newVictim(t)
	time.AfterFunc(cancelled, d.cancel)
	began := time.Now()
	h := d.source(t)
	h.open()
	done := make(chan struct{})
	go func() { do(h); close(done) }()
	r := <-d.done
	h.lane.Close()
	h.data.Close()
	<-done
	if f := r.fault(t); f.Code != code || f.Remote || r.report.Outcome != migration.Aborted {
		t.Errorf("destination: %v, %v, want %v: %q", r.report.Outcome, f.Code, code, f)
	}
	if took := time.Since(began); took > cancelled+5*time.Second {
		t.Errorf("cancelled after %v, ended after %v", cancelled, took)
	}
	d.unharmed(t)
}

// TestSilentCrowd: within a host, no handshake keeps lanes out. The destination waits for
// no more lanes than may be half open, and closes the others at once.
func TestSilentCrowd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sock")
	l, err := transport.ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	d := &transport.UnixDialer{Path: path}
	p := newPair(t, nil)
	p.add(t, "d0", nic, nic)
	before := runtime.NumGoroutine()
	done := make(chan side)
	go func() {
		r, err := writer.Receive(p.receiveCtx, l, p.sinks, nil)
		done <- side{r, err}
	}()
	var held []transport.Lane
	for range 3 * transport.MaxHalfOpen {
		lane := must.Get(d.Dial(t.Context()))
		defer lane.Close()
		lane.SetDeadline(time.Now().Add(20 * time.Millisecond))
		if _, err := lane.Read(make([]byte, 1)); err != io.EOF {
			held = append(held, lane)
		}
		if n := runtime.NumGoroutine() - before; n > transport.MaxHalfOpen+10 {
			t.Fatalf("%d goroutines wait for silent lanes", n)
		}
	}
	// On a busy machine the test may see the end of a lane late.
	var late atomic.Int64
	var wg sync.WaitGroup
	for _, lane := range held {
		lane.SetDeadline(time.Now().Add(500 * time.Millisecond))
		wg.Go(func() {
			if _, err := lane.Read(make([]byte, 1)); err == io.EOF {
				late.Add(1)
			}
		})
	}
	wg.Wait()
	hungUp := 3*transport.MaxHalfOpen - len(held) + int(late.Load())
	if want := 2 * transport.MaxHalfOpen; hungUp < want {
		t.Errorf("%d lanes were hung up on, want %d", hungUp, want)
	}
	time.Sleep(transport.HandshakeTimeout)
	r, err := p.sendTo(d)
	if err != nil {
		p.cancelReceive()
	}
	got := <-done
	if err != nil || got.err != nil {
		t.Fatalf("send: %v\nreceive: %v", err, got.err)
	}
	p.committed(t, side{r, err}, got)
}
