package main

import (
	"errors"
	"io"
	"testing"

	"github.com/migpipe/migpipe/vfio"
)

// A replay accepts what another replay yields, in pieces of any size. It detects a wrong
// byte, a missing byte and an extra byte.
func TestReplay(t *testing.T) {
	code, err := contents["code"]()
	if err != nil {
		t.Fatal(err)
	}
	size := int64(len(code)) + 12345 // once around
	content := readAll(t, &replay{size: size, content: code})
	if len(content) != int(size) {
		t.Fatalf("%d bytes, want %d", len(content), size)
	}
	spoilt := append([]byte{}, content...)
	spoilt[1000] ^= 1
	for name, c := range map[string]struct {
		content []byte
		right   bool
	}{
		"whole": {content, true}, "short": {content[:size-1], false}, "spoilt": {spoilt, false}, "long": {append(content, 0), false},
	} {
		d := &replay{size: size, content: code}
		s, err := d.SetState(vfio.Resuming)
		if err != nil {
			t.Fatal(err)
		}
		for b := c.content; len(b) > 0 && err == nil; {
			n := min(99_999, len(b))
			_, err = s.Write(b[:n])
			b = b[n:]
		}
		if err != nil && !errors.Is(err, vfio.ErrRejected) {
			t.Errorf("%s: %v", name, err)
		}
		if right := d.Verify() == nil; right != c.right {
			t.Errorf("%s: verified %v", name, right)
		}
	}
}

func readAll(t *testing.T, d *replay) []byte {
	t.Helper()
	s, err := d.SetState(vfio.StopCopy)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
