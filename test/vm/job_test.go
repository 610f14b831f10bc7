package vm

import (
	"encoding/json"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/migpipe/migpipe/test/vm/guestapi"
)

// job is a program that runs in a guest.
type job struct {
	m      *machine
	name   string
	handle int
}

// start starts a program that inherits devices as fd 3, 4, ... The end of the scenario kills
// it if it still runs.
func (m *machine) start(t *testing.T, c guestapi.Command) *job {
	t.Helper()
	j := &job{m: m, name: c.Argv[0]}
	m.must(t, "Start", c, &j.handle)
	t.Cleanup(func() { j.end(t) })
	return j
}

// run runs a program that must succeed and returns its output.
func (m *machine) run(t *testing.T, argv ...string) string {
	t.Helper()
	r := m.start(t, guestapi.Command{Argv: argv}).wait(t, callTime)
	if r.Exit != 0 {
		t.Fatalf("%s: %v: exit %d\n%s%s", m.name, argv, r.Exit, r.Stdout, r.Stderr)
	}
	return strings.TrimSpace(r.Stdout)
}

// poll returns the program's output so far, or its end if that is within limit.
func (j *job) poll(limit time.Duration) (guestapi.Result, error) {
	var r guestapi.Result
	w := guestapi.Wait{Process: j.handle, Timeout: limit}
	err := j.m.callWithin(limit+callTime, "Wait", w, &r)
	return r, err
}

// wait waits for the program's end.
func (j *job) wait(t *testing.T, limit time.Duration) guestapi.Result {
	t.Helper()
	r, err := j.poll(limit)
	if err != nil {
		t.Fatal(err)
	}
	if !r.Exited {
		t.Fatalf("%s on %s still runs after %v", j.name, j.m.name, limit)
	}
	return r
}

func (j *job) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	j.m.must(t, "Signal", guestapi.Signal{Process: j.handle, Signal: int(s)}, new(struct{}))
}

// end ends the program, and shows its output if the scenario has failed.
func (j *job) end(t *testing.T) {
	r, err := j.poll(0)
	if err == nil && !r.Exited {
		kill := guestapi.Signal{Process: j.handle, Signal: int(syscall.SIGKILL)}
		j.m.call("Signal", kill, new(struct{}))
		r, err = j.poll(callTime)
	}
	if err != nil {
		t.Error(err)
	}
	if t.Failed() {
		t.Logf("%s on %s, exit %d:\n%s%s", j.name, j.m.name, r.Exit, withoutProgress(r.Stdout), r.Stderr)
	}
}

// withoutProgress removes the events that only report progress.
func withoutProgress(stdout string) string {
	var kept strings.Builder
	for line := range strings.Lines(stdout) {
		if !strings.Contains(line, `"event":"progress"`) {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// event is a line of a program's --json output, with the fields of "listening", "phase",
// "held" and "done".
type event struct {
	Event      string
	Phase      string
	PID        int
	Address    string
	ID         string
	Outcome    string
	Exit       int
	TotalMS    float64 `json:"total_ms"`
	DowntimeMS float64 `json:"downtime_ms"`
	Devices    []deviceReport
}

// deviceReport is the part of "done" about one device.
type deviceReport struct {
	Name   string
	Bytes  int64
	Digest json.RawMessage
}

// device finds the report on a device, empty if there is none.
func (e event) device(name string) deviceReport {
	for _, d := range e.Devices {
		if d.Name == name {
			return d
		}
	}
	return deviceReport{}
}

// findEvent searches a program's output for an event, or for the event of a phase. It ignores
// an incomplete last line.
func findEvent(stdout, name string) (found event, ok bool, err error) {
	for line := range strings.Lines(stdout) {
		if !strings.HasSuffix(line, "\n") {
			break
		}
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			return e, false, fmt.Errorf("--json printed %q: %w", line, err)
		}
		if e.Event == name || e.Event == "phase" && e.Phase == name {
			found, ok = e, true
		}
	}
	return found, ok, nil
}

// await waits for an event, or a phase, of a running program.
func (j *job) await(t *testing.T, name string) event {
	t.Helper()
	e, ok := j.eventOrEnd(t, name)
	if !ok {
		t.Fatalf("%s on %s ended before %q", j.name, j.m.name, name)
	}
	return e
}

// endsOr waits until a program has ended, or printed an event or a phase. It reports whether the
// program ended without it.
func (j *job) endsOr(t *testing.T, name string) bool {
	t.Helper()
	_, ok := j.eventOrEnd(t, name)
	return !ok
}

// eventOrEnd is the first event of a name, false if the program ended without one.
func (j *job) eventOrEnd(t *testing.T, name string) (event, bool) {
	t.Helper()
	for deadline := time.Now().Add(callTime); time.Now().Before(deadline); {
		r, err := j.poll(20 * time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		e, ok, err := findEvent(r.Stdout, name)
		if err != nil {
			t.Fatal(err)
		}
		if ok || r.Exited {
			return e, ok
		}
	}
	t.Fatalf("%s on %s: no %q within %v", j.name, j.m.name, name, callTime)
	panic("unreachable")
}

// done waits for the program's end and returns its last event.
func (j *job) done(t *testing.T) event {
	t.Helper()
	r := j.wait(t, 2*callTime)
	e, ok, err := findEvent(r.Stdout, "done")
	switch {
	case err != nil:
		t.Fatal(err)
	case !ok:
		t.Fatalf("%s on %s ended with %d and no \"done\"", j.name, j.m.name, r.Exit)
	case e.Exit != r.Exit:
		t.Errorf("%s on %s: \"done\" says exit %d, it was %d", j.name, j.m.name, e.Exit, r.Exit)
	}
	return e
}
