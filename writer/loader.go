package writer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/migpipe/migpipe/internal/failpoint"
	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/vfio"
)

// loader writes one device's stream, in order. No other code writes to the device.
type loader struct {
	device      int
	name        string
	dev         vfio.Device
	stream      vfio.Stream
	merge       *merge
	digest      *wire.Digest
	noteApplied func() // called after each chunk
	post        func(event)
	spliced     bool      // bytes were spliced past user space
	note        *copyNote // of a copy that outlives the process once it is complete, else nil
}

// run writes until the stream ends, fails, or ctx ends. It holds an OS thread only while it is in
// the device, as a drain does.
func (l *loader) run(ctx context.Context) {
	err := l.writeAll(ctx)
	if ctx.Err() != nil {
		return
	}
	l.post(loaderEnded{l.device, l.digest.Sum(), l.faultOf(err)})
}

func (l *loader) writeAll(ctx context.Context) error {
	for {
		c, end, err := l.merge.take(ctx)
		switch {
		case err != nil:
		case end != nil:
			return l.finish(end)
		default:
			err = l.applyChunk(c)
		}
		if err != nil {
			return err
		}
	}
}

// applyChunk writes one chunk and frees its memory, and only then promises the memory again.
func (l *loader) applyChunk(c *wire.Chunk) error {
	defer l.noteApplied()
	head, began := c.ChunkHead, time.Now()
	err := l.writeChunk(c)
	took := time.Since(began)
	c.Release()
	if err != nil {
		return err
	}
	l.digest.Add(head)
	l.merge.markApplied(head.RawLen, took)
	failpoint.Reach("destination", "did", "write")
	return nil
}

func (l *loader) writeChunk(c *wire.Chunk) error {
	if c.Offset != l.digest.Bytes() {
		return fmt.Errorf("%w: chunk %d begins at byte %d, the one before ended at %d",
			transport.ErrProtocol, c.Seq, c.Offset, l.digest.Bytes())
	}
	if z, ok := l.stream.(vfio.ZeroWriter); ok && c.Zero() {
		return z.WriteZeros(int(c.RawLen))
	}
	if _, ok := l.stream.(wire.SpliceDestination); ok && c.Unchecked {
		l.spliced = true
	}
	return c.WriteRaw(l.stream)
}

// path is how bytes reached the device, for the report.
func (l *loader) path() string {
	if l.spliced {
		return "splice"
	}
	return "write"
}

// finish compares the stream with END. Only a complete stream reaches the device's own check:
// drivers check at RESUMING -> STOP, and half of them would accept a truncated stream.
func (l *loader) finish(end *wire.End) error {
	d := l.digest
	switch {
	case d.Bytes() != end.Bytes || d.Chunks() != end.Chunks:
		return &transport.Fault{Code: transport.CodeIncomplete, Err: fmt.Errorf("%d bytes in %d chunks arrived, END says %d in %d",
			d.Bytes(), d.Chunks(), end.Bytes, end.Chunks)}
	case d.Sum() != end.Digest:
		return fmt.Errorf("%w: the stream's digest is %v, END says %v", transport.ErrCorrupt, d.Sum(), end.Digest)
	}
	if err := l.persistCopy(); err != nil {
		return err
	}
	// A reset by another process leaves RUNNING, from which STOP checks nothing.
	if now, err := l.dev.State(); err != nil || now != vfio.Resuming {
		return errors.Join(err, fmt.Errorf("%w: the device is in %v", vfio.ErrSessionLost, now))
	}
	if _, err := vfio.Enter(l.dev, vfio.Stop, false); err != nil {
		return &transport.Fault{Code: stopCode(err), Err: err}
	}
	return nil
}

// stopCode is the code for a complete state that did not take its device to STOP: the device
// refused the state, unless it breaks the contract.
func stopCode(err error) transport.Code {
	if errors.Is(err, vfio.ErrStraySession) || errors.Is(err, vfio.ErrElsewhere) {
		return transport.CodeDevice
	}
	return transport.CodeValidation
}

// faultOf names the device and the offset, and distinguishes a device that cannot take this state
// from one that failed.
func (l *loader) faultOf(err error) *transport.Fault {
	if err == nil {
		return nil
	}
	f := &transport.Fault{Code: transport.CodeDevice, Device: l.name, Offset: l.digest.Bytes(), Err: err}
	if op, ok := errors.AsType[*vfio.OpError](err); ok && op.Offset >= 0 {
		f.Offset = uint64(op.Offset) // inside the chunk
	}
	if inner, ok := errors.AsType[*transport.Fault](err); ok {
		f.Code, f.Err = inner.Code, inner.Err
	} else if errors.Is(err, transport.ErrProtocol) || errors.Is(err, transport.ErrCorrupt) {
		f.Code = transport.CodeOf(err)
	} else if errors.Is(err, transport.ErrPeerGone) {
		f.Code = transport.CodeNetwork // a payload for splice never came
	} else if errors.Is(err, vfio.ErrRejected) {
		f.Code = transport.CodeIncompatible
	}
	return f
}
