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

// Config tells the suite what it tests. What applies otherwise is read from
// the devices' features.
type Config struct {
	// Source and Destination open a device each that understand one another's
	// stream. They are called many times, for two devices that are open at the
	// same time; the suite closes what they return before it asks for the
	// next. A new device is in RUNNING.
	Source, Destination func(t *testing.T) vfio.Device
	// Verify, if set, is called when the destination has left RESUMING with
	// the whole stream of the source: it fails the test if the state that
	// arrived is not the one that left.
	Verify func(t *testing.T, source, destination vfio.Device)
	// DetectsTruncation says that the destination refuses a stream that lacks
	// its last byte, in Write or when it leaves RESUMING.
	DetectsTruncation bool
}

// cases are run in this order, each with devices of its own.
var cases = []struct {
	name string
	run  func(*testing.T, Config)
}{
	{"InitialState", initialState},
	{"Transitions", transitions},
	{"Loaded", loaded},
	{"SameState", sameState},
	{"Refused", refused},
	{"StopCopyNeverGoesBack", stopCopyNeverGoesBack},
	{"StopCopySize", stopCopySize},
	{"DrainedIsNotTheEnd", drainedIsNotTheEnd},
	{"Pending", pending},
	{"PendingElsewhere", pendingElsewhere},
	{"RoundTrip", roundTrip},
	{"Truncated", truncated},
	{"Persisted", persisted},
	{"LeavingEndsTheSession", leavingEndsTheSession},
	{"ResetEndsTheSession", resetEndsTheSession},
	{"CancelAndAgain", cancelAndAgain},
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
		t.Errorf("%d fds were open before the suite, %d are after it", before, after)
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

// patience is how long anything may take.
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

// set walks d to a state, wants a stream exactly where the state machine opens
// one, and closes that at the end of the test.
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

// states are those that a device has.
func states(d vfio.Device) (have []vfio.State) {
	for s := vfio.Stop; s <= vfio.PreCopyP2P; s++ {
		if d.Features().Has(s) {
			have = append(have, s)
		}
	}
	return have
}

// saving are the saving states that a device has.
func saving(d vfio.Device) (have []vfio.State) {
	for _, s := range states(d) {
		if s.Saving() {
			have = append(have, s)
		}
	}
	return have
}

// readUntil reads s until it gives the error want, asking for what is pending
// whenever it has nothing, since that is what makes some devices go on.
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
			t.Fatalf("after %d bytes: no byte and no error", len(got))
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %d bytes: no %v in %v", len(got), want, patience)
		}
	}
}

// save takes d, which runs, to STOP_COPY through the given states and returns
// its stream.
func save(t *testing.T, d vfio.Device, through ...vfio.State) (got []byte) {
	t.Helper()
	var s vfio.Stream
	for _, to := range through {
		if fresh := set(t, d, to); fresh != nil {
			s = fresh
		}
		got = append(got, readUntil(t, s, vfio.ErrDrained)...)
	}
	if fresh := set(t, d, vfio.StopCopy); fresh != nil {
		s = fresh
	}
	return append(got, readUntil(t, s, io.EOF)...)
}

// load writes a stream into d, in pieces of many sizes.
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

// migrate saves source and loads destination, which ends in STOP.
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

// routes are the ways from RUNNING to STOP_COPY that leave something to read
// on them.
func routes(f vfio.Features) map[string][]vfio.State {
	ways := map[string][]vfio.State{"Direct": nil}
	if f.PreCopy {
		ways["PreCopy"] = []vfio.State{vfio.PreCopy}
	}
	if f.PreCopy && f.P2P {
		ways["PreCopyP2P"] = []vfio.State{vfio.PreCopy, vfio.PreCopyP2P}
	}
	return ways
}
