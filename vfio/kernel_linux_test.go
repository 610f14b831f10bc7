package vfio

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

func wantIs(t *testing.T, err error, targets ...error) {
	t.Helper()
	for _, target := range targets {
		if !errors.Is(err, target) {
			t.Errorf("error is %v, want it to be %v", err, target)
		}
	}
}

// wantNow checks the state that the error of a failed SetState names.
func wantNow(t *testing.T, err error, now State) {
	t.Helper()
	if e, ok := errors.AsType[*TransitionError](err); !ok || e.Now != now || e.NowErr != nil {
		t.Errorf("error is %v, want a TransitionError with the state %v", err, now)
	}
}

func mustSet(t *testing.T, d Device, to State) Stream {
	t.Helper()
	s, err := d.SetState(to)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestProbe(t *testing.T) {
	all := Features{P2P: true, PreCopy: true, DataSize: true, PreCopyInfoV2: true}
	old := []uint32{featureMigDataSize, featureMigPrecopyInfoV2}
	for _, c := range []struct {
		name   string
		flags  uint64
		lacks  []uint32
		absent unix.Errno
		want   Features
	}{
		{"everything", 7, nil, 0, all},
		{"quirk8_old_kernel_ENOTTY", 7, old, unix.ENOTTY, Features{P2P: true, PreCopy: true}},
		{"quirk8_old_kernel_EINVAL", 7, old, unix.EINVAL, Features{P2P: true, PreCopy: true}},
		{"no_precopy_no_info_v2", 3, nil, 0, Features{P2P: true, DataSize: true}},
		{"stop_copy_only", 1, nil, 0, Features{DataSize: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newFakeKernel(t)
			k.flags, k.lacks, k.absent = c.flags, c.lacks, c.absent
			d, err := newDevice(k, fakeDeviceFD, "dev0", Info{}, nil)
			if err != nil || d.Features() != c.want {
				t.Fatalf("got %+v, %v", d.Features(), err)
			}
			enabled := slices.Contains(k.calls, "feature 0x2000c")
			if enabled != c.want.PreCopyInfoV2 {
				t.Errorf("PRECOPY_INFOv2 enabled: %v", enabled)
			}
		})
	}
}

func TestProbeNoMigration(t *testing.T) {
	for _, errno := range []unix.Errno{unix.ENOTTY, unix.EINVAL} {
		k := newFakeKernel(t)
		k.fail("migration", errno)
		_, err := newDevice(k, fakeDeviceFD, "dev0", Info{}, nil)
		wantIs(t, err, ErrNoMigration)
	}
}

func TestSetStateSessions(t *testing.T) {
	k := newFakeKernel(t)
	d := k.device(Info{})
	first := mustSet(t, d, PreCopy)
	if first == nil {
		t.Fatal("PRE_COPY gave no stream")
	}
	t.Run("quirk29_same_state_gives_no_fd", func(t *testing.T) {
		if s := mustSet(t, d, PreCopy); s != nil {
			t.Error("a second PRE_COPY gave a stream")
		}
	})
	if s := mustSet(t, d, PreCopyP2P); s != nil {
		t.Error("PRE_COPY_P2P gave a second stream")
	}
	if s := mustSet(t, d, StopCopy); s != nil {
		t.Error("STOP_COPY gave a second stream")
	}
	if s := mustSet(t, d, Stop); s != nil {
		t.Error("STOP gave a stream")
	}
	if _, err := first.Read(make([]byte, 8)); !errors.Is(err, ErrSessionLost) {
		t.Errorf("read of a session that has ended: %v", err)
	}
	if s := mustSet(t, d, Resuming); s == nil {
		t.Error("RESUMING gave no stream")
	}
}

func TestReset(t *testing.T) {
	t.Run("quirk32_EAGAIN_is_retried", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			k := newFakeKernel(t)
			d := k.device(Info{})
			k.fail("reset", unix.EAGAIN, unix.EAGAIN, unix.EAGAIN)
			if err := d.Reset(); err != nil || k.count("reset") != 4 {
				t.Errorf("%v after %d calls", err, k.count("reset"))
			}
		})
	})
	t.Run("quirk32_not_for_ever", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			k := newFakeKernel(t)
			d := k.device(Info{})
			k.fail("reset", slices.Repeat([]error{unix.EAGAIN}, 100)...)
			wantIs(t, d.Reset(), unix.EAGAIN)
			if n := k.count("reset"); n != resetTries {
				t.Errorf("%d tries", n)
			}
		})
	})
	t.Run("no_reset_support", func(t *testing.T) {
		k := newFakeKernel(t)
		k.fail("reset", unix.EINVAL)
		wantIs(t, k.device(Info{}).Reset(), errors.ErrUnsupported)
	})
	t.Run("quirk49_aborts_a_load", func(t *testing.T) {
		k := newFakeKernel(t)
		d := k.device(Info{})
		s := mustSet(t, d, Resuming)
		if err := d.Reset(); err != nil {
			t.Fatal(err)
		}
		_, err := s.Write([]byte("late"))
		wantIs(t, err, ErrSessionLost)
		if n := k.count("write"); n != 0 {
			t.Errorf("quirk37: %d writes reached the driver after the reset", n)
		}
	})
}

func TestStopCopySize(t *testing.T) {
	k := newFakeKernel(t)
	d := k.device(Info{})
	k.size = 96
	if n, err := d.StopCopySize(); n != 96 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	t.Run("quirk9_absurd_size", func(t *testing.T) {
		k.size = ^uint64(21)
		_, err := d.StopCopySize()
		wantIs(t, err, errors.ErrUnsupported)
	})
	t.Run("quirk8_absent", func(t *testing.T) {
		k := newFakeKernel(t)
		k.lacks = []uint32{featureMigDataSize}
		_, err := k.device(Info{}).StopCopySize()
		wantIs(t, err, errors.ErrUnsupported)
		if k.count("size") != 0 {
			t.Error("the driver was called")
		}
	})
}

// TestQuirk39SharedState has another owner change the device's state.
func TestQuirk39SharedState(t *testing.T) {
	k := newFakeKernel(t)
	d := k.device(Info{})
	k.state = StopCopy
	_, err := d.SetState(PreCopy)
	wantIs(t, err, ErrBlocked)
	if now, err := d.State(); now != StopCopy || err != nil {
		t.Errorf("State returned %v, %v", now, err)
	}
}

// TestQuirk37WriterJoined checks that SetState waits for a write in progress.
func TestQuirk37WriterJoined(t *testing.T) {
	k := newFakeKernel(t)
	d := k.device(Info{})
	s := mustSet(t, d, Resuming)
	unlock := s.(*stream).busy.Unlock
	s.(*stream).busy.Lock() // as a Write does
	var wg sync.WaitGroup
	wg.Go(func() { mustSet(t, d, Stop) })
	_, _ = d.State() // does not wait
	time.Sleep(20 * time.Millisecond)
	k.mu.Lock()
	sets := k.count("set")
	k.mu.Unlock()
	if sets != 1 {
		t.Errorf("%d SETs while a write was in progress, want only that to RESUMING", sets)
	}
	unlock()
	wg.Wait()
	_, err := s.Write([]byte("late"))
	wantIs(t, err, ErrSessionLost)
	if k.count("write") != 0 {
		t.Error("a late write reached the driver")
	}
}

// TestQuirk37SessionReplaced ends a load by a request that opens another session.
func TestQuirk37SessionReplaced(t *testing.T) {
	k, d, s := session(t, "virtio", Resuming)
	mustSet(t, d, PreCopy)
	_, err := s.Write([]byte("late"))
	wantIs(t, err, ErrSessionLost)
	if k.count("write") != 0 {
		t.Error("a late write reached the driver")
	}
}

// TestQuirk28StopDiscardsPreCopy checks that PRE_COPY -> STOP is legal and ends the session.
func TestQuirk28StopDiscardsPreCopy(t *testing.T) {
	_, d, s := session(t, "mlx5", PreCopy)
	mustSet(t, d, Stop)
	_, err := readOne(s)
	wantIs(t, err, ErrSessionLost)
}

// TestQuirk48BesideASet makes calls while a SET sleeps in the kernel. Only
// Pending waits for the SET, as in the kernel.
func TestQuirk48BesideASet(t *testing.T) {
	k, d, s := session(t, "mlx5", PreCopy)
	asked := make(chan error, 1)
	k.returns("set STOP_COPY", result{before: func(k *fakeKernel) {
		k.mu.Unlock()
		defer k.mu.Lock()
		for name, ask := range map[string]func() error{
			"State":        func() error { _, err := d.State(); return err },
			"StopCopySize": func() error { _, err := d.StopCopySize(); return err },
			"Read":         func() error { _, err := readOne(s); return err },
		} {
			got := make(chan error, 1)
			go func() { got <- ask() }()
			if !returns(got, 10*time.Second) {
				t.Errorf("%s waits for the SET", name)
			} else if err := <-got; err != nil && err != ErrDrained {
				t.Errorf("%s: %v", name, err)
			}
		}
		go func() { _, err := s.Pending(); asked <- err }()
		if returns(asked, 20*time.Millisecond) {
			t.Error("Pending does not wait for the SET")
		}
	}})
	mustSet(t, d, StopCopy)
	wantIs(t, <-asked, ErrNotPreCopy)
}

// TestQuirk19BlockedWrite makes every call while a write sleeps in the driver.
// Calls that end the session always wait for the write. Queries wait while the
// driver holds the device's lock. No call hangs for ever.
func TestQuirk19BlockedWrite(t *testing.T) {
	for _, c := range []struct {
		name  string
		call  func(d Device, s Stream) error
		sends string // the call that must reach the kernel after the write
		waits bool   // whether it waits even without the device's lock
	}{
		{"quirk19_State", func(d Device, _ Stream) error { _, err := d.State(); return err }, "", false},
		{"quirk19_StopCopySize", func(d Device, _ Stream) error { _, err := d.StopCopySize(); return err }, "", false},
		{"quirk19_SetState", func(d Device, _ Stream) error { _, err := d.SetState(Stop); return err }, "set STOP", true},
		{"quirk19_Reset", func(d Device, _ Stream) error { return d.Reset() }, "reset", true},
		{"quirk19_Close", func(d Device, _ Stream) error { return d.Close() }, "", true},
	} {
		for name, locked := range map[string]bool{"_locked": true, "_unlocked": false} {
			t.Run(c.name+name, func(t *testing.T) {
				k, d, s := session(t, "mlx5", Resuming)
				k.calls = nil
				release, written := blockedWrite(k, s, locked)
				called := make(chan error, 1)
				go func() { called <- c.call(d, s) }()
				if c.waits || locked {
					if returns(called, 20*time.Millisecond) {
						t.Error("the call does not wait for the write")
					}
				} else if !returns(called, 10*time.Second) {
					t.Error("the call waits for the write")
				}
				release()
				if !returns(written, 10*time.Second) || !returns(called, 10*time.Second) {
					t.Fatal("deadlock")
				}
				if err := errors.Join(<-written, <-called); err != nil {
					t.Error(err)
				}
				if at := slices.Index(k.calls, c.sends); at >= 0 && at < slices.Index(k.calls, "written") {
					t.Errorf("calls %v", k.calls)
				}
			})
		}
	}
}

// blockedWrite starts a write that sleeps in the kernel until release, with the
// device's lock or without. It returns when the write sleeps.
func blockedWrite(k *fakeKernel, s Stream, locked bool) (release func(), written chan error) {
	asleep, wake := make(chan struct{}), make(chan struct{})
	k.returns("write", result{n: 5, before: func(k *fakeKernel) {
		if !locked {
			k.mu.Unlock()
		}
		close(asleep)
		<-wake
		if !locked {
			k.mu.Lock()
		}
		k.calls = append(k.calls, "written")
	}})
	written = make(chan error, 1)
	go func() {
		_, err := s.Write([]byte("state"))
		written <- err
	}()
	<-asleep
	return func() { close(wake) }, written
}

// returns reports whether a call, which sends its result to a channel of
// capacity 1, returns in time.
func returns(result chan error, in time.Duration) bool {
	select {
	case err := <-result:
		result <- err
		return true
	case <-time.After(in):
		return false
	}
}

func TestStateFails(t *testing.T) {
	k := newFakeKernel(t)
	d := k.device(Info{})
	k.fail("get", unix.EIO, unix.EIO)
	_, err := d.State()
	wantIs(t, err, unix.EIO)
	_, err = d.SetState(Stop)
	wantIs(t, err, unix.EIO)
	if k.count("set") != 0 {
		t.Error("a SET reached the kernel although the state is unknown")
	}
}

func TestCloseIsIdempotent(t *testing.T) {
	k := newFakeKernel(t)
	d := k.device(Info{})
	s := mustSet(t, d, PreCopy)
	for range 2 {
		if err := errors.Join(s.Close(), d.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if len(k.files) != 0 {
		t.Errorf("left open: %v", k.files)
	}
	if _, err := d.State(); err == nil {
		t.Error("State of a closed device succeeds")
	}
}
