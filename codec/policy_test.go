package codec_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/codec/codectest"
)

var policies = map[string]codec.Policy{
	"auto": codec.Auto(),
	"raw":  codec.Fixed(codec.Raw),
	"zero": codec.Fixed(codec.Zero),
	"s2":   codec.Fixed(codec.S2),
	"zstd": codec.Fixed(codec.Zstd),
}

// chunkRoundTrip sends src through EncodeChunk and back.
func chunkRoundTrip(p codec.Policy, src []byte) (codec.ID, error) {
	room := newGuarded(codec.MaxEncodedLen(len(src)))
	_, id, enc := codec.EncodeChunk(p, 0, room.limited(), src)
	if err := rightPlace(id, room, enc, src); err != nil {
		return id, err
	}
	c, err := codec.ByID(id)
	if err != nil {
		return id, err
	}
	dst := newGuarded(len(src))
	if err := c.Decode(dst.inner(), enc); err != nil {
		return id, err
	}
	if !bytes.Equal(dst.inner(), src) {
		return id, fmt.Errorf("%v decodes to other bytes", id)
	}
	return id, dst.intact()
}

// rightPlace checks the memory and the length of the bytes that EncodeChunk returned.
func rightPlace(id codec.ID, room guarded, enc, src []byte) error {
	switch {
	case id == codec.IDZero:
		if enc != nil {
			return errors.New("a zero chunk has bytes")
		}
		return room.intact()
	case id == codec.IDRaw:
		if len(enc) != len(src) || &enc[0] != &src[0] {
			return errors.New("a raw chunk is not src itself")
		}
		return room.intact()
	case len(enc) >= len(src):
		return fmt.Errorf("%v encodes %d bytes as %d", id, len(src), len(enc))
	}
	return room.holds(enc)
}

func TestEncodeChunkRoundTrip(t *testing.T) {
	for _, corpus := range codectest.Corpora() {
		for _, n := range below {
			src := corpus.Bytes(n, 7)
			for name, p := range policies {
				if _, err := chunkRoundTrip(p, src); err != nil {
					t.Errorf("%s on %d bytes of %s: %v", name, n, corpus.Name, err)
				}
			}
		}
	}
}

func TestEncodeChunkChoice(t *testing.T) {
	for _, test := range []struct {
		policy, corpus string
		want           codec.ID
	}{
		{"auto", "zero", codec.IDZero},
		{"auto", "random", codec.IDRaw},
		{"auto", "mixed", codec.IDS2},
		{"auto", "text", codec.IDS2},
		{"auto", "code", codec.IDS2},
		{"raw", "zero", codec.IDZero},
		{"raw", "text", codec.IDRaw},
		{"zero", "zero", codec.IDZero},
		{"zero", "text", codec.IDRaw},
		{"s2", "zero", codec.IDZero},
		{"s2", "random", codec.IDRaw},
		{"s2", "mixed", codec.IDS2},
		{"zstd", "zero", codec.IDZero},
		{"zstd", "random", codec.IDRaw},
		{"zstd", "mixed", codec.IDZstd},
		{"zstd", "code", codec.IDZstd},
	} {
		got, err := chunkRoundTrip(policies[test.policy], corpusNamed(t, test.corpus).Bytes(1<<20, 8))
		if got != test.want || err != nil {
			t.Errorf("%s on %s: %v (%v), want %v", test.policy, test.corpus, got, err, test.want)
		}
	}
}

func corpusNamed(t testing.TB, name string) codectest.Corpus {
	t.Helper()
	for _, c := range codectest.Corpora() {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no corpus %q", name)
	return codectest.Corpus{}
}

// TestEncodeChunkOneByte has one non-zero byte, at each position.
func TestEncodeChunkOneByte(t *testing.T) {
	src := make([]byte, 4096*2+1)
	for at := range src {
		src[at] = 1
		if _, id, _ := codec.EncodeChunk(policies["raw"], 0, nil, src); id != codec.IDRaw {
			t.Fatalf("byte %d is non-zero, but the codec is %v", at, id)
		}
		src[at] = 0
	}
	if _, id, enc := codec.EncodeChunk(policies["raw"], 0, nil, src); id != codec.IDZero || enc != nil {
		t.Errorf("zeros: %v with %d bytes", id, len(enc))
	}
}

// TestAutoProbesWholeChunk gives Auto a chunk whose first half does not shrink.
func TestAutoProbesWholeChunk(t *testing.T) {
	src := corpusNamed(t, "random").Bytes(1<<20, 9)
	codectest.Text(src[1<<19:], 9)
	if got := codec.Auto().Choose(0, src).Codec.ID(); got != codec.IDS2 {
		t.Errorf("Auto chose %v", got)
	}
}
