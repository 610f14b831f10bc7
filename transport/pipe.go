package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// pipeBuffer is what one direction of an in-memory lane holds: enough that
// small messages do not wait for their reader, little enough that a slow reader
// is felt.
const pipeBuffer = 64 << 10

// Pipe connects a dialler and a listener within one process: for tests, and for
// an embedder that has both ends. It has no goroutine and no timer of its own
// but those of deadlines, so it works inside a testing/synctest bubble.
func Pipe() (Dialer, Listener) {
	p := &pipe{backlog: make(chan *pipeLane, 1+MaxLanes), closed: make(chan struct{})}
	return pipeDialer{p}, p
}

// pipe is the listener; lanes dialled but not yet accepted are in its backlog.
type pipe struct {
	backlog chan *pipeLane
	closed  chan struct{}
	close   sync.Once
}

type pipeDialer struct{ to *pipe }

func (d pipeDialer) Dial(ctx context.Context) (Lane, error) {
	there, back := newPipeHalf(), newPipeHalf()
	ours, theirs := &pipeLane{in: back, out: there}, &pipeLane{in: there, out: back}
	select {
	case d.to.backlog <- theirs:
	case <-d.to.closed:
	case <-ctx.Done():
		return nil, dialError(ctx, context.Cause(ctx))
	}
	select {
	case <-d.to.closed:
		d.to.drain() // Close may have come before this lane
		return nil, dialError(ctx, errors.New("nobody listens on the pipe"))
	default:
		return ours, nil
	}
}

func (p *pipe) Accept(ctx context.Context) (Lane, error) {
	select {
	case <-p.closed:
		return nil, fmt.Errorf("transport: accept: %w", net.ErrClosed)
	case <-ctx.Done():
		return nil, fmt.Errorf("transport: accept: %w", context.Cause(ctx))
	case lane := <-p.backlog:
		return lane, nil
	}
}

func (p *pipe) Addr() net.Addr { return pipeAddr{} }

func (p *pipe) Close() error {
	p.close.Do(func() { close(p.closed) })
	p.drain()
	return nil
}

func (p *pipe) drain() {
	for {
		select {
		case lane := <-p.backlog:
			lane.Close()
		default:
			return
		}
	}
}

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// pipeLane is one end: it reads from one half and writes to the other.
type pipeLane struct{ in, out *pipeHalf }

// Carrier implements [Carried].
func (l *pipeLane) Carrier() Carrier { return Carrier{Name: "pipe"} }

func (l *pipeLane) Read(p []byte) (int, error)  { return l.in.read(p) }
func (l *pipeLane) Write(p []byte) (int, error) { return l.out.write(p) }

func (l *pipeLane) CloseWrite() error {
	l.out.change(func(h *pipeHalf) { h.finished = true })
	return nil
}

func (l *pipeLane) SetDeadline(t time.Time) error {
	l.in.change(func(h *pipeHalf) { h.readBy.set(h, t) })
	l.out.change(func(h *pipeHalf) { h.writeBy.set(h, t) })
	return nil
}

func (l *pipeLane) Close() error {
	l.in.change(func(h *pipeHalf) { h.readerGone = true; h.readBy.set(h, time.Time{}) })
	l.out.change(func(h *pipeHalf) { h.writerGone = true; h.writeBy.set(h, time.Time{}) })
	return nil
}

// pipeHalf is one direction: a ring of bytes with a reader and a writer.
type pipeHalf struct {
	mu       sync.Mutex
	changed  sync.Cond
	ring     [pipeBuffer]byte
	start, n int // of the buffered bytes

	finished               bool // CloseWrite
	readerGone, writerGone bool // Close
	readBy, writeBy        pipeDeadline
}

func newPipeHalf() *pipeHalf {
	h := &pipeHalf{}
	h.changed.L = &h.mu
	return h
}

// change does what may wake a reader or a writer.
func (h *pipeHalf) change(do func(*pipeHalf)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	do(h)
	h.changed.Broadcast()
}

func (h *pipeHalf) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.readerGone:
			return 0, fmt.Errorf("transport: %w", net.ErrClosed)
		case h.readBy.passed():
			return 0, os.ErrDeadlineExceeded
		case h.writerGone && !h.finished:
			return 0, fmt.Errorf("transport: %w", ErrLost)
		case h.n > 0 || len(p) == 0:
			return h.take(p), nil
		case h.finished:
			return 0, io.EOF
		}
		h.changed.Wait()
	}
}

func (h *pipeHalf) write(p []byte) (done int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.writerGone || h.finished:
			return done, fmt.Errorf("transport: %w", net.ErrClosed)
		case h.readerGone:
			return done, fmt.Errorf("transport: %w", ErrLost)
		case h.writeBy.passed():
			return done, os.ErrDeadlineExceeded
		case h.n < len(h.ring):
			done += h.put(p[done:])
		}
		if done == len(p) {
			return done, nil
		}
		if h.n == len(h.ring) {
			h.changed.Wait()
		}
	}
}

// take moves what fits from the ring, in one or two pieces.
func (h *pipeHalf) take(p []byte) (total int) {
	for h.n > 0 && total < len(p) {
		end := min(h.start+h.n, len(h.ring))
		k := copy(p[total:], h.ring[h.start:end])
		h.start, h.n, total = (h.start+k)%len(h.ring), h.n-k, total+k
	}
	h.changed.Broadcast()
	return total
}

// put moves what fits into the ring, in one or two pieces.
func (h *pipeHalf) put(p []byte) (total int) {
	for h.n < len(h.ring) && total < len(p) {
		at := (h.start + h.n) % len(h.ring)
		end := min(at+len(h.ring)-h.n, len(h.ring))
		k := copy(h.ring[at:end], p[total:])
		h.n, total = h.n+k, total+k
	}
	h.changed.Broadcast()
	return total
}

// pipeDeadline is a point in time and the timer that wakes the waiters then.
type pipeDeadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *pipeDeadline) passed() bool {
	return !d.at.IsZero() && !time.Now().Before(d.at)
}

// set is called with the half's lock held.
func (d *pipeDeadline) set(h *pipeHalf, at time.Time) {
	if d.timer != nil {
		d.timer.Stop()
	}
	d.at, d.timer = at, nil
	if wait := time.Until(at); wait > 0 {
		d.timer = time.AfterFunc(wait, func() { h.change(func(*pipeHalf) {}) })
	}
}
