package migrate

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/writer"
)

// meddler is a carrier that changes what the source writes.
type meddler struct {
	transport.Dialer
	dialled int
	lane    int // which lane, in the order of dialling: 0 is the control lane
	meddle  func(l transport.Lane, at int, p []byte) ([]byte, error)
}

func (m *meddler) Dial(ctx context.Context) (transport.Lane, error) {
	lane, err := m.Dialer.Dial(ctx)
	m.dialled++
	if err == nil && m.dialled == m.lane+1 {
		lane = &meddled{Lane: lane, meddle: m.meddle}
	}
	return lane, err
}

type meddled struct {
	transport.Lane
	at     int
	meddle func(l transport.Lane, at int, p []byte) ([]byte, error)
}

func (l *meddled) Write(p []byte) (int, error) {
	out, err := l.meddle(l.Lane, l.at, append([]byte(nil), p...))
	l.at += len(p)
	if err != nil {
		return 0, err
	}
	if _, err := l.Lane.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// flip inverts one bit of the byte at an offset of the lane.
func flip(where int) func(transport.Lane, int, []byte) ([]byte, error) {
	return func(_ transport.Lane, at int, p []byte) ([]byte, error) {
		if i := where - at; i >= 0 && i < len(p) {
			p[i] ^= 0x10
		}
		return p, nil
	}
}

// cutAt ends the lane at an offset, by a close or by a loss.
func cutAt(where int, end func(transport.Lane) error) func(transport.Lane, int, []byte) ([]byte, error) {
	return func(l transport.Lane, at int, p []byte) ([]byte, error) {
		if where >= at+len(p) {
			return p, nil
		}
		l.Write(p[:max(0, where-at)])
		end(l)
		return nil, errors.New("this lane was cut")
	}
}

// A data lane has a preamble of 36 bytes and then frames with a head of 40.
const (
	firstHead    = 36
	firstPayload = firstHead + 40
)

// TestCorrupt: the destination receives other bytes than the source sent. Neither side
// accepts them as a device's state, and both abort.
func TestCorrupt(t *testing.T) {
	for _, c := range []struct {
		name   string
		lane   int
		meddle func(transport.Lane, int, []byte) ([]byte, error)
		code   transport.Code
		device string
	}{
		{"bit of a payload", 1, flip(firstPayload + 1000), transport.CodeCorrupt, "d0"},
		{"last bit of the first payload", 1, flip(firstPayload + 64<<10 - 1), transport.CodeCorrupt, "d0"},
		{"bit of a head's length", 1, flip(firstHead + 6), transport.CodeCorrupt, ""},
		{"bit of a head's offset", 1, flip(firstHead + 31), transport.CodeCorrupt, ""},
		{"bit of a head's digest", 1, flip(firstHead + 39), transport.CodeCorrupt, ""},
		{"payload cut short", 1, cutAt(firstPayload+1000, transport.Lane.CloseWrite), transport.CodeNetwork, "d0"},
		{"head cut short", 1, cutAt(firstHead+10, transport.Lane.CloseWrite), transport.CodeNetwork, ""},
		{"lane lost in a payload", 1, cutAt(firstPayload+1000, transport.Lane.Close), transport.CodeNetwork, "d0"},
		{"lane lost between frames", 1, cutAt(firstPayload+64<<10, transport.Lane.Close), transport.CodeNetwork, ""},
		{"bit of a control message", 0, flip(firstHead + 600), transport.CodeCorrupt, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, func(t testing.TB) (transport.Dialer, transport.Listener) {
					d, l := pipe(t)
					return &meddler{Dialer: d, lane: c.lane, meddle: c.meddle}, l
				})
				p.add(t, "d0", "vgpu?size=2MiB&content=random&save=2MiB/s&dirty=1MiB/s", "vgpu?size=2MiB&content=random")
				p.send.Lanes, p.send.ChunkSize = 1, 64<<10
				s, r := p.run(t)
				if c.code == transport.CodeNetwork { // either side may see it first
					if s.fault(t).Code != c.code || r.fault(t).Code != c.code {
						t.Errorf("source %q, destination %q", s.err, r.err)
					}
				} else {
					if f := r.fault(t); f.Code != c.code || f.Remote || f.Device != c.device {
						t.Errorf("destination: %v at device %q: %q", f.Code, f.Device, f)
					}
					if f := s.fault(t); f.Code != c.code || !f.Remote || f.Device != c.device {
						t.Errorf("source: %v at device %q: %q", f.Code, f.Device, f)
					}
				}
				p.wantAborted(t, s, r)
			})
		})
	}
}

// TestMaxState: an administrator's limit bounds a stream, independent of its estimate.
func TestMaxState(t *testing.T) {
	p := newPair(t, pipe)
	p.add(t, "d0", "xe?size=2MiB", "xe?size=2MiB")
	p.receive = writer.Options{MaxState: 1 << 20}
	s, r := p.run(t)
	if f := s.fault(t); f.Code != transport.CodeLimit || !f.Remote || f.Device != "d0" {
		t.Errorf("source: %q", f)
	}
	if written := p.dst[0].Stats().BytesWritten; written > 1<<20 {
		t.Errorf("%d bytes were written, the limit is %d", written, 1<<20)
	}
	p.wantAborted(t, s, r)
}
