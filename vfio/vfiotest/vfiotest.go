// Package vfiotest is the suite that every implementation of [vfio.Device]
// passes: simulated devices, files, and the kernel's own.
package vfiotest

import (
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/migpipe/migpipe/vfio"
)

// Config is the subject of the suite. Further conditions follow from the
// devices' features.
type Config struct {
	// Source and Destination each open a device in RUNNING. The two devices
	// understand each other's stream and may be open at the same time. The
	// suite calls the functions many times, and closes a device before it
	// opens the next.
	Source, Destination func(t *testing.T) vfio.Device
	// Verify, if set, is called when the destination has left RESUMING with
	// the whole stream of the source. It fails the test if the loaded state
	// differs from the saved one.
	Verify func(t *testing.T, source, destination vfio.Device)
	// DetectsTruncation is true if the destination refuses a stream without
	// its last byte, in Write or when it leaves RESUMING.
	DetectsTruncation bool
}

// cases run in this order, each with devices of its own.
var cases = []struct {
	name string
	run  func(*testing.T, Config)
}{
	{"InitialState", initialState},
	{"Transitions", transitions},
	{"Loaded", loaded},
	{"SameState", sameState},
	{"Refused", refused},
	{"StopCopyToPreCopy", stopCopyToPreCopy},
	{"StopCopySize", stopCopySize},
	{"DrainedIsNotTheEnd", drainedIsNotTheEnd},
	{"Pending", pending},
	{"PendingOutsidePreCopy", pendingOutsidePreCopy},
	{"RoundTrip", roundTrip},
	{"Truncated", truncated},
	{"Persisted", persisted},
	{"LeavingEndsTheSession", leavingEndsTheSession},
	{"ResetEndsTheSession", resetEndsTheSession},
	{"CancelAndMigrate", cancelAndMigrate},
	{"LeavingWakesRead", leavingWakesRead},
	{"BesideRead", besideRead},
	{"Close", closing},
}

// Run runs the suite.
func Run(t *testing.T, cfg Config) {
	before := openFDs(t)
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { c.run(t, cfg) })
	}
	if after := openFDs(t); after != before {
		t.Errorf("%d fds are open after the suite, want %d as before", after, before)
	}
}

func openFDs(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// patience is the time limit of each step.
const patience = 30 * time.Second

func open(t *testing.T, f func(*testing.T) vfio.Device) vfio.Device {
	t.Helper()
	d := f(t)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return d
}

// set sets the state of d. It checks that the device returns a stream exactly
// if the state machine opens one. The end of the test closes the stream.
func set(t *testing.T, d vfio.Device, to vfio.State) vfio.Stream {
	t.Helper()
	from := state(t, d)
	s, err := d.SetState(to)
	if err != nil {
		t.Fatalf("%v -> %v: %v", from, to, err)
	}
	if (s != nil) != vfio.OpensSession(from, to) {
		t.Fatalf("%v -> %v: stream is %v", from, to, s)
	}
	if s != nil {
		t.Cleanup(func() { _ = s.Close() })
	}
	wantState(t, d, to)
	return s
}

func state(t *testing.T, d vfio.Device) vfio.State {
	t.Helper()
	s, err := d.State()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func wantState(t *testing.T, d vfio.Device, want vfio.State) {
	t.Helper()
	if got := state(t, d); got != want {
		t.Fatalf("device is in %v, want %v", got, want)
	}
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

func reset(t *testing.T, d vfio.Device) {
	t.Helper()
	if err := d.Reset(); err != nil {
		t.Fatalf("reset: %v", err)
	}
	wantState(t, d, vfio.Running)
}

// states returns the states that a device has.
func states(d vfio.Device) (have []vfio.State) {
	for s := vfio.Stop; s <= vfio.PreCopyP2P; s++ {
		if d.Features().Has(s) {
			have = append(have, s)
		}
	}
	return have
}

// saving returns the saving states that a device has.
func saving(d vfio.Device) (have []vfio.State) {
	for _, s := range states(d) {
		if s.Saving() {
			have = append(have, s)
		}
	}
	return have
}

// readUntil reads s until the error want. It calls Pending whenever s is
// drained, since some devices produce more data only after that.
func readUntil(t *testing.T, s vfio.Stream, want error) (got []byte) {
	t.Helper()
	p := make([]byte, 1<<20)
	for deadline := time.Now().Add(patience); ; {
		n, err := s.Read(p)
		got = append(got, p[:n]...)
		switch {
		case errors.Is(err, want):
			return got
		case errors.Is(err, vfio.ErrDrained):
			_, _ = s.Pending()
			time.Sleep(time.Millisecond)
		case err != nil:
			t.Fatalf("after %d bytes: got %v, want %v", len(got), err, want)
		case n == 0:
			t.Fatalf("after %d bytes: a read returned no byte and no error", len(got))
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %d bytes: no %v in %v", len(got), want, patience)
		}
	}
}

// save takes d from RUNNING through the given states to STOP_COPY, and returns
// the bytes of its stream.
func save(t *testing.T, d vfio.Device, through ...vfio.State) (got []byte) {
	t.Helper()
	var s vfio.Stream
	for _, to := range through {
		if opened := set(t, d, to); opened != nil {
			s = opened
		}
		got = append(got, readUntil(t, s, vfio.ErrDrained)...)
	}
	if opened := set(t, d, vfio.StopCopy); opened != nil {
		s = opened
	}
	return append(got, readUntil(t, s, io.EOF)...)
}

// load writes a stream into d, in pieces of different sizes.
func load(t *testing.T, d vfio.Device, data []byte) error {
	t.Helper()
	s := set(t, d, vfio.Resuming)
	for size := 4096; len(data) > 0; size = 1 + size*7%99991 {
		n := min(size, len(data))
		m, err := s.Write(data[:n])
		if err != nil {
			return err
		}
		if m != n {
			t.Fatalf("wrote %d of %d bytes without an error", m, n)
		}
		data = data[n:]
	}
	return s.Close()
}

// migrate saves source and loads destination, which is in STOP afterwards.
func migrate(t *testing.T, cfg Config, source, destination vfio.Device, through ...vfio.State) {
	t.Helper()
	if err := load(t, destination, save(t, source, through...)); err != nil {
		t.Fatal(err)
	}
	set(t, destination, vfio.Stop)
	if cfg.Verify != nil {
		cfg.Verify(t, source, destination)
	}
}

// routes returns the routes from RUNNING to STOP_COPY, as the saving states on
// the way.
func routes(f vfio.Features) map[string][]vfio.State {
	all := map[string][]vfio.State{"Direct": nil}
	if f.PreCopy {
		all["PreCopy"] = []vfio.State{vfio.PreCopy}
	}
	if f.PreCopy && f.P2P {
		all["PreCopyP2P"] = []vfio.State{vfio.PreCopy, vfio.PreCopyP2P}
	}
	return all
}
