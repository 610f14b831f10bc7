package sim

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

func TestContentDoesNotDependOnPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Content(rapid.IntRange(0, len(contentNames)-1).Draw(t, "content"))
		key := rapid.Uint64().Draw(t, "key")
		whole := make([]byte, rapid.IntRange(1, 5*pageSize).Draw(t, "len"))
		base := rapid.Int64Range(0, 1<<40).Draw(t, "base")
		c.fill(whole, key, base)
		cut := make([]byte, len(whole))
		for at := 0; at < len(cut); {
			n := rapid.IntRange(1, len(cut)-at).Draw(t, "n")
			c.fill(cut[at:at+n], key, base+int64(at))
			at += n
		}
		if !bytes.Equal(whole, cut) {
			t.Fatal("content depends on the pieces")
		}
	})
}

func TestContentDependsOnKey(t *testing.T) {
	for _, c := range []Content{Random, Mixed, Text} {
		a, b := make([]byte, 64<<10), make([]byte, 64<<10)
		c.fill(a, 1, 0)
		c.fill(b, 2, 0)
		if bytes.Equal(a, b) {
			t.Errorf("%v: two keys give the same bytes", c)
		}
	}
}

func TestContentNames(t *testing.T) {
	for c := Random; c <= Text; c++ {
		got, err := parseContent(c.String())
		if err != nil || got != c {
			t.Errorf("parseContent(%q) = %v, %v", c.String(), got, err)
		}
	}
	if _, err := parseContent("noise"); err == nil {
		t.Error("unknown content accepted")
	}
}

func BenchmarkContent(b *testing.B) {
	buf := make([]byte, 1<<20)
	for c := Random; c <= Text; c++ {
		b.Run(c.String(), func(b *testing.B) {
			b.SetBytes(int64(len(buf)))
			b.ReportAllocs()
			for i := uint64(0); b.Loop(); i++ {
				c.fill(buf, i, 0)
			}
		})
	}
}
