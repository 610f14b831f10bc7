package migrate

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/migpipe/migpipe/internal/wire"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/migration"
	"github.com/migpipe/migpipe/vfio"
)

// bent is a device whose SetState breaks the contract.
type bent struct {
	vfio.Device
	set func(d vfio.Device, to vfio.State) (vfio.Stream, error)
}

func (b bent) SetState(to vfio.State) (vfio.Stream, error) { return b.set(b.Device, to) }

type answer = func(d vfio.Device, to vfio.State) (vfio.Stream, error)

// gives replaces the stream that SetState returns.
func gives(give func(vfio.Stream) vfio.Stream) answer {
	return func(d vfio.Device, to vfio.State) (vfio.Stream, error) {
		s, err := d.SetState(to)
		if err != nil || s == nil {
			return s, err
		}
		return give(s), nil
	}
}

// adds returns a stream where none is due.
func adds(at vfio.State, stray *strayStream) answer {
	return func(d vfio.Device, to vfio.State) (vfio.Stream, error) {
		s, err := d.SetState(to)
		if to == at && s == nil && err == nil {
			stray.given++
			return stray, nil
		}
		return s, err
	}
}

// stays reports success for a state that the device does not enter.
func stays(at vfio.State) answer {
	return func(d vfio.Device, to vfio.State) (vfio.Stream, error) {
		if to == at {
			return nil, nil
		}
		return d.SetState(to)
	}
}

// bentStream answers Read and Write by its functions. If the others are set, it can splice
// or knows holes.
type bentStream struct {
	vfio.Stream
	read, write func(p []byte) (int, error)
}

func (b *bentStream) Read(p []byte) (int, error)  { return b.read(p) }
func (b *bentStream) Write(p []byte) (int, error) { return b.write(p) }

type bentSplicer struct {
	vfio.Stream
	n int
}

func (b bentSplicer) SpliceTo(int, int) (int, error) { return b.n, nil }

type bentHoles struct {
	vfio.Stream
	n int
}

func (b bentHoles) SkipHole(int) (int, error) { return b.n, nil }

// strayStream counts how often it was returned and closed.
type strayStream struct {
	vfio.Stream
	given, closed int
}

func (s *strayStream) Close() error { s.closed++; return nil }

func reads(n func(p []byte) int) answer {
	return gives(func(s vfio.Stream) vfio.Stream {
		return &bentStream{Stream: s, read: func(p []byte) (int, error) { return n(p), nil }}
	})
}

func writes(n func(p []byte) int) answer {
	return gives(func(s vfio.Stream) vfio.Stream {
		return &bentStream{Stream: s, write: func(p []byte) (int, error) { return n(p), nil }}
	})
}

// TestBentDevices: a side names a device that breaks the contract at once, by a specific
// error, and the source's devices run on.
func TestBentDevices(t *testing.T) {
	none := gives(func(vfio.Stream) vfio.Stream { return nil })
	nilPointer := gives(func(vfio.Stream) vfio.Stream { return (*bentStream)(nil) })
	stray := &strayStream{}
	splices := func(n int) answer {
		return gives(func(s vfio.Stream) vfio.Stream { return bentSplicer{s, n} })
	}
	skips := func(n int) answer { return gives(func(s vfio.Stream) vfio.Stream { return bentHoles{s, n} }) }
	for name, c := range map[string]struct {
		source, sink answer
		want         error  // at the side of the device
		text         string // in it
	}{
		"no stream":                  {source: none, want: vfio.ErrNoSession, text: "set PRE_COPY: "},
		"a nil pointer":              {source: nilPointer, want: vfio.ErrNoSession, text: "set PRE_COPY: "},
		"a second stream":            {source: adds(vfio.StopCopy, stray), want: vfio.ErrStraySession, text: "set STOP_COPY: "},
		"does not stop":              {source: stays(vfio.StopCopy), want: vfio.ErrElsewhere, text: "set STOP_COPY: "},
		"reads nothing":              {source: reads(func([]byte) int { return 0 }), want: io.ErrNoProgress},
		"reads more than was asked":  {source: reads(func(p []byte) int { return len(p) + 1 }), want: wire.ErrBadCount},
		"reads less than nothing":    {source: reads(func([]byte) int { return -1 }), want: wire.ErrBadCount},
		"splices too much":           {source: splices(8 << 20), want: wire.ErrBadCount},
		"splices less than nothing":  {source: splices(-1), want: wire.ErrBadCount},
		"splices nothing":            {source: splices(0), want: io.ErrNoProgress},
		"skips too much":             {source: skips(8 << 20), want: wire.ErrBadCount},
		"skips less than nothing":    {source: skips(-1), want: wire.ErrBadCount},
		"no stream to load":          {sink: none, want: vfio.ErrNoSession, text: "set RESUMING: "},
		"a nil pointer to load":      {sink: nilPointer, want: vfio.ErrNoSession, text: "set RESUMING: "},
		"a stream with STOP":         {sink: adds(vfio.Stop, stray), want: vfio.ErrStraySession, text: "set STOP: "},
		"does not end the load":      {sink: stays(vfio.Stop), want: vfio.ErrElsewhere, text: "set STOP: "},
		"writes less":                {sink: writes(func(p []byte) int { return len(p) - 1 }), want: io.ErrShortWrite},
		"writes more than was asked": {sink: writes(func(p []byte) int { return len(p) + 1 }), want: wire.ErrBadCount},
		"writes less than nothing":   {sink: writes(func(p []byte) int { return -1 }), want: wire.ErrBadCount},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, pipe)
			p.add(t, "ill", "mlx5?size=1MiB", "mlx5?size=1MiB")
			*stray = strayStream{}
			if c.source != nil {
				p.sources[0].Device = bent{p.sources[0].Device, c.source}
			} else {
				p.sinks[0].Device = bent{p.sinks[0].Device, c.sink}
			}
			s, r := p.run(t)
			here, there := s, r
			if c.source == nil {
				here, there = r, s
			}
			if f := here.fault(t); !errors.Is(f, c.want) || f.Code != transport.CodeDevice || f.Remote || f.Device != "ill" || !strings.Contains(f.Error(), c.text) {
				t.Errorf("reported is %v of device %s: %v", f.Code, f.Device, f)
			}
			if f := there.fault(t); !f.Remote || f.Device != "ill" {
				t.Errorf("at the other side: %v", f)
			}
			if s.report.Outcome != migration.Aborted || r.report.Outcome != migration.Aborted {
				t.Errorf("outcomes %v and %v", s.report.Outcome, r.report.Outcome)
			}
			if errors.Is(c.want, vfio.ErrStraySession) && stray.given == 0 || stray.given != stray.closed {
				t.Errorf("of %d stray streams, %d were closed", stray.given, stray.closed)
			}
			p.atHome(t)
		})
	}
}

// TestStrayStreamAtStart: the copy already runs by then, and is not harmed.
func TestStrayStreamAtStart(t *testing.T) {
	p := newPair(t, pipe)
	p.add(t, "ill", "mlx5?size=1MiB", "mlx5?size=1MiB")
	stray := &strayStream{}
	p.sinks[0].Device = bent{p.sinks[0].Device, adds(vfio.Running, stray)}
	_, r := p.succeed(t)
	if stray.given != 1 || stray.closed != 1 {
		t.Errorf("of %d stray streams, %d were closed", stray.given, stray.closed)
	}
	if w := strings.Join(r.report.Warnings, "\n"); !strings.Contains(w, "device ill: set RUNNING: "+vfio.ErrStraySession.Error()) {
		t.Errorf("warned is of %q", w)
	}
}

// TestStrayStreamOnTheWayBack: the source's devices run on all the same.
func TestStrayStreamOnTheWayBack(t *testing.T) {
	p := newPair(t, pipe)
	p.add(t, "ill", "mlx5?size=1MiB", "mlx5?size=1MiB&fault=write%4050000:EIO")
	stray := &strayStream{}
	p.sources[0].Device = bent{p.sources[0].Device, adds(vfio.Running, stray)}
	s, _ := p.run(t)
	if s.report.Outcome != migration.Aborted || stray.given != 1 || stray.closed != 1 {
		t.Errorf("%v (%v), and of %d stray streams, %d were closed", s.report.Outcome, s.err, stray.given, stray.closed)
	}
	wantState(t, p.src[0], vfio.Running)
	if w := strings.Join(s.report.Warnings, "\n"); !strings.Contains(w, "device ill needed a second try: set RUNNING: "+vfio.ErrStraySession.Error()) {
		t.Errorf("warned is of %q", w)
	}
}
