package sim

import (
	"io"
	"runtime"
	"testing"

	"go.uber.org/goleak"

	"github.com/migpipe/migpipe/vfio"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestHugeDeviceIsCheap checks that a device of 100 GB needs little memory.
func TestHugeDeviceIsCheap(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s := set(t, open(t, "vgpu?size=100GiB&dirty=1GiB/s&content=mixed"), vfio.PreCopy)
	buf := make([]byte, 8<<20)
	for n := 0; n < 1<<30; {
		m, err := s.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		n += m
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 16<<20 {
		t.Errorf("the device allocated %d bytes", used)
	}
}

func TestNoAllocations(t *testing.T) {
	src, dst := open(t, "mlx5?size=1GiB"), open(t, "mlx5")
	r, w := set(t, src, vfio.StopCopy), set(t, dst, vfio.Resuming)
	buf := make([]byte, 64<<10)
	allocs := testing.AllocsPerRun(100, func() {
		n, err := r.Read(buf)
		if err == nil {
			_, err = w.Write(buf[:n])
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations for a Read and a Write", allocs)
	}
}

func BenchmarkRead(b *testing.B) {
	for _, content := range contentNames {
		b.Run(content, func(b *testing.B) {
			d, buf := open(b, "vgpu?size=4GiB&content="+content), make([]byte, 1<<20)
			s := set(b, d, vfio.StopCopy)
			b.SetBytes(int64(len(buf)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Read(buf); err == io.EOF {
					set(b, d, vfio.Stop)
					s = set(b, d, vfio.StopCopy)
				}
			}
		})
	}
}

// BenchmarkWrite writes a state of 64 MiB repeatedly.
func BenchmarkWrite(b *testing.B) {
	for _, content := range contentNames {
		b.Run(content, func(b *testing.B) {
			state := save(b, open(b, "mlx5?size=64MiB&content="+content))
			d := open(b, "mlx5")
			b.SetBytes(int64(len(state)))
			b.ReportAllocs()
			for b.Loop() {
				load(b, d, state)
			}
		})
	}
}
