package sim

import (
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/vfio"
)

// timeOf returns how long f takes on the bubble's clock.
func timeOf(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

func wantTime(t *testing.T, what string, got, want time.Duration) {
	t.Helper()
	if got < want || got > want+want/100+2*time.Millisecond {
		t.Errorf("%s took %v, want %v", what, got, want)
	}
}

// TestAsyncSave checks that a SET of mlx5 returns at once, and that a Read waits for the image.
func TestAsyncSave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, "mlx5?size=64MiB&save=32MiB/s&dirty=1MiB/s")
		var s vfio.Stream
		wantTime(t, "SET PRE_COPY", timeOf(func() { s = set(t, d, vfio.PreCopy) }), 0)
		buf := make([]byte, 1<<20)
		wantTime(t, "first read", timeOf(func() { s.Read(buf) }), 250*time.Millisecond) // 8 MiB
		wantTime(t, "the rest", timeOf(func() { drain(t, s) }), 1750*time.Millisecond)
		if _, err := s.Read(buf); err != vfio.ErrDrained {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if _, err := s.Read(buf); err != vfio.ErrDrained {
			t.Fatal("dirty data appeared without Pending")
		}
		p, err := s.Pending()
		if err != nil || p.Initial != 0 || p.Dirty < 1<<20 {
			t.Fatalf("Pending = %+v, %v", p, err)
		}
		if _, err := s.Read(buf); err != vfio.ErrDrained {
			t.Fatal("the increment is readable before it is saved")
		}
		time.Sleep(time.Second)
		if n, err := s.Read(buf); n == 0 || err != nil {
			t.Fatal(n, err)
		}
		wantTime(t, "SET STOP_COPY", timeOf(func() { set(t, d, vfio.StopCopy) }), 0)
		drain(t, s)
	})
}

// TestTwoBuffersIdle checks that the firmware is idle while both buffers are
// unread: a late reader waits for all but 16 MiB.
func TestTwoBuffersIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, "mlx5?size=64MiB&save=32MiB/s")
		s := set(t, d, vfio.StopCopy)
		time.Sleep(time.Hour)
		buf := make([]byte, 8<<20)
		wantTime(t, "two buffers", timeOf(func() { io.ReadFull(s, buf); io.ReadFull(s, buf) }), 0)
		wantTime(t, "the others", timeOf(func() { drain(t, s) }), 1500*time.Millisecond)
	})
}

func TestBuffersOfAnotherSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := set(t, open(t, "mlx5?size=64MiB&save=32MiB/s&buffer=1MiB"), vfio.StopCopy)
		buf := make([]byte, 1<<20)
		wantTime(t, "one buffer", timeOf(func() { s.Read(buf) }), time.Second/32)
		time.Sleep(time.Hour)
		wantTime(t, "all but two", timeOf(func() { drain(t, s) }), 61*time.Second/32)
	})
}

// TestSaveRate checks that a continuous reader receives bytes at the device's rate.
func TestSaveRate(t *testing.T) {
	for _, url := range []string{"mlx5?size=64MiB&save=32MiB/s", "vgpu?size=64MiB&save=32MiB/s", "xe?size=64MiB&save=32MiB/s"} {
		synctest.Test(t, func(t *testing.T) {
			s := set(t, open(t, url), vfio.StopCopy)
			buf := make([]byte, 1<<20)
			wantTime(t, url, timeOf(func() {
				for {
					if _, err := s.Read(buf); err == io.EOF {
						return
					}
				}
			}), 2*time.Second)
		})
	}
}

// TestSyncSave checks that the SET waits for a driver that saves inside it, and
// that later calls do not wait.
func TestSyncSave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, "pds?size=64KiB&save=64KiB/s")
		var s vfio.Stream
		wantTime(t, "SET STOP_COPY", timeOf(func() { s = set(t, d, vfio.StopCopy) }), time.Second)
		wantTime(t, "reading", timeOf(func() { drain(t, s) }), 0)
		d = open(t, "virtio?size=64KiB&save=64KiB/s")
		wantTime(t, "SET PRE_COPY", timeOf(func() { s = set(t, d, vfio.PreCopy) }), time.Second)
		wantTime(t, "SET STOP_COPY", timeOf(func() { set(t, d, vfio.StopCopy) }), time.Second)
	})
}

// TestResetWaitsForTheIoctl checks that a reset waits for a SET in progress, as for a driver's
// state lock.
func TestResetWaitsForTheIoctl(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, "pds?size=64KiB&save=64KiB/s")
		done := make(chan error)
		go func() { _, err := d.SetState(vfio.StopCopy); done <- err }()
		synctest.Wait()
		wantTime(t, "reset", timeOf(func() { d.Reset() }), time.Second)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if st, _ := d.State(); st != vfio.Running {
			t.Errorf("device is in %v", st)
		}
	})
}

func TestCloseDuringTheIoctl(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, "pds?size=64KiB&save=64KiB/s")
		done := make(chan error)
		go func() { _, err := d.SetState(vfio.StopCopy); done <- err }()
		synctest.Wait()
		d.Close()
		if err := <-done; err == nil {
			t.Error("a closed device reached STOP_COPY")
		}
	})
}

// TestVirtioDumpsOnceASecond checks that virtio dumps its whole state again at most
// once a second, and only after Pending.
func TestVirtioDumpsOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, "virtio?size=64KiB")
		s := set(t, d, vfio.PreCopy)
		first := len(drain(t, s))
		if p, _ := s.Pending(); p != (vfio.Pending{}) {
			t.Errorf("Pending within the second: %+v", p)
		}
		time.Sleep(time.Second)
		if n := len(drain(t, s)); n != 0 {
			t.Errorf("%d bytes without Pending", n)
		}
		for range 3 {
			if p, _ := s.Pending(); p.Dirty != 64<<10 {
				t.Errorf("Pending after a second: %+v", p)
			}
			if n := len(drain(t, s)); n < 64<<10 || n > first {
				t.Errorf("second dump has %d bytes, the first %d", n, first)
			}
			if p, _ := s.Pending(); p != (vfio.Pending{}) {
				t.Errorf("Pending directly after the dump: %+v", p)
			}
			time.Sleep(time.Second)
		}
	})
}

// TestNoRoundsAtRest checks that a device in PRE_COPY_P2P, which is at rest, starts no round.
func TestNoRoundsAtRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, "vgpu?size=8MiB&dirty=1GiB/s")
		s := set(t, d, vfio.PreCopy)
		drain(t, s)
		time.Sleep(time.Second)
		set(t, d, vfio.PreCopyP2P)
		if p, err := s.Pending(); err != nil || p != (vfio.Pending{}) {
			t.Errorf("Pending = %+v, %v", p, err)
		}
		before := d.im.digest()
		time.Sleep(time.Second)
		set(t, d, vfio.StopCopy)
		if d.im.digest() != before {
			t.Error("the guest wrote in PRE_COPY_P2P")
		}
	})
}

// TestReadFills checks that a Read of xe waits until its buffer is full.
func TestReadFills(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Packets of 512 MiB: the second ends with the state.
		d := open(t, "xe?size=600MiB&save=100MiB/s&content=zero")
		s := set(t, d, vfio.StopCopy)
		buf := make([]byte, 1<<20)
		wantTime(t, "the first packet", timeOf(func() {
			for range 511 {
				s.Read(buf)
			}
		}), 5120*time.Millisecond)
		buf = make([]byte, 4<<20)
		n := 0
		wantTime(t, "a read across packets", timeOf(func() { n, _ = s.Read(buf) }), 880*time.Millisecond)
		if n != len(buf) {
			t.Errorf("read %d bytes of %d", n, len(buf))
		}
	})
}

// TestLoadHoldsTheLock checks that GET waits for a load of mlx5, which runs inside Write under the
// state lock.
func TestLoadHoldsTheLock(t *testing.T) {
	for profile, wait := range map[string]time.Duration{"mlx5": time.Second, "vgpu": 0} {
		synctest.Test(t, func(t *testing.T) {
			state := save(t, open(t, profile+"?size=16MiB"))
			d := open(t, profile+"?load=16MiB/s")
			s := set(t, d, vfio.Resuming)
			done := make(chan time.Duration, 1)
			go func() { done <- timeOf(func() { s.Write(state) }) }()
			synctest.Wait()
			wantTime(t, profile+": GET", timeOf(func() { d.State() }), wait)
			wantTime(t, profile+": Write", <-done, time.Second)
			set(t, d, vfio.Stop)
			if err := d.Verify(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestResetDuringLoad checks that a reset ends a Write that waits for the device without the lock.
func TestResetDuringLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := save(t, open(t, "vgpu?size=1MiB"))
		d := open(t, "vgpu?load=1KiB/s")
		s := set(t, d, vfio.Resuming)
		done := make(chan error)
		go func() { _, err := s.Write(state); done <- err }()
		synctest.Wait()
		wantTime(t, "reset", timeOf(func() { d.Reset() }), 0)
		if err := <-done; !errors.Is(err, vfio.ErrSessionLost) {
			t.Error(err)
		}
	})
}

// TestLoadOfRecords checks that a device loads a record in the Write that completes it, and the
// remaining bytes in the Write that completes the stream.
func TestLoadOfRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := save(t, open(t, "mlx5?size=5MiB"))
		d := open(t, "mlx5?load=1MiB/s&record=2MiB")
		s := set(t, d, vfio.Resuming)
		const rec = 2 << 20
		for _, w := range []struct {
			from, to int
			want     time.Duration
		}{{0, rec - 1, 0}, {rec - 1, rec, 2 * time.Second}, {rec, 2*rec + 1, 2 * time.Second}, {2*rec + 1, len(state), timeFor(1<<20, int64(len(state)-2*rec))}} {
			wantTime(t, "Write", timeOf(func() { s.Write(state[w.from:w.to]) }), w.want)
		}
		set(t, d, vfio.Stop)
		if err := d.Verify(); err != nil {
			t.Error(err)
		}
	})
}

// TestAllocOnInitialBytes checks that only the Write that completes the initial bytes takes the time of
// the allocations. The initial bytes are the head if PRE_COPY has only that, and the whole first image of
// mlx5.
func TestAllocOnInitialBytes(t *testing.T) {
	for url, head := range map[string]bool{"mlx5?size=1MiB": false, "virtio?size=64KiB": false, "hisi_acc": true, "qat": true, "xe?size=1MiB": true} {
		synctest.Test(t, func(t *testing.T) {
			src := open(t, url)
			stream := save(t, src)
			d := open(t, src.p.name+"?alloc=500ms")
			s := set(t, d, vfio.Resuming)
			before, initial := src.p.layout.headLen()-1, src.p.layout.headLen()
			if !head {
				image := int64(len(src.im.gens))*int64(src.p.layout.recordLen()) + src.im.size
				before, initial = before+int(image), initial+int(image)
			}
			wantTime(t, url+": before", timeOf(func() { s.Write(stream[:before]) }), 0)
			wantTime(t, url+": the last initial byte", timeOf(func() { s.Write(stream[before:initial]) }), 500*time.Millisecond)
			wantTime(t, url+": the rest", timeOf(func() { s.Write(stream[initial:]) }), 0)
			set(t, d, vfio.Stop)
			if err := d.Verify(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestArcTimes checks that only the arcs into STOP_COPY and RUNNING take their times.
func TestArcTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const stop, start = 20 * time.Millisecond, 100 * time.Millisecond
		d := open(t, "mlx5?size=1MiB&stop=20ms&start=100ms")
		for _, arc := range []struct {
			to   vfio.State
			want time.Duration
		}{
			{vfio.PreCopy, 0}, {vfio.PreCopyP2P, 0}, {vfio.StopCopy, stop}, {vfio.Stop, 0},
			{vfio.RunningP2P, 0}, {vfio.Running, start}, {vfio.StopCopy, stop}, {vfio.Running, start},
			{vfio.PreCopy, 0}, {vfio.Running, 0},
		} {
			wantTime(t, "SET "+arc.to.String(), timeOf(func() { set(t, d, arc.to) }), arc.want)
		}
		dst := open(t, "pds?start=100ms&load=40KiB/s")
		s := set(t, dst, vfio.Resuming)
		state := save(t, open(t, "pds"))
		wantTime(t, "Write", timeOf(func() { s.Write(state) }), 0)
		wantTime(t, "STOP", timeOf(func() { set(t, dst, vfio.Stop) }), time.Second)
		wantTime(t, "RUNNING", timeOf(func() { set(t, dst, vfio.Running) }), start)
	})
}

// TestLoadAtStop checks that small devices load on the way to STOP.
func TestLoadAtStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := save(t, open(t, "qat"))
		d := open(t, "qat?load=4096B/s")
		s := set(t, d, vfio.Resuming)
		wantTime(t, "Write", timeOf(func() { s.Write(state) }), 0)
		wantTime(t, "STOP", timeOf(func() { set(t, d, vfio.Stop) }), time.Second)
	})
}

// TestLoadRateOfSmallWrites checks that many small writes take as long as one.
func TestLoadRateOfSmallWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := save(t, open(t, "xe?size=1MiB"))
		d := open(t, "xe?load=1MiB/s")
		s := set(t, d, vfio.Resuming)
		wantTime(t, "writes and STOP", timeOf(func() {
			for len(state) > 0 {
				n := min(len(state), 100)
				s.Write(state[:n])
				state = state[n:]
			}
			set(t, d, vfio.Stop)
		}), time.Second)
	})
}
