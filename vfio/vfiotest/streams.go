package vfiotest

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/migpipe/migpipe/vfio"
)

// drainedIsNotTheEnd reads the device until it is drained in PRE_COPY. The end
// of the stream is only in STOP_COPY, and repeats.
func drainedIsNotTheEnd(t *testing.T, cfg Config) {
	d := open(t, cfg.Source)
	if !d.Features().PreCopy {
		t.Skip("no PRE_COPY")
	}
	s := set(t, d, vfio.PreCopy)
	for range 3 {
		readUntil(t, s, vfio.ErrDrained)
	}
	set(t, d, vfio.StopCopy)
	readUntil(t, s, io.EOF)
	for range 3 {
		if n, err := s.Read(make([]byte, 64)); n != 0 || err != io.EOF {
			t.Errorf("read after the end: %d, %v", n, err)
		}
	}
}

func pending(t *testing.T, cfg Config) {
	d := open(t, cfg.Source)
	if !d.Features().PreCopy {
		t.Skip("no PRE_COPY")
	}
	s := set(t, d, vfio.PreCopy)
	if _, err := s.Pending(); err != nil {
		t.Errorf("in PRE_COPY: %v", err)
	}
	set(t, d, vfio.StopCopy)
	_, err := s.Pending()
	wantErr(t, "in STOP_COPY", err, vfio.ErrNotPreCopy)
	set(t, d, vfio.Running)
	if _, err = s.Pending(); err == nil {
		t.Error("Pending of an ended session succeeds")
	}
}

// pendingOutsidePreCopy calls Pending in states without an estimate.
func pendingOutsidePreCopy(t *testing.T, cfg Config) {
	d := open(t, cfg.Source)
	want := vfio.ErrNotPreCopy
	if !d.Features().PreCopy {
		want = errors.ErrUnsupported
	}
	_, err := set(t, d, vfio.StopCopy).Pending()
	wantErr(t, "in STOP_COPY", err, want)
	_, err = set(t, d, vfio.Resuming).Pending()
	wantErr(t, "in RESUMING", err, errors.ErrUnsupported)
	reset(t, d)
}

// roundTrip migrates by every route, and checks the final states of both sides.
func roundTrip(t *testing.T, cfg Config) {
	probe := cfg.Source(t)
	all := routes(probe.Features())
	if err := probe.Close(); err != nil {
		t.Fatal(err)
	}
	for name, through := range all {
		t.Run(name, func(t *testing.T) {
			source, destination := open(t, cfg.Source), open(t, cfg.Destination)
			migrate(t, cfg, source, destination, through...)
			set(t, destination, vfio.Running)
			set(t, source, vfio.Stop)
		})
	}
}

// truncated loads a stream without its last byte. Then a reset and the whole
// stream must succeed.
func truncated(t *testing.T, cfg Config) {
	source, destination := open(t, cfg.Source), open(t, cfg.Destination)
	data := save(t, source)
	if len(data) == 0 {
		t.Skip("the stream is empty")
	}
	err := load(t, destination, data[:len(data)-1])
	if err == nil {
		_, err = destination.SetState(vfio.Stop)
	}
	if cfg.DetectsTruncation && err == nil {
		t.Error("a stream without its last byte was accepted")
	}
	reset(t, destination)
	if err := load(t, destination, data); err != nil {
		t.Fatal(err)
	}
	set(t, destination, vfio.Stop)
}

// persisted loads a persistent session twice: it discards the first and commits the second. It
// checks that nothing of either remains.
func persisted(t *testing.T, cfg Config) {
	source, destination := open(t, cfg.Source), open(t, cfg.Destination)
	r, ok := destination.(vfio.Resumable)
	if !ok {
		t.Skip("not resumable")
	}
	data := save(t, source)
	for _, part := range [][]byte{data[:len(data)/2], data} {
		s, err := r.Persist("conformance")
		if errors.Is(err, errors.ErrUnsupported) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		wantState(t, destination, vfio.Resuming)
		complete(t, r, s, part)
		if len(part) < len(data) {
			reset(t, destination)
			wantRemoved(t, r)
		}
	}
	set(t, destination, vfio.Stop)
	if cfg.Verify != nil {
		cfg.Verify(t, source, destination)
	}
	set(t, destination, vfio.Running)
	if note, err := r.Resume("conformance"); len(note) != vfio.MaxNote || !errors.Is(err, vfio.ErrCommitted) {
		t.Errorf("resume of a committed session: a note of %d bytes, %v", len(note), err)
	}
	if all, err := r.Persisted(); err != nil || !slices.ContainsFunc(all, isConformance) {
		t.Errorf("persisted: %v, %v", all, err)
	}
	if err := r.Remove("conformance"); err != nil {
		t.Error(err)
	}
	wantRemoved(t, r)
}

func isConformance(p vfio.PersistedSession) bool { return p.ID == "conformance" }

// complete writes data and completes the session. It checks that no second session can begin
// meanwhile.
func complete(t *testing.T, r vfio.Resumable, s vfio.Persistent, data []byte) {
	t.Helper()
	if _, err := s.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := s.Complete(make([]byte, vfio.MaxNote)); err != nil {
		t.Fatal(err)
	}
	_, err := r.Persist("conformance")
	wantErr(t, "a second session", err, vfio.ErrBusy)
	wantErr(t, "removal of an open session", r.Remove("conformance"), vfio.ErrBusy)
}

func wantRemoved(t *testing.T, r vfio.Resumable) {
	t.Helper()
	if _, err := r.Resume("conformance"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("resume of a removed session: %v", err)
	}
	if err := r.Remove("conformance"); err != nil {
		t.Errorf("a second removal: %v", err)
	}
	if all, err := r.Persisted(); err != nil || slices.ContainsFunc(all, isConformance) {
		t.Errorf("persisted: %v, %v", all, err)
	}
}

// wantLost checks that a stream's session has ended.
func wantLost(t *testing.T, s vfio.Stream, was vfio.State) {
	t.Helper()
	var err error
	if was == vfio.Resuming {
		_, err = s.Write([]byte("late"))
	} else {
		_, err = s.Read(make([]byte, 64))
	}
	wantErr(t, "use of an ended session of "+was.String(), err, vfio.ErrSessionLost)
}

func leavingEndsTheSession(t *testing.T, cfg Config) {
	d := open(t, cfg.Source)
	for _, was := range saving(d) {
		s := set(t, d, was)
		set(t, d, vfio.Running)
		wantLost(t, s, was)
	}
}

func resetEndsTheSession(t *testing.T, cfg Config) {
	d := open(t, cfg.Source)
	for _, was := range append(saving(d), vfio.Resuming) {
		s := set(t, d, was)
		reset(t, d)
		wantLost(t, s, was)
	}
}

// leavingWakesRead reads continuously until the session ends.
func leavingWakesRead(t *testing.T, cfg Config) {
	for name, leave := range map[string]func(vfio.Device) error{
		"SetState": func(d vfio.Device) error { _, err := d.SetState(vfio.Running); return err },
		"Reset":    vfio.Device.Reset,
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t, cfg.Source)
			for _, from := range saving(d) {
				checkWakesRead(t, d, from, leave)
			}
		})
	}
}

func checkWakesRead(t *testing.T, d vfio.Device, from vfio.State, leave func(vfio.Device) error) {
	t.Helper()
	s := set(t, d, from)
	done := make(chan error, 1)
	go func() { done <- readToTheEnd(s) }()
	time.Sleep(5 * time.Millisecond)
	if err := leave(d); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err != io.EOF {
			wantErr(t, "read in "+from.String(), err, vfio.ErrSessionLost)
		}
	case <-time.After(patience):
		t.Fatalf("a read still blocks after the device has left %v", from)
	}
	wantState(t, d, vfio.Running)
}

// readToTheEnd reads until the first error that is not ErrDrained.
func readToTheEnd(s io.Reader) error {
	p := make([]byte, 64<<10)
	for {
		_, err := s.Read(p)
		if err != nil && !errors.Is(err, vfio.ErrDrained) {
			return err
		}
		if err != nil {
			time.Sleep(time.Millisecond)
		}
	}
}

// besideRead makes every call that is allowed during a read.
func besideRead(t *testing.T, cfg Config) {
	d := open(t, cfg.Source)
	s := set(t, d, saving(d)[len(saving(d))-1])
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, call := range []func(){
		func() { _, _ = d.State() },
		func() { _, _ = d.StopCopySize() },
		func() { _, _ = s.Pending() },
		func() { _ = d.Features() },
	} {
		wg.Go(func() { repeat(stop, call) })
	}
	wg.Go(func() { _ = readToTheEnd(s) })
	time.Sleep(20 * time.Millisecond)
	if state(t, d) != vfio.StopCopy {
		set(t, d, vfio.StopCopy)
	}
	time.Sleep(20 * time.Millisecond)
	set(t, d, vfio.Running)
	close(stop)
	wg.Wait()
}

func repeat(stop <-chan struct{}, f func()) {
	for {
		select {
		case <-stop:
			return
		default:
			f()
			time.Sleep(time.Millisecond)
		}
	}
}

// closing closes stream and device twice. A closed stream does not end its session.
func closing(t *testing.T, cfg Config) {
	d := cfg.Source(t)
	s := set(t, d, vfio.StopCopy)
	for range 2 {
		if err := s.Close(); err != nil {
			t.Errorf("stream: %v", err)
		}
	}
	wantState(t, d, vfio.StopCopy)
	if _, err := s.Read(make([]byte, 64)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("read of a closed stream: %v", err)
	}
	set(t, d, vfio.Running)
	for range 2 {
		if err := d.Close(); err != nil {
			t.Errorf("device: %v", err)
		}
	}
}
