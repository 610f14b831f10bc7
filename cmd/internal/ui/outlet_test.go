package ui

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

// slowReader takes what is written once it is let to.
type slowReader struct {
	let chan struct{}
	mu  sync.Mutex
	got strings.Builder
}

func (s *slowReader) Write(p []byte) (int, error) {
	<-s.let
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got.Write(p)
}

// TestOutletDoesNotWait: no Write waits for the reader, what does not fit is counted, and what
// was kept comes in order.
func TestOutletDoesNotWait(t *testing.T) {
	r := &slowReader{let: make(chan struct{})}
	o := newOutlet("stdout", r)
	defer close(o.wake)
	var said []string
	o.alarm = func(text string) { said = append(said, text) }
	line := []byte(strings.Repeat("x", 1023) + "\n")
	for range 2000 {
		o.Write(line)
	}
	if !o.skip() {
		t.Error("progress is written to a reader that has stopped reading")
	}
	if len(said) != 1 || !strings.Contains(said[0], "the reader of stdout has stopped reading") {
		t.Errorf("said %q", said)
	}
	close(r.let)
	if n := o.finish(); n != 2000-1024+1 {
		t.Errorf("%d lines were lost", n)
	}
	if got := r.got.Len(); got != 1024*1024 {
		t.Errorf("%d bytes were written", got)
	}
}

// TestOutletKeepsTheVital: an outlet keeps the pieces that a person or a VMM acts on, the last
// of them before the first. The order stays.
func TestOutletKeepsTheVital(t *testing.T) {
	r := &slowReader{let: make(chan struct{})}
	o := newOutlet("stdout", r)
	defer close(o.wake)
	line := []byte(strings.Repeat("x", 1023) + "\n")
	o.put([]byte("listening\n"), true)
	for range 1100 {
		o.Write(line)
	}
	o.put([]byte("pause\n"), true)
	o.put(bytes.Repeat([]byte("y"), 1<<20-2048), true) // takes the place of all others
	o.put([]byte("done\n"), true)
	close(r.let)
	o.finish()
	got := strings.ReplaceAll(strings.ReplaceAll(r.got.String(), string(line), "x "), "\n", " ")
	if got = strings.ReplaceAll(got, strings.Repeat("y", 1<<20-2048), "y "); !strings.HasPrefix(got, "listening ") || !strings.HasSuffix(got, "pause y done ") {
		t.Errorf("%.80q ... was written", got)
	}
	if o.size != 0 {
		t.Errorf("%d bytes wait", o.size)
	}
}

// TestOutletTriesAgain: a disk that was full may have room again. What comes then begins on
// a line of its own.
func TestOutletTriesAgain(t *testing.T) {
	d := &disk{room: 7}
	o := newOutlet("stdout", d)
	defer close(o.wake)
	fmt.Fprintln(o, "one")
	fmt.Fprintln(o, "two")
	o.drain()
	d.room = 100
	fmt.Fprintln(o, "three")
	if n := o.finish(); n != 1 || d.got.String() != "one\ntwo\nthree\n" {
		t.Errorf("%d lines were lost of %q", n, d.got.String())
	}
}

// TestOutletEmptyWrite: a Write of no bytes holds nothing up.
func TestOutletEmptyWrite(t *testing.T) {
	var got bytes.Buffer
	o := newOutlet("stdout", &got)
	defer close(o.wake)
	for _, p := range [][]byte{nil, {}, []byte("x\n"), nil} {
		if n, err := o.Write(p); n != len(p) || err != nil {
			t.Errorf("Write(%q) = %d, %v", p, n, err)
		}
	}
	if n := o.finish(); n != 0 || got.String() != "x\n" {
		t.Errorf("%d lines were lost of %q", n, got.String())
	}
}

// disk has room for some bytes.
type disk struct {
	room int
	got  bytes.Buffer
}

func (d *disk) Write(p []byte) (int, error) {
	n, err := min(d.room, len(p)), error(nil)
	if n < len(p) {
		err = errors.New("no space")
	}
	d.room -= n
	d.got.Write(p[:n])
	return n, err
}

// TestOutletEnds: a reader that has stopped reading does not keep the program from its end.
func TestOutletEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &slowReader{let: make(chan struct{})}
		o := newOutlet("stdout", r)
		fmt.Fprintln(o, "one")
		fmt.Fprintln(o, "two")
		if n := o.finish(); n != 2 {
			t.Errorf("%d lines were lost", n)
		}
		close(r.let)
		close(o.wake)
	})
}

// TestOutletFails: an outlet reports the first Write that fails, and counts all of them.
func TestOutletFails(t *testing.T) {
	o := newOutlet("stdout", full{})
	defer close(o.wake)
	said := make(chan string, 9)
	o.alarm = func(text string) { said <- text }
	for range 3 {
		fmt.Fprintln(o, "line")
	}
	if n := o.finish(); n != 3 {
		t.Errorf("%d lines were lost", n)
	}
	fmt.Fprintln(o, "line")
	if n := o.finish(); n != 4 || len(said) != 1 || <-said != "what is written to stdout is lost: no space" {
		t.Errorf("%d lines were lost, said %d times", n, len(said))
	}
}
