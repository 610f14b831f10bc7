package migrate

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"

	"github.com/migpipe/migpipe/codec"
	"github.com/migpipe/migpipe/reader"
	"github.com/migpipe/migpipe/transport"
	"github.com/migpipe/migpipe/vfio/file"
	"github.com/migpipe/migpipe/writer"
)

func unixCarrier(t testing.TB) (transport.Dialer, transport.Listener) {
	path := filepath.Join(t.TempDir(), "mig.sock")
	l, err := transport.ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &transport.UnixDialer{Path: path}, l
}

// files adds a device of n random bytes, and returns its paths at the source and at the destination.
func (p *pair) files(t testing.TB, name string, n int) (from, to string) {
	t.Helper()
	from, to = filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "to")
	content := make([]byte, n)
	rand.Read(content)
	if err := os.WriteFile(from, content, 0o600); err != nil {
		t.Fatal(err)
	}
	src, err := file.NewSource(from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { src.Close() })
	dst, err := file.NewDestination(to, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dst.Close() })
	p.sources = append(p.sources, reader.Source{Name: name, Device: src})
	p.sinks = append(p.sinks, writer.Target{Name: name, Device: dst})
	return from, to
}

func wantSameFile(t testing.TB, from, to string) {
	t.Helper()
	a, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Errorf("%s (%d bytes) and %s (%d bytes) differ", from, len(a), to, len(b))
	}
}

// TestPath compares the report's verdict on splice(2) with the abilities of the carrier, the
// codec and the streams.
func TestPath(t *testing.T) {
	for _, c := range []struct {
		name          string
		carrier       carrier
		codec         codec.Policy
		source, dest  string
		size, devices int
	}{
		{"local", unixCarrier, nil, "splice", "splice", 5<<20 + 1, 1},
		{"local, several devices over several lanes", unixCarrier, nil, "splice", "splice", 9<<20 + 7, 5},
		{"local, one byte", unixCarrier, nil, "splice", "splice", 1, 1},
		{"local, empty", unixCarrier, nil, "read", "write", 0, 1},
		{"local with a codec", unixCarrier, codec.Auto(), "read", "write", 5<<20 + 1, 1},
		{"not local", pipe, nil, "read", "write", 5<<20 + 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPair(t, c.carrier)
			p.send.Codec, p.send.Lanes = c.codec, 3
			var from, to []string
			for i := range c.devices {
				a, b := p.files(t, string(rune('a'+i)), c.size)
				from, to = append(from, a), append(to, b)
			}
			s, r := p.run(t)
			if s.err != nil || r.err != nil {
				t.Fatalf("send: %v\nreceive: %v", s.err, r.err)
			}
			for i := range c.devices {
				wantSameFile(t, from[i], to[i])
				a, b := s.report.Devices[i], r.report.Devices[i]
				if a.Path != c.source || b.Path != c.dest || a.PathWhy == "" {
					t.Errorf("source by %s (%s), destination by %s; want %s and %s", a.Path, a.PathWhy, b.Path, c.source, c.dest)
				}
				if a.Digest != b.Digest {
					t.Errorf("digests %v and %v", a.Digest, b.Digest)
				}
			}
		})
	}
}

// A device that cannot be spliced still crosses a local carrier.
func TestLocalDevice(t *testing.T) {
	p := newPair(t, unixCarrier)
	_, dst := p.add(t, "d0", "mlx5?size=16MiB", "mlx5?size=16MiB")
	from, to := p.files(t, "d1", 3<<20)
	s, r := p.run(t)
	if s.err != nil || r.err != nil {
		t.Fatalf("send: %v\nreceive: %v", s.err, r.err)
	}
	if err := dst.Verify(); err != nil {
		t.Error(err)
	}
	wantSameFile(t, from, to)
}
