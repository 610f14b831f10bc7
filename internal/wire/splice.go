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

// spliceFlags keep splice(2) from sleeping in the kernel. The callers wait in Go's
// poller, where a deadline can end the wait.
const spliceFlags = unix.SPLICE_F_MOVE | unix.SPLICE_F_NONBLOCK

// pipeSize is the requested capacity of a chunk's pipe. fs.pipe-max-size allows 1 MiB
// to all users.
const pipeSize = 1 << 20

// SpliceSource is a stream that may be able to move its bytes into a pipe without a
// copy through user space. If it cannot, it fails with errors.ErrUnsupported and has
// moved no byte.
type SpliceSource interface {
	SpliceTo(pipe, n int) (int, error)
}

// SpliceDestination is a stream that may be able to move bytes out of a pipe. If it
// cannot, it fails with errors.ErrUnsupported and has moved no byte.
type SpliceDestination interface {
	SpliceFrom(pipe, n int) (int, error)
}

// Local reports whether a lane stays inside this host's kernel. On such a lane bytes
// need not pass user space, and the path cannot damage them.
func Local(l transport.Lane) bool {
	_, ok := l.(syscall.Conn)
	return ok
}

// kernelPipe is the pipe that holds a spliced chunk's bytes.
type kernelPipe struct {
	r, w int
	size int // least capacity, in bytes
	full int // bytes in the pipe
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

// pipePool has the empty pipes. The number of pipes is the largest number of chunks
// that held spliced bytes at the same time.
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

// put returns a pipe to the pool. It closes a pipe that is not empty.
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

// Splice is ReadRaw for a stream whose bytes may stay in the kernel, in a pipe of the
// chunk. The bytes are never in user space, so the chunk is Unchecked.
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
	c.pipe.full = n // also a wrong count: only an empty pipe is used again
	if n, err = checkCount(n, limit, err); n > 0 {
		c.RawLen, c.WireLen, c.Unchecked = uint32(n), uint32(n), true
	}
	return n, err
}

// Unsplice reads a spliced chunk's bytes from its pipe into its memory.
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

// splice moves up to n bytes from one fd to another. The result of unix.Splice is an int on
// 32-bit machines, and an int64 on others.
func splice(from, to, n int) (int, error) {
	moved, err := unix.Splice(from, nil, to, nil, n, spliceFlags)
	return int(moved), err
}

// errNotLocal is the error for a spliced chunk on a lane for which Local is false.
var errNotLocal = errors.New("transport: this lane cannot carry spliced chunks")

func rawConn(l any) (syscall.RawConn, error) {
	conn, ok := l.(syscall.Conn)
	if !ok {
		return nil, errNotLocal
	}
	return conn.SyscallConn()
}

// Arrival is a payload that is still in its lane. The owner of its chunk moves the
// payload on, and the lane's reader waits until then.
type Arrival struct {
	lane     transport.Lane
	left     int
	released chan struct{}
}

// Released is closed when the chunk was released.
func (a *Arrival) Released() <-chan struct{} { return a.released }

// Whole reports, after Released, whether the whole payload was read from the lane, so
// that the next frame follows.
func (a *Arrival) Whole() bool { return a.left == 0 }

// Await makes c the chunk of a payload that is still in its lane.
func (c *Chunk) Await(l transport.Lane, head ChunkHead) *Arrival {
	c.ChunkHead = head
	c.arrival = &Arrival{lane: l, left: int(head.WireLen), released: make(chan struct{})}
	return c.arrival
}

// forward moves a payload from its lane to w: through a pipe if w is a
// SpliceDestination, and otherwise through the chunk's memory.
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
		if err := c.drainPipe(w); err != nil {
			return err
		}
	}
	return nil
}

// spliceIn moves bytes of the lane into the pipe.
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

// drainPipe moves all bytes of the pipe to w.
func (c *Chunk) drainPipe(w io.Writer) error {
	destination, ok := w.(SpliceDestination)
	for ok && c.pipe.full > 0 {
		n, err := destination.SpliceFrom(c.pipe.r, c.pipe.full)
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

// releaseResources releases the pipe of a chunk, and ends its arrival.
func (c *Chunk) releaseResources() {
	if c.pipe != nil {
		c.arena.pipes.put(c.pipe)
		c.pipe = nil
	}
	if c.arrival != nil {
		close(c.arrival.released)
		c.arrival = nil
	}
}
