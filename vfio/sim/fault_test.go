package sim

import (
	"errors"
	"io"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/migpipe/migpipe/vfio"
)

// readUpTo reads until an error. It returns the number of bytes before it.
func readUpTo(s vfio.Stream) (int, error) {
	n, buf := 0, make([]byte, 1000)
	for {
		m, err := s.Read(buf)
		n += m
		if err != nil {
			return n, err
		}
	}
}

func TestReadFaults(t *testing.T) {
	for _, tt := range []struct {
		fault string
		want  []error
		state vfio.State
	}{
		{"read@12345:EIO", []error{syscall.EIO}, vfio.StopCopy},
		{"reset@12345", []error{vfio.ErrSessionLost, syscall.ENODEV}, vfio.Running},
		{"error@12345", []error{vfio.ErrSessionLost, syscall.ENODEV}, vfio.StateError},
	} {
		t.Run(tt.fault, func(t *testing.T) {
			d := open(t, "mlx5?size=1MiB&fault="+tt.fault)
			s := set(t, d, vfio.StopCopy)
			n, err := readUpTo(s)
			_, again := s.Read(make([]byte, 1))
			for _, want := range tt.want {
				if n != 12345 || !errors.Is(err, want) || !errors.Is(again, want) {
					t.Errorf("after %d bytes: %v, then %v, want %v", n, err, again, want)
				}
			}
			if st, _ := d.State(); st != tt.state {
				t.Errorf("device is in %v", st)
			}
			if tt.state == vfio.StateError {
				if _, err := d.SetState(vfio.Running); !errors.Is(err, vfio.ErrInError) {
					t.Errorf("SET in ERROR: %v", err)
				}
			}
			if err := d.Reset(); err != nil {
				t.Fatal(err)
			}
			if _, err := readUpTo(set(t, d, vfio.StopCopy)); err != io.EOF {
				t.Errorf("the fault strikes twice: %v", err)
			}
		})
	}
}

func TestWriteFaults(t *testing.T) {
	state := save(t, open(t, "mlx5?size=1MiB"))
	for fault, want := range map[string]error{
		"write@50000:ENOSPC": syscall.ENOSPC, "short@50000": vfio.ErrShortWrite,
		"reset@50000": vfio.ErrSessionLost, "error@50000": vfio.ErrSessionLost,
	} {
		d := open(t, "mlx5?fault="+fault)
		s := set(t, d, vfio.Resuming)
		if n, err := s.Write(state); n != 50000 || !errors.Is(err, want) {
			t.Errorf("%s: %d bytes, %v", fault, n, err)
		}
		if n, err := s.Write(state[50000:]); n != 0 || err == nil {
			t.Errorf("%s: the first error was not final: %d bytes, %v", fault, n, err)
		}
		if d.Verify() == nil {
			t.Errorf("%s: Verify succeeds", fault)
		}
		d.Reset()
		load(t, d, state)
		if err := d.Verify(); err != nil {
			t.Errorf("%s: after a reset: %v", fault, err)
		}
	}
}

func TestHangUntilReset(t *testing.T) {
	state := save(t, open(t, "mlx5?size=1MiB"))
	synctest.Test(t, func(t *testing.T) {
		src, _ := OpenURL("mlx5?size=1MiB&fault=hang@1000")
		dst, _ := OpenURL("mlx5?load=1GiB/s&fault=hang@1000")
		r, w := set(t, src, vfio.StopCopy), set(t, dst, vfio.Resuming)
		got := make(chan error, 2)
		go func() { _, err := readUpTo(r); got <- err }()
		go func() { _, err := w.Write(state); got <- err }()
		synctest.Wait()
		if len(got) != 0 {
			t.Fatalf("the Read does not hang: %v", <-got)
		}
		src.Reset()
		dst.Reset()
		for range 2 {
			if err := <-got; !errors.Is(err, vfio.ErrSessionLost) {
				t.Error(err)
			}
		}
	})
}

func TestSetFaults(t *testing.T) {
	for _, tt := range []struct {
		fault    string
		from, to vfio.State
		now      vfio.State
		want     error
	}{
		{"set@STOP_COPY:EBUSY", vfio.Running, vfio.StopCopy, vfio.Stop, syscall.EBUSY},
		{"set@STOP_COPY:EINTR", vfio.PreCopy, vfio.StopCopy, vfio.PreCopyP2P, syscall.EINTR},
		{"set@PRE_COPY-RUNNING", vfio.PreCopy, vfio.Stop, vfio.PreCopy, syscall.EIO},
		{"set@RUNNING", vfio.Stop, vfio.Running, vfio.RunningP2P, syscall.EIO},
	} {
		t.Run(tt.fault, func(t *testing.T) {
			d := open(t, "mlx5?size=1MiB&fault="+tt.fault)
			set(t, d, tt.from)
			_, err := d.SetState(tt.to)
			te := (*vfio.TransitionError)(nil)
			if !errors.As(err, &te) || te.From != tt.from || te.To != tt.to || te.Now != tt.now || !errors.Is(err, tt.want) {
				t.Fatalf("%v -> %v: %v", tt.from, tt.to, err)
			}
			if st, _ := d.State(); st != tt.now {
				t.Errorf("device is in %v", st)
			}
			log := d.Log()
			if last := log[len(log)-1]; !errors.Is(last.Err, tt.want) {
				t.Errorf("log ends with %+v", last)
			}
			set(t, d, tt.to) // the fault strikes once
		})
	}
}

func TestReinit(t *testing.T) {
	src, dst := open(t, "mlx5?size=1MiB&fault=reinit@1000"), open(t, "mlx5")
	s := set(t, src, vfio.PreCopy)
	state := drain(t, s)
	p, err := s.Pending()
	if err != nil || !p.Reinit || p.Initial < 1<<20 || p.Dirty != 0 {
		t.Fatalf("Pending = %+v, %v", p, err)
	}
	again := drain(t, s)
	if len(again) < 1<<20 {
		t.Errorf("only %d bytes after REINIT", len(again))
	}
	if p, err := s.Pending(); err != nil || p != (vfio.Pending{}) {
		t.Errorf("Pending = %+v, %v", p, err)
	}
	set(t, src, vfio.StopCopy)
	load(t, dst, append(append(state, again...), drain(t, s)...))
	if err := dst.Verify(); err != nil {
		t.Error(err)
	}
}
