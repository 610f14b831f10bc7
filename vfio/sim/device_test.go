package sim

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/migpipe/migpipe/vfio"
	"github.com/migpipe/migpipe/vfio/vfiotest"
)

func TestStateReachesDestination(t *testing.T) {
	eachProfile(t, func(t *testing.T, p *profile) {
		synctest.Test(t, func(t *testing.T) {
			src, dst := open(t, small[p.name]), open(t, p.name)
			time.Sleep(time.Second) // the guest dirties blocks
			state := save(t, src)
			load(t, dst, state)
			if err := dst.Verify(); err != nil {
				t.Fatal(err)
			}
			if err := src.Verify(); !errors.Is(err, errNothingLoaded) {
				t.Errorf("source: Verify = %v", err)
			}
			again := open(t, p.name)
			load(t, again, save(t, dst))
			if err := again.Verify(); err != nil {
				t.Errorf("second migration: %v", err)
			}
		})
	})
}

func TestConformance(t *testing.T) {
	eachProfile(t, func(t *testing.T, p *profile) {
		source := conforming[p.name]
		conforms(t, p, func(*testing.T) string { return source }, func(*testing.T) string { return p.name })
		if p.async {
			conforms(t, p, func(*testing.T) string { return source + "&save=200MiB/s&load=400MiB/s" }, func(*testing.T) string { return p.name })
		}
		conforms(t, p, func(t *testing.T) string { return keeping(t, source) }, func(t *testing.T) string { return keeping(t, p.name) })
	})
}

func conforms(t *testing.T, p *profile, source, destination func(*testing.T) string) {
	vfiotest.Run(t, vfiotest.Config{
		Source:      func(t *testing.T) vfio.Device { return open(t, source(t)) },
		Destination: func(t *testing.T) vfio.Device { return open(t, destination(t)) },
		Verify: func(t *testing.T, _, destination vfio.Device) {
			if err := destination.(Verifier).Verify(); err != nil {
				t.Error(err)
			}
		},
		DetectsTruncation: p.short != 0,
	})
}

// conforming are devices whose guest is slow enough for a Read to return
// ErrDrained.
var conforming = map[string]string{
	"mlx5": "mlx5?size=5MiB&dirty=20MiB/s", "virtio": "virtio?size=50000&dirty=1MiB/s", "hisi_acc": "hisi_acc?seed=1",
	"qat": "qat?dirty=1kB/s", "pds": "pds?content=mixed", "xe": "xe?size=5MiB&dirty=1GiB/s",
	"mtty": "mtty?seed=1", "vgpu": "vgpu?size=5MiB&dirty=20MiB/s",
}

func TestStreamLengthsAreTheDrivers(t *testing.T) {
	for url, want := range map[string][2]int{ // PRE_COPY, all
		"mtty": {24, 96}, "mtty?ports=1": {24, 60}, "hisi_acc": {40, 176}, "hisi_acc?size=40": {40, 40},
		"qat": {qatSetup, 4096}, "pds": {0, 40 << 10}, "pds?size=64KiB": {0, 64 << 10},
	} {
		t.Run(url, func(t *testing.T) {
			d := open(t, url)
			var pre []byte
			var s vfio.Stream
			if d.Features().PreCopy {
				s = set(t, d, vfio.PreCopy)
				if p, err := s.Pending(); err != nil || p.Initial != uint64(want[0]) || p.Dirty != 0 {
					t.Errorf("Pending = %+v, %v", p, err)
				}
				pre = drain(t, s)
				set(t, d, vfio.StopCopy)
			} else {
				s = set(t, d, vfio.StopCopy)
			}
			if all := append(pre, drain(t, s)...); len(pre) != want[0] || len(all) != want[1] {
				t.Errorf("%d bytes in PRE_COPY, %d in total, want %v", len(pre), len(all), want)
			}
		})
	}
}

func TestSameSeedSameBytes(t *testing.T) {
	eachProfile(t, func(t *testing.T, p *profile) {
		var got [3][]byte
		for i, seed := range []string{"", "", "&seed=8"} {
			synctest.Test(t, func(t *testing.T) {
				url := small[p.name]
				if seed != "" {
					url = strings.Replace(url, "seed=7", "seed=8", 1)
				}
				d := open(t, url)
				time.Sleep(50 * time.Millisecond)
				got[i] = save(t, d)
			})
		}
		if !bytes.Equal(got[0], got[1]) {
			t.Error("same seed, different bytes")
		}
		if bytes.Equal(got[0], got[2]) {
			t.Error("another seed, same bytes")
		}
	})
}

func TestEstimates(t *testing.T) {
	for url, want := range map[string]uint64{
		"mtty": 96, "mtty?ports=1": 60, "hisi_acc": 176, "hisi_acc?size=40": 176, "qat": 4096, "pds": 65536,
		"pds?size=4096": 65536, "mlx5?size=1MiB": 1 << 20, "xe?size=2GiB": 2 << 30, "virtio?size=5000": 5000,
	} {
		if n, err := open(t, url).StopCopySize(); err != nil || n != want {
			t.Errorf("%s: StopCopySize = %d, %v, want %d", url, n, err, want)
		}
	}
}

func TestRejectedStreams(t *testing.T) {
	write := func(errno syscall.Errno) rejection { return rejection{inWrite, errno} }
	stop := func(errno syscall.Errno) rejection { return rejection{atStop, errno} }
	for _, tt := range []struct {
		src, dst string
		want     rejection
	}{
		{"mlx5?size=1MiB&version=2", "mlx5", write(syscall.EOPNOTSUPP)},
		{"virtio?version=2", "virtio", write(syscall.EOPNOTSUPP)},
		{"hisi_acc?version=2", "hisi_acc", write(syscall.EFAULT)},
		{"qat?version=2", "qat", write(syscall.EINVAL)},
		{"pds?version=2", "pds", stop(syscall.EINVAL)},
		{"xe?size=1MiB&version=2", "xe", write(syscall.ENODEV)},
		{"mtty?version=2", "mtty", write(syscall.EFAULT)},
		{"vgpu?size=1MiB&version=2", "vgpu", write(syscall.EINVAL)},
		{"mtty?ports=1", "mtty?ports=2", write(syscall.EFAULT)},
		{"mlx5?size=1MiB", "virtio", write(syscall.EOPNOTSUPP)},
		{"qat", "hisi_acc", write(syscall.EFAULT)},
	} {
		t.Run(tt.src+" into "+tt.dst, func(t *testing.T) {
			dst := open(t, tt.dst)
			s := set(t, dst, vfio.Resuming)
			_, err := s.Write(save(t, open(t, tt.src)))
			if tt.want.at == atStop {
				if err != nil {
					t.Fatalf("write: %v", err)
				}
				_, err = dst.SetState(vfio.Stop)
				if st, _ := dst.State(); st != vfio.Resuming {
					t.Errorf("device is in %v after a refused stop", st)
				}
			}
			if !errors.Is(err, vfio.ErrRejected) || !errors.Is(err, tt.want.errno) {
				t.Fatalf("error %v, want %v", err, tt.want.errno)
			}
			if dst.Verify() == nil {
				t.Error("Verify succeeds")
			}
		})
	}
}

func TestOlderStateIsUnderstood(t *testing.T) {
	dst := open(t, "mlx5?version=3")
	load(t, dst, save(t, open(t, "mlx5?size=1MiB&version=2")))
	if err := dst.Verify(); err != nil {
		t.Fatal(err)
	}
}

// TestTruncatedStreams checks that half of the drivers accept a truncated stream (quirk 23).
func TestTruncatedStreams(t *testing.T) {
	eachProfile(t, func(t *testing.T, p *profile) {
		state := save(t, open(t, small[p.name]))
		for _, n := range []int{0, 1, 30, 40, len(state) / 2, len(state) - 1} {
			dst := open(t, p.name)
			s := set(t, dst, vfio.Resuming)
			if _, err := s.Write(state[:min(n, len(state)-1)]); err != nil {
				t.Fatal(err)
			}
			_, err := dst.SetState(vfio.Running)
			refuses := p.short != 0 && !(p.bare > 0 && n == 40)
			if refuses != errors.Is(err, syscall.EINVAL) || refuses != errors.Is(err, vfio.ErrRejected) {
				t.Errorf("%d bytes: %v", n, err)
			}
			if dst.Verify() == nil {
				t.Errorf("%d bytes of %d: Verify succeeds", n, len(state))
			}
		}
	})
}

// TestCorruptedStreams checks that Verify detects each wrong byte.
func TestCorruptedStreams(t *testing.T) {
	eachProfile(t, func(t *testing.T, p *profile) {
		state := save(t, open(t, small[p.name]))
		for at := 0; at < len(state); at += 1 + at/4 {
			bad := bytes.Clone(state)
			bad[at] ^= 0x40
			dst := open(t, p.name)
			if _, err := set(t, dst, vfio.Resuming).Write(bad); err != nil && !errors.Is(err, vfio.ErrRejected) {
				t.Fatalf("byte %d: %v", at, err)
			}
			dst.SetState(vfio.Running)
			if dst.Verify() == nil {
				t.Fatalf("byte %d is wrong, but Verify succeeds", at)
			}
		}
	})
}

func TestBytesTooMany(t *testing.T) {
	want := map[string]error{
		"hisi_acc": syscall.ENOMEM, "qat": syscall.ENOMEM, "mtty": syscall.ENOMEM,
		"pds": vfio.ErrShortWrite, "mlx5": syscall.EINVAL, "virtio": syscall.EINVAL, "xe": syscall.EINVAL, "vgpu": syscall.EINVAL,
	}
	eachProfile(t, func(t *testing.T, p *profile) {
		state := save(t, open(t, small[p.name]))
		dst := open(t, p.name)
		s := set(t, dst, vfio.Resuming)
		n, err := s.Write(append(state, make([]byte, 64<<10)...))
		if !errors.Is(err, want[p.name]) {
			t.Fatalf("%d bytes written, %v, want %v", n, err, want[p.name])
		}
		if p.name == "pds" && n != pdsMax {
			t.Errorf("%d bytes written, want %d", n, pdsMax)
		}
		dst.SetState(vfio.Running)
		if dst.Verify() == nil {
			t.Error("Verify succeeds")
		}
	})
}

func TestStaleBlockIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := open(t, "mlx5?size=1MiB&dirty=1GiB/s&seed=3")
		s := set(t, src, vfio.PreCopy)
		head := drain(t, s)
		time.Sleep(time.Second)
		set(t, src, vfio.StopCopy)
		rest := drain(t, s)
		dst := open(t, "mlx5")
		w := set(t, dst, vfio.Resuming)
		w.Write(head)
		// The last record without the records before it.
		if _, err := w.Write(rest[len(rest)-32:]); !errors.Is(err, vfio.ErrRejected) || !strings.Contains(err.Error(), "latest") {
			t.Fatal(err)
		}
	})
}

func TestSessionEndsWithItsState(t *testing.T) {
	d := open(t, "mlx5?size=1MiB")
	s := set(t, d, vfio.PreCopy)
	if again := set(t, d, vfio.PreCopy); again != nil {
		t.Error("the same state opens a second session")
	}
	if again := set(t, d, vfio.PreCopyP2P); again != nil {
		t.Error("PRE_COPY_P2P opens a second session")
	}
	set(t, d, vfio.Stop)
	_, rerr := s.Read(make([]byte, 10))
	_, perr := s.Pending()
	for _, err := range []error{rerr, perr} {
		if !errors.Is(err, vfio.ErrSessionLost) || !errors.Is(err, syscall.ENODEV) {
			t.Errorf("after STOP: %v", err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Read of a closed stream: %v", err)
	}
}

func TestPendingOutsidePreCopy(t *testing.T) {
	d := open(t, "mlx5?size=1MiB")
	s := set(t, d, vfio.StopCopy)
	if _, err := s.Pending(); !errors.Is(err, vfio.ErrNotPreCopy) || !errors.Is(err, syscall.EINVAL) {
		t.Error(err)
	}
	s = set(t, d, vfio.Resuming)
	if _, err := s.Pending(); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, syscall.EBADF) {
		t.Error(err)
	}
	if _, err := set(t, open(t, "xe?size=1MiB"), vfio.StopCopy).Pending(); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
}

func TestResetDuringBlockedRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, wake := range []func(d *Device) error{
			(*Device).Reset, (*Device).Close,
			func(d *Device) error { _, err := d.SetState(vfio.Running); return err },
		} {
			d, err := OpenURL("mlx5?size=1GiB&save=1KiB/s")
			if err != nil {
				t.Fatal(err)
			}
			s := set(t, d, vfio.PreCopy)
			got := make(chan error)
			go func() {
				_, err := s.Read(make([]byte, 10))
				got <- err
			}()
			synctest.Wait()
			if err := wake(d); err != nil {
				t.Fatal(err)
			}
			if err := <-got; !errors.Is(err, vfio.ErrSessionLost) {
				t.Errorf("woken Read: %v", err)
			}
		}
	})
}

func TestClosedDevice(t *testing.T) {
	d, err := Open("mtty", nil)
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	_, serr := d.State()
	_, terr := d.SetState(vfio.Stop)
	_, zerr := d.StopCopySize()
	for i, err := range []error{serr, terr, zerr, d.Reset()} {
		if !errors.Is(err, os.ErrClosed) {
			t.Errorf("call %d: %v", i, err)
		}
	}
}

func TestEOFStays(t *testing.T) {
	d := open(t, "xe?size=100000")
	s := set(t, d, vfio.StopCopy)
	drain(t, s)
	for range 3 {
		if n, err := s.Read(make([]byte, 10)); n != 0 || err != io.EOF {
			t.Fatalf("Read at the end: %d, %v", n, err)
		}
	}
}

func TestLogOrdersDevices(t *testing.T) {
	a, b := open(t, "mlx5"), open(t, "mtty")
	set(t, a, vfio.RunningP2P)
	set(t, b, vfio.RunningP2P)
	set(t, a, vfio.Stop)
	la, lb := a.Log(), b.Log()
	if len(la) != 2 || len(lb) != 1 || la[0].Seq > lb[0].Seq || lb[0].Seq > la[1].Seq {
		t.Fatalf("logs %v and %v", la, lb)
	}
	for range maxEvents {
		a.Reset()
	}
	if n := len(a.Log()); n > maxEvents || n < maxEvents/2 {
		t.Errorf("log has %d events", n)
	}
	if st := a.Stats(); st.Sets != 2 || st.Resets != maxEvents {
		t.Errorf("stats %+v", st)
	}
}
