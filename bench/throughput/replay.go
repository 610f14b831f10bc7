package main

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"github.com/migpipe/migpipe/vfio"
)

// replay is a device whose state repeats the same bytes. Its save and load cost only a copy,
// the least cost of any driver, so the benchmark measures the way in between. It has a data
// session and no optional feature.
type replay struct {
	size    int64
	content []byte

	mu     sync.Mutex
	state  vfio.State // zero stands for Running, which a fresh device is in
	moved  int64
	broken error // the written bytes differ from the read ones
}

func (d *replay) Features() vfio.Features       { return vfio.Features{DataSize: true} }
func (d *replay) StopCopySize() (uint64, error) { return uint64(d.size), nil }
func (d *replay) Close() error                  { return nil }

func (d *replay) State() (vfio.State, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state == vfio.StateError {
		return vfio.Running, nil
	}
	return d.state, nil
}

func (d *replay) SetState(to vfio.State) (vfio.Stream, error) {
	from, err := d.State()
	if err != nil {
		return nil, err
	}
	if _, err := vfio.Path(from, to, d.Features()); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state = to
	if !vfio.OpensSession(from, to) {
		return nil, nil
	}
	d.moved = 0
	return (*replayed)(d), nil
}

func (d *replay) Reset() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state, d.moved, d.broken = vfio.Running, 0, nil
	return nil
}

// Verify reports whether all bytes that were read were also written.
func (d *replay) Verify() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.broken == nil && d.moved != d.size {
		return fmt.Errorf("%d bytes were written, not %d", d.moved, d.size)
	}
	return d.broken
}

// replayed is its stream.
type replayed replay

// next returns the content at the present offset, at most n bytes.
func (s *replayed) next(n int) []byte {
	at := int(s.moved % int64(len(s.content)))
	return s.content[at:min(len(s.content), at+int(min(int64(n), s.size-s.moved)))]
}

func (s *replayed) Read(p []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n < len(p) && s.moved < s.size {
		m := copy(p[n:], s.next(len(p)-n))
		n, s.moved = n+m, s.moved+int64(m)
	}
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (s *replayed) Write(p []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for n < len(p) {
		want := s.next(len(p) - n)
		if len(want) == 0 || !bytes.Equal(want, p[n:n+len(want)]) {
			s.broken = fmt.Errorf("byte %d or one behind it is not the source's: %w", s.moved, vfio.ErrRejected)
			return n, s.broken
		}
		n, s.moved = n+len(want), s.moved+int64(len(want))
	}
	return n, nil
}

func (s *replayed) Pending() (vfio.Pending, error) { return vfio.Pending{}, vfio.ErrNotPreCopy }
func (s *replayed) Close() error                   { return nil }
