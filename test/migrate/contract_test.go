package migrate

import (
	"errors"
	"io"
	"testing"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/transport/handoff"
	"github.com/migpipe/migpipe/vfio"
)

// bent is a device that breaks the contract: give replaces what SetState returns where a data
// session is due.
type bent struct {
	vfio.Device
	give func(vfio.Stream) vfio.Stream
}

func (b bent) SetState(to vfio.State) (vfio.Stream, error) {
	s, err := b.Device.SetState(to)
	if err != nil || s == nil {
		return s, err
	}
	return b.give(s), nil
}

// bentStream answers Read and Write as its functions do.
type bentStream struct {
	vfio.Stream
	read, write func(p []byte) (int, error)
}

func (b *bentStream) Read(p []byte) (int, error)  { return b.read(p) }
func (b *bentStream) Write(p []byte) (int, error) { return b.write(p) }

// TestBentDevices: a device that breaks the contract is named at once, by an error of its own,
// and the source's devices run on.
func TestBentDevices(t *testing.T) {
	const url = "xe?size=1MiB"
	reads := func(n func(p []byte) int) func(vfio.Stream) vfio.Stream {
		return func(s vfio.Stream) vfio.Stream {
			return &bentStream{Stream: s, read: func(p []byte) (int, error) { return n(p), nil }}
		}
	}
	writes := func(n func(p []byte) int) func(vfio.Stream) vfio.Stream {
		return func(s vfio.Stream) vfio.Stream {
			return &bentStream{Stream: s, write: func(p []byte) (int, error) { return n(p), nil }}
		}
	}
	none := func(vfio.Stream) vfio.Stream { return nil }
	nilPointer := func(vfio.Stream) vfio.Stream { return (*bentStream)(nil) }
	for name, c := range map[string]struct {
		source, sink func(vfio.Stream) vfio.Stream
		want         error // at the side of the device
	}{
		"no stream":                  {source: none, want: vfio.ErrNoSession},
		"a nil pointer":              {source: nilPointer, want: vfio.ErrNoSession},
		"reads nothing":              {source: reads(func([]byte) int { return 0 }), want: io.ErrNoProgress},
		"reads more than was asked":  {source: reads(func(p []byte) int { return len(p) + 1 }), want: vfio.ErrBadCount},
		"reads less than nothing":    {source: reads(func([]byte) int { return -1 }), want: vfio.ErrBadCount},
		"no stream to load":          {sink: none, want: vfio.ErrNoSession},
		"a nil pointer to load":      {sink: nilPointer, want: vfio.ErrNoSession},
		"writes less":                {sink: writes(func(p []byte) int { return len(p) - 1 }), want: io.ErrShortWrite},
		"writes more than was asked": {sink: writes(func(p []byte) int { return len(p) + 1 }), want: io.ErrShortWrite},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, pipe)
			p.add(t, "ill", url, url)
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
			if f := here.fault(t); !errors.Is(f, c.want) || f.Code != transport.CodeDevice || f.Remote || f.Device != "ill" {
				t.Errorf("reported is %v of device %s: %v", f.Code, f.Device, f)
			}
			if f := there.fault(t); !f.Remote || f.Device != "ill" {
				t.Errorf("at the other side: %v", f)
			}
			if s.report.Outcome != handoff.Rolledback || r.report.Outcome != handoff.Rolledback {
				t.Errorf("outcomes %v and %v", s.report.Outcome, r.report.Outcome)
			}
			p.atHome(t)
		})
	}
}
