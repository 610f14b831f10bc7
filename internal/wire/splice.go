package wire

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/migpipe/migpipe/transport"
)

// spliceFlags keeps splice(2) from sleeping in the kernel: waiting is done in
// Go's poller, where a deadline can end it.
const spliceFlags = unix.SPLICE_F_MOVE | unix.SPLICE_F_NONBLOCK

// pipeSize is what a chunk's pipe is asked to hold; fs.pipe-max-size allows
// 1 MiB to everybody.
const pipeSize = 1 << 20

// SpliceSource is a stream that may be able to move its bytes into a pipe
// without copying them through user space. errors.ErrUnsupported means that it
// cannot, and that nothing was moved.
type SpliceSource interface {
	SpliceTo(pipe, n int) (int, error)
}

// SpliceSink is a stream that may be able to take bytes out of a pipe.
// errors.ErrUnsupported means that it cannot, and that nothing was moved.
type SpliceSink interface {
	SpliceFrom(pipe, n int) (int, error)
}

// Local reports whether a lane stays inside this host's kernel, so that bytes
// can pass it without being in user space, and cannot be damaged on the way.
func Local(l transport.Lane) bool {
	_, ok := l.(syscall.Conn)
	return ok
}

// kernelPipe is where a spliced chunk's bytes are.
type kernelPipe struct {
	r, w int
	size int // bytes that it holds at least
	full int // bytes in it
}

func newKernelPipe() (*kernelPipe, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("transport: pipe: %w", err)
	}
	p := &kernelPipe{r: fds[0], w: fds[1]}
	unix.FcntlInt(uintptr(p.w), unix.F_SETPIPE_SZ, pipeSize) // a small pipe works too
	size, err := unix.FcntlInt(uintptr(p.w), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		p.close()
		return nil, fmt.Errorf("transport: pipe size: %w", err)
	}
	p.size = size
	return p, nil
}

func (p *kernelPipe) close() {
	unix.Close(p.r)
	unix.Close(p.w)
}

// pipePool keeps empty pipes: there are as many as chunks that hold spliced
// bytes at once, however many chunks there are.
type pipePool struct {
	mu    sync.Mutex
	empty []*kernelPipe
}

func (l *pipePool) get() (*kernelPipe, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.empty); n > 0 {
		p := l.empty[n-1]
		l.empty = l.empty[:n-1]
		return p, nil
	}
	return newKernelPipe()
}

// put takes a pipe back; bytes in it that nobody took are lost with it.
func (l *pipePool) put(p *kernelPipe) {
	if p.full != 0 {
		p.close()
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.empty = append(l.empty, p)
}

func (l *pipePool) close() {
	for _, p := range l.empty {
		p.close()
	}
	l.empty = nil
}

// Splice is Fill for a stream whose bytes may stay in the kernel: in a pipe
// that belongs to the chunk. Nobody sees them, so the chunk is Unchecked.
func (c *Chunk) Splice(s SpliceSource, limit int) (int, error) {
	if c.pipe == nil {
		p, err := c.arena.pipes.get()
		if err != nil {
			return 0, fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
		}
		c.pipe = p
	}
	limit = min(limit, c.pipe.size, c.arena.chunkSize)
	n, err := s.SpliceTo(c.pipe.w, limit)
	c.pipe.full = n // even a wrong count: a pipe is used again only if it is 0
	if n, err = checkCount(n, limit, err); n > 0 {
		c.RawLen, c.WireLen, c.Unchecked = uint32(n), uint32(n), true
	}
	return n, err
}

// Unsplice brings a spliced chunk's bytes into its memory, for those who need
// to see them.
func (c *Chunk) Unsplice() error {
	for at := 0; c.pipe.full > 0; {
		n, err := unix.Read(c.pipe.r, c.buf[chunkHeadLen+at:][:c.pipe.full])
		if err != nil {
			return fmt.Errorf("transport: read a chunk's pipe: %w", err)
		}
		at += n
		c.pipe.full -= n
	}
	c.Unchecked = false
	return nil
}

// spliceOut sends the payload of a spliced chunk.
func (c *Chunk) spliceOut(l io.Writer) error {
	raw, err := rawConn(l)
	if err != nil {
		return err
	}
	for c.pipe.full > 0 {
		var n int
		werr := raw.Write(func(fd uintptr) bool {
			n, err = splice(c.pipe.r, int(fd), c.pipe.full)
			return err != unix.EAGAIN
		})
		if err := errors.Join(werr, err); err != nil {
			return fmt.Errorf("%w: %w", transport.ErrPeerGone, err)
		}
		c.pipe.full -= n
	}
	return nil
}

// splice moves up to n bytes from one fd to another. The count of unix.Splice is an int where
// the words of the machine have 32 bits, and an int64 elsewhere.
func splice(from, to, n int) (int, error) {
	moved, err := unix.Splice(from, nil, to, nil, n, spliceFlags)
	return int(moved), err
}

// errNotLocal: only a lane that Local knows carries spliced chunks.
var errNotLocal = errors.New("transport: this lane cannot carry spliced chunks")

func rawConn(l any) (syscall.RawConn, error) {
	conn, ok := l.(syscall.Conn)
	if !ok {
		return nil, errNotLocal
	}
	return conn.SyscallConn()
}

// Arrival is a payload that is still in its lane: whoever owns the chunk that
// stands for it moves it on, and the lane's reader waits until then.
type Arrival struct {
	lane     transport.Lane
	left     int
	released chan struct{}
}

// Released is closed when the chunk was released.
func (a *Arrival) Released() <-chan struct{} { return a.released }

// Whole reports, after Released, whether all of the payload was taken out of
// the lane, so that the next frame is what comes next.
func (a *Arrival) Whole() bool { return a.left == 0 }

// Await makes the chunk stand for a payload that was not read yet.
func (c *Chunk) Await(l transport.Lane, head ChunkHead) *Arrival {
	c.ChunkHead = head
	c.arrival = &Arrival{lane: l, left: int(head.WireLen), released: make(chan struct{})}
	return c.arrival
}

// forward moves a payload from its lane to w: through a pipe where w takes
// from one, and through the chunk's memory where it does not.
func (c *Chunk) forward(w io.Writer) error {
	if c.pipe == nil {
		p, err := c.arena.pipes.get()
		if err != nil {
			return err
		}
		c.pipe = p
	}
	for c.arrival.left > 0 {
		if err := c.spliceIn(); err != nil {
			return err
		}
		if err := c.empty(w); err != nil {
			return err
		}
	}
	return nil
}

// spliceIn moves what the lane has into the pipe.
func (c *Chunk) spliceIn() error {
	a := c.arrival
	raw, err := rawConn(a.lane)
	if err != nil {
		return err
	}
	var n int
	rerr := raw.Read(func(fd uintptr) bool {
		n, err = splice(int(fd), c.pipe.w, min(a.left, c.pipe.size, c.arena.chunkSize))
		return err != unix.EAGAIN
	})
	if err := errors.Join(rerr, err); err != nil {
		return fmt.Errorf("%w: %w", transport.ErrPeerGone, err)
	}
	if n == 0 {
		return fmt.Errorf("%w: %w", transport.ErrPeerGone, io.ErrUnexpectedEOF)
	}
	a.left -= n
	c.pipe.full = n
	return nil
}

// empty moves what the pipe has to w.
func (c *Chunk) empty(w io.Writer) error {
	sink, ok := w.(SpliceSink)
	for ok && c.pipe.full > 0 {
		n, err := sink.SpliceFrom(c.pipe.r, c.pipe.full)
		if errors.Is(err, errors.ErrUnsupported) {
			break
		}
		if n, err = checkCount(n, c.pipe.full, err); err == nil && n == 0 {
			err = fmt.Errorf("%w: none of %d bytes", io.ErrShortWrite, c.pipe.full)
		}
		if err != nil {
			return err
		}
		c.pipe.full -= n
	}
	n := c.pipe.full
	if n == 0 {
		return nil
	}
	if err := c.Unsplice(); err != nil {
		return err
	}
	c.Unchecked = true
	return writeAll(w, c.buf[chunkHeadLen:][:n])
}

// dismiss ends what a released chunk still has outside its memory.
func (c *Chunk) dismiss() {
	if c.pipe != nil {
		c.arena.pipes.put(c.pipe)
		c.pipe = nil
	}
	if c.arrival != nil {
		close(c.arrival.released)
		c.arrival = nil
	}
}
