package vfio

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// session opens a device of the given driver and sets its state.
func session(t *testing.T, driver string, to State) (*fakeKernel, *device, *stream) {
	t.Helper()
	k := newFakeKernel(t)
	d := k.device(Info{Driver: driver})
	s := mustSet(t, d, to).(*stream)
	return k, d, s
}

func readOne(s io.Reader) (int, error) { return s.Read(make([]byte, 64)) }

func TestReadDrained(t *testing.T) {
	for name, r := range map[string]result{
		"quirk1_zero": {}, "quirk1_ENOMSG": {err: unix.ENOMSG},
		"quirk5_ENOMSG_although_dirty": {err: unix.ENOMSG}, "quirk12_EAGAIN": {err: unix.EAGAIN},
	} {
		t.Run(name, func(t *testing.T) {
			k, _, s := session(t, "mlx5", PreCopy)
			k.pending.dirty = 1 << 20
			k.returns("read", r)
			n, err := readOne(s)
			if n != 0 || err != ErrDrained {
				t.Errorf("got %d, %v", n, err)
			}
			k.out = []byte("more")
			if n, err := readOne(s); n != 4 || err != nil {
				t.Errorf("second read: %d, %v", n, err)
			}
		})
	}
}

func TestReadEnd(t *testing.T) {
	t.Run("quirk2_zero_in_STOP_COPY_is_the_end", func(t *testing.T) {
		k, d, s := session(t, "mtty", PreCopy)
		k.out = []byte("state")
		mustSet(t, d, StopCopy)
		got, err := io.ReadAll(s)
		if string(got) != "state" || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	})
	t.Run("quirk3_zero_across_the_switch_is_not_the_end", func(t *testing.T) {
		k, _, s := session(t, "mlx5", PreCopy)
		k.returns("read", result{before: func(*fakeKernel) { s.markFinal() }})
		if _, err := readOne(s); err != ErrDrained {
			t.Errorf("a read that began in PRE_COPY returned %v", err)
		}
		if _, err := readOne(s); err != io.EOF {
			t.Errorf("a read that began in STOP_COPY returned %v", err)
		}
	})
	t.Run("empty_buffer_is_no_end", func(t *testing.T) {
		k, _, s := session(t, "mtty", StopCopy)
		if n, err := s.Read(nil); n != 0 || err != nil || k.count("read") != 0 {
			t.Errorf("got %d, %v", n, err)
		}
	})
	t.Run("failed_STOP_COPY_is_no_end", func(t *testing.T) {
		k, d, s := session(t, "mtty", PreCopy)
		k.fail("set STOP_COPY", unix.EBUSY)
		if _, err := d.SetState(StopCopy); err == nil {
			t.Fatal("SET STOP_COPY succeeds")
		}
		if _, err := readOne(s); err != ErrDrained {
			t.Errorf("got %v", err)
		}
	})
}

func TestReadAfterFinal(t *testing.T) {
	t.Run("ENOMSG_for_a_while", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			k, _, s := session(t, "mlx5", StopCopy)
			k.out = []byte("late")
			k.fail("read", unix.ENOMSG, unix.ENOMSG)
			if n, err := readOne(s); n != 4 || err != nil {
				t.Errorf("got %d, %v", n, err)
			}
		})
	})
	t.Run("ENOMSG_for_ever", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			k, _, s := session(t, "mlx5", StopCopy)
			k.fail("read", slices.Repeat([]error{unix.ENOMSG}, 100)...)
			_, err := readOne(s)
			wantIs(t, err, unix.ENOMSG)
			if errors.Is(err, io.EOF) || errors.Is(err, ErrDrained) {
				t.Errorf("error is an end of the stream: %v", err)
			}
		})
	})
	t.Run("quirk12_EAGAIN_polls", func(t *testing.T) {
		k, _, s := session(t, "mlx5", StopCopy)
		k.fail("read", unix.EAGAIN, unix.EAGAIN)
		if _, err := readOne(s); err != io.EOF || k.count("poll") != 2 {
			t.Errorf("got %v, %v", err, k.calls)
		}
	})
}

func TestReadErrors(t *testing.T) {
	for _, c := range []struct {
		name, driver string
		errno        unix.Errno
		calls        int // number of reads that reach the driver
	}{
		{"quirk14_EINTR_ends_a_session", "xe", unix.EINTR, 1},
		{"quirk14_EINTR_of_an_unknown_driver", "", unix.EINTR, 1},
		{"quirk16_EFAULT_loses_bytes", "mlx5", unix.EFAULT, 1},
		{"quirk31_ENODEV", "mlx5", unix.ENODEV, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, _, s := session(t, c.driver, PreCopy)
			k.out = []byte("the rest")
			k.fail("read", c.errno)
			_, err := readOne(s)
			wantIs(t, err, ErrSessionLost, c.errno)
			_, again := readOne(s)
			if again != err || k.count("read") != c.calls {
				t.Errorf("second read: %v, %d reads", again, k.count("read"))
			}
		})
	}
	t.Run("quirk15_EINTR_of_mlx5_is_retried", func(t *testing.T) {
		k, _, s := session(t, "mlx5", PreCopy)
		k.out = []byte("state")
		k.fail("read", unix.EINTR)
		if n, err := readOne(s); n != 5 || err != nil {
			t.Errorf("got %d, %v", n, err)
		}
	})
}

func TestQuirk17ShortReads(t *testing.T) {
	k, _, s := session(t, "mlx5", StopCopy)
	k.returns("read", result{n: 1}, result{n: 7}, result{n: 3})
	got, err := io.ReadAll(s)
	if len(got) != 11 || err != nil || s.offset != 11 {
		t.Errorf("got %d bytes, %v, offset %d", len(got), err, s.offset)
	}
}

func TestPending(t *testing.T) {
	t.Run("quirk7_flags_are_echoed", func(t *testing.T) {
		k, _, s := session(t, "mlx5", PreCopy)
		k.pending = precopyInfo{initial: 24, dirty: 8, flags: precopyInfoReinit}
		for _, s.infoV2 = range []bool{false, true} {
			p, err := s.Pending()
			if err != nil || p != (Pending{24, 8, s.infoV2}) {
				t.Errorf("got %+v, %v", p, err)
			}
		}
	})
	t.Run("quirk43_REINIT_per_call", func(t *testing.T) {
		k, _, s := session(t, "mlx5", PreCopy)
		k.pending = precopyInfo{}
		for i, flags := range []uint32{0, precopyInfoReinit, 0, precopyInfoReinit} { // the driver repeats it after an acknowledgement
			k.pending.flags = flags
			if p, err := s.Pending(); err != nil || p.Reinit != (flags != 0) {
				t.Errorf("call %d: got %+v, %v, want REINIT %v", i, p, err, flags != 0)
			}
		}
	})
	t.Run("quirk4_every_call_reaches_the_driver", func(t *testing.T) {
		k, _, s := session(t, "virtio", PreCopy)
		for range 3 {
			_, _ = s.Pending()
		}
		if k.count("pending") != 3 {
			t.Errorf("calls %v", k.calls)
		}
	})
	for _, c := range []struct {
		name  string
		errno unix.Errno
		want  error
	}{
		{"quirk45_EINVAL_is_the_end_of_PRE_COPY", unix.EINVAL, ErrNotPreCopy},
		{"ENOTTY", unix.ENOTTY, errors.ErrUnsupported},
		{"quirk31_ENODEV", unix.ENODEV, ErrSessionLost},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, _, s := session(t, "mlx5", PreCopy)
			k.fail("pending", c.errno)
			_, err := s.Pending()
			wantIs(t, err, c.want, c.errno)
		})
	}
	t.Run("quirk41_nothing_pending", func(t *testing.T) {
		_, _, s := session(t, "mlx5", PreCopy)
		if p, err := s.Pending(); p != (Pending{}) || err != nil {
			t.Errorf("got %+v, %v", p, err)
		}
	})
}

func TestWrite(t *testing.T) {
	t.Run("quirk18_short_writes_are_continued", func(t *testing.T) {
		k, _, s := session(t, "pds", Resuming)
		k.returns("write", result{n: 3}, result{n: 1})
		if n, err := s.Write([]byte("abcdefgh")); n != 8 || err != nil || string(k.in) != "abcdefgh" {
			t.Errorf("got %d, %v, device has %q", n, err, k.in)
		}
	})
	t.Run("quirk18_zero_is_fatal", func(t *testing.T) {
		k, _, s := session(t, "pds", Resuming)
		k.returns("write", result{n: 3}, result{n: 0})
		n, err := s.Write([]byte("abcdefgh"))
		wantIs(t, err, ErrShortWrite)
		if n != 3 {
			t.Errorf("wrote %d bytes, want 3", n)
		}
	})
	t.Run("quirk20_first_error_is_final", func(t *testing.T) {
		k, _, s := session(t, "mtty", Resuming)
		_, _ = s.Write([]byte("good"))
		k.returns("write", result{n: 2}, result{err: unix.EFAULT})
		n, err := s.Write([]byte("evil"))
		if op, ok := errors.AsType[*OpError](err); !ok || op.Offset != 6 || op.Device != "dev0" || n != 2 {
			t.Errorf("got %d, %v", n, err)
		}
		k.calls = nil
		if _, again := s.Write([]byte("more")); again != err || len(k.calls) != 0 {
			t.Errorf("second write: %v, %v", again, k.calls)
		}
	})
	t.Run("quirk42_tiny_streams", func(t *testing.T) {
		k, _, s := session(t, "mtty", Resuming)
		for _, b := range []byte("0123456789") {
			if _, err := s.Write([]byte{b}); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(k.in, []byte("0123456789")) {
			t.Errorf("device has %q", k.in)
		}
	})
}

// oneWriterKernel accepts three bytes per write. It fails the test if two
// write(2) overlap.
type oneWriterKernel struct {
	*fakeKernel
	writers atomic.Int32
}

func (k *oneWriterKernel) write(fd int, p []byte) (int, error) {
	if n := k.writers.Add(1); n != 1 {
		k.t.Errorf("%d writes at once", n)
	}
	defer k.writers.Add(-1)
	time.Sleep(time.Millisecond)
	return k.fakeKernel.write(fd, p[:min(len(p), 3)])
}

// TestQuirk44OneWriter makes concurrent writes, each of several pieces. The
// driver sees one write after the other, and their pieces do not interleave.
func TestQuirk44OneWriter(t *testing.T) {
	t.Run("quirk44_writes_take_turns", func(t *testing.T) {
		k := &oneWriterKernel{fakeKernel: newFakeKernel(t)}
		d, err := newDevice(k, fakeDeviceFD, "dev0", Info{Driver: "qat"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		s := mustSet(t, d, Resuming).(*stream)
		var all sync.WaitGroup
		for c := range byte(16) {
			all.Go(func() {
				if _, err := s.Write(bytes.Repeat([]byte{'a' + c}, 4)); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		for p := range slices.Chunk(k.in, 4) {
			if !bytes.Equal(p, bytes.Repeat(p[:1], 4)) {
				t.Errorf("the pieces of a Write are apart: device has %q", k.in)
			}
		}
		if len(k.in) != 64 || s.offset != 64 {
			t.Errorf("device has %d bytes, offset %d", len(k.in), s.offset)
		}
	})
	t.Run("quirk44_one_stream_per_session", func(t *testing.T) {
		k, d, old := session(t, "qat", Resuming)
		if s := mustSet(t, d, Resuming); s != nil {
			t.Error("the session has a second stream")
		}
		if err := d.Reset(); err != nil {
			t.Fatal(err)
		}
		mustSet(t, d, Resuming)
		_, err := old.Write([]byte("late"))
		wantIs(t, err, ErrSessionLost)
		if k.count("write") != 0 {
			t.Error("a write to the earlier session reached the driver")
		}
	})
}

func TestQuirk21Rejections(t *testing.T) {
	for _, c := range []struct {
		driver string
		errno  unix.Errno
		want   error
	}{
		{"hisi_acc", unix.EFAULT, ErrRejected},
		{"mtty", unix.EFAULT, ErrRejected},
		{"mtty", unix.ENOMEM, ErrRejected},
		{"xe", unix.ENODEV, ErrRejected},
		{"xe", unix.EIO, ErrRejected},
		{"mlx5", unix.EOPNOTSUPP, ErrRejected},
		{"mlx5", unix.EREMOTEIO, ErrRejected},
		{"mlx5", unix.ENODEV, ErrSessionLost},
		{"virtio", unix.EOPNOTSUPP, ErrRejected},
		{"qat", unix.EOVERFLOW, ErrRejected},
		{"pds", unix.EINVAL, ErrRejected},
		{"some_new_driver", unix.EINVAL, ErrRejected},
		{"", unix.ENODEV, ErrSessionLost},
	} {
		t.Run("quirk21_"+c.driver+"_"+unix.ErrnoName(c.errno), func(t *testing.T) {
			k, _, s := session(t, c.driver, Resuming)
			k.fail("write", c.errno)
			_, err := s.Write([]byte("x"))
			wantIs(t, err, c.want, c.errno)
		})
	}
	t.Run("quirk35_ENOMEM_is_no_rejection", func(t *testing.T) {
		k, _, s := session(t, "mlx5", Resuming)
		k.fail("write", unix.ENOMEM)
		if _, err := s.Write([]byte("x")); errors.Is(err, ErrRejected) || !errors.Is(err, unix.ENOMEM) {
			t.Errorf("got %v", err)
		}
	})
}

func TestQuirk24OneCall(t *testing.T) {
	open := func(t *testing.T, kernel string, to State) (*fakeKernel, *stream) {
		k := newFakeKernel(t)
		d := k.device(Info{Driver: "hisi_acc", Kernel: kernel})
		return k, mustSet(t, d, to).(*stream)
	}
	t.Run("quirk24_write_in_pieces", func(t *testing.T) {
		k, s := open(t, "6.1.0-44-amd64", Resuming)
		_, err1 := s.Write(make([]byte, 176))
		_, err2 := s.Write([]byte("x"))
		if err1 != nil || err2 == nil || len(k.in) != 176 {
			t.Errorf("got %v, then %v, device has %d bytes", err1, err2, len(k.in))
		}
	})
	t.Run("quirk24_read_in_pieces", func(t *testing.T) {
		k, s := open(t, "5.19.3", StopCopy)
		k.out = make([]byte, 176)
		if got, err := io.ReadAll(io.LimitReader(s, 100)); len(got) != 100 || err != nil {
			t.Fatalf("got %d, %v", len(got), err)
		}
		if n, err := readOne(s); n != 0 || err == nil || err == io.EOF {
			t.Errorf("second piece: %d, %v", n, err)
		}
	})
	t.Run("quirk24_read_whole", func(t *testing.T) {
		k, s := open(t, "6.1.0", StopCopy)
		k.out = make([]byte, 176)
		p := make([]byte, 4096)
		n, err := s.Read(p)
		if n != 176 || err != nil {
			t.Fatalf("got %d, %v", n, err)
		}
		if _, err := s.Read(p); err != io.EOF {
			t.Errorf("second read: %v", err)
		}
	})
	t.Run("quirk24_fixed_kernel", func(t *testing.T) {
		_, s := open(t, "6.2.0", Resuming)
		_, err1 := s.Write([]byte("x"))
		_, err2 := s.Write([]byte("x"))
		if err := errors.Join(err1, err2); err != nil {
			t.Error(err)
		}
	})
}

func TestQuirk10SpliceProbe(t *testing.T) {
	k, _, s := session(t, "mtty", PreCopy)
	k.out = []byte("state")
	_, err := Splicer(s).SpliceTo(1, 64)
	wantIs(t, err, errors.ErrUnsupported)
	if n, err := readOne(s); n != 5 || err != nil {
		t.Errorf("read after the probe: %d, %v", n, err)
	}
	k.returns("splice", result{n: 7})
	if n, err := s.SpliceTo(1, 64); n != 7 || err != nil || s.offset != 12 {
		t.Errorf("splice by a driver that can: %d, %v, offset %d", n, err, s.offset)
	}
}

// TestQuirk46NoProbing checks that a stream's fd is only read: its size and
// position are meaningless.
func TestQuirk46NoProbing(t *testing.T) {
	k, _, s := session(t, "mtty", StopCopy)
	k.out = []byte("state")
	k.calls = nil
	if _, err := io.ReadAll(s); err != nil {
		t.Fatal(err)
	}
	if k.count("read") != len(k.calls) {
		t.Errorf("calls %v", k.calls)
	}
}

func TestQuirk40CloseEndsNothing(t *testing.T) {
	k, d, s := session(t, "mtty", PreCopy)
	_ = s.Close()
	if now, err := d.State(); now != PreCopy || err != nil {
		t.Errorf("device is in %v, %v", now, err)
	}
	_, err := readOne(s)
	wantIs(t, err, os.ErrClosed)
	if k.count("read") != 0 {
		t.Error("a closed stream was read")
	}
	mustSet(t, d, StopCopy) // the session continues in the kernel
}

// TestReadDoesNotAllocate checks that Read and Write make no allocation.
func TestReadDoesNotAllocate(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	in := &stream{fd: descriptor{kernel: host{}, fd: int(r.Fd())}}
	out := &stream{fd: descriptor{kernel: host{}, fd: int(w.Fd())}}
	p := make([]byte, 4096)
	n := testing.AllocsPerRun(100, func() {
		if _, err := out.Write(p); err != nil {
			t.Fatal(err)
		}
		if _, err := in.Read(p); err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations per write and read", n)
	}
}
