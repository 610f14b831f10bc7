package sim

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/migpipe/migpipe/vfio"
)

func open(t testing.TB, url string) *Device {
	t.Helper()
	d, err := OpenURL(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func set(t testing.TB, d *Device, to vfio.State) vfio.Stream {
	t.Helper()
	s, err := d.SetState(to)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// drain reads until ErrDrained or io.EOF.
func drain(t testing.TB, s vfio.Stream) []byte {
	t.Helper()
	var out []byte
	buf := make([]byte, 100_000)
	for {
		n, err := s.Read(buf)
		out = append(out, buf[:n]...)
		if errors.Is(err, vfio.ErrDrained) || err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// save reads the whole state of d, through PRE_COPY if d has it.
func save(t testing.TB, d *Device) []byte {
	t.Helper()
	if !d.Features().PreCopy {
		return drain(t, set(t, d, vfio.StopCopy))
	}
	s := set(t, d, vfio.PreCopy)
	out := drain(t, s)
	for range 3 {
		time.Sleep(time.Millisecond)
		if _, err := s.Pending(); err != nil {
			t.Fatal(err)
		}
		out = append(out, drain(t, s)...)
	}
	set(t, d, vfio.StopCopy)
	return append(out, drain(t, s)...)
}

// load loads a state into d and takes d to RUNNING.
func load(t testing.TB, d *Device, state []byte) {
	t.Helper()
	s := set(t, d, vfio.Resuming)
	if n, err := s.Write(state); err != nil || n != len(state) {
		t.Fatalf("write: %d of %d bytes, %v", n, len(state), err)
	}
	set(t, d, vfio.Running)
}

// small returns a device URL of each profile with a small state.
var small = map[string]string{
	"mlx5":     "mlx5?size=600000&dirty=1GiB/s&seed=7&content=mixed",
	"virtio":   "virtio?size=100000&dirty=10MiB/s&seed=7",
	"hisi_acc": "hisi_acc?seed=7&dirty=1MiB/s",
	"qat":      "qat?seed=7&dirty=1MiB/s&content=text",
	"pds":      "pds?seed=7&dirty=1MiB/s",
	"xe":       "xe?size=600000&dirty=1GiB/s&seed=7",
	"mtty":     "mtty?seed=7&dirty=1MiB/s",
	"vgpu":     "vgpu?size=600000&dirty=1GiB/s&seed=7",
}

func eachProfile(t *testing.T, f func(t *testing.T, p *profile)) {
	for i := range profiles {
		t.Run(profiles[i].name, func(t *testing.T) { f(t, &profiles[i]) })
	}
}
