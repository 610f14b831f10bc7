package cli

import (
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
		t.Error("progress is written to a reader that stands still")
	}
	if len(said) != 1 || !strings.Contains(said[0], "the reader of stdout stands still") {
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

// TestOutletEnds: a reader that stands still does not keep the program from its end.
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

// TestOutletFails: what fails is told once, and counted.
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
