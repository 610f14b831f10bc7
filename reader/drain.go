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

// emptyLimit is how long a device in STOP_COPY may have nothing to read without an end. No driver
// does that. A driver that did must not keep its guest paused.
const emptyLimit = 5 * time.Second

// drain reads one device's stream to its end, and puts its chunks into the queue.
type drain struct {
	device      int
	name        string
	dev         vfio.Device
	stream      vfio.Stream
	reader      *streamReader
	queue       *queue
	limit       int // bytes of a chunk, as negotiated
	post        func(event)
	polling     chan struct{} // has room for one: answers are reported in the order of the polls
	stopCopy    chan struct{} // closed when STOP_COPY was reached
	noPolling   atomic.Bool   // the switchover has begun: poll no estimates
	digest      *wire.Digest
	read        atomic.Uint64 // bytes so far
	first       atomic.Int64  // nanoseconds in reads that gave bytes, each the first after the device was idle
	blocked     atomic.Int64  // nanoseconds in all other reads that gave bytes
	elapsed     atomic.Int64  // nanoseconds from chunk to chunk, for those reads
	took        atomic.Int64  // nanoseconds in all reads that gave bytes
	lastRead    time.Time     // when the last chunk was read; zero after an idle device
	start       time.Time
	firstReadAt *atomic.Int64 // when the first byte of any device was read, in ns after start
}

// run reads until the stream ends, fails, or ctx ends. A device has one reader. It holds an OS
// thread only while it is in the device, where package vfio locks the thread and blocks its
// signals. A goroutine that held its thread longer would cost two thread switches for each chunk
// that it waits for.
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

// readChunk reads one chunk of the device and queues it.
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

// noteRead adds the time of a read, and the time since the one before.
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

// saveTime is the time that the device has needed to save the bytes read so far. The first read
// after idleness waits for a save: a device with nothing to give answers at once. A state that fits
// into the driver's buffer takes no time after that. A device that is slower than the other stages
// blocks the reader for much of the time, and saves on while the reader does something else. A
// faster device hardly blocks the reader.
func (d *drain) saveTime() time.Duration {
	return time.Duration(d.first.Load() + min(d.elapsed.Load(), d.blocked.Load()*5/2))
}

// waitIdle waits while the device has nothing to read. A poll of the estimates makes mlx5 and
// virtio produce more, so waitIdle polls each time until the switchover begins: then a poll could
// start a save that STOP_COPY has to wait for.
func (d *drain) waitIdle(ctx context.Context, idle time.Duration) error {
	if !d.noPolling.Load() {
		if err := d.poll(true); err != nil {
			return err
		}
	}
	final := d.stopCopy
	if d.inStopCopy() { // more data is due: sleep briefly, do not spin
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

// poll asks the driver how much is still to be read. Bytes that are read while the driver answers
// may be part of the answer: they count twice, never not at all.
func (d *drain) poll(idle bool) error {
	d.polling <- struct{}{}
	defer func() { <-d.polling }()
	p, err := d.stream.Pending()
	switch {
	case errors.Is(err, vfio.ErrNotPreCopy):
		return nil // the state has just changed
	case errors.Is(err, errors.ErrUnsupported):
		p = vfio.Pending{}
	case err != nil:
		return err
	}
	d.post(polled{plan.PrecopyPolled{Device: d.device, Offset: d.read.Load(), Idle: idle, Pending: p}})
	return nil
}

// pollEstimates is poll beside the reader. With size it also asks for the size of STOP_COPY, which
// on some drivers is a command to the firmware.
func (d *drain) pollEstimates(size bool) error {
	if size && d.dev.Features().DataSize {
		if n, err := d.dev.StopCopySize(); err == nil {
			d.post(sized{plan.SizePolled{Device: d.device, Bytes: n}})
		}
	}
	return d.poll(false)
}

// streamReader reads a device's stream: by splice(2) where that works and no code needs the bytes,
// by read(2) into the chunk otherwise. The first bytes are the probe: every VFIO driver answers
// EINVAL to splice(2).
type streamReader struct {
	stream      vfio.Stream
	source      wire.SpliceSource // nil if the stream cannot be spliced, or must not be
	holes       vfio.HoleReader   // nil if the stream knows of no holes
	bytesUnseen bool              // no code needs the bytes
	emptyReads  int               // in a row: no byte and no error
	path        string            // "read" or "splice", for the report
	why         string            // reason for the path
}

// maxEmptyReads is how often in a row a stream may give no byte and no error, as in package bufio.
const maxEmptyReads = 100

// newStreamReader makes the reader of a stream. bytesUnseen says that the lanes stay in this host's
// kernel and that no codec was asked for.
func newStreamReader(s vfio.Stream, unseen bool) *streamReader {
	t := &streamReader{stream: s, bytesUnseen: unseen, path: "read", why: "the stream has no splice"}
	if source, ok := s.(wire.SpliceSource); ok {
		t.source, t.why = source, "the stream had no bytes to probe with"
	}
	t.holes, _ = s.(vfio.HoleReader)
	return t
}

// readInto reads what the device has, up to limit bytes, into the empty chunk.
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
		t.source, t.why = nil, "splice works, but user space computes the digest and encrypts the bytes"
		err = errors.Join(err, c.Unsplice())
	}
	return n, err
}

// readOnce reads from the stream once. A hole becomes a chunk of zeros, which every destination
// takes, over every carrier.
func (t *streamReader) readOnce(c *wire.Chunk, limit int) (int, error) {
	if t.holes != nil {
		if n, err := c.ReadHole(t.holes, limit); n > 0 || err != nil {
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
	return c.ReadRaw(t.stream, limit)
}
