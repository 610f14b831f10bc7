package codectest

import (
	"bytes"
	"testing"
)

func TestCorporaAreDeterministic(t *testing.T) {
	kinds := append(Corpora(), Corpus{"pointers", Pointers}, Corpus{"instructions", Instructions})
	for _, c := range kinds {
		for _, n := range []int{0, 1, 7, 4095, 4097, 64 << 10} {
			if !bytes.Equal(c.Bytes(n, 1), c.Bytes(n, 1)) {
				t.Errorf("%s: %d bytes differ with the same seed", c.Name, n)
			}
		}
		if c.Name != "zero" && bytes.Equal(c.Bytes(4096, 1), c.Bytes(4096, 2)) {
			t.Errorf("%s: two seeds give the same bytes", c.Name)
		}
	}
}

// TestFillOverwrites checks that a corpus overwrites all of dst.
func TestFillOverwrites(t *testing.T) {
	for _, c := range Corpora() {
		dirty := bytes.Repeat([]byte{0xaa}, 10000)
		c.Fill(dirty, 9)
		if !bytes.Equal(dirty, c.Bytes(10000, 9)) {
			t.Errorf("%s: Fill does not overwrite all bytes of dst", c.Name)
		}
	}
}

// TestCodeRepeats requests more code than the program has.
func TestCodeRepeats(t *testing.T) {
	n := len(text())
	if n == 0 {
		t.Skip("the .text section of the test program cannot be read")
	}
	b := Corpus{"code", Code}.Bytes(2*n, 0)
	if !bytes.Equal(b[:n], b[n:]) {
		t.Error("code does not repeat after its end")
	}
}
