package reader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/migpipe/migpipe/internal/failpoint"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/reader/internal/plan"
	"github.com/migpipe/migpipe/vfio"
)

// How long a device that has nothing to read is left alone.
const (
	minIdle = time.Millisecond
	maxIdle = 100 * time.Millisecond
)

// emptyMost is how long a device in STOP_COPY may have nothing to read and yet
// no end. No driver does that; one that did must not keep its guest stopped.
const emptyLimit = 5 * time.Second

// drain reads one device's stream to its end: chunk, place, digest, queue.
type drain struct {
	device      int
	name        string
	dev         vfio.Device
	stream      vfio.Stream
	reader      *streamReader
	queue       *queue
	limit       int // bytes of a chunk, as negotiated
	post        func(event)
	polling     chan struct{} // has room for one: answers are told in the order in which they are given
	stopCopy    chan struct{} // closed once STOP_COPY was reached
	noPolling   atomic.Bool   // the switchover is under way: ask no estimates
	digest      *wire.Digest
	read        atomic.Uint64 // bytes so far
	first       atomic.Int64  // nanoseconds in reads that gave any, the first after the device was idle
	blocked     atomic.Int64  // nanoseconds in the others, of one chunk after the other
	elapsed     atomic.Int64  // and in all, from chunk to chunk
	took        atomic.Int64  // nanoseconds in reads that gave any
	lastRead    time.Time     // when the chunk before was read; zero after an idle device
	start       time.Time
	firstReadAt *atomic.Int64 // when the first byte of any device was read, in ns after start
}

// run reads until the stream ends, fails, or ctx ends. A device has one reader. It
// holds an OS thread while it is in the device, where package vfio locks it and blocks
// its signals, and no longer: a goroutine that keeps its thread costs two switches of
// threads for each chunk that it waits for.
func (d *drain) run(ctx context.Context) {
	err := d.readAll(ctx)
	switch {
	case errors.Is(err, io.EOF):
		d.post(drainEnded{d.device, wire.End{Device: uint16(d.device),
			Bytes: d.digest.Bytes(), Chunks: d.digest.Chunks(), Digest: d.digest.Sum()}})
	case ctx.Err() == nil:
		d.post(drainFailed{d.device, d.digest.Bytes(), err})
	}
}

func (d *drain) readAll(ctx context.Context) error {
	idle, last := minIdle, time.Now()
	for {
		n, err := d.readChunk(ctx)
		if n > 0 || !d.inStopCopy() {
			last = time.Now()
		}
		if n > 0 {
			idle = minIdle
		}
		if errors.Is(err, vfio.ErrDrained) && time.Since(last) > emptyLimit {
			return fmt.Errorf("in STOP_COPY, for %v: %w", emptyLimit, err)
		}
		if errors.Is(err, vfio.ErrDrained) {
			err = d.waitIdle(ctx, idle)
			idle = min(2*idle, maxIdle)
		}
		if err != nil {
			return err
		}
	}
}

// next moves one chunk's worth from the device to the queue.
func (d *drain) readChunk(ctx context.Context) (int, error) {
	chunk, err := d.queue.get(ctx, d.device)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	n, err := d.reader.readInto(chunk, d.limit)
	if n == 0 {
		d.lastRead = time.Time{}
		d.queue.release(d.device, chunk)
		return 0, err
	}
	d.noteRead(began)
	d.firstReadAt.CompareAndSwap(0, max(1, int64(time.Since(d.start))))
	chunk.Seal(uint16(d.device), d.digest.Chunks(), d.digest.Bytes())
	d.digest.Add(chunk.ChunkHead)
	d.read.Store(d.digest.Bytes())
	d.queue.put(chunk)
	failpoint.Reach("source", "did", "read")
	return n, err
}

// clock counts what the read of a chunk took, and the time since the one before.
func (d *drain) noteRead(began time.Time) {
	now := time.Now()
	d.took.Add(int64(now.Sub(began)))
	if d.lastRead.IsZero() {
		d.first.Add(int64(now.Sub(began)))
	} else {
		d.blocked.Add(int64(now.Sub(began)))
		d.elapsed.Add(int64(now.Sub(d.lastRead)))
	}
	d.lastRead = now
}

// saving is the time that the device has needed for what was read. What the first
// read waits for is a save, since a device with nothing to give says so at once; a
// state that fits into the driver's buffer takes no time after that. One that is
// slower than the rest has the reader blocked for much of the time, and saves on
// while the reader does something else; one that is faster hardly blocks it.
func (d *drain) saveTime() time.Duration {
	return time.Duration(d.first.Load() + min(d.elapsed.Load(), d.blocked.Load()*5/2))
}

// rest waits while the device has nothing to read. Asking for its estimate is
// what makes mlx5 and virtio produce more, so it is asked each time, until the
// switchover begins: then it could start a save that STOP_COPY has to wait for.
func (d *drain) waitIdle(ctx context.Context, idle time.Duration) error {
	if !d.noPolling.Load() {
		if err := d.poll(true); err != nil {
			return err
		}
	}
	final := d.stopCopy
	if d.inStopCopy() { // data is on its way: do not sleep long, do not spin
		final, idle = nil, minIdle
	}
	timer := time.NewTimer(idle)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-final:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

func (d *drain) inStopCopy() bool {
	select {
	case <-d.stopCopy:
		return true
	default:
		return false
	}
}

// poll asks the driver what is still to be read. What was read until it answered
// may have been part of that: bytes read meanwhile count twice, never not at all.
func (d *drain) poll(idle bool) error {
	d.polling <- struct{}{}
	defer func() { <-d.polling }()
	p, err := d.stream.Pending()
	switch {
	case errors.Is(err, vfio.ErrNotPreCopy):
		return nil // the state has just moved on
	case errors.Is(err, errors.ErrUnsupported):
		p = vfio.Pending{}
	case err != nil:
		return err
	}
	d.post(polled{plan.PrecopyPolled{Device: d.device, Offset: d.read.Load(), Idle: idle, Pending: p}})
	return nil
}

// ask is poll from beside the reader, and asks for the size of STOP_COPY too if
// size is set: on some drivers that is a command to the firmware.
func (d *drain) pollEstimates(size bool) error {
	if size && d.dev.Features().DataSize {
		if n, err := d.dev.StopCopySize(); err == nil {
			d.post(sized{plan.SizePolled{Device: d.device, Bytes: n}})
		}
	}
	return d.poll(false)
}

// tap takes bytes out of a device's stream: by splice(2) where that works and
// nobody needs to see them, by read(2) into the chunk everywhere else. The
// first bytes are the probe; every VFIO driver answers EINVAL to it.
type streamReader struct {
	stream      vfio.Stream
	source      wire.SpliceSource // nil where the stream cannot, or is not to, be spliced
	holes       vfio.HoleReader   // nil where the stream knows of none
	bytesUnseen bool              // nobody needs to see the bytes
	emptyReads  int               // times in a row that the stream gave no byte and no error
	path        string            // "read" or "splice", for the report
	why         string
}

// mostEmpty is how often in a row a stream may give no byte and no error, as in package bufio.
const maxEmptyReads = 100

// newTap taps a stream. unseen says that the lanes stay in this host's kernel
// and that no codec was asked for.
func newStreamReader(s vfio.Stream, unseen bool) *streamReader {
	t := &streamReader{stream: s, bytesUnseen: unseen, path: "read", why: "the stream has no splice"}
	if source, ok := s.(wire.SpliceSource); ok {
		t.source, t.why = source, "nothing was there to probe with"
	}
	t.holes, _ = s.(vfio.HoleReader)
	return t
}

// fill takes what the device has, up to limit bytes, into the empty chunk.
func (t *streamReader) readInto(c *wire.Chunk, limit int) (int, error) {
	n, err := t.readOnce(c, limit)
	if n > 0 || err != nil {
		t.emptyReads = 0
	} else if t.emptyReads++; t.emptyReads == maxEmptyReads {
		return 0, fmt.Errorf("%w: the stream gave no byte and no error %d times in a row", io.ErrNoProgress, maxEmptyReads)
	}
	switch {
	case n == 0 || !c.Unchecked:
	case t.bytesUnseen:
		t.path, t.why = "splice", "the lanes stay in this host and no codec was asked for"
	default:
		t.source, t.why = nil, "splice works, but the bytes are summed up and encrypted in user space"
		err = errors.Join(err, c.Unsplice())
	}
	return n, err
}

// take is one look at the stream. A hole becomes a chunk of zeros, which every destination
// takes, over every carrier.
func (t *streamReader) readOnce(c *wire.Chunk, limit int) (int, error) {
	if t.holes != nil {
		if n, err := c.FillHole(t.holes, limit); n > 0 || err != nil {
			return n, err
		}
	}
	if t.source != nil {
		n, err := c.Splice(t.source, limit)
		if !errors.Is(err, errors.ErrUnsupported) {
			return n, err
		}
		t.source, t.why = nil, err.Error()
	}
	return c.Fill(t.stream, limit)
}
