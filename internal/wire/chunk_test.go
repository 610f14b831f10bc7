package wire

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
)

func TestChunkHeadRoundTrip(t *testing.T) {
	for _, h := range goldenHeads() {
		var b [chunkHeadLen]byte
		h.encode(b[:])
		if got, err := ParseChunkHead(b[:]); err != nil || got != h {
			t.Errorf("%+v decodes to %+v, %v", h, got, err)
		}
	}
}

func TestChunkHeadChecks(t *testing.T) {
	raw := func(n, wire uint32) ChunkHead { return ChunkHead{RawLen: n, WireLen: wire} }
	coded := func(id codec.ID, n, wire uint32) ChunkHead { return ChunkHead{Codec: id, RawLen: n, WireLen: wire} }
	at := func(offset uint64) ChunkHead { return ChunkHead{RawLen: 8, WireLen: 8, Offset: offset} }
	for _, c := range []struct {
		name string
		head ChunkHead
		want string // part of the error, "" for none
	}{
		{"no bytes", raw(0, 0), "chunk of 0 bytes"},
		{"one byte", raw(1, 1), ""},
		{"below the largest", raw(MaxChunk-1, MaxChunk-1), ""},
		{"the largest", raw(MaxChunk, MaxChunk), ""},
		{"above the largest", raw(MaxChunk+1, MaxChunk+1), "limit 4194304"},
		{"4 GiB", raw(1<<32-1, 1<<32-1), "limit 4194304"},
		{"below the last offset", at(MaxStream - 9), ""},
		{"the last offset", at(MaxStream - 8), ""},
		{"above the last offset", at(MaxStream - 7), "chunk at offset"},
		{"an offset that wraps", at(1<<64 - 1), "chunk at offset"},
		{"raw and shorter on the wire", raw(8, 7), "raw chunk of 8 bytes with 7"},
		{"raw and longer on the wire", raw(8, 9), "raw chunk of 8 bytes with 9"},
		{"zero", coded(codec.IDZero, 8, 0), ""},
		{"zero with a payload", coded(codec.IDZero, 8, 1), "zero chunk with 1"},
		{"encoded to less", coded(codec.IDS2, 8, 7), ""},
		{"encoded to as much", coded(codec.IDS2, 8, 8), "encoded by s2 to 8"},
		{"encoded to more", coded(codec.IDZstd, 8, 9), "encoded by zstd to 9"},
		{"unchecked", ChunkHead{RawLen: 8, WireLen: 8, Unchecked: true}, ""},
		{"unchecked with a digest", ChunkHead{RawLen: 8, WireLen: 8, Unchecked: true, Digest: 1}, "unchecked chunk"},
		{"padding", ChunkHead{Padding: true, WireLen: MaxChunk}, ""},
		{"no padding", ChunkHead{Padding: true}, "padding of 0 bytes"},
		{"padding above the largest", ChunkHead{Padding: true, WireLen: MaxChunk + 1}, "limit 4194304"},
		{"padding with a raw length", ChunkHead{Padding: true, WireLen: 8, RawLen: 8}, "fields of a chunk"},
		{"padding of a device", ChunkHead{Padding: true, WireLen: 8, Device: 1}, "fields of a chunk"},
		{"unchecked and encoded", ChunkHead{RawLen: 8, WireLen: 7, Unchecked: true, Codec: codec.IDS2}, "unchecked chunk"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b [chunkHeadLen]byte
			c.head.encode(b[:])
			got, err := ParseChunkHead(b[:])
			if c.want == "" {
				if err != nil || got != c.head {
					t.Fatalf("%+v, %v", got, err)
				}
				return
			}
			if !errors.Is(err, transport.ErrProtocol) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want a protocol violation with %q", err, c.want)
			}
		})
	}
}

// reseal corrects the checksum, so that the later checks are tested.
func reseal(b []byte) []byte {
	binary.BigEndian.PutUint32(b[12:], headSum(b))
	return b
}

func TestChunkHeadTypes(t *testing.T) {
	for first := range 256 {
		var b [chunkHeadLen]byte
		head := ChunkHead{RawLen: 8, WireLen: 8}
		if first == framePadding {
			head.RawLen = 0
		}
		head.encode(b[:])
		b[0] = byte(first)
		_, err := ParseChunkHead(reseal(b[:]))
		if known := first == frameChunk || first == flagUnchecked<<4|frameChunk || first == framePadding; (err == nil) != known {
			t.Errorf("first byte %#02x: %v", first, err)
		}
	}
}

func TestChunkHeadBitFlips(t *testing.T) {
	for _, h := range goldenHeads() {
		var b [chunkHeadLen]byte
		h.encode(b[:])
		for bit := range 8 * chunkHeadLen {
			b[bit/8] ^= 1 << (bit % 8)
			if _, err := ParseChunkHead(b[:]); !errors.Is(err, transport.ErrCorrupt) {
				t.Errorf("%+v with bit %d flipped: %v", h, bit, err)
			}
			b[bit/8] ^= 1 << (bit % 8)
		}
	}
}

func TestChunkHeadTruncated(t *testing.T) {
	var frame bytes.Buffer
	var room HeadRoom
	c := sealed(t, newArena(t, 0, 4096, 1), []byte("state"))
	defer c.Release()
	if err := c.WriteFrame(&frame); err != nil {
		t.Fatal(err)
	}
	for n := range chunkHeadLen {
		if _, err := ParseChunkHead(frame.Bytes()[:n]); !errors.Is(err, transport.ErrProtocol) {
			t.Errorf("%d bytes: %v", n, err)
		}
		want := io.ErrUnexpectedEOF
		if n == 0 {
			want = io.EOF // the lane ends between two frames
		}
		if _, err := ReadChunkHead(bytes.NewReader(frame.Bytes()[:n]), &room); err != want {
			t.Errorf("lane of %d bytes: %v, want %v", n, err, want)
		}
	}
}

// sealed returns a sealed chunk with the bytes raw.
func sealed(t testing.TB, a *Arena, raw []byte) *Chunk {
	t.Helper()
	c := mustGet(t, a)
	if n, err := c.ReadRaw(bytes.NewReader(raw), len(raw)); n != len(raw) || err != nil {
		t.Fatalf("Fill: %d, %v", n, err)
	}
	c.Seal(1, 2, 3)
	return c
}

func TestFill(t *testing.T) {
	a := newArena(t, 0, 8, 1)
	for _, c := range []struct{ have, limit, want int }{{20, 100, 8}, {20, 8, 8}, {20, 7, 7}, {3, 8, 3}} {
		chunk := mustGet(t, a)
		n, err := chunk.ReadRaw(bytes.NewReader(make([]byte, c.have)), c.limit)
		if err != nil || n != c.want || int(chunk.RawLen) != c.want || int(chunk.WireLen) != c.want {
			t.Errorf("%d bytes, limit %d: %d, %v, header %+v", c.have, c.limit, n, err, chunk.ChunkHead)
		}
		chunk.Release()
	}
	chunk := mustGet(t, a)
	defer chunk.Release()
	if n, err := chunk.ReadRaw(strings.NewReader(""), 8); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
}

// TestChunkTravels sends and receives random chunks with each policy.
func TestChunkTravels(t *testing.T) {
	a := newArena(t, 0, 64<<10, 3)
	policies := []codec.Policy{codec.Auto(), codec.Fixed(codec.Raw), codec.Fixed(codec.S2), codec.Fixed(codec.Zstd)}
	pieces := rapid.SliceOfN(rapid.Uint8Range(0, 3), 1, 64)
	rapid.Check(t, func(t *rapid.T) {
		raw := bytes.Repeat(pieces.Draw(t, "piece"), rapid.IntRange(1, 1024).Draw(t, "times"))
		head := ChunkHead{Device: rapid.Uint16().Draw(t, "device"), Seq: rapid.Uint64().Draw(t, "seq"),
			Offset: rapid.Uint64Max(MaxStream-64<<10).Draw(t, "offset")}
		got, back, err := travel(a, raw, head, rapid.SampledFrom(policies).Draw(t, "policy"))
		if err != nil || !bytes.Equal(back, raw) {
			t.Fatalf("sent %d bytes, received %d, %v", len(raw), len(back), err)
		}
		if got.Device != head.Device || got.Seq != head.Seq || got.Offset != head.Offset {
			t.Fatalf("sent %+v, received %+v", head, got)
		}
		if a.InUse() != 0 {
			t.Fatalf("%d chunks were not released", a.InUse())
		}
	})
}

// travel sends raw as one frame and receives it.
func travel(a *Arena, raw []byte, at ChunkHead, policy codec.Policy) (ChunkHead, []byte, error) {
	c, spare, scratch := get(a), get(a), get(a)
	defer scratch.Release()
	defer spare.Release()
	defer c.Release()
	c.ReadRaw(bytes.NewReader(raw), len(raw))
	c.Seal(at.Device, at.Seq, at.Offset)
	var lane, out bytes.Buffer
	encoded, _ := c.EncodeTo(spare, policy)
	if err := encoded.WriteFrame(&lane); err != nil {
		return ChunkHead{}, nil, err
	}
	var room HeadRoom
	head, err := ReadChunkHead(&lane, &room)
	if err == nil {
		err = c.ReadPayload(&lane, head, scratch)
	}
	if err == nil {
		err = c.WriteRaw(&out)
	}
	return head, out.Bytes(), err
}

func get(a *Arena) *Chunk {
	c, err := a.TryGet()
	if err != nil {
		panic(err)
	}
	return c
}

// TestPayloadBitFlips checks that every flipped bit of a payload is an error, or changes
// no byte of the stream (an encoding may have unused bits).
func TestPayloadBitFlips(t *testing.T) {
	raw := bytes.Repeat([]byte("abcdefgh"), 64)
	for _, c := range []codec.Codec{codec.Raw, codec.S2, codec.Zstd} {
		a := newArena(t, 0, 4096, 3)
		from, spare, scratch := sealed(t, a, raw), mustGet(t, a), mustGet(t, a)
		var lane, out bytes.Buffer
		encoded, _ := from.EncodeTo(spare, codec.Fixed(c))
		if err := encoded.WriteFrame(&lane); err != nil {
			t.Fatal(err)
		}
		frame := lane.Bytes()
		head, err := ParseChunkHead(frame)
		if err != nil || head.Codec != c.ID() {
			t.Fatalf("%+v, %v", head, err)
		}
		for bit := 8 * chunkHeadLen; bit < 8*len(frame); bit++ {
			frame[bit/8] ^= 1 << (bit % 8)
			err := from.ReadPayload(bytes.NewReader(frame[chunkHeadLen:]), head, scratch)
			if err == nil {
				out.Reset()
				from.WriteRaw(&out)
			}
			if err == nil && !bytes.Equal(out.Bytes(), raw) || err != nil && !errors.Is(err, transport.ErrCorrupt) {
				t.Errorf("%v with bit %d flipped: %v", c.ID(), bit, err)
			}
			frame[bit/8] ^= 1 << (bit % 8)
		}
		from.Release()
		spare.Release()
		scratch.Release()
	}
}

// TestDigestBindsPlace checks that the digest covers the place of the bytes in the stream.
func TestDigestBindsPlace(t *testing.T) {
	a := newArena(t, 0, 4096, 2)
	from, scratch := sealed(t, a, []byte("state of a device")), mustGet(t, a)
	defer from.Release()
	defer scratch.Release()
	var lane bytes.Buffer
	if err := from.WriteFrame(&lane); err != nil {
		t.Fatal(err)
	}
	good := from.ChunkHead
	for name, move := range map[string]func(h *ChunkHead){
		"device": func(h *ChunkHead) { h.Device++ },
		"seq":    func(h *ChunkHead) { h.Seq++ },
		"offset": func(h *ChunkHead) { h.Offset++ },
		"length": func(h *ChunkHead) { h.RawLen--; h.WireLen-- },
		"digest": func(h *ChunkHead) { h.Digest++ },
	} {
		head := good
		move(&head)
		if err := from.ReadPayload(bytes.NewReader(lane.Bytes()[chunkHeadLen:]), head, scratch); !errors.Is(err, transport.ErrCorrupt) {
			t.Errorf("changed %s: %v", name, err)
		}
	}
}

func TestReadPayloadRefuses(t *testing.T) {
	a := newArena(t, 0, 4096, 2)
	c, scratch := mustGet(t, a), mustGet(t, a)
	defer c.Release()
	defer scratch.Release()
	for _, r := range []struct {
		name  string
		head  ChunkHead
		bytes int
		want  error
	}{
		{"a chunk larger than negotiated", ChunkHead{RawLen: 4097, WireLen: 4097}, 4097, transport.ErrProtocol},
		{"an unknown codec", ChunkHead{Codec: 200, RawLen: 4096, WireLen: 8}, 8, transport.ErrProtocol},
		{"the lane ends before the payload", ChunkHead{RawLen: 8, WireLen: 8}, 0, io.ErrUnexpectedEOF},
		{"the lane ends in the payload", ChunkHead{RawLen: 8, WireLen: 8}, 7, io.ErrUnexpectedEOF},
		{"the lane ends in an encoded payload", ChunkHead{Codec: codec.IDS2, RawLen: 8, WireLen: 4}, 0, io.ErrUnexpectedEOF},
		{"a payload that does not decode", ChunkHead{Codec: codec.IDZstd, RawLen: 4096, WireLen: 64}, 64, transport.ErrCorrupt},
	} {
		t.Run(r.name, func(t *testing.T) {
			if err := c.ReadPayload(bytes.NewReader(make([]byte, r.bytes)), r.head, scratch); !errors.Is(err, r.want) {
				t.Errorf("%v, want %v", err, r.want)
			}
		})
	}
}

// TestPadding checks that padding is one frame, that Discard reads all of it, and that it
// refuses more than the negotiated size.
func TestPadding(t *testing.T) {
	a := newArena(t, 0, 4096, 2)
	out, in := mustGet(t, a), mustGet(t, a)
	defer out.Release()
	defer in.Release()
	var lane bytes.Buffer
	out.Noise()
	if err := out.WritePadding(&lane, 4096); err != nil || lane.Len() != chunkHeadLen+4096 {
		t.Fatalf("%d bytes, %v", lane.Len(), err)
	}
	noise := bytes.Clone(lane.Bytes()[chunkHeadLen:])
	if bytes.Count(noise, []byte{0}) > 1024 {
		t.Error("the padding can be compressed")
	}
	var room HeadRoom
	h, err := ReadChunkHead(&lane, &room)
	if err != nil || !h.Padding || h.WireLen != 4096 {
		t.Fatalf("%+v, %v", h, err)
	}
	if err := in.Discard(&lane, h); err != nil || lane.Len() != 0 {
		t.Errorf("%d bytes are unread, %v", lane.Len(), err)
	}
	if err := in.Discard(bytes.NewReader(noise), ChunkHead{Padding: true, WireLen: 4097}); !errors.Is(err, transport.ErrProtocol) {
		t.Errorf("padding larger than negotiated: %v", err)
	}
	if err := in.Discard(bytes.NewReader(noise[:7]), ChunkHead{Padding: true, WireLen: 8}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("end of the lane within padding: %v", err)
	}
}

func TestZeroChunk(t *testing.T) {
	a := newArena(t, 0, 4096, 2)
	c, spare := sealed(t, a, make([]byte, 4096)), mustGet(t, a)
	defer c.Release()
	defer spare.Release()
	var lane bytes.Buffer
	out, _ := c.EncodeTo(spare, codec.Auto())
	if err := out.WriteFrame(&lane); err != nil || lane.Len() != chunkHeadLen || !out.Zero() || c.Zero() {
		t.Fatalf("%d bytes on the wire, %+v, %v", lane.Len(), out.ChunkHead, err)
	}
}

func TestStreamDigest(t *testing.T) {
	d, want := NewDigest(), sha256.New()
	for i := range 3 {
		h := ChunkHead{Device: 9, RawLen: uint32(100 + i), Seq: uint64(i), Offset: uint64(1000 * i), Digest: uint64(i) << 60}
		d.Add(h)
		binary.Write(want, binary.BigEndian, h.Offset)
		binary.Write(want, binary.BigEndian, h.RawLen)
		binary.Write(want, binary.BigEndian, h.Digest)
	}
	if d.Sum() != migration.StreamDigest(want.Sum(nil)) || d.Bytes() != 303 || d.Chunks() != 3 {
		t.Fatalf("%v over %d bytes in %d chunks", d.Sum(), d.Bytes(), d.Chunks())
	}
	if NewDigest().Sum() != migration.StreamDigest(sha256.Sum256(nil)) {
		t.Error("the digest of an empty stream is not the SHA-256 of no bytes")
	}
}

func FuzzChunkHead(f *testing.F) {
	for _, h := range goldenHeads() {
		var b [chunkHeadLen]byte
		h.encode(b[:])
		f.Add(b[:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= chunkHeadLen {
			b = reseal(bytes.Clone(b)) // otherwise the checksum would refuse nearly all inputs
		}
		h, err := ParseChunkHead(b)
		if err != nil {
			if h != (ChunkHead{}) || !isAny(err, transport.ErrProtocol, transport.ErrCorrupt) {
				t.Fatalf("returned %+v with the error %v", h, err)
			}
			return
		}
		var again [chunkHeadLen]byte
		h.encode(again[:])
		if !bytes.Equal(again[:], b[:chunkHeadLen]) {
			t.Fatalf("%x encodes to %x", b[:chunkHeadLen], again)
		}
		if h.RawLen > MaxChunk || h.WireLen > MaxChunk || h.Offset+uint64(h.RawLen) > MaxStream {
			t.Fatalf("accepted %+v", h)
		}
	})
}
