package vfio

import (
	"errors"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestRefusedBeforeTheKernel(t *testing.T) {
	refused := func(t *testing.T, from, to State, want error) {
		k := newFakeKernel(t)
		d := k.device(Info{})
		k.state = from
		_, err := d.SetState(to)
		wantIs(t, err, want)
		wantNow(t, err, from)
		if n := k.count("set"); n != 0 {
			t.Errorf("%d SETs reached the kernel", n)
		}
	}
	t.Run("quirk27_STOP_COPY_to_PRE_COPY", func(t *testing.T) {
		refused(t, StopCopy, PreCopy, ErrBlocked)
		refused(t, StopCopy, PreCopyP2P, ErrBlocked)
	})
	t.Run("quirk30_no_SET_in_ERROR", func(t *testing.T) { refused(t, StateError, Running, ErrInError) })
	t.Run("ERROR_cannot_be_asked_for", func(t *testing.T) { refused(t, Running, StateError, ErrUnsupportedState) })
}

func TestFailedSet(t *testing.T) {
	t.Run("quirk25_GET_after_failure", func(t *testing.T) {
		k := newFakeKernel(t)
		d := k.device(Info{})
		k.returns("set STOP_COPY", result{err: unix.EBUSY, before: func(k *fakeKernel) { k.state = Stop }})
		_, err := d.SetState(StopCopy)
		wantIs(t, err, unix.EBUSY)
		wantNow(t, err, Stop)
	})
	t.Run("GET_fails_too", func(t *testing.T) {
		k := newFakeKernel(t)
		d := k.device(Info{})
		k.returns("get", result{})
		k.fail("set STOP", unix.EIO)
		k.fail("get", unix.EIO)
		_, err := d.SetState(Stop)
		if e, ok := errors.AsType[*TransitionError](err); !ok || !errors.Is(e.NowErr, unix.EIO) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("refused_commit_keeps_the_session", func(t *testing.T) {
		k := newFakeKernel(t)
		d := k.device(Info{})
		s := mustSet(t, d, Resuming)
		k.fail("set STOP", unix.EINVAL)
		_, err := d.SetState(Stop)
		wantIs(t, err, ErrRejected, unix.EINVAL)
		wantNow(t, err, Resuming)
		if _, err := s.Write([]byte("x")); err != nil {
			t.Errorf("the session is gone: %v", err)
		}
	})
}

func TestQuirk26EnteredWithoutStream(t *testing.T) {
	for _, c := range []struct {
		to, after State
		leave     string
		errno     unix.Errno
	}{
		{PreCopy, Running, "set RUNNING", unix.EMFILE},
		{StopCopy, Stop, "set STOP", unix.ENFILE},
		{Resuming, Running, "reset", unix.EFAULT},
	} {
		t.Run("quirk26_"+c.to.String(), func(t *testing.T) {
			k := newFakeKernel(t)
			d := k.device(Info{})
			k.returns("set "+c.to.String(), result{err: c.errno, before: func(k *fakeKernel) { k.state = c.to }})
			s, err := d.SetState(c.to)
			wantIs(t, err, ErrNoStream, c.errno)
			wantNow(t, err, c.after)
			if s != nil || k.count(c.leave) != 1 {
				t.Errorf("stream %v, calls %v", s, k.calls)
			}
			if op, ok := errors.AsType[*OpError](err); !ok || op.Hint == "" && c.errno != unix.EFAULT {
				t.Errorf("no hint: %v", err)
			}
			if s := mustSet(t, d, c.to); s == nil {
				t.Error("entering the state again gave no stream")
			}
		})
	}
	t.Run("quirk26_success_without_fd", func(t *testing.T) {
		k := newFakeKernel(t)
		d := k.device(Info{})
		k.returns("set PRE_COPY", result{n: -1})
		_, err := d.SetState(PreCopy)
		wantIs(t, err, ErrNoStream)
		wantNow(t, err, Running)
	})
}

// TestQuirk31AsyncReset resets the device between two requests, as the guest can.
func TestQuirk31AsyncReset(t *testing.T) {
	t.Run("quirk31_seen_by_GET", func(t *testing.T) {
		k := newFakeKernel(t)
		d := k.device(Info{})
		s := mustSet(t, d, PreCopy)
		k.state, k.session = Running, 0
		_, err := s.Read(make([]byte, 8))
		wantIs(t, err, ErrSessionLost, unix.ENODEV)
		_, err = s.Pending()
		wantIs(t, err, ErrSessionLost, unix.ENODEV)
		if second := mustSet(t, d, PreCopy); second == nil {
			t.Error("PRE_COPY after the reset gave no stream")
		}
	})
	t.Run("quirk31_between_GET_and_SET", func(t *testing.T) {
		k := newFakeKernel(t)
		d := k.device(Info{})
		s := mustSet(t, d, PreCopy)
		before := len(k.files)
		k.returns("set STOP_COPY", result{before: func(k *fakeKernel) { k.state = Running }})
		_, err := d.SetState(StopCopy)
		wantIs(t, err, ErrSessionLost)
		wantNow(t, err, StopCopy)
		_, err = s.Read(make([]byte, 8))
		wantIs(t, err, ErrSessionLost)
		if len(k.files) != before {
			t.Errorf("the new session's fd leaked: %v", k.files)
		}
	})
}

func TestQuirk36HalfFreedSession(t *testing.T) {
	for _, c := range []struct {
		name  string
		to    State
		errno unix.Errno
	}{
		{"quirk36_ENODEV", Running, unix.ENODEV},
		{"quirk36_EIO", Running, unix.EIO},
		{"quirk47_EINTR_on_the_way_to_STOP_COPY", StopCopy, unix.EINTR},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newFakeKernel(t)
			d := k.device(Info{Driver: "mlx5"})
			s := mustSet(t, d, PreCopy)
			k.fail("set "+c.to.String(), c.errno)
			_, err := d.SetState(c.to)
			wantIs(t, err, c.errno)
			k.calls = nil
			_, err = d.SetState(Running)
			wantIs(t, err, ErrSessionLost)
			_, err = s.Pending()
			wantIs(t, err, ErrSessionLost)
			if k.count("set")+k.count("pending") != 0 {
				t.Errorf("reached the driver: %v", k.calls)
			}
			if err := d.Reset(); err != nil {
				t.Fatal(err)
			}
			mustSet(t, d, PreCopy)
		})
	}
}

// TestQuirk36PendingBesideSet calls Pending while a SET is in progress. After a
// failed SET the driver may have freed the session that Pending uses.
func TestQuirk36PendingBesideSet(t *testing.T) {
	for _, c := range []struct {
		name    string
		set     error // what SET STOP_COPY returns
		want    error // what Pending returns then
		reaches int   // number of calls that reach the driver
	}{
		{"quirk36_ENODEV", unix.ENODEV, ErrSessionLost, 0},
		{"quirk47_EINTR", unix.EINTR, ErrSessionLost, 0},
		{"session_continues", unix.EBUSY, nil, 1},
		{"quirk45_PRE_COPY_is_over", nil, ErrNotPreCopy, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, d, s := session(t, "mlx5", PreCopy)
			var pending sync.WaitGroup
			k.returns("set STOP_COPY", result{err: c.set, before: func(k *fakeKernel) {
				k.mu.Unlock()
				defer k.mu.Lock()
				pending.Go(func() {
					if _, err := s.Pending(); !errors.Is(err, c.want) {
						t.Errorf("Pending: %v, want %v", err, c.want)
					}
				})
				time.Sleep(20 * time.Millisecond)
				if n := k.count("pending"); n != 0 {
					t.Errorf("%d calls reached the driver during the SET", n)
				}
			}})
			if _, err := d.SetState(StopCopy); !errors.Is(err, c.set) {
				t.Errorf("SET: %v", err)
			}
			pending.Wait()
			if n := k.count("pending"); n != c.reaches {
				t.Errorf("%d calls reached the driver, want %d", n, c.reaches)
			}
		})
	}
}
