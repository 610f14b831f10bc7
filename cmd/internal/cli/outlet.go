package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Bounds of what waits for the reader of an output.
const (
	outletMost = 1 << 20         // bytes, beyond which what is written is dropped
	outletBusy = 64 << 10        // bytes, beyond which progress is not worth writing
	outletEnd  = 2 * time.Second // for the rest, in the end
)

// outlet is stdout or stderr. A Write never waits: neither a migration nor the end of the
// program may wait for a reader that stands still. What is written comes out in order.
type outlet struct {
	name    string
	to      io.Writer
	alarm   func(text string) // says, once, that the reader stands still or has gone
	wake    chan struct{}
	mu      sync.Mutex
	waiting [][]byte
	size    int
	dropped int   // lines
	failed  error // the first Write that failed: all after it is dropped
	idle    chan struct{}
}

func newOutlet(name string, to io.Writer) *outlet {
	o := &outlet{name: name, to: to, alarm: func(string) {}, wake: make(chan struct{}, 1)}
	go o.run() // it ends with the process: a write that waits cannot be ended
	return o
}

// Write implements [io.Writer]. It does not fail: finish says what was lost.
func (o *outlet) Write(p []byte) (int, error) {
	o.mu.Lock()
	first := false
	if o.failed != nil || o.size+len(p) > outletMost {
		first = o.dropped == 0 && o.failed == nil
		o.dropped += lines(p)
	} else {
		o.waiting, o.size = append(o.waiting, bytes.Clone(p)), o.size+len(p)
	}
	o.mu.Unlock()
	if first {
		o.alarm("the reader of " + o.name + " stands still: what does not fit is dropped")
	}
	select {
	case o.wake <- struct{}{}:
	default:
	}
	return len(p), nil
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
			p := o.next()
			if p == nil {
				break
			}
			_, err := o.to.Write(p)
			o.wrote(p, err)
		}
	}
}

// next is what is written next. It stays counted until it was.
func (o *outlet) next() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.waiting) == 0 {
		if o.idle != nil {
			close(o.idle)
			o.idle = nil
		}
		return nil
	}
	return o.waiting[0]
}

func (o *outlet) wrote(p []byte, err error) {
	o.mu.Lock()
	o.waiting, o.size = o.waiting[1:], o.size-len(p)
	if err != nil {
		o.failed = err
		o.dropped += lines(p)
		for _, rest := range o.waiting {
			o.dropped += lines(rest)
		}
		o.waiting, o.size = nil, 0
	}
	o.mu.Unlock()
	if err != nil {
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

// finish waits for the rest to be written, for outletEnd at most, and gives the number of
// lines that were not.
func (o *outlet) finish() int {
	o.mu.Lock()
	if len(o.waiting) > 0 {
		idle := o.idle
		if idle == nil {
			idle = make(chan struct{})
			o.idle = idle
		}
		o.mu.Unlock()
		select {
		case <-idle:
		case <-time.After(outletEnd):
		}
		o.mu.Lock()
	}
	defer o.mu.Unlock()
	left := o.dropped
	for _, p := range o.waiting {
		left += lines(p)
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

// finish writes what is left, and says on stderr how much of stdout was not written.
func (o outlets) finish(program string) {
	if n := o.out.finish(); n > 0 {
		fmt.Fprintf(o.err, "%s: warning: lines that were not written to stdout: %d\n", program, n)
	}
	o.err.finish()
}
