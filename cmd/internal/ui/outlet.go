package ui

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"
)

// Bounds of what waits for the reader of an output.
const (
	outletMost = 1 << 20         // bytes that wait at most; more are dropped
	outletBusy = 64 << 10        // bytes, beyond which progress is not worth writing
	outletEnd  = 2 * time.Second // for the rest, in the end
)

// outlet is stdout or stderr. A Write never waits: neither a migration nor the end of the
// program may wait for a reader that has stopped reading. Writes come out in order.
type outlet struct {
	name     string
	to       io.Writer
	alarm    func(text string) // reports, once each, that the reader has stopped reading or has gone
	wake     chan struct{}
	mu       sync.Mutex
	waiting  []piece // the first one is being written
	size     int
	dropped  int           // lines
	stalled  bool          // the alarm has reported that the reader has stopped reading
	failed   error         // the first Write that failed
	torn     bool          // the last Write has written a part of a line
	idle     chan struct{} // is closed when nothing waits any more; nil if drain does not wait
	patience time.Duration // how long drain may still wait
}

// piece is what one call has written. A vital one is for a VMM or a person to act on.
type piece struct {
	text  []byte
	vital bool
}

func newOutlet(name string, to io.Writer) *outlet {
	o := &outlet{name: name, to: to, alarm: func(string) {}, wake: make(chan struct{}, 1), patience: outletEnd}
	go o.run() // it ends with the process: a write that waits cannot be ended
	return o
}

// Write implements [io.Writer]. It does not fail: finish reports the losses.
func (o *outlet) Write(p []byte) (int, error) {
	o.put(p, false)
	return len(p), nil
}

// put queues a copy of a piece, unless it is empty. A piece for which there is no room is
// dropped. A vital piece is not: the oldest others make room for it.
func (o *outlet) put(p []byte, vital bool) {
	if len(p) == 0 {
		return
	}
	o.mu.Lock()
	for vital && o.size+len(p) > outletMost && o.makeRoom() {
	}
	first := false
	if o.size+len(p) > outletMost {
		o.dropped += lines(p)
		first, o.stalled = !o.stalled && o.failed == nil, true
	} else {
		o.waiting, o.size = append(o.waiting, piece{bytes.Clone(p), vital}), o.size+len(p)
	}
	o.mu.Unlock()
	if first {
		o.alarm("the reader of " + o.name + " has stopped reading: what does not fit is dropped")
	}
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// makeRoom drops the oldest piece that waits, of those that are not vital if there are
// any. It reports whether there was one.
func (o *outlet) makeRoom() bool {
	if len(o.waiting) < 2 {
		return false
	}
	i := 1 + max(0, slices.IndexFunc(o.waiting[1:], func(p piece) bool { return !p.vital }))
	o.size -= len(o.waiting[i].text)
	o.dropped += lines(o.waiting[i].text)
	o.waiting = slices.Delete(o.waiting, i, i+1)
	return true
}

// skip counts a line that is not written because the reader is slow, and reports whether that
// is so.
func (o *outlet) skip() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.size <= outletBusy {
		return false
	}
	o.dropped++
	return true
}

func lines(p []byte) int { return max(1, bytes.Count(p, []byte{'\n'})) }

func (o *outlet) run() {
	for range o.wake {
		for {
			p, ok := o.next()
			if !ok {
				break
			}
			n, err := o.to.Write(p)
			o.wrote(n, err)
		}
	}
}

// next is the next piece; ok is false if none waits. The piece is counted until it is written.
// After a part of a line, it begins on a new line.
func (o *outlet) next() (p []byte, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.waiting) == 0 {
		if o.idle != nil {
			close(o.idle)
			o.idle = nil
		}
		return nil, false
	}
	if o.torn {
		return slices.Concat([]byte{'\n'}, o.waiting[0].text), true
	}
	return o.waiting[0].text, true
}

// wrote notes what became of the first piece. A disk that is full may have room again, and
// so the next piece is tried too.
func (o *outlet) wrote(n int, err error) {
	o.mu.Lock()
	p := o.waiting[0].text
	o.waiting, o.size = o.waiting[1:], o.size-len(p)
	first := err != nil && o.failed == nil
	if err == nil {
		o.torn = false
	} else {
		o.failed = err
		o.torn = o.torn || n > 0
		o.dropped += lines(p)
	}
	o.mu.Unlock()
	if first {
		o.alarm(fmt.Sprintf("what is written to %s is lost: %v", o.name, cause(err)))
	}
}

// cause leaves out the path that os repeats.
func cause(err error) error {
	if e, ok := err.(*os.PathError); ok {
		return e.Err
	}
	return err
}

// drain waits until all is written, for outletEnd at most over all calls.
func (o *outlet) drain() {
	o.mu.Lock()
	if len(o.waiting) == 0 {
		o.mu.Unlock()
		return
	}
	if o.idle == nil {
		o.idle = make(chan struct{})
	}
	idle := o.idle
	o.mu.Unlock()
	began := time.Now()
	select {
	case <-idle:
	case <-time.After(o.patience):
	}
	o.patience -= time.Since(began)
}

// finish is drain, and gives the number of lines that were not written.
func (o *outlet) finish() int {
	o.drain()
	o.mu.Lock()
	defer o.mu.Unlock()
	left := o.dropped
	for _, p := range o.waiting {
		left += lines(p.text)
	}
	return left
}

// outlets are those of a program.
type outlets struct{ out, err *outlet }

func newOutlets(program string) outlets {
	o := outlets{newOutlet("stdout", os.Stdout), newOutlet("stderr", os.Stderr)}
	o.out.alarm = func(text string) { fmt.Fprintf(o.err, "%s: warning: %s\n", program, text) }
	return o
}

// finish writes the rest, and reports on stderr how much of stdout was not written.
func (o outlets) finish(program string) {
	if n := o.out.finish(); n > 0 {
		fmt.Fprintf(o.err, "%s: warning: lines that were not written to stdout: %d\n", program, n)
	}
	o.err.finish()
}

// put writes to an outlet, or to what stands for one.
func put(w io.Writer, p []byte, vital bool) error {
	if o, ok := w.(*outlet); ok {
		o.put(p, vital)
		return nil
	}
	_, err := w.Write(p)
	return err
}
