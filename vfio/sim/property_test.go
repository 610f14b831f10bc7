package sim

import (
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/migpipe/migpipe/vfio"
)

// bubble wraps a *testing.T, so that rapid does not call Deadline, which panics in a bubble.
type bubble struct{ *testing.T }

// TestAnySaveCanBeLoaded saves by random calls and reads of random lengths, and
// loads the stream by writes of other lengths. Verify must succeed.
func TestAnySaveCanBeLoaded(t *testing.T) {
	eachProfile(t, func(t *testing.T, p *profile) {
		synctest.Test(t, func(t *testing.T) {
			rapid.Check(bubble{t}, func(rt *rapid.T) {
				url := strings.Replace(small[p.name], "600000", "200000", 1)
				if p.async && rapid.Bool().Draw(rt, "paced") {
					url += "&save=1GiB/s"
				}
				src, dst := open(t, url), open(t, p.name)
				defer src.Close()
				defer dst.Close()
				w := writer{rt: rt, s: set(t, dst, vfio.Resuming)}
				w.copy(anySave(t, rt, src))
				set(t, dst, vfio.Running)
				if err := dst.Verify(); err != nil {
					rt.Fatal(err)
				}
			})
		})
	})
}

// anySave takes d to the end of STOP_COPY by random calls.
func anySave(t *testing.T, rt *rapid.T, d *Device) []byte {
	var out []byte
	var s vfio.Stream
	read := func() error {
		buf := make([]byte, rapid.IntRange(1, 300_000).Draw(rt, "read"))
		n, err := s.Read(buf)
		out = append(out, buf[:n]...)
		return err
	}
	if d.Features().PreCopy {
		s = set(t, d, vfio.PreCopy)
		for range rapid.IntRange(0, 30).Draw(rt, "steps") {
			switch rapid.IntRange(0, 2).Draw(rt, "step") {
			case 0:
				if err := read(); err != nil && err != vfio.ErrDrained {
					rt.Fatal(err)
				}
			case 1:
				if _, err := s.Pending(); err != nil {
					rt.Fatal(err)
				}
			case 2:
				time.Sleep(time.Duration(rapid.IntRange(0, 2000).Draw(rt, "ms")) * time.Millisecond)
			}
		}
	}
	if fresh := set(t, d, vfio.StopCopy); fresh != nil {
		s = fresh
	}
	for {
		if err := read(); err == io.EOF {
			return out
		} else if err != nil {
			rt.Fatal(err)
		}
	}
}

// writer writes in random pieces.
type writer struct {
	rt *rapid.T
	s  vfio.Stream
}

func (w writer) copy(state []byte) {
	for len(state) > 0 {
		n := rapid.IntRange(1, min(len(state), 300_000)).Draw(w.rt, "write")
		if _, err := w.s.Write(state[:n]); err != nil {
			w.rt.Fatal(err)
		}
		state = state[n:]
	}
}
